"""Question answering as transformers' own example does it (run_qa.py and utils_qa.py of its folder
examples/pytorch/question-answering, restated step by step): features, answers, Trainer.

A feature is what we call a window; `stride` is how many tokens two of them share.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from minibert.batches import sequential_batches
from minibert.inference import CACHED_TOKENS
from minibert.train import autocast

Columns: TypeAlias = dict[str, list[Any]]  # of a batch of records or of features
Logits: TypeAlias = Sequence[NDArray[np.float32]]

N_BEST = 20


def load_records(path: Path, cache: Path) -> Any:
    """The records of a flat file of questions as a `Dataset`."""
    from datasets import load_dataset

    files = {"train": str(path)}
    return load_dataset("json", data_files=files, field="data", cache_dir=str(cache))["train"]


def features(
    records: Columns, tokenizer: Any, max_length: int, *, training: bool, pad: bool = False
) -> Columns:
    """prepare_train_features or prepare_validation_features: what `datasets.map` is given.

    One difference: the example has one overlap for all questions, here each has its own, so those
    of one overlap go through the tokenizer together.
    """
    found: Columns = defaultdict(list)
    for overlap in sorted(set(records["overlap"])):
        chosen = [i for i, own in enumerate(records["overlap"]) if own == overlap]
        encoded = tokenizer(
            [records["question"][i].lstrip() for i in chosen],
            [records["context"][i] for i in chosen],
            truncation="only_second",
            max_length=max_length,
            stride=overlap,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            padding="max_length" if pad else False,
        )
        for name in ("input_ids", "token_type_ids", "attention_mask"):
            found[name] += encoded[name]
        for i, offsets in enumerate(encoded["offset_mapping"]):
            record = chosen[encoded["overflow_to_sample_mapping"][i]]
            sequences = encoded.sequence_ids(i)  # None, 0: question, 1: context
            if training:
                cls = encoded["input_ids"][i].index(tokenizer.cls_token_id)
                span = target(records["answers"][record], offsets, sequences) or (cls, cls)
                found["start_positions"].append(span[0])
                found["end_positions"].append(span[1])
            else:
                found["example_id"].append(records["id"][record])
                found["offset_mapping"].append(
                    [o if sequences[k] == 1 else None for k, o in enumerate(offsets)]
                )
    return dict(found)


def target(
    answers: Mapping[str, Any], offsets: Sequence[tuple[int, int]], sequences: Sequence[int | None]
) -> tuple[int, int] | None:
    """The tokens of the first answer; None if there is none, or it is not whole in the feature."""
    if not answers["answer_start"]:
        return None
    start_char = answers["answer_start"][0]
    end_char = start_char + len(answers["text"][0])
    first = 0
    while sequences[first] != 1:
        first += 1
    last = len(sequences) - 1
    while sequences[last] != 1:
        last -= 1
    if not (offsets[first][0] <= start_char and offsets[last][1] >= end_char):
        return None
    while first < len(offsets) and offsets[first][0] <= start_char:
        first += 1
    while offsets[last][1] >= end_char:
        last -= 1
    return first - 1, last + 1


def predict(
    model: Any,
    tokenizer: Any,
    found: Columns,
    batch_size: int,
    precision: str,
    multiple: int,
) -> tuple[Logits, Logits]:
    """The logits of all features, in our batches (`minibert.inference`): the cache that they are
    made for helps both sides. Each is padded to its longest text, or on to a multiple of some
    tokens."""
    names = ("input_ids", "token_type_ids", "attention_mask")
    lengths = [len(ids) for ids in found["input_ids"]]
    starts: dict[int, NDArray[np.float32]] = {}
    ends: dict[int, NDArray[np.float32]] = {}
    for rows in sequential_batches(lengths, batch_size, CACHED_TOKENS):
        encoded = {name: [found[name][i] for i in rows] for name in names}
        batch = tokenizer.pad(encoded, pad_to_multiple_of=multiple, return_tensors="pt")
        with torch.inference_mode(), autocast(torch.device("cpu"), precision):
            out = model(**batch)
        starts |= zip(rows, out.start_logits.float().numpy(), strict=True)
        ends |= zip(rows, out.end_logits.float().numpy(), strict=True)
    return [starts[i] for i in range(len(lengths))], [ends[i] for i in range(len(lengths))]


def answers(
    records: Sequence[Mapping[str, Any]],
    found: Columns,
    starts: Logits,
    ends: Logits,
    max_answer_length: int,
) -> dict[str, list[dict[str, Any]]]:
    """postprocess_qa_predictions: the n-best answers of each question, by its id."""
    rows = defaultdict(list)
    for i, name in enumerate(found["example_id"]):
        rows[name].append(i)
    n_best = {}
    for record in records:
        spans = []
        for i in rows[record["id"]]:
            spans += spans_of(starts[i], ends[i], found["offset_mapping"][i], max_answer_length)
        spans = sorted(spans, key=lambda span: span["score"], reverse=True)[:N_BEST]
        for span in spans:
            first, last = span.pop("offsets")
            span["text"] = record["context"][first:last]
        if not spans:  # none of the best starts and ends go together: its "fake prediction"
            spans = [{"text": "empty", "score": 0.0, "start_logit": 0.0, "end_logit": 0.0}]
        scores = np.array([span["score"] for span in spans])
        weights = np.exp(scores - scores.max())
        for span, probability in zip(spans, weights / weights.sum(), strict=True):
            span["probability"] = float(probability)
        n_best[record["id"]] = spans
    return n_best


def spans_of(
    starts: NDArray[np.float32], ends: NDArray[np.float32], offsets: Any, max_answer_length: int
) -> list[dict[str, Any]]:
    """Those among the best starts and the best ends that can be answers."""
    best_starts = np.argsort(starts)[-1 : -N_BEST - 1 : -1].tolist()
    best_ends = np.argsort(ends)[-1 : -N_BEST - 1 : -1].tolist()
    return [
        {
            "offsets": (offsets[start][0], offsets[end][1]),
            "score": float(starts[start] + ends[end]),
            "start_logit": float(starts[start]),
            "end_logit": float(ends[end]),
        }
        for start in best_starts
        for end in best_ends
        if start < len(offsets) and end < len(offsets)
        if offsets[start] is not None and offsets[end] is not None
        if start <= end < start + max_answer_length
    ]


class Reader:
    """transformers' model, its tokenizer, and the way from records to answers."""

    def __init__(
        self,
        checkpoint: Path,
        attention: str,
        precision: str,
        max_length: int,
        max_answer_length: int,
        batch_size: int,
        multiple: int,
    ) -> None:
        from transformers import AutoModelForQuestionAnswering, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        self.model = AutoModelForQuestionAnswering.from_pretrained(
            checkpoint, attn_implementation=attention
        )
        self.precision, self.max_length = precision, max_length
        self.max_answer_length = max_answer_length
        self.batch_size, self.multiple = batch_size, multiple

    def features(self, records: Sequence[Mapping[str, Any]]) -> Columns:
        columns = {name: [record[name] for record in records] for name in records[0]}
        return features(columns, self.tokenizer, self.max_length, training=False)

    def logits(self, found: Columns) -> tuple[Logits, Logits]:
        how = self.batch_size, self.precision, self.multiple
        return predict(self.model, self.tokenizer, found, *how)

    def answer(self, records: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
        found = self.features(records)
        return answers(records, found, *self.logits(found), self.max_answer_length)
