"""Files of labelled texts on disk -> `Table`: rows and columns, and the line each row is on.

Three layouts are read, told apart by the file's first line, never by its name:

- JSON Lines: it begins with `{`. One object a line; the keys are the columns.
- TSV: it has a tab. Tabs and line ends separate, and a quote is a character like any other, as in
  GLUE's files (and in text/tab-separated-values, as registered with IANA).
- CSV: it has a comma, or a semicolon as spreadsheets write them where the comma is in numbers; of
  the two the one that gives all rows the same width. A field in double quotes may hold
  separators, line ends and, doubled, quotes (RFC 4180; spaces before the quotes are left out).

A file without any of these is a single column: texts without labels. Line ends may be those of
Unix, Windows or old Macs. Blank lines are left out. What the columns mean, the next room finds
out, `columns.py`.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from minibert.errors import UserError
from minibert.files import read_text

Cells = list[Any]  # strings; of JSON Lines any JSON value, and None where an object lacks the key

SEPARATORS = {"\t": "tab", ",": "comma", ";": "semicolon"}
NAMED = re.compile(r"sep=([\t,;])")  # the line that tells Excel which one it is
OBJECTS = re.compile(r'\s*\[\s*\{\s*"[^"\n]*"\s*:')  # how an array of them begins
QUESTIONS = re.compile(r'"qas"\s*:\s*\[')  # in SQuAD's and CMRC's layout
KEYS_FROM = 1000  # objects of JSON Lines whose keys are columns


class Row(NamedTuple):
    """A row and the line of the file that it begins on, from 1."""

    line: int
    cells: Cells


class Table(NamedTuple):
    """All rows of a file; each has as many cells as the first."""

    path: Path
    layout: str  # "tsv", "csv" or "jsonl"
    sha256: str
    keys: list[str]  # of the objects in JSON Lines; else []: the first row may hold the names
    rows: list[Row]


def read_table(path: str | Path) -> Table:
    """Reads a whole file.

    Raises:
        UserError: there is none, it is a directory, empty, not UTF-8, a JSON array or questions; a
            quote that is not closed; a row with another number of columns than the first; a line
            that is no JSON object. The message names the line.
    """
    path = Path(path)
    text, sha256 = read_text(path)
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    first = next((line for line in text.split("\n") if line.strip()), "")
    check_json(path, text, first)
    if first.lstrip().startswith("{"):
        return Table(path, "jsonl", sha256, *read_objects(path, text))
    if named := NAMED.fullmatch(first):
        text, separator = text.replace(first, "", 1), named[1]
    else:
        separator = separator_of(path, text, first)
    if separator == "\t":
        split = ((n, line.split("\t")) for n, line in enumerate(text.split("\n"), 1))
        rows = [Row(n, cells) for n, cells in split if any(cell.strip() for cell in cells)]
    else:
        rows = list(read_csv(path, text, separator))
    if not rows:
        raise UserError(f"{path} is empty; a row a text and its label were expected")
    check_widths(path, rows, separator)
    return Table(path, "tsv" if separator == "\t" else "csv", sha256, [], rows)


def check_json(path: Path, text: str, first: str) -> None:
    """Raises UserError for JSON that is no table, but has the commas of one."""
    if first.lstrip().startswith(("{", "[")) and QUESTIONS.search(text):
        raise UserError(f"{path} holds questions on texts, not labelled texts: see train_qa.py")
    if OBJECTS.match(text) or is_array(first) or is_array(text):
        raise UserError(f"{path} is a JSON array; write one object a line instead (JSON Lines)")


def is_array(text: str) -> bool:
    """Whether this is an array of JSON; a text in brackets is none."""
    try:
        return text.lstrip().startswith("[") and isinstance(json.loads(text), list)
    except (ValueError, RecursionError):
        return False


def separator_of(path: Path, text: str, first: str) -> str:
    """What stands between the cells. Raises UserError: it could be the comma or the semicolon."""
    if "\t" in first:
        return "\t"
    if "," not in first and ";" not in first:  # one column, perhaps in quotes as CSV has them
        return "," if is_even(path, text, ",") else "\t"
    if ";" not in first:
        return ","
    if "," not in first:
        return ";"
    comma, semicolon = (is_even(path, text, char) for char in ",;")
    if comma and semicolon:  # in a sentence a space comes after it
        comma, semicolon = (re.search(rf"{char}\S", text) is not None for char in ",;")
        if comma == semicolon:
            raise UserError(
                f"{path} may be separated by commas or by semicolons; write the line sep=, or "
                "sep=; above it, or a text that has them in double quotes"
            )
    return ";" if semicolon else ","


def is_even(path: Path, text: str, separator: str) -> bool:
    """Whether all rows have as many columns, if this separates them."""
    try:
        return len({len(row.cells) for row in read_csv(path, text, separator)}) == 1
    except UserError:
        return False


def read_csv(path: Path, text: str, separator: str) -> Iterator[Row]:
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # else 131,072 characters
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=separator, strict=True, skipinitialspace=True
    )
    while True:
        line = reader.line_num + 1  # a field in quotes may go on over several lines
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise UserError(
                f"{path}, line {line}: the quotes of the row that begins here are not balanced "
                f"({error}); write a text with quotes or line ends as "
                '"…", and a quote in it twice'
            ) from None
        if cells is None:
            return
        if any(cell.strip() for cell in cells):
            yield Row(line, cells)


def check_widths(path: Path, rows: list[Row], separator: str) -> None:
    """Raises UserError for the first row that has not as many columns as the first one."""
    width = len(rows[0].cells)
    for line, cells in rows:
        if len(cells) != width:
            name = SEPARATORS[separator]
            inside = 'one inside a text, which is written in double quotes, as "…"'
            if separator == "\t":
                inside = "one, or a line end, inside a text (quotes do not help in TSV)"
            columns = "1 column" if len(cells) == 1 else f"{len(cells)} columns"
            raise UserError(
                f"{path}, line {line}: this row has {columns} where the first has {width}; is a "
                f"{name} missing, or is {inside}?"
            )


def read_objects(path: Path, text: str) -> tuple[list[str], list[Row]]:
    """The keys of the objects, in the order in which they come up, and of every object a row."""
    found: list[tuple[int, dict[str, Any]]] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:  # NaN, which is no JSON but written all the same, is what pandas has for nothing
            record = json.loads(line, parse_constant=lambda _: None)
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{where}: this is no JSON ({error}); the first line is an object, so each must be"
            ) from None
        if not isinstance(record, dict):
            raise UserError(f"{where}: an object was expected, as in the first line; mend it")
        found.append((number, record))
    keys = list(dict.fromkeys(key for _, record in found[:KEYS_FROM] for key in record))
    return keys, [Row(number, [record.get(key) for key in keys]) for number, record in found]
