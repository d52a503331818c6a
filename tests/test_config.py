"""config.json: every field that changes the result is honoured, every other such field refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy_bert
import pytest
import torch
from numpy_checkpoint import TINY, numpy_tensors, random_batch, write_checkpoint
from torch import nn

from minibert.config import BertConfig
from minibert.errors import UserError
from minibert.model import (
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertModel,
)

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def write_config(directory: Path, text: str | bytes) -> Path:
    data = text if isinstance(text, bytes) else text.encode()
    (directory / "config.json").write_bytes(data)
    return directory


# ---- fields that change the maths -----------------------------------------------------------


@pytest.mark.parametrize(
    "changed",
    [
        {},
        *({"hidden_act": act} for act in numpy_bert.ACTIVATIONS),
        {"layer_norm_eps": 0.3},
        {"layer_norm_eps": 1},
        {"type_vocab_size": 1},
        {"type_vocab_size": 5},
        {"num_attention_heads": 1},
        {"num_attention_heads": 8},
        {"num_hidden_layers": 1},
        {"max_position_embeddings": 13},
        {"intermediate_size": 7},
        {"hidden_size": 36, "vocab_size": 51},
    ],
    ids=str,
)
def test_the_output_is_that_of_the_formulas_with_this_field(
    tmp_path: Path, changed: dict[str, Any]
) -> None:
    config = TINY | changed
    tensors = numpy_tensors(config)
    batch = random_batch(config, [13, 5, 9])
    types = batch["token_type_ids"] * (config["type_vocab_size"] - 1)
    batch["token_type_ids"] = types
    ids, mask = batch["input_ids"].numpy(), batch["attention_mask"].numpy()
    expected = numpy_bert.encode(config, tensors, ids, mask, types.numpy())

    write_checkpoint(tmp_path, config, tensors)
    encoder = BertModel.from_pretrained(tmp_path)
    with torch.no_grad():
        last = encoder(**batch).last_hidden_state.numpy()
        logits = BertForMaskedLM.from_pretrained(tmp_path)(**batch).numpy()
    real = mask.astype(bool)
    np.testing.assert_allclose(last[real], expected[real], rtol=0, atol=3e-6)
    expected = numpy_bert.masked_lm(config, tensors, expected)
    np.testing.assert_allclose(logits[real], expected[real], rtol=0, atol=3e-6)


def test_every_activation_gives_another_output(tmp_path: Path) -> None:
    batch = random_batch(TINY, [9])
    outputs = []
    for act in numpy_bert.ACTIVATIONS:
        write_checkpoint(tmp_path / act, TINY | {"hidden_act": act})
        outputs.append(BertModel.from_pretrained(tmp_path / act)(**batch).last_hidden_state)
    for i, a in enumerate(outputs):
        assert all((a - b).abs().max() > 1e-5 for b in outputs[:i])


@pytest.mark.parametrize("heads", [1, 3, 8])
@pytest.mark.parametrize("explicit", [False, True], ids=["fast", "explicit"])
def test_attention_dropout_hides_whole_heads_of_single_tokens_at_its_rate(
    tmp_path: Path, heads: int, explicit: bool
) -> None:
    """One token has one probability in each head, 1: it is dropped or divided by 1 - p."""
    rate, B = 0.3, 4000 // heads
    change = {"attention_probs_dropout_prob": rate, "num_attention_heads": heads}
    write_checkpoint(tmp_path, TINY | change)
    attention = BertModel.from_pretrained(tmp_path).layers[0].attention.train()
    C = TINY["hidden_size"]
    nn.init.eye_(attention.output.weight)
    nn.init.zeros_(attention.output.bias)
    torch.manual_seed(0)
    x = torch.randn(B, 1, C)
    context = attention(x, x, None, explicit)[0].view(B, heads, C // heads)
    value = attention.value(x).view(B, heads, C // heads)
    dropped = (context == 0).all(dim=2)
    assert torch.allclose(context[~dropped], value[~dropped] / (1 - rate), atol=1e-6)
    deviation = (rate * (1 - rate) / dropped.numel()) ** 0.5
    assert abs(dropped.float().mean() - rate) < 4 * deviation


def test_hidden_dropout_is_on_the_embeddings_and_after_both_sublayers(tmp_path: Path) -> None:
    rate = 0.25
    changes = {"hidden_dropout_prob": rate, "attention_probs_dropout_prob": 0.0}
    write_checkpoint(tmp_path, TINY | changes)
    encoder = BertModel.from_pretrained(tmp_path)
    batch = random_batch(TINY, [20] * 40)
    clean = encoder(**batch, output_hidden_states=True).hidden_states[0]
    torch.manual_seed(0)
    noisy = encoder.train()(**batch, output_hidden_states=True).hidden_states[0]
    dropped = noisy == 0
    assert torch.allclose(noisy[~dropped], clean[~dropped] / (1 - rate), atol=1e-5)
    assert abs(dropped.float().mean() - rate) < 4 * (rate * (1 - rate) / dropped.numel()) ** 0.5

    # Both sub-layers give ones, and nothing else reaches the norms: they see 0 or 1 / (1 - p).
    layer = encoder.layers[0]
    for linear in (layer.attention.output, layer.feed_forward.output):
        nn.init.zeros_(linear.weight)
        nn.init.ones_(linear.bias)
    nn.init.zeros_(layer.attention_norm.weight)
    nn.init.zeros_(layer.attention_norm.bias)
    inputs: list[torch.Tensor] = []
    for norm in (layer.attention_norm, layer.feed_forward_norm):
        norm.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    zeros = torch.zeros(40, 20, TINY["hidden_size"])
    layer(zeros, zeros, None, False)
    assert len(inputs) == 2
    for seen in inputs:
        assert torch.allclose(seen[seen != 0], torch.tensor(1 / (1 - rate)))
        share = (seen == 0).float().mean()
        assert abs(share - rate) < 4 * (rate * (1 - rate) / seen.numel()) ** 0.5


@pytest.mark.parametrize(
    ("hidden", "classifier", "rate"),
    [(0.0, 0.4, 0.4), (0.4, 0.0, 0.0), (0.4, None, 0.4), (0.0, None, 0.0)],
)
def test_classifier_dropout_is_its_own_rate_or_the_hidden_one(
    tmp_path: Path, hidden: float, classifier: float | None, rate: float
) -> None:
    """With as many classes as C and the identity as weight, the logits are what was dropped."""
    C = TINY["hidden_size"]
    labels = {str(i): f"class {i}" for i in range(C)}
    rates = {"hidden_dropout_prob": hidden, "classifier_dropout": classifier, "id2label": labels}
    tensors = numpy_tensors(TINY)
    tensors["classifier.weight"] = np.eye(C, dtype=np.float32)
    tensors["classifier.bias"] = np.zeros(C, dtype=np.float32)
    write_checkpoint(tmp_path, TINY | rates, tensors)
    model = BertForSequenceClassification.from_pretrained(tmp_path).train()
    torch.manual_seed(0)
    with torch.no_grad():
        zeros = model(**random_batch(TINY, [7] * 100)) == 0
    assert abs(zeros.float().mean() - rate) <= 4 * (rate * (1 - rate) / zeros.numel()) ** 0.5


@pytest.mark.parametrize(
    "head",
    [BertModel, BertForMaskedLM, BertForQuestionAnswering, BertForSequenceClassification],
)
def test_with_all_rates_at_zero_training_mode_changes_nothing(tmp_path: Path, head: Any) -> None:
    write_checkpoint(tmp_path, TINY | NO_DROPOUT)
    model, batch = head.from_pretrained(tmp_path), random_batch(TINY, [9, 4])
    evaluated, trained = model(**batch), model.train()(**batch)
    first = lambda out: out if isinstance(out, torch.Tensor) else out[0]  # noqa: E731
    assert torch.equal(first(evaluated), first(trained))
    assert first(trained).requires_grad


@pytest.mark.parametrize("pad", [0, 3, None])
def test_the_embedding_of_pad_token_id_gets_no_gradient(tmp_path: Path, pad: int | None) -> None:
    write_checkpoint(tmp_path, TINY | {"pad_token_id": pad})
    encoder = BertModel.from_pretrained(tmp_path)
    encoder(torch.tensor([[0, 3, 5, 7]])).last_hidden_state.square().sum().backward()
    rows = encoder.embeddings.word_embeddings.weight.grad.abs().sum(dim=1)
    assert {i for i in (0, 3, 5, 7) if rows[i] == 0} == ({pad} - {None})


@pytest.mark.parametrize("std", [0.02, 0.2])
def test_initializer_range_is_the_scale_of_what_is_drawn_anew(tmp_path: Path, std: float) -> None:
    tensors = {k: v for k, v in numpy_tensors(TINY).items() if not k.startswith("bert.pooler")}
    write_checkpoint(tmp_path, TINY | {"initializer_range": std}, tensors)
    torch.manual_seed(0)
    weight = BertModel.from_pretrained(tmp_path).pooler.dense.weight
    assert 1.9 * std < weight.abs().max() <= 2 * std


# ---- what is in a config.json ---------------------------------------------------------------


def test_the_real_bert_base_chinese_is_read_though_it_has_no_model_type(shared: Path) -> None:
    directory = shared / "bert-base-chinese"
    assert "model_type" not in json.loads((directory / "config.json").read_text())
    config = BertConfig.from_pretrained(directory)
    assert (config.vocab_size, config.hidden_size, config.num_hidden_layers) == (21128, 768, 12)
    assert config.layer_norm_eps == 1e-12  # the file says nothing
    assert config.to_dict()["directionality"] == "bidi"  # not ours, but not lost


def test_the_real_bert_base_cased_is_read(shared: Path) -> None:
    config = BertConfig.from_pretrained(shared / "bert-base-cased")
    assert (config.vocab_size, config.hidden_act, config.pad_token_id) == (28996, "gelu", 0)


def test_what_a_file_leaves_out_is_as_in_bert_base_uncased(tmp_path: Path) -> None:
    assert BertConfig.from_pretrained(write_config(tmp_path, "{}")) == BertConfig()


@pytest.mark.reference
def test_the_defaults_are_those_of_transformers() -> None:
    peer = pytest.importorskip("transformers").BertConfig().to_dict()
    ours = BertConfig().to_dict()
    different = {k for k in ours if k != "id2label" and k in peer and ours[k] != peer[k]}
    assert not different
    assert {int(i): name for i, name in ours["id2label"].items()} == peer["id2label"]


REFUSED = [
    ("model_type", "roberta"),
    ("model_type", "distilbert"),
    ("position_embedding_type", "relative_key"),
    ("position_embedding_type", "relative_key_query"),
    ("is_decoder", True),
    ("add_cross_attention", True),
    ("pruned_heads", {"0": [1, 2]}),
    ("quantization_config", {"quant_method": "bitsandbytes", "load_in_8bit": True}),
    ("pooler_type", "mean"),
    ("hidden_act", "gelu_fast"),
    ("hidden_act", "quick_gelu"),
    ("hidden_act", "nonsense"),
]


@pytest.mark.parametrize(("name", "value"), REFUSED)
def test_what_is_not_implemented_is_refused_by_name(tmp_path: Path, name: str, value: Any) -> None:
    write_checkpoint(tmp_path, TINY | {name: value})
    for load in (BertConfig.from_pretrained, BertModel.from_pretrained):
        with pytest.raises(
            UserError, match=f"config.json: {name} is {re.escape(json.dumps(value))}"
        ):
            load(tmp_path)


@pytest.mark.parametrize("name", sorted({name for name, _ in REFUSED} - {"hidden_act"}))
def test_null_in_such_a_field_means_that_it_is_not_set(tmp_path: Path, name: str) -> None:
    write_checkpoint(tmp_path, TINY | {name: None})
    assert BertConfig.from_pretrained(tmp_path).hidden_size == TINY["hidden_size"]


def test_the_value_that_changes_nothing_is_taken_and_written_back(tmp_path: Path) -> None:
    neutral = {"is_decoder": False, "pruned_heads": {}, "position_embedding_type": "absolute"}
    config = BertConfig.from_pretrained(write_config(tmp_path, json.dumps(TINY | neutral)))
    assert neutral.items() <= config.to_dict().items()


WRONG = [
    ("hidden_size", 25, "multiple of num_attention_heads"),
    ("hidden_size", 24.0, "whole number"),
    ("hidden_size", "24", "whole number"),
    ("hidden_size", True, "whole number"),
    ("hidden_size", None, "whole number"),
    ("vocab_size", 0, "above 0"),
    ("num_hidden_layers", -1, "above 0"),
    ("type_vocab_size", 0, "above 0"),
    ("max_position_embeddings", [512], "whole number"),
    ("hidden_dropout_prob", 1.0, "up to"),
    ("hidden_dropout_prob", -0.1, "from 0"),
    ("hidden_dropout_prob", None, "from 0"),
    ("attention_probs_dropout_prob", "0.1", "from 0"),
    ("classifier_dropout", 1.5, "from 0"),
    ("layer_norm_eps", 0, "above 0"),
    ("layer_norm_eps", float("nan"), "above 0"),
    ("layer_norm_eps", float("inf"), "above 0"),
    ("initializer_range", -0.02, "above 0"),
    ("pad_token_id", 97, "from 0 to 96"),
    ("pad_token_id", -1, "from 0 to 96"),
    ("tie_word_embeddings", "no", "true or false"),
    ("hidden_act", ["gelu"], "one of gelu"),
    ("id2label", {}, "must name the classes"),
    ("id2label", {"0": "a", "2": "b"}, "must name the classes"),
    ("id2label", {"zero": "a"}, "an object of names by number"),
    ("id2label", ["a", "b"], "an object of names by number"),
    ("id2label", {"0": "same", "1": "same"}, "gives two classes one name"),
    ("num_labels", 0, "above 0"),
    ("num_labels", "two", "above 0"),
]


@pytest.mark.parametrize(("name", "value", "message"), WRONG)
def test_a_wrong_value_is_refused_with_what_it_must_be(
    tmp_path: Path, name: str, value: Any, message: str
) -> None:
    write_config(tmp_path, json.dumps(TINY | {name: value}))
    with pytest.raises(UserError, match=f"config.json: {name} .*{message}"):
        BertConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        "", "{", '{"a": }', "[1, 2]", '"text"', "null", b'{"a": "\xff"}',
        "[" * 100_000, '{"a":' * 100_000, '{"vocab_size": 1' + "0" * 5000 + "}",
    ],
    ids=lambda content: repr(content[:12]),
)  # fmt: skip
def test_a_config_that_is_no_json_object_is_refused(tmp_path: Path, content: str | bytes) -> None:
    with pytest.raises(UserError, match=r"config\.json") as caught:
        BertConfig.from_pretrained(write_config(tmp_path, content))
    assert len(str(caught.value)) < 500


def test_a_directory_without_config_says_which_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.json does not exist"):
        BertConfig.from_pretrained(tmp_path)


# ---- labels, overrides, and the way back ----------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "labels"),
    [
        ({}, ["LABEL_0", "LABEL_1"]),
        ({"num_labels": 3}, ["LABEL_0", "LABEL_1", "LABEL_2"]),
        ({"id2label": {"1": "good", "0": "bad"}}, ["bad", "good"]),
        ({"id2label": {str(i): f"n{i}" for i in range(12)}}, [f"n{i}" for i in range(12)]),
        ({"id2label": None, "num_labels": 1}, ["LABEL_0"]),
    ],
)
def test_labels_come_from_id2label_or_their_number(
    tmp_path: Path, fields: dict[str, Any], labels: list[str]
) -> None:
    config = BertConfig.from_pretrained(write_config(tmp_path, json.dumps(TINY | fields)))
    assert list(config.id2label.values()) == labels
    assert config.num_labels == len(labels)
    assert BertForSequenceClassification(config).classifier.out_features == len(labels)


def test_overrides_replace_fields_and_are_checked_as_the_file_is(tmp_path: Path) -> None:
    write_config(tmp_path, json.dumps(TINY))
    assert BertConfig.from_pretrained(tmp_path, hidden_dropout_prob=0).hidden_dropout_prob == 0
    with pytest.raises(UserError, match="hidden_dropout_prob is 2"):
        BertConfig.from_pretrained(tmp_path, hidden_dropout_prob=2)
    assert BertConfig.from_pretrained(tmp_path, num_labels=5).num_labels == 5
    with pytest.raises(UserError, match="num_labels is 0"):
        BertConfig.from_pretrained(tmp_path, num_labels=0)
    with pytest.raises(TypeError, match="is_decoder"):
        BertConfig.from_pretrained(tmp_path, is_decoder=True)


def test_two_numbers_of_labels_are_refused(tmp_path: Path) -> None:
    fields = {"num_labels": 3, "id2label": {"0": "a", "1": "b"}}
    with pytest.raises(UserError, match="num_labels is 3, but id2label has 2"):
        BertConfig.from_pretrained(write_config(tmp_path, json.dumps(TINY | fields)))


def test_equal_configs_have_one_hash() -> None:
    a, b = (BertConfig.from_dict(TINY | {"_name_or_path": "x"}) for _ in range(2))
    assert a == b and hash(a) == hash(b)
    assert a != BertConfig.from_dict(TINY | {"layer_norm_eps": 1e-5})


def test_what_is_written_is_read_back_equal() -> None:
    values = TINY | {"classifier_dropout": 0.3, "pad_token_id": None, "_name_or_path": "somewhere"}
    config = BertConfig.from_dict(values | {"id2label": {"0": "schlecht", "1": "好"}})
    assert BertConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert config.to_dict()["_name_or_path"] == "somewhere"
    assert config.to_dict()["label2id"] == {"schlecht": 0, "好": 1}


@pytest.mark.reference
def test_transformers_reads_every_field_that_is_written(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    fields = {
        "hidden_act": "gelu_new", "layer_norm_eps": 1e-6, "type_vocab_size": 3,
        "hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.3, "classifier_dropout": 0.4,
        "initializer_range": 0.05, "pad_token_id": 4, "tie_word_embeddings": False,
        "id2label": {"0": "x", "1": "y", "2": "z"},
    }  # fmt: skip
    config = BertConfig.from_dict(TINY | fields)
    write_config(tmp_path, json.dumps(config.to_dict()))
    peer = transformers.AutoConfig.from_pretrained(tmp_path)
    assert isinstance(peer, transformers.BertConfig)
    for name in (TINY | fields).keys() - {"id2label"}:
        assert getattr(peer, name) == (TINY | fields)[name], name
    assert peer.id2label == config.id2label
