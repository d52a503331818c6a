"""Classification as the training loop sees it: texts in, a score for each class out, compared.

The rooms before it do the work (reading, encoding, metrics); here they are put in a row.

Shapes: B texts in the batch, T tokens of the longest, N texts of a set, L labels.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from minibert.batches import Row, pad
from minibert.cls.confusion import picture
from minibert.cls.encoding import Encodings, Texts, encode
from minibert.cls.metrics import Scores, score
from minibert.cls.reading import Example, TextSet
from minibert.inference import Floats, outputs
from minibert.model import BertForSequenceClassification, BertModel
from minibert.report import N_FAILURES, on_one_line, say
from minibert.tokenizer import save_tokenizer, special_id
from minibert.weights import PreTrainedModel

EVALUATION_BATCH = 64


class ClsSettings(NamedTuple):
    """What a model must be asked with as it was trained with."""

    max_length: int
    head_tail: bool


def load_model(weights: Path, labels: Sequence[str]) -> BertForSequenceClassification:
    """A checkpoint with a head for these classes, see `fit_head`.

    Raises:
        UserError: what `from_pretrained` raises.
    """
    model = BertForSequenceClassification.from_pretrained(weights)
    fit_head(model, weights, labels)
    return model


def fit_head(model: PreTrainedModel, weights: Path, labels: Sequence[str]) -> None:
    """Keeps the classifier that came with a checkpoint if it is one for these classes, else makes a
    new one. A head without names of its own, LABEL_0 and so on, is for as many as it has."""
    config, report = model.config, model.load_report
    before = list(config.id2label.values())
    is_new = report is None or "classifier.weight" in report.newly_initialized
    fits = is_new or before in (list(labels), [f"LABEL_{i}" for i in range(len(before))])
    if not fits or len(before) != len(labels):
        model.classifier = nn.Linear(config.hidden_size, len(labels))
        model.initialize(model.classifier)
        if not is_new:
            say(f"the head of {weights} is for other classes ({', '.join(before)}): a new one")
    bert = model.get_submodule("bert")
    assert isinstance(bert, BertModel)
    # By "problem_type" transformers would take another loss, and scores that do not sum to 1.
    unread = {name: value for name, value in config.unread.items() if name != "problem_type"}
    model.config = bert.config = replace(config, id2label=dict(enumerate(labels)), unread=unread)


class ClsTask:
    """The texts to learn from, those to be scored on, and perhaps some to be predicted as well.

    Args:
        tokenizer: of the checkpoint.
        settings: how long a text may be.
        labels: the L classes, in the order of the model's outputs.
        dev: texts with labels.
        train: texts with labels; None where a model is only scored.
        test: texts with or without labels, predicted together with dev; None for none.
        limit: train on the first so many.
        r_drop: weight of the divergence in `r_drop_loss`; 0 for the plain cross-entropy.
    """

    score = "accuracy"

    def __init__(
        self,
        tokenizer: Tokenizer,
        settings: ClsSettings,
        labels: Sequence[str],
        dev: TextSet,
        train: TextSet | None = None,
        test: TextSet | None = None,
        limit: int | None = None,
        r_drop: float = 0.0,
    ) -> None:
        self.tokenizer, self.settings, self.labels = tokenizer, settings, list(labels)
        self.numbers = {label: i for i, label in enumerate(labels)}
        self.pad_id = special_id(tokenizer, "pad")
        self.dev, self.test, self.r_drop = dev, test, r_drop
        self.examples = train.examples[:limit] if train else []
        self.file = train.path.name if train else ""
        self.encoded, self.dev_encoded, self.test_encoded = (
            encode(texts_of(examples), tokenizer, *settings)
            for examples in (self.examples, dev.examples, test.examples if test else [])
        )
        self.lengths: Sequence[int] = [len(row.input_ids) for row in self.encoded.rows]

    def batch(self, examples: Sequence[int]) -> dict[str, Tensor]:
        """Texts, padded to the longest, with their classes: (B, T) tensors, and labels (B)."""
        labels = [self.numbers[str(self.examples[i].label)] for i in examples]
        rows = [self.encoded.rows[i] for i in examples]
        return pad(rows, self.pad_id) | {"labels": torch.tensor(labels)}

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The cross-entropy (paper, section 4.1) or that of R-Drop, summed over texts; and how many
        are right."""
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
        labels = batch["labels"]  # (B)
        if self.r_drop:
            twice = {name: x.repeat(2, 1) for name, x in inputs.items()}  # (B, T) -> (2B, T)
            logits = model(**twice).float()  # (2B, L)
            loss = r_drop_loss(logits, labels, self.r_drop)
        else:
            logits = model(**inputs).float()  # (B, L)
            loss = F.cross_entropy(logits, labels, reduction="sum")
        right = (logits[: len(labels)].argmax(dim=1) == labels).sum()
        return loss, {"accuracy": right}

    def names(self, examples: Sequence[int]) -> list[str]:
        """The lines that the texts stand on."""
        return [f"line {self.examples[i].line} of {self.file}" for i in examples]

    def save(self, model: nn.Module, directory: Path) -> None:
        """config.json, model.safetensors and the tokenizer's files."""
        assert isinstance(model, BertForSequenceClassification)
        model.save_pretrained(directory)
        save_tokenizer(self.tokenizer, directory, model.config.max_position_embeddings)

    def evaluate(self, model: nn.Module) -> tuple[dict[str, Any], dict[str, str]]:
        """Classifies the dev set; returns the scores, and eval.json, predictions.tsv, failures.tsv
        and confusion.svg as texts; of a test set test_predictions.tsv, and test.json if it has
        labels."""
        labels, examples = self.labels, self.dev.examples
        probabilities = class_probabilities(model, self.dev_encoded.rows, self.pad_id)  # (N, L)
        scores = compare(examples, probabilities, labels)
        results = {
            "eval.json": as_json(scores, labels),
            "predictions.tsv": predictions(examples, probabilities, labels),
            "failures.tsv": failures(examples, probabilities, labels),
            "confusion.svg": picture(scores, labels),
        }
        if self.test:
            examples = self.test.examples
            probabilities = class_probabilities(model, self.test_encoded.rows, self.pad_id)
            results["test_predictions.tsv"] = predictions(examples, probabilities, labels)
            if self.test.has_labels:
                results["test.json"] = as_json(compare(examples, probabilities, labels), labels)
        return scores.as_dict(), results


