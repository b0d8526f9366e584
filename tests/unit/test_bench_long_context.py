"""bench/bench_long_context.py at small sizes: its float64 is the reference model's, and it runs."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bench_long_context
import gptoss
from bench_long_context import LongReference, depths, spread
from gptoss.checkpoint import open_checkpoint
from gptoss.reference.model import ReferenceModel, load_tensors
from make_checkpoint import PRESETS, alternating, make_checkpoint
from support.model_cases import CASES, ModelCase
from support.tolerances import (
    FLOAT64_RELATIVE,
    FP32_MAX_RELATIVE_L2,
    FP32_MEDIAN_RELATIVE_L2,
    INT8_MEDIAN_RELATIVE_L2,
    relative_l2,
)

SCRIPT = Path(bench_long_context.__file__)
TOKENS = 2048


@pytest.fixture(scope="module")
def two_layers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Layers as 20b's first two, of tiny shapes."""
    folder = tmp_path_factory.mktemp("two")
    config = dataclasses.replace(PRESETS["tiny"], num_hidden_layers=2, layer_types=alternating(2))
    make_checkpoint(folder, config)
    return folder


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("chunk_tokens", [7, 1000])
def test_it_is_the_reference(
    case: ModelCase, chunk_tokens: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However it cuts the text: windows, grouped heads and the layers' order included."""
    monkeypatch.setattr(bench_long_context, "SCORES", 300 if chunk_tokens == 7 else 1 << 24)
    monkeypatch.setattr(bench_long_context, "VOCAB_ROWS", 50)
    checkpoint = open_checkpoint(case.build(tmp_path / "model"))
    model = ReferenceModel(checkpoint.config, load_tensors(checkpoint))
    for prompt in case.prompts():
        positions = spread(len(prompt), 9)
        found = LongReference(checkpoint, chunk_tokens).logits(np.array(prompt), positions)
        expected = model.logits(prompt)[positions]
        assert relative_l2(found, expected).max() < FLOAT64_RELATIVE


def test_positions() -> None:
    assert spread(131_072, 50)[[0, 1, -2, -1]].tolist() == [0, 2675, 128_396, 131_071]
    assert len(spread(131_072, 50)) == 50
    assert spread(3, 50).tolist() == [0, 1, 2]
    assert depths(131_056, 4096) == [4096, 8192, 16_384, 32_768, 65_536, 131_056]
    assert depths(100, 4096) == [100]


def run(*arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_accuracy(two_layers: Path) -> None:
    """Of both modes, to the last of some thousand tokens."""
    result = run("accuracy", str(two_layers), "--tokens", str(TOKENS))
    assert len(result["positions"]) == 50
    assert result["positions"][-1] == TOKENS - 1
    reference, default = result["rows"]
    assert reference["median error"] < FP32_MEDIAN_RELATIVE_L2
    assert reference["worst error"] < FP32_MAX_RELATIVE_L2
    assert FP32_MAX_RELATIVE_L2 < default["median error"] < INT8_MEDIAN_RELATIVE_L2


def test_a_wrong_key_is_seen(two_layers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One key in a thousand missing at the end of a text is far outside what is allowed."""
    tokens = np.random.default_rng(0).integers(0, 512, TOKENS)
    positions = spread(TOKENS, 50)
    with gptoss.load(two_layers, precision="reference", context_length=TOKENS) as llm:
        found = llm.logits(tokens.tolist(), positions)
    attention = bench_long_context.banded_attention

    def blind(q: Any, k: Any, v: Any, sinks: Any, window: Any, at: Any, scale: float) -> Any:
        if window is None and len(k) > 1000:
            k = np.delete(k, 900, axis=0)
            v = np.delete(v, 900, axis=0)
            at = at - (at >= 900)
        return attention(q, k, v, sinks, window, at, scale)

    monkeypatch.setattr(bench_long_context, "banded_attention", blind)
    truth = LongReference(open_checkpoint(two_layers)).logits(tokens, positions)
    errors = relative_l2(found, truth)
    assert errors[positions < 900].max() < FP32_MAX_RELATIVE_L2
    assert np.median(errors[positions > 1100]) > FP32_MEDIAN_RELATIVE_L2


def test_speed(two_layers: Path) -> None:
    """Each row computes what the prompt has grown by, and no more."""
    result = run("speed", str(two_layers), "--tokens", "1024", "--first", "256", "--new", "8")
    rows = result["rows"]
    assert [row["depth"] for row in rows] == [256, 512, 1016]
    assert rows[0]["new tokens"] == 256
    for before, row in pairwise(rows):
        grown = row["depth"] - before["depth"]
        assert grown <= row["new tokens"] <= grown + 64  # at most a page again
    assert all(row["prefill tok/s"] > 0 and row["decode tok/s"] > 0 for row in rows)
    sizes = [row["KV cache, GB"] for row in rows]
    assert sizes == sorted(sizes)
    assert sizes[0] > 0
    assert result["estimate_gb"] > 0


def test_speed_after_random_pages(two_layers: Path) -> None:
    """Of a prompt whose beginning has been filled in, the last step's tokens are computed."""
    arguments = ("--tokens", "4096", "--first", "1024", "--new", "8", "--filled")
    rows = run("speed", str(two_layers), *arguments)["rows"]
    assert [row["depth"] for row in rows] == [1024, 2048, 4088]
    assert all(512 <= row["new tokens"] < 512 + 64 for row in rows)
    sizes = [row["KV cache, GB"] for row in rows]
    assert sizes[2] > 1.8 * sizes[1] > 3.2 * sizes[0]
