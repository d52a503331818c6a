"""Figures of many turns -> what the table says of a row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, TypeAlias

import numpy as np

from rows.row import Figures, Row, Side

Turn: TypeAlias = Mapping[str, Figures]  # by side

HEADER = (
    "| row | ours | the other | times as long (min to max) | target | the other is |\n"
    "|---|---|---|---|---|---|"
)


def best_peer(sides: Mapping[str, Side], trial: Turn, figure: str) -> str | None:
    """The peer's form with the lowest figure; None if the row has no peer."""
    peers = [name for name, side in sides.items() if side.kind == "peer" and name in trial]
    return min(peers, key=lambda name: trial[name][figure], default=None)


def ours_of(sides: Mapping[str, Side]) -> str:
    return next(name for name, side in sides.items() if side.kind == "ours")


def compare(row: Row, turns: Sequence[Turn]) -> dict[str, dict[str, Any]]:
    """Each side's medians; and its figure as a multiple of ours, turn by turn."""
    ours = ours_of(row.sides)
    found = {}
    for name, side in row.sides.items():
        own = [turn for turn in turns if name in turn]
        if own:
            ratios = sorted(turn[name][row.figure] / turn[ours][row.figure] for turn in own)
            found[name] = {
                "what": side.what,
                "kind": side.kind,
                "target": side.target or (row.target if side.kind == "peer" else None),
                **{key: median(turn[name][key] for turn in own) for key in own[0][name]},
                "ratio": median(ratios),
                "ratio_min": ratios[0],
                "ratio_max": ratios[-1],
                "turns": len(own),
            }
    return found


def exponents(row: Row, turns: Sequence[Turn]) -> dict[str, float]:
    """p of figure ~ size ** p, fitted to the logarithms; for rows whose sides differ in size."""
    sizes = {name: side.size for name, side in row.sides.items() if side.size is not None}
    found = {}
    for figure in ("seconds", "grown_mb") if sizes else ():
        points = [
            (math.log(size), math.log(value))
            for name, size in sizes.items()
            if (value := median(turn[name][figure] for turn in turns)) > 0
        ]
        if len({x for x, _ in points}) > 1:
            x, y = np.array(points).T
            found[figure] = float(np.polyfit(x, y, 1)[0])
    return found


def short(facts: Mapping[str, Any]) -> str:
    """What the quick form says of a row: no time."""
    if "sides" not in facts:
        return f"{facts['row']}: not run: {facts['not_run']}"
    n = len(facts["checks"])
    checked = f"{n} checks hold" if n else "it has no outputs to compare"
    return f"{facts['row']}: {', '.join(facts['sides'])} ran; {checked}"


def lines(facts: Mapping[str, Any]) -> list[str]:
    """A line of the table for each side beside ours, or for why there is none."""
    if "sides" not in facts:
        return [f"| {facts['row']} | | | | | not run: {facts['not_run']} |"]
    figure = facts["figure"]
    ours, *others = facts["sides"].values()
    found = [
        f"| {facts['row']} | {shown(ours[figure], figure)} | {shown(side[figure], figure)} "
        f"| {side['ratio']:.2f} ({side['ratio_min']:.2f} to {side['ratio_max']:.2f}) "
        f"| {side['target'] or ''} | {side['what']} |"
        for side in others
    ]
    grows = [f"{name} ~ size ^ {p:.2f}" for name, p in facts["exponents"].items()]
    if grows:
        found.append(f"| {facts['row']} | | | | | {', '.join(grows)} |")
    return found


def shown(value: float, figure: str) -> str:
    if figure == "peak_mb":
        return f"{value:,.0f} MB"
    return f"{value:.2f} s" if value >= 1 else f"{value * 1000:.3g} ms"
