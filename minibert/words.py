"""What the words of the command `minibert` share, whichever task they belong to."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from minibert.errors import UserError

JSON_HELP = "print JSON, for programs"


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", help="cpu, cuda, … (default: cuda where there is one)")


def directory_for(out: str | None) -> Path | None:
    """What --out names, if it is given. Raises UserError: it is a file."""
    if out and Path(out).exists() and not Path(out).is_dir():
        raise UserError(f"--out {out} is a file; name a directory")
    return Path(out) if out else None


def to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)
