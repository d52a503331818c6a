"""The figures of a classification, against definitions written out and numbers known beforehand."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import numpy as np
import pytest

from minibert.cls.confusion import DARK, MARGIN, picture
from minibert.cls.metrics import score


def test_figures_of_a_table_worked_out_by_hand() -> None:
    """90 right of 100: 50 and 40 of the classes, 10 of class 1 taken for 0."""
    golds = [0] * 50 + [1] * 50
    predictions = [0] * 60 + [1] * 40
    scores = score(golds, predictions, 2)
    assert scores.counts.tolist() == [[50, 0], [10, 40]]
    assert scores.accuracy == 0.9
    zero, one = scores.per_class
    assert (zero.precision, zero.recall, zero.total) == (50 / 60, 1.0, 50)
    assert (one.precision, one.recall, one.total) == (1.0, 0.8, 50)
    assert zero.f1 == pytest.approx(10 / 11) and one.f1 == pytest.approx(8 / 9)
    assert scores.macro_f1 == pytest.approx((10 / 11 + 8 / 9) / 2)
    # (TP TN - FP FN) / sqrt((TP + FP) (TP + FN) (TN + FP) (TN + FN)), Matthews 1975
    assert scores.matthews == pytest.approx((40 * 50 - 0) / math.sqrt(40 * 50 * 50 * 60))


@pytest.mark.parametrize("seed", range(20))
def test_every_figure_follows_its_definition(seed: int) -> None:
    draw = random.Random(seed)
    L = draw.randint(2, 6)
    golds = [draw.randrange(L) for _ in range(draw.randint(1, 60))]
    predictions = [g if draw.random() < 0.6 else draw.randrange(L) for g in golds]
    scores = score(golds, predictions, L)
    pairs = list(zip(golds, predictions, strict=True))
    assert scores.accuracy == pytest.approx(sum(g == p for g, p in pairs) / len(pairs))
    f1s = []
    for label, of_class in enumerate(scores.per_class):
        right = sum(g == p == label for g, p in pairs)
        said, gold = predictions.count(label), golds.count(label)
        assert of_class.precision == pytest.approx(right / said if said else 0)
        assert of_class.recall == pytest.approx(right / gold if gold else 0)
        if said + gold:
            f1s.append(float(Fraction(2 * right, said + gold)))
            assert of_class.f1 == pytest.approx(f1s[-1])
    assert scores.macro_f1 == pytest.approx(sum(f1s) / len(f1s))
    # Gorodkin 2004: the correlation of the two as vectors of L indicators.
    x, y = np.eye(L)[golds], np.eye(L)[predictions]
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    spread = math.sqrt((x * x).sum() * (y * y).sum())
    assert scores.matthews == pytest.approx((x * y).sum() / spread if spread > 1e-12 else 0)


def test_saying_always_the_same_has_no_correlation() -> None:
    scores = score([0] * 95 + [1] * 5, [0] * 100, 2)
    assert (scores.accuracy, scores.matthews) == (0.95, 0.0)
    assert scores.macro_f1 == pytest.approx(95 / (95 + 2.5) / 2)
    assert score([0, 1, 2], [0, 1, 2], 5).macro_f1 == 1.0  # classes that do not occur do not count
    assert score([0, 1], [1, 0], 2).matthews == -1.0


def test_counts_of_millions_do_not_overflow() -> None:
    golds = [0, 1] * 3_000_000
    assert score(golds, golds, 2).matthews == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("golds", "predictions"), [([], []), ([0], [0, 1]), ([0, 2], [0, 1]), ([0, 1], [0, -1])]
)
def test_what_cannot_be_compared_is_refused(golds: list[int], predictions: list[int]) -> None:
    with pytest.raises(ValueError, match=r"golds|classes are"):
        score(golds, predictions, 2)


@pytest.mark.parametrize("n", [2, 5, 77])
def test_the_picture_is_well_formed_and_has_every_count(n: int) -> None:
    from xml.etree import ElementTree

    draw = random.Random(n)
    golds = [draw.randrange(n) for _ in range(400)]
    predictions = [g if draw.random() < 0.7 else draw.randrange(n) for g in golds]
    labels = [f"<class & {i}> with a long name" for i in range(n)]
    scores = score(golds, predictions, n)
    tree = ElementTree.fromstring(picture(scores, labels))
    svg = "{http://www.w3.org/2000/svg}"
    squares = list(tree.iter(f"{svg}g"))
    assert len(squares) == n * n
    for place, square in enumerate(squares):
        i, j = divmod(place, n)
        count = int(scores.counts[i, j])
        title = square.find(f"{svg}title")
        assert title is not None and title.text is not None
        assert title.text.startswith(f"{labels[i]} taken for {labels[j]}: {count} (")
        if n < 20:
            text = square.find(f"{svg}text")
            assert text is not None and text.text == str(count)
        # A row is a gold, a column a prediction; and the larger the share of the row, the darker.
        rect = square.find(f"{svg}rect")
        assert rect is not None
        side, x, y = (float(rect.get(name, 0)) for name in ("width", "x", "y"))
        assert (x, y) == (MARGIN + j * side, MARGIN + i * side)
        assert max(x, y) + side < float(tree.get("width", 0))
        share = count / max(1, scores.counts[i].sum())
        shades = [round(255 - share * (255 - dark)) for dark in DARK]
        assert rect.get("fill") == f"rgb({shades[0]},{shades[1]},{shades[2]})"
