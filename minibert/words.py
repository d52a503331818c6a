"""What the words of the command `minibert` share, whichever task they belong to."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from minibert.errors import UserError


def add_model(parser: argparse.ArgumentParser, script: str, head: str) -> None:
    """The flag for a model that `script` has trained, or transformers with the same head."""
    parser.add_argument("--model", required=True, metavar="RUN", help=f"a run of {script}, or a "
        f"{head} checkpoint of transformers: a directory or a name on the Hugging Face "
        "hub")  # fmt: skip


def add_json(parser: argparse.ArgumentParser, more: str = "") -> None:
    parser.add_argument("--json", action="store_true", help=f"print JSON, for programs{more}")


COLUMNS = {
    "text": "holds the text",
    "pair": "holds the second text, of pairs",
    "label": "holds the label",
}


def add_columns(
    parser: argparse.ArgumentParser, names: Iterable[str] = COLUMNS, default: str = ""
) -> None:
    """The flags for columns of a table. default: where they are looked for first."""
    for name in names:
        parser.add_argument(f"--{name}-column", metavar="NAME|N", help="the column, by its "
            f"name in the first row or by number, that {COLUMNS[name]} (default: {default}found "
            "by its name or its content)")  # fmt: skip


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", help="cpu, cuda, … (default: cuda where there is one)")


def directory_for(out: str | None) -> Path | None:
    """What --out names, if it is given. Raises UserError: it is a file, or a run."""
    if out and Path(out).exists() and not Path(out).is_dir():
        raise UserError(f"--out {out} is a file; name a directory")
    if out and (Path(out) / "run.json").exists():
        raise UserError(f"--out {out} is a run, whose own results stay; name another directory")
    return Path(out) if out else None


def to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)


def score_table(scores: Mapping[str, float], digits: int) -> str:
    """A name and a figure a line."""
    width = max(map(len, scores))
    return "\n".join(
        f"{name:{width}}  {value:.{digits}f}"
        if isinstance(value, float)
        else f"{name:{width}}  {value}"
        for name, value in scores.items()
    )
