"""Checkpoints in float16 and float32, as fine-tunes have them: exact, rounded, or refused."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gptoss
from gptoss.checkpoint import Checkpoint, estimate_memory, open_checkpoint, safetensors
from gptoss.checkpoint.convert import to_bf16
from gptoss.cli import main
from gptoss.errors import CheckpointError
from gptoss.reference.model import ReferenceModel, load_tensors
from support.checkpoints import MICRO, make_checkpoint, recast

NORM = "model.norm.weight"
ROUTER = "model.layers.1.mlp.router.weight"
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("good")
    make_checkpoint(root / "hf", MICRO)
    make_checkpoint(root / "wide", MICRO, bf16_experts=True)
    make_checkpoint(root / "original", MICRO, layout="original")
    return {path.name: path for path in root.iterdir()}


@pytest.fixture
def copy(originals: dict[str, Path], tmp_path: Path) -> Callable[..., Path]:
    """Copy a checkpoint with the bfloat16 tensors in the chosen dtypes."""

    def make(
        layout: str,
        choose: Callable[[str], str],
        change: Callable[[str, npt.NDArray[np.float32]], object] = lambda name, values: None,
    ) -> Path:
        folder = Path(shutil.copytree(originals[layout], tmp_path / "model"))
        recast(next(folder.rglob(WEIGHTS)), choose, change)
        return folder

    return make


def same_weights(a: Checkpoint, b: Checkpoint) -> None:
    assert a.tensors.keys() == b.tensors.keys()
    for name, tensor in a.tensors.items():
        assert tensor.dtype == b.tensors[name].dtype
        np.testing.assert_array_equal(tensor.read(), b.tensors[name].read(), err_msg=name)


def only(wanted: str, dtype: str) -> Callable[[str], str]:
    return lambda name: dtype if name.endswith(wanted) else "BF16"


@pytest.mark.parametrize("layout", ["hf", "original"])
@pytest.mark.parametrize("dtype", ["as_stored", "convert"])
def test_float32_that_is_bfloat16_is_taken_as_it_is(
    dtype: str, layout: str, originals: dict[str, Path], copy: Callable[..., Path]
) -> None:
    folder = copy(layout, lambda name: "F32")
    checkpoint = open_checkpoint(folder, dtype=dtype, progress=False)  # type: ignore[arg-type]
    same_weights(checkpoint, open_checkpoint(originals[layout]))
    assert estimate_memory(folder).weight_bytes == checkpoint.weight_bytes


@pytest.mark.parametrize("name", [NORM, ROUTER, "lm_head.weight", "self_attn.sinks"])
def test_one_tensor_in_float32(
    name: str, originals: dict[str, Path], copy: Callable[..., Path]
) -> None:
    checkpoint = open_checkpoint(copy("hf", only(name, "F32")), progress=False)
    same_weights(checkpoint, open_checkpoint(originals["hf"]))


def test_the_same_tokens_come_out(originals: dict[str, Path], copy: Callable[..., Path]) -> None:
    params = {"max_tokens": 8, "temperature": 0.0, "ignore_eos": True}
    with gptoss.load(originals["hf"], threads=1) as llm:
        expected = llm.generate([1, 2, 3], **params).token_ids
    folder = copy("hf", lambda name: "F32")
    with gptoss.load(folder, threads=1, dense="q8") as llm:
        llm.generate([1, 2, 3], **params)
    with gptoss.load(folder, threads=1) as llm:
        assert llm.generate([1, 2, 3], **params).token_ids == expected


@pytest.mark.parametrize("stored", ["F16", "F32"])
def test_what_needs_rounding_is_refused_with_the_way_out(
    stored: str, copy: Callable[..., Path]
) -> None:
    def change(name: str, values: npt.NDArray[np.float32]) -> None:
        if name == ROUTER:
            values[2, 5] = 1 + 2.0**-9

    folder = copy("hf", only(ROUTER, stored), change)
    with pytest.raises(CheckpointError) as raised:
        open_checkpoint(folder, progress=False)
    for part in (WEIGHTS, f"tensor {ROUTER}", f"found {stored} with 1.00195312 at [2, 5]"):
        assert part in str(raised.value)
    assert 'pass dtype="convert"' in str(raised.value)
    assert "torch.bfloat16" in str(raised.value)
    with pytest.raises(CheckpointError, match="convert"):
        gptoss.load(folder)
    checkpoint = open_checkpoint(folder, dtype="convert", progress=False)
    assert checkpoint.tensors[ROUTER].read()[2, 5] == 0x3F80
    with gptoss.load(folder, threads=1, dtype="convert") as llm:
        assert len(llm.generate([1], max_tokens=2, ignore_eos=True).token_ids) == 2


def test_float16_is_taken_where_it_is_exact(copy: Callable[..., Path]) -> None:
    def change(name: str, values: npt.NDArray[np.float32]) -> None:
        values[:] = np.float32(0.375)

    checkpoint = open_checkpoint(copy("hf", lambda name: "F16", change), progress=False)
    assert set(checkpoint.tensors[NORM].read()) == {0x3EC0}
    assert {tensor.dtype for tensor in checkpoint.tensors.values()} == {"BF16", "U8"}


def test_the_command_line(copy: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    def change(name: str, values: npt.NDArray[np.float32]) -> None:
        values *= np.float32(1.001)

    folder = copy("hf", lambda name: "F16", change)
    command = ["generate", str(folder), "a", "--max-tokens", "2", "--threads", "1"]
    assert main(command) == 2
    assert "--dtype convert" in capsys.readouterr().err
    assert main([*command, "--dtype", "convert"]) == 0
    assert main([*command, "--dtype", "float32"]) == 2


@pytest.mark.parametrize("stored", ["F16", "F32"])
def test_experts_are_quantised_from_what_they_are(
    stored: str, originals: dict[str, Path], copy: Callable[..., Path]
) -> None:
    folder = copy("wide", lambda name: stored if ".experts." in name else "BF16")
    with pytest.raises(CheckpointError, match=f'found {stored}.*experts="mxfp4"'):
        open_checkpoint(folder, progress=False)
    if stored == "F32":
        checkpoint = open_checkpoint(folder, experts="mxfp4", progress=False)
        same_weights(checkpoint, open_checkpoint(originals["hf"]))
        return
    # The experts' biases are no numbers of both.
    checkpoint = open_checkpoint(folder, experts="mxfp4", dtype="convert", progress=False)
    assert all(tensor.dtype in ("BF16", "U8") for tensor in checkpoint.tensors.values())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3.4e38])
@pytest.mark.parametrize("dtype", ["as_stored", "convert"])
def test_what_is_not_finite_is_refused(dtype: str, value: float, copy: Callable[..., Path]) -> None:
    def change(name: str, values: npt.NDArray[np.float32]) -> None:
        if name == ROUTER:
            values[1, 3] = value

    folder = copy("hf", only(ROUTER, "F32"), change)
    with pytest.raises(CheckpointError, match=rf"tensor {ROUTER}: expected finite.*at \[1, 3\]"):
        open_checkpoint(folder, dtype=dtype, progress=False)  # type: ignore[arg-type]


def test_other_dtypes_are_refused(copy: Callable[..., Path]) -> None:
    with pytest.raises(CheckpointError, match="expected dtype BF16, found F64; save the model in"):
        open_checkpoint(copy("hf", only(NORM, "F64")))


def test_a_file_that_is_cut_off_meanwhile(
    copy: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy("hf", lambda name: "F32")
    size = (folder / WEIGHTS).stat().st_size
    real = safetensors.open_regular

    def cut(path: Path, limit: int | None) -> BufferedReader:
        if len(opened) == 1:  # the header was read
            os.truncate(path, size // 2)
        opened.append(path)
        return real(path, limit)

    opened: list[Path] = []
    monkeypatch.setattr(safetensors, "open_regular", cut)
    with pytest.raises(CheckpointError, match="found them cut off while it was read"):
        open_checkpoint(folder, progress=False)


def test_the_reference_takes_them_too(
    originals: dict[str, Path], copy: Callable[..., Path]
) -> None:
    expected, found = (
        ReferenceModel(checkpoint.config, load_tensors(checkpoint)).logits([1, 2, 3])
        for checkpoint in (
            open_checkpoint(originals["hf"]),
            open_checkpoint(copy("hf", lambda name: "F32"), progress=False),
        )
    )
    np.testing.assert_array_equal(found, expected)


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
def test_rounding_is_that_of_ml_dtypes(values: list[float]) -> None:
    x = np.array(values, np.float32)
    with np.errstate(over="ignore"):
        expected = x.astype(ml_dtypes.bfloat16)
    bits, exact = to_bf16(x)
    np.testing.assert_array_equal(bits, expected.view(np.uint16))
    np.testing.assert_array_equal(exact, expected.astype(np.float32) == x)
