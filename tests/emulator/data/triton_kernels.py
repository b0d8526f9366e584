"""Kernels in Triton, and the PTX for sm_80, sm_90a and sm_120 that Triton makes of them.

Run with Triton installed: python tests/emulator/data/triton_kernels.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

OUT = Path(__file__).parent


@triton.jit
def matmul(a_ptr, b_ptr, c_ptr, M, N, K, sa, sb, sc, BM: tl.constexpr, BN: tl.constexpr,
           BK: tl.constexpr):  # fmt: skip
    rm = tl.program_id(0) * BM + tl.arange(0, BM)
    rn = tl.program_id(1) * BN + tl.arange(0, BN)
    rk = tl.arange(0, BK)
    a = a_ptr + rm[:, None] * sa + rk[None, :]
    b = b_ptr + rk[:, None] * sb + rn[None, :]
    acc = tl.zeros((BM, BN), tl.float32)
    for k in range(0, tl.cdiv(K, BK)):
        left = K - k * BK
        x = tl.load(a, mask=(rm[:, None] < M) & (rk[None, :] < left), other=0.0)
        y = tl.load(b, mask=(rk[:, None] < left) & (rn[None, :] < N), other=0.0)
        acc = tl.dot(x, y, acc)
        a += BK
        b += BK * sb
    c = c_ptr + rm[:, None] * sc + rn[None, :]
    tl.store(c, acc, mask=(rm[:, None] < M) & (rn[None, :] < N))


@triton.jit
def softmax(x_ptr, o_ptr, n, B: tl.constexpr):
    row = tl.program_id(0)
    i = tl.arange(0, B)
    x = tl.load(x_ptr + row * n + i, mask=i < n, other=-float("inf"))
    x = x - tl.max(x, 0)
    e = tl.exp(x)
    tl.store(o_ptr + row * n + i, e / tl.sum(e, 0), mask=i < n)


@triton.jit
def cumulative_sum(x_ptr, o_ptr, n, B: tl.constexpr):
    row = tl.program_id(0)
    i = tl.arange(0, B)
    x = tl.load(x_ptr + row * n + i, mask=i < n, other=0.0)
    tl.store(o_ptr + row * n + i, tl.cumsum(x, 0), mask=i < n)


@triton.jit
def sort_rows(x_ptr, o_ptr, B: tl.constexpr):
    i = tl.arange(0, B)
    row = tl.program_id(0)
    tl.store(o_ptr + row * B + i, tl.sort(tl.load(x_ptr + row * B + i)))


@triton.jit
def column_sums(x_ptr, o_ptr, R, C, BR: tl.constexpr, BC: tl.constexpr):
    r = tl.program_id(0) * BR + tl.arange(0, BR)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    x = tl.load(
        x_ptr + r[:, None] * C + c[None, :], mask=(r[:, None] < R) & (c[None, :] < C), other=0.0
    )
    tl.atomic_add(o_ptr + c, tl.sum(x, 0), mask=c < C)


@triton.jit
def attention(
    q_ptr, k_ptr, v_ptr, o_ptr, T, scale, BT: tl.constexpr, BS: tl.constexpr, D: tl.constexpr
):
    # One head: q, k, v, o are (T, D); causal; online softmax.
    start = tl.program_id(0) * BT
    t = start + tl.arange(0, BT)
    d = tl.arange(0, D)
    q = tl.load(q_ptr + t[:, None] * D + d[None, :], mask=t[:, None] < T, other=0.0)
    top = tl.full((BT,), -1.0e30, tl.float32)
    total = tl.zeros((BT,), tl.float32)
    acc = tl.zeros((BT, D), tl.float32)
    for s0 in range(0, start + BT, BS):
        s = s0 + tl.arange(0, BS)
        k = tl.load(k_ptr + s[None, :] * D + d[:, None], mask=s[None, :] < T, other=0.0)
        scores = tl.dot(q, k) * scale
        scores = tl.where((s[None, :] <= t[:, None]) & (s[None, :] < T), scores, -1.0e30)
        new_top = tl.maximum(top, tl.max(scores, 1))
        p = tl.exp(scores - new_top[:, None])
        shrink = tl.exp(top - new_top)
        total = total * shrink + tl.sum(p, 1)
        v = tl.load(v_ptr + s[:, None] * D + d[None, :], mask=s[:, None] < T, other=0.0)
        acc = acc * shrink[:, None] + tl.dot(p.to(tl.bfloat16), v)
        top = new_top
    tl.store(o_ptr + t[:, None] * D + d[None, :], acc / total[:, None], mask=t[:, None] < T)


@triton.jit
def matmul_tma(a, b, c, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    row = tl.program_id(0) * BM
    column = tl.program_id(1) * BN
    acc = tl.zeros((BM, BN), tl.float32)
    for k in range(0, tl.cdiv(K, BK)):
        x = a.load([row, k * BK])
        y = b.load([column, k * BK])
        acc = tl.dot(x, y.T, acc)
    c.store([row, column], acc)


def compile_one(function, signature, constants, name, capability=80, **options) -> None:
    attributes = {
        (i,): [["tt.divisibility", 16]]
        for i, (key, kind) in enumerate(signature.items())
        if kind.startswith("*") or key in {"M", "N", "K", "sa", "sb", "sc"}
    }
    source = ASTSource(
        function,
        signature={**signature, **dict.fromkeys(constants, "constexpr")},
        constexprs=constants,
        attrs=attributes,
    )
    kernel = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    text = kernel.asm["ptx"]
    # The debug sections name folders of the machine that compiled.
    cut = text.find("\t.section\t.debug")
    if cut >= 0:
        text = text[:cut]
    lines = []
    for line in text.splitlines():
        if line.lstrip().startswith(".file"):
            number, path = line.split('"')[0].split()[1], line.split('"')[1]
            line = f'\t.file\t{number} "{Path(path).name}"'
        lines.append(line)
    (OUT / f"triton_{name}.ptx").write_text("\n".join(lines) + "\n")
    sys.stdout.write(
        f"{name}: {kernel.metadata.shared} bytes shared, {kernel.metadata.num_warps} warps\n"
    )


BF16 = {"a_ptr": "*bf16", "b_ptr": "*bf16", "c_ptr": "*fp32", "M": "i32", "N": "i32", "K": "i32",
        "sa": "i32", "sb": "i32", "sc": "i32"}  # fmt: skip

if __name__ == "__main__":
    compile_one(matmul, BF16, {"BM": 64, "BN": 64, "BK": 32}, "matmul", num_warps=4, num_stages=3)
    f16 = {**BF16, "a_ptr": "*fp16", "b_ptr": "*fp16"}
    compile_one(matmul, f16, {"BM": 128, "BN": 32, "BK": 32},
                "matmul_f16", num_warps=8, num_stages=2)  # fmt: skip
    f32 = {**BF16, "a_ptr": "*fp32", "b_ptr": "*fp32"}
    compile_one(matmul, f32, {"BM": 32, "BN": 32, "BK": 32},
                "matmul_tf32", num_warps=4, num_stages=2)  # fmt: skip
    compile_one(
        softmax,
        {"x_ptr": "*fp32", "o_ptr": "*fp32", "n": "i32"},
        {"B": 1024},
        "softmax",
        num_warps=4,
    )
    compile_one(cumulative_sum, {"x_ptr": "*fp32", "o_ptr": "*fp32", "n": "i32"}, {"B": 512},
                "cumulative_sum", num_warps=4)  # fmt: skip
    compile_one(sort_rows, {"x_ptr": "*fp32", "o_ptr": "*fp32"}, {"B": 256}, "sort", num_warps=2)
    compile_one(column_sums, {"x_ptr": "*fp32", "o_ptr": "*fp32", "R": "i32", "C": "i32"},
                {"BR": 32, "BC": 32}, "column_sums", num_warps=4)  # fmt: skip
    compile_one(attention, {"q_ptr": "*bf16", "k_ptr": "*bf16", "v_ptr": "*bf16", "o_ptr": "*fp32",
                "T": "i32", "scale": "fp32"}, {"BT": 64, "BS": 32, "D": 64}, "attention",
                num_warps=4, num_stages=2)  # fmt: skip

    # Compute capability 9.0: cp.async and wgmma; tensor copies and wgmma, with all swizzles.
    compile_one(matmul, BF16, {"BM": 64, "BN": 64, "BK": 64}, "hopper_matmul", 90,
                num_warps=4, num_stages=3)  # fmt: skip
    for name, kind, tile, warps, stages in (
        ("tma_matmul", "bf16", (64, 64, 64), 4, 3),
        ("tma_matmul_64", "bf16", (64, 64, 32), 4, 4),
        ("tma_matmul_32", "bf16", (64, 32, 16), 4, 3),
        ("tma_matmul_f16", "fp16", (128, 128, 64), 8, 3),
    ):
        m, n, k = tile
        maps = {"a": f"tensordesc<{kind}[{m},{k}]>", "b": f"tensordesc<{kind}[{n},{k}]>",
                "c": f"tensordesc<fp32[{m},{n}]>", "M": "i32", "N": "i32", "K": "i32"}  # fmt: skip
        compile_one(matmul_tma, maps, {"BM": m, "BN": n, "BK": k}, name, 90,
                    num_warps=warps, num_stages=stages)  # fmt: skip
    compile_one(attention, {"q_ptr": "*bf16", "k_ptr": "*bf16", "v_ptr": "*bf16", "o_ptr": "*fp32",
                "T": "i32", "scale": "fp32"}, {"BT": 64, "BS": 64, "D": 64}, "hopper_attention",
                90, num_warps=4, num_stages=2)  # fmt: skip

    # Clusters of two blocks.
    compile_one(softmax, {"x_ptr": "*fp32", "o_ptr": "*fp32", "n": "i32"}, {"B": 1024},
                "cluster_softmax", 90, num_warps=4, num_ctas=2)  # fmt: skip
    compile_one(column_sums, {"x_ptr": "*fp32", "o_ptr": "*fp32", "R": "i32", "C": "i32"},
                {"BR": 32, "BC": 32}, "cluster_sums", 90, num_warps=4, num_ctas=2)  # fmt: skip

    # Compute capability 12.0: mma.sync, also of 8-bit floats and behind tensor copies; arithmetic
    # on two floats at a time and maxima of three.
    compile_one(matmul, BF16, {"BM": 64, "BN": 64, "BK": 32}, "sm120_matmul", 120, num_warps=4)
    fp8 = {**BF16, "a_ptr": "*fp8e4nv", "b_ptr": "*fp8e5"}
    compile_one(matmul, fp8, {"BM": 64, "BN": 64, "BK": 64}, "fp8_matmul", 120,
                num_warps=4, num_stages=2)  # fmt: skip
    maps = {"a": "tensordesc<bf16[64,64]>", "b": "tensordesc<bf16[64,64]>",
            "c": "tensordesc<fp32[64,64]>", "M": "i32", "N": "i32", "K": "i32"}  # fmt: skip
    compile_one(matmul_tma, maps, {"BM": 64, "BN": 64, "BK": 64}, "sm120_tma_matmul", 120,
                num_warps=4, num_stages=2)  # fmt: skip
    compile_one(softmax, {"x_ptr": "*fp32", "o_ptr": "*fp32", "n": "i32"}, {"B": 1024},
                "sm120_softmax", 120, num_warps=4)  # fmt: skip
    compile_one(attention, {"q_ptr": "*bf16", "k_ptr": "*bf16", "v_ptr": "*bf16", "o_ptr": "*fp32",
                "T": "i32", "scale": "fp32"}, {"BT": 64, "BS": 32, "D": 64}, "sm120_attention",
                120, num_warps=4, num_stages=2)  # fmt: skip
