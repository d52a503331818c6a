"""`fast_attention` is `explicit_attention` in less time: sums, gradients, masks, precision."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import minibert.model
from minibert import attention
from minibert.attention import fast_attention
from minibert.config import BertConfig
from minibert.model import SelfAttention, explicit_attention

B, H, T, D = 5, 4, 12, 8


def plain(*inputs: Any) -> Tensor:
    return explicit_attention(*inputs)[0]


def inputs(dtype: torch.dtype = torch.float64, padded: bool = True, looking: int = T) -> list[Any]:
    """q, k, v in memory as the model has them, and what is visible. looking: tokens in q."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(B, n, H, D, dtype=dtype).transpose(1, 2) for n in (looking, T, T))
    visible = torch.ones(B, 1, 1, T, dtype=torch.bool)
    visible[1, ..., -4:] = False
    visible[4, ..., 1:] = False
    return [*(x.requires_grad_() for x in (q, k, v)), visible if padded else None]


def with_gradients(function: Callable[..., Tensor], given: list[Any], rate: float) -> list[Tensor]:
    """The sums, and what comes back to q, k and v from some gradient of the sums."""
    torch.manual_seed(1)
    sums = function(*given, rate)
    weights = torch.randn(sums.shape, generator=torch.Generator().manual_seed(2))
    return [sums.detach(), *torch.autograd.grad((sums * weights).sum(), given[:3])]


@pytest.mark.parametrize("short", [0, T])  # whether probabilities are computed again, or kept
@pytest.mark.parametrize("texts", [1, 2, 100])  # at once: 5 are more than twice 2
@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("looking", [T, 1])
@pytest.mark.parametrize(("dtype", "within"), [(torch.float64, 1e-13), (torch.float32, 2e-6)])
def test_sums_and_gradients_are_those_of_the_formula(
    monkeypatch: pytest.MonkeyPatch,
    short: int,
    texts: int,
    rate: float,
    padded: bool,
    looking: int,
    dtype: torch.dtype,
    within: float,
) -> None:
    monkeypatch.setattr(attention, "SHORT", short)
    monkeypatch.setattr(attention, "AT_ONCE", texts * H * looking * T)
    given = inputs(dtype, padded, looking)

    def by_parts(*given: Any) -> Tensor:  # the masks are drawn part after part
        *tensors, rate = given
        parts = zip(*(B * [None] if x is None else x.split(texts) for x in tensors), strict=False)
        return torch.cat([plain(*part, rate) for part in parts])

    ours, exact = (with_gradients(f, given, rate) for f in (fast_attention, by_parts))
    for one, other in zip(ours, exact, strict=True):
        assert one.dtype == dtype
        torch.testing.assert_close(one, other, atol=within, rtol=0)


@pytest.mark.parametrize("short", [0, 5])
def test_its_gradient_is_that_of_its_sums(monkeypatch: pytest.MonkeyPatch, short: int) -> None:
    monkeypatch.setattr(attention, "SHORT", short)
    monkeypatch.setattr(attention, "AT_ONCE", 2 * 3 * 5 * 5)  # texts of 75 probabilities each
    torch.manual_seed(0)
    q, k, v = (torch.randn(3, 3, 5, 2, dtype=torch.float64, requires_grad=True) for _ in range(3))
    visible = torch.ones(3, 1, 1, 5, dtype=torch.bool)
    visible[0, ..., 3:] = False

    def seeded(*given: Tensor) -> Tensor:
        torch.manual_seed(3)
        return fast_attention(*given, visible, 0.4)

    assert torch.autograd.gradcheck(seeded, (q, k, v))


@pytest.mark.parametrize("short", [0, T])
def test_hidden_tokens_get_no_gradient_and_none_is_a_nan(
    monkeypatch: pytest.MonkeyPatch, short: int
) -> None:
    monkeypatch.setattr(attention, "SHORT", short)
    given = inputs()
    _, _, grad_k, grad_v = with_gradients(fast_attention, given, 0.3)
    for grad in (grad_k, grad_v):
        assert grad.isfinite().all()
        assert (grad[1, :, -4:] == 0).all() and (grad[4, :, 1:] == 0).all()
        assert (grad[0] != 0).any()


