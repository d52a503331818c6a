"""Products that are laid out once: the bits of torch's own, and only where there is a kernel."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from minibert.products import PackedLinear, can_be_packed, fix_products

CPU = torch.device("cpu")
needs_bf16 = pytest.mark.skipif(
    not can_be_packed(CPU, torch.bfloat16), reason="oneDNN computes no bf16 on this processor"
)


@needs_bf16
@pytest.mark.parametrize(("k", "n"), [(384, 384), (384, 1536), (64, 2), (37, 50)])
@pytest.mark.parametrize("shape", [(1,), (1, 7), (5, 40)])
def test_the_bits_are_those_of_autocast(k: int, n: int, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(k, n)
    x = torch.randn(*shape, k)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = linear(x)
        packed = PackedLinear(linear.to(torch.bfloat16))
        assert torch.equal(packed(x), expected) and packed(x).dtype == torch.bfloat16
        assert torch.equal(packed(x.to(torch.bfloat16)), expected)


@needs_bf16
def test_every_product_of_a_model_is_replaced_wherever_it_is() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ModuleDict({"a": nn.Linear(8, 4)}), nn.LayerNorm(4))
    fix_products(model, CPU, torch.bfloat16)
    kinds = [type(part) for part in model.modules()]
    assert kinds.count(PackedLinear) == 2 and nn.Linear not in kinds
    assert [x.dtype for x in model.parameters()] == [torch.float32] * 2  # the norm's


@pytest.mark.parametrize(
    ("device", "dtype"),
    [("cpu", torch.float32), ("cpu", torch.float16), ("cuda", torch.bfloat16)],
)
def test_elsewhere_products_are_only_rounded(device: str, dtype: torch.dtype) -> None:
    assert not can_be_packed(torch.device(device), dtype)
    model = nn.Sequential(nn.Linear(8, 8))
    fix_products(model, torch.device(device), dtype)
    assert isinstance(model[0], nn.Linear) and model[0].weight.dtype == dtype


@pytest.mark.parametrize("lacks", ["_reorder_linear_weight", "_linear_pointwise"])
def test_a_torch_without_these_names_goes_on_without(
    monkeypatch: pytest.MonkeyPatch, lacks: str
) -> None:
    class Ops:
        def __getattr__(self, name: str) -> object:
            if name == lacks:
                raise AttributeError(name)
            return lambda *given: True

    monkeypatch.setattr(torch.ops, "mkldnn", Ops())
    assert not can_be_packed(CPU, torch.bfloat16)
