"""Attention in the way that is fastest where it runs.

`explicit_attention` in `model.py` is the formula. A GPU has it in one kernel, which torch calls
`scaled_dot_product_attention`. On a CPU that kernel is slow where it draws dropout (it then spells
the formula out) and in 16 bits (half as fast as the products by themselves on an AMD EPYC; on an
Intel Xeon with AMX twice as fast, but its gradient is not). So there a few texts are computed at a
time, whose scores stay in the processor's cache, and for the backward pass of long texts no more
is kept than a byte for each probability that says whether dropout spared it. The probabilities are
computed again: 3 to 5% of a training step for a quarter of its memory (`bench/README.md`). In bf16,
where there is neither dropout nor a backward pass, there is a shorter way to the same sums
(`attention_without_gradient`).

In 16 bits scores and probabilities are rounded as the formula rounds them, where the kernel
computes them in 32: the sums are up to some twenty times as far from the exact ones, the more the
larger scores are, still within what the products' inputs have lost already. In bf16 without dropout
and backward pass it is exponentials, their sums and their products that are rounded, and not
q / sqrt(D): 0.8 to 1.7 times as far as the formula.

Shapes:  B  texts   T  tokens of each   H  attention heads   D  size of a head
         R  tokens that look: T, or 1 where only [CLS] is read
         n  texts that are computed together
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from minibert.dropout import keep_mask
from minibert.processor import has_unit

# So many probabilities are computed at a time, but never half a text. Each part draws its own
# masks, so with another number a seed has others.
AT_ONCE = 1 << 20
SHORT = 64  # tokens; such texts' probabilities are a small part of all that a step keeps
# Between these the sum of a row's exponentials has to lie. bf16 has all its digits from 2^-126 to
# 2^128, so there is room to multiply them by values from 2^-18 to 2^15.
LEAST, MOST = 2.0**-100, 2.0**112


def fast_attention(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, rate: float) -> Tensor:
    """softmax(QK^T / sqrt(D)) V with dropout, as `explicit_attention`.

    Args:
        q, k, v: (B, H, R, D) and twice (B, H, T, D), of one dtype.
        visible: (B, 1, 1, T), True where a token may be looked at, or None where all may.
        rate: of dropout on the probabilities, from 0 to 1.

    Returns:
        The weighted sums (B, H, R, D). A CPU's masks come from torch's global generator, part after
        part: the same as those of `explicit_attention` where all texts are one part.
    """
    elsewhere = q.device.type != "cpu" or torch.compiler.is_compiling()
    trains = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
    if elsewhere or not (rate or is_kernel_slow(q.dtype, trains)):
        return F.scaled_dot_product_attention(q, k, v, visible, rate)
    hidden = None if visible is None else torch.where(visible, 0.0, -math.inf).to(q.dtype)
    if q.dtype is torch.bfloat16 and not (rate or trains):
        return attention_without_gradient(q, k, v, hidden)
    sums: Tensor = AttentionByParts.apply(q, k, v, hidden, rate)  # type: ignore[no-untyped-call]
    return sums


def is_kernel_slow(dtype: torch.dtype, trains: bool) -> bool:
    """Whether a CPU's kernel takes longer than the formula where nothing is dropped: in 16 bits,
    unless it has AMX for its products, which its gradient has not."""
    return dtype.itemsize == 2 and (trains or not has_amx(dtype))


def has_amx(dtype: torch.dtype) -> bool:
    """Whether a CPU's kernel may have its products in this dtype from AMX
    (aten/src/ATen/native/cpu/FlashAttentionKernel.cpp, `could_pack`)."""
    return dtype is torch.bfloat16 and has_unit("amx_bf16")


def good_length(tokens: int, texts: int) -> int:
    """To how many tokens texts are padded with gain, in 16 bits on a CPU without gradients.

    oneDNN, which has the products, prepares itself anew for each shape that it has not met lately,
    which takes some 2 ms. So lengths are made few: multiples of 16 for a text by itself; of 8 for
    several, since there a longer batch is so many tokens more as it has texts. With AMX it is 16
    there, too: the kernel that attention calls takes up to twice as long where a row of scores ends
    in a part of a vector. An eighth more tokens is the most that this is worth.
    """
    step = 16 if texts == 1 or has_amx(torch.bfloat16) else 8
    whole = -(-tokens // step) * step
    return whole if 8 * whole <= 9 * tokens else tokens


def attention_without_gradient(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor | None) -> Tensor:
    """`AttentionByParts` in bf16 without dropout and where no backward pass comes.

    The first product also scales the scores and adds `hidden`. And not the T probabilities of a
    row are divided by their sum, but the D numbers that are made of them:
    softmax(S) V = (exp(S) V) / (the sums of exp(S)'s rows).
    """
    B, H, T, D = k.shape
    beta = 0 if hidden is None else 1  # 0: nothing is hidden, so nothing is added
    if hidden is None:
        hidden = q.new_zeros(B, 1, 1, T)
    hidden = hidden[:, 0].expand(B, H, T)  # (B, 1, 1, T) -> (B, 1, T) -> (B, H, T)
    sums = torch.empty_like(q)  # in memory as q is, so that heads join uncopied
    for texts in parts_of(q, T):
        # (n, H, R, D) -> (n H, R, D); (n, H, T, D) -> (n H, T, D), twice
        query, key, value = (x.flatten(0, 1) for x in own_memory(texts, q, k, v))
        added = hidden[texts].reshape(-1, 1, T)  # (n, H, T) -> (n H, 1, T)
        # (n H, 1, T) + (n H, R, D) @ (n H, D, T) -> (n H, R, T)
        scores = torch.baddbmm(added, query, key.mT, beta=beta, alpha=1 / math.sqrt(D))
        exps, totals = exponentials(scores)  # (n H, R, T), (n H, R, 1)
        weighted = (exps @ value).div_(totals)  # (n H, R, T) @ (n H, T, D) -> (n H, R, D)
        sums[texts] = weighted.view(-1, H, q.size(2), D)  # (n H, R, D) -> (n, H, R, D)
    return sums


def exponentials(scores: Tensor) -> tuple[Tensor, Tensor]:
    """exp(scores), (n H, R, T), and the sum of each row, (n H, R, 1), by which softmax divides.

    torch's softmax takes each row's largest score away first and needs two to three times as long.
    That has to be done only where scores are so far from 0 (beyond some 70) that bf16 cannot say
    their exponentials, which does happen in real models: there, its probabilities and ones.
    """
    exps = scores.exp()
    totals = exps.sum(dim=2, keepdim=True)  # (n H, R, T) -> (n H, R, 1)
    least, most = (total.item() for total in totals.aminmax())
    if least > LEAST and most < MOST:  # False for NaN, too
        return exps, totals
    return scores.softmax(dim=2), torch.ones_like(totals)


class AttentionByParts(torch.autograd.Function):
    """The function and its gradient, a few texts at a time; it has no second derivative.

    hidden, (B, 1, 1, T), is what is added to all scores: 0, or -inf for tokens that are not seen.
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, hidden: Tensor | None, rate: float
    ) -> Tensor:
        sums = torch.empty_like(q)  # in memory as q is: (B, R, H, D), so that heads join uncopied
        masks: list[Tensor] = []
        kept: list[Tensor] = []  # of short texts, their probabilities
        for texts in parts_of(q, k.size(2)):
            query, key, value = own_memory(texts, q, k, v)
            probs = probabilities(query, key, hidden, texts)
            keep, ctx.scale = keep_mask(probs.shape, rate) if rate else (torch.ones(()), 1.0)
            if any(ctx.needs_input_grad):
                masks.append(keep)
                kept += [probs] if k.size(2) <= SHORT else []
            if rate:
                probs = probs * keep if kept else probs.mul_(keep)
            # (n, H, R, T) @ (n, H, T, D) -> (n, H, R, D)
            sums[texts] = probs @ (value * ctx.scale)
        ctx.save_for_backward(q, k, v, hidden, *masks, *kept)
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v, hidden, *masks_and_kept = ctx.saved_tensors
        parts = list(parts_of(q, k.size(2)))
        masks, kept = masks_and_kept[: len(parts)], masks_and_kept[len(parts) :]
        grad_q, grad_k, grad_v = (torch.empty_like(x) for x in (q, k, v))
        root = math.sqrt(q.size(3))
        for i, texts in enumerate(parts):
            query, key, value, own_grad = own_memory(texts, q, k, v, grad)
            probs = kept[i] if kept else probabilities(query, key, hidden, texts)
            keep = masks[i].to(probs.dtype)
            own_grad = own_grad * ctx.scale  # (n, H, R, D)
            # (n, H, R, D) @ (n, H, D, T) -> (n, H, R, T)
            grad_probs = (own_grad @ value.mT).mul_(keep)
            grad_scores = torch.ops.aten._softmax_backward_data(grad_probs, probs, 3, probs.dtype)
            # (n, H, R, T) @ (n, H, T, D) -> (n, H, R, D)
            grad_q[texts] = (grad_scores @ key).div_(root)
            probs = probs * keep if kept else probs.mul_(keep)
            # (n, H, T, R) @ (n, H, R, D) -> (n, H, T, D), twice
            grad_v[texts] = probs.mT @ own_grad
            grad_k[texts] = grad_scores.mT @ (query / root)
        return grad_q, grad_k, grad_v, None, None


def probabilities(query: Tensor, key: Tensor, hidden: Tensor | None, texts: slice) -> Tensor:
    """softmax(QK^T / sqrt(D)) of some texts, line by line as in `explicit_attention`."""
    # (n, H, R, D) @ (n, H, D, T) -> (n, H, R, T)
    scores = (query / math.sqrt(query.size(3))) @ key.mT
    if hidden is not None and hidden[texts].any():  # in a padded batch the longest hide nothing
        scores.add_(hidden[texts])
    return scores.softmax(dim=3)


def own_memory(texts: slice, *tensors: Tensor) -> list[Tensor]:
    """Some texts of each, (n, H, R or T, D), one head after the other. In a model's memory the
    heads of a token lie side by side; a product has to pick its numbers from there, which takes
    longer than copying them once."""
    return [x[texts].contiguous() for x in tensors]


def parts_of(q: Tensor, T: int) -> Iterator[slice]:
    """The texts that are computed together, so few that what is computed stays in the cache."""
    B, H, R, _ = q.shape
    n = max(1, AT_ONCE // (H * R * T))
    return (slice(i, i + n) for i in range(0, B, n))
