"""Products that are laid out once: what torch's own give, and only where that gains."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from minibert.config import BertConfig
from minibert.model import (
    BertForQuestionAnswering,
    BertForSequenceClassification,
    SelfAttention,
)
from minibert.products import PackedAttention, PackedLinear, can_be_packed, fix_products

CPU = torch.device("cpu")
needs_onednn = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="this torch has no oneDNN"
)
needs_bf16 = pytest.mark.skipif(
    not can_be_packed(CPU, torch.bfloat16), reason="oneDNN computes no bf16 on this processor"
)


@needs_bf16
@pytest.mark.parametrize(("k", "n"), [(384, 384), (384, 1536), (64, 65), (100, 50)])
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
@pytest.mark.parametrize("kind", [BertForQuestionAnswering, BertForSequenceClassification])
def test_a_whole_model_gives_the_same_bits(
    kind: type[BertForQuestionAnswering] | type[BertForSequenceClassification],
) -> None:
    torch.manual_seed(0)
    config = BertConfig(
        **{"vocab_size": 50, "hidden_size": 128, "num_hidden_layers": 2},
        **{"num_attention_heads": 4, "intermediate_size": 256, "max_position_embeddings": 64},
    )
    plain = kind(config).eval()
    fixed = copy.deepcopy(plain)
    fix_products(fixed, CPU, torch.bfloat16)
    kinds = [type(part) for part in fixed.modules()]
    heads = 1 if kind is BertForQuestionAnswering else 2  # the pooler is large enough, too
    assert kinds.count(PackedAttention) == 2 and SelfAttention not in kinds
    # In a layer those of queries, keys and values together, and three more.
    assert kinds.count(PackedLinear) == 2 * 4 + heads - 1
    assert kinds.count(nn.Linear) == 1  # two classes, or start and end: a small product
    for shape in 20 * [(1, 1), (1, 20), (3, 40)]:
        ids = torch.randint(5, 50, shape)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            ours, expected = fixed(ids), plain(ids)
        if isinstance(ours, Tensor):
            ours, expected = (ours,), (expected,)
        assert all(map(torch.equal, ours, expected))


@needs_bf16
@pytest.mark.parametrize("padded", [False, True])
def test_one_product_for_queries_keys_and_values_gives_the_bits_of_three(padded: bool) -> None:
    torch.manual_seed(0)
    plain = SelfAttention(BertConfig(hidden_size=96, num_attention_heads=3)).eval()
    plain.to(torch.bfloat16)
    packed = PackedAttention(plain)
    x = torch.randn(2, 11, 96, dtype=torch.bfloat16)
    visible = (torch.arange(11) < torch.tensor([[11], [4]]))[:, None, None] if padded else None
    with torch.no_grad():
        for asked in (False, True):
            for one, other in zip(
                packed(x, x, visible, asked), plain(x, x, visible, asked), strict=True
            ):
                assert one is other is None or torch.equal(one, other)


@needs_bf16
def test_for_the_first_token_alone_it_gives_one_query_and_all_keys_and_values() -> None:
    torch.manual_seed(0)
    plain = SelfAttention(BertConfig(hidden_size=96, num_attention_heads=3)).eval()
    plain.to(torch.bfloat16)
    packed = PackedAttention(plain)
    x = torch.randn(2, 11, 96, dtype=torch.bfloat16)
    with torch.no_grad():
        assert [part.shape[1] for part in packed.project(x[:, :1], x)] == [1, 11, 11]
        for one, other in zip(
            packed(x[:, :1], x, None, True), plain(x[:, :1], x, None, True), strict=True
        ):
            torch.testing.assert_close(one, other, atol=2e-3, rtol=2e-2)


@needs_bf16
def test_where_a_wide_product_is_summed_otherwise_only_last_bits_differ() -> None:
    """As on AMX; elsewhere none do."""
    torch.manual_seed(0)
    plain = SelfAttention(BertConfig()).eval().to(torch.bfloat16)
    packed = PackedAttention(plain)
    x = torch.randn(2, 512, 768, dtype=torch.bfloat16)
    with torch.no_grad():
        pairs = list(zip(packed.project(x, x), plain.project(x, x), strict=True))
    for one, other in pairs:
        assert (one == other).double().mean() > 0.999
        torch.testing.assert_close(one, other)


@needs_bf16
def test_it_can_be_done_twice_and_leaves_other_kinds_of_attention_alone() -> None:
    class Doubled(SelfAttention):
        def forward(self, *given: Any) -> Any:
            return 2 * super().forward(*given)[0]

    config = BertConfig(hidden_size=96, num_attention_heads=3)
    model = nn.ModuleList([SelfAttention(config), Doubled(config)])
    for _ in range(2):
        fix_products(model, CPU, torch.bfloat16)
        assert [type(x) for x in model] == [PackedAttention, Doubled]
        assert [type(x) for x in model[1].children()] == [PackedLinear] * 4


@needs_bf16
def test_attention_of_small_products_stays() -> None:
    """Three small ones together would be a large one, with another kernel's bits."""
    model = nn.ModuleList([SelfAttention(BertConfig(hidden_size=64, num_attention_heads=2))])
    fix_products(model, CPU, torch.bfloat16)
    assert [type(x) for x in model[0].children()] == [nn.Linear] * 4


