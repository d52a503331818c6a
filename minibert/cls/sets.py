"""The sets that a run needs, by what was said on the command line: train, dev and perhaps test.

After `reading.py`, which reads one file; here the files are found, read alike and held against
each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minibert import datasets
from minibert.cls.columns import Wanted
from minibert.cls.reading import TextSet, check_classes, check_known, read_texts, without_labels
from minibert.errors import UserError
from minibert.parts import find_files, shares
from minibert.report import say

SUFFIXES = (".tsv", ".csv", ".jsonl", ".json", ".txt")  # looked for in a directory


def read_sets(settings: dict[str, Any]) -> dict[str, TextSet]:
    """All texts, checked; says what was understood of them.

    Raises:
        UserError: what `find_files` and `read_texts` raise; labels that cannot be classes; one of
            the dev set that the training set lacks.
    """
    names = "sst2 (or a file or a directory)"
    files = find_files(settings, names, parts=("train", "dev", "test"), suffixes=SUFFIXES)
    wanted = Wanted(*(settings.get(f"{name}_column") for name in Wanted._fields))
    sets: dict[str, TextSet] = {}
    for part, (path, share) in sorted(
        shares(files, "texts", "text").items(), key=lambda item: item[0] != "train"
    ):
        sets[part] = read_texts(
            path, wanted, labelled=part != "test", like=sets.get("train"), part=share
        )
        check_count(settings.get("data"), part, sets[part])
    check_classes(sets["train"])
    check_known(sets["dev"], sets["train"])
    if "test" in sets and sets["test"].has_labels:
        known = set(sets["train"].labels)
        if any(example.label not in known for example in sets["test"].examples):
            sets["test"] = without_labels(sets["test"])  # stand-ins, as -1
    for texts in sets.values():
        say(texts.summary())
    return sets


def read_dev(name: str, wanted: Wanted, trained_on: Mapping[str, Any]) -> TextSet:
    """The texts to score a model on that a NAME, a FILE or a DIR stands for; says what was
    understood of them.

    trained_on: the data of its run.json. Of a file that its run held texts out of, these are taken.

    Raises:
        UserError: there is nothing of that name; what `read_texts` raises.
    """
    [path] = datasets.find(name, ("dev",), suffixes=SUFFIXES).values()
    texts = read_texts(path, wanted)
    check_count(name, "dev", texts)
    train, dev = (trained_on.get(part, {}).get("sha256") for part in ("train", "dev"))
    if texts.sha256 == train == dev:
        texts = read_texts(path, wanted, part="dev")
        say(f"note: the model was trained on {path.name}; the texts held out of it are scored")
    elif texts.sha256 == train:
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
