"""Labelled texts in whatever table: what is understood of it, and what is said of its faults."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import labelled
import pytest
from labelled import ROWS, lines, pairs, table

from minibert.cls.columns import Wanted
from minibert.cls.commands import read_file
from minibert.cls.reading import (
    Example,
    check_classes,
    check_known,
    in_order,
    read_texts,
)
from minibert.cls.tables import read_table
from minibert.errors import UserError

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    return partial(labelled.write, tmp_path)


# Layouts.


@pytest.mark.parametrize(
    ("content", "layout"),
    [
        (table([("sentence", "label"), *ROWS], "\t"), "tsv"),
        (table([("text", "label"), *ROWS], ","), "csv"),
        (table([("text", "label"), *ROWS], ";"), "csv"),
        (lines(ROWS, "text", "label"), "jsonl"),
        (table(ROWS, "\t"), "tsv"),
        (table(ROWS, ","), "csv"),
        ("\ufeff" + table([("sentence", "label"), *ROWS], "\t"), "tsv"),
        (table([("text", "label"), *ROWS], ",").replace("\n", "\r\n"), "csv"),
        (table(ROWS, "\t").replace("\n", "\r"), "tsv"),
        ("\n\n" + table([("text", "label"), *ROWS], ",").replace("\n", "\n\n"), "csv"),
        (lines(ROWS, "text", "label").replace("\n", "\n \n"), "jsonl"),
        (table(ROWS, "\t").rstrip("\n"), "tsv"),
    ],
)
def test_every_layout_gives_the_same_texts(write: Write, content: str, layout: str) -> None:
    texts = read_texts(write(content))
    assert texts.layout == layout
    assert pairs(texts) == ROWS
    assert texts.labels == ["neg", "pos"]


def test_the_name_of_a_file_says_nothing(write: Write) -> None:
    assert read_texts(write(lines(ROWS, "text", "label"), "data.csv")).layout == "jsonl"
    assert read_texts(write(table(ROWS, "\t"), "data.jsonl")).layout == "tsv"


def test_quotes_in_tsv_are_characters_and_in_csv_they_hold_a_field_together(write: Write) -> None:
    quoted = [('"so good"', "1"), ('he said "no', "0"), ("it 's , well , fine", "1"), ("no", "0")]
    tsv = "".join(f"{text}\t{label}\n" for text, label in quoted)
    assert pairs(read_texts(write(tsv))) == quoted
    assert pairs(read_texts(write(table(quoted, ",")))) == quoted
    over_lines = [("first line\nsecond line", "1"), ("one, two", "0"), ("plain words", "1")]
    texts = read_texts(write(table([("text", "label"), *over_lines], ",")))
    assert pairs(texts) == over_lines
    assert [example.line for example in texts.examples] == [2, 4, 5]


def test_a_text_of_a_megabyte_is_read(write: Write) -> None:
    long = "word " * 200_000
    texts = read_texts(write(table([("text", "label"), (long, "a"), ("b c", "b")], ",")))
    assert texts.examples[0].text == long.strip()


def test_what_a_spreadsheet_and_a_line_separator_do_is_no_end_of_a_line(write: Write) -> None:
    rows = [("one\u2028two", "a"), ("three\x0bfour\x85five", "b"), ("a  b", "a")]
    assert pairs(read_texts(write(table(rows, "\t")))) == rows


# Columns.


@pytest.mark.parametrize(
    ("header", "text", "label"),
    [
        (("sentence", "label"), 0, 1),
        (("label", "text"), 1, 0),
        (("label", "review"), 1, 0),
        (("id", "Content", "Target"), 1, 2),
        (("", "text", "class"), 1, 2),
        (("idx", "sentence", "label", "label_text"), 1, 2),
        (("text", "made_up"), 0, 1),
        (("made_up", "label"), 0, 1),
        (("标签", "文本"), 1, 0),
    ],
)
@pytest.mark.parametrize("layout", ["\t", ",", "jsonl"])
def test_columns_are_found_by_the_names_that_people_use(
    write: Write, header: tuple[str, ...], text: int, label: int, layout: str
) -> None:
    rows = []
    for i, (what, kind) in enumerate(ROWS):
        cells = [f"{i}" for _ in header]
        cells[text], cells[label] = what, kind
        rows.append(tuple(cells))
    content = lines(rows, *header) if layout == "jsonl" else table([header, *rows], layout)
    texts = read_texts(write(content))
    assert pairs(texts) == ROWS
    assert (
        f"text: column {text + 1} {header[text]!r}, label: column {label + 1} " in texts.summary()
    )
    assert texts.summary().endswith("2 classes (neg: 2, pos: 2)")


@pytest.mark.parametrize("n", [3, 40])
@pytest.mark.parametrize("first", ["label", "text", "id"])
def test_without_a_header_the_content_tells(write: Write, n: int, first: str) -> None:
    rows = []
    for i in range(n):
        cells = {"text": f"text number {i}", "label": str(i % 2), "id": f"x-{i}"}
        order = [first, *(name for name in cells if name != first)]
        rows.append(tuple(cells[name] for name in order))
    texts = read_texts(write(table(rows, "\t")))
    assert pairs(texts) == [(f"text number {i}", str(i % 2)) for i in range(n)]
    assert "no header; text: column" in texts.summary()


def test_a_header_in_words_of_its_own_is_no_text(write: Write) -> None:
    few = [("what", "mark"), ("a good one", "1"), ("a bad one", "0"), ("a third one", "1")]
    assert len(read_texts(write(table(few, "\t"))).examples) == 3
    many = [
        ("what", "mark"),
        *((f"number {i} of many", "yes" if i % 3 else "no") for i in range(30)),
    ]
    assert read_texts(write(table(many, ","))).labels == ["no", "yes"]
    # In so few rows a label may well occur once.
    rare = [("one text", "rare"), ("a good one", "a"), ("a bad one", "b"), ("a third one", "a")]
    assert read_texts(write(table(rare, "\t"))).labels == ["a", "b", "rare"]


def test_a_text_that_is_a_column_name_is_no_header(write: Write) -> None:
    rows = [("content", "pos"), ("title", "neg"), ("a fine film", "pos"), ("a bad film", "neg")]
    assert pairs(read_texts(write(table(rows, "\t")))) == rows
    numbered = [("text", "1"), ("phrase", "0"), ("a fine film", "1"), ("a bad film", "0")]
    assert pairs(read_texts(write(table(numbered, "\t")))) == numbered
    # And a header stays one where a text is the same word.
    header = [("sentence", "label"), ("sentence", "1"), ("label", "0"), ("a film", "1")]
    assert pairs(read_texts(write(table(header, "\t")))) == header[1:]


PAIRED = [
    ("is it on?", "it is on", "yes"),
    ("is it off?", "it is on", "no"),
    ("was it red?", "it was blue", "no"),
    ("was it hot?", "it was hot", "yes"),
]


@pytest.mark.parametrize(
    ("header", "order"),
    [
        (("sentence1", "sentence2", "label"), (0, 1, 2)),
        (("label", "premise", "hypothesis"), (2, 0, 1)),
        (("text_b", "text_a", "class"), (1, 0, 2)),
        (("question", "sentence", "label"), (0, 1, 2)),
        (("question1", "question2", "is_duplicate"), (0, 1, 2)),
    ],
)
def test_pairs_are_found_in_any_order(
    write: Write, header: tuple[str, ...], order: tuple[int, ...]
) -> None:
    rows = [tuple(row[i] for i in order) for row in PAIRED]
    if header[0] == "text_b":
        rows = [(row[1], row[0], row[2]) for row in PAIRED]
    texts = read_texts(write(table([header, *rows], "\t")))
    assert [(e.text, e.pair, e.label) for e in texts.examples] == PAIRED
    assert "4 pairs of texts" in texts.summary() and "second text: column" in texts.summary()


def test_what_is_asked_for_goes_before_what_is_found(write: Write) -> None:
    rows = [
        ("title", "text", "label", "mood"),
        ("one title", "some words", "a", "x"),
        ("two titles", "more words", "b", "y"),
        ("three titles", "last words", "a", "y"),
    ]
    path = write(table(rows, ","))
    assert pairs(read_texts(path))[0] == ("some words", "a")
    texts = read_texts(path, Wanted(text="title", label="4"))
    assert pairs(texts) == [("one title", "x"), ("two titles", "y"), ("three titles", "y")]
    paired = read_texts(path, Wanted(text="title", pair="text"))
    assert paired.examples[0] == Example("one title", "some words", "a", 2)
    for wanted, says in (
        (Wanted(text="body"), "has no column 'body'; there are 1 'title', 2 'text'"),
        (Wanted(label="5"), "has no column '5'"),
        (Wanted(text="text", label="2"), "must be columns of their own"),
    ):
        with pytest.raises(UserError, match=says):
            read_texts(path, wanted)


def test_columns_that_could_be_several_are_asked_for(write: Write) -> None:
    rows = [(f"one {i}", f"two {i}", f"three {i}", str(i % 2)) for i in range(9)]
    with pytest.raises(UserError, match=r"not clear; name it with --text-column.*columns 1 to 4"):
        read_texts(write(table(rows, "\t")))
    with pytest.raises(UserError, match=r"beside the text .* no column can be the label"):
        read_texts(write(table([(f"a {i}", i, f"x{i}") for i in range(9)], "\t")))


def test_numbers_and_truth_values_of_json_become_names(write: Write) -> None:
    for values, names in (([1, 0, 1], ["0", "1"]), ([True, False, True], ["false", "true"])):
        rows = list(zip(("a b", "c d", "e f"), values, strict=True))
        assert read_texts(write(lines(rows, "text", "label"))).labels == names


def test_labels_are_in_an_order_of_their_own() -> None:
    assert in_order({"10", "9", "-1", "2"}) == ["-1", "2", "9", "10"]
    assert in_order({"neutral", "negative", "positive"}) == ["negative", "neutral", "positive"]
    assert in_order({"b", "10", "9"}) == ["10", "9", "b"]
    assert in_order({"nan", "1"}) == ["1", "nan"]


# Dev and test sets.


def test_the_dev_set_is_read_like_the_training_set(write: Write) -> None:
    train = read_texts(
        write(table([("mood", "text", "label"), *((m, t, m) for t, m in ROWS)], ","))
    )
    other_order = [("label", "text"), ("neg", "short"), ("pos", "words")]
    dev = read_texts(write(table(other_order, "\t"), "dev"), like=train)
    assert pairs(dev) == [("short", "neg"), ("words", "pos")]
    bare = read_texts(write(table([(str(i % 2), f"text {i}") for i in range(9)], "\t")))
    dev = read_texts(write("1\tonly one\n", "dev"), like=bare)  # too little to find columns in
    assert pairs(dev) == [("only one", "1")]
    with pytest.raises(UserError, match=r"holds pairs of texts, but .* single texts"):
        paired = [("sentence1", "sentence2", "label"), ("a b", "c d", "pos")]
        read_texts(write(table(paired, "\t"), "dev"), like=bare)


def test_a_name_that_is_there_twice_is_asked_for(write: Write) -> None:
    rows = [(f"a text {i}", f"another {i}", "ab"[i % 2]) for i in range(9)]
    train = read_texts(write(table([("said", "mood"), *(row[1:] for row in rows)], ",")))
    path = write(table([("said", "said", "mood"), *rows], ","), "dev.csv")
    with pytest.raises(UserError, match="column 1 'said' or column 2 'said' could be it"):
        read_texts(path, like=train)


def test_a_test_set_may_have_no_labels(write: Write) -> None:
    train = read_texts(write(table([("sentence", "label"), *ROWS], "\t")))
    test = read_texts(write("index\tsentence\n0\tone text\n1\tanother\n", "t"), labelled=False)
    assert not test.has_labels
    assert [example.text for example in test.examples] == ["one text", "another"]
    for wanted in (Wanted(), Wanted(label="label")):
        again = read_texts(test.path, wanted, labelled=False, like=train)
        assert again.examples == test.examples


@pytest.mark.parametrize(
    "content",
    [
        "text,label\na b,\nc d, \n",
        "text,label\na b,pos\nc d,\n",
        '{"text": "a b", "label": null}\n{"text": "c d", "label": ["pos"]}\n',
        "label,text\npos,a b\nneg,c d\n",
        "text\na b\nc d\n",
    ],
)
def test_labels_that_nobody_asks_for_are_not_read(write: Write, content: str) -> None:
    for wanted in (None, Wanted(text="text"), Wanted(label="label"), Wanted(label="no such")):
        texts = read_texts(write(content), wanted, labelled=None)
        assert pairs(texts) == [("a b", None), ("c d", None)]
        assert texts.columns.label is None and "label" not in texts.summary()


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
def test_a_table_to_classify_needs_no_labels(write: Write, ending: str) -> None:
    rows = [("a b", ""), ("c d", "pos"), ("e f", "")]
    content = table([("text", "label"), *rows], "," if ending == "csv" else "\t")
    if ending == "jsonl":
        content = lines([(text, [label]) for text, label in rows], "text", "label")
    path = write(content, f"some.{ending}")
    texts, where, _ = read_file(str(path), Wanted(), {"label_column": "column 2 'label'"})
    assert texts == [(text, None) for text, _ in rows]
    assert where[1] == f"{path}, line {2 if ending == 'jsonl' else 3}"


def test_a_label_that_the_training_set_lacks_is_named_with_its_line(write: Write) -> None:
    train = read_texts(write(table([("sentence", "label"), *ROWS], "\t")))
    dev = read_texts(write("sentence\tlabel\none\tpos\ntwo\tmixed\n", "dev.tsv"), like=train)
    with pytest.raises(UserError, match=r"dev\.tsv, line 3: the label 'mixed' does not occur"):
        check_known(dev, train)


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (["same"] * 30, "all texts have the label 'same'"),
        ([f"{i}.5" for i in range(30)], "30 different values in 30 texts, so it is no class"),
    ],
)
def test_a_column_that_is_no_class_is_refused(write: Write, labels: list[str], says: str) -> None:
    rows = [("text", "label"), *((f"text {i}", label) for i, label in enumerate(labels))]
    with pytest.raises(UserError, match=says):
        check_classes(read_texts(write(table(rows, "\t"))))


# Faults.


HEAD = "sentence\tlabel\n"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "is empty; a row a text and its label were expected"),
        ("\n \r\n\t\n", "is empty"),
        ("just words\nand more\n", "no table of texts: its first line has neither a tab"),
        (HEAD, "has a header and no row"),
        (HEAD + "one\t1\ntwo\n", "line 3: this row has 1 column where the first has 2; is a tab"),
        (HEAD + "one\t1\ntwo\t0\t\n", "line 3: this row has 3 columns"),
        (HEAD + "one\t1\n \t0\n", r"line 3: the text \(column 1 'sentence'\) is empty"),
        (HEAD + "one\t1\ntwo\t\n", r"line 3: the label \(column 2 'label'\) is empty"),
        (
            'text,label\n"one",1\n"two,0\nthree,1\n',
            "line 3: the quotes of the row that begins here",
        ),
        ('text,label\n"one",1\n"two"x,0\n', "line 3: the quotes of the row"),
        ("text,label\none,1\ntwo, or three,0\n", "line 3: this row has 3 columns.*double quotes"),
        ('{"text": "a b", "label": 1}\n{"text": "c"\n', "line 2: this is no JSON"),
        ('{"text": "a b", "label": 1}\n[1]\n', "line 2: an object was expected"),
        ('{"text": "a b", "label": 1}\n{"text": "c d"}\n', "line 2: the label .* is missing"),
        (
            '{"text": "a b", "label": 1}\n{"text": "c", "label": NaN}\n',
            "2: the label .* is missing",
        ),
        ('{"text": "a b", "label": 1}\n{"label": 0}\n', "line 2: the text .* is missing"),
        (
            '{"text": "a b", "label": 1}\n{"text": 7, "label": 0}\n',
            "must be a string, not a number",
        ),
        ('{"text": "a b", "label": 1}\n{"text": "\\ud83d", "label": 0}\n', "half a character"),
        (
            HEAD.encode() + "好\t1\n坏\t0\n".encode("gbk"),
            "not UTF-8 text: byte .*, in line 2; save",
        ),
        ((HEAD + "one\t1\n").encode("utf-16"), "not UTF-8 text: byte 0 is 0xff"),
    ],
)
def test_every_fault_is_one_sentence_with_its_line(
    write: Write, content: str | bytes, says: str
) -> None:
    path = write(content, "faulty.txt")
    with pytest.raises(UserError, match=says) as caught:
        read_texts(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file_and_a_directory_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.tsv does not exist"):
        read_texts(tmp_path / "nowhere.tsv")
    with pytest.raises(UserError, match="is a directory"):
        read_table(tmp_path)


def test_sst2_is_read_whole(shared: Path) -> None:
    train = read_texts(shared / "data/sst2/train.tsv")
    dev = read_texts(shared / "data/sst2/dev.tsv", like=train)
    assert (len(train.examples), len(dev.examples)) == (67349, 872)
    assert train.labels == dev.labels == ["0", "1"]
    assert train.examples[0].text == "hide new secretions from the parental units"
    assert dev.summary().startswith(
        "dev.tsv: 872 texts; text: column 1 'sentence', label: column 2"
    )
    raw = (shared / "data/sst2/dev.tsv").read_text(encoding="utf-8").split("\n")
    for example in dev.examples:
        text, label = raw[example.line - 1].split("\t")
        assert (text.strip(), label) == (example.text, example.label)
