"""Texts -> token ids: what the model sees of a text, and what is cut off where it is too long.

The second room of classification, between `reading.py` and the batches (BERT paper, figure 4):

    [CLS] text [SEP]                      token types 0
    [CLS] text [SEP] second text [SEP]    token types 0 up to the first [SEP], then 1

A text that does not fit is cut at its end; of a pair always the longer one, token by token, as in
google-research/bert, run_classifier.py, `_truncate_seq_pair`. `head_tail` keeps both ends instead.

Shapes: n tokens of one text, [CLS] and [SEP] included.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from minibert.errors import UserError
from minibert.tokenizer import special_id, tokenize

Ints: TypeAlias = NDArray[np.int32]
Texts: TypeAlias = Sequence[tuple[str, str | None]]  # each text with its second one, or None

# Sun et al. 2019, "How to Fine-Tune BERT for Text Classification?", section 5.3.1: the best way to
# cut was to keep the first 128 and the last 382 of 510 tokens, here to scale.
HEAD_SHARE = 128 / 510


class Encoded(NamedTuple):
    """One text, or pair, as the model takes it."""

    input_ids: Ints  # (n,)
    token_type_ids: Ints  # (n,)


class Encodings(NamedTuple):
    """All texts, in their order."""

    rows: list[Encoded]
    n_cut: int  # texts that were too long


def encode(
    texts: Texts, tokenizer: Tokenizer, max_length: int, head_tail: bool = False
) -> Encodings:
    """Tokenizes texts, and cuts those of more than `max_length` tokens, [CLS] and [SEP] included.

    Raises:
        UserError: max_length leaves no token for a text.
    """
    check_length(max_length, any(pair is not None for _, pair in texts))
    cls, sep = ([special_id(tokenizer, name)] for name in ("cls", "sep"))
    firsts = tokenize([text for text, _ in texts], tokenizer)
    seconds = tokenize([pair for _, pair in texts if pair is not None], tokenizer)
    rows, n_cut = [], 0
    for first, (_, pair) in zip(firsts, texts, strict=True):
        parts = [first.ids] if pair is None else [first.ids, next(seconds).ids]
        kept = fit([len(part) for part in parts], max_length - 1 - len(parts))
        n_cut += kept != [len(part) for part in parts]
        parts = [shorten(part, n, head_tail) for part, n in zip(parts, kept, strict=True)]
        parts[0] = cls + parts[0]
        segments = [part + sep for part in parts]
        types = np.repeat(np.arange(len(segments)), [len(segment) for segment in segments])
        joined = [token for segment in segments for token in segment]
        rows.append(Encoded(np.array(joined, np.int32), types.astype(np.int32)))  # (n) each
    return Encodings(rows, n_cut)


def fit(lengths: list[int], room: int) -> list[int]:
    """How many tokens each of one or two texts may keep: the longer one gives way to the other,
    and the second one where both are as long."""
    if sum(lengths) <= room:
        return lengths
    if len(lengths) == 1:
        return [room]
    first, second = lengths
    half = (room + 1) // 2  # what the first one has at least
    first = min(first, max(half, room - second))
    return [first, min(second, room - first)]


def shorten(ids: list[int], n: int, head_tail: bool) -> list[int]:
    """The first n ids, or the first quarter of n and, for the rest, the last."""
    if len(ids) <= n:
        return ids
    head = round(n * HEAD_SHARE) if head_tail else n
    return ids[:head] + ids[len(ids) - (n - head) :]


def check_length(max_length: int, has_pairs: bool) -> None:
    """Raises UserError if [CLS] and [SEP] leave no room for a token of each text."""
    least = 5 if has_pairs else 3
    if max_length < least:
        raise UserError(
            f"--max-length {max_length} leaves no room for a text beside [CLS] and [SEP]; set it "
            f"to at least {least}, better to 128"
        )
