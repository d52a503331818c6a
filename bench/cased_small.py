"""A small cased model for `minibert probe-case`, since an uncased one cannot flip.

    python bench/cased_small.py --shared ../shared --out runs/cased

It has the vocabulary of bert-base-cased and random weights, learns SST-2 from nothing, and is then
probed. Everything it learns from is in lower case, as SST-2 is: it has never met a capital.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from minibert.config import BertConfig
from minibert.model import BertForSequenceClassification

REPOSITORY = Path(__file__).resolve().parent.parent
SIZE = {
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "max_position_embeddings": 128,
}
RECIPE = ("--lr", "1e-3", "--batch-size", "64", "--epochs", "2")


def write_checkpoint(vocabulary: Path, directory: Path, seed: int) -> None:
    """A BERT of this size that has learned nothing yet."""
    config = BertConfig.from_pretrained(vocabulary, **SIZE)
    torch.manual_seed(seed)
    BertForSequenceClassification(config).save_pretrained(directory)
    for name in ("vocab.txt", "tokenizer_config.json"):
        shutil.copy(vocabulary / name, directory)


def train_and_probe(weights: Path, data: Path, out: Path, seed: int) -> None:
    """Leaves a run in out/run and what flips in out/probe."""
    run, probe = out / "run", out / "probe"
    start = ["--weights", weights, "--data", data, "--out", run, "--seed", seed]
    commands: list[list[object]] = [
        [REPOSITORY / "train_cls.py", *start, *RECIPE],
        ["-m", "minibert", "probe-case", "--model", run, "--data", data, "--out", probe],
    ]
    for command in commands:
        subprocess.run([sys.executable, *map(str, command)], check=True)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="a directory that is not there yet")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    weights = args.out / "untrained"
    write_checkpoint(args.shared / "bert-base-cased", weights, args.seed)
    train_and_probe(weights, args.shared / "data/sst2", args.out, args.seed)


if __name__ == "__main__":
    main()
