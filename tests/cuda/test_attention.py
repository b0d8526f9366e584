"""RoPE with the write into pages, and attention over pages and rings."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from cuda.kernels import Batch, Gpu, fill, from_bf16, seeds
from emulator.device import Buffer
from gptoss.config import RopeConfig
from gptoss.reference.attention import banded_attention
from gptoss.reference.rope import concentration, inverse_frequencies, rope
from support import tolerances

PAGE = 64
CONFIG = RopeConfig(
    theta=150000.0,
    factor=32.0,
    beta_fast=32.0,
    beta_slow=1.0,
    original_context_length=4096,
    truncate=False,
)


class Pages:
    """Keys and values of one layer of one group, behind another layer in the same pages."""

    def __init__(
        self, gpu: Gpu, kind: str, kv_heads: int, head_dim: int, n_slots: int, row_pages: int
    ) -> None:
        self.dtype = {"f32": np.dtype(np.float32), "f16": np.dtype(np.float16)}[kind]
        self.shape = (2, kv_heads, PAGE, head_dim)
        self.row_pages = row_pages
        layer = int(np.prod(self.shape)) * self.dtype.itemsize
        n_pages = n_slots * row_pages + 1
        rng = np.random.default_rng(n_pages)
        self.table = rng.permutation(n_pages)[:-1].astype(np.int32).reshape(n_slots, row_pages)
        self.memory = gpu.empty((n_pages, 2, *self.shape), self.dtype, "pages")
        self.layer = fill(
            "KvLayer",
            base=self.memory.address + layer,
            page_stride=2 * layer,
            table=gpu.put(self.table),
            row_pages=row_pages,
            kv_heads=kv_heads,
            head_dim=head_dim,
            kv={"f32": 0, "f16": 1}[kind],
        )

    def write(self, slots: dict[int, tuple[npt.NDArray[Any], npt.NDArray[Any]]]) -> None:
        """Lay down k and v (S, G, D) of slots, the later position where a ring has come round."""
        array = np.full(self.memory.shape, np.nan, self.dtype)
        for slot, (k, v) in slots.items():
            for position in range(len(k)):
                page = self.table[slot, position // PAGE % self.row_pages]
                array[page, 1, 0, :, position % PAGE] = k[position]
                array[page, 1, 1, :, position % PAGE] = v[position]
        self.memory.write(array)

    def read(self, slot: int, position: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return k and v (G, D) of a position."""
        page = self.table[slot, position // PAGE % self.row_pages]
        k, v = self.memory.numpy()[page, 1, :, :, position % PAGE]
        return k, v


def rotations(n: int, head_dim: int) -> npt.NDArray[np.float32]:
    angles = np.arange(n)[:, None] * inverse_frequencies(CONFIG, head_dim)
    table = np.concatenate([np.cos(angles), np.sin(angles)], -1) * concentration(CONFIG)
    return table.astype(np.float32)


@pytest.mark.parametrize("kind", ["f32", "f16"])
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(4, 2, 16), (16, 2, 64), (3, 3, 48)])
def test_rope_and_write(kind: str, heads: int, kv_heads: int, dim: int) -> None:
    gpu = Gpu("rope_kv")
    rng = np.random.default_rng(heads)
    batch = Batch(gpu, [(2, 190, [1] * 5), (0, 0, [1]), (1, 63, [1, 1])])
    tokens, width = len(batch.tokens), (heads + 2 * kv_heads) * dim
    qkv = rng.normal(size=(tokens, width + 8)).astype(np.float32)
    pages = Pages(gpu, kind, kv_heads, dim, 3, 2)
    out = gpu.empty(qkv.shape, np.float32)
    args = fill(
        "RopeKvArgs",
        step=batch.step,
        qkv=out,
        qkv_stride=width + 8,
        heads=heads,
        rotations=gpu.put(rotations(200, dim)),
        kv=pages.layer,
    )
    positions = np.array(batch.positions)
    q, k, v = np.split(qkv[:, :width], [heads * dim, (heads + kv_heads) * dim], 1)
    q = q.reshape(tokens, heads, dim).astype(np.float64)
    k = k.reshape(tokens, kv_heads, dim).astype(np.float64)
    expected_q, expected_k = rope(q, positions, CONFIG), rope(k, positions, CONFIG)
    rounding = 2.0**-11 if kind == "f16" else 0.0
    for seed in seeds():
        out.write(qkv)
        gpu.launch(f"gptoss_rope_kv_{kind}", tokens + 1, 256, args, seed=seed)
        found = out.numpy()[:, : heads * dim].reshape(q.shape)
        assert (np.abs(found - expected_q) <= tolerances.rope_bound(q, concentration(CONFIG))).all()
        bound = tolerances.rope_bound(k, concentration(CONFIG))
        bound += rounding * (np.abs(expected_k) + bound) + 2.0**-25
        for t in range(tokens):
            stored_k, stored_v = pages.read(batch.token_slots[t], batch.positions[t])
            assert (np.abs(stored_k - expected_k[t]) <= bound[t]).all()
            assert np.array_equal(stored_v, v[t].reshape(kv_heads, dim).astype(pages.dtype))


