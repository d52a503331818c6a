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
from pathlib import Path

import torch

from minibert.config import BertConfig
from minibert.model import BertForSequenceClassification

REPOSITORY = Path(__file__).resolve().parent.parent
SIZE = {
    **{"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"intermediate_size": 512, "max_position_embeddings": 128},
}


def write_checkpoint(vocabulary: Path, directory: Path, seed: int) -> None:
    """A BERT of this size that has learned nothing yet."""
    config = BertConfig.from_pretrained(vocabulary, **SIZE)
    torch.manual_seed(seed)
    BertForSequenceClassification(config).save_pretrained(directory)
    for name in ("vocab.txt", "tokenizer_config.json"):
        shutil.copy(vocabulary / name, directory)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="a directory that is not there yet")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    write_checkpoint(args.shared / "bert-base-cased", args.out / "untrained", args.seed)
    data, run = args.shared / "data/sst2", args.out / "run"
    train = [REPOSITORY / "train_cls.py", "--weights", args.out / "untrained", "--out", run]
    recipe = ["--lr", "1e-3", "--batch-size", "64", "--epochs", "2", "--seed", str(args.seed)]
    probe = ["-m", "minibert", "probe-case", "--model", run, "--out", args.out / "probe"]
    for command in ([*train, *recipe, "--data", data], [*probe, "--data", data]):
        subprocess.run([sys.executable, *map(str, command)], check=True)


if __name__ == "__main__":
    main()
