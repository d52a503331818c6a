"""Files of labelled texts for tests, and what is read of them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from minibert.cls.reading import TextSet

ROWS = [
    ("a fine film", "pos"),
    ("a bad film", "neg"),
    ("not bad at all", "pos"),
    ("not good", "neg"),
]


def write(folder: Path, content: str | bytes, name: str = "data") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def table(rows: list[tuple[Any, ...]], separator: str) -> str:
    """As a program would write it, with quotes where they are needed."""
    out = io.StringIO()
    csv.writer(out, delimiter=separator, lineterminator="\n").writerows(rows)
    return out.getvalue()


def lines(rows: list[tuple[Any, ...]], *keys: str) -> str:
    return "".join(json.dumps(dict(zip(keys, row, strict=True))) + "\n" for row in rows)


def pairs(texts: TextSet) -> list[tuple[str, str | None]]:
    return [(example.text, example.label) for example in texts.examples]
