"""Where a model's numbers come from and go to: drawn anew, read from a checkpoint, written to one.

`NAMES` is the whole correspondence between the names of a checkpoint and those of `model.py`.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from minibert import files, hub
from minibert.config import BertConfig
from minibert.errors import UserError

log = logging.getLogger("minibert")

Model = TypeVar("Model", bound="PreTrainedModel")

# Ours: the checkpoint's. {i} is the number of a layer. Heads stand on an encoder named `bert`;
# checkpoints of the encoder alone leave that prefix out, and so may any other.
NAMES = {
    "embeddings.word_embeddings": "embeddings.word_embeddings",
    "embeddings.position_embeddings": "embeddings.position_embeddings",
    "embeddings.token_type_embeddings": "embeddings.token_type_embeddings",
    "embeddings.layer_norm": "embeddings.LayerNorm",
    "layers.{i}.attention.query": "encoder.layer.{i}.attention.self.query",
    "layers.{i}.attention.key": "encoder.layer.{i}.attention.self.key",
    "layers.{i}.attention.value": "encoder.layer.{i}.attention.self.value",
    "layers.{i}.attention.output": "encoder.layer.{i}.attention.output.dense",
    "layers.{i}.attention_norm": "encoder.layer.{i}.attention.output.LayerNorm",
    "layers.{i}.feed_forward.intermediate": "encoder.layer.{i}.intermediate.dense",
    "layers.{i}.feed_forward.output": "encoder.layer.{i}.output.dense",
    "layers.{i}.feed_forward_norm": "encoder.layer.{i}.output.LayerNorm",
    "pooler.dense": "pooler.dense",
    "mlm.dense": "cls.predictions.transform.dense",
    "mlm.layer_norm": "cls.predictions.transform.LayerNorm",
    "mlm.decoder.weight": "cls.predictions.decoder.weight",
    "mlm.decoder.bias": "cls.predictions.bias",
    "nsp": "cls.seq_relationship",
    "qa_outputs": "qa_outputs",
    "classifier": "classifier",
}
# The masked-LM decoder in a checkpoint. Its bias has two names there, of which the first is usual.
DECODER = "cls.predictions.decoder.weight"
BIAS, DECODER_BIAS = "cls.predictions.bias", "cls.predictions.decoder.bias"
# Parts that a checkpoint may lack, because it was not trained with them.
HEADS = ("pooler.", "cls.", "qa_outputs.", "classifier.")
# How parameters may be stored. Anything narrower needs scales that belong to it, which we ignore.
STORED = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Tensors of old checkpoints that hold no parameter.
BUFFERS = ("embeddings.position_ids", "embeddings.token_type_ids")
COUNTER = "it is a counter, no parameter"


def checkpoint_name(ours: str) -> str:
    """The name in a checkpoint of one of our parameters, without the prefix `bert.`."""
    name = ours.removeprefix("bert.")
    number = re.search(r"(?<=layers\.)\d+", name)
    name = re.sub(r"(?<=layers\.)\d+", "{i}", name)
    if name in NAMES:
        name = NAMES[name]
    else:  # NAMES lists modules: their weight or bias comes after
        module, _, kind = name.rpartition(".")
        name = f"{NAMES[module]}.{kind}"
    return name.replace("{i}", number.group()) if number else name


def plain_name(theirs: str) -> str:
    """A checkpoint's name for a tensor, in the spelling of `NAMES`."""
    name = theirs.removeprefix("bert.")
    # Checkpoints made by transformers before 2019-02 keep TensorFlow's names for these two.
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace(
        "LayerNorm.beta", "LayerNorm.bias"
    )


@dataclass(frozen=True)
class LoadReport:
    """What became of a checkpoint's tensors.

    directory: where they came from. loaded: how many of our parameters were filled from there.
    newly_initialized: our parameters that were not, and so were drawn anew.
    unused: the checkpoint's tensors that nothing was filled from, with the reason.
    decided: what was done where config.json and the tensors contradict each other.
    """

    directory: Path
    loaded: int
    newly_initialized: tuple[str, ...] = ()
    unused: Mapping[str, str] = field(default_factory=dict)
    decided: str = ""

    @property
    def is_partial(self) -> bool:
        """Whether the checkpoint lacked something or held more: what a user should hear of."""
        odd = any(why != COUNTER for why in self.unused.values())
        return bool(self.newly_initialized or self.decided) or odd

    def __str__(self) -> str:
        line = f"{files.from_here(self.directory)}: {self.loaded} tensors loaded"
        if self.decided:
            line += f"; {self.decided}"
        if self.newly_initialized:
            line += "; newly initialised, to be trained: " + ", ".join(self.newly_initialized)
        names = defaultdict(list)
        for name, reason in self.unused.items():
            names[reason].append(name)
        for reason, group in names.items():
            shown = ", ".join(group[:3]) + (f" and {len(group) - 3} more" if group[3:] else "")
            line += f"; not used, because {reason}: {shown}"
        return line


