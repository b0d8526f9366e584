"""What a hostile user can do, tried over and over: nothing kills, freezes or lies.

Seeded; the counts are printed (with -s). GPTOSS_ATTACK_SHARE is the share of the tries to make:
all of them take about ten minutes on two CPUs, 0.2 takes two.
"""

from __future__ import annotations

import collections
import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gptoss
from gptoss import LLM, BackendError, RopeConfig, SamplingParams, ops

pytestmark = pytest.mark.slow

SHARE = float(os.environ.get("GPTOSS_ATTACK_SHARE", "1"))
TESTS = Path(__file__).parents[1]

Counts = collections.Counter[str]


def some(count: int) -> int:
    """Return the share of so many tries that is to be made."""
    return max(1, round(count * SHARE))


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Iterator[Counts]:
    """Count what comes of the tries, and print it."""
    counts: Counts = collections.Counter()
    yield counts
    print(f"\n{request.node.name}: {sum(counts.values())} tries: {dict(sorted(counts.items()))}")


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with gptoss.load("demo", threads=2, context_length=2048) as model:
        yield model


def start(*command: object, **more: Any) -> subprocess.Popen[str]:
    path = os.pathsep.join(
        [str(TESTS), str(TESTS.parent / "bench"), os.environ.get("PYTHONPATH", "")]
    )
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("mutations", 1500),
        ("weights", 500),
        ("file_changes", 60),
        ("memory", 100),
        ("interrupts", 250),
        ("forks", 100),
    ],
)
def test_in_a_process_of_its_own(name: str, count: int, report: Counts) -> None:
    process = start("-m", "support.attacks", name, 1, some(count))
    try:
        out, err = process.communicate(timeout=600)
    finally:
        process.kill()
    assert process.returncode == 0, err[-3000:]
    report.update(json.loads(out))
    assert sum(report.values()) == some(count)


# -- values and fields -------------------------------------------------------------------------

VALUES: list[Any] = [
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        2,
        7,
        20,
        128,
        2**31 - 1,
        2**31,
        2**63,
        2**64,
        10**400,
        -(10**400),
    ),
    *(0.0, -0.0, 0.5, 1.0, -1.0, 1e-45, 1e-38, 3.4e38, 1e39, 1e308, float("inf"), float("-inf")),
    *(float("nan"), 1j, "", "a", "1", "auto", "\ud83d", "\x00", b"", b"a", "x" * 100_000),
    *((), [], {}, set(), [1], [-1], [2**40], ["a"], [""], [None], {1: 1.0}, {"1": -100}, {-1: 1.0}),
    *({1: float("nan")}, {10**9: 1.0}, object(), int, range(3), np.int64(3), np.float32(0.5)),
    *(np.array([1, 2]), np.float64("nan"), lambda: 1, Path("x")),
]
REFUSED = (ValueError, TypeError)


def fields() -> list[str]:
    return list(SamplingParams.__dataclass_fields__)


def test_values_of_sampling_parameters(llm: LLM, report: Counts) -> None:
    for name in fields():
        for value in VALUES:
            try:
                params = SamplingParams(**{name: value})
            except REFUSED as error:
                check_message(error)
                report["refused"] += 1
                continue
            assert params.n <= 128, value
            try:
                result = llm.generate(
                    "Hello", params, **({} if name == "max_tokens" else {"max_tokens": 3})
                )
                check_result(result, llm)
                report["runs"] += 1
            except REFUSED as error:  # as what a constraint's function makes is no constraint
                check_message(error)
                report["refused by the engine"] += 1


def test_random_sampling_parameters(llm: LLM, report: Counts) -> None:
    rng = random.Random(2)
    for seed in range(some(600)):
        draw: dict[str, Any] = {
            "temperature": rng.choice((0.0, 1e-30, 0.7, 1.0, 5.0, 3.4e38)),
            "top_p": rng.choice((1.0, 0.9, 1e-12)),
            "top_k": rng.choice((0, 1, 5, 2**31 - 1)),
            "min_p": rng.choice((0.0, 0.1, 1.0)),
            "repetition_penalty": rng.choice((1.0, 1.3, 0.5, 1e-3, 1e3)),
            "presence_penalty": rng.choice((0.0, -2.0, 2.0)),
            "frequency_penalty": rng.choice((0.0, -2.0, 2.0)),
            "logit_bias": rng.choice(
                ({}, {5: 100.0}, {5: -3.4e38}, dict.fromkeys(range(300), -100.0))
            ),
            "logprobs": rng.choice((None, 0, 3, 20)),
            "n": rng.choice((1, 1, 1, 3)),
            "max_tokens": 3,
            "seed": seed,
        }
        check_result(llm.generate("Hello", **draw), llm)
        report["runs"] += 1