@needs_bf16
def test_every_large_product_is_replaced_wherever_it_is_and_no_small_one() -> None:
    inside = nn.ModuleDict({"large": nn.Linear(64, 65), "small": nn.Linear(64, 64)})
    model = nn.Sequential(nn.Linear(100, 64), inside, nn.LayerNorm(4))
    fix_products(model, CPU, torch.bfloat16)
    assert isinstance(model[0], PackedLinear) and isinstance(inside["large"], PackedLinear)
    assert isinstance(inside["small"], nn.Linear)
    assert inside["small"].weight.dtype == torch.bfloat16
    assert [x.dtype for x in model[2].parameters()] == [torch.float32] * 2


@pytest.mark.parametrize(
    ("device", "dtype"),
    [("cpu", torch.float16), ("cuda", torch.bfloat16), ("cuda", torch.float32)],
)
def test_elsewhere_products_are_only_rounded(device: str, dtype: torch.dtype) -> None:
    assert not can_be_packed(torch.device(device), dtype)
    model = nn.Sequential(nn.Linear(80, 80))
    fix_products(model, torch.device(device), dtype)
    assert isinstance(model[0], nn.Linear) and model[0].weight.dtype == dtype


@needs_onednn
@pytest.mark.parametrize(("has", "packs"), [("AVX512", True), ("AVX2", False), ("DEFAULT", False)])
def test_fp32_is_packed_where_it_gains(
    monkeypatch: pytest.MonkeyPatch, has: str, packs: bool
) -> None:
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: has)
    assert can_be_packed(CPU, torch.float32) is packs


@needs_onednn
@pytest.mark.parametrize("shape", [(1,), (3, 40)])
def test_in_fp32_only_the_order_of_the_sums_is_another(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    linear, x = nn.Linear(384, 1536), torch.randn(*shape, 384)
    exact = x.double() @ linear.weight.double().T + linear.bias.double()
    with torch.no_grad():
        packed = PackedLinear(linear)(x)
    assert packed.dtype == torch.float32
    torch.testing.assert_close(packed.double(), exact, atol=5e-6, rtol=0)


@pytest.mark.parametrize(
    "lacks",
    ["_is_mkldnn_bf16_supported", "_reorder_linear_weight", "_linear_pointwise", "nothing"],
)
def test_a_torch_without_these_names_goes_on_without(
    monkeypatch: pytest.MonkeyPatch, lacks: str
) -> None:
    class Ops:
        def __getattr__(self, name: str) -> object:
            if name == lacks:
                raise AttributeError(name)
            return lambda *given: True

    monkeypatch.setattr(torch.ops, "mkldnn", Ops())
    assert can_be_packed(CPU, torch.bfloat16) is (lacks == "nothing")
