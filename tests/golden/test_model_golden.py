"""The model against frozen results of transformers' float32 GptOssForCausalLM.

The golden files are made by tools/make_model_golden.py; the checkpoints are rebuilt from seeds.
"""

from __future__ import annotations

import json

import numpy as np
import numpy.typing as npt
import pytest

import gptoss
from gptoss import _core
from gptoss.checkpoint import Checkpoint, open_checkpoint
from gptoss.reference import q8
from gptoss.reference.model import ReferenceModel, load_tensors
from support.model_cases import CASES, ModelCase, describe, golden_path
from support.tolerances import (
    INT8_DENSE_MEDIAN_RELATIVE_L2,
    INT8_KV_MEDIAN_RELATIVE_L2,
    INT8_MEDIAN_RELATIVE_L2,
    assert_fp32_tier,
    relative_l2,
)


def supported_isas() -> list[str]:
    return [name for name, supported, _ in _core.isas() if supported]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> ModelCase:
    return request.param


@pytest.fixture(scope="module")
def checkpoint(case: ModelCase, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(case.build(tmp_path_factory.mktemp(case.name)))


@pytest.fixture(scope="module")
def golden(case: ModelCase) -> dict[str, npt.NDArray[np.generic]]:
    with np.load(golden_path(case)) as arrays:
        return dict(arrays)


def test_golden_belongs_to_the_case(
    case: ModelCase, checkpoint: Checkpoint, golden: dict[str, npt.NDArray[np.generic]]
) -> None:
    assert checkpoint.config == case.config
    about = json.loads(str(golden["about"]))
    now = describe(case, checkpoint)
    assert {key: about[key] for key in now} == now, "run tools/make_model_golden.py"


def test_reference(
    case: ModelCase, checkpoint: Checkpoint, golden: dict[str, npt.NDArray[np.generic]]
) -> None:
    model = ReferenceModel(checkpoint.config, load_tensors(checkpoint))
    for i, prompt in enumerate(case.prompts()):
        continuation = golden[f"greedy_{i}"].tolist()
        logits = model.logits(prompt + continuation)
        # Causal: the rows of the prompt do not depend on what follows.
        assert_fp32_tier(golden[f"logits_{i}"], logits[golden[f"positions_{i}"]])
        assert logits[len(prompt) - 1 : -1].argmax(axis=-1).tolist() == continuation


@pytest.mark.parametrize("isa", supported_isas())
def test_compiled_reference_mode(
    isa: str,
    case: ModelCase,
    checkpoint: Checkpoint,
    golden: dict[str, npt.NDArray[np.generic]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GPTOSS_ISA", isa)
    with gptoss.load(checkpoint.path, precision="reference") as llm:
        for i, prompt in enumerate(case.prompts()):
            continuation = golden[f"greedy_{i}"].tolist()
            rows = golden[f"positions_{i}"]
            for chunk_tokens in (None, 7):
                logits = llm.logits(prompt, rows, chunk_tokens=chunk_tokens)
                assert_fp32_tier(logits, golden[f"logits_{i}"])
            result = llm.generate(
                prompt, max_tokens=len(continuation), temperature=0, ignore_eos=True
            )
            assert result.token_ids == continuation


def test_compiled_default_mode(
    case: ModelCase, checkpoint: Checkpoint, golden: dict[str, npt.NDArray[np.generic]]
) -> None:
    with gptoss.load(checkpoint.path) as llm:
        errors = [
            relative_l2(llm.logits(prompt, golden[f"positions_{i}"]), golden[f"logits_{i}"])
            for i, prompt in enumerate(case.prompts())
        ]
    assert np.median(np.concatenate(errors)) <= INT8_MEDIAN_RELATIVE_L2


DENSE_MATRICES = tuple(
    f"{name}.weight" for name in ("q_proj", "k_proj", "v_proj", "o_proj", "lm_head")
)


@pytest.mark.parametrize("isa", supported_isas())
def test_dense_weights_in_int8(
    isa: str, case: ModelCase, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model of the rounded weights: only its inputs are rounded besides."""
    monkeypatch.setenv("GPTOSS_ISA", isa)
    config = checkpoint.config
    if config.num_attention_heads * config.head_dim % q8.BLOCK != 0:
        with pytest.raises(ValueError, match="whole blocks of 32, got"):
            gptoss.load(checkpoint.path, dense="q8")
        return
    tensors = {
        name: q8.decode(*q8.encode(tensor)) if name.endswith(DENSE_MATRICES) else tensor
        for name, tensor in load_tensors(checkpoint).items()
    }
    reference = ReferenceModel(config, tensors)
    exact = ReferenceModel(config, load_tensors(checkpoint))
    errors, weight_errors = [], []
    with gptoss.load(checkpoint.path, dense="q8") as llm:
        for prompt in case.prompts():
            expected = reference.logits(prompt)
            logits = llm.logits(prompt)
            np.testing.assert_array_equal(llm.logits(prompt, chunk_tokens=7), logits)
            # All later tokens of a prompt see one that rounding sent to another expert.
            errors.append(np.median(relative_l2(logits, expected)))
            weight_errors.append(np.median(relative_l2(exact.logits(prompt), expected)))
    assert np.median(errors) <= INT8_DENSE_MEDIAN_RELATIVE_L2
    # The weights that were decoded are not those of the checkpoint: rounding them is seen.
    assert np.median(weight_errors) > 1e-3


@pytest.mark.parametrize("isa", supported_isas())
def test_dense_weights_in_12_bits(
    isa: str, case: ModelCase, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same numbers, and so the same bits."""
    monkeypatch.setenv("GPTOSS_ISA", isa)
    with (
        gptoss.load(checkpoint.path) as plain,
        gptoss.load(checkpoint.path, dense="bf12") as llm,
    ):
        assert "dense weights bf12" in repr(llm)
        for prompt in case.prompts():
            logits = llm.logits(prompt)
            np.testing.assert_array_equal(logits, plain.logits(prompt))
            np.testing.assert_array_equal(llm.logits(prompt, chunk_tokens=7), logits)


@pytest.mark.parametrize("isa", supported_isas())
def test_keys_and_values_in_int8(
    isa: str, case: ModelCase, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPTOSS_ISA", isa)
    tensors = load_tensors(checkpoint)
    reference = ReferenceModel(checkpoint.config, tensors, int8_kv_cache=True)
    exact = ReferenceModel(checkpoint.config, tensors)
    errors, rounding_errors = [], []
    with gptoss.load(checkpoint.path, kv_cache_dtype="int8") as llm:
        assert "KV cache int8" in repr(llm)
        for prompt in case.prompts():
            expected = reference.logits(prompt)
            logits = llm.logits(prompt)
            np.testing.assert_array_equal(llm.logits(prompt, chunk_tokens=7), logits)
            errors.append(np.median(relative_l2(logits, expected)))
            rounding_errors.append(np.median(relative_l2(exact.logits(prompt), expected)))
    assert np.median(errors) <= INT8_KV_MEDIAN_RELATIVE_L2
    assert np.median(rounding_errors) > 1e-3


def test_goldens_are_small_and_all_in_use() -> None:
    files = list(golden_path(CASES[0]).parent.iterdir())
    assert {path.name for path in files} == {golden_path(case).name for case in CASES}
    assert sum(path.stat().st_size for path in files) < 300_000
