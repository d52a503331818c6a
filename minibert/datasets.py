"""Data sets by name: `--data cmrc2018` -> verified files on disk.

A name stands for files at fixed commits of public repositories. They are downloaded on first use
into `data/` and verified against the git blob id that the commit itself records, so what is read
is what was published. GLUE's SST-2 is a zip without such an id; it is known by how many texts are
in it. The next rooms, `reading.py` of both tasks, read the files.

`sample` is the one data set that comes with the package: questions or labelled texts, whichever is
asked for.

Environment: MINIBERT_DATA moves the folder; MINIBERT_DATA_URL names a mirror that serves the same
paths, `<url>/<owner>/<repo>/<commit>/<path>` and `<url>/glue/data/SST-2.zip` (a plain web server
on a machine without internet).
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import shutil
import urllib.parse
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from minibert.download import CHUNK, fetch
from minibert.errors import UserError
from minibert.files import Write, write_whole

BASE = "https://raw.githubusercontent.com"
GLUE = "https://dl.fbaipublicfiles.com"
LARGEST = 1 << 28  # bytes of a file in a zip; more is none of these data sets


def url_of(base: str, path: str) -> str:
    """Where a file is, on its own server or on the mirror that serves the same paths."""
    base = os.environ.get("MINIBERT_DATA_URL") or base
    if not base.startswith(("http://", "https://")):
        raise UserError(f"MINIBERT_DATA_URL is {base!r}; it must begin with http:// or https://")
    return f"{base.rstrip('/')}/{urllib.parse.quote(path)}"


@dataclass(frozen=True)
class Source:
    """One file of a public repository at one commit, and the git id of its content."""

    repository: str  # owner/name
    commit: str
    path: str
    blob_id: str  # sha1 of "blob <size>", a zero byte and the content

    @property
    def url(self) -> str:
        return url_of(BASE, f"{self.repository}/{self.commit}/{self.path}")

    def fault(self, path: Path) -> str:
        """Why a file is not this one; "" if it is."""
        got = blob_id(path)
        if got == self.blob_id:
            return ""
        return f"its content is not what was published (git blob {got}, not {self.blob_id})"


@dataclass(frozen=True)
class Archive:
    """A zip file with the parts of a data set, and how many texts each of them has."""

    path: str  # on GLUE's server
    members: Mapping[str, tuple[str, int]]  # part -> its name in the zip, its texts

    @property
    def url(self) -> str:
        return url_of(GLUE, self.path)

    def fault(self, path: Path) -> str:
        """Why a file is no such archive; "" if it is one, whole and undamaged."""
        try:
            with zipfile.ZipFile(path) as archive:
                for name, _ in self.members.values():
                    if archive.getinfo(name).file_size > LARGEST:
                        return f"{name} in it is {archive.getinfo(name).file_size:,} bytes large"
                    with archive.open(name) as member:  # at its end its checksum is verified
                        while member.read(CHUNK):
                            pass
        except KeyError as error:
            return f"it is not what was published ({error.args[0]})"
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            return f"it is no intact zip file ({error})"
        # Encrypted; packed in a way that zipfile lacks (a kind of RuntimeError); offsets that lie.
        except (RuntimeError, ValueError) as error:
            return f"it is not what was published ({error})"
        return ""

    def find(self, folder: Path, parts: Sequence[str], wait: float) -> dict[str, Path]:
        """The files of these parts, taken out of the zip where they are not there yet.

        Only the members that are known are taken out, under names of our own: whatever else the
        zip holds, and wherever its names point to, nothing is written elsewhere.
        """
        found = {part: folder / f"{part}{Path(self.members[part][0]).suffix}" for part in parts}
        lacking = {part: path for part, path in found.items() if not path.is_file()}
        if lacking:
            with zipfile.ZipFile(fetch(self, folder / Path(self.path).name, wait=wait)) as archive:
                names = {path: self.members[part][0] for part, path in lacking.items()}
                for path, name in names.items():  # one by one: they share the archive
                    write_whole({path: copy_of(archive, name)})
        return found


def copy_of(archive: zipfile.ZipFile, name: str) -> Write:
    """What writes a member of a zip to the path that it is given, and nowhere else."""

    def write(path: Path) -> None:
        with archive.open(name) as member, path.open("wb") as file:
            shutil.copyfileobj(member, file)

    return write


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

# The test set has no labels: they are kept on GLUE's server.
ARCHIVES: dict[str, Archive] = {
    "sst2": Archive(
        "glue/data/SST-2.zip",
        {
            "train": ("SST-2/train.tsv", 67_349),
            "dev": ("SST-2/dev.tsv", 872),
            "test": ("SST-2/test.tsv", 1_821),
        },
    ),
}

SAMPLE = "sample"  # the name of the bundled data set
SAMPLES = Path(__file__).resolve().parent / "samples"


@dataclass(frozen=True)
class Kind:
    """What one of the two tasks reads."""

    what: str
    script: str
    sample: Path  # the directory of its bundled data set
    suffixes: Sequence[str]  # of files that are looked for in a directory
    fetched: Mapping[str, object]  # the data sets to be fetched

    @property
    def names(self) -> list[str]:
        return [SAMPLE, *self.fetched]


QUESTIONS = Kind("questions", "train_qa.py", SAMPLES / "qa", (".json",), MANIFEST)
TEXTS = Kind(
    "labelled texts",
    "train_cls.py",
    SAMPLES / "reviews",
    (".tsv", ".csv", ".jsonl", ".json", ".txt"),
    ARCHIVES,
)

# What people call the parts, in the file names of a directory.
SPELLINGS = {
    "train": "train|training",
    "dev": "dev|valid|validation|val(?![a-z])",
    "test": "test",
    "trial": "trial",
}

PACKED = (".gz", ".zip", ".bz2", ".xz", ".zst")


def find(
    name_or_path: str,
    parts: Sequence[str] = ("train", "dev"),
    kind: Kind = QUESTIONS,
    *,
    wait: float = 1.0,
) -> dict[str, Path]:
    """What `--data` means: the files of a NAME, a FILE or a DIR, by part.

    A NAME stands before a directory of that name (write `./squad` for the directory). `sample` is
    the bundled data of this kind; others are downloaded where they are not there yet, the asked
    `parts` only. A FILE is `{"data": file}`: what it is for, the caller knows. A DIR is searched
    for `train*.json`, `dev*.json` and so on, with the suffixes of the kind. Parts that a NAME or
    DIR does not have are left out; UserError if that leaves none, if a directory holds several
    candidates for a part, or if nothing of this kind has that name.

    `wait` is the pause in seconds before the second try of a download; it doubles with each.
    """
    check_kind(name_or_path, kind)
    folder = data_dir() / name_or_path
    if name_or_path == SAMPLE:
        return _search(kind.sample, parts, kind.suffixes)
    if archive := ARCHIVES.get(name_or_path):
        return archive.find(folder, known_parts(name_or_path, parts, archive.members), wait)
    if sources := MANIFEST.get(name_or_path):
        return {
            part: fetch(sources[part], folder / Path(sources[part].path).name, wait=wait)
            for part in known_parts(name_or_path, parts, sources)
        }
    path = Path(name_or_path)
    if path.is_file():
        return {"data": path}
    if path.is_dir():
        return _search(path, parts, kind.suffixes)
    near = difflib.get_close_matches(name_or_path.lower(), kind.names, n=1)
    raise UserError(
        f"no data set, file or directory is called {name_or_path!r}; "
        f"known data sets: {', '.join(kind.names)}" + (f"; did you mean {near[0]}?" if near else "")
    )


def check_kind(name: str, kind: Kind) -> None:
    """Raises UserError for a data set of another task, before it is fetched."""
    for other in (QUESTIONS, TEXTS):
        if name in other.names and name not in kind.names:
            raise UserError(
                f"the data set {name} is one of {other.what}, for {other.script}; here "
                f"{', '.join(kind.names)} may be named, a file or a directory (./{name}, if you "
                "mean one of that name)"
            )


def known_parts(name: str, parts: Sequence[str], known: Mapping[str, object]) -> list[str]:
    """Those of the parts that a data set has; UserError if it has none of them."""
    wanted = [part for part in parts if part in known]
    if not wanted:
        raise UserError(
            f"the data set {name} has no part {' or '.join(parts)}; it has {', '.join(known)}"
        )
    return wanted


def data_dir() -> Path:
    """Where downloads go: $MINIBERT_DATA, else `data/` of the checkout, else `./data`."""
    if moved := os.environ.get("MINIBERT_DATA"):
        return Path(moved).expanduser()
    checkout = Path(__file__).resolve().parent.parent
    return (checkout if (checkout / "pyproject.toml").is_file() else Path.cwd()) / "data"


def _search(folder: Path, parts: Sequence[str], suffixes: Sequence[str]) -> dict[str, Path]:
    """The file of each part: `dev.json`, else `dev*.json`, else a name with the word dev in it."""
    names = sorted(path.name for path in folder.glob("*") if path.suffix.lower() in suffixes)
    endings = "|".join(map(re.escape, suffixes))
    found: dict[str, Path] = {}
    for part in parts:
        words = SPELLINGS[part]
        exact = rf"({words})({endings})"
        for pattern in (exact, rf"({words}).*", rf".*[^a-z]({words})[^a-z].*"):
            matches = [name for name in names if re.fullmatch(pattern, name, re.IGNORECASE)]
            if len(matches) > 1:
                plain = part + Path(matches[0]).suffix
                way = "keep only one of them" if pattern == exact else f"rename one to {plain}"
                raise UserError(
                    f"{folder} holds several {part} files: {', '.join(matches)}; {way}, or name a "
                    "file"
                )
            if matches:
                found[part] = folder / matches[0]
                break
    if not found:
        lacks = lacking(folder, parts, suffixes)
        raise UserError(f"{lacks}; name a directory that does, or a file")
    return found


def lacking(folder: Path, parts: Sequence[str], suffixes: Sequence[str]) -> str:
    """What a directory does not hold, and of what there is the files that are only packed."""
    wanted = " or ".join(f"{part}*{suffixes[0]}" for part in parts)
    others = f" (or {', '.join(suffixes[1:])})" if len(suffixes) > 1 else ""
    packed = [path.name for path in sorted(folder.glob("*")) if path.suffix.lower() in PACKED]
    unpack = f" but {', '.join(packed)}, to be unpacked" if packed else ""
    return f"{folder} holds no {wanted}{others}{unpack}"


def blob_id(path: Path) -> str:
    """The id git gives this content: what `git hash-object PATH` prints."""
    with path.open("rb") as file:
        digest = hashlib.sha1(b"blob %d\0" % os.fstat(file.fileno()).st_size)
        while piece := file.read(CHUNK):
            digest.update(piece)
    return digest.hexdigest()
