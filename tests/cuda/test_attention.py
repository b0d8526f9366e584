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
from gptoss.reference.kv_cache import round_to_int8
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


class CodedPages(Pages):
    """The same in int8, with scales behind keys and values."""

    def __init__(
        self, gpu: Gpu, kind: str, kv_heads: int, head_dim: int, n_slots: int, row_pages: int
    ) -> None:
        assert kind == "int8"
        super().__init__(gpu, "f16", kv_heads, head_dim, n_slots, row_pages)
        codes, scales = (2, kv_heads, PAGE, head_dim), (2, kv_heads, PAGE)
        self.record = np.dtype([("codes", np.int8, codes), ("scales", np.float32, scales)])
        self.memory = gpu.empty((len(self.table.ravel()) + 1, 2), self.record, "pages")
        self.layer.base = self.memory.address + self.record.itemsize
        self.layer.page_stride = 2 * self.record.itemsize
        self.layer.kv = 2

    def write(self, slots: dict[int, tuple[npt.NDArray[Any], npt.NDArray[Any]]]) -> None:
        array = np.zeros(self.memory.shape, self.record)
        array["scales"] = np.nan
        for slot, arrays in slots.items():
            for which, x in enumerate(arrays):
                scales = np.abs(x).max(-1).astype(np.float32) / np.float32(127)
                codes = np.rint(x.astype(np.float64) / np.maximum(scales, 1e-30)[..., None])
                for position in range(len(x)):
                    page = self.table[slot, position // PAGE % self.row_pages]
                    array["codes"][page, 1, which, :, position % PAGE] = codes[position]
                    array["scales"][page, 1, which, :, position % PAGE] = scales[position]
        self.memory.write(array)

    def read(self, slot: int, position: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        record = self.memory.numpy()[self.table[slot, position // PAGE % self.row_pages], 1]
        row = position % PAGE
        scales = record["scales"][:, :, row, None].astype(np.float64)
        k, v = record["codes"][:, :, row] * scales
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


@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(4, 2, 16), (16, 2, 64), (9, 9, 48)])
def test_rope_and_write_in_int8(heads: int, kv_heads: int, dim: int) -> None:
    gpu = Gpu("rope_kv")
    rng = np.random.default_rng(heads)
    batch = Batch(gpu, [(1, 62, [1] * 4), (0, 0, [1])])
    tokens, width = len(batch.tokens), (heads + 2 * kv_heads) * dim
    qkv = rng.normal(size=(tokens, width)).astype(np.float32)
    qkv[1, -dim:] = 0.0
    pages = CodedPages(gpu, "int8", kv_heads, dim, 2, 2)
    args = fill(
        "RopeKvArgs",
        step=batch.step,
        qkv=gpu.put(qkv),
        qkv_stride=width,
        heads=heads,
        rotations=gpu.put(rotations(70, dim)),
        kv=pages.layer,
    )
    gpu.launch("gptoss_rope_kv_int8", tokens, 256, args)
    k, v = qkv[:, heads * dim :].astype(np.float64).reshape(tokens, 2, kv_heads, dim).swapaxes(0, 1)
    rotated = rope(k, np.array(batch.positions), CONFIG)
    bound = tolerances.rope_bound(k, concentration(CONFIG))
    for t in range(tokens):
        stored_k, stored_v = pages.read(batch.token_slots[t], batch.positions[t])
        # Half a code, and what rounding of the number itself and of its scale adds.
        step = (np.abs(rotated[t]).max(-1, keepdims=True) + bound[t].max()) / 127
        assert (np.abs(stored_k - rotated[t]) <= bound[t] + step * (0.5 + 1e-4)).all()
        assert np.abs(stored_v - round_to_int8(v[t])).max() <= 2.0**-23 * np.abs(v[t]).max()


def test_int8_values_that_are_not_finite() -> None:
    gpu = Gpu("rope_kv")
    batch = Batch(gpu, [(0, 0, [1, 1, 1])])
    qkv = np.ones((3, 5 * 16), np.float32)
    qkv[0, 16], qkv[1, 3 * 16 + 5], qkv[2, 79] = np.inf, np.nan, 7e4
    pages = CodedPages(gpu, "int8", 2, 16, 1, 1)
    args = fill(
        "RopeKvArgs",
        step=batch.step,
        qkv=gpu.put(qkv),
        qkv_stride=80,
        heads=1,
        rotations=gpu.put(rotations(3, 16)),
        kv=pages.layer,
    )
    gpu.launch("gptoss_rope_kv_int8", 3, 256, args)
    finite = [[np.isfinite(x).all(-1).tolist() for x in pages.read(0, t)] for t in range(3)]
    both = [True, True]
    assert finite == [[[False, True], both], [[False, True], both], [both, both]]


def test_values_that_are_not_finite_are_told_by_their_keys() -> None:
    gpu = Gpu("rope_kv")
    batch = Batch(gpu, [(0, 0, [1, 1, 1])])
    qkv = np.ones((3, 5 * 16), np.float32)  # one query head, two KV heads
    qkv[0, 16], qkv[1, 3 * 16 + 5], qkv[2, 79] = np.inf, np.nan, 7e4  # too large for f16
    pages = Pages(gpu, "f16", 2, 16, 1, 1)
    args = fill(
        "RopeKvArgs",
        step=batch.step,
        qkv=gpu.put(qkv),
        qkv_stride=80,
        heads=1,
        rotations=gpu.put(rotations(3, 16)),
        kv=pages.layer,
    )
    gpu.launch("gptoss_rope_kv_f16", 3, 256, args)
    finite = [[np.isfinite(x).all(-1).tolist() for x in pages.read(0, t)] for t in range(3)]
    assert finite == [
        [[False, True], [True, True]],
        [[False, True], [True, True]],
        [[True, False], [True, True]],
    ]
    k, v = pages.read(0, 1)
    assert np.isnan(k[0]).all()
    assert not v[0].any()


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
        pages = CodedPages if kind == "int8" else Pages
        self.pages = pages(gpu, kind, kv_heads, dim, n_slots, row_pages)
        self.shape = (len(self.batch.tokens), heads, dim)
        q = (spread * rng.normal(size=self.shape)).astype(np.float32)
        self.sinks = rng.normal(size=heads).astype(np.float32)
        self.scale = np.float32(dim**-0.5)
        self.contexts: dict[int, tuple[npt.NDArray[Any], npt.NDArray[Any]]] = {}
        self.expected, self.bound = np.empty(self.shape), np.empty(self.shape)
        for s, (slot, first, n) in enumerate(sequences):
            k, v = rng.normal(size=(2, first + n, kv_heads, dim)).astype(self.pages.dtype)
            self.contexts[slot] = (k, v)
            rows = slice(self.batch.offsets[s], self.batch.offsets[s + 1])
            exact = [array.astype(np.float64) for array in (q[rows], k, v)]
            if kind == "int8":
                exact[1:] = map(round_to_int8, exact[1:])
            self.expected[rows] = banded_attention(
                *exact,
                self.sinks.astype(np.float64),
                window or None,
                np.arange(first, first + n),
                float(self.scale),
            )
            self.bound[rows] = tolerances.attention_bound(*exact, float(self.scale))
        self.pages.write(self.contexts)
        width = (heads + 2 * kv_heads) * dim
        self.qkv = np.full((len(q), width), np.nan, np.float32)
        self.qkv[:, : heads * dim] = q.reshape(len(q), -1)
        self.q = q
        self.input = gpu.put(self.qkv)
        self.out: Buffer = gpu.empty(self.shape, np.float32 if kind == "f32" else np.uint16)
        self.args = {
            "step": self.batch.step,
            "qkv": self.input,
            "qkv_stride": width,
            "heads": heads,
            "kv": self.pages.layer,
            "sinks": gpu.put(self.sinks),
            "out": self.out,
            "window": window,
            "scale": self.scale,
            "act": 0 if kind == "f32" else 1,
        }

    def use(self, other: Case, slot: int, row: int, begin: int, end: int) -> None:
        """Take tokens [begin, end) of the other's sequence in a slot; they begin at `row` here."""
        k, v = other.contexts[slot]
        length = len(self.contexts[slot][0])
        self.contexts[slot] = (k[:length], v[:length])
        self.pages.write(self.contexts)
        self.qkv[row : row + end - begin] = other.qkv[begin:end]
        self.input.write(self.qkv)
        self.args["sinks"] = other.args["sinks"]

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
def test_plain_attention(sequences: str, window: int, heads: int, kv_heads: int, dim: int) -> None:
    gpu = Gpu("attention_plain")
    sizes = {"heads": heads, "kv_heads": kv_heads, "dim": dim}
    case = Case(gpu, "f32", SEQUENCES[sequences], window=window, spread=3.0, **sizes)
    args = fill("AttentionArgs", **case.args)
    for seed in seeds():
        gpu.launch("gptoss_attention_f32", (case.shape[0] + 1, kv_heads), 256, args, seed=seed)
        assert (np.abs(case.found() - case.expected) <= case.bound).all()


def f16_bound(case: Case) -> npt.NDArray[Any]:
    """Bound what tensor cores and f16 add to a kernel in float32.

    A query and a softmax weight are rounded to f16, by 2^-11 at most; a tensor core's sums of
    products err by K 2^-22 of what they add up, and values of 64 keys join sums of earlier ones.
    If all weights err by at most e relatively, their mean of values errs by at most 2 e max|v|.
    """
    dim = case.shape[2]
    largest = max(float(np.abs(k).max()) for k, _ in case.contexts.values())
    keys = max(len(k) for k, _ in case.contexts.values())
    products = float(np.abs(case.q).sum(-1).max()) * largest * float(case.scale)
    is_int8 = isinstance(case.pages, CodedPages)  # keys and values are rounded to f16, too
    per_weight = (2.0**-11 * (1 + is_int8) + dim * 2.0**-22) * products + 2.0**-11 + 2.0**-20
    values = max(float(np.abs(v).max()) for _, v in case.contexts.values())
    f16 = (2 * per_weight + (keys + 64) * 2.0**-22 + 2.0**-11 * is_int8) * values
    total = case.bound + f16
    rounded: npt.NDArray[Any] = total + 2.0**-8 * (np.abs(case.expected) + total)
    return rounded


def suffix(case: Case) -> str:
    return "_int8" if isinstance(case.pages, CodedPages) else ""


def launch_tile(gpu: Gpu, case: Case, **options: Any) -> npt.NDArray[Any]:
    heads, dim = case.shape[1:]
    kv_heads = case.args["kv"].kv_heads
    tile = 4 * (16 // (heads // kv_heads))
    tiles = min(case.shape[0], case.shape[0] // tile + len(case.batch.sequences))
    args = fill("AttentionArgs", **case.args)
    gpu.launch(
        f"gptoss_attention_tile_{dim}{suffix(case)}", (tiles, kv_heads), 128, args, **options
    )
    return case.out.numpy()


def launch_split(gpu: Gpu, case: Case, **options: Any) -> npt.NDArray[Any]:
    tokens, heads, dim = case.shape
    kv_heads = case.args["kv"].kv_heads
    tile = 4 * (16 // (heads // kv_heads))
    tiles = min(tokens, tokens // tile + len(case.batch.sequences))
    last = max(case.batch.positions)
    splits = last // 128 + 1 if last < 4096 else 33 + (last - 4096) // 512
    partials = gpu.empty((tokens, splits, heads, dim + 2), np.float32, "partials")
    arrived = gpu.put(np.zeros((tiles, kv_heads), np.int32))
    case.out.write(np.full(case.out.shape, 0x7777, case.out.dtype))
    args = fill("AttentionArgs", **case.args, n_splits=splits, partials=partials, arrived=arrived)
    grid = (tiles, kv_heads, splits)
    gpu.launch(f"gptoss_attention_split_{dim}{suffix(case)}", grid, 128, args, **options)
    assert not arrived.numpy().any()
    return case.out.numpy()


FAST = [
    # heads, kv_heads, dim, window, (slot, first position, tokens)
    (8, 1, 64, 0, [(0, 0, 1)]),
    (16, 2, 64, 0, [(0, 127, 2), (1, 300, 1)]),
    (8, 1, 64, 128, [(0, 250, 19), (1, 64, 1), (2, 0, 9)]),
    (6, 2, 16, 0, [(1, 60, 70), (0, 0, 3)]),
    (16, 2, 32, 33, [(0, 100, 9), (1, 0, 40)]),
    (4, 4, 64, 0, [(0, 190, 20)]),
    (16, 1, 16, 5, [(0, 500, 3)]),
]


@pytest.mark.parametrize("kind", ["f16", "int8"])
@pytest.mark.parametrize("number", range(len(FAST)))
def test_fast_attention(number: int, kind: str) -> None:
    heads, kv_heads, dim, window, sequences = FAST[number]
    gpu = Gpu("attention")
    sizes = {"heads": heads, "kv_heads": kv_heads, "dim": dim}
    case = Case(gpu, kind, sequences, window=window, spread=2.0, **sizes)
    bound = f16_bound(case)
    for seed in seeds():
        for hostile in (False, True):
            tile = launch_tile(gpu, case, seed=seed, hostile=hostile)
            assert (np.abs(from_bf16(tile) - case.expected) <= bound).all()
            # Bits are the same for splits that different blocks compute.
            split = launch_split(gpu, case, seed=seed, hostile=hostile)
            assert np.array_equal(split, tile)


def test_long_contexts_have_longer_splits() -> None:
    gpu = Gpu("attention")
    case = Case(gpu, "f16", [(0, 4700, 2)], heads=2, kv_heads=1, dim=16, spread=4.0)
    tile = launch_tile(gpu, case)
    assert (np.abs(from_bf16(tile) - case.expected) <= f16_bound(case)).all()
    assert np.array_equal(launch_split(gpu, case), tile)


@pytest.mark.parametrize("window", [0, 70])
def test_bits_do_not_depend_on_chunks_and_batches(window: int) -> None:
    gpu = Gpu("attention")
    sizes = {"heads": 8, "kv_heads": 1, "dim": 32, "window": window}
    whole = Case(gpu, "f16", [(0, 100, 41)], **sizes)
    expected = launch_tile(gpu, whole, hostile=True)
    for begin, end in ((0, 1), (1, 7), (7, 41), (40, 41)):
        part = Case(gpu, "f16", [(1, 0, 3), (0, 100 + begin, end - begin)], **sizes)
        part.use(whole, 0, 3, begin, end)
        assert np.array_equal(launch_tile(gpu, part, hostile=True)[3:], expected[begin:end])
        assert np.array_equal(launch_split(gpu, part, hostile=True)[3:], expected[begin:end])


def test_what_is_not_finite_stays_with_those_that_see_it() -> None:
    gpu = Gpu("attention")
    case = Case(gpu, "f16", [(0, 0, 40)], heads=8, kv_heads=1, dim=32)
    clean = launch_tile(gpu, case)
    k, v = case.contexts[0]
    k[20], v[20] = np.nan, 0.0
    case.pages.write(case.contexts)
    for found in (launch_tile(gpu, case), launch_split(gpu, case)):
        assert np.array_equal(found[:20], clean[:20])
        assert np.isnan(from_bf16(found[20:])).all()


@pytest.mark.parametrize("kind", ["f16", "int8"])
@pytest.mark.parametrize("window", [0, 70])
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(16, 2, 64), (3, 1, 16)])
def test_single_tokens_are_rotated_and_stored_within(
    heads: int, kv_heads: int, dim: int, window: int, kind: str
) -> None:
    gpu = Gpu("attention", "rope_kv")
    sequences = [(1, 130, 1), (0, 0, 1), (2, 63, 1), (3, 300, 1)]
    case = Case(
        gpu, kind, sequences, window=window, heads=heads, kv_heads=kv_heads, dim=dim, spread=2.0
    )
    before = case.pages.memory.numpy()
    qkv = np.random.default_rng(dim).normal(size=case.qkv.shape).astype(np.float32)
    qkv[3, -1] = np.inf  # a value, which its key tells of
    rope = fill(
        "RopeKvArgs",
        step=case.batch.step,
        qkv=case.input,
        qkv_stride=qkv.shape[1],
        heads=heads,
        rotations=gpu.put(rotations(301, dim)),
        kv=case.pages.layer,
    )
    case.input.write(qkv)
    gpu.launch(f"gptoss_rope_kv_{kind}", len(sequences), 256, rope)
    expected = {seed: launch_tile(gpu, case, seed=seed, hostile=True) for seed in seeds()}
    pages = case.pages.memory.numpy()
    assert pages.tobytes() != before.tobytes()

    case.args["rotations"] = rope.rotations
    for launch in (launch_tile, launch_split):
        for seed in seeds():
            case.input.write(qkv)
            case.pages.memory.write(before)
            assert np.array_equal(launch(gpu, case, seed=seed, hostile=True), expected[seed])
            assert case.pages.memory.numpy().tobytes() == pages.tobytes()
            assert np.array_equal(case.input.numpy(), qkv)


@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(16, 2, 64), (6, 3, 32)])
def test_what_comes_out_in_int8(heads: int, kv_heads: int, dim: int) -> None:
    gpu = Gpu("attention", "matmul_q8")
    sizes = {"heads": heads, "kv_heads": kv_heads, "dim": dim, "spread": 2.0}
    case = Case(gpu, "f16", [(0, 200, 7), (1, 0, 1), (2, 130, 1)], **sizes)
    tokens, k = case.shape[0], heads * dim
    values = np.random.default_rng(0).normal(size=case.contexts[2][1].shape)
    values[:, 0] = 0.0  # a block without a number
    case.contexts[2] = (case.contexts[2][0], values.astype(np.float16))
    case.pages.write(case.contexts)
    codes, scales = gpu.empty((tokens, k), "i1"), gpu.empty((tokens, k // 32), "f4")
    launch_tile(gpu, case)
    quantize = fill(
        "QuantizeArgs", x=case.out, codes=codes, scales=scales, rows=tokens, k=k, x_stride=k, act=1
    )
    gpu.launch("gptoss_quantize_bf16", (tokens, -(-k // 256)), 256, quantize)
    expected = codes.numpy(), scales.numpy()
    assert expected[0].any()
    assert not expected[1].all()
    case.args |= {"codes": codes, "code_scales": scales}
    for launch in (launch_tile, launch_split):
        for seed in seeds():
            codes.write(np.full(codes.shape, 0x55, np.int8))
            scales.write(np.full(scales.shape, np.nan, np.float32))
            launch(gpu, case, seed=seed)
            assert np.array_equal(codes.numpy(), expected[0])
            assert np.array_equal(scales.numpy(), expected[1])
