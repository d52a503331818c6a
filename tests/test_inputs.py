"""What goes into the model: refused where it makes no sense, and padding that changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from numpy_checkpoint import TINY, random_batch, write_checkpoint
from torch import Tensor

from minibert.model import (
    BertForMaskedLM,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertModel,
)

HEADS = (
    BertForMaskedLM,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
)
V, T_MAX = TINY["vocab_size"], TINY["max_position_embeddings"]
NOISE = 2e-6  # of fp32 sums that are taken in another order
Encode = Callable[..., Tensor]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), TINY)


@pytest.fixture(scope="module")
def encoder(checkpoint: Path) -> BertModel:
    return BertModel.from_pretrained(checkpoint)


@pytest.fixture(params=["fast", "explicit"])
def encode(request: pytest.FixtureRequest, encoder: BertModel) -> Encode:
    """Inputs to last hidden state, through one of the two attentions."""

    @torch.no_grad()
    def run(input_ids: Tensor, mask: Tensor | None = None, types: Tensor | None = None) -> Tensor:
        explicit = request.param == "explicit"
        out = encoder(input_ids, mask, types, output_attentions=explicit)
        assert (out.attentions is not None) == explicit
        return out.last_hidden_state

    return run


def ids(*shape: int) -> Tensor:
    return torch.randint(5, V, shape, generator=torch.Generator().manual_seed(1))


# ---- what is refused ------------------------------------------------------------------------


def test_the_longest_sequence_is_taken_and_one_token_more_is_refused(encode: Encode) -> None:
    assert encode(ids(2, T_MAX)).isfinite().all()
    with pytest.raises(ValueError, match=f"{T_MAX + 1} tokens are too many.*{T_MAX}"):
        encode(ids(2, T_MAX + 1))


@pytest.mark.parametrize("head", HEADS)
def test_every_head_refuses_what_the_encoder_refuses(checkpoint: Path, head: Any) -> None:
    model = head.from_pretrained(checkpoint)
    with pytest.raises(ValueError, match="tokens are too many"):
        model(ids(1, T_MAX + 1))
    with pytest.raises(ValueError, match=f"input_ids has {V}, not within 0 to {V - 1}"):
        model(torch.tensor([[1, V]]))


@pytest.mark.parametrize("bad", [V, V + 1000, -1, -100, 2**40])
def test_an_id_outside_the_vocabulary_is_named(encode: Encode, bad: int) -> None:
    with pytest.raises(ValueError, match=f"input_ids has {bad}, not within 0 to {V - 1}"):
        encode(torch.tensor([[5, 6], [7, bad]]))


@pytest.mark.parametrize("bad", [2, -1])
def test_a_token_type_that_the_model_has_not_is_named(encode: Encode, bad: int) -> None:
    with pytest.raises(ValueError, match=f"token_type_ids has {bad}, not within 0 to 1"):
        encode(ids(1, 2), None, torch.tensor([[0, bad]]))


def test_the_first_and_the_last_id_are_taken(encode: Encode) -> None:
    assert encode(torch.tensor([[0, V - 1]])).isfinite().all()


@pytest.mark.parametrize(
    "input_ids", [torch.tensor([1, 2]), torch.tensor(1), ids(1, 2, 3), ids(0, 4), ids(2, 0)]
)
def test_ids_must_be_a_batch_of_tokens(encode: Encode, input_ids: Tensor) -> None:
    with pytest.raises(ValueError, match=r"input_ids must be \(batch, tokens\), not \("):
        encode(input_ids)


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bool, torch.uint8])
def test_ids_must_be_whole_numbers(encode: Encode, kind: torch.dtype) -> None:
    with pytest.raises(ValueError, match=f"input_ids is {kind}; ids are torch.int64"):
        encode(torch.ones(1, 3, dtype=kind))
    with pytest.raises(ValueError, match=f"token_type_ids is {kind}"):
        encode(ids(1, 3), None, torch.ones(1, 3, dtype=kind))


def test_narrow_whole_numbers_give_the_same(encode: Encode) -> None:
    assert torch.equal(encode(ids(2, 7).int()), encode(ids(2, 7)))


@pytest.mark.parametrize("shape", [(1, 4), (2, 3), (2, 1), (4,), (2, 4, 1), (2, 1, 1, 4)])
def test_mask_and_types_must_have_the_shape_of_the_ids(
    encode: Encode, shape: tuple[int, ...]
) -> None:
    other = torch.ones(shape, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"attention_mask is .*input_ids \(2, 4\)"):
        encode(ids(2, 4), other)
    with pytest.raises(ValueError, match=r"token_type_ids is .*input_ids \(2, 4\)"):
        encode(ids(2, 4), None, other)


@pytest.mark.parametrize("bad", [2, -1, 0.5, -10000.0, float("nan"), float("-inf")])
def test_a_mask_of_anything_but_ones_and_zeros_is_refused(encode: Encode, bad: float) -> None:
    with pytest.raises(ValueError, match="attention_mask must hold 1 for tokens and 0"):
        encode(ids(1, 3), torch.tensor([[1, bad, 1]]))


@pytest.mark.parametrize("kind", [torch.bool, torch.int32, torch.float32, torch.float16])
def test_a_mask_may_be_of_any_type(encode: Encode, kind: torch.dtype) -> None:
    batch = random_batch(TINY, [6, 3])
    mask = batch["attention_mask"]
    assert torch.equal(encode(ids(2, 6), mask), encode(ids(2, 6), mask.to(kind)))


# ---- padding --------------------------------------------------------------------------------


def test_fast_and_explicit_attention_agree(encoder: BertModel) -> None:
    batch = random_batch(TINY, [20, 1, 7, 13])
    batch["attention_mask"][1] = 0
    fast = encoder(**batch, output_hidden_states=True)
    explicit = encoder(**batch, output_hidden_states=True, output_attentions=True)
    for a, b in zip(fast.hidden_states, explicit.hidden_states, strict=True):
        assert (a - b).abs().max() < NOISE
    assert fast.attentions is None and len(explicit.attentions) == TINY["num_hidden_layers"]


def test_attention_probabilities_are_zero_on_padding_and_sum_to_one(encoder: BertModel) -> None:
    batch = random_batch(TINY, [9, 2, 5])
    for probs in encoder(**batch, output_attentions=True).attentions:
        assert probs.shape == (3, TINY["num_attention_heads"], 9, 9)
        assert torch.allclose(probs.sum(dim=3), torch.ones(3, 3, 9))
        hidden = batch["attention_mask"][:, None, None, :] == 0
        assert (probs.masked_select(hidden) == 0).all()


def test_a_text_of_padding_alone_gives_what_it_gives_without_mask(encode: Encode) -> None:
    batch = random_batch(TINY, [12, 12, 5])
    mask = batch["attention_mask"].clone()
    mask[1] = 0
    out = encode(batch["input_ids"], mask, batch["token_type_ids"])
    assert out.isfinite().all()
    alone = encode(batch["input_ids"][1:2], None, batch["token_type_ids"][1:2])
    assert (out[1:2] - alone).abs().max() < NOISE


def test_a_text_of_padding_alone_does_not_touch_the_others(encode: Encode) -> None:
    batch = random_batch(TINY, [12, 4, 5])
    before = encode(**rename(batch))
    batch["attention_mask"][1] = 0
    after = encode(**rename(batch))
    assert (after[[0, 2]] - before[[0, 2]]).abs().max() < NOISE
    assert (after[1, :4] - before[1, :4]).abs().max() > 1e-4  # it did change its own


def test_a_batch_of_padding_alone_is_as_one_without_mask(encode: Encode) -> None:
    out = encode(ids(2, 6), torch.zeros(2, 6))
    assert (out - encode(ids(2, 6))).abs().max() < NOISE


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_no_nan_in_half_precision_either(checkpoint: Path, dtype: torch.dtype) -> None:
    model = BertModel.from_pretrained(checkpoint, dtype=dtype)
    mask = torch.tensor([[0, 0, 0], [1, 1, 0]])
    for explicit in (False, True):
        assert model(ids(2, 3), mask, output_attentions=explicit)[0].isfinite().all()


@pytest.mark.parametrize("explicit", [False, True], ids=["fast", "explicit"])
def test_gradients_of_a_batch_with_a_text_of_padding_alone_are_no_nan(
    checkpoint: Path, explicit: bool
) -> None:
    model = BertModel.from_pretrained(checkpoint)
    mask = torch.tensor([[0, 0, 0], [1, 1, 0]])
    out = model(ids(2, 3), mask, output_attentions=explicit)
    out.last_hidden_state.square().sum().backward()
    gradients = [p.grad for name, p in model.named_parameters() if "pooler" not in name]
    assert all(g.isfinite().all() for g in gradients)
    assert sum(g.abs().sum() for g in gradients) > 0


@pytest.mark.parametrize("head", HEADS)
def test_no_head_makes_nan_of_a_text_of_padding_alone(checkpoint: Path, head: Any) -> None:
    out = head.from_pretrained(checkpoint)(ids(2, 3), torch.tensor([[0, 0, 0], [1, 1, 1]]))
    for logits in [out] if isinstance(out, Tensor) else out:
        assert logits.isfinite().all()


@pytest.mark.parametrize("extra", [1, 7, 13])
def test_padding_changes_nothing_for_the_tokens_before_it(encode: Encode, extra: int) -> None:
    batch = random_batch(TINY, [7])
    alone = encode(**rename(batch))
    for filler in (0, 1, 42):  # whatever stands there
        padded = torch.cat([batch["input_ids"], torch.full((1, extra), filler)], dim=1)
        types = torch.cat([batch["token_type_ids"], torch.ones(1, extra).long()], dim=1)
        mask = (torch.arange(7 + extra) < 7).long()[None]
        assert (encode(padded, mask, types)[:, :7] - alone).abs().max() < NOISE


def test_a_text_is_encoded_the_same_alone_and_in_a_batch(encode: Encode) -> None:
    batch = random_batch(TINY, [20, 3, 11, 1])
    together = encode(**rename(batch))
    for i, n in enumerate([20, 3, 11, 1]):
        alone = encode(
            batch["input_ids"][i : i + 1, :n], None, batch["token_type_ids"][i : i + 1, :n]
        )
        assert (together[i, :n] - alone[0]).abs().max() < NOISE


def test_a_hidden_token_in_the_middle_or_at_the_start_is_seen_by_no_other(encode: Encode) -> None:
    mask = torch.tensor([[0, 1, 1, 0, 1]])
    x = ids(1, 5)
    y = x.clone()
    y[0, [0, 3]] = torch.tensor([11, 12])
    seen = mask[0].bool()
    assert (encode(x, mask)[:, seen] - encode(y, mask)[:, seen]).abs().max() < NOISE
    assert (encode(x)[:, seen] - encode(y)[:, seen]).abs().max() > 1e-4  # without the mask they are


def test_no_mask_is_a_mask_of_ones_and_no_types_are_zeros(encode: Encode) -> None:
    x = ids(2, 6)
    assert torch.equal(encode(x), encode(x, torch.ones(2, 6), torch.zeros(2, 6).long()))
    assert not torch.allclose(encode(x), encode(x, None, torch.ones(2, 6).long()))


def rename(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        "input_ids": batch["input_ids"],
        "mask": batch["attention_mask"],
        "types": batch["token_type_ids"],
    }
