"""The matrix products of the encoder alone, as ours has them: less time than these take is not to
be had at this precision, whatever is done to all the rest.

Shapes:  B  texts   T  tokens of each   C  hidden_size   I  intermediate_size
         H  attention heads   D  size of a head, C / H
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from minibert.model import BertModel
from minibert.train import PRECISIONS
from rows.row import Side

PRODUCTS = Side("its matrix products alone, as ours has them", "beside")


def products(model: BertModel, precision: str, shape: tuple[int, int]) -> Callable[[], None]:
    """What computes those of all layers for a batch of (B, T), on random numbers.

    model: after `fix_products`.
    """
    config, dtype, (B, T) = model.config, PRECISIONS[precision], shape
    C, I, H = config.hidden_size, config.intermediate_size, config.num_attention_heads  # noqa: E741
    x, wide = (torch.randn(B, T, n, dtype=dtype) for n in (C, I))
    heads, probs = (torch.randn(B * H, T, n, dtype=dtype) for n in (C // H, T))

    @torch.inference_mode()
    def multiply() -> None:
        for layer in model.layers:
            layer.attention.project(x, x)  # type: ignore[union-attr, operator]
            _ = heads @ heads.mT  # (BH, T, D) @ (BH, D, T) -> (BH, T, T)
            _ = probs @ heads  # (BH, T, T) @ (BH, T, D) -> (BH, T, D)
            layer.attention.output(x)  # type: ignore[union-attr, operator]
            layer.feed_forward.intermediate(x)  # type: ignore[union-attr, operator]
            layer.feed_forward.output(wide)  # type: ignore[union-attr, operator]

    return multiply
