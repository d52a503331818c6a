"""A model for questions of which it is known what it must answer.

It is a real checkpoint, built to know one thing: answers begin with the word "alpha" or 甲 and end
with the word "omega" or 乙. So what it must answer is known beforehand.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy_checkpoint import TINY, numpy_tensors, write_checkpoint

REPOSITORY = Path(__file__).resolve().parent.parent
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
FIRST, LAST = ("alpha", "甲"), ("omega", "乙")
WORDS = [*FIRST, *LAST, "who", "what", "the", "of", "is", "and", "in", "was", "end", "beta"]
VOCABULARY = [*SPECIAL, *WORDS, *"谁是什么的在中间字。，？！.,?!()\"'-:"]
CONFIG = TINY | {"vocab_size": len(VOCABULARY), "max_position_embeddings": 48}

ENGLISH = 'It was dull. The end of alpha, "beta" and omega was near! What then? Nobody knew.'
ANSWER = 'alpha, "beta" and omega'
CHINESE = "什么。中间的甲是字乙在中，字！谁的？"


def write_vocabulary(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY), encoding="utf-8")
    return folder


def finder(folder: Path, **config: Any) -> Path:
    """A checkpoint whose start logits are highest at FIRST, and end logits at LAST.

    Words have a vector of their own kind (dimension 0: FIRST, 1: LAST, 2: any other); the layers
    add nothing to it, and qa_outputs reads it off.
    """
    settings = CONFIG | {"architectures": ["BertForQuestionAnswering"]} | config
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
