"""Text to tokens: the WordPiece tokenizer of a checkpoint.

The work is done by the `tokenizers` library (in Rust, on all cores); this room only builds the
tokenizer that a checkpoint's files describe. Text is cleaned, Chinese characters are set apart,
the rest is split at spaces and punctuation (google-research/bert, tokenization.py, BasicTokenizer);
each word is then cut into the longest pieces that the vocabulary has (WordpieceTokenizer).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.decoders import WordPiece as WordPieceDecoder
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing

from minibert.errors import UserError
from minibert.files import read_json, write_json, write_whole

SPECIAL = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}


def load_tokenizer(directory: str | Path) -> Tokenizer:
    """The tokenizer of a checkpoint, neither cutting nor padding.

    From `tokenizer.json` if there is one, else from `vocab.txt` with the settings of
    `tokenizer_config.json` (do_lower_case, tokenize_chinese_chars, strip_accents), which default
    to those of transformers' BertTokenizer: lower case, unless the file says otherwise.

    Raises:
        UserError: neither file is there, one cannot be read, or a special token is missing.
    """
    directory = Path(directory)
    if (directory / "tokenizer.json").is_file():
        tokenizer = _from_json(directory / "tokenizer.json")
    elif (directory / "vocab.txt").is_file():
        tokenizer = _from_vocabulary(directory)
    else:
        raise UserError(f"{directory} holds neither tokenizer.json nor vocab.txt")
    missing = [token for token in SPECIAL.values() if tokenizer.token_to_id(token) is None]
    if missing:
        raise UserError(f"the vocabulary in {directory} has no {missing[0]}, so it is no BERT's")
    return tokenizer


def _from_json(path: Path) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise UserError(f"{path} cannot be read as a tokenizer: {error}") from None
    # Some files carry the length and padding that their model was once trained with.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _from_vocabulary(directory: Path) -> Tokenizer:
    path = directory / "tokenizer_config.json"
    settings: dict[str, Any] = read_json(path) if path.is_file() else {}
    ids = _read_vocabulary(directory / "vocab.txt")
    tokenizer = Tokenizer(WordPiece(ids, unk_token=SPECIAL["unk"], max_input_chars_per_word=100))
    tokenizer.normalizer = BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
        strip_accents=settings.get("strip_accents"),  # None: exactly when lower-casing
        lowercase=settings.get("do_lower_case", True),
    )
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.decoder = WordPieceDecoder(prefix="##")
    known = [token for token in SPECIAL.values() if token in ids]
    tokenizer.add_special_tokens(known)  # so that "[MASK]" in a text is the token, not 3 pieces
    cls, sep = SPECIAL["cls"], SPECIAL["sep"]
    if cls in ids and sep in ids:
        tokenizer.post_processor = TemplateProcessing(
            single=f"{cls}:0 $A:0 {sep}:0",
            pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
            special_tokens=[(cls, ids[cls]), (sep, ids[sep])],
        )
    return tokenizer


def _read_vocabulary(path: Path) -> dict[str, int]:
    """One entry a line; the line's number, from 0, is its id."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as a vocabulary: {error}") from None
    if lines[-1] == "":
        lines.pop()
    # A later line of the same text wins, as in BertTokenizer; the ids of the others stand.
    return {line.rstrip("\r"): i for i, line in enumerate(lines)}


def save_tokenizer(tokenizer: Tokenizer, directory: str | Path) -> None:
    """Writes tokenizer.json, tokenizer_config.json and vocab.txt, as transformers reads them."""
    directory = Path(directory)
    write_whole(directory / "tokenizer.json", lambda part: tokenizer.save(str(part)))
    entries = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    text = "".join(f"{token}\n" for token, _ in entries)
    write_whole(directory / "vocab.txt", lambda part: part.write_text(text, encoding="utf-8"))
    normalizer = tokenizer.normalizer
    settings = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": getattr(normalizer, "lowercase", False),
        "strip_accents": getattr(normalizer, "strip_accents", None),
        "tokenize_chinese_chars": getattr(normalizer, "handle_chinese_chars", True),
        **{f"{name}_token": token for name, token in SPECIAL.items()},
    }
    write_json(directory / "tokenizer_config.json", settings)
