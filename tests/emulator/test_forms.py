"""Every row of the table of instruction forms against an independent meaning.

Element-wise rows: the opcodes that a row's pattern stands for (a sample of them in CI, all with
GPTOSS_EMULATOR_FULL) on special and random operands, with all lanes and with some. The other rows
are tested by kernels of their own; `test_every_row_is_tested` knows where.
"""

from __future__ import annotations

import itertools
import os
import random
import warnings
from collections.abc import Iterator

import numpy as np
import pytest

from emulator import cluster_kernels, corpus, form_kernels
from emulator.device import BUILD, Device, Module, coverage, forms, ptx
from emulator.exact import FORMATS
from emulator.form_cases import BITS, Case, cases_of, expand

KERNELS = form_kernels.KERNELS | cluster_kernels.KERNELS

FULL = bool(os.environ.get("GPTOSS_EMULATOR_FULL"))
OPCODES_PER_ROW = 10**9 if FULL else 24
THREADS = 96
MODULE = ".version 8.8\n.target sm_120\n.address_size 64\n"

PATTERNS = [f["pattern"] for f in forms()] if BUILD else []


def _cases(pattern: str) -> list[Case]:
    cases = [case for words in expand(pattern) for case in cases_of(words)]
    if len(cases) > OPCODES_PER_ROW:
        cases = random.Random(pattern).sample(cases, OPCODES_PER_ROW)
    return cases


ELEMENTWISE = [p for p in PATTERNS if next(iter(_cases(p)), None)]


def _width(kind: str) -> int:
    if kind == "n32":
        return 32
    return max(BITS[kind], 32) if BITS[kind] < 16 else BITS[kind]


def _operands(kind: str, rng: random.Random) -> list[int]:
    """Return bits for each thread: what is special about the type, and random ones."""
    if kind == "pred":
        return [rng.randrange(2) for _ in range(THREADS)]
    if kind == "n32":
        edge = [0, 1, 15, 16, 31, 32, 33, 63, 64, 65, 255, 256]
        return [rng.choice([*edge, rng.randrange(70)]) for _ in range(THREADS)]
    bits = _width(kind)
    element = kind.removesuffix("x2")
    values: list[int] = []
    if element in FORMATS:
        form = FORMATS[element]
        one = form.bias << form.mantissa
        top = 1 << (form.bits - 1)
        infinity = ((1 << form.exponent) - 1) << form.mantissa
        special = [0, 1, (1 << form.mantissa) - 1, 1 << form.mantissa, one, one + 1, one - 1,
                   infinity - 1, infinity, infinity | 1 << (form.mantissa - 1)]  # fmt: skip
        special += [x | top for x in special]

        def element_bits() -> int:
            choice = rng.randrange(5)
            if choice == 0:
                return rng.choice(special)
            if choice == 1:
                return rng.getrandbits(form.bits)
            # Near one, so that sums cancel and conversions to integers are in range.
            field = form.bias + rng.randrange(-6, 12)
            return (
                rng.getrandbits(1) * top | field << form.mantissa | rng.getrandbits(form.mantissa)
            )

        for _ in range(THREADS):
            values.append(element_bits())
            if element != kind:
                values[-1] |= element_bits() << form.bits
        return values
    edge = [0, 1, 2, (1 << bits) - 1, 1 << (bits - 1), (1 << (bits - 1)) - 1, 127, 128, 255, 256]
    for _ in range(THREADS):
        wide = rng.getrandbits(bits)
        values.append(rng.choice([rng.choice(edge), wide, wide, rng.randrange(1 << min(bits, 12))]))
    return [v & ((1 << bits) - 1) for v in values]


REGISTER = {16: "rs", 32: "r", 64: "rd"}


