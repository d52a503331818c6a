"""weights/cut.py: what is kept is what it was; what is new stands in for its like."""

from __future__ import annotations

import argparse
from pathlib import Path

import cut
import pytest
import torch
from numpy_checkpoint import TINY, write_checkpoint

from minibert.errors import UserError
from minibert.model import BertForMaskedLM
from minibert.tokenizer import SPECIAL, load_tokenizer

LETTERS = [*"abcdefghijklmnopqrstuvwxyz0123456789", *"\"'-."]
OLD = [*SPECIAL.values(), *"天地玄黄宇宙洪荒日月", *LETTERS, *(f"##{c}" for c in LETTERS[:36])]


@pytest.fixture
def old(tmp_path: Path) -> Path:
    (tmp_path / "old").mkdir()
    write_checkpoint(tmp_path / "old", TINY | {"vocab_size": len(OLD), "num_hidden_layers": 3})
    (tmp_path / "old" / "vocab.txt").write_text("\n".join(OLD) + "\n", encoding="utf-8")
    (tmp_path / "text.txt").write_text("月月月日日黄“天”\n月日黄……", encoding="utf-8")
    return tmp_path / "old"


def arguments(old: Path, **more: object) -> argparse.Namespace:
    usual = {"source": str(old), "text": [str(old.parent / "text.txt")], "entries": 92}
    rest = {"layers": [0, 2], "positions": 16, "random": False, "out": str(old.parent / "new")}
    return argparse.Namespace(**(usual | rest | more))


def test_kept_entries_and_layers_are_as_they_were(old: Path) -> None:
    assert cut.run(arguments(old)) == 0
    big, small = (BertForMaskedLM.from_pretrained(old.parent / name) for name in ("old", "new"))
    entries = load_tokenizer(old.parent / "new").get_vocab()
    assert len(entries) == 92 and set("月日黄天") <= entries.keys() and "地" not in entries
    words = big.bert.embeddings.word_embeddings.weight
    fewer = small.bert.embeddings.word_embeddings.weight
    for new, was in (("月", "月"), ("##a", "##a"), ("“", '"'), ("…", ".")):
        assert torch.equal(fewer[entries[new]], words[OLD.index(was)])
    layers = dict(big.named_parameters())
    for name, parameter in small.bert.layers[1].named_parameters():  # type: ignore[union-attr]
        assert torch.equal(parameter, layers[f"bert.layers.2.{name}"])
    assert small.config.num_hidden_layers == 2 and small.config.max_position_embeddings == 16
    assert small.mlm.decoder.weight is fewer


def test_what_cannot_be_cut_is_one_sentence(old: Path) -> None:
    with pytest.raises(UserError, match="layers 0 to 2"):
        cut.run(arguments(old, layers=[0, 3]))
    with pytest.raises(UserError, match="must be there"):
        cut.run(arguments(old, entries=20))
