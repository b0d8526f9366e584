"""Kernels for the rows of the table that are not element-wise, each with its own check."""
# ruff: noqa: E501 (a line of PTX stays one line)

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from emulator.corpus import BF16
from emulator.device import Call, Device, Result, launch_chain

Array = np.ndarray[Any, Any]

E4M3, E5M2 = np.dtype(ml_dtypes.float8_e4m3fn), np.dtype(ml_dtypes.float8_e5m2)
HEADER = ".version 8.6\n.target sm_90\n.address_size 64\n"
REGISTERS = """
  .reg .pred %p<8>; .reg .b16 %rs<16>; .reg .b32 %r<64>; .reg .b64 %rd<24>; .reg .f32 %f<16>;
  .reg .f64 %fd<8>;
  mov.u32 %r1, %tid.x;
"""


@dataclass
class FormKernel:
    """PTX and the function that runs and checks it."""

    text: str
    check: Callable[[], None]


def entry(name: str, parameters: str, body: str, before: str = "") -> str:
    """Return a module with one kernel."""
    names = [p for p in parameters.split(",") if p]
    loads = "".join(f"  ld.param.u64 %rd{i + 1}, [{p.strip()}];\n" for i, p in enumerate(names))
    formal = ", ".join(f".param .u64 {p.strip()}" for p in names)
    return f"{HEADER}{before}\n.entry {name}({formal}) {{{REGISTERS}{loads}{body}\n  ret;\n}}\n"


def clean(result: Result, *allowed: str) -> Result:
    """Assert that nothing was reported, but for the allowed classes."""
    bad = [r.text for r in result.reports if r.name not in allowed]
    assert result.fault == "none", result.reports
    assert not bad, "\n".join(bad)
    return result


KERNELS: dict[str, FormKernel] = {}


def kernel(
    text: str, into: dict[str, FormKernel] = KERNELS
) -> Callable[[Callable[[str], None]], Callable[[str], None]]:
    """Register the check of a text under the function's name."""

    def register(check: Callable[[str], None]) -> Callable[[str], None]:
        into[check.__name__] = FormKernel(text, lambda: check(text))
        return check

    return register


# ---- moves ----

MOVES = entry(
    "k", "out",
    """
  mov.u16 %rs1, 0x1234; mov.b16 %rs2, 0xabcd; mov.s16 %rs3, -2;
  mov.b32 %r2, {%rs1, %rs2};
  mov.b32 {%rs4, %rs5}, %r2;
  mov.b64 %rd3, {%r2, %r1};
  mov.b64 {%r3, %r4}, %rd3;
  mov.b64 {_, %r5}, %rd3;
  mov.b64 %rd4, {%rs1, %rs2, %rs4, %rs5};
  mov.b64 {%rs6, %rs7, %rs8, %rs9}, %rd4;
  cvt.u32.u16 %r6, %rs9;
  mov.f32 %f1, 0f3fc00000; mov.f32 %f2, 1.5; mov.f64 %fd1, 0d3ff8000000000000;
  setp.eq.f32 %p1, %f1, %f2; mov.pred %p2, %p1; mov.s32 %r7, -1; mov.u64 %rd5, 7; mov.s64 %rd6, -7;
  selp.u32 %r8, 1, 0, %p2;
  mov.u32 %r9, WARP_SZ;
  mad.wide.u32 %rd7, %r1, 32, %rd1;
  st.global.v4.u32 [%rd7], {%r2, %r3, %r4, %r5};
  st.global.v4.u32 [%rd7+16], {%r6, %r7, %r8, %r9};
""",
)  # fmt: skip


@kernel(MOVES)
def moves(text: str) -> None:
    device = Device()
    out = device.empty((40, 8), np.uint32)
    clean(device.load(text).launch("k", 1, 40, out))
    t = np.arange(40, dtype=np.uint32)
    both = np.full(40, 0xABCD1234, np.uint32)
    want = [both, both, t, t, np.full(40, 0xABCD, np.uint32), np.full(40, 0xFFFFFFFF, np.uint32),
            np.ones(40, np.uint32), np.full(40, 32, np.uint32)]  # fmt: skip
    assert np.array_equal(out.numpy(), np.stack(want, 1))


SPECIAL = entry(
    "k", "out",
    """
  mov.u32 %r2, %tid.y; mov.u32 %r3, %tid.z; mov.u32 %r4, %ntid.x; mov.u32 %r5, %ntid.y;
  mad.lo.u32 %r6, %r3, %r5, %r2; mad.lo.u32 %r7, %r6, %r4, %r1;
  mov.u32 %r8, %laneid; mov.u32 %r9, %warpid; mov.u32 %r10, %lanemask_lt; mov.u32 %r11, %lanemask_le;
  mov.u32 %r12, %lanemask_gt; mov.u32 %r13, %lanemask_ge; mov.u32 %r14, %lanemask_eq;
  mov.u32 %r15, %nwarpid;
  mov.u32 %r16, %clock; mov.u64 %rd3, %clock64; mov.u64 %rd4, %globaltimer;
  mad.wide.u32 %rd2, %r7, 32, %rd1;
  st.global.v4.u32 [%rd2], {%r8, %r9, %r10, %r11};
  st.global.v4.u32 [%rd2+16], {%r12, %r13, %r14, %r15};
""",
)  # fmt: skip


