"""The cheap masks of `dropout.py` are dropout: the right rate, independent, fair on average."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from minibert.config import BertConfig
from minibert.dropout import Dropout, darts, dropout, random_bytes
from minibert.model import BertModel

N = 1_000_000
SIGMAS = 5.0  # a fair mask fails one of these tests once in a million seeds, and the seed is fixed


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("rate", [0.001, 0.01, 0.1, 25 / 256, 0.5, 0.9, 0.999])
def test_as_many_are_dropped_as_the_rate_says_and_the_mean_stays(rate: float) -> None:
    out = dropout(torch.ones(N), rate)
    assert set(out.unique().tolist()) == {0.0, torch.tensor(1 / (1 - rate)).item()}
    spread = math.sqrt(rate * (1 - rate) / N)
    assert abs((out == 0).double().mean().item() - rate) < SIGMAS * spread
    assert abs(out.double().mean().item() - 1) < SIGMAS * spread / (1 - rate)


@pytest.mark.parametrize("rate", [25 / 256, 0.1, 0.0039])  # bytes, both, darts
def test_the_number_that_is_dropped_is_spread_as_that_of_independent_ones(rate: float) -> None:
    """Over masks: were the number of darts the same each time, or bytes drawn in company, the
    variance would be another."""
    n, masks = 64, 4000
    dropped = (torch.stack([dropout(torch.ones(n), rate) for _ in range(masks)]) == 0).sum(dim=1)
    variance = rate * (1 - rate) * n
    spread = math.sqrt((2 + 1 / variance) / masks)  # of the variance found; the 1 for its tails
    assert dropped.double().var().item() == pytest.approx(variance, rel=SIGMAS * spread)
    for k in range(10):
        expected = math.comb(n, k) * rate**k * (1 - rate) ** (n - k)
        if expected * masks < 20:  # too few for a normal distribution
            continue
        spread = math.sqrt(expected * (1 - expected) / masks)
        assert abs((dropped == k).double().mean().item() - expected) < SIGMAS * spread, k


@pytest.mark.parametrize("distance", [1, 2, 3, 4, 5, 7, 8, 9, 384, 4096])
def test_neighbours_are_dropped_independently(distance: int) -> None:
    """Eight elements are cut from one random number; they must not know of each other."""
    dropped = (dropout(torch.ones(N), 0.3) == 0).double()
    both = (dropped[distance:] * dropped[:-distance]).mean().item()
    assert abs(both - 0.09) < SIGMAS * math.sqrt(0.09 * 0.91 / N) + 1e-4


def test_every_bit_of_the_random_numbers_is_a_fair_coin() -> None:
    drawn = random_bytes(N).to(torch.int32)
    for bit in range(8):
        for lane in range(8):
            ones = ((drawn[lane::8] >> bit) & 1).double().mean().item()
            assert abs(ones - 0.5) < SIGMAS * 0.5 / math.sqrt(N / 8), (bit, lane)


@pytest.mark.parametrize("rate", [0.0, 0.002, 0.3, 0.9])
def test_darts_hit_each_element_with_one_probability_and_without_regard_to_its_neighbour(
    rate: float,
) -> None:
    hit = torch.zeros(N)
    hit[darts(N, rate)] = 1
    spread = math.sqrt(rate * (1 - rate) / N)
    for part in hit.chunk(8):
        assert abs(part.double().mean().item() - rate) <= SIGMAS * spread * math.sqrt(8)
    both = (hit[1:] * hit[:-1]).double().mean().item()
    assert abs(both - rate**2) <= SIGMAS * math.sqrt(rate**2 * (1 - rate**2) / N) + 1e-4
    assert darts(0, rate).numel() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_shape_and_dtype_stay_and_the_gradient_passes_where_the_value_did(
    dtype: torch.dtype,
) -> None:
    x = torch.randn(3, 5, 7, dtype=dtype, requires_grad=True)
    out = dropout(x, 0.5)
    out.sum().backward()
    assert out.shape == x.shape and out.dtype == dtype
    assert x.grad is not None
    assert torch.equal(x.grad, (out != 0).to(dtype) * 2)
    assert torch.equal(out, x.detach() * x.grad)


def test_a_seed_repeats_the_mask_and_the_next_mask_is_another() -> None:
    first, second = dropout(torch.ones(1000), 0.5), dropout(torch.ones(1000), 0.5)
    torch.manual_seed(0)
    assert torch.equal(dropout(torch.ones(1000), 0.5), first)
    assert not torch.equal(first, second)


def test_rates_at_the_edges() -> None:
    x = torch.randn(100)
    assert torch.equal(dropout(x, 0.0), x)
    assert torch.equal(dropout(x, 1.0), torch.zeros(100))
    assert dropout(torch.ones(0, 3), 0.1).shape == (0, 3)
    with pytest.raises(ValueError, match="probability"):
        dropout(x, -0.1)


def test_the_module_drops_in_training_alone() -> None:
    module, x = Dropout(0.5), torch.ones(1000)
    assert (module(x) == 0).any()
    assert module.eval()(x) is x


def test_attention_with_dropout_is_on_average_that_without() -> None:
    """The training path of a CPU against the kernel without dropout, and against the kernel's
    own dropout: the same mean, and the same spread around it."""
    config = BertConfig(
        **{"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4},
        **{"intermediate_size": 64, "max_position_embeddings": 16},
        **{"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.3},
    )
    attention = BertModel(config).layers[0].attention  # type: ignore[union-attr]
    x = torch.randn(1, 12, 32)
    visible = torch.ones(1, 1, 1, 12, dtype=torch.bool)
    visible[..., -3:] = False
    n = 2000
    many = x.expand(n, -1, -1), visible.expand(n, -1, -1, -1)
    with torch.no_grad():
        ours = attention.train()(many[0], *many, False)[0]
        exact = attention.eval()(x, x, visible, False)[0]
        linears = attention.query, attention.key, attention.value
        q, k, v = (attention.split_heads(linear(many[0])) for linear in linears)
        kernel = F.scaled_dot_product_attention(q, k, v, many[1], 0.3)
        theirs = attention.output(kernel.transpose(1, 2).flatten(2))
    spread = ours.std(dim=0)
    assert spread.min() > 0.0
    assert ((ours.mean(dim=0) - exact[0]).abs() < SIGMAS * spread / math.sqrt(n)).all()
    torch.testing.assert_close(spread, theirs.std(dim=0), rtol=0.15, atol=0.0)
