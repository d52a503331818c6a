"""weights/joint.py: all tasks in one gradient, all heads in one file."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import joint
import numpy as np
import passages
import pretrain
import pytest
import torch
from forked import Forks
from safetensors.torch import load_file, save_file
from tiny import command_line, json_of, killed_before_step, records, write_model
from tiny_qa import CHARACTERS, CONFIG, VOCABULARY, write_questions
from torch import Tensor

from minibert.cls.reading import TextSet
from minibert.cls.task import ClsSettings, ClsTask
from minibert.model import (
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
)
from minibert.qa.ask import load_reader
from minibert.qa.reading import read_questions
from minibert.qa.task import QASettings, QATask
from minibert.runs import learned_from
from minibert.tokenizer import load_tokenizer

HEAD = "cls.predictions."
EACH = {"words": 2, "texts": 3}


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
    draw = np.random.default_rng(0)
    of = {"low": list(CHARACTERS[:5]), "high": list(CHARACTERS[-5:])}
    rows = [f"{''.join(draw.choice(of[x], 6))}\t{x}\n" for x in ("low", "high") for _ in range(40)]
    (folder / "labelled.tsv").write_text("text\tlabel\n" + "".join(rows), encoding="utf-8")
    return folder


def train(folder: Path, out: str, /, **flags: Any) -> int:
    """Runs the script; returns its exit code."""
    files = {name: folder / f"{name}.json" for name in ("train", "dev")}
    files |= {"text": folder / "text.txt", "weights": folder / "weights", "out": folder / out}
    small = {"batch_size": 8, "max_length": 32, "doc_stride": 12, "lr": 5e-3, "epochs": 3}
    return joint.main(command_line(files | small | {"precision": "fp32", "pieces": 200} | flags))


def labelled_in(folder: Path) -> dict[str, TextSet]:
    return joint.read_labelled({"labelled": folder / "labelled.tsv", "texts_each": 2})


def task_of(folder: Path, model: joint.BertForBoth) -> joint.JointTask:
    tokenizer = load_tokenizer(folder / "weights")
    dev, asked = (read_questions(folder / f"{name}.json") for name in ("dev", "train"))
    pieces = passages.cut_pieces(passages.read_passages(folder / "text.txt"), tokenizer, 32)
    tasks: dict[str, joint.Task] = {
        "questions": QATask(tokenizer, QASettings(32, 12, 8, "squad"), dev, asked),
        "words": pretrain.MaskedLMTask(model, tokenizer, pieces),
    }
    if isinstance(model, joint.BertForAll):
        sets = labelled_in(folder)
        settings = ClsSettings(32, False)
        tasks["texts"] = ClsTask(tokenizer, settings, ["high", "low"], sets["dev"], sets["train"])
    return joint.JointTask(tasks, {name: EACH[name] for name in tasks if name != "questions"})


def words_of(task: joint.JointTask) -> pretrain.MaskedLMTask:
    words = task.tasks["words"]
    assert isinstance(words, pretrain.MaskedLMTask)
    return words


@pytest.mark.parametrize("kind", [joint.BertForBoth, joint.BertForAll])
def test_the_loss_is_the_sum_of_all(folder: Path, kind: type[joint.BertForBoth]) -> None:
    torch.manual_seed(0)
    model = kind.from_pretrained(folder / "weights").eval()
    task = task_of(folder, model)
    batch = task.batch([0, 3, 5])
    together = joint.Together(model, task.tasks).eval()
    total = torch.zeros(())
    expected: dict[str, Tensor] = {}
    for name, part in together.parts.items():
        own = {k.split(".")[1]: x for k, x in batch.items() if k.split(".")[0] == name}
        assert len(own["input_ids"]) == 3 * EACH.get(name, 1)
        loss, right = task.tasks[name].loss(part, own)
        total = total + loss / EACH.get(name, 1)
        expected |= right if name == "questions" else {name: right["accuracy"] / EACH[name]}
    loss, right = task.loss(together, batch)
    torch.testing.assert_close(loss, total)
    assert right == expected and len(right) == 2 + len(task.tasks) - 1
    loss.backward()
    assert all(x.grad is not None for x in together.parameters())


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
    batch = task_of(folder, both).tasks["questions"].batch([0, 1])
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    alone = BertForQuestionAnswering.from_pretrained(folder / "learned")
    with torch.no_grad():
        for ours, other in zip(both(**inputs), alone(**inputs), strict=True):
            assert torch.equal(ours, other)


def test_it_tells_classes_too_and_the_classifier_is_in_the_file(folder: Path) -> None:
    assert train(folder, "all", labelled=folder / "labelled.tsv", epochs=8) == 0
    scores = [line for line in records(folder / "all") if "words_loss" in line]
    assert scores[-1]["texts_accuracy"] == 1.0
    sets = labelled_in(folder)
    model = BertForSequenceClassification.from_pretrained(folder / "all")
    assert model.load_report is not None and not model.load_report.newly_initialized
    assert list(model.config.id2label.values()) == ["high", "low"]
    tokenizer = load_tokenizer(folder / "all")
    task = ClsTask(tokenizer, ClsSettings(32, False), ["high", "low"], sets["dev"])
    assert task.evaluate(model)[0]["accuracy"] == 1.0
    assert len(sets["train"].examples) + len(sets["dev"].examples) == 80
    learned = {Path(data["file"]).name: data for data in learned_from(folder / "all")}
    assert learned.keys() == {"train.json", "text.txt", "labelled.tsv"}
    assert learned["labelled.tsv"]["texts"] == len(sets["train"].examples)


def test_a_head_for_other_classes_is_replaced_and_any_number_of_classes_will_do(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = labelled_in(folder)
    torch.manual_seed(0)
    named = joint.load_model(folder / "weights", sets)
    named.save_pretrained(folder / "named")
    shutil.copyfile(folder / "weights/vocab.txt", folder / "named/vocab.txt")
    kept = joint.load_model(folder / "named", sets)
    assert torch.equal(kept.classifier.weight, named.classifier.weight)
    assert capsys.readouterr().err.count("a new one") == 0
    for labels in (["high", "low", "middle"], ["low", "other"]):
        examples = sets["train"].examples
        others = [
            replace(example, label=labels[i % len(labels)]) for i, example in enumerate(examples)
        ]
        train_set = replace(sets["train"], examples=others)
        new = joint.load_model(folder / "named", {"train": train_set})
        assert (
            list(new.config.id2label.values()) == labels == list(new.bert.config.id2label.values())
        )
        assert new.classifier.weight.shape[0] == len(labels)
        assert "for other classes (high, low): a new one" in capsys.readouterr().err


def test_how_many_come_with_a_question_is_said_on_the_command_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, int]] = []
    loss = joint.JointTask.loss

    def count(task: joint.JointTask, model: Any, batch: dict[str, Tensor]) -> Any:
        seen.append({k: len(x) for k, x in batch.items() if k.endswith("input_ids")})
        return loss(task, model, batch)

    monkeypatch.setattr(joint.JointTask, "loss", count)
    flags = {"labelled": folder / "labelled.tsv", "words_each": 3, "texts_each": 1, "epochs": 1}
    assert train(folder, "each", dev=None, **flags) == 0
    first = seen[0]
    asked = first["questions.input_ids"]
    assert first == {
        "questions.input_ids": asked,
        "words.input_ids": 3 * asked,
        "texts.input_ids": asked,
    }
    facts = json_of(folder / "each/run.json")
    assert facts["counts"].keys() == {"windows", "pieces", "texts"}
    assert facts["data"].keys() == {"train", "dev", "text 1", "labelled"}
    assert facts["data"]["dev"]["contexts_taken"] == "every 10th"  # of --train, without --dev


def test_two_processes_train_all_three_heads(folder: Path, server: Forks) -> None:
    torch.manual_seed(0)
    sets = labelled_in(folder)
    began = joint.load_model(folder / "weights", sets)
    start = folder / "start"
    shutil.copytree(folder / "weights", start)
    began.save_pretrained(start)
    files = {name: folder / f"{name}.json" for name in ("train", "dev")}
    files |= {"text": folder / "text.txt", "labelled": folder / "labelled.tsv"}
    files |= {"weights": start, "out": folder / "two"}
    small = {"batch_size": 6, "max_length": 32, "doc_stride": 12, "epochs": 1, "precision": "fp32"}
    flags = command_line(files | small | {"pieces": 200})
    ended = server.run(flags, processes=2, script="joint")
    assert ended.code == 0, ended.err
    [scores] = [line for line in records(folder / "two") if "words_loss" in line]
    assert scores["texts_total"] == len(sets["dev"].examples)
    learned = joint.load_model(folder / "two", sets)
    assert learned.load_report is not None and not learned.load_report.newly_initialized
    for name, parameter in began.named_parameters():
        if "position" not in name and not name.endswith("key.bias"):
            assert not torch.equal(learned.get_parameter(name), parameter), f"{name} stays"


def test_killed_and_resumed_it_ends_with_the_same_bytes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = {"save_every": 2, "labelled": folder / "labelled.tsv"}
    assert train(folder, "whole", **flags) == 0
    with killed_before_step(monkeypatch, 7):
        train(folder, "killed", **flags)
    table = (folder / "labelled.tsv").read_text(encoding="utf-8")
    (folder / "labelled.tsv").write_text(table + "天天地地\tlow\n", encoding="utf-8")
    assert joint.main(["--resume", str(folder / "killed")]) == 2
    assert "is no longer the labelled data" in capsys.readouterr().err
    (folder / "labelled.tsv").write_text(table, encoding="utf-8")
    assert joint.main(["--resume", str(folder / "killed")]) == 0
    assert json.loads((folder / "killed/run.json").read_text())["data"]["text 1"]["sha256"]
    for name in ("model.safetensors", "last/model.safetensors", "predictions.json"):
        assert (folder / "killed" / name).read_bytes() == (folder / "whole" / name).read_bytes()


def test_a_new_head_begins_with_the_frequencies_and_a_trained_one_stays(folder: Path) -> None:
    torch.manual_seed(0)
    model = joint.BertForBoth.from_pretrained(folder / "weights")
    pieces = words_of(task_of(folder, model)).pieces
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
    (folder / "few.tsv").write_text("text\tlabel\n天\thigh\n地\tlow\n", encoding="utf-8")
    for flags, says in (
        ({"train": None}, "--train is missing; --help says what it is"),
        ({"text": folder / "absent.txt"}, "absent.txt does not exist"),
        ({"dev": folder / "text.txt"}, "text.txt"),
        ({"pieces": 1}, "gives 1 pieces of text; at least 2 are needed"),
        ({"labelled": folder / "absent.tsv"}, "absent.tsv does not exist"),
        ({"texts_each": 5}, "--texts-each says how many of --labelled's texts are taken"),
        ({"labelled": folder / "few.tsv"}, "few.tsv has too few texts to hold out a tenth"),
    ):
        assert train(folder, "refused", **flags) == 2
        (error,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error:")]
        assert says in error
    assert not (folder / "refused").exists()
