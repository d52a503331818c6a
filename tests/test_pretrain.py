"""weights/pretrain.py: what it hides, that it learns, and that a killed run ends the same."""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

import numpy as np
import pretrain
import pytest
import torch
from tiny import command_line, killed_before_step, write_model
from tiny_qa import CHARACTERS, CONFIG, VOCABULARY, write_questions
from tokenizers import Tokenizer

from minibert.errors import UserError
from minibert.fill_mask import fill_mask
from minibert.model import BertForMaskedLM
from minibert.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and a text of two lines that come again and again."""
    folder = tmp_path_factory.mktemp("pretrain")
    write_model(folder / "weights", CONFIG, VOCABULARY, dropout=0.0)
    lines = [CHARACTERS[:16], CHARACTERS[16:32]] * 160
    (folder / "text.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder


def pieces_of(path: Path, tokenizer: Tokenizer) -> list[Any]:
    return list(pretrain.cut_pieces(pretrain.read_passages(path), tokenizer, 32))


def train(folder: Path, out: str, /, **flags: Any) -> int:
    """Runs the script; returns its exit code."""
    usual = {"text": folder / "text.txt", "weights": folder / "weights", "out": folder / out}
    small = {"batch_size": 16, "max_length": 32, "lr": 1e-2, "epochs": 2, "precision": "fp32"}
    return pretrain.main(command_line(usual | small | flags))


def test_whole_words_are_hidden_fifteen_per_cent_of_the_tokens() -> None:
    draw = np.random.default_rng(0)
    shares, lengths = [], []
    for _ in range(300):
        starts_word = draw.random(200) < 0.7
        hidden = pretrain.choose_runs(starts_word, draw)
        assert not hidden[0] and not hidden[-1], "[CLS] and [SEP] stay"
        inside = ~starts_word[2:-1]
        assert (hidden[2:-1][inside] == hidden[1:-2][inside]).all(), "a word is hidden whole"
        shares.append(hidden.sum() / 198)
        edges = np.flatnonzero(np.diff(hidden.astype(int)))
        lengths += [starts_word[a + 1 : b + 1].sum() for a, b in edges.reshape(-1, 2)]
    assert min(shares) >= 0.15 and np.mean(shares) < 0.17
    assert 1.8 < np.mean(lengths) < 2.8  # MacBERT's runs have 2.0 words on average; some touch


@pytest.mark.parametrize("starts", [[False] * 16, [True] * 16, [False] * 14 + [True] * 2])
def test_odd_pieces_end_too(starts: list[bool]) -> None:
    hidden = pretrain.choose_runs(np.array(starts), np.random.default_rng(0))
    assert hidden.any() and not hidden[0] and not hidden[-1]


def test_of_the_hidden_places_80_per_cent_show_the_mask_and_10_any_token(folder: Path) -> None:
    tokenizer = load_tokenizer(folder / "weights")
    model = BertForMaskedLM.from_pretrained(folder / "weights")
    pieces = pieces_of(folder / "text.txt", tokenizer) * 10
    task = pretrain.MaskedLMTask(model, tokenizer, pieces)
    batch = task.hide(pieces, np.random.default_rng(0))
    before = np.stack([piece.input_ids for piece in pieces])
    shown, hidden = batch["input_ids"].numpy(), batch["hidden"].numpy()
    assert (shown == before)[~hidden].all()
    assert (batch["targets"].numpy() == before[hidden]).all()
    mask_id = tokenizer.token_to_id("[MASK]")
    assert (shown[hidden] == mask_id).mean() == pytest.approx(0.8, abs=0.01)
    changed = (shown != before) & (shown != mask_id)
    assert changed[hidden].mean() == pytest.approx(0.1, abs=0.01)
    assert shown[changed].min() >= 5, "no special token is put in"


def test_the_head_at_hidden_places_gives_what_the_whole_model_gives_there(folder: Path) -> None:
    model = BertForMaskedLM.from_pretrained(folder / "weights")
    ids = torch.randint(5, 40, (3, 12))
    hidden = torch.rand(3, 12) < 0.3
    ones, zeros = torch.ones_like(ids), torch.zeros_like(ids)
    torch.testing.assert_close(
        pretrain.HiddenPlaces(model)(ids, ones, zeros, hidden), model(ids, ones, zeros)[hidden]
    )


def test_it_learns_what_stands_where(folder: Path) -> None:
    assert train(folder, "learnt", epochs=6) == 0
    for first in (0, 16):
        text = f"{CHARACTERS[first : first + 9]}[MASK]{CHARACTERS[first + 10 : first + 16]}"
        best = fill_mask(str(folder / "learnt"), text, 1)[0][0]
        assert best.token == CHARACTERS[first + 9]
        assert best.probability > 0.5


def test_killed_and_resumed_it_ends_with_the_same_bytes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    assert train(folder, "whole", save_every=5, out=None) == 0
    assert "; saved in runs/text-weights-0\n" in capsys.readouterr().err
    (folder / "runs/text-weights-0").rename(folder / "whole")
    with killed_before_step(monkeypatch, 13):
        train(folder, "killed", save_every=5)
    go_on = ["--resume", str(folder / "killed")]
    assert pretrain.main(go_on) == 0
    for name in ("model.safetensors", "last/model.safetensors", "vocab.txt"):
        assert (folder / "killed" / name).read_bytes() == (folder / "whole" / name).read_bytes()
    capsys.readouterr()
    assert pretrain.main(go_on) == 0
    assert "killed is finished" in capsys.readouterr().err


def test_what_cannot_be_a_run_is_refused_before_text_is_read(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(pretrain, "read_passages", lambda _: pytest.fail("text was read"))
    (tmp_path / "thesis.txt").touch()
    for flags, says in (
        ({"out": tmp_path}, f"{tmp_path} exists already and is no run; choose another --out"),
        ({"weights": None}, "--weights is missing; --help says what it is"),
        ({"text": tmp_path / "absent.txt"}, "absent.txt does not exist"),
    ):
        assert train(folder, "refused", **flags) == 2
        assert says in capsys.readouterr().err
    assert not (folder / "refused").exists()


def test_text_xz_and_questions_are_read_and_what_is_no_text_is_one_sentence(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = pretrain.read_passages(folder / "text.txt")
    assert plain[:3] == [CHARACTERS[:16], CHARACTERS[16:32], CHARACTERS[:16]]
    (tmp_path / "text.xz").write_bytes(lzma.compress((folder / "text.txt").read_bytes()))
    assert pretrain.read_passages(tmp_path / "text.xz") == plain
    contexts = pretrain.read_passages(write_questions(tmp_path / "q.json", 5))
    assert len(contexts) == 5 and set("".join(contexts)) <= set(CHARACTERS)
    for name, content in (("broken.xz", b"no xz"), ("latin1.txt", "é".encode("latin-1"))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name} cannot be read as text"):
            pretrain.read_passages(tmp_path / name)
    with pytest.raises(UserError, match="cannot be read as text"):
        pretrain.read_passages(tmp_path / "absent.txt")
    (tmp_path / "short.txt").write_text("天", encoding="utf-8")
    for flags, says in (
        ({"text": tmp_path / "short.txt"}, "at least 2 are needed"),
        ({"max_length": 2}, "--max-length 2 is too short: a piece has 16 tokens"),
        ({"max_length": 4096}, "--max-length 4096 is more than the model's"),
    ):
        assert train(folder, "short", **flags) == 2
        assert says in capsys.readouterr().err
    assert not (folder / "short").exists()


@pytest.mark.reference
def test_transformers_fills_the_mask_of_what_it_wrote(folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    train(folder, "saved")
    theirs, report = transformers.AutoModelForMaskedLM.from_pretrained(
        folder / "saved", output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    ids = torch.randint(5, 40, (2, 12))
    ours = BertForMaskedLM.from_pretrained(folder / "saved")
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs(ids).logits, atol=1e-5, rtol=1e-5)


def test_the_head_alone_learns_on_layers_that_stay(folder: Path) -> None:
    assert train(folder, "head", epochs=6, head_only=True) == 0
    before, after = (BertForMaskedLM.from_pretrained(folder / name) for name in ("weights", "head"))
    for name, tensor in before.bert.state_dict().items():
        assert torch.equal(tensor, after.bert.state_dict()[name]), name
    assert not torch.equal(before.mlm.dense.weight, after.mlm.dense.weight)
    lines = (folder / "head" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    scores = [json.loads(line) for line in lines]
    losses = [score["loss"] for score in scores if "total" in score]
    assert losses[-1] < losses[0]
