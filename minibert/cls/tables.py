"""Files of labelled texts on disk -> `Table`: rows and columns, and the line each row is on.

Three layouts are read, told apart by the file's first line, never by its name:

- JSON Lines: it begins with `{`. One object a line; its keys are the columns.
- TSV: it has a tab. Tabs and line ends separate, and a quote is a character like any other, as in
  GLUE's files (and in text/tab-separated-values, as registered with IANA).
- CSV: it has a comma, or a semicolon as spreadsheets write them where the comma is in numbers.
  A field in double quotes may hold separators, line ends and, doubled, quotes (RFC 4180).

Line ends may be those of Unix, Windows or old Macs. Blank lines are left out. What the columns
mean, the next room finds out, `columns.py`.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from minibert.errors import UserError
from minibert.files import read_text

Cells = list[Any]  # strings; of JSON Lines any JSON value, and None where an object lacks the key


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
        UserError: there is none, it is a directory, empty or not UTF-8; a quote that is not closed;
            a row with another number of columns than the first; a line that is no JSON object. The
            message names the line.
    """
    path = Path(path)
    text, sha256 = read_text(path)
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    first = next((line for line in text.split("\n") if line.strip()), "")
    if not first:
        raise UserError(f"{path} is empty; a row a text and its label were expected")
    if first.lstrip().startswith("{"):
        return Table(path, "jsonl", sha256, *read_objects(path, text))
    separator = next((c for c in "\t,;" if c in first), None)
    if separator is None:
        raise UserError(
            f"{path} is no table of texts: its first line has neither a tab (TSV) nor a comma "
            "(CSV) nor begins with { (JSON Lines); write a text and its label to each line"
        )
    if separator == "\t":
        split = ((n, line.split("\t")) for n, line in enumerate(text.split("\n"), 1))
        rows = [Row(n, cells) for n, cells in split if any(cell.strip() for cell in cells)]
    else:
        rows = list(read_csv(path, text, separator))
    check_widths(path, rows, separator)
    return Table(path, "tsv" if separator == "\t" else "csv", sha256, [], rows)


def read_csv(path: Path, text: str, separator: str) -> Iterator[Row]:
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # else 131,072 characters
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
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
            name = {"\t": "tab", ",": "comma", ";": "semicolon"}[separator]
            inside = "" if separator == "\t" else ', which is written in double quotes, as "…"'
            raise UserError(
                f"{path}, line {line}: this row has {len(cells)} columns where the first has "
                f"{width}; is a {name} missing, or is one inside a text{inside}?"
            )


def read_objects(path: Path, text: str) -> tuple[list[str], list[Row]]:
    """The keys of the first object, and of every object their values."""
    keys: list[str] = []
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{where}: this is no JSON ({error}); the first line is an object, so each must be"
            ) from None
        if not isinstance(record, dict):
            raise UserError(f"{where}: an object was expected, as in the first line; mend it")
        keys = keys or list(record)
        rows.append(Row(number, [record.get(key) for key in keys]))
    return keys, rows
