"""Several trained models -> one, whose weights are the means of theirs.

Runs that start from one checkpoint and differ in their seed end in one valley of the loss, on
different slopes of it; the mean of their weights lies between them. It says about what all of them
together would say, for the price of one: at times better than the best, so score it (Wortsman et
al. 2022, "Model soups: averaging weights of multiple fine-tuned models improves accuracy without
increasing inference time"; this is their uniform soup).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minibert import files, runs
from minibert.cls.task import ClsSettings
from minibert.errors import UserError
from minibert.qa.task import QASettings
from minibert.tokenizer import load_tokenizer, tokenizer_files

# Settings that runs must share: where they began, what they saw, and how they are asked.
SHARED = ("weights", "limit", "precision", *QASettings._fields, *ClsSettings._fields)


def average(names: Sequence[str], out: Path) -> None:
    """Writes a run directory without history: the mean model, its tokenizer, and in run.json what
    the runs have in common and which they are. It is asked and scored as they are.

    Args:
        names: directories of runs; of each the best epoch's model, or of `RUN/last` the last one's.
        out: a directory that is not there yet.

    Raises:
        UserError: there are fewer than two, one is no run, they do not belong together, or `out`
            is there or cannot be written.
    """
    runs.check_name(out)
    if out.exists():
        raise UserError(f"{out} exists already; choose another --out")
    directories = [Path(name) for name in names]
    if len({directory.resolve() for directory in directories}) < max(2, len(names)):
        raise UserError("name at least two runs, each of them once: a mean is of several models")
    facts = [facts_of(directory) for directory in directories]
    identities = [identity(*pair) for pair in zip(directories, facts, strict=True)]
    check_alike(directories, identities)
    models = [files.read_tensors(directory) for directory in directories]
    config = identities[0]["config.json"]
    tokenizer = load_tokenizer(directories[0])
    files.write_whole(
        {
            out / files.SINGLE: files.as_tensors(mean(models, directories)),
            out / "config.json": files.as_json(config),
            out / "run.json": files.as_json(in_common(facts, directories)),
            **tokenizer_files(tokenizer, out, config.get("max_position_embeddings")),
        }
    )


def facts_of(directory: Path) -> dict[str, Any]:
    """run.json. Raises UserError: it is no run, has no model yet, or cannot be averaged."""
    run = runs.run_of(directory)
    if not (run / "run.json").is_file():
        why = "it has no run.json" if directory.is_dir() else "there is no such directory"
        raise UserError(f"{directory} is no run: {why}; name runs of a training script")
    runs.check_has_model(directory, str(directory))
    facts = runs.read_run_json(run)
    if "averaged" in facts:
        raise UserError(f"{directory} is a mean of runs itself; name the runs instead")
    scores = run / "eval.json"
    if scores.is_file() and files.read_json(scores).get("null_threshold") is not None:
        raise UserError(
            f"{directory} tells by a threshold where a text has no answer; that of a mean is not "
            "known, so such runs cannot be averaged"
        )
    return facts


def check_alike(directories: Sequence[Path], identities: Sequence[Mapping[str, Any]]) -> None:
    """Raises UserError where runs did not learn the same from the same beginning."""
    first, *others = identities
    for directory, other in zip(directories[1:], others, strict=True):
        differing = [name for name in {**first, **other} if first.get(name) != other.get(name)]
        if "script" in differing:
            scripts = f"{first['script']} and {other['script']}"
            raise UserError(f"{directories[0]} and {directory} are runs of {scripts}; name one's")
        if differing:
            raise UserError(
                f"{directories[0]} and {directory} differ in {', '.join(differing)}: a mean of "
                "their weights would mean nothing; name runs that differ in seed or recipe alone"
            )


def identity(directory: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What runs must have in common for a mean of their weights to mean something."""
    data = {
        f"{part} data": {name: value for name, value in of.items() if name != "file"}
        for part, of in facts["data"].items()
    }
    return {
        "script": runs.script_of(facts["settings"]),
        **{name: facts["settings"].get(name) for name in SHARED},
        **data,
        "what was learned before": facts.get("learned_before"),
        "config.json": files.read_json(directory / "config.json"),
        "tokenizer": load_tokenizer(directory).to_str(),
    }


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


def in_common(facts: Sequence[Mapping[str, Any]], directories: Sequence[Path]) -> dict[str, Any]:
    """run.json of the mean: the settings that no run has otherwise, and where the runs are."""
    settings = {
        name: value
        for name, value in facts[0]["settings"].items()
        if all(own["settings"].get(name) == value for own in facts)
    }
    return {
        "settings": settings,
        "data": facts[0]["data"],
        "learned_before": facts[0].get("learned_before", []),
        "averaged": [str(directory.resolve()) for directory in directories],
        "command": sys.argv,
    }
