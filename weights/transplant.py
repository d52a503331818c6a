"""A small Chinese BERT's starting point: an English reader, given Chinese words.

    python weights/transplant.py --reader runs/squad --meanings DIRECTORY --text corpus.txt.xz \\
        --out runs/zh-start

The layers of a BERT that was fine-tuned on English questions know how to find an answer; what they
lack is the words. A multilingual encoder knows which English words a Chinese one is like, so each
entry of the new vocabulary takes the mean of their vectors (WECHSEL, Minixhofer et al. 2022,
section 3, with the encoder in place of a dictionary). What comes out reads a little Chinese before
it has been trained on any; go on with train_qa.py.
"""

from __future__ import annotations

import argparse
import string
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from passages import Piece, read_passages
from tokenizers import Tokenizer
from torch import Tensor

from minibert import files, hub, runs
from minibert.batches import pad
from minibert.cli import guard
from minibert.errors import UserError
from minibert.model import BertForQuestionAnswering, BertModel
from minibert.report import say
from minibert.tokenizer import (
    SPECIAL,
    load_tokenizer,
    new_tokenizer,
    save_tokenizer,
    special_id,
    tokenize,
)

# V: entries of the new vocabulary; W: English words; C: hidden size of either model; B: words in a
# batch; T: tokens of the longest of them
NEAREST = 5  # English words that stand for a Chinese one
FREQUENT = 15_000  # the reader's vocabulary begins with what is frequent: rarer words are not asked
BATCH = 256
WORDS = "bert.embeddings.word_embeddings.weight"
# Signs of Chinese texts, and how English writes them; the first seven are entries of their own even
# where the encoder's vocabulary lacks them, as bert-base-chinese's does.
SIGNS = {"“": '"', "”": '"', "‘": "'", "’": "'", "—": "-", "–": "-", "…": "."}
SIGNS |= dict(
    zip("，。、；：？！（）《》「」『』〈〉【】·～％", ',.,;:?!()""""""""[]-~%', strict=True)
)


def choose_entries(tokenizer: Tokenizer, texts: Sequence[str], entries: int) -> list[str]:
    """The new vocabulary: special tokens, then what is written with, then what is most frequent.

    Letters and digits are there inside a word, too, so that every word of them can be written.

    Raises:
        UserError: the texts are empty, or there is no room for what must be in it.
    """
    counts: Counter[str] = Counter()
    for encoding in tokenize(texts, tokenizer):
        counts.update(encoding.tokens)
    if not counts:
        raise UserError("--text holds no token, so there is nothing to choose entries by")
    plain = string.ascii_lowercase + string.digits
    must = [*SPECIAL.values(), *plain, *string.punctuation, *SIGNS, *(f"##{c}" for c in plain)]
    if entries < len(must):
        raise UserError(f"--entries {entries} is too few: {len(must)} must be there")
    frequent = [token for token, _ in counts.most_common() if token not in must]
    have = tokenizer.get_vocab()
    return must + sorted(frequent[: entries - len(must)], key=lambda token: have[token])


def alike(entry: str, reader: Tokenizer) -> int | None:
    """The reader's own entry for a token that English writes, too; None where there is none."""
    entry = SIGNS.get(entry, entry)
    return reader.token_to_id(entry) if entry.isascii() else None


@torch.no_grad()
def meanings(words: Sequence[str], encoder: BertModel, tokenizer: Tokenizer) -> Tensor:
    """What the encoder makes of each word by itself, (W, 2 C): what comes out of its last layer
    beside what goes into its first, the mean of either over [CLS], the word's tokens and [SEP].

    All are taken relative to their own mean: what the words of one language have in common is not
    what they mean.
    """
    found = []
    for i in range(0, len(words), BATCH):
        encodings = tokenizer.encode_batch(list(words[i : i + BATCH]))
        pieces = [Piece(np.array(encoding.ids, np.int32)) for encoding in encodings]
        batch = pad(pieces, special_id(tokenizer, "pad"))
        mask = batch["attention_mask"]
        vectors = encoder.embeddings.word_embeddings(batch["input_ids"])  # (B, T) -> (B, T, C)
        hidden = encoder(**batch).last_hidden_state  # (B, T) -> (B, T, C)
        both = torch.stack([hidden, vectors])  # (2, B, T, C)
        # (2, B, T, C) * (B, T, 1) -> (2, B, C)
        found.append((both * mask[..., None]).sum(dim=2) / mask.sum(dim=1, keepdim=True))
    together = torch.cat(found, dim=1)  # (2, W, C)
    apart = F.normalize(together - together.mean(dim=1, keepdim=True), dim=2)
    return torch.cat([*apart], dim=1)  # (2, W, C) -> (W, 2 C)


