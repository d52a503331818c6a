"""`train_qa.py` from its command line to the run directory, as a user sees both."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked import Ended, Forks, error_of
from hub_server import serve_files
from numpy_checkpoint import CHINESE, write_checkpoint
from tiny import assert_padding_does_not_matter, json_of
from tiny_qa import RESULTS, SETTINGS, Tiny, results, write_questions
from typed import python

import train_qa
from minibert import datasets
from minibert.datasets import blob_id
from minibert.errors import UserError
from minibert.metrics import score_all
from minibert.model import BertForQuestionAnswering
from minibert.optimization import Recipe
from minibert.qa.reading import read_questions
from minibert.qa.recipes import LANGUAGES
from minibert.qa.task import QASettings, QATask, check_fits, span_loss
from minibert.tokenizer import load_tokenizer
from minibert.train import Training

REPOSITORY = Path(__file__).resolve().parent.parent


# The command of the README.


def part_of(path: Path, n: int) -> bytes:
    """A CMRC file with the first n questions of this one, and their contexts alone."""
    data = json_of(path)
    for article in data["data"]:
        for paragraph in article["paragraphs"]:
            paragraph["qas"] = paragraph["qas"][: max(n, 0)]
            n -= len(paragraph["qas"])
        article["paragraphs"] = [p for p in article["paragraphs"] if p["qas"]]
    data["data"] = [article for article in data["data"] if article["paragraphs"]]
    return json.dumps(data, ensure_ascii=False).encode()


@pytest.fixture
def mirror(shared: Path, tmp_path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """A web server with CMRC's files at the paths of the real ones: its address, and their ids.

    They are parts of the real dev set, since the training set is not to be had.
    """
    ids = {}
    for part, n in (("train", 40), ("dev", 6)):
        source = datasets.MANIFEST["cmrc2018"][part]
        path = tmp_path / "www" / source.repository / source.commit / source.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(part_of(shared / "data/cmrc2018/cmrc2018_dev.json", n))
        ids[part] = blob_id(path)
    with serve_files(tmp_path / "www") as url:
        yield url, ids


# Python imports a sitecustomize.py before anything else. This one puts other ids into the manifest,
# since the files are not the real ones; so the command line is the user's, to the letter.
SITECUSTOMIZE = """
import json, os
from dataclasses import replace
from minibert import datasets
for part, blob_id in json.loads(os.environ["TEST_BLOB_IDS"]).items():
    sources = datasets.MANIFEST["cmrc2018"]
    sources[part] = replace(sources[part], blob_id=blob_id)
