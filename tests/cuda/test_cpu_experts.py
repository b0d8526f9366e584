"""Experts on the CPU beside a CUDA device: whole models, as in test_model.py."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gptoss
from cuda.models import (
    SMALL,
    Driver,
    emulated,
    golden_of,
    graph_launches,
    needs_device,
    run_elsewhere,
)
from support.checkpoints import MICRO, alternating, make_checkpoint
from support.model_cases import CASES
from support.tolerances import (
    CUDA_MEDIAN_RELATIVE_L2,
    INT8_MEDIAN_RELATIVE_L2,
    assert_fp32_tier,
    relative_l2,
)

pytestmark = needs_device

PROMPTS = [[(7 * i * i + i) % 280 for i in range(n)] for n in (23, 3, 9)]


@pytest.fixture(scope="module")
def micro(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("micro")
    make_checkpoint(folder, MICRO)
    return folder


def load(path: Path, **options: Any) -> gptoss.LLM:
    return gptoss.load(path, device="cuda", **(SMALL | options))


@pytest.mark.parametrize("layers", [1, 3])
def test_reference_mode_is_in_the_tier_of_float32(layers: int, tmp_path: Path) -> None:
    case = CASES[6]
    golden = golden_of(case)
    assert len(case.prompts()[0]) == 3
    with load(case.build(tmp_path), precision="reference", cpu_experts=layers) as llm:
        assert f"first {layers} layers on the CPU" in repr(llm)
        logits = llm.logits(case.prompts()[0], golden["positions_0"])
        assert_fp32_tier(logits, golden["logits_0"])
        result = llm.generate(case.prompts()[0], max_tokens=2, temperature=0, ignore_eos=True)
    assert result.token_ids == golden["greedy_0"][:2].tolist()


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_default_mode_errs_as_both_do(layers: int, tmp_path: Path) -> None:
    case = CASES[6]
    golden = golden_of(case)
    with load(case.build(tmp_path), cpu_experts=layers) as llm:
        logits = llm.logits(case.prompts()[1], golden["positions_1"])
    errors = relative_l2(logits, golden["logits_1"])
    # The device rounds to bf16, and the CPU what its experts take to int8.
    bound = CUDA_MEDIAN_RELATIVE_L2 + (INT8_MEDIAN_RELATIVE_L2 if layers else 0)
    assert np.median(errors) <= bound


@pytest.mark.parametrize("layers", [1, 2])
def test_bits_depend_on_nothing_else(
    layers: int, micro: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = gptoss.SamplingParams(
        max_tokens=5, temperature=1.0, seed=3, ignore_eos=True, logprobs=2
    )
    with load(micro, cpu_experts=layers) as llm:
        logits = llm.logits(PROMPTS[0])
        np.testing.assert_array_equal(llm.logits(PROMPTS[0], chunk_tokens=9), logits)
        alone = [llm.generate(prompt, params) for prompt in PROMPTS]
        together = llm.generate(PROMPTS, params)
    found = [[(r.token_ids, r.logprobs) for r in results] for results in (alone, together)]
    assert found[1] == found[0]
    # Guesses are made when nothing is in flight.
    monkeypatch.setenv("GPTOSS_CUDA_GRAPHS", "0")
    with load(micro, cpu_experts=layers, speculative="ngram", threads=1) as llm:
        again = [llm.generate(prompt, params) for prompt in PROMPTS]
    assert [(r.token_ids, r.logprobs) for r in again] == found[0]


@emulated
def test_what_is_between_the_experts_is_launched_as_graphs(micro: Path) -> None:
    before = graph_launches()
    with load(micro, cpu_experts=1) as llm:
        llm.generate([3, 4, 5], max_tokens=7, ignore_eos=True)
    # Each of two flights sees a shape once without; a step has two graphs.
    assert graph_launches() - before >= 2 * 4


@emulated
def test_gives_everything_back(micro: Path) -> None:
    driver = Driver()
    before = driver.free_bytes()
    llm = load(micro, cpu_experts=1)
    held = before - driver.free_bytes()
    llm.generate([1, 2, 3], max_tokens=2)
    assert before - driver.free_bytes() == held
    request = llm.submit([1, 2, 3], max_tokens=20, ignore_eos=True)
    llm.close()  # with a step in flight
    del llm, request
    assert driver.free_bytes() == before


ANSWER = """
import gptoss
with gptoss.load({path!r}, device="cuda", **{options!r}) as llm:
    print(llm.description)
    print(llm.generate([3, 4, 5], max_tokens=3, temperature=0, ignore_eos=True).token_ids)
"""


@emulated
def test_auto_leaves_to_the_cpu_what_does_not_fit(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = dataclasses.replace(
        MICRO,
        hidden_size=64,
        intermediate_size=512,
        num_hidden_layers=3,
        layer_types=alternating(3),
        num_local_experts=16,
    )
    make_checkpoint(tmp_path, config)
    options = {"context_length": 64, "max_step_tokens": 16, "max_sequences": 1}
    driver = Driver()
    held = []
    for layers in (0, 1, 2):
        before = driver.free_bytes()
        with load(tmp_path, cpu_experts=layers, **options) as llm:
            held.append(before - driver.free_bytes())
            expected = llm.generate([3, 4, 5], max_tokens=3, temperature=0, ignore_eos=True)
    assert "experts of 2 of 3 layers in RAM" in capfd.readouterr().err
    memory = (held[1] + held[2]) // 2 * 32 // 31  # of which 1/32 is left free
    assert memory < sum(file.stat().st_size for file in tmp_path.glob("*.safetensors"))
    out = run_elsewhere(ANSWER.format(path=str(tmp_path), options=options), f"A100:memory={memory}")
    assert "experts of the first 2 layers on the CPU" in out
    assert str(expected.token_ids) in out


def test_what_cannot_be_is_refused(micro: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="from 0 to the model's 2 layers, got 3"):
        load(micro, cpu_experts=3)
    with load(micro, cpu_experts=1) as llm, pytest.raises(ValueError, match="adapter"):
        llm.load_adapter("a", tmp_path)
