"""The picture of a run: its loss and its scores on the dev set, as the text of an SVG file.

An SVG is text that every browser draws, so two polylines and their axes need no plotting library.
`report.py` wrote the numbers; `train.py` asks for the picture after every epoch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

Point = tuple[float, float]

WIDTH, HEIGHT = 800, 360
PLOT_WIDTH, BOTTOM = 324, 312  # of each of the two plots; y grows downwards in SVG
LEFTS = (56, 460)  # where the two plots begin
PALETTE = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#7f7f7f")
# Figures of an evaluation that are no scores: a place, a count, a setting.
COSTS = ("tokens_per_second", "train_seconds", "token_efficiency")
SHARES = ("accuracy", "macro_f1", "matthews")  # at most 1, where EM and F1 are at most 100
NO_SCORES = ("epoch", "step", "null_threshold", *COSTS)


class Line(NamedTuple):
    """One curve; a point that is not finite is a gap in it."""

    name: str
    points: list[Point]
    colour: str
    style: str = "stroke-width='2'"
    dots: bool = False


def curves(metrics: Path) -> str:
    """The picture of a run's `metrics.jsonl`: an SVG of 800 x 360, also where there is no point."""
    records = list(read_records(metrics))
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{WIDTH}' height='{HEIGHT}' "
        f"viewBox='0 0 {WIDTH} {HEIGHT}' font-family='sans-serif' font-size='11' fill='#333'>",
        f"<rect width='{WIDTH}' height='{HEIGHT}' fill='#fff'/>",
        *plot(LEFTS[0], "training loss", "step", loss_lines(records), from_zero=True),
        *plot(LEFTS[1], "scores on the dev set", "epoch", score_lines(records)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def read_records(metrics: Path) -> Iterator[dict[str, Any]]:
    """The objects in `metrics.jsonl`. A line cut off by a crash is left out, not worth an error."""
    for line in metrics.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            yield record


def numbers(records: Iterable[dict[str, Any]], x: str, y: str) -> list[Point]:
    """(record[x], record[y]) of all records that have both as numbers."""
    pairs = ((record.get(x), record.get(y)) for record in records)
    return [(a, b) for a, b in pairs if isinstance(a, int) and isinstance(b, (int, float))]


def loss_lines(records: Iterable[dict[str, Any]]) -> list[Line]:
    """The loss of each group of steps, and its trend."""
    points = numbers(records, "step", "loss")
    bad = sum(not math.isfinite(y) for _, y in points)
    name = f"loss ({bad} not finite)" if bad else "loss"
    pale = Line(name, points, PALETTE[0], "stroke-width='1' stroke-opacity='0.45'")
    return [pale, Line("smoothed", smooth(points), PALETTE[0])] if points else []


def smooth(points: Sequence[Point]) -> list[Point]:
    """Each point's mean with its neighbours: a window in the middle lags behind nothing."""
    reach = max(1, len(points) // 25)
    smoothed = []
    for i, (x, _) in enumerate(points):
        near = [y for _, y in points[max(0, i - reach) : i + reach + 1] if math.isfinite(y)]
        smoothed.append((x, math.fsum(y / len(near) for y in near) if near else math.nan))
    return smoothed


def score_lines(records: Sequence[dict[str, Any]]) -> list[Line]:
    """Every numeric score of the evaluations, by epoch: no counts, and no losses, which are of
    another size. Where some are percentages, shares are drawn as percentages, too."""
    evaluations = [record for record in records if "step" not in record]
    names = dict.fromkeys(name for record in evaluations for name in record)
    scores = [n for n in names if n not in NO_SCORES and not n.lower().endswith(("total", "loss"))]
    found = {name: numbers(evaluations, "epoch", name) for name in scores}
    if any(abs(y) > 1 for points in found.values() for _, y in points):
        for name in (name for name in found if name.endswith(SHARES)):
            found[name] = [(x, 100 * y) for x, y in found[name]]
    return [
        Line(name, points, PALETTE[i % len(PALETTE)], dots=True)
        for i, (name, points) in enumerate((n, p) for n, p in found.items() if p)
    ]


class Axis(NamedTuple):
    """Values `low` to `high`, drawn from `start` to `end`, with ticks."""

    low: float
    high: float
    start: float
    end: float
    ticks: list[float]

    def at(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


def make_axis(values: Sequence[float], start: float, end: float, *, whole: bool = False) -> Axis:
    """An axis for finite values, with 2 to 7 ticks at multiples of 1, 2 or 5 times a power of 10.

    Where there is but one value, it stands in the middle. `whole`: ticks at whole numbers only.
    """
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if math.isclose(low, high, rel_tol=1e-6, abs_tol=1e-30):
        spread = 1.0 if whole else abs(low) / 10 or 0.1
        low, high = low - spread, high + spread
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    if whole:
        step = max(step, 1.0)
    else:  # a curve does not touch the frame; epochs and steps end where they end
        low, high = math.floor(low / step) * step, math.ceil(high / step) * step
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return Axis(low, high, start, end, [i * step for i in range(first, last + 1)])


def plot(
    left: float, title: str, x_name: str, lines: Sequence[Line], *, from_zero: bool = False
) -> Iterator[str]:
    """One plot: title, legend, frame, ticks, curves."""
    right = left + PLOT_WIDTH
    yield f"<text x='{left}' y='20' font-size='14' font-weight='bold'>{title}</text>"
    top = 32.0
    for row in legend_rows(lines):
        yield from legend(row, left, top)
        top += 18
    top += 4
    points = [point for line in lines for point in line.points if math.isfinite(point[1])]
    origin = [0.0] if from_zero and points else []
    x_axis = make_axis(
        origin + [x for line in lines for x, _ in line.points], left, right, whole=True
    )
    y_axis = make_axis(origin + [y for _, y in points], BOTTOM, top)
    yield from ticks(x_axis, y_axis)
    middle = (left + right) / 2
    yield f"<text x='{middle}' y='{BOTTOM + 36}' text-anchor='middle'>{x_name}</text>"
    if not points:
        yield (
            f"<text x='{middle}' y='{(top + BOTTOM) / 2}' text-anchor='middle' fill='#777'>"
            "nothing recorded yet</text>"
        )
    for line in lines:
        yield from curve(line, x_axis, y_axis)


def ticks(x_axis: Axis, y_axis: Axis) -> Iterator[str]:
    """The frame's two sides with their ticks, and a pale grid."""
    left, right, bottom, top = x_axis.start, x_axis.end, y_axis.start, y_axis.end
    for value in y_axis.ticks:
        y = y_axis.at(value)
        yield f"<path d='M{left} {y}H{right}' stroke='#e5e5e5'/>"
        yield f"<text x='{left - 6}' y='{y + 4}' text-anchor='end'>{label(value)}</text>"
    for value in x_axis.ticks:
        x = x_axis.at(value)
        yield f"<path d='M{x} {bottom}v5' stroke='#777'/>"
        yield f"<text x='{x}' y='{bottom + 18}' text-anchor='middle'>{label(value)}</text>"
    yield f"<path d='M{left} {top}V{bottom}H{right}' fill='none' stroke='#777'/>"


def label(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) and abs(value) < 1e6 else f"{value:.6g}"


def curve(line: Line, x_axis: Axis, y_axis: Axis) -> Iterator[str]:
    """A polyline for each stretch of finite points; a point without neighbours is a dot."""
    stretch: list[str] = []
    for x, y in [*line.points, (0.0, math.nan)]:
        if math.isfinite(y):
            stretch.append(f"{x_axis.at(x)},{y_axis.at(y)}")
            continue
        if len(stretch) > 1:
            yield (
                f"<polyline points='{' '.join(stretch)}' fill='none' stroke='{line.colour}' "
                f"stroke-linejoin='round' {line.style}/>"
            )
        for point in stretch if line.dots or len(stretch) == 1 else ():
            cx, cy = point.split(",")
            yield f"<circle cx='{cx}' cy='{cy}' r='3' fill='{line.colour}'/>"
        stretch = []


def legend_rows(lines: Iterable[Line]) -> list[list[Line]]:
    """The curves' names, in as many rows as they need."""
    rows: list[list[Line]] = [[]]
    for line in lines:
        if sum(map(legend_width, [*rows[-1], line])) > PLOT_WIDTH and rows[-1]:
            rows.append([])
        rows[-1].append(line)
    return rows


def legend_width(line: Line) -> float:
    return 36 + 6.3 * len(line.name)  # the stroke and the gaps, and a letter of this size


def legend(lines: Sequence[Line], x: float, y: float) -> Iterator[str]:
    for line in lines:
        yield f"<path d='M{x:.1f} {y}h18' stroke='{line.colour}' {line.style}/>"
        yield f"<text x='{x + 23:.1f}' y='{y + 4}'>{escape(line.name)}</text>"
        x += legend_width(line)
