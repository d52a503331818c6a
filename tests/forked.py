"""The training scripts in processes that start at once and may be killed.

Importing torch takes seconds, a fork of a process that has done so takes none. So a server imports
everything, computes nothing (a pool of threads would not survive a fork), and forks a process for
each command line that a test asks for. Requests and replies are lines of JSON.
"""

from __future__ import annotations

import atexit
import faulthandler
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

TESTS = Path(__file__).resolve().parent
PATIENCE = 60  # seconds until a run counts as hanging


class Ended(NamedTuple):
    """What became of a run: of each of its processes the exit code (-9: killed) and the output."""

    codes: list[int]
    out: list[str]
    err: list[str]
    seconds: float  # from the start of the loop, or of the process if there was none, to the end

    @property
    def code(self) -> int:
        return self.codes[0]


def error_of(ended: Ended) -> str:
    """The one sentence that a user's mistake gets."""
    assert ended.code == 2, ended.err
    assert "Traceback" not in ended.err[0]
    (error,) = [line for line in ended.err[0].splitlines() if line.startswith("error: ")]
    return error


class Forks:
    """The server, from a test's side."""

    def __init__(self) -> None:
        self.server = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        atexit.register(self.close)

    def close(self) -> None:
        assert self.server.stdin and self.server.stdout
        self.server.stdin.close()
        self.server.wait()
        self.server.stdout.close()

    def run(
        self,
        arguments: list[str],
        *,
        processes: int = 1,
        send: int = 0,
        after: float = 0.0,
        patches: list[tuple[str, ...]] | None = None,
        environment: dict[str, str] | None = None,
        script: str = "train_qa",
    ) -> Ended:
        """Runs a training script with these arguments to its end.

        Args:
            processes: as many as torchrun would start.
            send, after: a signal for all processes, so many seconds after the loop began.
            patches: what to call in each process first: module, function, arguments.
            environment: variables to add.
            script: its name without the ending.
        """
        request = {
            "arguments": arguments,
            "processes": processes,
            "send": int(send),
            "after": after,
            "patches": patches or [],
            "environment": environment or {},
            "script": script,
        }
        assert self.server.stdin and self.server.stdout
        print(json.dumps(request), file=self.server.stdin, flush=True)
        ended = Ended(**json.loads(self.server.stdout.readline()))
        assert None not in ended.codes, f"it hung: {ended.err}"
        return ended


@cache
def forks() -> Forks:
    """One server for all tests: it takes seconds to start."""
    return Forks()


def serve() -> None:
    """Answers requests, one after the other, until stdin is closed."""
    for line in sys.stdin:
        print(json.dumps(answer(**json.loads(line))), flush=True)


def answer(
    arguments: list[str],
    processes: int,
    send: int,
    after: float,
    patches: list[list[str]],
    environment: dict[str, str],
    script: str,
) -> dict[str, Any]:
    began, to_begin = os.pipe()
    with tempfile.TemporaryDirectory() as folder:
        environment = environment | torchrun_variables(processes)
        pids = []
        for rank in range(processes):
            own = environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            output = [f"{folder}/{rank}.out", f"{folder}/{rank}.err"]
            pid = os.fork()
            if pid == 0:
                become(script, arguments, patches, own, output, to_begin)
            pids.append(pid)
        os.close(to_begin)
        os.read(began, 1)  # the loop has begun, or the process has ended
        start = time.monotonic()
        if send:
            time.sleep(after)
            for pid in pids:
                os.kill(pid, send)
        codes = wait(pids)
        seconds = time.monotonic() - start
        os.close(began)
        out, err = (
            [Path(f"{folder}/{rank}.{kind}").read_text() for rank in range(processes)]
            for kind in ("out", "err")
        )
    return {"codes": codes, "out": out, "err": err, "seconds": seconds}


def torchrun_variables(processes: int) -> dict[str, str]:
    if processes == 1:
        return {}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    return {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}


def wait(pids: list[int]) -> list[int | None]:
    """The exit code of each process; None for one that hung and had to be killed."""
    codes: dict[int, int | None] = {}
    deadline = time.monotonic() + PATIENCE
    while len(codes) < len(pids):
        for pid in set(pids) - set(codes):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                codes[pid] = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > deadline:
                os.kill(pid, signal.SIGUSR1)  # it writes down where it hangs
                time.sleep(0.2)
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                codes[pid] = None
        time.sleep(0.002)
    return [codes[pid] for pid in pids]


def become(
    script: str,
    arguments: list[str],
    patches: list[list[str]],
    environment: dict[str, str],
    output: list[str],
    to_begin: int,
) -> None:
    """Turns this process into a run of a training script; never returns."""
    from minibert.train import Training

    code: Any = 70
    try:
        for number, path in zip((1, 2), output, strict=True):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        faulthandler.register(signal.SIGUSR1, all_threads=True)
        os.environ.update(environment)
        go = Training.go

        def tell_and_go(training: Training) -> None:
            os.write(to_begin, b".")
            go(training)

        Training.go = tell_and_go  # type: ignore[method-assign]
        for module, function, *rest in patches:
            getattr(import_module(module), function)(*rest)
        code = import_module(script).main(arguments)
    except SystemExit as error:
        code = error.code
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    sys.path[:0] = [str(TESTS), str(TESTS.parent), str(TESTS.parent / "weights")]
    import pytest  # noqa: F401
    import torch
    import torch._dynamo  # what the optimizer imports when it is first used

    import train_cls  # noqa: F401
    import train_qa  # noqa: F401

    os.fsync = lambda _: None  # type: ignore[assignment]  # for power cuts, which no test makes
    torch.set_num_threads(1)
    serve()
