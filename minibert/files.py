"""Files: read with an explanation of what is wrong with them, written so that none is half there.

Only text (JSON, tables) and safetensors occur. Both are plain data: reading one runs nothing. A
pickle (`pytorch_model.bin`) is a program that runs when it is read, so none is ever opened.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from minibert.errors import UserError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
# What a task saves a model as.
MODEL = (SINGLE, "config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt")


def read_text(path: Path) -> tuple[str, str]:
    """The text of a file of data, without a byte order mark, and the sha256 of its bytes.

    Raises:
        UserError: what `read_bytes` raises; the file is not UTF-8.
    """
    raw = read_bytes(path)
    return decode(raw, str(path)), hashlib.sha256(raw).hexdigest()


def read_bytes(path: Path) -> bytes:
    """A file of data as it is.

    Raises:
        UserError: there is no such file, it is a directory, or it cannot be read.
    """
    if path.is_dir():
        raise UserError(f"{path} is a directory; name one file in it")
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; check the path") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; check its permissions") from None


def decode(raw: bytes, name: str) -> str:
    """Bytes as text; Windows editors put a byte order mark in front, which is left out.

    Raises:
        UserError: they are not UTF-8.
    """
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        cut_off = error.reason == "unexpected end of data"  # within a character
        advice = "the file seems to be cut off, so get it again" if cut_off else "save it in UTF-8"
        if raw.startswith((b"\x1f\x8b", b"PK\x03\x04")):  # gzip; zip, as spreadsheets are, too
            advice = "it is packed or a spreadsheet: unpack it, or save it as CSV"
        raise UserError(
            f"{name} is not UTF-8 text: byte {error.start:,} is 0x{raw[error.start]:02x}, in line "
            f"{line:,}; {advice}"
        ) from None


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises UserError: no such file, no JSON, or no object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))  # Windows puts a mark in front
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a directory; name one JSON file in it") from None
    except (OSError, ValueError, RecursionError) as error:  # no UTF-8, no JSON, nested too deep
        raise UserError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} must hold a JSON object, not a {type(value).__name__}")
    return value


def read_tensors(directory: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint, in one file or in shards, under the names they have there.

    They are mapped from the disk, not copied: what is never used is never read.

    Raises:
        UserError: there are none, or a file is missing, cut off, corrupt, or not what its index
            says.
    """
    if (directory / SINGLE).is_file():
        return read_tensor_file(directory / SINGLE)
    if not (directory / INDEX).is_file():
        raise UserError(_why_no_tensors(directory))
    shards = _read_index(directory)
    tensors: dict[str, Tensor] = {}
    for file in sorted(set(shards.values())):
        if not os.path.isfile(directory / file):
            raise UserError(f"{directory / INDEX} names {file!r}, which is not in {directory}")
        shard = read_tensor_file(directory / file)
        if twice := sorted(tensors.keys() & shard.keys()):
            raise UserError(f"{directory} holds {twice[0]} in two of the files of its {INDEX}")
        tensors |= shard
    lost = sorted(set(shards) - set(tensors))
    if lost:
        raise UserError(f"{directory / INDEX} promises {lost[0]}, which is in none of its files")
    return tensors


def has_weights(directory: Path) -> bool:
    """Whether every file that `read_tensors` would read is there; raises UserError as it does."""
    if (directory / SINGLE).is_file():
        return True
    if not (directory / INDEX).is_file():
        return False
    return all(os.path.isfile(directory / file) for file in _read_index(directory).values())


def _read_index(directory: Path) -> dict[str, str]:
    """Which file each tensor is in, for a checkpoint in shards."""
    shards = read_json(directory / INDEX).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(f, str) for f in shards.values()):
        raise UserError(f"{directory / INDEX} has no weight_map from tensor names to files")
    for file in shards.values():  # a path could lead out of the directory
        if Path(file).name != file or "\0" in file:
            raise UserError(f"{directory / INDEX} names {file!r}, which is not in {directory}")
    return shards


