"""A trained model over many texts: no gradients, little padding, shared out among the processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from minibert import distributed
from minibert.batches import Row, pad, sequential_batches

Floats: TypeAlias = NDArray[np.float32]  # what is kept of a model's outputs


@torch.inference_mode()
def outputs(
    model: nn.Module,
    rows: Sequence[Row],
    pad_id: int,
    keep: Callable[[Any, Sequence[int]], list[Floats]],
    *,
    batch_size: int,
    doing: str,
) -> list[Floats]:
    """What a model makes of every row, in the order of the rows, in every process.

    Args:
        model: is left in the mode (training or not) that it was in.
        keep: takes the output for a batch and the lengths of its rows; returns what is to be kept
            of each, on the CPU.
        doing: the word before the bar.
    """
    was_training = model.training
    if was_training:  # to walk through all modules is a part of the time for one question
        model.eval()
    device = next(model.parameters()).device
    lengths = [len(row.input_ids) for row in rows]
    mine: dict[str, torch.Tensor] = {}
    batches = distributed.share(sequential_batches(lengths, batch_size))
    # One batch needs no bar; None: none where there is no terminal, either.
    quiet = None if distributed.is_main() and len(batches) > 1 else True
    for places in tqdm(batches, desc=doing, unit="batch", disable=quiet):
        batch = pad([rows[i] for i in places], pad_id)
        output = model(**{name: x.to(device) for name, x in batch.items()})
        kept = keep(output, [lengths[i] for i in places])
        mine |= {str(place): torch.from_numpy(x) for place, x in zip(places, kept, strict=True)}
    if was_training:
        model.train()
    found = {place: x for part in distributed.gather(mine) for place, x in part.items()}
    return [found[str(i)].numpy() for i in range(len(rows))]
