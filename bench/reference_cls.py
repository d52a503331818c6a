"""The reference: transformers' BERT, fine-tuned to classify by a loop as plain as can be.

    python bench/reference_cls.py --train train.tsv --dev dev.tsv --weights all-MiniLM-L6-v2 \\
        --lr 5e-5 --batch-size 64 --epochs 2 --precision bf16 --seed 0 --out reference.json

Its batches, recipe and metrics are those of train_cls.py; see `plain_loop.py`.
"""

from __future__ import annotations

from pathlib import Path

import torch
from plain_loop import add_checkpoint, fine_tune, options, report
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from minibert import hub
from minibert.cls.reading import read_texts
from minibert.cls.task import ClsSettings, ClsTask
from minibert.tokenizer import load_tokenizer, save_tokenizer
from minibert.train import autocast


class Theirs(nn.Module):
    """transformers' model, which gives its logits as ours does."""

    def __init__(self, checkpoint: Path, num_labels: int, attention: str) -> None:
        super().__init__()
        self.model = AutoModelForSequenceClassification.from_pretrained(
            checkpoint, num_labels=num_labels, attn_implementation=attention
        )

    def forward(self, **inputs: Tensor) -> Tensor:
        logits: Tensor = self.model(**inputs).logits  # (B, L)
        return logits


def main() -> None:
    parser = options(__doc__, epochs=3, batch_size=32, lr=2e-5, max_length=128)
    add_checkpoint(parser)
    args = parser.parse_args()
    train = read_texts(args.train)
    dev = read_texts(args.dev, like=train)
    torch.manual_seed(args.seed)
    checkpoint = hub.find(args.weights)
    model = Theirs(checkpoint, len(train.labels), args.attention)
    settings = ClsSettings(args.max_length, head_tail=False)
    task = ClsTask(load_tokenizer(checkpoint), settings, train.labels, dev, train, limit=args.limit)
    epochs = []
    for seconds in fine_tune(model, task, args):
        with autocast(torch.device("cpu"), args.precision):
            scores, _ = task.evaluate(model)
        rate = sum(task.lengths) / seconds
        epochs.append(scores | {"seconds": round(seconds, 1), "tokens_per_second": round(rate, 1)})
    if args.save:
        model.model.save_pretrained(args.save)
        save_tokenizer(task.tokenizer, args.save)
    report({"settings": vars(args), "scores": scores, "epochs": epochs}, args.out)


if __name__ == "__main__":
    main()