def check_message(error: Exception) -> None:
    assert str(error)


def check_result(result: gptoss.GenerationResult, llm: LLM) -> None:
    for sample in result.samples:
        assert all(0 <= token < llm.config.vocab_size for token in sample.token_ids)
        for entry in sample.logprobs or ():
            assert entry.logprob <= 1e-6  # false for NaN


LOAD_FIELDS = (
    *("path_or_repo", "device", "threads", "precision", "dense", "context_length", "revision"),
    *("experts", "kv_cache_memory", "kv_cache_dtype", "speculative", "dtype"),
)
LOAD_ERRORS = (ValueError, TypeError, BackendError, MemoryError)


def test_values_of_load(report: Counts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in LOAD_FIELDS:
        for value in VALUES:
            arguments = {
                "path_or_repo": "demo",
                "local_files_only": True,
                "threads": 1,
                name: value,
            }
            try:
                with gptoss.load(**arguments) as llm:
                    llm.generate("a", max_tokens=1)
                report["runs"] += 1
            except LOAD_ERRORS as error:
                check_message(error)
                report[type(error).__name__] += 1


def calls_of_ops(rng: np.random.Generator) -> dict[str, dict[str, Any]]:
    """Arguments that each op takes."""
    x = rng.standard_normal((2, 64)).astype(np.float32)
    bits = rng.integers(0, 0x7000, (3, 64)).astype(np.uint16)
    blocks = rng.integers(0, 255, (3, 2, 16)).astype(np.uint8)
    scales = rng.integers(100, 130, (3, 2)).astype(np.uint8)
    codes, code_scales = ops.q8_encode(bits)
    rows, escapes = ops.bf12_encode(bits)
    bias = np.ones(3, np.float32)
    heads = rng.standard_normal((2, 4, 32)).astype(np.float32)
    keys = rng.standard_normal((5, 2, 32)).astype(np.float32)
    experts = np.array([[0, 1], [1, 2]], np.int32)
    return {
        "banded_attention": {"q": heads, "k": keys, "v": keys, "sinks": np.zeros(4, np.float32)},
        "bf12_encode": {"w": bits},
        "bf12_matmul": {"x": x, "rows": rows, "escapes": escapes, "bias": bias},
        "dense_matmul": {"x": x, "w": bits, "bias": bias, "fast": True},
        "expert_gather": {"x": x, "experts": experts, "n_experts": 3},
        "mxfp4_dequantize": {"blocks": blocks, "scales": scales},
        "mxfp4_matmul": {"x": x, "blocks": blocks, "scales": scales, "bias": bias},
        "mxfp4_quantize": {"x": x},
        "q8_encode": {"w": bits},
        "q8_matmul": {"x": x, "codes": codes, "scales": code_scales, "bias": bias},
        "rms_norm": {"x": x, "weight": x[0].copy(), "eps": 1e-5},
        "rope": {"x": heads, "positions": np.arange(2, dtype=np.int32), "config": RopeConfig(1e4)},
        "route_topk": {"logits": x, "top_k": 2},
        "swiglu": {"gate_up": x, "limit": 7.0},
    }


def changed(value: Any, pick: random.Random) -> Any:
    """Return something like an argument, or nothing like it."""
    if not isinstance(value, np.ndarray) or pick.random() < 0.3:
        return pick.choice(VALUES)
    how = pick.randrange(7)
    if how == 0:
        with np.errstate(all="ignore"):
            return value.astype(pick.choice((np.float16, np.float32, np.float64, np.int8)))
    if how == 1:
        return value[..., ::2]
    if how == 2:
        return value.T
    if how == 3:
        return value[None]
    if how == 4:
        return value[:0]
    if how == 5:
        return np.concatenate([value, value])
    other = value.copy()
    extremes: tuple[float, ...] = (np.nan, np.inf, 3e38)
    if other.dtype.kind != "f":
        extremes = (np.iinfo(other.dtype).min, np.iinfo(other.dtype).max)
    if other.size:
        other.reshape(-1)[pick.randrange(other.size)] = pick.choice(extremes)
    return other


def test_values_of_ops(report: Counts) -> None:
    calls = calls_of_ops(np.random.default_rng(3))
    assert sorted(calls) == sorted(ops.__all__)
    for name, arguments in calls.items():
        getattr(ops, name)(**arguments)
    pick = random.Random(3)
    for _ in range(some(40_000)):
        name = pick.choice(ops.__all__)
        arguments = dict(calls[name])
        for argument in pick.sample(sorted(arguments), pick.randrange(1, len(arguments) + 1)):
            arguments[argument] = changed(arguments[argument], pick)
        try:
            getattr(ops, name)(**arguments)
            report["runs"] += 1
        except (*REFUSED, BackendError) as error:
            check_message(error)
            report["refused"] += 1


# -- limits and signals ------------------------------------------------------------------------


def test_memory_limits(report: Counts) -> None:
    """Below 250 MB the library `tokenizers` aborts."""
    script = (
        "import sys, gptoss\n"
        "try:\n"
        "    llm = gptoss.load('demo', threads=int(sys.argv[1]))\n"
        "    print(len(llm.generate('a', max_tokens=3).token_ids))\n"
        "except (MemoryError, RuntimeError) as error: print(type(error).__name__)\n"
        "except (ImportError, OSError) as error: print('import')\n"
    )
    rng = random.Random(4)
    for _ in range(some(40)):
        megabytes = rng.choice((300, 400, 500, 700, 1000, 2000, 4000))
        threads = rng.choice((1, 2, 64, 512, 1024))

        def limit(nbytes: int = megabytes * 1_000_000) -> None:
            resource.setrlimit(resource.RLIMIT_AS, (nbytes, nbytes))

        process = start("-c", script, threads, preexec_fn=limit)
        out, err = process.communicate(timeout=120)
        # Importing may fail, too, with the words of whatever asked for memory.
        failed = process.returncode == 1 and "emory" in err + out
        assert process.returncode == 0 or failed, (megabytes, threads, err[-2000:])
        report["import" if failed else "runs" if out[0].isdigit() else out.split()[0]] += 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_to_a_busy_process(number: signal.Signals, report: Counts) -> None:
    script = (
        "import signal, gptoss\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # which nohup has its children ignore
        "llm = gptoss.load('demo', threads=2)\n"
        "others = [llm.submit('a', max_tokens=3000, ignore_eos=True) for _ in range(4)]\n"
        "print('busy', flush=True)\n"
        "while True: llm.generate('a', max_tokens=3000, ignore_eos=True)\n"
    )
    rng = random.Random(5)
    for _ in range(some(5)):
        process = start("-c", script)
        assert process.stdout is not None
        assert process.stdout.readline() == "busy\n"
        time.sleep(rng.uniform(0, 0.3))
        begin = time.monotonic()
        process.send_signal(number)
        process.communicate(timeout=60)
        assert time.monotonic() - begin < 10
        assert process.returncode == -number
        report["ended"] += 1


def test_many_threads_and_a_model_that_is_closed(report: Counts) -> None:
    rng = random.Random(6)
    for round_ in range(some(6)):
        llm = gptoss.load("demo", threads=2, speculative="ngram" if round_ % 2 else None)
        unexpected: list[BaseException] = []

        def work(seed: int, llm: LLM = llm, unexpected: list[BaseException] = unexpected) -> None:
            own = random.Random(seed)
            for _ in range(8):
                try:
                    choice = own.randrange(4)
                    if choice == 0:
                        llm.generate("Hello", max_tokens=own.randrange(1, 30))
                    elif choice == 1:
                        for _ in llm.stream("Hello", max_tokens=own.randrange(1, 30)):
                            if own.random() < 0.05:
                                break
                    elif choice == 2:
                        llm.logits([1, 2, 3])
                    else:
                        llm.submit("Hello", max_tokens=3000, ignore_eos=True).cancel()
                    report["runs"] += 1
                except RuntimeError as error:
                    if "the model is closed" not in str(error):
                        unexpected.append(error)
                    report["closed"] += 1
                except BaseException as error:
                    unexpected.append(error)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(30)]
        for thread in threads:
            thread.start()
        time.sleep(rng.uniform(0.1, 1.5))
        closers = [threading.Thread(target=llm.close) for _ in range(4)]
        for thread in closers:
            thread.start()
        for thread in [*closers, *threads]:
            thread.join(timeout=60)
            assert not thread.is_alive()
        assert not unexpected
