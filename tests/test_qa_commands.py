"""evaluate, score and peek; and what all commands of question answering have in common."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from numpy_checkpoint import write_checkpoint
from qa_finder import (
    ANSWER,
    CHINESE,
    CONFIG,
    ENGLISH,
    REPOSITORY,
    VOCABULARY,
    finder,
    run_json,
    squad_file,
    write_vocabulary,
)
from safetensors.torch import load_file, save_file
from typed import Capture, fails, minibert

import train_qa
from minibert.cli import parser
from minibert.qa.peek import abridged


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finder(tmp_path_factory.mktemp("finder"))


# evaluate


RESULTS = ["eval.json", "predictions.json", "nbest.json", "failures.jsonl"]


@pytest.mark.parametrize(
    ("answers", "precision"),
    [(["alpha", "omega", "dull"], "fp32"), (["alpha", "", "omega", ""], "bf16")],
)
def test_evaluate_gives_what_the_training_run_gave_to_the_byte(
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    answers: list[str],
    precision: str,
) -> None:
    monkeypatch.setattr("minibert.trained.choose_precision", lambda device: precision)
    start = write_checkpoint(write_vocabulary(tmp_path / "start"), CONFIG)
    data = squad_file(tmp_path / "data" / "train.json", ENGLISH * 3, answers)
    data.with_name("dev.json").write_bytes(data.read_bytes())
    options = "--epochs 1 --lr 1e-3 --max-length 40 --doc-stride 10 --max-answer-length 5"
    words = ["--data", str(data.parent), "--weights", str(start), "--out", str(tmp_path / "run")]
    words += ["--precision", precision, "--device", "cpu"]
    assert train_qa.main([*words, *options.split()]) == 0
    capsys.readouterr()
    out = tmp_path / "scores"
    words = ["--model", str(tmp_path / "run"), "--data", str(data.parent), "--device", "cpu"]
    assert minibert("evaluate", *words, "--out", out, "--json") == 0
    trained = tmp_path / "run"
    assert json.loads(capsys.readouterr().out) == json.loads((trained / "eval.json").read_text())
    assert sorted(path.name for path in out.iterdir()) == sorted(RESULTS)
    for name in RESULTS:
        assert (out / name).read_bytes() == (trained / name).read_bytes(), name


def test_evaluate_scores_a_checkpoint_without_a_run(
    model: Path, tmp_path: Path, capsys: Capture
) -> None:
    data = squad_file(tmp_path / "dev.json", ENGLISH, [ANSWER, "alpha", "dull"])
    assert minibert("evaluate", "--model", model, "--data", data) == 0
    out = capsys.readouterr().out
    # It always answers `alpha, "beta" and omega`, of 4 words: all right, 2 * 1/4 / (1 + 1/4), 0.
    assert out == "exact_match  33.33\nf1           46.67\ntotal        3\n"


def test_evaluate_says_if_the_metric_is_not_usual_for_the_texts(
    tmp_path: Path, capsys: Capture
) -> None:
    run = finder(tmp_path / "run")
    (run / "run.json").write_text(json.dumps(run_json(metric="squad")))
    data = squad_file(tmp_path / "dev.json", CHINESE, ["甲是字乙在"])
    assert minibert("evaluate", "--model", run, "--data", data) == 0
    printed = capsys.readouterr()
    assert "by the rules of squad" in printed.err
    # Named by hand, there is nothing to say. An answer one character too short is another word to
    # SQuAD's rules, and nearly right to CMRC's.
    f1 = {}
    for metric in ("squad", "cmrc2018"):
        words = ("--model", run, "--data", data, "--metric", metric, "--json")
        assert minibert("evaluate", *words) == 0
        by_hand = capsys.readouterr()
        assert "by the rules of" not in by_hand.err
        f1[metric] = json.loads(by_hand.out)["f1"]
    assert f1["cmrc2018"] > 80 and f1["squad"] == float(printed.out.split()[3]) == 0


@pytest.mark.parametrize("heads", [None, ["BertModel"], ["BertForMaskedLM"]])
def test_evaluate_asks_the_weights_what_a_checkpoint_is_for_where_its_config_names_neither_task(
    tmp_path: Path, capsys: Capture, heads: list[str] | None
) -> None:
    words = ("--model", finder(tmp_path / "w", architectures=heads), "--data", tmp_path / "absent")
    assert "absent'; known data sets" in fails(capsys, "evaluate", *words)
    stored = load_file(tmp_path / "w/model.safetensors")
    stored = {
        name: x for name, x in stored.items() if not name.startswith(("qa_outputs", "classifier"))
    }
    save_file(stored, tmp_path / "w/model.safetensors", {"format": "pt"})
    error = fails(capsys, "evaluate", *words)
    assert f"{tmp_path / 'w'} has been trained neither for questions nor to classify" in error


def test_evaluate_refuses_flags_for_classes_of_texts(
    model: Path, tmp_path: Path, capsys: Capture
) -> None:
    data = squad_file(tmp_path / "dev.json", ENGLISH, [ANSWER])
    error = fails(capsys, "evaluate", "--model", model, "--data", data, "--text-column", "1")
    assert "columns are named for a classifier's texts" in error


def test_evaluate_answers_from_the_run_s_own_threshold_on(tmp_path: Path, capsys: Capture) -> None:
    run = finder(tmp_path / "run")
    (run / "run.json").write_text(json.dumps(run_json()))
    data = squad_file(tmp_path / "dev.json", ENGLISH, [ANSWER, "", ""])
    exact_match = {}
    for threshold in (1e6, -1e6):  # always an answer, and never
        (run / "eval.json").write_text(json.dumps({"null_threshold": threshold}))
        assert minibert("evaluate", "--model", run, "--data", data, "--json") == 0
        printed = capsys.readouterr()
        scores = json.loads(printed.out)
        assert scores["null_threshold"] == threshold
        assert "threshold of its own" not in printed.err
        exact_match[threshold] = round(scores["exact_match"], 2)
    assert exact_match == {1e6: 33.33, -1e6: 66.67}
    (run / "eval.json").unlink()
    assert minibert("evaluate", "--model", run, "--data", data, "--json") == 0
    printed = capsys.readouterr()
    assert "has no threshold of its own" in printed.err
    assert json.loads(printed.out)["exact_match"] >= exact_match[-1e6] - 0.01


def test_evaluate_does_not_overwrite_what_a_run_has_written(
    tmp_path: Path, capsys: Capture
) -> None:
    run = finder(tmp_path / "run")
    (run / "run.json").write_text(json.dumps(run_json()))
    words = ("--model", run, "--data", tmp_path / "absent.json", "--out", run)
    assert "is a run, whose own results stay" in fails(capsys, "evaluate", *words)


def test_evaluate_refuses_an_out_that_is_a_file_before_it_reads_anything(
    model: Path, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "file").touch()
    words = ("--model", model, "--data", tmp_path / "absent.json", "--out", tmp_path / "file")
    assert "is a file" in fails(capsys, "evaluate", *words)


@pytest.mark.parametrize("command", ["evaluate", "score", "peek"])
def test_an_unknown_data_set_is_an_error_that_names_the_nearest(
    model: Path, tmp_path: Path, capsys: Capture, command: str
) -> None:
    (tmp_path / "p.json").write_text("{}")
    words = {
        "evaluate": ("--model", model, "--data", "cmrc2081"),
        "score": ("cmrc2081", tmp_path / "p.json"),
        "peek": ("--data", "cmrc2081"),
    }[command]
    assert "did you mean cmrc2018?" in fails(capsys, command, *words)


# score


def scored(shared: Path, name: str) -> dict[str, Any]:
    return json.loads((shared / "reference" / f"{name}.json").read_text(encoding="utf-8"))


def whole_squad(shared: Path, folder: Path) -> Path:
    """The official dev-v1.1.json, of which shared/ has the articles in two files."""
    parts = [json.loads((shared / f"data/squad/{part}.json").read_text(encoding="utf-8"))
             for part in ("train", "dev")]  # fmt: skip
    path = folder / "dev.json"
    path.write_text(json.dumps({"version": "1.1", "data": parts[0]["data"] + parts[1]["data"]}))
    return path


@pytest.mark.parametrize(
    "name", ["cmrc2018_dev_scored", "squad_bert_ensemble_scored", "squad_logistic_scored"]
)
def test_score_prints_the_official_totals(
    shared: Path, tmp_path: Path, capsys: Capture, name: str
) -> None:
    official = scored(shared, name)
    predictions = tmp_path / "predictions.json"
    predictions.write_text(json.dumps(official["predictions"]), encoding="utf-8")
    cmrc = shared / "data" / "cmrc2018" / "cmrc2018_dev.json"
    data = cmrc if name.startswith("cmrc") else whole_squad(shared, tmp_path)
    assert minibert("score", data, predictions, "--json") == 0
    captured = capsys.readouterr()
    score = json.loads(captured.out)
    assert score["exact_match"] == pytest.approx(official["exact"], abs=1e-9)
    assert score["f1"] == pytest.approx(official["f1"], abs=1e-9)
    assert score["total"] == official["total"]
    missing = official["total"] - len(official["predictions"])  # 11 of one published system
    assert len(score["missing"]) == missing
    assert ("without a prediction, counted as wrong" in captured.err) == (missing > 0)


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """A directory with three questions: q0 alpha, q1 omega, q2 dull."""
    return squad_file(tmp_path / "data" / "dev.json", ENGLISH, ["alpha", "omega", "dull"]).parent


def write_predictions(folder: Path, predictions: Any) -> Path:
    path = folder / "predictions.json"
    path.write_text(json.dumps(predictions), encoding="utf-8")
    return path


def test_a_question_without_a_prediction_is_wrong_and_is_named(
    questions: Path, tmp_path: Path, capsys: Capture
) -> None:
    file = write_predictions(tmp_path, {"q0": "The ALPHA!", "q2": "dull beta", "x": "", "y": ""})
    assert minibert("score", questions, file) == 0
    captured = capsys.readouterr()
    assert captured.out == "exact_match  33.33\nf1           55.56\ntotal        3\n"
    assert captured.err == (
        "1 questions without a prediction, counted as wrong: q1\n"
        "2 predictions for no question of the data, ignored: x, y\n"
    )


def test_questions_without_an_answer_have_figures_of_their_own(
    tmp_path: Path, capsys: Capture
) -> None:
    data = squad_file(tmp_path / "dev.json", ENGLISH, ["alpha", "", ""])
    file = write_predictions(tmp_path, {"q0": "alpha", "q1": "", "q2": "beta"})
    assert minibert("score", data, file) == 0
    figures = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert figures["exact_match"] == "66.67"
    assert (figures["HasAns_exact"], figures["NoAns_exact"]) == ("100.00", "50.00")
    assert figures["NoAns_total"] == "2"


def test_predictions_may_have_a_byte_order_mark_and_may_be_no_directory(
    tmp_path: Path, capsys: Capture
) -> None:
    data = squad_file(tmp_path / "dev.json", ENGLISH, ["alpha"])
    file = write_predictions(tmp_path, {"q0": "alpha"})
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert minibert("score", data, file) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["exact_match", "100.00"]
    assert "is a directory; name one JSON file" in fails(capsys, "score", str(data), str(tmp_path))


def test_the_metric_is_that_of_the_language_unless_another_is_asked_for(
    tmp_path: Path, capsys: Capture
) -> None:
    data = squad_file(tmp_path / "dev.json", CHINESE, ["甲是字乙"])
    file = write_predictions(tmp_path, {"q0": "甲是"})
    f1 = {}
    for metric in ("", "cmrc2018", "squad"):
        assert minibert("score", data, file, *(["--metric", metric] if metric else [])) == 0
        f1[metric] = capsys.readouterr().out.splitlines()[1].split()[1]
    assert f1 == {"": "66.67", "cmrc2018": "66.67", "squad": "0.00"}  # characters, or one word


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "does not exist"),
        ("{", "cannot be read as JSON"),
        ('["alpha"]', "must hold a JSON object"),
        ('{"q0": ["alpha"]}', "the prediction for question q0 is no string"),
        ('{"q0": null}', "the prediction for question q0 is no string"),
        ('{"other": "alpha"}', "are they for other data?"),
    ],
)
def test_a_file_that_is_no_predictions_is_an_error(
    questions: Path, tmp_path: Path, capsys: Capture, content: str | None, says: str
) -> None:
    path = tmp_path / "predictions.json"
    if content is not None:
        path.write_text(content)
    message = fails(capsys, "score", questions, path)
    assert says in message and str(path) in message


def test_score_help_says_where_it_differs_from_the_v2_script(capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["score", "--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert (
        "counts as wrong and is reported; the official script for SQuAD v2.0 leaves it out" in out
    )


# peek


def test_peek_shows_text_tokens_types_and_where_the_answer_lies(
    questions: Path, model: Path, capsys: Capture
) -> None:
    words = ("--data", questions, "--weights", model, "--count", "1")
    assert minibert("peek", *words, "--max-length", "40", "--doc-stride", "10") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == f"tokens of {model}"
    assert lines[3] == "example 1 of 1: q0  t"
    assert lines[4:8] == [
        "  question  what",
        f"  text      {ENGLISH}  (81 characters)",
        "  answer    alpha  (at characters 24 to 29)",
        '  sentence  The end of 【alpha】, "beta" and omega was near!',
    ]
    assert lines[8] == "  tokens    1 of the question, 23 of the text"
    ids = {token: VOCABULARY.index(token) for token in ("[CLS]", "what", "[SEP]", "alpha", ",")}
    rows = [line.split() for line in lines if line[:8].strip().isdecimal()]
    assert rows[:3] == [
        ["0", "[CLS]", str(ids["[CLS]"]), "0"],
        ["1", "what", str(ids["what"]), "0"],
        ["2", "[SEP]", str(ids["[SEP]"]), "0"],
    ]
    assert ["10", "alpha", str(ids["alpha"]), "1", "start", "and", "end"] in rows
    assert ["11", ",", str(ids[","]), "1"] in rows
    assert rows[-1] == ["26", "[SEP]", str(ids["[SEP]"]), "1"]


def test_peek_aligns_its_columns_also_beside_chinese(
    tmp_path: Path, model: Path, capsys: Capture
) -> None:
    data = squad_file(tmp_path / "train.json", CHINESE, ["甲是字乙"])
    words = ("--data", data, "--weights", model, "--max-length", "40", "--doc-stride", "10")
    assert minibert("peek", *words) == 0
    out = capsys.readouterr().out
    table = out[out.index("   place") :].splitlines()

    def column(line: str, word: str) -> int:
        before = line[: line.index(word)]
        return len(before) + sum(ord(c) > 0x2E80 for c in before)  # Chinese takes two columns

    target = column(table[0], "target")
    start = next(line for line in table if "甲" in line)
    end = next(line for line in table if "乙" in line)
    assert column(start, "start") == column(end, "end") == target
    assert [column(line, "·") for line in table if "·" in line] == [target, target]  # 是, 字


def test_peek_abridges_long_windows_and_many_windows(
    tmp_path: Path, model: Path, capsys: Capture
) -> None:
    text = "The end of beta was in it. " * 100 + ENGLISH
    data = squad_file(tmp_path / "train.json", text, [ANSWER])
    words = ("--data", data, "--weights", model, "--max-length", "40", "--doc-stride", "10")
    assert minibert("peek", *words) == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) < 80
    assert "more tokens" in out and "more windows" in out
    windows = [line for line in out.splitlines() if line.startswith("  window ")]
    assert windows[0].endswith("without the whole answer, so the target is [CLS]")
    held = [line for line in windows if "the answer is at" in line]
    assert held
    _, table = out.split(held[0])  # the first window that holds the answer is shown in full
    start, end = (int(word) for word in held[0].rsplit(" at ")[1].split(" to "))
    marked = {line.split()[-1]: line.split()[:2] for line in table.splitlines() if line[8:].strip()}
    assert marked["start"] == [str(start), "alpha"] and marked["end"] == [str(end), "omega"]
    first = out[out.index("[CLS]  ") :].splitlines()[0]
    assert first.endswith("start and end")  # of window 1, which lacks the answer


def test_what_is_left_out_is_counted_unless_it_is_as_short_as_the_count() -> None:
    lines = abridged(12, [0, 2, 9, 11, 40, -1], lambda i: [f"row {i}"], "rows")
    counted = "       ⋮  6 more rows"
    assert lines == ["row 0", "row 1", "row 2", counted, "row 9", "row 10", "row 11"]


def test_peek_fetches_no_more_of_a_data_set_than_it_shows(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    data = squad_file(tmp_path / "train.json", ENGLISH, [ANSWER])
    asked = []

    def find(name: str, parts: tuple[str, ...]) -> dict[str, Path]:
        asked.append((name, parts))
        return {"train": data}

    monkeypatch.setattr("minibert.datasets.find", find)
    cut = ("--weights", model, "--max-length", "40", "--doc-stride", "10")
    for name in ("squad", tmp_path):
        assert minibert("peek", "--data", name, *cut) == 0
    assert asked == [("squad", ("train",)), (str(tmp_path), ("train", "dev"))]


def test_peek_shows_a_question_without_an_answer(
    tmp_path: Path, model: Path, capsys: Capture
) -> None:
    data = squad_file(tmp_path / "train.json", ENGLISH, [""])
    words = ("--data", data, "--weights", model, "--max-length", "40", "--doc-stride", "10")
    assert minibert("peek", *words) == 0
    out = capsys.readouterr().out
    assert "answer    none: the question is marked impossible" in out


@pytest.mark.parametrize(("text", "answer"), [(ENGLISH, "alpha"), (CHINESE, "甲是字乙")])
def test_peek_takes_the_usual_weights_and_lengths_of_the_language(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, text: str, answer: str
) -> None:
    chinese = text is CHINESE
    name, length = ("bert-base-chinese", 512) if chinese else ("bert-base-cased", 384)
    write_vocabulary(tmp_path / "weights" / name)
    monkeypatch.setenv("MINIBERT_WEIGHTS", str(tmp_path / "weights"))
    data = squad_file(tmp_path / "train.json", text, [answer] * 5)
    assert minibert("peek", "--data", data) == 0
    out = capsys.readouterr().out
    assert f"tokens of {name}\n" in out
    assert out.count("example ") == 3
    assert f"of at most {length} tokens" in out and "every 128 tokens" in out


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--count 0", "--count 0"),
        ("--max-length 4", "leaves no room"),
        ("--max-length 40 --doc-stride 39", "would skip tokens"),
        ("--doc-stride -1", "is no step forward"),
    ],
)
def test_peek_refuses_numbers_that_make_no_sense(
    questions: Path, model: Path, capsys: Capture, options: str, says: str
) -> None:
    words = ("--data", questions, "--weights", model, *options.split())
    assert says in fails(capsys, "peek", *words)


def test_peek_without_an_answer_in_any_text_is_an_error(
    tmp_path: Path, model: Path, capsys: Capture
) -> None:
    data = squad_file(tmp_path / "train.json", ENGLISH, ["alpha"])
    data.write_text(data.read_text().replace('"text": "alpha"', '"text": "delta"'))
    assert "none to show" in fails(capsys, "peek", "--data", data, "--weights", model)


# All commands.


@pytest.mark.parametrize("command", ["ask", "evaluate", "score", "peek"])
def test_the_help_of_a_command_ends_with_an_example_that_it_understands(
    command: str, capsys: Capture
) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args([command, "--help"])
    assert ended.value.code == 0
    example = " ".join(capsys.readouterr().out.split("example: ")[1].split())
    words = shlex.split(example)
    assert words[:2] == ["minibert", command]
    assert callable(parser().parse_args(words[1:]).run)


def test_the_commands_are_quick_to_import() -> None:
    code = (
        "import sys; import minibert.qa.commands; "
        "print([name for name in ('torch', 'numpy', 'tokenizers') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
