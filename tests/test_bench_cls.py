"""The scripts in bench/ that SST-2 is measured with."""

from __future__ import annotations

import json
import random
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import cased_small
import lstm_sst2
import plain_loop
import pytest
import split_sst2
import torch
from numpy_checkpoint import TINY
from tiny import (
    assert_padding_does_not_matter,
    command_line,
    has_gradient,
    json_of,
    write_model,
)
from tiny_cls import LABELS, TinyCls
from typed import minibert

import train_cls
from minibert.cls.reading import Example, read_texts
from minibert.cls.task import load_model
from minibert.optimization import Recipe, learning_rate
from minibert.tokenizer import SPECIAL, load_tokenizer
from minibert.train import Training


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyCls:
    return TinyCls(tmp_path_factory.mktemp("bench"), dropout=0.0)


def arguments(tiny: TinyCls, out: Path, **more: Any) -> list[str]:
    flags = {
        "train": tiny.train.path,
        "dev": tiny.dev.path,
        "out": out,
        "epochs": 2,
        "batch_size": 4,
        "lr": 1e-3,
        "max_length": 20,
    }
    return command_line(flags | more)


# plain_loop.py


def test_the_plain_loop_learns_what_ours_learns(tiny: TinyCls, tmp_path: Path) -> None:
    """The same model in both, without dropout: what differs can only be the loop."""
    recipe = {"epochs": 2, "batch_size": 4, "lr": 1e-3, "seed": 3}
    ours = Training(tiny.model(), tiny.task(), Recipe(**recipe), tmp_path)
    ours.go()
    model = tiny.model()
    args = Namespace(**recipe, precision="fp32")
    assert len(list(plain_loop.fine_tune(model, tiny.task(), args))) == 2
    for (name, one), other in zip(ours.model.named_parameters(), model.parameters(), strict=True):
        if has_gradient(name):
            torch.testing.assert_close(one, other, atol=2e-4, rtol=0)


def test_its_learning_rate_is_ours() -> None:
    recipe = Recipe(epochs=1, batch_size=1, lr=2.0)
    for steps in (1, 7, 100):
        ours = [learning_rate(recipe, step, steps) for step in range(steps)]
        assert [2 * plain_loop.share(step, steps) for step in range(steps)] == pytest.approx(ours)


