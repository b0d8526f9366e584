"""Tensor copies that are wrong: each is reported; the same kernel without the fault is clean."""

from __future__ import annotations

import numpy as np
import pytest

from emulator.device import Device, Result
from emulator.form_kernels import _box_text

TEXT = _box_text(2, 1)
LOAD, STORE = "cp.async.bulk.tensor.2d.shared", "cp.async.bulk.tensor.2d.global"
BOX, SHAPE = (16, 64), (37, 80)


def run(text: str, *, source: bytes | None = None, late: bool = False, seed: int = 1) -> Result:
    """Run the kernel on maps of two arrays."""
    device = Device()
    x = device.buffer(np.arange(37 * 80, dtype=np.uint16).reshape(SHAPE), "x")
    y = device.buffer(np.zeros(SHAPE, np.uint16), "y")
    raw = device.empty(2048, np.uint8, "raw")
    map_of_x = x.tensor_map(BOX, 128)
    if late:
        x.free()
    at = np.zeros(5, np.int32).tobytes()
    return device.load(text).launch(
        "k", 1, 256, source or map_of_x, y.tensor_map(BOX, 128), at, 2048, raw, seed=seed
    )


@pytest.mark.parametrize("seed", range(6))
def test_without_a_fault(seed: int) -> None:
    result = run(TEXT, seed=seed)
    assert result.fault == "none"
    assert not result.reports


# What stands there, what stands there instead; the class, and the instructions of both sides.
FAULTS = {
    "does not wait": ("@!%p2 bra WAIT;", "", "async-read-early", "ld", LOAD),
    "expects fewer bytes": ("_, [%r3], %r4", "_, [%r3], 2032", "endless-spin", "", ""),
    "goes to an odd place": ("[%r2], [%rd2", "[%r2+64], [%rd2", "misaligned", LOAD, ""),
    "goes beyond the tile": ("[%r2], [%rd2", "[%r2+2176], [%rd2", "out-of-bounds-shared", LOAD, ""),
    "counts on no mbarrier": ("{%r10, %r11}], [%r3]", "{%r10, %r11}], [%r2]", "mbarrier", LOAD, ""),
    "is written over": (
        "mad.lo.u32 %r5,", "@%p1 st.shared.u32 [%r2+512], %r1; mad.lo.u32 %r5,",
        "proxy-fence", STORE, "st.shared"),
    "leaves before it has read": (
        "cp.async.bulk.wait_group 0;", "@%p1 st.shared.u32 [%r2+512], %r1;",
        "async-source-written", "st.shared", STORE),
    "is not waited for": ("cp.async.bulk.wait_group 0;", "", "async-not-waited", "ret", ""),
    "comes back from a tile that was never written": (
        "[%rd4, {%r10, %r11}], [%r2]", "[%rd4, {%r10, %r11}], [%r2+2048]",
        "uninitialised-store", STORE, ""),
    "reads its map from another place": ("cvta.param.u64 %rd2, %rd1;",
        "cvta.param.u64 %rd2, %rd1; add.u64 %rd2, %rd2, 64;", "tensor-map", LOAD, ""),
    "has a coordinate that was never set": ("{%r10, %r11}], [%r3]", "{%r10, %r20}], [%r3]",
        "uninitialised-operand", LOAD, ""),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_reported(name: str) -> None:
    old, new, report_class, access, other = FAULTS[name]
    assert old in TEXT
    found = [r for s in range(4) for r in run(TEXT.replace(old, new), seed=s).reports]
    matching = [
        r
        for r in found
        if r.name == report_class
        and (not access or (r.access and access in r.access.text))
        and (not other or (r.other and other in r.other.text))
    ]
    assert matching, "\n".join(r.text for r in found)


def test_what_is_no_map_is_reported() -> None:
    for source in (bytes(128), np.arange(128, dtype=np.uint8).tobytes()):
        result = run(TEXT, source=source)
        assert result.fault == "illegal-instruction"
        assert result.classes == {"tensor-map"}
    three = Device().buffer(np.zeros((2, 4, 64), np.uint16)).tensor_map((2, 4, 64), 128)
    result = run(TEXT, source=three)
    assert "a tensor map of 3 dimensions" in result.reports[0].message


def test_a_tensor_that_was_freed_is_reported() -> None:
    assert run(TEXT, late=True).classes == {"use-after-free"}


def test_wrong_maps_are_refused() -> None:
    buffer = Device().buffer(np.zeros((8, 40), np.uint16))
    for box, swizzle, message in (
        ((8, 257), 0, "a box has 1 to 256 elements"),
        ((8, 4), 0, "a multiple of 16 bytes"),
        ((8, 40), 64, "wider than the swizzle"),
    ):
        with pytest.raises(ValueError, match=message):
            buffer.tensor_map(box, swizzle)
    with pytest.raises(ValueError, match="a stride is a multiple of 16"):
        Device().buffer(np.zeros((8, 41), np.uint16)).tensor_map((8, 8))
