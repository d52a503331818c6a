"""The two faults of the course's SQuAD notebook, put into minibert one by one.

    python bench/ablation_qa.py --fault mask --train train.json --dev dev.json \\
        --weights all-MiniLM-L6-v2 --out runs/ablation-mask
    python bench/ablation_qa.py --count-labels --train train.json --weights DIR   # no training

Windows, batches, recipe and loop are those of train_qa.py: with --fault none this is its run.
docs/why-the-course-notebook-failed.md says what the notebook does and what came out.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from minibert import files, hub, runs
from minibert.batches import pad, sequential_batches
from minibert.cli import guard
from minibert.memory import keep_freed_memory
from minibert.metrics import score_all
from minibert.model import BertForQuestionAnswering, SpanLogits
from minibert.optimization import Recipe
from minibert.qa.decoding import MAX_ANSWER_LENGTH
from minibert.qa.reading import read_questions
from minibert.qa.task import EVALUATION_BATCH, QASettings, QATask
from minibert.qa.windows import Windows, make_windows
from minibert.tokenizer import load_tokenizer
from minibert.train import Training, autocast, choose_precision

RECIPE: dict[str, Any] = {"epochs": 1, "batch_size": 16, "lr": 1e-4}


class QuestionHidden(BertForQuestionAnswering):
    """The notebook's `masking_attention`: 0 in the mask for [CLS] question [SEP], in training and
    in prediction. No token sees them any more; they still get logits, and stay in the softmax."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> SpanLogits:
        assert attention_mask is not None and token_type_ids is not None
        return super().forward(input_ids, attention_mask * token_type_ids, token_type_ids)


def first_hit(window: Sequence[int], answer: Sequence[int]) -> tuple[int, int] | None:
    """Where the answer's ids first stand in a window, question included; None if nowhere."""
    for start in range(len(window) - len(answer) + 1):
        if window[start : start + len(answer)] == answer:
            return start, start + len(answer) - 1
    return None


def search_labels(windows: Windows, tokenizer: Tokenizer) -> tuple[Windows, dict[str, float]]:
    """The same windows with the notebook's labels, and how many of these are wrong.

    As there, the first answer is tokenized by itself, the whole input is searched for it from the
    left, and a question whose answer's ids stand nowhere is left out. A window without a hit of a
    question that has one elsewhere points at [CLS], as ever: the notebook had no second windows.
    """
    texts = [question.answers[0].text for question in windows.questions]
    encodings = tokenizer.encode_batch(texts, add_special_tokens=False)
    hits = [first_hit(w.input_ids.tolist(), encodings[w.question].ids) for w in windows.windows]
    found = {w.question for w, hit in zip(windows.windows, hits, strict=True) if hit}
    kept, wrong = [], set()
    counts = Counter(questions=len(texts), left_out=len(texts) - len(found))
    for window, hit in zip(windows.windows, hits, strict=True):
        if window.question not in found:
            continue
        start, end = hit or (0, 0)
        right = window.start_position, window.end_position
        kept.append(window._replace(start_position=start, end_position=end))
        counts["windows"] += 1
        if (start, end) != right:
            wrong.add(window.question)
            counts["wrong_windows"] += 1
            counts["wrong_in_the_question"] += 0 < start < window.context_start
            counts["wrong_in_the_context"] += start >= window.context_start
    shares = {
        "left_out_percent": 100 * counts["left_out"] / counts["questions"],
        "wrong_percent": 100 * counts["wrong_windows"] / max(1, counts["windows"]),
    }
    return replace(windows, windows=kept), {**counts, "wrong_questions": len(wrong), **shares}


