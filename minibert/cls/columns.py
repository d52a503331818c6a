"""Which column of a table holds the text, which the label.

Between `tables.py` and `reading.py`. It is found out in this order, see `find_columns`:

1. Whether the first row holds the columns' names, `is_header`. The keys of JSON objects always are.
2. What is asked for goes before all else: `--text-column`, `--pair-column`, `--label-column`; then,
   of a trained model, what it was trained on, `by_training`.
3. By name: the label first, then two texts or one, each by the first name in the lists below that
   the table has. Who asks for the text alone gets no pair.
4. By content, for what is missing still: the label is the column whose values come again and again,
   the text the one of several words; a column that is left alone is what is missing. No pair is
   found so, and no column with a name that says it is neither, `ASIDE`.

Where the content leaves several columns, none is taken: the user is asked to name it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
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
# What repeats as a label does, or is as long as a text, and is neither.
ASIDE = {
    *("id", "idx", "index", "uid", "guid", "split", "fold", "subset", "partition"),
    *("lang", "language", "source", "user", "author", "annotator", "date", "time", "timestamp"),
}
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
LOOKED_AT = 1000  # rows, where the content decides
NAME_LENGTH = 40  # characters of a header's cell
ENOUGH = 20  # rows from which on a label that only the first of them has is a header

Rows = list[list[Any]]


class Wanted(NamedTuple):
    """What was asked for, each column by its name or its number from 1; None: find it."""

    text: str | None = None
    pair: str | None = None
    label: str | None = None

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Wanted:
        """By the settings of a command or a run: "text_column" and so on."""
        return cls(*(settings.get(f"{name}_column") for name in cls._fields))


class Places(NamedTuple):
    """Where the columns stand, counted from 0; None: not found yet, or not there."""

    text: int | None
    pair: int | None
    label: int | None


class Columns(NamedTuple):
    """Where things stand in a row, counted from 0."""

    names: list[str] | None  # None: the table has no header
    text: int
    pair: int | None  # the second text
    label: int | None  # None: the texts have no labels
    width: int  # how many columns there are
    is_guess: bool = False  # whether the header only looks like one

    def called(self, column: int) -> str:
        """A column as people know it: "column 2 'sentence'"."""
        return called(column, self.names)


def called(column: int, names: Sequence[str] | None) -> str:
    return f"column {column + 1}" + (f" {names[column]!r}" if names else "")


def number_and_name(column: str) -> tuple[str, str]:
    """What `called` has put together: "2" and "'sentence'", "" without a header."""
    number, _, name = column.removeprefix("column ").partition(" ")
    return number, name


def find_columns(
    table: Table,
    wanted: Wanted,
    *,
    labelled: bool,
    trained: Mapping[str, Any] | None = None,
    is_bare: bool = False,
) -> Columns:
    """The columns of a table.

    Args:
        table: with its header, if it has one, as the first row.
        wanted: goes before what is found.
        labelled: whether there must be a label; else it may be missing.
        trained: what run.json says of the training set, see `by_training`.
        is_bare: the file that it is read like has no header, so one is guessed only where it names
            the label.

    Raises:
        UserError: a column that is wanted is not there; no column can be the text or the label, or
            several could be.
    """
    first = first_row(table)
    is_sure = bool(table.keys) or has_known_names(first, wanted) or names_as_trained(first, trained)
    has_header = is_sure or is_header(table, first, wanted, is_bare)
    names = first if has_header else None
    rows = table.rows if table.keys or not has_header else table.rows[1:]
    if not rows:
        raise UserError(f"{table.path} has a header and no row; is it cut off?")
    if labelled and not table.keys and len(first) == 1:
        raise UserError(
            f"{table.path} is no table of texts: its first line has neither a tab (TSV) nor a "
            "comma (CSV) nor begins with { (JSON Lines); write a text and its label to each line"
        )
    found = Places(*(place(table, names, name) for name in wanted))
    found = by_training(names, len(first), found, trained or {})
    known = [name.lower() for name in names or []]
    found = by_name(known, found)
    found = by_content(table, names, [row.cells for row in rows[:LOOKED_AT]], found, labelled)
    taken = [column for column in found if column is not None]
    if len(set(taken)) < len(taken):
        raise UserError(f"{table.path}: text, pair and label must be columns of their own")
    assert found.text is not None
    is_guess = has_header and not is_sure
    return Columns(names, found.text, found.pair, found.label, len(first), is_guess)


def first_row(table: Table) -> list[str]:
    """What holds the columns' names, if they have names."""
    return table.keys or [as_text(cell) for cell in table.rows[0].cells]


