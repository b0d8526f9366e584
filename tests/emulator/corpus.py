"""Kernels with inputs, references in float64 and tolerances, for every test that runs them.

Each entry of `CASES` runs one kernel of data/corpus.ptx (nvcc) or data/triton_*.ptx on a fresh
device, on any text of the module: the original, or one with a fault planted in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from emulator.device import Buffer, Call, Device, Module, Result, launch_chain

Array = np.ndarray[Any, Any]
BF16 = np.dtype(ml_dtypes.bfloat16)


@dataclass
class Outcome:
    """A launch and how far its result is from the reference, in units of the tolerance."""

    result: Result
    error: float

    @property
    def is_right(self) -> bool:
        """Whether the numbers are within the tolerance."""
        return self.error <= 1


def _distance(got: Array, want: Array, tolerance: float | Array) -> float:
    if not np.isfinite(got.astype(np.float64)).all():
        return float("inf")
    gap = np.abs(got.astype(np.float64) - want.astype(np.float64))
    return float((gap / np.maximum(tolerance, 1e-300)).max())


def _exact(got: Array, want: Array) -> float:
    return 0.0 if np.array_equal(got, want) else float("inf")


def _rng() -> np.random.Generator:
    return np.random.default_rng(7)


def rmsnorm(module: Module, **options: Any) -> Outcome:
    """RMSNorm of an odd width; the sum of n squares is in error by at most n eps of itself."""
    device, rng = module.device, _rng()
    rows, n, eps = 3, 777, 1e-5
    x = rng.standard_normal((rows, n)).astype(np.float32)
    w = rng.standard_normal(n).astype(BF16)
    out = device.empty((rows, n), np.float32, "out")
    result = module.launch(
        "rmsnorm", rows, 256, device.buffer(x, "x"), device.buffer(w, "w"), out, n, eps, **options
    )
    x64 = x.astype(np.float64)
    want = x64 / np.sqrt((x64 * x64).mean(1, keepdims=True) + eps) * w.astype(np.float64)
    return Outcome(result, _distance(out.numpy(), want, 1e-6 * np.abs(want).max()))


def softmax(module: Module, **options: Any) -> Outcome:
    """Softmax with the fast exponential: ex2 of a product rounded in f32."""
    device, rng = module.device, _rng()
    rows, n = 3, 333
    x = rng.standard_normal((rows, n)).astype(np.float32)
    out = device.empty((rows, n), np.float32, "out")
    result = module.launch("softmax", rows, 128, device.buffer(x, "x"), out, n, **options)
    e = np.exp(x.astype(np.float64) - x.max(1, keepdims=True))
    return Outcome(result, _distance(out.numpy(), e / e.sum(1, keepdims=True), 1e-7))


def _product(a: Array, b: Array) -> tuple[Array, Array]:
    """Return a @ b in float64 and the bound of f32 accumulation: K eps sum |a b|."""
    a64, b64 = a.astype(np.float64), b.astype(np.float64)
    return a64 @ b64, np.abs(a64) @ np.abs(b64) * (a.shape[1] * 2.0**-23)


def matmul(module: Module, **options: Any) -> Outcome:
    """bf16 matmul with edges in all dimensions."""
    device, rng = module.device, _rng()
    m, n, k = 100, 72, 168
    a = rng.standard_normal((m, k)).astype(BF16)
    b = rng.standard_normal((n, k)).astype(BF16)
    out = device.empty((m, n), np.float32, "C")
    result = module.launch(
        "matmul", (2, 2), 128, device.buffer(a, "A"), device.buffer(b, "B"), out, m, n, k, **options
    )
    want, bound = _product(a, b.T)
    return Outcome(result, _distance(out.numpy(), want, bound))


def transpose(module: Module, **options: Any) -> Outcome:
    """Transpose of 64 x 96."""
    device = module.device
    x = np.arange(64 * 96, dtype=np.float32).reshape(64, 96)
    out = device.empty((96, 64), np.float32, "out")
    result = module.launch("transpose", (3, 2), (32, 8), device.buffer(x), out, 64, 96, **options)
    return Outcome(result, _exact(out.numpy(), x.T))


def scan(module: Module, **options: Any) -> Outcome:
    """Inclusive scans of 256 integers."""
    device = module.device
    x = _rng().integers(-100, 100, (3, 256), dtype=np.int32)
    out = device.empty(x.shape, np.int32, "out")
    result = module.launch("scan", 3, 256, device.buffer(x), out, **options)
    return Outcome(result, _exact(out.numpy(), np.cumsum(x, 1, dtype=np.int32)))


def reduce_last_block(module: Module, **options: Any) -> Outcome:
    """Sum over blocks by the last one to finish; integers in f32, so exact."""
    device = module.device
    x = _rng().integers(-8, 8, 3000).astype(np.float32)
    out = device.empty(1, np.float32, "out")
    result = module.launch(
        "reduce_last_block", 6, 128, device.buffer(x, "x"), device.empty(6, np.float32, "part"),
        device.buffer(np.zeros(1, np.uint32), "counter"), out, x.size, **options,
    )  # fmt: skip
    return Outcome(result, _exact(out.numpy(), x.sum(keepdims=True)))


def chain(module: Module, **options: Any) -> Outcome:
    """Blocks that wait for each other by flags."""
    device = module.device
    x = _rng().integers(-100, 100, (5, 64), dtype=np.int32)
    out = device.empty(x.shape, np.int32, "out")
    result = module.launch(
        "chain", 5, 64, device.buffer(x, "x"), device.empty(x.size, np.int32, "tile"),
        device.buffer(np.zeros(5, np.uint32), "flag"), out, **options,
    )  # fmt: skip
    return Outcome(result, _exact(out.numpy(), np.cumsum(x, 0, dtype=np.int32)))


def grid_phases(module: Module, **options: Any) -> Outcome:
    """A grid barrier of cooperative groups."""
    device = module.device
    x = _rng().integers(-100, 100, 300, dtype=np.int32)
    out = device.empty(300, np.int32, "out")
    result = module.launch(
        "grid_phases", 5, 64, device.buffer(x, "x"), device.empty(300, np.int32, "middle"), out,
        300,
        cooperative=True, **options,
    )  # fmt: skip
    return Outcome(result, _exact(out.numpy(), 2 * x[::-1] + 1))


def tile_sums(module: Module, **options: Any) -> Outcome:
    """Sums over tiles of 8 lanes, then atomics."""
    device = module.device
    x = _rng().integers(-100, 100, 500, dtype=np.int32)
    out = device.buffer(np.zeros(1, np.int32), "out")
    result = module.launch("tile_sums", 6, 96, device.buffer(x, "x"), out, 500, **options)
    return Outcome(result, _exact(out.numpy(), x.sum(keepdims=True, dtype=np.int32)))


def histogram(module: Module, **options: Any) -> Outcome:
    """Shared and global atomics."""
    device = module.device
    x = _rng().integers(0, 256, 2000, dtype=np.uint8)
    out = device.buffer(np.zeros(256, np.uint32), "out")
    result = module.launch("histogram", 3, 128, device.buffer(x, "x"), out, x.size, **options)
    return Outcome(result, _exact(out.numpy(), np.bincount(x, minlength=256)))


def named_barriers(module: Module, **options: Any) -> Outcome:
    """Producer and consumer warps."""
    device = module.device
    x = _rng().integers(-100, 100, (6, 32), dtype=np.int32)
    out = device.empty(x.shape, np.int32, "out")
    result = module.launch("named_barriers", 1, 64, device.buffer(x, "x"), out, 6, **options)
    return Outcome(result, _exact(out.numpy(), 3 * x[:, ::-1]))


def async_sizes(module: Module, **options: Any) -> Outcome:
    """cp.async of every size."""
    device = module.device
    x = _rng().integers(-100, 100, 224, dtype=np.int32)
    out = device.empty(224, np.int32, "out")
    result = module.launch("async_sizes", 1, 32, device.buffer(x, "x"), out, **options)
    return Outcome(result, _exact(out.numpy(), x[::-1]))


def mixed(module: Module, **options: Any) -> Outcome:
    """Doubles, divisions, local memory and loops of different lengths."""
    device, rng = module.device, _rng()
    n = 150
    x, k = rng.standard_normal(n), rng.integers(-100, 100, n, dtype=np.int32)
    out = device.empty(n, np.float64, "out")
    result = module.launch("mixed", 3, 64, device.buffer(x), out, device.buffer(k), n, **options)
    want = np.empty(n)
    for i in range(n):
        step = int(np.fmod(k[i], 7)) + 7
        v, history = x[i], np.zeros(8)
        for j in range(8):
            v = v * 1.0001 + np.sqrt(abs(v)) / (j + 1)
            history[(j * step) & 7] = v
        want[i] = sum(history[(step * j) & 7] for j in range(k[i] & 7))
        want[i] += int(k[i] / 3) + np.fmod(k[i], 5)
    return Outcome(result, _distance(out.numpy(), want, 1e-13 * np.abs(want).max()))


def calls(module: Module, **options: Any) -> Outcome:
    """A function that is not inlined, printf and a passing assert."""
    device = module.device
    x = np.linspace(-1, 1, 50, dtype=np.float32)
    out = device.empty(50, np.float32, "out")
    result = module.launch("calls", 1, 64, device.buffer(x), out, 50, **options)
    want = np.ones(50)
    for i in range(50):
        for _ in range(i % 4):
            want[i] = want[i] * np.float64(x[i]) + 1
    right = result.output == f"lane 3 has {x[3]:5.2f} and text, 100%\n"
    return Outcome(result, _distance(out.numpy(), want, 1e-6) if right else float("inf"))


FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


def fp4_table(module: Module, **options: Any) -> Outcome:
    """Constant memory with dynamic indices, a counter in a global variable."""
    device = module.device
    codes = _rng().integers(0, 256, 200, dtype=np.uint8)
    out = device.empty((200, 2), BF16, "out")
    result = module.launch("fp4_table", 2, 128, device.buffer(codes), out, 200, **options)
    want = np.stack([FP4[codes & 15], FP4[codes >> 4]], 1)
    got = out.numpy().astype(np.float64)
    same = np.array_equal(got, want) and np.array_equal(np.signbit(got), np.signbit(want))
    blocks = module.variable("launches", 1, np.uint32).numpy()[0]
    return Outcome(result, 0.0 if same and blocks == 2 else float("inf"))


def half_ops(module: Module, **options: Any) -> Outcome:
    """half2 arithmetic, each operation rounded to f16."""
    device, rng = module.device, _rng()
    x, y = (rng.standard_normal((70, 2)).astype(np.float16) for _ in range(2))
    out = device.empty((70, 2), np.float16, "out")
    result = module.launch(
        "half_ops", 1, 96, device.buffer(x), device.buffer(y), out, 70, **options
    )
    x64, y64 = x.astype(np.float64), y.astype(np.float64)
    want = np.maximum(x64 * y64 + x64 * x64, y64) + 1 / (np.abs(y64) + 1)
    return Outcome(result, _distance(out.numpy(), want, 6 * 2.0**-11 * (np.abs(want) + 1)))


def locked(module: Module, **options: Any) -> Outcome:
    """A mutex between warps of several blocks."""
    device = module.device
    total = device.buffer(np.zeros(1, np.int32), "sum")
    lock = device.buffer(np.zeros(1, np.int32), "lock")
    result = module.launch("locked", 3, 96, lock, total, **options)
    return Outcome(result, _exact(total.numpy(), np.array([9], np.int32)))


def votes(module: Module, **options: Any) -> Outcome:
    """Matches, ballots, votes and reductions of one warp."""
    device = module.device
    x = _rng().integers(-5, 12, 32, dtype=np.int32)
    x[3] = 7
    out = device.empty((32, 4), np.uint32, "out")
    result = module.launch("votes", 1, 32, device.buffer(x), out, **options)
    want = np.zeros((32, 4), np.int64)
    for t in range(32):
        same = [j for j in range(32) if (x[j] & 3) == (x[t] & 3)]
        want[t, 0] = sum(1 << j for j in same)
        whole = len(set((x >> 8).tolist())) == 1
        want[t, 1] = (0xFFFFFFFF if whole else 0) | int(whole)
        want[t, 2] = sum(1 << j for j in range(32) if x[j] > 0)
        want[t, 3] = int(x.sum()) + int(x[same].max()) + 2 + 1
    return Outcome(result, _exact(out.numpy(), (want & 0xFFFFFFFF).astype(np.uint32)))


def block_votes(module: Module, **options: Any) -> Outcome:
    """__syncthreads_count, _and and _or."""
    device = module.device
    x = _rng().integers(-40, 90, 96, dtype=np.int32)
    out = device.empty(96, np.int32, "out")
    result = module.launch("block_votes", 1, 96, device.buffer(x), out, **options)
    return Outcome(result, _exact(out.numpy(), np.full(96, 4 * int((x > 0).sum()) + 2, np.int32)))


# ---- compute capability 9.0 ----


def bulk_double(module: Module, **options: Any) -> Outcome:
    """Tiles in and out by bulk copies."""
    device = module.device
    x = _rng().integers(-100, 100, 3 * 128, dtype=np.int32)
    out = device.empty(x.shape, np.int32, "out")
    result = module.launch("bulk_double", 3, 128, device.buffer(x, "x"), out, **options)
    return Outcome(result, _exact(out.numpy(), 2 * x))


def bulk_pipeline(module: Module, **options: Any) -> Outcome:
    """A producer warp and consumers, with full and empty mbarriers over three stages."""
    device = module.device
    x = _rng().integers(-100, 100, (11, 64), dtype=np.int32)
    out = device.empty(x.shape, np.int32, "out")
    result = module.launch("bulk_pipeline", 1, 96, device.buffer(x, "x"), out, 11, **options)
    return Outcome(result, _exact(out.numpy(), x[:, ::-1]))


def copies_arrive(module: Module, **options: Any) -> Outcome:
    """cp.async that arrives at mbarriers, bulk stores two groups at a time."""
    device = module.device
    x = _rng().integers(-100, 100, (7, 32), dtype=np.int32)
    out = device.empty(x.shape, np.int32, "out")
    result = module.launch("copies_arrive", 1, 32, device.buffer(x, "x"), out, 7, **options)
    return Outcome(result, _exact(out.numpy(), x[:, ::-1] + 1))


def split_barrier(module: Module, **options: Any) -> Outcome:
    """Sums behind an mbarrier that is waited for by state."""
    device = module.device
    x = _rng().integers(-100, 100, (2, 64), dtype=np.int32)
    out = device.empty(x.shape, np.int32, "out")
    result = module.launch("split_barrier", 2, 64, device.buffer(x, "x"), out, **options)
    want = np.repeat(x.sum(1, dtype=np.int32, keepdims=True), 64, 1)
    return Outcome(result, _exact(out.numpy(), want))


def matmul_tf32(module: Module, **options: Any) -> Outcome:
    """wgmma of f32 rounded to tf32: products are in error by 2^-11 twice."""
    device, rng = module.device, _rng()
    m, n, k = 80, 40, 144
    a, b = (rng.standard_normal((rows, k)).astype(np.float32) for rows in (m, n))
    out = device.empty((m, n), np.float32, "C")
    result = module.launch(
        "matmul_tf32", (-(-m // 64), -(-n // 32)), 160,
        device.buffer(a, "A").tensor_map((64, 32), 128),
        device.buffer(b, "B").tensor_map((32, 32), 128), out, m, n, k,
        shared=2 * 96 * 32 * 4, profile="H100", **options,
    )  # fmt: skip
    want, bound = _product(a, b.T)
    return Outcome(result, _distance(out.numpy(), want, bound * (2.0**13 / k)))


def dependent_step(module: Module, **options: Any) -> Outcome:
    """Four launches of which each depends on the one before; the last one's reports count."""
    device = module.device
    x, w = (_rng().integers(-100, 100, 160, dtype=np.int32) for _ in range(2))
    weights = device.buffer(w, "weights")
    steps = [device.buffer(x, "x")] + [device.empty(160, np.int32, f"y{i}") for i in range(4)]
    calls = [
        Call(module, "dependent_step", 5, 32, [steps[i], weights, steps[i + 1]], i > 0)
        for i in range(4)
    ]
    results = launch_chain(calls, **options)
    reports = [r for result in results for r in result.reports]
    counters = results[-1].counters
    result = Result(next((r.fault for r in results if r.fault != "none"), "none"), reports,
                    counters, "")  # fmt: skip
    return Outcome(result, _exact(steps[4].numpy(), x + 4 * w))


