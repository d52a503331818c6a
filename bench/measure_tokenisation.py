"""How texts become tokens: figures for docs/chinese-tokenisation.md and docs/long-texts.md.

    python bench/measure_tokenisation.py --shared ../shared --out bench/results/tokenisation.json

Prints Markdown tables. Tokens, their places and windows are those that minibert trains with.
"""

from __future__ import annotations

import argparse
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from minibert import files, hub
from minibert.cli import guard
from minibert.metrics import Metric, score_answer
from minibert.qa.reading import Question, read_questions
from minibert.qa.windows import Context, make_windows, token_span, tokenize_contexts
from minibert.tokenizer import SPECIAL, load_tokenizer

Row = dict[str, Any]


class Texts:
    """Some questions with their contexts, read with one vocabulary."""

    def __init__(
        self, data: str, vocabulary: str, questions: Sequence[Question], tokenizer: Tokenizer
    ) -> None:
        self.label = {"data": data, "vocabulary": vocabulary}
        self.metric: Metric = "cmrc2018" if data == "CMRC" else "squad"
        self.questions, self.tokenizer = questions, tokenizer
        ids = tokenizer.get_vocab()
        self.unk = ids[SPECIAL["unk"]]
        # (V,): whether an entry is a ## piece, which goes on with the word of the token before
        self.is_piece: NDArray[np.bool_] = np.zeros(max(ids.values()) + 1, np.bool_)
        self.is_piece[[i for token, i in ids.items() if token.startswith("##")]] = True

    @cached_property
    def contexts(self) -> list[Context]:
        """Each once."""
        distinct = dict.fromkeys(question.context for question in self.questions)
        return tokenize_contexts(list(distinct), self.tokenizer)

    def answers(self) -> Iterator[tuple[Context, str, int, int]]:
        """Every different answer of each question: context, text, first character, one past the
        last."""
        by_text = {context.text: context for context in self.contexts}
        for question in self.questions:
            for text, start in dict.fromkeys(question.answers):
                yield by_text[question.context], text, start, start + len(text)


def everything(shared: Path, uncased: str) -> list[Texts]:
    """CMRC's dev set as bert-base-chinese reads it, and in lower case; SQuAD, cased and uncased."""
    chinese, lowered = (load_tokenizer(shared / "bert-base-chinese") for _ in range(2))
    normalizer: Any = lowered.normalizer
    normalizer.lowercase = True  # what google-research/bert does with this vocabulary
    lowered.normalizer = normalizer
    data = shared / "data"
    cmrc = read_questions(data / "cmrc2018" / "cmrc2018_dev.json").questions
    squad = [
        question
        for part in ("train.json", "dev.json")
        for question in read_questions(data / "squad" / part).questions
    ]
    return [
        Texts("CMRC", "bert-base-chinese", cmrc, chinese),
        Texts("CMRC", "the same, lower-cased", cmrc, lowered),
        Texts("SQuAD", "bert-base-cased", squad, load_tokenizer(shared / "bert-base-cased")),
        Texts("SQuAD", f"{uncased} (uncased)", squad, load_tokenizer(hub.find(uncased))),
    ]


# Tokens per character, and [UNK].


def lengths(texts: Texts) -> list[Row]:
    """How many tokens the contexts, questions and answers are, and how many of them [UNK]."""
    parts = {
        "contexts": [context.text for context in texts.contexts],
        "questions": [question.question for question in texts.questions],
        "answers": [text for _, text, _, _ in texts.answers()],
    }
    rows: list[Row] = []
    for name, strings in parts.items():
        unknown = [c.ids == texts.unk for c in tokenize_contexts(strings, texts.tokenizer)]
        n_characters, n_tokens = sum(map(len, strings)), sum(map(len, unknown))
        rows.append(
            {
                **texts.label,
                **{"part": name, "texts": len(strings), "characters": n_characters},
                **{"tokens": n_tokens, "tokens per character": n_tokens / n_characters},
                "[UNK]": sum(int(x.sum()) for x in unknown),
                "[UNK] % of tokens": percent(np.concatenate(unknown)),
                "texts with [UNK] %": percent([x.any() for x in unknown]),
            }
        )
    return rows


def unknown_words(texts: Texts, n: int = 12) -> list[Row]:
    """What the [UNK] of the contexts stand for, by the script of their first character."""
    found: dict[str, Counter[str]] = {}
    for context in texts.contexts:
        for i in np.flatnonzero(context.ids == texts.unk):
            word = context.text[context.starts[i] : context.ends[i]]
            found.setdefault(kind_of(word), Counter())[word] += 1
    rows = [
        {
            **texts.label,
            **{"kind": kind, "[UNK]": sum(words.values()), "different": len(words)},
            "most frequent": ", ".join(f"{word} {count}" for word, count in words.most_common(n)),
        }
        for kind, words in found.items()
    ]
    return sorted(rows, key=lambda row: -row["[UNK]"])


def kind_of(word: str) -> str:
    name = unicodedata.name(word[0], "")
    if name.startswith("CJK UNIFIED"):
        return "Chinese character"
    if unicodedata.category(word[0]).startswith("L"):
        return "Latin word" if name.startswith("LATIN") else "word in another script"
    return "begins with a digit" if word[0].isdigit() else "punctuation or sign"