def as_text(cell: Any) -> str:
    return "" if cell is None else str(cell).strip()


# 1. Whether the first row holds names.


def is_header(table: Table, first: list[str], wanted: Wanted, is_bare: bool = False) -> bool:
    """Whether the first row of a TSV or CSV file holds the columns' names.

    One too many costs a text, one too few adds a class that is none. So where it looks like one, it
    is; but if the file should be bare, only if it names the label.
    """
    if has_known_names(first, wanted):
        return True
    below = [row.cells for row in table.rows[1:]]
    if is_numbered(first, below):
        return True
    names_label = any(cell.lower() in LABELS for cell in first)
    return (names_label or not is_bare) and is_odd(first, below)


def has_known_names(first: list[str], wanted: Wanted) -> bool:
    """Whether the first row has a name that is asked for, or usual ones for a text and for a label
    or something else beside it (GLUE's test sets: "index", "sentence")."""
    lowered = {cell.lower() for cell in first}
    if any(name.lower() in lowered for name in wanted if name and not name.isdecimal()):
        return True
    return bool(lowered & {*LABELS, *ASIDE} and lowered & (USUAL - {*LABELS}))


def is_numbered(first: list[str], below: Rows) -> bool:
    """Whether the columns are numbered from 0, as pandas does; its index has no name."""
    named = {i: cell for i, cell in enumerate(first) if cell}
    counted = [str(i) for i in range(len(named))]
    return len(named) > 1 and [*named.values()] == counted and any(is_text(below, i) for i in named)


def is_odd(first: list[str], below: Rows) -> bool:
    """Whether the first row is plainly none of the rows below.

    It is if it has a usual name, and no cell is a number or stands again below (as the label "y"
    may; but under a text's name a text may be that word); or if it names columns in words of its
    own, see `names_the_label`. Columns without a name are not looked at.
    """
    named = {i: cell for i, cell in enumerate(first) if cell}
    if any(len(cell) > NAME_LENGTH or is_number(cell) for cell in named.values()):
        return False
    usual = {i for i, cell in named.items() if cell.lower() in USUAL}
    texts = {i for i in usual if named[i].lower() not in LABELS}
    if any(any(as_text(row[i]) == named[i] for row in below) for i in named.keys() - texts):
        return False
    return bool(below) and (bool(usual) or names_the_label(below, [*named]))


def names_the_label(below: Rows, named: Collection[int]) -> bool:
    """Whether a word that no other row has in the label's column must be its name: over numbers,
    over many rows, or over labels of which each occurs more than once."""
    for i in labels_by_content(below[:LOOKED_AT], named):
        counts = Counter(as_text(row[i]) for row in below)
        if len(below) >= ENOUGH or min(counts.values()) > 1 or all(map(is_number, counts)):
            return True
    return False


def is_number(text: str) -> bool:
    return NUMBER.fullmatch(text) is not None


# 2. What is asked for.


def place(table: Table, names: list[str] | None, wanted: str | None) -> int | None:
    """Where a column stands that was asked for by name, in whatever case, or by number."""
    if wanted is None:
        return None
    for name, known in ((wanted, names or []), (wanted.lower(), [n.lower() for n in names or []])):
        if name in known:
            return known.index(name)
    width = len(table.rows[0].cells)
    if wanted.isdecimal() and 1 <= int(wanted) <= width:
        return int(wanted) - 1
    raise UserError(f"{table.path} has no column {wanted!r}; there are {described(names, width)}")


def described(names: Sequence[str] | None, width: int) -> str:
    """What columns there are, for messages."""
    if names:
        return ", ".join(f"{i} {name!r}" for i, name in enumerate(names, 1))
    return f"columns 1 to {width} without names"


def names_as_trained(first: list[str], trained: Mapping[str, Any] | None) -> bool:
    """Whether the first row has the name of a column that was trained on (but no number)."""
    said = ((trained or {}).get(f"{kind}_column") for kind in Places._fields)
    names = {number_and_name(column)[1].lower() for column in said if column}
    return any(repr(cell).lower() in names for cell in first if cell and not cell.isdecimal())