# ---- clusters ----


def _cluster(module: Module, kernel: str, *arguments: Any, **options: Any) -> Result:
    return module.launch(kernel, *arguments, profile="H100", **options)


def cluster_histogram(module: Module, **options: Any) -> Outcome:
    """Atomics on the shared memory of three blocks, of which two clusters run."""
    device, bins, size = module.device, 40, 3
    x = _rng().integers(0, bins * size, 1000, dtype=np.int32)
    out = device.buffer(np.zeros(bins * size, np.int32), "out")
    result = _cluster(
        module, "cluster_histogram", 6, 64, device.buffer(x, "x"), out, x.size, bins,
        shared=4 * bins, cluster=size, **options,
    )  # fmt: skip
    return Outcome(result, _exact(out.numpy(), np.bincount(x, minlength=bins * size)))


def cluster_sum(module: Module, **options: Any) -> Outcome:
    """Parts of a sum stored into the shared memory of four blocks; integers, so exact."""
    device = module.device
    x = _rng().integers(-8, 8, (3, 700)).astype(np.float32)
    out = device.empty((3, 4, 2), np.float32, "out")
    result = _cluster(
        module, "cluster_sum", (4, 3), 128, device.buffer(x, "x"), out, x.shape[1], **options
    )
    want = np.stack([np.repeat(x.sum(1)[:, None], 4, 1), np.tile(np.arange(4.0), (3, 1))], 2)
    return Outcome(result, _exact(out.numpy(), want.astype(np.float32)))


