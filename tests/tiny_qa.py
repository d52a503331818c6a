"""A question-answering model and data so small that a whole training run takes a second."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
from numpy_checkpoint import TINY, write_checkpoint

from minibert.model import BertForQuestionAnswering
from minibert.optimization import Recipe
from minibert.qa.reading import QuestionSet, read_questions
from minibert.qa.task import QASettings, QATask
from minibert.tokenizer import SPECIAL, load_tokenizer
from minibert.train import Training

CHARACTERS = "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏闰余成岁律吕调阳云腾致雨露结为霜"
VOCABULARY = [*SPECIAL.values(), *CHARACTERS, "？"]
CONFIG = TINY | {"vocab_size": len(VOCABULARY), "max_position_embeddings": 32}
SETTINGS = QASettings(max_length=32, doc_stride=12, max_answer_length=8, metric="cmrc2018")


def write_model(directory: Path, dropout: float = 0.1, **overrides: Any) -> Path:
    """A checkpoint without the head for questions, as those that training starts from."""
    rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    write_checkpoint(directory, CONFIG | rates | overrides)
    (directory / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    BertForQuestionAnswering.from_pretrained(directory)
    return directory


def write_questions(path: Path, n: int, seed: int = 0) -> Path:
    """What follows the character X in a text? The three characters after it."""
    draw = random.Random(seed)
    paragraphs = []
    for i in range(n):
        context = "".join(draw.sample(CHARACTERS, draw.randint(12, 36)))
        start = draw.randint(1, len(context) - 4)
        answer = {"text": context[start : start + 3], "answer_start": start}
        qa = {"id": f"Q{seed}-{i}", "question": f"{context[start - 1]}？", "answers": [answer]}
        paragraphs.append({"context": context, "qas": [qa]})
    data = {"version": "tiny", "data": [{"title": "", "paragraphs": paragraphs}]}
    path.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    return path


class Tiny:
    """A folder with a model and data, and trainings of them in this process.

    Args:
        n: training questions. A third of them has two windows, so there are more examples.
        dropout: of the model; 0 where two ways of computing the same are compared.
    """

    def __init__(self, folder: Path, n: int = 24, dropout: float = 0.1) -> None:
        self.folder = folder
        self.weights = write_model(folder / "weights", dropout)
        self.train = read_questions(write_questions(folder / "train.json", n, seed=1))
        self.dev = read_questions(write_questions(folder / "dev.json", 8, seed=2))

    def task(self, train: QuestionSet | None = None) -> QATask:
        return QATask(load_tokenizer(self.weights), SETTINGS, self.dev, train or self.train)

    def training(self, run: str | Path = "run", resume: bool = False, **recipe: Any) -> Training:
        torch.manual_seed(0)
        (self.folder / run).mkdir(exist_ok=True)
        model = BertForQuestionAnswering.from_pretrained(self.weights)
        usual = {"epochs": 2, "batch_size": 4, "lr": 1e-3, "save_every": 3}
        return Training(
            model, self.task(), Recipe(**(usual | recipe)), self.folder / run, resume=resume
        )

    def arguments(self, run: str | Path = "run", **flags: Any) -> list[str]:
        """The same as a command line for `train_qa.py`."""
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
            "doc_stride": SETTINGS.doc_stride,
            "max_answer_length": SETTINGS.max_answer_length,
        } | flags
        return [
            word
            for name, value in settings.items()
            if value is not None
            for word in (f"--{name.replace('_', '-')}", str(value))
        ]


def records(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, without how long things took."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line, parse_constant=no_constant) for line in lines]
    return [{k: v for k, v in row.items() if k != "tokens_per_second"} for row in rows]


def has_gradient(name: str) -> bool:
    """Whether a parameter matters to the loss. A constant that is added to all scores of a softmax
    does not: the gradients of these biases are rounding noise, of which AdamW makes whole steps."""
    return not name.endswith(("qa_outputs.bias", "key.bias"))


def no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


# What a run leaves that must not depend on whether it was stopped on the way. run.json is made
# once, and metrics.jsonl has times in it.
RESULTS = (
    *("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"),
    *("predictions.json", "nbest.json", "eval.json", "failures.jsonl", "curves.svg"),
    *("last/model.safetensors", "last/config.json", "last/vocab.txt"),
)


def results(run: Path) -> dict[str, Any]:
    """All that two equal runs have in common, to be compared."""
    return {name: (run / name).read_bytes() for name in RESULTS} | {"metrics": records(run)}
