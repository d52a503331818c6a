"""Which column is which where the names are unusual, or say nothing, or say something else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from labelled import ROWS, lines, pairs, table, write

from minibert.cls.columns import Wanted
from minibert.cls.reading import Example, check_classes, read_texts
from minibert.errors import UserError

FILMS = [(f"a film, number {i}", str(i % 2)) for i in range(30)]
GUESSED = (
    "; the first row taken for a header (if it is none, put usual names above it); text: column"
)
MOODS = [(f"some text {i}", ("bad", "good")[i % 2]) for i in range(10)]


@pytest.mark.parametrize(
    ("header", "rows", "expected"),
    [
        (("utterances", "mood"), MOODS, MOODS),
        (("v1", "v2", "", ""), [(label, text, "", "") for text, label in MOODS], MOODS),
        (("", "comment_text", "toxic"), [(str(i), *row) for i, row in enumerate(FILMS)], FILMS),
        (
            ("what", "mark"),
            [*MOODS * 2, ("one more", "so so")],
            [*MOODS * 2, ("one more", "so so")],
        ),
        (("0", "1"), FILMS, FILMS),
        (("", "0", "1"), [(str(i), *row) for i, row in enumerate(FILMS)], FILMS),
    ],
    ids=["words", "a spreadsheet's", "index", "many rows", "pandas", "pandas with its index"],
)
def test_a_header_that_only_its_content_tells_is_one_and_it_is_said(
    tmp_path: Path, header: tuple[str, ...], rows: list[tuple[str, ...]], expected: Any
) -> None:
    texts = read_texts(write(tmp_path, table([header, *rows], ",")))
    assert pairs(texts) == expected
    assert GUESSED in texts.summary()
    # One usual name is not enough to be sure, two are.
    half = read_texts(write(tmp_path, table([("text", "mood"), *MOODS], ",")))
    assert pairs(half) == MOODS and GUESSED in half.summary()
    usual = read_texts(write(tmp_path, table([("text", "label"), *MOODS], ",")))
    assert "header" not in usual.summary()
    numbered = table([("index", "sentence"), *((i, t) for i, (t, _) in enumerate(MOODS))], "\t")
    assert "header" not in read_texts(write(tmp_path, numbered), labelled=False).summary()
    assert "header" not in read_texts(write(tmp_path, lines(MOODS, "x", "y"))).summary()


@pytest.mark.parametrize("first", [("what a film", "rare"), ("review", "rare")])
def test_what_looks_like_a_header_is_one_however_columns_are_asked_for(
    tmp_path: Path, first: tuple[str, str]
) -> None:
    path = write(tmp_path, table([first, *MOODS], "\t"))
    for wanted in (None, Wanted(text="1"), Wanted(label="2"), Wanted(text="1", label="2")):
        texts = read_texts(path, wanted)
        assert pairs(texts) == MOODS and GUESSED in texts.summary()
    assert "header" not in read_texts(path, Wanted(text=first[0])).summary()
    above = write(tmp_path, table([("text", "label"), first, *MOODS], "\t"), "above")
    assert pairs(read_texts(above, Wanted(text="1", label="2"))) == [first, *MOODS]
    # Where the names are none that people use, the numbers above them make no class of them.
    header = ("Quality", "#1 ID", "#2 ID", "#1 String", "#2 String")
    rows = [(str(i % 2), f"7{i}", f"8{i}", *([f"some text {i}"] * 2)) for i in range(30)]
    texts = read_texts(write(tmp_path, table([header, *rows], "\t")), Wanted("4", "5"))
    assert texts.labels == ["0", "1"] and len(texts.examples) == 30


def test_a_few_rows_are_read_like_those_whose_columns_were_given_by_number(tmp_path: Path) -> None:
    rows = [(text, f"u{i}", mood) for i, (text, mood) in enumerate(MOODS)]
    train = read_texts(write(tmp_path, table(rows, "\t")), Wanted(text="1"))
    few = [("review", "u8", "good"), ("so so", "u9", "bad")]  # too few to find columns in
    dev = read_texts(write(tmp_path, table(few, "\t"), "dev"), Wanted(text="1"), like=train)
    assert pairs(dev) == [row[::2] for row in few]


def test_a_label_that_is_called_like_a_column_of_labels_is_no_header(tmp_path: Path) -> None:
    rows = [(f"is it {i}?", "yn"[i % 2]) for i in range(30)]
    assert pairs(read_texts(write(tmp_path, table(rows, "\t")))) == rows


def test_a_first_row_that_reads_like_the_others_is_none(tmp_path: Path) -> None:
    long = ("a text that is longer than any name of a column", "rare")
    assert pairs(read_texts(write(tmp_path, table([long, *MOODS * 3], "\t")))) == [long, *MOODS * 3]
    numbers = [("0", "1"), ("15", "0"), ("17", "1")]
    texts = read_texts(write(tmp_path, table([("text", "label"), *numbers], "\t")))
    assert pairs(texts) == numbers
    once = [("one text", "rare"), ("a good one", "a"), ("a bad one", "b"), ("a third one", "a")]
    texts = read_texts(write(tmp_path, table(once, "\t")))
    assert pairs(texts) == once  # b is there but once as well
    texts = read_texts(write(tmp_path, table(once, "\t")), Wanted(text="One Text"))
    assert pairs(texts) == once[1:]  # who names a column says that there are names


def test_what_splits_or_numbers_the_texts_is_no_label(tmp_path: Path) -> None:
    for name in ("split", "Fold", "lang"):
        header = ("text", name, "verdict")
        rows = [(text, "val" if i % 8 else "train", label) for i, (text, label) in enumerate(FILMS)]
        texts = read_texts(write(tmp_path, table([header, *rows], ",")))
        assert pairs(texts) == FILMS and "label: column 3 'verdict'" in texts.summary()
    # Not even where it is the only column beside the text, or the only one that could be the text.
    for header in (("text", "split"), ("text", "author"), ("sentence", "idx")):
        path = write(tmp_path, table([header, *MOODS], ","))
        with pytest.raises(UserError, match="no column can be the label; name it with --label-col"):
            read_texts(path)
        assert pairs(read_texts(path, Wanted(label=header[1]))) == MOODS
        assert len(read_texts(path, labelled=False).examples) == len(MOODS)
    path = write(tmp_path, table([("source", "label"), *MOODS], ","))
    with pytest.raises(UserError, match="which column holds the text is not clear"):
        read_texts(path)


def test_a_pair_is_found_by_name_or_asked_for_and_never_guessed(tmp_path: Path) -> None:
    rows = [(f"the name is {i}", text, label) for i, (text, label) in enumerate(FILMS)]
    says = (
        r"column holds the text is not clear; name it with --text-column \(of a pair the second "
        r"with --pair-column\), .* and column 1{0} or column 2{1} could be it"
    )
    for header, names in (([], ("", "")), ([("who", "said", "label")], (" 'who'", " 'said'"))):
        path = write(tmp_path, table([*header, *rows], "\t"))
        with pytest.raises(UserError, match=says.format(*names)):
            read_texts(path)
        assert pairs(read_texts(path, Wanted(text="2"))) == FILMS
        pair = read_texts(path, Wanted(text="1", pair="2")).examples[0]
        assert (pair.text, pair.pair) == rows[0][:2]


def test_several_columns_that_could_be_the_label_are_asked_for(tmp_path: Path) -> None:
    rows = [(text, ("x", "y", "z")[i % 3], label) for i, (text, label) in enumerate(FILMS)]
    path = write(tmp_path, table([("text", "one", "two"), *rows], ","))
    says = (
        r"which column holds the label is not clear; name it with --label-column, for there are "
        r"1 'text', 2 'one', 3 'two', and column 2 'one' or column 3 'two' could be it"
    )
    with pytest.raises(UserError, match=says):
        read_texts(path)
    assert pairs(read_texts(path, Wanted(label="TWO"))) == FILMS
    bare = write(tmp_path, table(rows, ","))
    assert pairs(read_texts(bare, labelled=False)) == [(text, None) for text, _ in FILMS]


def test_a_column_that_is_the_same_everywhere_or_mostly_empty_is_no_label(tmp_path: Path) -> None:
    rows = [("en", label, "" if i % 3 else "*", text) for i, (text, label) in enumerate(FILMS)]
    assert pairs(read_texts(write(tmp_path, table(rows, "\t")))) == FILMS
    # Where the rows stand in the order of their labels, it is the one.
    rows = [(f"x{i}", f"text number {i}", str(i // 1500)) for i in range(3000)]
    assert read_texts(write(tmp_path, table(rows, "\t"))).labels == ["0", "1"]


def test_what_holds_several_things_is_neither_text_nor_label(tmp_path: Path) -> None:
    rows = [({"a b": int(label)}, ["c d e"], text, label) for text, label in FILMS]
    content = lines(rows, "meta", "tokens", "body_text", "verdict")
    assert pairs(read_texts(write(tmp_path, content))) == FILMS


def test_a_phrase_of_a_language_without_spaces_is_a_text(tmp_path: Path) -> None:
    rows = [
        (f"user-of-the-shop-{i}", f"这家酒店很好第{i}间", ("好评", "差评")[i % 2]) for i in range(8)
    ]
    assert pairs(read_texts(write(tmp_path, table(rows, "\t")))) == [row[1:] for row in rows]


def test_names_that_may_be_one_or_the_other(tmp_path: Path) -> None:
    asked = [("is it on?", "1"), ("is it off?", "0"), ("was it red?", "1")]
    rows = [("remark", "question", "label"), *(("no remark", *row) for row in asked)]
    texts = read_texts(write(tmp_path, table(rows, "\t")))
    assert pairs(texts) == asked and texts.columns.pair is None
    # What was asked for as the label is no text of a pair.
    rows = [("yes", "it is on", "a1"), ("no", "it is off", "a2"), ("no", "it is red", "a3")]
    path = write(tmp_path, table([("question", "sentence", "answer"), *rows], "\t"))
    texts = read_texts(path, Wanted(label="question"))
    assert pairs(texts) == [(text, label) for label, text, _ in rows]
    assert texts.columns.pair is None


def test_the_second_text_may_be_asked_for_alone(tmp_path: Path) -> None:
    rows = [("title", "text", "label"), *((f"t{i}", *row) for i, row in enumerate(ROWS))]
    path = write(tmp_path, table(rows, ","))
    texts = read_texts(path, Wanted(pair="title"))
    assert texts.examples[0] == Example("a fine film", "t0", "pos", 2)
    bare = write(tmp_path, table([(f"a title {i}", *row) for i, row in enumerate(ROWS)], ","))
    assert read_texts(bare, Wanted(pair="1")).examples[0] == Example(
        "a fine film", "a title 0", "pos", 1
    )
    two = write(tmp_path, table([("text", "label"), *ROWS], ","))
    says = r"beside the text \(column 1 'text' and column 2 'label'\) no column can be the label"
    with pytest.raises(UserError, match=says):
        read_texts(two, Wanted(pair="label"))


def test_the_text_beside_a_pair_that_is_asked_for_is_found_by_name(tmp_path: Path) -> None:
    header = ("remark", "text", "title", "label")
    rows = [(f"no remark {i}", text, f"a title {i}", mood) for i, (text, mood) in enumerate(MOODS)]
    texts = read_texts(write(tmp_path, table([header, *rows], ",")), Wanted(pair="title"))
    assert pairs(texts) == MOODS and texts.examples[0].pair == "a title 0"


def test_of_two_rows_what_differs_is_no_label(tmp_path: Path) -> None:
    rows = [("x1", "some text", "a"), ("x2", "another text", "a")]
    assert pairs(read_texts(write(tmp_path, table(rows, "\t")))) == [row[1:] for row in rows]


def test_a_first_row_that_counts_is_a_header_only_over_texts(tmp_path: Path) -> None:
    rows = [("0", "1"), ("up", "0"), ("down", "1"), ("left", "0")]
    assert pairs(read_texts(write(tmp_path, table(rows, "\t")))) == rows


def test_a_text_that_is_its_columns_name_leaves_it_the_header(tmp_path: Path) -> None:
    rows = [("review", "bad"), ("film", "good"), ("a film", "bad"), ("so so", "good")]
    assert pairs(read_texts(write(tmp_path, table([("review", "mood"), *rows], "\t")))) == rows


def test_of_columns_of_single_words_the_longest_are_the_texts(tmp_path: Path) -> None:
    rows = [(f"u{i}", f"excellent{i}", f"x{i}", str(i % 2)) for i in range(10)]
    assert pairs(read_texts(write(tmp_path, table(rows, "\t")))) == [row[1::2] for row in rows]


def test_whole_numbers_are_one_label_with_or_without_their_zeros(tmp_path: Path) -> None:
    mixed = [("a b", 1), ("c d", 1.0), ("e f", 0), ("g h", "0.0"), ("i j", 2.5), ("k l", "2.50")]
    texts = read_texts(write(tmp_path, lines(mixed, "text", "label")))
    assert [label for _, label in pairs(texts)] == ["1", "1", "0", "0", "2.5", "2.50"]
    written = table([("text", "label"), *((text, str(label)) for text, label in mixed)], ",")
    assert read_texts(write(tmp_path, written)).labels == texts.labels


@pytest.mark.parametrize(("n", "classes", "fits"), [(9, 4, True), (9, 5, False), (3, 2, True)])
def test_each_class_has_two_texts_on_average(
    tmp_path: Path, n: int, classes: int, fits: bool
) -> None:
    rows = [("text", "label"), *((f"text {i}", str(i % classes)) for i in range(n))]
    texts = read_texts(write(tmp_path, table(rows, ",")))
    if fits:
        check_classes(texts)
        return
    with pytest.raises(UserError, match=f"{classes} different values in {n} texts"):
        check_classes(texts)


def trained_on(path: Path, *columns: str | None) -> dict[str, Any]:
    """What run.json says of a training set."""
    return read_texts(path, Wanted(*columns)).as_dict()


def test_a_model_s_columns_are_those_of_the_same_name_wherever_they_stand(tmp_path: Path) -> None:
    rows = [
        ("said", "by whom", "mood"),
        *((text, f"a b {i}", y) for i, (text, y) in enumerate(MOODS)),
    ]
    trained = trained_on(write(tmp_path, table(rows, "\t"), "t"), "said", None, "mood")
    turned = write(tmp_path, table([row[::-1] for row in rows], "\t"))
    texts = read_texts(turned, trained=trained)
    assert pairs(texts) == MOODS and "header" not in texts.summary()
    # Where one is asked for that the model has as another, it is taken.
    asked = read_texts(turned, Wanted(text="by whom", label="said"), trained=trained)
    assert (asked.columns.text, asked.columns.label) == (1, 2)


def test_of_two_columns_of_one_name_it_is_the_one_in_the_same_place(tmp_path: Path) -> None:
    rows = [("Quality", "String", "String"), *((y, f"u {i}", t) for i, (t, y) in enumerate(MOODS))]
    path = write(tmp_path, table(rows, "\t"))
    trained = trained_on(path, "3", None, "1")
    assert pairs(read_texts(path, trained=trained)) == MOODS


def test_a_file_without_a_header_is_read_as_that_which_was_trained_on(tmp_path: Path) -> None:
    trained = trained_on(write(tmp_path, table(MOODS, "\t"), "t"))
    first = ("what a film", "rare")  # alone it would be a header
    path = write(tmp_path, table([first, *MOODS], "\t"))
    assert pairs(read_texts(path, trained=trained)) == [first, *MOODS]
    assert pairs(read_texts(path)) == MOODS
    # What is asked for stands where the model has another: that one is found anew.
    turned = write(tmp_path, table([row[::-1] for row in MOODS], "\t"), "turned")
    assert pairs(read_texts(turned, Wanted(text="2"), trained=trained)) == MOODS
    # A name that is a number is none in a file without names.
    pandas = trained_on(write(tmp_path, table([("0", "1"), *FILMS], ","), "p"))
    assert pandas["text_column"] == "column 1 '0'"
    assert pairs(read_texts(write(tmp_path, table(FILMS, ","), "f"), trained=pandas)) == FILMS
