"""The matrix products of the encoder alone, as ours has them: no form of it takes less time at this
precision on the same kernels, whatever is done to all the rest.

Shapes:  B  texts   T  tokens of each   C  hidden_size   I  intermediate_size
         H  attention heads   D  size of a head, C / H   n  texts that are computed together
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from minibert.attention import parts_of
from minibert.model import BertModel
from minibert.train import PRECISIONS
from rows.row import Side

ALONE = {"products": Side("its matrix products alone, as ours has them", "beside")}


def products(model: BertModel, precision: str, shape: tuple[int, int]) -> Callable[[], None]:
    """What computes those of all layers for a batch of (B, T), on random numbers.

    model: after `fix_products`.
    """
    config, dtype, (B, T) = model.config, PRECISIONS[precision], shape
    C, I, H = config.hidden_size, config.intermediate_size, config.num_attention_heads  # noqa: E741
    x, wide = (torch.randn(B, T, n, dtype=dtype) for n in (C, I))
    heads = torch.randn(B, H, T, C // H, dtype=dtype)
    parts = [heads[texts].flatten(0, 1) for texts in parts_of(heads, T)]  # each (n H, T, D)
    probs = torch.randn(len(parts[0]), T, T, dtype=dtype)  # the same for all: it is in the cache

    @torch.inference_mode()
    def multiply() -> None:
        for layer in model.layers:
            layer.attention.project(x, x)  # type: ignore[union-attr, operator]
            for part in parts:
                _ = part @ part.mT  # (n H, T, D) @ (n H, D, T) -> (n H, T, T)
                _ = probs[: len(part)] @ part  # (n H, T, T) @ (n H, T, D) -> (n H, T, D)
            layer.attention.output(x)  # type: ignore[union-attr, operator]
            layer.feed_forward.intermediate(x)  # type: ignore[union-attr, operator]
            layer.feed_forward.output(wide)  # type: ignore[union-attr, operator]

    return multiply
