"""Broken files are refused with one clear sentence; a save that fails leaves what was there."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from numpy_checkpoint import TINY, write_checkpoint

from minibert import files, weights
from minibert.config import BertConfig
from minibert.errors import UserError
from minibert.model import BertModel
from minibert.train import on_signals

SMALL = TINY | {"num_hidden_layers": 1, "vocab_size": 11}
NAME = "model.safetensors"
INDEX = "model.safetensors.index.json"


def content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def refused(directory: Path, match: str) -> str:
    """The error of loading, which is a UserError of one line."""
    with pytest.raises(UserError, match=match) as caught:
        BertModel.from_pretrained(directory)
    assert "\n" not in str(caught.value) and str(directory) in str(caught.value)
    return str(caught.value)


# ---- one broken file ------------------------------------------------------------------------


def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    file = write_checkpoint(tmp_path, SMALL) / NAME
    whole = file.read_bytes()
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    cuts = {0, 1, 7, 8, 9, header - 1, header, header + 1, len(whole) - 1, len(whole) - 4096}
    for cut in sorted(cuts | set(range(0, len(whole), 997))):
        file.write_bytes(whole[:cut])
        refused(tmp_path, f"{NAME} is not an intact safetensors file .* put a whole copy")
    file.write_bytes(whole + b"\0")
    refused(tmp_path, "not an intact safetensors file")


def test_a_damaged_header_never_gives_anything_but_a_model_or_a_user_error(tmp_path: Path) -> None:
    file = write_checkpoint(tmp_path, SMALL) / NAME
    whole = file.read_bytes()
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    draw, loaded = random.Random(0), 0
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(draw.choice([1, 1, 2, 8])):
            damaged[draw.randrange(header)] = draw.randrange(256)
        file.write_bytes(damaged)
        try:
            BertModel.from_pretrained(tmp_path)
            loaded += 1  # the harm was to a head's name, say
        except UserError:
            pass
    assert loaded < 100


@pytest.mark.parametrize("size", [0, 1, 100_000_001, 2**31, 2**62, 2**63, 2**64 - 1])
def test_a_header_that_lies_about_its_size_is_refused(tmp_path: Path, size: int) -> None:
    file = write_checkpoint(tmp_path, SMALL) / NAME
    file.write_bytes(struct.pack("<Q", size) + file.read_bytes()[8:])
    refused(tmp_path, "not an intact safetensors file")


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [4], "data_offsets": [0, 12]},
        {"dtype": "F32", "shape": [4], "data_offsets": [16, 0]},
        {"dtype": "F32", "shape": [4], "data_offsets": [8, 24]},
        {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]},
        {"dtype": "F32", "shape": [2**63, 2], "data_offsets": [0, 16]},
        {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]},
        {"dtype": "F99", "shape": [4], "data_offsets": [0, 16]},
        {"dtype": None, "shape": "four", "data_offsets": {}},
        {},
    ],
    ids=str,
)
def test_a_header_that_lies_about_a_tensor_is_refused(tmp_path: Path, entry: Any) -> None:
    header = json.dumps({"a": entry}).encode()
    write_checkpoint(tmp_path, SMALL)
    (tmp_path / NAME).write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 16)
    refused(tmp_path, "not an intact safetensors file")


def test_a_web_page_or_a_git_lfs_pointer_instead_of_weights_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, SMALL)
    for text in ("<!doctype html><title>404</title>", "version https://git-lfs.github.com/spec/v1"):
        (tmp_path / NAME).write_text(text)
        refused(tmp_path, "not an intact safetensors file")


# ---- no file, or only a pickle --------------------------------------------------------------


def test_only_a_pickle_is_refused_with_the_reason_and_the_way_out(tmp_path: Path) -> None:
    (write_checkpoint(tmp_path, SMALL) / NAME).unlink()
    ran = tmp_path / "ran"
    # What unpickling this would do: run `touch ran`.
    program = f"cposix\nsystem\n(S'touch {ran}'\ntR.".encode()
    (tmp_path / "pytorch_model.bin").write_bytes(program)
    message = refused(tmp_path, "only as pytorch_model.bin, a pickle, which can run any program")
    assert "never opened" in message and f"save_pretrained('{tmp_path}')" in message
    assert not ran.exists()


def test_a_pickle_beside_the_weights_is_not_opened(tmp_path: Path) -> None:
    (write_checkpoint(tmp_path, SMALL) / "pytorch_model.bin").write_bytes(b"\x80garbage")
    BertModel.from_pretrained(tmp_path)


def test_the_package_has_no_way_to_unpickle() -> None:
    source = "".join(path.read_text() for path in Path(files.__file__).parent.rglob("*.py"))
    for call in ("import pickle", "torch.load(", "eval(", "exec(", "shell=True", "trust_remote"):
        assert call not in source.replace(".eval(", "").replace("_eval(", ""), call


def test_no_weights_at_all_says_which_files_were_looked_for(tmp_path: Path) -> None:
    (write_checkpoint(tmp_path, SMALL) / NAME).unlink()
    refused(tmp_path, f"neither {NAME} nor {INDEX}")


# ---- an index -------------------------------------------------------------------------------


def shard(directory: Path) -> dict[str, str]:
    """A checkpoint in two files without its index; returns the right weight_map."""
    write_checkpoint(directory, SMALL)
    tensors = safetensors.torch.load_file(directory / NAME)
    (directory / NAME).unlink()
    weight_map = {}
    for i in range(2):
        part = {name: tensors[name] for name in sorted(tensors)[i::2]}
        safetensors.torch.save_file(part, directory / f"model-{i}.safetensors")
        weight_map |= dict.fromkeys(part, f"model-{i}.safetensors")
    return weight_map


@pytest.mark.parametrize(
    "file", ["model-9.safetensors", "../secret.safetensors", "/etc/passwd", "..", ".", "", "sub/x"]
)
def test_an_index_that_names_a_file_that_is_not_there_is_refused(tmp_path: Path, file: str) -> None:
    directory = tmp_path / "checkpoint"
    weight_map = shard(directory)
    # There is such a file, and it has what is asked for, but it is none of this directory.
    shutil.copy(directory / "model-0.safetensors", tmp_path / "secret.safetensors")
    (directory / "sub").mkdir()
    shutil.copy(directory / "model-0.safetensors", directory / "sub" / "x")
    name = next(iter(weight_map))
    (directory / INDEX).write_text(json.dumps({"weight_map": weight_map | {name: file}}))
    refused(directory, f"{INDEX} names {file!r}, which is not in")


def test_an_index_that_names_a_tensor_that_is_not_there_is_refused(tmp_path: Path) -> None:
    weight_map = shard(tmp_path) | {"bert.nothing": "model-1.safetensors"}
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    refused(tmp_path, f"{INDEX} promises bert.nothing, which is in none of its files")


def test_a_tensor_in_two_files_is_refused(tmp_path: Path) -> None:
    weight_map = shard(tmp_path)
    first = safetensors.torch.load_file(tmp_path / "model-0.safetensors")
    twice = min(first)
    second = safetensors.torch.load_file(tmp_path / "model-1.safetensors")
    safetensors.torch.save_file(
        second | {twice: first[twice] + 1}, tmp_path / "model-1.safetensors"
    )
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    refused(tmp_path, f"{twice} in two of the files")


def test_a_shard_that_is_cut_off_is_named(tmp_path: Path) -> None:
    weight_map = shard(tmp_path)
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    file = tmp_path / "model-1.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    refused(tmp_path, "model-1.safetensors is not an intact")


@pytest.mark.parametrize("index", [{}, {"weight_map": None}, {"weight_map": ["a"]}, [], "{"])
def test_an_index_without_a_map_is_refused(tmp_path: Path, index: Any) -> None:
    shard(tmp_path)
    (tmp_path / INDEX).write_text(index if isinstance(index, str) else json.dumps(index))
    refused(tmp_path, INDEX)


def test_an_index_from_names_to_numbers_is_refused(tmp_path: Path) -> None:
    weight_map = shard(tmp_path)
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(weight_map, 3)}))
    refused(tmp_path, "no weight_map from tensor names to files")


# ---- a save that fails ----------------------------------------------------------------------


def model(layers: int = 1) -> BertModel:
    torch.manual_seed(layers)
    return BertModel(BertConfig.from_dict(SMALL | {"num_hidden_layers": layers}))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model().save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def no_space(*_: Any, **__: Any) -> None:
    raise OSError(28, "No space left on device")


def half_written(_: Any, path: Path, **__: Any) -> None:
    Path(path).write_bytes(b"half of it")
    raise safetensors.SafetensorError("I/O error: No space left on device")


@pytest.mark.parametrize(
    ("owner", "name", "failure"),
    [
        (files, "save_file", half_written),  # the weights
        (Path, "write_text", no_space),  # config.json
        (os, "fsync", no_space),
        (Path, "mkdir", no_space),
    ],
    ids=["weights", "config", "sync", "mkdir"],
)
def test_a_save_that_fails_keeps_the_old_files_and_leaves_no_others(
    saved: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, failure: Callable[..., Any]
) -> None:
    before = content(saved)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, failure)
        with pytest.raises(UserError, match=r"could not be written: .*No space left.* is kept"):
            model(layers=3).save_pretrained(saved)
    assert content(saved) == before
    assert BertModel.from_pretrained(saved).config.num_hidden_layers == 1


def test_a_save_that_is_interrupted_keeps_the_old_files(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal arrives in the main thread, which waits for those that write."""
    write = files.as_json

    def interrupted(value: Any) -> files.Write:
        def run(path: Path) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)
            write(value)(path)

        return run

    before = content(saved)
    monkeypatch.setattr(weights.files, "as_json", interrupted)
    # A process that a shell starts in the background ignores SIGINT.
    with on_signals(signal.default_int_handler), pytest.raises(KeyboardInterrupt):
        model(layers=2).save_pretrained(saved)
    assert content(saved) == before


