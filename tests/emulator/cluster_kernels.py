"""Kernels for the rows of the table that are for clusters, each with its own check."""
# ruff: noqa: E501 (a line of PTX stays one line)

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from emulator import form_kernels
from emulator.device import Device, Result
from emulator.form_kernels import HEADER, FormKernel, clean, entry

H100 = {"profile": "H100"}
KERNELS: dict[str, FormKernel] = {}
kernel = partial(form_kernels.kernel, into=KERNELS)


def _launch(text: str, grid: Any, block: int, *arguments: Any, **options: Any) -> Result:
    device = next(a.device for a in arguments if hasattr(a, "device"))
    return clean(device.load(text).launch("k", grid, block, *arguments, **H100, **options))


REGISTERS = entry(
    "k", "out",
    """
  mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ctaid.y; mov.u32 %r4, %ctaid.z;
  mov.u32 %r5, %nctaid.x; mov.u32 %r6, %nctaid.y;
  mad.lo.u32 %r7, %r4, %r6, %r3; mad.lo.u32 %r7, %r7, %r5, %r2; mad.wide.u32 %rd2, %r7, 64, %rd1;
  mov.u32 %r10, %clusterid.x; mov.u32 %r11, %clusterid.y; mov.u32 %r12, %clusterid.z;
  mov.u32 %r13, %nclusterid.x; mov.u32 %r14, %nclusterid.y; mov.u32 %r15, %nclusterid.z;
  mov.u32 %r16, %cluster_ctaid.x; mov.u32 %r17, %cluster_ctaid.y; mov.u32 %r18, %cluster_ctaid.z;
  mov.u32 %r19, %cluster_nctaid.x; mov.u32 %r20, %cluster_nctaid.y; mov.u32 %r21, %cluster_nctaid.z;
  mov.b32 %r22, %cluster_ctarank; mov.b32 %r23, %cluster_nctarank;
  st.global.v4.u32 [%rd2], {%r10, %r11, %r12, %r13}; st.global.v4.u32 [%rd2+16], {%r14, %r15, %r16, %r17};
  st.global.v4.u32 [%rd2+32], {%r18, %r19, %r20, %r21}; st.global.v2.u32 [%rd2+48], {%r22, %r23};
""",
)  # fmt: skip