"""


def test_the_one_command_fetches_trains_and_scores(
    shared: Path, mirror: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    url, ids = mirror
    here = tmp_path / "here"
    here.mkdir()
    (here / "train_qa.py").symlink_to(REPOSITORY / "train_qa.py")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SITECUSTOMIZE)
    result = python(
        ["train_qa.py", "--data", "cmrc2018", "--limit", "32"],
        *(here, shared / "bert-base-chinese", url),
        PYTHONPATH=os.pathsep.join([str(tmp_path / "site"), str(REPOSITORY)]),
        TEST_BLOB_IDS=json.dumps(ids),
    )
    assert result.returncode == 0, result.stderr
    assert "the texts are Chinese: starting from bert-base-chinese" in result.stderr
    run = here / "runs" / "cmrc2018-bert-base-chinese-0"
    assert "saved in runs/cmrc2018-bert-base-chinese-0" in result.stderr
    assert "minibert ask --model runs/cmrc2018-bert-base-chinese-0" in result.stderr
    assert {name for name in RESULTS if not (run / name).is_file()} == set()
    for part in ("train", "dev"):  # fetched, verified and kept
        source = datasets.MANIFEST["cmrc2018"][part]
        assert blob_id(here / "data/cmrc2018" / Path(source.path).name) == ids[part]

    facts = json_of(run / "run.json")
    settings = facts["settings"]
    assert {name: settings[name] for name in ("lr", "batch_size", "epochs")} == {
        "lr": 3e-5,
        "batch_size": 32,
        "epochs": 2,
    }
    assert (settings["max_length"], settings["doc_stride"], settings["limit"]) == (512, 128, 32)
    assert (settings["weights"], settings["metric"]) == ("bert-base-chinese", "cmrc2018")
    assert facts["data"]["train"]["questions"] == 40 and facts["data"]["dev"]["questions"] == 6
    assert 32 <= facts["counts"]["train_windows"] < 80

    rows = [json.loads(line) for line in (run / "metrics.jsonl").open(encoding="utf-8")]
    steps = [row for row in rows if "loss" in row]
    assert [row["epoch"] for row in steps] == [1, 2]
    n_windows = facts["counts"]["train_windows"]
    assert steps[-1]["step"] == 2 * math.ceil(n_windows / 32)
    assert all(0 < row["loss"] < 20 for row in steps)
    assert [row["total"] for row in rows if "f1" in row] == [6, 6]
    dev = read_questions(here / "data/cmrc2018/cmrc2018_dev.json")
    predictions = json_of(run / "predictions.json")
    assert [q.id for q in dev.questions] == list(predictions)
    assert all(predictions[q.id] in q.context for q in dev.questions)


# What the run directory holds.


def test_predictions_are_in_the_official_format_and_scored_by_it(
    tiny: Tiny, trained: Ended
) -> None:
    run = tiny.folder / "run"
    predictions = json_of(run / "predictions.json")
    assert list(predictions) == [q.id for q in tiny.dev.questions]
    assert all(isinstance(text, str) and text for text in predictions.values())
    golds = {q.id: q.gold_texts for q in tiny.dev.questions}
    score = score_all(golds, predictions, "cmrc2018")
    assert json_of(run / "eval.json") == score.as_dict()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    best = max((row for row in rows if "f1" in row), key=lambda row: row["f1"])
    assert best["f1"] == score.f1


def test_n_best_lists_and_failures_agree_with_the_predictions(tiny: Tiny, trained: Ended) -> None:
    run = tiny.folder / "run"
    predictions, n_best = json_of(run / "predictions.json"), json_of(run / "nbest.json")
    assert list(n_best) == list(predictions)
    lines = (run / "nbest.json").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2 + len(n_best)  # a question a line, for people and grep
    questions = {q.id: q for q in tiny.dev.questions}
    for name, spans in n_best.items():
        assert spans[0]["text"] == predictions[name]
        assert 1 < len(spans) <= 20
        assert sum(span["probability"] for span in spans) == pytest.approx(1.0)
        for span in spans:
            context = questions[name].context
            assert context[span["start_char"] : span["end_char"]] == span["text"]
    failures = [json.loads(line) for line in (run / "failures.jsonl").open(encoding="utf-8")]
    wrong = {q.id for q in tiny.dev.questions if predictions[q.id] not in q.gold_texts}
    assert {failure["id"] for failure in failures} == wrong != set()
    surest = [failure["probability"] for failure in failures]
    assert surest == sorted(surest, reverse=True)
    for failure in failures:
        question = questions[failure["id"]]
        assert failure["predicted"] == predictions[question.id]
        assert failure["probability"] == n_best[question.id][0]["probability"]
        assert failure["gold"] == list(question.gold_texts)
        assert (failure["question"], failure["context"]) == (question.question, question.context)


def test_run_json_says_how_the_run_was_made(tiny: Tiny, trained: Ended) -> None:
    facts = json_of(tiny.folder / "run/run.json")
    settings = facts["settings"]
    flags = {action.dest for action in train_qa.parser()._actions} - {"help", "resume", "device"}
    assert flags <= set(settings)  # every one, given or not
    assert (settings["lr"], settings["epochs"], settings["seed"]) == (1e-3, 2, 0)
    assert settings["recipe"].startswith("CMRC 2018 baseline")
    assert facts["fixed"] == {
        **{"warmup": 0.1, "weight_decay": 0.01, "betas": [0.9, 0.999], "eps": 1e-6},
        "max_grad_norm": 1.0,
    }
    for part, n in (("train", 24), ("dev", 8)):
        path = tiny.folder / f"{part}.json"
        assert facts["data"][part]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert facts["data"][part]["file"] == str(path)
        assert facts["data"][part]["questions"] == facts["data"][part]["answers"] == n
    assert facts["counts"] == {
        "train_windows": 39,
        "dev_windows": len(tiny.task().dev_windows.windows),
    }
    assert facts["versions"]["python"] == platform.python_version()
    for name in ("torch", "tokenizers", "safetensors", "numpy"):
        assert facts["versions"][name] == version(name)
    assert facts["processes"] == 1


def test_the_kept_model_gives_the_predictions_again(tiny: Tiny, trained: Ended) -> None:
    run = tiny.folder / "run"
    model = BertForQuestionAnswering.from_pretrained(run)
    assert model.load_report is not None and not model.load_report.newly_initialized
    task = QATask(load_tokenizer(run), SETTINGS, tiny.dev)
    scores, texts = task.evaluate(model)
    assert scores == json_of(run / "eval.json")
    for name in ("predictions.json", "eval.json"):
        assert json.loads(texts[name]) == json_of(run / name)


@pytest.mark.reference
@pytest.mark.parametrize("folder", [".", "last"])
def test_transformers_loads_the_run_as_it_is_and_finds_the_same_answers(
    tiny: Tiny, trained: Ended, folder: str
) -> None:
    transformers = pytest.importorskip("transformers")
    run = tiny.folder / "run" / folder
    theirs, report = transformers.AutoModelForQuestionAnswering.from_pretrained(
        run, output_loading_info=True
    )
    assert type(theirs).__name__ == "BertForQuestionAnswering"
    assert not report["missing_keys"] and not report["unexpected_keys"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(run)
    ours = BertForQuestionAnswering.from_pretrained(run)
    predictions = json_of(tiny.folder / "run/predictions.json")
    compared = 0
    for question in tiny.dev.questions:
        encoded = tokenizer(question.question, question.context, return_tensors="pt")
        n = encoded["input_ids"].size(1)
        if n > SETTINGS.max_length:
            continue  # several windows: what transformers calls a stride is something else
        with torch.no_grad():
            logits = theirs(**encoded)
            mine = ours(encoded["input_ids"], None, encoded["token_type_ids"])
        torch.testing.assert_close(logits.start_logits, mine.start_logits, atol=1e-5, rtol=0)
        torch.testing.assert_close(logits.end_logits, mine.end_logits, atol=1e-5, rtol=0)
        start, end = (x[0].double().numpy() for x in (logits.start_logits, logits.end_logits))
        places = np.arange(n)
        in_context = (encoded["token_type_ids"][0].numpy() == 1) & (places < n - 1)
        length = places[None, :] - places[:, None]
        allowed = in_context[:, None] & in_context[None, :] & (length >= 0)
        allowed &= length < SETTINGS.max_answer_length
        best = np.where(allowed, start[:, None] + end[None, :], -np.inf).argmax()
        first, last = divmod(int(best), n)
        (text,) = [tokenizer.decode(encoded["input_ids"][0, first : last + 1]).replace(" ", "")]
        if folder == ".":
            assert predictions[question.id] == text
        compared += 1
    assert compared >= 3


# Settings.


def test_help_names_the_recipes_and_their_sources(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        train_qa.main(["--help"])
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert (
        "cmrc2018, drcd, other data in Chinese: CMRC 2018 baseline (ymcui/cmrc2018, "
        "baseline/README.md) 3e-5, batch 32, 2 epochs, length 512, stride 128, from "
        "bert-base-chinese "
    ) in text
    assert (
        "squad, squad2, other data in another language: BERT paper (section 4.2) and "
        "google-research/bert, run_squad.py 5e-5, batch 32, 3 epochs, length 384, stride 128, "
        "from bert-base-cased "
    ) in text
    assert "every 10th context of the training file is held out" in text
    for flag in ("--data", "--precision", "--accumulation", "--compile", "--resume", "--limit"):
        assert flag in text
    assert (
        "--doc-stride TOKENS from one window's start to the next's, where a text is longer than "
        "--max-length; as in run_squad.py (transformers' stride is the overlap of two windows "
        "instead)"
    ) in text
    assert "torchrun --nproc_per_node=2 train_qa.py" in text
    for file in ("predictions.json", "failures.jsonl", "metrics.jsonl", "curves.svg"):
        assert file in text


CHINESE_RECIPE = {
    **{"lr": 3e-5, "batch_size": 32, "epochs": 2, "max_length": 512, "doc_stride": 128},
    **{"weights": "bert-base-chinese", "metric": "cmrc2018", "max_answer_length": 80},
}
OTHER_RECIPE = {
    **{"lr": 5e-5, "batch_size": 32, "epochs": 3, "max_length": 384, "doc_stride": 128},
    **{"weights": "bert-base-cased", "metric": "squad", "max_answer_length": 30},
}
# "What did Zhang Heng invent?", as DRCD writes it, in traditional characters.
TRADITIONAL = "張衡發明了渾天儀與候風地動儀，並且是東漢時期的天文學家、數學家與發明家。"


@pytest.mark.parametrize(
    ("data", "recipe", "says"),
    [
        ("cmrc2018", CHINESE_RECIPE, "the texts are Chinese: starting from bert-base-chinese"),
        ("drcd", CHINESE_RECIPE, "the texts are Chinese: starting from bert-base-chinese"),
        ("squad", OTHER_RECIPE, "the texts are not Chinese: starting from bert-base-cased"),
    ],
)
def test_defaults_follow_the_language_of_the_data(
    shared: Path, capsys: pytest.CaptureFixture[str], data: str, recipe: dict[str, Any], says: str
) -> None:
    if data == "drcd":
        dev = read_questions(shared / "data/cmrc2018/dev.json")
        dev = replace(dev, questions=[replace(q, context=TRADITIONAL) for q in dev.questions])
    else:
        dev = read_questions(shared / f"data/{data}/dev.json")
    both = {"train": dev, "dev": dev}
    filled = train_qa.with_defaults({"train": "a.json", "dev": "b.json"}, both)
    assert {name: filled[name] for name in recipe} == recipe
    assert says in capsys.readouterr().err
    # What is given goes before the recipe, piece by piece, and the metric is not the language.
    for given in ({"lr": 1e-4}, {"metric": "squad"}, {"metric": "cmrc2018"}, {"weights": "./mine"}):
        filled = train_qa.with_defaults(dict(given), both)
        assert {name: filled[name] for name in recipe} == recipe | given
        said = capsys.readouterr().err
        assert (said == "") if "weights" in given else (says in said)


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        *(("cmrc2018", CHINESE_RECIPE), ("drcd", CHINESE_RECIPE)),
        *(("squad", OTHER_RECIPE), ("squad2", OTHER_RECIPE)),
    ],
)
def test_the_recipe_follows_the_training_data_and_the_metric_the_dev_data(
    shared: Path, name: str, recipe: dict[str, Any]
) -> None:
    assert set(datasets.MANIFEST) == set(LANGUAGES)
    chinese = read_questions(shared / "data/cmrc2018/dev.json")
    english = read_questions(shared / "data/squad/dev.json")
    for train in (chinese, english):  # of a data set with a name the language is known
        filled = train_qa.with_defaults({"data": name}, {"train": train, "dev": chinese})
        assert filled["weights"] == recipe["weights"] and filled["lr"] == recipe["lr"]
        assert (filled["metric"], filled["max_answer_length"]) == ("cmrc2018", 80)
    other = {"data": "squad", "train": "a.json"}  # of squad it is dev alone that is taken
    for given in ({"train": "a.json"}, other):
        filled = train_qa.with_defaults(given, {"train": chinese, "dev": english})
        assert filled["weights"] == "bert-base-chinese"
    filled = train_qa.with_defaults({"train": "a.json"}, {"train": chinese, "dev": english})
    assert filled["weights"] == "bert-base-chinese"
    assert (filled["metric"], filled["max_answer_length"]) == ("squad", 30)


def test_a_directory_of_data_and_a_limit_of_questions(
    tiny: Tiny, server: Forks, tmp_path: Path
) -> None:
    folder = tmp_path / "questions"
    folder.mkdir()
    for part in ("train", "dev"):
        shutil.copy(tiny.folder / f"{part}.json", folder)
    arguments = tiny.arguments(tmp_path / "run", train=None, dev=None, data=folder, limit=5)
    ended = server.run([*arguments, "--epochs", "1"])
    assert ended.code == 0, ended.err
    facts = json_of(tmp_path / "run/run.json")
    limited = replace(tiny.train, questions=tiny.train.questions[:5])
    assert facts["counts"]["train_windows"] == len(tiny.task(limited).lengths) < 10
    assert facts["data"]["train"]["file"] == str(folder / "train.json")


@pytest.mark.parametrize("folder", [".", "last"])
def test_a_run_may_be_what_another_starts_from(
    tiny: Tiny, server: Forks, trained: Ended, tmp_path: Path, folder: str
) -> None:
    """Its head too: with hardly a step, it answers as the run does."""
    weights = tiny.folder / "run" / folder
    ended = server.run(tiny.arguments(tmp_path / "second", weights=weights, epochs=1, lr=1e-12))
    assert ended.code == 0, ended.err
    task = QATask(load_tokenizer(weights), SETTINGS, tiny.dev)
    _, texts = task.evaluate(BertForQuestionAnswering.from_pretrained(weights))
    assert json_of(tmp_path / "second/predictions.json") == json.loads(texts["predictions.json"])
    facts, before = (
        json_of(run / "run.json") for run in (tmp_path / "second", tiny.folder / "run")
    )
    assert facts["settings"]["weights"] == str(weights)
    # What it was trained on, not what it was scored on.
    assert facts["learned_before"] == [before["data"]["train"]]
    assert before["learned_before"] == []


@pytest.mark.parametrize("flag", ["data", "train"])
def test_of_a_single_file_every_tenth_context_is_held_out(
    tiny: Tiny, server: Forks, tmp_path: Path, flag: str
) -> None:
    """Two runs of the same file hold out the same, and one that was stopped goes on with it."""
    path = tiny.folder / "train.json"
    for run in ("run", "again"):
        arguments = tiny.arguments(tmp_path / run, **{"train": None, "dev": None, flag: path})
        ended = server.run([*arguments, "--epochs", "1"])
        assert ended.code == 0, ended.err
    err = ended.err[0]
    assert "every 10th context of train.json is held out for that (--dev FILE names others)" in err
    assert "train.json (all but every 10th context): 21 questions on 21 contexts, 21 answers" in err
    assert "train.json (every 10th context): 3 questions on 3 contexts, 3 answers" in err
    data = json_of(tmp_path / "run/run.json")["data"]
    assert [data[part]["contexts_taken"] for part in ("train", "dev")] == [
        "all but every 10th",
        "every 10th",
    ]
    assert [data[part]["questions"] for part in ("train", "dev")] == [21, 3]
    held_out = [tiny.train.questions[i].id for i in (0, 10, 20)]
    assert list(json_of(tmp_path / "run/predictions.json")) == held_out
    assert results(tmp_path / "run") == results(tmp_path / "again")
    shutil.rmtree(tmp_path / "again/checkpoints")
    for name in ("last", "model.safetensors", "predictions.json"):
        path = tmp_path / "again" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert server.run(["--resume", str(tmp_path / "again")]).code == 0
    assert results(tmp_path / "run") == results(tmp_path / "again")


def test_a_file_of_one_context_needs_another_to_score_on(
    tiny: Tiny, server: Forks, tmp_path: Path
) -> None:
    path = write_questions(tmp_path / "one.json", 1)
    one = {"train": None, "data": path}
    error = error_of(server.run(tiny.arguments(tmp_path / "run", dev=None, **one)))
    assert "one.json has too few contexts to hold out every 10th" in error
    assert "--dev FILE" in error
    assert server.run([*tiny.arguments(tmp_path / "run", **one), "--epochs", "1"]).code == 0
    facts = json_of(tmp_path / "run/run.json")["data"]
    assert facts["train"]["questions"] == 1 and facts["dev"]["questions"] == 8
    assert facts["train"]["contexts_taken"] == facts["dev"]["contexts_taken"] == "all"


def test_questions_without_an_answer_get_a_threshold_and_their_own_scores(
    tiny: Tiny, server: Forks, tmp_path: Path
) -> None:
    """SQuAD v2.0's rules: the threshold that is written is the best one on these questions."""
    data = json_of(tiny.folder / "dev.json")
    for article in data["data"]:
        for i, paragraph in enumerate(article["paragraphs"]):
            for qa in paragraph["qas"]:
                qa["is_impossible"] = i % 2 == 0
                qa["answers"] = [] if i % 2 == 0 else qa["answers"]
    (tmp_path / "dev.json").write_text(json.dumps(data), encoding="utf-8")
    arguments = tiny.arguments(tmp_path / "run", dev=tmp_path / "dev.json", metric="squad")
    ended = server.run(arguments)
    assert ended.code == 0, ended.err
    scores = json_of(tmp_path / "run/eval.json")
    assert (scores["HasAns_total"], scores["NoAns_total"]) == (4, 4)
    predictions = json_of(tmp_path / "run/predictions.json")
    n_best = json_of(tmp_path / "run/nbest.json")
    differences = {
        name: next(s["score"] for s in spans if not s["text"])
        - max(s["score"] for s in spans if s["text"])
        for name, spans in n_best.items()
    }
    for name, text in predictions.items():
        assert (text == "") is (differences[name] > scores["null_threshold"])
    questions = read_questions(tmp_path / "dev.json").questions
    golds = {q.id: q.gold_texts for q in questions}
    spans = {name: next(s["text"] for s in n_best[name] if s["text"]) for name in n_best}

    def f1_at(threshold: float) -> float:
        texts = {name: "" if differences[name] > threshold else spans[name] for name in spans}
        return score_all(golds, texts, "squad").f1

    assert scores["f1"] == f1_at(scores["null_threshold"])
    assert scores["f1"] == max(map(f1_at, [-math.inf, *differences.values()]))


