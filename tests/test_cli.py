"""The command line, in the main: `minibert fill-mask`, as people and programs use it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import try_to_load_from_cache
from numpy_checkpoint import TINY, numpy_tensors, write_checkpoint
from typed import Stdin

from minibert import cli, hub
from minibert.errors import UserError
from minibert.fill_mask import fill_mask
from minibert.model import BertForMaskedLM

ROOT = Path(__file__).resolve().parent.parent
ENTRIES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(chr(0x4E00 + i) for i in range(92))]
CLS, SEP, MASK = 2, 3, 4
TEXT = "一丁[MASK]七"  # 0x4e00, 0x4e01, 0x4e03: entries 5, 6 and 8
IDS = [CLS, 5, 6, MASK, 8, SEP]
Run = Callable[..., tuple[int, str, str]]


def write_vocabulary(directory: Path, entries: list[str]) -> Path:
    text = "".join(f"{entry}\n" for entry in entries)
    (directory / "vocab.txt").write_text(text, encoding="utf-8")
    return directory


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large weights, so that the probabilities are far from 1 / V."""
    tensors = {n: x * 6 if x.ndim == 2 else x for n, x in numpy_tensors(TINY).items()}
    directory = tmp_path_factory.mktemp("checkpoint")
    return write_vocabulary(write_checkpoint(directory, TINY, tensors), ENTRIES)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run_main(*arguments: str | Path) -> tuple[int, str, str]:
        try:
            code = cli.main([str(argument) for argument in arguments])
        except SystemExit as exit:  # argparse's way
            code = exit.code
        return (code, *capsys.readouterr())

    return run_main


def error_of(result: tuple[int, str, str]) -> str:
    """What a mistake prints: one line on stderr, nothing on stdout, exit code 2."""
    code, out, err = result
    assert (code, out) == (2, "") and err.startswith("error: ")
    assert err.endswith("\n") and len(err.splitlines()) == 1
    return err


def probabilities(directory: Path, ids: list[int], place: int) -> np.ndarray:
    with torch.no_grad():
        logits = BertForMaskedLM.from_pretrained(directory)(torch.tensor([ids]))
    scores = np.exp(logits[0, place].double().numpy())
    return scores / scores.sum()


# ---- what it prints -------------------------------------------------------------------------


def test_the_candidates_are_the_softmax_of_the_logits(checkpoint: Path) -> None:
    (place,) = fill_mask(checkpoint, TEXT, top=97)
    expected = probabilities(checkpoint, IDS, 3)
    assert [c.token_id for c in place] == list(np.argsort(-expected))
    for candidate in place:
        assert abs(candidate.probability - expected[candidate.token_id]) < 1e-6
        assert candidate.token == ENTRIES[candidate.token_id]
    assert expected.max() > 0.05  # there is something to be seen
    assert abs(sum(c.probability for c in place) - 1) < 1e-5


def test_people_get_a_line_for_each_candidate(checkpoint: Path, run: Run) -> None:
    code, out, err = run("fill-mask", TEXT, "--weights", checkpoint)
    assert (code, err) == (0, "")
    expected = probabilities(checkpoint, IDS, 3)
    best = np.argsort(-expected)[:5]
    assert out.splitlines() == [f"{expected[i]:.4f}  {ENTRIES[i]}" for i in best]


@pytest.mark.parametrize("top", [1, 3, 97, 1000])
def test_programs_get_json_of_the_top_candidates(checkpoint: Path, run: Run, top: int) -> None:
    code, out, _ = run("fill-mask", TEXT, "--weights", checkpoint, "--top", str(top), "--json")
    (place,) = json.loads(out)
    assert code == 0 and len(place) == min(top, 97)
    expected = probabilities(checkpoint, IDS, 3)
    assert place[0].keys() == {"token", "token_id", "probability"}
    assert place[0]["token_id"] == int(expected.argmax())
    assert place[0]["token"] in out  # Chinese, not \\u escapes


def test_every_mask_is_filled_by_itself(checkpoint: Path, run: Run) -> None:
    code, out, _ = run("fill-mask", "[MASK]一[MASK]", "--weights", checkpoint, "--top", "2")
    lines = out.splitlines()
    assert code == 0 and lines[0] == "[MASK] 1:" and lines[3] == "[MASK] 2:" and len(lines) == 6
    ids = [CLS, MASK, 5, MASK, SEP]
    for place, line in ((1, lines[1]), (3, lines[4])):
        expected = probabilities(checkpoint, ids, place)
        assert line == f"{expected.max():.4f}  {ENTRIES[expected.argmax()]}"


