"""A row from its first check to its last turn, each side in a process of its own."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, SpawnContext
from pathlib import Path
from typing import Any, TypeAlias

import torch

from rows.row import Check, Figures, Row, Work, peak_mb
from rows.table import best_peer, compare, exponents

# For the processes: no hub is asked, and neither side spends time on bars and reports.
QUIET = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TQDM_DISABLE": "1"}
# What every process of a row is a copy of has imported these, which takes some seconds.
IMPORTED_ONCE = ["torch", "transformers.models.bert.modeling_bert"]
CHECK = "check"

Found: TypeAlias = tuple[list[Check], dict[str, Figures]]  # of a process: its checks, its sides
# What a process calls, and all that it needs to know: the row's name, parts of it, and the work.
Do: TypeAlias = Callable[[str, Sequence[str], Work], Found]


class Failed(Exception):
    """A process of a row ended in an error, or its outputs differ."""


def facts_of(row: Row, work: Work, do: Do) -> dict[str, Any]:
    """All that is known of a row in the end; `not_run` says why, if there is nothing to know."""
    facts: dict[str, Any] = {"row": row.name, "what": row.what, "settings": dict(row.settings)}
    facts |= {"figure": row.figure, "left_out": row.left_out, "failed": False}
    if reason := row.lacks(work):
        return facts | {"not_run": reason, "failed": work.quick}
    began = time.perf_counter()
    try:
        facts |= once(row, work, do) if work.quick else in_turns(row, work, do)
    except Failed as error:
        return facts | {"not_run": str(error), "failed": True}
    return facts | {"minutes": (time.perf_counter() - began) / 60}


def once(row: Row, work: Work, do: Do) -> dict[str, Any]:
    """The check and each side once, all in one process: no time of it means anything."""
    sides = row.sides_for(work)
    checks, turn = in_a_process(row, [CHECK, *sides], work, do)
    return told(row, checks, turn, [turn])


def in_turns(row: Row, work: Work, do: Do) -> dict[str, Any]:
    """The check; a trial of the peer's forms, not counted; then ours, the best and the rest."""
    sides = row.sides_for(work)
    checks, _ = in_a_process(row, [CHECK], work, do)
    peers = [name for name, side in sides.items() if side.kind == "peer"]
    best = next(iter(peers), None)
    trial: dict[str, Figures] = {}
    if len(peers) > 1:
        for side in peers:
            trial |= in_a_process(row, [side], work._replace(trial=True), do)[1]
        best = best_peer(sides, trial, row.figure)
    turns = []
    for i in range(row.turns):
        chosen = [n for n, s in sides.items() if s.kind != "peer" or n == best]
        chosen = [n for n in chosen if i < sides[n].turns_of(row.turns)]
        turn: dict[str, Figures] = {}
        for side in chosen:
            turn |= in_a_process(row, [side], work, do)[1]
        turns.append(turn)
    return told(row, checks, trial, turns)


def told(
    row: Row, checks: Sequence[Check], trial: dict[str, Figures], turns: list[dict[str, Figures]]
) -> dict[str, Any]:
    return {
        "checks": [check._asdict() for check in checks],
        "sides": compare(row, turns),
        "exponents": exponents(row, turns),
        "trial": trial,
        "turns": turns,
    }


def in_a_process(row: Row, parts: Sequence[str], work: Work, do: Do) -> Found:
    """Runs parts of a row, its check or sides of it, in a new process.

    It is a copy of one that has done nothing but to import (`IMPORTED_ONCE`); where memory is what
    counts it starts from nothing.

    Raises:
        Failed: it ended in an error, or a check does not hold.
    """
    spawns = row.figure == "peak_mb"
    context: SpawnContext | ForkServerContext
    context = get_context("spawn") if spawns else get_context("forkserver")
    context.set_forkserver_preload(IMPORTED_ONCE)
    receiver, sender = context.Pipe(duplex=False)
    with tempfile.NamedTemporaryFile("r+", dir=work.folder, errors="replace") as said:
        job = (row.name, parts, work)
        process = context.Process(target=answer, args=(do, job, Path(said.name), sender))
        process.start()
        sender.close()  # so that a process which is killed leaves nobody waiting
        try:
            checks, sides = receiver.recv()
        except EOFError:
            process.join()
            shown = said.read().strip()
            print(shown, file=sys.stderr)
            is_killed = (process.exitcode or 0) < 0  # it could not say why
            silent = is_killed or not shown
            why = f"exit code {process.exitcode}" if silent else shown.splitlines()[-1]
            raise Failed(f"{', '.join(parts)}: {why}") from None
        process.join()
    for check in checks:
        if not check.holds:
            raise Failed(f"outputs differ: {check.what}: {check.measured:.2g} > {check.bound:.2g}")
    for name, figures in sides.items():
        print(f"{row.name}, {name}: {figures[row.figure]:.4g}", file=sys.stderr, flush=True)
    return checks, sides


def answer(do: Do, job: tuple[str, Sequence[str], Work], said: Path, sender: Connection) -> None:
    """In the new process: sends what is found; all that is printed goes to a file."""
    with said.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    gc.freeze()  # what was imported for the other side costs this one nothing
    try:
        sender.send(do(*job))
    except Exception:
        traceback.print_exc()
        sys.exit(1)


def do_parts(row: Row, parts: Sequence[str], work: Work) -> Found:
    """A row's check and sides, as they are named."""
    if work.quick:
        torch.set_num_threads(1)  # there are as many processes as cores
    checks: list[Check] = []
    sides: dict[str, Figures] = {}
    for part in parts:
        if part == CHECK:
            checks = row.check(work)
        else:
            sides[part] = row.measure(work, part) | {"peak_mb": peak_mb()}
    return checks, sides
