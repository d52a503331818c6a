"""weights/shorten.py: cuts hold their answer, are short, and begin and end with sentences."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import numpy as np
import pytest
import shorten
from tiny_qa import write_questions

from minibert.errors import UserError
from minibert.qa.reading import Answer, read_questions

CONTEXT = "".join(f"{'句' * n}{n:02d}。" for n in range(3, 30))


@pytest.mark.parametrize("length", [10, 40, 200, 1000])
def test_a_cut_holds_its_answer(length: int) -> None:
    draw, several = np.random.default_rng(0), 0
    for number in range(3, 30):
        answer = Answer(f"{number:02d}", CONTEXT.index(f"{number:02d}。"))
        starts = set()
        for _ in range(8):
            start, end = shorten.choose_cut(CONTEXT, answer, length, draw)
            assert 0 <= start <= answer.start and answer.start + 2 <= end <= len(CONTEXT)
            assert end - start <= length
            starts.add(start)
            if length >= 40:  # no sentence is longer: none is cut
                assert re.fullmatch(r"(句+\d\d。)+", CONTEXT[start:end])
        several += len(starts) > 1
    assert several >= 10, "where a cut begins is drawn"


def test_an_answer_longer_than_a_cut_is_kept_whole() -> None:
    answer = Answer(CONTEXT[7:90], 7)
    start, end = shorten.choose_cut(CONTEXT, answer, 20, np.random.default_rng(0))
    assert (start, end) == (7, 90)


def test_what_is_held_out_in_training_is_held_out_here(tmp_path: Path) -> None:
    data = write_questions(tmp_path / "q.json", 40)
    found = {}
    for part in ("train", "dev"):
        out = tmp_path / f"{part}.json"
        args = argparse.Namespace(data=[data], part=part, length=12, cuts=3, seed=0, out=out)
        assert shorten.run(args) == 0
        first = out.read_bytes()
        with pytest.raises(UserError, match="exists already"):
            shorten.run(args)
        out.unlink()
        assert shorten.run(args) == 0 and out.read_bytes() == first
        short, whole = read_questions(out), read_questions(data, part)
        assert short.counts.moved == short.counts.absent == 0
        assert len(short.questions) == 3 * len(whole.questions)
        found[part] = {q.id.rpartition(".")[0] for q in short.questions}
        assert found[part] == {q.id for q in whole.questions}
        for question in short.questions:
            assert len(question.context) <= max(12, len(question.answers[0].text))
    assert not found["train"] & found["dev"]


def test_questions_without_an_answer_in_their_text_are_left_out_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_questions(tmp_path / "q.json", 3)
    data = json.loads(path.read_text(encoding="utf-8"))
    asked = data["data"][0]["paragraphs"][0]["qas"][0]
    asked |= {"answers": [], "is_impossible": True}
    out = tmp_path / "short.json"
    args = argparse.Namespace(data=[path], part="all", length=9, cuts=1, seed=0, out=out)
    path.write_text(json.dumps(data), encoding="utf-8")
    assert shorten.run(args) == 0
    assert "left out: 1 without an answer in their text" in capsys.readouterr().err
    assert asked["id"] not in out.read_text(encoding="utf-8")
    data["data"] = [{"title": "", "paragraphs": [{"context": "天地", "qas": [asked]}]}]
    path.write_text(json.dumps(data), encoding="utf-8")
    out.unlink()
    with pytest.raises(UserError, match="has an answer in its text to cut around"):
        shorten.run(args)


def test_several_files_go_into_one(tmp_path: Path) -> None:
    parts = []
    for name, n in (("a", 3), ("b", 5)):
        path = write_questions(tmp_path / f"{name}.json", n)
        path.write_text(path.read_text("utf-8").replace('"id": "', f'"id": "{name}-'), "utf-8")
        parts.append(path)
    out = tmp_path / "both.json"
    twice = argparse.Namespace(
        data=[parts[0], parts[0]], part="all", length=99, cuts=1, seed=0, out=out
    )
    with pytest.raises(UserError, match="is in more than one --data"):
        shorten.run(twice)
    assert not out.exists()
    both = argparse.Namespace(data=parts, part="all", length=99, cuts=1, seed=0, out=out)
    assert shorten.run(both) == 0
    found = {(q.id, q.question, q.context) for q in read_questions(out).questions}
    expected = [q for path in parts for q in read_questions(path).questions]
    assert found == {(f"{q.id}.0", q.question, q.context) for q in expected} and len(found) == 8
