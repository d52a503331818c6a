"""Which file is trained on and which is scored on: what --data, --train and --dev come to.

`datasets.py` finds the files; the rooms `reading.py` of both tasks read them.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from minibert import datasets, hub
from minibert.errors import UserError
from minibert.report import say

# Where one file is all there is, a tenth of its texts is held out to score on: which, says the room
# `reading.py` of each task.
HELD_OUT = 10
Part = Literal["all", "train", "dev"]
OWN_RECIPE = "minibert's own, for the bundled sample"


def add_files(parser: argparse.ArgumentParser, what: str, held_out: str) -> None:
    """The flags --train and --dev; what, held_out: "questions", and which of them are held out."""
    parser.add_argument("--train", metavar="FILE", help=f"the {what} to train on, instead of those "
        "of --data")  # fmt: skip
    parser.add_argument("--dev", metavar="FILE", help=f"the {what} to score on, instead of those "
        f"of --data; where there are none, {held_out}")  # fmt: skip


def or_sample(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings, with the bundled sample for data where none is named; says so."""
    if any(settings.get(name) is not None for name in ("data", "train", "dev")):
        return settings
    say("no --data: the bundled sample, small data to try everything on; --data names others")
    return settings | {"data": datasets.SAMPLE}


def takes_own(settings: Mapping[str, Any]) -> bool:
    """Whether training is on the bundled sample, whole, from the bundled checkpoint, which have
    recipes of their own; the sample without --weights means both."""
    is_sample = settings.get("data") == datasets.SAMPLE and not settings.get("train")
    return is_sample and Path(settings.get("weights") or hub.BUNDLED).name == hub.BUNDLED


def rate_in_words(lr: float) -> str:
    """As one writes it: 2e-5, not 2e-05 or 0.00002."""
    return f"{lr:.0e}".replace("e-0", "e-")


def find_files(
    settings: dict[str, Any], kind: datasets.Kind, parts: Sequence[str]
) -> dict[str, Path]:
    """The file to train on, that to score on where one is named, and further parts that --data has.

    Args:
        settings: "data", "train" and "dev", as given on the command line.
        kind: what the task learns from.
        parts: train, dev and perhaps others.

    Raises:
        UserError: no training data is named, or twice; --data has none.
    """
    files = {part: Path(settings[part]) for part in ("train", "dev") if settings.get(part)}
    if settings.get("data"):
        if len(files) == 2:
            raise UserError("--train and --dev name all data there is to name; leave out --data")
        found = datasets.find(settings["data"], parts, kind)
        if "data" in found:  # a single file
            found = {"train": found["data"]}
            if "train" in files:
                raise UserError(
                    f"--data {settings['data']} and --train both name a file to train on; leave "
                    "one out, and name the one to score on with --dev"
                )
        files = found | files
    if "train" not in files and settings.get("data"):
        raise UserError(
            f"{datasets.lacking(Path(settings['data']), ['train'], kind.suffixes)}, only "
            f"{list_of(files.values())}; name the file to train on with --train FILE"
        )
    if "train" not in files:
        raise UserError(
            "there is no file to train on yet; name it with --train FILE, or name --data "
            f"({', '.join(kind.names)}, a file or a directory)"
        )
    return files


def list_of(files: Collection[Path]) -> str:
    return ", ".join(path.name for path in files)


def shares(files: dict[str, Path]) -> dict[str, tuple[Path, Part]]:
    """What is read of each file: all of it, unless train and dev have to share one."""
    parts: dict[str, tuple[Path, Part]] = {part: (path, "all") for part, path in files.items()}
    if "dev" in files:
        return parts
    return parts | {"train": (files["train"], "train"), "dev": (files["train"], "dev")}


def say_shared(files: dict[str, Path], what: str, taken: str) -> None:
    """Says that train and dev share a file, if they do; called once it could be read.

    what, taken: "questions" and what of the file is held out, "every 10th context".
    """
    if "dev" not in files:
        say(
            f"no {what} to score on are named: {taken} of {files['train'].name} is held out for "
            "that (--dev FILE names others)"
        )
