"""What is not modelled fails at load, naming line and instruction; nothing is guessed."""

from __future__ import annotations

import pytest

from emulator.device import Device, LoadError

MODULE = """.version 8.0
.target sm_80
.address_size 64
.entry k(.param .u64 x) {{
  .reg .pred %p<4>; .reg .b16 %rs<4>; .reg .b32 %r<4>; .reg .b64 %rd<4>; .reg .f32 %f<4>;
  {}
  ret;
}}
"""

REFUSED = {
    # Forms of later stages.
    "mbarrier.arrive_drop.shared.b64 %rd1, [%r1];": "instruction form mbarrier.arrive_drop.shared",
    "cp.async.bulk.prefetch.L2.global [%rd1], %r1;": "instruction form cp.async.bulk.prefetch",
    "wgmma.mma_async.sync.aligned.m64n8k32.f32.e4m3.e4m3 {%f1}, %rd1, %rd1, 1, 1, 1;":
        "instruction form wgmma.mma_async",
    "wgmma.mma_async.sync.aligned.m64n8k8.f32.tf32.tf32 {%f1}, %rd1, %rd1, 1, 1, 1, 0, 0;":
        "this form has 6 operands",
    "wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {%r1}, %rd1, %rd1, 1, 1, 1, 0, 0;":
        "the accumulator has 4 registers",
    "barrier.cluster.wait.release;": "instruction form barrier.cluster.wait.release",
    "mbarrier.arrive.shared::cluster.b64 %rd1, [%r1];": "gives no phase: _",
    "mbarrier.try_wait.parity.shared::cluster.b64 %p1, [%r1], 0;":
        "instruction form mbarrier.try_wait",
    "st.async.shared::cluster.mbarrier::complete_tx::bytes.u32 [%r1], %r2, [%r3];":
        "instruction form st.async",
    "tensormap.replace.tile.global_address.global.b1024.b64 [%rd1], %rd2;":
        "instruction form tensormap.replace",
    "mov.pred %p1, %is_explicit_cluster;": "unknown operand %is_explicit_cluster",
    "setmaxnreg.inc.sync.aligned.u32 20;": "setmaxnreg takes a multiple of 8 from 24 to 256",
    "setmaxnreg.dec.sync.aligned.u32 264;": "setmaxnreg takes a multiple of 8 from 24 to 256",
    "setmaxnreg.dec.sync.aligned.u32 60;": "setmaxnreg takes a multiple of 8 from 24 to 256",
    "cvt.rn.e4m3x2.f32 %rs1, %f1, %f2;": "instruction form cvt.rn.e4m3x2.f32",
    "fence.proxy.alias;": "instruction form fence.proxy.alias",
    "elect.sync %r1, -1;": "elect.sync needs a register and a predicate",
    "cp.async.bulk.global.shared::cta.bulk_group [%rd1], [%r1];": "of this form has 3 operands",
    "cvt.rn.satfinite.e2m1x2.f32 %rs1, %f1, %f2;": "instruction form cvt.rn.satfinite.e2m1x2",
    "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%f1}, {%r1}, {%r2}, {%f1};":
        "fragment of the wrong length",
    "tex.1d.v4.f32.s32 {%f1, %f1, %f1, %f1}, [x, {%r1}];": "instruction form tex",
    # Spelling and operands.
    "addd.u32 %r1, %r2, %r3;": "instruction form addd.u32",
    "add.u32 %r1, %r2;": "too few operands",
    "add.u32 %r1, %r2, %r3, %r1;": "too many operands",
    "add.u64 %r1, %rd1, %rd2;": "register %r1 is 32 bits wide, the instruction is 64",
    "add.u32 %r1, %r2, %r9;": "unknown operand %r9",
    "add.f32 %f1, %f2, 1;": "an integer constant for a float",
    "max.f32 %f1, %f1, %f2, %f3, %f1;": "too many operands",
    "max.f64 %rd1, %rd1, %rd2, %rd3;": "too many operands",
    "max.abs.f32 %f1, %f1, %f2, %f3;": "instruction form max.abs.f32",
    "add.sat.f32x2 %rd1, %rd2, %rd3;": "instruction form add.sat.f32x2",
    "fma.f32x2 %rd1, %rd1, %rd2, %rd3;": "instruction form fma.f32x2",
    "add.f32x2 %rd1, %rd2, 0;": "a pair of floats cannot be a constant",
    "mul.f32x2 %rd1, %rd2, 0f3F800000;": "a pair of floats cannot be a constant",
    "add.f32x2 %f1, %f2, %f3;": "register %f1 is 32 bits wide, the instruction is 64",
    "add.u32 %r1, %r2, !%r3;": "! is not possible here",
    "mov.u32 %r1, %envreg7;": "unknown operand %envreg7",
    "bra NOWHERE;": "unknown label NOWHERE",
    "ld.global.u32 %r1, [%r2];": "an address register of the wrong width",
    "ld.global.v2.u32 %r1, [%rd1];": "vector of the wrong length",
    "ld.shared.u32 %r1, [x];": "x is in another state space",
    "st.param.u32 [x], %r1;": "the kernel's parameters cannot be written",
    "lop3.b32 %r1, %r2, %r3, %r1, 300;": "a table of lop3 has 8 bits",
    "cvt.s32.f32 %r1, %f1;": "a conversion to an integer needs .rni",
    "cvt.bf16.f32 %rs1, %f1;": "a conversion that rounds needs a rounding mode",
    "cp.async.cg.shared.global [%r1], [%rd1], 8;": "with .cg 16",
    "cp.async.ca.shared.global [%r1], [%rd1], 12;": "cp.async copies 4, 8 or 16 bytes",
    "setp.eq.and.u32 %p1, %r1, %r2;": "belong together",
    "call (%r1), %rd1, (%r2);": "calls through a pointer are not supported",
    "@%r1 add.u32 %r1, %r2, %r3;": "%r1 is not a predicate",
    "mad.hi.cc.s64 %rd1, %rd2, %rd3, %rd1;": "instruction form mad.hi.cc.s64",
    "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f1, %f2}, {%r1}, {%r2}, {%f1};":
        "fragment of the wrong length",
}  # fmt: skip


