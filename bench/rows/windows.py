"""Questions -> windows, with the targets of training: beside the `datasets.map` of the example."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from minibert.qa.reading import read_questions
from minibert.qa.windows import make_windows
from minibert.tokenizer import load_tokenizer
from rows import example, material
from rows.row import Check, Figures, Row, Side, Work, needs, timed


class Data(NamedTuple):
    """Which questions, cut how."""

    file: str  # in the folder of real data; the samples in the quick form
    vocabulary: str | None  # in the same folder; None for the small model's
    max_length: int
    doc_stride: int

    def of(self, work: Work) -> tuple[Path, Path, int, int]:
        """The file, a folder with a vocabulary, max_length and doc_stride."""
        if work.quick:
            return material.questions(work, "dev", 20), material.base(work), 64, 24
        found = work.shared / self.vocabulary if self.vocabulary else material.small(work)
        vocabulary = material.vocabulary(found, work)
        return work.shared / "data" / self.file, vocabulary, self.max_length, self.doc_stride


def measure(data: Data, work: Work, side: str) -> Figures:
    """The time from questions in memory to windows in memory; reading the file is not counted."""
    if side == "ours":
        path, vocabulary, *cut = data.of(work)
        questions, tokenizer = read_questions(path).trainable, load_tokenizer(vocabulary)
        return timed(lambda: make_windows(questions, tokenizer, *cut, training=True), counted=1)
    records, prepare = theirs(data, work)
    if side == "published":
        overlaps = [data.of(work)[-1]] * len(records)
        records = records.remove_columns("overlap").add_column("overlap", overlaps)
    if side == "direct":
        columns = records[:]
        return timed(lambda: prepare(columns), counted=1)
    return timed(lambda: mapped(records, prepare), counted=1)


def theirs(data: Data, work: Work) -> tuple[Any, Any]:
    """The example's records, and the function that makes features of some."""
    from transformers import AutoTokenizer

    path, vocabulary, max_length, doc_stride = data.of(work)
    tokenizer = AutoTokenizer.from_pretrained(vocabulary)
    flat = material.flat(path, vocabulary, max_length, doc_stride, work)
    prepare = partial(example.features, tokenizer=tokenizer, max_length=max_length, training=True)
    return example.load_records(flat, work.folder / "cache"), prepare


def mapped(records: Any, prepare: Any) -> Any:
    """As the example calls it, without its cache."""
    return records.map(
        prepare, batched=True, remove_columns=records.column_names, load_from_cache_file=False
    )


def check(data: Data, work: Work) -> list[Check]:
    """The same ids, token types and targets, whatever their order."""
    path, vocabulary, *cut = data.of(work)
    tokenizer = load_tokenizer(vocabulary)
    windows = make_windows(read_questions(path).trainable, tokenizer, *cut, training=True).windows
    ours = sorted(
        (w.input_ids.tolist(), w.token_type_ids.tolist(), w.start_position, w.end_position)
        for w in windows
    )
    features = mapped(*theirs(data, work))
    names = ("input_ids", "token_type_ids", "start_positions", "end_positions")
    other = sorted(zip(*(features[name] for name in names), strict=True))
    differ = sum(a != b for a, b in zip(ours, other, strict=False))
    return [
        Check("windows of one side alone", abs(len(ours) - len(other)), 0.0),
        Check("windows that differ", differ, 0.0),
    ]


SIDES = {
    "ours": Side("minibert, make_windows", "ours"),
    "map": Side("the example's datasets.map"),
    "direct": Side("the example's function, without datasets", "beside"),
    "published": Side("the example as published, with one overlap: other windows", "beside"),
}


def row(name: str, what: str, data: Data) -> Row:
    return Row(
        name=f"windows-{name}",
        what=f"windows of {what}, {data.max_length}/{data.doc_stride}",
        sides=SIDES,
        measure=partial(measure, data),
        check=partial(check, data),
        target=3.0,
        lacks=needs("transformers", "datasets"),
        settings=data._asdict(),
    )


ROWS = [
    row(
        "cmrc",
        "the CMRC dev set",
        Data("cmrc2018/cmrc2018_dev.json", "bert-base-chinese", 512, 128),
    ),
    row("squad", "the SQuAD train part", Data("squad/train.json", None, 384, 128)),
]
