"""A run directory: what the training scripts are told, and what they leave on disk.

`run.json` holds every setting, so that a run says how it was made and can be resumed with one
flag. A setting that was not given takes its value from a recipe, most often a published one.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch

from minibert import __version__, checkpoint, distributed, files, hub
from minibert.datasets import SAMPLE
from minibert.errors import UserError
from minibert.memory import keep_freed_memory
from minibert.optimization import Recipe
from minibert.report import say
from minibert.train import PRECISIONS, Training, choose_precision

Settings = dict[str, Any]
LEARNED_FROM = "learned_from.json"
# The settings that the loop needs; the rest of `Recipe` nobody sets.
RECIPE = (
    "epochs",
    "batch_size",
    "lr",
    "seed",
    "precision",
    "accumulation",
    "compile",
    "save_every",
)
# The training scripts: a setting that the runs of no other have, and the command that asks them.
SCRIPTS = {
    "train_qa.py": ("doc_stride", "minibert ask"),
    "train_cls.py": ("head_tail", "minibert classify"),
}
VERSIONS = ("torch", "tokenizers", "safetensors", "numpy")


def new_parser(description: str | None) -> argparse.ArgumentParser:
    """That of a training script: a flag that is not given is not in its namespace, so that a recipe
    or a resumed run can fill it in."""
    return argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """The flags that all training scripts have."""
    add = parser.add_argument
    add("--weights", help="checkpoint to start from: a directory, a name in weights/, a run, or a "
        "checkpoint on the Hugging Face hub")  # fmt: skip
    add("--out", metavar="RUN", help="directory for the results (default: runs/DATA-WEIGHTS-SEED; "
        "of the sample, DATA is qa or reviews)")  # fmt: skip
    add("--epochs", type=positive(int), help="times to go through the training data")
    add("--batch-size", type=positive(int), help="examples (texts, or windows of questions) "
        "to an update, over all processes")  # fmt: skip
    add("--lr", type=positive(float), help="the highest learning rate")
    add("--max-length", type=positive(int), help="tokens that the model sees at once")
    add("--precision", choices=["auto", *PRECISIONS], help="auto: bf16 where the hardware has it, "
        "else fp16 on a GPU, else fp32 (default: auto)")  # fmt: skip
    add("--accumulation", type=positive(int), metavar="N", help="compute each batch in N parts, "
        "for less memory and the same result (default: 1)")  # fmt: skip
    add("--seed", type=seed, help="of the head's first weights, dropout and order (default: 0)")
    add("--device", help="cpu, cuda, cuda:1 … (default: cuda where there is one, else cpu)")
    add("--limit", type=positive(int), metavar="N", help="train on the first N questions or "
        "texts only")  # fmt: skip
    add("--compile", action="store_true", help="torch.compile the model: minutes to start, meant "
        "for GPUs (on a CPU it gained nothing)")  # fmt: skip
    add("--save-every", type=positive(int), metavar="STEPS", help="steps between checkpoints "
        "(default: 500)")  # fmt: skip
    add("--resume", metavar="RUN", help="go on with a run that was stopped, with its own settings "
        "(only --device may differ)")  # fmt: skip


DEFAULTS: Settings = {
    "precision": "auto",
    "accumulation": 1,
    "seed": 0,
    "limit": None,
    "compile": False,
    "save_every": 500,
}


def positive(kind: type) -> Callable[[str], Any]:
    """An argparse type: a number above 0."""

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = 0
        if not value > 0 or value == float("inf"):
            what = "whole number" if kind is int else "number"
            raise argparse.ArgumentTypeError(f"{text!r} is no {what} above 0")
        return value

    return parse


def seed(text: str) -> int:
    """An argparse type: what every random generator takes as a seed."""
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 to {2**32 - 1}")
    return int(text)


class Goal(NamedTuple):
    """What a training script adds to what `fine_tune` does."""

    script: str
    # The loop with all that it needs; of a new run (None) or of one that goes on.
    prepare: Callable[[Settings, torch.device, Path | None], Training]
    closing: Callable[[Path, Mapping[str, Any]], list[str]]  # about a run and its best scores


def fine_tune(given: Settings, goal: Goal) -> int:
    """Trains, or goes on with a run, as the flags say; returns the exit code."""
    directory, settings = resumed(given, goal.script) if "resume" in given else (None, dict(given))
    device = device_of(settings)
    keep_freed_memory()
    with distributed.processes(device.type):
        if directory is not None and checkpoint.is_finished(directory, settings["epochs"]):
            checkpoint.tidy(directory)
            say(f"{directory} is finished: all its epochs are done, nothing is left to do")
            return 0
        training = goal.prepare(settings, device, directory)
        try:
            training.go()
        except KeyboardInterrupt as signal:
            how = str(signal) or "stopped and saved"
            say(f"{how}; go on with: {again(goal.script, training.run)}")
            return 130
        for line in goal.closing(training.run, training.progress.best):
            say(line)
    return 0


def check_given(settings: Settings, *names: str) -> None:
    """Raises UserError where one of these, which have no default, was not given."""
    for name in names:
        if name not in settings:
            raise UserError(f"--{name} is missing; --help says what it is")


def open_run(
    settings: Settings, data: Mapping[str, Any], device: torch.device, resumed: Path | None
) -> tuple[Recipe, Path, Path]:
    """The recipe, the run's directory and that of the checkpoint to start from.

    Call it before the model is made: it sets the seed for the head, which no checkpoint holds. The
    directory itself comes later, with `start`: a mistake in the settings leaves none behind.
    """
    recipe = recipe_of(settings, device)
    run = resumed or directory_for(settings, data)
    if resumed:
        check_data(resumed, data)
    make_repeatable(device)
    torch.manual_seed(settings["seed"])
    weights = hub.find(settings["weights"])
    check_has_model(weights, settings["weights"])
    return recipe, run, weights


def resumed(given: Settings, script: str) -> tuple[Path, Settings]:
    """The run that `--resume` names and its settings.

    Raises:
        UserError: there is no such run, it is damaged or of another script, or another setting was
            given than it was started with.
    """
    run = Path(given["resume"])
    facts = read_run_json(run)
    if "averaged" in facts:
        raise UserError(f"{run} is a mean of runs; to train it on, start from it with --weights")
    settings = facts["settings"]
    made_by = script_of(settings)
    if script in SCRIPTS and made_by != script:
        raise UserError(f"{run} is no run of {script}{go_on_with(run, made_by)}")
    if missing := [name for name in (*RECIPE, "weights") if name not in settings]:
        raise UserError(f"{run / 'run.json'} is damaged: its settings lack {', '.join(missing)}")
    asked = {k: v for k, v in given.items() if k not in ("resume", "device", "out") and v != "auto"}
    changed = checkpoint.differences(settings, asked)
    if "out" in given and Path(given["out"]).resolve() != run.resolve():
        changed.append(f"out was '{run}' and is now {given['out']!r}")
    if changed:
        raise UserError(
            f"{run} cannot be resumed with other settings than it has: {'; '.join(changed)}"
        )
    return run, settings | {k: v for k, v in given.items() if k == "device"}


def read_run_json(run: Path) -> dict[str, Any]:
    """What `start` wrote. Raises UserError: there is no such run."""
    path = run / "run.json"
    if not path.is_file():
        raise UserError(f"{run} is no run to resume: it has no run.json")
    facts = files.read_json(path)
    for part in ("settings", "data"):
        if not isinstance(facts.get(part), dict):
            raise UserError(f"{path} has no {part}, so it was not written by this script")
    if not all(isinstance(part, dict) for part in facts["data"].values()):
        raise UserError(f"{path} is damaged: its data are {facts['data']}")
    return facts


def directory_for(settings: Settings, data: Mapping[str, Any]) -> Path:
    """Where a new run goes; that it can, all processes learn from the main one.

    Raises:
        UserError: it is there already and not empty.
    """
    source = settings.get("data") or next(iter(data.values()))["file"]
    if source == SAMPLE:  # by its folder: both tasks have one of that name
        source = Path(next(iter(data.values()))["file"]).parent.name
    weights = Path(settings["weights"]).name
    usual = f"runs/{Path(source).stem}-{weights}-{settings['seed']}"
    run = Path(settings.get("out") or usual)
    distributed.in_main(lambda: check_new(run))
    return run


def check_new(run: Path) -> None:
    """Raises UserError where something is in the way of a new run."""
    check_name(run)
    try:
        # A process that was killed as it began may have left a part of run.json.
        is_taken = run.exists() and any(path.suffix != ".part" for path in run.iterdir())
    except OSError as error:
        raise UserError(f"{run} cannot be a run: {error}; choose another --out") from None
    if (run / "run.json").exists():
        raise UserError(
            f"{run} exists already; go on with it by --resume {run}, or choose another --out"
        )
    if is_taken:
        raise UserError(f"{run} exists already and is no run; choose another --out")


def check_name(run: Path) -> None:
    """Raises UserError where `run_of` would take a run for a part of another."""
    if run.name == "last":
        raise UserError(f"{run} would pass for the last model of a run; choose another --out")


def start(
    run: Path,
    settings: Settings,
    data: Mapping[str, Any],
    counts: Mapping[str, int],
    weights: Path,
    lengths: Sequence[int],
) -> None:
    """Makes the directory and writes run.json: settings, versions, data with their sums, counts,
    and what the checkpoint to start from has learned from before.

    Raises:
        UserError: there is no training example, of which `lengths` has the tokens; nothing is made.
    """
    if not lengths:
        raise UserError("there is nothing to train on: the training data has no example")
    facts = {
        "settings": settings,
        "fixed": {x.name: x.default for x in fields(Recipe) if x.name not in RECIPE},
        "data": data,
        "learned_before": learned_from(weights),
        "counts": counts,
        "versions": {"minibert": __version__, "python": platform.python_version()}
        | {name: version(name) for name in VERSIONS},
        "machine": platform.machine(),
        "processes": distributed.world_size(),
        "command": sys.argv,
    }

    def write() -> None:
        check_new(run)
        files.write_json(run / "run.json", facts)

    distributed.in_main(write)


def script_of(settings: Any) -> str | None:
    """The training script whose run has these settings."""
    known = settings if isinstance(settings, dict) else {}
    return next((script for script, (own, _) in SCRIPTS.items() if own in known), None)


def check_has_model(directory: Path, name: str) -> None:
    """Raises UserError where a run, by the name that the user gave, has no model yet."""
    run = run_of(directory)
    if (run / "run.json").is_file() and not (directory / "config.json").is_file():
        script = script_of(files.read_json(run / "run.json").get("settings"))
        how = go_on_with(run, script)
        raise UserError(f"{name} has no model yet: its first epoch was not finished{how}")


def run_of(directory: Path) -> Path:
    """Where run.json is, if a model was trained here: a run's last model is in a folder of it."""
    return directory.parent if directory.name == "last" else directory


