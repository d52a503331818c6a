"""`minibert ask` as its user meets it: questions come in, replies are shown."""

from __future__ import annotations

import json
import os
import sys

from minibert.prompt import converse
from minibert.qa.ask import Reader, Reply
from minibert.report import on_one_line


def ask_on(reader: Reader, context: str, as_json: bool) -> int:
    """Answers one question after the other."""

    def reply(question: str) -> None:
        [found] = reader.ask(context, [question])
        if as_json:
            print(json.dumps(found._asdict(), ensure_ascii=False))
        else:
            show(found)

    return converse("Ask about the text", "question", reply)


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
