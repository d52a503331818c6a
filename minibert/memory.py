"""To give memory back to the system and ask for it again costs a quarter of a training step."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc, malloc.h


def keep_freed_memory() -> None:
    """Tells glibc's malloc to keep what is freed for the next tensor of that size.

    A CPU's tensors of more than 32 MB would otherwise be mapped anew each time, page by page and
    filled with zeros: see `bench/README.md`.
    Does nothing where the C library is another one.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "gnu_get_libc_version"):
        libc.mallopt(M_MMAP_MAX, 0)  # no mappings of their own for large tensors
        libc.mallopt(M_TRIM_THRESHOLD, -1)  # and none of the heap given back
