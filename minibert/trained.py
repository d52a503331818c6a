"""A trained model by name, as its user meets it: its files, how it was trained, where it runs.

The commands of both tasks load their models here; `qa/ask.py` and `cls/classify.py` ask them.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from tokenizers import Tokenizer

from minibert import files, hub, runs
from minibert.errors import UserError
from minibert.report import say
from minibert.tokenizer import load_tokenizer
from minibert.train import PRECISIONS, choose_precision
from minibert.weights import PreTrainedModel

Model = TypeVar("Model", bound=PreTrainedModel)


@dataclass(frozen=True)
class Trained(Generic[Model]):
    """A model, and what its run says; a checkpoint from elsewhere has no run."""

    model: Model  # on its device, in evaluation mode
    tokenizer: Tokenizer
    run: Path | None
    facts: dict[str, Any]  # run.json; {} without a run
    precision: str  # what it was scored with, so that its scores come out again


def load_trained(
    kind: type[Model],
    name: str,
    device: str | None,
    *,
    script: str,
    needs: Sequence[str],
    purpose: str,
) -> Trained[Model]:
    """The model of a run, or a checkpoint with the same head that transformers made.

    Args:
        kind: the class, with its head.
        name: a run, a directory, or a name on the hub.
        device: None for the usual one.
        script, needs: what makes such runs, and the settings that it writes into run.json.
        purpose: "for questions".

    Raises:
        UserError: there is none of that name, it was not trained for this, or its files do not
            belong together.
    """
    directory = hub.find(name)
    run = directory.parent if directory.name == "last" else directory
    facts = read_facts(run, script, needs) if (run / "run.json").is_file() else {}
    if facts and not (directory / "config.json").is_file():
        raise UserError(f"{name} has no model yet: its first epoch was not finished; resume it")
    model = kind.from_pretrained(directory)
    if model.load_report is not None and model.load_report.newly_initialized:
        raise UserError(
            f"{name} has not been trained {purpose}: it holds no "
            f"{model.load_report.newly_initialized[0]}; train it: "
            f"python {script} --data NAME --weights {name}"
        )
    tokenizer = load_tokenizer(directory)
    on = runs.device_of({"device": device})
    precision = facts["settings"]["precision"] if facts else "fp32"
    if on.type != "cuda" and precision != choose_precision(on):  # it would be emulated, slowly
        precision = "fp32"
    return Trained(model.to(on), tokenizer, run if facts else None, facts, precision)


def read_facts(run: Path, script: str, needs: Sequence[str]) -> dict[str, Any]:
    """run.json. Raises UserError: it is damaged, or that of a run of another task."""
    facts = files.read_json(run / "run.json")
    settings = facts.get("settings")
    if not isinstance(settings, dict) or not all(name in settings for name in needs):
        raise UserError(f"{run} is no run of {script}: its run.json lacks {', '.join(needs)}")
    if settings.get("precision") not in PRECISIONS:
        raise damaged(run, settings)
    return facts


def damaged(run: Path, settings: Any) -> UserError:
    return UserError(f"{run / 'run.json'} is damaged: its settings are {settings}")


def check_text(text: str, what: str) -> None:
    """Raises UserError: it is empty, or no Unicode."""
    if not text.strip():
        raise UserError(f"{what} is empty; there is nothing to answer")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{what} is not valid UTF-8") from None


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Warnings as lines for the user, without their place in the code."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    for warning in caught:
        say(f"note: {warning.message}")
