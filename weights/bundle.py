"""One small checkpoint of all heads: those of a run, and perhaps a masked-LM head trained on it.

    python weights/bundle.py --model runs/joint --out weights/NAME

The parts are put together in half precision, half the bytes for numbers that are read back to
within 0.05%. A file with more than one head is what BERT's own checkpoints are: BertForMaskedLM
takes one of them, BertForQuestionAnswering another, BertForSequenceClassification a third.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from minibert import files, hub, runs
from minibert.cli import guard
from minibert.config import BertConfig
from minibert.errors import UserError
from minibert.report import say
from minibert.tokenizer import load_tokenizer, save_tokenizer

HEAD = "cls.predictions."
LARGEST = torch.finfo(torch.float16).max  # 65,504; none of BERT's weights comes near


def bundle(model: Path, head: Path) -> dict[str, torch.Tensor]:
    """The tensors of both, in fp16: all of the model's, and the head's own.

    Raises:
        UserError: the head was trained on other layers than the model has, or there is none.
    """
    tensors, with_head = files.read_tensors(model), files.read_tensors(head)
    added = {name: x for name, x in with_head.items() if name.startswith(HEAD)}
    if not added:
        raise UserError(f"{head} has no masked-LM head: its checkpoint holds no {HEAD}*")
    for name in sorted(with_head.keys() - added.keys()):
        here = tensors.get(name)
        if here is None or not torch.equal(here.float(), with_head[name].float()):
            raise UserError(
                f"{name} is not the same in {model} and {head}; train the head on that model"
            )
    return {name: half(name, x) for name, x in sorted((tensors | added).items())}


def half(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """In fp16, if it holds fractions. Raises UserError: they would not be the same any more."""
    if not tensor.is_floating_point():
        return tensor
    if not (tensor.abs() < LARGEST).all():
        raise UserError(f"{name} has a number that fp16 cannot hold")
    return tensor.half()


def run(args: argparse.Namespace) -> int:
    out = Path(args.out)
    runs.check_new(out)
    model = hub.find(args.model)
    head = hub.find(args.head) if args.head else model
    tensors, tokenizer = bundle(model, head), load_tokenizer(model)
    config = BertConfig.from_pretrained(model).to_dict()
    config.pop("_name_or_path", None)  # of what it was made of
    config |= {"architectures": ["BertForMaskedLM"], "dtype": "float16"}
    learned = [*runs.learned_from(model), *runs.learned_from(head)]
    once = [fact for i, fact in enumerate(learned) if fact not in learned[:i]]
    noted = [{"note": args.note}] if args.note else []
    files.write_whole(
        {
            out / runs.LEARNED_FROM: files.as_json({"learned_from": [*noted, *once]}),
            out / files.SINGLE: files.as_tensors(tensors),
            out / "config.json": files.as_json(config),
        }
    )
    save_tokenizer(tokenizer, out, config["max_position_embeddings"])
    size = (out / files.SINGLE).stat().st_size
    say(f"{out}: {len(tensors)} tensors, {size / 1e6:.1f} MB")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", required=True, help="a checkpoint or run, whose layers and heads are taken")
    add("--head", help="a run of pretrain.py --head-only that began with it (default: the model's "
        "own, which a run of joint.py has)")  # fmt: skip
    add("--note", help="a sentence that run.json repeats in every run that begins with this")
    add("--out", required=True, metavar="DIRECTORY")
    return guard(lambda: run(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
