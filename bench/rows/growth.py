"""How time and memory grow with the length of the texts, and with how many there are: no peer."""

from __future__ import annotations

from rows import questions, step
from rows.questions import Setting
from rows.row import Figures, Row, Side, Work
from rows.step import Shape

LENGTHS = (64, 128, 256, 512)
TIMES = (1, 2, 4)
BATCH = 8
QUESTIONS = 100


def measure_length(work: Work, side: str) -> Figures:
    """A training step on texts of so many tokens."""
    length = int(side.split()[0])
    shape = Shape(BATCH, length, counted=3, is_small=True)
    return step.measure(shape, work, "ours")


def measure_data(work: Work, side: str) -> Figures:
    """The answers to so many questions, from file to file."""
    setting = Setting(is_small=True, questions=QUESTIONS * int(side.split()[0]))
    return questions.measure(setting, work, "ours")


def sides(sizes: tuple[int, ...], unit: str) -> dict[str, Side]:
    """The smallest first: the others' time is given as a multiple of its."""
    return {
        f"{size} {unit}": Side(f"{size:,} {unit}", "beside" if i else "ours", size=size)
        for i, size in enumerate(sizes)
    }


ROWS = [
    Row(
        name="growth-length",
        what=f"a training step of all-MiniLM-L6-v2, {BATCH} texts of a length",
        sides=sides(LENGTHS, "tokens"),
        measure=measure_length,
        check=lambda work: [],
        turns=2,
    ),
    Row(
        name="growth-data",
        what=f"minibert evaluate, all-MiniLM-L6-v2, times {QUESTIONS} questions",
        sides=sides(TIMES, "times"),
        measure=measure_data,
        check=lambda work: [],
        turns=2,
    ),
]
