"""What can be answered without a model: two floors that a trained one has to be above.

    python bench/simple_answers.py --train minibert/samples/qa/train.json \\
        --dev minibert/samples/qa/dev.json

- constant: one string for every question. Tried are all answers of both files, and all runs of up
  to four characters that at least three of them share, as the 年 of years.
- overlap: of the question's text the sentence or clause that shares most different characters with
  the question (of equal ones the shortest), whole or what is left of it without them.

Of each the best in hindsight is taken, by its mean F1 on dev, which no method could know before:
so both floors are as high as these ways can be. They are scored by the rules of CMRC 2018, which
take Chinese by characters.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from minibert import files
from minibert.cli import guard
from minibert.errors import UserError
from minibert.metrics import Score, score_all
from minibert.qa.reading import Question, QuestionSet, read_questions

LONGEST_RUN = 4  # characters
SHARED_BY = 3  # answers


class Floor(NamedTuple):
    """A way to answer without a model, and its score."""

    way: str
    score: Score


def best(dev: QuestionSet, ways: Mapping[str, Callable[[Question], str]]) -> Floor:
    """Of some ways to answer, that with the highest F1; of equal ones the first."""
    golds = {question.id: question.gold_texts for question in dev.questions}

    def score(answer: Callable[[Question], str]) -> Score:
        answers = {question.id: answer(question) for question in dev.questions}
        return score_all(golds, answers, "cmrc2018")

    return max(
        (Floor(way, score(answer)) for way, answer in ways.items()), key=lambda f: f.score.f1
    )


# One string for all.


def best_constant(train: QuestionSet, dev: QuestionSet) -> Floor:
    return best(dev, {text: always(text) for text in candidates(train, dev)})


def always(text: str) -> Callable[[Question], str]:
    return lambda question: text


def candidates(*sets: QuestionSet) -> list[str]:
    """All answers, and the runs that several of them share."""
    answers = sorted({text for found in sets for q in found.questions for text in q.gold_texts})
    sharing = Counter(run for text in answers for run in runs_of(text))
    return [*answers, *sorted(run for run, n in sharing.items() if n >= SHARED_BY)]


def runs_of(text: str) -> set[str]:
    """Its stretches of up to four characters."""
    ends = range(1, LONGEST_RUN + 1)
    return {text[i : i + n] for i in range(len(text)) for n in ends if i + n <= len(text)}


# A stretch of the text that looks like the question.

PIECES = {"sentence": r"[^。！？!?\n]+", "clause": r"[^。！？!?\n，,；;：:、“”（）()]+"}


def best_overlap(dev: QuestionSet) -> Floor:
    ways = {
        f"{left} of the {piece}": overlap(pattern, cut)
        for piece, pattern in PIECES.items()
        for left, cut in LEFT.items()
    }
    return best(dev, ways)


def overlap(pattern: str, cut: Callable[[str, set[str]], str]) -> Callable[[Question], str]:
    """The way to answer with what `cut` leaves of the piece that is nearest to the question."""

    def answer(question: Question) -> str:
        asked = characters(question.question)
        pieces: Sequence[str] = re.findall(pattern, question.context)
        nearest = max(pieces, key=lambda p: (len(asked & characters(p)), -len(p)), default="")
        return cut(nearest, asked)

    return answer


def characters(text: str) -> set[str]:
    return {char for char in text.lower() if char.isalnum()}


def stretches(piece: str, asked: set[str]) -> list[str]:
    """What lies between the question's characters, or spaces; "" between two side by side."""
    return "".join(" " if char.lower() in asked else char for char in piece).split(" ")


LEFT: dict[str, Callable[[str, set[str]], str]] = {
    "all": lambda piece, asked: piece,
    "the longest stretch between the question's characters": (
        lambda piece, asked: max(stretches(piece, asked), key=len)
    ),
    "what follows the question's last character": (
        lambda piece, asked: stretches(piece, asked)[-1] or piece
    ),
}


def main(args: argparse.Namespace) -> int:
    train, dev = read_questions(args.train), read_questions(args.dev)
    if not (train.trainable and any(question.gold_texts for question in dev.questions)):
        raise UserError(f"{args.train} or {args.dev} has no question with an answer")
    floors = {"constant": best_constant(train, dev), "overlap": best_overlap(dev)}
    for name, (way, score) in floors.items():
        print(f"{name:8}  EM {score.exact_match:5.2f}  F1 {score.f1:5.2f}  {way}")
    if args.json:
        figures = {name: {"way": way, **score.as_dict()} for name, (way, score) in floors.items()}
        files.write_json(Path(args.json), {"train": args.train, "dev": args.dev, **figures})
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for part in ("train", "dev"):
        parser.add_argument(f"--{part}", required=True, metavar="FILE", help="questions")
    parser.add_argument("--json", metavar="FILE", help="write the figures there, too")
    return parser.parse_args()


if __name__ == "__main__":
    given = arguments()
    sys.exit(guard(lambda: main(given)))
