"""Texts to pre-train on, in pieces as long as the model shall see at once.

`pretrain.py` and `joint.py`, the next rooms, hide words in them.
"""

from __future__ import annotations

import argparse
import hashlib
import lzma
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from minibert import files
from minibert.errors import UserError
from minibert.qa.reading import read_questions
from minibert.tokenizer import special_id, tokenize

SHORTEST = 16  # tokens of a piece of text that is worth a place in a batch
AT_ONCE = 256  # passages that are tokenised together: a token takes far more memory there than here


class Piece(NamedTuple):
    """A stretch of text: [CLS] tokens [SEP]."""

    input_ids: NDArray[np.int32]

    @property
    def token_type_ids(self) -> NDArray[np.int32]:
        return np.zeros(len(self.input_ids), np.int32)


def add_text(parser: argparse.ArgumentParser) -> None:
    """The flag that names the texts."""
    parser.add_argument("--text", action="append", metavar="FILE", help="a passage a line, .xz "
        "too; or .json with questions, for their contexts; repeat it for several")  # fmt: skip


def read_passages(path: Path) -> list[str]:
    """The lines of a text file, or the contexts of a file of questions (.json).

    Raises:
        UserError: the file cannot be read, or is not UTF-8.
    """
    if path.suffix == ".json":
        return list(dict.fromkeys(q.context for q in read_questions(path).questions))
    try:
        with (lzma.open if path.suffix == ".xz" else open)(path, "rt", encoding="utf-8") as file:
            return [line.strip() for line in file]
    except (OSError, UnicodeDecodeError, lzma.LZMAError) as error:
        raise UserError(f"{path} cannot be read as text: {error}") from None


def cut_pieces(
    passages: Sequence[str], tokenizer: Tokenizer, max_length: int, limit: int | None = None
) -> list[Piece]:
    """Passages in pieces of at most `max_length` tokens, the first `limit` of them; rests under 16
    tokens are left out.

    Raises:
        UserError: `max_length` leaves no piece of 16.
    """
    if max_length < SHORTEST:
        raise UserError(
            f"--max-length {max_length} is too short: a piece has {SHORTEST} tokens or more"
        )
    cls_id, sep_id = (special_id(tokenizer, name) for name in ("cls", "sep"))
    room = max_length - 2
    pieces: list[Piece] = []
    for start in range(0, len(passages), AT_ONCE):
        for encoding in tokenize(passages[start : start + AT_ONCE], tokenizer):
            ids = encoding.ids
            cut = ([cls_id, *ids[i : i + room], sep_id] for i in range(0, len(ids), room))
            pieces += [Piece(np.array(ids, np.int32)) for ids in cut if len(ids) >= SHORTEST]
        if limit is not None and len(pieces) >= limit:
            return pieces[:limit]
    return pieces


def check_enough(pieces: Sequence[Piece], paths: Sequence[Path]) -> None:
    """Raises UserError: there is not one piece to train on beside the one that is held out."""
    if len(pieces) < 2:
        raise UserError(f"{paths[0]} gives {len(pieces)} pieces of text; at least 2 are needed")


def shuffled(passages: Sequence[str], seed: int) -> list[str]:
    order = np.random.default_rng(seed).permutation(len(passages))
    return [passages[i] for i in order]


def sources(paths: Sequence[Path]) -> dict[str, Any]:
    """For run.json: each file and its sha256, as "text 1", "text 2" and so on."""
    sums = [hashlib.sha256(files.read_bytes(path)).hexdigest() for path in paths]
    found = enumerate(zip(paths, sums, strict=True), 1)
    return {f"text {i}": {"file": str(path), "sha256": x} for i, (path, x) in found}