# Mistakes.


def test_data_without_a_usable_answer_leaves_no_directory(
    tiny: Tiny, server: Forks, tmp_path: Path
) -> None:
    data = json_of(tiny.folder / "train.json")
    for article in data["data"]:
        for paragraph in article["paragraphs"]:
            for qa in paragraph["qas"]:
                qa["answers"] = [{"text": "not in any text", "answer_start": 0}]
    (tmp_path / "train.json").write_text(json.dumps(data), encoding="utf-8")
    out = tmp_path / "run"
    error = error_of(server.run(tiny.arguments(out, train=tmp_path / "train.json")))
    assert "there is nothing to train on" in error
    assert not out.exists()


def test_a_question_that_is_cut_is_named_in_one_plain_line(
    tiny: Tiny, server: Forks, tmp_path: Path
) -> None:
    data = json_of(tiny.folder / "train.json")
    qa = data["data"][0]["paragraphs"][0]["qas"][0]
    qa["question"] *= 30
    (tmp_path / "train.json").write_text(json.dumps(data), encoding="utf-8")
    ended = server.run(tiny.arguments(tmp_path / "run", train=tmp_path / "train.json", epochs=1))
    assert ended.code == 0
    (line,) = [line for line in ended.err[0].splitlines() if "cut to their first" in line]
    assert line.startswith("note: ") and line.endswith(qa["id"])
    assert "UserWarning" not in ended.err[0]


