"""Dropout whose masks are cheap to draw on a CPU.

torch draws a CPU's masks one element after the other in one thread, and training hides one in ten
of all attention probabilities. Here a mask is cut from random 64-bit numbers, a byte of them for
each element, at an eighth of the time (`bench/README.md` has what that is worth).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BYTES = 256  # the values that a byte has


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
    if x.device.type != "cpu" or torch.compiler.is_compiling() or not 0 < rate < 1:
        return F.dropout(x, rate)  # a GPU's kernel draws fast; so does compiled code
    keep, scale = keep_mask(x.shape, rate)
    return (x * keep).mul_(scale)


class Dropout(nn.Dropout):
    """torch's module of that name, with these masks."""

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p) if self.training else x


def keep_mask(shape: torch.Size, rate: float) -> tuple[Tensor, float]:
    """1 for each element that stays, else 0; and what those that stay are to be scaled by.

    rate: from above 0 to 1.

    A random byte drops its element if it is one of 25 of the 256, for a rate of 0.1, and darts hit
    the few that lack. A byte each is kept, too: int8, since a product with bools takes twice as
    long.
    """
    n = math.prod(shape)
    if rate == 1:
        return torch.zeros(shape, dtype=torch.int8), 0.0
    values = int(rate * BYTES)  # of a byte: those that drop their element
    keep = (random_bytes(n) >= values - BYTES // 2).view(torch.int8)
    keep[darts(n, (rate - values / BYTES) / (1 - values / BYTES))] = 0
    return keep.view(shape), 1 / (1 - rate)  # (n) -> shape


def random_bytes(n: int) -> Tensor:
    """Independent int8 numbers, each of the 256 equally likely: (n)."""
    drawn = torch.empty((n + 7) // 8, dtype=torch.int64)
    drawn.random_(-(1 << 63), None)  # all 64 bits; without bounds the sign would stay 0
    return drawn.view(torch.int8)[:n]  # (n / 8) int64 -> (n) int8


def darts(n: int, rate: float) -> Tensor:
    """Some of n elements, each with probability `rate`, whatever becomes of the others; one may
    be named twice.

    Where the number of darts is of a Poisson distribution, so are the numbers of those that hit
    each element, and they are independent (the colouring theorem of Poisson processes): of a mean
    m, none hits it with probability exp(-m). torch draws a place as 32 bits modulo n, so the rate
    is right to n / 2^32 of itself.
    """
    mean = -n * math.log1p(-rate)
    thrown = int(torch.poisson(torch.tensor(mean, dtype=torch.float64)))
    return torch.randint(max(1, n), (thrown,))
