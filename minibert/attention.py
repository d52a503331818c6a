"""Attention in the way that is fastest where it runs.

`explicit_attention` in `model.py` is the formula. A GPU has it in one kernel, which torch calls
`scaled_dot_product_attention`. On a CPU that kernel is slow where it draws dropout (it then spells
the formula out) and in 16 bits (half as fast as the products by themselves on an AMD EPYC; on an
Intel Xeon with AMX twice as fast, but its gradient is not). So there a few texts are computed at a
time, whose scores stay in the processor's cache, and for the backward pass of long texts no more
is kept than a byte for each probability that says whether dropout spared it. The probabilities are
computed again: 3 to 5% of a training step for a quarter of its memory (`bench/README.md`). In 16
bits, where there is neither dropout nor a backward pass, the first product also scales and masks
(`attention_without_gradient`).

In 16 bits scores and probabilities are rounded as the formula rounds them (without a backward pass
but for q / sqrt(D), which is not rounded by itself), where the kernel computes them in 32: the sums
are two to eight times as far from the exact ones, still within what the products' inputs have lost
already.

Shapes:  B  texts   T  tokens of each   H  attention heads   D  size of a head
         R  tokens that look: T, or 1 where only [CLS] is read
         n  texts that are computed together   S  keys in a row of scores, filled up or not
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
VECTOR = 16  # numbers of 32 bits that AVX-512 computes at once; of 16 bits twice as many


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
    if not (rate or trains):
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


def good_length(tokens: int) -> int:
    """To how many tokens a text is padded with gain, in 16 bits on a CPU without gradients.

    oneDNN, which has the products, prepares itself anew for each length that it has not met lately;
    so there are fewer lengths. And with AMX the kernel that attention calls takes up to twice as
    long where a row of scores ends in a part of a vector. Both are worth an eighth more tokens.
    """
    whole = rounded_up(tokens, VECTOR)
    return whole if 8 * whole <= 9 * tokens else tokens


def attention_without_gradient(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor | None) -> Tensor:
    """`AttentionByParts` in 16 bits without dropout and where no backward pass comes: the first
    product also scales the scores and adds `hidden`, and keys that nobody sees fill up their rows.
    """
    B, H, T, D = k.shape
    S = filled_row(T)
    beta = 0 if hidden is None and S == T else 1  # 0: nothing is hidden, so nothing is added
    if hidden is None:
        hidden = q.new_zeros(B, 1, 1, T)
    hidden = F.pad(hidden, (0, S - T), value=-math.inf)  # (B, 1, 1, T) -> (B, 1, 1, S)
    hidden = hidden[:, 0].expand(B, H, S)  # (B, 1, 1, S) -> (B, 1, S) -> (B, H, S)
    sums = torch.empty_like(q)  # in memory as q is, so that heads join uncopied
    for texts in parts_of(q, S):
        # (n, H, R, D) -> (n H, R, D); (n, H, T, D) -> (n H, T, D), twice
        query, key, value = (x[texts].flatten(0, 1) for x in (q, k, v))
        if S > T:
            key, value = (F.pad(x, (0, 0, 0, S - T)) for x in (key, value))  # -> (n H, S, D)
        added = hidden[texts].reshape(-1, 1, S)  # (n, H, S) -> (n H, 1, S)
        # (n H, 1, S) + (n H, R, D) @ (n H, D, S) -> (n H, R, S)
        scores = torch.baddbmm(added, query, key.mT, beta=beta, alpha=1 / math.sqrt(D))
        weighted = scores.softmax(dim=2) @ value  # (n H, R, S) @ (n H, S, D) -> (n H, R, D)
        sums[texts] = weighted.view(-1, H, q.size(2), D)  # (n H, R, D) -> (n, H, R, D)
    return sums


def filled_row(tokens: int) -> int:
    """With how many keys a row of scores is computed that has so many tokens.

    torch's softmax of 16 bits takes the numbers after the last whole vector of a row one by one:
    with AVX-512 a number of a row of 150 costs 0.70 ns in the mean, of 160 0.42, which pays for the
    ten more. With 17 numbers left over it is a gain in short rows and none in long ones.
    """
    whole = rounded_up(tokens, 2 * VECTOR)
    gains = torch.backends.cpu.get_cpu_capability() == "AVX512" and whole - tokens < VECTOR
    return whole if gains else tokens


def rounded_up(n: int, step: int) -> int:
    """The next multiple of step that is no less than n."""
    return -(-n // step) * step


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
            probs = probabilities(q, k, hidden, texts)
            keep, ctx.scale = keep_mask(probs.shape, rate) if rate else (torch.ones(()), 1.0)
            if any(ctx.needs_input_grad):
                masks.append(keep)
                kept += [probs] if k.size(2) <= SHORT else []
            if rate:
                probs = probs * keep if kept else probs.mul_(keep)
            # (n, H, R, T) @ (n, H, T, D) -> (n, H, R, D)
            sums[texts] = probs @ (v[texts] * ctx.scale)
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
            probs = kept[i] if kept else probabilities(q, k, hidden, texts)
            keep = masks[i].to(probs.dtype)
            own_grad = grad[texts] * ctx.scale  # (n, H, R, D)
            # (n, H, R, D) @ (n, H, D, T) -> (n, H, R, T)
            grad_probs = (own_grad @ v[texts].mT).mul_(keep)
            grad_scores = torch.ops.aten._softmax_backward_data(grad_probs, probs, 3, probs.dtype)
            # (n, H, R, T) @ (n, H, T, D) -> (n, H, R, D)
            grad_q[texts] = (grad_scores @ k[texts]).div_(root)
            probs = probs * keep if kept else probs.mul_(keep)
            # (n, H, T, R) @ (n, H, R, D) -> (n, H, T, D), twice
            grad_v[texts] = probs.mT @ own_grad
            grad_k[texts] = grad_scores.mT @ (q[texts] / root)
        return grad_q, grad_k, grad_v, None, None


def probabilities(q: Tensor, k: Tensor, hidden: Tensor | None, texts: slice) -> Tensor:
    """softmax(QK^T / sqrt(D)) of some texts, line by line as in `explicit_attention`."""
    # (n, H, R, D) @ (n, H, D, T) -> (n, H, R, T)
    scores = (q[texts] / math.sqrt(q.size(3))) @ k[texts].mT
    if hidden is not None and hidden[texts].any():  # in a padded batch the longest hide nothing
        scores.add_(hidden[texts])
    return scores.softmax(dim=3)


def parts_of(q: Tensor, S: int) -> Iterator[slice]:
    """The texts that are computed together, so few that what is computed stays in the cache."""
    B, H, R, _ = q.shape
    n = max(1, AT_ONCE // (H * R * S))
    return (slice(i, i + n) for i in range(0, B, n))
