"""Answers to questions: a whole file of them, and one alone by a loaded model.

The question-answering pipeline left transformers with version 5. What is left is its example,
run_qa.py, here at its best; the pipeline of version 4 runs in a Python of its own, see
`pipeline.py`.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from minibert import cli, files
from minibert.batches import sequential_batches
from minibert.inference import CACHED_TOKENS, outputs, padded_length
from minibert.memory import keep_freed_memory
from minibert.metrics import score_all
from minibert.qa.ask import load_reader
from minibert.qa.reading import read_questions
from minibert.qa.task import EVALUATION_BATCH, QATask, without_padding
from minibert.qa.windows import make_windows
from minibert.trained import as_scored
from rows import example, material
from rows.products import ALONE, products
from rows.row import Check, Figures, Row, Side, Work, apart, needs, peak_mb, timed

PIPELINE = Path(__file__).with_name("pipeline.py")
ASKED = 20  # questions, one by one, in a process that measures the latency


class Setting(NamedTuple):
    """Which model, and over how many questions."""

    is_small: bool
    questions: int

    def run(self, work: Work) -> Path:
        checkpoint = material.small(work) if self.is_small else material.base(work)
        return material.run_of(checkpoint, work)

    def data(self, work: Work, n: int | None = None) -> Path:
        """The questions; in the trial a quarter of them."""
        usual = self.questions // (100 if work.quick else 4 if work.trial else 1) + 2 * work.quick
        return material.questions(work, "dev", n or usual)


def measure(setting: Setting, work: Work, side: str) -> Figures:
    """From the file of questions and that of the weights to the file of answers; what has to be
    imported was needed for one question before."""
    out = Path(tempfile.mkdtemp(prefix=f"{side}-", dir=work.folder))
    few, many = setting.data(work, n=1), setting.data(work)
    if side.startswith("pipeline"):
        return by_pipeline(setting.run(work), many, out, work, side)
    if side == "products":
        return timed(products_for(setting.run(work), many, work, False), counted=1)
    evaluate = ours if side == "ours" else theirs
    evaluate(setting.run(work), few, out, work, side)
    flat_of(many, setting.run(work), work)  # written before the clock starts
    before = peak_mb()
    run = setting.run(work)
    figures = timed(lambda: evaluate(run, many, out, work, side), counted=1, warm=0)
    return figures | {"grown_mb": peak_mb() - before}


def ours(run: Path, data: Path, out: Path, work: Work, side: str) -> None:
    words = ["--model", str(run), "--data", str(data), "--out", str(out), "--metric", "squad"]
    if cli.main(["evaluate", *words]):
        raise RuntimeError("evaluate failed; see above")


def theirs(run: Path, data: Path, out: Path, work: Work, side: str) -> None:
    """The example's steps without datasets and Trainer, in our batches."""
    reader = reader_of(run, work, side)
    records = json.loads(flat_of(data, run, work).read_text(encoding="utf-8"))["data"]
    n_best = reader.answer(records)
    texts = {name: spans[0]["text"] for name, spans in n_best.items()}
    files.write_json(out / "eval_nbest_predictions.json", n_best)
    files.write_json(out / "eval_predictions.json", texts)
    golds = {record["id"]: record["answers"]["text"] for record in records}
    print(score_all(golds, texts, "squad").as_dict())


def reader_of(run: Path, work: Work, side: str) -> example.Reader:
    settings = material.qa_settings(work)
    cut = settings.max_length, settings.max_answer_length
    attention, _, multiple = side.partition("-")
    return example.Reader(
        run, attention, work.precision, *cut, EVALUATION_BATCH, int(multiple or 1)
    )


def flat_of(data: Path, run: Path, work: Work) -> Path:
    settings = material.qa_settings(work)
    return material.flat(data, run, settings.max_length, settings.doc_stride, work)


def by_pipeline(run: Path, data: Path, out: Path, work: Work, side: str) -> Figures:
    """Version 4's pipeline with as many questions to a batch as its side's name says."""
    assert work.pipeline is not None
    settings = material.qa_settings(work)
    flat = flat_of(data, run, work)
    words = [settings.max_length, settings.doc_stride, side.removeprefix("pipeline-")]
    command = [work.pipeline, PIPELINE, run, flat, out / "answers.json", work.precision, *words]
    figures: Figures = json.loads(subprocess.check_output([str(word) for word in command]))
    return figures


def measure_latency(setting: Setting, work: Work, side: str) -> Figures:
    """The median time for one question about its paragraph, over questions of many lengths."""
    run, data = setting.run(work), setting.data(work)
    if side == "ours":
        keep_freed_memory()  # as the command does
        loaded = load_reader(str(run))
        asked = itertools.cycle(read_questions(data).questions[:ASKED])

        def once() -> object:
            question = next(asked)
            return loaded.ask(question.context, [question.question])
    elif side == "products":
        return timed(products_for(run, data, work, True), counted=ASKED, warm=ASKED)
    else:
        reader = reader_of(run, work, side)
        records = json.loads(flat_of(data, run, work).read_text(encoding="utf-8"))["data"]
        turns = itertools.cycle(records[:ASKED])

        def once() -> object:
            return reader.answer([next(turns)])

    return timed(once, counted=ASKED, warm=3)


