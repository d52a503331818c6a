"""bench/speed.py compares what it says: the same work, the right ratio, nothing left unsaid."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import speed
import torch
from rows import example, floor, material, questions, running, step, windows
from rows.products import products
from rows.row import Check, Row, Side, Work, apart, needs, timed
from rows.table import best_peer, compare, exponents, lines, short
from torch.utils.flop_counter import FlopCounterMode

from minibert import attention
from minibert.config import BertConfig
from minibert.model import BertForQuestionAnswering, BertModel
from minibert.qa.decoding import decode
from minibert.qa.reading import read_questions
from minibert.qa.windows import make_windows
from minibert.tokenizer import load_tokenizer
from minibert.train import PRECISIONS, autocast


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(tmp_path, tmp_path / "absent", "absent", "fp32", quick=True)


def no_measure(work: Work, side: str) -> dict[str, float]:
    raise AssertionError("replaced in the test")


SIDES = {
    "ours": Side("ours", "ours"),
    "slow": Side("a peer"),
    "fast": Side("another form of it"),
    "defaults": Side("its defaults", "beside", target=3.0),
}
ROW = Row("row", "some work", SIDES, no_measure, lambda work: [], target=1.25, turns=3)


def turn(**seconds: float) -> dict[str, dict[str, float]]:
    return {side: {"seconds": x, "peak_mb": 100 * x} for side, x in seconds.items()}


# table.py


def test_ratios_are_taken_turn_by_turn() -> None:
    """The machine slows down by half, and the ratio stays."""
    found = compare(ROW, [turn(ours=1, fast=2), turn(ours=2, fast=4), turn(ours=2, fast=5)])
    fast = found["fast"]
    assert (fast["ratio"], fast["ratio_min"], fast["ratio_max"]) == (2, 2, 2.5)
    assert (fast["seconds"], found["ours"]["seconds"], fast["target"]) == (4, 2, 1.25)
    in_memory = compare(replace(ROW, figure="peak_mb"), [turn(ours=2, fast=3)])
    assert in_memory["fast"]["ratio"] == 1.5


def test_the_best_peer_is_no_side_that_is_only_stated() -> None:
    trial = turn(ours=1, slow=3, fast=2, defaults=1.5)
    assert best_peer(SIDES, trial, "seconds") == "fast"
    assert best_peer({"ours": SIDES["ours"]}, trial, "seconds") is None


def test_the_exponent_is_that_of_the_growth() -> None:
    sizes = {f"{n}": Side("", "beside" if n > 64 else "ours", size=n) for n in (64, 128, 256)}
    turns = [
        {side: {"seconds": 3 * float(side) ** 1.5, "grown_mb": float(side) ** 2} for side in sizes}
    ]
    found = exponents(replace(ROW, sides=sizes), turns)
    assert found == {"seconds": pytest.approx(1.5), "grown_mb": pytest.approx(2)}
    assert exponents(ROW, [turn(ours=1, fast=2)]) == {}


def test_the_table_has_a_line_for_each_side_and_for_a_row_that_did_not_run() -> None:
    facts = {"row": "row", "figure": "seconds", "sides": compare(ROW, [turn(ours=0.5, fast=1)])}
    (line,) = lines(facts | {"exponents": {}})
    assert line == "| row | 500 ms | 1.00 s | 2.00 (2.00 to 2.00) | 1.25 | another form of it |"
    absent = {"row": "row", "not_run": "this machine has no bf16"}
    assert "not run: this machine has no bf16" in lines(absent)[0]
    assert short(absent) == "row: not run: this machine has no bf16"
    assert short(facts | {"checks": []}) == "row: ours, fast ran; it has no outputs to compare"
    assert short(facts | {"checks": [{}] * 2}) == "row: ours, fast ran; 2 checks hold"


# row.py


def test_outputs_that_differ_do_not_hold() -> None:
    x = [torch.ones(2), torch.tensor([4.0])]
    assert apart("", x, [y + 3e-4 for y in x]).holds
    assert not apart("", x, [y + 5e-4 for y in x]).holds
    assert apart("", x, [y + 5e-4 for y in x], "bf16").holds
    assert not apart("", x, [x[0], torch.tensor([math.nan])]).holds
    assert not apart("", x, [torch.tensor([math.nan, 1.0]), x[1]]).holds
    assert not apart("", x, x[:1]).holds
    assert not apart("", x, [torch.ones(3), x[1]]).holds


def test_what_is_lacking_is_said(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    assert needs("json")(work) == ""
    assert "needs no_such_module" in needs("json", "no_such_module")(work)
    monkeypatch.setattr("rows.row.choose_precision", lambda device: "fp32")
    assert needs(bf16=True)(work) == ""  # tiny sizes are emulated
    assert needs(bf16=True)(work._replace(quick=False)) == "this machine has no bf16"


def hide(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    """They are as if not installed."""
    find = importlib.util.find_spec

    def find_others(name: str) -> Any:
        return None if name in modules else find(name)

    monkeypatch.setattr("rows.row.importlib.util.find_spec", find_others)


def test_a_side_that_lacks_something_is_left_out_and_not_the_row(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = speed.ROWS["encode-8x512-fp32"]
    for module in ("onnxruntime", "onnxscript"):
        hide(monkeypatch, module)
        assert "onnxruntime" not in row.lacks(work) and "onnxscript" not in row.lacks(work)
        assert row.sides_for(work).keys() == {"ours", "sdpa", "eager", "products"}


def test_each_row_beside_transformers_says_if_it_is_not_there(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(monkeypatch, "transformers")
    alone = {name for name, row in speed.ROWS.items() if not row.lacks(work)}
    assert alone == {"floor", "growth-length", "growth-data"}


def test_the_first_call_is_not_counted() -> None:
    calls = iter([0.2, 0.0, 0.0, 0.0])

    def once() -> None:
        torch.zeros(1).sum()
        time.sleep(next(calls))

    assert timed(once, counted=3)["seconds"] < 0.1
    assert next(calls, None) is None


# running.py


class Processes:
    """Stands for the processes of a row: keeps what was asked of them."""

    def __init__(self, checks: Sequence[Check] = ()) -> None:
        self.asked: list[tuple[str, bool]] = []
        self.checks = list(checks)

    def __call__(self, row: Row, parts: Sequence[str], work: Work, do: running.Do) -> Any:
        seconds = {"ours": 1.0, "slow": 3.0, "fast": 2.0, "defaults": 9.0, "stated": 0.5}
        self.asked += [(part, work.trial) for part in parts]
        return self.checks, turn(**{p: seconds[p] for p in parts if p != running.CHECK})


def test_after_the_trial_ours_and_the_best_peer_take_turns(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes = Processes([Check("logits", 0.0, 1.0)])
    monkeypatch.setattr(running, "in_a_process", processes)
    row = replace(ROW, sides=SIDES | {"stated": Side("ours without a part", "beside")})
    facts = running.facts_of(row, work._replace(quick=False), speed.do)
    assert processes.asked == [
        (running.CHECK, False),
        *((side, True) for side in ("slow", "fast")),
        *(("ours", False), ("fast", False), ("defaults", False), ("stated", False)),
        *(("ours", False), ("fast", False), ("defaults", False)) * 2,
    ]
    assert not facts["failed"] and facts["sides"].keys() == {"ours", "fast", "defaults", "stated"}
    assert 0 < facts["minutes"] < 1
    turns = {name: side["turns"] for name, side in facts["sides"].items()}
    assert turns == {"ours": 3, "fast": 3, "defaults": 3, "stated": 1}
    assert facts["sides"]["defaults"]["target"] == 3.0
    json.dumps(facts)


def test_a_row_that_lacks_something_fails_the_quick_form_alone(work: Work) -> None:
    row = replace(ROW, lacks=lambda work: "no bf16")
    assert running.facts_of(row, work, speed.do)["failed"]
    facts = running.facts_of(row, work._replace(quick=False), speed.do)
    assert not facts["failed"] and facts["not_run"] == "no bf16"


def do_some(name: str, parts: Sequence[str], work: Work) -> running.Found:
    """What the processes of the next test call."""

    def measure(work: Work, side: str) -> dict[str, float]:
        print("nobody sees this")
        if side == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        assert side != "slow", "no such luck"
        if side == "silent":
            sys.exit(1)
        return {"seconds": 1.0, "pid": os.getpid(), "threads": torch.get_num_threads()}

    row = replace(ROW, measure=measure, check=lambda work: [Check("logits", 2.0, 1.0)])
    return running.do_parts(row, parts, work)


@pytest.mark.parametrize("figure", ["seconds", "peak_mb"])  # a copy of a process, and a new one
def test_a_side_runs_in_a_process_of_its_own_and_differing_outputs_fail(
    work: Work, figure: str, capfd: pytest.CaptureFixture[str]
) -> None:
    row = replace(ROW, figure=figure)
    _, sides = running.in_a_process(row, ["ours", "fast"], work, do_some)
    assert sides["ours"]["threads"] == 1 and sides["ours"]["peak_mb"] > 1
    assert sides["ours"]["pid"] == sides["fast"]["pid"] != os.getpid()
    _, others = running.in_a_process(row, ["ours"], work, do_some)
    assert others["ours"]["pid"] != sides["ours"]["pid"]
    with pytest.raises(running.Failed, match=r"outputs differ: logits: 2 > 1"):
        running.in_a_process(row, [running.CHECK], work, do_some)
    assert "nobody" not in "".join(capfd.readouterr())
    with pytest.raises(running.Failed, match=r"slow: AssertionError: no such luck"):
        running.in_a_process(row, ["slow"], work, do_some)
    assert "no such luck" in capfd.readouterr().err
    with pytest.raises(running.Failed, match="killed: exit code -9"):
        running.in_a_process(row, ["killed"], work, do_some)
    with pytest.raises(running.Failed, match="silent: nobody sees this"):
        running.in_a_process(row, ["silent"], work, do_some)


# speed.py


def test_every_row_of_the_table_is_there_and_has_one_side_of_ours() -> None:
    names = set(speed.ROWS)
    assert len(speed.ROWS) == sum(len(family.ROWS) for family in speed.FAMILIES)
    assert names >= {"qa", "cls", "step", "floor", "memory", "evaluate", "latency", "load"}
    assert names >= {f"encode-{s}-{p}" for s in ("8x512", "64x32") for p in ("fp32", "bf16")}
    assert names >= {"windows-cmrc", "windows-squad", "growth-length", "growth-data"}
    assert names - set(speed.TABLE) == {"cls-epoch"} == names - set(speed.arguments([]).rows)
    for row in speed.ROWS.values():
        assert sum(side.kind == "ours" for side in row.sides.values()) == 1, row.name


def test_the_rows_are_listed_and_an_unknown_one_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert speed.main(["--list"]) == 0
    listed = capsys.readouterr().out
    for row in speed.ROWS.values():
        assert f"{row.name}: {row.what}" in listed and row.left_out in listed
    with pytest.raises(SystemExit):
        speed.main(["--rows", "no-such-row"])


def test_the_figures_are_kept_after_each_row_and_a_failed_one_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "speed.json"

    def facts_of(row: Row, work: Work, do: running.Do) -> dict[str, Any]:
        if row.name == "floor":
            assert [x["row"] for x in json.loads(out.read_text())["rows"]] == ["step"]
        assert not work.quick and do is speed.do
        return {"row": row.name, "not_run": "it broke", "failed": row.name == "floor"}

    monkeypatch.setattr(speed, "facts_of", facts_of)
    flags = ["--rows", "step", "floor", "--out", str(out)]
    assert speed.main(flags) == 1
    assert "outputs differ: floor\n" in capsys.readouterr().err
    facts = json.loads(out.read_text(encoding="utf-8"))
    assert facts["versions"]["torch"] == torch.__version__ and facts["machine"]["threads"] >= 1
    assert facts["settings"]["rows"] == ["step", "floor"]
    assert "list" not in facts["settings"]  # it measures nothing
    assert speed.main(["--rows", "step"]) == 0


def test_rows_of_the_quick_form_go_side_by_side_in_folders_of_their_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    both, folders = threading.Barrier(2), []

    def facts_of(row: Row, work: Work, do: running.Do) -> dict[str, Any]:
        both.wait(timeout=60)  # each waits for the other
        assert work.quick and work.folder.is_dir()
        folders.append(work.folder)
        return {"row": row.name, "not_run": "it broke", "failed": row.name == "step"}

    monkeypatch.setattr(speed, "facts_of", facts_of)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert speed.main(["--quick", "--rows", "step", "floor"]) == 1
    shown = capsys.readouterr()
    assert [line.split(":")[0] for line in shown.out.splitlines()] == ["step", "floor"]
    assert shown.err.endswith("outputs differ: step\n") and len(set(folders)) == 2


# floor.py


def test_the_floor_is_the_products_of_a_step(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted by torch in a step of ours. The floor leaves out the head, C -> 2, and attention's
    scores where they are computed again."""
    monkeypatch.setattr(attention, "SHORT", 39)  # as the shape of the bench, texts are long
    config = replace(BertConfig(), num_hidden_layers=2, hidden_size=96, num_attention_heads=4)
    torch.manual_seed(0)
    config = replace(config, intermediate_size=384, vocab_size=100)
    BertForQuestionAnswering(config).save_pretrained(work.folder / "model")
    shape = step.Shape(3, 40, 1)
    model = step.model_of(work.folder / "model", "ours")
    with FlopCounterMode(display=False) as whole:
        step.step(model, *step.batch_of(shape, model), "fp32")
    with FlopCounterMode(display=False) as alone:
        floor.multiply(list(floor.products_of(config, shape, torch.float32)))
    head = 3 * 2 * 3 * 40 * 96 * 2  # forward, and twice backward: B T C -> 2
    again = 2 * 2 * 3 * 40 * 40 * 96  # in each layer, in the backward pass: 2 B T T C
    assert alone.get_total_flops() == whole.get_total_flops() - head - again