class Case:
    """Queries of a batch over contexts, and what float64 makes of them."""

    def __init__(
        self,
        gpu: Gpu,
        kind: str,
        sequences: list[tuple[int, int, int]],  # slot, first position, tokens
        *,
        heads: int = 8,
        kv_heads: int = 1,
        dim: int = 64,
        window: int = 0,
        spread: float = 1.0,
    ) -> None:
        rng = np.random.default_rng(heads * dim + window)
        n_slots = 1 + max(slot for slot, _, _ in sequences)
        longest = max(first + n for _, first, n in sequences)
        most = max(n for _, _, n in sequences)
        row_pages = (window + most) // PAGE + 2 if window else -(-longest // PAGE)
        self.batch = Batch(gpu, [(slot, first, [1] * n) for slot, first, n in sequences])
        self.pages = Pages(gpu, kind, kv_heads, dim, n_slots, row_pages)
        self.shape = (len(self.batch.tokens), heads, dim)
        q = (spread * rng.normal(size=self.shape)).astype(np.float32)
        self.sinks = rng.normal(size=heads).astype(np.float32)
        self.scale = np.float32(dim**-0.5)
        contexts = {}
        self.expected, self.bound = np.empty(self.shape), np.empty(self.shape)
        for s, (slot, first, n) in enumerate(sequences):
            k, v = rng.normal(size=(2, first + n, kv_heads, dim)).astype(self.pages.dtype)
            contexts[slot] = (k, v)
            rows = slice(self.batch.offsets[s], self.batch.offsets[s + 1])
            exact = [array.astype(np.float64) for array in (q[rows], k, v)]
            self.expected[rows] = banded_attention(
                *exact,
                self.sinks.astype(np.float64),
                window or None,
                np.arange(first, first + n),
                float(self.scale),
            )
            self.bound[rows] = tolerances.attention_bound(*exact, float(self.scale))
        self.pages.write(contexts)
        width = (heads + 2 * kv_heads) * dim
        qkv = np.full((len(q), width), np.nan, np.float32)
        qkv[:, : heads * dim] = q.reshape(len(q), -1)
        self.q = q
        self.out: Buffer = gpu.empty(self.shape, np.float32 if kind == "f32" else np.uint16)
        self.args = {
            "step": self.batch.step,
            "qkv": gpu.put(qkv),
            "qkv_stride": width,
            "heads": heads,
            "kv": self.pages.layer,
            "sinks": gpu.put(self.sinks),
            "out": self.out,
            "window": window,
            "scale": self.scale,
            "act": 0 if kind == "f32" else 1,
        }

    def found(self) -> npt.NDArray[Any]:
        out = self.out.numpy()
        return out if out.dtype == np.float32 else from_bf16(out)


SEQUENCES = {
    "first": [(0, 0, 1)],
    "page": [(0, 63, 2)],
    "mixed": [(1, 130, 3), (0, 0, 4), (2, 64, 1)],
}


@pytest.mark.parametrize("window", [0, 3, 70])
@pytest.mark.parametrize("sequences", SEQUENCES)
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(4, 2, 16), (10, 1, 80)])
def test_plain_attention(
    sequences: str, window: int, heads: int, kv_heads: int, dim: int
) -> None:
    gpu = Gpu("attention_plain")
    sizes = {"heads": heads, "kv_heads": kv_heads, "dim": dim}
    case = Case(gpu, "f32", SEQUENCES[sequences], window=window, spread=3.0, **sizes)
    args = fill("AttentionArgs", **case.args)
    for seed in seeds():
        gpu.launch("gptoss_attention_f32", (case.shape[0] + 1, kv_heads), 256, args, seed=seed)
        assert (np.abs(case.found() - case.expected) <= case.bound).all()
