"""Data sets by name: `--data cmrc2018` -> verified files on disk.

A name stands for files at fixed commits of public repositories. They are downloaded on first use
into `data/` and verified against the git blob id that the commit itself records, so what is read
is what was published. The next room, `minibert.qa.reading`, reads the files.

Environment: MINIBERT_DATA moves the folder; MINIBERT_DATA_URL names a mirror that serves the same
paths, `<url>/<owner>/<repo>/<commit>/<path>` (a plain web server on a machine without internet).
"""

from __future__ import annotations

import difflib
import hashlib
import http.client
import os
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from minibert.errors import UserError

if sys.platform != "win32":
    import fcntl

BASE = "https://raw.githubusercontent.com"
CHUNK = 1 << 16  # bytes read at a time
TIMEOUT = 30.0  # seconds without a byte before a connection counts as dropped
TRIES = 4
RETRIED = {408, 429, 500, 502, 503, 504}  # HTTP answers that a later try may better


@dataclass(frozen=True)
class Source:
    """One file of a public repository at one commit, and the git id of its content."""

    repository: str  # owner/name
    commit: str
    path: str
    blob_id: str  # sha1 of "blob <size>", a zero byte and the content

    @property
    def url(self) -> str:
        base = os.environ.get("MINIBERT_DATA_URL") or BASE
        if not base.startswith(("http://", "https://")):
            raise UserError(
                f"MINIBERT_DATA_URL is {base!r}; it must begin with http:// or https://"
            )
        path = urllib.parse.quote(f"{self.repository}/{self.commit}/{self.path}")
        return f"{base.rstrip('/')}/{path}"


def _at(repository: str, commit: str, **parts: tuple[str, str]) -> dict[str, Source]:
    return {part: Source(repository, commit, *where) for part, where in parts.items()}


_SQUAD = ("rajpurkar/SQuAD-explorer", "eee5fdbf62f8613a7812b03419e6b29617b74fd1")

MANIFEST: dict[str, dict[str, Source]] = {
    "cmrc2018": _at(
        "ymcui/cmrc2018",
        "c0eb1b6ba219847457e6af3180da722bbeb656af",
        train=(
            "squad-style-data/cmrc2018_train.json",
            "cd56f7d38f6f4a6f92df2616479bbf134a37bebf",
        ),
        dev=("squad-style-data/cmrc2018_dev.json", "94c1f2df14a669b0b7b836665d6339a34df8aa97"),
        trial=("squad-style-data/cmrc2018_trial.json", "020e3559e914d23404ffc5bf9411ee52a9c38451"),
    ),
    "squad": _at(
        *_SQUAD,
        train=("dataset/train-v1.1.json", "77f1d9a7daee11f7bc293832020f7709f63410ad"),
        dev=("dataset/dev-v1.1.json", "e9a3f913ad1468ebe105b891334ca7b0bc0e2510"),
    ),
    "squad2": _at(
        *_SQUAD,
        train=("dataset/train-v2.0.json", "312f804dbf85888fdce3299eaa58d6ec3f0bb6b7"),
        dev=("dataset/dev-v2.0.json", "c6fa1a89a12c90b7fbfa8f6fb437cfff27af41ca"),
    ),
    "drcd": _at(
        "DRCKnowledgeTeam/DRCD",
        "b944790de5af02c5fbb7cd9cb1473d27d169eebf",
        train=("DRCD_training.json", "35480d22ed6449adeb1bece5ae27d0889bf8b7af"),
        dev=("DRCD_dev.json", "daa42e47130e8d5b907b87e75cecc8fb807fd4f5"),
        test=("DRCD_test.json", "341eda001e27a375f14e6b40976b2492b925eae2"),
    ),
}

# What people call the parts, in the file names of a directory.
SPELLINGS = {
    "train": "train|training",
    "dev": "dev|valid|validation",
    "test": "test",
    "trial": "trial",
}


