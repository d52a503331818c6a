"""Several trained models -> one, whose weights are the means of theirs.

Runs that start from one checkpoint and differ in their seed end in one valley of the loss, on
different slopes of it. The mean of their weights lies between them and is usually better than each;
it says about what all of them together would say, for the price of one (Wortsman et al. 2022,
"Model soups: averaging weights of multiple fine-tuned models improves accuracy without increasing
inference time", the uniform soup).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minibert import files, hub, runs
from minibert.errors import UserError
from minibert.tokenizer import load_tokenizer, save_tokenizer

# Settings that runs must share: where they began, and how they are asked.
SAME_SETTINGS = ("weights", "precision", "max_length", "doc_stride", "head_tail", "metric")


def average(names: Sequence[str], out: Path) -> None:
    """Writes a run directory without history: the mean model, its tokenizer, and in run.json what
    the runs have in common and which they are. It is asked and scored as they are.

    Args:
        names: runs; of each the best epoch's model, or of `RUN/last` the last one's.
        out: a directory that is not there yet, or empty.

    Raises:
        UserError: there are fewer than two, one is no run, they do not belong together, or `out`
            is taken.
    """
    runs.check_new(out)
    directories = [hub.find(name) for name in names]
    if len({directory.resolve() for directory in directories}) < max(2, len(names)):
        raise UserError("name at least two runs, each of them once: a mean is of several models")
    facts = [facts_of(*pair) for pair in zip(directories, names, strict=True)]
    first, *others = map(identity, directories, facts)
    for directory, other in zip(directories[1:], others, strict=True):
        if differing := [x for x in first | other if first.get(x) != other.get(x)]:
            raise UserError(
                f"{directories[0]} and {directory} differ in {', '.join(differing)}: a mean of "
                "their weights would mean nothing; name runs that differ in seed or recipe alone"
            )
    tensors = mean([files.read_tensors(directory) for directory in directories], directories)
    config = files.read_json(directories[0] / "config.json")
    tokenizer = load_tokenizer(directories[0])
    shared = {
        name: value
        for name, value in facts[0]["settings"].items()
        if all(own["settings"].get(name) == value for own in facts)
    }
    run = {
        "settings": shared,
        "data": facts[0]["data"],
        "learned_before": facts[0].get("learned_before", []),
        "averaged": [str(directory.resolve()) for directory in directories],
        "command": sys.argv,
    }
    save_tokenizer(tokenizer, out, config.get("max_position_embeddings"))
    files.write_whole(
        {
            out / files.SINGLE: files.as_tensors(tensors),
            out / "config.json": files.as_json(config),
            out / "run.json": files.as_json(run),
        }
    )


def facts_of(directory: Path, name: str) -> dict[str, Any]:
    """run.json. Raises UserError: it is no run, has no model yet, or cannot be averaged."""
    run = runs.run_of(directory)
    if not (run / "run.json").is_file():
        raise UserError(f"{name} is no run: it has no run.json; name runs of a training script")
    runs.check_has_model(directory, name)
    facts = runs.read_run_json(run)
    scores = run / "eval.json"
    if scores.is_file() and files.read_json(scores).get("null_threshold") is not None:
        raise UserError(
            f"{name} tells by a threshold where a text has no answer; the threshold of a mean is "
            "not known, so such runs cannot be averaged"
        )
    return facts


def identity(directory: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What runs must have in common for a mean of their weights to mean something."""
    settings = {name: facts["settings"].get(name) for name in SAME_SETTINGS}
    data = {f"{part} data": of.get("sha256") for part, of in facts["data"].items()}
    config = {"config.json": files.read_json(directory / "config.json")}
    return settings | data | config | {"tokenizer": load_tokenizer(directory).to_str()}


def mean(models: Sequence[Mapping[str, Tensor]], directories: Sequence[Path]) -> dict[str, Tensor]:
    """The mean of each tensor, computed in float64. Raises UserError: names or shapes differ."""
    shapes = [{name: tuple(x.shape) for name, x in tensors.items()} for tensors in models]
    for directory, found in zip(directories[1:], shapes[1:], strict=True):
        if found != shapes[0]:
            raise UserError(f"{directory} has other weights than {directories[0]}: names or shapes")
    return {
        name: torch.stack([tensors[name].double() for tensors in models]).mean(dim=0).to(x.dtype)
        for name, x in models[0].items()
    }
