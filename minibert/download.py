"""Downloads that are whole or not there: resumed where they broke off, verified, renamed at last.

`datasets.py` says what is downloaded and by what it is known to be right.
"""

from __future__ import annotations

import http.client
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

from tqdm import tqdm

from minibert.errors import UserError

if sys.platform != "win32":
    import fcntl

CHUNK = 1 << 16  # bytes read at a time
TIMEOUT = 30.0  # seconds without a byte before a connection counts as dropped
TRIES = 4
RETRIED = {408, 429, 500, 502, 503, 504}  # HTTP answers that a later try may better


class Published(Protocol):
    """A file that somebody published."""

    @property
    def url(self) -> str: ...

    def fault(self, path: Path) -> str:
        """Why a file is not what was published; "" if it is."""


def fetch(source: Published, path: Path, *, wait: float = 1.0) -> Path:
    """Make `path` hold the content that `source` stands for, and return it.

    A file that is there and right is used without the network and without a write. Otherwise the
    content goes to `<path>.part`, which an interrupted download leaves behind and the next one
    continues, and is renamed to `path` once it is complete and verified. UserError where that
    cannot be had.
    """
    try:
        if path.exists() and not source.fault(path):
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path.parent):
            if path.exists():
                if not source.fault(path):  # another process was faster
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


def _download(source: Published, part: Path, path: Path, wait: float) -> None:
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
        reason = source.fault(part)
        if not reason:
            return
        part.unlink()
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