@kernel(REGISTERS)
def cluster_registers(text: str) -> None:
    for cluster in ((1, 1, 1), (2, 3, 1), (4, 1, 2), (1, 2, 2)):
        device = Device()
        grid = (4, 6, 2)
        out = device.buffer(np.zeros((2, 6, 4, 16), np.uint32), "out")
        _launch(text, grid, 1, out, cluster=cluster, seed=3)
        got = out.numpy()
        for z, y, x in np.ndindex(2, 6, 4):
            at = np.array([x, y, z])
            size, inner = np.array(cluster), at % cluster
            rank = inner[0] + size[0] * (inner[1] + size[1] * inner[2])
            want = [*(at // size), *(np.array(grid) // size), *inner, *size, rank, size.prod()]
            assert got[z, y, x, :14].tolist() == want


# Every block of a cluster of four writes its words to the next and takes them from the one before.
MEMORY = entry(
    "k", "x, out",
    """
  .shared .align 16 .b8 box[4096]; .shared .align 8 .b64 word[32];
  mov.u32 %r2, %cluster_ctarank; add.u32 %r3, %r2, 1; and.b32 %r3, %r3, 3;
  mov.u32 %r4, box; shl.b32 %r5, %r1, 6; add.u32 %r4, %r4, %r5;
  mapa.shared::cluster.u32 %r6, %r4, %r3;
  getctarank.shared::cluster.u32 %r7, %r6; getctarank.shared::cluster.u32 %r8, %r4;
  mov.u64 %rd3, word; mul.wide.u32 %rd4, %r1, 8; add.s64 %rd3, %rd3, %rd4;
  cvta.shared::cluster.u64 %rd5, %rd3; mapa.u64 %rd6, %rd5, %r3; mapa.shared::cluster.u64 %rd7, %rd3, %r3;
  getctarank.u64 %r9, %rd6; getctarank.u64 %r10, %rd5;
  isspacep.shared::cluster %p1, %rd6; isspacep.shared::cta %p2, %rd6; isspacep.shared %p3, %rd5; isspacep.global %p4, %rd6;
  selp.u32 %r11, 1, 0, %p1; selp.u32 %r12, 2, 0, %p2; selp.u32 %r13, 4, 0, %p3; selp.u32 %r14, 8, 0, %p4;
  or.b32 %r11, %r11, %r12; or.b32 %r11, %r11, %r13; or.b32 %r11, %r11, %r14;
  mad.lo.u32 %r15, %r2, 32, %r1; mad.wide.u32 %rd8, %r15, 32, %rd1; mad.wide.u32 %rd9, %r15, 64, %rd2;
  ld.global.v4.u32 {%r16, %r17, %r18, %r19}, [%rd8]; ld.global.v2.u64 {%rd10, %rd11}, [%rd8+16];
  barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;
  st.shared::cluster.v4.b32 [%r6], {%r16, %r17, %r18, %r19};
  st.volatile.shared::cluster.u16 [%r6+16], 4660; st.shared::cluster.u8 [%r6+18], %r16;
  st.relaxed.cluster.shared::cluster.v2.b64 [%r6+32], {%rd10, %rd11};
  st.release.cluster.shared::cluster.u32 [%r6+48], %r17; st.relaxed.cluster.u64 [%rd6], %rd10;
  barrier.cluster.arrive; barrier.cluster.wait;
  mapa.shared::cluster.u32 %r20, %r4, %r2;
  ld.shared::cluster.v4.b32 {%r24, %r25, %r26, %r27}, [%r20]; ld.volatile.shared::cluster.u16 %r28, [%r20+16];
  ld.shared::cluster.s8 %r29, [%r20+18]; ld.relaxed.cluster.shared::cluster.v2.u64 {%rd12, %rd13}, [%r20+32];
  ld.acquire.cluster.shared::cluster.b32 %r30, [%r20+48]; ld.relaxed.cluster.u64 %rd14, [%rd5];
  st.global.v4.u32 [%rd9], {%r24, %r25, %r26, %r27}; st.global.v2.u64 [%rd9+16], {%rd12, %rd13};
  st.global.v4.u32 [%rd9+32], {%r28, %r29, %r30, %r11};
  xor.b64 %rd14, %rd14, %rd10;  // of two blocks
  shl.b32 %r31, %r7, 8; or.b32 %r31, %r31, %r8; shl.b32 %r32, %r9, 8; or.b32 %r32, %r32, %r10;
  mov.b64 %rd15, {%r31, %r32};
  st.global.v2.u64 [%rd9+48], {%rd14, %rd15};
""",
)  # fmt: skip


@kernel(MEMORY)
def distributed_memory(text: str) -> None:
    for seed in range(6):
        device = Device()
        x = np.random.default_rng(seed).integers(0, 2**32, (4, 32, 8), dtype=np.uint32)
        out = device.empty((4, 32, 16), np.uint32, "out")
        _launch(text, 4, 32, device.buffer(x, "x"), out, cluster=4, seed=seed)
        got = out.numpy()
        before = np.roll(x, 1, 0)
        assert np.array_equal(got[:, :, :8], before)
        assert (got[:, :, 8] == 4660).all()
        assert np.array_equal(got[:, :, 9].view(np.int32), before[:, :, 0].astype(np.int8))
        assert np.array_equal(got[:, :, 10], before[:, :, 1])
        assert (got[:, :, 11] == 1 | 4).all()
        assert np.array_equal(got[:, :, 12:14], before[:, :, 4:6] ^ x[:, :, 4:6])
        rank = np.arange(4)[:, None]
        ranks = ((rank + 1) % 4) << 8 | rank
        assert (got[:, :, 14] == ranks).all()
        assert (got[:, :, 15] == ranks).all()


# All blocks work on the words of the last one: what atomics leave does not depend on their order.
ATOMICS = entry(
    "k", "out",
    """
  .shared .align 16 .b8 box[128];
  mov.u32 %r2, %cluster_ctarank; mov.u32 %r3, %cluster_nctarank; sub.u32 %r4, %r3, 1;
  mov.u32 %r5, box; mapa.shared::cluster.u32 %r6, %r5, %r4; mov.u64 %rd2, box;
  cvta.shared.u64 %rd3, %rd2; mapa.u64 %rd4, %rd3, %r4;
  shl.b32 %r7, %r1, 2; add.u32 %r8, %r5, %r7; setp.lt.u32 %p1, %r1, 32; @%p1 st.shared.u32 [%r8], 0;
  mad.lo.u32 %r9, %r2, 64, %r1; add.u32 %r10, %r9, 1; cvt.rn.f32.u32 %f1, %r9; cvt.u64.u32 %rd5, %r9;
  barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;
  atom.shared::cluster.add.u32 %r11, [%r6], %r10; atom.relaxed.cluster.shared::cluster.max.u32 %r12, [%r6+4], %r9;
  atom.acq_rel.cluster.shared::cluster.or.b32 %r13, [%r6+8], %r9; atom.shared::cluster.inc.u32 %r14, [%r6+12], 1000;
  atom.relaxed.cluster.shared::cluster.add.f32 %f2, [%r6+16], %f1; atom.add.release.cluster.shared::cluster.u32 %r15, [%r6+20], 3;
  red.shared::cluster.add.u64 [%r6+24], %rd5; red.relaxed.cluster.shared::cluster.min.s32 [%r6+32], -7;
  red.release.cluster.shared::cluster.xor.b32 [%r6+36], %r10; red.shared::cluster.dec.u32 [%r6+40], 5;
  red.shared::cluster.add.f64 [%r6+48], 0d3FF0000000000000; mov.b16 %rs1, 0x3c00; mov.b32 %r16, {%rs1, %rs1};
  red.relaxed.cluster.shared::cluster.add.noftz.f16x2 [%r6+56], %r16; atom.shared::cluster.add.noftz.f16x2 %r17, [%r6+60], %r16;
  atom.add.u32 %r18, [%rd4+64], 2;
  setp.eq.u32 %p2, %r9, 5; @%p2 atom.shared::cluster.cas.b32 %r19, [%r6+68], 0, 77; @%p2 atom.shared::cluster.exch.b32 %r19, [%r6+72], 78;
  barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;
  setp.eq.u32 %p3, %r2, %r4; and.pred %p3, %p3, %p1;
  mad.wide.u32 %rd6, %r1, 4, %rd1; @%p3 ld.shared.u32 %r20, [%r8]; @%p3 st.global.u32 [%rd6], %r20;
""",
)  # fmt: skip


@kernel(ATOMICS)
def distributed_atomics(text: str) -> None:
    for seed in range(4):
        device = Device()
        out = device.empty(32, np.uint32, "out")
        _launch(text, 3, 64, out, cluster=3, seed=seed)
        got = out.numpy()
        n = np.arange(192)
        want = np.zeros(32, np.uint32)
        want[0], want[1], want[2], want[3] = (n + 1).sum(), 191, 255, 192
        want[4] = np.array([n.sum()], np.float32).view(np.uint32)[0]
        want[5], want[6], want[8] = 3 * 192, n.sum(), np.uint32(2**32 - 7)
        want[9], want[10] = np.bitwise_xor.reduce(n + 1), (0 - 192) % 6
        want[12:14] = np.array([192.0]).view(np.uint32)
        want[14] = want[15] = np.array([192, 192], np.float16).view(np.uint32)[0]
        want[16], want[17], want[18] = 2 * 192, 77, 78
        assert np.array_equal(got, want), np.stack([got, want])


# Lanes arrive at two places and wait at two others; the phases count up.
BARRIER = entry(
    "k", "out",
    """
  .shared .align 4 .b32 word;
  mov.u32 %r2, %cluster_ctarank; xor.b32 %r3, %r2, 1; mov.u32 %r4, word; mapa.shared::cluster.u32 %r5, %r4, %r3;
  setp.eq.u32 %p1, %r1, 0; and.b32 %r6, %r1, 1; setp.eq.u32 %p2, %r6, 0; mov.u32 %r7, 0; mov.u32 %r10, 0;
  @%p1 st.shared.u32 [%r4], 0;
LOOP:
  @%p2 bra EVEN;
  barrier.cluster.arrive.release;
  barrier.cluster.wait.acquire;
  bra.uni MET;
EVEN:
  barrier.cluster.arrive;
  barrier.cluster.wait;
MET:
  bar.sync 0;
  @%p1 ld.shared::cluster.u32 %r8, [%r5]; @%p1 add.u32 %r7, %r7, %r8;
  barrier.cluster.arrive.release.aligned; barrier.cluster.wait.aligned;
  @%p1 ld.shared.u32 %r9, [%r4]; @%p1 add.u32 %r9, %r9, %r2; @%p1 add.u32 %r9, %r9, 1; @%p1 st.shared.u32 [%r4], %r9;
  // What a fence made ready goes with a relaxed arrival.
  fence.acq_rel.cluster;
  barrier.cluster.arrive.relaxed.aligned; barrier.cluster.wait.aligned;
  add.u32 %r10, %r10, 1; setp.lt.u32 %p3, %r10, 4; @%p3 bra LOOP;
  mad.wide.u32 %rd2, %r2, 4, %rd1; @%p1 st.global.u32 [%rd2], %r7;
""",
)  # fmt: skip


@kernel(BARRIER)
def cluster_barriers(text: str) -> None:
    for seed in range(8):
        device = Device()
        out = device.empty(4, np.uint32, "out")
        _launch(text, 4, 40, out, cluster=4, seed=seed)
        # The other block's word before each of four steps: 0, 1, 2, 3 times its rank plus 1.
        assert out.numpy().tolist() == [6 * ((r ^ 1) + 1) for r in range(4)]


# Ends of blocks count as arrived.
EXITS = entry(
    "k", "out",
    """
  mov.u32 %r2, %cluster_ctarank; setp.ne.u32 %p1, %r2, 0; @%p1 exit;
  barrier.cluster.arrive; barrier.cluster.wait;
  st.global.u32 [%rd1], 9;
""",
)  # fmt: skip


@kernel(EXITS)
def ended_blocks_are_not_waited_for(text: str) -> None:
    for seed in range(4):
        device = Device()
        out = device.empty(1, np.uint32, "out")
        _launch(text, 8, 1, out, cluster=8, seed=seed)
        assert out.numpy()[0] == 9


# A box of a tensor, and a line of memory, to the blocks of a mask; remote arrivals.
MULTICAST = f"""{HEADER}
.entry k(.param .align 64 .b8 map[128], .param .u64 line, .param .u64 out, .param .u32 mask) {{
  .reg .pred %p<6>; .reg .b16 %rs<4>; .reg .b32 %r<24>; .reg .b64 %rd<12>;
  .shared .align 128 .b8 tile[512]; .shared .align 8 .b64 full; .shared .align 8 .b64 ready;
  mov.u32 %r1, %tid.x; mov.u32 %r2, %cluster_ctarank; mov.u32 %r3, tile; mov.u32 %r4, full; mov.u32 %r5, ready;
  setp.eq.u32 %p1, %r1, 0; mov.b64 %rd1, map; cvta.param.u64 %rd2, %rd1; ld.param.u64 %rd3, [line];
  ld.param.u64 %rd4, [out]; ld.param.u32 %r6, [mask]; cvt.u16.u32 %rs1, %r6;
  shr.u32 %r7, %r6, %r2; and.b32 %r7, %r7, 1; setp.ne.u32 %p2, %r7, 0;  // whether this block takes part
  @%p1 mbarrier.init.shared::cta.b64 [%r4], 1; @%p1 mbarrier.init.shared::cta.b64 [%r5], 4;
  @%p1 fence.mbarrier_init.release.cluster;
  barrier.cluster.arrive.relaxed.aligned; barrier.cluster.wait.aligned;
  mov.u32 %r8, 1; mapa.shared::cluster.u32 %r9, %r5, %r8; mapa.shared::cluster.u32 %r10, %r4, %r2;
  and.pred %p3, %p1, %p2;
  @%p3 mbarrier.arrive.expect_tx.release.cluster.shared::cluster.b64 _, [%r10], 256;
  @%p3 mbarrier.expect_tx.relaxed.cluster.shared::cluster.b64 [%r10], 256;
  @%p1 mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r9], 1;
  setp.eq.u32 %p4, %r2, 1; and.pred %p4, %p4, %p1; @!%p4 bra WAIT;
READY:
  mbarrier.test_wait.parity.acquire.cluster.shared::cta.b64 %p5, [%r5], 0; @!%p5 bra READY;
  mov.u32 %r11, 2; mov.u32 %r12, 3; add.u32 %r13, %r3, 256; createpolicy.fractional.L2::evict_first.b64 %rd9, 1.0;
  cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%r3], [%rd2, {{%r11, %r12}}], [%r4], %rs1;
  cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster.L2::cache_hint [%r13], [%rd3], 256, [%r4], %rs1, %rd9;
WAIT:
  @!%p2 bra DONE;
FULL:
  mbarrier.try_wait.parity.shared::cta.b64 %p5, [%r4], 0; @!%p5 bra FULL;
  mad.lo.u32 %r14, %r1, 16, %r3; ld.shared.v2.u64 {{%rd5, %rd6}}, [%r14];
  mad.lo.u32 %r15, %r2, 32, %r1; mad.wide.u32 %rd7, %r15, 16, %rd4; st.global.v2.u64 [%rd7], {{%rd5, %rd6}};
DONE:
  barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;
  ret;
}}
"""


@kernel(MULTICAST)
def multicasts(text: str) -> None:
    for seed, mask in enumerate((0b1111, 0b1010, 0b0001, 0b0110)):
        device = Device()
        x = np.random.default_rng(seed).integers(0, 2**31, (20, 16), dtype=np.uint32)
        line = np.random.default_rng(9).integers(0, 2**31, 64, dtype=np.uint32)
        source = device.buffer(x, "x")
        out = device.buffer(np.zeros((4, 128), np.uint32), "out")
        result = _launch(
            text, 4, 32, source.tensor_map((8, 8)), device.buffer(line), out, mask, cluster=4,
            seed=seed,
        )  # fmt: skip
        want = np.concatenate([x[3:11, 2:10].ravel(), line])
        for rank, row in enumerate(out.numpy()):
            assert np.array_equal(row, want if mask >> rank & 1 else 0 * want), (mask, rank)
        assert result.counters["async_copy_bytes"] == 512 * mask.bit_count()


# A copy to the block's own shared memory through the cluster's address, and to the next block's.
ACROSS = entry(
    "k", "x, out",
    """
  .shared .align 16 .b8 from[128]; .shared .align 16 .b8 to[128]; .shared .align 8 .b64 full;
  mov.u32 %r2, %cluster_ctarank; add.u32 %r3, %r2, 1; mov.u32 %r4, %cluster_nctarank; rem.u32 %r3, %r3, %r4;
  mov.u32 %r5, from; mov.u32 %r6, to; mov.u32 %r7, full; setp.eq.u32 %p1, %r1, 0;
  mad.lo.u32 %r8, %r2, 32, %r1; mad.wide.u32 %rd3, %r8, 4, %rd1; mad.wide.u32 %rd4, %r8, 4, %rd2;
  shl.b32 %r9, %r1, 2; add.u32 %r10, %r5, %r9; add.u32 %r11, %r6, %r9;
  ld.global.u32 %r12, [%rd3]; st.shared.u32 [%r10], %r12; fence.proxy.async.shared::cta;
  @%p1 mbarrier.init.shared.b64 [%r7], 1; @%p1 mbarrier.arrive.expect_tx.shared.b64 _, [%r7], 128;
  barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;
  mapa.shared::cluster.u32 %r13, %r6, %r3; mapa.shared::cluster.u32 %r14, %r7, %r3;
  @%p1 cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%r13], [%r5], 128, [%r14];
WAIT:
  mbarrier.try_wait.parity.shared.b64 %p2, [%r7], 0; @!%p2 bra WAIT;
  ld.shared.u32 %r15, [%r11]; st.global.u32 [%rd4], %r15;
  barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;
""",
)  # fmt: skip


@kernel(ACROSS)
def copies_across(text: str) -> None:
    for size in (1, 2, 7):
        device = Device()
        x = np.arange(size * 32, dtype=np.uint32).reshape(size, 32) * 3
        out = device.empty(x.shape, np.uint32, "out")
        _launch(text, size, 32, device.buffer(x, "x"), out, cluster=size, seed=size)
        assert np.array_equal(out.numpy(), np.roll(x, 1, 0))
