"""Text to tokens: the WordPiece tokenizer of a checkpoint.

The work is done by the `tokenizers` library (in Rust, on all cores); this room only builds the
tokenizer that a checkpoint's files describe. Text is cleaned, Chinese characters are set apart,
the rest is split at spaces and punctuation (google-research/bert, tokenization.py, BasicTokenizer);
each word is then cut into the longest pieces that the vocabulary has (WordpieceTokenizer).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Encoding, Tokenizer
from tokenizers.decoders import WordPiece as WordPieceDecoder
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing

from minibert.config import BertConfig
from minibert.errors import UserError
from minibert.files import Write, as_json, as_text, read_json, write_whole

SPECIAL = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
CHUNK = 1024  # texts tokenized at once: the library's own records are some 100 bytes a token
# The settings in tokenizer_config.json, and what BertNormalizer calls them.
SETTINGS = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",  # None: exactly when lower-casing
    "tokenize_chinese_chars": "handle_chinese_chars",
}


def load_tokenizer(directory: str | Path) -> Tokenizer:
    """The tokenizer of a checkpoint, neither cutting nor padding.

    From `tokenizer.json` if there is one, else from `vocab.txt`. What `tokenizer_config.json` sets
    (do_lower_case, tokenize_chinese_chars, strip_accents) goes before what tokenizer.json says, as
    in transformers; what neither sets is as in its BertTokenizer: lower case.

    Raises:
        UserError: neither file is there, one cannot be read, or a special token is missing.
    """
    directory = Path(directory)
    settings = _read_settings(directory / "tokenizer_config.json")
    kind = str(settings.get("tokenizer_class") or "BertTokenizer")
    # transformers knows such classes under several names: DistilBertTokenizer, BertTokenizerFast …
    is_berts = kind.removesuffix("Fast").endswith("BertTokenizer")
    if (directory / "tokenizer.json").is_file():
        tokenizer = _from_json(directory / "tokenizer.json")
    elif not (directory / "vocab.txt").is_file():
        raise UserError(f"{directory} holds neither tokenizer.json nor vocab.txt")
    elif is_berts:
        tokenizer = _from_vocabulary(directory / "vocab.txt")
    else:
        raise UserError(
            f"{directory / 'tokenizer_config.json'} asks for a {kind}, which minibert does not "
            "implement; it splits words as BertTokenizer does"
        )
    missing = [token for token in SPECIAL.values() if tokenizer.token_to_id(token) is None]
    if missing:
        raise UserError(f"the vocabulary in {directory} has no {missing[0]}, so it is not a BERT's")
    if is_berts:  # any other kind's tokenizer.json is complete in itself
        _set_up(tokenizer, settings)
    return tokenizer


def _read_settings(path: Path) -> dict[str, Any]:
    settings = read_json(path) if path.is_file() else {}
    for name in SETTINGS.keys() & settings.keys():
        value = settings[name]
        if not isinstance(value, bool) and not (name == "strip_accents" and value is None):
            raise UserError(f"{path}: {name} is {json.dumps(value)}; it must be true or false")
    return settings


def _from_json(path: Path) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise UserError(f"{path} cannot be read as a tokenizer: {error}") from None
    # Some files carry the length and padding that their model was once trained with.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def new_tokenizer(entries: Sequence[str]) -> Tokenizer:
    """A BertTokenizer of these entries, in the order of their ids, that reads in lower case; the
    special tokens must be among them."""
    tokenizer = _from_entries(entries)
    _set_up(tokenizer, {})
    return tokenizer


def _from_vocabulary(path: Path) -> Tokenizer:
    """A vocab.txt has one entry a line; the line's number, from 0, is its id."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as a vocabulary: {error}") from None
    if lines[-1] == "":
        lines.pop()
    return _from_entries(lines)


def _from_entries(entries: Sequence[str]) -> Tokenizer:
    # A later entry of the same text wins, as in BertTokenizer; the ids of the others stand.
    ids = {entry: i for i, entry in enumerate(entries)}
    tokenizer = Tokenizer(WordPiece(ids, unk_token=SPECIAL["unk"], max_input_chars_per_word=100))
    tokenizer.normalizer = BertNormalizer()
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.decoder = WordPieceDecoder(prefix="##")
    return tokenizer


