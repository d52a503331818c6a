"""The reference: transformers' BERT, fine-tuned for questions by a loop as plain as can be.

    python bench/reference_qa.py --train train.json --dev dev.json --weights all-MiniLM-L6-v2 \\
        --lr 1e-4 --batch-size 16 --epochs 1 --seed 0 --out bench/results/reference.json

Its windows, batches, recipe and decoding are those of train_qa.py, so that what differs is the
model and the loop alone; see `plain_loop.py`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from plain_loop import add_checkpoint, fine_tune, options, report
from torch import Tensor, nn
from transformers import AutoModelForQuestionAnswering

from minibert import hub
from minibert.model import SpanLogits
from minibert.qa.decoding import MAX_ANSWER_LENGTH
from minibert.qa.reading import read_questions
from minibert.qa.task import QASettings, QATask
from minibert.tokenizer import load_tokenizer, save_tokenizer
from minibert.train import autocast


class Theirs(nn.Module):
    """transformers' model, which gives its logits as ours does."""

    def __init__(self, checkpoint: Path, attention: str) -> None:
        super().__init__()
        self.model = AutoModelForQuestionAnswering.from_pretrained(
            checkpoint,
            attn_implementation=attention,
            dtype=torch.float32,  # as ours; a checkpoint in fp16 would be trained in fp16
        )

    def forward(self, **inputs: Tensor) -> SpanLogits:
        out = self.model(**inputs)
        return SpanLogits(out.start_logits, out.end_logits)


def main() -> None:
    args = arguments()
    torch.manual_seed(args.seed)
    checkpoint = hub.find(args.weights)
    model = Theirs(checkpoint, args.attention)
    train, dev = read_questions(Path(args.train)), read_questions(Path(args.dev))
    settings = QASettings(
        args.max_length, args.doc_stride, MAX_ANSWER_LENGTH[args.metric], args.metric
    )
    task = QATask(load_tokenizer(checkpoint), settings, dev, train, limit=args.limit)
    seconds = sum(fine_tune(model, task, args))
    if args.save:
        model.model.save_pretrained(args.save)
        save_tokenizer(task.tokenizer, args.save, model.model.config.max_position_embeddings)
    with autocast(torch.device("cpu"), args.precision):
        scores, _ = task.evaluate(model)
    tokens = args.epochs * sum(task.lengths)
    facts = {
        "settings": vars(args),
        "scores": scores,
        "seconds": round(seconds, 1),
        "tokens_per_second": round(tokens / seconds, 1),
    }
    report(facts, args.out)


def arguments() -> argparse.Namespace:
    parser = options(__doc__, epochs=1, batch_size=16, lr=1e-4, max_length=384)
    add_checkpoint(parser)
    add = parser.add_argument
    add("--metric", choices=list(MAX_ANSWER_LENGTH), default="squad")
    add("--doc-stride", type=int, default=128)
    return parser.parse_args()


if __name__ == "__main__":
    main()
