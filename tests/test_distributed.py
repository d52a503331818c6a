"""Two processes learn what one learns, share the work, and none waits for one that is gone."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import Ended, Forks
from safetensors.torch import load_file
from tiny import assert_learned_the_same, records
from tiny_qa import SETTINGS, Tiny, results

from minibert import checkpoint
from minibert.batches import length_grouped_batches
from minibert.errors import UserError
from minibert.qa.windows import make_windows
from minibert.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(tmp_path_factory.mktemp("calm"), dropout=0.0)


@pytest.fixture(scope="module")
def whole(tiny: Tiny, server: Forks) -> Ended:
    """Two processes that nothing happened to, in `tiny.folder / "whole"`."""
    ended = server.run(tiny.arguments("whole"), processes=2)
    assert ended.codes == [0, 0], ended.err
    return ended


# The same result.


@pytest.mark.parametrize(
    ("batch_size", "accumulation", "processes"),
    [
        (4, 1, 2),
        (2, 1, 2),  # the last of 39 examples is alone in its batch: a process has no share
        (5, 3, 2),  # shares of 3 and 2, in 3 and 2 parts
        (4, 2, 3),
    ],
)
def test_without_dropout_the_losses_are_those_of_one_process(
    calm: Tiny, server: Forks, batch_size: int, accumulation: int, processes: int
) -> None:
    flags = {"batch_size": batch_size, "accumulation": accumulation, "lr": 5e-3}
    names = [f"{n}-{batch_size}-{accumulation}" for n in (1, processes)]
    one = server.run(calm.arguments(names[0], **flags))
    several = server.run(calm.arguments(names[1], **flags), processes=processes)
    assert one.codes == [0] and several.codes == [0] * processes, several.err
    assert_learned_the_same(calm.folder / names[1], calm.folder / names[0])
    assert json.loads((calm.folder / names[1] / "run.json").read_text())["processes"] == processes


def test_the_first_loss_and_the_split_of_windows_are_exact(calm: Tiny, server: Forks) -> None:
    """Before any weight has moved, only the order of a sum may differ."""
    for name, processes in (("one", 1), ("two", 2)):
        arguments = calm.arguments(name, batch_size=39, epochs=1)
        assert server.run(arguments, processes=processes).code == 0
    one, two = (records(calm.folder / name)[0] for name in ("one", "two"))
    assert one["loss"] == pytest.approx(two["loss"], rel=1e-6)
    assert (one["start"], one["end"]) == (two["start"], two["end"])


# Shared work.


def note(folder: str) -> None:
    """A patch: each process writes down what it computes and which files it changes."""
    from minibert import distributed
    from minibert.model import BertForQuestionAnswering
    from minibert.train import Training

    task: Any = import_module("minibert.qa.task")
    task.EVALUATION_BATCH = 2
    notes: dict[str, list[Any]] = {"learned": [], "scored": [], "changed": []}
    batch, forward, go = task.QATask.batch, BertForQuestionAnswering.forward, Training.go

    def noting_batch(self: Any, examples: list[int]) -> Any:
        notes["learned"].append(list(examples))
        return batch(self, examples)

    def noting_forward(self: Any, **inputs: torch.Tensor) -> Any:
        if not self.training:
            lengths = inputs["attention_mask"].sum(1).tolist()
            rows = zip(inputs["input_ids"].tolist(), lengths, strict=True)
            notes["scored"] += [row[:n] for row, n in rows]
        return forward(self, **inputs)

    def noting_go(self: Any) -> None:
        go(self)
        name = f"{folder}/notes-{distributed.rank()}.json"
        changed = list(notes["changed"])
        with open(name, "w") as file:
            json.dump(notes | {"changed": changed}, file)

    def hook(event: str, details: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = details
            writes = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        else:
            path = details[0] if details else ""
            writes = event in ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate")
        if writes and str(path).startswith(folder) and "notes-" not in str(path):
            notes["changed"].append(f"{event} {path}")

    task.QATask.batch, Training.go = noting_batch, noting_go  # type: ignore[method-assign]
    BertForQuestionAnswering.forward = noting_forward  # type: ignore[method-assign,assignment]
    sys.addaudithook(hook)


def exchange(folder: str) -> None:
    """A patch: no pickle can be read or made, and each process gathers tensors of all kinds."""
    import pickle

    from minibert import distributed
    from minibert.train import Training

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a pickle")

    c10d: Any = import_module("torch.distributed.distributed_c10d")
    c10d._pickler = c10d._unpickler = pickle.dumps = pickle.loads = refuse  # type: ignore[assignment]
    go = Training.go

    def gathering_go(self: Any) -> None:
        n = distributed.rank() + 1
        square = torch.arange(9.0 * n * n).view(3 * n, 3 * n)
        parts = distributed.gather({"row": square[0], "column": square[:, 1], f"of {n}": square})
        found = {
            f"{i} {name}": x.tolist() for i, part in enumerate(parts) for name, x in part.items()
        }
        flags = [distributed.in_any(flag) for flag in (False, n == 2, True)]
        Path(f"{folder}/notes-{n}.json").write_text(
            json.dumps([found, distributed.total({"n": n / 10}), flags])
        )
        go(self)

    Training.go = gathering_go  # type: ignore[method-assign]


def test_what_processes_tell_each_other_is_never_a_pickle(tmp_path: Path, server: Forks) -> None:
    tiny = Tiny(tmp_path)
    ended = server.run(
        tiny.arguments(batch_size=8, epochs=1),
        processes=2,
        patches=[("test_distributed", "exchange", str(tmp_path))],
    )
    assert ended.codes == [0, 0], ended.err
    squares = [torch.arange(9.0 * n * n).view(3 * n, 3 * n) for n in (1, 2)]
    expected = {
        f"{i} {name}": x.tolist()
        for i, square in enumerate(squares)
        for name, x in {"row": square[0], "column": square[:, 1], f"of {i + 1}": square}.items()
    }
    for n in (1, 2):
        found, total, flags = json.loads((tmp_path / f"notes-{n}.json").read_text())
        assert found == expected
        assert total == {"n": 0.1 + 0.2} and flags == [False, True, True]


def test_every_example_is_computed_once_and_files_are_written_by_one_process(
    tmp_path: Path, server: Forks
) -> None:
    tiny = Tiny(tmp_path)
    ended = server.run(
        tiny.arguments(batch_size=4),
        processes=2,
        patches=[("test_distributed", "note", str(tmp_path))],
    )
    assert ended.codes == [0, 0], ended.err
    notes = [json.loads((tmp_path / f"notes-{rank}.json").read_text()) for rank in (0, 1)]

    # Each step's batch is the one that a single process would take, in two shares.
    task = tiny.task()
    batches = [
        examples
        for epoch in range(2)
        for examples in length_grouped_batches(task.lengths, 4, seed=0, epoch=epoch)
    ]
    first, second = (note["learned"] for note in notes)
    assert len(first) == len(second) == len(batches) == 20
    for mine, yours, examples in zip(first, second, batches, strict=True):
        assert sorted(mine + yours) == sorted(examples)
        assert abs(len(mine) - len(yours)) <= 1

    # The dev set's windows, once after each epoch, and about half of them in each process.
    windows = make_windows(
        tiny.dev.questions,
        load_tokenizer(tiny.weights),
        SETTINGS.max_length,
        SETTINGS.doc_stride,
        training=False,
    ).windows
    scored = Counter(tuple(row) for note in notes for row in note["scored"])
    assert scored == Counter(tuple(w.input_ids.tolist()) for w in windows for _ in range(2))
    shares = [len(note["scored"]) for note in notes]
    assert abs(shares[0] - shares[1]) <= 4

    assert len(notes[0]["changed"]) > 50
    assert notes[1]["changed"] == []
    assert ended.out[1] == ended.err[1] == ""  # and the main process alone speaks
    assert "best epoch" in ended.err[0]


# Killed, stopped, in error.


def test_two_processes_that_were_killed_go_on_to_the_same_end(
    tiny: Tiny, server: Forks, whole: Ended
) -> None:
    run, arguments, kills = tiny.folder / "killed", tiny.arguments("killed"), 0
    for share in (0.2, 0.4, 0.3):
        ended = server.run(arguments, processes=2, send=signal.SIGKILL, after=share * whole.seconds)
        arguments = ["--resume", str(run)]
        assert set(ended.codes) <= {-signal.SIGKILL, 0}
        if 0 in ended.codes:  # the machine has less to do than when `whole` was timed
            break
        kills += 1
    assert kills
    assert server.run(arguments, processes=2).codes == [0, 0]
    assert results(run) == results(tiny.folder / "whole")
    states = load_file(checkpoint.found(run)[-1] / "random.safetensors")
    assert set(states) == {"0.cpu", "1.cpu"}
    assert not torch.equal(states["0.cpu"], states["1.cpu"])  # each has its own dropout


def signal_to_one(rank: str, step: str) -> None:
    """A patch: only this process is sent SIGTERM, at this step."""
    from minibert import distributed
    from minibert.train import Training

    original = Training.step

    def stepping(self: Training, examples: list[int]) -> bool:
        if distributed.rank() == int(rank) and self.progress.step == int(step):
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, examples)

    Training.step = stepping  # type: ignore[method-assign]


@pytest.mark.parametrize(("rank", "step"), [("0", "4"), ("1", "4"), ("1", "9")])
def test_a_signal_to_one_process_stops_all_at_the_same_step(
    tiny: Tiny, server: Forks, whole: Ended, rank: str, step: str
) -> None:
    run = tiny.folder / f"signal-{rank}-{step}"
    patches = [("test_distributed", "signal_to_one", rank, step)]
    ended = server.run(tiny.arguments(run), processes=2, patches=patches)
    assert ended.codes == [130, 130], ended.err
    assert f"go on with: torchrun --nproc_per_node=2 train_qa.py --resume {run}" in ended.err[0]
    assert "stopped" not in ended.err[1]
    assert checkpoint.found(run)[-1].name == checkpoint.place(0, int(step) + 1)
    assert server.run(["--resume", str(run)], processes=2).codes == [0, 0]
    assert results(run) == results(tiny.folder / "whole")


def test_another_number_of_processes_is_refused(tiny: Tiny, server: Forks, whole: Ended) -> None:
    run = tiny.folder / "numbers"
    patches = [("test_distributed", "signal_to_one", "0", "4")]
    server.run(tiny.arguments(run), processes=2, patches=patches)
    ended = server.run(["--resume", str(run)])
    assert ended.codes == [2]
    assert "trained by 2 processes and can only be resumed by as many, not by 1" in ended.err[0]
    assert server.run(["--resume", str(run)], processes=2).codes == [0, 0]


def test_a_run_that_exists_stops_all_processes_with_one_sentence(
    tiny: Tiny, server: Forks, whole: Ended
) -> None:
    ended = server.run(tiny.arguments("whole"), processes=2)
    assert ended.codes == [2, 2]
    assert [line for line in ended.err[0].splitlines() if line.startswith("error:")] == [
        f"error: {tiny.folder}/whole exists already; go on with it by --resume "
        f"{tiny.folder}/whole, or choose another --out"
    ]
    assert ended.err[1] == ""


def full_disk(function: str) -> None:
    """A patch: the main process cannot write; in the others it would succeed."""
    from minibert import distributed, report
    from minibert import files as minibert_files

    def failing(*_: Any) -> None:
        assert distributed.is_main()
        raise UserError("F could not be written: No space left on device")

    if function == "log":
        report.Log.append = failing  # type: ignore[method-assign]
    else:
        setattr(minibert_files, function, failing)


@pytest.mark.parametrize("function", ["write_json", "write_tensors", "log"])
def test_a_main_process_that_cannot_write_stops_all(
    tiny: Tiny, server: Forks, function: str
) -> None:
    ended = server.run(
        tiny.arguments(f"full-{function}"),
        processes=2,
        patches=[("test_distributed", "full_disk", function)],
    )
    assert ended.codes == [2, 2], ended.err
    assert "error: F could not be written: No space left on device\n" in ended.err[0]
    assert "Traceback" not in "".join(ended.err)
    assert "error" not in ended.err[1]


def spoil_one(rank: str) -> None:
    """A patch: one process's share of the fourth batch has no finite loss."""
    from minibert import distributed
    from minibert.train import Training

    task: Any = import_module("minibert.qa.task")
    forward_backward, loss = Training.forward_backward, task.QATask.loss

    def spoilt(self: Any, model: Any, batch: Any) -> Any:
        value, right = loss(self, model, batch)
        return value * (float("nan") if self.is_fourth else 1.0), right

    def watching(self: Training, examples: list[int]) -> dict[str, float]:
        is_mine = distributed.rank() == int(rank)
        self.task.is_fourth = is_mine and self.progress.step == 3  # type: ignore[attr-defined]
        return forward_backward(self, examples)

    task.QATask.loss = spoilt
    Training.forward_backward = watching  # type: ignore[method-assign]


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_loss_that_is_not_finite_in_one_process_stops_all_with_the_state_before_it(
    tiny: Tiny, server: Forks, whole: Ended, rank: str
) -> None:
    run = tiny.folder / f"nan-{rank}"
    patches = [("test_distributed", "spoil_one", rank)]
    ended = server.run(tiny.arguments(run), processes=2, patches=patches)
    assert ended.codes == [2, 2], ended.err
    assert "error: the loss is nan at step 4, in the batch of Q1-" in ended.err[0]
    assert "error: process 1: the loss is nan at step 4" in ended.err[1]
    assert checkpoint.found(run)[-1].name == checkpoint.place(0, 3)
    assert server.run(["--resume", str(run)], processes=2).codes == [0, 0]
    assert results(run) == results(tiny.folder / "whole")


# As a user starts it.


def test_torchrun_stopped_by_ctrl_c_goes_on_by_the_command_it_prints(
    tmp_path: Path, server: Forks
) -> None:
    tiny = Tiny(tmp_path, n=120)  # long enough to be stopped
    assert server.run(tiny.arguments("whole"), processes=2).codes == [0, 0]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    run = tmp_path / "stopped"
    started = subprocess.Popen(
        [*torchrun, "train_qa.py", *tiny.arguments(run)],
        cwd=Path(__file__).resolve().parent.parent,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while started.poll() is None and not checkpoint.found(run):
            time.sleep(0.02)
        started.send_signal(signal.SIGINT)
        _, err = started.communicate(timeout=60)
    finally:
        started.kill()
    assert started.returncode != 0
    (command,) = re.findall(r"stopped and saved; go on with: (.*)", err)
    assert "Traceback" not in err.partition("stopped and saved")[0]
    assert not (run / "eval.json").exists()
    program, processes, script, *flags = shlex.split(command)
    assert (program, processes, script) == ("torchrun", "--nproc_per_node=2", "train_qa.py")
    assert server.run(flags, processes=2).codes == [0, 0]
    assert results(run) == results(tmp_path / "whole")