def _set_up(tokenizer: Tokenizer, settings: dict[str, Any]) -> None:
    """What BertTokenizer adds to a vocabulary: settings, special tokens, [CLS] and [SEP]."""
    normalizer = tokenizer.normalizer
    if isinstance(normalizer, BertNormalizer):
        for name in SETTINGS.keys() & settings.keys():
            setattr(normalizer, SETTINGS[name], settings[name])
        tokenizer.normalizer = normalizer
    # So that "[MASK]" in a text is the token, not 3 pieces.
    tokenizer.add_special_tokens(list(SPECIAL.values()))
    cls, sep = SPECIAL["cls"], SPECIAL["sep"]
    tokenizer.post_processor = TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (cls, sep)],
    )


def tokenize(texts: Sequence[str], tokenizer: Tokenizer) -> Iterator[Encoding]:
    """The tokens of each text, without [CLS] and [SEP]."""
    for i in range(0, len(texts), CHUNK):
        yield from tokenizer.encode_batch(texts[i : i + CHUNK], add_special_tokens=False)


def check_vocabulary(tokenizer: Tokenizer, config: BertConfig, name: str | Path) -> None:
    """Raises UserError if a tokenizer has entries that a model has no embedding for."""
    entries = max(tokenizer.get_vocab().values()) + 1
    if entries > config.vocab_size:
        raise UserError(
            f"the tokenizer of {name} has {entries} entries, its model {config.vocab_size}: "
            "they do not belong together"
        )


def check_model(
    config: BertConfig, tokenizer: Tokenizer, max_length: int, told_apart: str | None
) -> None:
    """Raises UserError where a model cannot read what its tokenizer makes.

    told_apart: what the token types tell apart, in words; None where a text stands alone.
    """
    check_vocabulary(tokenizer, config, "the checkpoint")
    if told_apart and config.type_vocab_size < 2:
        raise UserError(
            f"the model knows one token type only, so it cannot tell {told_apart}; "
            "name another checkpoint"
        )
    if max_length > config.max_position_embeddings:
        raise UserError(
            f"--max-length {max_length} is more than the model's "
            f"{config.max_position_embeddings} positions; set it to that or less"
        )


def special_id(tokenizer: Tokenizer, name: str) -> int:
    """The id of "pad", "cls", "sep", "unk" or "mask"; every tokenizer of ours has them."""
    found: int = tokenizer.token_to_id(SPECIAL[name])  # type: ignore[assignment]
    return found


def save_tokenizer(
    tokenizer: Tokenizer, directory: str | Path, max_length: int | None = None
) -> None:
    """Writes tokenizer.json, tokenizer_config.json and vocab.txt, as transformers reads them.

    max_length: the model's positions: where transformers cuts a text if it is asked to cut.

    Raises:
        UserError: the files cannot be written; what was there before is kept.
    """
    write_whole(tokenizer_files(tokenizer, Path(directory), max_length))


def tokenizer_files(
    tokenizer: Tokenizer, directory: Path, max_length: int | None
) -> dict[Path, Write]:
    """What `save_tokenizer` writes, to be written together with other files."""
    settings: dict[str, Any] = {f"{name}_token": token for name, token in SPECIAL.items()}
    if max_length is not None:
        settings["model_max_length"] = max_length
    normalizer = tokenizer.normalizer
    if isinstance(normalizer, BertNormalizer):
        settings["tokenizer_class"] = "BertTokenizer"
        settings |= {name: getattr(normalizer, attr) for name, attr in SETTINGS.items()}
    else:  # this class of transformers takes tokenizer.json as it is
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    tokens = {i: token for token, i in tokenizer.get_vocab().items()}
    # A line's number is the id, so an id that no entry has needs a line too.
    lines = [tokens.get(i, f"[no entry {i}]") for i in range(max(tokens) + 1)]
    return {
        directory / "tokenizer.json": as_text(tokenizer.to_str(pretty=True)),
        directory / "tokenizer_config.json": as_json(settings),
        directory / "vocab.txt": as_text("".join(f"{line}\n" for line in lines)),
    }