def r_drop_loss(logits: Tensor, labels: Tensor, weight: float) -> Tensor:
    """The loss of texts that went through the model twice, with other dropout each time: the mean
    of both cross-entropies, and so many times the mean of both Kullback-Leibler divergences between
    the two verdicts, which are to agree (Liang et al. 2021, "R-Drop: Regularized Dropout for Neural
    Networks"). Without divergence it is the cross-entropy of one pass.

    Args:
        logits: (2B, L), first those of one pass, then those of the other.
        labels: (B) int64, the classes.
        weight: half of the alpha of the paper, whose loss is the sum of both cross-entropies, and
            alpha times the mean of both divergences.

    Returns:
        The sum over the B texts.
    """
    log_probs = logits.log_softmax(dim=1)
    one, other = log_probs.chunk(2)  # (2B, L) -> 2 of (B, L)
    loss = F.nll_loss(log_probs, labels.repeat(2), reduction="sum")
    for p, q in ((one, other), (other, one)):
        loss = loss + weight * F.kl_div(q, p, reduction="sum", log_target=True)  # KL(p || q)
    return loss / 2


def texts_of(examples: Iterable[Example]) -> Texts:
    """What is encoded of examples."""
    return [(example.text, example.pair) for example in examples]


def say_cut(what: str, encodings: Encodings, settings: ClsSettings) -> None:
    """Says how many texts were too long, if any were. what: which texts: "dev"."""
    if encodings.n_cut:
        kept = "what is at both ends" if settings.head_tail else "the beginning"
        say(
            f"{what}: {encodings.n_cut:,} of {len(encodings.rows):,} texts had more than "
            f"{settings.max_length} tokens and were cut; {kept} was kept"
        )


def class_probabilities(model: nn.Module, rows: Sequence[Row], pad_id: int) -> Floats:
    """(N, L): the probability of each class for each text. Each process computes its share."""

    def keep(logits: Tensor, _: Sequence[int]) -> list[Floats]:
        return list(logits.float().softmax(dim=1).cpu().numpy())  # (B, L) -> B of (L)

    kept = outputs(model, rows, pad_id, keep, batch_size=EVALUATION_BATCH, doing="classifying")
    return np.stack(kept)  # N of (L) -> (N, L)


def compare(examples: Sequence[Example], probabilities: Floats, labels: Sequence[str]) -> Scores:
    """Scores the likeliest classes of N texts with labels, by their probabilities (N, L)."""
    numbers = {label: i for i, label in enumerate(labels)}
    golds = [numbers[str(example.label)] for example in examples]
    return score(golds, probabilities.argmax(axis=1).tolist(), len(labels))


# What the files hold. In all of them probabilities are (N, L), of N examples and L labels.


def as_json(scores: Scores, labels: Sequence[str]) -> str:
    """All figures, by name of class where they are of one."""
    by_class = zip(labels, scores.per_class, strict=True)
    figures = {
        **scores.as_dict(),
        "per_class": {label: of_class._asdict() for label, of_class in by_class},
        "labels": list(labels),
        "confusion_matrix": scores.counts.tolist(),  # [gold][predicted]
    }
    return json.dumps(figures, ensure_ascii=False, indent=1) + "\n"


def predictions(examples: Sequence[Example], probabilities: Floats, labels: Sequence[str]) -> str:
    """A line a text, in the file's order; `index` and `prediction` are what GLUE's server reads."""
    best = probabilities.argmax(axis=1)  # (N)
    rows = []
    for i, example in enumerate(examples):
        gold = [] if example.label is None else [example.label]
        sure = f"{probabilities[i, best[i]]:.6f}"
        rows.append([str(i), labels[best[i]], sure, *gold, *text_cells(example)])
    gold = [] if examples[0].label is None else ["label"]
    return tsv(["index", "prediction", "probability", *gold, *text_columns(examples)], rows)


def failures(examples: Sequence[Example], probabilities: Floats, labels: Sequence[str]) -> str:
    """The mistakes that the model was surest of, the surest first."""
    best = probabilities.argmax(axis=1)  # (N)
    wrong = [i for i, example in enumerate(examples) if labels[best[i]] != example.label]
    wrong.sort(key=lambda i: -float(probabilities[i, best[i]]))
    rows = [
        [
            *text_cells(examples[i]),
            str(examples[i].label),
            labels[best[i]],
            f"{probabilities[i, best[i]]:.6f}",
        ]
        for i in wrong[:N_FAILURES]
    ]
    return tsv([*text_columns(examples), "gold", "predicted", "probability"], rows)


def text_columns(examples: Sequence[Example]) -> list[str]:
    return ["text"] if examples[0].pair is None else ["text_a", "text_b"]


def text_cells(example: Example) -> list[str]:
    return [example.text] if example.pair is None else [example.text, example.pair]


def tsv(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table as `tables.py` reads it: tabs and line ends within a cell have become spaces."""
    lines = [header, *rows]
    return "".join("\t".join(map(on_one_line, line)) + "\n" for line in lines)
