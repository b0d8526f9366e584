"""MXFP4 in numpy, and experts that are quantised to it at load."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from gptoss.checkpoint import check_scales, estimate_memory, open_checkpoint
from gptoss.errors import CheckpointError
from gptoss.reference.mxfp4 import BLOCK_SIZE, dequantize, quantize
from support.checkpoints import MICRO, make_checkpoint

MAGNITUDES = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]


def test_every_code_times_every_scale() -> None:
    scales = np.arange(255, dtype=np.uint8)[:, None]
    low, high = np.arange(16, dtype=np.uint8), np.arange(16, dtype=np.uint8)[::-1]
    blocks = np.broadcast_to(low | high << 4, (255, 1, 16))
    values = dequantize(blocks, scales)
    assert values.shape == (255, 32)
    for scale in range(255):
        for code in range(16):
            expected = MAGNITUDES[code & 7] * (-1) ** (code >> 3) * 2.0 ** (scale - 127)
            # Byte b: element 2b is the low nibble, element 2b + 1 the high one.
            for found in (values[scale, 2 * code], values[scale, 2 * (15 - code) + 1]):
                assert found == expected
                assert np.signbit(found) == (code >= 8)


def test_scale_255_is_nan() -> None:
    scales = np.array([[127, 255, 127]], np.uint8)
    values = dequantize(np.zeros((1, 3, 16), np.uint8), scales)
    np.testing.assert_array_equal(np.isnan(values[0]), np.arange(96) // 32 == 1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("largest", range(16))
def test_values_of_mxfp4_come_back_exactly(largest: int, dtype: type[np.floating]) -> None:
    """Whatever the largest code of a block, also where the scale could be another one."""
    rng = np.random.default_rng(largest)
    codes = rng.integers(0, (largest & 7) + 1, (64, 32)) | rng.integers(0, 2, (64, 32)) << 3
    codes[:, 5] = largest
    blocks = (codes[:, 0::2] | codes[:, 1::2] << 4).astype(np.uint8)[:, None]
    # Down to the smallest scale; float32 holds no 6 * 2^127.
    scales = rng.integers(0, 253, (64, 1)).astype(np.uint8)
    scales[:3, 0] = [0, 1, 252]
    values = dequantize(blocks, scales)
    again, scales_again = quantize(values.astype(dtype))
    result = dequantize(again, scales_again)
    np.testing.assert_array_equal(result, values)
    np.testing.assert_array_equal(np.signbit(result), np.signbit(values))
    if largest & 7 >= 6:  # the scale is the only one, so the bytes are the same as well
        np.testing.assert_array_equal(again, blocks)
        np.testing.assert_array_equal(scales_again, scales)


def test_rounding_is_to_nearest_with_ties_to_even_codes() -> None:
    inputs = {
        0.25: 0.0,
        0.2500001: 0.5,
        0.7499999: 0.5,
        0.75: 1.0,
        1.25: 1.0,
        1.2500001: 1.5,
        1.75: 2.0,
        1.7499999: 1.5,
        2.5: 2.0,
        2.5000002: 3.0,
        3.5: 4.0,
        3.4999998: 3.0,
        5.0: 4.0,
        5.0000005: 6.0,
        7.9999995: 6.0,
    }
    x = np.zeros((1, 32), np.float32)
    x[0, : len(inputs)] = list(inputs)
    for sign in (1, -1):
        blocks, scales = quantize(sign * x)
        assert scales.item() == 127  # the largest input lies between 4 and 8
        found = dequantize(blocks, scales)[0, : len(inputs)]
        np.testing.assert_array_equal(found, sign * np.array(list(inputs.values())))


def test_rounding_finds_the_nearest_value() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 32)) * 2.0 ** rng.integers(-40, 40, (200, 1))
    blocks, scales = quantize(x)
    scale = 2.0 ** (scales.astype(float) - 127)
    largest = np.abs(x).max(axis=1, keepdims=True) / scale
    assert ((largest >= 4) & (largest < 8)).all()
    grid = np.array([*MAGNITUDES, *(-m for m in MAGNITUDES)])
    nearest = np.abs(x[..., None] / scale[..., None] - grid).min(axis=-1)
    np.testing.assert_array_equal(np.abs(x - dequantize(blocks, scales)) / scale, nearest)


def test_zeros_and_the_ends_of_the_range() -> None:
    zeros = np.zeros((2, 32))
    zeros[1] = -0.0
    blocks, scales = quantize(zeros)
    assert not scales.any()
    assert not blocks[0].any()
    assert (blocks[1] == 0x88).all()
    tiny = np.full((1, 32), 2.0**-128)  # half of the smallest scale: code 1
    blocks, scales = quantize(tiny)
    assert scales.item() == 0
    assert (blocks == 0x11).all()
    huge = np.full((1, 32), 2.0**200)  # saturates at 6 times the largest scale
    blocks, scales = quantize(huge)
    assert scales.item() == 254
    assert (blocks == 0x77).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(value: float) -> None:
    x = np.zeros((1, 64))
    x[0, 40] = value
    with pytest.raises(ValueError, match="must be finite"):
        quantize(x)


def test_length_is_checked() -> None:
    with pytest.raises(ValueError, match=r"K must be a multiple of 32, got 33"):
        quantize(np.zeros((2, 33)))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("experts")
    make_checkpoint(root / "mxfp4", MICRO, seed=1)
    make_checkpoint(root / "bf16", MICRO, seed=1, bf16_experts=True, shard_bytes=35_000)
    return {path.name: path for path in root.iterdir()}


def test_dequantised_experts_come_back_exactly(folders: dict[str, Path]) -> None:
    stored = open_checkpoint(folders["mxfp4"])
    made = open_checkpoint(folders["bf16"], experts="mxfp4", progress=False)
    assert made.config == stored.config
    assert list(made.tensors) == list(stored.tensors)
    for name, tensor in stored.tensors.items():
        other = made.tensors[name]
        assert (other.dtype, other.shape, other.nbytes) == (
            tensor.dtype,
            tensor.shape,
            tensor.nbytes,
        )
        if name.endswith("_blocks"):
            assert other.array is not None
            assert other.array.flags.c_contiguous
            scales = name.removesuffix("_blocks") + "_scales"
            np.testing.assert_array_equal(
                dequantize(other.read(), made.tensors[scales].read()),
                dequantize(tensor.read(), stored.tensors[scales].read()),
            )
        elif not name.endswith("_scales"):
            np.testing.assert_array_equal(other.read(), tensor.read())
    # The bytes differ only in blocks without a code 6 or 7, which have a second exact scale.
    blocks = stored.tensors["model.layers.0.mlp.experts.down_proj_blocks"].read()
    codes = np.stack([blocks & 7, blocks >> 4 & 7])
    unique = codes.max(axis=(0, -1)) >= 6
    assert unique.sum() > unique.size // 2
    again = made.tensors["model.layers.0.mlp.experts.down_proj_blocks"].read()
    np.testing.assert_array_equal(again[unique], blocks[unique])
    assert made.weight_bytes == stored.weight_bytes
    assert estimate_memory(folders["bf16"]).weight_bytes == made.weight_bytes
    check_scales(made)


def test_bfloat16_weights_that_mxfp4_cannot_hold_are_rounded(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(folders["bf16"], tmp_path / "copy"))
    name = "model.layers.1.mlp.experts.gate_up_proj"
    source = wide_source(folder, name)
    rng = np.random.default_rng(5)
    values = rng.normal(size=source.shape).astype(np.float32)
    source[:] = values.view(np.uint32) >> 16
    source.flush()
    values = (np.asarray(source).astype(np.uint32) << 16).view(np.float32)
    tensors = open_checkpoint(folder, experts="mxfp4", progress=False).tensors
    blocks, scales = quantize(values.swapaxes(1, 2))
    np.testing.assert_array_equal(tensors[f"{name}_blocks"].read(), blocks)
    np.testing.assert_array_equal(tensors[f"{name}_scales"].read(), scales)
    error = dequantize(blocks, scales) - values.swapaxes(1, 2)
    # Half a step of the coarsest interval, 4 to 6, or saturation at 6 of just below 8.
    block_scales = np.repeat(2.0 ** (scales.astype(float) - 127), BLOCK_SIZE, axis=-1)
    assert (np.abs(error) < 2 * block_scales).all()


def test_weights_that_are_not_finite_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders["bf16"], tmp_path / "copy"))
    name = "model.layers.1.mlp.experts.down_proj"
    source = wide_source(folder, name)
    source[2, 0, 0] = 0x7FC0
    source.flush()
    with pytest.raises(CheckpointError, match=f"{name}: expected finite .* in expert 2"):
        open_checkpoint(folder, experts="mxfp4", progress=False)


def test_asking_for_mxfp4_changes_nothing_where_it_is_stored(folders: dict[str, Path]) -> None:
    assert open_checkpoint(folders["mxfp4"], experts="mxfp4").tensors == (
        open_checkpoint(folders["mxfp4"]).tensors
    )


def wide_source(folder: Path, name: str) -> np.memmap[tuple[int, ...], np.dtype[np.uint16]]:
    """Map a tensor of bfloat16 experts for writing."""
    from gptoss.checkpoint.safetensors import read_header

    for path in folder.glob("*.safetensors"):
        if (source := read_header(path).get(name)) is not None:
            return np.memmap(path, np.uint16, "r+", source.offset, source.shape)
    raise AssertionError(name)
