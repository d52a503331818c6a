"""weights/transplant.py: what English writes too keeps its vector, the rest takes its likes'."""

from __future__ import annotations

import argparse
import json
import string
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import transplant
from numpy_checkpoint import TINY, write_checkpoint

from minibert.errors import UserError
from minibert.model import BertForQuestionAnswering, BertModel
from minibert.tokenizer import SPECIAL, load_tokenizer

LETTERS = [*"abcdefghijklmnopqrstuvwxyz0123456789", *string.punctuation]
PLAIN = [*SPECIAL.values(), *LETTERS, *(f"##{c}" for c in LETTERS[:36])]
WORDS = ["north", "water", "book", "year", "who", "river", "it"]
ENGLISH = [*PLAIN, *WORDS, "水"]  # an English vocabulary has Chinese characters that it never saw
BOTH = [*PLAIN, *WORDS, *"北水书年谁，。"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An English reader, an encoder in which 水 is water and 北 is north, and a text."""
    folder = tmp_path_factory.mktemp("transplant")
    for name, vocabulary in (("reader", ENGLISH), ("encoder", BOTH)):
        (folder / name).mkdir()
        write_checkpoint(folder / name, TINY | {"vocab_size": len(vocabulary)})
        (folder / name / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    reader = BertForQuestionAnswering.from_pretrained(folder / "reader")
    reader.save_pretrained(folder / "reader")
    facts = {"data": {"train": {"file": "squad.json"}, "dev": {"file": "dev.json"}}}
    (folder / "reader" / "run.json").write_text(json.dumps(facts), encoding="utf-8")
    encoder = BertModel.from_pretrained(folder / "encoder")
    words = encoder.embeddings.word_embeddings.weight
    with torch.no_grad():
        for chinese, english in (("水", "water"), ("北", "north")):
            words[BOTH.index(chinese)] = words[BOTH.index(english)]
    encoder.save_pretrained(folder / "encoder")
    (folder / "text.txt").write_text("水水水北北书，a water。\n水“北”", encoding="utf-8")
    return folder


def run(folder: Path, out: str, **more: object) -> Path:
    usual = {"reader": str(folder / "reader"), "meanings": str(folder / "encoder")}
    rest = {"text": [str(folder / "text.txt")], "entries": 140, "out": str(folder / out)}
    assert transplant.run(argparse.Namespace(**(usual | rest | more))) == 0
    return folder / out


def test_what_english_writes_too_keeps_its_vector(folder: Path) -> None:
    start = run(folder, "kept")
    old = BertForQuestionAnswering.from_pretrained(folder / "reader").state_dict()
    new = BertForQuestionAnswering.from_pretrained(start)
    entries = load_tokenizer(start).get_vocab()
    assert new.config.vocab_size == len(entries) == 140
    assert {"水", "北", "“", "。"} <= entries.keys(), "what is frequent is kept"
    assert not {"谁", "书"} & entries.keys(), "what is rare or absent is not"
    assert new.config.pad_token_id == entries["[PAD]"] != entries["[UNK]"]
    vectors = new.bert.embeddings.word_embeddings.weight
    for entry, like in (("a", "a"), ("##b", "##b"), ("[CLS]", "[CLS]"), ("“", '"'), ("。", ".")):
        assert torch.equal(vectors[entries[entry]], old[transplant.WORDS][ENGLISH.index(like)])
    for name, tensor in new.state_dict().items():
        assert name == transplant.WORDS or torch.equal(tensor, old[name]), name


def test_chinese_takes_the_mean_of_the_words_that_mean_the_same(folder: Path) -> None:
    start = run(folder, "made")
    made_of = json.loads((start / "made_of.json").read_text(encoding="utf-8"))
    assert made_of["水"][0] == "water" and made_of["北"][0] == "north"
    assert "水" not in made_of["水"] and "it" not in made_of["水"], "whole English words only"
    assert len(set(made_of["北"])) == transplant.NEAREST
    learned = json.loads((start / "learned_from.json").read_text(encoding="utf-8"))
    assert learned == {"learned_from": [{"file": "squad.json"}]}
    old = BertForQuestionAnswering.from_pretrained(folder / "reader").state_dict()
    vectors = BertForQuestionAnswering.from_pretrained(start).state_dict()[transplant.WORDS]
    likes = old[transplant.WORDS][[ENGLISH.index(word) for word in made_of["水"]]]
    place = load_tokenizer(start).get_vocab()["水"]
    all_words = old[transplant.WORDS][[ENGLISH.index(word) for word in WORDS if word != "it"]]
    length = all_words.norm(dim=1).mean()
    torch.testing.assert_close(vectors[place], F.normalize(likes.mean(dim=0), dim=0) * length)


def test_nearest_are_found_by_angle_not_by_length() -> None:
    words = torch.tensor([[1.0, 0], [100, 100], [0, 1], [-1, 0], [0, -1], [9, 1]])
    vectors, nearest = transplant.mean_of_nearest(torch.tensor([[5.0, 0]]), words, words)
    assert nearest[0, :3].tolist() == [0, 5, 1]
    mean = words[nearest[0]].mean(dim=0)
    assert F.cosine_similarity(vectors[0], mean, dim=0) > 0.9999
    assert vectors[0].norm() == pytest.approx(words.norm(dim=1).mean())


def test_meanings_do_not_hang_on_padding(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = BertModel.from_pretrained(folder / "encoder").eval()
    tokenizer = load_tokenizer(folder / "encoder")
    words = ["water", "waterwater", "水", "book"]
    together = transplant.meanings(words, encoder, tokenizer)
    outputs, inputs = together.chunk(2, dim=1)
    torch.testing.assert_close(outputs.norm(dim=1), torch.ones(4))
    torch.testing.assert_close(inputs.norm(dim=1), torch.ones(4))
    torch.testing.assert_close(together[0], together[2])  # 水 is water in this encoder
    assert F.cosine_similarity(together[0], together[3], dim=0) < 0.9
    # By hand: the difference of two words, each without what all have in common.
    ids = [tokenizer.encode(word).ids for word in words]
    table = encoder.embeddings.word_embeddings.weight.detach()
    means = torch.stack([table[each].mean(dim=0) for each in ids])
    torch.testing.assert_close(inputs, F.normalize(means - means.mean(dim=0), dim=1))
    with torch.no_grad():
        hidden = [encoder(torch.tensor([each])).last_hidden_state[0].mean(dim=0) for each in ids]
    centred = torch.stack(hidden) - torch.stack(hidden).mean(dim=0)
    torch.testing.assert_close(outputs, F.normalize(centred, dim=1))
    monkeypatch.setattr(transplant, "BATCH", 1)
    torch.testing.assert_close(transplant.meanings(words, encoder, tokenizer), together)


def test_a_vocabulary_without_room_for_the_alphabet_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="reader exists already"):
        run(folder, "reader")
    with pytest.raises(UserError, match="--entries 50 is too few"):
        run(folder, "few", entries=50)


def test_what_cannot_be_transplanted_is_one_sentence(folder: Path) -> None:
    (folder / "empty.txt").touch()
    (folder / "english.txt").write_text("a water", encoding="utf-8")
    for more, says in (
        ({"text": [str(folder / "empty.txt")]}, "--text holds no token"),
        ({"text": [str(folder / "english.txt")]}, "0 entries lack one of the same letters"),
        ({"reader": str(folder / "encoder")}, "has no qa_outputs.weight: name a model"),
    ):
        with pytest.raises(UserError, match=says):
            run(folder, "none", **more)
    assert not (folder / "none").exists()
