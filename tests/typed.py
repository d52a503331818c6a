"""Commands as their users type them."""

from __future__ import annotations

import io
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import FakeHub
from numpy_checkpoint import TINY, write_checkpoint

from minibert.cli import guard, parser

Capture = pytest.CaptureFixture[str]


class Stdin(io.TextIOWrapper):
    """Standard input that is no terminal."""

    def __init__(self, raw: bytes) -> None:
        super().__init__(io.BytesIO(raw), encoding="utf-8")


def minibert(*words: str | Path) -> int:
    """Runs a command as `minibert.cli.main` does; returns its exit code."""
    args = parser().parse_args([str(word) for word in words])
    log = logging.getLogger("minibert")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        return guard(lambda: args.run(args))
    finally:
        log.setLevel(level)


def fails(capsys: Capture, *words: str | Path) -> str:
    """The one line that a failing command prints; it must print nothing else, and exit with 2."""
    assert minibert(*words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1, captured.err
    return captured.err


def python(
    arguments: list[str], here: Path, vocabulary: Path, url: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs `python …` in the folder `here`, which gets all that is fetched, without a network.

    Args:
        vocabulary: a folder with the vocabulary of a real checkpoint; a random one of its name is
            on the hub.
        url: of a web server that has the data.
    """
    size = (vocabulary / "vocab.txt").read_bytes().count(b"\n")
    config = TINY | {"vocab_size": size, "max_position_embeddings": 512}
    weights = write_checkpoint(here / "weights", config)
    for file in ("vocab.txt", "tokenizer_config.json"):
        shutil.copy(vocabulary / file, weights)
    files = {path.name: path.read_bytes() for path in weights.iterdir()}
    name = f"google-bert/{vocabulary.name}"
    with FakeHub({name: files}, aliases={vocabulary.name: name}) as hub:
        local = {
            **{"HF_ENDPOINT": hub.url, "HF_HOME": str(here / "cache"), "HF_HUB_DISABLE_XET": "1"},
            **{"MINIBERT_DATA_URL": url, "MINIBERT_DATA": str(here / "data")},
            **{"MINIBERT_WEIGHTS": str(here / "none"), "NO_PROXY": "127.0.0.1,localhost"},
            "OMP_NUM_THREADS": "1",
        }
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=here,
            env=os.environ | local | environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
