"""Freed memory stays with the process where malloc is glibc's."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

MEASURE = """
import resource, sys
import torch
from minibert.memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
torch.set_num_threads(1)
def faults():
    for _ in range(20):
        torch.empty(16 << 20).fill_(1.0)  # 64 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(-(faults() - faults()))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_a_tensor_of_64_mb_is_mapped_once_instead_of_each_time() -> None:
    def pages(how: str) -> int:
        command = [sys.executable, "-c", MEASURE, how]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert pages("keep") < 100
    assert pages("leave") > 100
