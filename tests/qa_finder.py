"""The commands of question answering as their users type them, and a model that they know.

It is a real checkpoint, built to know one thing: answers begin with the word "alpha" or 甲 and end
with the word "omega" or 乙. So what it must answer is known beforehand.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy_checkpoint import TINY, numpy_tensors, write_checkpoint

from minibert.cli import guard
from minibert.qa.commands import add_commands

Capture = pytest.CaptureFixture[str]

REPOSITORY = Path(__file__).resolve().parent.parent
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
FIRST, LAST = ("alpha", "甲"), ("omega", "乙")
WORDS = [*FIRST, *LAST, "who", "what", "the", "of", "is", "and", "in", "was", "end", "beta"]
VOCABULARY = [*SPECIAL, *WORDS, *"谁是什么的在中间字。，？！.,?!()\"'-:"]
CONFIG = TINY | {"vocab_size": len(VOCABULARY), "max_position_embeddings": 48}

ENGLISH = 'It was dull. The end of alpha, "beta" and omega was near! What then? Nobody knew.'
ANSWER = 'alpha, "beta" and omega'
CHINESE = "什么。中间的甲是字乙在中，字！谁的？"


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(prog="minibert")
    add_commands(result.add_subparsers(required=True))
    return result


def minibert(*words: str | Path) -> int:
    """Runs a command as `minibert.cli.main` does; returns its exit code."""
    args = parser().parse_args([str(word) for word in words])
    log = logging.getLogger("minibert")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        return guard(lambda: args.run(args))
    finally:
        log.setLevel(level)


def write_vocabulary(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY), encoding="utf-8")
    return folder


def finder(folder: Path, **config: int) -> Path:
    """A checkpoint whose start logits are highest at FIRST, and end logits at LAST.

    Words have a vector of their own kind (dimension 0: FIRST, 1: LAST, 2: any other); the layers
    add nothing to it, and qa_outputs reads it off.
    """
    settings = CONFIG | config
    tensors = numpy_tensors(settings)
    for name, tensor in tensors.items():
        if "LayerNorm.weight" in name:
            tensor[:] = 1
        elif "output.dense" in name or "embeddings" in name or name.endswith("bias"):
            tensor[:] = 0
    words = tensors["bert.embeddings.word_embeddings.weight"]
    for i, word in enumerate(VOCABULARY):
        words[i, 0 if word in FIRST else 1 if word in LAST else 2] = 1
    tensors["qa_outputs.weight"] = np.eye(2, settings["hidden_size"], dtype=np.float32)
    write_vocabulary(folder)
    return write_checkpoint(folder, settings, tensors)


def run_json(**changed: Any) -> dict[str, Any]:
    settings = {
        "max_length": 40,
        "doc_stride": 10,
        "max_answer_length": 12,
        "metric": "squad",
        "precision": "fp32",
    }
    return {"settings": settings | changed}


def fails(capsys: Capture, *words: str | Path) -> str:
    """The one line that a failing command prints; it must print nothing else, and exit with 2."""
    assert minibert(*words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1, captured.err
    return captured.err


def squad_file(path: Path, text: str, answers: list[str]) -> Path:
    """A SQuAD file with a question for each answer; "" is a question without one."""
    qas = [
        {
            "id": f"q{i}",
            "question": "who was in the end" if i % 2 else "what",
            "answers": [{"text": a, "answer_start": text.index(a)}] if a else [],
            "is_impossible": not a,
        }
        for i, a in enumerate(answers)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    data = {"version": "1", "data": [{"title": "t", "paragraphs": [{"context": text, "qas": qas}]}]}
    path.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    return path