def find(
    name_or_path: str,
    parts: Sequence[str] = ("train", "dev"),
    *,
    suffixes: Sequence[str] = (".json",),
    wait: float = 1.0,
) -> dict[str, Path]:
    """What `--data` means: the files of a NAME, a FILE or a DIR, by part.

    A NAME of the manifest is downloaded where it is not there yet, the asked `parts` only, and
    stands before a directory of that name (write `./squad` for the directory). A FILE is
    `{"data": file}`: what it is for, the caller knows. A DIR is searched for `train*.json`,
    `dev*.json` and so on, or for files with other `suffixes`. Parts that a NAME or DIR does not
    have are left out; UserError if that leaves none, if a directory holds several candidates for a
    part, or if nothing has that name.

    `wait` is the pause in seconds before the second try of a download; it doubles with each.
    """
    if name_or_path in MANIFEST:
        sources = MANIFEST[name_or_path]
        wanted = [part for part in parts if part in sources]
        if not wanted:
            raise UserError(
                f"the data set {name_or_path} has no part {' or '.join(parts)}; "
                f"it has {', '.join(sources)}"
            )
        folder = data_dir() / name_or_path
        return {
            part: fetch(sources[part], folder / Path(sources[part].path).name, wait=wait)
            for part in wanted
        }
    path = Path(name_or_path)
    if path.is_file():
        return {"data": path}
    if path.is_dir():
        return _search(path, parts, suffixes)
    near = difflib.get_close_matches(name_or_path.lower(), MANIFEST, n=1)
    raise UserError(
        f"no data set, file or directory is called {name_or_path!r}; "
        + (f"did you mean {near[0]}? " if near else "")
        + f"Known data sets: {', '.join(MANIFEST)}"
    )


def data_dir() -> Path:
    """Where downloads go: $MINIBERT_DATA, else `data/` of the checkout, else `./data`."""
    if moved := os.environ.get("MINIBERT_DATA"):
        return Path(moved).expanduser()
    checkout = Path(__file__).resolve().parent.parent
    return (checkout if (checkout / "pyproject.toml").is_file() else Path.cwd()) / "data"


def _search(folder: Path, parts: Sequence[str], suffixes: Sequence[str]) -> dict[str, Path]:
    """The file of each part: `dev.json`, else `dev*.json`, else a name with the word dev in it."""
    names = sorted(path.name for path in folder.glob("*") if path.suffix in suffixes)
    endings = "|".join(map(re.escape, suffixes))
    found: dict[str, Path] = {}
    for part in parts:
        words = SPELLINGS[part]
        for pattern in (rf"({words})({endings})", rf"({words}).*", rf".*[^a-z]({words})[^a-z].*"):
            matches = [name for name in names if re.fullmatch(pattern, name, re.IGNORECASE)]
            if len(matches) > 1:
                plain = part + Path(matches[0]).suffix
                raise UserError(
                    f"{folder} holds several {part} files: {', '.join(matches)}; "
                    f"rename the one that is meant to {plain}, or name a file"
                )
            if matches:
                found[part] = folder / matches[0]
                break
    if not found:
        wanted = " or ".join(f"{part}*{suffixes[0]}" for part in parts)
        raise UserError(f"{folder} holds no {wanted}; name a directory that does, or a file")
    return found


