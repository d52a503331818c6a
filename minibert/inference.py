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
from minibert.attention import good_length
from minibert.batches import Row, pad, sequential_batches

Floats: TypeAlias = NDArray[np.float32]  # what is kept of a model's outputs

# Tokens of a batch on a CPU, at most, before they are padded to a good length. What a layer
# makes of many more does not stay in the cache until the next one reads it: on an AMD EPYC with
# 32 MB of L3 bert-base took 1.7 times as long for 32 windows at a time (bf16; bench/README.md).
CACHED_TOKENS = 2048


@torch.inference_mode()
def outputs(
    model: nn.Module,
    rows: Sequence[Row],
    pad_id: int,
    keep: Callable[[Any, Sequence[int]], list[Floats]],
    *,
    batch_size: int,
    doing: str,
    limit: int | None = None,
) -> list[Floats]:
    """What a model makes of every row, in the order of the rows, in every process.

    Args:
        model: is left in the mode (training or not) that it was in.
        batch_size: texts in a batch, at most; on a CPU fewer where they are long.
        keep: takes the output for a batch and the lengths of its rows; returns what is to be kept
            of each, on the CPU.
        doing: the word before the bar.
        limit: up to so many tokens a batch may be padded where that is faster; None for no
            further than to its longest text.
    """
    was_training = model.training
    if was_training:  # to walk through all modules is a part of the time for one question
        model.eval()
    device = next(model.parameters()).device
    lengths = [len(row.input_ids) for row in rows]
    mine: dict[str, torch.Tensor] = {}
    max_tokens = CACHED_TOKENS if device.type == "cpu" else None
    batches = distributed.share(sequential_batches(lengths, batch_size, max_tokens))
    # A few texts need no bar; None: none where there is no terminal, either.
    quiet = None if distributed.is_main() and len(rows) > batch_size else True
    for places in tqdm(batches, desc=doing, unit="batch", disable=quiet):
        longest = max(lengths[i] for i in places)
        length = padded_length(longest, len(places), limit, device)
        batch = pad([rows[i] for i in places], pad_id, length)
        output = model(**{name: x.to(device) for name, x in batch.items()})
        kept = keep(output, [lengths[i] for i in places])
        mine |= {str(place): torch.from_numpy(x) for place, x in zip(places, kept, strict=True)}
    if was_training:
        model.train()
    found = {place: x for part in distributed.gather(mine) for place, x in part.items()}
    return [found[str(i)].numpy() for i in range(len(rows))]


def padded_length(longest: int, texts: int, limit: int | None, device: torch.device) -> int:
    """To how many tokens so many texts are padded, the longest of them given; see `good_length`."""
    if limit is None or device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return longest
    return max(longest, min(limit, good_length(longest, texts)))
