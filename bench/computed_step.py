"""Compute how long a decoding step of gpt-oss-20b takes on cards that are not there.

    tools/emulated.sh cuda -- python bench/computed_step.py           # the tables of docs/cuda.md
    tools/emulated.sh cuda -- python bench/computed_step.py --write   # into the document

A kernel takes as long as the slowest of: its bytes at the speed of a large copy, its instructions,
those of them on integers, and its passes through shared memory; a part of a card is used where
there are fewer blocks than multiprocessors. A step takes their sum, and a launch each. Nothing
overlaps.

Instructions are those of the PTX, counted in the emulator at the model's shapes (of a matrix a part
of its rows, as every 16 take the same); ptxas makes others of them. It is a bound for what the
kernels ask of a card, not a forecast: latencies are not in it.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "bench")]

from cuda.kernels import Batch, Gpu, fill  # noqa: E402

DOCUMENT = ROOT / "docs/cuda.md"
BEGIN, END = "<!-- computed step: begin -->\n", "<!-- computed step: end -->\n"

HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, DIM = 2880, 2880, 64, 8, 64
EXPERTS, ACTIVE, LAYERS, WINDOW, VOCAB = 32, 4, 24, 128, 201_088
QKV = (HEADS + 2 * KV_HEADS) * DIM
CONTEXT = 1024
PAGE = 64
BF16 = 1  # Act of args.h
LAUNCH_US = 1.3  # from the end of one small kernel to the begin of the next, in a graph (published)


@dataclass(frozen=True)
class Card:
    """What a card can do, as published; the copy is measured, or 90 % of the memory's speed."""

    name: str
    multiprocessors: int
    ghz: float
    copy_gb_s: float


CARDS = (
    Card("H200", 132, 1.75, 4300),
    Card("RTX 3090", 82, 1.70, 842),
    Card("RTX 4090", 128, 2.52, 907),
    Card("RTX 5090", 170, 2.41, 1613),
    Card("GB10", 48, 2.42, 246),
)


@dataclass(frozen=True)
class Kernel:
    """A kernel of the step: how often it runs, and what one run asks for."""

    name: str
    times: int
    nbytes: int
    blocks: int
    instructions: float  # of warps
    integer: float
    wavefronts: float

    def parts_us(self, card: Card) -> dict[str, float]:
        """Microseconds by what takes them."""
        clocks = min(card.multiprocessors, self.blocks) * card.ghz * 1e3
        return {
            "memory": self.nbytes / card.copy_gb_s / 1e3,
            "instructions": self.instructions / (4 * clocks),
            "integers": self.integer / (2 * clocks),
            "shared memory": self.wavefronts / clocks,
        }

    def us(self, card: Card) -> float:
        """Microseconds of one run, without its launch."""
        return max(self.parts_us(card).values())


def run(
    name: str,
    times: int,
    gpu: Gpu,
    entry: str,
    grid: tuple[int, ...],
    threads: int,
    args: Any,
    nbytes: int,
    *,
    part: float = 1.0,
    shared: int = 0,
) -> Kernel:
    """Run a kernel, or a part of its blocks, in the emulator."""
    counters = gpu.launch(entry, grid, threads, args, shared=shared).counters
    return Kernel(
        name,
        times,
        nbytes,
        round(int(np.prod(grid)) / part),
        counters["warp_instructions"] / part,
        counters["warp_instructions_by_pipe"]["integer"] / part,
        counters["shared_wavefronts"] / part,
    )


