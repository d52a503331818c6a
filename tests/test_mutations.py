"""Every parity test can fail: a fault put into the model must break it.

Each mutation is a fault that a person could make, in one place. It must be seen by the stored
references (with torch alone), and where it sits in one layer, that layer must be the first to show.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import measure
import pytest
import stored
import torch
import torch.nn.functional as F
from parity_cases import CLASSIFICATION, QA, Case, forward, load_minibert
from torch import Tensor, nn

import minibert.model
from minibert.weights import PreTrainedModel

pytestmark = pytest.mark.usefixtures("quiet")
Mutation = Callable[[Any], None]  # changes a loaded model; parts that it lacks are left alone


def mutate(monkeypatch: pytest.MonkeyPatch, mutation: Mutation) -> None:
    """Every model loaded from here on has the fault."""
    original = PreTrainedModel.from_pretrained.__func__

    def from_pretrained(cls: type[PreTrainedModel], *args: Any, **kwargs: Any) -> PreTrainedModel:
        model = original(cls, *args, **kwargs)
        with torch.no_grad():
            mutation(model)
        return model

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", classmethod(from_pretrained))


def broken(case: Case, name: str = "small") -> list[str]:
    """What no longer agrees with the stored reference, in the order in which it is computed."""
    reference, facts = stored.load(name)
    measures = measure.forward(case, reference, facts["eager-sdpa"])
    return [m.what for m in measures if not m.holds]


def encoder(model: Any) -> Any:
    return getattr(model, "bert", model)


def layer(model: Any) -> Any:
    return encoder(model).layers[1]


def swap(a: Tensor, b: Tensor) -> None:
    a_before = a.clone()
    a.copy_(b)
    b.copy_(a_before)


def for_each(kind: type[nn.Module], change: Callable[[Any], None]) -> Mutation:
    return lambda model: [change(m) for m in model.modules() if isinstance(m, kind)]


def swap_query_and_key_bias(model: Any) -> None:
    swap(layer(model).attention.query.bias, layer(model).attention.key.bias)


def swap_norms(model: Any) -> None:
    swap(layer(model).attention_norm.bias, layer(model).feed_forward_norm.bias)


def transpose_attention_output(model: Any) -> None:
    weight = layer(model).attention.output.weight
    weight.copy_(weight.T.clone())


def drop_value_bias(model: Any) -> None:
    layer(model).attention.value.bias.zero_()


def approximate_gelu(model: Any) -> None:
    layer(model).feed_forward.activation = lambda x: F.gelu(x, approximate="tanh")


def norm_before_the_sum(model: Any) -> None:
    norm = layer(model).attention_norm
    output = layer(model).attention.output
    layer(model).attention_norm = nn.Identity()
    layer(model).attention.output = nn.Sequential(output, norm)


IN_LAYER_2 = [
    swap_query_and_key_bias,
    swap_norms,
    transpose_attention_output,
    drop_value_bias,
    approximate_gelu,
    norm_before_the_sum,
]


@pytest.mark.parametrize("mutation", IN_LAYER_2, ids=lambda f: f.__name__)
def test_a_fault_in_layer_2_is_seen_first_in_layer_2(
    small: Case, monkeypatch: pytest.MonkeyPatch, mutation: Mutation
) -> None:
    mutate(monkeypatch, mutation)
    seen = broken(small)
    for path in ("fast", "explicit"):
        assert next(what for what in seen if what.startswith(path)) == f"{path} hidden_states.2"
    if mutation is swap_query_and_key_bias:
        assert "explicit attentions.2" in seen


def eps_of_1e_5(model: Any) -> None:
    for_each(nn.LayerNorm, lambda norm: setattr(norm, "eps", 1e-5))(model)


def ignore_token_types(model: Any) -> None:
    table = encoder(model).embeddings.token_type_embeddings.weight
    table.copy_(table[:1].expand_as(table).clone())


def count_positions_from_1(model: Any) -> None:
    table = encoder(model).embeddings.position_embeddings.weight
    table.copy_(table.roll(-1, dims=0))


def swap_start_and_end(model: Any) -> None:
    if hasattr(model, "qa_outputs"):
        model.qa_outputs.weight.copy_(model.qa_outputs.weight.flip(0))
        model.qa_outputs.bias.copy_(model.qa_outputs.bias.flip(0))


def swap_classes(model: Any) -> None:
    if hasattr(model, "classifier"):
        model.classifier.bias.copy_(model.classifier.bias.flip(0))


def swap_next_sentence_classes(model: Any) -> None:
    if hasattr(model, "nsp"):
        model.nsp.bias.copy_(model.nsp.bias.flip(0))


def drop_decoder_bias(model: Any) -> None:
    if hasattr(model, "mlm"):
        model.mlm.decoder.bias.zero_()


def drop_mlm_norm(model: Any) -> None:
    if hasattr(model, "mlm"):
        model.mlm.layer_norm = nn.Identity()


def pool_without_tanh(model: Any) -> None:
    pooler = encoder(model).pooler
    if pooler is not None:
        pooler.forward = lambda x: pooler.dense(x[:, 0])


def pool_the_last_token(model: Any) -> None:
    pooler = encoder(model).pooler
    if pooler is not None:
        pooler.forward = lambda x: torch.tanh(pooler.dense(x[:, -1]))


@pytest.mark.parametrize(
    ("mutation", "first"),
    [
        (eps_of_1e_5, "hidden_states.0"),
        (ignore_token_types, "hidden_states.0"),
        (count_positions_from_1, "hidden_states.0"),
        (pool_without_tanh, "pooler_output"),
        (pool_the_last_token, "pooler_output"),
        (swap_start_and_end, "BertForQuestionAnswering.start_logits"),
        (swap_classes, "BertForSequenceClassification.logits"),
        (drop_decoder_bias, "BertForMaskedLM.logits"),
        (drop_mlm_norm, "BertForMaskedLM.logits"),
        (swap_next_sentence_classes, "BertForPreTraining.seq_relationship_logits"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
@pytest.mark.parametrize("case", ["small"], indirect=True)
def test_a_fault_elsewhere_is_seen_first_where_it_is(
    case: Case, monkeypatch: pytest.MonkeyPatch, mutation: Mutation, first: str
) -> None:
    mutate(monkeypatch, mutation)
    assert broken(case)[0] == f"fast {first}"


def hide_one_token_too_many(mask: Tensor | None) -> Tensor | None:
    assert mask is not None
    visible = (mask.roll(-1, dims=1) == 1) & (torch.arange(mask.size(1)) < mask.size(1) - 1)
    return visible[:, None, None, :]


def show_one_token_of_padding(mask: Tensor | None) -> Tensor | None:
    assert mask is not None
    return ((mask == 1) | (mask.roll(1, dims=1) == 1))[:, None, None, :]


def show_everything(mask: Tensor | None) -> Tensor | None:
    return None


@pytest.mark.parametrize(
    "mask", [hide_one_token_too_many, show_one_token_of_padding, show_everything]
)
def test_a_mask_that_is_off_by_one_or_forgotten_is_seen_in_the_first_layer(
    small: Case, monkeypatch: pytest.MonkeyPatch, mask: Callable[[Tensor | None], Tensor | None]
) -> None:
    monkeypatch.setattr(minibert.model, "visible_tokens", mask)
    seen = broken(small)
    for path in ("fast", "explicit"):
        assert next(what for what in seen if what.startswith(path)) == f"{path} hidden_states.1"


def test_scores_divided_by_the_root_of_the_hidden_size_are_seen(
    small: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    explicit, fast = minibert.model.explicit_attention, F.scaled_dot_product_attention
    scale = 4**-0.5  # H = 4: sqrt(C) is twice sqrt(D)
    monkeypatch.setattr(
        minibert.model, "explicit_attention", lambda q, *rest: explicit(q * scale, *rest)
    )
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda q, *rest: fast(q * scale, *rest))
    seen = broken(small)
    assert seen[0] == "fast hidden_states.1"
    assert "explicit attentions.1" in seen


def let_gradients_into_the_padding_embedding(model: Any) -> None:
    encoder(model).embeddings.word_embeddings.padding_idx = None


def cut_the_residual_path(model: Any) -> None:
    feed_forward_norm = layer(model).feed_forward_norm
    feed_forward = layer(model).feed_forward

    def forward(x: Tensor) -> Tensor:  # the same value, without the gradient through the sum
        return feed_forward.output(feed_forward.activation(feed_forward.intermediate(x))) - (
            x - x.detach()
        )

    assert feed_forward_norm is not None
    feed_forward.forward = forward


HEADS = pytest.mark.parametrize("head", [QA, CLASSIFICATION])


@pytest.mark.parametrize(
    ("mutation", "head"),
    [
        # Only QA's loss reaches padding: [CLS] never looks at it.
        (let_gradients_into_the_padding_embedding, QA),
        (cut_the_residual_path, QA),
        (cut_the_residual_path, CLASSIFICATION),
        (approximate_gelu, QA),
        (approximate_gelu, CLASSIFICATION),
        (eps_of_1e_5, QA),
        (eps_of_1e_5, CLASSIFICATION),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_fault_in_the_gradient_is_seen(
    small: Case, monkeypatch: pytest.MonkeyPatch, mutation: Mutation, head: str
) -> None:
    mutate(monkeypatch, mutation)
    reference = measure.stored_gradients(stored.load("small")[0], head)
    assert not all(m.holds for m in measure.gradients(small, head, reference))


@HEADS
@pytest.mark.parametrize(
    "mutation",
    [cut_the_residual_path, drop_value_bias, nn.Module.train],
    ids=lambda f: f.__name__,
)
def test_a_fault_in_training_is_seen_in_the_losses(
    small: Case, monkeypatch: pytest.MonkeyPatch, mutation: Mutation, head: str
) -> None:
    mutate(monkeypatch, mutation)
    reference, _ = stored.load("small")
    assert not measure.losses(small, head, reference[f"losses.{head}"]).holds


def test_a_fault_in_the_real_weights_is_seen(minilm: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch, drop_value_bias)
    assert broken(minilm, "minilm")[0] == "fast hidden_states.2"
    reference, _ = stored.load("minilm")
    gradients = measure.gradients(minilm, QA, measure.stored_gradients(reference, QA))
    assert not all(m.holds for m in gradients)
    assert not measure.losses(minilm, QA, reference[f"losses.{QA}"]).holds


def test_a_fault_at_full_size_is_seen(chinese: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch, swap_query_and_key_bias)
    assert broken(chinese, "chinese")[0] == "fast hidden_states.2"


# ---- what samples alone would not see ---------------------------------------------------------


def between_the_samples(reference: stored.Sampled) -> torch.Tensor:
    """Which places of a flattened tensor hold no sample."""
    unseen = torch.ones(reference.size, dtype=torch.bool)
    unseen[reference.places] = False
    return unseen


def test_signs_flipped_between_the_samples_are_seen(small: Case) -> None:
    expected = stored.load("small")[0]["hidden_states.3"]
    tensor = forward(small, load_minibert)["hidden_states.3"].flatten()
    assert expected.projected_difference(tensor) < 1e-5
    flipped = torch.where(between_the_samples(expected), -tensor, tensor)
    assert expected.difference(flipped) < 1e-5
    assert expected.projected_difference(flipped) > 1e-2


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_one_value_that_is_no_number_is_seen_between_the_samples(small: Case, value: float) -> None:
    expected = stored.load("small")[0]["hidden_states.3"]
    tensor = forward(small, load_minibert)["hidden_states.3"].flatten().clone()
    tensor[between_the_samples(expected).nonzero()[0]] = value
    assert expected.projected_difference(tensor) == float("inf")


def test_zero_gradients_that_are_not_zero_are_seen(
    small: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    def key_bias_in_the_query(model: Any) -> None:  # the same values, but a gradient
        attention = layer(model).attention
        bias = attention.key.bias
        attention.query.register_forward_hook(lambda _m, _x, out: out + 9 * (bias - bias.detach()))

    mutate(monkeypatch, key_bias_in_the_query)
    reference = measure.stored_gradients(stored.load("small")[0], QA)
    seen = {m.what for m in measure.gradients(small, QA, reference) if not m.holds}
    assert "zero gradient encoder.layer.1.attention.self.key.bias" in seen


def test_bf16_measure_sees_a_model_that_computes_worse_than_bf16(
    small: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = minibert.model.fast_attention

    def worse_in_bf16(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> Tensor:
        out = fast(q, k, v, *rest)
        coarse = (out * 4).round() / 4  # two bits behind the point
        return coarse if torch.is_autocast_enabled("cpu") else out

    assert all(m.holds for m in measure.bf16(small, QA, 0.02))
    monkeypatch.setattr(minibert.model, "fast_attention", worse_in_bf16)
    assert not all(m.holds for m in measure.bf16(small, QA, 0.02))
