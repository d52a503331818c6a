"""`train_cls.py` from its command line to the run directory, as a user sees both."""

from __future__ import annotations

import functools
import io
import json
import math
import os
import shlex
import shutil
import signal
import subprocess
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked import Ended, Forks, error_of, forks
from hub_server import serve_files
from safetensors.torch import load_file
from tiny import (
    assert_learned_the_same,
    assert_padding_does_not_matter,
    json_of,
    killed_runs,
    write_model,
)
from tiny_cls import (
    CONFIG,
    LABELS,
    OF_TEST,
    RESULTS,
    VOCABULARY,
    TinyCls,
    TinyPairs,
    results,
    write_texts,
)
from typed import minibert, python

import train_cls
from minibert import checkpoint, datasets, runs
from minibert.cls.classify import load_classifier
from minibert.cls.columns import USUAL
from minibert.cls.encoding import encode
from minibert.cls.metrics import score
from minibert.cls.reading import Example, read_texts
from minibert.cls.task import (
    ClsSettings,
    class_probabilities,
    failures,
    load_model,
    predictions,
)
from minibert.errors import UserError
from minibert.model import BertForSequenceClassification
from minibert.tokenizer import load_tokenizer
from minibert.train import Training

REPOSITORY = Path(__file__).resolve().parent.parent


class Server:
    """Runs `train_cls.py` in forked processes."""

    def __init__(self, forks: Forks) -> None:
        self.run = functools.partial(forks.run, script="train_cls")


