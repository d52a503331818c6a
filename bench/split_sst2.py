"""A split of SST-2's training set to choose a recipe on, so that dev is looked at only once.

    python bench/split_sst2.py --train ../shared/data/sst2/train.tsv --out runs/sst2-split

The training rows are phrases of shared sentences: "a fine film" is a row, and so is the sentence
that holds it. A split by rows would ask about sentences whose parts have been learned. Grouping
whatever contains each other puts nearly all rows into one group, since "film" is a row, too (65,734
of 66,978 texts). So whole sentences are held out, as the real dev set has them, and of the rest all
rows that stand in one of them are left out, down to the single word: no text of either part
contains one of the other. `--phrases 5` scores on those of them that have five words or more, too:
more texts, though no sentences, tell recipes apart that differ by half a point.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from minibert import files
from minibert.cls.reading import Example, read_texts
from minibert.cls.task import tsv

LEAST = 10  # words of what counts as a sentence; no row holds it
N_DEV = 872  # as many as the real dev set has


def split(
    examples: Sequence[Example], n_dev: int, seed: int, phrases: int = sys.maxsize
) -> tuple[list[Example], list[Example]]:
    """The rows to train on, and the texts to score on: sentences, which the seed draws, and those
    of their parts that have at least so many words."""
    texts = {example.text for example in examples}
    parts_of = {text: texts.intersection(stretches(text)) for text in texts}
    within_others = set().union(*parts_of.values())
    sentences = sorted(text for text in texts - within_others if len(text.split()) >= LEAST)
    held_out = set(random.Random(seed).sample(sentences, n_dev))
    near = held_out.union(*(parts_of[text] for text in held_out))
    scored = held_out | {text for text in near if len(text.split()) >= phrases}
    dev = {example.text: example for example in examples if example.text in scored}
    apart = {text for text in texts - near if parts_of[text].isdisjoint(scored)}
    return [example for example in examples if example.text in apart], list(dev.values())


def stretches(text: str) -> Iterator[str]:
    """All runs of words of a text, without the text itself."""
    words = text.split()
    for i in range(len(words)):
        for j in range(i + 1, len(words) + 1):
            if j - i < len(words):
                yield " ".join(words[i:j])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--train", required=True)
    parser.add_argument("--out", required=True, help="a directory for train.tsv and dev.tsv")
    parser.add_argument("--dev-size", type=int, default=N_DEV)
    parser.add_argument(
        "--phrases", type=int, default=sys.maxsize, metavar="WORDS", help="see above (none)"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    parts = split(read_texts(args.train).examples, args.dev_size, args.seed, args.phrases)
    for name, part in zip(("train", "dev"), parts, strict=True):
        rows = [[example.text, str(example.label)] for example in part]
        table = files.as_text(tsv(("sentence", "label"), rows))
        files.write_whole({Path(args.out) / f"{name}.tsv": table})
    print(json.dumps({"train": len(parts[0]), "dev": len(parts[1]), "seed": args.seed}))


if __name__ == "__main__":
    main()
