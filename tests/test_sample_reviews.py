"""`python train_cls.py` without an argument; in a file of its own, so that it goes beside the
questions' long runs."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cloned import last_command, typed
from tiny import json_of

import train_cls


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("here")


@pytest.fixture(scope="module")
def classified(here: Path) -> subprocess.CompletedProcess[str]:
    return typed(here, "train_cls.py")


def test_the_default_run_on_reviews(
    here: Path,
    classified: subprocess.CompletedProcess[str],
    record_property: Callable[[str, object], None],
) -> None:
    assert classified.stderr.startswith("no --data: the bundled sample")
    run = here / "runs/reviews-tiny-zh-0"
    settings = json_of(run / "run.json")["settings"]
    assert {name: settings[name] for name in train_cls.OWN} == train_cls.OWN
    scores = json_of(run / "eval.json")
    record_property("figures", f"accuracy {scores['accuracy']:.4f}")
    assert scores["accuracy"] > 0.55  # half is chance; the README says how little more it is
    words = ("evaluate", "--model", str(run), "--data", "sample", "--json")
    assert json.loads(typed(here, "-m", "minibert", *words).stdout) == scores


def test_the_command_that_the_run_on_reviews_shows_last_tells_the_class(
    here: Path, classified: subprocess.CompletedProcess[str]
) -> None:
    words = last_command(classified, "try it")
    assert words[1:] == [
        "minibert",
        "classify",
        "--model",
        "runs/reviews-tiny-zh-0",
        train_cls.REVIEW,
    ]
    shown = typed(here, *words).stdout
    print(shown)
    assert shown.startswith("label        positive\n")