def learned_from(checkpoint: Path) -> list[dict[str, Any]]:
    """What a checkpoint was trained on, as far as it says: file, sha256, … of each file; a note.

    A run says it in run.json; a checkpoint that was made of runs, as tiny-zh, in learned_from.json.
    Of any other nothing is known.

    Raises:
        UserError: one of these files is damaged.
    """
    path = checkpoint / LEARNED_FROM
    if path.is_file():
        before, data = files.read_json(path).get("learned_from"), {}
    elif (path := run_of(checkpoint) / "run.json").is_file():
        facts = files.read_json(path)
        before, data = facts.get("learned_before", []), facts.get("data", {})
    else:
        return []
    if not isinstance(before, list) or not isinstance(data, dict):
        raise UserError(f"{path} does not say what {checkpoint} has learned from: it is damaged")
    trained = [part for name, part in data.items() if name not in ("dev", "test")]
    return [*before, *trained]


def go_on_with(run: Path, script: str | None) -> str:
    """The end of a sentence about a run: its command, if it is known which script made it."""
    return f"; go on with it: {again(script, run)}" if script else ""


def again(script: str, run: Path) -> str:
    """The command that goes on with a run."""
    n = distributed.world_size()
    start = "python" if n == 1 else f"torchrun --nproc_per_node={n}"
    return f"{start} {script} --resume {shlex.quote(str(run))}"