def blob_id(path: Path) -> str:
    """The id git gives this content: what `git hash-object PATH` prints."""
    with path.open("rb") as file:
        digest = hashlib.sha1(b"blob %d\0" % os.fstat(file.fileno()).st_size)
        while piece := file.read(CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def fetch(source: Source, path: Path, *, wait: float = 1.0) -> Path:
    """Make `path` hold the content that `source` pins, and return it.

    A file that is there and right is used without the network and without a write. Otherwise the
    content goes to `<path>.part`, which an interrupted download leaves behind and the next one
    continues, and is renamed to `path` once it is complete and verified. UserError where that
    cannot be had.
    """
    try:
        if path.exists() and blob_id(path) == source.blob_id:
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path.parent):
            if path.exists():
                if blob_id(path) == source.blob_id:  # another process was faster
                    return path
                _say(f"{path} is not the published file; downloading it again")
            part = path.with_name(path.name + ".part")
            _download(source, part, path, wait)
            os.replace(part, path)
    except OSError as error:  # those of the network have become UserErrors by now
        raise UserError(
            f"cannot write {error.filename or path}: {error.strerror}; "
            "make room there or move the folder with MINIBERT_DATA"
        ) from error
    return path


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time downloads into a folder; the others wait and find the files there."""
    with (folder / ".lock").open("w") as lock:
        if sys.platform != "win32":
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                _say(f"waiting for another process that downloads into {folder}")
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class _Dropped(Exception):
    """This try failed in a way that another may not."""


def _download(source: Source, part: Path, path: Path, wait: float) -> None:
    """Complete and verify `part`, in up to TRIES requests."""
    url = source.url
    by_hand = f"put the file by hand at {path}"
    _say(f"downloading {url}")
    for attempt in range(TRIES):
        if attempt:
            time.sleep(wait * 2 ** (attempt - 1))
        try:
            with part.open("ab") as file:
                resumed = file.tell() > 0
                _request(url, file, path.name)
                os.fsync(file.fileno())
        except _Dropped as error:
            reason = str(error)
            continue
        except urllib.error.HTTPError as error:
            raise UserError(
                f"{url} answered {error.code} {error.reason}; "
                f"check MINIBERT_DATA_URL if you set it, or {by_hand}"
            ) from None
        got = blob_id(part)
        if got == source.blob_id:
            return
        part.unlink()
        reason = f"its content is not what was published (git blob {got}, not {source.blob_id})"
        if not resumed:  # what was patched together gets a fresh start, what came whole does not
            raise UserError(f"{url} was downloaded but {reason}; {by_hand}")
    raise UserError(
        f"{url} could not be downloaded in {TRIES} tries, the last one: {reason}; "
        f"run again to continue, or {by_hand}"
    )


def _request(url: str, file: BinaryIO, name: str) -> None:
    """Append to `file` what it lacks of `url`, in one request. Raises what `_open` raises."""
    start = file.tell()
    response = _open(url, start)
    if response is None:
        return
    with response:
        ranged = response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        if start and not (response.status == 206 and ranged):  # the whole file: start over
            start = 0
            file.truncate(0)
        total = None if response.length is None else start + response.length
        with tqdm(
            total=total, initial=start, desc=name, unit="B", unit_scale=True, disable=None
        ) as bar:
            for piece in _pieces(response):
                file.write(piece)
                bar.update(len(piece))
                start += len(piece)
    if total is not None and start < total:
        raise _Dropped(f"the connection ended after {start:,} of {total:,} bytes")


def _open(url: str, start: int) -> http.client.HTTPResponse | None:
    """Ask for the bytes from `start`; None where the server says that there are none.

    Raises _Dropped where trying again makes sense, HTTPError where the server's answer is final.
    """
    headers = {"User-Agent": "minibert"} | ({"Range": f"bytes={start}-"} if start else {})
    request = urllib.request.Request(url, headers=headers)
    try:
        response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=TIMEOUT)
        return response
    except urllib.error.HTTPError as error:
        if error.code == 416 and start:
            return None
        if error.code in RETRIED:
            raise _Dropped(f"the server answered {error.code} {error.reason}") from None
        raise
    except (OSError, http.client.HTTPException) as error:
        raise _Dropped(f"no connection ({getattr(error, 'reason', error)})") from None


def _pieces(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """The body as it arrives; a connection that breaks is a _Dropped."""
    try:
        while piece := response.read1(CHUNK):
            yield piece
    except (OSError, http.client.HTTPException) as error:
        raise _Dropped(f"the connection broke ({error})") from None


def _say(line: str) -> None:
    print(line, file=sys.stderr)
