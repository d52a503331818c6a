"""The bundled samples: every answer where it says it is, the parts apart, the classes balanced."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from minibert import files
from minibert.datasets import find
from minibert.metrics import CHINESE, metric_for, score_all
from minibert.qa.reading import Question, read_questions

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ROOT / "minibert" / "samples"
PARTS = ("train", "dev")
WINDOW = 512  # tokens of a window in Chinese, where a character is a token


def questions_of(part: str) -> list[Question]:
    return read_questions(SAMPLES / "qa" / f"{part}.json").questions


def entries_of(part: str) -> list[tuple[str, dict[str, Any]]]:
    """Every question as the file has it, after its context."""
    data = json.loads((SAMPLES / "qa" / f"{part}.json").read_text(encoding="utf-8"))
    return [
        (paragraph["context"], qa)
        for article in data["data"]
        for paragraph in article["paragraphs"]
        for qa in paragraph["qas"]
    ]


def reviews_of(part: str) -> list[tuple[str, str]]:
    """(text, label) of every row, without the header."""
    lines = (SAMPLES / "reviews" / f"{part}.tsv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "text\tlabel"
    rows = [line.split("\t") for line in lines[1:]]
    assert all(len(row) == 2 for row in rows)
    return [(text, label) for text, label in rows]


def is_chinese(text: str) -> bool:
    return CHINESE.search(text) is not None


def test_data_finds_both_parts_of_the_questions_in_their_directory() -> None:
    found = find(str(SAMPLES / "qa"))
    assert {part: path.name for part, path in found.items()} == {
        "train": "train.json",
        "dev": "dev.json",
    }


@pytest.mark.parametrize("part", PARTS)
def test_every_answer_stands_exactly_where_the_file_says(part: str) -> None:
    for context, qa in entries_of(part):
        texts = [answer["text"] for answer in qa["answers"]]
        assert texts and len(texts) == len(set(texts)), qa["id"]
        for answer in qa["answers"]:
            start, text = answer["answer_start"], answer["text"]
            assert context[start : start + len(text)] == text == text.strip(), qa["id"]


@pytest.mark.parametrize("part", PARTS)
def test_reading_has_nothing_to_mend(part: str) -> None:
    counts = read_questions(SAMPLES / "qa" / f"{part}.json").counts
    assert counts.moved == counts.trimmed == counts.ambiguous == 0
    assert counts.absent == counts.unlocated == counts.impossible == 0


def test_there_are_enough_passages_and_questions_of_every_kind() -> None:
    train, dev = questions_of("train"), questions_of("dev")
    contexts = {q.context for q in train + dev}
    chinese = {context for context in contexts if is_chinese(context)}
    assert len(chinese) >= 66
    assert len(contexts - chinese) >= 6
    assert len({q.context for q in dev}) >= 16
    assert len(train) + len(dev) >= 270
    assert len(dev) >= 70
    assert sum(len(q.answers) > 1 for q in dev) >= 40
    assert metric_for(q.context for q in train + dev) == "cmrc2018"


@pytest.mark.parametrize("part", PARTS)
def test_some_answers_lie_beyond_the_first_window(part: str) -> None:
    far = [
        q
        for q in questions_of(part)
        if is_chinese(q.context)
        # Figures are one token for several characters, so this counts a few too many as near.
        and len(q.question) + min(answer.start for answer in q.answers) >= WINDOW
    ]
    assert len({q.context for q in far}) >= 3
    assert len(far) >= 5


@pytest.mark.parametrize("part", PARTS)
def test_passages_are_at_least_80_characters_and_end_in_a_full_stop(part: str) -> None:
    for context in {q.context for q in questions_of(part)}:
        assert len(context) >= 80
        assert context[-1] in "。”.", context[-20:]
        assert context == context.strip()


def test_what_tiny_zh_was_trained_on_besides_are_exact_answers_on_other_passages() -> None:
    trained = read_questions(ROOT / "weights/tiny-zh-questions.json")
    counts = trained.counts
    assert counts.moved == counts.trimmed == counts.ambiguous == counts.absent == 0
    assert len(trained.questions) == len({q.id for q in trained.questions}) == 6144
    assert len({q.context for q in trained.questions}) == 768
    bundled = [q for part in PARTS for q in questions_of(part)]
    assert not {q.context for q in trained.questions} & {q.context for q in bundled}
    runs = {shared for q in bundled for shared in runs_of(q.context)}
    near = {q.title for q in trained.questions if len(runs_of(q.context) & runs) > 5}
    assert not near, "they tell of the same things"


def test_a_reader_who_had_no_key_answers_the_dev_questions_as_the_key_does() -> None:
    """The answers were written by a reader who saw passages and questions alone."""
    answers = files.read_json(ROOT / "tests/reference/sample_reader.json")
    golds = {question.id: question.gold_texts for question in questions_of("dev")}
    score = score_all(golds, answers, "cmrc2018")
    assert not score.missing and not score.unknown
    assert score.exact_match > 98 and score.f1 > 99


def runs_of(context: str, length: int = 8) -> set[str]:
    """All stretches of so many characters, punctuation left out; in English of so many words."""
    units = re.findall(r"[a-zA-Z]+|\d|[\u4e00-\u9fff]", context)
    return {" ".join(units[i : i + length]) for i in range(len(units) - length + 1)}


def test_no_id_title_or_passage_is_used_twice_and_no_passage_is_in_both_parts() -> None:
    train, dev = questions_of("train"), questions_of("dev")
    ids = [q.id for q in train + dev]
    assert len(ids) == len(set(ids))
    assert not {q.context for q in train} & {q.context for q in dev}
    title_of = {q.context: q.title for q in train + dev}
    assert len(set(title_of.values())) == len(title_of)
    asked = Counter((q.context, q.question) for q in train + dev)
    assert max(asked.values()) == 1


@pytest.mark.parametrize("part", PARTS)
def test_questions_are_asked_and_do_not_give_their_answer_away(part: str) -> None:
    for q in questions_of(part):
        assert q.question[-1] in "？?", q.id
        assert not any(answer.text in q.question for answer in q.answers), q.id


def test_reviews_are_enough_in_both_languages_and_none_occurs_twice() -> None:
    train, dev = reviews_of("train"), reviews_of("dev")
    assert len(train) + len(dev) >= 420
    assert len(dev) >= 100
    texts = [text for text, _ in train + dev]
    bare = {re.sub(r"\W", "", text).lower() for text in texts}
    assert len(bare) == len(texts)
    assert all(text == text.strip() and len(text) >= 8 for text in texts)
    n_chinese = sum(map(is_chinese, texts))
    assert n_chinese >= 280
    assert len(texts) - n_chinese >= 110


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("chinese", [True, False], ids=["chinese", "english"])
def test_both_classes_are_as_common_within_a_tenth(part: str, chinese: bool) -> None:
    counts = Counter(label for text, label in reviews_of(part) if is_chinese(text) == chinese)
    assert counts.keys() == {"positive", "negative"}
    assert max(counts.values()) <= 1.1 * min(counts.values())


def test_the_files_are_installed_with_the_package() -> None:
    declared = re.search(
        r"^\[tool\.setuptools\.package-data\]\nminibert = (\[.*\])$",
        (ROOT / "pyproject.toml").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    assert declared
    package = ROOT / "minibert"
    installed = {path for pattern in json.loads(declared[1]) for path in package.glob(pattern)}
    assert {path for path in SAMPLES.rglob("*") if path.is_file()} <= installed
