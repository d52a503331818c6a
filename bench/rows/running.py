"""A row from its first check to its last turn, each side in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rows.row import Check, Figures, Row, Work, peak_mb
from rows.table import best_peer, compare, exponents

# For the processes: no hub is asked, and neither side spends time on bars and reports.
QUIET = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TQDM_DISABLE": "1"}
ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # in the quick form there are as many processes as cores
CHECK = "check"


class Failed(Exception):
    """A process of a row ended in an error, or its outputs differ."""


def facts_of(row: Row, work: Work, script: Path) -> dict[str, Any]:
    """All that is known of a row in the end; `not_run` says why, if there is nothing to know."""
    facts: dict[str, Any] = {"row": row.name, "what": row.what, "settings": dict(row.settings)}
    facts |= {"figure": row.figure, "left_out": row.left_out, "failed": False}
    if reason := row.lacks(work):
        return facts | {"not_run": reason, "failed": work.quick}
    try:
        return facts | (once(row, work, script) if work.quick else in_turns(row, work, script))
    except Failed as error:
        return facts | {"not_run": str(error), "failed": True}


def once(row: Row, work: Work, script: Path) -> dict[str, Any]:
    """The check and each side once, all in one process: no time of it means anything."""
    sides = row.sides_for(work)
    checks, turn = in_a_process(row, [CHECK, *sides], work, script)
    return told(row, checks, turn, [turn])


def in_turns(row: Row, work: Work, script: Path) -> dict[str, Any]:
    """The check; a trial of the peer's forms, not counted; then ours, the best and the rest."""
    sides = row.sides_for(work)
    checks, _ = in_a_process(row, [CHECK], work, script)
    peers = [name for name, side in sides.items() if side.kind == "peer"]
    best = next(iter(peers), None)
    trial: dict[str, Figures] = {}
    if len(peers) > 1:
        for side in peers:
            trial |= in_a_process(row, [side], work._replace(trial=True), script)[1]
        best = best_peer(sides, trial, row.figure)
    turns = []
    for i in range(row.turns):
        chosen = [n for n, s in sides.items() if s.kind != "peer" or n == best]
        chosen = [n for n in chosen if i < sides[n].turns_of(row.turns)]
        turn: dict[str, Figures] = {}
        for side in chosen:
            turn |= in_a_process(row, [side], work, script)[1]
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


def in_a_process(
    row: Row, parts: Sequence[str], work: Work, script: Path
) -> tuple[list[Check], dict[str, Figures]]:
    """Runs parts of a row, its check or sides of it, in a new process.

    Raises:
        Failed: it ended in an error, or a check does not hold.
    """
    job = {"row": row.name, "parts": parts, "work": work._asdict()}
    command = [sys.executable, str(script), "--do", json.dumps(job, default=str)]
    environment = {**os.environ, **QUIET, **(ONE_THREAD if work.quick else {})}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if ended.returncode:
        print(ended.stderr, file=sys.stderr)
        last = (ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"])[-1]
        raise Failed(f"{', '.join(parts)}: {last}")
    found = json.loads(ended.stdout)
    checks = [Check(**check) for check in found["checks"]]
    for check in checks:
        if not check.holds:
            raise Failed(f"outputs differ: {check.what}: {check.measured:.2g} > {check.bound:.2g}")
    sides: dict[str, Figures] = found["sides"]
    for name, figures in sides.items():
        print(f"{row.name}, {name}: {figures[row.figure]:.4g}", file=sys.stderr, flush=True)
    return checks, sides


def do(job: dict[str, Any], rows: dict[str, Row]) -> None:
    """What `in_a_process` asked for: the figures on stdout, all else that is printed on stderr."""
    with os.fdopen(os.dup(1), "w") as result:
        os.dup2(2, 1)
        row, settings = rows[job["row"]], job["work"]
        paths = {name: Path(settings[name]) for name in ("folder", "shared")}
        work = Work(**{**settings, **paths})
        checks: list[Check] = []
        sides: dict[str, Figures] = {}
        for part in job["parts"]:
            if part == CHECK:
                checks = row.check(work)
            else:
                sides[part] = row.measure(work, part) | {"peak_mb": peak_mb()}
        found = {"checks": [check._asdict() for check in checks], "sides": sides}
        json.dump(found, result)
