"""Numbers that lie: what is not finite is never a log-probability, and never encoded."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gptoss
from gptoss import CheckpointError
from gptoss.reference.sampling import probabilities

DEMO = Path(gptoss.__file__).parent / "demo"
NAN, INFINITY, MINUS_INFINITY, SIGNALLING = 0x7FC0, 0x7F80, 0xFF80, 0xFFA1
DENSE = ("q_proj", "k_proj", "v_proj", "o_proj")


@pytest.fixture
def damaged(tmp_path: Path) -> Callable[..., Path]:
    """Copy the demo with other bits in one element of a tensor, or in all."""

    def make(tensor: str, bits: int, *, element: int | None = 0) -> Path:
        folder = tmp_path / "model"
        if not folder.exists():
            shutil.copytree(DEMO, folder)
        weights = folder / "model.safetensors"
        content = bytearray((DEMO / "model.safetensors").read_bytes())
        end = 8 + int.from_bytes(content[:8], "little")
        begin, stop = (end + o for o in json.loads(content[8:end])[tensor]["data_offsets"])
        if element is None:
            content[begin:stop] = struct.pack("<H", bits) * ((stop - begin) // 2)
        else:
            at = (begin if element >= 0 else stop) + 2 * element
            content[at : at + 2] = struct.pack("<H", bits)
        weights.write_bytes(content)
        return folder

    return make


@pytest.mark.parametrize("dense", ["q8", "bf12"])
@pytest.mark.parametrize(
    ("tensor", "bits", "element"),
    [
        *((f"model.layers.0.self_attn.{name}.weight", NAN, 0) for name in DENSE),
        *((f"model.layers.1.self_attn.{name}.weight", MINUS_INFINITY, -1) for name in DENSE),
        ("lm_head.weight", INFINITY, 12_345),
        ("lm_head.weight", SIGNALLING, None),
    ],
)
def test_encoding_names_the_tensor(
    tensor: str, bits: int, element: int | None, dense: str, damaged: Callable[..., Path]
) -> None:
    """Attack F12."""
    folder = damaged(tensor, bits, element=element)
    with pytest.raises(CheckpointError, match="expected finite w, got NaN or infinity") as raised:
        gptoss.load(folder, threads=2, dense=dense)
    assert tensor in str(raised.value)


@pytest.mark.parametrize("options", [{}, {"precision": "reference"}])
@pytest.mark.parametrize(
    ("tensor", "bits"),
    [
        ("lm_head.weight", NAN),
        ("lm_head.weight", SIGNALLING),
        ("model.norm.weight", NAN),
        ("model.norm.weight", INFINITY),
    ],
)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_no_logprob_that_is_no_number(
    tensor: str,
    temperature: float,
    bits: int,
    options: dict[str, Any],
    damaged: Callable[..., Path],
) -> None:
    """Attack F11."""
    with (
        gptoss.load(damaged(tensor, bits), threads=1, **options) as llm,
        pytest.raises(RuntimeError, match="the logits are not finite"),
    ):
        llm.generate("Hello", max_tokens=3, logprobs=2, temperature=temperature)


@pytest.mark.parametrize("bits", [INFINITY, MINUS_INFINITY])
@pytest.mark.parametrize("options", [{}, {"precision": "reference"}])
def test_an_infinite_weight_gives_numbers_or_an_error(
    bits: int, options: dict[str, Any], damaged: Callable[..., Path]
) -> None:
    """A logit of -inf is a token that cannot come; no score of it is a number."""
    outcomes = set()
    with gptoss.load(damaged("lm_head.weight", bits), threads=1, **options) as llm:
        for first in range(1, 25):
            prompt = [first, 0, first]
            for params in (
                {"logprobs": 20, "temperature": 1.0, "seed": first},
                {"allowed_token_ids": [0], "logprobs": 1},
                {"prompt_logprobs": 20},
            ):
                try:
                    result = llm.generate(prompt, max_tokens=1, ignore_eos=True, **params)
                except RuntimeError as error:
                    outcomes.add(str(error)[:30])
                    continue
                outcomes.add("numbers")
                for score in (*(result.logprobs or ()), *(result.prompt_logprobs or ())[1:]):
                    assert score is not None
                    assert np.isfinite(score.logprob)
                    assert all(np.isfinite(top.logprob) for top in score.top_logprobs)
    assert outcomes == {
        "numbers",
        "the logits are not finite: the",
        "no token is allowed: the const",
    }


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_reference_refuses_them(value: float) -> None:
    logits = np.array([0.0, value, 1.0])
    for options in ({}, {"temperature": 0.0}, {"top_k": 1}):
        with pytest.raises(ValueError, match="expected finite logits"):
            probabilities(logits, **options)  # type: ignore[arg-type]