def test_a_run_without_a_model_is_no_checkpoint_to_start_from(
    tiny: Tiny, server: Forks, trained: Ended, tmp_path: Path
) -> None:
    begun = tmp_path / "begun"
    begun.mkdir()
    shutil.copy(tiny.folder / "run/run.json", begun)
    error = error_of(server.run(tiny.arguments(tmp_path / "run", weights=begun)))
    assert f"{begun} has no model yet" in error
    assert f"python train_qa.py --resume {begun}" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"data": "cmrc", "train": None, "dev": None}, "did you mean cmrc2018?"),
        ({"train": None}, "or name --data (sample, cmrc2018, squad, squad2, drcd, a file"),
        ({"data": "squad"}, "--train and --dev name all data there is to name; leave out --data"),
        ({"data": __file__, "dev": None}, "both name a file to train on"),
        ({"train": "nowhere.json"}, "nowhere.json"),
        ({"weights": "bert-base-chinesee"}, "did you mean bert-base-chinese?"),
        ({"weights": "no such/place/at all"}, "there is no directory no such/place/at all"),
        ({"max_length": 64}, "--max-length 64 is more than the model's 32 positions"),
        ({"doc_stride": 30}, "doc_stride 30 would skip tokens"),
        ({"device": "cuda:99"}, "--device cuda:99 cannot be used here"),
        ({"device": "quantum"}, "--device quantum cannot be used here"),
        ({"device": "meta"}, "--device meta cannot be used here"),
        ({"device": "hpu"}, "--device hpu cannot be used here"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_no_directory(
    tiny: Tiny, server: Forks, tmp_path: Path, flags: dict[str, Any], says: str
) -> None:
    offline = {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
    out = tmp_path / "run"
    ended = server.run(tiny.arguments(out, **flags), environment=offline)
    assert says in error_of(ended)
    assert not out.exists()


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        *(("--epochs", value) for value in ("0", "-1", "1.5", "many")),
        *(("--lr", value) for value in ("0", "nan", "inf", "-1")),
        *(("--seed", value) for value in ("-1", "1.5", str(2**32))),
        ("--precision", "fp8"),
        ("--metric", "bleu"),
        ("--accumulation", "0"),
    ],
)
def test_values_that_make_no_sense_are_refused(
    capsys: pytest.CaptureFixture[str], flag: str, value: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        train_qa.main([f"{flag}={value}"])
    assert ended.value.code == 2
    assert f"argument {flag}: " in capsys.readouterr().err


def test_what_stands_in_the_way_of_a_run_is_left_as_it_is(
    tiny: Tiny, server: Forks, trained: Ended, tmp_path: Path
) -> None:
    model = (tiny.folder / "run/model.safetensors").read_bytes()
    error = error_of(server.run(tiny.arguments("run")))
    assert f"{tiny.folder}/run exists already; go on with it by --resume" in error
    assert (tiny.folder / "run/model.safetensors").read_bytes() == model
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("five years of work")
    assert "exists already and is no run; choose another" in error_of(
        server.run(tiny.arguments(mine))
    )
    assert "cannot be a run" in error_of(server.run(tiny.arguments(mine / "thesis.txt")))
    assert "could not be written" in error_of(server.run(tiny.arguments(mine / "thesis.txt/run")))
    assert [path.name for path in mine.iterdir()] == ["thesis.txt"]
    assert (mine / "thesis.txt").read_text() == "five years of work"
    # An empty directory is fine, and one in which a process was killed as it began.
    (tmp_path / "begun/.run.json.99.part").mkdir(parents=True)
    (tmp_path / "begun/.run.json.99.part/run.json").write_text("{")
    assert server.run(tiny.arguments(tmp_path / "begun", epochs=1)).code == 0


def test_a_model_that_does_not_fit_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tiny.weights)
    config = BertForQuestionAnswering.from_pretrained(tiny.weights).config
    check_fits(config, tokenizer, SETTINGS)
    for changed, says in (
        ({"vocab_size": 40}, r"has 46 entries, its model 40"),
        ({"type_vocab_size": 1}, "one token type only"),
        ({"max_position_embeddings": 31}, "--max-length 32 is more than the model's 31"),
    ):
        with pytest.raises(UserError, match=says):
            check_fits(replace(config, **changed), tokenizer, SETTINGS)