def score_as_the_notebook(model: nn.Module, task: QATask) -> dict[str, Any]:
    """Best start and best end by themselves, anywhere in the first window; the ids decoded; "wrong"
    where the end comes first; the first gold only. (The notebook also left out questions whose
    first answer it did not find.)"""
    spans: dict[int, tuple[int, int]] = {}
    windows = {row: w for row, w in enumerate(task.dev_windows.windows) if w.first == 0}
    model.eval()
    for rows in sequential_batches(task.dev_windows.lengths, EVALUATION_BATCH):
        rows = [row for row in rows if row in windows]
        if not rows:
            continue
        batch = pad([windows[row] for row in rows], task.pad_id)
        with torch.no_grad():
            logits = model(**batch)
        padding = batch["attention_mask"] == 0
        best = [x.float().masked_fill(padding, float("-inf")).argmax(dim=1) for x in logits]
        spans |= dict(zip(rows, zip(*(x.tolist() for x in best), strict=True), strict=True))
    texts: dict[str, str] = {}
    for row, window in windows.items():
        start, end = spans[row]
        ids = window.input_ids[start : end + 1].tolist()
        text = task.tokenizer.decode(ids, skip_special_tokens=False) if start <= end else "wrong"
        texts[task.dev.questions[window.question].id] = text
    golds = {question.id: question.gold_texts[:1] for question in task.dev.questions}
    end_before_start = sum(start > end for start, end in spans.values())
    scores = score_all(golds, texts, task.settings.metric).as_dict()
    return {**scores, "end_before_start": end_before_start}


def main(args: argparse.Namespace) -> int:
    settings = QASettings(args.max_length, args.doc_stride, MAX_ANSWER_LENGTH["squad"], "squad")
    checkpoint, train = hub.find(args.weights), read_questions(args.train)
    tokenizer = load_tokenizer(checkpoint)
    cut = (args.max_length, args.doc_stride)
    found = make_windows(train.trainable[: args.limit], tokenizer, *cut, training=True)
    searched, counts = search_labels(found, tokenizer)
    if args.count_labels:
        firsts = replace(found, windows=[w for w in found.windows if w.first == 0])
        cut_off = search_labels(firsts, tokenizer)[1]  # the notebook had no more than these
        both = {"all_windows": counts, "first_windows_only": cut_off}
        if args.json:
            files.write_json(Path(args.json), both)
        print(json.dumps(both, indent=1))
        return 0
    device = torch.device("cpu")
    precision = choose_precision(device) if args.precision == "auto" else args.precision
    recipe = Recipe(args.epochs, args.batch_size, args.lr, seed=args.seed, precision=precision)
    torch.manual_seed(args.seed)  # for the head, as in train_qa.py
    hidden = args.fault in ("mask", "both")
    model = (QuestionHidden if hidden else BertForQuestionAnswering).from_pretrained(checkpoint)
    task = QATask(tokenizer, settings, read_questions(args.dev), train, limit=args.limit)
    if args.fault in ("labels", "both"):
        task.windows, task.lengths = searched, searched.lengths
    keep_freed_memory()
    runs.check_new(Path(args.out))
    Path(args.out).mkdir(parents=True, exist_ok=True)
    training, began = Training(model, task, recipe, Path(args.out)), time.monotonic()
    training.go()
    with autocast(device, precision):
        notebook = score_as_the_notebook(model, task)
    facts = {
        **{"settings": vars(args) | {"precision": precision}, "scores": training.progress.best},
        **{"scored_as_the_notebook": notebook, "labels_by_search": counts},
        "seconds": round(time.monotonic() - began, 1),
    }
    files.write_json(Path(args.json or f"{args.out}/ablation.json"), facts)
    print(json.dumps(facts))
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--fault", choices=["none", "mask", "labels", "both"], default="none")
    add("--count-labels", action="store_true", help="count the search's wrong labels, and stop")
    add("--train", required=True, metavar="FILE")
    add("--dev", metavar="FILE", help="to score on")
    add("--weights", required=True, help="a checkpoint; to count labels, its vocabulary will do")
    add("--out", metavar="RUN", help="a new directory for the run")
    add("--json", metavar="FILE", help="for the figures (default: RUN/ablation.json)")
    for name, value in RECIPE.items():
        add(f"--{name.replace('_', '-')}", type=type(value), default=value, help=f"({value})")
    add("--max-length", type=int, default=384, help="(384)")
    add("--doc-stride", type=int, default=128, help="(128)")
    add("--seed", type=int, default=0, help="(0)")
    add("--precision", choices=["auto", "fp32", "bf16"], default="auto")
    add("--limit", type=int, metavar="N", help="train on the first N questions only")
    args = parser.parse_args()
    if not args.count_labels and not (args.dev and args.out):
        parser.error("training needs --dev and --out")
    return args


if __name__ == "__main__":
    given = arguments()
    sys.exit(guard(lambda: main(given)))
