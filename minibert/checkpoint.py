"""A run that was killed goes on as if it had not been: all that its next step depends on, on disk.

That is the weights, AdamW's two moments, the scale of GradScaler, the random states (dropout
draws from them), and the place in the run. The order of the batches needs no storing: it follows
from the seed and the epoch. A checkpoint is a folder that is written under another name, synced,
and renamed: it is there whole or not at all. The newest two are kept; should a disk damage one,
its checksums tell, and the run goes on from the other, to the same end.
"""

from __future__ import annotations

import logging
import shutil
import zlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from minibert import distributed, files
from minibert.errors import UserError

log = logging.getLogger("minibert")

KEPT = 2
TENSORS = ("model.safetensors", "optimizer.safetensors", "random.safetensors")
CHUNK = 1 << 20  # bytes read at a time: few enough to stay in the cache until they are summed


@dataclass
class Progress:
    """The place in a run, and what it has seen so far."""

    epoch: int = 0
    batch: int = 0  # batches of this epoch that are done
    step: int = 0  # updates of the weights
    skipped: int = 0  # steps in a row that fp16 skipped
    epoch_sums: dict[str, float] = field(default_factory=dict)  # losses, right answers, seconds
    group_sums: dict[str, float] = field(default_factory=dict)  # the same since the last log line
    log_bytes: int = 0  # length of metrics.jsonl: lines after it are of a future that is undone
    best: dict[str, Any] = field(default_factory=dict)  # the scores of the best epoch


class Saved(NamedTuple):
    """What a checkpoint holds."""

    progress: dict[str, Any]
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    random: dict[str, Tensor]


def save(
    run: Path,
    progress: Progress,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    same_as: Path | None = None,
) -> None:
    """Writes `run/checkpoints/EPOCH-BATCH`, how many of both are done. Every process must call it;
    the main one writes.

    same_as: a checkpoint whose tensors are those of now, to take them from if they are intact.

    Raises:
        UserError: it cannot be written; the earlier checkpoints are kept.
    """
    states = distributed.gather(random_states())
    saved = Saved(
        asdict(progress) | {"scaler": scaler.state_dict()},
        {name: parameter.detach() for name, parameter in model.named_parameters()},
        moments(model, optimizer),
        {f"{rank}.{key}": x for rank, state in enumerate(states) for key, x in state.items()},
    )
    folder = folder_for(run, progress)
    distributed.in_main(lambda: write(saved, folder, same_as))


def take(source: Path, folder: Path) -> dict[str, int] | None:
    """Gives the tensors of a checkpoint to another one, by links where the disk has them; returns
    their checksums, or None where it could not, or they are not as they were written."""
    try:
        promised = files.read_json(source / "checksums.json")
        files.write_whole({folder / name: files.as_link(source / name) for name in TENSORS})
        sums = checksums(folder, TENSORS)
    except (OSError, UserError):
        return None
    return sums if sums.items() <= promised.items() else None


def place(epoch: int, batch: int) -> str:
    """The name of a checkpoint: names are in the order of time."""
    return f"{epoch:04d}-{batch:07d}"


def folder_for(run: Path, progress: Progress) -> Path:
    """Where the checkpoint of a place belongs."""
    return run / "checkpoints" / place(progress.epoch, progress.batch)


def write(saved: Saved, folder: Path, same_as: Path | None) -> None:
    """Puts a checkpoint into its folder, whole or not at all, and removes those that are too old.

    same_as: see `save`.

    Raises:
        UserError: it cannot be written; nothing that was there is lost.
    """
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        sums = take(same_as, part) if same_as else None
        if sums is None:
            files.write_tensors({part / n: x for n, x in zip(TENSORS, saved[1:], strict=True)})
            sums = checksums(part, TENSORS)
        files.write_json(part / "progress.json", saved.progress)
        sums |= checksums(part, ["progress.json"])
        files.write_json(part / "checksums.json", sums)
        discard(folder)  # of the same place, if there is one: saved before a crash, or damaged
        part.rename(folder)
        files.sync_folder(folder.parent)
        tidy(folder.parent.parent)
    except OSError as error:
        raise UserError(f"{folder} could not be written: {error}; earlier ones are kept") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)  # room for a disk that is full


def discard(folder: Path) -> None:
    """Removes a checkpoint, which is never seen half removed."""
    if folder.exists():
        away = folder.with_name(f".{folder.name}.old.part")
        shutil.rmtree(away, ignore_errors=True)
        shutil.rmtree(folder.rename(away))


def tidy(run: Path) -> None:
    """Removes checkpoints that are too old, and what a killed process was writing or removing."""
    folders = found(run)
    moved = [folder for folder, later in pairwise(folders) if is_moved(folder, later)]
    others = [folder for folder in folders if folder not in moved]
    with suppress(OSError):  # what cannot be removed does no harm
        for old in [*moved, *others[:-KEPT]]:
            discard(old)
        for part in list(run.rglob(".*.part")):  # one may be inside another
            shutil.rmtree(part, ignore_errors=True)


