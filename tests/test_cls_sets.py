"""Which texts are learned from and which are scored on, and what is said where these do not fit."""

from __future__ import annotations

import gzip
import random
from pathlib import Path
from typing import Any

import pytest
from labelled import lines, table, write
from typed import Capture

from minibert.cls.columns import Wanted
from minibert.cls.reading import TextSet, read_texts
from minibert.cls.sets import read_dev, read_sets
from minibert.errors import UserError

Rows = list[tuple[str, str]]


def texts_of(texts: TextSet) -> set[str]:
    return {example.text for example in texts.examples}


def halves(folder: Path, rows: Rows) -> tuple[TextSet, TextSet]:
    """What is trained on and what is held out, where one file is all there is."""
    path = write(folder, table([("text", "label"), *rows], "\t"))
    return read_texts(path, part="train"), read_texts(path, part="dev")


def folder_of(folder: Path, **parts: Any) -> dict[str, Any]:
    """The settings of a run on a directory with these files."""
    for part, content in parts.items():
        if not isinstance(content, str):
            content = table([("text", "label"), *content], "\t")
        write(folder, content, f"{part}.tsv")
    return {"data": str(folder)}


TRAIN = [(f"text {i}", "ab"[i % 2]) for i in range(12)]


# Of a single file.


@pytest.mark.parametrize("period", [2, 5, 10])
def test_labels_that_alternate_are_held_out_alike(tmp_path: Path, period: int) -> None:
    train, dev = halves(tmp_path, [(f"text {i}", f"{i % period}") for i in range(600)])
    assert (len(train.examples), len(dev.examples)) == (540, 60)
    assert train.labels == dev.labels and len(dev.labels) == period


def test_the_order_of_the_rows_does_not_matter_and_equal_texts_go_together(tmp_path: Path) -> None:
    rows = [(f"text {i % 40}", str(i % 2)) for i in range(80)]
    train, dev = halves(tmp_path, rows)
    assert not texts_of(train) & texts_of(dev)
    assert len(texts_of(dev)) == 4 and len(dev.examples) == 8 and len(train.examples) == 72
    random.Random(0).shuffle(rows)
    assert texts_of(halves(tmp_path, rows)[1]) == texts_of(dev)
    # The same on every machine: it is written down here.
    assert texts_of(dev) == {"text 20", "text 23", "text 35", "text 38"}
    paired = lines([(f"a {i % 3}", f"b {i}", i % 2) for i in range(20)], "text_a", "text_b", "y")
    dev = read_texts(write(tmp_path, paired), part="dev")
    assert len({(e.text, e.pair) for e in dev.examples}) == 2


def test_the_only_text_of_a_class_is_trained_on(tmp_path: Path) -> None:
    rare = [(f"only once {i}", f"rare {i}") for i in range(30)]
    rows = [*rare, *((f"text {i}", "ab"[i % 2]) for i in range(70))]
    train, dev = halves(tmp_path, rows)
    assert len(dev.examples) == 10 and dev.labels == ["a", "b"]
    assert {label for _, label in rare} <= set(train.labels)
    read_sets({"data": str(train.path)})
    # Nor are both texts of a class held out.
    train, dev = halves(tmp_path, [(f"text {i}", f"class {i // 2}") for i in range(600)])
    assert len(train.labels) == 300 and len(dev.labels) == len(dev.examples) == 60


def test_what_is_held_out_is_said_and_written_down(tmp_path: Path) -> None:
    train, dev = halves(tmp_path, TRAIN)
    assert dev.summary().startswith("data (a tenth, drawn by hash): 2 texts; text: ")
    assert train.summary().startswith("data (all but a tenth, drawn by hash): 10 texts; text: ")
    assert dev.as_dict()["texts_taken"] == "a tenth, drawn by hash"
    assert train.as_dict()["texts_taken"] == "all but a tenth, drawn by hash"
    assert read_texts(train.path).as_dict()["texts_taken"] == "all"
    with pytest.raises(UserError, match="too few texts to hold out a tenth to score on"):
        halves(tmp_path, [("one", "a"), ("two", "b")])


def test_a_column_of_no_classes_is_said_to_be_that_where_a_tenth_is_held_out(
    tmp_path: Path, capsys: Capture
) -> None:
    path = write(
        tmp_path, table([("text", "label"), *((f"t {i}", f"x{i}") for i in range(50))], ",")
    )
    with pytest.raises(
        UserError, match=r"label \(column 2 'label'\) has 50 different values in 50"
    ):
        read_sets({"train": str(path)})
    assert "data: 50 texts; text: column 1 'text', label: column 2" in capsys.readouterr().err


def test_one_is_one(tmp_path: Path) -> None:
    assert (
        read_texts(write(tmp_path, "text\tlabel\none\ta\n"))
        .summary()
        .endswith("data: 1 text; text: column 1 'text', label: column 2 'label', 1 class (a: 1)")
    )
    pair = write(tmp_path, lines([("a b", "c d", "x")], "text_a", "text_b", "label"))
    assert ": 1 pair of texts; " in read_texts(pair).summary()


# Train, dev and test.