# products.py


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_products_of_the_encoder_are_those_of_a_forward_pass(precision: str) -> None:
    """By their shapes; torch counts none of oneDNN's, so the model is not laid out for it."""
    config = BertConfig(num_hidden_layers=2, hidden_size=96, num_attention_heads=4, vocab_size=100)
    model = BertModel(replace(config, intermediate_size=384), add_pooler=False).eval()
    ids = torch.ones(3, 40, dtype=torch.int64)
    cpu = torch.device("cpu")
    with FlopCounterMode(display=False) as whole, torch.no_grad(), autocast(cpu, precision):
        model(ids, output_attentions=True)  # by the formula
    model.to(PRECISIONS[precision])
    with FlopCounterMode(display=False) as alone:
        products(model, precision, (3, 40))()
    assert alone.get_total_flops() == whole.get_total_flops() > 0


# material.py


def test_every_tokenizer_of_the_bench_cuts_texts_where_its_model_ends(work: Work) -> None:
    base = material.base(work)
    for place in (base, material.classifier(work), material.vocabulary(base, work)):
        settings = json.loads((place / "tokenizer_config.json").read_text(encoding="utf-8"))
        positions = BertConfig.from_pretrained(base).max_position_embeddings
        assert settings["model_max_length"] == positions == 64


