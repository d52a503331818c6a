"""The reference: transformers' BERT, fine-tuned to classify by a loop as plain as can be.

    python bench/reference_cls.py --train train.tsv --dev dev.tsv --weights all-MiniLM-L6-v2 \\
        --lr 5e-5 --batch-size 64 --epochs 2 --precision bf16 --seed 0 --out reference.json

Its batches, recipe and metrics are those of train_cls.py; see `plain_loop.py`.
"""

from __future__ import annotations

from pathlib import Path

import torch
from plain_loop import add_checkpoint, options, read_task, report, train_and_score
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from minibert import hub
from minibert.tokenizer import load_tokenizer, save_tokenizer


class Theirs(nn.Module):
    """transformers' model, which gives its logits as ours does."""

    def __init__(self, checkpoint: Path, num_labels: int, attention: str) -> None:
        super().__init__()
        self.model = AutoModelForSequenceClassification.from_pretrained(
            checkpoint,
            num_labels=num_labels,
            attn_implementation=attention,
            dtype=torch.float32,  # as ours; a checkpoint in fp16 would be trained in fp16
        )

    def forward(self, **inputs: Tensor) -> Tensor:
        logits: Tensor = self.model(**inputs).logits  # (B, L)
        return logits


def main() -> None:
    parser = options(__doc__, epochs=3, batch_size=32, lr=2e-5, max_length=128)
    add_checkpoint(parser)
    args = parser.parse_args()
    checkpoint = hub.find(args.weights)
    task = read_task(load_tokenizer(checkpoint), args)
    torch.manual_seed(args.seed)
    model = Theirs(checkpoint, len(task.labels), args.attention)
    found = train_and_score(model, task, args)
    if args.save:
        model.model.save_pretrained(args.save)
        save_tokenizer(task.tokenizer, args.save, model.model.config.max_position_embeddings)
    report({"settings": vars(args), **found}, args.out)


if __name__ == "__main__":
    main()
