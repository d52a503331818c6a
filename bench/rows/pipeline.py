"""The question-answering pipeline of transformers 4, timed in a Python of its own:

    python pipeline.py RUN FLAT OUT PRECISION MAX_LENGTH DOC_STRIDE BATCH_SIZE

Version 5 has no such pipeline, and the two versions cannot be installed together. Reads a flat
file of questions, see material.py, writes the answers and prints the seconds as JSON.
"""

import json
import sys
import time
from pathlib import Path

import torch
from transformers import pipeline


def main() -> None:
    run, flat, out, precision, *numbers = sys.argv[1:]
    max_length, doc_stride, batch_size = map(int, numbers)
    answer(run, flat, out, precision, max_length, doc_stride, batch_size, limit=1)
    began = time.perf_counter()
    answer(run, flat, out, precision, max_length, doc_stride, batch_size, limit=None)
    print(json.dumps({"seconds": time.perf_counter() - began}))


def answer(
    run: str,
    flat: str,
    out: str,
    precision: str,
    max_length: int,
    doc_stride: int,
    batch_size: int,
    limit: int | None,
) -> None:
    """From the files to the answers. The pipeline's doc_stride is the overlap, one for all: here
    what a question of 16 tokens leaves, so that there are as many windows as ours."""
    records = json.loads(Path(flat).read_text(encoding="utf-8"))["data"][:limit]
    reader = pipeline("question-answering", model=run, tokenizer=run, device="cpu")
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        replies = reader(
            question=[record["question"] for record in records],
            context=[record["context"] for record in records],
            max_seq_len=max_length,
            doc_stride=max_length - 3 - 16 - doc_stride,
            batch_size=batch_size,
        )
    replies = replies if isinstance(replies, list) else [replies]
    texts = {r["id"]: reply["answer"] for r, reply in zip(records, replies, strict=True)}
    Path(out).write_text(json.dumps(texts, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    main()