def test_a_seed_repeats_the_bytes_and_the_next_masks_are_others() -> None:
    given = inputs(torch.float32)
    first, again = (with_gradients(fast_attention, given, 0.3) for _ in range(2))
    assert all(map(torch.equal, first, again))
    assert not torch.equal(fast_attention(*given, 0.3), fast_attention(*given, 0.3))


@pytest.mark.parametrize("size", [8, 9])  # 9 * 9 is no multiple of the 8 that a word is cut into
def test_as_many_are_dropped_as_the_rate_says_in_every_text(
    monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Equal probabilities and v = 1 give the share that stayed, scaled."""
    monkeypatch.setattr(attention, "AT_ONCE", 1)
    n, rate = 4000, 0.3
    torch.manual_seed(0)
    zeros = torch.zeros(n, 1, size, 1)
    sums = fast_attention(zeros, zeros, zeros + 1, None, rate)  # (n, 1, size, 1)
    spread = math.sqrt(rate / (1 - rate) / size)  # of a mean of `size` scaled coins
    assert abs(sums.mean().item() - 1) < 5 * spread / math.sqrt(n * size)
    assert sums.std().item() == pytest.approx(spread, rel=0.02)
    rows = sums.squeeze().T - 1  # (size, n)
    together = torch.corrcoef(torch.cat((rows, rows[:1].roll(1, 1)))) - torch.eye(size + 1)
    assert together.abs().max() < 5 / math.sqrt(n)  # rows of a text, and texts, are independent


def test_all_may_be_dropped() -> None:
    found = with_gradients(fast_attention, inputs(), 1.0)
    assert all((x == 0).all() for x in found)


@pytest.mark.parametrize("rate", [0.3, 0.0])
@pytest.mark.parametrize("short", [T - 1, T])
def test_a_byte_for_each_probability_is_all_that_is_kept_of_long_texts(
    monkeypatch: pytest.MonkeyPatch, rate: float, short: int
) -> None:
    """Of short ones the probabilities, too. And the sums lie in memory as the heads are joined."""
    monkeypatch.setattr(attention, "has_unit", lambda name: False)
    monkeypatch.setattr(attention, "SHORT", short)
    given = inputs(torch.bfloat16)
    kept: dict[str, int] = {}
    for name, function in (("fast", fast_attention), ("plain", plain)):
        stores: dict[int, int] = {}

        def pack(x: Tensor, stores: dict[int, int] = stores) -> Tensor:
            stores[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            sums = function(*given, rate)
        assert sums.shape == (B, H, T, D)  # and holds what is kept
        own = {x.untyped_storage().data_ptr() for x in given}
        kept[name] = sum(n for at, n in stores.items() if at not in own)
    n = B * H * T * T
    mask = torch.where(given[3], 0.0, 1.0).bfloat16()  # what hides the padding
    assert kept["fast"] == (n if rate else 4) + mask.nbytes + (2 * n if short == T else 0)
    assert kept["plain"] > (5 if rate else 2) * n
    assert fast_attention(*given, rate).transpose(1, 2).is_contiguous()


@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize("texts", [2, 100])
def test_what_is_kept_of_short_texts_changes_no_bit_and_lasts_for_a_second_backward_pass(
    monkeypatch: pytest.MonkeyPatch, rate: float, texts: int
) -> None:
    monkeypatch.setattr(attention, "AT_ONCE", texts * H * T * T)
    monkeypatch.setattr(attention, "has_unit", lambda name: False)
    given, found = inputs(torch.bfloat16), []  # 32 bits without dropout would go to torch's kernel
    for short in (T, T - 1):
        monkeypatch.setattr(attention, "SHORT", short)
        torch.manual_seed(1)
        sums = fast_attention(*given, rate)
        total = (sums * torch.randn(sums.shape, generator=torch.Generator().manual_seed(2))).sum()
        first = torch.autograd.grad(total, given[:3], retain_graph=True)
        found.append([sums, *first])
        assert all(map(torch.equal, first, torch.autograd.grad(total, given[:3])))
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize("needed", [True, False])
def test_nothing_is_held_until_the_end_where_no_gradient_is_wanted(
    monkeypatch: pytest.MonkeyPatch, needed: bool
) -> None:
    """The memory of all parts at once is what goes by parts to avoid."""
    monkeypatch.setattr(attention, "AT_ONCE", 1)
    saved: list[Tensor] = []

    class Context:
        needs_input_grad = (needed, False, False, False, False)

        def save_for_backward(self, *tensors: Tensor) -> None:
            saved.extend(tensors)

    q, k, v = (x.detach() for x in inputs(torch.bfloat16)[:3])
    attention.AttentionByParts.forward(Context(), q, k, v, None, 0.3)
    assert len(saved) == 4 + (2 * B if needed else 0)  # masks, and the probabilities of short ones


@pytest.mark.parametrize(
    ("sharpness", "mean", "within"), [(1, 0, 1.1), (3, 0, 1.1), (1, 1, 1.7), (3, 1, 1.7)]
)
def test_in_16_bits_it_is_nearly_as_exact_as_the_formula_there(
    monkeypatch: pytest.MonkeyPatch, sharpness: int, mean: int, within: float
) -> None:
    """Where values have a mean, the error of a row's sum does not average out."""
    monkeypatch.setattr(attention, "has_unit", lambda name: False)
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 12, 64, 32).bfloat16() for _ in range(3))
    q, k, v = q * sharpness, k * sharpness, v + mean
    exact = plain(q.double(), k.double(), v.double(), None, 0.0)
    ours, formula = (
        (f(q, k, v, None, 0.0).double() - exact).norm() / exact.norm()
        for f in (fast_attention, plain)
    )
    assert ours <= within * formula < 0.02


