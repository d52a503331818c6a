"""What a run says of itself while it goes: a bar for people, `metrics.jsonl` for programs."""

from __future__ import annotations

import json
import os
import re
import sys
import time
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from minibert import distributed
from minibert.batches import token_efficiency
from minibert.checkpoint import Progress
from minibert.errors import UserError

GROUP = 20  # steps to a line of metrics.jsonl
N_FAILURES = 50  # of the surest mistakes that a run shows
# The description has the losses: tqdm's own order would lose them on a terminal of 80 columns.
BAR = "{desc} {percentage:.0f}%|{bar}| {rate_fmt} {remaining} left"


class Log:
    """The bar and `metrics.jsonl` of one run; only the main process shows and writes anything.

    A line is {"epoch", "step", "lr", "loss", … right answers as shares, "tokens_per_second"} for
    every 20 steps and for what is left of them at an epoch's end, and {"epoch", … scores,
    "train_seconds", "token_efficiency"} for every evaluation: how long the epoch's training took,
    without the evaluation, and which share of the tokens in its batches were no padding.
    """

    def __init__(self, run: Path, progress: Progress, lengths: Sequence[int], epochs: int) -> None:
        self.path = run / "metrics.jsonl"
        self.progress, self.lengths, self.epochs = progress, lengths, epochs
        self.last = 0  # batches of the epoch
        self.tokens, self.left, self.since = 0, 0, 0.0  # counted in this group, left in the epoch
        self.stepped = 0.0  # when the last step was over
        self.efficiency = 1.0  # of the epoch's batches
        self.bar_now: Any = tqdm(disable=True)
        distributed.in_main(self.forget)

    def forget(self) -> None:
        """Cuts off what a killed process wrote after its last checkpoint: it is done once more."""
        try:
            with self.path.open("ab") as file:
                self.progress.log_bytes = min(self.progress.log_bytes, file.tell())
                file.truncate(self.progress.log_bytes)
        except OSError as error:
            raise UserError(f"{self.path} could not be written: {error}") from None

    @contextmanager
    def bar(self, batches: list[list[int]]) -> Iterator[None]:
        """Shows the progress through an epoch, counted in tokens, which take equal time."""
        sizes = [sum(self.lengths[i] for i in batch) for batch in batches]
        done = sum(sizes[: self.progress.batch])
        self.last, self.left = len(batches), sum(sizes) - done
        self.efficiency = token_efficiency(self.lengths, batches)
        self.since = self.stepped = time.monotonic()
        self.tokens = 0
        with tqdm(
            total=sum(sizes),
            initial=done,
            desc=self.place(),
            unit="tok",
            unit_scale=True,
            bar_format=BAR,
            disable=None if distributed.is_main() else True,
        ) as self.bar_now:
            yield

    def place(self) -> str:
        return f"epoch {self.progress.epoch + 1}/{self.epochs}"

    def step(self, examples: Sequence[int], totals: dict[str, float], lr: float) -> None:
        """Takes in one step: sums over its examples of the loss and of right answers, which say
        nothing where fp16 overflowed and the step was skipped."""
        progress, tokens = self.progress, sum(self.lengths[i] for i in examples)
        self.tokens += tokens
        self.left -= tokens
        seconds, self.stepped = time.monotonic() - self.stepped, time.monotonic()
        progress.epoch_sums["seconds"] = progress.epoch_sums.get("seconds", 0.0) + seconds
        if progress.skipped == 0:
            for sums in (progress.epoch_sums, progress.group_sums):
                for name, value in {"examples": len(examples), **totals}.items():
                    sums[name] = sums.get(name, 0.0) + value
        so_far = means(progress.epoch_sums)
        words = [f"{k} {x:#.3g}" if k == "loss" else f"{k} {x:.0%}" for k, x in so_far.items()]
        line = " ".join([self.place(), *words, f"lr {lr:.1e}"])
        self.bar_now.set_description_str(line, refresh=False)
        self.bar_now.update(tokens)
        if progress.group_sums and (progress.step % GROUP == 0 or progress.batch == self.last):
            self.group(lr)

    def group(self, lr: float) -> None:
        """The line of the steps since the last one."""
        progress = self.progress
        rate = self.tokens / max(time.monotonic() - self.since, 1e-9)
        self.since, self.tokens = time.monotonic(), 0
        line = {"epoch": progress.epoch + 1, "step": progress.step, "lr": lr}
        line |= means(progress.group_sums) | {"tokens_per_second": round(rate, 1)}
        progress.group_sums = {}
        self.write(line)
        if distributed.is_main() and (self.bar_now.disable or not sys.stdout.isatty()):
            left = tqdm.format_interval(self.left / rate)
            print(f"{plain(line)}  {left} left", flush=True)

    def evaluation(self, scores: dict[str, Any]) -> None:
        """Takes in the scores on the dev set after an epoch; adds what its training took."""
        seconds = self.progress.epoch_sums.get("seconds", 0.0)
        efficiency = round(self.efficiency, 4)
        scores = scores | {"train_seconds": round(seconds, 1), "token_efficiency": efficiency}
        self.write(scores)
        if distributed.is_main():
            shown = "  ".join(
                f"{name} {value:#.4g}" if isinstance(value, float) else f"{name} {value}"
                for name, value in scores.items()
            )
            print(shown, flush=True)

    def write(self, line: dict[str, Any]) -> None:
        distributed.in_main(lambda: self.append(json.dumps(line) + "\n"))

    def append(self, text: str) -> None:
        """Onto the disk, too: the next checkpoint relies on it."""
        try:
            with self.path.open("ab") as file:
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UserError(f"{self.path} could not be written: {error}") from None
        self.progress.log_bytes += len(text.encode())


def means(sums: dict[str, float]) -> dict[str, float]:
    """The loss, and the share of right answers, per example."""
    examples = sums.get("examples", 0.0)
    counts = ("examples", "seconds")
    return {name: value / examples for name, value in sums.items() if name not in counts}


def plain(line: dict[str, Any]) -> str:
    """A line for where there is no terminal to draw a bar on."""
    words = [f"epoch {line['epoch']}", f"step {line['step']}", f"lr {line['lr']:.1e}"]
    rest = {k: v for k, v in line.items() if k not in ("epoch", "step", "lr", "tokens_per_second")}
    words += [f"{name} {value:.3f}" for name, value in rest.items()]
    return "  ".join([*words, f"{line['tokens_per_second']:,.0f} tokens/s"])


def say(text: str) -> None:
    """A line for people, from the main process alone."""
    if distributed.is_main():
        print(text, file=sys.stderr, flush=True)


def on_one_line(text: str) -> str:
    """Spaces for line ends and the like; what could steer a terminal is left out."""
    return "".join(c for c in re.sub(r"\s+", " ", text) if unicodedata.category(c) != "Cc")
