"""Matmuls of one expert and of attention's dense weights, against what the machine can do.

    python bench/bench_matmul.py --tokens 1 2 4 8 32 128

With one token a matmul reads memory, with many it computes: both shares are given. The weights of
a matrix that fits into the cache are read from there, so a share of memory speed above 100 % at
one token means that the kernel would keep up with more memory than there is.
"""

from __future__ import annotations

import argparse

import numpy as np

import gptoss
from bench_phases import inputs_of, peaks_by_inputs
from gptoss import _core, ops
from hw_limits import hw_limits, read_gb_s
from shapes import DENSE_MATRICES, EXPERT_MATRICES
from timing import median_s, print_results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 2, 4, 8, 32, 128])
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    threads = _core.default_threads()
    limits = hw_limits(threads)
    memory_gb_s = read_gb_s(limits)
    # A model says what its matmuls make of their inputs.
    with gptoss.load("demo", threads=threads) as llm:
        fast_dense = inputs_of(llm.description)["dense"]
        peaks = peaks_by_inputs(llm.description, limits)
    rng = np.random.default_rng(0)
    rows = []

    def measure(name: str, nbytes: int, operations: float, inputs: str, work) -> None:  # type: ignore[no-untyped-def]
        seconds, peak = median_s(work, args.rounds), peaks[inputs]
        rows.append(
            {
                "matmul": f"{name} x {inputs}",
                "T": tokens,
                "ms": seconds * 1e3,
                "GB/s": nbytes / seconds / 1e9,
                "% of memory": 100 * nbytes / seconds / 1e9 / memory_gb_s,
                "Gop/s": operations / seconds / 1e9,
                "% of peak": 100 * operations / seconds / 1e9 / peak if peak else "",
            }
        )

    for tokens in args.tokens:
        for matrix in EXPERT_MATRICES:
            n, k = matrix.n, matrix.k
            x = rng.standard_normal((tokens, k), dtype=np.float32)
            blocks = rng.integers(0, 256, (n, k // 32, 16), dtype=np.uint8)
            scales = rng.integers(116, 123, (n, k // 32), dtype=np.uint8)
            nbytes, operations = blocks.nbytes + scales.nbytes, 2.0 * tokens * n * k
            for inputs in ("f32", "int8"):
                int8 = inputs == "int8"
                measure(
                    f"{matrix.name}, MXFP4",
                    nbytes,
                    operations,
                    inputs,
                    lambda x=x, b=blocks, s=scales, i=int8: _core.mxfp4_matmul(x, b, s, None, i),
                )
        for matrix in DENSE_MATRICES:
            x = rng.standard_normal((tokens, matrix.k), dtype=np.float32)
            # Normal numbers: subnormal ones and NaN take other times.
            w = rng.standard_normal((matrix.n, matrix.k), dtype=np.float32).view(np.uint32) >> 16
            w = w.astype(np.uint16)
            codes, scales = ops.q8_encode(w)
            operations = 2.0 * tokens * matrix.n * matrix.k
            for inputs in dict.fromkeys(("f32", fast_dense)):
                fast = inputs != "f32"
                measure(
                    f"{matrix.name}, bf16",
                    w.nbytes,
                    operations,
                    inputs,
                    lambda x=x, w=w, f=fast: ops.dense_matmul(x, w, fast=f),
                )
            measure(
                f"{matrix.name}, int8",
                codes.nbytes + scales.nbytes,
                operations,
                "int8",
                lambda x=x, c=codes, s=scales: ops.q8_matmul(x, c, s),
            )
    print_results(f"matmuls, {threads} threads, {_core.selected_isa()}", rows, limits=limits)


if __name__ == "__main__":
    main()
