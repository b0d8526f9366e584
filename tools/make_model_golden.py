"""Freeze what transformers' float32 GptOssForCausalLM makes of tests/support/model_cases.py.

    python tools/make_model_golden.py

Needs the extra `oracle`. Writes tests/golden/model/<case>.npz, each with `about` (JSON: what it was
made from, and the versions), and per prompt i: positions_i (P) int64, logits_i (P, V) float32 at
those positions, greedy_i (24) int64.
"""

# ruff: noqa: E402 (the folders of tests and benchmarks are not packages)

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / folder) for folder in ("tests", "bench")]

import numpy as np
import torch
import transformers

from gptoss.checkpoint import open_checkpoint
from support.model_cases import CASES, ModelCase, describe, golden_path
from support.tolerances import GREEDY_GAP
from support.transformers_oracle import greedy, load_transformers, logits

GREEDY_TOKENS = 24
# Enough rows to show an error at any position, in files of some 20 kB.
MAX_POSITIONS = 12


def make_golden(case: ModelCase) -> None:
    """Write one case's file."""
    with tempfile.TemporaryDirectory() as folder:
        path = case.build(Path(folder))
        model = load_transformers(case, path)
        about = describe(case, open_checkpoint(path))
    about["transformers"], about["torch"] = transformers.__version__, torch.__version__
    arrays = {"about": np.array(json.dumps(about))}
    for i, prompt in enumerate(case.prompts()):
        count = min(len(prompt), MAX_POSITIONS)
        positions = np.linspace(0, len(prompt) - 1, count).round().astype(np.int64)
        continuation = greedy(model, prompt, GREEDY_TOKENS)
        steps = logits(model, prompt + continuation)[len(prompt) - 1 : -1]
        second, first = np.sort(steps, axis=-1)[:, -2:].T
        if (first - second).min() <= GREEDY_GAP or (steps.argmax(axis=-1) != continuation).any():
            raise SystemExit(f"{case.name}: prompt {i} has a near tie; give the case another seed")
        arrays[f"positions_{i}"] = positions
        arrays[f"logits_{i}"] = logits(model, prompt)[positions]
        arrays[f"greedy_{i}"] = np.array(continuation)
    golden_path(case).parent.mkdir(exist_ok=True)
    np.savez_compressed(golden_path(case), **arrays)
    print(golden_path(case), golden_path(case).stat().st_size)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for each in CASES:
        make_golden(each)
