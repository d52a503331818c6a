"""Commands as their users type them."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import pytest

from minibert.cli import guard
from minibert.cls import commands as cls_commands
from minibert.qa import commands as qa_commands

Capture = pytest.CaptureFixture[str]


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(prog="minibert")
    commands = result.add_subparsers(required=True)
    qa_commands.add_commands(commands)
    cls_commands.add_commands(commands)
    return result


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
