"""One process or several: what torchrun set up, in the few words that the other rooms need.

`torchrun --nproc_per_node=2 train_qa.py …` starts the script twice and tells each copy its number
in the environment. Without torchrun there is one process, number 0 of 1, and nothing here waits.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist

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


def gather(part: T) -> list[T]:
    """The parts of all processes, in the order of their numbers, in every process.

    A part may be any value: torch sends it as a pickle, which never touches a disk and comes from
    another process of the same run.
    """
    if world_size() == 1:
        return [part]
    parts: list[Any] = [None] * world_size()
    dist.all_gather_object(parts, part)
    return parts


def in_main(action: Callable[[], T]) -> T:
    """What an action gives that only the main process may do, as writing a file: in every process.

    If it fails, all processes stop, so that none waits for one that is gone.

    Raises:
        UserError: in the main process, what the action raised.
        SystemExit: in the others, without a word: the main process says why.
    """
    outcome: Any = None
    if is_main():
        try:
            outcome = action()
        except UserError as error:
            outcome = error
    outcome = gather(outcome)[0]
    if isinstance(outcome, UserError):
        raise outcome if is_main() else SystemExit(2)
    return outcome
