"""What the documents name is there: files, links, functions, commands, flags and figures."""

from __future__ import annotations

import contextlib
import doctest
import importlib.util
import io
import json
import re
import runpy
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from minibert import cli

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    *sorted((ROOT / "docs").glob("*.md")),
    *(
        ROOT / folder / "README.md"
        for folder in (".", "bench", "weights", "weights/tiny-zh", "minibert/samples")
    ),
]
SCRIPTS = sorted(path for path in (ROOT / "bench").glob("*.py"))
COMMANDS = [
    str(path.relative_to(ROOT))
    for path in [*ROOT.glob("train_*.py"), *(ROOT / "weights").glob("*.py"), *SCRIPTS]
    if "parse_args" in path.read_text(encoding="utf-8")
]
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z_-]*")
OF_OTHERS = {"--nproc_per_node", "--no-deps", "--index-url"}  # of torchrun and pip

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


@pages
def test_links_and_named_files_are_there(page: Path) -> None:
    text = read(page)
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]
    absent = [link for link in links if not (page.parent / link).exists()]
    named = re.findall(
        r"(?<![\w/.-])(?:minibert|tests|bench|docs|weights)/[\w/.-]+\.(?:py|md)", text
    )
    absent += [name for name in named if not (ROOT / name).is_file()]
    assert not absent


@pages
def test_a_name_said_to_be_in_a_file_is_in_it(page: Path) -> None:
    pairs = re.findall(r"`(\w+)`\s+in\s+`([\w/]+\.py)`", read(page))
    absent = [
        (name, file)
        for name, file in pairs
        if not re.search(rf"^(def|class) {name}\b|^{name}\b.* = ", read(ROOT / file), re.MULTILINE)
    ]
    assert not absent


@pytest.fixture(scope="module")
def helps() -> dict[str, str]:
    """What each command prints for --help; in this process, which has imported torch already."""
    texts = {}
    for name in COMMANDS:
        if not name.startswith("bench/reference_") or importlib.util.find_spec("transformers"):
            texts[name] = help_of(
                lambda name=name: runpy.run_path(str(ROOT / name), {}, "__main__")
            )
    listed = help_of(lambda: cli.main(["--help"]))
    for word in re.findall(r"^    ([a-z][a-z-]+)", listed, re.MULTILINE):
        texts[f"minibert {word}"] = help_of(lambda word=word: cli.main([word, "--help"]))
    return texts


def help_of(command: Callable[[], object]) -> str:
    printed = io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(printed),
        pytest.raises(SystemExit) as ended,
    ):
        patch.setattr(sys, "argv", ["command", "--help"])
        command()
    assert ended.value.code == 0
    return printed.getvalue()


def commands_of(text: str) -> Iterator[list[str]]:
    """The words of every command in the page's shell blocks and in `code` that begins like one."""
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"`((?:python|minibert) [^`]+)`", text)
    for line in lines:
        words = shlex.split(line, comments=True)
        ends = [i for i, word in enumerate(words) if word in ("&&", ";", "|")]
        for start, end in zip([0, *(i + 1 for i in ends)], [*ends, len(words)], strict=True):
            yield words[start:end]


def name_of(words: list[str]) -> str | None:
    """What `helps` calls a command; None if it is none of ours."""
    for i, word in enumerate(words[:-1]):
        if word in ("python", "minibert") or word.startswith("torchrun"):
            rest = [w for w in words[i + 1 :] if not w.startswith("--nproc")]
            name = f"minibert {rest[0]}" if word == "minibert" else rest[0]
            return name if name in COMMANDS or word == "minibert" else None
    return None


@pages
def test_commands_have_the_flags_that_they_are_given(page: Path, helps: dict[str, str]) -> None:
    unknown = []
    for words in commands_of(read(page)):
        name = name_of(words)
        if name is None or (name.startswith("bench/reference_") and name not in helps):
            continue
        assert name in helps, f"there is no command {name}"
        flags = {word.partition("=")[0] for word in words if word.startswith("--")} - OF_OTHERS
        unknown += [(name, flag) for flag in flags if flag not in FLAG.findall(helps[name])]
    assert not unknown