class NothingDrawn(TorchFunctionMode):
    """Within it, modules that torch makes do not draw their own weights: ours will replace them.

    On the meta device they would only seem to, but torch imports its compiler for that (seconds).
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return None
        return func(*args, **(kwargs or {}))


class PreTrainedModel(nn.Module):
    """What the encoder and the models with a head share: how they get their numbers."""

    load_report: LoadReport | None = None

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = config

    def initialize(self, part: nn.Module) -> None:
        """Draws the weights of a part anew (on the meta device there is nothing to draw)."""
        for name, parameter in part.named_parameters():
            if not parameter.is_meta:
                self.initialize_parameter(name, parameter)

    @torch.no_grad()
    def initialize_parameter(self, name: str, parameter: Tensor) -> None:
        """Biases 0, LayerNorm gains 1, all else normal and cut off at two standard deviations.

        Source: google-research/bert, modeling.py, create_initializer.
        """
        if name.endswith("bias"):
            parameter.zero_()
        elif name.endswith("norm.weight"):
            parameter.fill_(1.0)
        else:
            std = self.config.initializer_range
            nn.init.trunc_normal_(parameter, std=std, a=-2 * std, b=2 * std)

    def tie_weights(self) -> None:
        """Lets the masked-LM decoder, where there is one, use the word embeddings' own matrix."""
        if hasattr(self, "mlm") and self.config.tie_word_embeddings:
            embeddings = self.get_submodule("bert.embeddings.word_embeddings")
            self.get_submodule("mlm.decoder").weight = embeddings.weight

    @classmethod
    def from_pretrained(
        cls: type[Model],
        name: str | Path,
        *,
        dtype: torch.dtype = torch.float32,
        add_pooler: bool | None = None,
        **overrides: Any,
    ) -> Model:
        """A model with a checkpoint's weights, in evaluation mode.

        What was newly initialised and what was not used stands in the model's `load_report`, and
        in one line of the log `minibert`.

        Args:
            name: a directory, or the name of a checkpoint (see `hub.find`).
            dtype: of the weights in memory, however they are stored.
            add_pooler: for BertModel alone: False leaves the pooler out.
            overrides: fields of `BertConfig` that replace those in config.json.

        Raises:
            UserError: no such checkpoint, or its files are not this model's, or are broken.
        """
        directory = hub.find(name)
        config = BertConfig.from_pretrained(directory, **overrides)
        options: dict[str, Any] = {} if add_pooler is None else {"add_pooler": add_pooler}
        with torch.device("meta"), NothingDrawn():  # shapes without memory
            model = cls(config, **options)
        model.load_report = load(model, directory, dtype)
        log.log(
            logging.WARNING if model.load_report.is_partial else logging.INFO,
            "%s",
            model.load_report,
        )
        return model.eval()

    def save_pretrained(self, directory: str | Path) -> None:
        """Writes `config.json` and `model.safetensors`, which transformers reads as they are.

        Raises:
            UserError: the files cannot be written; what was there before is kept.
        """
        directory = Path(directory)
        named = {
            ("bert." if name.startswith("bert.") else "")
            + checkpoint_name(name): x.cpu().contiguous()
            for name, x in self.state_dict().items()
        }
        config = self.config
        if hasattr(self, "mlm"):
            words = self.get_submodule("bert.embeddings.word_embeddings").weight
            tied = self.get_submodule("mlm.decoder").weight is words
            config = replace(config, tie_word_embeddings=tied)
            if tied:
                del named[DECODER]
            else:  # transformers then computes with the bias under its other name
                named[DECODER_BIAS] = named[BIAS].clone()
        dtype = str(next(self.parameters()).dtype).removeprefix("torch.")
        settings = config.to_dict() | {"architectures": [type(self).__name__], "dtype": dtype}
        files.write_whole(
            {
                directory / files.SINGLE: files.as_tensors(named),
                directory / "config.json": files.as_json(settings),
            }
        )