@pytest.mark.parametrize("instruction", REFUSED)
def test_refused_at_load(device: Device, instruction: str) -> None:
    with pytest.raises(LoadError) as caught:
        device.load(MODULE.format(instruction))
    message = str(caught.value)
    assert REFUSED[instruction] in message
    assert message.startswith("line 6:")
    if "label" not in message:
        assert instruction in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("int main() {}", "line 1: unexpected 'int' outside a function"),
        (".target sm_80\n", "line 1: no .version: this is not PTX"),
        (".version 8.0\n.target sm_80\n.address_size 32\n", "only .address_size 64 is supported"),
        (".version 8.0\n.target sm_80\n.tex .u64 t;\n", "line 3: unsupported directive .tex"),
        (".version 8.0\n.extern .global .u32 other;\n", "modules cannot be linked"),
        (MODULE.format("add.u32 %r1, %r2, %r3"), "expected ','"),
        (MODULE.format("{ .reg .q32 %q; }"), "unsupported register type .q32"),
        (MODULE.format("{ .reg .f32x2 %q; }"), "unsupported register type .f32x2"),
        (
            MODULE.format("#").replace("#", "add.u32 %r1, %r2, ?;"),
            "line 6: unexpected character '?'",
        ),
    ],
)
def test_text_that_is_no_ptx(device: Device, text: str, message: str) -> None:
    with pytest.raises(LoadError) as caught:
        device.load(text)
    assert message in str(caught.value)


def test_recursion_is_refused(device: Device) -> None:
    text = """.version 8.0
.target sm_80
.address_size 64
.func f() {
  call f;
  ret;
}
.entry k() {
  call f;
  ret;
}
"""
    with pytest.raises(LoadError, match="recursion is not supported"):
        device.load(text)


def test_registers_of_a_block_hide_those_outside(device: Device) -> None:
    text = MODULE.format(
        "ld.param.u64 %rd1, [x]; mov.u32 %r1, 5; { .reg .b32 %r1; mov.u32 %r1, 6; bra SAME; SAME: }"
        " bra SAME; SAME: st.global.u32 [%rd1], %r1;"
    )
    out = device.empty(1, "u4")
    assert not device.load(text).launch("k", 1, 1, out).reports
    assert out.numpy()[0] == 5
