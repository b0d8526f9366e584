"""Speed of the emulator with all its checks on, one core, on six kernels.

    tools/check_emulator.sh && GPTOSS_EMULATOR_BUILD=build-emulator python bench/bench_emulator.py

A warp instruction of 32 lanes counts as 32 thread instructions. Transfers and the parsing of PTX
are not measured; seconds are those of the processor.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from timing import print_results

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from emulator.device import Buffer, Device, Module, Result, ptx

BF16 = np.dtype(ml_dtypes.bfloat16)
Launch = Callable[..., Result]


def rmsnorm(module: Module) -> Launch:
    """16 rows of 2,880."""
    device, rows, n = module.device, 16, 2880
    rng = np.random.default_rng(0)
    x = device.buffer(rng.standard_normal((rows, n)).astype(np.float32))
    w = device.buffer(rng.standard_normal(n).astype(BF16))
    out = device.empty((rows, n), np.float32)
    return lambda **o: module.launch("rmsnorm", rows, 256, x, w, out, n, 1e-5, **o)


def softmax(module: Module) -> Launch:
    """32 rows of 2,000."""
    device, rows, n = module.device, 32, 2000
    x = device.buffer(np.random.default_rng(0).standard_normal((rows, n)).astype(np.float32))
    out = device.empty((rows, n), np.float32)
    return lambda **o: module.launch("softmax", rows, 128, x, out, n, **o)


def _matrices(device: Device, n: int, by_row: bool) -> tuple[Buffer, Buffer, Buffer]:
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((n, n)).astype(BF16) for _ in range(2))
    return device.buffer(a), device.buffer(b.T if by_row else b), device.empty((n, n), np.float32)


def matmul(module: Module) -> Launch:
    """mma.sync, 256 x 256 x 256 in tiles of 64 x 64."""
    n = 256
    a, b, c = _matrices(module.device, n, True)
    return lambda **o: module.launch("matmul", (n // 64, n // 64), 128, a, b, c, n, n, n, **o)


def triton_matmul(module: Module) -> Launch:
    """Triton's for sm_80, 256 x 256 x 256 in tiles of 64 x 64, three stages."""
    n = 256
    a, b, c = _matrices(module.device, n, False)
    arguments = (a, b, c, n, n, n, n, n, n, 0, 0)
    return lambda **o: module.launch(
        "matmul", (n // 64, n // 64), 128, *arguments, shared=16384, **o
    )


def triton_tma_matmul(module: Module) -> Launch:
    """Triton's for sm_90a, 256 x 256 x 256 in tiles of 128 x 128: tensor copies and wgmma."""
    n, device = 256, module.device
    rng = np.random.default_rng(0)
    a, b = (device.buffer(rng.standard_normal((n, n)).astype(np.float16)) for _ in range(2))
    c = device.empty((n, n), np.float32)
    arguments: list[Any] = []
    for buffer, box in ((a, (128, 64)), (b, (128, 64)), (c, (128, 32))):
        arguments += [buffer.tensor_map(box, 128), n, n, n, 1]
    return lambda **o: module.launch(
        "matmul_tma", (2, 2), 256, *arguments, n, n, n, 0, 0, shared=98328, profile="H100", **o
    )


def triton_attention(module: Module) -> Launch:
    """Triton's, causal, 256 tokens of one head of 64."""
    device, t = module.device, 256
    rng = np.random.default_rng(0)
    q, k, v = (device.buffer(rng.standard_normal((t, 64)).astype(BF16)) for _ in range(3))
    out = device.empty((t, 64), np.float32)
    arguments = (q, k, v, out, t, 0.125, 0, 0)
    return lambda **o: module.launch("attention", t // 64, 128, *arguments, shared=16384, **o)


KERNELS: list[tuple[str, str, Callable[[Module], Launch]]] = [
    ("RMSNorm", "corpus", rmsnorm),
    ("softmax", "corpus", softmax),
    ("matmul, mma.sync and cp.async", "corpus", matmul),
    ("matmul, Triton sm_80", "triton_matmul", triton_matmul),
    ("matmul, Triton sm_90a", "triton_tma_matmul_f16", triton_tma_matmul),
    ("attention, Triton sm_80", "triton_attention", triton_attention),
]


def median_cpu_s(work: Callable[[], Any], rounds: int) -> float:
    """Median seconds of processor time of `work()`: the emulator is one thread."""
    times = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name, file, make in KERNELS:
        launch = make(Device().load(ptx(file)))
        result = launch()
        assert not result.errors, result.reports[0].text
        counters = result.counters
        full_warps = 32 * sum(counters["warp_instructions_by_pipe"].values())
        checked = median_cpu_s(launch, args.rounds)
        plain = median_cpu_s(lambda run=launch: run(races=False, count_memory=False), args.rounds)
        rows.append(
            {
                "kernel": name,
                "thread instructions, M": full_warps / 1e6,
                "checked, ms": checked * 1e3,
                "checked, M/s": full_warps / checked / 1e6,
                "without races and counters, M/s": full_warps / plain / 1e6,
                "multiply-adds, G/s": counters["tensor_multiply_adds"] / checked / 1e9,
            }
        )
    print_results("The emulator on one core, all checks on", rows)


if __name__ == "__main__":
    main()
