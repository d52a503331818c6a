"""Labelled texts on disk -> `TextSet`: the first room of classification.

`tables.py` splits a file into rows, `columns.py` finds out which column is which; here the texts
and labels are taken out and checked, once. Labels are names from now on, whether the file spells
them in words or in numbers; the model's class numbers come from their order, `in_order`.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from minibert.cls.columns import (
    Columns,
    Wanted,
    as_text,
    find_columns,
    first_row,
    is_header,
    is_number,
    most_classes,
    number_and_name,
)
from minibert.cls.tables import Row, Table, read_table
from minibert.errors import UserError
from minibert.parts import HELD_OUT, Part
from minibert.report import say

SHOWN_CLASSES = 6
# Where one file is all there is, see `drawn`.
TAKEN: dict[Part, str] = {
    "all": "all",
    "train": "all but a tenth, drawn by hash",
    "dev": "a tenth, drawn by hash",
}
WHOLE = re.compile(r"([+-]?\d+)\.0+", re.ASCII)
KINDS = {dict: "an object", list: "a list", bool: "true or false"}  # of JSON; else a number


@dataclass(frozen=True, slots=True)
class Example:
    """A text, or a pair of texts, and its class."""

    text: str  # without spaces around it; never empty
    pair: str | None  # the second text, where there are two
    label: str | None  # None where the file has none
    line: int  # of the file, from 1


@dataclass(frozen=True)
class TextSet:
    """The examples of one file, in the file's order."""

    path: Path
    layout: str  # "tsv", "csv" or "jsonl"
    sha256: str
    columns: Columns
    examples: list[Example]
    part: Part = "all"

    @property
    def labels(self) -> list[str]:
        """The classes, in order."""
        return in_order({e.label for e in self.examples if e.label is not None})

    @property
    def has_labels(self) -> bool:
        return all(e.label is not None for e in self.examples)

    def summary(self) -> str:
        """What was understood of the file, in one line."""
        c, n = self.columns, len(self.examples)
        found = [f"text: {c.called(c.text)}"]
        if c.pair is not None:
            found.append(f"second text: {c.called(c.pair)}")
        if self.has_labels and c.label is not None:
            counts = Counter(e.label for e in self.examples)
            shown = ", ".join(f"{label}: {counts[label]:,}" for label in self.labels)
            shown = f" ({shown})" if len(counts) <= SHOWN_CLASSES else ""
            classes = "1 class" if len(counts) == 1 else f"{len(counts)} classes"
            found += [f"label: {c.called(c.label)}", f"{classes}{shown}"]
        taken = "" if self.part == "all" else f" ({TAKEN[self.part]})"
        header = "" if c.names else "no header; "
        if c.is_guess:
            header = "the first row taken for a header (if it is none, put usual names above it); "
        texts = "text" if n == 1 else "texts"
        if c.pair is not None:
            texts = "pair of texts" if n == 1 else "pairs of texts"
        return f"{self.path.name}{taken}: {n:,} {texts}; {header}{', '.join(found)}"

    def as_dict(self) -> dict[str, Any]:
        """The file and what is in it as JSON values: what run.json records."""
        c = self.columns
        return {
            "file": str(self.path),
            "layout": self.layout,
            "sha256": self.sha256,
            "text_column": c.called(c.text),
            "pair_column": None if c.pair is None else c.called(c.pair),
            "label_column": None if c.label is None else c.called(c.label),
            "width": c.width,
            "texts": len(self.examples),
            "texts_taken": TAKEN[self.part],
            "classes": dict(Counter(e.label for e in self.examples)) if self.has_labels else {},
        }


