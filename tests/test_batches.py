"""Batches hold every text once, in an order that can be repeated, with hardly any padding."""

from __future__ import annotations

import random
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from minibert.batches import (
    length_grouped_batches,
    pad,
    sequential_batches,
    token_efficiency,
)
from minibert.config import BertConfig
from minibert.model import BertForQuestionAnswering
from minibert.qa.reading import read_questions
from minibert.qa.windows import make_windows
from minibert.tokenizer import load_tokenizer

MINILM = Path(__file__).resolve().parent.parent / "weights" / "all-MiniLM-L6-v2"


class Text(NamedTuple):
    input_ids: np.ndarray
    token_type_ids: np.ndarray


def text(*ids: int, n_first: int = 1) -> Text:
    types = np.array([int(i >= n_first) for i in range(len(ids))], np.int32)
    return Text(np.array(ids, np.int32), types)


def random_lengths(n: int) -> list[int]:
    draw = random.Random(n)
    return [min(512, int(draw.lognormvariate(5, 0.5)) + 1) for _ in range(n)]


def flat(batches: list[list[int]]) -> list[int]:
    return [row for batch in batches for row in batch]


@pytest.mark.parametrize("batch_size", [1, 2, 16, 32])
@pytest.mark.parametrize("n", [0, 1, 15, 16, 17, 511, 512, 513, 2000])
def test_every_text_is_in_one_batch_and_one_batch_at_most_is_smaller(
    n: int, batch_size: int
) -> None:
    lengths = random_lengths(n)
    for batches in (
        length_grouped_batches(lengths, batch_size, seed=1, epoch=0),
        sequential_batches(lengths, batch_size),
    ):
        assert sorted(flat(batches)) == list(range(n))
        assert len(batches) == -(-n // batch_size)
        assert sum(len(batch) < batch_size for batch in batches) == (n % batch_size > 0)


def test_the_order_follows_from_seed_and_epoch_alone() -> None:
    lengths = random_lengths(700)
    orders = {
        (seed, epoch): length_grouped_batches(lengths, 16, seed=seed, epoch=epoch)
        for seed in range(4)
        for epoch in range(4)
    }
    np.random.seed(0)  # whatever else draws numbers
    torch.manual_seed(0)
    for (seed, epoch), batches in orders.items():
        assert length_grouped_batches(lengths, 16, seed=seed, epoch=epoch) == batches
    assert len({str(batches) for batches in orders.values()}) == 16


def test_the_order_is_that_of_the_generators_published_output() -> None:
    """PCG64 as O'Neill defines it (2014, section 6.3): 128 bits of state, XSL-RR output."""
    state = np.random.PCG64([5, 3]).state["state"]
    s, increment = state["state"], state["inc"]

    def next_64_bits() -> int:
        nonlocal s
        s = (s * 0x2360ED051FC65DA44385DF649FCCF645 + increment) % 2**128
        word, turn = (s >> 64) ^ (s % 2**64), s >> 122
        return (word >> turn | word << (64 - turn)) % 2**64

    keys = [next_64_bits() for _ in range(20)]
    shuffled = sorted(range(20), key=keys.__getitem__)  # equal lengths: no sorting after that
    cut = [shuffled[i : i + 4] for i in range(0, 20, 4)]
    order = sorted(range(5), key=[next_64_bits() for _ in range(5)].__getitem__)
    assert length_grouped_batches([7] * 20, 4, seed=5, epoch=3) == [cut[i] for i in order]


def test_batches_and_their_company_are_random() -> None:
    lengths = random_lengths(4000)
    first, second = (length_grouped_batches(lengths, 16, seed=0, epoch=e) for e in (0, 1))

    def pairs(batches: list[list[int]]) -> set[tuple[int, int]]:
        return {(a, b) for batch in batches for a in batch for b in batch if a < b}

    together_again = len(pairs(first) & pairs(second)) / len(pairs(first))
    assert together_again < 0.15  # sorting all texts would give about 1
    # Neither long nor short batches come first: the order says nothing about the length.
    means = np.array([np.mean([lengths[row] for row in batch]) for batch in first])
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.2
    assert abs(np.corrcoef(means[1:], means[:-1])[0, 1]) < 0.2


@pytest.mark.parametrize(
    ("file", "model", "max_length", "least"),
    [
        ("squad/train.json", MINILM, 384, 0.95),
        ("squad/train.json", "bert-base-cased", 384, 0.95),
        ("cmrc2018/train.json", "bert-base-chinese", 512, 0.93),
        ("cmrc2018/train.json", "bert-base-chinese", 256, 0.93),
    ],
)
def test_hardly_a_token_of_real_training_data_is_padding(
    shared: Path, file: str, model: str, max_length: int, least: float
) -> None:
    if not (shared / model).is_dir():
        pytest.skip(f"needs {model}, which is absent: weights/fetch_minilm.py gets it")
    questions = read_questions(shared / "data" / file).trainable
    tokenizer = load_tokenizer(shared / model)
    lengths = make_windows(questions, tokenizer, max_length, 128, training=True).lengths
    shuffled = random.Random(0).sample(range(len(lengths)), len(lengths))
    for batch_size in (16, 32):
        for epoch in range(3):
            batches = length_grouped_batches(lengths, batch_size, seed=42, epoch=epoch)
            computed = sum(len(batch) * max(lengths[row] for row in batch) for batch in batches)
            assert least <= sum(lengths) / computed < 1
            assert token_efficiency(lengths, batches) == sum(lengths) / computed
        assert token_efficiency(lengths, sequential_batches(lengths, batch_size)) > 0.99
        at_random = [shuffled[i : i + batch_size] for i in range(0, len(shuffled), batch_size)]
        assert token_efficiency(lengths, at_random) < least  # so the measure can tell


@pytest.mark.parametrize("most", [1, 100, 512, 2048, 100_000])
def test_a_batch_has_no_more_tokens_than_it_may_unless_one_text_has(most: int) -> None:
    lengths = random_lengths(300)
    batches = sequential_batches(lengths, 16, max_tokens=most)
    assert flat(batches) == flat(sequential_batches(lengths, 16))
    sizes = [(len(batch), max(lengths[row] for row in batch)) for batch in batches]
    assert all(n == 1 or (n <= 16 and n * longest <= most) for n, longest in sizes)
    # And no fewer: the next text would have been one too many.
    assert all(n == 16 or (n + 1) * longest > most for n, longest in sizes[:-1])


def test_evaluation_begins_with_the_longest_text_and_never_grows() -> None:
    lengths = random_lengths(300)
    batches = sequential_batches(lengths, 16)
    assert [lengths[row] for row in flat(batches)] == sorted(lengths, reverse=True)


@pytest.mark.parametrize(
    ("lengths", "batches", "expected"),
    [([4, 4], [[0, 1]], 1.0), ([4, 2], [[1, 0]], 0.75), ([4, 2, 2], [[0], [1, 2]], 1.0)],
)
def test_efficiency_is_real_tokens_per_token_computed(
    lengths: list[int], batches: list[list[int]], expected: float
) -> None:
    assert token_efficiency(lengths, batches) == expected


@pytest.mark.parametrize("batch_size", [0, -1])
def test_an_empty_batch_is_refused(batch_size: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        length_grouped_batches([1, 2], batch_size, seed=0, epoch=0)
    with pytest.raises(ValueError, match="at least 1"):
        sequential_batches([1, 2], batch_size)


def test_padding_reaches_to_the_longest_text_and_is_masked() -> None:
    batch = pad([text(5, 6, 7, n_first=2), text(8)], pad_id=9)
    assert {name: tensor.tolist() for name, tensor in batch.items()} == {
        "input_ids": [[5, 6, 7], [8, 9, 9]],
        "attention_mask": [[1, 1, 1], [1, 0, 0]],
        "token_type_ids": [[0, 0, 1], [0, 0, 0]],
    }
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


def test_padding_may_reach_further() -> None:
    batch = pad([text(5, 6, 7, n_first=2), text(8)], pad_id=9, length=5)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 9, 9], [8, 9, 9, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 0, 0, 0, 0]]
    assert batch["token_type_ids"].tolist() == [[0, 0, 1, 0, 0], [0, 0, 0, 0, 0]]


def test_the_pad_id_within_a_text_is_not_masked() -> None:
    mask = pad([text(5, 0, 0), text(1, 2, 3, 4)], pad_id=0)["attention_mask"]
    assert mask.tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]


def small_model(positions: int) -> BertForQuestionAnswering:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=positions,
    )
    return BertForQuestionAnswering(config).eval()


def test_a_text_gets_the_same_logits_alone_and_padded_in_a_batch() -> None:
    model = small_model(positions=16)
    texts = [text(2, 7, 3, 9, 3, n_first=3), text(2, 8, 3, 11, 12, 13, 14, 3, n_first=3)]
    with torch.no_grad():
        together = model(**pad(texts, pad_id=0)).start_logits
        for i, one in enumerate(texts):
            alone = model(**pad([one], pad_id=0)).start_logits[0]
            torch.testing.assert_close(together[i, : len(alone)], alone, atol=1e-6, rtol=1e-5)