@pytest.fixture(scope="module")
def server() -> Server:
    return Server(forks())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyCls:
    return TinyCls(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> TinyPairs:
    return TinyPairs(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def trained_pairs(pairs: TinyPairs, server: Server) -> Ended:
    """A run in `pairs.folder / "run"`."""
    ended = server.run(pairs.arguments("run"))
    assert ended.code == 0, ended.err
    return ended


# The command of the README.


def sst2_zip(shared: Path, n: dict[str, int]) -> bytes:
    """A zip as GLUE's, with the first n rows of each part and what else lies in it."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("SST-2/original/README.txt", "phrases")
        archive.writestr("../../outside.txt", "this must not be written")
        for part in ("train", "dev"):
            lines = (shared / f"data/sst2/{part}.tsv").read_text(encoding="utf-8").splitlines()
            archive.writestr(f"SST-2/{part}.tsv", "\n".join(lines[: n[part] + 1]) + "\n")
        archive.writestr("SST-2/test.tsv", "index\tsentence\n0\tuneasy mishmash .\n1\tfine .\n")
    return content.getvalue()


@pytest.fixture
def mirror(shared: Path, tmp_path: Path) -> Iterator[str]:
    """A web server with a small SST-2.zip at the path of the real one: its address."""
    path = tmp_path / "www/glue/data/SST-2.zip"
    path.parent.mkdir(parents=True)
    path.write_bytes(sst2_zip(shared, {"train": 300, "dev": 30}))
    with serve_files(tmp_path / "www") as url:
        yield url


# `python train_cls.py …` with other numbers of texts, since the zip is not the real one.
RUNNER = """
import json, runpy, sys
from dataclasses import replace
from minibert import datasets
archive = datasets.ARCHIVES["sst2"]
counts = json.loads(sys.argv.pop(1))
members = {part: (name, counts.get(part, n)) for part, (name, n) in archive.members.items()}
datasets.ARCHIVES["sst2"] = replace(archive, members=members)
sys.argv[0] = sys.argv.pop(1)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_sst2(
    shared: Path, url: str, here: Path, counts: dict[str, int]
) -> subprocess.CompletedProcess[str]:
    """The README's command."""
    script = str(REPOSITORY / "train_cls.py")
    command = ["-c", RUNNER, json.dumps(counts), script, "--data", "sst2"]
    return python(command, here, shared / "bert-base-cased", url, PYTHONPATH=str(REPOSITORY))


def test_the_one_command_fetches_unpacks_trains_and_scores(
    shared: Path, mirror: str, tmp_path: Path
) -> None:
    here = tmp_path / "a/b/here"
    here.mkdir(parents=True)
    ended = run_sst2(shared, mirror, here, {"train": 300, "dev": 30, "test": 2})
    assert ended.returncode == 0, ended.stderr
    assert "the texts are not Chinese: starting from bert-base-cased" in ended.stderr
    assert "train.tsv: 300 texts; text: column 1 'sentence', label: column 2" in ended.stderr
    run = here / "runs/sst2-bert-base-cased-0"
    assert {name for name in RESULTS if not (run / name).is_file()} == set()
    settings = json_of(run / "run.json")["settings"]
    recipe = ("lr", "batch_size", "epochs", "max_length", "head_tail")
    assert [settings[name] for name in recipe] == [2e-5, 32, 3, 128, False]
    assert settings["recipe"].startswith("BERT paper, section 4.1")
    # Only what is known was taken out of the zip, to where it belongs.
    assert {p.name for p in (here / "data/sst2").iterdir()} - {".lock"} == {
        *("SST-2.zip", "train.tsv", "dev.tsv", "test.tsv")
    }
    assert not list(tmp_path.rglob("outside.txt")) and not list(tmp_path.rglob("original"))
    lines = (run / "test_predictions.tsv").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("index\tprediction\t") and len(lines) == 3
    assert not (run / "test.json").exists()


def test_a_zip_with_other_numbers_of_texts_is_refused(
    shared: Path, mirror: str, tmp_path: Path
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    ended = run_sst2(shared, mirror, here, {"dev": 30})
    assert ended.returncode == 2
    [error] = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert "train.tsv has 300 texts where sst2 has 67,349" in error
    assert not (here / "runs").exists()


def test_the_counts_are_those_of_the_real_files(shared: Path) -> None:
    members = datasets.ARCHIVES["sst2"].members
    assert {part: n for part, (_, n) in members.items()} == {
        "train": 67_349,
        "dev": 872,
        "test": 1_821,
    }
    assert datasets.ARCHIVES["sst2"].url == "https://dl.fbaipublicfiles.com/glue/data/SST-2.zip"


# What the run directory holds.


def rows_of(path: Path) -> list[dict[str, str]]:
    header, *lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    names = header.split("\t")
    return [dict(zip(names, line.split("\t"), strict=True)) for line in lines]


def test_the_files_agree_with_each_other_and_with_the_metrics(
    tiny: TinyCls, trained: Ended
) -> None:
    run = tiny.folder / "run"
    predictions = rows_of(run / "predictions.tsv")
    examples = tiny.dev.examples
    assert [row["text"] for row in predictions] == [example.text for example in examples]
    assert [row["label"] for row in predictions] == [example.label for example in examples]
    assert [row["index"] for row in predictions] == [str(i) for i in range(24)]
    number = LABELS.index
    golds = [number(row["label"]) for row in predictions]
    expected = score(golds, [number(row["prediction"]) for row in predictions], 2)
    scores = json_of(run / "eval.json")
    assert scores["accuracy"] == expected.accuracy and scores["macro_f1"] == expected.macro_f1
    assert scores["matthews"] == expected.matthews and scores["total"] == 24
    assert scores["labels"] == LABELS
    assert scores["confusion_matrix"] == expected.counts.tolist()
    for label, of_class in zip(LABELS, expected.per_class, strict=True):
        assert scores["per_class"][label] == of_class._asdict()
    failures = rows_of(run / "failures.tsv")
    wrong = [row for row in predictions if row["label"] != row["prediction"]]
    wrong.sort(key=lambda row: -float(row["probability"]))
    keys = ("text", "gold", "predicted", "probability")
    assert [[row[key] for key in keys] for row in failures] == [
        [row[key] for key in ("text", "label", "prediction", "probability")] for row in wrong
    ]
    assert len(failures) > 0
    assert list(failures[0]) == list(keys)
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    evaluations = [row for row in metrics if "matthews" in row]
    assert max(row["accuracy"] for row in evaluations) == scores["accuracy"]
    assert all(0 <= row["accuracy"] <= 1 for row in metrics if "loss" in row)
    # And what we write, we read.
    again = read_texts(run / "predictions.tsv")
    assert [(e.text, e.label) for e in again.examples] == [(e.text, e.label) for e in examples]


def test_labels_are_kept_by_name_and_run_json_says_what_was_understood(
    tiny: TinyCls, trained: Ended
) -> None:
    run = tiny.folder / "run"
    assert json_of(run / "config.json")["id2label"] == {"0": "even", "1": "odd"}
    assert json_of(run / "config.json")["label2id"] == {"even": 0, "odd": 1}
    facts = json_of(run / "run.json")
    flags = {action.dest for action in train_cls.parser()._actions} - {"help", "resume", "device"}
    assert flags <= set(facts["settings"])  # every one, given or not
    assert facts["data"]["train"]["label_column"] == "column 2 'label'"
    assert sum(facts["data"]["train"]["classes"].values()) == 39
    assert facts["counts"] == {
        **{"train_texts": 39, "train_texts_cut": 0, "dev_texts": 24, "dev_texts_cut": 0}
    }


def test_the_surest_50_mistakes_are_shown_each_on_one_line() -> None:
    examples = [Example(f"a\tb{i}\nc", None, "no", i) for i in range(60)]
    sure = np.linspace(0.6, 0.9, 60, dtype=np.float32)
    probabilities = np.stack([1 - sure, sure], axis=1)
    header, *lines = failures(examples, probabilities, ["no", "yes"]).splitlines()
    assert [line.split("\t") for line in lines] == [
        [f"a b{i} c", "no", "yes", f"{sure[i]:.6f}"] for i in range(59, 9, -1)
    ]
    header, *lines = predictions(examples, probabilities, ["no", "yes"]).splitlines()
    assert len(lines) == 60 and {line.count("\t") for line in lines} == {header.count("\t")}


def test_evaluate_gives_what_the_training_run_gave_to_the_byte(
    tiny: TinyCls,
    pairs: TinyPairs,
    trained: Ended,
    trained_pairs: Ended,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for folder, data in ((tiny.folder, tiny.dev.path), (pairs.folder, pairs.folder / "pairs")):
        run, out = folder / "run", tmp_path / folder.name
        words = ("--model", run, "--data", data, "--out", out)
        assert minibert("evaluate", *words, "--json") == 0
        captured = capsys.readouterr()
        assert json.loads(captured.out) == json_of(run / "eval.json")
        written = ["confusion.svg", "eval.json", "failures.tsv", "predictions.tsv"]
        assert sorted(path.name for path in out.iterdir()) == written
        for name in written:
            assert (out / name).read_bytes() == (run / name).read_bytes(), name
        n = json_of(run / "run.json")["counts"]["dev_texts_cut"]
        assert (f"dev.tsv: {n} of 24 texts" in captured.err) is (n > 0)


@pytest.mark.reference
def test_transformers_pipeline_takes_texts_of_any_length(tiny: TinyCls, trained: Ended) -> None:
    transformers = pytest.importorskip("transformers")
    run = tiny.folder / "run"
    pipeline = transformers.pipeline("text-classification", model=str(run), truncation=True)
    texts = [example.text for example in tiny.dev.examples] + ["w1 " * 600]
    ours = load_classifier(str(run))
    ours = replace(ours, settings=ours.settings._replace(max_length=24))  # all that the model has
    for theirs, verdict in zip(
        pipeline(texts), ours.classify([(text, None) for text in texts]), strict=True
    ):
        assert theirs["label"] == verdict.label
        assert theirs["score"] == pytest.approx(verdict.probability, abs=1e-5)


@pytest.mark.reference
@pytest.mark.parametrize("folder", [".", "last"])
def test_transformers_loads_the_run_as_it_is_and_gives_the_same_classes(
    tiny: TinyCls, trained: Ended, folder: str
) -> None:
    transformers = pytest.importorskip("transformers")
    run = tiny.folder / "run" / folder
    theirs, report = transformers.AutoModelForSequenceClassification.from_pretrained(
        run, output_loading_info=True
    )
    assert type(theirs).__name__ == "BertForSequenceClassification"
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert theirs.config.id2label == {0: "even", 1: "odd"}
    tokenizer = transformers.AutoTokenizer.from_pretrained(run)
    ours = BertForSequenceClassification.from_pretrained(run)
    texts = [(example.text, None) for example in tiny.dev.examples]
    for text, pair in [*texts, ("w1 w2", "w3"), ("w4", "w5 w6 w7")]:
        encoded = tokenizer(text, pair, return_tensors="pt")
        [row] = encode([(text, pair)], load_tokenizer(run), 24).rows
        assert encoded["input_ids"][0].tolist() == row.input_ids.tolist()
        assert encoded["token_type_ids"][0].tolist() == row.token_type_ids.tolist()
        with torch.no_grad():
            logits = theirs(**encoded).logits
            mine = ours(encoded["input_ids"], None, encoded["token_type_ids"])
        torch.testing.assert_close(logits, mine, atol=1e-5, rtol=0)


# Settings.


def test_help_names_the_usual_columns_and_all_files_of_a_run(
    pairs: TinyPairs, trained_pairs: Ended, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        train_cls.main(["--help"])
    text = capsys.readouterr().out
    words = {word.strip("(),;.") for word in text.split()}
    assert {"sentence", "text", "text_a", "text_b", "label"} <= words & USUAL
    assert "docs/labelled-texts.md" in words
    left = {path.name for path in (pairs.folder / "run").iterdir() if path.is_file()}
    assert left <= words and {"run.json", *OF_TEST} <= left


def test_help_names_the_recipe_and_its_source(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        train_cls.main(["--help"])
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "2e-5, batch 32, 3 epochs, length 128, from the BERT paper (section 4.1" in text
    assert "Sun et al. 2019" in text
    for flag in ("--data", "--text-column", "--pair-column", "--label-column", "--head-tail"):
        assert flag in text


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("这家酒店的服务很好，早餐也不错。", "bert-base-chinese"),
        ("a fine hotel", "bert-base-cased"),
    ],
)
def test_the_checkpoint_follows_the_language(
    tiny: TinyCls, capsys: pytest.CaptureFixture[str], text: str, weights: str
) -> None:
    train = replace(tiny.train, examples=[replace(e, text=text) for e in tiny.train.examples])
    filled = train_cls.with_defaults({"lr": 1e-4}, train)
    assert (filled["weights"], filled["lr"], filled["epochs"]) == (weights, 1e-4, 3)
    assert f"starting from {weights}" in capsys.readouterr().err
    other = replace(
        tiny.train.examples[0], text="这 a b c" if weights == "bert-base-cased" else "a"
    )
    mixed = replace(train, examples=[other, *train.examples])  # one text alone says little
    assert train_cls.with_defaults({"lr": 1e-4}, mixed)["weights"] == weights
    capsys.readouterr()
    assert train_cls.with_defaults({"weights": "mine"}, train)["weights"] == "mine"
    assert capsys.readouterr().err == ""


def test_a_directory_with_a_test_set_and_pairs_and_a_single_file(
    tiny: TinyCls, server: Server, tmp_path: Path
) -> None:
    folder = tmp_path / "pairs"
    folder.mkdir()
    for part, n in (("train", 20), ("dev", 8), ("test", 6)):
        rows = [
            {"premise": f"w{i} w2", "hypothesis": f"w{i % 3}", "label": i % 3, "id": i}
            for i in range(n)
        ]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{part}.jsonl").write_text(lines, encoding="utf-8")
    given = {"train": None, "dev": None, "epochs": 1}
    ended = server.run(tiny.arguments(tmp_path / "run", data=folder, **given))
    assert ended.code == 0, ended.err
    assert "20 pairs of texts; text: column 1 'premise', second text: column 2" in ended.err[0]
    run = tmp_path / "run"
    assert json_of(run / "config.json")["id2label"] == {"0": "0", "1": "1", "2": "2"}
    assert json_of(run / "test.json")["total"] == 6
    assert list(rows_of(run / "test_predictions.tsv")[0]) == [
        *("index", "prediction", "probability", "label", "text_a", "text_b")
    ]
    ended = server.run(tiny.arguments(tmp_path / "one", data=tiny.train.path, **given, limit=7))
    assert ended.code == 0, ended.err
    assert "a tenth, drawn by hash, of the texts of train.tsv is held out for that" in ended.err[0]
    assert "--limit: of 35 texts the first 7 are trained on" in ended.err[0]
    facts = json_of(tmp_path / "one/run.json")
    assert facts["counts"]["train_texts"] == 7 and facts["counts"]["dev_texts"] == 4


def test_texts_that_are_too_long_are_counted_and_both_ends_kept_if_asked(
    pairs: TinyPairs, trained_pairs: Ended
) -> None:
    facts = json_of(pairs.folder / "run/run.json")
    assert facts["settings"]["head_tail"] is True
    for part in ("train", "dev", "test"):
        examples = read_texts(pairs.folder / f"pairs/{part}.tsv").examples
        n = sum(len(f"{e.text} {e.pair}".split()) > 10 for e in examples)
        assert facts["counts"][f"{part}_texts_cut"] == n > 0
        said = f"{part}: {n} of {len(examples)} texts had more than 13 tokens and were cut; what is"
        assert said in trained_pairs.err[0]


def test_what_it_says_last_can_be_typed(
    trained_pairs: Ended, capsys: pytest.CaptureFixture[str]
) -> None:
    *_, last = trained_pairs.err[0].splitlines()
    words = shlex.split(last.removeprefix("try it: minibert "))
    assert words[:2] == ["classify", "--model"] and words[-2] == "--pair"
    assert minibert(*words) == 0
    assert capsys.readouterr().out.startswith("label        ")


def test_a_small_bert_learns_the_rule(tmp_path: Path) -> None:
    """Whether the first number is even needs position and word together."""
    tiny = TinyCls(tmp_path, n=600, dropout=0.0)
    training = tiny.training(epochs=8, batch_size=16, lr=3e-3, save_every=1000)
    assert training.task.evaluate(training.model)[0]["accuracy"] < 0.8
    training.go()
    assert training.progress.best["accuracy"] == 1.0


# Killed, stopped, shared out.


def test_killed_at_random_times_it_comes_to_the_same_end_byte_for_byte(
    pairs: TinyPairs, server: Server, trained_pairs: Ended
) -> None:
    expected = results(pairs.folder / "run")
    assert {*OF_TEST} <= expected.keys()
    for run in killed_runs(server, pairs, kills=4, seconds=trained_pairs.seconds, seed=4):
        assert results(run) == expected


def test_stopped_it_says_how_to_go_on_and_does(
    tiny: TinyCls, server: Server, trained: Ended
) -> None:
    patch = ("test_train_cls", "stop_at", "4")
    ended = server.run(tiny.arguments("stopped"), patches=[patch])
    assert ended.code == 130
    run = tiny.folder / "stopped"
    assert f"go on with: python train_cls.py --resume {run}" in ended.err[0]
    error = server.run(["--resume", str(run), "--lr", "0.1"]).err[0]
    assert "cannot be resumed with other settings than it has: lr was 0.001" in error
    assert server.run(["--resume", str(run)]).code == 0
    assert results(run) == results(tiny.folder / "run")
    assert "is finished" in server.run(["--resume", str(run)]).err[0]


def stop_at(step: str) -> None:
    """A patch: Ctrl-C comes during this step."""
    original = Training.step

    def stopping(self: Training, examples: list[int]) -> bool:
        if self.progress.step == int(step):
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, examples)

    Training.step = stopping  # type: ignore[method-assign]


def test_a_run_goes_on_with_its_own_data_alone(
    tiny: TinyCls, server: Server, tmp_path: Path
) -> None:
    data = {part: write_texts(tmp_path / f"{part}.tsv", 12, seed=3) for part in ("train", "dev")}
    patches = [("test_train_cls", "stop_at", "2")]
    assert server.run(tiny.arguments(tmp_path / "run", **data), patches=patches).code == 130
    write_texts(data["train"], 12, seed=4)
    ended = server.run(["--resume", str(tmp_path / "run")])
    assert ended.code == 2
    assert "train.tsv is no longer the train data that" in ended.err[0]


def test_a_run_does_not_go_on_without_a_part_of_its_data(tmp_path: Path) -> None:
    data = {part: {"file": f"{part}.tsv", "sha256": part} for part in ("train", "dev", "test")}
    (tmp_path / "run.json").write_text(json.dumps({"settings": {}, "data": data}), encoding="utf-8")
    runs.check_data(tmp_path, data)
    del data["test"]
    with pytest.raises(UserError, match=r"the test data that .* began with is gone: test\.tsv"):
        runs.check_data(tmp_path, data)


def test_a_run_goes_on_with_the_texts_alone_that_it_took(
    tiny: TinyCls, server: Server, tmp_path: Path
) -> None:
    run, data = tmp_path / "run", write_texts(tmp_path / "all.tsv", 40, seed=3)
    given = {"train": None, "dev": None, "data": data}
    patches = [("test_train_cls", "stop_at", "2")]
    assert server.run(tiny.arguments(run, **given), patches=patches).code == 130
    facts = json_of(run / "run.json")
    facts["data"]["dev"]["texts_taken"] = "every 10th"  # by another rule than today's
    (run / "run.json").write_text(json.dumps(facts), encoding="utf-8")
    ended = server.run(["--resume", str(run)])
    assert ended.code == 2
    assert "all.tsv is read in another way than when" in ended.err[0]
    assert "by another version of minibert; start anew" in ended.err[0]


def test_two_processes_learn_what_one_learns(
    server: Server, tmp_path_factory: pytest.TempPathFactory
) -> None:
    calm = TinyPairs(tmp_path_factory.mktemp("calm"), dropout=0.0)
    one = server.run(calm.arguments("one"))
    two = server.run(calm.arguments("two"), processes=2)
    assert one.codes == [0] and two.codes == [0, 0], two.err
    assert_learned_the_same(calm.folder / "two", calm.folder / "one")
    assert rows_of(calm.folder / "two/predictions.tsv")[0]["label"] in LABELS
    assert json_of(calm.folder / "two/run.json")["processes"] == 2
    said = "text: column 1 'text_a'"  # by the main process alone
    assert said in two.err[0] and said not in two.err[1]
    assert checkpoint.found(calm.folder / "two")


# The task.


def test_the_saved_tokenizer_cuts_texts_where_the_model_ends(tiny: TinyCls, tmp_path: Path) -> None:
    model = tiny.model()
    tiny.task().save(model, tmp_path)
    positions = model.config.max_position_embeddings
    assert json_of(tmp_path / "tokenizer_config.json")["model_max_length"] == positions


def test_a_head_is_taken_over_if_it_is_for_the_same_classes(
    tiny: TinyCls, trained: Ended, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tiny.folder / "run"
    kept = load_file(run / "model.safetensors")["classifier.weight"]
    assert torch.equal(load_model(run, LABELS).classifier.weight, kept)
    assert capsys.readouterr().err == ""
    for labels in (["odd", "even"], ["a", "b", "c"]):
        torch.manual_seed(0)
        model = load_model(run, labels)
        assert "is for other classes (even, odd): a new one" in capsys.readouterr().err
        assert model.classifier.weight.shape == (len(labels), 24)
        assert 0 < model.classifier.weight.std() < 0.03 and not model.classifier.bias.any()
        assert list(model.config.id2label.values()) == labels
        model.save_pretrained(tmp_path)
        assert torch.equal(load_model(tmp_path, labels).classifier.weight, model.classifier.weight)
        capsys.readouterr()
    # tiny.weights has a head for two classes without names.
    stored = load_file(tiny.weights / "model.safetensors")["classifier.weight"]
    assert torch.equal(load_model(tiny.weights, LABELS).classifier.weight, stored)


def test_a_checkpoint_s_kind_of_problem_is_not_the_run_s(tiny: TinyCls, tmp_path: Path) -> None:
    shutil.copytree(tiny.weights, tmp_path / "weights")
    config = json_of(tmp_path / "weights/config.json") | {"problem_type": "regression", "kept": 1}
    (tmp_path / "weights/config.json").write_text(json.dumps(config), encoding="utf-8")
    load_model(tmp_path / "weights", LABELS).save_pretrained(tmp_path / "saved")
    saved = json_of(tmp_path / "saved/config.json")
    assert "problem_type" not in saved and saved["kept"] == 1


def test_the_loss_of_a_text_does_not_depend_on_the_padding_beside_it(tiny: TinyCls) -> None:
    model, task = tiny.model(), tiny.task()
    examples = assert_padding_does_not_matter(model, task)
    batch = task.batch(examples)
    assert [LABELS[i] for i in batch["labels"].tolist()] == [
        tiny.train.examples[i].label for i in examples
    ]
    assert task.names([0, 3]) == ["line 2 of train.tsv", "line 5 of train.tsv"]


def test_probabilities_come_in_the_order_of_the_texts(tiny: TinyCls) -> None:
    model, task = tiny.model(), tiny.task()
    together = class_probabilities(model, task.encoded.rows, task.pad_id)
    assert together.shape == (39, 2)
    for i in (0, 7, 38):
        alone = class_probabilities(model, [task.encoded.rows[i]], task.pad_id)
        assert together[i].tolist() == pytest.approx(alone[0].tolist(), abs=1e-5)
    assert together.sum(axis=1).tolist() == pytest.approx([1.0] * 39, abs=1e-5)


# Mistakes.


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"data": "sst", "train": None, "dev": None}, "did you mean sst2?"),
        ({"train": None}, "or name --data (sample, sst2, a file or a directory)"),
        ({"train": "nowhere.tsv"}, "nowhere.tsv does not exist"),
        ({"text_column": "body"}, "has no column 'body'; there are 1 'sentence', 2 'label'"),
        ({"label_column": "1"}, "has 39 different values in 39 texts, so it is no class"),
        ({"label_column": "1", "text_column": "1"}, "must be columns of their own"),
        ({"max_length": 64}, "--max-length 64 is more than the model's 24 positions"),
        ({"max_length": 2}, "--max-length 2 leaves no room for a text"),
        ({"weights": "no such/place/at all"}, "there is no directory no such/place/at all"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_no_directory(
    tiny: TinyCls, server: Server, tmp_path: Path, flags: dict[str, Any], says: str
) -> None:
    offline = {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
    out = tmp_path / "run"
    ended = server.run(tiny.arguments(out, **flags), environment=offline)
    assert says in error_of(ended)
    assert not out.exists()


def test_data_that_does_not_fit_is_one_sentence_too(
    tiny: TinyCls, server: Server, tmp_path: Path
) -> None:
    dev = tmp_path / "dev.tsv"
    dev.write_text("sentence\tlabel\nw1 w2\tprime\n", encoding="utf-8")
    error = error_of(server.run(tiny.arguments(tmp_path / "run", dev=dev)))
    assert "dev.tsv, line 2: the label 'prime' does not occur in" in error
    dev.write_text("sentence\tlabel\nw1\tw2\todd\n", encoding="utf-8")
    error = error_of(server.run(tiny.arguments(tmp_path / "run", dev=dev)))
    assert "dev.tsv, line 2: this row has 3 columns" in error
    questions = tmp_path / "squad.json"
    questions.write_text(json.dumps({"data": []}, indent=1), encoding="utf-8")
    assert "line 1: this is no JSON" in error_of(
        server.run(tiny.arguments(tmp_path / "run", train=questions))
    )
    assert not (tmp_path / "run").exists()


def test_a_model_with_one_token_type_learns_no_pairs(
    pairs: TinyPairs, server: Server, tmp_path: Path
) -> None:
    one_type = write_model(tmp_path / "weights", CONFIG | {"type_vocab_size": 1}, VOCABULARY, 0.0)
    error = error_of(server.run(pairs.arguments(tmp_path / "run", weights=one_type)))
    assert "cannot tell the two texts of a pair apart" in error


def test_a_loss_that_is_no_number_names_the_lines(tiny: TinyCls, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    model = tiny.model()
    with torch.no_grad():
        model.classifier.weight.fill_(math.nan)
    run = Training(model, tiny.task(), tiny.training().recipe, tmp_path / "run")
    with pytest.raises(UserError, match=r"the loss is nan at step 1, in the batch of line \d+ of"):
        run.go()


def test_settings_are_only_those_that_the_model_needs_to_be_asked_with() -> None:
    assert ClsSettings._fields == ("max_length", "head_tail")
