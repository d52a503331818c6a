"""Does a model's verdict hang on capital letters? A dev set in four spellings, and what flips.

A cased model has other tokens for "GREAT" than for "great", most of them rarer, so its verdict may
change with the case. An uncased one's tokenizer lower-cases first: its verdict cannot.

Shapes: N texts, L labels.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from minibert.cls.classify import Classifier, check_texts
from minibert.cls.encoding import Encodings
from minibert.cls.metrics import Scores
from minibert.cls.reading import TextSet
from minibert.cls.task import compare, texts_of
from minibert.inference import Floats

AS_WRITTEN, LOWER, UPPER, RANDOM = "as written", "lower case", "UPPER CASE", "rAnDoM case"


class Flip(NamedTuple):
    """A text whose label changes with its spelling."""

    case: str
    line: int  # where the text stands in its file
    text: str  # in that spelling
    pair: str | None
    gold: str
    label: str  # of the text as written
    flipped: str  # of the text in that spelling
    probability: float  # of `flipped`


class Case(NamedTuple):
    """One spelling of the whole set."""

    name: str
    scores: Scores
    changed: int  # texts whose tokens are other ones than as written
    flips: list[Flip]  # those the model is surest of first


def probe(classifier: Classifier, texts: TextSet, seed: int = 0) -> list[Case]:
    """Scores texts as written and in three other spellings.

    A text with the same tokens as before keeps its verdict without being asked again.

    Raises:
        UserError: what `check_texts` raises; the model's scores are NaN.
    """
    check_texts(classifier, texts)
    labels, examples = classifier.labels, texts.examples
    original = texts_of(examples)
    written = classifier.encode(original, AS_WRITTEN)
    before = classifier.probabilities(written)  # (N, L)
    cases = [Case(AS_WRITTEN, compare(examples, before, labels), 0, [])]
    for name, spell in spellings(seed).items():
        spelled = [(spell(text), None if pair is None else spell(pair)) for text, pair in original]
        encodings = classifier.encode(spelled, name)
        after, changed = ask_again(classifier, encodings, written, before)  # (N, L)
        flips = [
            Flip(
                case=name,
                line=examples[i].line,
                text=spelled[i][0],
                pair=spelled[i][1],
                gold=str(examples[i].label),
                label=labels[before[i].argmax()],
                flipped=labels[after[i].argmax()],
                probability=float(after[i].max()),
            )
            for i in np.flatnonzero(after.argmax(axis=1) != before.argmax(axis=1)).tolist()
        ]
        flips.sort(key=lambda flip: -flip.probability)
        cases.append(Case(name, compare(examples, after, labels), changed, flips))
    return cases


def ask_again(
    classifier: Classifier, spelled: Encodings, written: Encodings, before: Floats
) -> tuple[Floats, int]:
    """(N, L): the probabilities of texts in another spelling than before, which were (N, L), too;
    and how many of the texts have other tokens."""
    changed = [
        i
        for i, (one, other) in enumerate(zip(spelled.rows, written.rows, strict=True))
        if not np.array_equal(one.input_ids, other.input_ids)
    ]
    after = before.copy()
    if changed:
        rows = [spelled.rows[i] for i in changed]
        after[changed] = classifier.probabilities(Encodings(rows, 0))
    return after, len(changed)


def spellings(seed: int) -> dict[str, Callable[[str], str]]:
    """The three other ways to write a text."""
    draw = random.Random(seed)

    def at_random(text: str) -> str:
        return "".join(draw.choice((lower, upper))(char) for char in text)

    return {
        LOWER: lambda text: "".join(map(lower, text)),
        UPPER: lambda text: "".join(map(upper, text)),
        RANDOM: at_random,
    }


# Only letters with exactly one other case change: "ß" has no capital of its own (its upper() is
# "SS"), and Turkish "ı" would come back from "I" as "i". So lower-casing undoes every spelling.


def upper(char: str) -> str:
    other = char.upper()
    return other if len(other) == 1 and other.lower() == char.lower() else char


def lower(char: str) -> str:
    other = char.lower()
    return other if len(other) == 1 and other.upper() == char.upper() else char