@pytest.mark.reference
def test_the_reference_classifies_with_transformers_model(
    tiny: TinyCls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers")
    import reference_cls

    flags = arguments(tiny, tmp_path / "out.json", weights=tiny.weights, seed=3)
    monkeypatch.setattr(sys, "argv", ["reference_cls.py", *flags])
    reference_cls.main()
    facts = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    recipe = Recipe(epochs=2, batch_size=4, lr=1e-3, seed=3)
    ours = Training(load_model(tiny.weights, LABELS), tiny.task(), recipe, tmp_path)
    ours.go()
    [row] = [json.loads(s) for s in (tmp_path / "metrics.jsonl").open() if '"epoch": 2, "acc' in s]
    assert facts["scores"]["accuracy"] == row["accuracy"]
    assert facts["scores"] == {k: v for k, v in facts["epochs"][-1].items() if k in row}
    assert len(facts["epochs"]) == 2 and all(e["seconds"] >= 0 for e in facts["epochs"])


# lstm_sst2.py


def test_the_lstm_does_not_see_the_padding(tiny: TinyCls) -> None:
    torch.manual_seed(0)
    model = lstm_sst2.LSTMClassifier(40, 2).eval()
    assert_padding_does_not_matter(model, tiny.task())


def test_the_lstm_is_trained_and_scored(
    tiny: TinyCls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = arguments(tiny, tmp_path / "lstm.json", tokens=tiny.weights, epochs=3)
    monkeypatch.setattr(sys, "argv", ["lstm_sst2.py", *flags])
    lstm_sst2.main()
    facts = json.loads((tmp_path / "lstm.json").read_text(encoding="utf-8"))
    assert facts["scores"]["total"] == 24 and len(facts["epochs"]) == 3
    E, H = lstm_sst2.E, lstm_sst2.H
    lstm = 2 * (4 * H * (E + H) + 8 * H)
    assert (
        facts["parameters"] == E * load_tokenizer(tiny.weights).get_vocab_size() + lstm + 4 * H + 2
    )


# split_sst2.py


def test_no_text_of_one_part_contains_one_of_the_other() -> None:
    draw = random.Random(0)
    sentences = [" ".join(draw.choices("abcdefghijkl", k=12)) for _ in range(60)]
    phrases = []
    for sentence in sentences:
        words = sentence.split()
        for _ in range(6):
            start = draw.randrange(11)
            phrases.append(" ".join(words[start : start + draw.randint(1, 5)]))
    texts = draw.sample([*sentences, *phrases], len(sentences) + len(phrases))
    examples = [Example(text, None, str(i % 2), i + 2) for i, text in enumerate(texts)]
    train, dev = split_sst2.split(examples, 9, seed=1)
    assert len(dev) == len({example.text for example in dev}) == 9
    for held_out in dev:
        assert held_out.text in sentences
        for example in train:
            assert f" {example.text} " not in f" {held_out.text} "
            assert f" {held_out.text} " not in f" {example.text} "
    assert train == [e for e in examples if e in train]  # in their order
    dropped = [e for e in examples if e not in train and e not in dev]
    for example in dropped:  # and no more than that
        assert any(f" {example.text} " in f" {held_out.text} " for held_out in dev)
    assert split_sst2.split(examples, 9, seed=1) == (train, dev)
    assert split_sst2.split(examples, 9, seed=2)[1] != dev
    same, with_phrases = split_sst2.split(examples, 9, seed=1, phrases=4)
    long_parts = [example for example in dropped if len(example.text.split()) >= 4]
    assert same == train and long_parts
    assert {e.text for e in with_phrases} == {e.text for e in [*dev, *long_parts]}
    fewer, with_short = split_sst2.split(examples, 9, seed=1, phrases=2)
    assert fewer and len(fewer) < len(train)  # what holds a phrase that is scored is left out, too
    for scored in with_short:
        for example in fewer:
            assert f" {example.text} " not in f" {scored.text} "
            assert f" {scored.text} " not in f" {example.text} "


def test_the_parts_are_read_as_any_data(
    tmp_path: Path, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = (shared / "data/sst2/train.tsv").read_text(encoding="utf-8").splitlines()[:3000]
    (tmp_path / "some.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    flags = ["--train", str(tmp_path / "some.tsv"), "--out", str(tmp_path), "--dev-size", "50"]
    monkeypatch.setattr(sys, "argv", ["split_sst2.py", *flags])
    split_sst2.main()
    rows = {(e.text, e.label) for e in read_texts(tmp_path / "some.tsv").examples}
    train = read_texts(tmp_path / "train.tsv")
    dev = read_texts(tmp_path / "dev.tsv", like=train)
    assert len(dev.examples) == 50 and len(train.examples) > 2000
    assert {(e.text, e.label) for e in [*train.examples, *dev.examples]} <= rows


# cased_small.py


def test_the_small_cased_model_flips_where_it_has_learned_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a vocabulary and texts made for it, of which it learns all in a few steps; its commands
    run in this process, which has imported torch already."""

    def run(command: list[str], check: bool) -> None:
        _, script, *words = command
        assert check and (minibert(*words[1:]) if script == "-m" else train_cls.main(words)) == 0

    monkeypatch.setattr("subprocess.run", run)
    words, draw = ["good", "bad", "a", "film", "so", "it", "is"], random.Random(0)
    shared = tmp_path / "shared"
    vocabulary, data = shared / "bert-base-cased", shared / "data/sst2"
    write_model(vocabulary, TINY, [*SPECIAL.values(), *words], 0.1)
    config = json.dumps(TINY | {"vocab_size": len(SPECIAL) + len(words)})
    (vocabulary / "config.json").write_text(config)
    (vocabulary / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    data.mkdir(parents=True)
    for part, n in (("train", 1500), ("dev", 40)):
        lines = ["sentence\tlabel"]
        for label in draw.choices((0, 1), k=n):
            text = [words[1 - label], *draw.choices(words[2:], k=4)]
            lines.append(f"{' '.join(draw.sample(text, 5))}\t{label}")
        (data / f"{part}.tsv").write_text("\n".join(lines) + "\n")
    cased_small.main(["--shared", str(shared), "--out", str(tmp_path / "out")])
    cases = json_of(tmp_path / "out/probe/probe_case.json")
    assert [len(case["flips"]) > 0 for case in cases] == [False, False, True, True]
    assert cases[0]["accuracy"] > 0.9 > 0.7 > cases[2]["accuracy"]


def test_the_small_cased_model_has_the_real_vocabulary(shared: Path, tmp_path: Path) -> None:
    cased_small.write_checkpoint(shared / "bert-base-cased", tmp_path, seed=0)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.get_vocab_size() == 28996
    assert tokenizer.encode("A fine Film").ids != tokenizer.encode("a fine film").ids
    model = load_model(tmp_path, LABELS)
    assert model.config.hidden_size == 128 and model.config.num_hidden_layers == 2
    assert model.load_report is not None and not model.load_report.newly_initialized
