"""One process or several: what torchrun set up, in the few words that the other rooms need.

`torchrun --nproc_per_node=2 train_qa.py …` starts the script twice and tells each copy its number
in the environment. Without torchrun there is one process, number 0 of 1, and nothing here waits.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors.torch import load, save
from torch import Tensor

from minibert.errors import UserError

T = TypeVar("T")


@contextmanager
def processes(device_type: str) -> Iterator[None]:
    """Joins the processes that torchrun started, for as long as the block runs."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if several:
        if device_type == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl" if device_type == "cuda" else "gloo")
        if not is_main():  # what the main process says is enough
            logging.getLogger("minibert").setLevel(logging.ERROR)
    try:
        yield
    except UserError as error:
        if is_main():
            raise
        raise UserError(f"process {rank()}: {error}") from None
    finally:
        if several:
            dist.destroy_process_group()


def rank() -> int:
    """The number of this process."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this is the process that prints and writes files."""
    return rank() == 0


def share(items: Sequence[T]) -> list[T]:
    """This process's part of what all of them have to do: every item is in one part."""
    return list(items[rank() :: world_size()])


def gather(part: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """The named tensors of all processes, in the order of their numbers, in every process.

    They travel as the bytes of a safetensors file and arrive on the CPU: what torch offers for any
    value (`all_gather_object`) sends a pickle.
    """
    if world_size() == 1:
        return [dict(part)]
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    # safetensors takes no tensors that are parts of the same one.
    whole = {name: x.clone(memory_format=torch.contiguous_format) for name, x in part.items()}
    mine = torch.frombuffer(bytearray(save(whole)), dtype=torch.uint8).to(device)  # (n)
    sizes = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(world_size())]
    dist.all_gather(sizes, torch.tensor([len(mine)], device=device))
    longest = int(torch.cat(sizes).max())
    padded = [mine.new_zeros(longest) for _ in sizes]
    dist.all_gather(padded, F.pad(mine, (0, longest - len(mine))))  # (n) -> (longest), of each
    return [load(x[: int(n)].cpu().numpy().tobytes()) for x, n in zip(padded, sizes, strict=True)]


def total(sums: Mapping[str, float]) -> dict[str, float]:
    """The sums of all processes added up, by name, in each of them."""
    parts = gather({name: torch.tensor(x, dtype=torch.float64) for name, x in sums.items()})
    return {name: sum(float(part[name]) for part in parts) for name in sums}


def in_any(flag: bool) -> bool:
    """Whether something holds in one of the processes at least: the same in all of them."""
    return total({"flag": flag})["flag"] > 0


def in_main(action: Callable[[], object]) -> None:
    """Does what only the main process may do, as writing a file.

    If it fails, all processes stop, so that none waits for one that is gone.

    Raises:
        UserError: in the main process, what the action raised.
        SystemExit: in the others, without a word: the main process says why.
    """
    failed: UserError | None = None
    if is_main():
        try:
            action()
        except UserError as error:
            failed = error
    if in_any(failed is not None):
        raise failed or SystemExit(2)
