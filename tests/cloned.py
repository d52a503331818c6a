"""What a clone does as it is: commands in a folder of their own, with nothing from outside."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import torch

REPOSITORY = Path(__file__).resolve().parent.parent


def typed(
    here: Path, *words: str, weights: Path | None = None, together: int = 1
) -> subprocess.CompletedProcess[str]:
    """Runs `python …` in a folder, with nothing from outside; it must succeed.

    weights: the folder of checkpoints; None: that of the repository.
    together: how many of them run at once, and share the threads: with more threads than cores a
        run was seen to take ten times as long.
    """
    for script in ("train_qa.py", "train_cls.py"):
        if not (here / script).exists():
            (here / script).symlink_to(REPOSITORY / script)
    environment = os.environ | {
        **{"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"},
        **{"HF_HOME": str(here / "cache"), "MINIBERT_DATA_URL": "http://127.0.0.1:9"},
        **{"PYTHONPATH": str(REPOSITORY), "MINIBERT_DATA": str(here / "data")},
        "MINIBERT_WEIGHTS": str(weights or REPOSITORY / "weights"),
        "OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // together)),
    }
    ended = subprocess.run(
        [sys.executable, *words],
        **{"cwd": here, "env": environment, "timeout": 900},
        **{"capture_output": True, "text": True},
    )
    assert ended.returncode == 0, ended.stderr
    return ended


def last_command(ended: subprocess.CompletedProcess[str], begin: str) -> list[str]:
    """The words of the command that a run shows last, as `python` takes them."""
    last = ended.stderr.splitlines()[-1]
    assert last.startswith(f"{begin}: minibert "), last
    return ["-m", *shlex.split(last.removeprefix(f"{begin}: "))]
