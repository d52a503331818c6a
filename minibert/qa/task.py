"""Question answering as the training loop sees it: windows in, span logits out, answers scored.

The rooms before it do the work (reading, windows, decoding, metrics); here they are put in a row.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from minibert.batches import pad
from minibert.config import BertConfig
from minibert.inference import Floats, outputs
from minibert.metrics import Metric, Score, score_all
from minibert.model import BertForQuestionAnswering, SpanLogits
from minibert.qa.decoding import Prediction, decode, find_best_threshold
from minibert.qa.reading import QuestionSet
from minibert.qa.windows import Windows, make_windows
from minibert.report import N_FAILURES
from minibert.tokenizer import check_model, save_tokenizer, special_id

EVALUATION_BATCH = 32


class QASettings(NamedTuple):
    """What a model must be asked with as it was trained with."""

    max_length: int
    doc_stride: int
    max_answer_length: int
    metric: Metric


def check_fits(config: BertConfig, tokenizer: Tokenizer, settings: QASettings) -> None:
    """Raises UserError where a model cannot read what the tokenizer and the settings make."""
    check_model(config, tokenizer, settings.max_length, "a question from its context")


class QATask:
    """The questions to learn from, and those to be scored on.

    Args:
        tokenizer: of the checkpoint.
        settings: lengths and metric.
        train, dev: questions; train may be None where a model is only scored.
        null_threshold: of a trained model, from where on it says that there is no answer; None
            for the best one on dev, if dev has questions without an answer.
    """

    score = "f1"

    def __init__(
        self,
        tokenizer: Tokenizer,
        settings: QASettings,
        dev: QuestionSet,
        train: QuestionSet | None = None,
        limit: int | None = None,
        null_threshold: float | None = None,
    ) -> None:
        self.tokenizer, self.settings, self.dev = tokenizer, settings, dev
        self.null_threshold = null_threshold
        self.pad_id = special_id(tokenizer, "pad")
        cut = (settings.max_length, settings.doc_stride)
        self.dev_windows = make_windows(dev.questions, tokenizer, *cut, training=False)
        questions = train.trainable[:limit] if train else []
        self.windows = make_windows(questions, tokenizer, *cut, training=True)
        self.lengths: Sequence[int] = self.windows.lengths

    def batch(self, examples: Sequence[int]) -> dict[str, Tensor]:
        """Windows, padded to the longest, with the targets: (B, T) tensors, and two of (B)."""
        rows = [self.windows.windows[i] for i in examples]
        targets = {
            "start_positions": torch.tensor([row.start_position for row in rows]),
            "end_positions": torch.tensor([row.end_position for row in rows]),
        }
        return pad(rows, self.pad_id) | targets

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """See `span_loss`."""
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
        return span_loss(model(**inputs), batch)

    def names(self, examples: Sequence[int]) -> list[str]:
        """The ids of the windows' questions."""
        rows = (self.windows.windows[i] for i in examples)
        return list(dict.fromkeys(self.windows.questions[row.question].id for row in rows))

    def save(self, model: nn.Module, directory: Path) -> None:
        """config.json, model.safetensors and the tokenizer's files."""
        assert isinstance(model, BertForQuestionAnswering)
        model.save_pretrained(directory)
        save_tokenizer(self.tokenizer, directory, model.config.max_position_embeddings)

    def evaluate(self, model: nn.Module) -> tuple[dict[str, Any], dict[str, str]]:
        """Answers the dev questions; returns the scores, and predictions.json, nbest.json,
        eval.json and failures.jsonl as texts."""
        threshold = self.null_threshold
        allow_null = self.has_null or threshold is not None
        predictions = answer(model, self.dev_windows, self.pad_id, self.settings, allow_null)
        if allow_null and threshold is None:
            threshold = self.best_threshold(predictions)
        texts = {
            question.id: prediction.answer(threshold)
            for question, prediction in zip(self.dev.questions, predictions, strict=True)
        }
        golds = {q.id: q.gold_texts for q in self.dev.questions}
        score = score_all(golds, texts, self.settings.metric)
        scores = score.as_dict() | ({} if threshold is None else {"null_threshold": threshold})
        return scores, {
            "eval.json": to_json(scores),
            "predictions.json": to_json(texts),
            "nbest.json": n_best_json(self.dev, predictions),
            "failures.jsonl": failures(self.dev, predictions, texts, score),
        }

    @property
    def has_null(self) -> bool:
        """Whether some questions have no answer, as in SQuAD v2.0."""
        return any(question.is_impossible for question in self.dev.questions)

    def best_threshold(self, predictions: Sequence[Prediction]) -> float:
        """From which lead of "no answer" on it is given, for the best F1 on these questions."""
        golds = {q.id: q.gold_texts for q in self.dev.questions}
        spans = {q.id: p.answer() for q, p in zip(self.dev.questions, predictions, strict=True)}
        by_span = score_all(golds, spans, self.settings.metric).per_question
        return find_best_threshold(
            [p.null_score_diff for p in predictions],
            [by_span[q.id][1] for q in self.dev.questions],
            [float(q.is_impossible) for q in self.dev.questions],
        )[1]


