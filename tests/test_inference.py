"""A model over many texts: what it makes of each, whatever they are padded to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from test_batches import small_model, text
from torch import nn

from minibert import attention, inference
from minibert.inference import Floats, outputs
from minibert.model import SpanLogits
from minibert.train import autocast

CPU = torch.device("cpu")


def starts(logits: SpanLogits, lengths: Sequence[int]) -> list[Floats]:
    return [x[:n].float().numpy() for x, n in zip(logits.start_logits, lengths, strict=True)]


@contextmanager
def watched(model: nn.Module, shapes: list[tuple[int, ...]]) -> Iterator[None]:
    """Notes the shape of each batch that a model is given."""

    def note(_: Any, given: Any, named: dict[str, torch.Tensor]) -> None:
        shapes.append(tuple(named["input_ids"].shape))

    watch = model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield
    finally:
        watch.remove()


@pytest.mark.parametrize(
    ("precision", "limit", "batch_size", "seen"),
    [
        # not 48, for which there are no positions, and not 48 for 38, which would be too many
        ("bf16", 45, 1, [(1, 45), (1, 38), (1, 37), (1, 32)]),
        ("bf16", 45, 2, [(2, 45), (2, 40)]),
        ("bf16", None, 2, [(2, 43), (2, 37)]),
        ("fp32", 45, 2, [(2, 43), (2, 37)]),
    ],
)
def test_long_texts_are_padded_to_multiples_of_16_or_8_in_16_bits(
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    limit: int | None,
    batch_size: int,
    seen: list[tuple[int, int]],
) -> None:
    monkeypatch.setattr(attention, "has_unit", lambda name: False)
    model = small_model(positions=45)
    drawn = np.random.default_rng(0)
    rows = [text(*drawn.integers(5, 50, n).tolist()) for n in (30, 43, 38, 37)]
    shapes: list[tuple[int, ...]] = []
    with autocast(CPU, precision), watched(model, shapes):
        found = outputs(model, rows, 0, starts, batch_size=batch_size, doing="", limit=limit)
    assert shapes == seen
    exact = [
        model(
            torch.tensor(row.input_ids)[None].long(),
            token_type_ids=torch.tensor(row.token_type_ids)[None].long(),
        ).start_logits[0]
        for row in rows
    ]
    within = 2e-2 if precision == "bf16" else 1e-6
    for one, other in zip(found, exact, strict=True):
        np.testing.assert_allclose(one, other.detach().numpy(), atol=within)


def test_on_a_cpu_a_batch_has_no_more_tokens_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the number of texts that it may have; and each text's output is its own."""
    monkeypatch.setattr(inference, "CACHED_TOKENS", 40)
    model = small_model(positions=45)
    rows = [text(*range(5, 5 + n)) for n in (9, 43, 10, 20, 9, 19, 10, 10)]
    found = {}
    shapes: list[tuple[int, ...]] = []
    with watched(model, shapes):
        for size in (1, 100):
            found[size] = outputs(model, rows, 0, starts, batch_size=size, doing="")
    assert shapes[len(rows) :] == [(1, 43), (2, 20), (4, 10), (1, 9)]
    for one, other in zip(found[1], found[100], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize(("batch_size", "disable"), [(2, None), (32, True)])
def test_a_few_texts_have_no_bar_however_many_batches_they_are(
    monkeypatch: pytest.MonkeyPatch, batch_size: int, disable: bool | None
) -> None:
    """The windows of one question about a long text; None leaves it to the terminal."""
    monkeypatch.setattr(inference, "CACHED_TOKENS", 40)
    bars: list[tuple[int, bool | None]] = []

    def noted(batches: list[Any], *, disable: bool | None, **_: Any) -> list[Any]:
        bars.append((len(batches), disable))
        return batches

    monkeypatch.setattr(inference, "tqdm", noted)
    rows = [text(*range(5, 35)) for _ in range(6)]
    outputs(small_model(positions=45), rows, 0, starts, batch_size=batch_size, doing="")
    assert bars == [(6, disable)]
