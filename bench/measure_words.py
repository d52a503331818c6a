"""Characters against words, and whole-word masking: figures for docs/chinese-tokenisation.md.

    python bench/measure_words.py --shared ../shared --out bench/results/words.json

Prints Markdown tables. Chinese is written without spaces, so its words are those that jieba finds,
a segmenter with a dictionary (extra `words`); another one, or another person, finds others.
"""

from __future__ import annotations

import lzma
import re
import runpy
import sys
import tempfile
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import accumulate
from pathlib import Path

import numpy as np
from measure_tokenisation import Row, Texts, arguments, everything, percent, show
from numpy.typing import NDArray

from minibert.cli import guard
from minibert.errors import UserError
from minibert.qa.reading import read_questions
from minibert.qa.windows import Context, Ints

Segment = Callable[[str], Iterable[str]]

MASKED = 0.15  # of the tokens (BERT paper, section 3.1)
VOCABULARIES = (5_000, 21_128, 50_000, 100_000)
CORPUS = 2_000_000  # characters; to segment a million takes some 10 s
PRETRAIN = runpy.run_path(str(Path(__file__).parent.parent / "weights" / "pretrain.py"))
CHINESE = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]+")


def jieba_words() -> Segment:
    try:
        import jieba
    except ImportError:
        raise UserError("jieba is not installed: pip install -e '.[words]'") from None
    jieba.setLogLevel("ERROR")
    cutter = jieba.Tokenizer()
    with tempfile.TemporaryDirectory() as folder:  # its cache, which it would else trust in /tmp
        cutter.tmp_dir = folder
        cutter.initialize()
    segment: Segment = cutter.cut
    return segment


# Length, and answers that words cannot give.


def word_edges(texts: Texts, segment: Segment) -> Row:
    """How long the contexts are in words, and how many answers do not begin and end with one."""
    words = {context.text: list(segment(context.text)) for context in texts.contexts}
    ends = {text: {0, *accumulate(map(len, own))} for text, own in words.items()}
    found = [(ends[context.text], start, end) for context, _, start, end in texts.answers()]
    n_tokens = [len(context.ids) for context in texts.contexts]
    n_words = [sum(not word.isspace() for word in own) for own in words.values()]
    return {
        **texts.label,
        **{"contexts": len(words), "tokens each": float(np.mean(n_tokens))},
        "words each": float(np.mean(n_words)),
        "over 509 tokens %": percent(np.array(n_tokens) > 509),
        "over 509 words %": percent(np.array(n_words) > 509),
        "answers": len(found),
        "begin or end inside a word": sum(not {s, e} <= edges for edges, s, e in found),
        "the same %": percent([not {s, e} <= edges for edges, s, e in found]),
    }


# Vocabularies.


def coverage(shared: Path, segment: Segment) -> list[Row]:
    """What the most frequent characters, or words, of some texts lack of other texts.

    Learnt from CMRC's train part and 2 million characters of the corpus, asked for in its dev part;
    of Chinese characters alone, since digits and Latin words fall into pieces in either case.
    """
    parts = [read_questions(shared / f"data/cmrc2018/{x}.json").questions for x in ("train", "dev")]
    learnt, asked = (list(dict.fromkeys(q.context for q in part)) for part in parts)
    lines = lzma.decompress((shared / "corpus/zh-modern.txt.xz").read_bytes()).decode().split("\n")
    step = max(1, sum(map(len, lines)) // CORPUS)
    learnt += lines[::step]  # from all its books
    answers = [a.text for q in parts[1] for a in dict.fromkeys(q.answers) if CHINESE.search(a.text)]
    units: dict[str, Segment] = {"characters": iter, "words": segment}
    rows = []
    for name, split in units.items():
        frequency = Counter(unit for text in learnt for unit in chinese_units(text, split))
        contexts = [unit for text in asked for unit in chinese_units(text, split)]
        in_answers = [set(chinese_units(text, split)) for text in answers]
        for size in VOCABULARIES:
            known = {unit for unit, _ in frequency.most_common(size)}
            rows.append(
                {
                    **{"unit": name, "vocabulary": size, "entries": len(known)},
                    "unknown % of the contexts": percent([unit not in known for unit in contexts]),
                    "answers with an unknown one %": percent([not known >= x for x in in_answers]),
                }
            )
            if len(known) < size:
                break  # the texts have no more
    return rows


def chinese_units(text: str, split: Segment) -> list[str]:
    return [unit for unit in split(text) if CHINESE.fullmatch(unit)]


# Whole-word masking: what it masks together.


def masking(texts: Texts, kind: str, words: Callable[[Context], Ints]) -> Row:
    """How often a masked token's word still shows.

    `words` says for each token of a context which word it belongs to. When tokens are masked one by
    one, another of a word of m is visible with probability 1 - 0.15 ** (m - 1). What is left where
    weights/pretrain.py hides runs of words, which in Chinese are runs of characters to it, is
    counted. Where whole words are masked there is nothing.
    """
    m = np.concatenate([np.bincount(words(context)) for context in texts.contexts])
    m = m[m > 0]  # tokens of each word
    hidden = [hide_runs(texts, context) for context in texts.contexts]
    shows = [
        np.isin(words(context)[here], words(context)[~here])
        for context, here in zip(texts.contexts, hidden, strict=True)
    ]
    return {
        **texts.label,
        **{"words by": kind, "tokens": int(m.sum()), "tokens per word": float(m.mean())},
        "words of several tokens %": percent(m > 1),
        "tokens in such words %": float(100 * m[m > 1].sum() / m.sum()),
        "masked tokens whose word shows %": float(
            100 * (m * (1 - MASKED ** (m - 1.0))).sum() / m.sum()
        ),
        "the same, runs hidden %": percent(np.concatenate(shows)),
    }


def hide_runs(texts: Texts, context: Context) -> NDArray[np.bool_]:
    """(N,): which tokens of a context weights/pretrain.py would hide."""
    starts_word = np.concatenate(([True], ~texts.is_piece[context.ids], [True]))  # [CLS] … [SEP]
    draw = np.random.default_rng(len(context.text))
    hidden: NDArray[np.bool_] = PRETRAIN["choose_runs"](starts_word, draw)[1:-1]
    return hidden


def by_pieces(texts: Texts) -> Callable[[Context], Ints]:
    """A token and the ## pieces after it: all that WordPiece itself knows of words."""
    return lambda context: np.cumsum(~texts.is_piece[context.ids]).astype(np.int32)


def by_segmenter(segment: Segment) -> Callable[[Context], Ints]:
    """The word in which a token begins."""

    def words(context: Context) -> Ints:
        ends = np.cumsum([len(word) for word in segment(context.text)])
        return np.searchsorted(ends, context.starts, side="right").astype(np.int32)

    return words


def main(args: Namespace) -> int:
    segment, read = jieba_words(), everything(Path(args.shared), args.uncased)
    pieces = [masking(texts, "## pieces", by_pieces(texts)) for texts in read]
    tables = {
        "Length, and answers that words cannot give": [word_edges(read[0], segment)],
        "Vocabularies": coverage(Path(args.shared), segment),
        "Whole-word masking": [*pieces, masking(read[0], "jieba", by_segmenter(segment))],
    }
    show(tables, args.out)
    return 0


if __name__ == "__main__":
    given = arguments(__doc__)
    sys.exit(guard(lambda: main(given)))
