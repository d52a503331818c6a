"""Data sets by name: found, downloaded, resumed and verified, against a server that misbehaves."""

from __future__ import annotations

import hashlib
import http.server
import io
import re
import socket
import struct
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, field
from pathlib import Path

import pytest
from hub_server import serve_files

from minibert import datasets, download
from minibert.datasets import ARCHIVES, MANIFEST, QUESTIONS, TEXTS, Archive, Source, blob_id, find
from minibert.download import fetch
from minibert.errors import UserError

CONTENT = bytes(range(256)) * 1200  # 307,200 bytes: several chunks, every byte value
OTHER = b"<html>please log in</html>"
BLOB = hashlib.sha1(b"blob " + str(len(CONTENT)).encode() + b"\0" + CONTENT).hexdigest()
SOURCE = Source("owner/repo", "c0ffee", "some folder/tiny_dev.json", BLOB)
URL_PATH = "/owner/repo/c0ffee/some%20folder/tiny_dev.json"


@dataclass
class Seen:
    """One request as the server saw it."""

    path: str
    range: str | None
    status: int = 0
    sent: int = 0  # bytes of body


@dataclass
class Server:
    """Answers request after request as `script` says, the last entry for all that follow.

    ok, no-range (answers 200 whatever is asked), drop (half of the body, then the connection ends),
    reset (the same, with a TCP reset), hang-up (no answer at all), slow, keep-alive (never closes),
    short and wrong (another body with a fitting Content-Length), or a status: 404, 503, ...
    """

    script: list[str] = field(default_factory=lambda: ["ok"])
    seen: list[Seen] = field(default_factory=list)
    url: str = ""


def _handler(server: Server) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            action = server.script[min(len(server.seen), len(server.script) - 1)]
            seen = Seen(self.path, self.headers["Range"])
            server.seen.append(seen)
            self.close_connection = True
            if action == "hang-up":
                return
            if action.isdigit():
                self.answer(seen, int(action), b"no")
                return
            body = {"short": CONTENT[:-1000], "wrong": OTHER}.get(action, CONTENT)
            if seen.range is None or action == "no-range":
                self.answer(seen, 200, body, action)
                return
            start = int(re.fullmatch(r"bytes=(\d+)-", seen.range)[1])  # type: ignore[index]
            if start >= len(body):
                self.answer(seen, 416, b"")
                return
            self.answer(seen, 206, body[start:], action, f"bytes {start}-{len(body) - 1}/*")

        def answer(
            self, seen: Seen, status: int, body: bytes, action: str = "ok", content_range: str = ""
        ) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            if content_range:
                self.send_header("Content-Range", content_range)
            self.end_headers()
            half = body[: len(body) // 2] if action in ("drop", "reset", "slow") else body
            seen.status, seen.sent = status, len(body if action == "slow" else half)
            self.wfile.write(half)
            if action == "slow":
                time.sleep(0.7)
                self.wfile.write(body[len(half) :])
            elif action == "reset":
                self.wfile.flush()
                time.sleep(0.05)  # let what was sent arrive: a reset overtakes it otherwise
                linger = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self.connection.close()
            elif action == "keep-alive":
                self.close_connection = False

        def log_message(self, *args: object) -> None: ...

    return Handler


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server()
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(server))
    httpd.handle_error = lambda *args: None  # type: ignore[method-assign]  # a reset is meant
    httpd.block_on_close = False
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    server.url = f"http://127.0.0.1:{httpd.server_address[1]}"
    monkeypatch.setenv("MINIBERT_DATA_URL", server.url)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield server
    httpd.shutdown()
    httpd.server_close()
    thread.join()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "tiny" / "tiny_dev.json"


def part_of(path: Path) -> Path:
    return path.with_name(path.name + ".part")


