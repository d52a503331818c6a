"""`minibert ask` as its user meets it: the text and the questions come in, replies are shown."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from pathlib import Path

from minibert.errors import UserError
from minibert.files import decode, read_text
from minibert.qa.ask import Reader, Reply
from minibert.report import on_one_line


def read_context(name: str) -> str:
    """A text file, or stdin for "-", character for character.

    Raises:
        UserError: there is no such file, it is a directory, empty or not UTF-8.
    """
    what = "stdin" if name == "-" else name
    text = decode(sys.stdin.buffer.read(), what) if name == "-" else read_text(Path(name))[0]
    if not text.strip():
        raise UserError(f"{what} is empty; a text with the answer in it was expected")
    return text


def converse(reader: Reader, context: str, as_json: bool) -> int:
    """Answers one question after the other; one that cannot be answered does not end it."""
    if sys.stdin.isatty():
        with suppress(ImportError):  # arrow keys and earlier questions; Windows has none
            import readline  # noqa: F401
        print("Ask about the text; an empty line or Ctrl-D ends.", file=sys.stderr)
    while True:
        try:
            question = next_question()
            if not question.strip():
                return 0
            [reply] = reader.ask(context, [question])
            if as_json:
                print(json.dumps(reply._asdict(), ensure_ascii=False))
            else:
                show(reply)
            sys.stdout.flush()  # whoever pipes questions in waits for it
        except UserError as error:
            print("error:", error, file=sys.stderr)


def next_question() -> str:
    """A line from the terminal, or of what is piped in; "" at its end."""
    try:
        if not sys.stdin.isatty():
            return sys.stdin.buffer.readline().decode("utf-8")
        if sys.stdout.isatty():
            return input("\n? ")
        print("\n? ", end="", file=sys.stderr, flush=True)  # replies alone go into a file
        return input()
    except EOFError:
        print(file=sys.stderr)
        return ""
    except UnicodeDecodeError:
        raise UserError("this question is not UTF-8 text") from None


def show(reply: Reply) -> None:
    """A reply for people: a few aligned lines, the answer bold on a terminal."""
    if reply.start is None:
        print(f"answer       (none in this text)\nprobability  {reply.probability:.4f}")
        return
    bold = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    marks = ("\033[1m", "\033[0m") if bold else ("【", "】")
    print(f"answer       {on_one_line(reply.answer)}")
    print(f"probability  {reply.probability:.4f}")
    print(f"characters   {reply.start} to {reply.end}")
    print(f"sentence     {reply.marked(*marks)}")
