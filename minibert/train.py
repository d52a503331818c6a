"""The loop: batches in, gradients back, weights moved, until the epochs are over.

Mixed precision (AMP) is two things in plain PyTorch: `torch.autocast` computes matrix products in
16 bits while the weights stay in 32, and `torch.amp.GradScaler` multiplies the loss so that fp16's
smallest gradients do not vanish. bf16 has the range of fp32 and needs no scaler.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from minibert import checkpoint, distributed, files
from minibert.batches import length_grouped_batches
from minibert.checkpoint import Progress
from minibert.curves import curves
from minibert.errors import UserError
from minibert.optimization import Recipe, clip_gradients, learning_rate, make_optimizer
from minibert.processor import has_unit
from minibert.report import Log

MAX_SKIPPED = 20
AT_ONCE = "stopped at once: what came after the last checkpoint is not saved"
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Task(Protocol):
    """What the loop has to know of question answering or of classification."""

    lengths: Sequence[int]  # tokens of every training example

    def batch(self, examples: Sequence[int]) -> dict[str, Tensor]:
        """Some training examples, padded to the longest: inputs and targets."""

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of the examples' losses; and how many were right, by what."""

    def names(self, examples: Sequence[int]) -> list[str]:
        """What a user knows the examples by."""

    def evaluate(self, model: nn.Module) -> tuple[dict[str, Any], dict[str, str]]:
        """Scores on the dev set, of which `score` says how good the model is; and files, by name,
        that say more."""

    score: str  # which of the scores to choose the best epoch by

    def save(self, model: nn.Module, directory: Path) -> None:
        """Writes the model, its settings and its tokenizer."""


