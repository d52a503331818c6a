"""Question files: every answer of the real ones audited, every fault of a broken one named."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from minibert.errors import UserError
from minibert.qa.reading import Answer, QuestionSet, read_questions

REAL = [
    "cmrc2018/cmrc2018_dev.json",
    "cmrc2018/cmrc2018_dev_native.json",
    "cmrc2018/train.json",
    "cmrc2018/dev.json",
    "squad/train.json",
    "squad/dev.json",
]

CONTEXT = "Ada wrote to Bob.  Bob\r\nread it to Ada; 她很高兴。"
SQUAD: dict[str, Any] = {
    "version": "v2.0",
    "data": [
        {
            "title": "Letters",
            "paragraphs": [
                {
                    "context": CONTEXT,
                    "qas": [
                        {
                            "id": "q1",
                            "question": "Who wrote?",
                            "is_impossible": False,
                            "answers": [{"text": "Ada", "answer_start": 0}],
                        },
                        {
                            "id": "q2",
                            "question": "Who sang?",
                            "is_impossible": True,
                            "answers": [],
                            "plausible_answers": [{"text": "Bob", "answer_start": 13}],
                        },
                    ],
                }
            ],
        }
    ],
}
CMRC: list[dict[str, Any]] = [
    {
        "context_id": "C0",
        "context_text": CONTEXT,
        "title": "Letters",
        "qas": [{"query_id": "C0_Q0", "query_text": "Who wrote?", "answers": ["Ada", "Eve"]}],
    }
]


def write(folder: Path, document: object) -> Path:
    path = folder / "questions.json"
    path.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8", newline="")
    return path


def paragraph(document: Any) -> Any:
    return document["data"][0]["paragraphs"][0]


def squad_with(*annotations: tuple[str, int], context: str = CONTEXT) -> dict[str, Any]:
    """One question with these answers: (text, answer_start)."""
    answers = [{"text": text, "answer_start": start} for text, start in annotations]
    qas = [{"id": "q", "question": "?", "answers": answers}]
    return {"data": [{"paragraphs": [{"context": context, "qas": qas}]}]}


# The real files


@pytest.fixture(scope="module")
def real(shared: Path) -> Callable[[str], QuestionSet]:
    read: dict[str, QuestionSet] = {}

    def get(name: str) -> QuestionSet:
        if name not in read:
            read[name] = read_questions(shared / "data" / name)
        return read[name]

    return get


def raw_questions(path: Path) -> list[tuple[str, str, str, list[tuple[str, int | None]]]]:
    """(id, context, question, annotations) of a sound file of either layout, read independently."""
    data = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(data, list):
        return [
            (
                q["query_id"],
                p["context_text"],
                q["query_text"],
                [(str(a), None) for a in q["answers"]],
            )
            for p in data
            for q in p["qas"]
        ]
    return [
        (
            q["id"],
            p["context"],
            q["question"],
            [(a["text"], a["answer_start"]) for a in q["answers"]],
        )
        for article in data["data"]
        for p in article["paragraphs"]
        for q in p["qas"]
    ]


def expected_span(context: str, text: str, start: int | None) -> Answer | None:
    """The nearest of all occurrences, listed one by one; the first where no start is known."""
    for wanted in (text, text.strip()):
        starts = [match.start() for match in re.finditer(f"(?={re.escape(wanted)})", context)]
        if starts:
            near = min(starts, key=lambda at: (abs(at - (start or 0)), at))
            leading = re.match(r"\s*", wanted)
            assert leading is not None
            return Answer(text.strip(), near + leading.end())
    return None


@pytest.mark.parametrize("name", REAL)
def test_every_answer_of_a_real_file_is_where_it_says(
    real: Callable[[str], QuestionSet], shared: Path, name: str
) -> None:
    questions = real(name).questions
    raw = raw_questions(shared / "data" / name)
    assert [q.id for q in questions] == [id for id, *_ in raw]
    for q, (_, context, question, pairs) in zip(questions, raw, strict=True):
        assert q.context == context
        assert q.question == question.strip()
        assert q.gold_texts == tuple(text for text, _ in pairs)
        spans = [expected_span(context, text, start) for text, start in pairs]
        found = [span for span in spans if span is not None]
        votes = Counter(found)
        assert list(q.answers) == sorted(found, key=lambda span: -votes[span])
        for answer in q.answers:
            assert q.context[answer.start : answer.start + len(answer.text)] == answer.text
            assert answer.text and answer.text == answer.text.strip()


@pytest.mark.parametrize("name", REAL)
def test_the_counts_of_a_real_file_agree_with_an_independent_count(
    real: Callable[[str], QuestionSet], shared: Path, name: str
) -> None:
    path = shared / "data" / name
    raw = raw_questions(path)
    pairs = [(c, text, start) for _, c, _, annotations in raw for text, start in annotations]
    here = [pair for pair in pairs if pair[1].strip() in pair[0]]
    native = name.endswith("native.json")
    many = [1 for c, text, _ in here if len(re.findall(f"(?={re.escape(text)})", c)) > 1]
    counts = real(name).counts
    assert counts.questions == len(raw)
    assert counts.contexts == len({context for _, context, *_ in raw})
    assert counts.answers == len(pairs)
    assert counts.absent == len(pairs) - len(here)
    assert counts.moved == sum(s is not None and c[s : s + len(t)] != t for c, t, s in here)
    assert counts.trimmed == sum(text != text.strip() for _, text, _ in here)
    assert counts.ambiguous == (len(many) if native else 0)
    assert counts.unlocated == sum(
        not any(text.strip() in context for text, _ in annotations)
        for _, context, _, annotations in raw
    )
    assert counts.impossible == 0
    assert real(name).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("name", "contexts", "questions"),
    [
        ("cmrc2018/cmrc2018_dev.json", 848, 3219),
        ("cmrc2018/cmrc2018_dev_native.json", 848, 3219),
        ("cmrc2018/train.json", 700, 2656),
        ("cmrc2018/dev.json", 148, 563),
        ("squad/train.json", None, 7889),
        ("squad/dev.json", None, 1365),
    ],
)
def test_a_real_file_is_as_large_as_published(
    real: Callable[[str], QuestionSet], name: str, contexts: int | None, questions: int
) -> None:
    assert real(name).counts.questions == len(real(name).questions) == questions
    assert contexts is None or real(name).counts.contexts == contexts


def test_both_layouts_of_the_cmrc_dev_set_agree_question_by_question(
    real: Callable[[str], QuestionSet],
) -> None:
    squad, native = real("cmrc2018/cmrc2018_dev.json"), real("cmrc2018/cmrc2018_dev_native.json")
    assert (squad.layout, native.layout) == ("squad", "cmrc")
    assert len(squad.questions) == len(native.questions) == 3219
    for ours, theirs in zip(squad.questions, native.questions, strict=True):
        assert ours == theirs  # text, context, spans, gold texts, title and paragraph id


def test_questions_about_one_paragraph_share_its_context(
    real: Callable[[str], QuestionSet],
) -> None:
    file = real("squad/dev.json")
    by_paragraph: dict[str, set[int]] = {}
    for q in file.questions:
        by_paragraph.setdefault(q.paragraph_id, set()).add(id(q.context))
    assert all(len(objects) == 1 for objects in by_paragraph.values())
    assert len(by_paragraph) == file.counts.contexts < file.counts.questions


# What is read, and how answers are found


def test_a_v2_file_keeps_impossible_questions_without_their_plausible_answers(
    tmp_path: Path,
) -> None:
    file = read_questions(write(tmp_path, SQUAD))
    wrote, sang = file.questions
    assert (file.layout, file.version) == ("squad", "v2.0")
    assert (wrote.is_impossible, wrote.answers) == (False, (Answer("Ada", 0),))
    assert (sang.is_impossible, sang.answers, sang.gold_texts) == (True, (), ())
    assert (wrote.title, wrote.paragraph_id) == ("Letters", "1.1")
    assert file.counts.impossible == 1 and file.counts.unlocated == 0
    assert file.trainable == [wrote, sang]


def test_line_ends_and_double_spaces_of_a_context_are_kept(tmp_path: Path) -> None:
    start = CONTEXT.index("高兴")
    (q,) = read_questions(
        write(tmp_path, squad_with(("高兴", start), ("Bob\r\nread", 19)))
    ).questions
    assert q.context == CONTEXT
    assert q.answers == (Answer("高兴", start), Answer("Bob\r\nread", 19))


@pytest.mark.parametrize(
    ("context", "text", "start", "span", "mended"),
    [
        ("Bob, Bob, Bob", "Bob", 5, ("Bob", 5), {}),
        ("Bob, Bob, Bob", "Bob", 4, ("Bob", 5), {"moved"}),
        ("Bob, Bob, Bob", "Bob", 8, ("Bob", 10), {"moved"}),
        ("Bob, -- Bob", "Bob", 4, ("Bob", 0), {"moved"}),  # as near as the later: the earlier
        ("Bob, Bob, Bob", "Bob", 999, ("Bob", 10), {"moved"}),
        ("Bob, Bob, Bob", "Bob", -2, ("Bob", 0), {"moved"}),
        ("aaaa", "aa", 1, ("aa", 1), {}),
        ("banana", "ana", 2, ("ana", 1), {"moved"}),  # overlapping occurrences at 1 and 3
        ("Bob", "Eve", 0, None, {"absent", "unlocated"}),
        ("Bob", "bob", 0, None, {"absent", "unlocated"}),
        ("E1, E2 E1 ", " E1 ", 6, ("E1", 7), {"trimmed"}),  # its spaces say which one is meant
        ("E1, E2", " E2 ", 4, ("E2", 4), {"trimmed"}),
        ("E1,\u3000E2", "\u3000E2\n", 3, ("E2", 4), {"trimmed", "moved"}),
    ],
)
def test_an_answer_is_found_at_its_nearest_occurrence(
    tmp_path: Path,
    context: str,
    text: str,
    start: int,
    span: tuple[str, int] | None,
    mended: set[str],
) -> None:
    file = read_questions(write(tmp_path, squad_with((text, start), context=context)))
    (q,) = file.questions
    assert q.answers == ((Answer(*span),) if span else ())
    assert q.gold_texts == (text,)
    names = ("moved", "trimmed", "ambiguous", "absent", "unlocated")
    assert {name for name in names if getattr(file.counts, name)} == set(mended)


def test_the_answer_that_most_annotators_gave_comes_first_and_else_the_file_s_order_stays(
    tmp_path: Path,
) -> None:
    start = CONTEXT.index("高兴")
    one, other, third = ("Bob", 13), ("高兴", start), ("Bob\r\nread", 19)
    (q,) = read_questions(write(tmp_path, squad_with(one, other, third, other))).questions
    assert [answer.text for answer in q.answers] == ["高兴", "高兴", "Bob", "Bob\r\nread"]
    assert q.gold_texts == ("Bob", "高兴", "Bob\r\nread", "高兴")
    (q,) = read_questions(write(tmp_path, squad_with(third, one, other))).questions
    assert [answer.text for answer in q.answers] == ["Bob\r\nread", "Bob", "高兴"]


def test_an_absent_answer_is_kept_for_evaluation_and_dropped_from_training(tmp_path: Path) -> None:
    document = squad_with(("Eve", 0), ("Bob", 13))
    paragraph(document)["qas"].append(
        {"id": "lost", "question": "?", "answers": [{"text": "Eve", "answer_start": 1}]}
    )
    file = read_questions(write(tmp_path, document))
    found, lost = file.questions
    assert (found.answers, found.gold_texts) == ((Answer("Bob", 13),), ("Eve", "Bob"))
    assert (lost.answers, lost.gold_texts) == ((), ("Eve",))
    assert file.trainable == [found]
    assert (file.counts.absent, file.counts.unlocated) == (2, 1)


@pytest.mark.parametrize(("answer", "start"), [("Ada", 0), ("Bob", 13), ("aha", len(CONTEXT) + 1)])
def test_an_answer_of_the_native_layout_is_its_first_occurrence(
    tmp_path: Path, answer: str, start: int
) -> None:
    document = copy.deepcopy(CMRC)
    document[0]["context_text"] += " ahaha"  # "aha" twice, overlapping
    document[0]["qas"][0]["answers"] = [answer, "Eve"]
    file = read_questions(write(tmp_path, document))
    (q,) = file.questions
    assert q.answers == (Answer(answer, start),) and q.gold_texts == (answer, "Eve")
    assert (q.id, q.paragraph_id, q.title) == ("C0_Q0", "C0", "Letters")
    assert (file.layout, file.counts.ambiguous, file.counts.absent) == ("cmrc", 1, 1)


def test_a_number_in_the_native_layout_is_read_as_its_text(tmp_path: Path) -> None:
    document = copy.deepcopy(CMRC)
    document[0]["context_text"] = "It grew by 4.9 in 1984."
    document[0]["qas"][0]["answers"] = [4.9, 1984, 39764.0]
    (q,) = read_questions(write(tmp_path, document)).questions
    assert q.answers == (Answer("4.9", 11), Answer("1984", 18))
    assert q.gold_texts == ("4.9", "1984", "39764.0")


def test_an_empty_answer_of_an_impossible_question_is_no_answer(tmp_path: Path) -> None:
    document = squad_with(("", -1))
    paragraph(document)["qas"][0]["is_impossible"] = True
    (q,) = read_questions(write(tmp_path, document)).questions
    assert (q.is_impossible, q.answers, q.gold_texts) == (True, (), ())


def test_a_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    plain = read_questions(write(tmp_path, SQUAD))
    marked = tmp_path / "marked.json"
    marked.write_bytes(b"\xef\xbb\xbf" + plain.path.read_bytes())
    assert read_questions(marked).questions == plain.questions


def test_a_context_of_a_megabyte_works(tmp_path: Path) -> None:
    context = "甲乙丙 " * 250_000 + "the end"
    file = read_questions(write(tmp_path, squad_with(("the end", 7), context=context)))
    assert file.questions[0].answers == (Answer("the end", 1_000_000),)


def test_the_summary_is_one_line_that_mentions_what_was_mended(tmp_path: Path) -> None:
    document = squad_with(("Ada", 2), ("Eve", 0), (" Bob", 12))
    file = read_questions(write(tmp_path, document))
    assert file.summary() == (
        "questions.json: 1 questions on 1 contexts, 3 answers; "
        "1 answers moved to their nearest occurrence; 1 trimmed of whitespace; "
        "1 answers not in the context (used for evaluation only)"
    )
    assert json.loads(json.dumps(file.as_dict())) == {
        "file": str(file.path),
        "layout": "squad",
        "version": "",
        "sha256": hashlib.sha256(file.path.read_bytes()).hexdigest(),
        "contexts_taken": "all",
        "contexts": 1,
        "questions": 1,
        "impossible": 0,
        "answers": 3,
        "moved": 1,
        "trimmed": 1,
        "ambiguous": 0,
        "absent": 1,
        "unlocated": 0,
    }


# One file that is all there is


@pytest.mark.parametrize("name", REAL[1:4] + REAL[-1:])
def test_every_tenth_context_of_a_real_file_is_one_part_and_the_rest_the_other(
    shared: Path, real: Callable[[str], QuestionSet], name: str
) -> None:
    whole = real(name)
    train, dev = (read_questions(shared / "data" / name, part) for part in ("train", "dev"))
    place = {question.id: i for i, question in enumerate(whole.questions)}
    both = sorted([*train.questions, *dev.questions], key=lambda question: place[question.id])
    assert both == whole.questions
    contexts = list(dict.fromkeys(question.context for question in whole.questions))
    assert {question.context for question in dev.questions} == set(contexts[::10])
    assert not {q.context for q in dev.questions} & {q.context for q in train.questions}
    counts = [asdict(part.counts) for part in (train, dev, whole)]
    assert all(counts[0][key] + counts[1][key] == counts[2][key] for key in counts[2])
    assert train.sha256 == dev.sha256 == whole.sha256
    assert train.summary().startswith(f"{whole.path.name} (all but every 10th context): ")
    assert dev.as_dict()["contexts_taken"] == "every 10th"


def test_a_text_that_is_in_a_file_twice_is_in_one_part(tmp_path: Path) -> None:
    texts = ["the same text", *(f"text {i}" for i in range(11)), "the same text"]
    qas = [{"question": "?", "answers": [{"text": "text", "answer_start": 0}]}]
    paragraphs = [
        {"context": text, "qas": [qas[0] | {"id": f"{i}"}]} for i, text in enumerate(texts)
    ]
    path = write(tmp_path, {"data": [{"paragraphs": paragraphs}]})
    dev, train = read_questions(path, "dev"), read_questions(path, "train")
    assert [question.id for question in dev.questions] == ["0", "10", "12"]
    assert [question.id for question in train.questions] == [*map(str, range(1, 10)), "11"]


def test_a_fault_in_the_part_that_is_not_taken_is_a_fault(tmp_path: Path) -> None:
    documents = squad_with(("Ada", 0)), squad_with(("Eve", 0), context="Another text about Eve.")
    both = {"data": [article for document in documents for article in document["data"]]}
    with pytest.raises(UserError, match="already used"):
        read_questions(write(tmp_path, both), "train")
    with pytest.raises(UserError, match="too few contexts to hold out every 10th"):
        read_questions(write(tmp_path, documents[0]), "train")


# Faults: files that cannot be read at all


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b" \r\n", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        (json.dumps(SQUAD, indent=1).encode()[:-20], r"line \d+, column \d+: .* cut off"),
        (json.dumps(SQUAD).encode()[:60], r"line 1, column \d+: Unterminated string.* cut off"),
        (b'{"data": [}', "not valid JSON: line 1, column 11: .*mend it there"),
        (b'{"data": []}\n{"data": []}', "not valid JSON: line 2, column 1: Extra data"),
        (
            '{"data": "问题'.encode()[:-1],
            "byte 13 is 0xe9, in line 1; the file seems to be cut off",
        ),
        ("问题".encode("gbk"), "not UTF-8 text: byte 0 is 0xce.*; save it in UTF-8"),
        (json.dumps(SQUAD).encode("utf-16"), "not UTF-8 text: byte 0 is 0xff"),
        (b"[" * 100_000, "is not JSON that can be read"),
        (b"9" * 5000, "is not JSON that can be read|found a whole number"),
        (b"[]", "found a list that is empty"),
        (b"null", "found null"),
        (b"0", "found a whole number;"),
        (b'"text"', "found a string"),
        (b'["a"]', "found a list of which the first entry is a string"),
        (b'[{"id": 1, "q": 2}]', 'the first entry is an object with the keys "id", "q"'),
        (b'{"q1": "Ada", "q2": "Bob"}', 'found an object with the keys "q1", "q2";'),
        (b'{"a":1,"b":2,"c":3,"d":4,"e":5,"f":6}', r'"d", "e", \.\.\.; convert'),
        (b'{"data": []}', "holds no question"),
        (b'{"data": [{"paragraphs": []}]}', "holds no question"),
        (b'{"data": {"a": 1}}', '"data" must be a list, not an object with the keys "a"'),
    ],
)
def test_a_file_that_is_no_question_file_is_a_clear_error(
    tmp_path: Path, content: bytes, says: str
) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=says) as error:
        read_questions(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_directory_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.json does not exist"):
        read_questions(tmp_path / "nowhere.json")
    with pytest.raises(UserError, match=r"is a directory; name one file in it"):
        read_questions(tmp_path)


# Faults: one entry is wrong. Each changes a sound document and names the place.

Change = Callable[[Any], None]


def at(*keys: str | int, to: object = None, delete: bool = False) -> Change:
    """Set, or delete, the value at a path of keys below the first paragraph."""

    def change(document: Any) -> None:
        record = document[0] if isinstance(document, list) else paragraph(document)
        for key in keys[:-1]:
            record = record[key]
        if delete:
            del record[keys[-1]]
        else:
            record[keys[-1]] = to

    return change


def no_paragraphs(document: Any) -> None:
    del document["data"][0]["paragraphs"]


def second_article_reuses_an_id(document: Any) -> None:
    document["data"].append(copy.deepcopy(document["data"][0]))
    document["data"][1]["title"] = ""


def qa(*keys: str | int, to: object = None, delete: bool = False) -> Change:
    return at("qas", 0, *keys, to=to, delete=delete)


def answer(*keys: str, to: object = None, delete: bool = False) -> Change:
    return at("qas", 0, "answers", 0, *keys, to=to, delete=delete)


PLACE = "article 1 (Letters), paragraph 1"
FIRST, SECOND = f"{PLACE}, question 1", f"{PLACE}, question 2"  # where the id is not known
Q1, Q2 = f"{PLACE}, question q1", f"{PLACE}, question q2"
USED = "this id is already used in article 1 (Letters), paragraph 1; "


@pytest.mark.parametrize(
    ("change", "place", "says"),
    [
        (no_paragraphs, "article 1", 'the key "paragraphs" is missing; add it (a list)'),
        (at("context", delete=True), PLACE, 'the key "context" is missing'),
        (at("context", to=3), PLACE, '"context" must be a string, not a whole number'),
        (at("context", to=""), PLACE, '"context" is empty'),
        (at("context", to=" \n"), PLACE, '"context" is empty'),
        (at("context", to="x\ud800"), PLACE, "half a character (a lone surrogate) at 1"),
        (at("qas", delete=True), PLACE, 'the key "qas" is missing'),
        (at("qas", to={}), PLACE, '"qas" must be a list, not an object that is empty'),
        (at("qas", 0, to="q"), FIRST, 'expected an object with "id", found a string'),
        (qa("id", delete=True), FIRST, 'the key "id" is missing'),
        (qa("id", to=""), FIRST, '"id" is empty'),
        (at("qas", 1, "id", to=7), SECOND, '"id" must be a string, not a whole number'),
        (at("qas", 1, "id", to="q1"), Q1, USED),
        (second_article_reuses_an_id, "article 2, paragraph 1, question q1", USED),
        (qa("question", delete=True), Q1, 'the key "question" is missing'),
        (qa("question", to=" "), Q1, '"question" is empty'),
        (qa("question"), Q1, '"question" must be a string, not null'),
        (qa("answers", delete=True), Q1, 'the key "answers" is missing'),
        (qa("answers", to="Ada"), Q1, '"answers" must be a list, not a string'),
        (qa("answers", to=[]), Q1, "has no answers"),
        (qa("answers", to=["Ada"]), Q1, 'expected an object with "text", found a string'),
        (answer("text", delete=True), Q1, 'the key "text" is missing'),
        (answer("text", to=4.5), Q1, '"text" must be a string, not a number with a fraction'),
        (answer("text", to=""), Q1, "has an empty answer"),
        (answer("answer_start", delete=True), Q1, '"answer_start" is missing; add it (a whole'),
        (answer("answer_start", to="0"), Q1, "must be a whole number, not a string"),
        (answer("answer_start", to=True), Q1, "must be a whole number, not true or false"),
        (qa("is_impossible", to=1), Q1, '"is_impossible" must be true or false'),
        (qa("is_impossible", to=True), Q1, "is marked impossible but has answers"),
        (at("qas", 1, "is_impossible", delete=True), Q2, "has no answers; add one, or mark it"),
    ],
)
def test_a_fault_in_a_squad_file_is_named_with_its_place(
    tmp_path: Path, change: Change, place: str, says: str
) -> None:
    assert_fault(tmp_path, SQUAD, change, place, says)


@pytest.mark.parametrize(
    ("change", "place", "says"),
    [
        (at("context_id", delete=True), "context 1", 'the key "context_id" is missing'),
        (at("context_text", delete=True), "context 1 (C0)", 'key "context_text" is missing'),
        (at("context_text", to=""), "context 1 (C0)", '"context_text" is empty'),
        (at("qas"), "context 1 (C0)", '"qas" must be a list, not null'),
        (qa("query_id", delete=True), "context 1 (C0), question 1", 'key "query_id" is missing'),
        (qa("query_text", to=""), "context 1 (C0), question C0_Q0", '"query_text" is empty'),
        (qa("answers", to=[]), "context 1 (C0), question C0_Q0", "has no answers"),
        (qa("answers", to=[{}]), "context 1 (C0), question C0_Q0", "must be a string, not an"),
        (lambda d: d.append(d[0]), "context 2 (C0), question C0_Q0", "already used in context 1 "),
        (lambda d: d.append("text"), "context 2", "expected an object with"),
    ],
)
def test_a_fault_in_a_native_cmrc_file_is_named_with_its_place(
    tmp_path: Path, change: Change, place: str, says: str
) -> None:
    assert_fault(tmp_path, CMRC, change, place, says)


def assert_fault(folder: Path, sound: object, change: Change, place: str, says: str) -> None:
    document = copy.deepcopy(sound)
    change(document)
    path = folder / "questions.json"
    path.write_text(json.dumps(document), encoding="utf-8")  # ASCII: carries half characters too
    with pytest.raises(UserError) as error:
        read_questions(path)
    message = str(error.value)
    assert re.match(re.escape(f"{path}, {place}") + "[: ]", message), message
    assert says in message
    assert "\n" not in message
    assert "; " in message  # what is wrong; what to do
