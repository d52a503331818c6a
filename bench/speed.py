"""How fast minibert is beside transformers at its best: the same work, side by side.

    python bench/speed.py --out bench/results/speed.json      # the whole table
    python bench/speed.py --rows step encode-8x512-fp32       # some rows of it
    python bench/speed.py --quick    # everything tiny: does each row run, and do outputs agree?

For each row the outputs of ours and of the peer's forms are held together first, with dropout off;
README.md beside this file says which sides are not. Then comes a trial, which chooses among the
forms of the peer and is not counted. Then the sides take turns, each in a process
of its own, so that a machine which slows down slows all of them; the ratio is taken turn by turn.
It is the other's figure divided by ours: how many times as fast ours is.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from rows import encode, fine_tuning, floor, growth, loading, questions, step, windows
from rows.row import Row, Work
from rows.running import QUIET, Found, do_parts, facts_of
from rows.table import HEADER, lines, short

from minibert import files
from minibert.train import choose_precision

FAMILIES = (fine_tuning, step, floor, questions, encode, windows, loading, growth)
ROWS: dict[str, Row] = {row.name: row for family in FAMILIES for row in family.ROWS}
TABLE = [name for name, row in ROWS.items() if not row.is_apart]
AT_ONCE = 4  # rows of the quick form, at most: each is a process of up to 2 GB
VERSIONS = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "numpy",
    "datasets",
    "accelerate",
    "onnxruntime",
)


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments(argv)
    if args.list:
        print("\n".join(listed(row) for row in ROWS.values()))
        return 0
    found = []
    folders = tempfile.TemporaryDirectory(prefix="minibert-speed-")
    with folders as folder, patch.dict(os.environ, QUIET):  # for the processes
        work = Work(Path(folder), args.shared, args.weights, args.precision, args.pipeline)
        work = work._replace(quick=args.quick)
        for facts in measured(args.rows, work):
            found.append(facts)
            if args.out:  # after each row, so that the last one's fault takes none away
                files.write_json(args.out, about(args) | {"rows": found})
    if args.quick:
        print("\n".join(map(short, found)))
    else:
        print("\n".join([HEADER, *(line for facts in found for line in lines(facts))]))
        print(f"\nmeasured in {sum(facts.get('minutes', 0) for facts in found):.0f} minutes")
    failed = [facts["row"] for facts in found if facts["failed"]]
    if failed:
        print(f"did not run, or outputs differ: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def measured(names: Sequence[str], work: Work) -> Iterator[dict[str, Any]]:
    """What is found of each row, singly; in the quick form, where no time counts, some at once."""
    if not work.quick:
        yield from (facts_of(ROWS[name], work, do) for name in names)
        return

    def one(name: str) -> dict[str, Any]:
        own = Path(tempfile.mkdtemp(dir=work.folder))  # rows that write the same files do not meet
        return facts_of(ROWS[name], work._replace(folder=own), do)

    with ThreadPoolExecutor(min(AT_ONCE, os.cpu_count() or 1)) as pool:
        yield from pool.map(one, names)


def do(name: str, parts: Sequence[str], work: Work) -> Found:
    """What a process of a row is started for."""
    return do_parts(ROWS[name], parts, work)


def listed(row: Row) -> str:
    """A row for --list: what is measured, by which sides, and what is left out."""
    sides = "".join(f"\n    {name}: {side.what}" for name, side in row.sides.items())
    target = f" (target: {row.target:g})" if row.target else ""
    apart = "\n    (no part of the table)" if row.is_apart else ""
    left_out = f"\n    left out: {row.left_out}" if row.left_out else ""
    return f"{row.name}: {row.what}{target}{apart}{sides}{left_out}"


def about(args: argparse.Namespace) -> dict[str, Any]:
    """The machine, the versions and the settings, as JSON values."""
    return {
        "machine": {
            "system": platform.platform(),
            "processor": processor(),
            "threads": torch.get_num_threads(),
            "capabilities": {k: str(v) for k, v in torch.cpu.get_capabilities().items()},
        },
        "versions": {"python": platform.python_version()}
        | {name: found for name in VERSIONS if (found := installed(name))},
        # Without where things lie on this machine, which measures nothing.
        "settings": {
            name: str(value) if isinstance(value, Path) else value
            for name, value in vars(args).items()
            if name not in ("list", "out", "pipeline")
        },
    }


def processor() -> str:
    """Its name, where the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.processor()


def installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--rows", nargs="+", metavar="NAME", choices=list(ROWS), default=TABLE,
        help="these rows alone (those of the table; cls-epoch is none)")  # fmt: skip
    add("--list", action="store_true", help="say what the rows are, and measure nothing")
    add("--quick", action="store_true", help="tiny sizes; fails only if a row did not run or "
        "outputs differ")  # fmt: skip
    add("--out", type=Path, metavar="FILE", help="where the figures go as JSON")
    add("--shared", type=Path, default=Path("../shared"), metavar="DIR", help="the folder of real "
        "data (../shared); the quick form needs none")  # fmt: skip
    add("--weights", default="all-MiniLM-L6-v2", help="the small BERT (all-MiniLM-L6-v2)")
    add("--precision", choices=["fp32", "bf16"], default=choose_precision(torch.device("cpu")),
        help="of both sides (bf16 where the hardware has it, else fp32)")  # fmt: skip
    add("--pipeline", metavar="PYTHON", help="a Python that has transformers 4, for its "
        "question-answering pipeline, which version 5 lacks")  # fmt: skip
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