def test_a_system_that_cannot_sync_folders_can_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_file = os.open

    def no_folders(path: Any, *args: Any) -> int:
        if os.path.isdir(path):
            raise PermissionError(13, "Permission denied", str(path))
        return open_file(path, *args)

    monkeypatch.setattr(os, "open", no_folders)  # as on Windows
    model().save_pretrained(tmp_path)
    monkeypatch.undo()
    assert BertModel.from_pretrained(tmp_path).config.num_hidden_layers == 1


@pytest.mark.parametrize("place", ["file", "file/below", "file/far/below"])
def test_a_file_where_the_directory_should_be_is_a_user_error(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="could not be written"):
        model().save_pretrained(tmp_path / place)
    assert content(tmp_path) == {"file": b"mine"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to every folder")
def test_a_folder_that_may_not_be_written_to_is_a_user_error(saved: Path) -> None:
    before = content(saved)
    saved.chmod(0o500)
    try:
        with pytest.raises(UserError, match="Permission denied"):
            model(layers=2).save_pretrained(saved)
    finally:
        saved.chmod(0o700)
    assert content(saved) == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_may_only_be_read_is_a_user_error(small_disk: Path) -> None:
    model().save_pretrained(small_disk)
    before = content(small_disk)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(UserError, match=r"could not be written: .*Read-only file system"):
        model(layers=2).save_pretrained(small_disk)
    assert content(small_disk) == before


@pytest.mark.parametrize("layers", [3, 5, 40])
def test_a_full_disk_keeps_the_old_files_and_leaves_no_others(
    small_disk: Path, layers: int
) -> None:
    model().save_pretrained(small_disk / "m")
    before = content(small_disk / "m")
    with pytest.raises(UserError, match=r"could not be written: .*No space left"):
        while True:  # what already lies there leaves less and less
            model(layers).save_pretrained(small_disk / f"m{len(list(small_disk.iterdir()))}")
    with pytest.raises(UserError, match=r"could not be written: .*No space left"):
        model(layers=40).save_pretrained(small_disk / "m")
    assert content(small_disk / "m") == before
    left = [path.name for path in small_disk.rglob("*") if path.is_file()]
    assert set(left) == {"config.json", NAME}


def test_weights_and_config_are_renamed_together(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At no time does a reader find the new weights beside a config that is not yet written."""
    states, written = [], threading.Event()
    write, save = files.as_json, files.save_file

    def watched(value: Any) -> files.Write:
        def run(path: Path) -> None:
            assert written.wait(timeout=60)
            time.sleep(0.2)  # time enough for the weights to be synced, and wrongly renamed
            states.append((saved / NAME).read_bytes())
            write(value)(path)

        return run

    before = content(saved)[NAME]
    monkeypatch.setattr(weights.files, "as_json", watched)
    monkeypatch.setattr(
        files, "save_file", lambda *given, **named: (save(*given, **named), written.set())
    )
    model(layers=2).save_pretrained(saved)
    assert states == [before] and content(saved)[NAME] != before


def test_files_that_belong_together_are_written_at_once_and_none_is_renamed_before_all_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both, events = threading.Barrier(2), []
    sync, rename = os.fsync, Path.replace

    def write(path: Path) -> None:
        both.wait(timeout=60)  # each waits for the other
        path.write_text("new")

    monkeypatch.setattr(os, "fsync", lambda number: (events.append("sync"), sync(number)))
    monkeypatch.setattr(
        Path, "replace", lambda path, to: (events.append("rename"), rename(path, to))
    )
    files.write_whole({tmp_path / "a": write, tmp_path / "b": write})
    assert events == ["sync", "sync", "rename", "rename", "sync"]  # the last is of their folder


def test_of_two_errors_that_of_the_first_file_is_told_and_nothing_is_renamed(
    tmp_path: Path,
) -> None:
    second = threading.Event()

    def fails(path: Path) -> None:
        if path.name == "a":
            second.wait(timeout=60)
        second.set()
        raise OSError(f"of {path.name}")

    written = {tmp_path / "a": fails, tmp_path / "b": fails, tmp_path / "c": files.as_text("c")}
    with pytest.raises(UserError, match=r"a could not be written: of a; what was there is kept$"):
        files.write_whole(written)
    assert not list(tmp_path.iterdir())