def _kernel(index: int, case: Case, divergent: bool) -> str:
    """Return a kernel that loads the operands, runs the opcode and stores its results."""
    lines, names, parameters = [], [], []
    count = 0
    for kind in case.operands:
        if kind.startswith("="):
            names.append(kind[1:])
            continue
        parameters.append(f".param .u64 in{count}")
        width = _width(kind) if kind != "pred" else 32
        lines += [
            f"ld.param.u64 %rd1, [in{count}];",
            f"mad.wide.u32 %rd2, %r1, {width // 8}, %rd1;",
        ]
        if kind == "pred":
            lines += ["ld.global.u32 %r9, [%rd2];", f"setp.ne.u32 %p{count + 1}, %r9, 0;"]
            names.append(f"%p{count + 1}")
        else:
            register = f"%{REGISTER[width]}{count + 10}"
            lines.append(f"ld.global.b{width} {register}, [%rd2];")
            names.append(register)
        count += 1
    outputs = []
    for i, kind in enumerate(case.results):
        if kind == "pred|pred":
            outputs.append("%p5|%p6")
        elif kind == "pred":
            outputs.append("%p5")
        else:
            outputs.append(f"%{REGISTER[_width(kind)]}{30 + i}")
            lines.append(f"mov.b{_width(kind)} {outputs[-1]}, 77;")
    if "pred" in case.results[0]:
        lines += ["setp.ne.u32 %p5, %r1, %r1;", "setp.ne.u32 %p6, %r1, %r1;"]
    if divergent:
        lines += ["and.b32 %r8, %r1, 3;", "setp.eq.u32 %p7, %r8, 1;", "@%p7 bra SKIP;"]
    lines.append(f"{case.opcode} {', '.join(outputs + names)};")
    if divergent:
        lines.append("SKIP:")
    stores: list[tuple[str, int]] = []
    for out, kind in zip(outputs, case.results, strict=True):
        if kind.startswith("pred"):
            for p in out.split("|"):
                lines.append(f"selp.u32 %r{40 + len(stores)}, 1, 0, {p};")
                stores.append((f"%r{40 + len(stores)}", 32))
        else:
            stores.append((out, _width(kind)))
    for i, (register, width) in enumerate(stores):
        parameters.append(f".param .u64 out{i}")
        lines += [
            f"ld.param.u64 %rd1, [out{i}];",
            f"mad.wide.u32 %rd2, %r1, {width // 8}, %rd1;",
            f"st.global.b{width} [%rd2], {register};",
        ]
    body = "\n  ".join(["mov.u32 %r1, %tid.x;", *lines, "ret;"])
    return (
        f".entry k{index}({', '.join(parameters)}) {{\n  .reg .pred %p<8>;\n  .reg .b16 %rs<48>;\n"
        f"  .reg .b32 %r<48>;\n  .reg .b64 %rd<48>;\n  {body}\n}}\n"
    )


def _results(module: Module, index: int, case: Case, inputs: list[list[int]]) -> list[np.ndarray]:
    device, threads = module.device, len(inputs[0])
    kinds = [k for k in case.operands if not k.startswith("=")]
    buffers = []
    for kind, values in zip(kinds, inputs, strict=True):
        width = 32 if kind == "pred" else _width(kind)
        buffers.append(device.buffer(np.array(values, f"u{width // 8}")))
    outputs = []
    for kind in case.results:
        widths = [32] * len(kind.split("|")) if kind.startswith("pred") else [_width(kind)]
        outputs += [device.empty(threads, f"u{w // 8}") for w in widths]
    result = module.launch(f"k{index}", 1, threads, *buffers, *outputs)
    assert result.fault == "none", case.opcode
    assert not result.reports, (case.opcode, result.reports[0].text)
    return [o.numpy() for o in outputs]


def _agree(got: int, want: int, kind: str, tolerance: float) -> bool:
    bits = 1 if kind.startswith("pred") else BITS[kind]
    got &= (1 << bits) - 1
    want &= (1 << bits) - 1
    if got == want:
        return True
    element = kind.removesuffix("x2")
    if element not in FORMATS:
        return False
    form = FORMATS[element]
    for shift in range(0, bits, bits if element == kind else form.bits):
        a = form.decode((got >> shift >> (13 if kind == "tf32" else 0)) & ((1 << form.bits) - 1))
        b = form.decode((want >> shift >> (13 if kind == "tf32" else 0)) & ((1 << form.bits) - 1))
        if a == b:
            continue
        # Which NaN comes out is not fixed for every instruction.
        if isinstance(a, str) or isinstance(b, str) or abs(a - b) > abs(b) * tolerance:
            # An approximation may flush what is hardly a number.
            small = not isinstance(a, str) and abs(a) < form.decode(1 << form.mantissa)  # type: ignore[operator]
            if not (tolerance and small and b in ("0", "-0")):
                return False
    return True


def _chunks(cases: list[Case]) -> Iterator[list[Case]]:
    for i in range(0, len(cases), 100):
        yield cases[i : i + 100]


@pytest.mark.parametrize("pattern", ELEMENTWISE)
def test_row_means_what_it_says(pattern: str) -> None:
    rng = random.Random(pattern)
    cases = _cases(pattern)
    for chunk in _chunks(cases):
        device = Device()
        divergent = [rng.random() < 0.3 for _ in chunk]
        kernels = [_kernel(i, c, d) for i, (c, d) in enumerate(zip(chunk, divergent, strict=True))]
        module = device.load(MODULE + "".join(kernels))
        for i, case in enumerate(chunk):
            kinds = [k for k in case.operands if not k.startswith("=")]
            inputs = [_operands(k, rng) for k in kinds]
            outputs = _results(module, i, case, inputs)
            flat = [p for k in case.results for p in ([k] if "|" not in k else ["pred", "pred"])]
            for t in range(THREADS):
                operands = [values[t] for values in inputs]
                want = case.meaning(*operands)
                if divergent[i] and t % 4 == 1:
                    want = tuple(0 if k == "pred" else 77 for k in flat)
                wanted = want if isinstance(want, tuple) else (want,)
                for out, value, kind in zip(outputs, wanted, flat, strict=True):
                    assert _agree(int(out[t]), value, kind, case.tolerance), (
                        f"{case.opcode} of {[hex(x) for x in operands]}: "
                        f"{int(out[t]):#x}, expected {value:#x}"
                    )


