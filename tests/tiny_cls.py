"""A classifier and texts so small that a whole training run takes a second."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from numpy_checkpoint import TINY, write_checkpoint

from minibert.cls.reading import TextSet, read_texts
from minibert.cls.task import ClsSettings, ClsTask, load_model
from minibert.model import BertForSequenceClassification
from minibert.optimization import Recipe
from minibert.tokenizer import SPECIAL, load_tokenizer
from minibert.train import Training

WORDS = [f"w{i}" for i in range(30)]
VOCABULARY = [*SPECIAL.values(), *WORDS]
CONFIG = TINY | {"vocab_size": len(VOCABULARY), "max_position_embeddings": 24}
SETTINGS = ClsSettings(max_length=20, head_tail=False)
LABELS = ["even", "odd"]


def write_model(directory: Path, dropout: float = 0.1, **overrides: Any) -> Path:
    """A checkpoint to start from."""
    rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    write_checkpoint(directory, CONFIG | rates | overrides)
    (directory / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    return directory


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


class TinyCls:
    """A folder with a model and data, and trainings of them in this process."""

    def __init__(self, folder: Path, n: int = 39, dropout: float = 0.1) -> None:
        self.folder = folder
        self.weights = write_model(folder / "weights", dropout)
        self.train = read_texts(write_texts(folder / "train.tsv", n, seed=1))
        self.dev = read_texts(write_texts(folder / "dev.tsv", 24, seed=2), like=self.train)

    def task(self, train: TextSet | None = None, settings: ClsSettings = SETTINGS) -> ClsTask:
        tokenizer = load_tokenizer(self.weights)
        return ClsTask(tokenizer, settings, LABELS, self.dev, train or self.train)

    def model(self) -> BertForSequenceClassification:
        torch.manual_seed(0)
        return load_model(self.weights, LABELS)

    def training(self, run: str = "run", **recipe: Any) -> Training:
        (self.folder / run).mkdir(exist_ok=True)
        usual = {"epochs": 2, "batch_size": 4, "lr": 1e-3, "save_every": 3}
        return Training(self.model(), self.task(), Recipe(**(usual | recipe)), self.folder / run)

    def arguments(self, run: str | Path = "run", **flags: Any) -> list[str]:
        """The same as a command line for `train_cls.py`."""
        settings = {
            "train": self.train.path,
            "dev": self.dev.path,
            "weights": self.weights,
            "out": self.folder / run,
            "epochs": 2,
            "batch_size": 4,
            "lr": 1e-3,
            "save_every": 3,
            "precision": "fp32",
            "max_length": SETTINGS.max_length,
        } | flags
        return [
            word
            for name, value in settings.items()
            if value is not None
            for word in (f"--{name.replace('_', '-')}", *([] if value is True else [str(value)]))
        ]


# What a run leaves that must not depend on whether it was stopped on the way.
RESULTS = (
    *("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"),
    *("predictions.tsv", "failures.tsv", "eval.json", "confusion.svg", "curves.svg"),
    *("last/model.safetensors", "last/config.json", "last/vocab.txt"),
)