@pytest.mark.parametrize("texts", [1, 2, 100])
@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("tokens", [1, 15, 17, 31, 32, 33, 64])
@pytest.mark.parametrize("first_alone", [False, True])
@pytest.mark.parametrize(("dtype", "within"), [(torch.float64, 1e-13), (torch.bfloat16, 1e-2)])
def test_without_gradient_it_is_the_formula(
    monkeypatch: pytest.MonkeyPatch,
    tokens: int,
    padded: bool,
    texts: int,
    first_alone: bool,
    dtype: torch.dtype,
    within: float,
) -> None:
    torch.manual_seed(0)
    memory = torch.randn(B, tokens, 3 * H * D).to(dtype)  # as of one product for three
    q, k, v = (x.unflatten(2, (H, D)).transpose(1, 2) for x in memory.chunk(3, dim=2))
    q = q[:, :, :1] if first_alone else q
    monkeypatch.setattr(attention, "AT_ONCE", texts * H * q.size(2) * tokens)
    lengths = torch.tensor([tokens, 1, tokens // 2 + 1, tokens, tokens])[:, None, None, None]
    visible = torch.arange(tokens) < lengths if padded else None
    hidden = None if visible is None else torch.where(visible, 0.0, -math.inf).to(dtype)
    found = attention.attention_without_gradient(q, k, v, hidden)
    exact = plain(q.double(), k.double(), v.double(), visible, 0.0)
    assert (found.double() - exact).norm() / exact.norm() < within
    assert found.transpose(1, 2).is_contiguous()  # so that heads join uncopied


@pytest.mark.parametrize(
    ("exponent", "by_softmax"),  # of 2, of the sum of 64 exponentials of one row
    [(0, False), (111, False), (113, True), (-99, False), (-101, True), (400, True), (-400, True)],
)
def test_softmax_is_called_where_exponentials_leave_what_bf16_can_say(
    monkeypatch: pytest.MonkeyPatch, exponent: int, by_softmax: bool
) -> None:
    torch.manual_seed(0)
    scores = torch.randn(2, 3, 80).bfloat16()
    scores[:, :, 64:] = -math.inf  # hidden
    scores[1, 2, :64] = (exponent - 6) * math.log(2)
    called: list[int] = []
    softmax = Tensor.softmax
    monkeypatch.setattr(Tensor, "softmax", lambda x, dim: called.append(1) or softmax(x, dim))
    exps, totals = attention.exponentials(scores)
    assert bool(called) == by_softmax
    exact = softmax(scores.double(), 2)
    assert (exps.double() / totals.double() - exact).norm() / exact.norm() < 3e-3
    assert not exps[:, :, 64:].any()


@pytest.mark.parametrize("size", [2.0**15 - 2**7, 2.0**-18])
@pytest.mark.parametrize("exponent", [111, 114, 125, -99, -115, -122, 300, -300])
def test_whole_sums_are_right_at_the_ends_of_what_bf16_can_say(size: float, exponent: int) -> None:
    """One row of extreme scores among usual ones, and values as large or small as they may be."""
    torch.manual_seed(0)
    q, k = (torch.randn(1, 1, 64, 32).bfloat16() for _ in range(2))
    q[0, 0, 5], k[:, :, :, 0] = 0, 1
    q[0, 0, 5, 0] = (exponent - 6) * math.log(2) * math.sqrt(32)  # this row's 64 scores
    v = (size * torch.ones(1, 1, 64, 32)).bfloat16()
    found = attention.attention_without_gradient(q, k, v, None)
    torch.testing.assert_close(found.float(), v.float(), rtol=2e-2, atol=0)


def test_what_is_no_number_stays_none() -> None:
    scores = torch.zeros(1, 2, 4).bfloat16()
    scores[0, 0, 1] = math.nan
    exps, totals = attention.exponentials(scores)
    assert (exps / totals).isnan().all(dim=2).tolist() == [[True, False]]


@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize("trains", [True, False])
def test_products_are_given_texts_whose_heads_have_memory_of_their_own(
    monkeypatch: pytest.MonkeyPatch, trains: bool, rate: float
) -> None:
    """The sums are the same bits as where all lies so from the start."""
    monkeypatch.setattr(attention, "has_unit", lambda name: False)
    given = [x.detach() for x in inputs(torch.bfloat16)[:3]]
    monkeypatch.setattr(attention, "AT_ONCE", 1)  # each text by itself
    own: list[Tensor] = []
    own_memory = attention.own_memory

    def noted(texts: slice, *tensors: Tensor) -> list[Tensor]:
        own.extend(copies := own_memory(texts, *tensors))
        return copies

    monkeypatch.setattr(attention, "own_memory", noted)
    found = []
    for layout in (
        lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),  # as a model's
        lambda x: x.contiguous(),
    ):
        torch.manual_seed(0)
        laid = [layout(x).requires_grad_(trains) for x in given]
        sums = fast_attention(*laid, None, rate)
        if trains:
            sums.sum().backward()
        found.append([sums] + [x.grad for x in laid if trains])
    copied = 3 + 4 * trains  # q, k, v; and in the backward pass the gradient, too
    assert len(own) == 2 * B * copied and all(x.is_contiguous() for x in own)
    assert all(map(torch.equal, *found))


def test_a_gradient_of_the_values_alone_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a frozen query, too, it goes by `AttentionByParts`."""
    monkeypatch.setattr(attention, "has_unit", lambda name: False)
    monkeypatch.setattr(attention, "attention_without_gradient", None)  # not to be called
    q, k, v, visible = inputs(torch.bfloat16)
    fast_attention(q.detach(), k.detach(), v, visible, 0.0).sum().backward()
    assert v.grad is not None and v.grad.abs().sum() > 0


def test_it_has_no_second_derivative() -> None:
    given = inputs()
    squares = fast_attention(*given, 0.3).square().sum()
    (grad,) = torch.autograd.grad(squares, given[0], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@pytest.mark.parametrize(
    ("tokens", "texts", "amx", "length"),
    [
        (1, 1, False, 1),  # 16 for 1 is a loss, as all that is above an eighth
        (56, 1, False, 56),
        (57, 1, False, 64),
        (160, 1, False, 160),
        (161, 1, False, 176),
        (161, 2, False, 168),
        (161, 2, True, 176),
        (165, 32, False, 168),
        (9, 2, False, 9),
    ],
)
def test_texts_are_padded_to_multiples_of_8_or_16_where_that_is_little(
    monkeypatch: pytest.MonkeyPatch, tokens: int, texts: int, amx: bool, length: int
) -> None:
    monkeypatch.setattr(attention, "has_unit", lambda name: amx)
    assert attention.good_length(tokens, texts) == length


# In the model.


@pytest.fixture
def layer() -> SelfAttention:
    torch.manual_seed(0)
    config = BertConfig(hidden_size=H * D, num_attention_heads=H, attention_probs_dropout_prob=0.3)
    return SelfAttention(config).train()


@pytest.mark.parametrize(
    ("dtype", "rate", "has", "trains", "by_parts"),
    [
        (torch.float32, 0.3, "amx_bf16", True, True),
        (torch.float32, 0.0, "avx512_bf16", True, False),
        (torch.float32, 0.0, "avx512_bf16", False, False),
        (torch.bfloat16, 0.3, "amx_bf16", True, True),
        (torch.bfloat16, 0.0, "amx_bf16", True, True),
        (torch.bfloat16, 0.0, "amx_bf16", False, False),
        (torch.bfloat16, 0.0, "avx512_bf16", False, True),
        (torch.float16, 0.0, "amx_bf16", False, True),
    ],
)
def test_texts_go_by_parts_where_the_kernel_is_slow_and_nothing_is_kept_without_a_gradient(
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype,
    rate: float,
    has: str,
    trains: bool,
    by_parts: bool,
) -> None:
    monkeypatch.setattr(attention, "has_unit", lambda name: name == has)
    calls = []
    kernel = F.scaled_dot_product_attention
    monkeypatch.setattr(
        F, "scaled_dot_product_attention", lambda *given: calls.append(1) or kernel(*given)
    )
    forgetful = attention.attention_without_gradient
    monkeypatch.setattr(
        attention, "attention_without_gradient", lambda *given: calls.append(2) or forgetful(*given)
    )
    given = inputs(dtype)
    with torch.set_grad_enabled(trains):
        sums = fast_attention(*given, rate)
    in_short = dtype == torch.bfloat16 and not (rate or trains)
    assert calls == ([2] if in_short else []) if by_parts else calls == [1]
    if not rate:
        within = 2e-6 if dtype == torch.float32 else 2e-2
        exact = plain(*(x.float() for x in given[:3]), given[3], 0.0)
        torch.testing.assert_close(sums.float(), exact, atol=within, rtol=0)


def test_the_model_has_it_unless_probabilities_are_asked_for(
    layer: SelfAttention, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def counted(*given: Any) -> Tensor:
        calls.append(given[4])
        return fast_attention(*given)

    monkeypatch.setattr(minibert.model, "fast_attention", counted)
    x = torch.randn(B, T, H * D)
    assert layer(x, x, None, False)[1] is None and calls == [0.3]
    assert layer(x, x, None, True)[1] is not None and calls == [0.3]
    layer.eval()(x, x, None, False)
    assert calls == [0.3, 0.0]


def test_in_bf16_it_is_as_near_to_fp32_as_the_formula_is(
    layer: SelfAttention, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gradients(bf16: bool) -> Tensor:
        """The output and all gradients, in one row."""
        layer.zero_grad()
        x = torch.randn(B, T, H * D, generator=torch.Generator().manual_seed(1))
        torch.manual_seed(2)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            out, _ = layer(x, x, inputs()[3], False)
        assert out.dtype == (torch.bfloat16 if bf16 else torch.float32)
        out.float().square().sum().backward()
        grads = [p.grad for p in layer.parameters() if p.grad is not None]
        return torch.cat([x.detach().float().flatten() for x in (out, *grads)])

    exact, fast = gradients(False), gradients(True)
    monkeypatch.setattr(minibert.model, "fast_attention", plain)
    torch.testing.assert_close(gradients(False), exact, atol=1e-4, rtol=1e-5)
    formula = gradients(True)
    assert (fast - exact).norm() < 1.1 * (formula - exact).norm()
    assert (fast - formula).norm() < 1.5 * (formula - exact).norm()