def load(model: PreTrainedModel, directory: Path, dtype: torch.dtype) -> LoadReport:
    """Fills a model that was built on the meta device from a checkpoint.

    Raises:
        UserError: a tensor of the encoder is missing, one has another shape, one is no float.
    """
    stored = files.read_tensors(directory)
    theirs = {plain_name(name): name for name in stored}
    if len(theirs) < len(stored):
        twice = next(name for name in stored if name not in theirs.values())
        raise UserError(f"{directory} holds {plain_name(twice)} twice, under two spellings")
    plain = {name: stored[original] for name, original in theirs.items()}
    decided = _settle_decoder(model, plain) if hasattr(model, "mlm") else ""

    tensors, newly_initialized = {}, []
    for ours, parameter in model.state_dict().items():
        name = checkpoint_name(ours)
        if name == BIAS and DECODER_BIAS in plain:
            name = DECODER_BIAS
        if name in plain:
            found = plain.pop(name)
            _check(found, parameter, directory, theirs.get(name, name))
            # A copy: what is mapped from the file would change with it, or crash if it is cut off.
            tensors[ours] = found.to(dtype, copy=True)
        elif name.startswith(HEADS):
            tensors[ours] = torch.empty(parameter.shape, dtype=dtype, device="cpu")
            model.initialize_parameter(ours, tensors[ours])
            newly_initialized.append(ours)
        else:
            raise UserError(
                f"{directory} lacks {name} of shape {tuple(parameter.shape)}, a part of the "
                f"encoder; its {len(stored)} tensors are named like {min(stored, default='')!r}"
            )
    model.load_state_dict(tensors, assign=True)
    model.tie_weights()
    unused = {theirs[name]: _why_unused(name, model) for name in plain}
    loaded = len(tensors) - len(newly_initialized)
    return LoadReport(directory, loaded, tuple(newly_initialized), unused, decided)


def _settle_decoder(model: PreTrainedModel, plain: dict[str, Tensor]) -> str:
    """Which matrix and bias the masked-LM decoder gets, as transformers decides it; and in words
    what was decided against config.json.

    Source: transformers 5, modeling_utils.py, tie_weights. The decoder shares the word embeddings
    unless config.json says otherwise or the checkpoint holds two that differ; of the two names
    that the bias has, decoder.bias is the one computed with. (A checkpoint whose config.json unties
    the decoder and that has the bias under its first name only: transformers 4 used that bias, and
    so do we; transformers 5 starts from zeros.)
    """
    bias = plain.get(DECODER_BIAS)
    if bias is not None and (BIAS not in plain or _equal(plain[BIAS], bias)):
        plain[BIAS] = plain.pop(DECODER_BIAS)
    embeddings = "embeddings.word_embeddings.weight"
    if not model.config.tie_word_embeddings or not {embeddings, DECODER} & set(plain):
        return ""
    decided = "" if embeddings in plain else "the word embeddings are the decoder's matrix"
    plain.setdefault(DECODER, plain.get(embeddings, torch.empty(0)))
    plain.setdefault(embeddings, plain[DECODER])
    if not _equal(plain[embeddings], plain[DECODER]):
        model.config = replace(model.config, tie_word_embeddings=False)
        model.get_submodule("bert").config = model.config  # type: ignore[assignment]
        decided = f"not tied, because {DECODER} differs from the word embeddings"
    return decided


def _equal(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same numbers, though perhaps in two precisions."""
    return torch.equal(a.float(), b.float())


def _check(found: Tensor, parameter: Tensor, directory: Path, name: str) -> None:
    if found.shape != parameter.shape:
        raise UserError(
            f"{name} in {directory} has shape {tuple(found.shape)}, where its config.json asks "
            f"for {tuple(parameter.shape)}"
        )
    if found.dtype not in STORED:
        kind = str(found.dtype).removeprefix("torch.")
        raise UserError(
            f"{name} in {directory} is stored as {kind}; quantised weights are not read"
        )


def _why_unused(name: str, model: PreTrainedModel) -> str:
    if name in BUFFERS:
        return COUNTER
    if name == BIAS and hasattr(model, "mlm"):
        return f"{DECODER_BIAS} is there too, another one, and goes before it"
    if name.startswith(HEADS):
        return f"{type(model).__name__} has no such head"
    layer = re.match(r"encoder\.layer\.(\d+)\.", name)
    if layer and int(layer.group(1)) >= model.config.num_hidden_layers:
        return f"config.json has {model.config.num_hidden_layers} layers"
    return "BERT has no such part"
