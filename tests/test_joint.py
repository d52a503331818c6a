"""weights/joint.py: both tasks in one gradient, both heads in one file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import joint
import numpy as np
import passages
import pretrain
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import command_line, killed_before_step, records, write_model
from tiny_qa import CHARACTERS, CONFIG, VOCABULARY, write_questions

from minibert.model import BertForMaskedLM, BertForQuestionAnswering
from minibert.qa.ask import load_reader
from minibert.qa.reading import read_questions
from minibert.qa.task import QASettings, QATask
from minibert.tokenizer import load_tokenizer

HEAD = "cls.predictions."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without the masked-LM head, questions, and a text of two lines again and again."""
    folder = tmp_path_factory.mktemp("joint")
    write_model(folder / "weights", CONFIG, VOCABULARY, dropout=0.0)
    stored = load_file(folder / "weights/model.safetensors")
    stored = {name: x for name, x in stored.items() if not name.startswith(HEAD)}
    save_file(stored, folder / "weights/model.safetensors", {"format": "pt"})
    write_questions(folder / "train.json", 24)
    write_questions(folder / "dev.json", 8)
    lines = [CHARACTERS[:16], CHARACTERS[16:32]] * 160
    (folder / "text.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder


def train(folder: Path, out: str, /, **flags: Any) -> int:
    """Runs the script; returns its exit code."""
    files = {name: folder / f"{name}.json" for name in ("train", "dev")}
    files |= {"text": folder / "text.txt", "weights": folder / "weights", "out": folder / out}
    small = {"batch_size": 8, "max_length": 32, "doc_stride": 12, "lr": 5e-3, "epochs": 3}
    return joint.main(command_line(files | small | {"precision": "fp32", "pieces": 200} | flags))


def task_of(folder: Path, model: joint.BertForBoth) -> joint.JointTask:
    tokenizer = load_tokenizer(folder / "weights")
    questions = (read_questions(folder / f"{name}.json") for name in ("dev", "train"))
    pieces = pretrain.cut_pieces(pretrain.read_passages(folder / "text.txt"), tokenizer, 32)
    words = pretrain.MaskedLMTask(model, tokenizer, pieces)
    return joint.JointTask(QATask(tokenizer, QASettings(32, 12, 8, "squad"), *questions), words)


def test_the_loss_is_the_sum_of_both(folder: Path) -> None:
    torch.manual_seed(0)
    model = joint.BertForBoth.from_pretrained(folder / "weights")
    task = task_of(folder, model)
    batch = task.batch([0, 3, 5])
    assert len(batch["text.input_ids"]) == joint.EACH * len(batch["input_ids"])
    read, read_right = task.questions.loss(model, batch)
    text = {k.removeprefix("text."): x for k, x in batch.items() if k.startswith("text.")}
    guessed, right = task.words.loss(pretrain.HiddenPlaces(model), text)
    both, both_right = task.loss(joint.Both(model), batch)
    torch.testing.assert_close(both, read + guessed / joint.EACH)
    assert both_right == read_right | {"words": right["accuracy"] / joint.EACH}


def test_it_learns_both_and_one_file_holds_both_heads(folder: Path) -> None:
    assert train(folder, "learned", epochs=8) == 0
    scores = [line for line in records(folder / "learned") if "words_loss" in line]
    assert scores[-1]["words_loss"] < scores[0]["words_loss"] - 0.5
    losses = [line["loss"] for line in records(folder / "learned") if "lr" in line]
    assert losses[-1] < losses[0] - 1
    for kind in (BertForQuestionAnswering, BertForMaskedLM):
        model = kind.from_pretrained(folder / "learned")
        assert model.load_report is not None and not model.load_report.newly_initialized
    reply = load_reader(str(folder / "learned")).ask(CHARACTERS[:20], [f"{CHARACTERS[3]}？"])
    assert reply[0].answer in CHARACTERS[:20]
    # What answers alone is what answered in the training.
    torch.manual_seed(0)
    both = joint.BertForBoth.from_pretrained(folder / "learned")
    batch = task_of(folder, both).questions.batch([0, 1])
    inputs = {name: batch[name] for name in joint.INPUTS}
    alone = BertForQuestionAnswering.from_pretrained(folder / "learned")
    with torch.no_grad():
        for ours, other in zip(both(**inputs), alone(**inputs), strict=True):
            assert torch.equal(ours, other)


def test_killed_and_resumed_it_ends_with_the_same_bytes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train(folder, "whole", save_every=2) == 0
    with killed_before_step(monkeypatch, 7):
        train(folder, "killed", save_every=2)
    assert joint.main(["--resume", str(folder / "killed")]) == 0
    assert json.loads((folder / "killed/run.json").read_text())["data"]["text.txt"]["sha256"]
    for name in ("model.safetensors", "last/model.safetensors", "predictions.json"):
        assert (folder / "killed" / name).read_bytes() == (folder / "whole" / name).read_bytes()


def test_a_new_head_begins_with_the_frequencies_and_a_trained_one_stays(folder: Path) -> None:
    torch.manual_seed(0)
    model = joint.BertForBoth.from_pretrained(folder / "weights")
    pieces = task_of(folder, model).words.pieces
    pretrain.expect_frequencies(model, pieces)
    ids = np.concatenate([piece.input_ids[1:-1] for piece in pieces])
    shares = model.mlm.decoder.bias.softmax(0).detach()
    assert shares.sum().item() == pytest.approx(1)
    for token in np.unique(ids):
        assert shares[token].item() == pytest.approx(np.mean(ids == token), rel=0.1)
    model.save_pretrained(folder / "with-head")
    again = joint.BertForBoth.from_pretrained(folder / "with-head")
    pretrain.expect_frequencies(again, pieces[:3])
    assert torch.equal(again.mlm.decoder.bias, model.mlm.decoder.bias)


def test_pieces_are_drawn_by_the_seed_and_no_more_than_are_wanted(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = load_tokenizer(folder / "weights")
    texts = ["".join(np.random.default_rng(i).permutation(list(CHARACTERS))) for i in range(9)]
    whole = passages.cut_pieces(texts, tokenizer, 18)  # 16 characters and two special tokens
    assert len(whole) == 18 and {len(piece.input_ids) for piece in whole} == {18}  # 8 are left out
    monkeypatch.setattr(passages, "AT_ONCE", 2)
    for limit in (None, 1, 7, 100):
        found = passages.cut_pieces(texts, tokenizer, 18, limit)
        assert len(found) == len(whole[:limit])
        for one, other in zip(found, whole, strict=False):
            assert np.array_equal(one.input_ids, other.input_ids)
    drawn = passages.shuffled(texts, 0)
    assert drawn != texts and sorted(drawn) == sorted(texts)
    assert passages.shuffled(texts, 0) == drawn != passages.shuffled(texts, 1)


def test_what_is_missing_is_one_sentence(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flags, says in (
        ({"train": None}, "--train is missing; --help says what it is"),
        ({"text": folder / "absent.txt"}, "absent.txt does not exist"),
        ({"dev": folder / "text.txt"}, "text.txt"),
        ({"pieces": 1}, "gives 1 pieces of text; at least 2 are needed"),
    ):
        assert train(folder, "refused", **flags) == 2
        (error,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error:")]
        assert says in error
    assert not (folder / "refused").exists()
