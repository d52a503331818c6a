"""What the rows work on: checkpoints and data, written to the work's folder at first need.

In the quick form all is tiny, and comes from the samples that the package carries.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from minibert import files, hub
from minibert.config import BertConfig
from minibert.model import BertForQuestionAnswering, BertForSequenceClassification
from minibert.qa.decoding import MAX_ANSWER_LENGTH
from minibert.qa.reading import Question, read_questions
from minibert.qa.task import QASettings
from minibert.tokenizer import SPECIAL, load_tokenizer, save_tokenizer
from minibert.weights import PreTrainedModel
from rows.row import Work

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "minibert" / "samples"
TINY: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}


def qa_settings(work: Work) -> QASettings:
    """The lengths of the SQuAD recipe."""
    lengths = (64, 24) if work.quick else (384, 128)
    return QASettings(*lengths, MAX_ANSWER_LENGTH["squad"], "squad")


def base(work: Work) -> Path:
    """A checkpoint of bert-base's shape with random weights, a head for questions and the small
    model's vocabulary."""
    place = work.folder / ("tiny" if work.quick else "base")
    if not place.exists():
        write_vocabulary(work, place)
        tokenizer = load_tokenizer(place)
        torch.manual_seed(0)
        config = BertConfig(vocab_size=tokenizer.get_vocab_size(), **TINY if work.quick else {})
        BertForQuestionAnswering(config).save_pretrained(place)
        save_tokenizer(tokenizer, place, config.max_position_embeddings)
    return place


def write_vocabulary(work: Work, place: Path) -> None:
    """vocab.txt: that of the small model, or for the tiny one the samples' characters."""
    place.mkdir()
    if not work.quick:
        shutil.copy(hub.find(work.weights) / "vocab.txt", place)
        return
    texts = [path.read_text(encoding="utf-8") for path in sorted(SAMPLES.glob("*/*"))]
    characters = sorted({char for char in "".join(texts).lower() if not char.isspace()})
    pieces = [f"##{char}" for char in characters if char.isascii() and char.isalnum()]
    entries = [*SPECIAL.values(), *characters, *pieces]
    (place / "vocab.txt").write_text("\n".join(entries) + "\n", encoding="utf-8")


def small(work: Work) -> Path:
    """The real small BERT (quick: the tiny one) with a head for questions, drawn once, so that all
    sides start from the same numbers."""
    if work.quick:
        return base(work)
    place = work.folder / "small"
    if not place.exists():
        write_with_head(BertForQuestionAnswering.from_pretrained, hub.find(work.weights), place)
    return place


def classifier(work: Work) -> Path:
    """The same encoder with a head for two classes."""
    place = work.folder / "classifier"
    if not place.exists():
        write_with_head(
            BertForSequenceClassification.from_pretrained,
            base(work) if work.quick else hub.find(work.weights),
            place,
        )
    return place


def write_with_head(load: Callable[[Path], PreTrainedModel], source: Path, place: Path) -> None:
    """A checkpoint with the head that it lacks, and its tokenizer."""
    torch.manual_seed(0)
    model = load(source)
    model.save_pretrained(place)
    save_tokenizer(load_tokenizer(source), place, model.config.max_position_embeddings)


def vocabulary(source: Path, work: Work) -> Path:
    """A folder with the tokenizer of another, written so that both sides read it."""
    place = work.folder / f"{source.name}-vocabulary"
    if not place.exists():
        config = BertConfig.from_pretrained(source)
        save_tokenizer(load_tokenizer(source), place, config.max_position_embeddings)
        shutil.copy(source / "config.json", place)
    return place


def without_dropout(checkpoint: Path, work: Work) -> Path:
    """The same checkpoint with all rates 0: what outputs are compared with."""
    place = work.folder / f"{checkpoint.name}-without-dropout"
    if not place.exists():
        shutil.copytree(checkpoint, place)
        rates = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        files.write_json(place / "config.json", files.read_json(place / "config.json") | rates)
    return place


def run_of(checkpoint: Path, work: Work) -> Path:
    """A checkpoint as if train_qa.py had made it: it is asked with these settings and in this
    precision."""
    place = work.folder / f"{checkpoint.name}-run-{work.precision}"
    if not place.exists():
        shutil.copytree(checkpoint, place)
        settings = qa_settings(work)._asdict() | {"precision": work.precision}
        files.write_json(place / "run.json", {"settings": settings, "data": {}})
    return place


def questions(work: Work, part: str, n: int) -> Path:
    """The first n questions of SQuAD's train or dev part (quick: of the samples), in its layout."""
    place = work.folder / f"questions-{part}-{n}.json"
    if not place.exists():
        source = SAMPLES / "qa" if work.quick else work.shared / "data" / "squad"
        found = read_questions(source / f"{part}.json").trainable[:n]
        paragraphs = [
            {"context": context, "qas": [record(question) for question in group]}
            for context, group in groupby(found, key=lambda question: question.context)
        ]
        data = [{"title": "", "paragraphs": paragraphs}]
        files.write_json(place, {"version": "1.1", "data": data})
    return place


def record(question: Question) -> dict[str, Any]:
    answers = [{"text": a.text, "answer_start": a.start} for a in question.answers]
    return {"id": question.id, "question": question.question, "answers": answers}


def flat(path: Path, vocabulary: Path, max_length: int, doc_stride: int, work: Work) -> Path:
    """The same questions as run_qa.py reads them: one record each, with a context of its own.

    `overlap` is what transformers calls the stride. Our doc_stride is the step from one window to
    the next, so for the same windows the overlap depends on how long the question is.
    """
    place = work.folder / f"{path.stem}-{max_length}-{doc_stride}-flat.json"
    if not place.exists():
        found = read_questions(path).trainable
        tokenizer = load_tokenizer(vocabulary)
        asked = tokenizer.encode_batch([q.question for q in found], add_special_tokens=False)
        records = [
            {
                "id": q.id,
                "question": q.question,
                "context": q.context,
                "answers": columns(q),
                "overlap": max_length - 3 - len(encoding.ids) - doc_stride,
            }
            for q, encoding in zip(found, asked, strict=True)
        ]
        place.write_text(json.dumps({"data": records}, ensure_ascii=False), encoding="utf-8")
    return place


def columns(question: Question) -> dict[str, list[Any]]:
    """The answers as the hub's data sets have them."""
    return {
        "text": [answer.text for answer in question.answers],
        "answer_start": [answer.start for answer in question.answers],
    }


def sentences(work: Work, part: str, n: int) -> Path:
    """The first n rows of SST-2's train or dev part (quick: of the samples), with their header."""
    place = work.folder / f"sentences-{part}-{n}.tsv"
    if not place.exists():
        source = SAMPLES / "reviews" if work.quick else work.shared / "data" / "sst2"
        lines = (source / f"{part}.tsv").read_text(encoding="utf-8").splitlines()
        place.write_text("\n".join(lines[: n + 1]) + "\n", encoding="utf-8")
    return place


def token_ids(batch: int, length: int, vocab_size: int, padded: int = 0) -> dict[str, torch.Tensor]:
    """A batch of random texts, two segments each; the first one ends in so much padding."""
    ids = torch.randint(5, vocab_size, (batch, length), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, length - padded :] = 0
    types = (torch.arange(length) >= length // 20).expand(batch, length).long()
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
