"""A question-answering model and data so small that a whole training run takes a second."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
from numpy_checkpoint import TINY
from tiny import FILES, Folder, contents, write_model

from minibert.model import BertForQuestionAnswering
from minibert.qa.reading import QuestionSet, read_questions
from minibert.qa.task import QASettings, QATask
from minibert.tokenizer import SPECIAL, load_tokenizer

CHARACTERS = "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏闰余成岁律吕调阳云腾致雨露结为霜"
VOCABULARY = [*SPECIAL.values(), *CHARACTERS, "？"]
CONFIG = TINY | {"vocab_size": len(VOCABULARY), "max_position_embeddings": 32}
LENGTHS = {"max_length": 32, "doc_stride": 12, "max_answer_length": 8}
SETTINGS = QASettings(**LENGTHS, metric="cmrc2018")


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


class Tiny(Folder):
    """Of questions on short texts.

    Args:
        n: training questions. A third of them has two windows, so there are more examples.
        dropout: of the model; 0 where two ways of computing the same are compared.
    """

    def __init__(self, folder: Path, n: int = 24, dropout: float = 0.1) -> None:
        weights = write_model(folder / "weights", CONFIG, VOCABULARY, dropout)
        train = read_questions(write_questions(folder / "train.json", n, seed=1))
        dev = read_questions(write_questions(folder / "dev.json", 8, seed=2))
        super().__init__(folder, weights, train, dev, LENGTHS)

    def task(self, train: QuestionSet | None = None) -> QATask:
        return QATask(load_tokenizer(self.weights), SETTINGS, self.dev, train or self.train)

    def model(self) -> BertForQuestionAnswering:
        torch.manual_seed(0)
        return BertForQuestionAnswering.from_pretrained(self.weights)


# What a run leaves that must not depend on whether it was stopped on the way. run.json is made
# once, and metrics.jsonl has times in it.
RESULTS = (*FILES, "predictions.json", "nbest.json", "failures.jsonl")


def results(run: Path) -> dict[str, Any]:
    """All that two equal runs have in common, to be compared."""
    return contents(run, RESULTS)