def is_moved(folder: Path, later: Path) -> bool:
    """Whether a later checkpoint has this one's very files: then this one is nothing of its own."""
    try:
        return all((folder / name).samefile(later / name) for name in TENSORS)
    except OSError:  # a file is missing
        return False


def found(run: Path) -> list[Path]:
    """The checkpoints of a run, the newest last."""
    return sorted(path for path in (run / "checkpoints").glob("[0-9]*-[0-9]*") if path.is_dir())


def checksums(folder: Path, names: Iterable[str]) -> dict[str, int]:
    """Of some of a checkpoint's files."""
    return {name: crc(folder / name) for name in names}


def crc(path: Path) -> int:
    """CRC-32, which is fast and sees every fault of a disk."""
    result = 0
    with path.open("rb") as file:
        while piece := file.read(CHUNK):
            result = zlib.crc32(piece, result)
    return result


def read(folder: Path) -> Saved:
    """What is in a checkpoint. Raises UserError: a file is missing, or not as it was written."""
    promised = files.read_json(folder / "checksums.json")
    try:
        there = checksums(folder, [*TENSORS, "progress.json"])
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error}") from None
    damaged = [name for name in there if there[name] != promised.get(name)]
    if damaged:
        raise UserError(f"{folder / damaged[0]} is cut off or damaged")
    progress = files.read_json(folder / "progress.json")
    if progress.keys() != {"scaler", *Progress.__dataclass_fields__}:
        raise UserError(f"{folder} is of another version of minibert")
    return Saved(progress, *(files.read_tensor_file(folder / name) for name in TENSORS))


def newest(run: Path) -> Saved | None:
    """What the newest checkpoint holds, or the one before it where that is damaged; None where
    there is none yet.

    Raises:
        UserError: none of them is intact, or they are gone.
    """
    reasons = []
    for folder in reversed(found(run)):
        try:
            return read(folder)
        except UserError as error:
            reasons.append(str(error))
            if distributed.is_main():
                log.warning("%s: looking for an older checkpoint", error)
    if not reasons and not (run / "last").exists():
        return None
    reason = reasons[0] if reasons else "its checkpoints were removed"
    raise UserError(
        f"{run} cannot be resumed: {reason}, and there is no older checkpoint to go on from; "
        "start anew with another --out"
    )


def is_finished(run: Path, epochs: int) -> bool:
    """Whether a run has nothing left to do."""
    return any(folder.name == place(epochs, 0) for folder in found(run))


def load(
    run: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> Progress:
    """Puts the newest checkpoint of a run into the model, the optimizer, the scaler and the
    random states; a run that was killed before its first checkpoint starts anew.

    Raises:
        UserError: the checkpoints are damaged, or of a run with another number of processes.
    """
    saved = newest(run)
    if saved is None:
        return Progress()
    parameters = dict(model.named_parameters())
    shapes = {name: parameter.shape for name, parameter in parameters.items()}
    if {name: tensor.shape for name, tensor in saved.model.items()} != shapes:
        raise UserError(f"{run} cannot be resumed: the model it began with has changed")
    processes = len({name.partition(".")[0] for name in saved.random})
    if processes != distributed.world_size():
        raise UserError(
            f"{run} was trained by {processes} processes and can only be resumed by as many, "
            f"not by {distributed.world_size()}"
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(saved.model[name])
            if f"{name}|step" in saved.optimizer:
                optimizer.state[parameter] = {
                    key: saved.optimizer[f"{name}|{key}"].to(parameter.device, copy=True)
                    for key in ("step", "exp_avg", "exp_avg_sq")
                }
    scaler.load_state_dict(saved.progress.pop("scaler"))
    mine = f"{distributed.rank()}."
    restore_random_states(
        {name.removeprefix(mine): x for name, x in saved.random.items() if name.startswith(mine)}
    )
    return Progress(**saved.progress)


def moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """AdamW's state, by the name of the parameter: its step count and its two moments."""
    return {
        f"{name}|{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def random_states() -> dict[str, Tensor]:
    """Of every generator that training draws from: torch's, and the GPU's where there is one."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def restore_random_states(states: dict[str, Tensor]) -> None:
    torch.set_rng_state(states["cpu"].clone())
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"].clone())


def differences(saved: dict[str, Any], given: dict[str, Any]) -> list[str]:
    """What a resumed run was started with and is asked for now, where they are not the same."""
    return [
        f"{name} was {saved.get(name)!r} and is now {given[name]!r}"
        for name in given
        if saved.get(name) != given[name]
    ]