def by_training(
    names: list[str] | None, width: int, found: Places, trained: Mapping[str, Any]
) -> Places:
    """Adds the columns that a model was trained on, as `TextSet.as_dict` has them: "column 2
    'title'". They are those of the same name; without a header there and here, those in the same
    places of as many columns."""
    for kind in Places._fields:
        said = trained.get(f"{kind}_column")
        if said is None or getattr(found, kind) is not None:
            continue
        number, name = number_and_name(said)
        if names:
            same = [i for i, known in enumerate(names) if repr(known).lower() == name.lower()]
        else:
            same = [int(number) - 1] if trained.get("width") == width and not name else []
        if len(same) > 1:
            same = [i for i in same if str(i + 1) == number]
        if same and same[0] not in found:
            found = found._replace(**{kind: same[0]})
    return found


# 3. Columns by name.


def by_name(known: list[str], found: Places) -> Places:
    """Adds the columns that have usual names."""
    text, pair, label = found
    if label is None:
        label = first_of(LABELS, known, {text, pair})
    if text is None and pair is None:
        text, pair = known_texts(known, {label})
    elif text is None:
        text = first_of(TEXTS, known, {label, pair})
    return Places(text, pair, label)


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


# 4. Columns by content.


def by_content(
    table: Table, names: list[str] | None, rows: Rows, found: Places, labelled: bool
) -> Places:
    """Adds the columns that the values tell; raises UserError for what they do not."""
    width = len(rows[0])
    there = described(names, width)
    aside = {i for i, name in enumerate(names or []) if name.lower() in ASIDE}

    def unclear(what: str, could: Sequence[int]) -> UserError:
        several = " or ".join(called(i, names) for i in could)
        pair_too = " (of a pair the second with --pair-column)" if what == "text" else ""
        return UserError(
            f"{table.path}: which column holds the {what} is not clear; name it with "
            f"--{what}-column{pair_too}, for there are {there}"
            + (f", and {several} could be it" if several else "")
        )

    text, pair, label = found
    free = [i for i in range(width) if i not in found and i not in aside]
    if label is None and len(free) > 1 and (labelled or text is None):
        labels = labels_by_content(rows, free)
        if labelled and len(labels) > 1:
            raise unclear("label", labels)
        label = labels[0] if len(labels) == 1 else None
    free = [i for i in free if i != label]
    if text is None:
        texts = free if len(free) == 1 else texts_by_content(rows, free)
        if len(texts) != 1:
            raise unclear("text", texts)
        [text] = texts
    if label is None and labelled:
        free = [i for i in free if i != text]
        if len(free) != 1:
            taken = " and ".join(called(i, names) for i in (text, pair) if i is not None)
            raise UserError(
                f"{table.path}: beside the text ({taken}) no column can be the label; name it with "
                f"--label-column, for there are {there}"
            )
        [label] = free
    return Places(text, pair, label)


def most_classes(n: int) -> int:
    """How many classes n texts may have: each occurs twice on average."""
    return max(n // 2, 2)


def labels_by_content(rows: Rows, free: Collection[int]) -> list[int]:
    """The columns whose values repeat; if there are such, those of several values (one everywhere
    tells nothing), and of these the ones that are no texts."""
    kinds = {i: len({as_text(row[i]) for row in rows}) for i in free if is_filled(rows, i)}
    most = min(most_classes(len(rows)), len(rows) - 1)
    repeating = [i for i, n in kinds.items() if n <= most]
    several = [i for i in repeating if kinds[i] > 1] or repeating
    return [i for i in several if not is_text(rows, i)] or several


def texts_by_content(rows: Rows, free: Collection[int]) -> list[int]:
    """The columns whose values are texts; of columns of single words the one with the longest."""
    filled = [i for i in free if is_filled(rows, i)]
    if texts := [i for i in filled if is_text(rows, i)]:
        return texts
    words = [i for i in filled if not all(is_number(as_text(row[i])) for row in rows)]
    return sorted(words, key=lambda i: -sum(len(as_text(row[i])) for row in rows))[:1]


def is_filled(rows: Rows, column: int) -> bool:
    """Whether at least half of its cells hold something, and none holds several things."""
    cells = [row[column] for row in rows]
    is_plain = not any(isinstance(cell, (dict, list)) for cell in cells)
    return is_plain and 2 * sum(as_text(cell) != "" for cell in cells) >= len(cells)


def is_text(rows: Rows, column: int) -> bool:
    """Whether most of its values are more than a word."""
    return 2 * sum(more_than_a_word(as_text(row[column])) for row in rows) > len(rows)


def more_than_a_word(value: str) -> bool:
    """Several words, or a phrase of a language that sets no spaces between them."""
    sets_none = any("\u2e80" <= char <= "\u9fff" for char in value)
    return len(value.split()) > 1 or (sets_none and len(value) > 4)