def span_loss(logits: SpanLogits, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """The mean of the start's and the end's cross-entropy (paper, section 4.2), summed over texts.

    Padding is left out of the softmax, so that the loss of a text does not depend on how long the
    others in its batch are. Also returns how many starts and ends are right.
    """
    padding = batch["attention_mask"] == 0  # (B, T)
    start = logits.start_logits.float().masked_fill(padding, float("-inf"))
    end = logits.end_logits.float().masked_fill(padding, float("-inf"))
    losses = [
        F.cross_entropy(start, batch["start_positions"], reduction="sum"),
        F.cross_entropy(end, batch["end_positions"], reduction="sum"),
    ]
    right = {
        "start": (start.argmax(dim=1) == batch["start_positions"]).sum(),
        "end": (end.argmax(dim=1) == batch["end_positions"]).sum(),
    }
    return (losses[0] + losses[1]) / 2, right


def answer(
    model: nn.Module, windows: Windows, pad_id: int, settings: QASettings, allow_null: bool = False
) -> list[Prediction]:
    """Answers questions with a model; each process computes its share of the windows."""
    logits = outputs(
        model,
        windows.windows,
        pad_id,
        without_padding,
        batch_size=EVALUATION_BATCH,
        doing="answering",
        limit=settings.max_length,
    )
    return decode(
        windows,
        [start for start, _ in logits],
        [end for _, end in logits],
        max_answer_length=settings.max_answer_length,
        allow_null=allow_null,
    )


def without_padding(logits: SpanLogits, lengths: Sequence[int]) -> list[Floats]:
    """The start and end logits of each window: (2, n) for the n tokens that it has."""
    both = torch.stack(logits, dim=1).float().cpu().numpy()  # 2 of (B, T) -> (B, 2, T)
    return [both[i, :, :n] for i, n in enumerate(lengths)]  # B of (2, n)


def n_best_json(dev: QuestionSet, predictions: Sequence[Prediction]) -> str:
    """By question, a line each; indented, Python would write it, and not json's C code."""
    lines = [
        f"{json_line(question.id)}: {json_line([span._asdict() for span in prediction.n_best])}"
        for question, prediction in zip(dev.questions, predictions, strict=True)
    ]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def failures(
    dev: QuestionSet, predictions: Sequence[Prediction], texts: dict[str, str], score: Score
) -> str:
    """The wrong answers that the model was surest of, one JSON object a line."""
    rows = []
    for question, prediction in zip(dev.questions, predictions, strict=True):
        if score.per_question[question.id][0] == 0:
            text = texts[question.id]
            probability = max(s.probability for s in prediction.n_best if s.text == text)
            rows.append((probability, question, text))
    rows.sort(key=lambda row: -row[0])
    return "".join(
        json_line(
            {
                "id": question.id,
                "question": question.question,
                "gold": list(question.gold_texts),
                "predicted": text,
                "probability": probability,
                "f1": score.per_question[question.id][1],
                "context": question.context,
            }
        )
        + "\n"
        for probability, question, text in rows[:N_FAILURES]
    )


def to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"


def json_line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
