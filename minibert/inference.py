"""A trained model over many texts: no gradients, little padding, shared out among the processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from minibert import distributed
from minibert.batches import Row, pad, sequential_batches

T = TypeVar("T")
Floats: TypeAlias = NDArray[np.float32]  # what is kept of a model's outputs


@torch.no_grad()
def outputs(
    model: nn.Module,
    rows: Sequence[Row],
    pad_id: int,
    keep: Callable[[Any, Sequence[int]], list[T]],
    *,
    batch_size: int,
    doing: str,
) -> list[T]:
    """What a model makes of every row, in the order of the rows, in every process.

    Args:
        model: is left in the mode (training or not) that it was in.
        keep: takes the output for a batch and the lengths of its rows; returns what is to be kept
            of each, on the CPU.
        doing: the word before the bar.
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    lengths = [len(row.input_ids) for row in rows]
    mine: dict[int, T] = {}
    batches = distributed.share(sequential_batches(lengths, batch_size))
    # One batch needs no bar; None: none where there is no terminal, either.
    quiet = None if distributed.is_main() and len(batches) > 1 else True
    for places in tqdm(batches, desc=doing, unit="batch", disable=quiet):
        batch = pad([rows[i] for i in places], pad_id)
        output = model(**{name: x.to(device) for name, x in batch.items()})
        kept = keep(output, [lengths[i] for i in places])
        mine |= zip(places, kept, strict=True)
    model.train(was_training)
    found = {i: value for part in distributed.gather(mine) for i, value in part.items()}
    return [found[i] for i in range(len(rows))]
