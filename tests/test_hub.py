"""From a checkpoint's name to its files, against a hub on 127.0.0.1 that the tests start."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from hub_server import FakeHub
from huggingface_hub import constants
from numpy_checkpoint import TINY, write_checkpoint
from safetensors.torch import load_file, save_file

from minibert import hub
from minibert.cli import main
from minibert.errors import UserError
from minibert.model import (
    BertForMaskedLM,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertModel,
)

HEADS = (
    BertForMaskedLM,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
)
Files = dict[str, bytes]
FULL_NAME, OLD_NAME = "google-bert/bert-base-chinese", "bert-base-chinese"
WANTED = {"config.json", "model.safetensors", "vocab.txt", "tokenizer_config.json"}
ENTRIES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(chr(0x4E00 + i) for i in range(92))]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = write_checkpoint(tmp_path_factory.mktemp("checkpoint"), TINY)
    (directory / "vocab.txt").write_text("\n".join(ENTRIES) + "\n", encoding="utf-8")
    (directory / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    return directory


@pytest.fixture(scope="module")
def repository(checkpoint: Path) -> Files:
    """The files of a real one: weights in every framework's format, of which one is wanted."""
    files = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    others = ("pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "README.md")
    return files | dict.fromkeys((*others, ".gitattributes", "rust_model.ot"), b"not wanted")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache, an empty weights/ and an empty folder to stand in; no hub is reachable."""
    for name in ("cache", "weights", "here"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("MINIBERT_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    point_at("http://127.0.0.1:9", monkeypatch)  # nothing listens there
    huggingface_hub.close_session()  # the next one reads the variables anew
    yield tmp_path
    huggingface_hub.close_session()


def point_at(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What HF_ENDPOINT does when the library is imported."""
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@contextmanager
def serving(monkeypatch: pytest.MonkeyPatch, server: FakeHub) -> Iterator[FakeHub]:
    with server, monkeypatch.context() as patch:
        point_at(server.url, patch)
        yield server


def contents(directory: Path) -> Files:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def not_found(name: str, within: float = 15.0) -> str:
    """The error for a name: one line, naming it, and soon."""
    begin = time.monotonic()
    with pytest.raises(UserError) as caught:
        hub.find(name)
    assert time.monotonic() - begin < within
    assert name in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


# ---- as a user types it ---------------------------------------------------------------------


def test_fill_mask_fetches_a_checkpoint_by_name_once_and_then_needs_no_network(
    checkpoint: Path, repository: Files, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fill_mask(weights: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "minibert", "fill-mask", "一[MASK]二", "--json"]
        root = str(Path(hub.__file__).parents[1])
        variables = {"HF_HOME": str(place), "HF_ENDPOINT": server.url, "PYTHONPATH": root}
        return subprocess.run(
            [*command, "--weights", weights],
            env=os.environ | variables,
            capture_output=True,
            encoding="utf-8",
            cwd=place,
        )

    with FakeHub({FULL_NAME: repository}, {OLD_NAME: FULL_NAME}) as server:
        first = fill_mask(OLD_NAME)
    assert first.returncode == 0, first.stderr
    assert server.fetched == WANTED
    again = fill_mask(OLD_NAME)  # the server is gone
    assert (again.returncode, again.stderr, again.stdout) == (0, "", first.stdout)
    assert main(["fill-mask", "一[MASK]二", "--json", "--weights", str(checkpoint)]) == 0
    assert capsys.readouterr().out == first.stdout

    assert main(["fill-mask", "一[MASK]二", "--weights", "no/such-checkpoint"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: no/such-checkpoint is not here")
    assert len(err.splitlines()) == 1


# ---- what is fetched ------------------------------------------------------------------------


@pytest.mark.parametrize("name", [OLD_NAME, FULL_NAME])
def test_only_the_wanted_files_are_fetched(
    repository: Files, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with serving(monkeypatch, FakeHub({FULL_NAME: repository}, {OLD_NAME: FULL_NAME})) as server:
        directory = hub.find(name)
    assert contents(directory) == {file: repository[file] for file in WANTED}
    assert server.fetched == WANTED


@pytest.mark.parametrize("cls", [BertModel, *HEADS])
def test_every_class_is_loaded_by_name(
    checkpoint: Path, repository: Files, monkeypatch: pytest.MonkeyPatch, cls: Any
) -> None:
    with serving(monkeypatch, FakeHub({FULL_NAME: repository}, {OLD_NAME: FULL_NAME})):
        model = cls.from_pretrained(OLD_NAME)
    expected = cls.from_pretrained(checkpoint).state_dict()
    assert all(torch.equal(x, expected[name]) for name, x in model.state_dict().items())


def test_shards_are_fetched_and_a_missing_one_is_noticed(
    checkpoint: Path, repository: Files, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tensors = load_file(checkpoint / "model.safetensors")
    sharded = {name: repository[name] for name in WANTED - {"model.safetensors"}}
    weight_map = {}
    for i in (1, 2):
        file = f"model-0000{i}-of-00002.safetensors"
        part = {name: tensors[name] for name in sorted(tensors)[i - 1 :: 2]}
        save_file(part, tmp_path / file)
        sharded[file] = (tmp_path / file).read_bytes()
        weight_map |= dict.fromkeys(part, file)
    index = json.dumps({"metadata": {}, "weight_map": weight_map})
    sharded["model.safetensors.index.json"] = index.encode()
    others = {"pytorch_model-00001-of-00001.bin": b"", "pytorch_model.bin.index.json": b"{}"}
    with serving(monkeypatch, FakeHub({"a/b": sharded | others})) as server:
        directory = hub.find("a/b")
        assert contents(directory) == sharded
    assert server.fetched == set(sharded)
    assert hub.find("a/b") == directory
    (directory / "model-00002-of-00002.safetensors").unlink()
    assert "could not be fetched" in not_found("a/b")


def test_the_cache_is_used_without_asking(
    repository: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(monkeypatch, FakeHub({"a/b": repository})) as server:
        directory = hub.find("a/b")
        before = len(server.requests)
        assert hub.find("a/b") == directory
        assert len(server.requests) == before
    assert hub.find("a/b") == directory  # the server is gone
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub.find("a/b") == directory


@pytest.mark.parametrize(
    "present",
    [{"config.json", "model.safetensors"}, {"config.json", "model.safetensors", "vocab.txt"}],
    ids=["no vocabulary", "a vocabulary that may be lower-cased or not"],
)
def test_a_cache_without_a_whole_tokenizer_is_completed_or_else_used_as_it_is(
    repository: Files, monkeypatch: pytest.MonkeyPatch, present: set[str]
) -> None:
    """As transformers leaves it, which fetches a model and its tokenizer one by one."""
    with serving(monkeypatch, FakeHub({"a/b": repository})):
        for file in present:
            huggingface_hub.hf_hub_download("a/b", file)
    directory = hub.find("a/b")  # no hub to be reached
    assert set(contents(directory)) == present
    with serving(monkeypatch, FakeHub({"a/b": repository})):
        assert hub.find("a/b") == directory
    assert set(contents(directory)) == WANTED


def test_a_cache_without_weights_is_not_taken_for_a_checkpoint(
    repository: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(monkeypatch, FakeHub({"a/b": repository})):
        for file in ("config.json", "vocab.txt"):
            huggingface_hub.hf_hub_download("a/b", file)
    assert "could not be fetched" in not_found("a/b")


def test_a_repository_of_pickles_alone_gives_nothing_to_load(
    repository: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    pickled = {name: x for name, x in repository.items() if name != "model.safetensors"}
    with serving(monkeypatch, FakeHub({"a/b": pickled})) as server:
        with pytest.raises(UserError, match=r"neither model.safetensors .*a pickle.*never fetched"):
            BertModel.from_pretrained("a/b")
        assert "pytorch_model.bin" not in server.fetched


# ---- what goes wrong ------------------------------------------------------------------------


def test_an_unknown_name_is_an_error_that_says_where_was_looked(
    repository: Files, monkeypatch: pytest.MonkeyPatch, place: Path
) -> None:
    with serving(monkeypatch, FakeHub({"a/b": repository})):
        message = not_found("a/c")
    assert "check the spelling" in message and str(place / "weights") in message


def test_gated_files_are_an_error_that_says_to_log_in(
    repository: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(monkeypatch, FakeHub({"a/b": repository}, gated=("a/b",))):
        assert "hf auth login" in not_found("a/b")


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (401, "hf auth login"),
        (403, "hf auth login"),
        (429, "429 .*try again"),
        (500, "500 .*try again"),
        (503, "503 .*try again"),
    ],
)
def test_a_hub_that_refuses_or_fails_is_an_error_soon(
    monkeypatch: pytest.MonkeyPatch, status: int, advice: str
) -> None:
    with serving(monkeypatch, FakeHub({}, status=status)) as server:
        message = not_found("a/b")
    assert len([r for r in server.requests if "a/b" in r]) == 1  # no retries
    assert re.search(advice, message)


def test_no_network_is_an_error_that_says_what_to_do(place: Path) -> None:
    message = not_found("a/b")
    assert "refused" in message and f"put its files into {place / 'weights' / 'a' / 'b'}" in message


def test_offline_mode_is_named_where_it_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in not_found("a/b")


def test_a_hub_that_never_answers_is_not_waited_for_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert hub.PATIENCE <= 15
    monkeypatch.setattr(hub, "PATIENCE", 0.3)
    with serving(monkeypatch, FakeHub({}, silent=True)):
        assert "timed out" in not_found("a/b", within=20)


def test_a_download_that_is_cut_off_is_resumed(
    repository: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    with serving(monkeypatch, FakeHub({"a/b": repository}, drops=2)) as server:
        directory = hub.find("a/b")
    assert contents(directory)["model.safetensors"] == repository["model.safetensors"]
    assert len([r for r in server.requests if r == "GET /cdn/a/b/model.safetensors"]) == 3
    half = len(repository["model.safetensors"]) // 2
    assert len(server.ranges) == 2 and min(server.ranges) > half - 1000


def test_a_download_that_is_always_cut_off_is_an_error_and_no_half_checkpoint(
    repository: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    naps: list[float] = []
    monkeypatch.setattr(time, "sleep", naps.append)
    with serving(monkeypatch, FakeHub({"a/b": repository}, drops=-1)):
        assert "could not be fetched (peer closed connection" in not_found("a/b")
    assert sum(naps) < 30
    assert "could not be fetched" in not_found("a/b")  # what has come is not taken for all
    with serving(monkeypatch, FakeHub({"a/b": repository})):
        directory = hub.find("a/b")
    assert contents(directory) == {file: repository[file] for file in WANTED}


@pytest.mark.parametrize(
    "name",
    [
        "a/b/c",
        "a--b",
        "two words",
        "weights/",
        "-x",
        "a.git",
        "../nothing",
        "~/x",
        "x" * 300,
        "词/典",
    ],
)
def test_what_can_be_no_name_is_refused_without_asking(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with serving(monkeypatch, FakeHub({})) as server:
        assert "there is no directory" in not_found(name)
    assert server.requests == []


# ---- what is here ---------------------------------------------------------------------------


def test_a_directory_goes_before_weights_and_weights_before_the_hub(
    place: Path, repository: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(monkeypatch, FakeHub({"a/b": repository})) as server:
        (place / "weights" / "a" / "b").mkdir(parents=True)
        assert hub.find("a/b") == place / "weights" / "a" / "b"
        (place / "here" / "a" / "b").mkdir(parents=True)
        assert hub.find("a/b").resolve() == place / "here" / "a" / "b"
        assert hub.find(place / "here") == place / "here"
    assert server.requests == []


def test_without_minibert_weights_the_folder_is_beside_the_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("MINIBERT_WEIGHTS")
    assert hub.weights_folder() == Path(hub.__file__).parents[1] / "weights"


def test_an_empty_name_is_not_the_folder_one_stands_in(place: Path) -> None:
    with pytest.raises(UserError, match="name of the checkpoint is empty"):
        hub.find("")


def test_a_file_instead_of_its_directory_is_refused(checkpoint: Path) -> None:
    with pytest.raises(UserError, match="is a file; name the directory that holds it"):
        hub.find(checkpoint / "model.safetensors")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("bert-base-chinesee", "bert-base-chinese"),
        ("all-MiniLM-L6", "all-MiniLM-L6-v2"),
        ("runs/squad-bert-1", "runs/squad-bert-0"),
        ("elsewhere/modle", "elsewhere/model"),
        ("bert-base-chinese", None),  # right, but out of reach
        ("no/thing/like/it", None),
    ],
)
def test_of_an_unknown_name_the_nearest_known_one_is_named(
    place: Path, monkeypatch: pytest.MonkeyPatch, typed: str, meant: str | None
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (place / "weights/all-MiniLM-L6-v2").mkdir(parents=True)
    for folder in ("runs/squad-bert-0", "elsewhere/model"):
        (place / "here" / folder).mkdir(parents=True)
    (place / "here/elsewhere/modle.txt").write_text("a file is no checkpoint")
    with serving(monkeypatch, FakeHub({})):
        message = not_found(typed)
    assert message.endswith(f"; did you mean {meant}?") if meant else "did you mean" not in message
