"""The matrix products of a model that is only asked: 16 bits, rounded and laid out once.

Under `autocast` a product's weights are rounded at each call, and oneDNN, which computes it on a
CPU, then copies them into the order in which its kernel reads them. While a model trains, its
weights change at each step; when it is asked they never do, and for one question this is a sixth of
the time (`bench/README.md`). The results are the same bits.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def fix_products(model: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Makes all `nn.Linear` of a model ready for `autocast` to this dtype on this device.

    The model is to be asked and no more: it can neither be trained nor saved after this.
    """
    for module in list(model.modules()):
        for name, part in module.named_children():
            if isinstance(part, nn.Linear):
                part.to(dtype)
                if can_be_packed(device, dtype):
                    setattr(module, name, PackedLinear(part))


def can_be_packed(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether oneDNN computes such products here; torch promises neither name for ever."""
    if device.type != "cpu" or dtype is not torch.bfloat16:
        return False
    names = ("_is_mkldnn_bf16_supported", "_reorder_linear_weight", "_linear_pointwise")
    there = all(hasattr(torch.ops.mkldnn, name) for name in names)
    return there and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


class PackedLinear(nn.Module):
    """An `nn.Linear` in bf16 whose weights lie in memory as oneDNN's kernel reads them."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.bias = linear.bias.detach()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(torch.bfloat16)
        # (…, K) @ (K, N) + (N) -> (…, N); "none": no activation after it
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")
        return y
