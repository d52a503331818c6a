"""The two faults of the course's SQuAD notebook, put into minibert one by one.

    python bench/ablation_qa.py --fault mask --train train.json --dev dev.json \\
        --weights all-MiniLM-L6-v2 --out runs/ablation-mask
    python bench/ablation_qa.py --count-labels --train train.json --weights DIR   # no training

Windows, batches and loop are those of train_qa.py: with --fault none this is its run. Unless told
otherwise, it goes once through the data, in batches of 16, with 1e-4, length 384 and stride 128.
docs/why-the-course-notebook-failed.md says what the notebook does and what came out.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from minibert import distributed, files, hub, runs
from minibert.cli import guard
from minibert.inference import outputs
from minibert.metrics import score_all
from minibert.model import BertForQuestionAnswering, SpanLogits
from minibert.qa.decoding import MAX_ANSWER_LENGTH
from minibert.qa.reading import QuestionSet, read_questions
from minibert.qa.task import EVALUATION_BATCH, QASettings, QATask, to_json, without_padding
from minibert.qa.windows import Windows, make_windows
from minibert.tokenizer import load_tokenizer, tokenize
from minibert.train import Training

DEFAULTS: runs.Settings = {
    "fault": "none",
    "json": None,
    "epochs": 1,
    "batch_size": 16,
    "lr": 1e-4,
    "max_length": 384,
    "doc_stride": 128,
    "max_answer_length": MAX_ANSWER_LENGTH["squad"],
    "metric": "squad",
}


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

    As there, the answer to learn is tokenized by itself, the whole input is searched for it from
    the left, and a question whose answer's ids stand nowhere is left out. A window without a hit of
    a question that has one elsewhere points at [CLS], as ever: the notebook had no second windows.
    """
    texts = [question.answers[0].text for question in windows.questions]
    encodings = list(tokenize(texts, tokenizer))
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
    windows = [window for window in task.dev_windows.windows if window.first == 0]
    logits = outputs(
        model,
        windows,
        task.pad_id,
        without_padding,
        batch_size=EVALUATION_BATCH,
        doing="answering as the notebook",
    )
    spans = [(int(start.argmax()), int(end.argmax())) for start, end in logits]
    texts: dict[str, str] = {}
    for window, (start, end) in zip(windows, spans, strict=True):
        ids = window.input_ids[start : end + 1].tolist()
        text = task.tokenizer.decode(ids, skip_special_tokens=False) if start <= end else "wrong"
        texts[task.dev.questions[window.question].id] = text
    golds = {question.id: question.gold_texts[:1] for question in task.dev.questions}
    end_before_start = sum(start > end for start, end in spans)
    scores = score_all(golds, texts, task.settings.metric).as_dict()
    return {**scores, "end_before_start": end_before_start}


class AblationTask(QATask):
    """The questions with the notebook's labels where these are asked for, also scored its way."""

    def __init__(
        self, tokenizer: Tokenizer, settings: runs.Settings, dev: QuestionSet, train: QuestionSet
    ) -> None:
        qa_settings = QASettings(**{name: settings[name] for name in QASettings._fields})
        super().__init__(tokenizer, qa_settings, dev, train, limit=settings["limit"])
        searched, self.labels = search_labels(self.windows, tokenizer)
        if settings["fault"] in ("labels", "both"):
            self.windows, self.lengths = searched, searched.lengths

    def evaluate(self, model: nn.Module) -> tuple[dict[str, Any], dict[str, str]]:
        scores, results = super().evaluate(model)
        notebook = score_as_the_notebook(model, self)
        facts = {"scored_as_the_notebook": notebook, "labels_by_search": self.labels}
        return scores, results | {"notebook.json": to_json(facts)}


def prepare(settings: runs.Settings, device: torch.device, resumed: Path | None) -> Training:
    """The loop with all that it needs, and the fault."""
    settings = runs.DEFAULTS | DEFAULTS | settings
    runs.check_given(settings, "train", "dev", "weights")
    train, dev = read_questions(settings["train"]), read_questions(settings["dev"])
    data = {"train": train.as_dict(), "dev": dev.as_dict()}
    recipe, directory, weights = runs.open_run(settings, data, device, resumed)
    hidden = settings["fault"] in ("mask", "both")
    kind = QuestionHidden if hidden else BertForQuestionAnswering
    model = kind.from_pretrained(weights).to(device)
    task = AblationTask(load_tokenizer(weights), settings, dev, train)
    if not resumed:
        counts = {"train_windows": len(task.lengths)}
        runs.start(directory, settings, data, counts, weights, task.lengths)
    return Training(model, task, recipe, directory, resume=resumed is not None)


def closing(run: Path, best: Mapping[str, Any]) -> list[str]:
    """Writes the figures; they are also what a finished run says last."""
    settings = runs.read_run_json(run)["settings"]
    facts = {"settings": settings, "scores": best, **files.read_json(run / "notebook.json")}
    path = Path(settings["json"] or run / "ablation.json")
    distributed.in_main(lambda: files.write_json(path, facts))
    return [json.dumps(facts)]


def count_labels(settings: runs.Settings) -> int:
    """How many of the search's labels are wrong, without training."""
    settings = runs.DEFAULTS | DEFAULTS | settings
    runs.check_given(settings, "train", "weights")
    trainable = read_questions(settings["train"]).trainable[: settings["limit"]]
    tokenizer = load_tokenizer(hub.find(settings["weights"]))
    cut = (settings["max_length"], settings["doc_stride"])
    found = make_windows(trainable, tokenizer, *cut, training=True)
    firsts = replace(found, windows=[w for w in found.windows if w.first == 0])
    counts = {
        "all_windows": search_labels(found, tokenizer)[1],
        "first_windows_only": search_labels(firsts, tokenizer)[1],  # the notebook had no more
    }
    if settings["json"]:
        files.write_json(Path(settings["json"]), counts)
    print(json.dumps(counts, indent=1))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    logging.basicConfig(format="%(message)s")
    given = vars(parser().parse_args(argv))
    if given.pop("count_labels", False):
        return guard(lambda: count_labels(given))
    return guard(lambda: runs.fine_tune(given, runs.Goal("bench/ablation_qa.py", prepare, closing)))


def parser() -> argparse.ArgumentParser:
    result = runs.new_parser(__doc__)
    add = result.add_argument
    add("--fault", choices=["none", "mask", "labels", "both"], help="(none)")
    add("--count-labels", action="store_true", help="count the search's wrong labels, and stop; "
        "of --weights the vocabulary will do")  # fmt: skip
    add("--train", metavar="FILE", help="to train on")
    add("--dev", metavar="FILE", help="to score on")
    add("--doc-stride", type=runs.positive(int), metavar="TOKENS")
    add("--json", metavar="FILE", help="for the figures (default: RUN/ablation.json)")
    runs.add_options(result)
    return result


if __name__ == "__main__":
    sys.exit(main())
