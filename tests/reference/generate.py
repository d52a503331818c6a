"""Makes the stored reference tensors with transformers; run it from the repository's root.

    pip install -e '.[test,reference]' && python weights/fetch_minilm.py
    python tests/reference/generate.py

Values are those of transformers' eager attention in float64, stored as such, so that the only
rounding that a test sees is minibert's own. Beside them stands how far transformers' two float32
paths, eager and sdpa, are from each other on the machine that made the file.
"""

from __future__ import annotations

import platform
import sys
import tempfile
from pathlib import Path

import torch
import transformers

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

import parity_cases as cases  # noqa: E402
import stored  # noqa: E402

from minibert.parity import max_difference  # noqa: E402

EXACT = cases.load_transformers("eager", torch.float64)
EAGER = cases.load_transformers("eager")
SDPA = cases.load_transformers("sdpa")


def main() -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    versions = {
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    with tempfile.TemporaryDirectory() as temporary:
        made = {
            "chinese": cases.chinese(Path(temporary) / "chinese"),
            "small": cases.small(Path(temporary) / "small"),
            "minilm": cases.minilm(
                Path(temporary) / "minilm", ROOT / "weights" / "all-MiniLM-L6-v2"
            ),
        }
        for name, case in made.items():
            tensors, peers = reference(name, case)
            batch = {key: x.tolist() for key, x in case.batch.items()}
            stored.save(name, tensors, {"versions": versions, "batch": batch, "eager-sdpa": peers})
            print(name, len(tensors), "tensors")


def reference(name: str, case: cases.Case) -> tuple[cases.Tensors, dict[str, float]]:
    tensors = cases.forward(case, EXACT, attentions=True)
    eager, sdpa = cases.forward(case, EAGER), cases.forward(case, SDPA)
    peers = {key: max_difference(eager[key], sdpa[key]) for key in eager}
    if name != "chinese":
        for head in (cases.QA, cases.CLASSIFICATION):
            for key, gradient in cases.gradients(case, EXACT, head).items():
                tensors[f"gradient.{head}.{key}"] = gradient
            tensors[f"losses.{head}"] = cases.training_losses(case, EXACT, head)
    return tensors, peers


if __name__ == "__main__":
    main()