def cases(texts: Texts) -> Row:
    """How many tokens the same questions are in other letters, and how many of them [UNK]."""
    written = [question.question for question in texts.questions]
    row: Row = {**texts.label, "questions": len(written)}
    for name, change in (
        ("as written", str),
        ("lower case", str.lower),
        ("UPPER CASE", str.upper),
        ("sWAPPED CASE", str.swapcase),
    ):
        ids = [
            c.ids for c in tokenize_contexts([change(text) for text in written], texts.tokenizer)
        ]
        row[f"tokens, {name}"] = sum(map(len, ids))
        row[f"[UNK], {name}"] = int((np.concatenate(ids) == texts.unk).sum())
    return row


# Answers that do not begin and end where tokens do.


def edges(texts: Texts) -> Row:
    """How many answers begin or end inside a token, and what the answer's tokens score as text,
    taken from the context by their place or decoded from their ids."""
    answers = begins = ends = either = in_a_word = 0
    from_text, decoded, joined = [], [], []
    examples: Counter[str] = Counter()
    for context, text, start, end in texts.answers():
        span = token_span(context, start, end)
        assert span is not None, f"{text!r} has no token"
        first, last = span
        covered = context.text[context.starts[first] : context.ends[last]]
        cuts = bool(context.starts[first] < start), bool(context.ends[last] > end)
        is_piece = np.append(texts.is_piece[context.ids], False)  # (N + 1,)
        answers += 1
        begins, ends, either = begins + cuts[0], ends + cuts[1], either + any(cuts)
        in_a_word += bool(any(cuts) or is_piece[first] or is_piece[last + 1])
        if any(cuts):
            examples[f"{text} ({covered})"] += 1
        ids = context.ids[first : last + 1].tolist()
        again = texts.tokenizer.decode(ids, skip_special_tokens=False)
        from_text.append(score_answer(covered, [text], texts.metric)[0])
        decoded.append(score_answer(again, [text], texts.metric)[0])
        joined.append(score_answer(again.replace(" ", ""), [text], texts.metric)[0])
    return {
        **texts.label,
        **{"answers": answers, "begin inside a token": begins, "end inside a token": ends},
        **{"either": either, "either %": 100 * either / answers},
        "inside a word of pieces %": 100 * in_a_word / answers,
        "EM of the tokens, cut from the text": percent(from_text),
        "EM of the tokens, ids decoded": percent(decoded),
        "and without spaces": percent(joined),
        "for instance": "; ".join(sorted(examples, key=lambda x: (-examples[x], len(x)))[:5]),
    }


# What does not fit into the input.


def too_long(texts: Texts, max_length: int, doc_stride: int) -> Row:
    """What is lost where a context is cut to one window, and how many windows keep it."""
    usable = [question for question in texts.questions if question.answers]
    made = make_windows(usable, texts.tokenizer, max_length, doc_stride, training=True)
    first = [window for window in made.windows if window.first == 0]
    answered = {window.question for window in made.windows if window.end_position > 0}
    several = {window.question for window in made.windows if window.first > 0}
    # [CLS] context [SEP] and one more: with the context in front nothing is left of the question.
    full = [len(context.ids) + 3 >= max_length for context in made.contexts]
    return {
        **texts.label,
        **{"max_length": max_length, "doc_stride": doc_stride, "questions": len(usable)},
        "need several windows %": 100 * len(several) / len(usable),
        "answer not whole in the first %": percent([w.end_position == 0 for w in first]),
        "answer in no window": len(usable) - len(answered),
        "windows per question": len(made.windows) / len(usable),
        "context in front leaves no question %": percent(full),
    }


def percent(flags: Any) -> float:
    return 100 * float(np.mean(flags))


def main(args: argparse.Namespace) -> int:
    read = everything(Path(args.shared), args.uncased)
    chinese, english = read[:2], read[2:]
    tables: dict[str, list[Row]] = {
        "Tokens per character, and [UNK]": [row for texts in read for row in lengths(texts)],
        "What becomes [UNK]": [row for texts in chinese for row in unknown_words(texts)],
        "Letters": [cases(texts) for texts in read],
        "Answers that begin or end inside a token": [edges(texts) for texts in read],
        "Longer than the input": [
            *(too_long(chinese[0], n, 128) for n in (512, 256)),
            *(too_long(texts, n, 128) for texts in english for n in (384, 256)),
        ],
    }
    show(tables, args.out)
    return 0


def show(tables: dict[str, list[Row]], out: str | None) -> None:
    """Prints tables in Markdown, and writes them as JSON."""
    for title, rows in tables.items():
        lines = [list(rows[0]), ["---"] * len(rows[0])]
        lines += [[cell(value) for value in row.values()] for row in rows]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        print(f"## {title}\n\n{table}\n")
    if out:
        files.write_json(Path(out), tables)


def cell(value: Any) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.2f}" if isinstance(value, float) else str(value).replace("|", "\\|")


def arguments(description: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--shared", required=True, metavar="DIR", help="a folder with data/cmrc2018, data/squad, "
        "corpus, and the vocabularies bert-base-chinese and bert-base-cased")  # fmt: skip
    add("--uncased", default="all-MiniLM-L6-v2", metavar="WEIGHTS", help="a checkpoint with an "
        "uncased English vocabulary (default: all-MiniLM-L6-v2)")  # fmt: skip
    add("--out", metavar="FILE", help="write the figures there as JSON, too")
    return parser.parse_args()


if __name__ == "__main__":
    given = arguments(__doc__)
    sys.exit(guard(lambda: main(given)))
