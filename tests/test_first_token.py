"""[CLS] alone in the last layer, where nothing else is read: what it gives in less time is what the
whole layer gives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from numpy_checkpoint import TINY, random_batch, write_checkpoint
from torch import Tensor, nn

from minibert.model import BertForSequenceClassification, BertModel
from minibert.train import autocast

BATCH = random_batch(TINY, [20, 1, 7, 13])
N_LAYERS = TINY["num_hidden_layers"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), TINY)


@pytest.mark.parametrize("output_attentions", [False, True])
def test_it_is_the_first_token_of_the_whole_layer_and_so_are_its_gradients(
    checkpoint: Path, output_attentions: bool
) -> None:
    encoder = BertModel.from_pretrained(checkpoint).double()
    weights = torch.randn(4, TINY["hidden_size"], generator=torch.Generator().manual_seed(0))
    found = []
    for alone in (True, False):
        encoder.zero_grad()
        out = encoder(**BATCH, output_attentions=output_attentions, first_token_only=alone)
        (out.pooler_output * weights).sum().backward()
        grads = [p.grad for p in encoder.parameters()]
        found.append([out.pooler_output, out.last_hidden_state[:, :1], *grads])
    for one, whole in zip(*found, strict=True):
        torch.testing.assert_close(one, whole, atol=1e-12, rtol=0)


def test_of_the_last_layer_alone_one_token_is_left(checkpoint: Path) -> None:
    encoder = BertModel.from_pretrained(checkpoint)
    B, T = BATCH["input_ids"].shape
    H = TINY["num_attention_heads"]
    asked = {"output_hidden_states": True, "output_attentions": True}
    whole, alone = (encoder(**BATCH, **asked, first_token_only=x) for x in (False, True))
    assert [x.size(1) for x in alone.hidden_states] == [*N_LAYERS * [T], 1]
    assert [x.shape for x in alone.attentions] == [*(N_LAYERS - 1) * [(B, H, T, T)], (B, H, 1, T)]
    for one, other in zip(alone.hidden_states[:-1], whole.hidden_states[:-1], strict=True):
        assert torch.equal(one, other)
    torch.testing.assert_close(alone.attentions[-1], whole.attentions[-1][:, :, :1])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("trains", [True, False])
def test_a_classifier_computes_no_more_and_says_the_same(
    checkpoint: Path, precision: str, trains: bool
) -> None:
    torch.manual_seed(0)
    model = BertForSequenceClassification.from_pretrained(checkpoint)
    tokens: list[int] = []

    def note(_: nn.Module, given: tuple[Tensor]) -> None:
        tokens.append(given[0].size(1))

    for layer in model.bert.layers:
        layer.feed_forward.register_forward_pre_hook(note)  # type: ignore[operator, union-attr]
    with autocast(torch.device("cpu"), precision), torch.set_grad_enabled(trains):
        logits = model(**BATCH)
        pooled = model.bert(**BATCH).pooler_output  # the plain form
        expected = model.classifier(pooled)
    T = BATCH["input_ids"].size(1)
    assert tokens == [*(N_LAYERS - 1) * [T], 1, *N_LAYERS * [T]]
    within = 1e-6 if precision == "fp32" else 2e-2
    torch.testing.assert_close(logits, expected, atol=within, rtol=0)
