"""A run that was killed or stopped at any moment goes on to the very end it would have come to."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import Ended, Forks, error_of
from tiny import killed_runs, records
from tiny_qa import Tiny, results
from torch import Tensor

from minibert import checkpoint, files, runs
from minibert.errors import UserError
from minibert.train import AT_ONCE, Training


@pytest.fixture(scope="module")
def whole(tiny: Tiny, server: Forks) -> Ended:
    """A run that nothing happened to, in `tiny.folder / "whole"`."""
    ended = server.run(tiny.arguments("whole"))
    assert ended.code == 0, ended.err
    return ended


@pytest.fixture(scope="module")
def halfway(tiny: Tiny, server: Forks) -> Path:
    """A run that was killed in its second epoch, between two checkpoints."""
    ended = server.run(
        tiny.arguments("halfway"), patches=[die("minibert.train", "Training.step", 18)]
    )
    assert ended.code == -signal.SIGKILL, ended.err
    assert len(checkpoint.found(tiny.folder / "halfway")) == 2
    return tiny.folder / "halfway"


@pytest.fixture
def stopped(halfway: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(halfway, tmp_path / "run"))


def tree(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file, its content and when it was written."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def resume(server: Forks, run: Path, *flags: str) -> Ended:
    return server.run(["--resume", str(run), *flags])


def assert_whole(tiny: Tiny, run: Path) -> None:
    """The run has come to the end of the one that nothing happened to."""
    assert results(run) == results(tiny.folder / "whole")
    names, wanted = (
        {str(path.relative_to(folder)) for path in folder.rglob("*")}
        for folder in (run, tiny.folder / "whole")
    )
    assert names == wanted  # the same checkpoints too, and no part of a file is left


# Killed.


def die(
    module: str, name: str, number: int = 1, by: signal.Signals = signal.SIGKILL
) -> tuple[str, ...]:
    """A patch: the process kills itself where this function would be called for the nth time."""
    return ("test_resume", "kill_at", module, name, str(number), by.name)


def kill_at(module: str, name: str, number: str, by: str) -> None:
    owner = import_module(module)
    *path, function = name.split(".")
    for part in path:
        owner = getattr(owner, part)
    original, calls = getattr(owner, function), itertools.count(1)

    def counting(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == int(number):
            os.kill(os.getpid(), signal.Signals[by])
        return original(*args, **kwargs)

    setattr(owner, function, counting)


def tear(number: str) -> None:
    """A patch: the nth tensor file of this life is half written when the process is killed, under
    the temporary name that safetensors gives it. Files that belong together are written at once, so
    it may be any of them."""
    files = import_module("minibert.files")
    original, calls = files.save_file, itertools.count(1)

    def torn(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
        original(tensors, path, metadata=metadata)
        if next(calls) == int(number):
            os.truncate(path, path.stat().st_size // 2)
            path.rename(path.with_name(".tmpQ1w2E3"))
            os.kill(os.getpid(), signal.SIGKILL)

    files.save_file = torn


def test_killed_at_20_random_times_it_comes_to_the_same_end_byte_for_byte(
    tiny: Tiny, server: Forks, whole: Ended
) -> None:
    for run in killed_runs(server, tiny, kills=20, seconds=whole.seconds, seed=20):
        assert_whole(tiny, run)


def half_removed() -> None:
    """A patch: the process is killed when one file of an old checkpoint is gone."""
    original = shutil.rmtree

    def removing(path: Path, *rest: Any, **more: Any) -> None:
        if str(path).endswith(".old.part") and Path(path).exists():
            next(Path(path).iterdir()).unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        original(path, *rest, **more)

    shutil.rmtree = removing  # type: ignore[assignment]


# Each is the moment at which one life of the run ends; the next one begins with the checkpoint
# that is there then: epoch and batch. A checkpoint is due every 3 steps and an epoch has 10.
MOMENTS = {
    "before the first step": (die("minibert.train", "Training.step"), None),
    "inside the backward pass": (die("torch", "Tensor.backward", 2), None),
    "inside an epoch": (die("torch.optim", "AdamW.step", 5), (0, 3)),
    "in a save, before the first file": (die("minibert.files", "write_tensors", 1), (0, 3)),
    "in a save, inside one of its files": (("test_resume", "tear", "2"), (0, 3)),
    "in the next save, inside the last of its files": (("test_resume", "tear", "6"), (0, 6)),
    "in a save, at the checksums": (die("minibert.checkpoint", "checksums", 2), (0, 6)),
    "in a save, before the last renaming": (die("pathlib", "Path.rename", 1), (0, 6)),
    "in a save, after it": (die("minibert.checkpoint", "tidy", 1), (0, 9)),
    "in a save, while an old one is removed": (("test_resume", "half_removed"), (0, 10)),
    "in the evaluation": (die("minibert.qa.task", "answer"), (0, 10)),
    "when its scores are in the log": (die("minibert.train", "Training.keep"), (0, 10)),
    "inside the last model's tensors": (("test_resume", "tear", "1"), (0, 10)),
    "inside the last model": (die("minibert.tokenizer", "write_whole", 1), (0, 10)),
    "between the last model and the best": (die("minibert.files", "write_whole", 2), (0, 10)),
    "when both are there": (die("minibert.files", "write_whole", 3), (0, 10)),
    "before the checkpoint of an epoch's end": (die("minibert.checkpoint", "write", 1), (0, 10)),
    "in that, between its links": (die("os", "link", 2), (0, 10)),
    "when it has moved, and is still where it was": (die("minibert.checkpoint", "tidy", 1), (1, 0)),
    "when the next epoch has begun": (die("minibert.train", "Training.step", 2), (1, 0)),
    "before the line of an epoch's last steps": (die("minibert.report", "Log.append", 1), (1, 8)),
    "after it": (die("minibert.train", "Training.save", 1), (1, 8)),
    "inside the second epoch": (die("minibert.train", "Training.step", 2), (1, 8)),
    "before the run's last checkpoint": (die("minibert.checkpoint", "write", 2), (1, 10)),
}


def test_killed_in_every_part_of_an_epoch_and_of_a_save_it_comes_to_the_same_end(
    tiny: Tiny, server: Forks, whole: Ended
) -> None:
    run = tiny.folder / "moments"
    arguments = tiny.arguments("moments")
    for moment, (patch, place) in MOMENTS.items():
        ended = server.run(arguments, patches=[patch])
        assert ended.code == -signal.SIGKILL, (moment, ended.err)
        newest = checkpoint.found(run)[-1].name if checkpoint.found(run) else None
        assert newest == (checkpoint.place(*place) if place else None), moment
        arguments = ["--resume", str(run)]
    assert resume(server, run).code == 0
    assert_whole(tiny, run)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("n_steps", [1, 9, 10, 14])
def test_stopped_after_any_step_it_goes_on_in_every_precision(
    tmp_path: Path, precision: str, n_steps: int, quick: None
) -> None:
    tiny = Tiny(tmp_path)
    recipe = {"precision": precision, "accumulation": 2, "save_every": 1000}
    # In fp16 the scale that gradients are multiplied with is a part of the state. So that it is
    # not what it was at the start, steps 3 and 12 overflow; batches are told by their place.
    overflow = (0, 2), (1, 1)

    def run(name: str, stop: int, **more: Any) -> Training:
        training = tiny.training(name, **recipe, **more)
        loss, step = training.task.loss, training.step

        def spoilt(model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
            value, right = loss(model, batch)
            place = (training.progress.epoch, training.progress.batch)
            return value * (float("inf") if precision == "fp16" and place in overflow else 1), right

        def stopping(examples: list[int]) -> bool:
            is_step = step(examples)
            nonlocal stop
            stop -= 1
            training.stop = stop == 0
            return is_step

        training.task.loss = spoilt  # type: ignore[method-assign]
        training.step = stopping  # type: ignore[method-assign]
        return training

    run("whole", stop=-1).go()
    with pytest.raises(KeyboardInterrupt):
        run("stopped", stop=n_steps).go()
    torch.manual_seed(999)
    again = run("stopped", stop=-1, resume=True)
    assert again.progress.epoch * 10 + again.progress.batch == n_steps
    again.go()
    assert again.progress.step == (18 if precision == "fp16" else 20)
    assert results(tmp_path / "stopped") == results(tmp_path / "whole")


# Stopped.


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_printed_command_goes_on(
    tiny: Tiny, server: Forks, whole: Ended, number: signal.Signals
) -> None:
    run = tiny.folder / f"a run stopped by {number.name}"  # a name that a shell must be told of
    arguments = tiny.arguments(run, save_every=1000)
    ended = server.run(arguments, patches=[die("minibert.train", "Training.step", 4, number)])
    assert ended.code == 130, ended.err
    assert "Traceback" not in ended.err[0]
    (command,) = re.findall(r"stopped and saved; go on with: (.*)", ended.err[0])
    python, script, *flags = shlex.split(command)
    assert (python, script) == ("python", "train_qa.py")
    (saved,) = checkpoint.found(run)  # though no checkpoint was due for 1000 steps
    assert saved.name.startswith("0000-") and not saved.name.endswith("-0000000")
    assert server.run(flags).code == 0
    # save_every, which is in run.json, decides which checkpoints are left at the end.
    assert results(run) == results(tiny.folder / "whole")


def slow_evaluation() -> None:
    """A patch: answering the dev questions takes a minute."""
    module: Any = import_module("minibert.qa.task")
    module.answer = lambda *_, **__: time.sleep(60)


def test_a_signal_during_an_evaluation_is_not_kept_waiting(
    tiny: Tiny, server: Forks, whole: Ended
) -> None:
    run = tiny.folder / "evaluation"
    ended = server.run(
        tiny.arguments(run),
        patches=[("test_resume", "slow_evaluation")],
        send=signal.SIGTERM,
        after=whole.seconds + 1,
    )
    assert ended.code == 130, ended.err
    assert ended.seconds < whole.seconds + 10
    assert "stopped and saved" in ended.err[0]
    assert resume(server, run).code == 0
    assert_whole(tiny, run)


def test_a_second_signal_does_not_wait_for_the_step() -> None:
    training = Training.__new__(Training)
    training.stop = False
    training.on_signal(signal.SIGINT, None)
    assert training.stop
    with pytest.raises(KeyboardInterrupt) as raised:
        training.on_signal(signal.SIGINT, None)
    assert str(raised.value) == AT_ONCE


@pytest.mark.parametrize(
    ("raised", "says"), [((), "stopped and saved"), ((AT_ONCE,), "is not saved")]
)
def test_what_is_not_saved_is_not_said_to_be(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, raised: tuple[str, ...], says: str
) -> None:
    training = Training.__new__(Training)
    training.run = tmp_path

    def stop() -> None:
        raise KeyboardInterrupt(*raised)

    training.go = stop  # type: ignore[method-assign]
    goal = runs.Goal("train_qa.py", lambda *_: training, lambda *_: [])
    assert runs.fine_tune({"device": "cpu"}, goal) == 130
    assert f"{says}; go on with: python train_qa.py --resume" in capsys.readouterr().err


# Resumed in other circumstances.


@pytest.mark.parametrize(
    ("flags", "difference"),
    [
        (["--lr", "0.5"], "lr was 0.001 and is now 0.5"),
        (["--seed", "1"], "seed was 0 and is now 1"),
        (["--batch-size", "8", "--limit", "3"], "batch_size was 4 and is now 8; limit was None"),
        (["--precision", "bf16"], "precision was 'fp32' and is now 'bf16'"),
        (["--compile"], "compile was False and is now True"),
        (["--data", "squad"], "data was None and is now 'squad'"),
        (["--out", "elsewhere"], "out was"),
    ],
)
def test_other_settings_are_refused_by_name(
    server: Forks, stopped: Path, flags: list[str], difference: str
) -> None:
    before = tree(stopped)
    ended = resume(server, stopped, *flags)
    assert ended.code == 2
    assert ended.err[0].startswith("error:") and difference in ended.err[0]
    assert ended.err[0].count("\n") == 1
    assert tree(stopped) == before


@pytest.mark.parametrize(
    ("changed", "lost", "says"),
    [
        ({}, ("epochs", "lr"), "is damaged: its settings lack epochs, lr"),
        ({"head_tail": False}, ("doc_stride",), "python train_cls.py --resume"),
        ({}, ("doc_stride",), "is no run of train_qa.py"),
    ],
)
def test_a_run_that_is_damaged_or_of_another_script_is_refused(
    server: Forks,
    stopped: Path,
    tmp_path: Path,
    changed: dict[str, Any],
    lost: tuple[str, ...],
    says: str,
) -> None:
    facts = json.loads((stopped / "run.json").read_text(encoding="utf-8"))
    facts["settings"] = {k: v for k, v in facts["settings"].items() if k not in lost} | changed
    (tmp_path / "run.json").write_text(json.dumps(facts), encoding="utf-8")
    assert says in error_of(resume(server, tmp_path))


def test_the_same_settings_may_be_given_again(
    tiny: Tiny, server: Forks, whole: Ended, stopped: Path
) -> None:
    flags = ["--lr", "0.001", "--precision", "auto", "--device", "cpu", "--out", str(stopped)]
    assert resume(server, stopped, *flags).code == 0
    assert_whole(tiny, stopped)


@pytest.mark.parametrize("part", ["train", "dev"])
def test_other_data_is_refused_by_name(
    tiny: Tiny, server: Forks, stopped: Path, tmp_path: Path, part: str
) -> None:
    file = tmp_path / "changed.json"
    file.write_text((tiny.folder / f"{part}.json").read_text(encoding="utf-8") + "\n", "utf-8")
    facts = json.loads((stopped / "run.json").read_text(encoding="utf-8"))
    facts["settings"][part] = str(file)
    (stopped / "run.json").write_text(json.dumps(facts), encoding="utf-8")
    before = tree(stopped)
    ended = resume(server, stopped)
    assert ended.code == 2
    assert f"{file} is no longer the {part} data that {stopped} began with" in ended.err[0]
    assert tree(stopped) == before


def test_a_finished_run_says_so_and_is_left_as_it_is(
    tiny: Tiny, server: Forks, whole: Ended, tmp_path: Path
) -> None:
    before = tree(tiny.folder / "whole")
    ended = resume(server, tiny.folder / "whole")
    assert ended.code == 0
    assert "whole is finished" in ended.err[0]
    assert tree(tiny.folder / "whole") == before
    # even where its data and weights are gone
    run = Path(shutil.copytree(tiny.folder / "whole", tmp_path / "run"))
    text = (run / "run.json").read_text(encoding="utf-8")
    (run / "run.json").write_text(text.replace(str(tiny.folder), "/gone"), encoding="utf-8")
    assert resume(server, run).code == 0


def test_what_is_no_run_is_refused(server: Forks, stopped: Path, tmp_path: Path) -> None:
    (stopped / "run.json").write_text('{"settings": 3}', encoding="utf-8")
    for path, why in (
        (tmp_path / "nowhere", "is no run to resume: it has no run.json"),
        (tmp_path, "is no run to resume: it has no run.json"),
        (stopped, "has no settings"),
    ):
        ended = resume(server, path)
        assert ended.code == 2
        assert why in ended.err[0] and ended.err[0].count("\n") == 1


def test_without_a_checkpoint_a_run_begins_anew_unless_it_had_one(
    tiny: Tiny, server: Forks, whole: Ended, stopped: Path, tmp_path: Path
) -> None:
    shutil.rmtree(stopped / "checkpoints")
    before = tree(stopped)
    ended = resume(server, stopped)  # it has results of its first epoch, which stay
    assert ended.code == 2
    assert "its checkpoints were removed" in ended.err[0]
    assert tree(stopped) == before
    shutil.rmtree(stopped / "last")  # now it looks as if it had been killed before its first save
    assert resume(server, stopped).code == 0
    assert_whole(tiny, stopped)


# Damaged.


def cut_off(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1 - len(content) // 3] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut_off, flip_a_bit, Path.unlink])
@pytest.mark.parametrize("file", [*checkpoint.TENSORS, "progress.json", "checksums.json"])
def test_a_damaged_checkpoint_is_seen_and_the_one_before_it_leads_to_the_same_end(
    tiny: Tiny,
    server: Forks,
    whole: Ended,
    stopped: Path,
    file: str,
    damage: Callable[[Path], None],
) -> None:
    older, newer = checkpoint.found(stopped)
    newest = newer / file
    damage(newest)
    with pytest.raises(UserError, match=newest.parent.name):
        checkpoint.read(newest.parent)
    saved = checkpoint.newest(stopped)
    assert saved is not None and saved.progress == checkpoint.read(older).progress
    if file == "model.safetensors":  # the whole way, for each kind of damage
        ended = resume(server, stopped)
        assert ended.code == 0
        assert str(newest.parent) in ended.err[0] and "older checkpoint" in ended.err[0]
        assert_whole(tiny, stopped)


def test_where_both_checkpoints_are_damaged_nothing_is_touched(
    server: Forks, stopped: Path
) -> None:
    for folder in checkpoint.found(stopped):
        cut_off(folder / "model.safetensors")
    before = tree(stopped)
    ended = resume(server, stopped)
    assert ended.code == 2
    last = ended.err[0].splitlines()[-1]
    assert last.startswith("error:") and "model.safetensors is cut off or damaged" in last
    assert tree(stopped) == before


def test_a_checkpoint_of_another_model_is_refused(tiny: Tiny, stopped: Path, quick: None) -> None:
    training = tiny.training("other")
    training.model.qa_outputs = torch.nn.Linear(24, 3)
    with pytest.raises(UserError, match="the model it began with has changed"):
        checkpoint.load(stopped, training.model, training.optimizer, training.scaler)


# How a checkpoint is written.


def test_a_checkpoint_is_synced_whole_before_it_gets_its_name(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = tiny.training("synced")
    events: list[tuple[str, str]] = []
    fsync, rename, replace = os.fsync, Path.rename, Path.replace

    def name_of(number: int) -> str:
        return Path(os.readlink(f"/proc/self/fd/{number}")).name

    def noted(kind: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def move(path: Path, target: Path) -> Any:
            events.append((kind, target.name))
            return original(path, target)

        return move

    monkeypatch.setattr(os, "fsync", lambda n: (events.append(("sync", name_of(n))), fsync(n))[1])
    monkeypatch.setattr(Path, "rename", noted("name", rename))
    monkeypatch.setattr(Path, "replace", noted("name", replace))
    training.save()
    folder = "0000-0000000"
    (final,) = [i for i, event in enumerate(events) if event == ("name", folder)]
    for file in (*checkpoint.TENSORS, "progress.json", "checksums.json"):
        (named,) = [i for i, event in enumerate(events) if event == ("name", file)]
        synced = [i for i, (kind, name) in enumerate(events) if kind == "sync" and file in name]
        assert synced and synced[0] < named < final
    assert ("sync", f".{folder}.part") in events[:final]  # the names of its files
    assert events[final + 1 :] == [("sync", "checkpoints")]  # its own name
    assert {path.suffix for path in (tiny.folder / "synced/checkpoints" / folder).iterdir()} == {
        ".json",
        ".safetensors",
    }


def test_two_checkpoints_are_kept(tiny: Tiny, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    training = tiny.training("kept", epochs=1, save_every=1)
    kept: list[list[str]] = []
    write = checkpoint.write

    def writing(*given: Any) -> None:
        write(*given)
        folder = tiny.folder / "kept/checkpoints"
        kept.append(sorted(path.name for path in folder.iterdir()))

    monkeypatch.setattr(checkpoint, "write", writing)
    training.go()
    names = [f"0000-{batch:07d}" for batch in range(1, 11)]
    steps = [names[max(0, i - 1) : i + 1] for i in range(10)]
    assert kept == [*steps, ["0000-0000009", "0001-0000000"]]  # the last of them has moved


@pytest.mark.parametrize("links", [True, False])  # not every disk has them
@pytest.mark.parametrize("damage", [None, cut_off, Path.unlink])
def test_past_the_evaluation_a_checkpoint_moves_on_unless_it_is_damaged(
    tiny: Tiny,
    quick: None,
    monkeypatch: pytest.MonkeyPatch,
    links: bool,
    damage: Callable[[Path], None] | None,
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", no_link)
    written: list[str] = []
    write_tensors = files.write_tensors

    def writing(tensors: dict[Path, dict[str, Tensor]]) -> None:
        written.extend(path.parent.name for path in tensors)
        write_tensors(tensors)

    monkeypatch.setattr(files, "write_tensors", writing)
    training = tiny.training(f"moved-{links}-{damage}", epochs=1, save_every=1000)
    scored = training.run / "checkpoints/0000-0000010"
    end_epoch = training.end_epoch

    def ending() -> None:
        end_epoch()
        if damage is not None:
            damage(scored / "optimizer.safetensors")

    training.end_epoch = ending  # type: ignore[method-assign]
    training.go()
    once = [".0000-0000010.part"] * 3
    assert written == (once if damage is None else [*once, *[".0001-0000000.part"] * 3])
    moved = links and damage is None
    names = [path.name for path in checkpoint.found(training.run)]
    assert names == (["0001-0000000"] if moved else ["0000-0000010", "0001-0000000"])
    saved = checkpoint.read(training.run / "checkpoints/0001-0000000")
    assert saved.progress["epoch"] == 1 and saved.progress["best"]["epoch"] == 1
    for name, parameter in training.model.named_parameters():
        assert torch.equal(saved.model[name], parameter)


def no_link(*_: Any) -> None:
    raise OSError("this disk has no links")


def test_a_run_whose_last_checkpoint_was_damaged_ends_with_the_right_one(
    tiny: Tiny, quick: None
) -> None:
    training = tiny.training("mended", epochs=1, save_every=3)
    training.go()
    last = training.run / "checkpoints/0001-0000000"
    before = {name: (last / name).read_bytes() for name in checkpoint.TENSORS}
    cut_off(last / "model.safetensors")
    tiny.training("mended", resume=True, epochs=1, save_every=3).go()
    assert {name: (last / name).read_bytes() for name in checkpoint.TENSORS} == before
    checkpoint.read(last)  # and its checksums are those of its files


def test_a_checkpoint_that_lost_a_file_does_not_stop_the_clearing_away(
    tiny: Tiny, quick: None
) -> None:
    training = tiny.training("lost", epochs=1, save_every=3)
    (training.run / "checkpoints/0000-0000001").mkdir(parents=True)  # without any file
    (training.run / "checkpoints/.0000-0000002.part").mkdir()
    training.go()
    names = sorted(path.name for path in (training.run / "checkpoints").iterdir())
    assert names == ["0000-0000009", "0001-0000000"]


def test_what_a_killed_process_was_writing_is_cleared_away(
    tiny: Tiny, server: Forks, whole: Ended, stopped: Path
) -> None:
    for part in (
        *(".model.safetensors.77.part", "last/.model.safetensors.77.part"),
        "checkpoints/.0001-0000009.part",
        "checkpoints/.0001-0000009.part/.model.safetensors.77.part",
        "checkpoints/.0000-0000003.old.part",
    ):
        (stopped / part).mkdir()
        (stopped / part / ".tmpQ1w2E3").write_bytes(b"half")
    assert resume(server, stopped).code == 0
    assert_whole(tiny, stopped)


# A full disk.


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 3 megabytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=3m", "minibert-test", str(disk)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"needs the right to mount a small disk: {error}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("room", [0, 100_000])
def test_a_full_disk_is_one_sentence_and_nothing_saved_is_lost(
    tiny: Tiny, server: Forks, whole: Ended, halfway: Path, small_disk: Path, room: int
) -> None:
    run = Path(shutil.copytree(halfway, small_disk / "run"))
    with (small_disk / "ballast").open("wb") as ballast:
        free = shutil.disk_usage(small_disk).free
        ballast.write(bytes(free - room))
    before = {folder.name: tree(folder) for folder in checkpoint.found(run)}
    best = tree(run / "last") | {"model": tree(run)["model.safetensors"]}
    ended = resume(server, run)
    error = error_of(ended)
    assert "could not be written" in error and "No space left" in error
    assert {folder.name: tree(folder) for folder in checkpoint.found(run)} == before
    assert tree(run / "last") | {"model": tree(run)["model.safetensors"]} == best
    (small_disk / "ballast").unlink()
    assert resume(server, run).code == 0
    assert_whole(tiny, run)


def test_lines_of_the_log_that_no_checkpoint_knows_are_written_once(
    tiny: Tiny, quick: None
) -> None:
    """Killed twice between two checkpoints, with a line in between: no line is there twice, and
    none is cut."""
    training = tiny.training("log", epochs=1)
    training.save()
    training.log.write({"epoch": 1, "loss": 1.0})
    again = tiny.training("log", epochs=1, resume=True)
    again.save()
    again.log.write({"epoch": 1, "loss": 2.0})
    last = tiny.training("log", epochs=1, resume=True)
    last.log.write({"epoch": 1, "loss": 3.0})
    assert records(tiny.folder / "log") == [{"epoch": 1, "loss": 3.0}]
    assert last.progress.log_bytes == (tiny.folder / "log/metrics.jsonl").stat().st_size


def test_a_log_that_was_removed_begins_anew(server: Forks, stopped: Path) -> None:
    (stopped / "metrics.jsonl").write_text("")
    assert resume(server, stopped).code == 0
    rows = records(stopped)
    assert [row["epoch"] for row in rows if "f1" in row][-1] == 2
    assert all(row.keys() >= {"epoch"} for row in rows)
