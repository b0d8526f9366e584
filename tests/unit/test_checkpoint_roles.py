"""The core finds a model's tensors by role, whatever the checkpoint calls them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from gptoss import _core
from gptoss.checkpoint import Checkpoint, TensorSource, open_checkpoint
from gptoss.checkpoint.layout import stored_tensors, tensors_by_role
from support.model_cases import CASES


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(CASES[0].build(tmp_path_factory.mktemp("roles") / "model"))


def make_engine(checkpoint: Checkpoint, tensors: dict[str, TensorSource]) -> _core.Engine:
    return _core.Engine(
        checkpoint.config,
        tensors,
        [7],
        device="cpu",
        threads=1,
        precision="auto",
        context_length=64,
        max_step_tokens=8,
        max_sequences=1,
        kv_memory_bytes=2**20,
    )


def test_both_layouts_give_every_role_once(checkpoint: Checkpoint) -> None:
    roles = [
        [part.role for stored in stored_tensors(checkpoint.config, layout) for part in stored.parts]
        for layout in ("hf", "original")
    ]
    assert roles[0] == roles[1]
    assert len(set(roles[0])) == len(roles[0]) == len(checkpoint.tensors)


def test_roles_keep_the_tensor(checkpoint: Checkpoint) -> None:
    tensors = tensors_by_role(checkpoint.config, checkpoint.tensors)
    name = "model.layers.1.self_attn.k_proj.weight"
    assert tensors["layers.1.attention.k"] is checkpoint.tensors[name]
    name = "model.layers.0.mlp.experts.down_proj_scales"
    assert tensors["layers.0.experts.down.scales"] is checkpoint.tensors[name]


def test_tensors_under_another_layouts_names_are_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(ValueError, match=r"\[weights\] tensor embedding is missing"):
        make_engine(checkpoint, checkpoint.tensors)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": (3,)}, r"\[weights\] final_norm must have shape \(\d+\), got \(3\)"),
        ({"dtype": "U8"}, r"\[weights\] final_norm must be BF16, got U8"),
        ({"dtype": "F32"}, "tensor dtype must be BF16, F16 or U8, got F32"),
        ({"offset": 2**40}, r"final_norm ends at byte \d+ of .*, which has \d+"),
        ({"offset": -1}, "final_norm ends at byte"),
        ({"array": np.zeros(3, np.uint16)}, r"array of final_norm must have \d+ bytes, got 6"),
        ({"array": np.zeros((3, 2), np.uint16)[:, 0]}, "final_norm must be C-contiguous"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(
    checkpoint: Checkpoint, change: dict[str, object], message: str
) -> None:
    tensors = tensors_by_role(checkpoint.config, checkpoint.tensors)
    tensors["final_norm"] = dataclasses.replace(tensors["final_norm"], **change)
    with pytest.raises(ValueError, match=message):
        make_engine(checkpoint, tensors)


def test_a_file_that_is_gone_is_named(checkpoint: Checkpoint, tmp_path: Path) -> None:
    tensors = tensors_by_role(checkpoint.config, checkpoint.tensors)
    gone = tmp_path / "gone.safetensors"
    tensors["final_norm"] = dataclasses.replace(tensors["final_norm"], path=gone)
    with pytest.raises(RuntimeError, match=r"gone\.safetensors"):
        make_engine(checkpoint, tensors)
