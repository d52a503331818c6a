"""What the model sees of a text, and what is cut off where it is too long."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from tiny import write_model
from tiny_cls import CONFIG, VOCABULARY
from tokenizers import Tokenizer

from minibert.batches import length_grouped_batches, token_efficiency
from minibert.cls.encoding import encode, fit, shorten
from minibert.cls.reading import read_texts
from minibert.errors import UserError
from minibert.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    weights = tmp_path_factory.mktemp("weights")
    return load_tokenizer(write_model(weights, CONFIG, VOCABULARY, dropout=0.0))


def tokens(ids: list[int]) -> list[str]:
    return [VOCABULARY[i] for i in ids]


def words(*numbers: int) -> str:
    return " ".join(f"w{number}" for number in numbers)


def test_a_text_and_a_pair_stand_between_the_special_tokens(tokenizer: Tokenizer) -> None:
    (single, pair), n_cut = encode(
        [(words(1, 2), None), (words(3), words(4, 5))], tokenizer, max_length=20
    )
    assert tokens(single.input_ids.tolist()) == ["[CLS]", "w1", "w2", "[SEP]"]
    assert single.token_type_ids.tolist() == [0, 0, 0, 0]
    assert tokens(pair.input_ids.tolist()) == ["[CLS]", "w3", "[SEP]", "w4", "w5", "[SEP]"]
    assert pair.token_type_ids.tolist() == [0, 0, 0, 1, 1, 1]
    assert n_cut == 0


def test_it_is_what_the_tokenizer_itself_makes_of_them(minilm_weights: Path) -> None:
    tokenizer = load_tokenizer(minilm_weights)
    texts = [("A fine film!", None), ("is it on?", "It's on."), ("x", None), ("好电影", "bad")]
    for (text, pair), row in zip(texts, encode(texts, tokenizer, 128).rows, strict=True):
        expected = tokenizer.encode(text, pair)
        assert row.input_ids.tolist() == expected.ids
        assert row.token_type_ids.tolist() == expected.type_ids


def truncate_seq_pair(first: list[int], second: list[int], room: int) -> None:
    """google-research/bert, run_classifier.py, in its own words: the longer one loses its last."""
    while len(first) + len(second) > room:
        (first if len(first) > len(second) else second).pop()


def test_pairs_are_cut_as_in_run_classifier() -> None:
    draw = random.Random(0)
    for _ in range(2000):
        lengths = [draw.randint(1, 40), draw.randint(1, 40)]
        room = draw.randint(2, 60)
        first, second = list(range(lengths[0])), list(range(lengths[1]))
        truncate_seq_pair(first, second, room)
        assert fit(lengths, room) == [len(first), len(second)]


@pytest.mark.parametrize("max_length", [3, 4, 7, 12])
def test_a_text_that_is_too_long_keeps_its_beginning_and_is_counted(
    tokenizer: Tokenizer, max_length: int
) -> None:
    texts = [(words(*range(10)), None), (words(1), None)]
    rows, n_cut = encode(texts, tokenizer, max_length)
    kept = [f"w{i}" for i in range(min(10, max_length - 2))]
    assert tokens(rows[0].input_ids.tolist()) == ["[CLS]", *kept, "[SEP]"]
    assert n_cut == (max_length < 12)


def test_head_tail_keeps_both_ends(tokenizer: Tokenizer) -> None:
    rows, n_cut = encode([(words(*range(20)), None)], tokenizer, 10, head_tail=True)
    ends = [0, 1, *range(14, 20)]  # 128 of 510 are a quarter: 2 of 8
    assert tokens(rows[0].input_ids.tolist()) == ["[CLS]", *(f"w{i}" for i in ends), "[SEP]"]
    assert n_cut == 1
    # At the paper's own length, the paper's own numbers.
    ids = list(range(1000))
    assert shorten(ids, 510, True) == [*range(128), *range(1000 - 382, 1000)]
    assert shorten(ids, 1000, True) == shorten(ids, 1000, False) == ids
    assert shorten(ids, 1, True) == [999]
    pair = encode([(words(*range(12)), words(*range(12, 24)))], tokenizer, 19, head_tail=True)
    first, second = tokens(pair.rows[0].input_ids.tolist()[1:9]), pair.rows[0]
    assert first == ["w0", "w1", *(f"w{i}" for i in range(6, 12))]
    assert len(second.input_ids) == 19 and second.token_type_ids.tolist() == [0] * 10 + [1] * 9


@pytest.mark.parametrize(("pair", "least"), [(None, 3), ("w1", 5)])
def test_a_length_without_room_for_a_text_is_refused(
    tokenizer: Tokenizer, pair: str | None, least: int
) -> None:
    assert len(encode([("w1 w2", pair)], tokenizer, least).rows[0].input_ids) == least
    with pytest.raises(UserError, match=f"set it to at least {least}"):
        encode([("w1 w2", pair)], tokenizer, least - 1)


def test_hardly_a_token_of_sst2_is_padding(shared: Path, minilm_weights: Path) -> None:
    texts = [(e.text, e.pair) for e in read_texts(shared / "data/sst2/train.tsv").examples]
    encoded = encode(texts, load_tokenizer(minilm_weights), 128)
    assert encoded.n_cut == 0
    lengths = [len(row.input_ids) for row in encoded.rows]
    for batch_size in (32, 64):
        for epoch in range(3):
            batches = length_grouped_batches(lengths, batch_size, seed=42, epoch=epoch)
            assert token_efficiency(lengths, batches) >= 0.95
    in_order = [list(range(i, i + 64)) for i in range(0, len(lengths) - 64, 64)]
    assert token_efficiency(lengths, in_order) < 0.35
