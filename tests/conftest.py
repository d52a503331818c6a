"""What every test file may ask for."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import parity_cases
import pytest
import torch
from forked import Ended, Forks, forks
from tiny import Folder
from tiny_qa import Tiny

REPOSITORY = Path(__file__).resolve().parent.parent

# Workers of pytest-xdist, and the commands that they start, share the cores: threads that wait for
# one in the middle of a product cost more than they give.
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    threads = max(1, (os.cpu_count() or 1) // int(workers))
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Figures that tests record with `record_property("figures", …)` are shown, passed or not."""
    reports = terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
    for report in reports:
        for name, value in report.user_properties if report.when == "call" else ():
            if name == "figures":
                terminalreporter.write_line(f"{report.nodeid.rpartition('::')[2]}: {value}")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and checkpoints beside the checkout (MINIBERT_SHARED moves it)."""
    folder = Path(os.environ.get("MINIBERT_SHARED", REPOSITORY.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"needs real data and checkpoints in {folder}, which is absent")
    return folder


@pytest.fixture(scope="session")
def minilm_weights() -> Path:
    """The real all-MiniLM-L6-v2."""
    folder = REPOSITORY / "weights" / "all-MiniLM-L6-v2"
    if not (folder / "model.safetensors").is_file():
        pytest.skip(f"needs {folder}: run `python weights/fetch_minilm.py`")
    return folder


@pytest.fixture(scope="session")
def chinese(tmp_path_factory: pytest.TempPathFactory) -> parity_cases.Case:
    """The full size of bert-base-chinese with weights from numpy."""
    return parity_cases.chinese(tmp_path_factory.mktemp("chinese"))


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> parity_cases.Case:
    return parity_cases.small(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="session")
def minilm(tmp_path_factory: pytest.TempPathFactory, minilm_weights: Path) -> parity_cases.Case:
    return parity_cases.minilm(tmp_path_factory.mktemp("minilm"), minilm_weights)


@pytest.fixture
def case(request: pytest.FixtureRequest) -> parity_cases.Case:
    """The case that a test names: parametrize("case", ["chinese", …], indirect=True)."""
    found: parity_cases.Case = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="session")
def server() -> Forks:
    """Runs `train_qa.py` in processes of its own."""
    return forks()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def trained(tiny: Folder, server: Forks) -> Ended:
    """A run in `tiny.folder / "run"`."""
    ended = server.run(tiny.arguments("run"))
    assert ended.code == 0, ended.err
    return ended


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No waiting for the disk, and one thread: the models are too small to be worth a second."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def quiet() -> Iterator[None]:
    """Loading one checkpoint into every class reports much that is no news here."""
    logger = logging.getLogger("minibert")
    level = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(level)
