"""Where a person types, or another program writes, line after line, and each gets its reply."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from minibert.errors import UserError
from minibert.files import decode, read_text


def read_input(name: str, expected: str) -> str:
    """A text file, or stdin for "-", character for character.

    Raises:
        UserError: there is no such file, it is a directory, empty or not UTF-8.
    """
    what = "stdin" if name == "-" else name
    text = decode(sys.stdin.buffer.read(), what) if name == "-" else read_text(Path(name))[0]
    if not text.strip():
        raise UserError(f"{what} is empty; {expected} was expected")
    return text


def converse(welcome: str, what: str, reply: Callable[[str], None]) -> int:
    """Replies to one line after the other; one that gets none but an error does not end it.

    Args:
        welcome: how to end it is added.
        what: what a line is: "question".
        reply: prints the reply to a line; raises UserError.
    """
    if sys.stdin.isatty():
        with suppress(ImportError):  # arrow keys and earlier lines; Windows has none
            import readline  # noqa: F401
        print(f"{welcome}; an empty line or Ctrl-D ends.", file=sys.stderr)
    while True:
        try:
            line = next_line(what)
            if not line.strip():
                return 0
            reply(line)
            sys.stdout.flush()  # whoever pipes lines in waits for it
        except UserError as error:
            print("error:", error, file=sys.stderr)


def next_line(what: str, sign: str = "?") -> str:
    """A line from the terminal, or of what is piped in; "" at its end."""
    try:
        if not sys.stdin.isatty():
            return sys.stdin.buffer.readline().decode("utf-8")
        if sys.stdout.isatty():
            return input(f"\n{sign} ")
        print(f"\n{sign} ", end="", file=sys.stderr, flush=True)  # replies alone go into a file
        return input()
    except EOFError:
        print(file=sys.stderr)
        return ""
    except UnicodeDecodeError:
        raise UserError(f"this {what} is not valid UTF-8") from None
