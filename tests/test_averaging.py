"""`minibert average`: each weight is a mean, and the model is asked and scored as its runs are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import Folder
from tiny_cls import TinyCls
from tiny_qa import Tiny
from typed import Capture, fails, minibert

import train_cls
import train_qa
from minibert import files


def train(tiny: Folder, run: str, **flags: Any) -> Path:
    script = train_qa if isinstance(tiny, Tiny) else train_cls
    assert script.main(tiny.arguments(run, **({"epochs": 1} | flags))) == 0
    return tiny.folder / run


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyCls:
    tiny = TinyCls(tmp_path_factory.mktemp("cls"))
    for seed in range(3):
        train(tiny, f"run{seed}", seed=seed)
    return tiny


@pytest.fixture
def one(tiny: TinyCls) -> Path:
    return tiny.folder / "run0"


@pytest.fixture
def other(tiny: TinyCls, tmp_path: Path) -> Path:
    """A run that a test may change."""
    return Path(shutil.copytree(tiny.folder / "run1", tmp_path / "other"))


def change(path: Path, **facts: Any) -> None:
    files.write_json(path, files.read_json(path) | facts)


def test_each_weight_is_the_mean_of_three(tiny: TinyCls, tmp_path: Path, capsys: Capture) -> None:
    runs = [tiny.folder / f"run{seed}" for seed in range(3)]
    out = tmp_path / "a mean"
    assert minibert("average", *runs, "--out", out) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"the mean of 3 models is in {out}; ")
    assert shown.endswith(f"minibert evaluate --model '{out}' --data NAME\n")
    found, models = (
        load_file(out / files.SINGLE),
        [load_file(run / files.SINGLE) for run in runs],
    )
    assert found.keys() == models[0].keys()
    for name, x in found.items():
        a, b, c = (model[name].double() for model in models)
        assert x.dtype == torch.float32
        torch.testing.assert_close(x.double(), (a + b + c) / 3, rtol=1e-6, atol=1e-9)
    head = "classifier.weight"
    assert not torch.equal(found[head], models[0][head])


def test_it_is_asked_and_scored_as_the_runs_are(
    tiny: TinyCls, one: Path, tmp_path: Path, capsys: Capture
) -> None:
    out, dev = tmp_path / "mean", tiny.dev.path
    assert minibert("average", one, tiny.folder / "run1", "--out", out) == 0
    facts = files.read_json(out / "run.json")
    assert facts["averaged"] == [str(one), str(tiny.folder / "run1")]
    settings = facts["settings"]
    assert settings["max_length"] == 20 and settings["precision"] == "fp32"
    assert "seed" not in settings and "out" not in settings  # those differ
    capsys.readouterr()
    assert minibert("evaluate", "--model", out, "--data", dev, "--json") == 0
    assert json.loads(capsys.readouterr().out)["total"] == 24
    assert minibert("classify", "--model", out, "w1 w2") == 0
    assert capsys.readouterr().out.startswith("label        ")
    again = train(tiny, "from-the-mean", weights=out)  # and it can be trained on
    assert (again / files.SINGLE).is_file()


def test_the_mean_of_two_copies_is_the_model_itself(
    one: Path, tmp_path: Path, capsys: Capture
) -> None:
    copy = shutil.copytree(one, tmp_path / "copy")
    assert minibert("average", one, copy, "--out", tmp_path / "mean") == 0
    for name in (files.SINGLE, "config.json", "tokenizer.json", "vocab.txt"):
        assert (tmp_path / "mean" / name).read_bytes() == (one / name).read_bytes(), name


def test_the_last_epochs_models_have_a_mean_too(
    tiny: TinyCls, one: Path, other: Path, tmp_path: Path
) -> None:
    last = load_file(other / "last" / files.SINGLE)
    zeros = {name: torch.zeros_like(x) for name, x in last.items()}
    save_file(zeros, other / "last" / files.SINGLE)
    assert minibert("average", one / "last", other / "last", "--out", tmp_path / "mean") == 0
    found, model = (load_file(x / files.SINGLE) for x in (tmp_path / "mean", one / "last"))
    assert all(torch.equal(found[name], model[name] / 2) for name in model)


def test_models_for_questions_have_a_mean_too(tmp_path: Path, capsys: Capture) -> None:
    tiny = Tiny(tmp_path)
    runs = [train(tiny, f"run{seed}", seed=seed) for seed in range(2)]
    assert minibert("average", *runs, "--out", tmp_path / "mean") == 0
    words = ["--model", tmp_path / "mean", "--data", tiny.dev.path]
    assert minibert("evaluate", *words) == 0
    assert "exact_match" in capsys.readouterr().out
    other = train(tiny, "other", seed=2, max_answer_length=7)
    capsys.readouterr()
    found = fails(capsys, "average", runs[0], other, "--out", tmp_path / "other mean")
    assert "differ in max_answer_length: " in found
    change(runs[1] / "eval.json", null_threshold=0.5)
    found = fails(capsys, "average", *runs, "--out", tmp_path / "other mean")
    assert f"{runs[1]} tells by a threshold where a text has no answer" in found


def test_a_mean_is_of_several_runs(one: Path, tmp_path: Path, capsys: Capture) -> None:
    out = ("--out", tmp_path / "mean")
    assert "at least two runs" in fails(capsys, "average", one, *out)
    twice = one.parent / "run1" / ".." / "run0"
    assert "each of them once" in fails(capsys, "average", one, twice, *out)
    assert not (tmp_path / "mean").exists()


def test_what_is_no_trained_run_is_named(
    tiny: TinyCls, one: Path, other: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = ("--out", tmp_path / "mean")
    found = fails(capsys, "average", one, tiny.weights, *out)
    assert f"{tiny.weights} is no run: it has no run.json" in found
    (other / "config.json").unlink()
    assert "has no model yet" in fails(capsys, "average", one, other, *out)
    found = fails(capsys, "average", one, tmp_path / "nowhere", *out)
    assert f"{tmp_path / 'nowhere'} is no run: there is no such directory" in found
    assert minibert("average", one, tiny.folder / "run1", *out) == 0
    capsys.readouterr()
    found = fails(capsys, "average", one, tmp_path / "mean", "--out", tmp_path / "again")
    assert "is a mean of runs itself" in found


def test_runs_that_do_not_belong_together_are_refused(
    one: Path, other: Path, tmp_path: Path, capsys: Capture
) -> None:
    kept = tmp_path / "kept"
    shutil.copytree(other, kept)

    def differ() -> str:
        found = fails(capsys, "average", one, other, "--out", tmp_path / "mean")
        shutil.rmtree(other)
        shutil.copytree(kept, other)
        assert not (tmp_path / "mean").exists()
        return found

    facts = files.read_json(other / "run.json")
    change(other / "run.json", settings=facts["settings"] | {"weights": "tiny-zh"})
    assert f"{one} and {other} differ in weights: a mean" in differ()
    change(other / "run.json", settings=facts["settings"] | {"max_length": 10, "head_tail": True})
    assert "differ in max_length, head_tail: " in differ()
    for fact in ("sha256", "text_column"):
        train_set = facts["data"]["train"] | {fact: "0"}
        change(other / "run.json", data=facts["data"] | {"train": train_set})
        assert "differ in train data: " in differ()
    change(other / "run.json", data=facts["data"] | {"train": 3})
    assert "run.json is damaged: its data are " in differ()
    change(other / "run.json", learned_before=[{"note": "read it all"}])
    assert "differ in what was learned before: " in differ()
    settings = {k: v for k, v in facts["settings"].items() if k != "head_tail"} | {"doc_stride": 8}
    change(other / "run.json", settings=settings)
    assert "are runs of train_cls.py and train_qa.py; " in differ()
    change(other / "config.json", id2label={"0": "odd", "1": "even"})
    assert "differ in config.json: " in differ()
    tokenizer = (other / "tokenizer.json").read_text().replace('"w29"', '"w99"')
    (other / "tokenizer.json").write_text(tokenizer)
    assert "differ in tokenizer: " in differ()
    tensors = load_file(other / files.SINGLE)
    save_file(tensors | {"classifier.bias": torch.zeros(3)}, other / files.SINGLE)
    assert f"{other} has other weights than {one}" in differ()


def test_what_is_there_is_not_written_over(
    tiny: TinyCls, one: Path, other: Path, tmp_path: Path, capsys: Capture
) -> None:
    before = (other / files.SINGLE).read_bytes()
    words = ["average", one, tiny.folder / "run2", "--out"]
    assert fails(capsys, *words, other) == f"error: {other} exists already; choose another --out\n"
    found = fails(capsys, *words, tmp_path / "last")
    assert "would pass for the last model of a run" in found
    assert (other / files.SINGLE).read_bytes() == before


def test_a_disk_that_fills_up_leaves_nothing(
    one: Path, other: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(tensors: Any) -> files.Write:
        def write(path: Path) -> None:
            raise OSError("No space left on device")

        return write

    words = ["average", one, other, "--out", tmp_path / "mean"]
    with monkeypatch.context() as patched:
        patched.setattr(files, "as_tensors", full)
        assert "No space left on device" in fails(capsys, *words)
    assert not any((tmp_path / "mean").iterdir())


def test_a_mean_is_not_resumed(
    one: Path, other: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert minibert("average", one, other, "--out", tmp_path / "mean") == 0
    assert train_cls.main(["--resume", str(tmp_path / "mean")]) == 2
    assert "is a mean of runs; to train it on, start from it" in capsys.readouterr().err


@pytest.mark.reference
def test_transformers_reads_the_mean(one: Path, other: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    assert minibert("average", one, other, "--out", tmp_path / "mean") == 0
    pipe = transformers.pipeline("text-classification", model=str(tmp_path / "mean"))
    assert pipe("w1 w2")[0]["label"] in ("even", "odd")
