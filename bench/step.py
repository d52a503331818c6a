"""One training step, forward and backward: ours beside that of transformers, on the same batch.

    python bench/step.py --weights all-MiniLM-L6-v2 --batch-size 16 --length 300

Each side runs in a process of its own, all sides in turn, so that a machine which slows down slows
all of them; the ratio is taken turn by turn. Two sides show what a part of ours is worth: without
keep_freed_memory, and with torch's own dropout besides.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import minibert.dropout
import minibert.model
from minibert import files, hub
from minibert.memory import keep_freed_memory
from minibert.model import BertForQuestionAnswering
from minibert.train import autocast, choose_precision

SIDES = {
    "ours": "minibert, as train_qa.py runs it",
    "memory": "… memory given back to the system",
    "plain": "… and torch's own dropout and attention kernel",
    "sdpa": "transformers, attention sdpa (its default)",
    "eager": "transformers, attention eager",
}


def main() -> None:
    args = arguments()
    if args.side:
        print(json.dumps(measure(args)))
        return
    turns: list[dict[str, dict[str, float]]] = []
    for _ in range(args.turns):
        turns.append({side: in_a_process(side) for side in SIDES})
    tokens = args.batch_size * args.length
    print("| what | seconds | tokens/s | times as long as ours | peak memory, MB |")
    print("|---|---|---|---|---|")
    rows = []
    for side, what in SIDES.items():
        seconds = median(turn[side]["seconds"] for turn in turns)
        ratios = sorted(turn[side]["seconds"] / turn["ours"]["seconds"] for turn in turns)
        peak = median(turn[side]["peak_mb"] for turn in turns)
        shown = f"{median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        print(f"| {what} | {seconds:.2f} | {tokens / seconds:,.0f} | {shown} | {peak:,.0f} |")
        rows.append({"what": what, "seconds": seconds, "ratios": ratios, "peak_mb": peak})
    if args.out:
        facts = {"settings": vars(args), "torch": torch.__version__, "rows": rows, "turns": turns}
        files.write_json(Path(args.out), facts)


def in_a_process(side: str) -> dict[str, float]:
    command = [sys.executable, __file__, *sys.argv[1:], "--side", side]
    found: dict[str, float] = json.loads(subprocess.check_output(command, text=True))
    print(f"{side}: {found['seconds']:.2f} s", file=sys.stderr)
    return found


def measure(args: argparse.Namespace) -> dict[str, float]:
    """The median of some steps, after one that is not counted."""
    torch.manual_seed(0)
    model = model_of(args).train()
    device = torch.device("cpu")
    precision = choose_precision(device) if args.precision == "auto" else args.precision
    shape = args.batch_size, args.length
    batch = {
        "input_ids": torch.randint(1000, 20000, shape),
        "attention_mask": torch.ones(shape, dtype=torch.int64),
        "token_type_ids": (torch.arange(args.length) >= 16).expand(shape).long(),
    }
    batch["attention_mask"][0, -1] = 0  # a batch with padding, as nearly all are
    places = torch.randint(args.length - 1, (2, args.batch_size))
    seconds = []
    for _ in range(1 + args.steps):
        began = time.perf_counter()
        with autocast(device, precision):
            loss = span_loss(model(**batch), places)
        loss.backward()  # type: ignore[no-untyped-call]
        seconds.append(time.perf_counter() - began)
        model.zero_grad()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": median(seconds[1:]), "peak_mb": peak}


def span_loss(out: Any, places: Tensor) -> Tensor:
    start, end = (
        F.cross_entropy(out.start_logits, places[0]),
        F.cross_entropy(out.end_logits, places[1]),
    )
    return (start + end) / 2


def model_of(args: argparse.Namespace) -> nn.Module:
    directory = hub.find(args.weights)
    if args.side in ("sdpa", "eager"):
        from transformers import AutoModelForQuestionAnswering

        return AutoModelForQuestionAnswering.from_pretrained(
            directory, attn_implementation=args.side
        )
    logging.getLogger("minibert").setLevel(logging.ERROR)
    model = BertForQuestionAnswering.from_pretrained(directory)
    if args.side == "ours":
        keep_freed_memory()
    if args.side == "plain":
        minibert.dropout.dropout = lambda x, rate: F.dropout(x, rate)
        # What SelfAttention calls where it trains on a CPU, put back to the kernel.
        minibert.model.explicit_attention = lambda q, k, v, visible, rate: (
            F.scaled_dot_product_attention(q, k, v, visible, rate),
            torch.empty(0),
        )
    return model


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--weights", required=True, help="a checkpoint, with dropout rates in its config.json")
    add("--batch-size", type=int, default=16, help="(16)")
    add("--length", type=int, default=300, help="tokens of each text (300)")
    add("--precision", choices=["auto", "fp32", "bf16"], default="auto", help="(auto)")
    add("--steps", type=int, default=3, help="counted in each process (3)")
    add("--turns", type=int, default=5, help="times that each side has its turn (5)")
    add("--out", metavar="FILE", help="where the figures go as JSON")
    add("--side", choices=list(SIDES), help="measure this side alone, in this process")
    return parser.parse_args()


if __name__ == "__main__":
    main()