@kernel(SPECIAL)
def special_registers(text: str) -> None:
    device = Device()
    out = device.empty((60, 8), np.uint32)
    clean(device.load(text).launch("k", 1, (5, 4, 3), out))
    n = np.arange(60, dtype=np.int64)
    lane = n % 32
    below, self_ = (1 << lane) - 1, 1 << lane
    want = [lane, n // 32, below, below | self_, ~(below | self_), ~below, self_, 0 * n + 2]
    assert np.array_equal(out.numpy(), (np.stack(want, 1) & 0xFFFFFFFF).astype(np.uint32))


ADDRESSES = entry(
    "k", "x, out",
    """
  .shared .align 8 .b32 tile[64];
  .local .align 8 .b32 own[4];
  mov.u64 %rd3, tile; cvta.shared.u64 %rd4, %rd3; cvta.to.shared.u64 %rd5, %rd4;
  mov.u64 %rd6, own; cvta.local.u64 %rd7, %rd6; cvta.to.local.u64 %rd8, %rd7;
  cvta.to.global.u64 %rd9, %rd1; cvta.global.u64 %rd10, %rd9;
  mul.wide.u32 %rd11, %r1, 4;
  add.s64 %rd12, %rd4, %rd11; add.s64 %rd13, %rd10, %rd11; add.s64 %rd14, %rd2, %rd11;
  ld.u32 %r2, [%rd13];
  st.u32 [%rd12], %r2; st.u32 [%rd7+4], %r2;
  ld.u32 %r3, [%rd12]; ld.local.u32 %r4, [%rd8+4]; ld.shared.u32 %r5, [tile];
  add.u32 %r6, %r3, %r4;
  isspacep.shared %p1, %rd12; isspacep.local %p2, %rd7; isspacep.global %p3, %rd13;
  isspacep.global %p4, %rd12; isspacep.param %p5, %rd12; isspacep.const %p6, %rd12;
  selp.u32 %r7, 1, 0, %p1; selp.u32 %r8, 2, 0, %p2; selp.u32 %r9, 4, 0, %p3; selp.u32 %r10, 8, 0, %p4;
  or.b32 %r11, %r7, %r8; or.b32 %r12, %r9, %r10; or.b32 %r13, %r11, %r12;
  mad.lo.u32 %r14, %r6, 16, %r13;
  st.u32 [%rd14], %r14;
""",
)  # fmt: skip


@kernel(ADDRESSES)
def generic_addresses(text: str) -> None:
    device = Device()
    x = np.arange(64, dtype=np.uint32)
    out = device.empty(64, np.uint32)
    # Every thread reads the first element of the tile, which thread 0 may not have written yet.
    result = device.load(text).launch("k", 1, 64, device.buffer(x), out)
    assert result.classes <= {
        "race-shared-read-after-write",
        "race-warp",
        "race-shared-write-after-read",
    }
    assert np.array_equal(out.numpy(), 2 * x * 16 + 7)


# ---- loads and stores ----

QUALIFIED_LOADS = [
    "ld.global.u32", "ld.weak.global.u32", "ld.volatile.global.u32", "ld.global.ca.u32", "ld.global.cg.u32",
    "ld.global.cs.u32", "ld.global.lu.u32", "ld.global.cv.u32", "ld.global.L1::no_allocate.L2::128B.u32",
    "ld.global.nc.u32", "ld.global.ca.nc.u32", "ld.global.nc.L1::evict_last.L2::256B.u32", "ldu.global.u32",
    "ld.relaxed.gpu.global.u32", "ld.acquire.sys.global.u32", "ld.relaxed.cta.u32", "ld.u32",
]  # fmt: skip
LOADS = entry(
    "k", "x, out",
    "  mad.wide.u32 %rd3, %r1, 4, %rd1;\n  mov.u32 %r3, 0;\n"
    + "".join(f"  {op} %r2, [%rd3]; add.u32 %r3, %r3, %r2;\n" for op in QUALIFIED_LOADS)
    + "  createpolicy.fractional.L2::evict_first.b64 %rd6, 1.0;\n"
    "  createpolicy.fractional.L2::evict_last.L2::evict_unchanged.b64 %rd6;\n"
    "  ld.global.L2::cache_hint.u32 %r2, [%rd3], %rd6; add.u32 %r3, %r3, %r2;\n"
    "  prefetch.global.L2 [%rd3]; prefetchu.L1 [%rd3]; prefetch.global.L2::evict_last [%rd3];\n"
    "  applypriority.global.L2::evict_normal [%rd1], 128;\n"
    "  mad.wide.u32 %rd4, %r1, 4, %rd2;\n  st.global.wb.L1::evict_first.u32 [%rd4], %r3;\n"
    "  st.relaxed.gpu.global.u32 [%rd4], %r3; st.volatile.global.u32 [%rd4], %r3;\n"
    "  st.release.cta.global.u32 [%rd4], %r3; st.global.L2::cache_hint.u32 [%rd4], %r3, %rd6;\n"
    "  fence.acq_rel.gpu; fence.sc.sys; membar.cta; membar.gl; membar.sys; nanosleep.u32 20;\n",
)  # fmt: skip


@kernel(LOADS)
def qualified_loads_and_stores(text: str) -> None:
    device = Device()
    x = np.random.default_rng(0).integers(0, 2**32, 50, dtype=np.uint32)
    out = device.empty(50, np.uint32)
    clean(device.load(text).launch("k", 1, 50, device.buffer(x), out))
    assert np.array_equal(out.numpy(), x * np.uint32(len(QUALIFIED_LOADS) + 1))


NARROW = entry(
    "k", "x, out",
    """
  mad.wide.u32 %rd3, %r1, 16, %rd1; mad.wide.u32 %rd4, %r1, 64, %rd2;
  ld.global.u8 %r2, [%rd3]; ld.global.s8 %r3, [%rd3]; ld.global.s16 %r4, [%rd3]; ld.global.u16 %rs1, [%rd3+2];
  ld.global.s8 %rs2, [%rd3+5]; ld.global.b16 %rs3, [%rd3+6]; ld.global.s32 %rd5, [%rd3+4];
  ld.global.v2.u8 {%rs4, %rs5}, [%rd3+8]; ld.global.v4.s8 {%r5, %r6, %r7, %r8}, [%rd3+12];
  ld.global.v2.f32 {%f1, %f2}, [%rd3]; ld.global.f64 %fd1, [%rd3+8]; ld.global.v2.b64 {%rd6, %rd7}, [%rd3];
  cvt.u32.u16 %r9, %rs1; cvt.s32.s16 %r10, %rs2; cvt.u32.u16 %r11, %rs3; cvt.u32.u16 %r12, %rs4;
  cvt.u32.u16 %r13, %rs5;
  st.global.v4.u32 [%rd4], {%r2, %r3, %r4, %r9};
  st.global.v4.u32 [%rd4+16], {%r10, %r11, %r12, %r13};
  st.global.v2.u64 [%rd4+32], {%rd5, %rd6};
  st.global.u8 [%rd4+48], %r5; st.global.v2.u8 [%rd4+50], {%r6, %r7}; st.global.u8 [%rd4+49], %r8;
  st.global.b16 [%rd4+52], %rs3; st.global.u16 [%rd4+54], %r9; st.global.f64 [%rd4+56], %fd1;
""",
)  # fmt: skip


@kernel(NARROW)
def narrow_and_vector_accesses(text: str) -> None:
    device = Device()
    x = np.random.default_rng(1).integers(0, 256, (33, 16), dtype=np.uint8)
    out = device.empty((33, 16), np.uint32)
    clean(device.load(text).launch("k", 1, 33, device.buffer(x), out))
    got = out.numpy()
    s8, u16, s16 = x.view(np.int8), x.view(np.uint16), x.view(np.int16)
    want = [x[:, 0], s8[:, 0], s16[:, 0], u16[:, 1], s8[:, 5], u16[:, 3], x[:, 8], x[:, 9]]
    for i, column in enumerate(want):
        assert np.array_equal(got[:, i].view(np.int32), column.astype(np.int32)), i
    wide = got.view(np.int64)
    assert np.array_equal(wide[:, 4], x.view(np.int32)[:, 1].astype(np.int64))
    assert np.array_equal(wide[:, 5].view(np.uint64), x.view(np.uint64)[:, 0])
    tail = got.view(np.uint8).reshape(33, 64)
    assert np.array_equal(tail[:, 48:52], x[:, [12, 15, 13, 14]])
    assert np.array_equal(tail.view(np.uint16)[:, 26], u16[:, 3])
    assert np.array_equal(tail.view(np.uint16)[:, 27], u16[:, 1])
    assert np.array_equal(wide[:, 7].view(np.uint64), x.view(np.uint64)[:, 1])


# ---- atomics ----


def _atomic_text(shared: bool) -> str:
    """Each operation on a cell of its own: `atom` returns the old value, `red` does not."""
    space = "shared" if shared else "global"
    lines = []
    for i, (op, kind) in enumerate(ATOMICS):
        width = "rd" if kind[1:] == "64" else "r"
        value = f"%{width}{20 if width == 'rd' else 50}"
        address = f"[%rd10+{8 * i}]" if not shared else f"[%r40+{8 * i}]"
        sem = ("relaxed.gpu." if i % 2 else "") if not shared else ""
        lines.append(
            f"  atom.{sem}{space}.{op}.{kind} %{width}{21 if width == 'rd' else 51}, {address}, {value};"
        )
        if op not in ("exch",):
            lines.append(f"  red.{space}.{op}.{kind} {address}, {value};")
    return "\n".join(lines)


ATOMICS = [
    (op, kind)
    for op in ("add", "min", "max")
    for kind in ("u32", "s32", "u64", "s64")
] + [(op, kind) for op in ("and", "or", "xor", "exch") for kind in ("b32", "b64")] + [
    ("inc", "u32"), ("dec", "u32")]  # fmt: skip

ATOMIC_TEXT = entry(
    "k", "x, cells, out",
    """
  mad.wide.u32 %rd4, %r1, 8, %rd1;
  ld.global.u64 %rd20, [%rd4]; cvt.u32.u64 %r50, %rd20;
  mov.u64 %rd10, %rd2;
"""
    + _atomic_text(False)
    + """
  .shared .align 8 .b64 local_cells[32];
  mov.u32 %r40, local_cells;
  setp.lt.u32 %p1, %r1, 32; mad.lo.u32 %r41, %r1, 8, %r40; mov.u64 %rd6, 0;
  @%p1 st.shared.u64 [%r41], %rd6;
  bar.sync 0;
"""
    + _atomic_text(True)
    + """
  bar.sync 0;
  mad.wide.u32 %rd7, %r1, 8, %rd3;
  @%p1 ld.shared.u64 %rd8, [%r41];
  @%p1 st.global.u64 [%rd7], %rd8;
""",
)  # fmt: skip


def _atomic_reference(values: list[int], op: str, kind: str) -> set[int] | int:
    bits = int(kind[1:])
    mask = (1 << bits) - 1

    def signed(v: int) -> int:
        v &= mask
        return v - (1 << bits) if kind[0] == "s" and v >> (bits - 1) else v

    old = 0
    if op == "exch":
        return {v & mask for v in values}
    repeated = [v for v in values for _ in range(2)]
    if op in ("inc", "dec"):
        return {*range(1 << 12)}  # depends on the order
    for v in repeated:
        v &= mask
        if op == "add":
            old = (old + v) & mask
        elif op == "min":
            old = min(signed(old), signed(v)) & mask
        elif op == "max":
            old = max(signed(old), signed(v)) & mask
        elif op == "and":
            old &= v
        elif op == "or":
            old |= v
        elif op == "xor":
            old ^= v
    return old


@kernel(ATOMIC_TEXT)
def atomics(text: str) -> None:
    rng = np.random.default_rng(2)
    x = rng.integers(0, 2**64, 40, dtype=np.uint64)
    for seed in range(3):
        device = Device()
        cells = device.buffer(np.zeros(32, np.uint64))
        out = device.empty(40, np.uint64)
        out.write(np.zeros(40, np.uint64))
        clean(device.load(text).launch("k", 1, 40, device.buffer(x), cells, out, seed=seed))
        for got in (cells.numpy(), out.numpy()):
            for i, (op, kind) in enumerate(ATOMICS):
                want = _atomic_reference([int(v) for v in x], op, kind)
                value = int(got[i]) & ((1 << int(kind[1:])) - 1)
                if isinstance(want, set):
                    if op == "exch":
                        assert value in want, (op, kind)
                else:
                    assert value == want, (op, kind)


COUNTERS = entry(
    "k", "cells",
    """
  atom.global.inc.u32 %r2, [%rd1], 9; red.global.inc.u32 [%rd1+4], 9;
  atom.global.dec.u32 %r3, [%rd1+8], 9; red.global.dec.u32 [%rd1+12], 9;
  atom.acq_rel.gpu.global.cas.b32 %r4, [%rd1+16], %r1, 1000; atom.global.cas.b64 %rd2, [%rd1+24], 0, 5;
  mov.b16 %rs1, 0; mov.b16 %rs2, 3; atom.global.cas.b16 %rs3, [%rd1+32], %rs1, %rs2;
  mov.f32 %f1, 0f3fc00000; atom.global.add.f32 %f2, [%rd1+40], %f1; red.global.add.f32 [%rd1+44], %f1;
  mov.f64 %fd1, 0d3fe0000000000000; atom.global.add.f64 %fd2, [%rd1+48], %fd1; red.global.add.f64 [%rd1+56], %fd1;
  mov.b32 %r5, 0x3c003800; atom.global.add.noftz.f16x2 %r6, [%rd1+64], %r5; red.global.add.noftz.f16x2 [%rd1+68], %r5;
  mov.b32 %r7, 0x3f803f00; atom.global.add.noftz.bf16x2 %r8, [%rd1+72], %r7;
  mov.b16 %rs4, 0x3c00; atom.global.add.noftz.f16 %rs5, [%rd1+76], %rs4;
  atom.add.release.gpu.u32 %r9, [%rd1+80], 1; atom.global.gpu.acq_rel.add.f32 %f3, [%rd1+84], %f1;
  atom.global.gpu.relaxed.max.s32 %r10, [%rd1+88], %r1; atom.global.sys.relaxed.cas.b32 %r11, [%rd1+92], 0, 7;
  atom.global.cta.acquire.add.noftz.f16x2 %r12, [%rd1+96], %r5;
  red.release.gpu.global.and.b32 [%rd1+100], 0; red.relaxed.gpu.global.or.b32 [%rd1+104], %r1;
""",
)  # fmt: skip


@kernel(COUNTERS)
def atomics_of_every_type(text: str) -> None:
    device = Device()
    cells = device.buffer(np.zeros(27, np.uint32))
    clean(device.load(text).launch("k", 1, 25, cells))
    got = cells.numpy()
    # Counting up 25 times modulo 10; down from 0: 9, 8, ..., wrapping.
    assert list(got[:4]) == [5, 5, 5, 5]
    assert got[4] == 1000  # thread 0 compares with 0
    assert got[6] == 5
    assert got[8] & 0xFFFF == 3
    assert got.view(np.float32)[10] == got.view(np.float32)[11] == 37.5
    pair = np.frombuffer(got[12:16].tobytes(), np.float64)
    assert list(pair) == [12.5, 12.5]
    assert list(got[16:18].view(np.float16)) == [12.5, 25, 12.5, 25]
    assert [float(v) for v in got[18:19].view(BF16)] == [12.5, 25]
    assert got[19:20].view(np.float16)[0] == 25
    assert got[20] == 25
    assert got.view(np.float32)[21] == 37.5
    assert got[22] == 24
    assert got[23] == 7
    assert list(got[24:25].view(np.float16)) == [12.5, 25]
    assert got[25] == 0
    assert got[26] == 31


# ---- carries ----

CARRIES = entry(
    "k", "x, out",
    """
  mad.wide.u32 %rd3, %r1, 32, %rd1; mad.wide.u32 %rd4, %r1, 64, %rd2;
  ld.global.v4.u32 {%r2, %r3, %r4, %r5}, [%rd3]; ld.global.v2.u64 {%rd5, %rd6}, [%rd3+16];
  add.cc.u32 %r6, %r2, %r4; addc.u32 %r7, %r3, %r5;
  sub.cc.u32 %r8, %r2, %r4; subc.cc.u32 %r9, %r3, %r5; addc.u32 %r10, 0, 0;
  add.cc.u64 %rd7, %rd5, %rd6; addc.cc.u64 %rd8, %rd5, %rd5; addc.u64 %rd9, 0, 0;
  mul.lo.u32 %r11, %r2, %r4;
  mad.lo.cc.u32 %r12, %r2, %r4, %r5; madc.hi.u32 %r13, %r2, %r4, %r3;
  mad.hi.cc.s32 %r14, %r2, %r4, %r5; madc.lo.cc.u32 %r15, %r3, %r5, %r2; addc.u32 %r16, 0, 0;
  st.global.v4.u32 [%rd4], {%r6, %r7, %r8, %r9}; st.global.v4.u32 [%rd4+16], {%r10, %r12, %r13, %r14};
  st.global.v2.u32 [%rd4+32], {%r15, %r16}; st.global.u64 [%rd4+40], %rd7; st.global.v2.u64 [%rd4+48], {%rd8, %rd9};
""",
)  # fmt: skip


@kernel(CARRIES)
def carries(text: str) -> None:
    device = Device()
    x = np.random.default_rng(3).integers(0, 2**32, (40, 8), dtype=np.uint32)
    x[:5, :4] = 0xFFFFFFFF
    out = device.empty((40, 16), np.uint32)
    clean(device.load(text).launch("k", 1, 40, device.buffer(x), out))
    m32, m64 = (1 << 32) - 1, (1 << 64) - 1
    for row, got in zip(x.tolist(), out.numpy().tolist(), strict=True):
        a, b, c, d = row[:4]
        e, f = row[4] | row[5] << 32, row[6] | row[7] << 32
        total = (a | b << 32) + (c | d << 32)
        minus = (a | b << 32) - (c | d << 32)
        borrow = int(minus < 0)
        low = a * c + d
        high = ((a * c >> 32) + b + (low & m32 < 0) + ((a * c & m32) + d >> 32)) & m32

        def s(v: int) -> int:
            return v - (1 << 32) if v >> 31 else v

        signed_high = (s(a) * s(c) >> 32) & m32
        mad_hi = signed_high + d
        madc_lo = (b * d & m32) + a + (mad_hi >> 32)
        first = e + f
        second = e + e + (first >> 64)
        want = [total & m32, total >> 32 & m32, minus & m32, minus >> 32 & m32, borrow, low & m32, high,
                mad_hi & m32, madc_lo & m32, madc_lo >> 32]  # fmt: skip
        assert got[:10] == want
        wide = [got[2 * i] | got[2 * i + 1] << 32 for i in range(5, 8)]
        assert wide == [first & m64, second & m64, second >> 64]


# ---- lanes of a warp ----

LANES = entry(
    "k", "x, out",
    """
  mad.wide.u32 %rd3, %r1, 4, %rd1; mad.wide.u32 %rd4, %r1, 64, %rd2;
  ld.global.u32 %r2, [%rd3];
  shfl.sync.idx.b32 %r10|%p1, %r2, 5, 0x181f, -1; shfl.sync.up.b32 %r11|%p2, %r2, 3, 0, -1;
  shfl.sync.down.b32 %r12|%p3, %r2, 4, 0x101f, -1; shfl.sync.bfly.b32 %r13, %r2, 9, 31, -1;
  selp.u32 %r14, 1, 0, %p1; selp.u32 %r15, 1, 0, %p2; selp.u32 %r16, 1, 0, %p3;
  setp.gt.u32 %p4, %r2, 100; vote.sync.ballot.b32 %r17, %p4, -1; vote.sync.uni.pred %p5, %p4, -1;
  vote.sync.all.pred %p6, !%p4, -1; vote.sync.any.pred %p7, %p4, -1;
  selp.u32 %r18, 1, 0, %p5; selp.u32 %r19, 2, 0, %p6; selp.u32 %r20, 4, 0, %p7; or.b32 %r18, %r18, %r19;
  or.b32 %r18, %r18, %r20;
  and.b32 %r21, %r2, 3; match.any.sync.b32 %r22, %r21, -1; cvt.u64.u32 %rd5, %r21; match.any.sync.b64 %r23, %rd5, -1;
  match.all.sync.b32 %r24|%p1, %r21, -1; mov.u32 %r25, 9; match.all.sync.b32 %r26|%p2, %r25, -1;
  match.all.sync.b64 %r27, %rd5, -1;
  redux.sync.add.u32 %r28, %r2, -1; redux.sync.min.s32 %r29, %r2, -1; redux.sync.max.u32 %r30, %r2, -1;
  redux.sync.and.b32 %r31, %r2, -1; redux.sync.or.b32 %r32, %r2, -1; redux.sync.xor.b32 %r33, %r2, -1;
  activemask.b32 %r34; bar.warp.sync -1;
  st.global.v4.u32 [%rd4], {%r10, %r11, %r12, %r13}; st.global.v4.u32 [%rd4+16], {%r14, %r15, %r16, %r17};
  st.global.v4.u32 [%rd4+32], {%r18, %r22, %r23, %r26}; xor.b32 %r35, %r31, %r32; xor.b32 %r35, %r35, %r33;
  add.u32 %r36, %r28, %r29; st.global.v4.u32 [%rd4+48], {%r36, %r30, %r35, %r34};
""",
)  # fmt: skip


@kernel(LANES)
def lanes(text: str) -> None:
    device = Device()
    x = np.random.default_rng(4).integers(0, 200, 32, dtype=np.uint32)
    out = device.empty((32, 16), np.uint32)
    clean(device.load(text).launch("k", 1, 32, device.buffer(x), out))
    got, v = out.numpy(), [int(q) for q in x]
    for lane in range(32):
        same = sum(1 << j for j in range(32) if v[j] & 3 == v[lane] & 3)
        block = lane & ~7  # segments of 8
        up_ok = lane >= 3
        down = lane + 4
        half = lane | 15
        want = [
            v[block + 5], v[lane - 3] if up_ok else v[lane], v[down] if down <= half else v[lane], v[lane ^ 9],
            1, int(up_ok), int(down <= half), sum(1 << j for j in range(32) if v[j] > 100),
        ]  # fmt: skip
        assert got[lane, :8].tolist() == want, lane
        assert got[lane, 8] == 4
        assert got[lane, 9] == got[lane, 10] == same
        assert got[lane, 11] == 0xFFFFFFFF
        union, common, parity = 0, 0xFFFFFFFF, 0
        for q in v:
            union, common, parity = union | q, common & q, parity ^ q
        assert got[lane, 12:].tolist() == [
            sum(v) + min(v),
            max(v),
            common ^ union ^ parity,
            0xFFFFFFFF,
        ]


BARRIERS = entry(
    "k", "out",
    """
  .shared .align 4 .b32 cell[64];
  mov.u32 %r3, cell; mad.lo.u32 %r4, %r1, 4, %r3;
  st.shared.u32 [%r4], %r1;
  barrier.sync.aligned 0; barrier.sync 1, 64; bar.cta.sync 2; barrier.cta.sync.aligned 3;
  xor.b32 %r5, %r1, 63; mad.lo.u32 %r6, %r5, 4, %r3; ld.shared.u32 %r7, [%r6];
  setp.gt.u32 %p1, %r1, 20;
  bar.red.popc.u32 %r8, 4, %p1; barrier.red.popc.aligned.u32 %r9, 5, !%p1; bar.cta.red.popc.u32 %r10, 6, 64, %p1;
  barrier.red.and.aligned.pred %p2, 7, %p1; bar.red.or.pred %p3, 8, %p1; barrier.cta.red.or.pred %p4, 9, !%p1;
  selp.u32 %r11, 1, 0, %p2; selp.u32 %r12, 2, 0, %p3; add.u32 %r11, %r11, %r12;
  setp.lt.u32 %p5, %r1, 32; mov.u32 %r13, 0;
  @%p5 bar.arrive 10, 64; @!%p5 bar.sync 10, 64;
  @%p5 barrier.arrive 11, 64; @!%p5 barrier.sync 11, 64;
  mad.wide.u32 %rd2, %r1, 16, %rd1; add.u32 %r8, %r8, %r10;
  st.global.v4.u32 [%rd2], {%r7, %r8, %r9, %r11};
  @%p1 bra ODD; bra.uni DONE;
ODD:
  @!%p1 trap; @!%p1 brkpt;
DONE:
  exit;
""",
)  # fmt: skip


@kernel(BARRIERS)
def barriers(text: str) -> None:
    device = Device()
    out = device.empty((64, 4), np.uint32)
    for seed in range(5):
        clean(device.load(text).launch("k", 1, 64, out, seed=seed))
        got = out.numpy()
        assert np.array_equal(got[:, 0], 63 - np.arange(64))
        assert np.array_equal(got[:, 1:], np.tile(np.array([86, 21, 2], np.uint32), (64, 1)))


# ---- conversions of 8-bit floats, on all pairs; test_headers.py has cuda_fp8.h ----


def _fp8_text(relu: str) -> str:
    lines = []
    for i, kind in enumerate(("e4m3x2", "e5m2x2")):
        lines.append(f"""
  cvt.rn{relu}.f16x2.{kind} %r4, %rs1; mov.b32 {{%rs2, %rs3}}, %r4;
  cvt.f32.f16 %f1, %rs2; cvt.f32.f16 %f2, %rs3;
  cvt.rn.satfinite{relu}.{kind}.f32 %rs4, %f2, %f1; cvt.rn.satfinite{relu}.{kind}.f16x2 %rs5, %r3;
  mov.b32 %r5, {{%rs4, %rs5}}; st.global.v2.b32 [%rd2+{8 * i}], {{%r4, %r5}};""")
    return entry(
        "k", "out",
        """
  mov.u32 %r2, %ctaid.x; mad.lo.u32 %r2, %r2, 256, %r1; cvt.u16.u32 %rs1, %r2;
  mad.wide.u32 %rd2, %r2, 16, %rd1;
  // Two different halves of each value.
  not.b32 %r3, %r2; cvt.u16.u32 %rs6, %r3; mov.b32 %r3, {%rs1, %rs6};"""
        + "".join(lines),
    )  # fmt: skip


def _check_fp8(text: str, is_relu: bool) -> None:
    device = Device()
    out = device.empty((65536, 4), np.uint32, "out")
    clean(device.load(text).launch("k", 256, 256, out))
    got = out.numpy()
    every = np.arange(65536, dtype=np.uint16)
    halves = np.stack([every, ~every], 1).view(np.float16)
    for i, kind in enumerate((E4M3, E5M2)):

        def to_bytes(x: Array, kind: Any = kind) -> Array:
            x = x.astype(np.float32)
            largest = float(ml_dtypes.finfo(kind).max)
            with np.errstate(all="ignore"):
                raw = np.clip(x, -largest, largest).astype(kind).view(np.uint8)
            raw = np.where(np.isnan(x), 0x7F, raw)
            return np.where(is_relu & np.signbit(x) & ~np.isnan(x), 0, raw).astype(np.uint8)

        values = every[:, None].view(np.uint8).view(kind).astype(np.float32)
        wanted = np.where(is_relu & np.signbit(values) & ~np.isnan(values), 0, values)
        pair = got[:, 2 * i : 2 * i + 1].view(np.float16).astype(np.float32)
        assert np.array_equal(pair, wanted, equal_nan=True)
        assert np.array_equal(np.signbit(pair[wanted == 0]), np.signbit(wanted[wanted == 0]))
        assert (got[:, 2 * i : 2 * i + 1].view(np.uint16)[np.isnan(values)] == 0x7FFF).all()
        packed = got[:, 2 * i + 1 : 2 * i + 2].view(np.uint8)
        assert np.array_equal(packed[:, :2], to_bytes(wanted))
        assert np.array_equal(packed[:, 2:], to_bytes(halves))


for _relu in ("", ".relu"):
    KERNELS[f"fp8{_relu}"] = FormKernel(
        _fp8_text(_relu), lambda r=_relu: _check_fp8(_fp8_text(r), bool(r))
    )


# ---- matrices ----


def _fragments(
    rows: int, columns: int, per: int, by_column: bool
) -> list[list[list[tuple[int, int]]]]:
    """Return register -> lane -> elements (row, column) of an operand of mma, from the PTX manual."""
    out = []
    depth = columns if not by_column else rows
    groups = depth // (4 * per)
    blocks = (
        [(i, h) for i in range(groups) for h in range(rows // 8)]
        if not by_column
        else [(i, 0) for i in range(groups)]
    )
    for i, h in blocks:
        lanes_ = []
        for lane in range(32):
            g, t = lane // 4, lane % 4
            k = [per * (t + 4 * i) + e for e in range(per)]
            lanes_.append([(g + 8 * h, q) for q in k] if not by_column else [(q, g) for q in k])
        out.append(lanes_)
    return out


def _mma(opcode: str, a: Array, b: Array, c: Array, per: int) -> Array:
    """Run one mma on matrices of raw elements and return D."""
    (m, k), n = a.shape, b.shape[1]
    bits = 32 // per

    def pack(matrix: Array, places: list[list[list[tuple[int, int]]]], each: int) -> Array:
        raw = matrix.view(f"u{matrix.itemsize}").astype(np.uint64)
        words = np.zeros((len(places), 32), np.uint64)
        for r, lanes_ in enumerate(places):
            for lane, cells in enumerate(lanes_):
                for e, cell in enumerate(cells):
                    words[r, lane] |= raw[cell] << np.uint64(each * e)
        return words.astype(np.uint32)

    half = c.itemsize == 2
    sums = [
        [[(lane // 4 + 8 * h, 2 * (lane % 4) + e) for e in ((0, 1) if half else (j,))] for lane in range(32)]
        for h in range(2) for j in ((0,) if half else (0, 1))
    ]  # fmt: skip
    fragments = [pack(a, _fragments(m, k, per, False), bits), pack(b, _fragments(k, n, per, True), bits),
                 pack(c, sums, 16)]  # fmt: skip
    count = [len(f) for f in fragments]
    names = []
    at = 10
    loads = []
    for f, base in zip(count, (1, 2, 3), strict=True):
        registers = [f"%r{at + i}" for i in range(f)]
        at += f
        names.append("{" + ", ".join(registers) + "}")
        for i, register in enumerate(registers):
            loads.append(
                f"  mad.wide.u32 %rd6, %r1, 4, %rd{base}; ld.global.u32 {register}, [%rd6+{128 * i}];"
            )
    results = [f"%r{at + i}" for i in range(count[2])]
    stores = [
        f"  mad.wide.u32 %rd6, %r1, 4, %rd4; st.global.u32 [%rd6+{128 * i}], {r};"
        for i, r in enumerate(results)
    ]
    body = "\n".join([*loads, f"  {opcode} {{{', '.join(results)}}}, {', '.join(names)};", *stores])
    text = entry("k", "a, b, c, d", body)
    device = Device()
    d = device.empty((count[2], 32), np.uint32)
    clean(device.load(text).launch("k", 1, 32, *(device.buffer(f) for f in fragments), d))
    out = np.zeros((m, n), c.dtype)
    raw = d.numpy()
    for r, lanes_ in enumerate(sums):
        for lane, cells in enumerate(lanes_):
            for e, cell in enumerate(cells):
                word = np.array([raw[r, lane]], np.uint32)
                out[cell] = word.view(c.dtype)[e if half else 0]
    return out


MMA = {
    "bf16": ("f32.bf16.bf16.f32", ("m16n8k8", "m16n8k16"), BF16, np.dtype(np.float32), 2),
    "f16": (
        "f32.f16.f16.f32",
        ("m16n8k8", "m16n8k16"),
        np.dtype(np.float16),
        np.dtype(np.float32),
        2,
    ),
    "f16 sums": (
        "f16.f16.f16.f16",
        ("m16n8k8", "m16n8k16"),
        np.dtype(np.float16),
        np.dtype(np.float16),
        2,
    ),
    "tf32": (
        "f32.tf32.tf32.f32",
        ("m16n8k4", "m16n8k8"),
        np.dtype(np.float32),
        np.dtype(np.float32),
        1,
    ),
    "s8": ("s32.s8.s8.s32", ("m16n8k16", "m16n8k32"), np.dtype(np.int8), np.dtype(np.int32), 4),
    "u8": ("s32.u8.u8.s32", ("m16n8k16", "m16n8k32"), np.dtype(np.uint8), np.dtype(np.int32), 4),
    "u8 by s8": ("s32.u8.s8.s32", ("m16n8k32",), np.dtype(np.uint8), np.dtype(np.int32), 4),
}
for _sum, _dtype in (("f32", np.dtype(np.float32)), ("f16", np.dtype(np.float16))):
    for _a, _of_a in (("e4m3", E4M3), ("e5m2", E5M2)):
        for _b in ("e4m3", "e5m2"):
            MMA[f"{_a} by {_b} in {_sum}"] = (
                f"{_sum}.{_a}.{_b}.{_sum}", ("m16n8k32",), _of_a, _dtype, 4,
            )  # fmt: skip
# Where B is of another type than A.
OF_B = {"u8 by s8": np.dtype(np.int8)}
OF_B |= {name: E4M3 if " by e4m3" in name else E5M2 for name in MMA if " in f" in name}


def _check_mma(name: str) -> None:
    types, shapes, element, result, per = MMA[name]
    rng = np.random.default_rng(5)
    for shape in shapes:
        k = int(shape.split("k")[1])
        is_integer = result.kind == "i"
        if is_integer:
            a = rng.integers(0, 256, (16, k)).astype(np.uint8).view(element)
            b = rng.integers(0, 256, (k, 8)).astype(np.uint8).view(OF_B.get(name, element))
            c = rng.integers(-(2**20), 2**20, (16, 8)).astype(np.int32)
            want = a.astype(np.int64) @ b.astype(np.int64) + c
        else:
            a = rng.standard_normal((16, k)).astype(element)
            b = rng.standard_normal((k, 8)).astype(OF_B.get(name, element))
            c = rng.standard_normal((16, 8)).astype(result)
            if name == "tf32":  # what the instruction looks at
                a, b = (
                    (q.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32) for q in (a, b)
                )
            want = a.astype(np.float64) @ b.astype(np.float64) + c.astype(np.float64)
        got = _mma(f"mma.sync.aligned.{shape}.row.col.{types}", a, b, c, per)
        if is_integer:
            assert np.array_equal(got, want), shape
        else:
            # Exact sums of exact products, rounded once (float64 adds 2^-53).
            assert np.array_equal(got, want.astype(result)), shape


def _mma_text(name: str) -> str:
    """Return PTX with the rows' opcodes, for the count of what is tested."""
    types, shapes, _, result, per = MMA[name]
    lines = []
    for shape in shapes:
        k = int(shape.split("k")[1])
        n_a, n_b = 16 * k // 32 // per, 8 * k // 32 // per
        n_c = 2 if result.itemsize == 2 else 4

        def registers(n: int) -> str:
            return "{" + ", ".join(f"%r{10 + i}" for i in range(n)) + "}"

        lines.append(
            f"mma.sync.aligned.{shape}.row.col.{types} {registers(n_c)}, {registers(n_a)}, {registers(n_b)},"
            f" {registers(n_c)};"
        )
    return entry("k", "x", "\n".join(lines))


for _name in MMA:
    KERNELS[f"mma {_name}"] = FormKernel(_mma_text(_name), lambda n=_name: _check_mma(n))


def _matrix_text() -> str:
    body = """
  .shared .align 16 .b16 tile[1024];
  mov.u32 %r3, tile; mad.lo.u32 %r4, %r1, 16, %r3;
  mad.wide.u32 %rd3, %r1, 16, %rd1;
  ld.global.v4.u32 {%r5, %r6, %r7, %r8}, [%rd3]; st.shared.v4.u32 [%r4], {%r5, %r6, %r7, %r8};
  bar.warp.sync -1;
"""
    stores = ""
    at = 0
    for n, trans in ((4, ""), (4, ".trans"), (2, ""), (1, ".trans")):
        registers = [f"%r{10 + i}" for i in range(n)]
        body += f"  ldmatrix.sync.aligned.m8n8.x{n}{trans}.shared.b16 {{{', '.join(registers)}}}, [%r4];\n"
        for r in registers:
            body += f"  mad.wide.u32 %rd4, %r1, 4, %rd2; st.global.u32 [%rd4+{128 * at}], {r};\n"
            at += 1
    body += "  ldmatrix.sync.aligned.m8n8.x4.shared::cta.b16 {%r10, %r11, %r12, %r13}, [%r4];\n"
    for n, trans, where in ((4, "", 512), (2, ".trans", 1024), (1, "", 1536)):
        registers = ", ".join(f"%r{10 + i}" for i in range(n))
        body += f"  add.u32 %r20, %r4, {where}; stmatrix.sync.aligned.m8n8.x{n}{trans}.shared.b16 [%r20], {{{registers}}};\n"
    body += "  bar.warp.sync -1;\n"
    for where in (512, 640, 1024, 1152, 1536):
        body += f"  mad.lo.u32 %r21, %r1, 4, %r3; ld.shared.u32 %r22, [%r21+{where}];\n"
        body += f"  mad.wide.u32 %rd4, %r1, 4, %rd2; st.global.u32 [%rd4+{128 * at}], %r22;\n"
        at += 1
    return entry("k", "x, out", body + stores)


@kernel(_matrix_text())
def matrix_loads_and_stores(text: str) -> None:
    device = Device()
    x = np.random.default_rng(6).integers(0, 2**16, (4, 8, 8), dtype=np.uint16)
    out = device.empty((16, 32), np.uint32)
    clean(device.load(text).launch("k", 1, 32, device.buffer(x), out))
    got = out.numpy()

    def fragment(matrix: Array) -> Array:
        return np.ascontiguousarray(matrix).view(np.uint32).reshape(32)

    want = [fragment(x[i]) for i in range(4)] + [fragment(x[i].T) for i in range(4)]
    want += [fragment(x[0]), fragment(x[1]), fragment(x[0].T)]
    assert np.array_equal(got[:11], np.stack(want))
    # stmatrix puts the fragments back: as they were, and transposed.
    memory = [fragment(x[0]), fragment(x[1]), fragment(x[0].T), fragment(x[1].T), fragment(x[0])]
    assert np.array_equal(got[11:], np.stack(memory))


# ---- asynchronous copies ----

ASYNC = entry(
    "k", "x, out",
    """
  .shared .align 16 .b8 stage[1536];
  mov.u32 %r3, stage; mad.lo.u32 %r4, %r1, 16, %r3; mad.wide.u32 %rd3, %r1, 16, %rd1;
  cp.async.cg.shared.global [%r4], [%rd3], 16; cp.async.commit_group;
  cp.async.ca.shared::cta.global.L2::128B [%r4+512], [%rd3], 8, %r1; cp.async.commit_group;
  cp.async.ca.shared.global [%r4+1024], [%rd3+4], 4; cp.async.commit_group;
  cp.async.wait_group 2; ld.shared.v2.u64 {%rd4, %rd5}, [%r4];
  cp.async.wait_group 1; ld.shared.u64 %rd6, [%r4+512];
  cp.async.wait_all; ld.shared.u32 %r5, [%r4+1024]; cvt.u64.u32 %rd7, %r5;
  mad.wide.u32 %rd8, %r1, 32, %rd2;
  st.global.v2.u64 [%rd8], {%rd4, %rd5}; st.global.v2.u64 [%rd8+16], {%rd6, %rd7};
""",
)  # fmt: skip


@kernel(ASYNC)
def asynchronous_copies(text: str) -> None:
    device = Device()
    x = np.random.default_rng(8).integers(0, 256, (32, 16), dtype=np.uint8)
    out = device.empty((32, 32), np.uint8)
    clean(device.load(text).launch("k", 1, 32, device.buffer(x), out))
    got = out.numpy()
    assert np.array_equal(got[:, :16], x)
    for t in range(32):
        n = min(t, 8)  # bytes that come from the source; zeros follow
        assert got[t, 16 : 16 + n].tolist() == x[t, :n].tolist()
        assert not got[t, 16 + n : 24].any()
    assert np.array_equal(got[:, 24:28], x[:, 4:8])


# ---- grids that depend on each other; test_grids.py has what they promise ----

GRIDS = entry(
    "k", "x, out",
    """
  griddepcontrol.launch_dependents;
  mad.wide.u32 %rd3, %r1, 4, %rd1; mad.wide.u32 %rd4, %r1, 4, %rd2;
  and.b32 %r2, %r1, 1; setp.eq.u32 %p1, %r2, 0;
  @%p1 griddepcontrol.wait;
  bar.sync 0;
  ld.global.u32 %r3, [%rd3]; add.u32 %r3, %r3, 1; st.global.u32 [%rd4], %r3;
""",
)  # fmt: skip


@kernel(GRIDS)
def grid_dependencies(text: str) -> None:
    device = Device()
    module = device.load(text)
    buffers = [device.buffer(np.arange(64, dtype=np.uint32) * 10) for _ in range(4)]
    calls = [Call(module, "k", 1, 64, [buffers[i], buffers[i + 1]], i > 0) for i in range(3)]
    for result in launch_chain(calls, seed=2):
        clean(result)
    assert np.array_equal(buffers[3].numpy(), np.arange(64) * 10 + 3)


# ---- the async proxy; the kernels of hopper.cu and faults.py have more ----

PROXY = entry(
    "k", "x, out",
    """
  .shared .align 16 .b8 tile[512]; .shared .align 8 .b64 full; .shared .align 8 .b64 other;
  mov.u32 %r2, tile; mov.u32 %r3, full; mov.u64 %rd3, other; cvta.shared.u64 %rd4, %rd3;
  createpolicy.fractional.L2::evict_first.b64 %rd9, 1.0;
  elect.sync %r4|%p1, -1;
  setp.ge.u32 %p2, %r1, 32; @%p2 setp.ne.u32 %p1, %r1, %r1;
  @%p1 mbarrier.init.shared::cta.b64 [%r3], 1;
  @%p1 mbarrier.init.b64 [%rd4], 64;
  @%p1 fence.mbarrier_init.release.cluster;
  bar.sync 0;
  @%p1 mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%r3], 256;
  @%p1 mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 %rd5, [%r3], 256;
  add.u64 %rd6, %rd1, 256; add.u32 %r5, %r2, 256;
  @%p1 cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes [%r2], [%rd1], 256, [%r3];
  @%p1 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%r5], [%rd6], 256, [full], %rd9;
WAIT:
  mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 %p3, [%r3], 0, 1000;
  @!%p3 bra WAIT;
  mad.lo.u32 %r6, %r1, 8, %r2; ld.shared.v2.u32 {%r7, %r8}, [%r6];
  add.u32 %r7, %r7, 1; xor.b32 %r8, %r8, %r4; st.shared.v2.u32 [%r6], {%r7, %r8};
  fence.proxy.async;
  mbarrier.arrive.b64 %rd7, [%rd4], 1;
TEST:
  mbarrier.test_wait.b64 %p4, [%rd4], %rd7;
  @!%p4 bra TEST;
  @%p1 cp.async.bulk.global.shared::cta.bulk_group.L2::cache_hint [%rd2], [tile], 512, %rd9;
  cp.async.bulk.commit_group;
  cp.async.bulk.wait_group.read 0; cp.async.bulk.wait_group 0;
  mad.wide.u32 %rd8, %r1, 8, %rd2; selp.u32 %r9, 1, 0, %p1;
  st.global.v2.u32 [%rd8+512], {%r9, %r4};
  bar.sync 0;
  @%p1 mbarrier.inval.b64 [%rd4];
""",
)  # fmt: skip


@kernel(PROXY)
def async_proxy(text: str) -> None:
    leaders = set()
    for seed in range(8):
        device = Device()
        x = np.random.default_rng(seed).integers(0, 2**32, (64, 2), dtype=np.uint32)
        out = device.empty((128, 2), np.uint32)
        clean(device.load(text).launch("k", 1, 64, device.buffer(x), out, seed=seed))
        got = out.numpy()
        chosen, leader = got[64:, 0], got[64:, 1]
        # One lane of the first warp, and every lane of a warp hears of the same one.
        assert chosen.sum() == 1
        assert chosen.argmax() == leader[0]
        assert (leader.reshape(2, 32) == leader[::32, None]).all()
        assert np.array_equal(got[:64, 0], x[:, 0] + 1)
        assert np.array_equal(got[:64, 1], x[:, 1] ^ leader)
        leaders.add(int(leader[0]))
    assert len(leaders) > 1


# ---- tensor copies ----


def _box_text(rank: int, form: int) -> str:
    """Return a kernel that takes a box in, hands its bytes out, and stores it to another tensor."""
    c = ", ".join(f"%r{10 + i}" for i in range(rank))
    into, tile = (("shared::cluster", ""), ("shared::cta", ".tile"))[form]
    hint, policy = ((".L2::cache_hint", ", %rd9"), ("", ""))[form]
    loads = "".join(f"  ld.param.u32 %r{10 + i}, [at+{4 * i}];\n" for i in range(rank))
    return f"""{HEADER}
.entry k(.param .align 64 .b8 from[128], .param .align 64 .b8 to[128], .param .align 4 .b8 at[20],
  .param .u32 bytes, .param .u64 raw) {{
  .reg .pred %p<4>; .reg .b32 %r<24>; .reg .b64 %rd<12>;
  .shared .align 1024 .b8 tile[4096]; .shared .align 8 .b64 full;
  mov.u32 %r1, %tid.x; mov.u32 %r2, tile; mov.u32 %r3, full; setp.eq.u32 %p1, %r1, 0;
  mov.b64 %rd1, from; cvta.param.u64 %rd2, %rd1; mov.b64 %rd3, to; cvta.param.u64 %rd4, %rd3;
  ld.param.u32 %r4, [bytes]; ld.param.u64 %rd5, [raw];
{loads}  createpolicy.fractional.L2::evict_first.b64 %rd9, 1.0;
  @%p1 prefetch.tensormap [%rd2];
  @%p1 mbarrier.init.shared::cta.b64 [%r3], 1;
  bar.sync 0;
  @%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r3], %r4;
  @%p1 cp.async.bulk.tensor.{rank}d.{into}.global{tile}.mbarrier::complete_tx::bytes{hint} [%r2], [%rd2, {{{c}}}], [%r3]{policy};
WAIT:
  mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r3], 0; @!%p2 bra WAIT;
  mad.lo.u32 %r5, %r1, 16, %r2; mad.wide.u32 %rd6, %r1, 16, %rd5; mul.lo.u32 %r6, %r1, 16;
  setp.lt.u32 %p3, %r6, %r4;
  @%p3 ld.shared.v2.u64 {{%rd7, %rd8}}, [%r5]; @%p3 st.global.v2.u64 [%rd6], {{%rd7, %rd8}};
  @%p1 cp.async.bulk.tensor.{rank}d.global.shared::cta{tile}.bulk_group{hint} [%rd4, {{{c}}}], [%r2]{policy};
  cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;
  ret;
}}
"""


BOXES: list[tuple[tuple[int, ...], tuple[int, ...], str, int, list[tuple[int, ...]]]] = [
    # shape, box, type, swizzle, where
    ((200,), (32,), "u4", 0, [(0,), (190,), (-5,), (300,)]),
    ((37, 80), (16, 64), "u2", 128, [(0, 0), (30, 40), (-3, -9), (40, 0), (0, 79)]),
    ((37, 48), (16, 32), "u2", 64, [(8, 16), (30, 30), (-3, -9)]),
    ((37, 32), (32, 16), "u2", 32, [(4, 8), (30, 30), (-3, -9)]),
    ((37, 64), (8, 32), "f4", 128, [(4, 32), (33, 50)]),
    ((37, 64), (8, 32), "u1", 0, [(4, 32), (33, 50), (-1, -7)]),
    ((37, 32), (4, 8), "u2", 128, [(4, 8), (33, 30)]),
    ((5, 9, 32), (2, 4, 16), "u2", 32, [(1, 2, 16), (4, 7, 20), (-1, -1, -1)]),
    ((3, 4, 5, 16), (2, 2, 2, 8), "f4", 0, [(1, 1, 1, 8), (2, 3, 4, 12), (-1, 0, 0, 0)]),
    ((2, 3, 3, 4, 16), (1, 2, 2, 2, 8), "u2", 0, [(1, 1, 1, 1, 8), (1, 2, 2, 3, 12)]),
]


def _at(array: Array, where: tuple[int, ...], box: tuple[int, ...]) -> tuple[Array, Array]:
    """Return the indices of a box, flattened, and which of them are inside."""
    grid = np.stack(np.meshgrid(*(w + np.arange(b) for w, b in zip(where, box, strict=True)),
                                indexing="ij"), -1).reshape(-1, len(box))  # fmt: skip
    inside = ((grid >= 0) & (grid < np.array(array.shape))).all(1)
    return grid, inside


def _shuffled(tile: Array, swizzle: int) -> Array:
    """Move 16-byte chunks in lines of 128; the pattern comes back after 2, 4 or 8 lines."""
    out = np.zeros(-(-tile.nbytes // 1024) * 1024, np.uint8)
    for i, chunk in enumerate(tile.reshape(-1, 16)):
        line, within = divmod(i, 8)
        moved = within ^ {0: 0, 32: line % 2, 64: line % 4, 128: line % 8}[swizzle]
        at = 128 * line + 16 * moved
        out[at : at + 16] = chunk
    return out


def _check_boxes(rank: int, form: int, text: str) -> None:
    for shape, box, kind, swizzle, places in BOXES:
        if len(shape) != rank:
            continue
        for where in places:
            device = Device()
            rng = np.random.default_rng(1)
            x = rng.integers(0, 100, shape).astype(kind)
            source = device.buffer(x, "from")
            target = device.buffer(np.full(shape, 7, kind), "to")
            grid, inside = _at(x, where, box)
            tile = np.zeros(len(grid), kind)
            tile[inside] = x[tuple(grid[inside].T)]
            raw = device.empty(tile.nbytes, np.uint8, "raw")
            at = np.zeros(5, np.int32)
            at[:rank] = where[::-1]
            result = device.load(text).launch(
                "k", 1, 256, source.tensor_map(box, swizzle), target.tensor_map(box, swizzle),
                at.tobytes(), tile.nbytes, raw, seed=1,
            )  # fmt: skip
            clean(result)
            assert result.counters["async_copy_bytes"] == tile.nbytes + inside.sum() * x.itemsize
            wanted = _shuffled(tile.view(np.uint8), swizzle)[: tile.nbytes]
            assert np.array_equal(raw.numpy(), wanted), (shape, box, swizzle, where)
            after = np.full(shape, 7, kind)
            after[tuple(grid[inside].T)] = tile[inside]
            assert np.array_equal(target.numpy(), after), (shape, box, swizzle, where)


for _rank in range(1, 6):
    for _form in range(2):
        _text = _box_text(_rank, _form)
        KERNELS[f"tensor_copies_{_rank}d_{_form}"] = FormKernel(
            _text, lambda r=_rank, f=_form, t=_text: _check_boxes(r, f, t)
        )


# ---- wgmma ----


def _wgmma_text(
    n: int, kind: str, transposed: tuple[int, int], signs: tuple[int, int], registers: bool
) -> str:
    """Return a kernel: D = A B of images of shared memory, then D += A B again.

    With `registers` A comes in registers, four of each thread.
    """
    d = ", ".join(f"%f{i}" for i in range(n // 2))
    a = "{%r8, %r9, %r10, %r11}" if registers else "%rd2"
    flags = [*signs, *([] if kind == "tf32" else transposed[1:] if registers else transposed)]
    operands = ", ".join(map(str, flags))
    op = f"wgmma.mma_async.sync.aligned.m64n{n}k{8 if kind == 'tf32' else 16}.f32.{kind}.{kind}"
    stores = "".join(f"  st.global.f32 [%rd8+{4 * i}], %f{i};\n" for i in range(n // 2))
    place_a = "shr.u32 %r6, %r2, 4; cvt.u64.u32 %rd10, %r6; add.u64 %rd2, %rd2, %rd10;"
    if registers:
        place_a = f"mad.wide.u32 %rd11, %r1, 16, %rd2; ld.global.v4.b32 {a}, [%rd11];"
    return f"""{HEADER.replace("sm_90", "sm_90a")}
.extern .shared .align 1024 .b8 memory[];
.entry k(.param .u64 image, .param .u32 bytes, .param .u64 a, .param .u64 b, .param .u64 out) {{
  .reg .pred %p<4>; .reg .b32 %r<12>; .reg .b64 %rd<12>; .reg .f32 %f<128>;
  ld.param.u64 %rd1, [image]; ld.param.u32 %r4, [bytes]; ld.param.u64 %rd2, [a];
  ld.param.u64 %rd3, [b]; ld.param.u64 %rd4, [out];
  mov.u32 %r1, %tid.x; mov.u32 %r2, memory; shl.b32 %r3, %r1, 4;
LOOP:
  add.u32 %r5, %r2, %r3; cvt.u64.u32 %rd5, %r3; add.u64 %rd6, %rd1, %rd5;
  ld.global.v2.u64 {{%rd7, %rd9}}, [%rd6]; st.shared.v2.u64 [%r5], {{%rd7, %rd9}};
  add.u32 %r3, %r3, 2048; setp.lt.u32 %p1, %r3, %r4; @%p1 bra LOOP;
  fence.proxy.async.shared::cta; bar.sync 0;
  {place_a}
  shr.u32 %r6, %r2, 4; cvt.u64.u32 %rd10, %r6; add.u64 %rd3, %rd3, %rd10;
  setp.eq.u32 %p2, %r1, %r1;
  wgmma.fence.sync.aligned;
  {op} {{{d}}}, {a}, %rd3, 0, {operands};
  {op} {{{d}}}, {a}, %rd3, %p2, {operands};
  wgmma.commit_group.sync.aligned;
  wgmma.wait_group.sync.aligned 0;
  mad.wide.u32 %rd8, %r1, {2 * n}, %rd4;
{stores}  ret;
}}
"""


def _image(x: Array, swizzle: int, transposed: int) -> tuple[Array, int]:
    """Lay x (mn, k) out as a descriptor says: its bytes, and the descriptor's bits but the start."""
    size = x.dtype.itemsize
    width = swizzle or 16  # bytes of a row
    per_row, per_chunk = width // size, 16 // size
    lines = x if not transposed else x.T
    # Blocks of 8 lines, one row of `width` bytes each, where a line is cut into rows.
    cuts = -(-lines.shape[1] // per_row)
    block = 8 * width
    blocks = lines.shape[0] // 8
    out = np.zeros(blocks * cuts * block // size, x.dtype)
    chunks: dict[int, Array] = {}
    # Cuts lie beside each other, blocks behind: strides that differ from each other.
    over_cuts, over_blocks = block, cuts * block
    for line in range(lines.shape[0]):
        for at in range(0, lines.shape[1], per_chunk):
            cut, within = divmod(at, per_row)
            row_start = (line // 8) * over_blocks + cut * over_cuts + (line % 8) * width
            chunks[row_start + size * within] = lines[line, at : at + per_chunk]
    for address, chunk in chunks.items():
        row, piece = divmod(address // 16, 8)
        moved = piece ^ {0: 0, 32: row % 2, 64: row % 4, 128: row % 8}[swizzle]
        place = (128 * row + 16 * moved) // size
        out[place : place + per_chunk] = chunk
    leading, stride = over_cuts, over_blocks
    if transposed and not swizzle:  # here the two have changed places
        leading, stride = over_blocks, over_cuts
    mode = {0: 0, 128: 1, 64: 2, 32: 3}[swizzle]
    return out, (leading // 16) << 16 | (stride // 16) << 32 | mode << 62


# n, type, swizzle of A and B, transposed, signs; A in registers where it has no swizzle
WGMMA: list[tuple[int, str, tuple[int | None, int | None], tuple[int, int], tuple[int, int]]] = [
    (8, "bf16", (128, 128), (0, 0), (1, 1)),
    (16, "f16", (64, 32), (0, 0), (-1, 1)),
    (24, "bf16", (0, 0), (0, 0), (1, -1)),
    (64, "f16", (32, 64), (0, 1), (1, 1)),
    (64, "bf16", (128, 128), (1, 1), (1, 1)),
    (96, "bf16", (64, 32), (1, 1), (-1, -1)),
    (128, "f16", (0, 0), (1, 1), (1, 1)),
    (192, "bf16", (128, 64), (0, 1), (1, 1)),
    (256, "bf16", (32, 128), (1, 0), (1, 1)),
    (8, "tf32", (128, 32), (0, 0), (1, 1)),
    (40, "tf32", (0, 64), (0, 0), (-1, 1)),
    (256, "tf32", (64, 0), (0, 0), (1, -1)),
    (16, "tf32", (None, 128), (0, 0), (-1, 1)),
    (32, "f16", (None, 64), (0, 0), (1, -1)),
    (64, "bf16", (None, 128), (0, 1), (-1, 1)),
]


def _a_registers(a: Array) -> Array:
    """Lay A (64, k) out as the four registers of 128 threads."""
    per_register = 4 // a.dtype.itemsize
    out = np.zeros((128, 4, per_register), a.dtype)
    for t in range(128):
        for i in range(4):
            row = 16 * (t // 32) + t % 32 // 4 + 8 * (i % 2)
            at = per_register * (t % 4 + 4 * (i // 2))
            out[t, i] = a[row, at : at + per_register]
    return out


def _with_low_bits(x: Array, rng: np.random.Generator) -> Array:
    """Fill the 13 bits of a float that tf32 does not have: they do not count."""
    noise = rng.integers(0, 1 << 13, x.shape, dtype=np.uint32)
    return (x.view(np.uint32) | noise).view(np.float32)


def _check_wgmma(index: int, text: str) -> None:
    n, kind, swizzles, transposed, signs = WGMMA[index]
    dtype = {"bf16": BF16, "f16": np.dtype(np.float16), "tf32": np.dtype(np.float32)}[kind]
    k = 32 // dtype.itemsize
    rng = np.random.default_rng(index)
    a, b = (rng.integers(-16, 16, (rows, k)).astype(dtype) for rows in (64, n))
    want = 2 * signs[0] * signs[1] * (a.astype(np.float64) @ b.astype(np.float64).T)
    if kind == "tf32":
        a, b = _with_low_bits(a, rng), _with_low_bits(b, rng)
    of_a, of_b = swizzles
    assert of_b is not None
    image_b, bits_b = _image(b, of_b, transposed[1])
    image_a, bits_a = (a.ravel()[:0], 0) if of_a is None else _image(a, of_a, transposed[0])
    start = -(-image_a.nbytes // 1024) * 1024
    size = -(-(start + image_b.nbytes) // 2048) * 2048
    image = np.zeros(size, np.uint8)
    image[: image_a.nbytes] = image_a.view(np.uint8)
    image[start : start + image_b.nbytes] = image_b.view(np.uint8)
    device = Device()
    out = device.empty((128, n // 2), np.float32)
    place_a = device.buffer(_a_registers(a)) if of_a is None else bits_a
    result = device.load(text).launch(
        "k", 1, 128, device.buffer(image), size, place_a, bits_b | start // 16, out, shared=size,
        seed=index, profile="H100",
    )  # fmt: skip
    clean(result)
    assert result.counters["tensor_multiply_adds"] == 2 * 64 * n * k
    got = out.numpy()
    for t in range(128):
        for j in range(n // 2):
            row = 16 * (t // 32) + t % 32 // 4 + 8 * (j // 2 % 2)
            column = 8 * (j // 4) + 2 * (t % 4) + j % 2
            assert got[t, j] == want[row, column], (t, j)


for _index, (_n, _kind, _swizzles, _transposed, _signs) in enumerate(WGMMA):
    _text = _wgmma_text(_n, _kind, _transposed, _signs, _swizzles[0] is None)
    KERNELS[f"wgmma_{_n}_{_index}"] = FormKernel(
        _text, lambda i=_index, t=_text: _check_wgmma(i, t)
    )
