"""A new process that imports what it needs and loads a checkpoint of bert-base's size."""

from __future__ import annotations

import subprocess
import sys

import torch

from rows import material
from rows.row import Check, Figures, Row, Side, Work, apart, needs, timed

PROGRAMS = {
    "ours": "from minibert.model import BertForQuestionAnswering as Model",
    "class": "from transformers import BertForQuestionAnswering as Model",
    "auto": "from transformers import AutoModelForQuestionAnswering as Model",
}


def measure(work: Work, side: str) -> Figures:
    """The time from the start of Python to its end. The first process is not counted: it writes
    the byte code and brings the files into memory (the quick form has only that one)."""
    if side == "torch":
        program = "import torch"
    else:
        program = f"{PROGRAMS[side]}; Model.from_pretrained({str(material.base(work))!r})"
    command = [sys.executable, "-c", program]
    warm = 0 if work.quick else 1
    return timed(lambda: subprocess.run(command, check=True), 1, warm)


def check(work: Work) -> list[Check]:
    """The logits of both loaded models."""
    from transformers import BertForQuestionAnswering as Theirs

    from minibert.model import BertForQuestionAnswering as Ours

    found = []
    for kind in (Ours, Theirs):
        model = kind.from_pretrained(material.base(work))
        with torch.inference_mode():
            out = model(**material.token_ids(2, 16, model.config.vocab_size, padded=1))
        found.append([out.start_logits, out.end_logits])
    return [apart("logits", found[0], found[1])]


ROWS = [
    Row(
        name="load",
        what="importing and loading a checkpoint of bert-base's size, from a cold process",
        sides={
            "ours": Side("minibert, BertForQuestionAnswering", "ours"),
            "class": Side("transformers, BertForQuestionAnswering"),
            "auto": Side("transformers, AutoModelForQuestionAnswering"),
            "torch": Side("importing torch, which each of them has to do", "beside"),
        },
        measure=measure,
        check=check,
        target=2.0,
        lacks=needs("transformers"),
    )
]
