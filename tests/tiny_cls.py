"""A classifier and texts so small that a whole training run takes a second."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from numpy_checkpoint import TINY
from tiny import FILES, Folder, contents, write_model

from minibert.cls.reading import TextSet, read_texts
from minibert.cls.task import ClsSettings, ClsTask, load_model
from minibert.model import BertForSequenceClassification
from minibert.tokenizer import SPECIAL, load_tokenizer

WORDS = [f"w{i}" for i in range(30)]
VOCABULARY = [*SPECIAL.values(), *WORDS]
CONFIG = TINY | {"vocab_size": len(VOCABULARY), "max_position_embeddings": 24}
LENGTHS = {"max_length": 20}
SETTINGS = ClsSettings(**LENGTHS, head_tail=False)
LABELS = ["even", "odd"]


def write_pairs(path: Path, n: int, seed: int) -> Path:
    """Is the number in the second text's first word even or odd? Half of the pairs are too long."""
    draw = random.Random(seed)
    lines = ["text_a\ttext_b\tlabel"]
    for _ in range(n):
        first, second = ([draw.randrange(30) for _ in range(draw.randint(2, 9))] for _ in "ab")
        texts = (" ".join(f"w{number}" for number in numbers) for numbers in (first, second))
        lines.append("\t".join([*texts, LABELS[second[0] % 2]]))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_texts(path: Path, n: int, seed: int = 0, labels: bool = True) -> Path:
    """Is the number in the first word even or odd?"""
    draw = random.Random(seed)
    lines = ["sentence\tlabel" if labels else "index\tsentence"]
    for i in range(n):
        numbers = [draw.randrange(30) for _ in range(draw.randint(3, 18))]
        text = " ".join(f"w{number}" for number in numbers)
        lines.append(f"{text}\t{LABELS[numbers[0] % 2]}" if labels else f"{i}\t{text}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


class TinyCls(Folder):
    """Of n texts to train on."""

    def __init__(self, folder: Path, n: int = 39, dropout: float = 0.1) -> None:
        weights = write_model(folder / "weights", CONFIG, VOCABULARY, dropout)
        train = read_texts(write_texts(folder / "train.tsv", n, seed=1))
        dev = read_texts(write_texts(folder / "dev.tsv", 24, seed=2), like=train)
        super().__init__(folder, weights, train, dev, LENGTHS)

    def task(
        self, train: TextSet | None = None, settings: ClsSettings = SETTINGS, r_drop: float = 0.0
    ) -> ClsTask:
        tokenizer = load_tokenizer(self.weights)
        texts = train or self.train
        return ClsTask(tokenizer, settings, LABELS, self.dev, texts, r_drop=r_drop)

    def model(self) -> BertForSequenceClassification:
        torch.manual_seed(0)
        return load_model(self.weights, LABELS)


class TinyPairs(TinyCls):
    """Of pairs of texts, with a test set; long ones keep both ends."""

    def __init__(self, folder: Path, dropout: float = 0.1) -> None:
        super().__init__(folder, dropout=dropout)
        (folder / "pairs").mkdir()
        for seed, (part, n) in enumerate({"train": 39, "dev": 24, "test": 10}.items()):
            write_pairs(folder / f"pairs/{part}.tsv", n, seed)

    def arguments(self, run: str | Path = "run", **flags: Any) -> list[str]:
        data = {"data": self.folder / "pairs", "train": None, "dev": None}
        return super().arguments(run, **(data | {"max_length": 13, "head_tail": True} | flags))


# What a run leaves that must not depend on whether it was stopped on the way; and what it leaves of
# a test set.
RESULTS = (*FILES, "predictions.tsv", "failures.tsv", "confusion.svg")
OF_TEST = ("test_predictions.tsv", "test.json")


def results(run: Path) -> dict[str, Any]:
    """All that two equal runs have in common, to be compared."""
    return contents(run, [*RESULTS, *(name for name in OF_TEST if (run / name).exists())])