@pages
def test_flags_in_the_text_are_of_some_command(page: Path, helps: dict[str, str]) -> None:
    # Where transformers is not installed the scripts that import it cannot print their help.
    unprinted = [read(path) for path in SCRIPTS if str(path.relative_to(ROOT)) not in helps]
    known = {flag for text in [*helps.values(), *unprinted] for flag in FLAG.findall(text)}
    in_text = {
        flag for code in re.findall(r"`([^`\n]+)`", read(page)) for flag in FLAG.findall(code)
    }
    assert in_text - OF_OTHERS <= known


def test_every_script_of_bench_is_described(helps: dict[str, str]) -> None:
    described = re.findall(
        r"^\| `(bench/\w+\.py)` \|", read(ROOT / "bench/README.md"), re.MULTILINE
    )
    assert described and set(described) == {f"bench/{path.name}" for path in SCRIPTS}
    for name in set(described) & helps.keys():
        assert helps[name].startswith("usage:")


def test_the_index_names_every_page() -> None:
    index = read(ROOT / "docs/README.md")
    names = {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert names == set(re.findall(r"\]\(([\w-]+\.md)\)", index))


def numbers_in(value: object) -> Iterator[float]:
    if isinstance(value, (dict, list)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from numbers_in(part)
    elif isinstance(value, (int, float)):
        yield value


MEASURED = {  # page: where its measured tables begin and end, and the files of their figures
    "chinese-tokenisation": ("# Which", "## What else helps", ["tokenisation", "words"]),
    "long-texts": ("# What", "Not done here", ["tokenisation"]),
    "cased-and-uncased": ("# Cased", "## Korean", ["tokenisation", "probe-cased", "sst2-0"]),
    "bert-and-lstm": (
        "# BERT",
        "So pre-training",
        [
            *(
                f"{name}-{seed}"
                for name in ("lstm-sst2", "sst2-paper", "sst2-r-drop", "reference-sst2-paper")
                for seed in range(3)
            ),
            *("sst2-0", "sst2-1"),
            *(f"sst2-mean-{pair}-masks" for pair in ("0-1", "2-3", "4-5")),
        ],
    ),
    "why-the-course-notebook-failed": (
        "## How many labels",
        "## The ablation",
        ["labels-cased-256", "labels-minilm-384"],
    ),
}


@pytest.mark.parametrize("name", MEASURED)
def test_the_figures_in_the_tables_are_the_measured_ones(name: str) -> None:
    begin, end, files = MEASURED[name]
    paths = [ROOT / f"bench/results/{file}.json" for file in files]
    measured = {x for path in paths for x in numbers_in(json.loads(read(path)))}
    text = read(ROOT / f"docs/{name}.md")
    text = text[text.index(begin) : text.index(end)]
    rows = [line.split("|")[2:-1] for line in text.splitlines() if line.startswith("|")]
    # 1,234 or 1.23 alone in a cell or before a bracket; 1.23% in one
    figure = re.compile(r"^ ?[\d,.]+(?= $| \()|(?<= \()[\d.]+(?=%)")
    figures = [x.strip() for row in rows for cell in row for x in figure.findall(cell)]
    wrong = []
    for x in figures:
        digits = len(x.partition(".")[2])  # as many as the page gives
        if not any(f"{value:,.{digits}f}" == x for value in measured):
            wrong.append(x)
    assert len(figures) >= 8
    assert not wrong


def test_what_the_page_on_case_shows_is_so(
    shared: Path, minilm_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "repository").mkdir()
    (tmp_path / "shared").symlink_to(shared.resolve())
    monkeypatch.chdir(tmp_path / "repository")
    page = ROOT / "docs/cased-and-uncased.md"
    result = doctest.testfile(str(page), module_relative=False, encoding="utf-8")
    assert result.attempted > 5 and result.failed == 0
