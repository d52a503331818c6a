"""Which column of a table holds the text, which the label: by name, else by content.

Between `tables.py` and `reading.py`. Whoever knows better says so: `--text-column`,
`--pair-column`, `--label-column`, each a name or a number from 1.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from minibert.cls.tables import Table
from minibert.errors import UserError

# The names that people give; of those in a table the first in these lists is taken.
PAIRS = (
    ("sentence1", "sentence2"),
    ("text_a", "text_b"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("text1", "text2"),
    ("sentence_a", "sentence_b"),
    ("query", "title"),
    ("question", "passage"),
)
TEXTS = (
    *("sentence", "text", "content", "review", "text_a", "sentence1", "text1", "premise"),
    *("question", "question1", "query", "comment", "tweet", "post", "message", "document"),
    *("utterance", "phrase", "passage", "body", "review_body", "description", "title", "headline"),
    *("文本", "内容", "评论", "句子", "标题"),
)
LABELS = (
    *("label", "labels", "gold_label", "class", "target", "category", "sentiment", "polarity"),
    *("y", "intent", "topic", "emotion", "rating", "stars", "score", "gold", "class_name"),
    *("标签", "类别", "情感", "分类"),
)
USUAL = {*TEXTS, *LABELS, *(name for pair in PAIRS for name in pair)}
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
LOOKED_AT = 1000  # rows, where the content decides
NAME_LENGTH = 40  # characters of a header's cell
ENOUGH = 20  # rows from which on a label that only the first of them has is a header


class Wanted(NamedTuple):
    """What was asked for, each column by its name or its number from 1; None: find it."""

    text: str | None = None
    pair: str | None = None
    label: str | None = None


class Columns(NamedTuple):
    """Where things stand in a row, counted from 0."""

    names: list[str] | None  # None: the table has no header
    text: int
    pair: int | None  # the second text
    label: int | None  # None: the texts have no labels

    def called(self, column: int) -> str:
        """A column as people know it: "column 2 'sentence'"."""
        return f"column {column + 1}" + (f" {self.names[column]!r}" if self.names else "")


def find_columns(table: Table, wanted: Wanted, *, labelled: bool) -> Columns:
    """The columns of a table.

    Args:
        table: with its header, if it has one, as the first row.
        wanted: goes before what is found.
        labelled: whether there must be a label; else it may be missing.

    Raises:
        UserError: a column that is wanted is not there; no column can be the text or the label, or
            several could be.
    """
    header = table.keys or [str(cell).strip() for cell in table.rows[0].cells]
    has_header = bool(table.keys) or is_header(table, header, wanted)
    names = header if has_header else None
    rows = table.rows if table.keys or not has_header else table.rows[1:]
    if not rows:
        raise UserError(f"{table.path} has a header and no row; is it cut off?")
    cells = [row.cells for row in rows[:LOOKED_AT]]
    text, pair, label = (place(table, names, name) for name in wanted)
    known = [name.lower() for name in header] if has_header else []
    if label is None:
        label = first_of(LABELS, known, {text, pair})
    if text is None and pair is None:
        text, pair = known_texts(known, {label})
    elif text is None:
        text = first_of(TEXTS, known, {label, pair})
    if label is None and (labelled or text is None):
        label = label_by_content(cells, {text, pair})
    if text is None:
        texts = texts_by_content(cells, {label, pair})
        if not texts or len(texts) > (2 if pair is None else 1):
            raise UserError(
                f"{table.path}: which column holds the text is not clear; name it with "
                f"--text-column, for there are {described(header, has_header)}"
            )
        text, *rest = texts
        pair = rest[0] if rest else pair
    if label is None and labelled:
        raise UserError(
            f"{table.path}: no column can be the label; name it with --label-column, for there "
            f"are {described(header, has_header)}"
        )
    if len({text, pair, label} - {None}) < 3 - (pair is None) - (label is None):
        raise UserError(f"{table.path}: text, pair and label must be columns of their own")
    return Columns(names, text, pair, label)


def place(table: Table, names: list[str] | None, wanted: str | None) -> int | None:
    """Where a column stands that was asked for by name or by number."""
    if wanted is None:
        return None
    if names and wanted in names:
        return names.index(wanted)
    width = len(table.rows[0].cells)
    if wanted.isdecimal() and 1 <= int(wanted) <= width:
        return int(wanted) - 1
    there = described(names or [""] * width, names is not None)
    raise UserError(f"{table.path} has no column {wanted!r}; there are {there}")


def described(header: Sequence[str], has_header: bool) -> str:
    """What columns there are, for messages."""
    if has_header:
        return ", ".join(f"{i} {name!r}" for i, name in enumerate(header, 1))
    return f"columns 1 to {len(header)} without names"


# Whether the first row holds names.


def is_header(table: Table, first: list[str], wanted: Wanted) -> bool:
    """Whether the first row of a TSV or CSV file holds the columns' names.

    It does if one of them is asked for; or if it has usual names for a text and a label; or if it
    has one, and the cells beside it are no numbers and do not stand again below (a text may be the
    one word "content"); or if it names columns in words of its own: then that of the label is a
    word over numbers, or a word that none of many rows has.
    """
    if any(name in first for name in wanted if name and not name.isdecimal()):
        return True
    lowered = {cell.lower() for cell in first}
    if lowered & {*LABELS} and lowered & (USUAL - {*LABELS}):
        return True
    below = [row.cells for row in table.rows[1:]]
    if not below or any(len(cell) > NAME_LENGTH or is_number(cell) for cell in first):
        return False
    columns = [{str(cells[i]).strip() for cells in below} for i in range(len(first))]
    usual = [name.lower() in USUAL for name in first]
    if any(
        cell in column
        for cell, column, is_usual in zip(first, columns, usual, strict=True)
        if not is_usual
    ):
        return False
    if any(usual):
        return True
    label = label_by_content(below[:LOOKED_AT], set())
    if label is None or not all(first):
        return False
    return len(below) >= ENOUGH or all(map(is_number, columns[label]))


def is_number(text: str) -> bool:
    return NUMBER.fullmatch(text) is not None


# Columns by name.


def first_of(names: Sequence[str], known: list[str], taken: set[int | None]) -> int | None:
    """The column with the first of these names."""
    places = (known.index(name) for name in names if name in known)
    return next((place for place in places if place not in taken), None)


def known_texts(known: list[str], taken: set[int | None]) -> tuple[int | None, int | None]:
    """The columns of a text, or of a pair of texts."""
    for pair in PAIRS:
        if set(pair) <= set(known):
            places = known.index(pair[0]), known.index(pair[1])
            if not taken & set(places):
                return places
    return first_of(TEXTS, known, taken), None


# Columns by content.


def label_by_content(rows: list[list[Any]], taken: set[int | None]) -> int | None:
    """The column whose values repeat most; a text would have to occur twice on average."""
    free = [i for i in range(len(rows[0])) if i not in taken]
    if len(free) == 1 and len(rows[0]) > 1:
        return free[0]
    kinds = {i: len({str(cells[i]).strip() for cells in rows}) for i in free}
    limits = {i: len(rows) // 2 if is_text(rows, i) else len(rows) - 1 for i in free}
    repeating = [i for i in free if kinds[i] <= limits[i]]
    several = [i for i in repeating if kinds[i] > 1]  # one value everywhere tells nothing
    return min(several or repeating, key=lambda i: kinds[i], default=None)


def texts_by_content(rows: list[list[Any]], taken: set[int | None]) -> list[int]:
    """The columns whose values are texts; of columns of single words the one with the longest."""
    free = [i for i in range(len(rows[0])) if i not in taken]
    if texts := [i for i in free if is_text(rows, i)]:
        return texts
    words = [i for i in free if not all(is_number(str(cells[i])) for cells in rows)]
    return sorted(words, key=lambda i: -sum(len(str(cells[i])) for cells in rows))[:1]


def is_text(rows: list[list[Any]], column: int) -> bool:
    """Whether most of its values are more than a word."""
    return 2 * sum(more_than_a_word(str(cells[column])) for cells in rows) > len(rows)


def more_than_a_word(value: str) -> bool:
    """Several words, or a phrase of a language that sets no spaces between them."""
    sets_none = any("\u2e80" <= char <= "\u9fff" for char in value)
    return len(value.split()) > 1 or (sets_none and len(value) > 4)
