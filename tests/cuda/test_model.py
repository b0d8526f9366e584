"""Whole models through the host code, kernels and stand-in driver: tools/check_cuda.sh."""

from __future__ import annotations

import ctypes
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
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
from gptoss import LLM, BackendError, CheckpointError
from gptoss.convert import convert
from support.checkpoints import MICRO, make_checkpoint, recast
from support.model_cases import CASES, ModelCase
from support.tolerances import (
    CUDA_MEDIAN_RELATIVE_L2,
    INT8_MEDIAN_RELATIVE_L2,
    assert_fp32_tier,
    relative_l2,
)

pytestmark = needs_device

# Emulated, a token of the plain kernels takes most of a second.
SHORT = [(case, i) for case in CASES for i, n in enumerate(case.prompt_lengths) if n <= 4]
LONG = [(CASES[1], 3), (CASES[5], 1), (CASES[6], 1)]  # windows, several pages

Make = Callable[[ModelCase], Path]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    made: dict[str, Path] = {}

    def build(case: ModelCase) -> Path:
        if case.name not in made:
            made[case.name] = case.build(tmp_path_factory.mktemp(case.name))
        return made[case.name]

    return build


@pytest.fixture(scope="module")
def micro(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("micro")
    make_checkpoint(folder, MICRO)
    return folder


@pytest.fixture(scope="module")
def llm(micro: Path) -> Iterator[LLM]:
    with gptoss.load(micro, device="cuda", **SMALL) as llm:
        yield llm


@pytest.mark.parametrize(("case", "index"), SHORT, ids=lambda value: getattr(value, "name", value))
def test_reference_mode_is_in_the_tier_of_float32(case: ModelCase, index: int, make: Make) -> None:
    golden = golden_of(case)
    prompt = case.prompts()[index]
    with gptoss.load(make(case), device="cuda", precision="reference", **SMALL) as llm:
        assert "cuda" in repr(llm)
        logits = llm.logits(prompt, golden[f"positions_{index}"])
        assert_fp32_tier(logits, golden[f"logits_{index}"])
        result = llm.generate(prompt, max_tokens=2, temperature=0, ignore_eos=True)
        assert result.token_ids == golden[f"greedy_{index}"][:2].tolist()


@pytest.mark.parametrize(("case", "index"), LONG, ids=lambda value: getattr(value, "name", value))
def test_default_mode_errs_as_bf16_does(case: ModelCase, index: int, make: Make) -> None:
    golden = golden_of(case)
    with gptoss.load(make(case), device="cuda", **SMALL) as llm:
        logits = llm.logits(case.prompts()[index], golden[f"positions_{index}"])
    errors = relative_l2(logits, golden[f"logits_{index}"])
    assert np.median(errors) <= CUDA_MEDIAN_RELATIVE_L2


def test_bits_do_not_depend_on_how_a_prompt_is_cut(llm: LLM) -> None:
    prompt = [(7 * i * i + i) % 280 for i in range(70)]
    logits = llm.logits(prompt)
    np.testing.assert_array_equal(llm.logits(prompt, chunk_tokens=9), logits)


def test_keys_and_values_in_int8(micro: Path, llm: LLM) -> None:
    prompt = [(5 * i * i + 3 * i) % 280 for i in range(70)]
    with gptoss.load(micro, device="cuda", kv_cache_dtype="int8", **SMALL) as small:
        assert "int8" in repr(small)
        found = small.logits(prompt)
        np.testing.assert_array_equal(small.logits(prompt, chunk_tokens=9), found)
    with gptoss.load(micro, device="cpu", kv_cache_dtype="int8", **SMALL) as cpu:
        expected = cpu.logits(prompt)
    # Both err otherwise, each as bf16 does. That they round alike is seen in test_attention.py:
    # here what the inputs of matmuls do is larger.
    assert np.median(relative_l2(found, expected)) <= 2 * CUDA_MEDIAN_RELATIVE_L2
    assert np.median(relative_l2(found, llm.logits(prompt))) > CUDA_MEDIAN_RELATIVE_L2 / 10


@pytest.mark.parametrize("source", ["bf16", "q8_0"])
def test_dense_weights_in_int8(
    source: str, micro: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A step of the whole prompt goes to tiled kernels, its pieces do not.
    path, options = micro, SMALL | {"context_length": 192, "max_step_tokens": 140}
    if source == "q8_0":
        path = tmp_path / "model.gguf"
        convert(micro, path, to="gguf", dense="q8_0", progress=False)
    else:
        options |= {"dense": "q8"}
    prompt = [(5 * i * i + 3 * i) % 280 for i in range(133)]
    params = gptoss.SamplingParams(max_tokens=4, temperature=0, ignore_eos=True, logprobs=1)
    with gptoss.load(path, device="cuda", **options) as llm:
        assert "int8" in repr(llm)
        found = llm.logits(prompt)
        np.testing.assert_array_equal(llm.logits(prompt, chunk_tokens=37), found)
        alone = llm.generate(prompt, params)
        assert llm.generate([[3], prompt, [4, 5]], params)[1].logprobs == alone.logprobs
    monkeypatch.setenv("GPTOSS_CUDA_GRAPHS", "0")
    with gptoss.load(path, device="cuda", **options | {"max_step_tokens": 9}) as llm:
        assert llm.generate(prompt, params).logprobs == alone.logprobs
    with gptoss.load(path, device="cpu", **options) as cpu:
        expected = cpu.logits(prompt)
    # Weights are the same bit for bit, and inputs rounded to int8 on both sides; the CPU rounds
    # those of the experts to int8 as well.
    bound = INT8_MEDIAN_RELATIVE_L2 + CUDA_MEDIAN_RELATIVE_L2
    assert np.median(relative_l2(found, expected)) <= bound


def test_reference_mode_takes_weights_in_q8_0_as_they_are(micro: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    convert(micro, path, to="gguf", dense="q8_0", progress=False)
    prompt = [3, 5, 250]
    found, expected = (
        gptoss.load(path, device=device, precision="reference", **SMALL).logits(prompt)
        for device in ("cuda", "cpu")
    )
    assert_fp32_tier(found, expected)


def test_int8_is_made_of_finite_weights(micro: Path, tmp_path: Path) -> None:
    path = shutil.copytree(micro, tmp_path / "model")

    def change(name: str, values: npt.NDArray[np.float32]) -> None:
        if name.endswith("k_proj.weight"):
            values[3, 5] = np.nan

    recast(path / "model.safetensors", lambda name: "BF16", change)
    with pytest.raises(CheckpointError, match=r"k_proj\.weight: .* must be finite"):
        gptoss.load(path, device="cuda", dense="q8", **SMALL)


@emulated
def test_graphs_are_used_and_change_no_bit(micro: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The first comes to positions where attention is split.
    prompts = [[(7 * i * i + i) % 280 for i in range(n)] for n in (122, 3)]
    params = gptoss.SamplingParams(
        max_tokens=12, temperature=1.0, seed=3, ignore_eos=True, logprobs=2
    )
    found, launches = [], []
    for most in ("0", "48", "1"):
        monkeypatch.setenv("GPTOSS_CUDA_GRAPHS", most)
        before = graph_launches()
        with gptoss.load(
            micro, device="cuda", context_length=192, max_step_tokens=64, max_sequences=4
        ) as llm:
            results = llm.generate(prompts, params)
            results += [llm.generate(prompts[0], params)]
        found.append([(r.token_ids, r.logprobs) for r in results])
        launches.append(graph_launches() - before)
    assert launches[0] == 0
    assert launches[1] > 10
    assert launches[2] < launches[1]  # shapes take each other's place
    assert found[1] == found[0]
    assert found[2] == found[0]


@emulated
def test_other_libraries_go_on_while_graphs_are_made(llm: LLM) -> None:
    driver, done, failed = Driver(), threading.Event(), []
    driver.free_bytes()

    def work() -> None:
        old, memory = ctypes.c_void_p(), ctypes.c_uint64()
        driver.call("cuCtxPushCurrent_v2", driver.context)
        while not done.is_set():
            try:
                driver.call("cuMemAlloc_v2", ctypes.byref(memory), 4096)
                driver.call("cuMemsetD8_v2", memory, 1, 4096)
                driver.call("cuCtxSynchronize")
                driver.call("cuMemFree_v2", memory)
            except AssertionError as error:
                failed.append(error)
                break
        driver.call("cuCtxPopCurrent_v2", ctypes.byref(old))

    other = threading.Thread(target=work)
    other.start()
    before = graph_launches()
    try:
        params = gptoss.SamplingParams(max_tokens=9, temperature=0, ignore_eos=True)
        found = [llm.generate([[3, n], [5], [6]], params) for n in (4, 5)]
    finally:
        done.set()
        other.join()
    assert not failed
    assert graph_launches() > before
    assert found[0][1].token_ids == found[1][1].token_ids


def test_a_request_gets_the_same_alone_and_beside_others(llm: LLM) -> None:
    prompts = [[5, 9, 11], [100 + i for i in range(20)], [7]]
    params = gptoss.SamplingParams(
        max_tokens=6, temperature=1.0, seed=3, ignore_eos=True, logprobs=2
    )
    alone = [llm.generate(prompt, params) for prompt in prompts]
    together = llm.generate(prompts, params)
    assert [r.token_ids for r in together] == [r.token_ids for r in alone]
    assert [r.logprobs for r in together] == [r.logprobs for r in alone]


def test_samples_as_the_cpu_does(micro: Path) -> None:
    prompt = [3, 5, 3]
    asked: list[dict[str, Any]] = [
        {"temperature": 0.8, "top_p": 0.9, "top_k": 40, "logprobs": 3},
        {"temperature": 1.3, "repetition_penalty": 1.4, "frequency_penalty": 0.3, "min_p": 0.01},
        {"temperature": 0, "logit_bias": {17: 30.0}, "presence_penalty": 2.0},
        {"temperature": 1.0, "allowed_token_ids": [4, 8, 15, 16, 23, 42]},
    ]
    with (
        gptoss.load(micro, device="cuda", precision="reference", **SMALL) as device,
        gptoss.load(micro, device="cpu", precision="reference", **SMALL) as cpu,
    ):
        for params in asked:
            params |= {"max_tokens": 3, "seed": 11, "ignore_eos": True}
            found = device.generate(prompt, **params)
            expected = cpu.generate(prompt, **params)
            assert found.token_ids == expected.token_ids, params
            if "logprobs" in params:
                np.testing.assert_allclose(
                    [entry.logprob for entry in found.logprobs],
                    [entry.logprob for entry in expected.logprobs],
                    rtol=1e-3,
                    atol=1e-4,
                )
        scored = device.generate(prompt, max_tokens=0, prompt_logprobs=0)
        told = cpu.generate(prompt, max_tokens=0, prompt_logprobs=0)
        assert scored.prompt_logprobs is not None
        assert told.prompt_logprobs is not None
        for mine, theirs in zip(scored.prompt_logprobs[1:], told.prompt_logprobs[1:], strict=True):
            assert mine is not None
            assert theirs is not None
            assert mine.logprob == pytest.approx(theirs.logprob, rel=1e-3, abs=1e-4)


def test_what_was_computed_is_used_again(llm: LLM) -> None:
    prompt = [(11 * i + 2) % 280 for i in range(100)]  # two pages, of which one is full
    params = gptoss.SamplingParams(max_tokens=4, temperature=0, ignore_eos=True)
    first = llm.generate(prompt, params)
    again = llm.generate(prompt, params)
    assert again.usage.cached_tokens >= 64
    assert again.token_ids == first.token_ids
    several = llm.generate(prompt, params, n=2)
    assert [sample.token_ids for sample in several.samples] == [first.token_ids] * 2


@pytest.mark.parametrize("temperature", [0, 0.7])
def test_guesses_change_nothing(temperature: float, micro: Path, llm: LLM) -> None:
    prompt = [4] * 12
    params = gptoss.SamplingParams(
        max_tokens=12, temperature=temperature, seed=5, ignore_eos=True, logit_bias={4: 12.0}
    )
    with gptoss.load(micro, device="cuda", speculative="ngram", **SMALL) as guessing:
        found = guessing.generate([prompt, [9, 3, 9, 3]], params)
        assert guessing.stats().accepted_tokens > 0
    expected = [llm.generate(prompt, params) for prompt in (prompt, [9, 3, 9, 3])]
    assert [r.token_ids for r in found] == [r.token_ids for r in expected]


def test_the_demo_answers_a_chat() -> None:
    with gptoss.load("demo", device="cuda", **SMALL) as llm:
        result = llm.chat([{"role": "user", "content": "Hello"}], max_tokens=3)
    assert result.usage.completion_tokens == 3


@emulated
def test_is_a_good_guest_and_gives_everything_back(micro: Path) -> None:
    driver = Driver()
    before = driver.free_bytes()
    assert driver.current() is None
    llm = gptoss.load(micro, device="cuda", **SMALL)
    held = before - driver.free_bytes()
    assert held > 0
    llm.generate([1, 2, 3], max_tokens=2)
    assert driver.current() is None
    assert before - driver.free_bytes() == held  # a step allocates nothing
    llm.close()
    del llm
    assert driver.free_bytes() == before


LOAD = """
import gptoss
try:
    llm = gptoss.load({path!r}, device={device!r}, context_length=256, max_step_tokens=64)
    print(llm)
except (gptoss.BackendError, MemoryError) as error:
    print(type(error).__name__, error)
"""


@emulated
@pytest.mark.parametrize(
    ("devices", "environment", "expected"),
    [
        ("T4", {}, "Emulated T4 has compute capability 7.5; 8.0 or newer is needed"),
        ("A100", {"LD_LIBRARY_PATH": ""}, "no NVIDIA driver"),
        ("A100:memory=64K", {}, "MemoryError"),
    ],
)
def test_says_what_is_missing(
    devices: str, environment: dict[str, str], expected: str, micro: Path
) -> None:
    out = run_elsewhere(LOAD.format(path=str(micro), device="cuda"), devices, **environment)
    assert expected in out


@emulated
def test_takes_the_first_device_that_can_compute(micro: Path) -> None:
    out = run_elsewhere(LOAD.format(path=str(micro), device="cuda"), "T4;RTX 3090")
    assert "cuda, Emulated RTX 3090" in out


@emulated
@pytest.mark.parametrize("devices", ["T4", "A100:memory=64K"])
def test_auto_falls_back_to_the_cpu(devices: str, micro: Path) -> None:
    assert "cpu" in run_elsewhere(LOAD.format(path=str(micro), device="auto"), devices)


ROOMY = 1 << 24  # of KV cache: more than all sequences take
# The driver hands out memory by 512 bytes, and counts so in the plan: for each of some 90 arrays.
GRAIN_BYTES = 90 * 512


@emulated
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"precision": "reference"},
        {"dense": "q8"},
        {"kv_cache_dtype": "int8"},
        {"context_length": 1000, "max_sequences": 1},
        {"context_length": 64, "max_sequences": 9, "max_step_tokens": 300},
    ],
)
def test_a_load_takes_what_is_planned(options: dict[str, Any], micro: Path) -> None:
    modes = SMALL | options
    chunk = modes["max_step_tokens"]
    limits = {name: modes[name] for name in ("context_length", "max_sequences")}
    forms = {n: v for n, v in options.items() if n in ("precision", "dense", "kv_cache_dtype")}
    estimate = gptoss.estimate_memory(micro, device="cuda", chunk_tokens=chunk, **limits, **forms)
    driver = Driver()
    before = driver.free_bytes()
    llm = gptoss.load(micro, device="cuda", kv_cache_memory=ROOMY, **modes)
    held = before - driver.free_bytes()
    stats = llm.stats()
    llm.close()
    groups = (stats.full_pages, stats.window_pages)
    assert sum(group.total * group.page_bytes for group in groups) == estimate.kv_bytes
    assert 0 <= estimate.total_bytes - held < GRAIN_BYTES


REFUSED = """
import ctypes, gptoss
try:
    limits = {{"max_step_tokens": 64, "max_sequences": 4}}
    gptoss.load({path!r}, device="cuda", cpu_experts=0, **limits, {options})
    print("loaded")
except MemoryError as error:
    print(error)
driver = ctypes.CDLL("libcuda.so.1")
driver.emulatorLaunches.restype = ctypes.c_uint64
print(driver.emulatorLaunches())
"""


@emulated
def test_what_cannot_fit_is_refused_before_anything_is_uploaded(micro: Path) -> None:
    def load(nbytes: int, options: str) -> tuple[str, int]:
        code = REFUSED.format(path=str(micro), options=options)
        text, launches = run_elsewhere(code, f"A100:memory={nbytes}").splitlines()
        return text, int(launches)

    def estimate(tokens: int, **modes: Any) -> gptoss.MemoryEstimate:
        return gptoss.estimate_memory(
            micro, tokens, device="cuda", chunk_tokens=64, max_sequences=4, **modes
        )

    # One sequence of 1,024 tokens has room, no page more.
    page = 2 * 2 * 16 * 2 * 64
    needed = estimate(1024).total_bytes - 3 * 16 * page
    memory = needed * 32 // 31 + 64
    assert load(memory, "context_length=1024")[0] == "loaded"
    text, launches = load(memory, "context_length=1536")
    assert f"tokens takes {24 * page / 1e6:.2f} MB of KV cache, and only" in text
    assert f"beside {estimate(1536).workspace_bytes / 1e6:.2f} MB of workspace" in text
    assert f"{estimate(1536).weight_bytes / 1e6:.2f} MB of weights" in text
    assert ": pass a shorter context_length, at most 1024; " in text
    found = re.search(r'with dense="q8" at most (\d+)$', text)
    assert found
    assert 1024 < int(found[1]) <= 1536
    assert launches == 0
    assert load(memory, "context_length=1088")[0] != "loaded"
    assert load(memory, f"context_length={found[1]}, dense='q8'")[0] == "loaded"
    # More KV cache than there is.
    text, launches = load(memory, "context_length=1024, kv_cache_memory=10**7")
    assert "was asked for, and only" in text
    assert "pass a smaller kv_cache_memory" in text
    assert launches == 0


FAULT = """
import ctypes, gptoss
llm = gptoss.load({path!r}, device="cuda", context_length=256, max_step_tokens=64)
llm.generate([1], max_tokens=1)
driver = ctypes.CDLL("libcuda.so.1")
context, module, function = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
assert driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
assert driver.cuCtxPushCurrent_v2(context) == 0
ptx = b".version 8.0\\n.target sm_80\\n.address_size 64\\n.visible .entry bad() {{ trap; }}\\n"
assert driver.cuModuleLoadData(ctypes.byref(module), ptx) == 0
assert driver.cuModuleGetFunction(ctypes.byref(function), module, b"bad") == 0
driver.cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, None, None, None)
assert driver.cuCtxSynchronize() != 0
for _ in range(2):
    try:
        llm.generate([1], max_tokens=1)
        print("no error")
    except gptoss.BackendError as error:
        print(error)
llm.close()
"""


def test_a_device_that_is_lost_is_an_error_each_time(micro: Path) -> None:
    first, second = run_elsewhere(FAULT.format(path=str(micro))).splitlines()
    assert "CUDA_ERROR" in first
    assert second == first


def test_what_is_not_built_is_refused(micro: Path) -> None:
    with pytest.raises(BackendError, match="not built yet"):
        gptoss.load(micro, device="cuda", dense="bf12")