def products_for(run: Path, data: Path, work: Work, is_asked_alone: bool) -> Callable[[], None]:
    """The products for all windows of a file; or, with each call, for those of another of the
    questions that `measure_latency` asks, whose kernels are all prepared."""
    keep_freed_memory()
    reader = load_reader(str(run))
    settings = material.qa_settings(work)
    cut = settings.max_length, settings.doc_stride
    questions = read_questions(data).questions
    groups = [[q] for q in questions[:ASKED]] if is_asked_alone else [questions]
    calls: list[list[Callable[[], None]]] = []
    for group in groups:
        lengths = make_windows(group, reader.tokenizer, *cut, training=False).lengths
        calls.append([])
        for places in sequential_batches(lengths, EVALUATION_BATCH, CACHED_TOKENS):
            with as_scored(reader.model, reader.precision):
                longest = max(lengths[i] for i in places)
                T = padded_length(longest, len(places), settings.max_length, torch.device("cpu"))
            calls[-1].append(products(reader.model.bert, reader.precision, (len(places), T)))
    turns = itertools.cycle(calls)

    def once() -> None:
        for call in next(turns):
            call()

    return once


def check(setting: Setting, work: Work) -> list[Check]:
    """The logits of every window. The answers need not be the same: the example looks at the 20
    best starts and ends, ours at all spans, each in the window with most context around it."""
    run, data = setting.run(work), setting.data(work, n=6)
    ours = logits_of_ours(run, data, work)
    records = json.loads(flat_of(data, run, work).read_text(encoding="utf-8"))["data"]
    checks = []
    for side in {**PEERS, **PADDED}:
        reader = reader_of(run, work, side)
        found = reader.features(records)
        rows = zip(found["input_ids"], *reader.logits(found), strict=True)
        theirs = {tuple(ids): (start[: len(ids)], end[: len(ids)]) for ids, start, end in rows}
        alone = len(ours.keys() ^ theirs.keys())
        checks.append(Check(f"windows of one side alone, {side}", alone, 0.0))
        both = sorted(ours.keys() & theirs.keys())
        mine, other = ([torch.from_numpy(x) for i in both for x in of[i]] for of in (ours, theirs))
        checks.append(apart(f"logits, {side}", mine, other, work.precision))
    return checks


def logits_of_ours(run: Path, data: Path, work: Work) -> dict[tuple[int, ...], Any]:
    """The start and end logits of each window, by its ids."""
    reader = load_reader(str(run))
    task = QATask(reader.tokenizer, material.qa_settings(work), read_questions(data))
    windows = task.dev_windows.windows
    with as_scored(reader.model, reader.precision):
        rows = outputs(
            reader.model,
            windows,
            task.pad_id,
            without_padding,
            batch_size=EVALUATION_BATCH,
            doing="answering",
            limit=task.settings.max_length,
        )
    return {tuple(w.input_ids.tolist()): row for w, row in zip(windows, rows, strict=True)}


PEERS = {
    "sdpa": Side("the example at its best: sdpa, our batches, no datasets"),
    "eager": Side("the same, attention eager"),
}
# By the tokenizer's `pad_to_multiple_of`: as ours pads several texts, and one by itself.
PADDED = {
    f"{name}-{n}": Side(f"{side.what}; padded to multiples of {n} tokens")
    for name, side in PEERS.items()
    for n in (8, 16)
}
PIPELINES = {
    f"pipeline-{n}": Side(f"the pipeline of transformers 4, {n} in a batch", "beside", 2.0)
    for n in (1, 16)
}
EACH_LENGTH = "torch.compile: texts of many lengths, two dozen even if padded, each compiled anew"


def rows_for(name: str, model: str, setting: Setting) -> list[Row]:
    return [
        Row(
            name=f"evaluate{name}",
            what=f"answers to {setting.questions} questions, {model}: minibert evaluate",
            sides={
                "ours": Side("minibert evaluate", "ours"),
                **PEERS,
                **PADDED,
                **PIPELINES,
                **ALONE,
            },
            measure=partial(measure, setting),
            check=partial(check, setting),
            target=2.0,
            turns=3,
            lacks=needs("transformers"),
            left_out=EACH_LENGTH,
            settings=setting._asdict(),
        ),
        Row(
            name=f"latency{name}",
            what=f"one question about one paragraph, {model}, loaded",
            sides={"ours": Side("minibert, Reader.ask", "ours"), **PEERS, **PADDED, **ALONE},
            measure=partial(measure_latency, setting),
            check=partial(check, setting),
            target=1.5,
            lacks=needs("transformers"),
            left_out=EACH_LENGTH,
            settings={**setting._asdict(), "asked": ASKED},
        ),
    ]


ROWS = [
    *rows_for("", "bert-base shape", Setting(is_small=False, questions=500)),
    *rows_for("-minilm", "all-MiniLM-L6-v2", Setting(is_small=True, questions=500)),
]
