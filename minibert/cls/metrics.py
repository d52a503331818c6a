"""How good a classification is: one table of counts, and the figures that follow from it.

Everything here is computed from the confusion matrix, `counts[gold][predicted]`: accuracy looks at
its diagonal; precision and recall at one column and one row of it; Matthews' correlation at all of
it, so that it is 0 for whoever always says the same, however frequent that class is.

Shapes: N texts, L labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class ClassScore(NamedTuple):
    """Of one class; 0 where the formula divides 0 by 0."""

    precision: float  # of the texts said to be of this class, the share that is
    recall: float  # of the texts of this class, the share said to be
    f1: float  # their harmonic mean
    total: int  # texts of this class


class Scores(NamedTuple):
    """Figures from 0 to 1 (Matthews: from -1); macro_f1 is the mean over the classes that occur."""

    accuracy: float
    macro_f1: float
    matthews: float
    total: int
    per_class: list[ClassScore]
    counts: NDArray[np.int64]  # (L, L), counts[gold, predicted]

    def as_dict(self) -> dict[str, Any]:
        """The figures for the whole, without those of each class and `counts`: what
        metrics.jsonl has of them."""
        return {
            "accuracy": self.accuracy,
            "macro_f1": self.macro_f1,
            "matthews": self.matthews,
            "total": self.total,
        }


def score(golds: Sequence[int], predictions: Sequence[int], num_labels: int) -> Scores:
    """Compares class numbers, one of each for every text: N golds and N predictions below L.

    Raises:
        ValueError: there are none, not as many of the one as of the other, or one that is no class.
    """
    if not golds or len(golds) != len(predictions):
        raise ValueError(f"{len(golds)} golds and {len(predictions)} predictions")
    both = [*golds, *predictions]
    if min(both) < 0 or max(both) >= num_labels:
        raise ValueError(f"classes are 0 to {num_labels - 1}, not {min(both)} to {max(both)}")
    counts = np.zeros((num_labels, num_labels), np.int64)  # (L, L)
    np.add.at(counts, (np.array(golds), np.array(predictions)), 1)
    right, gold, said = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)  # each (L)
    per_class = [
        ClassScore(
            precision=ratio(right[i], said[i]),
            recall=ratio(right[i], gold[i]),
            f1=ratio(2 * right[i], gold[i] + said[i]),
            total=int(gold[i]),
        )
        for i in range(num_labels)
    ]
    occurring = [of.f1 for i, of in enumerate(per_class) if gold[i] + said[i]]
    return Scores(
        accuracy=ratio(right.sum(), len(golds)),
        macro_f1=sum(occurring) / len(occurring),
        matthews=matthews(counts),
        total=len(golds),
        per_class=per_class,
        counts=counts,
    )


def matthews(counts: NDArray[np.int64]) -> float:
    """The correlation of golds and predictions (Matthews 1975; for more than two classes Gorodkin
    2004, "Comparing two K-category assignments by a K-category correlation coefficient"): 0 where
    one of the two is always the same class."""
    gold, said = counts.sum(axis=1).tolist(), counts.sum(axis=0).tolist()
    total = sum(gold)

    def covariance(shared: int, one: list[int], other: list[int]) -> int:
        return shared * total - sum(a * b for a, b in zip(one, other, strict=True))

    # Python's whole numbers: the squares of many texts' counts leave int64.
    together = covariance(int(counts.trace()), gold, said)
    spread = covariance(total, gold, gold) * covariance(total, said, said)
    return float(together / spread**0.5) if spread else 0.0


def ratio(a: float, b: float) -> float:
    return float(a / b) if b else 0.0
