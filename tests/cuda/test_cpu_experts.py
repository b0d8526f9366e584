"""Experts on the CPU beside a CUDA device: whole models, as in test_model.py."""

from __future__ import annotations

import dataclasses
import re
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


CHOICES = """
import os
import gptoss
os.dup2(1, 2)
for options in {choices!r}:
    try:
        with gptoss.load({path!r}, max_step_tokens=64, max_sequences=1, **options) as llm:
            print(llm.description, llm.context_length, flush=True)
    except Exception as error:
        print(type(error).__name__, error, flush=True)
    print("--", flush=True)
"""


@emulated
def test_what_fits_with_no_number_of_layers(micro: Path) -> None:
    limits = {"device": "cuda", "chunk_tokens": 64}
    enough, needed = (gptoss.estimate_memory(micro, n, **limits) for n in (2048, 4096))
    experts = sum(size for name, size in needed.weights.items() if "expert" in name)
    usable = (enough.total_bytes + needed.total_bytes) // 2
    assert usable < needed.total_bytes - 2 * (experts + enough.weights["padding"])
    long = {"context_length": 4096}
    choices = [long, long | {"device": "cuda"}, long | {"cpu_experts": 1}, {"device": "cuda"}]
    code = CHOICES.format(path=str(micro), choices=choices)
    out = run_elsewhere(code, f"A100:memory={usable * 32 // 31}")
    fallback, refused, asked, opened = out.removesuffix("\n--").split("\n--\n")
    reason = "[cuda] with the experts of {} layers on the CPU, a context of 4096 tokens takes "
    assert fallback.startswith(f"gptoss: runs on cpu: {reason.format(2)}")
    assert "4096" in fallback.splitlines()[-1]
    assert refused.startswith(f"MemoryError {reason.format(2)}")
    shorter = re.search(r": pass a shorter context_length, at most (\d+)", refused)
    assert shorter
    # The reason, and not that the CPU takes no number.
    assert asked.startswith(f"MemoryError {reason.format(1)}")
    # Less than the usual context is better than nothing.
    assert "experts of the first 2 layers on the CPU" in opened
    assert opened.split()[-1] == shorter[1]


@emulated
@pytest.mark.parametrize("nbytes", [1 << 40, 2**63 - 1])
def test_a_kv_cache_that_may_be_larger_than_it_gets_moves_no_experts(
    nbytes: int, micro: Path
) -> None:
    with load(micro, kv_cache_memory=nbytes) as llm:
        assert "on the CPU" not in llm.description


FULL = """
import ctypes, gptoss
driver = ctypes.CDLL("libcuda.so.1")
driver.emulatorLaunches.restype = ctypes.c_uint64
context, piece = ctypes.c_void_p(), ctypes.c_uint64()
assert driver.cuInit(0) == 0
assert driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
assert driver.cuCtxPushCurrent_v2(context) == 0
with gptoss.load({path!r}, device="cuda", cpu_experts=1, **{options!r}) as llm:
    def answer(**params):
        params = {{"max_tokens": 2, "ignore_eos": True, "temperature": 0}} | params
        return llm.generate({prompt!r}, **params).token_ids
    expected = answer()
    size = 1 << 22
    while size >= 512:
        if driver.cuMemAlloc_v2(ctypes.byref(piece), ctypes.c_size_t(size)) != 0:
            size //= 2
    try:
        answer(logit_bias={{token: 1.0 for token in range(280)}})
    except MemoryError as error:
        print(error)
    before = driver.emulatorLaunches()
    assert driver.cuCtxSynchronize() == 0
    print(driver.emulatorLaunches() - before)
    print(answer() == expected)
"""


@emulated
def test_a_step_that_failed_leaves_nothing_behind(micro: Path) -> None:
    code = FULL.format(path=str(micro), options=SMALL, prompt=PROMPTS[0])
    error, pending, same = run_elsewhere(code, "A100:memory=4M").splitlines()
    assert "for biases of tokens" in error
    assert (pending, same) == ("0", "True")


FAULT = """
import ctypes, gptoss
llm = gptoss.load({path!r}, device="cuda", cpu_experts=1, **{options!r})
driver = ctypes.CDLL("libcuda.so.1")
context, module, function = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
assert driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
assert driver.cuCtxPushCurrent_v2(context) == 0
ptx = b".version 8.0\\n.target sm_80\\n.address_size 64\\n.visible .entry bad() {{ trap; }}\\n"
assert driver.cuModuleLoadData(ctypes.byref(module), ptx) == 0
assert driver.cuModuleGetFunction(ctypes.byref(function), module, b"bad") == 0
driver.cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, None, None, None)
try:
    llm.generate([1], max_tokens=4, ignore_eos=True)
except gptoss.BackendError as error:
    print(error)
llm.close()
del llm
print("closed")
"""


@emulated
def test_a_device_that_is_lost_can_be_closed(micro: Path) -> None:
    error, closed = run_elsewhere(FAULT.format(path=str(micro), options=SMALL)).splitlines()
    assert "CUDA_ERROR" in error
    assert closed == "closed"


def test_what_cannot_be_is_refused(micro: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="from 0 to the model's 2 layers, got 3"):
        load(micro, cpu_experts=3)
    with load(micro, cpu_experts=1) as llm, pytest.raises(ValueError, match="adapter"):
        llm.load_adapter("a", tmp_path)