# The task.


def test_the_saved_tokenizer_cuts_texts_where_the_model_ends(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny.model()
    tiny.task().save(model, tmp_path)
    positions = model.config.max_position_embeddings
    assert json_of(tmp_path / "tokenizer_config.json")["model_max_length"] == positions


def test_a_batch_holds_its_windows_and_where_the_answers_stand_in_them(tiny: Tiny) -> None:
    task = tiny.task()
    examples = [3, 0, 17, 4]
    batch = task.batch(examples)
    starts, ends = batch["start_positions"].tolist(), batch["end_positions"].tolist()
    assert any(starts) and len(examples) == len(starts) == len(ends)
    for i, example in enumerate(examples):
        window = task.windows.windows[example]
        n = len(window.input_ids)
        assert batch["input_ids"][i, :n].tolist() == window.input_ids.tolist()
        assert int(batch["attention_mask"][i].sum()) == n
        assert (starts[i], ends[i]) == (window.start_position, window.end_position)
        if ends[i]:  # the answers are three characters, and so three tokens, long
            assert ends[i] - starts[i] == 2
            answer = task.windows.questions[window.question].answers[0].text
            tokens = batch["input_ids"][i, starts[i] : ends[i] + 1].tolist()
            assert "".join(map(task.tokenizer.id_to_token, tokens)) == answer


def test_the_loss_of_a_window_does_not_depend_on_the_padding_beside_it(tiny: Tiny) -> None:
    model = BertForQuestionAnswering.from_pretrained(tiny.weights)
    task = tiny.task()
    examples = assert_padding_does_not_matter(model, task)
    # And a score at a place of padding counts for nothing, however high.
    logits = model(**{k: v for k, v in task.batch(examples).items() if "positions" not in k})
    loud = [x.clone() for x in logits]
    batch = task.batch(examples)
    for x in loud:
        x[batch["attention_mask"] == 0] = 1e4
    assert torch.equal(span_loss(type(logits)(*loud), batch)[0], span_loss(logits, batch)[0])


def test_a_small_bert_learns_32_real_questions_by_heart(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of CMRC's dev set on its shortest texts, of which most still have two windows."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    config = CHINESE | {
        **{"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4},
        **{"intermediate_size": 256, "hidden_dropout_prob": 0.0},
        "attention_probs_dropout_prob": 0.0,
    }
    weights = write_checkpoint(tmp_path / "weights", config)
    shutil.copy(shared / "bert-base-chinese/vocab.txt", weights)
    found = read_questions(shared / "data/cmrc2018/cmrc2018_dev.json")
    shortest = sorted(found.trainable, key=lambda question: len(question.context))[:32]
    questions = replace(found, questions=shortest)
    task = QATask(
        load_tokenizer(weights), QASettings(256, 180, 80, "cmrc2018"), questions, questions
    )
    assert len(task.lengths) > 1.5 * 32
    torch.manual_seed(0)
    model = BertForQuestionAnswering.from_pretrained(weights)
    training = Training(model, task, Recipe(epochs=12, batch_size=4, lr=3e-3), tmp_path)
    monkeypatch.setattr(training, "save", lambda: None)
    before = task.evaluate(model)[0]["exact_match"]
    for epoch in range(12):  # `go` without its evaluations
        training.train_epoch()
        training.progress.epoch, training.progress.batch = epoch + 1, 0
    torch.set_num_threads(threads)
    assert before < 10
    assert task.evaluate(model)[0]["exact_match"] == 100.0
