"""The loop of the references: as plain as can be, with the batches and the recipe of ours.

It knows no checkpoints, no processes and no logs, so that what differs is the model and the loop
alone. `reference_qa.py`, `reference_cls.py` and `lstm_sst2.py` train with it; the latter two also
read and score with what is here.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn
from tqdm import tqdm

from minibert.batches import length_grouped_batches
from minibert.cls.reading import read_texts
from minibert.cls.task import ClsSettings, ClsTask
from minibert.train import Task, autocast


def fine_tune(model: nn.Module, task: Task, args: argparse.Namespace) -> Iterator[float]:
    """Trains in place; gives the seconds that each epoch took, when it is over."""
    names = dict(model.named_parameters())
    kept = [p for n, p in names.items() if n.endswith(("bias", "LayerNorm.weight"))]
    decayed = [p for n, p in names.items() if not n.endswith(("bias", "LayerNorm.weight"))]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": 0.01},
        {"params": kept, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, eps=1e-6, fused=True)
    epochs = [
        length_grouped_batches(task.lengths, args.batch_size, seed=args.seed, epoch=epoch)
        for epoch in range(args.epochs)
    ]
    steps = sum(map(len, epochs))
    rise = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: share(step, steps))
    for batches in epochs:
        model.train()
        began = time.monotonic()
        for examples in tqdm(batches, mininterval=10):
            with autocast(torch.device("cpu"), args.precision):
                loss, _ = task.loss(model, task.batch(examples))
            (loss / len(examples)).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            rise.step()
        yield time.monotonic() - began


def read_task(tokenizer: Tokenizer, args: argparse.Namespace) -> ClsTask:
    """The texts of --train and --dev, read and encoded as by train_cls.py."""
    train = read_texts(args.train)
    dev = read_texts(args.dev, like=train)
    settings = ClsSettings(args.max_length, head_tail=False)
    return ClsTask(tokenizer, settings, train.labels, dev, train, limit=args.limit)


def train_and_score(model: nn.Module, task: ClsTask, args: argparse.Namespace) -> dict[str, Any]:
    """Trains in place, and scores after each epoch; gives the last scores, and each epoch's."""
    epochs = []
    for seconds in fine_tune(model, task, args):
        with autocast(torch.device("cpu"), args.precision):
            scores, _ = task.evaluate(model)
        rate = sum(task.lengths) / seconds
        epochs.append(scores | {"seconds": round(seconds, 1), "tokens_per_second": round(rate, 1)})
    return {"scores": scores, "epochs": epochs}


def share(step: int, steps: int) -> float:
    """Of the highest learning rate: linear warm-up over a tenth of all steps, linear decay."""
    warmup = 0.1 * steps
    return (step + 1) / (warmup + 1) if step < warmup else (steps - step) / (steps - warmup)


def options(description: str | None, **defaults: Any) -> argparse.ArgumentParser:
    """The flags that all references have; the recipe's are spelled as in ours."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--train", required=True)
    add("--dev", required=True)
    add("--out", required=True, help="a JSON file")
    add("--epochs", type=int)
    add("--batch-size", type=int)
    add("--lr", type=float)
    add("--max-length", type=int)
    add("--precision", choices=("fp32", "bf16"), default="fp32")
    add("--seed", type=int, default=0)
    add("--limit", type=int)
    parser.set_defaults(**defaults)
    return parser


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """The flags of those that fine-tune a model of transformers."""
    add = parser.add_argument
    add("--weights", required=True)
    add("--attention", choices=("sdpa", "eager"), default="sdpa", help="(sdpa)")
    add("--save", metavar="DIR", help="keep the model there")


def report(facts: dict[str, Any], out: str) -> None:
    """Prints the figures and writes them as JSON."""
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    Path(out).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(facts))
