"""weights/bundle.py: one file that all heads are read from, in half the bytes."""

from __future__ import annotations

import argparse
from pathlib import Path

import bundle
import pytest
import torch
from tiny import write_model
from tiny_qa import CONFIG, VOCABULARY

from minibert import files, runs
from minibert.errors import UserError
from minibert.model import BertForMaskedLM, BertForQuestionAnswering


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model for questions, and a masked-LM head on the same layers."""
    write_model(tmp_path / "weights", CONFIG, VOCABULARY, dropout=0.0)
    torch.manual_seed(3)
    model = BertForQuestionAnswering.from_pretrained(tmp_path / "weights")
    with_head = BertForMaskedLM(model.config)
    with_head.bert.load_state_dict(model.bert.state_dict())
    for name, each in (("model", model), ("head", with_head)):
        each.save_pretrained(tmp_path / name)
        for file in ("vocab.txt", "tokenizer_config.json", "tokenizer.json"):
            if (tmp_path / "weights" / file).is_file():
                (tmp_path / name / file).write_bytes((tmp_path / "weights" / file).read_bytes())
    return tmp_path


def run(folder: Path) -> Path:
    args = argparse.Namespace(
        model=str(folder / "model"),
        head=str(folder / "head"),
        out=str(folder / "both"),
        note="No score on these.",
    )
    assert bundle.run(args) == 0
    return folder / "both"


@pytest.mark.parametrize(
    ("kind", "source"), [(BertForQuestionAnswering, "model"), (BertForMaskedLM, "head")]
)
def test_both_heads_are_what_they_were_within_half_precision(
    folder: Path, kind: type, source: str
) -> None:
    whole, both = kind.from_pretrained(folder / source), kind.from_pretrained(run(folder))
    assert not both.load_report.newly_initialized
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(both.state_dict()[name], tensor.half().float(), msg=name)
    stored = files.read_tensors(folder / "both")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}


def test_a_model_with_both_heads_is_named_once(folder: Path) -> None:
    both = run(folder)
    args = argparse.Namespace(model=str(both), head=None, out=str(folder / "again"), note=None)
    assert bundle.run(args) == 0
    for name, tensor in files.read_tensors(both).items():
        assert torch.equal(files.read_tensors(folder / "again")[name], tensor), name


def test_what_it_learned_from_is_handed_on(folder: Path) -> None:
    squad = {"file": "squad/train.json", "sha256": "1"}
    before = {"learned_before": [squad]}
    cmrc = {"file": "/a/b/cmrc/train.json", "sha256": "2", "questions": 3}
    dev = {"file": "/a/b/dev.json", "sha256": "3"}
    for name, data in (("model", {"train": cmrc, "dev": dev}), ("head", {"corpus.txt": cmrc})):
        files.write_json(folder / name / "run.json", before | {"data": data})
    both = run(folder)
    assert runs.learned_from(both) == [{"note": "No score on these."}, squad, cmrc]
    assert runs.learned_from(folder / "model" / "last") == [squad, cmrc]
    assert runs.learned_from(folder) == []
    files.write_json(folder / "head" / "run.json", {"learned_before": None})
    with pytest.raises(UserError, match=r"run\.json does not say .*: it is damaged"):
        runs.learned_from(folder / "head")
    with pytest.raises(UserError, match="both exists already and is no run"):
        run(folder)


def test_a_head_on_other_layers_is_refused(folder: Path) -> None:
    tensors = files.read_tensors(folder / "head")
    name = "bert.encoder.layer.0.output.dense.weight"
    changed = {n: x.clone() for n, x in tensors.items()} | {name: tensors[name] + 1}
    files.write_tensors({folder / "head" / files.SINGLE: changed})
    with pytest.raises(UserError, match=f"{name} is not the same"):
        run(folder)
    assert not (folder / "both").exists()


def test_a_head_on_the_same_numbers_in_fp16_is_the_same(folder: Path) -> None:
    for name in ("model", "head"):
        tensors = files.read_tensors(folder / name)
        halved = {n: x.half() if name == "model" else x.half().float() for n, x in tensors.items()}
        files.write_tensors({folder / name / files.SINGLE: halved})
    run(folder)


def test_a_model_that_lacks_layers_of_the_head_is_refused(folder: Path) -> None:
    tensors = files.read_tensors(folder / "model")
    bare = {name.removeprefix("bert."): x.clone() for name, x in tensors.items()}
    files.write_tensors({folder / "model" / files.SINGLE: bare})
    with pytest.raises(UserError, match="is not the same in"):
        run(folder)


def test_without_a_head_there_is_nothing_to_bundle(folder: Path) -> None:
    (folder / "head" / files.SINGLE).write_bytes((folder / "model" / files.SINGLE).read_bytes())
    with pytest.raises(UserError, match="has no masked-LM head"):
        run(folder)


def test_numbers_that_fp16_does_not_hold_are_refused() -> None:
    with pytest.raises(UserError, match="w has a number that fp16 cannot hold"):
        bundle.half("w", torch.tensor([1.0, 1e6]))
    with pytest.raises(UserError, match="w has a number"):
        bundle.half("w", torch.tensor([float("nan")]))
    assert bundle.half("n", torch.tensor([3])).dtype == torch.int64
    assert bundle.half("none", torch.empty(0)).shape == (0,)
