"""What goes into the model: which shapes and ids it takes, and how padding is hidden.

Shapes: B texts, T tokens of the longest text.
"""

from __future__ import annotations

import torch
from torch import Tensor

from minibert.config import BertConfig


def check_inputs(
    config: BertConfig, input_ids: Tensor, attention_mask: Tensor | None, token_type_ids: Tensor
) -> None:
    """Says what is wrong with a batch, where a kernel would crash or, on a GPU, end the process.

    Raises:
        ValueError: shapes that do not fit, more tokens than positions, ids out of range or no whole
            numbers, a mask that is not of ones and zeros.
    """
    if input_ids.dim() != 2 or input_ids.numel() == 0:
        raise ValueError(f"input_ids must be (batch, tokens), not {tuple(input_ids.shape)}")
    for name, x in (("attention_mask", attention_mask), ("token_type_ids", token_type_ids)):
        if x is not None and x.shape != input_ids.shape:
            raise ValueError(f"{name} is {tuple(x.shape)}, input_ids {tuple(input_ids.shape)}")
    if input_ids.size(1) > config.max_position_embeddings:
        limit = f"the model has positions for {config.max_position_embeddings}"
        raise ValueError(f"{input_ids.size(1)} tokens are too many: {limit}")
    for name, ids in (("input_ids", input_ids), ("token_type_ids", token_type_ids)):
        if ids.dtype not in (torch.int64, torch.int32):
            raise ValueError(f"{name} is {ids.dtype}; ids are torch.int64")
    if not torch.compiler.is_compiling():  # a graph cannot depend on what the numbers are
        check_values(config, input_ids, attention_mask, token_type_ids)


def check_values(
    config: BertConfig, input_ids: Tensor, attention_mask: Tensor | None, token_type_ids: Tensor
) -> None:
    """The part of `check_inputs` that looks at numbers."""
    for name, ids, size in (
        ("input_ids", input_ids, config.vocab_size),
        ("token_type_ids", token_type_ids, config.type_vocab_size),
    ):
        low, high = ids.min().item(), ids.max().item()
        if low < 0 or high >= size:
            raise ValueError(f"{name} has {low if low < 0 else high}, not within 0 to {size - 1}")
    if attention_mask is not None and not bool(
        ((attention_mask == 0) | (attention_mask == 1)).all()
    ):
        raise ValueError("attention_mask must hold 1 for tokens and 0 for padding, nothing else")


def visible_tokens(attention_mask: Tensor | None) -> Tensor | None:
    """Which tokens may be looked at, worked out once for all layers.

    Args:
        attention_mask: (B, T), 1 for a token and 0 for padding; None if nothing is padded.

    Returns:
        (B, 1, 1, T) bool: for every text, the same for each head and each looking token. None if
        nothing is padded, for then there is nothing to hide (torch.compile makes one graph for
        both cases, which always has it). A text of padding alone would make the softmax divide 0
        by 0, so it sees all of itself, as in google-research/bert, where the mask is one number
        subtracted from all its scores (modeling.py, `adder`).
    """
    if attention_mask is None:
        return None
    if not torch.compiler.is_compiling() and bool((attention_mask == 1).all()):
        return None
    visible = attention_mask == 1
    visible = visible | ~visible.any(dim=1, keepdim=True)  # (B, T) | (B, 1) -> (B, T)
    return visible[:, None, None, :]  # (B, T) -> (B, 1, 1, T)
