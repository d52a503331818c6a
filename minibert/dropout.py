"""Dropout whose masks are cheap to draw on a CPU.

torch draws a CPU's masks one element after the other in one thread, and training hides one in ten
of all attention probabilities. Here a mask is cut from random 64-bit numbers, four elements to
each, at a sixth of the time (`bench/README.md` has what that is worth).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 1 << 16  # a rate is rounded to a multiple of 1 / LEVELS: 0.1 to 0.1000061


def dropout(x: Tensor, rate: float) -> Tensor:
    """Sets each element to 0 with probability `rate`, and scales the others by 1 / (1 - rate) so
    that the expected value stays (Srivastava et al. 2014, section 10).

    Args:
        x: any shape, floating point.
        rate: from 0 to 1; 0 returns x itself. The caller passes 0 where it does not train.

    Returns:
        The shape and dtype of x. The mask comes from torch's global generator, so `manual_seed`
        repeats it.
    """
    dropped = round(rate * LEVELS)
    if x.device.type != "cpu" or torch.compiler.is_compiling() or not 0 < dropped < LEVELS:
        return F.dropout(x, rate)  # a GPU's kernel draws fast; so does compiled code
    keep, scale = keep_mask(x.shape, rate)
    return (x * keep).mul_(scale)


class Dropout(nn.Dropout):
    """torch's module of that name, with these masks."""

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p) if self.training else x


def keep_mask(shape: torch.Size, rate: float) -> tuple[Tensor, float]:
    """1 for each element that stays, else 0; and what those that stay are to be scaled by.

    A byte each: int8, since a product with bools takes a CPU twice as long.
    """
    dropped = round(rate * LEVELS)
    keep = (random_words(shape) >= dropped - LEVELS // 2).view(torch.int8)
    return keep, LEVELS / (LEVELS - dropped) if dropped < LEVELS else 0.0


def random_words(shape: torch.Size) -> Tensor:
    """Independent int16 numbers, each of the 65,536 equally likely."""
    n = math.prod(shape)
    drawn = torch.empty((n + 3) // 4, dtype=torch.int64)
    drawn.random_(-(1 << 63), None)  # all 64 bits; without bounds the sign would stay 0
    return drawn.view(torch.int16)[:n].view(shape)  # (n / 4) int64 -> (n) int16 -> shape
