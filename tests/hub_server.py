"""A Hugging Face hub on 127.0.0.1 with made-up repositories, for the library that downloads; and a
plain web server, for data.

The hub answers what huggingface_hub asks for: which commit `main` is, the files of a commit, and
each file with the headers that its cache is built from. As on the real hub, an old name redirects
to the one with its organisation, and a large file redirects to another host, here `localhost`.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".bin")


@contextmanager
def serve_files(folder: Path) -> Iterator[str]:
    """The address of a web server that has the files of a folder."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02}).start()
        try:
            yield f"http://127.0.0.1:{httpd.server_port}"
        finally:
            httpd.shutdown()


class FakeHub(ThreadingHTTPServer):
    """Starts on entering a `with`, stops on leaving it; may be told to misbehave meanwhile.

    Args:
        repositories: the files of each, by `organisation/name`.
        aliases: old names, without organisation, and what they redirect to.
        gated: names whose files are refused, though anyone may know that they exist.
        status: if not 0, the answer to everything.
        silent: takes connections and never answers.
        drops: how many times a large file's connection is dropped halfway; -1 for always, after
            the same byte, so that nothing new ever comes through.
    """

    daemon_threads = True

    def __init__(
        self,
        repositories: dict[str, dict[str, bytes]],
        aliases: dict[str, str] | None = None,
        gated: tuple[str, ...] = (),
        status: int = 0,
        silent: bool = False,
        drops: int = 0,
    ) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories, self.aliases, self.gated = repositories, aliases or {}, gated
        self.status, self.silent, self.drops = status, silent, drops
        self.requests: list[str] = []
        self.ranges: list[int] = []  # the first byte of each part that was asked for
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def fetched(self) -> set[str]:
        """The files whose content somebody asked for."""
        content = ("/resolve/", "/cdn/")
        gets = [r for r in self.requests if r.startswith("GET") and any(c in r for c in content)]
        return {request.rpartition("/")[2] for request in gets}

    def __enter__(self) -> FakeHub:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()


def sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def commit(files: dict[str, bytes]) -> str:
    return hashlib.sha1("".join(sha1(files[name]) for name in sorted(files)).encode()).hexdigest()


class Handler(BaseHTTPRequestHandler):
    server: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(f"{self.command} {path}")
        if self.server.silent:
            self.server.closing.wait()
            self.close_connection = True
        elif self.server.status:
            self.answer(self.server.status)
        elif match := re.fullmatch(r"/api/models/(.+?)(?:/revision/\w+|/(tree)/\w+)?", path):
            self.about_repository(path, *match.groups())
        elif match := re.fullmatch(r"/cdn/(.+)/([^/]+)", path):
            self.content(self.server.repositories[match[1]][match[2]])
        elif match := re.fullmatch(r"/(.+)/resolve/\w+/([^/]+)", path):
            self.file(path, match[1], match[2])
        else:
            self.answer(404)

    def about_repository(self, path: str, name: str, tree: str | None) -> None:
        files = self.look_up(path, name)
        if files is None:
            return
        if tree:
            self.answer_json([describe(file, content) for file, content in files.items()])
            return
        siblings = [{"rfilename": file} for file in files]
        self.answer_json({"id": name, "sha": commit(files), "siblings": siblings, "tags": []})

    def file(self, path: str, name: str, file: str) -> None:
        files = self.look_up(path, name)
        if files is None:
            return
        if name in self.server.gated:
            self.answer(401, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access restricted."})
        elif file not in files:
            self.answer(404, {"X-Error-Code": "EntryNotFound"})
        elif file.endswith(LARGE):
            content = files[file]
            self.answer(
                302,
                {
                    "Location": f"http://localhost:{self.server.server_port}/cdn/{name}/{file}",
                    "X-Repo-Commit": commit(files),
                    "X-Linked-Size": str(len(content)),
                    "X-Linked-ETag": f'"{hashlib.sha256(content).hexdigest()}"',
                },
            )
        else:
            self.content(
                files[file], {"ETag": f'"{sha1(files[file])}"', "X-Repo-Commit": commit(files)}
            )

    def look_up(self, path: str, name: str) -> dict[str, bytes] | None:
        """The files of a repository; where there are none under this name, answers why."""
        if name in self.server.aliases:
            self.answer(307, {"Location": path.replace(name, self.server.aliases[name], 1)})
            return None
        if name not in self.server.repositories:
            self.answer(404, {"X-Error-Code": "RepoNotFound"})
        return self.server.repositories.get(name)

    def content(self, content: bytes, headers: dict[str, str] | None = None) -> None:
        """The bytes, or those from the first that is asked for; cut short if told to."""
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        self.server.ranges += [start] if asked else []
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        end = len(content)
        if self.server.drops and not headers:  # a large one
            self.server.drops -= self.server.drops > 0
            end = max(start, len(content) // 2)
            self.close_connection = True
        self.wfile.write(content[start:end])

    def answer_json(self, value: Any) -> None:
        self.answer(200, {"Content-Type": "application/json"}, json.dumps(value).encode())

    def answer(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def describe(file: str, content: bytes) -> dict[str, Any]:
    about: dict[str, Any] = {
        "type": "file", "path": file, "oid": sha1(content), "size": len(content)
    }  # fmt: skip
    if file.endswith(LARGE):
        sha256 = hashlib.sha256(content).hexdigest()
        about["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 134}
    return about
