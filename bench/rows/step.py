"""One training step, forward and backward: its time and its memory, beside transformers."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import minibert.dropout
import minibert.model
from minibert.memory import keep_freed_memory
from minibert.model import BertForQuestionAnswering, explicit_attention
from minibert.train import autocast
from rows import material
from rows.row import Check, Figures, Row, Side, Work, apart, needs, peak_mb, timed

CPU = torch.device("cpu")


class Shape(NamedTuple):
    """Of the batch, and how often the step is counted in one process."""

    batch: int
    length: int
    counted: int
    is_small: bool = False  # the small model, not bert-base's shape

    def of(self, work: Work) -> Shape:
        return Shape(2, 8 + self.length // 16, 1, self.is_small) if work.quick else self


def measure(shape: Shape, work: Work, side: str) -> Figures:
    """The median time of a step of one side; and by how much its memory grew."""
    shape = shape.of(work)
    model = model_of(checkpoint_of(shape, work), side)
    if side == "compiled":
        model.compile()
    batch, places = batch_of(shape, model)
    before = peak_mb()
    figures = timed(lambda: step(model, batch, places, work.precision), shape.counted)
    return figures | {"grown_mb": peak_mb() - before}


def step(model: nn.Module, batch: dict[str, Tensor], places: Tensor, precision: str) -> Tensor:
    """The loss; the gradients are made, and let go with the next step."""
    model.zero_grad()
    with autocast(CPU, precision):
        loss = span_loss(model(**batch), places)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach()


def span_loss(out: Any, places: Tensor) -> Tensor:
    start = F.cross_entropy(out.start_logits, places[0])
    return (start + F.cross_entropy(out.end_logits, places[1])) / 2


def checkpoint_of(shape: Shape, work: Work) -> Path:
    return material.small(work) if shape.is_small else material.base(work)


def batch_of(shape: Shape, model: nn.Module) -> tuple[dict[str, Tensor], Tensor]:
    """Texts with some padding, as nearly all batches have it; and where the answers are, (2, B)."""
    vocab_size: int = model.config.vocab_size  # type: ignore[union-attr, assignment]
    batch = material.token_ids(shape.batch, shape.length, vocab_size, padded=1)
    generator = torch.Generator().manual_seed(1)
    return batch, torch.randint(shape.length - 1, (2, shape.batch), generator=generator)


def model_of(checkpoint: Path, side: str) -> nn.Module:
    """A model in training as one side has it; the parts that "stored", "memory" and "plain" take
    away stay away for the rest of the process."""
    torch.manual_seed(0)  # of a head that the checkpoint lacks, and of the masks
    if side in ("sdpa", "eager", "compiled"):
        from transformers import AutoModelForQuestionAnswering

        attention = "eager" if side == "eager" else "sdpa"
        model: nn.Module = AutoModelForQuestionAnswering.from_pretrained(
            checkpoint, attn_implementation=attention
        )
        return model.train()
    logging.getLogger("minibert").setLevel(logging.ERROR)
    if side in ("ours", "stored"):
        keep_freed_memory()
    # What SelfAttention calls, put back to the formula or to the kernel.
    if side == "stored":
        minibert.model.fast_attention = lambda *args: explicit_attention(*args)[0]  # type: ignore[attr-defined]
    if side == "plain":
        minibert.dropout.dropout = lambda x, rate: F.dropout(x, rate)
        minibert.model.fast_attention = F.scaled_dot_product_attention  # type: ignore[attr-defined, assignment]
    return BertForQuestionAnswering.from_pretrained(checkpoint).train()


def check(shape: Shape, work: Work) -> list[Check]:
    """The loss and all gradients of one step without dropout, by each form of the peer, for the
    first two texts alone: a text's gradient does not depend on how many others there are."""
    shape = shape.of(work)._replace(batch=2)
    checkpoint = material.without_dropout(checkpoint_of(shape, work), work)
    found = {side: loss_and_gradients(checkpoint, shape, side, work) for side in ("ours", *THEIRS)}
    ours = found.pop("ours")
    checks = []
    for side, theirs in found.items():
        checks.append(apart(f"loss, {side}", ours[:1], theirs[:1], work.precision))
        checks.append(apart(f"gradients, {side}", ours[1:], theirs[1:], work.precision))
    return checks


def loss_and_gradients(checkpoint: Path, shape: Shape, side: str, work: Work) -> list[Tensor]:
    """In the order of transformers' parameters, which is ours."""
    model = model_of(checkpoint, side)
    loss = step(model, *batch_of(shape, model), work.precision)
    return [loss, *(x.grad for x in model.parameters() if x.grad is not None)]


THEIRS = {
    "sdpa": Side("transformers, attention sdpa (its default)"),
    "eager": Side("transformers, attention eager"),
}
STORED = {"stored": Side("ours, attention as autograd keeps it", "beside")}
COMPILED = {"compiled": Side("transformers, sdpa, torch.compile", compiles=True)}
OURS = Side("minibert, as train_qa.py runs it", "ours")
BASE = Shape(8, 512, counted=2)
MINILM = Shape(16, 300, counted=2, is_small=True)
ROWS = [
    Row(
        name="step",
        what="one training step, bert-base shape, 8 x 512, dropout 0.1",
        sides={"ours": OURS, **THEIRS, **COMPILED},
        measure=partial(measure, BASE),
        check=partial(check, BASE),
        target=1.2,
        turns=3,
        lacks=needs("transformers"),
        settings=BASE._asdict(),
    ),
    Row(
        name="memory",
        what="peak memory of that step",
        sides={"ours": OURS, **THEIRS, **COMPILED, **STORED},
        measure=partial(measure, BASE._replace(counted=1)),
        check=partial(check, BASE),
        target=1.25,  # ours at most 0.8 of theirs
        figure="peak_mb",
        turns=1,
        lacks=needs("transformers"),
        settings=BASE._asdict(),
    ),
    Row(
        name="step-minilm",
        what="one training step, all-MiniLM-L6-v2, 16 x 300, and what parts of ours are worth",
        sides={
            "ours": OURS,
            **THEIRS,
            **STORED,
            "memory": Side("ours, memory given back to the system", "beside"),
            "plain": Side("… and torch's own dropout and attention kernel", "beside"),
        },
        measure=partial(measure, MINILM),
        check=partial(check, MINILM),
        left_out="torch.compile: see the row step",
        lacks=needs("transformers"),
        settings=MINILM._asdict(),
    ),
]
