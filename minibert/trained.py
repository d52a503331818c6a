"""A trained model by name, as its user meets it: its files, how it was trained, where it runs.

The commands of both tasks load their models here; `qa/ask.py` and `cls/classify.py` ask them.
Which of the two a model is for, its run.json says; of a checkpoint without one its config.json or,
where that names another model, the heads among its weights.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from tokenizers import Tokenizer

from minibert import files, hub, runs
from minibert.errors import UserError
from minibert.products import fix_products
from minibert.report import say
from minibert.tokenizer import load_tokenizer
from minibert.train import PRECISIONS, autocast, choose_precision
from minibert.weights import PreTrainedModel

Model = TypeVar("Model", bound=PreTrainedModel)


@dataclass(frozen=True)
class Trained(Generic[Model]):
    """A model, and what its run says; a checkpoint from elsewhere has no run."""

    # On its device, in evaluation mode; the weights of its products are in `precision`, so it
    # computes within `as_scored` and is not to be saved.
    model: Model
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
    run = runs.run_of(directory)
    facts = read_facts(run, script, needs) if (run / "run.json").is_file() else {}
    runs.check_has_model(directory, name)
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
    fix_products(model.to(on), on, PRECISIONS[precision])
    return Trained(model, tokenizer, run if facts else None, facts, precision)


def is_classifier(name: str) -> bool:
    """Whether a model is for classes of texts, so not for questions.

    Raises:
        UserError: it is a checkpoint without a run, and for neither.
    """
    directory = hub.find(name)
    run = runs.run_of(directory)
    if (run / "run.json").is_file():
        settings = files.read_json(run / "run.json").get("settings")
        return runs.script_of(settings) == "train_cls.py"
    config = directory / "config.json"
    if not config.is_file():  # what there is instead, `load_trained` says
        return False
    heads = files.read_json(config).get("architectures")
    if heads not in (["BertForSequenceClassification"], ["BertForQuestionAnswering"]):
        tensors = files.read_tensors(directory)
        if heads_there := [h for h in ("qa_outputs", "classifier") if f"{h}.weight" in tensors]:
            return heads_there[0] == "classifier"  # tiny-zh has both: it is for questions first
        raise UserError(
            f"{name} has been trained neither for questions nor to classify: its config.json and "
            "its weights name no such head; train it with train_qa.py or train_cls.py"
        )
    return bool(heads == ["BertForSequenceClassification"])


def read_facts(run: Path, script: str, needs: Sequence[str]) -> dict[str, Any]:
    """run.json. Raises UserError: it is damaged, or that of a run of another task."""
    facts = files.read_json(run / "run.json")
    settings = facts.get("settings")
    made_by = runs.script_of(settings)
    if made_by not in (script, None):
        raise UserError(f"{run} is a run of {made_by}; use {runs.SCRIPTS[str(made_by)][1]}")
    if not isinstance(settings, dict):
        raise UserError(f"{run} is no run of {script}: its run.json has no settings")
    if missing := [name for name in needs if name not in settings]:
        raise UserError(f"{run} is no run of {script}: its run.json lacks {', '.join(missing)}")
    if settings.get("precision") not in PRECISIONS:
        raise damaged(run, settings)
    return facts


def damaged(run: Path, settings: Any) -> UserError:
    return UserError(f"{run / 'run.json'} is damaged: its settings are {settings}")


def as_scored(model: PreTrainedModel, precision: str) -> torch.autocast:
    """A run's model computes in the precision it was scored with, so that its scores come out
    again, unless the last bits of its products decide (see `products.py`)."""
    return autocast(next(model.parameters()).device, precision)


def check_text(text: str, what: str) -> None:
    """Raises UserError: it is empty, or no Unicode."""
    if not text.strip():
        raise UserError(f"{what} is empty; write it")
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
