"""The matrix products of a model that is only asked: rounded once, and laid out once for oneDNN.

Under `autocast` a product's weights are rounded at each call, and oneDNN, which computes it on a
CPU, then copies them into the order in which its kernel reads them. While a model trains, its
weights change at each step; when it is asked they never do, and the copies alone are a seventh of
the time for one question (`bench/README.md`). The results are the same bits, but for the last of
wide products of many tokens on AMX, see `PackedAttention`.

In fp32 torch calls MKL, which on an AMD processor leaves its widest units idle; oneDNN's kernel
takes half the time there. It adds in another order, so the last bits of the sums are others.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from minibert.model import SelfAttention

# Multiplications of a product for which torch calls oneDNN; smaller ones have a kernel of torch's
# own, which may round otherwise (aten/src/ATen/native/mkldnn/Matmul.cpp, mkldnn_gemm_min_size).
SMALL = 16 * 16 * 16


def fix_products(model: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Makes all `nn.Linear` of a model ready for `autocast` to this dtype on this device.

    The model is to be asked and no more: it can neither be trained nor saved after this.
    """
    for part in model.modules():
        if isinstance(part, nn.Linear):
            part.to(dtype)
    if can_be_packed(device, dtype):
        pack(model)


def pack(module: nn.Module) -> None:
    """Replaces all that is large enough, wherever it is."""
    for name, part in module.named_children():
        if type(part) is SelfAttention and part.query.weight.numel() > SMALL:
            setattr(module, name, PackedAttention(part))
        elif isinstance(part, nn.Linear) and part.weight.numel() > SMALL:
            setattr(module, name, PackedLinear(part))
        else:
            pack(part)


def can_be_packed(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether oneDNN is to compute such products: in fp32 with AVX-512, else it gains nothing."""
    names = ("_is_mkldnn_bf16_supported", "_reorder_linear_weight", "_linear_pointwise")
    # torch promises none of these names for ever.
    if device.type != "cpu" or not all(hasattr(torch.ops.mkldnn, name) for name in names):
        return False
    if dtype is torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype is torch.float32 and torch.backends.cpu.get_cpu_capability() == "AVX512"


class PackedLinear(nn.Module):
    """An `nn.Linear`, or several of the same input side by side, whose weights lie in memory as
    oneDNN's kernel reads them."""

    def __init__(self, *linears: nn.Linear) -> None:
        super().__init__()
        self.bias = torch.cat([linear.bias.detach() for linear in linears])  # (N)
        weight = torch.cat([linear.weight.detach() for linear in linears])  # (N, K)
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight)

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.bias.dtype)
        # (…, K) @ (K, N) + (N) -> (…, N); "none": no activation after it
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")
        return y


class PackedAttention(SelfAttention):
    """Self-attention whose queries, keys and values come from one product: one call for three, and
    x is rounded once. The bits are the same unless oneDNN cuts the sums of so wide a product into
    other parts, as it does on AMX from 512 hidden numbers and some hundred tokens on."""

    def __init__(self, plain: SelfAttention) -> None:
        nn.Module.__init__(self)  # not SelfAttention's: it would draw new weights
        self.num_heads, self.dropout = plain.num_heads, plain.dropout
        self.query_key_value = PackedLinear(plain.query, plain.key, plain.value)
        self.output = PackedLinear(plain.output)  # type: ignore[assignment]
        self.train(plain.training)

    def project(self, x: Tensor, seen: Tensor) -> tuple[Tensor, ...]:
        q, k, v = self.query_key_value(seen).chunk(3, dim=2)  # (B, T, 3 C) -> 3 of (B, T, C)
        # x is `seen`, or its first token: the queries of the others are computed for nothing
        return q[:, : x.size(1)], k, v  # (B, T, C) -> (B, R, C)
