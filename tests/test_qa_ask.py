"""`minibert ask`: to a model of which it is known what it must answer."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy_checkpoint import numpy_tensors, write_checkpoint
from qa_finder import (
    ANSWER,
    CHINESE,
    CONFIG,
    ENGLISH,
    REPOSITORY,
    finder,
    run_json,
    write_vocabulary,
)
from typed import Capture, Stdin, fails, minibert

from minibert.model import BertForQuestionAnswering
from minibert.qa.ask import load_reader
from minibert.qa.task import QASettings
from minibert.trained import as_scored

Context = Callable[[str], Path]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finder(tmp_path_factory.mktemp("finder"))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory: the model, with a run.json."""
    folder = finder(tmp_path / "run")
    (folder / "run.json").write_text(json.dumps(run_json()))
    return folder


@pytest.fixture
def context(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "context.txt"
        path.write_bytes(text.encode())
        return path

    return write


# Questions and texts.


def test_an_english_answer_has_its_probability_characters_and_sentence(
    model: Path, context: Context, capsys: Capture
) -> None:
    assert (
        minibert("ask", "--model", model, "--context", context(ENGLISH), "--question", "who") == 0
    )
    answer, probability, characters, sentence = capsys.readouterr().out.splitlines()
    assert answer == f"answer       {ANSWER}"
    assert characters == "characters   24 to 47"
    assert ENGLISH[24:47] == ANSWER
    assert sentence == 'sentence     The end of 【alpha, "beta" and omega】 was near!'
    name, value = probability.split()
    assert name == "probability" and 0.5 < float(value) < 1


def test_a_chinese_answer_has_its_sentence_between_chinese_full_stops(
    model: Path, context: Context, capsys: Capture
) -> None:
    text = context(CHINESE)
    assert minibert("ask", "--model", model, "--context", text, "--question", "谁？") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "answer       甲是字乙"
    assert lines[2] == "characters   6 to 10"
    assert lines[3] == "sentence     中间的【甲是字乙】在中，字！"


def test_several_questions_are_answered_at_once_each_under_its_own_line(
    model: Path, context: Context, capsys: Capture
) -> None:
    asked = ("--question", "who", "--question", " what ")
    assert minibert("ask", "--model", model, "--context", context(ENGLISH), *asked) == 0
    out = capsys.readouterr().out
    assert out.count(f"answer       {ANSWER}\n") == 2
    assert out.index("question     who\n") < out.index("\n\nquestion     what\n")


def test_json_is_a_list_with_an_entry_for_each_question(
    model: Path, context: Context, capsys: Capture
) -> None:
    text = "\ufeff" + ENGLISH.replace(" ", "\r\n", 1)  # a byte order mark is not of the text
    asked = ("--question", "who", "--question", "what", "--json")
    assert minibert("ask", "--model", model, "--context", context(text), *asked) == 0
    replies = json.loads(capsys.readouterr().out)
    assert [reply["question"] for reply in replies] == ["who", "what"]
    for reply in replies:
        assert text[1:][reply["start"] : reply["end"]] == reply["answer"] == ANSWER
        place = slice(reply["sentence_start"], reply["sentence_start"] + len(reply["sentence"]))
        assert text[1:][place] == reply["sentence"] == f"The end of {ANSWER} was near!"
        assert 0 < reply["probability"] <= 1


def test_the_context_can_come_from_stdin(
    model: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", Stdin(CHINESE.encode()))
    assert minibert("ask", "--model", model, "--context", "-", "--question", "谁", "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["answer"] == "甲是字乙"


def test_stdin_cannot_be_the_context_and_the_prompt(model: Path, capsys: Capture) -> None:
    assert "--question" in fails(capsys, "ask", "--model", model, "--context", "-")


def test_a_long_context_is_searched_to_its_end_with_a_bar(
    model: Path, context: Context, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    filler = "the end of beta was in it. " * 1500
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    asked = ("--context", context(filler + ENGLISH), "--question", "who", "--json")
    assert minibert("ask", "--model", model, *asked) == 0
    captured = capsys.readouterr()
    [reply] = json.loads(captured.out)
    assert reply["answer"] == ANSWER
    assert reply["start"] == len(filler) + 24
    assert reply["sentence"] == f"The end of {ANSWER} was near!"
    assert "answering" in captured.err and "batch/s" in captured.err


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b" \r\n\t", "is empty"),
        ("是".encode("gbk"), "is not UTF-8 text: byte 0 is 0xca"),
        (b"\x00\xff", "byte 1 is 0xff"),
    ],
)
def test_a_context_that_is_no_text_is_an_error(
    model: Path, tmp_path: Path, capsys: Capture, content: bytes, says: str
) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    message = fails(capsys, "ask", "--model", model, "--context", path, "--question", "who")
    assert says in message and str(path) in message


def test_a_context_that_is_no_file_is_an_error(
    model: Path, tmp_path: Path, capsys: Capture
) -> None:
    words = ("ask", "--model", model, "--question", "who", "--context")
    assert "is a directory" in fails(capsys, *words, tmp_path)
    assert "does not exist" in fails(capsys, *words, tmp_path / "absent.txt")


@pytest.mark.parametrize(("question", "says"), [("  ", "is empty"), ("wh\udcff", "valid UTF-8")])
def test_a_question_that_is_no_text_is_an_error(
    model: Path, context: Context, capsys: Capture, question: str, says: str
) -> None:
    words = ("ask", "--model", model, "--context", context(ENGLISH), "--question", question)
    message = fails(capsys, *words)
    assert "the question" in message and says in message


def test_a_question_too_long_for_a_window_is_cut_and_a_note_says_so(
    model: Path, context: Context, capsys: Capture
) -> None:
    question = "who " * 60
    words = ("--model", model, "--context", context(ENGLISH), "--question", question)
    assert minibert("ask", *words) == 0
    captured = capsys.readouterr()
    assert ANSWER in captured.out
    assert captured.err.startswith("note: cut to their first") and ".py" not in captured.err


def test_what_could_steer_a_terminal_is_not_printed(
    model: Path, context: Context, capsys: Capture
) -> None:
    text = context("The alpha \x1b[31m\x07\n beta omega was.")
    assert minibert("ask", "--model", model, "--context", text, "--question", "who") == 0
    assert "The 【alpha [31m beta omega】 was." in capsys.readouterr().out


# The prompt.


def test_questions_can_be_piped_in_and_one_that_fails_does_not_end_them(
    model: Path, context: Context, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", Stdin(b"who\n\xff\n" + "谁\n\nwhat\n".encode()))
    assert minibert("ask", "--model", model, "--context", context(ENGLISH), "--json") == 0
    captured = capsys.readouterr()
    replies = [json.loads(line) for line in captured.out.splitlines()]
    assert [reply["question"] for reply in replies] == ["who", "谁"]  # the empty line ended it
    assert [reply["answer"] for reply in replies] == [ANSWER, ANSWER]
    assert captured.err == "error: this question is not valid UTF-8\n"


def test_a_model_of_nan_gives_an_error_for_each_question_and_goes_on(
    tmp_path: Path, context: Context, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = numpy_tensors(CONFIG)
    tensors["qa_outputs.bias"][:] = np.nan
    broken = write_checkpoint(write_vocabulary(tmp_path / "broken"), CONFIG, tensors)
    monkeypatch.setattr(sys, "stdin", Stdin(b"who\nwhat\n"))
    assert minibert("ask", "--model", broken, "--context", context(ENGLISH)) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("error: ") == 2 and captured.err.count("not finite") == 2


ON_A_TERMINAL = """
import sys
sys.path[:0] = [{repository!r}, {tests!r}]
import typed
sys.exit(typed.minibert(*sys.argv[1:]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminal")
def test_on_a_terminal_it_asks_marks_the_answer_bold_and_ends_with_ctrl_d(
    model: Path, context: Context
) -> None:
    pty = importlib.import_module("pty")
    main, terminal = pty.openpty()
    code = ON_A_TERMINAL.format(repository=str(REPOSITORY), tests=str(REPOSITORY / "tests"))
    words = ["ask", "--model", str(model), "--context", str(context(ENGLISH))]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words],
        stdin=terminal, stdout=terminal, stderr=terminal, env=os.environ | {"TERM": "xterm"},
    )  # fmt: skip
    os.close(terminal)
    seen = read_until(main, b"? ")
    os.write(main, b"who\n")
    seen += read_until(main, b"\n? ")
    os.write(main, b"\x04")
    assert process.wait(timeout=60) == 0
    os.close(main)
    text = seen.decode().replace("\r", "")
    assert "an empty line or Ctrl-D ends" in text
    assert f"sentence     The end of \033[1m{ANSWER}\033[0m was near!" in text
    assert "【" not in text


def read_until(main: int, wanted: bytes) -> bytes:
    seen = b""
    while wanted not in seen:
        piece = os.read(main, 4096)
        assert piece, seen
        seen += piece
    return seen


# Which model, and how it is asked.


@pytest.mark.reference
def test_a_checkpoint_that_transformers_saved_is_asked_as_any(
    model: Path, tmp_path: Path, context: Context, capsys: Capture
) -> None:
    transformers = pytest.importorskip("transformers")
    saved = tmp_path / "saved"
    transformers.BertForQuestionAnswering.from_pretrained(model).save_pretrained(saved)
    transformers.BertTokenizerFast(str(model / "vocab.txt")).save_pretrained(saved)
    words = ("--context", context(ENGLISH), "--question", "who", "--json")
    assert minibert("ask", "--model", saved, *words) == 0
    [reply] = json.loads(capsys.readouterr().out)
    assert (reply["answer"], reply["start"]) == (ANSWER, 24)


def test_a_run_is_asked_as_it_was_trained(run: Path) -> None:
    assert load_reader(str(run)).settings == QASettings(40, 10, 12, "squad")


def test_the_longest_answer_of_the_run_is_kept_to(
    run: Path, context: Context, capsys: Capture
) -> None:
    words = ("ask", "--model", run, "--context", context(ENGLISH), "--question", "who", "--json")
    assert minibert(*words) == 0
    assert json.loads(capsys.readouterr().out)[0]["answer"] == ANSWER  # 7 tokens
    (run / "run.json").write_text(json.dumps(run_json(max_answer_length=6)))
    assert minibert(*words) == 0
    assert json.loads(capsys.readouterr().out)[0]["answer"] != ANSWER


def test_a_run_is_asked_in_its_precision_where_the_processor_has_it(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run / "run.json").write_text(json.dumps(run_json(precision="bf16")))
    for has, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        monkeypatch.setattr("minibert.trained.choose_precision", lambda device, has=has: has)
        reader = load_reader(str(run), "cpu")
        with as_scored(reader.model, reader.precision):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def test_its_products_are_rounded_once_and_give_the_same_bits(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run / "run.json").write_text(json.dumps(run_json(precision="bf16")))
    monkeypatch.setattr("minibert.trained.choose_precision", lambda device: "bf16")
    reader = load_reader(str(run), "cpu")
    layer = reader.model.bert.layers[0]
    assert layer.attention.query.weight.dtype == torch.bfloat16
    assert layer.attention_norm.weight.dtype == torch.float32
    ids = torch.randint(5, reader.model.config.vocab_size, (3, 20))
    with torch.no_grad(), as_scored(reader.model, reader.precision):
        rounded, plain = reader.model(ids), BertForQuestionAnswering.from_pretrained(run)(ids)
    assert all(map(torch.equal, rounded, plain))


def test_the_last_epoch_of_a_run_is_asked_as_the_run(run: Path) -> None:
    finder(run / "last")
    assert load_reader(str(run / "last")).settings == QASettings(40, 10, 12, "squad")


@pytest.mark.parametrize(
    ("text", "metric", "longest"), [(ENGLISH, "squad", 30), (CHINESE, "cmrc2018", 80)]
)
def test_a_checkpoint_without_a_run_is_asked_as_is_usual_for_the_language(
    tmp_path: Path, text: str, metric: str, longest: int
) -> None:
    usual = {"squad": 384, "cmrc2018": 512}[metric]
    big = load_reader(str(finder(tmp_path / "big", max_position_embeddings=512)))
    assert big.settings_for([text]) == QASettings(usual, 128, longest, metric)
    small = load_reader(str(finder(tmp_path / "small", max_position_embeddings=48)))
    assert small.settings_for([text]) == QASettings(48, 16, longest, metric)


def test_no_answer_is_given_from_the_threshold_of_the_run_on(
    run: Path, context: Context, capsys: Capture
) -> None:
    (run / "eval.json").write_text(json.dumps({"f1": 50.0, "null_threshold": -3.0}))
    words = ("ask", "--model", run, "--question", "who", "--context")
    assert minibert(*words, context(ENGLISH)) == 0
    assert f"answer       {ANSWER}" in capsys.readouterr().out
    assert minibert(*words, context("The end of beta was in it.")) == 0
    answer, probability = capsys.readouterr().out.splitlines()
    assert answer == "answer       (none in this text)"
    assert 0 < float(probability.split()[1]) < 1
    assert minibert(*words, context("The end of beta was in it."), "--json") == 0
    [reply] = json.loads(capsys.readouterr().out)
    assert reply["answer"] == "" and reply["start"] is reply["end"] is None


def test_a_checkpoint_without_a_question_head_is_an_error(
    tmp_path: Path, context: Context, capsys: Capture
) -> None:
    tensors = {k: v for k, v in numpy_tensors(CONFIG).items() if not k.startswith("qa_outputs")}
    encoder = write_checkpoint(write_vocabulary(tmp_path / "encoder"), CONFIG, tensors)
    words = ("ask", "--model", encoder, "--context", context(ENGLISH), "--question", "who")
    assert "has not been trained for questions" in fails(capsys, *words)


def test_a_run_that_has_no_model_yet_is_an_error(run: Path, capsys: Capture) -> None:
    (run / "config.json").unlink()
    words = ("ask", "--model", run, "--context", run / "vocab.txt", "--question", "who")
    assert "no model yet" in fails(capsys, *words)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "must hold a JSON object"),
        ("{}", "is no run of train_qa.py"),
        ('{"settings": {"max_length": 40, "metric": "accuracy"}}', "is no run of train_qa.py"),
        ('{"settings": {"head_tail": false}}', "is a run of train_cls.py; use minibert classify"),
        (json.dumps(run_json(max_length="40")), "is damaged"),
        (json.dumps(run_json(metric="bleu")), "is damaged"),
        (json.dumps(run_json(precision="int4")), "is damaged"),
        (json.dumps(run_json(doc_stride=4000)), "would skip tokens"),
        (json.dumps(run_json(max_length=384)), "384 is more than the model's 48 positions"),
    ],
)
def test_a_run_json_that_does_not_fit_is_an_error(
    run: Path, capsys: Capture, content: str, says: str
) -> None:
    (run / "run.json").write_text(content)
    words = ("ask", "--model", run, "--context", run / "vocab.txt", "--question", "who")
    assert says in fails(capsys, *words)


def test_a_vocabulary_too_large_for_the_model_is_an_error(run: Path, capsys: Capture) -> None:
    with (run / "vocab.txt").open("a", encoding="utf-8") as file:
        file.write("\nmore")
    words = ("ask", "--model", run, "--context", run / "config.json", "--question", "who")
    assert "do not belong together" in fails(capsys, *words)


def test_an_unknown_model_is_an_error_that_names_the_nearest(run: Path, capsys: Capture) -> None:
    words = ("--context", run / "vocab.txt", "--question", "who")
    message = fails(capsys, "ask", "--model", f"{run}s", *words)
    assert message.endswith(f"did you mean {run}?\n")