def read_texts(
    path: str | Path,
    wanted: Wanted | None = None,
    *,
    trained: Mapping[str, Any] | None = None,
    labelled: bool | None = True,
    like: TextSet | None = None,
    part: Part = "all",
) -> TextSet:
    """Reads and checks a whole file.

    Args:
        path: of the file, in a layout that `read_table` knows.
        wanted: columns that were asked for.
        trained: what run.json says of the training set: its columns are taken where no other is
            asked for, and the file has them.
        labelled: whether each text must have a label; else it is None where it has none. None: no
            label is read, whatever stands in its column.
        like: texts whose columns are to be taken, where the file has the same.
        part: "dev" takes a tenth of the texts, "train" the others, see `drawn`.

    Raises:
        UserError: what `read_table` and `find_columns` raise; a text or a label that is empty or
            not of its type; pairs where `like` has none. The message names the line.
    """
    table = read_table(path)
    wanted = wanted or Wanted()
    if labelled is None:
        wanted = wanted._replace(label=None)
    if like is not None:
        wanted = same_columns(table, like.columns, wanted, bool(labelled))
    has_names = like.columns.names is not None if like else says_names(trained or {})
    columns = find_columns(
        table, wanted, labelled=bool(labelled), trained=trained, is_bare=not has_names
    )
    if labelled is None:
        columns = columns._replace(label=None)
    if like is not None and (columns.pair is None) != (like.columns.pair is None):
        kinds = ["pairs of texts", "single texts"]
        one, other = kinds if columns.pair is not None else reversed(kinds)
        raise UserError(f"{table.path} holds {one}, but {like.path} {other}; name the columns")
    rows = table.rows if table.keys or columns.names is None else table.rows[1:]
    examples = [read_row(row, columns, table.path, bool(labelled)) for row in rows]
    texts = TextSet(table.path, table.layout, table.sha256, columns, examples)
    return texts if part == "all" else part_of(texts, part)


def says_names(trained: Mapping[str, Any]) -> bool:
    """Whether a training set's columns had names, as far as is known: see `Columns.called`."""
    return "text_column" not in trained or number_and_name(trained["text_column"])[1] != ""


def part_of(texts: TextSet, part: Part) -> TextSet:
    """The tenth of a file that is held out, or the others.

    Raises:
        UserError: none can be held out, as no class has two texts. What was understood of the file
            is said before, for its columns may be others.
    """
    held_out = drawn(texts.examples)
    if not held_out:
        say(texts.summary())
        check_classes(texts)
        raise UserError(
            f"{texts.path} has too few texts to hold out a tenth to score on; name other texts for "
            "that with --dev FILE"
        )
    is_dev = part == "dev"
    examples = [e for e in texts.examples if ((e.text, e.pair) in held_out) == is_dev]
    return replace(texts, examples=examples, part=part)


def same_columns(table: Table, columns: Columns, wanted: Wanted, labelled: bool) -> Wanted:
    """What to ask another file for, to read it like one with these columns.

    It has the same if each of their names stands in it once; or, where they have no names, if it
    has none either and is wide enough. Else it is asked for what is `wanted`. Of a test set that
    has no label's column the others are held against it.
    """
    header = first_row(table)
    if not labelled and lacks_label(header, columns):
        columns, wanted = columns._replace(label=None), wanted._replace(label=None)
    used = [columns.text, columns.pair, columns.label]
    if columns.names is not None:
        asked = [None if c is None else columns.names[c] for c in used]
        is_same = all(name is None or header.count(name) == 1 for name in asked)
    else:
        asked = [None if c is None else str(c + 1) for c in used]
        has_header = bool(table.keys) or is_header(table, header, wanted, is_bare=True)
        is_same = not has_header and all(c is None or c < len(header) for c in used)
    return Wanted(*asked) if is_same else wanted


def lacks_label(header: Sequence[str], columns: Columns) -> bool:
    """Whether a file has no column for the label: none of its name or, where the columns have no
    names, fewer than there would be with it."""
    if columns.label is None:
        return False
    if columns.names is not None:
        return columns.names[columns.label] not in header
    return len(header) <= max(columns.text, columns.pair or 0, columns.label)


def read_row(row: Row, columns: Columns, path: Path, labelled: bool) -> Example:
    """A row's texts and label; None for a label that is empty, where there need be none."""
    where = f"{path}, line {row.line}"
    text = read_string(row.cells[columns.text], "text", columns.called(columns.text), where)
    pair = label = None
    if columns.pair is not None:
        called = columns.called(columns.pair)
        pair = read_string(row.cells[columns.pair], "second text", called, where)
    if columns.label is not None:
        label = name_of(row.cells[columns.label])
        if not labelled and as_text(label) == "":
            return Example(text, pair, None, row.line)
        label = read_string(label, "label", columns.called(columns.label), where)
    return Example(text, pair, label, row.line)


