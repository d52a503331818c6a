"""What a row of the table is: one piece of work, the sides that do it, and whether they agree."""

from __future__ import annotations

import importlib.util
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from minibert.train import choose_precision

Figures: TypeAlias = dict[str, float]


class Work(NamedTuple):
    """What all rows are told."""

    folder: Path  # weights and data are written here once; sides leave here what they make
    shared: Path  # real data, see the README of this folder
    weights: str  # a real BERT, the small one of the table
    precision: str  # "fp32" or "bf16", where a row does not say it itself
    pipeline: str | None = None  # a Python that has transformers 4
    quick: bool = False  # everything tiny: whether it runs, not how fast
    trial: bool = False  # the turn that chooses among the peer's forms; a row may do less in it


class Side(NamedTuple):
    """One way to do a row's work."""

    what: str
    # Of the peers only the fastest stays after the trial. What is beside them stays, too, and is
    # stated: an example's defaults, another library, ours without one of its parts.
    kind: Literal["ours", "peer", "beside"] = "peer"
    target: float | None = None  # of this side; the best peer's is the row's
    compiles: bool = False  # too slow to start for the quick form
    needs: tuple[str, ...] = ()  # modules without which it is left out, and not the row
    size: float | None = None  # where sides differ in size alone: what the exponent is fitted to

    def turns_of(self, row_turns: int) -> int:
        """What is only stated, without a target, takes one turn, so that the table ends."""
        is_only_stated = self.kind == "beside" and self.target is None and self.size is None
        return 1 if is_only_stated else row_turns


class Check(NamedTuple):
    """How far the outputs of two sides are apart; a share of the largest number, or a count."""

    what: str
    measured: float
    bound: float

    @property
    def holds(self) -> bool:
        return self.measured <= self.bound  # a NaN does not hold


@dataclass(frozen=True)
class Row:
    """One piece of work. `measure` does it as one side, in a process that does nothing else;
    `check` holds the sides' outputs together, with dropout off."""

    name: str
    what: str
    sides: Mapping[str, Side]
    measure: Callable[[Work, str], Figures]
    check: Callable[[Work], list[Check]]
    target: float | None = None  # times as fast as the fastest peer
    figure: str = "seconds"
    turns: int = 5
    lacks: Callable[[Work], str] = lambda work: ""  # why it cannot run here; "" if it can
    left_out: str = ""  # forms of the peer that are not tried, and why
    settings: Mapping[str, Any] = field(default_factory=dict)
    is_apart: bool = False  # no part of the table: it takes long, and is measured when it is named

    def sides_for(self, work: Work) -> dict[str, Side]:
        """Those that can run here."""
        return {
            name: side
            for name, side in self.sides.items()
            if not (work.quick and side.compiles)
            and (not name.startswith("pipeline") or work.pipeline)
            and not absent(side.needs)
        }


def absent(modules: Sequence[str]) -> list[str]:
    """Those that are not installed."""
    return [module for module in modules if importlib.util.find_spec(module) is None]


def needs(*modules: str, bf16: bool = False) -> Callable[[Work], str]:
    """A row's `lacks`: the first of these modules, or bf16, that is not here."""

    def lacks(work: Work) -> str:
        for module in absent(modules):
            return f"needs {module}: pip install -e '.[bench]'"
        if bf16 and not work.quick and choose_precision(torch.device("cpu")) != "bf16":
            return "this machine has no bf16"
        return ""

    return lacks


def timed(once: Callable[[], object], counted: int, warm: int = 1) -> Figures:
    """The median seconds of some calls, after some that are not counted."""
    seconds: list[float] = []
    for _ in range(warm + counted):
        with watch(seconds):
            once()
    return {"seconds": statistics.median(seconds[warm:])}


def peak_mb() -> float:
    """The most memory that this process has had until now."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@contextmanager
def watch(seconds: list[float]) -> Iterator[None]:
    """Appends how long the block took."""
    began = time.perf_counter()
    yield
    seconds.append(time.perf_counter() - began)


BOUNDS = {"fp32": 1e-4, "bf16": 5e-2}  # of `apart`: bf16 keeps 8 bits of a number


def apart(
    what: str, ours: Sequence[Tensor], theirs: Sequence[Tensor], precision: str = "fp32"
) -> Check:
    """The largest difference between two lists of tensors, as a share of the largest number."""
    if [x.shape for x in ours] != [x.shape for x in theirs]:
        return Check(f"{what}, shapes", float("inf"), 0.0)
    largest = max(x.abs().max().item() for x in theirs)
    pairs = zip(ours, theirs, strict=True)
    difference = torch.tensor([(a.float() - b.float()).abs().max().item() for a, b in pairs]).max()
    return Check(what, difference.item() / largest, BOUNDS[precision])