class Training:
    """A run: the model, what moves its weights, and the place it has come to."""

    def __init__(
        self, model: nn.Module, task: Task, recipe: Recipe, run: Path, resume: bool = False
    ) -> None:
        self.model, self.task, self.recipe, self.run = model, task, recipe, run
        self.device = next(model.parameters()).device
        self.optimizer = make_optimizer(model, recipe)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=recipe.precision == "fp16")
        torch.manual_seed(recipe.seed + distributed.rank())  # each process has its own dropout
        self.progress = Progress()
        if resume:
            self.progress = checkpoint.load(run, model, self.optimizer, self.scaler)
        self.log = Log(run, self.progress, task.lengths, recipe.epochs)
        self.steps = recipe.epochs * len(self.batches(epoch=0))
        self.stop = False  # SIGINT or SIGTERM came
        # What computes; `model` stays the one that is saved.
        self.computing: nn.Module = torch.compile(model, dynamic=True) if recipe.compile else model  # type: ignore[assignment]
        if distributed.world_size() > 1:
            self.computing = DistributedDataParallel(self.computing)

    def batches(self, epoch: int) -> list[list[int]]:
        """The examples of each batch of an epoch, the same in every process and every time."""
        recipe = self.recipe
        return length_grouped_batches(
            self.task.lengths, recipe.batch_size, seed=recipe.seed, epoch=epoch
        )

    def go(self) -> None:
        """Trains to the end; the best epoch's model is left in the run, the last in run/last.

        Raises:
            UserError: the loss is no finite number, or fp16 overflowed 20 times in a row.
            KeyboardInterrupt: SIGINT or SIGTERM came. The state is saved in each case but one:
                a second signal does not wait for that, and says AT_ONCE.
        """
        try:
            with on_signals(signal.default_int_handler):  # between epochs all is saved already
                while self.progress.epoch < self.recipe.epochs:
                    self.train_epoch()
                    trained = checkpoint.folder_for(self.run, self.progress)
                    self.end_epoch()
                    self.save(same_as=trained)  # to score the dev set changes no tensor
        finally:
            # DistributedDataParallel must go before the connection between the processes does: if
            # it is the last to hold that, torch may wait for its own threads for ever.
            self.computing = self.model

    def train_epoch(self) -> None:
        """What is left of an epoch's batches, and a checkpoint after the last of them."""
        batches = self.batches(self.progress.epoch)
        self.model.train()
        with on_signals(self.on_signal), self.log.bar(batches):
            for examples in batches[self.progress.batch :]:
                is_step = self.step(examples)
                stop = distributed.in_any(self.stop)  # all at the same step, or none
                is_due = is_step and self.progress.step % self.recipe.save_every == 0
                if stop or is_due or self.progress.batch == len(batches):
                    self.save()
                if stop:
                    break
        if distributed.in_any(self.stop):
            raise KeyboardInterrupt

    def on_signal(self, *_: Any) -> None:
        """The first signal waits for the end of the step; a second one interrupts at once."""
        if self.stop:
            raise KeyboardInterrupt(AT_ONCE)
        self.stop = True

    def step(self, examples: list[int]) -> bool:
        """Computes one batch; returns whether it moved the weights, or fp16 overflowed."""
        progress = self.progress
        lr = learning_rate(self.recipe, progress.step, self.steps)
        random_before = checkpoint.random_states()
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        totals = self.forward_backward(examples)
        self.scaler.unscale_(self.optimizer)
        norm = clip_gradients(self.model.parameters(), self.recipe.max_grad_norm)
        if not self.scaler.is_enabled() and not math.isfinite(totals["loss"] + float(norm)):
            checkpoint.restore_random_states(random_before)
            self.save()
            raise UserError(self.why_not_finite(examples, totals["loss"], float(norm)))
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)  # skipped where fp16 overflowed: a gradient is not finite
        self.scaler.update()
        self.optimizer.zero_grad()
        is_step = self.scaler.get_scale() >= scale
        progress.skipped = 0 if is_step else progress.skipped + 1
        progress.step += is_step
        progress.batch += 1
        self.log.step(examples, totals, lr)
        if progress.skipped >= MAX_SKIPPED:
            self.save()
            raise UserError(
                f"fp16 overflowed {progress.skipped} times in a row; the state is saved in "
                f"{self.run}; start anew, with --precision bf16 or fp32 or with a lower --lr"
            )
        return is_step

    def why_not_finite(self, examples: list[int], loss: float, norm: float) -> str:
        what = f"the gradients' norm is {norm}" if math.isfinite(loss) else f"the loss is {loss}"
        return (
            f"{what} at step {self.progress.step + 1}, in the batch of "
            f"{', '.join(self.task.names(examples))}; the state before it is saved in {self.run}; "
            "look at these examples, and start anew, with a lower --lr"
        )

    def forward_backward(self, examples: list[int]) -> dict[str, float]:
        """Gradients of the mean loss over a batch; returns sums over it, of loss and right answers.

        Each process computes its share of the batch, in `accumulation` parts. Every part's summed
        loss is divided by the number of examples in the whole batch, so neither changes the result.
        """
        share = distributed.share(examples)
        size = max(1, math.ceil(len(share) / self.recipe.accumulation))
        # A process without a share computes an example for nothing, since the others wait for it.
        parts = [share[i : i + size] for i in range(0, len(share), size)] or [examples[:1]]
        totals: dict[str, float] = {}
        for number, part in enumerate(parts, 1):
            batch = {k: x.to(self.device) for k, x in self.task.batch(part).items()}
            with self.no_sync(number < len(parts)):
                with autocast(self.device, self.recipe.precision):
                    loss, right = self.task.loss(self.computing, batch)
                weight = 1.0 if share else 0.0
                # DistributedDataParallel takes the mean over processes, where a sum is wanted.
                mean = loss * weight * distributed.world_size() / len(examples)
                self.scaler.scale(mean).backward()  # type: ignore[no-untyped-call]
            for name, value in {"loss": loss.detach(), **right}.items():
                totals[name] = totals.get(name, 0.0) + weight * float(value)
        return distributed.total(totals)

    def no_sync(self, more_parts: bool) -> AbstractContextManager[Any]:
        """Gradients are exchanged between processes after the last part alone."""
        if more_parts and isinstance(self.computing, DistributedDataParallel):
            return self.computing.no_sync()
        return nullcontext()

    def end_epoch(self) -> None:
        """Scores the dev set, and keeps the model if it is the best so far."""
        progress = self.progress
        with autocast(self.device, self.recipe.precision):
            scores, results = self.task.evaluate(self.model)
        scores = {"epoch": progress.epoch + 1, **scores}
        self.log.evaluation(scores)
        is_best = not progress.best or scores[self.task.score] > progress.best[self.task.score]
        if is_best:
            progress.best = scores
        distributed.in_main(lambda: self.keep(results if is_best else None))
        progress.epoch, progress.batch, progress.epoch_sums = progress.epoch + 1, 0, {}

    def keep(self, best_results: dict[str, str] | None) -> None:
        """Writes the model as the last one, and as the best one if it has the best results."""
        self.task.save(self.model, last := self.run / "last")
        if best_results is not None:  # to copy files is less work than to make them
            model = {name: files.as_copy(last / name) for name in files.MODEL}
            best = model | {name: files.as_text(x) for name, x in best_results.items()}
            files.write_whole({self.run / name: write for name, write in best.items()})
        files.write_whole({self.run / "curves.svg": files.as_text(curves(self.log.path))})

    def save(self, same_as: Path | None = None) -> None:
        """A checkpoint, from which the run can go on; see `checkpoint.save`."""
        state = self.run, self.progress, self.model, self.optimizer, self.scaler
        checkpoint.save(*state, same_as)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Matrix products in 16 bits, unless the precision is fp32."""
    dtype = PRECISIONS[precision]
    return torch.autocast(device.type, dtype, enabled=dtype is not torch.float32)


def choose_precision(device: torch.device) -> str:
    """bf16 where the hardware has it, else fp16 on a GPU, else fp32: emulated bf16 is slower."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    units = ("amx_bf16", "avx512_bf16", "bf16") if device.type == "cpu" else ()
    return "bf16" if any(map(has_unit, units)) else "fp32"


@contextmanager
def on_signals(handler: Callable[[int, Any], Any]) -> Iterator[None]:
    """SIGINT and SIGTERM call `handler` for as long as the block runs."""
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
