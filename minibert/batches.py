"""Texts of many lengths -> batches with little padding: between the tokens and the model.

A batch is as long as its longest text, or little longer; what the others lack is padding, which is
computed like any token and then ignored. Batches of SQuAD drawn at random are half padding. Here
texts of similar length share a batch. This room knows lengths and token ids; what the texts are
for, be it questions or classes, it does not.

Shapes: B texts in the batch, T tokens of the longest, n tokens of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# How many batches' worth of texts are drawn at random before they are sorted by length. More
# means less padding, but batches that are more alike in every epoch. Real tokens / tokens computed,
# the worst of 8 epochs, for batches of 16 / 32 (SST-2: 32 / 64), of which the last set decided:
#
#   batches drawn together                     1            16            32            64
#   SQuAD train, 384/128, uncased      .554 / .505   .942 / .941   .972 / .971   .985 / .984
#   CMRC train part, 512/128           .871 / .871   .983 / .982   .990 / .989   .994 / .993
#   CMRC train part, 256/128           .923 / .923   .984 / .983   .991 / .991   .995 / .995
#   SST-2 train, uncased               .331 / .299   .873 / .862   .930 / .926   .964 / .959
DRAWN_TOGETHER = 64


class Row(Protocol):
    """One text, or pair of texts, as the model takes it; a batch is made of these."""

    @property
    def input_ids(self) -> NDArray[np.int32]: ...  # (n,)

    @property
    def token_type_ids(self) -> NDArray[np.int32]: ...  # (n,)


def length_grouped_batches(
    lengths: Sequence[int], batch_size: int, *, seed: int, epoch: int
) -> list[list[int]]:
    """One epoch of training: every index into `lengths` once, in batches of similar lengths.

    All texts are shuffled and taken 64 batches at a time; only within such a draw are they sorted
    by length and cut into batches, and then the order of all batches is shuffled. So a batch's
    neighbours and company change from epoch to epoch (except that a set of fewer than 64 batches
    is one draw: there only texts of equal length change company).

    The same numbers give the same batches on every machine and with every version of numpy, which
    promises that for a bit generator's raw output, but not for its shuffles.

    Returns:
        ceil(len(lengths) / batch_size) batches; at most one, anywhere, is smaller.

    Raises:
        ValueError: batch_size below 1, or a negative seed or epoch.
    """
    check_batch_size(batch_size)
    bits = np.random.PCG64([seed, epoch])
    shuffled = np.argsort(bits.random_raw(len(lengths)), kind="stable")  # sorted by random keys
    batches = []
    drawn = DRAWN_TOGETHER * batch_size
    for i in range(0, len(lengths), drawn):
        draw = shuffled[i : i + drawn].tolist()
        draw.sort(key=lambda row: -lengths[row])  # stable: equal lengths stay shuffled
        batches += cut(draw, batch_size)
    order = np.argsort(bits.random_raw(len(batches)), kind="stable")
    return [batches[i] for i in order]


def sequential_batches(
    lengths: Sequence[int], batch_size: int, max_tokens: int | None = None
) -> list[list[int]]:
    """Every index into `lengths` once, longest texts first: for evaluation.

    The least padding there is for this batch size, and without `max_tokens` what does not fit into
    memory fails at once. The indices tell to which text an output belongs.

    Args:
        batch_size: texts in a batch, at most.
        max_tokens: tokens in a batch, padding included, at most, unless one text alone has more;
            None for as many as there are.

    Raises:
        ValueError: batch_size below 1.
    """
    check_batch_size(batch_size)
    rows = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    batches: list[list[int]] = []
    i = 0
    while i < len(rows):
        fits = batch_size if max_tokens is None else max_tokens // max(1, lengths[rows[i]])
        n = min(batch_size, max(1, fits))
        batches.append(rows[i : i + n])
        i += n
    return batches


def check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"a batch needs at least 1 text, not {batch_size}")


def cut(rows: list[int], batch_size: int) -> list[list[int]]:
    """Batches of consecutive rows; the last may be smaller."""
    return [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]


def token_efficiency(lengths: Sequence[int], batches: Sequence[Sequence[int]]) -> float:
    """Real tokens / tokens computed, over all batches: 1 if nothing is padded."""
    real = sum(lengths[row] for batch in batches for row in batch)
    computed = sum(len(batch) * max(lengths[row] for row in batch) for batch in batches)
    return real / computed


def pad(rows: Sequence[Row], pad_id: int, length: int | None = None) -> dict[str, Tensor]:
    """The tensors of one batch, under the model's names for them.

    Args:
        length: T, at least that of the longest text; None for that of the longest text.

    Returns:
        input_ids, attention_mask and token_type_ids, each (B, T) int64: `model(**pad(...))`.
    """
    B, T = len(rows), length
    if T is None:
        T = max(len(row.input_ids) for row in rows)
    input_ids = np.full((B, T), pad_id, np.int64)
    attention_mask = np.zeros((B, T), np.int64)
    token_type_ids = np.zeros((B, T), np.int64)
    for i, row in enumerate(rows):
        n = len(row.input_ids)
        input_ids[i, :n] = row.input_ids
        attention_mask[i, :n] = 1
        token_type_ids[i, :n] = row.token_type_ids
    return {
        "input_ids": torch.from_numpy(input_ids),
        "attention_mask": torch.from_numpy(attention_mask),
        "token_type_ids": torch.from_numpy(token_type_ids),
    }
