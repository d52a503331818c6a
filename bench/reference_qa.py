"""The reference: transformers' BERT, fine-tuned for questions by a loop as plain as can be.

    python bench/reference_qa.py --train train.json --dev dev.json --weights all-MiniLM-L6-v2 \\
        --lr 1e-4 --batch-size 16 --epochs 1 --seed 0 --out bench/results/reference.json

Its windows, batches, recipe and decoding are those of train_qa.py, so that what differs is the
model and the loop alone: this one knows no mixed precision, no checkpoints and no processes.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import AutoModelForQuestionAnswering

from minibert import hub
from minibert.batches import length_grouped_batches
from minibert.model import SpanLogits
from minibert.qa.decoding import MAX_ANSWER_LENGTH
from minibert.qa.reading import read_questions
from minibert.qa.task import QASettings, QATask
from minibert.tokenizer import load_tokenizer, save_tokenizer


class Theirs(nn.Module):
    """transformers' model, which gives its logits as ours does."""

    def __init__(self, checkpoint: Path) -> None:
        super().__init__()
        self.model = AutoModelForQuestionAnswering.from_pretrained(checkpoint)

    def forward(self, **inputs: Tensor) -> SpanLogits:
        out = self.model(**inputs)
        return SpanLogits(out.start_logits, out.end_logits)


def main() -> None:
    args = arguments()
    torch.manual_seed(args.seed)
    checkpoint = hub.find(args.weights)
    model = Theirs(checkpoint)
    train, dev = read_questions(Path(args.train)), read_questions(Path(args.dev))
    settings = QASettings(
        args.max_length, args.doc_stride, MAX_ANSWER_LENGTH[args.metric], args.metric
    )
    task = QATask(load_tokenizer(checkpoint), settings, dev, train, limit=args.limit)
    seconds = fine_tune(model, task, args)
    if args.save:
        model.model.save_pretrained(args.save)
        save_tokenizer(task.tokenizer, args.save)
    scores, _ = task.evaluate(model)
    tokens = args.epochs * sum(task.lengths)
    facts = {
        **{"settings": vars(args), "scores": scores},
        **{"seconds": round(seconds, 1), "tokens_per_second": round(tokens / seconds, 1)},
    }
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    Path(args.out).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(facts))


def fine_tune(model: nn.Module, task: QATask, args: argparse.Namespace) -> float:
    """Trains in place; returns how many seconds that took."""
    names = dict(model.named_parameters())
    kept = [p for n, p in names.items() if n.endswith(("bias", "LayerNorm.weight"))]
    decayed = [p for n, p in names.items() if not n.endswith(("bias", "LayerNorm.weight"))]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": 0.01},
        {"params": kept, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, eps=1e-6, fused=True)
    batches = [
        batch
        for epoch in range(args.epochs)
        for batch in length_grouped_batches(
            task.lengths, args.batch_size, seed=args.seed, epoch=epoch
        )
    ]
    rise = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: share(step, len(batches)))
    model.train()
    began = time.monotonic()
    for examples in tqdm(batches, mininterval=10):
        loss, _ = task.loss(model, task.batch(examples))
        (loss / len(examples)).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        rise.step()
    return time.monotonic() - began


def share(step: int, steps: int) -> float:
    """Of the highest learning rate: linear warm-up over a tenth of all steps, linear decay."""
    warmup = 0.1 * steps
    return (step + 1) / (warmup + 1) if step < warmup else (steps - step) / (steps - warmup)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--train", required=True)
    add("--dev", required=True)
    add("--weights", required=True)
    add("--out", required=True)
    add("--save", metavar="DIR", help="keep the model there, for exchange_questions.py")
    add("--metric", choices=list(MAX_ANSWER_LENGTH), default="squad")
    add("--epochs", type=int, default=1)
    add("--batch-size", type=int, default=16)
    add("--lr", type=float, default=1e-4)
    add("--max-length", type=int, default=384)
    add("--doc-stride", type=int, default=128)
    add("--seed", type=int, default=0)
    add("--limit", type=int)
    return parser.parse_args()


if __name__ == "__main__":
    main()
