"""From the name of a checkpoint to a directory that holds its files."""

from __future__ import annotations

import difflib
import os
from contextlib import suppress
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

from minibert import files
from minibert.errors import UserError

VOCABULARIES = ("tokenizer.json", "vocab.txt")
# The files that a checkpoint consists of for us. Never *.bin: those are pickles.
WANTED = (
    "config.json",
    files.SINGLE,
    files.INDEX,
    "model-*.safetensors",
    *VOCABULARIES,
    "tokenizer_config.json",
)
BUNDLED = "tiny-zh"  # in weights/, not on the hub
USUAL = ("bert-base-chinese", "bert-base-cased", "bert-base-uncased")
PATIENCE = 10  # seconds until a hub that does not answer counts as out of reach


def find(name: str | Path) -> Path:
    """The directory of a checkpoint, fetched from the Hugging Face hub if it is not here.

    Args:
        name: a directory; or the name of one in `weights/` (of this checkout, or of the folder
            that MINIBERT_WEIGHTS names); or a checkpoint on the hub, as `bert-base-chinese` or
            `hfl/chinese-bert-wwm`. Those are fetched once, into the cache that all Hugging Face
            libraries share (HF_HOME moves it), with a progress bar, and resumed if cut off. What
            is in the cache is used without asking the hub; `hf download NAME` renews it.

    Raises:
        UserError: there is no such directory or checkpoint, or it cannot be reached; with the
            nearest name that is known.
    """
    name = os.fspath(name)
    if not name:
        raise UserError("the name of the checkpoint is empty; give a directory or a name")
    for directory in (Path(name), weights_folder() / name):
        if os.path.isdir(directory):
            return directory
        if os.path.isfile(directory):
            raise UserError(f"{directory} is a file; name the directory that holds it")
    if name in (BUNDLED, f"weights/{BUNDLED}"):
        raise UserError(
            f"{name} comes with minibert's repository, but there is none in {weights_folder()}; "
            "let MINIBERT_WEIGHTS name the folder weights/ of a clone, or name another checkpoint"
        )
    try:
        cached = _cached(name)
    except HFValidationError:  # too many slashes, a space, …: nothing on the hub is called so
        raise UserError(
            f"there is no directory {name}, nor one in {weights_folder()}{nearest(name)}"
        ) from None
    # A vocab.txt alone does not say whether its tokenizer lower-cases.
    settled = ("tokenizer.json", "tokenizer_config.json")
    if cached is not None and any((cached / file).is_file() for file in settled):
        return cached
    try:
        # Asked first because snapshot_download would wait for its answer without end.
        HfApi().model_info(name, timeout=PATIENCE)
        return Path(snapshot_download(name, allow_patterns=list(WANTED)))
    except Exception as error:  # which classes there are depends on the library's HTTP client
        if cached is not None:  # no vocabulary, but enough for a model
            return cached
        raise UserError(_why_not_fetched(name, error) + nearest(name)) from None


def nearest(name: str) -> str:
    """The end of a sentence about an unknown name: which known one was perhaps meant."""
    if name in USUAL:  # nothing is wrong with it
        return ""
    known = list(USUAL)
    for folder in (weights_folder(), Path("runs"), Path(name).parent):
        with suppress(OSError, ValueError):
            for path in sorted(folder.iterdir()):
                if path.is_dir():
                    known.append(path.name if folder == weights_folder() else str(path))
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _cached(name: str) -> Path | None:
    """The directory of an earlier download, if it holds a model's settings and all its weights."""
    config = try_to_load_from_cache(name, "config.json")
    if not isinstance(config, str):  # it gives other things for "no" and for "the hub has none"
        return None
    directory = Path(config).parent
    return directory if files.has_weights(directory) else None


def _why_not_fetched(name: str, error: Exception) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, GatedRepoError) or status == 403:
        return f"{name} is open only to those who were granted access: run `hf auth login` first"
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"there is no directory {name}, none in {weights_folder()}, and no checkpoint of that "
            "name on the hub; check the spelling, or run `hf auth login` if it is a private one"
        )
    if status == 401:
        return f"the hub does not accept your login for {name}: run `hf auth login` again"
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return (
        f"{name} is not here and could not be fetched ({reason}); try again later, or get it on a "
        f"machine with a network and put its files into {weights_folder() / name}"
    )


def weights_folder() -> Path:
    """`weights/` beside the package; MINIBERT_WEIGHTS names another folder."""
    beside = Path(__file__).resolve().parent.parent / "weights"
    return Path(os.environ.get("MINIBERT_WEIGHTS") or beside)
