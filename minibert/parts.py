"""Which file is trained on and which is scored on: what --data, --train and --dev come to.

`datasets.py` finds the files; the rooms `reading.py` of both tasks read them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from minibert import datasets
from minibert.errors import UserError
from minibert.report import say

# Where one file is all there is: every tenth of its texts is held out, to score on.
HELD_OUT = 10
Part = Literal["all", "train", "dev"]
TAKEN: dict[Part, str] = {
    "all": "all",
    "train": f"all but every {HELD_OUT}th",
    "dev": f"every {HELD_OUT}th",
}


def is_in(part: Part, number: int) -> bool:
    """Whether a part takes the text of this number, counted from 0."""
    return part == "all" or (part == "dev") == (number % HELD_OUT == 0)


def add_files(parser: argparse.ArgumentParser, what: str, unit: str) -> None:
    """The flags --train and --dev; what, unit: as for `shares`."""
    parser.add_argument("--train", metavar="FILE", help=f"the {what} to train on, instead of those "
        "of --data")  # fmt: skip
    parser.add_argument("--dev", metavar="FILE", help=f"the {what} to score on, instead of those "
        f"of --data; where there are none, every {HELD_OUT}th {unit} of the training file is held "
        "out for that, from the first one on")  # fmt: skip


def find_files(
    settings: dict[str, Any], names: str, *, parts: Sequence[str], suffixes: Sequence[str]
) -> dict[str, Path]:
    """The file to train on, that to score on where one is named, and further parts that --data has.

    Args:
        settings: "data", "train" and "dev", as given on the command line.
        names: of data sets, for messages.
        parts, suffixes: of files that are looked for in a directory.

    Raises:
        UserError: no training data is named, or twice.
    """
    files = {part: Path(settings[part]) for part in ("train", "dev") if settings.get(part)}
    if settings.get("data"):
        if len(files) == 2:
            raise UserError("--train and --dev name all data there is to name; leave out --data")
        found = datasets.find(settings["data"], parts, suffixes=suffixes)
        if "data" in found:  # a single file
            found = {"train": found["data"]}
            if "train" in files:
                raise UserError(
                    f"--data {settings['data']} and --train both name a file to train on; leave "
                    "one out, and name the one to score on with --dev"
                )
        files = found | files
    if "train" not in files:
        raise UserError(
            f"name the data: --data {names}, or --train FILE and --dev FILE; there is no file to "
            "train on yet"
        )
    return files


def shares(files: dict[str, Path], what: str, unit: str) -> dict[str, tuple[Path, Part]]:
    """What is read of each file: all of it, unless train and dev have to share one.

    what, unit: "questions" and "context", of which every tenth is held out; for people.
    """
    if "dev" in files:
        return {part: (path, "all") for part, path in files.items()}
    train = files["train"]
    say(
        f"no {what} to score on are named: every {HELD_OUT}th {unit} of {train.name} is held out "
        "for that (--dev FILE names others)"
    )
    rest: dict[str, tuple[Path, Part]] = {part: (path, "all") for part, path in files.items()}
    return rest | {"train": (train, "train"), "dev": (train, "dev")}