def device_of(settings: Settings) -> torch.device:
    """The device of this process."""
    name = settings.get("device") or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # the device "meta" has no numbers
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--device {name} cannot be used here: {reason}") from None
    return device


def make_repeatable(device: torch.device) -> None:
    """The same seed gives the same bytes on a GPU, too, where some kernels otherwise add numbers
    up in whatever order they come; to be called before the first product of matrices."""
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)


def recipe_of(settings: Settings, device: torch.device) -> Recipe:
    """The part of the settings that the loop needs; fills in the precision that auto stands for."""
    if settings["precision"] == "auto":
        settings["precision"] = choose_precision(device)
    return Recipe(**{name: settings[name] for name in RECIPE})


def check_data(run: Path, data: Mapping[str, Any]) -> None:
    """Raises UserError if a resumed run would go on with other data than it was started with."""
    before = read_run_json(run)["data"]
    for part, facts in data.items():
        began = before.get(part, {})
        if began.get("sha256") != facts["sha256"]:
            raise UserError(f"{facts['file']} is no longer the {part} data that {run} began with")
        if any(began[fact] != facts[fact] for fact in facts if fact != "file" and fact in began):
            raise UserError(
                f"{facts['file']} is read in another way than when {run} began: it was begun by "
                "another version of minibert; start anew"
            )
    for part in before.keys() - data.keys():
        raise UserError(f"the {part} data that {run} began with is gone: {before[part]['file']}")