# Zeros, the least and the largest subnormal, 1, the largest number, infinities, a quiet and a
# signalling NaN.
SPECIAL = [0, 0x80000000, 1, 0x807FFFFF, 0x3F800000, 0xFF7FFFFF, 0x7F800000, 0xFF800000, 0x7FC00001,
           0xFF800001]  # fmt: skip
WITH_SPECIAL = [p for p in PATTERNS if p.endswith("f32x2") or p.endswith("[NaN].f32")]


@pytest.mark.parametrize("pattern", WITH_SPECIAL)
def test_special_values_in_every_combination(pattern: str) -> None:
    cases = [case for words in expand(pattern) for case in cases_of(words)]
    kernels = [_kernel(i, case, divergent=False) for i, case in enumerate(cases)]
    module = Device().load(MODULE + "".join(kernels))
    for index, case in enumerate(cases):
        rows = list(itertools.product(SPECIAL, repeat=len(case.operands)))
        if case.results[0] == "f32x2":
            # All of them in either half, beside others in the other one.
            high = random.Random(pattern).sample(rows, len(rows))
            rows = [
                tuple(a | b << 32 for a, b in zip(*pair, strict=True))
                for pair in zip(rows, high, strict=True)
            ]
        columns = [list(column) for column in zip(*rows, strict=True)]
        (out,) = _results(module, index, case, columns)
        for row, got in zip(rows, out.tolist(), strict=True):
            # Of NaNs the canonical one.
            assert got == case.meaning(*row), f"{case.opcode} of {[hex(x) for x in row]}: {got:#x}"


@pytest.mark.parametrize("name", KERNELS)
def test_form_kernel(name: str) -> None:
    KERNELS[name].check()


def test_every_row_is_tested() -> None:
    tested = set(ELEMENTWISE)
    texts = [k.text for k in KERNELS.values()]
    texts.append(ptx("fp8"))
    texts += [ptx(name) for name in {corpus.file_of(n) for n in corpus.CASES}]
    for text in texts:
        found = coverage(text)
        assert found["missing"] == {}
        tested |= set(found["rows"])
    assert [p for p in PATTERNS if p not in tested] == []


def test_conversions_to_and_from_sixteen_bits_exhaustively() -> None:
    source = """
.version 8.6
.target sm_90
.address_size 64
"""
    for kind in ("f16", "bf16"):
        for name, op, width in (
            ("up", f"cvt.f32.{kind} %f1, %rs1", 32),
            ("down", f"cvt.f32.{kind} %f1, %rs1; cvt.rn.{kind}.f32 %rs2, %f1", 16),
            ("whole", f"cvt.rzi.s32.{kind} %r9, %rs1", 32),
        ):
            out = {"up": "f32 [%rd4], %f1", "down": "b16 [%rd4], %rs2", "whole": "b32 [%rd4], %r9"}[
                name
            ]
            source += f"""
.entry {name}_{kind}(.param .u64 out) {{
  .reg .b16 %rs<4>; .reg .b32 %r<10>; .reg .f32 %f<3>; .reg .b64 %rd<6>;
  ld.param.u64 %rd1, [out];
  mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x;
  mad.lo.u32 %r3, %r2, 1024, %r1;
  cvt.u16.u32 %rs1, %r3;
  {op};
  mad.wide.u32 %rd4, %r3, {width // 8}, %rd1;
  st.global.{out};
  ret;
}}
"""
    device = Device()
    module = device.load(source)
    every = np.arange(65536, dtype=np.uint16)
    for kind, dtype in (("f16", np.dtype(np.float16)), ("bf16", corpus.BF16)):
        values = every.view(dtype)
        # Signalling NaNs make numpy warn.
        with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
            floats = values.astype(np.float32)
        up = device.empty(65536, np.float32)
        assert not module.launch(f"up_{kind}", 64, 1024, up).reports
        got = up.numpy()
        finite = ~np.isnan(floats)
        assert np.array_equal(got.view(np.uint32)[finite], floats.view(np.uint32)[finite])
        assert np.isnan(got[~finite]).all()
        down = device.empty(65536, np.uint16)
        assert not module.launch(f"down_{kind}", 64, 1024, down).reports
        assert np.array_equal(down.numpy()[finite], every[finite])
        whole = device.empty(65536, np.int32)
        assert not module.launch(f"whole_{kind}", 64, 1024, whole).reports
        clipped = np.clip(np.where(finite, floats, 0).astype(np.float64), -(2.0**31), 2.0**31 - 1)
        assert np.array_equal(whole.numpy(), np.trunc(clipped).astype(np.int32))
