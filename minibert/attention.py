"""Attention for training on a CPU, which forgets its probabilities and computes them again.

`explicit_attention` in `model.py` is the formula. Of it, autograd keeps for every layer until the
backward pass what the softmax gave, what dropout left of that, and the mask: (B, H, T, T) each, at
T = 300 most of a training step's memory. Here a few texts are computed at a time, and of their
probabilities only the mask is kept, a byte for each; the backward pass computes them again from
q and k, once more for a few texts at a time (Chen et al. 2016, "Training Deep Nets with Sublinear
Memory Cost"; for attention: Dao et al. 2022, "FlashAttention", section 3.1).

Shapes:  B  texts   T  tokens of each   H  attention heads   D  size of a head
         n  texts that are computed together
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from minibert.dropout import keep_mask

AT_ONCE = 1 << 20  # probabilities; more texts than that go on after another, but never half a text


def frugal_attention(
    q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, rate: float
) -> Tensor:
    """softmax(QK^T / sqrt(D)) V with dropout, as `explicit_attention`, in less memory.

    Args:
        q, k, v: (B, H, T, D), of one dtype.
        visible: (B, 1, 1, T), True where a token may be looked at, or None where all may.
        rate: of dropout on the probabilities, from 0 to 1.

    Returns:
        The weighted sums (B, H, T, D). Its masks come from torch's global generator, as those of
        `dropout`; where H * T * T is a multiple of 4 they are the same. It has no second
        derivative.
    """
    hidden = None if visible is None else torch.where(visible, 0.0, -math.inf).to(q.dtype)
    sums: Tensor = FrugalAttention.apply(q, k, v, hidden, rate)  # type: ignore[no-untyped-call]
    return sums


class FrugalAttention(torch.autograd.Function):
    """The function and its gradient; `hidden`, (B, 1, 1, T), is what is added to all scores."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, hidden: Tensor | None, rate: float
    ) -> Tensor:
        B, H, T, _ = q.shape
        sums = torch.empty_like(q)  # in memory as q is: (B, T, H, D), so that heads join uncopied
        keep = torch.empty(B, H, T, T, dtype=torch.int8)
        for texts in parts_of(q):
            keep[texts], ctx.scale = keep_mask(keep[texts].shape, rate)
            probs = scores_of(q[texts], k[texts], hidden, texts).softmax(dim=3)
            # (n, H, T, T) @ (n, H, T, D) -> (n, H, T, D)
            sums[texts] = probs.mul_(keep[texts]) @ (v[texts] * ctx.scale)
        ctx.save_for_backward(q, k, v, hidden, keep)
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v, hidden, keep = ctx.saved_tensors
        grad_q, grad_k, grad_v = (torch.empty_like(x) for x in (q, k, v))
        for texts in parts_of(q):
            own_grad = grad[texts] * ctx.scale  # (n, H, T, D)
            scores = scores_of(q[texts], k[texts], hidden, texts).requires_grad_()
            with torch.enable_grad():
                probs = scores.softmax(dim=3)
            # (n, H, T, D) @ (n, H, D, T) -> (n, H, T, T)
            grad_probs = (own_grad @ v[texts].mT).mul_(keep[texts])
            (grad_scores,) = torch.autograd.grad(probs, scores, grad_probs)
            # (n, H, T, T) @ (n, H, T, D) -> (n, H, T, D), three times
            grad_v[texts] = (probs.detach().mul_(keep[texts])).mT @ own_grad
            grad_q[texts] = (grad_scores @ k[texts]).div_(math.sqrt(q.size(3)))
            grad_k[texts] = grad_scores.mT @ (q[texts] / math.sqrt(q.size(3)))
        return grad_q, grad_k, grad_v, None, None


def scores_of(q: Tensor, k: Tensor, hidden: Tensor | None, texts: slice) -> Tensor:
    """QK^T / sqrt(D) of some texts, line by line as in `explicit_attention`."""
    q = q / math.sqrt(q.size(3))
    scores = q @ k.transpose(2, 3)  # (n, H, T, D) @ (n, H, D, T) -> (n, H, T, T)
    return scores if hidden is None else scores.add_(hidden[texts])


def parts_of(q: Tensor) -> Iterator[slice]:
    """The texts that are computed together, so few that what is computed stays in the cache."""
    B, H, T, _ = q.shape
    n = max(1, AT_ONCE // (H * T * T))
    return (slice(i, i + n) for i in range(0, B, n))