def cluster_ring(module: Module, **options: Any) -> Outcome:
    """A row handed from block to block with stores and arrivals, turned round at each step."""
    device, size = module.device, 5
    x = _rng().integers(-99, 99, (size, 64), dtype=np.int32)
    out = device.empty(x.shape, np.int32, "out")
    result = _cluster(
        module, "cluster_ring", size, 64, device.buffer(x, "x"), out, cluster=size, **options
    )
    want = [x[0]]
    for row in x[1:]:
        want.append(row + want[-1][::-1])
    return Outcome(result, _exact(out.numpy(), np.stack(want)))


def cluster_multicast(module: Module, **options: Any) -> Outcome:
    """One block's bulk copies to three, which tell it when a stage is free."""
    device, size, tiles = module.device, 3, 7
    x = _rng().integers(-99, 99, tiles * 128, dtype=np.int32)
    out = device.empty((size, tiles * 128), np.int32, "out")
    result = _cluster(
        module, "cluster_multicast", size, 160, device.buffer(x, "x"), out, tiles, cluster=size,
        **options,
    )  # fmt: skip
    return Outcome(result, _exact(out.numpy(), x + np.arange(size, dtype=np.int32)[:, None]))


def cluster_copy(module: Module, **options: Any) -> Outcome:
    """Bulk copies from shared memory to that of the next block."""
    device, size = module.device, 4
    x = _rng().integers(-99, 99, (size, 128), dtype=np.int32)
    out = device.empty(x.shape, np.int32, "out")
    result = _cluster(
        module, "cluster_copy", size, 128, device.buffer(x, "x"), out, cluster=size, **options
    )
    return Outcome(result, _exact(out.numpy(), 2 * np.roll(x, 1, 0)))


