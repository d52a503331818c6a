"""From a checkpoint's tensors to a model's parameters, in every layout that checkpoints have."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy_bert
import pytest
import torch
from numpy_checkpoint import TINY, numpy_tensors, random_batch, write_checkpoint
from safetensors.torch import save_file
from torch import Tensor

from minibert.config import BertConfig
from minibert.errors import UserError
from minibert.model import (
    BertForMaskedLM,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertModel,
)

CLASSES = (
    BertModel,
    BertForMaskedLM,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
)
Tensors = dict[str, Tensor]
HEADS = ("cls.", "qa_outputs.", "classifier.", "bert.pooler.")


def tiny_tensors() -> Tensors:
    return {name: torch.from_numpy(x) for name, x in numpy_tensors(TINY).items()}


def write(directory: Path, tensors: Tensors, **changes: Any) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(TINY | changes))
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def write_shards(directory: Path, tensors: Tensors, count: int = 3) -> Path:
    write(directory, {}).joinpath("model.safetensors").unlink()
    weight_map = {}
    for shard in range(count):
        file = f"model-{shard + 1:05}-of-{count:05}.safetensors"
        names = sorted(tensors)[shard::count]
        save_file({name: tensors[name] for name in names}, directory / file)
        weight_map |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return directory


def renamed(tensors: Tensors, change: Callable[[str], str]) -> Tensors:
    return {change(name): x for name, x in tensors.items()}


def assert_same(a: torch.nn.Module, b: torch.nn.Module) -> None:
    ours, theirs = a.state_dict(), b.state_dict()
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert ours[name].dtype == theirs[name].dtype and torch.equal(ours[name], theirs[name]), (
            name
        )


# ---- layouts --------------------------------------------------------------------------------

LAYOUTS = {
    "without the prefix bert.": lambda t: renamed(t, lambda n: n.removeprefix("bert.")),
    "TensorFlow's names of the LayerNorms": lambda t: renamed(
        t,
        lambda n: n.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ),
    ),
    "with counters": lambda t: (
        t
        | {
            "bert.embeddings.position_ids": torch.arange(20)[None],
            "bert.embeddings.token_type_ids": torch.zeros(1, 20, dtype=torch.int64),
        }
    ),
    "without prefix, with counters": lambda t: renamed(
        t | {"embeddings.position_ids": torch.arange(20)[None]}, lambda n: n.removeprefix("bert.")
    ),
}


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_model(tmp_path: Path, cls: Any, layout: str) -> None:
    plain = cls.from_pretrained(write(tmp_path / "plain", tiny_tensors()))
    other = cls.from_pretrained(write(tmp_path / "other", LAYOUTS[layout](tiny_tensors())))
    assert_same(plain, other)
    assert other.load_report.newly_initialized == ()
    assert other.load_report.loaded == plain.load_report.loaded


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("count", [1, 3])
def test_shards_give_the_same_model(tmp_path: Path, cls: Any, count: int) -> None:
    plain = cls.from_pretrained(write(tmp_path / "plain", tiny_tensors()))
    assert_same(plain, cls.from_pretrained(write_shards(tmp_path / "s", tiny_tensors(), count)))


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_weights_are_fp32_in_memory_however_they_are_stored(
    tmp_path: Path, cls: Any, stored: torch.dtype
) -> None:
    tensors = {name: x.to(stored) for name, x in tiny_tensors().items()}
    model = cls.from_pretrained(write(tmp_path / "stored", tensors))
    rounded = {name: x.float() for name, x in tensors.items()}
    assert all(p.dtype == torch.float32 and p.requires_grad for p in model.parameters())
    assert_same(model, cls.from_pretrained(write(tmp_path / "rounded", rounded)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_are_of_another_type_if_asked_for(tmp_path: Path, dtype: torch.dtype) -> None:
    encoder_only = {n: x for n, x in tiny_tensors().items() if not n.startswith(HEADS)}
    model = BertForPreTraining.from_pretrained(write(tmp_path, encoder_only), dtype=dtype)
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert all(x.isfinite().all() for x in model(**random_batch(TINY, [5, 3])))
    assert model.nsp.weight.std() > 0.005  # drawn anew, in this type


def test_one_file_goes_before_shards(tmp_path: Path) -> None:
    write_shards(tmp_path, {name: x + 1 for name, x in tiny_tensors().items()})
    model = BertModel.from_pretrained(write(tmp_path, tiny_tensors()))
    expected = tiny_tensors()["bert.pooler.dense.bias"]
    assert torch.equal(model.pooler.dense.bias, expected)


def test_the_heads_give_the_logits_of_the_formulas(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, TINY)
    tensors, batch = numpy_tensors(TINY), random_batch(TINY, [9, 4])
    x = numpy_bert.encode(TINY, tensors, *(batch[k].numpy() for k in batch))
    pooled = np.tanh(numpy_bert.linear(tensors, "bert.pooler.dense", x[:, 0]))
    with torch.no_grad():
        spans = BertForQuestionAnswering.from_pretrained(tmp_path)(**batch)
        classes = BertForSequenceClassification.from_pretrained(tmp_path)(**batch)
        words, following = BertForPreTraining.from_pretrained(tmp_path)(**batch)
        pooler_output = BertModel.from_pretrained(tmp_path)(**batch).pooler_output
    both = numpy_bert.linear(tensors, "qa_outputs", x)
    for value, expected in (
        (pooler_output, pooled),
        (spans.start_logits[0], both[0, :, 0]),
        (spans.end_logits[0], both[0, :, 1]),
        (spans.start_logits[1, :4], both[1, :4, 0]),
        (classes, numpy_bert.linear(tensors, "classifier", pooled)),
        (following, numpy_bert.linear(tensors, "cls.seq_relationship", pooled)),
        (words[0], numpy_bert.masked_lm(TINY, tensors, x)[0]),
    ):
        np.testing.assert_allclose(value.numpy(), expected, rtol=0, atol=3e-6)


def test_a_model_does_not_change_with_the_file_that_it_was_read_from(tmp_path: Path) -> None:
    model = BertModel.from_pretrained(write(tmp_path, tiny_tensors()))
    before = {name: x.clone() for name, x in model.state_dict().items()}
    file = tmp_path / "model.safetensors"
    with file.open("r+b") as stream:  # in place: the same file under the same name
        stream.write(b"\0" * file.stat().st_size)
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())


def test_a_loaded_model_is_in_evaluation_mode(tmp_path: Path) -> None:
    model = BertForQuestionAnswering.from_pretrained(write(tmp_path, tiny_tensors()))
    assert not any(module.training for module in model.modules())


def test_loading_and_running_do_not_import_torchs_compiler(tmp_path: Path) -> None:
    """It takes longer than all else that `minibert fill-mask` does on a small checkpoint."""
    write(tmp_path, tiny_tensors())
    program = (
        "import sys, torch; from minibert.model import BertForMaskedLM as M;"
        f"M.from_pretrained({str(tmp_path)!r})(torch.tensor([[1, 2]]));"
        "print([m for m in sys.modules if m.startswith('torch._dynamo')])"
    )
    root = Path(__file__).resolve().parent.parent
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=root)
    assert run.stdout == "[]\n", run.stderr


# ---- the report -----------------------------------------------------------------------------


def test_the_report_names_what_was_drawn_anew_and_logs_it_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    encoder_only = {n: x for n, x in tiny_tensors().items() if not n.startswith(HEADS)}
    with caplog.at_level(logging.INFO, logger="minibert"):
        model = BertForSequenceClassification.from_pretrained(write(tmp_path, encoder_only))
    report = model.load_report
    drawn = ("bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight")
    assert report.newly_initialized == (*drawn, "classifier.bias")
    assert (report.loaded, dict(report.unused)) == (len(encoder_only), {})
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and record.getMessage() == str(report)
    assert "\n" not in str(report) and all(name in str(report) for name in drawn)


def test_the_report_names_what_was_not_used_and_why(tmp_path: Path) -> None:
    tensors = tiny_tensors() | {
        "bert.encoder.layer.2.output.dense.bias": torch.zeros(24),
        "bert.embeddings.position_ids": torch.arange(20)[None],
        "lm_head.weight": torch.zeros(2, 2),
    }
    report = BertForQuestionAnswering.from_pretrained(write(tmp_path, tensors)).load_report
    reasons = dict(report.unused)
    assert reasons.pop("bert.encoder.layer.2.output.dense.bias") == "config.json has 2 layers"
    assert reasons.pop("bert.embeddings.position_ids") == "it is a counter, no parameter"
    assert reasons.pop("lm_head.weight") == "BERT has no such part"
    assert set(reasons.values()) == {"BertForQuestionAnswering has no such head"}
    heads = ("bert.pooler.", "cls.", "classifier.")
    assert set(reasons) == {name for name in tensors if name.startswith(heads)}
    assert report.is_partial and "\n" not in str(report)
    assert all(why in str(report) for why in report.unused.values())


def test_nothing_is_reported_where_all_fits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tensors = {n: x for n, x in tiny_tensors().items() if n.startswith("bert.")}
    tensors["bert.embeddings.position_ids"] = torch.arange(20)[None]
    with caplog.at_level(logging.WARNING, logger="minibert"):
        report = BertModel.from_pretrained(write(tmp_path, tensors)).load_report
    assert not report.is_partial and not caplog.records
    assert report.loaded == len(tensors) - 1


def test_a_pooler_can_be_left_out(tmp_path: Path) -> None:
    directory = write(tmp_path, tiny_tensors())
    model = BertModel.from_pretrained(directory, add_pooler=False)
    assert model.pooler is None and model(**random_batch(TINY, [4])).pooler_output is None
    assert "bert.pooler.dense.weight" in model.load_report.unused


# ---- what is refused ------------------------------------------------------------------------

ENCODER = [name for name in numpy_tensors(TINY) if not name.startswith(HEADS)]


@pytest.mark.parametrize("name", ENCODER)
def test_an_encoder_tensor_that_is_missing_is_named_with_its_shape(
    tmp_path: Path, name: str
) -> None:
    tensors = tiny_tensors()
    shape = tuple(tensors.pop(name).shape)
    cls = BertModel if "word_embeddings" in name else BertForMaskedLM
    with pytest.raises(UserError) as caught:
        cls.from_pretrained(write(tmp_path, tensors))
    assert f"lacks {name.removeprefix('bert.')} of shape {shape}" in str(caught.value)


@pytest.mark.parametrize("name", sorted(numpy_tensors(TINY)))
def test_a_tensor_of_another_shape_is_named_with_both_shapes(tmp_path: Path, name: str) -> None:
    tensors = tiny_tensors()
    right = tuple(tensors[name].shape)
    tensors[name] = torch.cat([tensors[name], tensors[name][:1]])
    directory = write(tmp_path, tensors)
    cls = {"qa_": BertForQuestionAnswering, "cla": BertForSequenceClassification}
    with pytest.raises(UserError) as caught:
        cls.get(name[:3], BertForPreTraining).from_pretrained(directory)
    wrong = (right[0] + 1, *right[1:])
    assert f"{name} in {directory} has shape {wrong}" in str(caught.value)
    assert f"asks for {right}" in str(caught.value)


def test_a_transposed_tensor_is_refused_though_it_has_as_many_numbers(tmp_path: Path) -> None:
    tensors = tiny_tensors()
    name = "bert.encoder.layer.1.intermediate.dense.weight"
    tensors[name] = tensors[name].T.contiguous()
    with pytest.raises(UserError, match=r"\(24, 40\).*\(40, 24\)"):
        BertModel.from_pretrained(write(tmp_path, tensors))


@pytest.mark.parametrize(
    "stored", [torch.int8, torch.int64, torch.bool, torch.float8_e4m3fn, torch.float8_e5m2]
)
def test_quantised_weights_are_refused(tmp_path: Path, stored: torch.dtype) -> None:
    tensors, name = tiny_tensors(), "bert.encoder.layer.0.output.dense.weight"
    tensors[name] = tensors[name].to(stored)
    kind = str(stored).removeprefix("torch.")
    with pytest.raises(UserError, match=f"{name} .* is stored as {kind}; quantised"):
        BertModel.from_pretrained(write(tmp_path, tensors))


@pytest.mark.parametrize(
    "twin",
    [
        "embeddings.LayerNorm.weight",
        "bert.embeddings.LayerNorm.gamma",
        "embeddings.LayerNorm.gamma",
    ],
)
def test_a_tensor_under_two_spellings_is_refused(tmp_path: Path, twin: str) -> None:
    with pytest.raises(UserError, match=r"embeddings.LayerNorm.weight twice, under two spellings"):
        BertModel.from_pretrained(write(tmp_path, tiny_tensors() | {twin: torch.ones(24)}))


def test_another_models_tensors_are_refused_with_a_look_at_their_names(tmp_path: Path) -> None:
    tensors = {"transformer.wte.weight": torch.zeros(97, 24)}
    with pytest.raises(UserError, match=r"lacks .* named like 'transformer.wte.weight'"):
        BertModel.from_pretrained(write(tmp_path, tensors))
    with pytest.raises(UserError, match=r"lacks .* its 0 tensors"):
        BertModel.from_pretrained(write(tmp_path, {}))


# ---- weights drawn anew ---------------------------------------------------------------------


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("std", [0.02, 0.5])
def test_weights_are_drawn_as_in_google_research_bert(cls: Any, std: float) -> None:
    """A normal cut off at 2 deviations deviates by 0.8796, and has 71.5 % within one."""
    torch.manual_seed(0)
    model = cls(BertConfig.from_dict(TINY | {"initializer_range": std}))
    drawn = []
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0).all(), name
        elif "norm" in name:
            assert (parameter == 1).all(), name
        else:
            z = parameter.detach() / std
            assert z.abs().max() <= 2 + 1e-6, name
            error = 5 / z.numel() ** 0.5
            assert abs(z.mean()) < error and abs(z.std() - 0.8796) < error, name
            drawn.append(z.flatten())
    z = torch.cat(drawn)
    assert abs(z.std() - 0.8796) < 0.015 and z.abs().max() > 1.99
    assert abs((z.abs() < 1).float().mean() - 0.7152) < 0.015
    assert (z == 0).sum() == 0  # not even [PAD]'s embedding


@pytest.mark.parametrize("cls", CLASSES)
def test_the_same_seed_draws_the_same_bytes(cls: Any) -> None:
    def build(seed: int) -> torch.nn.Module:
        torch.manual_seed(seed)
        return cls(BertConfig.from_dict(TINY))

    assert_same(build(7), build(7))
    word = "embeddings.word_embeddings.weight"
    a, b = (build(seed).state_dict() for seed in (7, 8))
    assert not any(torch.equal(a[name], b[name]) for name in a if name.endswith(word))


def test_a_new_head_on_a_checkpoint_is_drawn_so_too_and_by_the_seed(tmp_path: Path) -> None:
    encoder_only = {n: x for n, x in tiny_tensors().items() if not n.startswith(HEADS)}
    directory = write(tmp_path, encoder_only, initializer_range=0.1)

    def load(seed: int) -> BertForPreTraining:
        torch.manual_seed(seed)
        return BertForPreTraining.from_pretrained(directory)

    model = load(1)
    assert_same(model, load(1))
    assert not torch.equal(model.mlm.dense.weight, load(2).mlm.dense.weight)
    for linear in (model.mlm.dense, model.nsp, model.bert.pooler.dense):
        z = linear.weight.detach() / 0.1
        assert 1.4 < z.abs().max() <= 2.0001 and abs(z.std() - 0.88) < 5 / z.numel() ** 0.5
        assert (linear.bias == 0).all()
    assert (model.mlm.layer_norm.weight == 1).all() and (model.mlm.decoder.bias == 0).all()