# example.py


@pytest.fixture
def asked(work: Work) -> tuple[Path, Path]:
    """A file of questions, and a folder with a vocabulary."""
    return material.questions(work, "dev", 12), material.base(work)


@pytest.mark.reference
def test_the_example_makes_our_windows_with_an_overlap_for_each_question_alone(
    work: Work, asked: tuple[Path, Path]
) -> None:
    pytest.importorskip("datasets")
    _, vocabulary = asked
    data = windows.Data("", None, 64, 24)
    assert all(check.holds for check in windows.check(data, work))
    records, prepare = windows.theirs(data, work)
    ours = make_windows(
        read_questions(material.questions(work, "dev", 20)).questions,
        *(load_tokenizer(vocabulary), 64, 24),
        training=True,
    )
    overlaps = [24] * len(records)
    published = records.remove_columns("overlap").add_column("overlap", overlaps)
    assert len(prepare(published[:])["input_ids"]) != len(ours.windows)


@pytest.mark.reference
def test_the_example_answers_as_ours_where_the_model_is_sure(
    work: Work, asked: tuple[Path, Path]
) -> None:
    transformers = pytest.importorskip("transformers")
    path, vocabulary = asked
    questions = read_questions(path).questions
    ours = make_windows(questions, load_tokenizer(vocabulary), 64, 24, training=True)
    records = json.loads(material.flat(path, vocabulary, 64, 24, work).read_text())["data"]
    columns = {name: [record[name] for record in records] for name in records[0]}
    tokenizer = transformers.AutoTokenizer.from_pretrained(vocabulary)
    found = example.features(columns, tokenizer, 64, training=False)
    assert len(found["input_ids"]) == len(ours.windows)
    peaks = {}  # by ids: what a model would say that knows the answers
    for window in ours.windows:
        draw = np.random.default_rng(len(peaks))
        start, end = draw.normal(size=(2, len(window.input_ids))).astype(np.float32)
        if window.end_position:
            start[window.start_position] += 20
            end[window.end_position] += 20
        peaks[tuple(window.input_ids.tolist())] = start, end
    logits = [peaks[tuple(ids)] for ids in found["input_ids"]]
    theirs = example.answers(records, found, *zip(*logits, strict=True), 30)  # type: ignore[misc]
    mine = [peaks[tuple(w.input_ids.tolist())] for w in ours.windows]
    predictions = decode(ours, *zip(*mine, strict=True), max_answer_length=30)  # type: ignore[misc]
    short = [q for q in questions if len(q.answers[0].text) <= 30]
    assert len(short) > 6
    for question, prediction in zip(questions, predictions, strict=True):
        if question in short:
            assert theirs[question.id][0]["text"] == prediction.answer() == question.answers[0].text


@pytest.mark.reference
def test_a_step_that_differs_is_found(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    shape = step.Shape(2, 16, 1)
    assert all(check.holds for check in step.check(shape, work))
    loss = step.span_loss

    def twice_for_ours(out: Any, places: torch.Tensor) -> torch.Tensor:
        return loss(out, places) * (2 if isinstance(out, tuple) else 1)

    monkeypatch.setattr(step, "span_loss", twice_for_ours)
    assert not any(check.holds for check in step.check(shape, work))


def test_the_peers_forms_are_padded_as_their_names_say(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[Any, ...]] = []
    monkeypatch.setattr(example, "Reader", lambda *words: given.append(words))
    for side in {**questions.PEERS, **questions.PADDED}:
        questions.reader_of(work.folder, work, side)
    forms = {(attention, multiple) for _, attention, *_, multiple in given}
    assert forms == {(name, n) for name in ("sdpa", "eager") for n in (1, 8, 16)}