def name_of(label: Any) -> Any:
    """A label by its name: of JSON's values true and false as they are there, and numbers; of these
    1.0 is 1, as which pandas writes it in a column that has gaps. What else there is stays."""
    if isinstance(label, bool):
        return str(label).lower()
    if isinstance(label, (int, float)):
        label = str(label)
    is_whole = WHOLE.fullmatch(label.strip()) if isinstance(label, str) else None
    return is_whole[1] if is_whole else label


def read_string(value: Any, what: str, column: str, where: str) -> str:
    """A cell without the spaces around it."""
    if value is None:
        raise UserError(f"{where}: the {what} ({column}) is missing; add it or remove the line")
    if not isinstance(value, str):
        kind = KINDS.get(type(value), "a number")
        raise UserError(f"{where}: the {what} ({column}) must be a string, not {kind}; mend it")
    value = value.strip()
    if not value:
        raise UserError(f"{where}: the {what} ({column}) is empty; write it or remove the row")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{where}: the {what} ({column}) holds half a character (a lone surrogate); mend it"
        ) from None
    return value


def drawn(examples: Sequence[Example]) -> set[tuple[str, str | None]]:
    """The tenth of the texts that is held out of a file, to score on.

    Drawn by a hash of the text, so it depends neither on the order of the rows, which often tells
    the label, nor on chance. Equal texts go together, and a class's only text is not taken.
    """
    labels: dict[tuple[str, str | None], set[str | None]] = {}
    for example in examples:
        labels.setdefault((example.text, example.pair), set()).add(example.label)
    left = Counter(label for of_text in labels.values() for label in of_text)
    taken: set[tuple[str, str | None]] = set()
    for text in sorted(labels, key=hash_of):
        if len(taken) * HELD_OUT < len(labels) and all(left[label] > 1 for label in labels[text]):
            taken.add(text)
            left.subtract(labels[text])
    return taken


def hash_of(text: tuple[str, str | None]) -> bytes:
    """The same on every machine and in every process, as Python's own is not."""
    return hashlib.sha256("\t".join(part or "" for part in text).encode()).digest()


def in_order(labels: Collection[str]) -> list[str]:
    """Labels in an order that does not depend on the rows': numbers by size, else by letters."""
    if all(map(is_number, labels)):
        return sorted(labels, key=lambda label: (float(label), label))
    return sorted(labels)


def check_classes(train: TextSet) -> None:
    """Raises UserError if there is but one class to learn, or so many that they can be none."""
    labels = train.labels
    column = train.columns.called(train.columns.label or 0)
    if len(labels) < 2:
        raise UserError(
            f"{train.path}: all texts have the label {labels[0]!r} ({column}), so there is nothing "
            "to tell apart; name the label's column with --label-column"
        )
    if len(labels) > most_classes(len(train.examples)):
        raise UserError(
            f"{train.path}: the label ({column}) has {len(labels):,} different values in "
            f"{len(train.examples):,} texts, so it is no class; name another with --label-column"
        )


def check_known(texts: TextSet, train: TextSet) -> None:
    """Raises UserError for the first label of a dev set that the training set lacks."""
    if unknown := unknown_label(texts, train):
        raise UserError(
            f"{texts.path}, line {unknown.line}: the label {unknown.label!r} does not occur in "
            f"{train.path}, so no model can learn it; known are {', '.join(train.labels[:20])}"
        )


def unknown_label(texts: TextSet, train: TextSet) -> Example | None:
    """The first of the texts whose label the training set lacks."""
    known = set(train.labels)
    return next((example for example in texts.examples if example.label not in known), None)


def without_labels(texts: TextSet) -> TextSet:
    """The same texts, where the labels are stand-ins, as in GLUE's test sets, or some lack one."""
    return replace(texts, examples=[replace(e, label=None) for e in texts.examples])