def specialised(module: Module, **options: Any) -> Outcome:
    """A warpgroup that copies hands registers to one that computes."""
    device, tiles = module.device, 11
    x = _rng().integers(-99, 99, tiles * 128, dtype=np.int32)
    out = device.empty(x.shape, np.int32, "out")
    result = _cluster(module, "specialised", 1, 256, device.buffer(x, "x"), out, tiles, **options)
    return Outcome(result, _exact(out.numpy(), x * x))


# ---- Triton ----


def _scratch(device: Device) -> tuple[int, int]:
    """Return the pointers to scratch memory that Triton's kernels take last; none is used."""
    return 0, 0


def _triton_product(module: Module, a: Array, b: Array, tile: tuple[int, int], threads: int,
                    shared: int, factor: float, **options: Any) -> Outcome:  # fmt: skip
    device = module.device
    (m, k), n = a.shape, b.shape[1]
    out = device.empty((m, n), np.float32, "C")
    grid = (-(-m // tile[0]), -(-n // tile[1]))
    result = module.launch(
        "matmul", grid, threads, device.buffer(a, "A"), device.buffer(b, "B"), out, m, n, k,
        k, n, n,
        *_scratch(device), shared=shared, **options,
    )  # fmt: skip
    want, bound = _product(a, b)
    return Outcome(result, _distance(out.numpy(), want, bound * factor))


def triton_matmul(module: Module, **options: Any) -> Outcome:
    """bf16, 64 x 64 x 32, three stages."""
    rng = _rng()
    a, b = (rng.standard_normal(s).astype(BF16) for s in ((96, 160), (160, 112)))
    return _triton_product(module, a, b, (64, 64), 128, 16384, 1, **options)


def triton_matmul_f16(module: Module, **options: Any) -> Outcome:
    """f16, 128 x 32 x 32, eight warps."""
    rng = _rng()
    a, b = (rng.standard_normal(s).astype(np.float16) for s in ((144, 96), (96, 48)))
    return _triton_product(module, a, b, (128, 32), 256, 16384, 1, **options)


def triton_matmul_tf32(module: Module, **options: Any) -> Outcome:
    """f32 inputs as tf32: each is in error by 2^-11, so products by 2^-10."""
    rng = _rng()
    a, b = (rng.standard_normal(s).astype(np.float32) for s in ((48, 64), (64, 48)))
    return _triton_product(module, a, b, (32, 32), 128, 8192, 2.0**13 / 64, **options)


def triton_hopper_matmul(module: Module, **options: Any) -> Outcome:
    """cp.async and wgmma, 64 x 64 x 64."""
    rng = _rng()
    a, b = (rng.standard_normal(s).astype(BF16) for s in ((96, 160), (160, 112)))
    return _triton_product(module, a, b, (64, 64), 128, 49152, 1, profile="H100", **options)


def _tma_product(module: Module, kind: Any, tile: tuple[int, int, int], swizzle: int,
                 threads: int, shared: int, profile: str = "H100", k: int = 320,
                 **options: Any) -> Outcome:  # fmt: skip
    device, rng = module.device, _rng()
    m, n = 144, 112
    bm, bn, bk = tile
    a, b = rng.standard_normal((m, k)).astype(kind), rng.standard_normal((n, k)).astype(kind)
    out = device.empty((m, n), np.float32, "C")

    def described(buffer: Buffer, box: tuple[int, int], width: int) -> list[Any]:
        rows, columns = buffer.shape
        return [buffer.tensor_map(box, width), rows, columns, columns, 1]

    arguments = [
        *described(device.buffer(a, "A"), (bm, bk), swizzle),
        *described(device.buffer(b, "B"), (bn, bk), swizzle),
        *described(out, (bm, 32), 128),
    ]
    result = module.launch(
        "matmul_tma", (-(-m // bm), -(-n // bn)), threads, *arguments, m, n, k,
        *_scratch(device), shared=shared, profile=profile, **options,
    )  # fmt: skip
    want, bound = _product(a, b.T)
    return Outcome(result, _distance(out.numpy(), want, bound))


def triton_tma_matmul(module: Module, **options: Any) -> Outcome:
    """Tensor copies, mbarriers and wgmma, swizzled by 128 bytes."""
    return _tma_product(module, BF16, (64, 64, 64), 128, 128, 49176, **options)


def triton_tma_matmul_64(module: Module, **options: Any) -> Outcome:
    """Swizzled by 64 bytes, four stages."""
    return _tma_product(module, BF16, (64, 64, 32), 64, 128, 32800, **options)


def triton_tma_matmul_32(module: Module, **options: Any) -> Outcome:
    """Swizzled by 32 bytes."""
    return _tma_product(module, BF16, (64, 32, 16), 32, 128, 9240, **options)


def triton_tma_matmul_f16(module: Module, **options: Any) -> Outcome:
    """f16, two warpgroups; the last step is in the first of three stages, where results go, too."""
    return _tma_product(module, np.float16, (128, 128, 64), 128, 256, 98328, k=256, **options)


def triton_hopper_attention(module: Module, **options: Any) -> Outcome:
    """wgmma with A in registers, and with V transposed."""
    return triton_attention(module, shared=40960, profile="H100", **options)


def triton_softmax(module: Module, **options: Any) -> Outcome:
    """Softmax of rows of 1,000."""
    device = module.device
    x = _rng().standard_normal((3, 1000)).astype(np.float32)
    out = device.empty(x.shape, np.float32, "out")
    result = module.launch(
        "softmax", 3, 128, device.buffer(x), out, 1000, *_scratch(device), shared=16, **options
    )
    e = np.exp(x.astype(np.float64) - x.max(1, keepdims=True))
    return Outcome(result, _distance(out.numpy(), e / e.sum(1, keepdims=True), 1e-7))


def triton_cumulative_sum(module: Module, **options: Any) -> Outcome:
    """Scans of rows of 500; integers in f32, so exact."""
    device = module.device
    x = _rng().integers(-8, 8, (2, 500)).astype(np.float32)
    out = device.empty(x.shape, np.float32, "out")
    result = module.launch(
        "cumulative_sum",
        2,
        128,
        device.buffer(x),
        out,
        500,
        *_scratch(device),
        shared=64,
        **options,
    )
    return Outcome(result, _exact(out.numpy(), np.cumsum(x, 1, dtype=np.float32)))


def triton_sort(module: Module, **options: Any) -> Outcome:
    """A bitonic sort of 256 floats."""
    device = module.device
    x = _rng().standard_normal((2, 256)).astype(np.float32)
    out = device.empty(x.shape, np.float32, "out")
    result = module.launch(
        "sort_rows", 2, 64, device.buffer(x), out, *_scratch(device), shared=1024, **options
    )
    return Outcome(result, _exact(out.numpy(), np.sort(x, 1)))


def triton_column_sums(module: Module, **options: Any) -> Outcome:
    """Sums of columns by floating-point atomics; integers, so exact."""
    device = module.device
    x = _rng().integers(-8, 8, (70, 45)).astype(np.float32)
    out = device.buffer(np.zeros(45, np.float32), "out")
    result = module.launch(
        "column_sums", (3, 2), 128, device.buffer(x), out, 70, 45, *_scratch(device), shared=512,
        **options,
    )  # fmt: skip
    return Outcome(result, _exact(out.numpy(), x.sum(0)))


def triton_attention(module: Module, shared: int = 16384, **options: Any) -> Outcome:
    """Causal attention with an online softmax; probabilities are rounded to bf16."""
    device, rng = module.device, _rng()
    t, d, scale = 75, 64, 0.125
    q, k, v = (rng.standard_normal((t, d)).astype(BF16) for _ in range(3))
    out = device.empty((t, d), np.float32, "out")
    result = module.launch(
        "attention", 2, 128, device.buffer(q), device.buffer(k), device.buffer(v), out, t, scale,
        *_scratch(device), shared=shared, **options,
    )  # fmt: skip
    q64, k64, v64 = (z.astype(np.float64) for z in (q, k, v))
    scores = np.where(np.tri(t, dtype=bool), q64 @ k64.T * scale, -np.inf)
    e = np.exp(scores - scores.max(1, keepdims=True))
    p = e / e.sum(1, keepdims=True)
    # Rounding of p (2^-9 relative) is what counts.
    return Outcome(result, _distance(out.numpy(), p @ v64, 2.0**-8 * (p @ np.abs(v64)) + 1e-5))


def triton_cluster_softmax(module: Module, **options: Any) -> Outcome:
    """Softmax of rows of 1,000, each by two blocks."""
    device = module.device
    x = _rng().standard_normal((3, 1000)).astype(np.float32)
    out = device.empty(x.shape, np.float32, "out")
    result = _cluster(
        module, "softmax", 6, 128, device.buffer(x), out, 1000, *_scratch(device), shared=16,
        **options,
    )  # fmt: skip
    e = np.exp(x.astype(np.float64) - x.max(1, keepdims=True))
    return Outcome(result, _distance(out.numpy(), e / e.sum(1, keepdims=True), 1e-7))


def triton_cluster_sums(module: Module, **options: Any) -> Outcome:
    """Sums of columns, tiles of two blocks; integers, so exact."""
    device = module.device
    x = _rng().integers(-8, 8, (70, 45)).astype(np.float32)
    out = device.buffer(np.zeros(45, np.float32), "out")
    result = _cluster(
        module, "column_sums", (6, 2), 128, device.buffer(x), out, 70, 45, *_scratch(device),
        shared=512, **options,
    )  # fmt: skip
    return Outcome(result, _exact(out.numpy(), x.sum(0)))


def triton_sm120_matmul(module: Module, **options: Any) -> Outcome:
    """The source of triton_matmul for compute capability 12.0."""
    return triton_matmul(module, profile="RTX 5090", **options)


def triton_sm120_tma_matmul(module: Module, **options: Any) -> Outcome:
    """Tensor copies and mma.sync."""
    return _tma_product(module, BF16, (64, 64, 64), 128, 128, 16392, profile="RTX 5090", **options)


def triton_sm120_softmax(module: Module, **options: Any) -> Outcome:
    """The source of triton_softmax: differences and products of two floats at a time."""
    return triton_softmax(module, profile="RTX 5090", **options)


def triton_sm120_attention(module: Module, **options: Any) -> Outcome:
    """The source of triton_attention: maxima of three, arithmetic on two floats at a time."""
    return triton_attention(module, profile="RTX 5090", **options)


def triton_fp8_matmul(module: Module, **options: Any) -> Outcome:
    """e4m3 times e5m2 for sm_120, by mma.sync."""
    rng = _rng()
    a = rng.standard_normal((80, 176)).astype(ml_dtypes.float8_e4m3fn)
    b = rng.standard_normal((176, 80)).astype(ml_dtypes.float8_e5m2)
    return _triton_product(module, a, b, (64, 64), 128, 8192, 1.0, profile="RTX 5090", **options)


Case = Callable[..., Outcome]
NVCC: dict[str, Case] = {
    f.__name__: f
    for f in (
        rmsnorm, softmax, matmul, transpose, scan, reduce_last_block, chain, grid_phases, tile_sums,
        histogram, named_barriers, async_sizes, mixed, calls, fp4_table, half_ops, locked, votes,
        block_votes,
    )
}  # fmt: skip
TRITON: dict[str, Case] = {
    f.__name__: f
    for f in (
        triton_matmul, triton_matmul_f16, triton_matmul_tf32, triton_softmax, triton_cumulative_sum,
        triton_sort, triton_column_sums, triton_attention, triton_hopper_matmul, triton_tma_matmul,
        triton_tma_matmul_64, triton_tma_matmul_32, triton_tma_matmul_f16, triton_hopper_attention,
        triton_cluster_softmax, triton_cluster_sums, triton_fp8_matmul, triton_sm120_matmul,
        triton_sm120_tma_matmul, triton_sm120_softmax, triton_sm120_attention,
    )
}  # fmt: skip
HOPPER: dict[str, Case] = {
    f.__name__: f
    for f in (bulk_double, bulk_pipeline, copies_arrive, split_barrier, dependent_step)
}
CLUSTER: dict[str, Case] = {
    f.__name__: f
    for f in (
        cluster_histogram, cluster_sum, cluster_ring, cluster_multicast, cluster_copy, specialised,
    )
}  # fmt: skip
WGMMA: dict[str, Case] = {f.__name__: f for f in (matmul_tf32,)}
CASES = {**NVCC, **HOPPER, **WGMMA, **CLUSTER, **TRITON}


def file_of(name: str) -> str:
    """Return the PTX file that holds the kernel of a case."""
    if name in TRITON:
        return name
    for file, cases in (("hopper", HOPPER), ("wgmma", WGMMA), ("cluster", CLUSTER)):
        if name in cases:
            return file
    return "corpus"


def run(name: str, text: str, **options: Any) -> Outcome:
    """Run the case on a text of its module, on a fresh device."""
    return CASES[name](Device().load(text), **options)
