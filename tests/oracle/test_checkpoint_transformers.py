"""Checkpoints that transformers itself writes, in the form of its current release."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from gptoss.checkpoint import open_checkpoint
from gptoss.errors import CheckpointError
from gptoss.reference.mxfp4 import dequantize
from support.checkpoints import MICRO

torch = pytest.importorskip("torch", reason="torch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

pytestmark = pytest.mark.oracle


def test_a_saved_model_opens(tmp_path: Path) -> None:
    sizes = dataclasses.asdict(MICRO)
    for name in ("rope", "eos_token_ids"):
        del sizes[name]
    sizes["layer_types"] = list(MICRO.layer_types)
    # Its default for RoPE is that of the published models, written as `rope_parameters`.
    config = transformers.GptOssConfig(**sizes, eos_token_id=7)
    torch.manual_seed(0)
    model = transformers.GptOssForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="expected MXFP4 blocks and scales, found BF16"):
        open_checkpoint(tmp_path)
    checkpoint = open_checkpoint(tmp_path, experts="mxfp4", progress=False)
    assert checkpoint.config == dataclasses.replace(MICRO, eos_token_ids=(7,))
    state = model.state_dict()
    for name, tensor in checkpoint.tensors.items():
        if name.endswith("_scales"):
            continue
        if not name.endswith("_blocks"):
            expected = state[name].view(torch.uint16).numpy()
            np.testing.assert_array_equal(tensor.read(), expected, err_msg=name)
            continue
        scales = checkpoint.tensors[name.removesuffix("_blocks") + "_scales"]
        found = dequantize(tensor.read(), scales.read())
        expected = state[name.removesuffix("_blocks")].float().numpy().swapaxes(1, 2)
        # An element errs by at most a quarter of its block's largest: 2 of 8, at saturation.
        blocks = expected.reshape(*scales.shape, 32)
        largest = np.abs(blocks).max(axis=-1, keepdims=True)
        assert (np.abs(found.reshape(blocks.shape) - blocks) <= largest / 4).all(), name