@pytest.mark.reference
@pytest.mark.parametrize("text", [TEXT, "[MASK]", "丅 [MASK], unknown"])
def test_the_probabilities_are_those_of_transformers(checkpoint: Path, text: str) -> None:
    transformers = pytest.importorskip("transformers")
    transformers.logging.set_verbosity_error()
    pipeline = transformers.pipeline("fill-mask", model=str(checkpoint), top_k=97, device="cpu")
    (place,) = fill_mask(checkpoint, text, top=97)
    theirs = {entry["token"]: entry["score"] for entry in pipeline(text)}
    assert len(theirs) == 97
    assert all(abs(theirs[c.token_id] - c.probability) < 1e-6 for c in place)


def test_a_dash_reads_the_text_from_stdin(
    checkpoint: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, expected, _ = run("fill-mask", TEXT, "--weights", checkpoint)
    monkeypatch.setattr(sys, "stdin", Stdin(f"  {TEXT}\n".encode()))
    assert run("fill-mask", "-", "--weights", checkpoint) == (0, expected, "")


def test_a_name_in_the_weights_folder_will_do(
    checkpoint: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINIBERT_WEIGHTS", str(checkpoint.parent))
    expected = run("fill-mask", TEXT, "--weights", checkpoint)
    assert run("fill-mask", TEXT, "--weights", checkpoint.name) == expected


def test_entries_that_the_model_has_beyond_its_vocabulary_are_shown_by_id(
    checkpoint: Path, tmp_path: Path
) -> None:
    """Some vocabularies are padded to a round number."""
    for file in ("config.json", "model.safetensors"):
        (tmp_path / file).write_bytes((checkpoint / file).read_bytes())
    (place,) = fill_mask(write_vocabulary(tmp_path, ENTRIES[:50]), TEXT, top=97)
    assert {c.token for c in place if c.token_id >= 50} == {f"[id {i}]" for i in range(50, 97)}


# ---- mistakes -------------------------------------------------------------------------------


def test_a_text_without_mask_says_how_to_write_one(checkpoint: Path, run: Run) -> None:
    for text in ("一丁", "", "[mask]", "[ MASK ]"):
        message = error_of(run("fill-mask", text, "--weights", checkpoint))
        assert "no [MASK] to fill; write one, as in" in message


def test_a_text_that_is_too_long_is_told_both_lengths(checkpoint: Path, run: Run) -> None:
    assert run("fill-mask", "一" * 17 + "[MASK]", "--weights", checkpoint)[0] == 0
    message = error_of(run("fill-mask", "一" * 18 + "[MASK]", "--weights", checkpoint))
    assert "has 21 tokens" in message and "takes 20" in message


@pytest.mark.parametrize("dropped", ["cls.predictions.", "cls.predictions.transform.dense.bias"])
def test_a_checkpoint_without_masked_lm_head_is_refused(
    checkpoint: Path, tmp_path: Path, run: Run, dropped: str
) -> None:
    tensors = {n: x for n, x in numpy_tensors(TINY).items() if not n.startswith(dropped)}
    write_vocabulary(write_checkpoint(tmp_path, TINY, tensors), ENTRIES)
    message = error_of(run("fill-mask", TEXT, "--weights", tmp_path))
    assert f"{tmp_path} has no masked-LM head" in message


@pytest.mark.parametrize(
    "entries",
    [[*ENTRIES, "more"], [*ENTRIES[:5], *ENTRIES[:5], *ENTRIES[5:92], "more", "and more"]],
    ids=["more entries", "fewer, but with higher ids"],
)
def test_a_vocabulary_that_is_not_the_models_is_refused(
    tmp_path: Path, run: Run, entries: list[str]
) -> None:
    write_vocabulary(write_checkpoint(tmp_path, TINY), entries)
    message = error_of(run("fill-mask", TEXT, "--weights", tmp_path))
    assert f"has {len(entries)} entries, its model 97" in message


def test_broken_checkpoints_are_one_line_each(checkpoint: Path, tmp_path: Path, run: Run) -> None:
    for break_it in (
        lambda: (tmp_path / "model.safetensors").write_bytes(b"x" * 1000),
        lambda: (tmp_path / "config.json").write_text("{"),
        lambda: (tmp_path / "vocab.txt").write_bytes(b"\xff\n"),
        lambda: (tmp_path / "tokenizer.json").write_text("{\n\n}"),
    ):
        for path in tmp_path.iterdir():
            path.unlink()
        write_vocabulary(write_checkpoint(tmp_path, TINY), ENTRIES)
        break_it()
        error_of(run("fill-mask", TEXT, "--weights", tmp_path))
    error_of(run("fill-mask", TEXT, "--weights", tmp_path / "nothing"))
    error_of(run("fill-mask", TEXT, "--weights", checkpoint / "vocab.txt"))


def test_an_error_of_several_lines_is_printed_in_one(run: Run, capsys: Any) -> None:
    def fail() -> int:
        raise UserError("first\nsecond\r\nthird")

    assert cli.guard(fail) == 2
    assert capsys.readouterr().err == "error: first second third\n"


def test_a_text_that_is_no_unicode_is_refused(
    checkpoint: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = os.fsdecode("中国[MASK]".encode("gb18030"))  # what Python makes of such an argument
    assert "not valid UTF-8" in error_of(run("fill-mask", text, "--weights", checkpoint))
    monkeypatch.setattr(sys, "stdin", Stdin("中国[MASK]".encode("gb18030")))
    assert "not valid UTF-8" in error_of(run("fill-mask", "-", "--weights", checkpoint))


@pytest.mark.parametrize("top", ["0", "-1", "five", "1.5", "", "²"])
def test_top_must_be_a_whole_number_above_zero(checkpoint: Path, run: Run, top: str) -> None:
    code, out, err = run("fill-mask", TEXT, "--weights", checkpoint, f"--top={top}")
    assert (code, out) == (2, "") and "is no whole number above 0" in err


@pytest.mark.parametrize(
    "arguments",
    [[], ["fill-masks"], ["fill-mask"], ["fill-mask", "x"], ["fill-mask", "--weights", "x"]],
    ids=str,
)
def test_a_command_that_is_not_understood_exits_with_2(run: Run, arguments: list[str]) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "") and err.startswith("usage: minibert")


def test_a_fault_of_ours_is_not_hidden(run: Run) -> None:
    def fail() -> int:
        raise KeyError("a fault")

    with pytest.raises(KeyError):
        cli.guard(fail)


# ---- as a process ---------------------------------------------------------------------------


def process(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[bytes]:
    variables = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    variables |= {"PYTHONPATH": str(ROOT)} | options.pop("env", {})
    command = [sys.executable, "-m", "minibert", *map(str, arguments)]
    return subprocess.run(command, env=variables, stderr=subprocess.PIPE, **options)


@pytest.mark.parametrize("arguments", [["--help"], ["fill-mask", "--help"], ["parity", "--help"]])
def test_help_is_printed_without_importing_torch(arguments: list[str], run: Run) -> None:
    code, out, err = run(*arguments)
    assert (code, err) == (0, "") and out.startswith("usage: minibert")
    program = (
        "import sys; from minibert.cli import main\n"
        f"try: main({arguments})\nexcept SystemExit: sys.exit('torch' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True).returncode
        == 0
    )


def test_a_reader_that_has_seen_enough_is_no_error(checkpoint: Path) -> None:
    read, write = os.pipe()
    os.close(read)  # as `| head` does, but surely before anything is written
    with os.fdopen(write, "wb") as pipe:
        done = process("fill-mask", TEXT, "--weights", checkpoint, stdout=pipe)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_console_without_chinese_gets_numbers_instead_of_a_crash(checkpoint: Path) -> None:
    env = {"PYTHONIOENCODING": "ascii"}
    command = ("fill-mask", TEXT, "--weights", checkpoint, "--top", "97", "--json")
    done = process(*command, env=env, stdout=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, b"")
    (place,) = json.loads(done.stdout.decode("ascii"))
    assert {candidate["token"] for candidate in place} == set(ENTRIES)


# ---- the real checkpoints -------------------------------------------------------------------

PUBLISHED = {  # the model cards, for `Hello I'm a [MASK] model.`
    "bert-base-uncased": [
        ("fashion", 0.1073106899857521), ("role", 0.08774490654468536),
        ("new", 0.05338378623127937), ("super", 0.04667217284440994),
        ("fine", 0.027095865458250046),
    ],
    "bert-base-cased": [
        ("fashion", 0.09019174426794052), ("new", 0.06349995732307434),
        ("male", 0.06228214129805565), ("professional", 0.0441727414727211),
        ("super", 0.03326151892542839),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_probabilities_hold(name: str) -> None:
    places = [hub.weights_folder() / name]
    for owner in ("", "google-bert/"):
        cached = try_to_load_from_cache(owner + name, "model.safetensors")
        places += [Path(cached).parent] if isinstance(cached, str) else []
    found = [place for place in places if (place / "model.safetensors").is_file()]
    if not found:
        pytest.skip(
            f"needs the weights of {name}, which are in none of {', '.join(map(str, places))}"
        )
    (place,) = fill_mask(found[0], "Hello I'm a [MASK] model.", top=5)
    assert [c.token for c in place] == [token for token, _ in PUBLISHED[name]]
    for candidate, (_, published) in zip(place, PUBLISHED[name], strict=True):
        assert abs(candidate.probability - published) < 1e-4
