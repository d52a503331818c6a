"""A training step beside its floor: the matrix products that it cannot do without.

Shapes:  B  texts   T  tokens of each   C  hidden_size   I  intermediate_size
         H  attention heads   D  size of a head, C / H
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from minibert.config import BertConfig
from minibert.memory import keep_freed_memory
from minibert.train import PRECISIONS
from rows import step
from rows.row import Figures, Row, Side, Work, timed
from rows.step import Shape


def measure(shape: Shape, work: Work, side: str) -> Figures:
    """The step; or its products alone, each at its own shape, forward and then backward."""
    if side == "ours":
        return step.measure(shape, work, side)
    shape = shape.of(work)
    keep_freed_memory()
    config = BertConfig.from_pretrained(step.checkpoint_of(shape, work))
    operands = list(products_of(config, shape, PRECISIONS[work.precision]))
    return timed(lambda: multiply(operands), shape.counted)


def products_of(
    config: BertConfig, shape: Shape, dtype: torch.dtype
) -> Iterator[tuple[Tensor, Tensor]]:
    """x and w of every product x @ w of the forward pass, as the layers have them."""
    C, I, H = config.hidden_size, config.intermediate_size, config.num_attention_heads  # noqa: E741
    B, T, D = shape.batch, shape.length, C // H
    for _ in range(config.num_hidden_layers):
        tokens = torch.randn(B * T, C, dtype=dtype)
        for _ in range(4):  # query, key, value, output
            yield tokens, torch.randn(C, C, dtype=dtype).t()  # (BT, C) @ (C, C)
        yield tokens, torch.randn(I, C, dtype=dtype).t()  # (BT, C) @ (C, I) -> (BT, I)
        yield torch.randn(B * T, I, dtype=dtype), torch.randn(C, I, dtype=dtype).t()
        heads = torch.randn(B * H, T, D, dtype=dtype)
        yield heads, heads.transpose(1, 2)  # (BH, T, D) @ (BH, D, T) -> (BH, T, T)
        yield torch.randn(B * H, T, T, dtype=dtype), heads  # -> (BH, T, D)


def multiply(operands: list[tuple[Tensor, Tensor]]) -> None:
    """Each product and the two of its backward pass; what comes out is not kept."""
    for x, w in operands:
        out = x @ w
        _ = out @ w.mT  # the gradient of x
        _ = x.mT @ out  # the gradient of w


ROWS = [
    Row(
        name="floor",
        what="the matrix products of that step alone, as a share of the step",
        sides={"ours": step.OURS, "products": Side("its matrix products, at their own shapes")},
        measure=partial(measure, step.BASE),
        check=lambda work: [],
        target=0.7,
        turns=3,
        settings=step.BASE._asdict(),
    ),
]