def read_tensor_file(path: Path) -> dict[str, Tensor]:
    """The tensors of one safetensors file. Raises UserError: it is cut off or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} is not an intact safetensors file ({error}); it may be cut off or damaged, "
            "so put a whole copy of it in its place"
        ) from None


def _why_no_tensors(directory: Path) -> str:
    pickled = sorted(path.name for path in directory.glob("pytorch_model*.bin"))
    if not pickled:
        return (
            f"{directory} holds neither {SINGLE} nor {INDEX}, so it has no weights to read "
            "(a pickle, *.bin or *.pt, is never fetched nor opened)"
        )
    config = directory / "config.json"
    named = read_json(config).get("architectures") if config.is_file() else None
    # With another class than the checkpoint's own, transformers would drop its heads or draw new
    # ones. Google's first releases name none; they were saved with the heads of pre-training.
    model = named[0] if isinstance(named, list) and named else "BertForPreTraining"
    return (
        f"{directory} holds its weights only as {pickled[0]}, a pickle, which can run any program "
        "when it is read and so is never opened here; convert it once where you trust it: "
        f'python -c "from transformers import {model} as M; '
        f"M.from_pretrained('{directory}').save_pretrained('{directory}')\", "
        "or take a copy that has model.safetensors"
    )


Write = Callable[[Path], Any]  # writes one file, at the path that it is given, in its own thread
UNTOUCHED = "what was there is kept"


def as_tensors(tensors: Mapping[str, Tensor]) -> Write:
    # transformers wants to be told that the tensors are PyTorch's ("pt").
    return lambda path: save_file(dict(tensors), path, metadata={"format": "pt"})


def as_text(text: str) -> Write:
    return lambda path: path.write_text(text, encoding="utf-8", newline="\n")


def as_copy(source: Path) -> Write:
    return lambda path: shutil.copyfile(source, path)


def as_link(source: Path) -> Write:
    """The same bytes under a second name, without a second copy where the disk has links. Only for
    files that are replaced and never changed: what is changed under one name is under both."""

    def write(path: Path) -> None:
        path.unlink()
        try:
            os.link(source, path)
        except OSError:
            shutil.copyfile(source, path)

    return write


def as_json(value: Any) -> Write:
    return as_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def write_tensors(tensors: Mapping[Path, Mapping[str, Tensor]]) -> None:
    """Writes safetensors files, see `write_whole`. Raises UserError where it cannot."""
    write_whole({path: as_tensors(named) for path, named in tensors.items()})


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file whole or not at all. Raises UserError where it cannot."""
    write_whole({path: as_json(value)})


def write_whole(writes: Mapping[Path, Write]) -> None:
    """Writes files that belong together, each of them whole.

    All are written at once, each by a thread, into folders of their own, and synced to the disk
    before the first is renamed, so a full disk changes nothing. A reader sees every file either as
    it was or as it will be. An interrupt waits for the threads, and then nothing is renamed. A
    process that is killed leaves such a folder, `.NAME.PID.part`, with all that safetensors has
    in it: it writes under a temporary name, too.

    Raises:
        UserError: the disk is full, the folder may not be written to, and the like.
    """
    parts = {
        path: path.with_name(f".{path.name}.{os.getpid()}.part") / path.name for path in writes
    }
    try:
        # Most of the time is the system's, not the disk's: two threads take two thirds of it.
        with ThreadPoolExecutor(max(1, len(writes))) as pool:
            written = [pool.submit(_write_part, p, parts[p], write) for p, write in writes.items()]
            for one in written:
                one.result()
        rest = UNTOUCHED
        for path, part in parts.items():
            try:
                part.replace(path)
            except OSError as error:
                raise _unwritten(path, error, rest) from None
            rest = "the files before it are the new ones already"
    finally:
        for part in parts.values():
            shutil.rmtree(part.parent, ignore_errors=True)
    for folder in {path.parent for path in writes}:
        sync_folder(folder)


def _write_part(path: Path, part: Path, write: Write) -> None:
    """Writes a file where it waits to be renamed."""
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
        rights = part.stat().st_mode
        write(part)
        part.chmod(rights)  # as any new file's; safetensors lets only its owner read
        with part.open("rb+") as file:
            os.fsync(file.fileno())
    except (OSError, SafetensorError) as error:
        raise _unwritten(path, error, UNTOUCHED) from None


def _unwritten(path: Path, error: Exception, rest: str) -> UserError:
    return UserError(f"{path} could not be written: {error}; {rest}")


def sync_folder(folder: Path) -> None:
    """New names must survive a power cut too. Not every system can (Windows opens no folder)."""
    with suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def from_here(path: Path) -> str:
    """A path as one types it: from the current directory, if it lies below that."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
