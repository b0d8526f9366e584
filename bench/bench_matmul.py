"""Matmuls of one expert and of attention's dense weights, against what the machine can do.

    python bench/bench_matmul.py --tokens 1 2 4 8 32 128

With one token a matmul reads memory, with many it computes: both shares are given. The weights of
a matrix that fits into the cache are read from there, so a share of memory speed above 100 % at
one token means that the kernel would keep up with more memory than there is.
"""

from __future__ import annotations

import argparse

import numpy as np

from gptoss import _core, ops
from hw_limits import hw_limits
from shapes import DENSE_MATRICES, EXPERT_MATRICES
from timing import median_s, print_results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 2, 4, 8, 32, 128])
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    threads = _core.default_threads()
    limits = {name: values[-1] for name, values in hw_limits(threads).items()}
    read_gb_s = max(limits["read_gb_s_huge_pages"], limits["read_gb_s_4k_pages"])
    amx = _core.selected_isa() == "amx"
    # Blocks of 32 fill half of an int8 tile.
    limits["half_amx_int8_gop_s"] = limits.get("amx_int8_gop_s", 0) / 2
    int8_peak = "half_amx_int8_gop_s" if amx else "int8_gop_s"
    rng = np.random.default_rng(0)
    rows = []

    def measure(name: str, nbytes: int, operations: float, peak: str, work) -> None:  # type: ignore[no-untyped-def]
        seconds = median_s(work, args.rounds)
        rows.append(
            {
                "matmul": name,
                "T": tokens,
                "ms": seconds * 1e3,
                "GB/s": nbytes / seconds / 1e9,
                "% of memory": 100 * nbytes / seconds / 1e9 / read_gb_s,
                "Gop/s": operations / seconds / 1e9,
                "% of peak": 100 * operations / seconds / 1e9 / limits[peak],
            }
        )

    for tokens in args.tokens:
        for matrix in EXPERT_MATRICES:
            n, k = matrix.n, matrix.k
            x = rng.standard_normal((tokens, k), dtype=np.float32)
            blocks = rng.integers(0, 256, (n, k // 32, 16), dtype=np.uint8)
            scales = rng.integers(116, 123, (n, k // 32), dtype=np.uint8)
            nbytes, operations = blocks.nbytes + scales.nbytes, 2.0 * tokens * n * k
            for name, int8, peak in (("f32", False, "fma_gflop_s"), ("int8", True, int8_peak)):
                measure(
                    f"{matrix.name}, MXFP4 x {name}",
                    nbytes,
                    operations,
                    peak,
                    lambda x=x, b=blocks, s=scales, i=int8: _core.mxfp4_matmul(x, b, s, None, i),
                )
        for matrix in DENSE_MATRICES:
            x = rng.standard_normal((tokens, matrix.k), dtype=np.float32)
            # Normal numbers: subnormal ones and NaN take other times.
            w = rng.standard_normal((matrix.n, matrix.k), dtype=np.float32).view(np.uint32) >> 16
            w = w.astype(np.uint16)
            codes, scales = ops.q8_encode(w)
            operations = 2.0 * tokens * matrix.n * matrix.k
            measure(
                f"{matrix.name}, bf16 x f32",
                w.nbytes,
                operations,
                "fma_gflop_s",
                lambda x=x, w=w: ops.dense_matmul(x, w),
            )
            if amx:
                measure(
                    f"{matrix.name}, bf16 x 2 bf16",
                    w.nbytes,
                    2 * operations,
                    "amx_bf16_gflop_s",
                    lambda x=x, w=w: ops.dense_matmul(x, w, fast=True),
                )
            measure(
                f"{matrix.name}, int8 x int8",
                codes.nbytes + scales.nbytes,
                operations,
                int8_peak,
                lambda x=x, c=codes, s=scales: ops.q8_matmul(x, c, s),
            )
    print_results(f"matmuls, {threads} threads, {_core.selected_isa()}", rows, limits=limits)


if __name__ == "__main__":
    main()
