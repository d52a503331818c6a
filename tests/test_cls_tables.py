"""Tables as people, spreadsheets and pandas write them: into rows, or a word on why not."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from labelled import ROWS, lines, pairs, table, write

from minibert.cls.columns import Wanted
from minibert.cls.reading import read_texts
from minibert.cls.tables import read_table
from minibert.errors import UserError

OBJECTS = lines(ROWS, "text", "label").splitlines()
PACKED = gzip.compress(b"text\tlabel\n", mtime=0)  # the same bytes in each worker of pytest-xdist


@pytest.mark.parametrize(
    "content",
    [
        "sep=;\n" + table([("text", "label"), *ROWS], ";"),  # what Excel reads and people write
        "sep=,\n" + table([("text", "label"), *ROWS], ","),
        'text, label\n"a fine film", "pos"\n"a bad film", "neg"\n not bad at all , pos\n'
        ' "not good", neg\n',
        "\n,,\n" + table([("text", "label", ""), *((*row, "") for row in ROWS), ("", "", "")], ","),
    ],
    ids=["sep=;", "sep=,", "space before the quotes", "rows of only commas"],
)
def test_what_spreadsheets_and_people_write_is_read(tmp_path: Path, content: str) -> None:
    texts = read_texts(write(tmp_path, content))
    assert pairs(texts) == ROWS
    first = next(i for i, line in enumerate(content.split("\n"), 1) if "fine" in line)
    assert texts.examples[0].line == first


def test_of_comma_and_semicolon_the_one_that_gives_even_rows_is_taken(tmp_path: Path) -> None:
    for rows, separator in (
        ([("one, two", "a"), ("three", "b"), ("four, five, six", "a")], ";"),
        ([("one; two", "a"), ("three", "b"), ("four; five; six", "a")], ","),
        # Both do; in a sentence a space comes after it.
        ([("a fine, film", "a"), ("a bad, film", "b"), ("so, so", "a")], ";"),
        ([("a fine; film", "a"), ("a bad; film", "b"), ("so; so", "a")], ","),
    ):
        content = "".join(f"{text}{separator}{label}\n" for text, label in rows)
        assert pairs(read_texts(write(tmp_path, content))) == rows
    rows = [("[{noise}] so good", "1"), ("[1] is bad", "0"), ("[sic]", "1")]
    assert pairs(read_texts(write(tmp_path, table(rows, ",")))) == rows
    unclear = write(tmp_path, "one,two;a\nthree,four;b\nfive,six;a\n")
    with pytest.raises(UserError, match="may be separated by commas or by semicolons; write the"):
        read_texts(unclear)
    assert read_texts(write(tmp_path, "sep=;\n" + unclear.read_text())).labels == ["a", "b"]


def test_a_single_column_is_texts_without_labels(tmp_path: Path) -> None:
    for content, texts in (
        ("sentence\na fine film\nbad\n", ["a fine film", "bad"]),
        ("good film\nbad film\n", ["good film", "bad film"]),
        ('good film\n"bad, or ""so so"""\n', ["good film", 'bad, or "so so"']),  # as CSV
        ('good film\nbad, or "so so"\n', ["good film", 'bad, or "so so"']),  # as it is
        ("good\ngood\nbad\nbad\n", ["good", "good", "bad", "bad"]),
        ("12\n15\n", ["12", "15"]),
    ):
        path = write(tmp_path, content)
        found = read_texts(path, labelled=False)
        assert [example.text for example in found.examples] == texts
        assert not found.has_labels and found.columns.pair is None
        with pytest.raises(UserError, match="is no table of texts"):
            read_texts(path)


def test_a_test_set_of_the_text_alone_follows_the_training_set(tmp_path: Path) -> None:
    named = table([("sentence", "label"), *ROWS], "\t")
    label_first = table([row[::-1] for row in ROWS], "\t")
    for train, test in ((named, "sentence\none text\ntwo\n"), (label_first, "one text\ntwo\n")):
        like = read_texts(write(tmp_path, train))
        found = read_texts(write(tmp_path, test, "test"), labelled=False, like=like)
        assert pairs(found) == [("one text", None), ("two", None)]
    found = read_texts(found.path, Wanted(label="1"), labelled=False, like=like)
    assert pairs(found) == [("one text", None), ("two", None)]


def test_keys_are_those_of_all_objects(tmp_path: Path) -> None:
    later = '{"id": 0, "text": "a b"}\n{"id": 1, "text": "c d", "label": 1}\n'
    assert read_table(write(tmp_path, later)).keys == ["id", "text", "label"]
    with pytest.raises(UserError, match=r"line 1: the label \(column 3 'label'\) is missing"):
        read_texts(tmp_path / "data")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (f"[{', '.join(OBJECTS)}]", "is a JSON array; write one object a line"),
        ("[\n" + ",\n".join(OBJECTS) + "\n]\n", "is a JSON array; write one object a line"),
        ('[{"text": "a b", "label": 1},\n{"text": "c d", "la', "is a JSON array; write one object"),
        ('["w1", "w2"]', "is a JSON array; write one object a line"),
        ('["w1",\n"w2"]\n', "is a JSON array; write one object a line"),
        ('["w1", 0]\n["w2", 1]\n', "is a JSON array; write one object a line"),
        ('{"version": "1.1", "data": [{"paragraphs": [{"qas": []}]}]}', "see train_qa.py"),
        ('{\n "data": [{"paragraphs": [{"qas" : []}]}]}', "see train_qa.py"),
        ('[{"context_id": "a", "qas": []}]', "see train_qa.py"),
        (",,\n,,\n", "is empty"),
        ("sep=;\n", "is empty"),
        (
            'text\tlabel\n"one\ntwo"\t1\n',
            r"line 2: this row has 1 column where .* line end, inside a text \(quotes do not help",
        ),
        ('"a\tb",1\n"c d",0\n', r"line 2: .*quotes do not help in TSV"),
        ('{"text": "a b", "label": 1}\n{"text": NaN, "label": 0}\n', "line 2: .* is missing"),
        ('{"text": {"a": "b"}, "label": 1}\n', "must be a string, not an object; mend it"),
        ('{"text": "a b", "label": [1]}\n', "must be a string, not a list; mend it"),
        ('{"text": true, "label": 1}\n', "must be a string, not true or false; mend it"),
        (PACKED, "it is packed or a spreadsheet: unpack it, or save it"),
    ],
)
def test_what_is_no_table_is_refused_in_a_sentence(
    tmp_path: Path, content: str | bytes, says: str
) -> None:
    for labelled in (True, False):
        with pytest.raises(UserError, match=says) as caught:
            read_texts(write(tmp_path, content, "faulty.txt"), labelled=labelled)
        assert "faulty.txt" in str(caught.value) and "\n" not in str(caught.value)


def test_a_text_in_brackets_is_no_json(tmp_path: Path) -> None:
    rows = [("[a film] of note", "1"), ('["qas" : [', "0"), ("{so so}", "1")]
    content = "".join(f"{text}\t{label}\n" for text, label in [("text", "label"), *rows])
    assert pairs(read_texts(write(tmp_path, content))) == rows
    rows = [("[{noise}] so good", "1"), ("[1] is bad", "0"), ("[sic]", "1")]
    assert pairs(read_texts(write(tmp_path, table(rows, ",")))) == rows
