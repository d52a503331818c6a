"""A model over many texts: what it makes of each, whatever they are padded to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from minibert import attention
from minibert.config import BertConfig
from minibert.inference import Floats, outputs
from minibert.model import BertForQuestionAnswering, SpanLogits
from minibert.train import autocast

CPU = torch.device("cpu")


class Text(NamedTuple):
    input_ids: NDArray[np.int32]
    token_type_ids: NDArray[np.int32]


def texts(lengths: Sequence[int]) -> list[Text]:
    drawn = np.random.default_rng(0)
    return [
        Text(drawn.integers(5, 50, n, dtype=np.int32), np.zeros(n, dtype=np.int32)) for n in lengths
    ]


class Watched(BertForQuestionAnswering):
    """Notes how long its batches are."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(
            BertConfig(
                vocab_size=50,
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=64,
                max_position_embeddings=45,
            )
        )
        self.seen: list[int] = []

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> SpanLogits:
        self.seen.append(input_ids.size(1))
        return super().forward(input_ids, attention_mask, token_type_ids)


def starts(logits: SpanLogits, lengths: Sequence[int]) -> list[Floats]:
    return [x[:n].float().numpy() for x, n in zip(logits.start_logits, lengths, strict=True)]


@pytest.mark.parametrize(
    ("precision", "limit", "has", "seen"),
    [
        ("bf16", 45, "amx_bf16", [45, 32, 5]),  # 48 would be more than there are positions for
        ("bf16", None, "amx_bf16", [43, 30, 5]),
        ("bf16", 45, "avx512_bf16", [43, 30, 5]),
        ("fp32", 45, "amx_bf16", [43, 30, 5]),
    ],
)
def test_long_texts_are_padded_to_whole_vectors_where_amx_gains_by_it(
    monkeypatch: pytest.MonkeyPatch, precision: str, limit: int | None, has: str, seen: list[int]
) -> None:
    monkeypatch.setattr(attention, "has_unit", lambda name: name == has)
    model, rows = Watched().eval(), texts([30, 43, 5])
    with autocast(CPU, precision):
        found = outputs(model, rows, 0, starts, batch_size=1, doing="", limit=limit)
    assert model.seen == seen
    exact = [model(torch.tensor(row.input_ids)[None].long()).start_logits[0] for row in rows]
    within = 2e-2 if precision == "bf16" else 1e-6
    for one, other in zip(found, exact, strict=True):
        np.testing.assert_allclose(one, other.detach().numpy(), atol=within)