ALL, HALF = len(CONTENT), len(CONTENT) // 2
Request = tuple[str | None, int, int]  # its Range, the status, the bytes of body that were sent
WHOLE: Request = (None, 200, ALL)
FIRST: Request = (None, 200, HALF)
REST: Request = (f"bytes={HALF}-", 206, HALF)
SECOND: Request = (f"bytes={HALF}-", 206, HALF // 2)
LAST: Request = (f"bytes={HALF + HALF // 2}-", 206, HALF // 2)
# how it goes: what an interrupted run left behind, what the server does, what it is asked
DOWNLOADS: dict[str, tuple[bytes, str, list[Request]]] = {
    "first use": (b"", "ok", [WHOLE]),
    "dropped": (b"", "drop ok", [FIRST, REST]),
    "dropped again": (b"", "drop drop ok", [FIRST, SECOND, LAST]),
    "busy": (b"", "503 429 ok", [(None, 503, 2), (None, 429, 2), WHOLE]),
    "no answer": (b"", "hang-up ok", [(None, 0, 0), WHOLE]),
    "left half": (CONTENT[:HALF], "ok", [REST]),
    "Range ignored": (CONTENT[:HALF], "no-range", [(REST[0], 200, ALL)]),
    "left all": (CONTENT, "ok", [(f"bytes={ALL}-", 416, 0)]),
    "left more": (CONTENT + b"more", "ok", [(f"bytes={ALL + 4}-", 416, 0), WHOLE]),
    "left another": (OTHER, "ok", [(f"bytes={len(OTHER)}-", 206, ALL - len(OTHER)), WHOLE]),
}


@pytest.mark.parametrize(("left", "script", "asked"), DOWNLOADS.values(), ids=DOWNLOADS)
def test_a_download_ends_with_the_right_file_and_sends_no_byte_in_vain(
    server: Server, path: Path, left: bytes, script: str, asked: list[Request]
) -> None:
    if left:
        path.parent.mkdir(parents=True)
        part_of(path).write_bytes(left)
    server.script = script.split()
    assert fetch(SOURCE, path, wait=0) == path
    assert path.read_bytes() == CONTENT
    assert not part_of(path).exists()
    assert server.seen == [Seen(URL_PATH, *request) for request in asked]


def test_a_terminal_shows_a_bar_that_begins_where_the_last_download_ended(
    server: Server, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(shown, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stderr", shown)
    path.parent.mkdir(parents=True)
    part_of(path).write_bytes(CONTENT[:HALF])
    fetch(SOURCE, path, wait=0)
    bars = shown.getvalue().split("\r")
    assert bars[1].startswith(f"{path.name}:  50%|")
    assert f"{path.name}: 100%|" in bars[-1]


def test_a_connection_that_is_reset_is_resumed_from_what_arrived(
    server: Server, path: Path
) -> None:
    server.script = ["reset", "ok"]
    fetch(SOURCE, path, wait=0)
    assert path.read_bytes() == CONTENT
    first, second = server.seen
    arrived = int(re.findall(r"\d+", second.range or "0")[0])  # a reset may overtake what was sent
    assert (first.range, first.sent, second.sent) == (None, HALF, ALL - arrived)
    assert arrived <= HALF


def test_a_file_that_is_there_and_right_is_used_without_the_network_or_a_write(
    server: Server, path: Path
) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    assert fetch(SOURCE, path, wait=0).read_bytes() == CONTENT
    assert server.seen == []
    assert list(path.parent.iterdir()) == [path]  # no lock: a read-only folder will do


def test_a_file_with_other_content_is_replaced_and_the_user_is_told(
    server: Server, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT[:-1])
    fetch(SOURCE, path, wait=0)
    assert path.read_bytes() == CONTENT
    told = capsys.readouterr().err
    assert f"{path} is not the published file; downloading it again" in told
    assert server.url + URL_PATH in told


def test_what_arrived_before_the_last_drop_is_kept_for_the_next_run(
    server: Server, path: Path
) -> None:
    server.script = ["drop"]
    with pytest.raises(UserError):
        fetch(SOURCE, path, wait=0)
    arrived = part_of(path).read_bytes()
    assert arrived == CONTENT[: len(arrived)] and len(arrived) > len(CONTENT) // 2
    server.script, server.seen = ["ok"], []
    fetch(SOURCE, path, wait=0)
    assert path.read_bytes() == CONTENT
    assert server.seen[0].sent == len(CONTENT) - len(arrived)


def test_a_server_that_keeps_the_connection_open_does_not_hold_us(
    server: Server, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "TIMEOUT", 1.5)
    server.script = ["keep-alive"]
    fetch(SOURCE, path, wait=0)
    assert path.read_bytes() == CONTENT
    assert len(server.seen) == 1  # waiting for its end would time out and ask again


def test_the_pause_between_tries_doubles(
    server: Server, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    server.script = ["503"]
    with pytest.raises(UserError):
        fetch(SOURCE, path, wait=0.25)
    assert pauses == [0.25, 0.5, 1.0]


@pytest.mark.parametrize(
    ("fault", "requests", "says"),
    [
        ("404", 1, "answered 404 Not Found"),
        ("403", 1, "answered 403 Forbidden"),
        ("416", 1, "answered 416"),
        ("wrong", 1, "its content is not what was published"),
        ("short", 1, "its content is not what was published"),
        ("503", 4, "in 4 tries, the last one: the server answered 503"),
        ("hang-up", 4, "in 4 tries, the last one: no connection"),
        ("drop", 4, "in 4 tries, the last one: the connection ended after"),
        ("reset", 4, "in 4 tries, the last one: the connection broke"),
    ],
)
def test_a_lasting_fault_is_one_error_that_says_what_where_and_what_to_do(
    server: Server, path: Path, fault: str, requests: int, says: str
) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(b"the user's own notes")
    server.script = [fault]
    with pytest.raises(UserError) as error:
        fetch(SOURCE, path, wait=0)
    message = str(error.value)
    assert server.url + URL_PATH in message
    assert says in message
    assert f"put the file by hand at {path}" in message
    assert "\n" not in message
    assert len(server.seen) == requests
    assert path.read_bytes() == b"the user's own notes"
    assert fault not in ("wrong", "short") or not part_of(path).exists()


def test_a_server_that_is_not_there_is_an_error_that_says_so(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    monkeypatch.setenv("MINIBERT_DATA_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(UserError, match=rf"127.0.0.1:{port}/.*no connection .*refused.*by hand at"):
        fetch(SOURCE, path, wait=0)


def test_a_folder_that_cannot_be_made_is_a_clear_error(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file where the folder should be")
    with pytest.raises(UserError, match=r"cannot write .*data.*MINIBERT_DATA"):
        fetch(SOURCE, tmp_path / "data" / "tiny_dev.json", wait=0)


@pytest.mark.skipif(sys.platform == "win32", reason="the lock is fcntl's")
def test_two_processes_at_once_download_once_and_both_have_the_file(
    server: Server, path: Path
) -> None:
    server.script = ["slow"]
    program = (
        "import sys; from pathlib import Path; from minibert.datasets import Source, fetch\n"
        "fetch(Source(*sys.argv[1:5]), Path(sys.argv[5]), wait=0)"
    )
    arguments = [SOURCE.repository, SOURCE.commit, SOURCE.path, SOURCE.blob_id, str(path)]
    command = [sys.executable, "-c", program, *arguments]
    root = Path(datasets.__file__).parent.parent
    processes = [subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE) for _ in range(2)]
    told = [process.communicate(timeout=60)[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    assert path.read_bytes() == CONTENT
    assert len(server.seen) == 1
    assert server.seen[0].sent == len(CONTENT)


@pytest.mark.parametrize("url", ["ftp://mirror", "mirror.example.org", "file:///srv/data"])
def test_a_mirror_that_is_not_http_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("MINIBERT_DATA_URL", url)
    with pytest.raises(UserError, match=rf"MINIBERT_DATA_URL is '{url}'.*http"):
        fetch(SOURCE, path, wait=0)


def test_blob_ids_are_those_of_git(tmp_path: Path) -> None:
    """Git's id of the empty file is the same in every repository; the other is its manual's."""
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_bytes(b"test content\n")
    assert blob_id(tmp_path / "empty") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    assert blob_id(tmp_path / "text") == "d670460b4b4aece5915caf5c68d12f560a9fe3e4"


# Names, files and directories


@pytest.fixture
def tiny(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A manifest of one data set with train, dev and test; the folder that it downloads to."""
    sources = {
        part: Source("owner/repo", "c0ffee", f"some folder/tiny_{part}.json", BLOB)
        for part in ("train", "dev", "test")
    }
    monkeypatch.setitem(MANIFEST, "tiny", sources)
    monkeypatch.setenv("MINIBERT_DATA", str(tmp_path / "moved"))
    return tmp_path / "moved" / "tiny"


def test_a_name_downloads_the_parts_that_are_asked_for(server: Server, tiny: Path) -> None:
    train, dev = tiny / "tiny_train.json", tiny / "tiny_dev.json"
    assert find("tiny", wait=0) == {"train": train, "dev": dev}
    assert find("tiny", ["test"], wait=0) == {"test": tiny / "tiny_test.json"}
    assert [seen.path.rpartition("/")[2] for seen in server.seen] == [
        f"tiny_{part}.json" for part in ("train", "dev", "test")
    ]
    assert train.read_bytes() == dev.read_bytes() == CONTENT


def test_a_part_that_a_name_does_not_have_is_an_error_that_lists_its_parts(tiny: Path) -> None:
    with pytest.raises(UserError, match="tiny has no part trial; it has train, dev, test"):
        find("tiny", ["trial"], wait=0)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("cmrc2081", "cmrc2018"), ("squad1", "squad"), ("DRCD", "drcd"), ("my data", None)],
)
def test_an_unknown_name_is_an_error_with_the_nearest_known(typed: str, meant: str | None) -> None:
    with pytest.raises(UserError) as error:
        find(typed)
    message = str(error.value)
    assert repr(typed) in message and "cmrc2018, squad, squad2, drcd" in message
    assert (f"did you mean {meant}?" in message) if meant else ("did you mean" not in message)


def test_a_data_set_that_the_caller_cannot_read_is_not_fetched(server: Server) -> None:
    for name, kind, script in (("squad", TEXTS, "qa"), ("sst2", QUESTIONS, "cls")):
        says = f"the data set {name} is one of .*, for train_{script}.py; here sample, "
        with pytest.raises(UserError, match=f"{says}{', '.join(kind.fetched)} may be"):
            find(name, kind=kind)
    assert server.seen == []


def test_the_sample_is_of_the_kind_that_is_asked_for_and_needs_no_network(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sample").mkdir()  # a name stands before a directory
    monkeypatch.chdir(tmp_path)
    package = Path(datasets.__file__).parent
    assert find("sample") == {
        part: package / f"samples/qa/{part}.json" for part in ("train", "dev")
    }
    assert find("sample", ("dev", "test"), TEXTS) == {"dev": package / "samples/reviews/dev.tsv"}
    with pytest.raises(UserError, match=r"sample holds no train\*\.json"):
        find("./sample")
    with pytest.raises(UserError, match="did you mean sample"):
        find("samples")
    assert server.seen == []


def test_a_file_is_given_back_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "questions.json").write_text("{}")
    assert find(str(tmp_path / "questions.json")) == {"data": tmp_path / "questions.json"}


@pytest.mark.parametrize(
    ("names", "parts", "found"),
    [
        (["train.json", "dev.json"], ("train", "dev"), ["train.json", "dev.json"]),
        (["train-v1.1.json", "dev-v1.1.json"], ("train", "dev"), None),
        (["cmrc2018_train.json", "cmrc2018_dev.json"], ("train", "dev"), None),
        (["DRCD_training.json", "DRCD_dev.json"], ("train", "dev"), None),
        (["train.json", "validation.json"], ("train", "dev"), None),
        (["train.json", "val.json"], ("train", "dev"), None),
        (["mine_train.json", "mine-val.json"], ("train", "dev"), None),
        (["Train.JSON", "values.json"], ("train", "dev"), ["Train.JSON", None]),
        (["dev.json", "dev_native.json", "x_dev.json"], ("train", "dev"), [None, "dev.json"]),
        (["dev-v2.0.json", "x_dev.json"], ("dev",), ["dev-v2.0.json"]),
        (["train.json", "test.json"], ("test",), ["test.json"]),
        (["train.json", "device.json", "latest.json"], ("train", "test"), ["train.json", None]),
    ],
)
def test_a_directory_is_searched_for_its_parts(
    tmp_path: Path, names: list[str], parts: tuple[str, ...], found: list[str | None] | None
) -> None:
    for name in names:
        (tmp_path / name).write_text("{}")
    expected = {
        part: tmp_path / name
        for part, name in zip(parts, names if found is None else found, strict=True)
        if name
    }
    assert find(str(tmp_path), parts) == expected


def test_a_directory_with_two_candidates_is_an_error_that_lists_them(tmp_path: Path) -> None:
    for name in ("dev-v1.1.json", "dev-v2.0.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match=r"several dev files: dev-v1\.1\.json, dev-v2\.0\.json"):
        find(str(tmp_path))


def test_a_directory_without_question_files_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "notes.json").write_text("{}")
    with pytest.raises(UserError, match=r"holds no train\*\.json or dev\*\.json"):
        find(str(tmp_path))


def test_the_folder_is_that_of_the_checkout_else_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout, elsewhere = tmp_path / "checkout", tmp_path / "elsewhere"
    (checkout / "minibert").mkdir(parents=True)
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.delenv("MINIBERT_DATA", raising=False)
    monkeypatch.setattr(datasets, "__file__", str(checkout / "minibert" / "datasets.py"))
    assert datasets.data_dir() == elsewhere / "data"  # installed: no pyproject.toml
    (checkout / "pyproject.toml").touch()
    assert datasets.data_dir() == checkout / "data"
    monkeypatch.setenv("MINIBERT_DATA", str(tmp_path / "moved"))
    assert datasets.data_dir() == tmp_path / "moved"


# The real data


def test_the_manifest_pins_what_was_published(shared: Path) -> None:
    """Every row of the table of facts, and nothing else."""
    text = (shared / "README.md").read_text(encoding="utf-8")
    table = text[text.index("| CMRC 2018 train") : text.index("| weights |")]
    published: set[tuple[str, ...]] = set()
    place: tuple[str, ...] = ()
    for row in table.strip().splitlines():
        _, _, where, blob_ids, _ = row.split("|")
        if "same commit" not in where:
            (place,) = re.findall(r"github (\S+) @ ([0-9a-f]{40})", where)
        paths = re.findall(r"`([^`]+\.json)`", where)
        ids = re.findall(r"[0-9a-f]{40}", blob_ids)
        published.update((*place, path, id) for path, id in zip(paths, ids, strict=True))
    pinned = {astuple(source) for parts in MANIFEST.values() for source in parts.values()}
    assert pinned == published and len(pinned) == 10


def test_the_real_cmrc_dev_set_placed_by_hand_is_accepted_without_the_network(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINIBERT_DATA", str(tmp_path))
    monkeypatch.setenv("MINIBERT_DATA_URL", "http://127.0.0.1:9")  # nobody listens there
    real = shared / "data" / "cmrc2018" / "cmrc2018_dev.json"
    placed = tmp_path / "cmrc2018" / "cmrc2018_dev.json"
    placed.parent.mkdir()
    placed.symlink_to(real.resolve())
    assert find("cmrc2018", ["dev"], wait=0) == {"dev": placed}


@pytest.mark.parametrize("name", ["cmrc2018", "squad"])
def test_the_real_directories_have_one_train_and_one_dev(shared: Path, name: str) -> None:
    folder = shared / "data" / name
    assert find(str(folder)) == {"train": folder / "train.json", "dev": folder / "dev.json"}


# A zip with the parts of a data set.


def zip_of(members: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, value in members.items():
            archive.writestr(name, value)
    return content.getvalue()


TINY = Archive("glue/tiny.zip", {"train": ("Tiny/train.tsv", 2), "dev": ("Tiny/dev.tsv", 1)})
MEMBERS = {
    "Tiny/train.tsv": b"a\t1\nb\t0\n",
    "Tiny/dev.tsv": b"c\t1\n" * 20_000,
    "../evil.txt": b"outside",
    "/tmp/minibert-evil.txt": b"outside",
}


@pytest.fixture
def zipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[bytes], dict[str, Path]]:
    """Finds the data set `tiny`, whose zip has this content, in `tmp_path / "data"`."""
    monkeypatch.setitem(ARCHIVES, "tiny", TINY)
    monkeypatch.setenv("MINIBERT_DATA", str(tmp_path / "data"))

    def find_in(content: bytes) -> dict[str, Path]:
        (tmp_path / "www/glue").mkdir(parents=True, exist_ok=True)
        (tmp_path / "www/glue/tiny.zip").write_bytes(content)
        with serve_files(tmp_path / "www") as url:
            monkeypatch.setenv("MINIBERT_DATA_URL", url)
            return find("tiny", ("train", "dev", "test"), TEXTS, wait=0.01)

    return find_in


def test_of_a_zip_only_the_known_members_are_written_and_only_once(
    zipped: Callable[[bytes], dict[str, Path]], tmp_path: Path
) -> None:
    found = zipped(zip_of(MEMBERS))
    folder = tmp_path / "data/tiny"
    assert found == {"train": folder / "train.tsv", "dev": folder / "dev.tsv"}
    for part, path in found.items():
        assert path.read_bytes() == MEMBERS[f"Tiny/{part}.tsv"]
    assert {p.name for p in folder.iterdir()} == {".lock", "tiny.zip", "train.tsv", "dev.tsv"}
    assert not list(tmp_path.rglob("evil.txt")) and not Path("/tmp/minibert-evil.txt").exists()
    assert zipped(b"gone") == found  # what is there needs no zip
    found["dev"].unlink()
    assert zipped(b"gone")["dev"].read_bytes() == MEMBERS["Tiny/dev.tsv"]  # nor the network


def damaged(content: bytes) -> bytes:
    """One bit of the packed content of a member is turned."""
    at = content.index(b"Tiny/dev.tsv") + 40
    return content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :]


def locked(content: bytes) -> bytes:
    """The members are marked as encrypted."""
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = -1
        while (at := content.find(signature, at + 1)) >= 0:
            content = content[: at + flags] + b"\x01" + content[at + flags + 1 :]
    return content


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (OTHER, "it is no intact zip file"),
        (zip_of(MEMBERS)[:-30], "it is no intact zip file"),
        (damaged(zip_of(MEMBERS)), "it is no intact zip file"),
        (zip_of({"Tiny/train.tsv": b"a"}), "no item named 'Tiny/dev.tsv'"),
        (locked(zip_of(MEMBERS)), "encrypted"),
    ],
)
def test_a_zip_that_is_not_the_one_is_refused(
    zipped: Callable[[bytes], dict[str, Path]], tmp_path: Path, content: bytes, says: str
) -> None:
    with pytest.raises(UserError, match=says) as caught:
        zipped(content)
    assert f"put the file by hand at {tmp_path}/data/tiny/tiny.zip" in str(caught.value)
    assert {p.name for p in (tmp_path / "data/tiny").iterdir()} == {".lock"}


def test_a_member_that_would_fill_the_disk_is_refused(
    zipped: Callable[[bytes], dict[str, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "LARGEST", 1000)
    with pytest.raises(UserError, match=r"Tiny/dev\.tsv in it is 80,000 bytes large"):
        zipped(zip_of(MEMBERS))


def test_a_directory_is_searched_for_other_endings_if_told_so(tmp_path: Path) -> None:
    for name in ("train.tsv", "dev.csv", "test.jsonl", "notes.md"):
        (tmp_path / name).touch()
    parts = ("train", "dev", "test")
    found = find(str(tmp_path), parts, TEXTS)
    assert {part: path.name for part, path in found.items()} == {
        **{"train": "train.tsv", "dev": "dev.csv", "test": "test.jsonl"}
    }
    (tmp_path / "train.csv").touch()
    with pytest.raises(UserError, match=r"several train files: train\.csv, train\.tsv"):
        find(str(tmp_path), parts, TEXTS)