def mean_of_nearest(entries: Tensor, words: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Each entry's vector, (V, C), from those of the words that mean most nearly the same.

    A mean is shorter than what it is taken of, so it is given the length that words have: the
    layers weigh it against the vectors of position and type.

    Args:
        entries: (V, 2 C of the encoder), what the entries mean.
        words: (W, 2 C of the encoder), what the words mean.
        vectors: (W, C of the reader), the words' vectors.

    Returns:
        The vectors, and which words they are made of, (V, NEAREST).
    """
    likeness = F.normalize(entries, dim=1) @ F.normalize(words, dim=1).T  # (V, 2 C) -> (V, W)
    nearest = likeness.topk(NEAREST, dim=1).indices  # (V, W) -> (V, NEAREST)
    means = vectors[nearest].mean(dim=1)  # (V, NEAREST, C) -> (V, C)
    return F.normalize(means, dim=1) * vectors.norm(dim=1).mean(), nearest


def transplant(
    reader: Path, encoder: Path, vocabulary: Sequence[str]
) -> tuple[BertForQuestionAnswering, dict[str, list[str]]]:
    """The reader with the new vocabulary, and the English words behind each translated entry.

    Raises:
        UserError: the reader was not trained on questions, knows too few words, or all entries.
    """
    whole = BertForQuestionAnswering.from_pretrained(reader)
    if whole.load_report and (new := whole.load_report.newly_initialized):
        raise UserError(f"{reader} has no {new[0]}: name a model that was trained on questions")
    english, foreign = load_tokenizer(reader), load_tokenizer(encoder)
    tensors = whole.state_dict()
    old = tensors[WORDS]
    same = {entry: i for entry in vocabulary if (i := alike(entry, english)) is not None}
    unlike = [entry for entry in vocabulary if entry not in same]
    words = {w: i for w, i in english.get_vocab().items() if i < FREQUENT and is_word(w)}
    if len(words) < NEAREST or not unlike:
        raise UserError(
            f"{reader} has {len(words)} English words and {len(unlike):,} entries lack one of the "
            f"same letters; at least {NEAREST} words and one such entry are needed"
        )
    knows = BertModel.from_pretrained(encoder).eval()
    say(f"asking {encoder.name} what {len(unlike):,} entries and {len(words):,} words mean")
    vectors, nearest = mean_of_nearest(
        meanings([entry.removeprefix("##") for entry in unlike], knows, foreign),
        meanings(list(words), knows, foreign),
        old[list(words.values())],
    )
    new_words = torch.empty(len(vocabulary), old.shape[1])
    place = {entry: i for i, entry in enumerate(vocabulary)}
    new_words[[place[entry] for entry in same]] = old[list(same.values())]
    new_words[[place[entry] for entry in unlike]] = vectors
    padding = vocabulary.index(SPECIAL["pad"])
    config = replace(whole.config, vocab_size=len(vocabulary), pad_token_id=padding)
    model = BertForQuestionAnswering(config)
    model.load_state_dict(tensors | {WORDS: new_words})
    names = list(words)
    made_of = {e: [names[j] for j in row] for e, row in zip(unlike, nearest.tolist(), strict=True)}
    return model, made_of


def is_word(token: str) -> bool:
    """Whether an entry of the reader is a whole English word; of one or two letters few are."""
    return token.isascii() and token.isalpha() and len(token) > 2


def run(args: argparse.Namespace) -> int:
    out = Path(args.out)
    runs.check_new(out)
    reader, encoder = hub.find(args.reader), hub.find(args.meanings)
    texts = [passage for name in args.text for passage in read_passages(Path(name))]
    vocabulary = choose_entries(load_tokenizer(encoder), texts, args.entries)
    model, made_of = transplant(reader, encoder, vocabulary)
    model.save_pretrained(out)
    tokenizer = new_tokenizer(vocabulary)
    save_tokenizer(tokenizer, out, model.config.max_position_embeddings)
    files.write_whole(
        {
            out / "made_of.json": files.as_json(made_of),
            out / runs.LEARNED_FROM: files.as_json({"learned_from": runs.learned_from(reader)}),
        }
    )
    unknown = special_id(tokenizer, "unk")
    ids = [i for encoding in tokenize(texts[:1000], tokenizer) for i in encoding.ids]
    say(
        f"{out}: {len(vocabulary):,} entries, {len(made_of):,} of them from English words (see "
        f"made_of.json); {ids.count(unknown) / len(ids):.2%} of the text's tokens are "
        f"{SPECIAL['unk']}"
    )
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--reader", required=True, metavar="RUN", help="a BERT fine-tuned on English questions")
    add("--meanings", required=True, metavar="DIRECTORY", help="an encoder of both "
        "languages, lower case, whose WordPiece entries are chosen from")  # fmt: skip
    add("--text", required=True, action="append", metavar="FILE", help="whose most frequent tokens "
        "become entries: as in pretrain.py")  # fmt: skip
    add("--entries", type=int, default=8000, help="of the new vocabulary (8000)")
    add("--out", required=True, metavar="DIRECTORY")
    return guard(lambda: run(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
