"""How bench/ compares logits: models without a choice of experts, and tokens told apart by it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import compare
import compare_workers
import gptoss
from bench_accuracy import Comparison, Read
from gptoss.checkpoint import open_checkpoint
from gptoss.reference.model import load_tensors
from support.checkpoints import MICRO, make_checkpoint


@pytest.mark.parametrize("layout", ["hf", "original"])
def test_a_model_of_its_first_experts(tmp_path: Path, layout: str) -> None:
    make_checkpoint(tmp_path / "all", MICRO, layout=layout)  # type: ignore[arg-type]
    source = open_checkpoint(tmp_path / "all")
    made = open_checkpoint(compare.prepare_model(source, 1, tmp_path, experts=2))
    assert (made.config.num_hidden_layers, made.config.num_local_experts) == (1, 2)
    expected, found = load_tensors(source), load_tensors(made)
    assert {name for name in expected if "layers.1." not in name} == set(found)
    for name, values in found.items():
        is_of_experts = ".mlp.router." in name or ".mlp.experts." in name
        rows = slice(2) if is_of_experts else slice(None)
        np.testing.assert_array_equal(values, expected[name][rows], err_msg=name)
    with gptoss.load(made.path) as llm:
        experts = llm.trace([5, 280, 9], what="experts").experts
    assert (np.sort(experts, axis=-1) == [0, 1]).all()


@pytest.mark.parametrize("experts", [1, 4])
def test_no_such_number_of_experts(tmp_path: Path, experts: int) -> None:
    make_checkpoint(tmp_path / "all", MICRO)
    with pytest.raises(ValueError, match=f"experts must be 2 to 3, got {experts}"):
        compare.prepare_model(open_checkpoint(tmp_path / "all"), 1, tmp_path, experts=experts)


def test_what_a_worker_saves(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "model", MICRO)
    texts = [[5, 280, 9], [7]]
    job = {
        "program": "gptoss",
        "model": str(tmp_path / "model"),
        "options": {"precision": "reference"},
        "threads": 1,
        "context_length": 4,
        "prompts": texts,
        "logits": str(tmp_path),
    }
    compare._run(sys.executable, job, "test")
    with gptoss.load(tmp_path / "model", precision="reference") as llm:
        logits = np.concatenate([llm.logits(text) for text in texts])
        experts = np.concatenate([llm.trace(t, what="experts").experts for t in texts], axis=1)
    np.testing.assert_array_equal(np.load(tmp_path / "logits.npy"), logits)
    np.testing.assert_array_equal(np.load(tmp_path / "experts.npy"), experts)


class Silent(compare_workers._Silent):
    """A program that tells no experts."""

    about = "silent"

    def logits(self, tokens: list[int]) -> np.ndarray:
        return np.ones((len(tokens), 3), np.float32)


def test_the_share_of_positions_with_other_experts(tmp_path: Path) -> None:
    """An order among the chosen is no other choice; one layer of many is."""
    chosen = np.array([[[0, 1], [1, 2], [0, 2], [1, 2]], [[0, 1], [0, 2], [0, 2], [1, 2]]])
    other = chosen[..., ::-1].copy()
    other[1, 2] = 0, 1
    for name, experts in (("a", chosen), ("b", other)):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "logits.npy", np.array([[1.0, 2.0]] * 4, np.float32))
        np.save(tmp_path / name / "experts.npy", experts)
    (tmp_path / "c").mkdir()
    compare_workers.save_logits(Silent(), [[1, 2], [3, 4]], tmp_path / "c")  # type: ignore[arg-type]
    assert not (tmp_path / "c" / "experts.npy").exists()
    a, b, c = (tmp_path / name for name in "abc")
    assert compare._difference(b, a)["other experts, %"] == 25.0
    assert compare._difference(b, b)["other experts, %"] == 0.0
    assert compare._routed_otherwise(c, a) is None


def test_tokens_behind_another_choice_are_told_apart() -> None:
    """In their own text only."""
    truth = Read(np.array([[3.0, 4.0]] * 4, np.float32), np.zeros((2, 4, 1), np.int32))
    moved = Read(truth.logits.copy(), truth.experts.copy())
    moved.experts[1, 2] = 1
    moved.logits += np.array([[0.3], [0.6], [9.0], [6.0]], np.float32) * [0.8, 0.6]
    comparison = Comparison()
    comparison.add(moved, truth)
    comparison.add(truth, truth)
    row = comparison.row("moved")
    assert comparison.untouched == [True, True, False, False, True, True, True, True]
    assert row["other experts %"] == 100 / 8
    assert row["of tokens %"] == 75.0
    assert row["median error"] == pytest.approx(0.03, rel=1e-6)  # of 0 x4, .06, .12, 1.2, 1.8
    assert row["median error before"] == 0.0