def test_what_was_understood_is_said_before_what_is_wrong(tmp_path: Path, capsys: Capture) -> None:
    settings = folder_of(tmp_path, train=TRAIN, dev=[("one", "a"), ("two", "c")])
    with pytest.raises(UserError, match=r"dev\.tsv, line 3: the label 'c' does not occur in"):
        read_sets(settings)
    said = capsys.readouterr().err
    assert "train.tsv: 12 texts; text: column 1 'text', label: column 2 'label'" in said
    assert "dev.tsv: 2 texts; text: column 1" in said


def test_dev_and_test_are_read_as_train_is(tmp_path: Path) -> None:
    train = table([(label, text) for text, label in TRAIN], "\t")  # without a header
    settings = folder_of(tmp_path, train=train, dev="a\tonly one\n", test="b\tanother\n")
    sets = read_sets(settings)
    assert list(sets) == ["train", "dev", "test"]
    assert (sets["dev"].examples[0].text, sets["dev"].examples[0].label) == ("only one", "a")
    assert (sets["test"].examples[0].text, sets["test"].examples[0].label) == ("another", "b")


@pytest.mark.parametrize(
    ("labels", "kept", "said"),
    [
        (["a", "b"], True, ""),
        (["-1", "-1"], False, ""),
        (["a", "c"], False, "test.tsv, line 3: the label 'c' does not occur in"),
        (["", " "], False, ""),
        (["a", ""], False, "test.tsv, line 3: the label is empty; the test set is predicted, but"),
        (["", "a"], False, "test.tsv, line 2: the label is empty; the test set is predicted, but"),
    ],
)
def test_the_labels_of_a_test_set_are_kept_if_they_are_known(
    tmp_path: Path, capsys: Capture, labels: list[str], kept: bool, said: str
) -> None:
    rows = list(zip(("one", "two"), labels, strict=True))
    test = read_sets(folder_of(tmp_path, train=TRAIN, dev=TRAIN, test=rows))["test"]
    assert test.has_labels is kept
    assert [example.label for example in test.examples] == (labels if kept else [None, None])
    err = capsys.readouterr().err
    assert ("note: " in err) is bool(said) and said in err
    assert not said or "the test set is predicted, but not scored" in err


def test_classes_that_are_not_scored_or_not_trained_on_are_named(
    tmp_path: Path, capsys: Capture
) -> None:
    ordered = sorted(TRAIN, key=lambda row: row[1])
    settings = folder_of(tmp_path, train=ordered, dev=[("one", "a")])
    read_sets(settings)
    err = capsys.readouterr().err
    assert "note: the texts to score on have none of the class b\n" in err and "--limit" not in err
    read_sets(settings | {"limit": 6})
    assert (
        "--limit: of 12 texts the first 6 are trained on; none of them is of the class b\n"
        in capsys.readouterr().err
    )
    many = [(f"text {i}", f"{i % 30}") for i in range(60)]
    read_sets(folder_of(tmp_path, train=many, dev=many[:1]) | {"limit": 60})
    err = capsys.readouterr().err
    assert "class 1, 2, 3, " in err and ", 20 and 9 more\n" in err and "--limit" not in err


# Names.


def test_a_data_set_of_another_kind_is_refused_before_it_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINIBERT_DATA", str(tmp_path))
    monkeypatch.setenv("MINIBERT_DATA_URL", "http://127.0.0.1:9")  # nobody listens there
    says = r"squad is one of questions, for train_qa\.py; here sample, sst2 may be named"
    with pytest.raises(UserError, match=says):
        read_sets({"data": "squad"})
    with pytest.raises(UserError, match=says):
        read_dev("squad", Wanted(), {})
    with pytest.raises(UserError, match=r"known data sets: sample, sst2$"):
        read_sets({"data": "nowhere.tsv"})


def test_a_directory_without_texts_to_train_on_says_so(tmp_path: Path) -> None:
    settings = folder_of(tmp_path, dev=TRAIN)
    (tmp_path / "train.tsv.gz").touch()
    says = (
        r"holds no train\*\.tsv \(or \.csv, \.jsonl, \.json, \.txt\) but train\.tsv\.gz, to be "
        r"unpacked, only dev\.tsv; name the file to"
    )
    with pytest.raises(UserError, match=says):
        read_sets(settings)
    (tmp_path / "dev.tsv").unlink()
    with pytest.raises(UserError, match=r"but train\.tsv\.gz, to be unpacked; name a directory"):
        read_sets(settings)


def test_nothing_is_said_of_a_file_that_cannot_be_read(tmp_path: Path, capsys: Capture) -> None:
    path = write(tmp_path, gzip.compress(b"text\tlabel\n"), "train.tsv.gz")
    with pytest.raises(UserError, match="it is packed"):
        read_sets({"train": str(path)})
    assert capsys.readouterr().err == ""
    read_sets({"train": str(write(tmp_path, table([("text", "label"), *TRAIN], "\t")))})
    assert capsys.readouterr().err.startswith("no texts to score on are named: a tenth, drawn by")


def test_a_placed_file_with_another_number_of_texts_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINIBERT_DATA", str(tmp_path))
    folder_of(tmp_path / "sst2", dev=TRAIN)
    with pytest.raises(UserError, match=r"dev\.tsv has 12 texts where sst2 has 872"):
        read_dev("sst2", Wanted(), {})
