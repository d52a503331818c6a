"""A small BERT's starting point, cut out of a large one: fewer entries, fewer layers.

    python weights/cut.py --from DIRECTORY --text corpus.txt.xz --entries 8000 --layers 0 3 7 11 \\
        --out runs/tiny-zh-start

The vocabulary keeps the entries that a text needs most, and all that is written with: letters,
digits, signs, each also inside a word. Their embeddings come along, and so do the chosen layers.
What comes out reads but does not yet understand: its layers have never worked together. Go on with
weights/pretrain.py.
"""

from __future__ import annotations

import argparse
import re
import string
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from pretrain import read_passages
from tokenizers import Tokenizer

from minibert import files, hub
from minibert.cli import guard
from minibert.config import BertConfig
from minibert.errors import UserError
from minibert.model import BertForMaskedLM
from minibert.report import say
from minibert.tokenizer import SPECIAL, load_tokenizer, save_tokenizer, tokenize

# Signs of Chinese typesetting that bert-base-chinese's vocabulary lacks, and what they are like.
NEW = {"“": '"', "”": '"', "‘": "'", "’": "'", "—": "-", "–": "-", "…": "."}


def choose_entries(tokenizer: Tokenizer, texts: Sequence[str], entries: int) -> list[str]:
    """The new vocabulary: special tokens, then single characters, then what is most frequent.

    Raises:
        UserError: there is no room for what must be in it.
    """
    counts: Counter[str] = Counter()
    for encoding in tokenize(texts, tokenizer):
        counts.update(encoding.tokens)
    have = tokenizer.get_vocab()
    written = string.ascii_lowercase + string.digits + string.punctuation
    pieces = [f"##{char}" for char in string.ascii_lowercase + string.digits]
    must = [t for t in [*SPECIAL.values(), *written, *pieces] if t in have] + list(NEW)
    frequent = [token for token, _ in counts.most_common() if token not in must]
    if entries < len(must):
        raise UserError(f"--entries {entries} is too few: {len(must)} must be there")
    return must + sorted(frequent[: entries - len(must)], key=lambda token: have[token])


def cut_model(
    source: Path, old: Tokenizer, vocabulary: Sequence[str], layers: Sequence[int], rows: int
) -> BertForMaskedLM:
    """The model with these entries, layers and places, its head drawn anew where the source has
    none.

    Raises:
        UserError: the source has no such layer, or fewer places.
    """
    whole = BertForMaskedLM.from_pretrained(source)
    depth = whole.config.num_hidden_layers
    if max(layers) >= depth or rows > whole.config.max_position_embeddings:
        raise UserError(f"{source} has layers 0 to {depth - 1}; choose --layers among them")
    config: BertConfig = replace(
        whole.config, vocab_size=len(vocabulary), num_hidden_layers=len(layers)
    )
    small = BertForMaskedLM(replace(config, max_position_embeddings=rows))
    have = old.get_vocab()
    kept = torch.tensor([have[NEW.get(token, token)] for token in vocabulary])
    number = {old_number: new for new, old_number in enumerate(layers)}
    tensors = {}
    for name, tensor in whole.state_dict().items():
        found = re.match(r"bert\.layers\.(\d+)\.", name)
        if found and int(found.group(1)) not in number:
            continue
        if found:
            new = number[int(found.group(1))]
            name = name.replace(found.group(), f"bert.layers.{new}.")
        if name.endswith(("word_embeddings.weight", "decoder.weight", "decoder.bias")):
            tensor = tensor[kept]  # (V, C) -> (entries, C), or (V) -> (entries)
        if name.endswith("position_embeddings.weight"):
            tensor = tensor[:rows]
        tensors[name] = tensor
    small.load_state_dict(tensors)
    small.tie_weights()
    return small


def run(args: argparse.Namespace) -> int:
    source = hub.find(args.source)
    old = load_tokenizer(source)
    texts = [passage for name in args.text for passage in read_passages(Path(name))]
    vocabulary = choose_entries(old, texts, args.entries)
    torch.manual_seed(0)  # for the head
    model = cut_model(source, old, vocabulary, args.layers, args.positions)
    out = Path(args.out)
    if args.random:
        model = BertForMaskedLM(model.config)
    model.save_pretrained(out)
    files.write_whole(
        {
            out / "vocab.txt": files.as_text("".join(f"{token}\n" for token in vocabulary)),
            out / "tokenizer_config.json": files.as_json({"do_lower_case": True}),
        }
    )
    tokenizer = load_tokenizer(out)
    save_tokenizer(tokenizer, out, model.config.max_position_embeddings)
    unknown = tokenizer.get_vocab()[SPECIAL["unk"]]
    ids = [i for encoding in tokenize(texts[:1000], tokenizer) for i in encoding.ids]
    size = sum(p.numel() for p in model.parameters())
    say(
        f"{out}: {len(vocabulary):,} entries, {len(args.layers)} layers, {size:,} parameters; "
        f"{ids.count(unknown) / len(ids):.2%} of the text's tokens are {SPECIAL['unk']}"
    )
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--from", dest="source", required=True, metavar="WEIGHTS", help="a checkpoint")
    add("--text", required=True, action="append", metavar="FILE", help="as in pretrain.py")
    add("--entries", type=int, default=8000, help="of the vocabulary (8000)")
    add("--layers", type=int, nargs="+", required=True, help="which to keep, from 0, in order")
    add("--positions", type=int, default=512, help="tokens that the model can see at once (512)")
    add("--random", action="store_true", help="draw all weights anew, to compare with")
    add("--out", required=True, metavar="DIRECTORY")
    return guard(lambda: run(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
