"""Questions about long texts as questions about short ones: texts cut around the answers.

    python weights/shorten.py --data train.json --part train --length 200 --cuts 4 --out short.json

Attention costs the square of the length, and in a short text the answer is easier to find: a model
that has never read the language learns more in the same time (as in curriculum learning, Bengio et
al. 2009). Each question is asked of several cuts, which begin where chance wills, so that the
answer's place is no hint; a text that is short already stays as it is.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from minibert import files, runs
from minibert.cli import guard
from minibert.errors import UserError
from minibert.qa.reading import Answer, Question, read_questions
from minibert.report import say

SENTENCE_ENDS = re.compile(r"(?<=[。！？；!?;\n])")


def choose_cut(
    context: str, answer: Answer, length: int, draw: np.random.Generator
) -> tuple[int, int]:
    """Where a cut of at most `length` characters begins and ends: whole sentences around the
    answer, so many before it as chance wills.

    An answer whose own sentences are longer than that is cut out of them, anywhere.
    """
    edges = [0, *(found.start() for found in SENTENCE_ENDS.finditer(context)), len(context)]
    begin, end = answer.start, answer.start + len(answer.text)
    first = max(edge for edge in edges if edge <= begin)
    last = min(edge for edge in edges if edge >= end)
    if last - first > length:
        spare = max(0, length - (end - begin))
        start = max(0, begin - int(draw.integers(spare + 1)))
        return start, min(len(context), max(start + length, end))
    starts = [edge for edge in edges if last - length <= edge <= first]
    start = int(draw.choice(starts))
    return start, max(edge for edge in edges if last <= edge <= start + length)


def shorten(
    question: Question, number: int, length: int, draw: np.random.Generator
) -> dict[str, Any]:
    """A paragraph of SQuAD's layout: a cut, the question and where its first answer is in it."""
    answer = question.answers[0]
    start, end = choose_cut(question.context, answer, length, draw)
    located = {"text": answer.text, "answer_start": answer.start - start}
    asked = {
        "id": f"{question.id}.{number}",
        "question": question.question,
        "answers": [located],
    }
    return {"context": question.context[start:end], "qas": [asked]}


def run(args: argparse.Namespace) -> int:
    out = Path(args.out)
    if out.exists():
        raise UserError(f"{out} exists already; choose another --out")
    sets = [read_questions(path, args.part) for path in args.data]
    ids = [question.id for found in sets for question in found.questions]
    twice = [name for name, n in Counter(ids).items() if n > 1]
    if twice:
        raise UserError(f"the question {twice[0]} is in more than one --data; name each file once")
    draw = np.random.default_rng(args.seed)
    articles, n_left_out = [], 0
    for path, found in zip(args.data, sets, strict=True):
        questions = [question for question in found.questions if question.answers]
        if not questions:
            raise UserError(f"no question in {path} has an answer in its text to cut around")
        short = [shorten(q, i, args.length, draw) for q in questions for i in range(args.cuts)]
        articles.append({"title": found.path.stem, "paragraphs": short})
        n_left_out += len(found.questions) - len(questions)
    # The version says what it was made of: run.json keeps it.
    sums = " and ".join(found.sha256 for found in sets)
    files.write_json(out, {"version": f"cut from sha256 {sums}", "data": articles})
    say(
        f"{out}: {len(ids) - n_left_out:,} questions, each on {args.cuts} texts; left out: "
        f"{n_left_out:,} without an answer in their text"
    )
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", required=True, action="append", metavar="FILE", help="questions, in the "
        "layout of SQuAD or CMRC; repeat it for several")  # fmt: skip
    add("--part", choices=["all", "train", "dev"], default="all", help="train and dev: as "
        "train_qa.py --data FILE divides the file (all)")  # fmt: skip
    add("--length", type=runs.positive(int), default=200, help="characters of a cut, at most, "
        "unless an answer is longer (200)")  # fmt: skip
    add("--cuts", type=runs.positive(int), default=4, help="for each question (4)")
    add("--seed", type=runs.seed, default=0, help="of where the cuts are (0)")
    add("--out", required=True, metavar="FILE", help="in SQuAD's layout")
    return guard(lambda: run(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
