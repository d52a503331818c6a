"""What the README says of the files is so, and the package is in the order that it claims."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = [p for p in (ROOT / "minibert").rglob("*.py") if p.read_text().strip()]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def imports_of(path: Path) -> set[str]:
    """The rooms of the package that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("minibert"):
            rooms = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = {name_of(p) for p in FILES}
            found |= (rooms & modules) or {node.module}
        elif isinstance(node, ast.Import):
            found |= {a.name for a in node.names if a.name.startswith("minibert.")}
    return found


def test_the_reading_order_lists_every_file_with_its_length() -> None:
    listed = dict(re.findall(r"^\| `([\w/]+\.py)` \| (\d+) \|", README, re.MULTILINE))
    scripts = [ROOT / "train_qa.py", ROOT / "train_cls.py"]
    actual = {
        str(p.relative_to(ROOT)): len(p.read_text(encoding="utf-8").splitlines())
        for p in [*FILES, *scripts]
        if p.stem not in ("__init__", "__main__")
    }
    assert listed.keys() == actual.keys()
    wrong = {f: (int(n), actual[f]) for f, n in listed.items() if abs(int(n) - actual[f]) > 5}
    assert not wrong, "files with (length in the README, length)"


def test_the_model_stays_under_300_lines_the_loop_under_250_and_every_file_under_400() -> None:
    lengths = {name_of(p): len(p.read_text(encoding="utf-8").splitlines()) for p in FILES}
    assert lengths["minibert.model"] < 300
    assert lengths["minibert.train"] < 250
    assert max(lengths.values()) <= 400


def test_no_room_imports_what_imports_it() -> None:
    graph = {name_of(p): imports_of(p) for p in FILES}
    done: set[str] = set()
    while ready := {name for name in graph.keys() - done if graph[name] & graph.keys() <= done}:
        done |= ready
    assert done == graph.keys(), "these import each other, or stand on a circle"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_transformers_and_pickle_are_imported_nowhere_but_for_the_comparison(path: Path) -> None:
    imported = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported.add(node.module.partition(".")[0])
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) != ("torch", "load")
    allowed = {"transformers"} if path.stem == "parity" else set()
    assert not imported & ({"transformers", "pickle", "shelve", "marshal"} - allowed)


def test_the_commands_are_there_and_ci_runs_the_one_that_tests() -> None:
    commands = re.findall(r"^python3 -m venv .*$", README, re.MULTILINE)
    assert len(commands) == 3
    first = README[README.index(commands[0]) :].splitlines()
    assert first[1:3] == ["python train_qa.py", "python train_cls.py"]
    assert commands[2].endswith("&& pytest -n auto --maxprocesses 4 --dist loadfile")
    assert "'&& pytest '" in (ROOT / ".ci" / "run").read_text()
