"""What BERT was pre-trained to do: guess the words behind [MASK]."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from minibert import hub
from minibert.errors import UserError
from minibert.model import BertForMaskedLM
from minibert.tokenizer import check_vocabulary, load_tokenizer


class Candidate(NamedTuple):
    """An entry of the vocabulary for a masked place, with its probability there."""

    token: str
    token_id: int
    probability: float


def fill_mask(weights: str | Path, text: str, top: int = 5) -> list[list[Candidate]]:
    """The likeliest entries for every [MASK] in a text, each place by itself.

    Args:
        weights: a checkpoint with a masked-LM head: a directory or a name.
        text: with at least one [MASK] in it.
        top: how many candidates for each place.

    Returns:
        For each [MASK], from left to right, its candidates, the likeliest first.

    Raises:
        UserError: no [MASK], too many tokens, a text that is no Unicode, or a checkpoint without
            masked-LM head.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError("the text is not valid UTF-8") from None
    directory = hub.find(weights)
    tokenizer = load_tokenizer(directory)
    ids = tokenizer.encode(text).ids
    mask_id = tokenizer.token_to_id("[MASK]")
    places = [i for i, token_id in enumerate(ids) if token_id == mask_id]
    if not places:
        raise UserError('the text has no [MASK] to fill; write one, as in "中国的首都是[MASK]京。"')
    model = BertForMaskedLM.from_pretrained(directory)
    if model.load_report is not None and model.load_report.newly_initialized:
        raise UserError(f"{weights} has no masked-LM head, so it cannot fill a [MASK]")
    config = model.config
    if len(ids) > config.max_position_embeddings:
        limit = config.max_position_embeddings
        raise UserError(f"the text has {len(ids)} tokens; {weights} takes {limit}: shorten it")
    check_vocabulary(tokenizer, config, weights)
    with torch.inference_mode():
        logits = model(torch.tensor([ids]))  # (1, T) -> (1, T, V)
    probabilities = logits[0, places].softmax(dim=1)  # (masks, V)
    best = probabilities.topk(min(top, config.vocab_size), dim=1)  # (masks, top)
    return [
        [
            Candidate(tokenizer.id_to_token(i) or f"[id {i}]", i, p)
            for i, p in zip(row_ids, row, strict=True)
        ]
        for row_ids, row in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
