"""What `tiny_qa.py` and `tiny_cls.py` share: runs that take a second, and what they leave."""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import Forks
from numpy_checkpoint import write_checkpoint
from safetensors.torch import load_file
from torch import nn

from minibert.optimization import Recipe
from minibert.train import Task, Training

RECIPE = {"epochs": 2, "batch_size": 4, "lr": 1e-3, "save_every": 3}
# What a run of either task leaves.
FILES = (
    *("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"),
    *("last/model.safetensors", "last/config.json", "last/vocab.txt", "eval.json", "curves.svg"),
)


def write_model(
    directory: Path, config: dict[str, Any], vocabulary: Sequence[str], dropout: float
) -> Path:
    """A checkpoint to start from."""
    rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    write_checkpoint(directory, config | rates)
    (directory / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    return directory


class Folder:
    """A folder with a model and data, and trainings of them: in this process, or as a command.

    A child writes the files, and has `model` and `task`.

    Args:
        train, dev: as the task reads them.
        lengths: the flags that say how long a text may be.
    """

    def __init__(
        self, folder: Path, weights: Path, train: Any, dev: Any, lengths: dict[str, int]
    ) -> None:
        self.folder, self.weights, self.lengths = folder, weights, lengths
        self.train, self.dev = train, dev

    def training(self, run: str | Path = "run", resume: bool = False, **recipe: Any) -> Training:
        (self.folder / run).mkdir(exist_ok=True)
        return Training(
            *(self.model(), self.task(), Recipe(**(RECIPE | recipe)), self.folder / run),
            resume=resume,
        )

    def arguments(self, run: str | Path = "run", **flags: Any) -> list[str]:
        """The same as a command line for the training script."""
        files = {"train": self.train.path, "dev": self.dev.path, "weights": self.weights}
        usual = {**files, "out": self.folder / run, **RECIPE, "precision": "fp32", **self.lengths}
        return command_line(usual | flags)


def command_line(flags: dict[str, Any]) -> list[str]:
    """Flags as a user types them: True stands alone, and None is left out."""
    return [
        word
        for name, value in flags.items()
        if value is not None
        for word in (f"--{name.replace('_', '-')}", *([] if value is True else [str(value)]))
    ]


def killed_runs(
    server: Forks, tiny: Folder, *, kills: int, seconds: float, seed: int
) -> Iterator[Path]:
    """Runs that came to their end, though they were killed at random times, so often in all.

    Args:
        seconds: how long a run takes that nothing happens to.
    """
    draw, number = random.Random(seed), 0
    while kills > 0:
        number += 1
        run = tiny.folder / f"killed-{number}"
        arguments = tiny.arguments(run)
        code: int | None = None
        while code != 0:
            send = signal.SIGKILL if kills > 0 else 0
            ended = server.run(arguments, send=send, after=draw.uniform(0, 0.4 * seconds))
            code = ended.code
            assert code in (0, -signal.SIGKILL), ended.err
            kills -= code != 0
            arguments = ["--resume", str(run)]
        yield run


@contextmanager
def killed_before_step(monkeypatch: pytest.MonkeyPatch, n: int) -> Iterator[None]:
    """A training within this block ends, as if killed, when it would begin its nth step."""
    step, begun = Training.step, 0

    def counted(self: Training, examples: list[int]) -> bool:
        nonlocal begun
        begun += 1
        if begun == n:
            raise MemoryError("as if killed")
        return step(self, examples)

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(Training, "step", counted)
        yield


# What a run leaves.


def json_of(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def records(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, without how long things took."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line, parse_constant=no_constant) for line in lines]
    times = ("tokens_per_second", "train_seconds")
    return [{k: v for k, v in row.items() if k not in times} for row in rows]


def no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def contents(run: Path, names: Sequence[str]) -> dict[str, Any]:
    """All that two equal runs have in common, to be compared."""
    return {name: (run / name).read_bytes() for name in names} | {"metrics": records(run)}


def has_gradient(name: str) -> bool:
    """Whether a parameter matters to the loss. A constant that is added to all scores of a softmax
    does not: the gradients of these biases are rounding noise, of which AdamW makes whole steps."""
    return not name.endswith(("qa_outputs.bias", "key.bias"))


def assert_learned_the_same(run: Path, other: Path) -> None:
    """Two runs without dropout that added up the same numbers in another order."""
    rows, wanted = records(run), records(other)
    assert len(rows) == len(wanted) >= 4
    for row, expected in zip(rows, wanted, strict=True):
        assert row == pytest.approx(expected, rel=2e-4)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (run, other))
    for name in filter(has_gradient, theirs):
        torch.testing.assert_close(ours[name], theirs[name], atol=2e-4, rtol=0)


def assert_padding_does_not_matter(model: nn.Module, task: Task) -> list[int]:
    """The loss of a batch is the sum of the losses of its texts, each alone; so are the counts of
    what is right. Returns the batch: the shortest text, the longest and another one."""
    by_length = sorted(range(len(task.lengths)), key=lambda i: task.lengths[i])
    examples = [by_length[0], by_length[-1], by_length[10]]
    total, right = task.loss(model, task.batch(examples))
    alone = [task.loss(model, task.batch([i])) for i in examples]
    assert total.item() == pytest.approx(sum(loss.item() for loss, _ in alone), rel=1e-5)
    for name in right:
        assert int(right[name]) == sum(int(r[name]) for _, r in alone)
    return examples
