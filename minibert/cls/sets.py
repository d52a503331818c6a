"""The sets that a run needs, by what was said on the command line: train, dev and perhaps test.

After `reading.py`, which reads one file; here the files are found, read alike and held against
each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from minibert import datasets
from minibert.cls.columns import Wanted
from minibert.cls.reading import (
    TAKEN,
    TextSet,
    check_classes,
    check_known,
    part_of,
    read_texts,
    unknown_label,
    without_labels,
)
from minibert.errors import UserError
from minibert.parts import find_files, say_shared, shares
from minibert.report import say

SHOWN = 20  # classes, by name


def read_sets(settings: dict[str, Any]) -> dict[str, TextSet]:
    """All texts, checked; says of each file what was understood of it, before anything is refused.

    Raises:
        UserError: what `find_files` and `read_texts` raise; labels that cannot be classes; one of
            the dev set that the training set lacks.
    """
    parts = ("train", "dev", "test")
    files = find_files(settings, datasets.TEXTS, parts)
    shared = shares(files)
    wanted = Wanted.of(settings)
    sets: dict[str, TextSet] = {}
    for part in sorted(shared, key=lambda part: part != "train"):  # the others are read like it
        path, share = shared[part]
        texts = read_texts(
            path, wanted, labelled=part != "test", like=sets.get("train"), part=share
        )
        if part == "train":
            say_shared(files, "texts", f"{TAKEN['dev']}, of the texts")
        sets[part] = with_known_labels(texts, sets["train"]) if part == "test" else texts
        say(sets[part].summary())
        check_count(settings.get("data"), part, texts)
    check_classes(sets["train"])
    check_known(sets["dev"], sets["train"])
    say_what_is_lacking(sets["train"], sets["dev"], settings.get("limit"))
    return sets


def with_known_labels(test: TextSet, train: TextSet) -> TextSet:
    """A test set, without labels where a text has none, or one that is none of the training set's.

    Stand-ins, one for all texts, as -1, are left out in silence.
    """
    unknown = unknown_label(test, train)
    if unknown is None:
        return test
    if unknown.label is None:
        if test.labels:
            say(
                f"note: {test.path}, line {unknown.line}: the label is empty; the test set is "
                "predicted, but not scored"
            )
        return without_labels(test)
    if len(test.labels) > 1:
        say(
            f"note: {test.path}, line {unknown.line}: the label {unknown.label!r} does not occur "
            f"in {train.path}; the test set is predicted, but not scored"
        )
    return without_labels(test)


def say_what_is_lacking(train: TextSet, dev: TextSet, limit: int | None) -> None:
    """Says which classes a score on dev, or a training on the first few texts, knows nothing of."""
    lacking = classes_lacking(train, dev)
    if lacking:
        say(f"note: the texts to score on have none of the class {lacking}")
    if limit and limit < len(train.examples):
        first = replace(train, examples=train.examples[:limit])
        lacking = classes_lacking(train, first)
        none = f"; none of them is of the class {lacking}" if lacking else ""
        say(f"--limit: of {len(train.examples):,} texts the first {limit:,} are trained on{none}")


def classes_lacking(train: TextSet, texts: TextSet) -> str:
    """The classes of train that other texts have none of, by name; "" if there are none."""
    there = set(texts.labels)
    lacking = [label for label in train.labels if label not in there]
    more = f" and {len(lacking) - SHOWN} more" if len(lacking) > SHOWN else ""
    return ", ".join(lacking[:SHOWN]) + more


def read_dev(name: str, asked: Wanted, trained_on: Mapping[str, Any]) -> TextSet:
    """The texts to score a model on that a NAME, a FILE or a DIR stands for; says what was
    understood of them.

    asked: columns, see `read_texts`.
    trained_on: the data of its run.json. Of a file that its run held texts out of, these are taken.

    Raises:
        UserError: there is nothing of that name; what `read_texts` raises.
    """
    [path] = datasets.find(name, ("dev",), datasets.TEXTS).values()
    train, dev = (trained_on.get(part, {}) for part in ("train", "dev"))
    texts = read_texts(path, asked, trained=train)
    check_count(name, "dev", texts)
    taken = [(part.get("sha256"), part.get("texts_taken")) for part in (train, dev)]
    # A run may also have been scored on what it was trained on, or have drawn by an older rule.
    if taken == [(texts.sha256, TAKEN["train"]), (texts.sha256, TAKEN["dev"])]:
        texts = part_of(texts, "dev")
        say(f"note: the model was trained on {path.name}; the texts held out of it are scored")
    elif texts.sha256 == train.get("sha256"):
        say(f"note: the model was trained on {path.name}: its scores there say little")
    say(texts.summary())
    return texts


def check_count(name: str | None, part: str, texts: TextSet) -> None:
    """Raises UserError if a file that was taken from an archive has not its number of texts."""
    archive = datasets.ARCHIVES.get(name or "")
    if archive is None or texts.path.parent != datasets.data_dir() / str(name):
        return
    published = archive.members[part][1]
    if len(texts.examples) != published:
        raise UserError(
            f"{texts.path} has {len(texts.examples):,} texts where {name} has {published:,}, so it "
            f"is not what was published; remove {texts.path.parent} and run again"
        )
