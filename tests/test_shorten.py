"""weights/shorten.py: cuts hold their answer, are short, and begin and end with sentences."""

from __future__ import annotations

import argparse
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
    draw, starts = np.random.default_rng(0), set()
    for number in range(3, 30):
        answer = Answer(f"{number:02d}", CONTEXT.index(f"{number:02d}。"))
        for _ in range(5):
            start, end = shorten.choose_cut(CONTEXT, answer, length, draw)
            assert 0 <= start <= answer.start and answer.start + 2 <= end <= len(CONTEXT)
            assert end - start <= length
            starts.add(start)
            if length >= 40:  # no sentence is longer: none is cut
                assert re.fullmatch(r"(句+\d\d。)+", CONTEXT[start:end])
    assert len(starts) > 1


def test_an_answer_longer_than_a_cut_is_kept_whole() -> None:
    answer = Answer(CONTEXT[7:90], 7)
    start, end = shorten.choose_cut(CONTEXT, answer, 20, np.random.default_rng(0))
    assert (start, end) == (7, 90)


def test_what_is_held_out_in_training_is_held_out_here(tmp_path: Path) -> None:
    data = write_questions(tmp_path / "q.json", 40)
    found = {}
    for part in ("train", "dev"):
        out = tmp_path / f"{part}.json"
        args = argparse.Namespace(data=data, part=part, length=12, cuts=3, seed=0, out=out)
        assert shorten.run(args) == 0
        first = out.read_bytes()
        assert shorten.run(args) == 0 and out.read_bytes() == first
        short, whole = read_questions(out), read_questions(data, part)
        assert short.counts.moved == short.counts.absent == 0
        assert len(short.questions) == 3 * len(whole.questions)
        found[part] = {q.id.rpartition(".")[0] for q in short.questions}
        assert found[part] == {q.id for q in whole.questions}
        for question in short.questions:
            assert len(question.context) <= max(12, len(question.answers[0].text))
    assert not found["train"] & found["dev"]


def test_no_cut_of_no_length(tmp_path: Path) -> None:
    args = argparse.Namespace(data="x", part="all", length=0, cuts=1, seed=0, out="y")
    with pytest.raises(UserError, match="at least 1"):
        shorten.run(args)