def dense_end(gpu: Gpu, name: str, k: int, rows: int) -> dict[str, Any]:
    """What a product ends with: the norm's factor, a sum with what is there, or ranges."""
    parts = -(-k // 16)
    squares = gpu.put(np.ones((1, parts), np.float32))
    norm = fill("RowNorm", squares=squares, n_parts=parts, eps=1e-5)
    if name.startswith("o,"):
        return {"accumulate": 1}
    if name == "unembedding":
        return {"norm": norm, "ranges": gpu.empty((-(-rows // 16), 2), "f4")}
    return {"norm": norm}


def dense(name: str, times: int, n: int, k: int, rows: int) -> Kernel:
    """A product of `rows` of n rows with one row of x."""
    gpu = Gpu("matmul_bf16")
    args = fill(
        "DenseMatmulArgs",
        x=gpu.put(np.zeros((1, k), np.uint16)),
        w=gpu.put(np.zeros(-(-rows // 16) * -(-k // 64) * 1024, np.uint16)),
        bias=gpu.put(np.zeros(rows, np.float32)),
        y=gpu.put(np.zeros((1, rows), np.float32)),
        rows=1,
        n=rows,
        k=k,
        x_stride=k,
        y_stride=rows,
        act=BF16,
        **dense_end(gpu, name, k, rows),
    )
    nbytes = 2 * n * k + 12 * n + 2 * k
    entry = "gptoss_dense_matmul_bf16_8"
    return run(name, times, gpu, entry, (-(-rows // 16),), 256, args, nbytes, part=rows / n)


def dense_q8(name: str, times: int, n: int, k: int, rows: int) -> Kernel:
    """The same in int8; what comes before it makes x int8."""
    gpu = Gpu("matmul_q8")
    columns = -(-k // 64) * 64
    codes = gpu.put(np.zeros((1, columns), np.int8))
    scales = gpu.put(np.zeros((1, columns // 32), np.float32))
    groups = -(-rows // 16) * -(-k // 64)
    args = fill(
        "Q8MatmulArgs",
        x=codes,
        x_scales=scales,
        codes=gpu.put(np.zeros(groups * 1024, np.int8)),
        scales=gpu.put(np.zeros(groups * 32, np.uint16)),
        bias=gpu.put(np.zeros(rows, np.float32)),
        y=gpu.put(np.zeros((1, rows), np.float32)),
        rows=1,
        n=rows,
        k=k,
        y_stride=rows,
        **dense_end(gpu, name, k, rows),
    )
    nbytes = n * k + n * k // 16 + 12 * n + k
    entry = "gptoss_q8_matmul_8"
    return run(name, times, gpu, entry, (-(-rows // 16),), 256, args, nbytes, part=rows / n)


def int8_out(gpu: Gpu, columns: int) -> dict[str, Any]:
    """Where kernels that make the next product's input in int8 leave it."""
    return {
        "codes": gpu.empty((1, columns), "i1"),
        "code_scales": gpu.empty((1, columns // 32), "f4"),
    }


def experts(times: int, *, int8: bool) -> list[Kernel]:
    """Routing, its sort, the two products of four of 32 experts, and what follows them."""
    gpu = Gpu("experts", "matmul_bf16")
    pairs, offsets = gpu.empty(ACTIVE, "i4"), gpu.empty(EXPERTS + 1, "i4")
    normed = gpu.empty((1, HIDDEN), "u2")
    route = fill(
        "RouteArgs",
        pairs=pairs,
        offsets=offsets,
        x=gpu.put(np.ones((1, HIDDEN), np.float32)),
        weight=gpu.put(np.ones(HIDDEN, np.float32)),
        router=gpu.put(np.zeros((EXPERTS, HIDDEN), np.uint16)),
        bias=gpu.put(np.zeros(EXPERTS, np.float32)),
        normed=normed,
        logits=gpu.empty((1, EXPERTS), "f4"),
        experts=gpu.empty((1, ACTIVE), "i4"),
        weights=gpu.empty((1, ACTIVE), "f4"),
        arrived=gpu.put([0, 0], np.int32),
        tokens=1,
        hidden=HIDDEN,
        n_experts=EXPERTS,
        n_active=ACTIVE,
        eps=1e-5,
        act=BF16,
    )
    kernels = [
        run(
            "norm, router, top-k, sort",
            times,
            gpu,
            "gptoss_route_bf16",
            (1, 32),
            256,
            route,
            2 * EXPERTS * HIDDEN,
            shared=4 * HIDDEN,
        ),
    ]

    def product(name: str, entry: str, struct: str, n: int, k: int, rows: int, **more: Any) -> None:
        groups = ACTIVE * -(-rows // 16) * -(-k // 64)
        weights = fill(
            "ExpertWeights",
            blocks=gpu.put(np.zeros(groups * 512, np.uint8)),
            scales=gpu.put(np.zeros(groups * 32, np.uint8)),
            bias=gpu.put(np.zeros((ACTIVE, rows), np.float32)),
        )
        args = fill(
            struct,
            w=weights,
            pairs=pairs,
            offsets=offsets,
            n_pairs=ACTIVE,
            n_experts=EXPERTS,
            n=rows,
            k=k,
            act=BF16,
            **more,
        )
        nbytes = ACTIVE * (n * k * 17 // 32 + 8 * n)
        if struct == "DownArgs":  # reads what it made, x and the norm's weight; writes x and y
            nbytes += (4 * ACTIVE + 16) * n
        grid = (-(-rows // 64), ACTIVE)
        kernels.append(run(name, times, gpu, entry, grid, 128, args, nbytes, part=rows / n))

    product(
        "gate and up, SwiGLU",
        "gptoss_gate_up_bf16_8",
        "GateUpArgs",
        2 * INTERMEDIATE,
        HIDDEN,
        192,
        x=normed,
        h=gpu.empty((ACTIVE, 96), "u2"),
        n_active=ACTIVE,
        limit=7.0,
    )
    out = gpu.empty((ACTIVE, 192), "f4")
    combine = fill(
        "CombineArgs",
        out=out,
        weights=gpu.put(np.ones((1, ACTIVE), np.float32)),
        x=gpu.put(np.ones((1, 192), np.float32)),
        tokens=1,
        n_active=ACTIVE,
        n=192,
    )
    finish = fill(
        "FinishArgs",
        combine=combine,
        weight=gpu.put(np.ones(192, np.float32)),
        y=gpu.empty((1, 192), "u2"),
        squares=gpu.empty((1, 12), "f4"),
        arrived=gpu.put(np.zeros(3, np.int32)),
        **(int8_out(gpu, 192) if int8 else {}),
    )
    product(
        "down, residual, norm",
        "gptoss_down_bf16_8",
        "DownArgs",
        HIDDEN,
        INTERMEDIATE,
        192,
        h=gpu.put(np.zeros((ACTIVE, INTERMEDIATE), np.uint16)),
        out=out,
        finish=finish,
    )
    return kernels


def attention(times: int, *, int8: bool) -> list[Kernel]:
    """RoPE, the KV write and attention; window layers, the others in splits."""
    gpu = Gpu("attention")
    position = CONTEXT - 1
    batch = Batch(gpu, [(0, position, [1])])
    pages = CONTEXT // PAGE
    layer = fill(
        "KvLayer",
        base=gpu.put(np.zeros((pages, 2, KV_HEADS, PAGE, DIM), np.float16)),
        page_stride=2 * KV_HEADS * PAGE * DIM * 2,
        table=gpu.put(np.arange(pages), np.int32),
        row_pages=pages,
        kv_heads=KV_HEADS,
        head_dim=DIM,
        kv=1,
    )
    qkv = gpu.put(np.zeros((1, QKV), np.float32))
    splits = 1
    while splits < position // 128 + 1:
        splits *= 2
    common = {
        "step": batch.step,
        "qkv": qkv,
        "qkv_stride": QKV,
        "heads": HEADS,
        "kv": layer,
        "sinks": gpu.put(np.zeros(HEADS, np.float32)),
        "out": gpu.empty((1, HEADS, DIM), "u2"),
        "scale": 0.125,
        "act": BF16,
        "n_splits": splits,
        "partials": gpu.empty((splits, HEADS, DIM + 2), "f4"),
        "arrived": gpu.put(np.zeros(KV_HEADS, np.int32)),
        "rotations": gpu.put(np.zeros((CONTEXT, DIM), np.float32)),
        **(int8_out(gpu, HEADS * DIM) if int8 else {}),
    }
    window = fill("AttentionArgs", **common, window=WINDOW)
    whole = fill("AttentionArgs", **common)
    row = 2 * KV_HEADS * DIM * 2
    half = times // 2
    partial = splits * HEADS * (DIM + 2) * 4
    tile, split = "gptoss_attention_tile_64", "gptoss_attention_split_64"
    nbytes, grid = CONTEXT * row + 2 * partial, (1, KV_HEADS, splits)
    return [
        run("RoPE, attention, window", half, gpu, tile, grid[:2], 128, window, WINDOW * row),
        run("RoPE, attention, all", half, gpu, split, grid, 128, whole, nbytes),
    ]


def ends(*, int8: bool) -> list[Kernel]:
    """What a step begins and ends with."""
    gpu = Gpu("embed", "sample", "matmul_q8")
    batch = Batch(gpu, [(0, 0, [1])], last_tokens=[1], logit_rows=[0])
    x = gpu.put(np.ones((1, HIDDEN), np.float32))
    normed = gpu.empty((1, HIDDEN), "u2")
    codes, scales = int8_out(gpu, HIDDEN).values()
    embed = fill(
        "EmbedArgs",
        step=batch.step,
        embedding=gpu.put(np.zeros((2, HIDDEN), np.uint16)),
        x=x,
        weight=gpu.put(np.ones(HIDDEN, np.float32)),
        y=normed,
        squares=gpu.empty(1, "f4"),
        hidden=HIDDEN,
    )
    quantize = fill(
        "QuantizeArgs",
        x=normed,
        rows=1,
        k=HIDDEN,
        x_stride=HIDDEN,
        act=BF16,
        codes=codes,
        scales=scales,
    )
    finite = fill("FiniteArgs", step=batch.step, x=x, finite=gpu.empty(1, "i4"), hidden=HIDDEN)
    logits = np.random.default_rng(0).normal(size=(1, VOCAB)).astype(np.float32)
    row = fill("SampleRow", guess=-1, mask=-1, target=-1, n_logprobs=-1, greedy=1, all_top_p=1)
    tiles = logits.reshape(-1, 16)
    ranges = np.stack([tiles.max(axis=1), tiles.min(axis=1)], axis=1)
    sample = fill(
        "SampleArgs",
        logits=gpu.put(logits),
        ranges=gpu.put(ranges),
        rows=gpu.put(np.frombuffer(bytes(row), np.uint8)),
        units=gpu.put([0, 1], np.int32),
        masks=gpu.put([0], np.uint32),
        biases=gpu.put([0, 0], np.int32),
        counts=gpu.put(np.zeros((1, VOCAB), np.uint32)),
        slots=batch.step.slots,
        changed=gpu.empty((1, VOCAB), "f4"),
        candidates=gpu.empty((1, VOCAB), "i4"),
        out=gpu.empty(4096, "u1"),
        n_units=1,
        vocab_size=VOCAB,
    )
    grid = (1, -(-HIDDEN // 256))
    return [
        run("embedding, norm", 1, gpu, "gptoss_embed", (1,), 256, embed, 16 * HIDDEN),
        *(
            [
                run(
                    "first input to int8",
                    1,
                    gpu,
                    "gptoss_quantize_bf16",
                    grid,
                    256,
                    quantize,
                    3 * HIDDEN,
                )
            ]
            if int8
            else []
        ),
        run(
            "search for what is not finite", 1, gpu, "gptoss_finite", (1,), 1024, finite, 4 * HIDDEN
        ),
        run("greedy token", 1, gpu, "gptoss_sample", (1,), 256, sample, VOCAB // 2),
    ]


def step(*, int8: bool = False) -> list[Kernel]:
    """All kernels of a step, with dense weights in bf16 or int8."""
    matrix = dense_q8 if int8 else dense
    return [
        matrix("q, k and v", LAYERS, QKV, HIDDEN, 256),
        *attention(LAYERS, int8=int8),
        matrix("o, residual", LAYERS, HIDDEN, HEADS * DIM, 192),
        *experts(LAYERS, int8=int8),
        matrix("unembedding", 1, VOCAB, HIDDEN, 256),
        *ends(int8=int8),
    ]


def total_us(kernels: list[Kernel], card: Card) -> float:
    """Microseconds of a step, launches included."""
    return sum(kernel.times * (kernel.us(card) + LAUNCH_US) for kernel in kernels)


def tables() -> str:
    """Return the tables as Markdown."""
    plain, int8 = step(), step(int8=True)
    card = CARDS[0]
    lines = [
        f"| kernel, bf16, on {card.name} | times | µs each | bound by | µs a step |",
        "|---|---:|---:|---|---:|",
    ]
    for kernel in plain:
        parts = kernel.parts_us(card)
        bound = max(parts, key=lambda name: parts[name])
        us = kernel.us(card)
        lines.append(
            f"| {kernel.name} | {kernel.times} | {us:.2f} | {bound} | {kernel.times * us:.0f} |"
        )
    launches = sum(kernel.times for kernel in plain)
    lines.append(f"| launches | {launches} | {LAUNCH_US} | | {launches * LAUNCH_US:.0f} |")
    lines.append(f"| **all** | | | | **{total_us(plain, card):.0f}** |")
    lines += ["", "| computed, one request | bf16: ms | tok/s | q8: ms | tok/s |"]
    lines.append("|---|---:|---:|---:|---:|")
    for card in CARDS:
        first, second = total_us(plain, card), total_us(int8, card)
        lines.append(
            f"| {card.name} | {first / 1e3:.2f} | {1e6 / first:,.0f} | {second / 1e3:.2f} "
            f"| {1e6 / second:,.0f} |"
        )
    return "\n".join(lines) + "\n"


def shown() -> str:
    """Return what the document has."""
    text = DOCUMENT.read_text(encoding="utf-8")
    return text[text.index(BEGIN) + len(BEGIN) : text.index(END)]


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="into docs/cuda.md")
    options = parser.parse_args()
    made = tables()
    if options.write:
        text = DOCUMENT.read_text(encoding="utf-8")
        DOCUMENT.write_text(
            text.replace(BEGIN + shown() + END, BEGIN + made + END), encoding="utf-8"
        )
    else:
        print(made, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
