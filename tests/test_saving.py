"""What we save, transformers reads, and the other way round; the masked-LM decoder, tied or not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy_bert
import pytest
import torch
from numpy_checkpoint import TINY, numpy_tensors, random_batch, write_checkpoint
from safetensors import safe_open
from safetensors.torch import load_file
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
WORDS = "bert.embeddings.word_embeddings.weight"
DECODER = "cls.predictions.decoder.weight"
BIAS, DECODER_BIAS = "cls.predictions.bias", "cls.predictions.decoder.bias"
Arrays = dict[str, np.ndarray]


def peer_class(cls: type) -> Any:
    transformers = pytest.importorskip("transformers")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return getattr(transformers, cls.__name__)


def logits(model: Any, is_ours: bool) -> list[Tensor]:
    """Whatever a model of either library computes, as a list in one order."""
    batch = random_batch(TINY, [11, 4, 20])
    with torch.no_grad():
        out = model.eval()(**batch)
    values = list(out.values()) if not is_ours else [out] if isinstance(out, Tensor) else list(out)
    real = batch["attention_mask"].bool()
    found = [x for x in values if x is not None]
    return [x[real] if x.shape[:2] == real.shape else x for x in found]


def assert_equal_logits(ours: Any, peer: Any) -> None:
    for a, b in zip(logits(ours, True), logits(peer, False), strict=True):
        assert a.shape == b.shape and (a - b).abs().max() < 3e-6


# ---- ours to ours ---------------------------------------------------------------------------


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_what_is_saved_is_loaded_byte_for_byte(tmp_path: Path, cls: Any, tied: bool) -> None:
    torch.manual_seed(0)
    model = cls(BertConfig.from_dict(TINY | {"tie_word_embeddings": tied, "finetuned_on": "x"}))
    model.save_pretrained(tmp_path / "new" / "folder")
    again = cls.from_pretrained(tmp_path / "new" / "folder")
    assert again.config == model.config
    assert again.load_report.newly_initialized == () and not again.load_report.is_partial
    before, after = model.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    again.save_pretrained(tmp_path / "again")
    for file in ("config.json", "model.safetensors"):
        a, b = (tmp_path / folder / file for folder in ("new/folder", "again"))
        assert a.read_bytes() == b.read_bytes()


def test_a_model_can_be_saved_over_the_files_that_it_was_read_from(tmp_path: Path) -> None:
    model = BertForMaskedLM.from_pretrained(write_checkpoint(tmp_path, TINY))
    with torch.no_grad():
        model.mlm.decoder.bias += 1
    model.save_pretrained(tmp_path)
    again = BertForMaskedLM.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(again[name], x) for name, x in model.state_dict().items())


def test_only_two_files_are_written_with_the_usual_rights(tmp_path: Path) -> None:
    BertModel(BertConfig.from_dict(TINY)).save_pretrained(tmp_path / "m")
    assert {p.name for p in (tmp_path / "m").iterdir()} == {"config.json", "model.safetensors"}
    (tmp_path / "usual").touch()
    for path in (tmp_path / "m").iterdir():
        assert path.stat().st_mode == (tmp_path / "usual").stat().st_mode
    with safe_open(tmp_path / "m" / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_the_saved_config_names_the_class_and_the_type_in_memory(tmp_path: Path) -> None:
    """An fp16 checkpoint is fp32 in memory and so on the disk; its config must not say fp16."""
    write_checkpoint(tmp_path, TINY | {"torch_dtype": "float16", "dtype": "float16"})
    for dtype in (torch.float32, torch.bfloat16):
        BertForMaskedLM.from_pretrained(tmp_path, dtype=dtype).save_pretrained(tmp_path / "s")
        saved = json.loads((tmp_path / "s" / "config.json").read_text())
        assert saved["dtype"] == str(dtype).removeprefix("torch.") and "torch_dtype" not in saved
        assert saved["architectures"] == ["BertForMaskedLM"]
        assert {x.dtype for x in load_file(tmp_path / "s" / "model.safetensors").values()} == {
            dtype
        }


def test_a_tied_decoder_is_one_parameter_and_is_saved_once(tmp_path: Path) -> None:
    model = BertForMaskedLM.from_pretrained(write_checkpoint(tmp_path, TINY))
    assert model.mlm.decoder.weight is model.bert.embeddings.word_embeddings.weight
    model.save_pretrained(tmp_path / "s")
    assert DECODER not in load_file(tmp_path / "s" / "model.safetensors")
    fresh = BertForMaskedLM(BertConfig.from_dict(TINY))
    assert fresh.mlm.decoder.weight is fresh.bert.embeddings.word_embeddings.weight


def test_a_decoder_that_was_untied_by_hand_stays_so(tmp_path: Path) -> None:
    model = BertForMaskedLM.from_pretrained(write_checkpoint(tmp_path, TINY))
    model.mlm.decoder.weight = torch.nn.Parameter(model.mlm.decoder.weight.detach().clone())
    model.save_pretrained(tmp_path)
    again = BertForMaskedLM.from_pretrained(tmp_path)
    assert again.mlm.decoder.weight is not again.bert.embeddings.word_embeddings.weight
    assert again.config.tie_word_embeddings is False


# ---- the masked-LM decoder ------------------------------------------------------------------


def other(seed: int, *shape: int) -> np.ndarray:
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32) * 0.1


V, C = TINY["vocab_size"], TINY["hidden_size"]
WEIGHT, NEW_BIAS = other(1, V, C), other(2, V)
# (config, tensors to add, tensors to drop, decoder's weight, its bias; None: as in `tensors`)
CASES: dict[str, tuple[dict[str, Any], Arrays, set[str], Any, Any]] = {
    "no decoder": ({}, {}, set(), None, None),
    "an equal decoder": ({}, {DECODER: numpy_tensors(TINY)[WORDS]}, set(), None, None),
    "another decoder": ({}, {DECODER: WEIGHT}, set(), WEIGHT, None),
    "another decoder, untied": (
        {"tie_word_embeddings": False},
        {DECODER: WEIGHT, DECODER_BIAS: numpy_tensors(TINY)[BIAS]},
        set(),
        WEIGHT,
        None,
    ),
    "a decoder and no embeddings": ({}, {DECODER: WEIGHT}, {WORDS}, WEIGHT, None),
    "the bias under its other name": ({}, {DECODER_BIAS: NEW_BIAS}, {BIAS}, None, NEW_BIAS),
    "two equal biases": ({}, {DECODER_BIAS: numpy_tensors(TINY)[BIAS]}, set(), None, None),
    "two other biases": ({}, {DECODER_BIAS: NEW_BIAS}, set(), None, NEW_BIAS),
    "two other biases, untied": (
        {"tie_word_embeddings": False},
        {DECODER: WEIGHT, DECODER_BIAS: NEW_BIAS},
        set(),
        WEIGHT,
        NEW_BIAS,
    ),
    "both other": ({}, {DECODER: WEIGHT, DECODER_BIAS: NEW_BIAS}, set(), WEIGHT, NEW_BIAS),
}


def write_case(directory: Path, case: str) -> tuple[Path, Arrays]:
    changes, added, dropped, *_ = CASES[case]
    tensors = {n: x for n, x in (numpy_tensors(TINY) | added).items() if n not in dropped}
    return write_checkpoint(directory, TINY | changes, tensors), tensors


@pytest.mark.parametrize("cls", [BertForMaskedLM, BertForPreTraining])
@pytest.mark.parametrize("case", CASES)
def test_the_decoder_is_the_one_that_the_checkpoint_means(
    tmp_path: Path, cls: Any, case: str
) -> None:
    directory, tensors = write_case(tmp_path / "c", case)
    model = cls.from_pretrained(directory)
    _, _, _, weight, bias = CASES[case]
    weight = tensors[WORDS] if weight is None else weight
    bias = tensors[BIAS] if bias is None else bias
    assert np.array_equal(model.mlm.decoder.weight.detach().numpy(), weight)
    assert np.array_equal(model.mlm.decoder.bias.detach().numpy(), bias)
    assert model.load_report.newly_initialized == ()
    words = model.bert.embeddings.word_embeddings.weight
    assert (model.mlm.decoder.weight is words) == model.config.tie_word_embeddings
    assert torch.equal(model.mlm.decoder.weight, words) == model.config.tie_word_embeddings
    unused = {BIAS} if case.startswith("two other") or case == "both other" else set()
    assert {n for n in model.load_report.unused if n.startswith("cls.predictions")} == unused
    decided = {
        "another decoder": "not tied, because",
        "both other": "not tied, because",
        "a decoder and no embeddings": "the word embeddings are the decoder's matrix",
    }.get(case, "")
    assert model.load_report.decided.startswith(decided)
    assert bool(decided) == bool(model.load_report.decided)
    assert model.load_report.decided in str(model.load_report)

    model.save_pretrained(tmp_path / "s")
    again = cls.from_pretrained(tmp_path / "s")
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True)
    )
    assert again.config.tie_word_embeddings == model.config.tie_word_embeddings


def test_the_logits_are_those_of_the_formulas_with_the_other_decoder(tmp_path: Path) -> None:
    directory, tensors = write_case(tmp_path, "both other")
    batch = random_batch(TINY, [6])
    x = numpy_bert.encode(TINY, tensors, *(batch[k].numpy() for k in batch))
    swapped = tensors | {WORDS: WEIGHT, BIAS: NEW_BIAS}
    with torch.no_grad():
        value = BertForMaskedLM.from_pretrained(directory)(**batch).numpy()
    np.testing.assert_allclose(value, numpy_bert.masked_lm(TINY, swapped, x), rtol=0, atol=3e-6)


def test_untied_without_a_decoder_the_decoder_is_drawn_anew_and_reported(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, TINY | {"tie_word_embeddings": False})
    model = BertForMaskedLM.from_pretrained(tmp_path)
    assert model.load_report.newly_initialized == ("mlm.decoder.weight",)
    assert not torch.equal(model.mlm.decoder.weight, model.bert.embeddings.word_embeddings.weight)
    assert np.array_equal(model.mlm.decoder.bias.detach().numpy(), numpy_tensors(TINY)[BIAS])


@pytest.mark.parametrize("cls", [BertModel, BertForQuestionAnswering])
def test_without_a_masked_lm_head_embeddings_do_not_come_from_a_decoder(
    tmp_path: Path, cls: Any
) -> None:
    directory, _ = write_case(tmp_path, "a decoder and no embeddings")
    with pytest.raises(UserError, match=r"lacks embeddings.word_embeddings.weight"):
        cls.from_pretrained(directory)


def test_two_precisions_of_equal_numbers_are_tied(tmp_path: Path) -> None:
    words = numpy_tensors(TINY)[WORDS].astype(np.float16)
    tensors = numpy_tensors(TINY) | {WORDS: words, DECODER: words.astype(np.float32)}
    model = BertForMaskedLM.from_pretrained(write_checkpoint(tmp_path, TINY, tensors))
    assert model.mlm.decoder.weight is model.bert.embeddings.word_embeddings.weight


def test_a_decoder_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    tensors = numpy_tensors(TINY) | {DECODER: other(1, V + 3, C)}
    with pytest.raises(UserError, match=rf"{DECODER} .* \(100, 24\).*\(97, 24\)"):
        BertForMaskedLM.from_pretrained(write_checkpoint(tmp_path, TINY, tensors))


@pytest.mark.reference
@pytest.mark.parametrize("cls", [BertForMaskedLM, BertForPreTraining])
@pytest.mark.parametrize("case", CASES)
def test_transformers_takes_the_same_decoder(tmp_path: Path, cls: Any, case: str) -> None:
    directory, _ = write_case(tmp_path / "c", case)
    ours, peer = cls.from_pretrained(directory), peer_class(cls).from_pretrained(directory)
    tied = peer.cls.predictions.decoder.weight is peer.bert.embeddings.word_embeddings.weight
    assert tied == ours.config.tie_word_embeddings
    assert_equal_logits(ours, peer)
    # And so after each of the two has saved it and the other has read that.
    ours.save_pretrained(tmp_path / "ours")
    peer.save_pretrained(tmp_path / "peer")
    assert_equal_logits(ours, peer_class(cls).from_pretrained(tmp_path / "ours"))
    assert_equal_logits(cls.from_pretrained(tmp_path / "peer"), peer)


# ---- ours to transformers, and back ---------------------------------------------------------


@pytest.mark.reference
@pytest.mark.parametrize(
    ("cls", "act"),
    [
        *((cls, "gelu") for cls in CLASSES),
        *((BertForMaskedLM, act) for act in ("gelu_new", "relu", "silu", "tanh")),
    ],
)
def test_transformers_loads_what_we_save(tmp_path: Path, cls: Any, act: str) -> None:
    changes = {"hidden_act": act, "layer_norm_eps": 1e-5, "id2label": {"0": "a", "1": "b"}}
    ours = cls.from_pretrained(write_checkpoint(tmp_path / "c", TINY | changes))
    ours.save_pretrained(tmp_path / "s")
    peer, info = peer_class(cls).from_pretrained(tmp_path / "s", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    theirs = peer.state_dict()
    saved = load_file(tmp_path / "s" / "model.safetensors")
    assert set(theirs) - set(saved) <= {DECODER, DECODER_BIAS}  # tied
    assert all(
        torch.equal(saved[n], theirs[n]) and saved[n].dtype == theirs[n].dtype for n in saved
    )
    assert peer.config.id2label == {0: "a", 1: "b"}
    assert_equal_logits(ours, peer)


@pytest.mark.reference
@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("shard", ["5GB", "20KB"])
def test_we_load_what_transformers_saves(tmp_path: Path, cls: Any, shard: str) -> None:
    config = pytest.importorskip("transformers").BertConfig(**TINY)
    torch.manual_seed(0)
    peer = peer_class(cls)(config)
    for parameter in peer.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    peer.save_pretrained(tmp_path, max_shard_size=shard)
    assert (tmp_path / "model.safetensors").exists() == (shard == "5GB")
    ours = cls.from_pretrained(tmp_path)
    assert not ours.load_report.is_partial
    ours.save_pretrained(tmp_path / "back")
    again = load_file(tmp_path / "back" / "model.safetensors")
    stored: dict[str, Tensor] = {}
    for file in tmp_path.glob("*.safetensors"):
        stored |= load_file(file)
    assert again.keys() == stored.keys()
    assert all(torch.equal(again[name], stored[name]) for name in stored)
    assert_equal_logits(ours, peer)
