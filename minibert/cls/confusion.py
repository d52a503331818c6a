"""The picture of a confusion matrix: which class is taken for which, as the text of an SVG file.

A row is a class as it is, a column what the model says; the darker a square, the larger its share
of the row. A good model draws a dark diagonal.

Shapes: L labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape

from minibert.cls.metrics import Scores
from minibert.report import on_one_line

ROOM = 560  # for all squares of a row; with many classes they become smaller
LARGEST, SMALLEST = 96, 6  # a square's side
LEGIBLE = 26  # the side from which on a square has its count written in it
NAME = 18  # letters of a class's name that are shown
MARGIN = 150  # for the names
DARK = (8, 48, 107)  # the colour of a share of 1; 0 is white


def picture(scores: Scores, labels: Sequence[str]) -> str:
    """An SVG of a confusion matrix; it grows with the number of classes.

    Args:
        scores: with `counts`, (L, L).
        labels: the L classes' names.
    """
    side = max(SMALLEST, min(LARGEST, ROOM // len(labels)))
    width = max(MARGIN + side * len(labels) + 24, 420)
    height = MARGIN + side * len(labels) + 24
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{width}' height='{height}' "
        f"viewBox='0 0 {width} {height}' font-family='sans-serif' font-size='12' fill='#333'>",
        f"<rect width='{width}' height='{height}' fill='#fff'/>",
        f"<text x='12' y='24' font-size='14' font-weight='bold'>accuracy {scores.accuracy:.4f}, "
        f"macro F1 {scores.macro_f1:.4f}, {scores.total:,} texts</text>",
        "<text x='12' y='44' fill='#777'>rows: the class; columns: what the model says</text>",
        *names(labels, side),
    ]
    for i, row in enumerate(scores.counts.tolist()):
        total = sum(row)
        for j, count in enumerate(row):
            share = count / total if total else 0.0
            parts += square(MARGIN + j * side, MARGIN + i * side, side, count, share)
            parts.append(f"<title>{tip(labels[i], labels[j], count, share)}</title></g>")
    frame = side * len(labels)
    parts.append(
        f"<rect x='{MARGIN}' y='{MARGIN}' width='{frame}' height='{frame}' fill='none' "
        "stroke='#777'/>"
    )
    return "\n".join([*parts, "</svg>"]) + "\n"


def names(labels: Sequence[str], side: int) -> Iterator[str]:
    """The classes beside the rows and, upright, above the columns."""
    size = min(12, side)
    for i, label in enumerate(labels):
        name = on_one_line(label)
        name = escape(name if len(name) <= NAME else name[: NAME - 1] + "…")
        middle = MARGIN + i * side + side / 2
        yield (
            f"<text x='{MARGIN - 8}' y='{middle + size / 3:.1f}' font-size='{size}' "
            f"text-anchor='end'>{name}</text>"
        )
        yield (
            f"<text transform='translate({middle + size / 3:.1f} {MARGIN - 8}) rotate(-90)' "
            f"font-size='{size}'>{name}</text>"
        )


def square(x: int, y: int, side: int, count: int, share: float) -> Iterator[str]:
    """One square with its count; the group that it opens is left open for its title."""
    red, green, blue = (round(255 + share * (c - 255)) for c in DARK)
    yield (
        f"<g><rect x='{x}' y='{y}' width='{side}' height='{side}' "
        f"fill='rgb({red},{green},{blue})' stroke='#e5e5e5'/>"
    )
    if side >= LEGIBLE:
        colour = "#fff" if share > 0.5 else "#333"
        yield (
            f"<text x='{x + side / 2}' y='{y + side / 2 + 4}' text-anchor='middle' "
            f"fill='{colour}'>{count}</text>"
        )


def tip(gold: str, predicted: str, count: int, share: float) -> str:
    """What a browser shows of a square under the mouse."""
    return escape(f"{on_one_line(gold)} taken for {on_one_line(predicted)}: {count} ({share:.1%})")
