"""Tensors that a checkpoint stores in float16 or float32, turned into bfloat16 at load."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from gptoss.checkpoint.safetensors import TensorSource
from gptoss.errors import CheckpointError

Dtype = Literal["as_stored", "convert"]

FLOAT_DTYPES = ("F16", "F32")

# Bounds what a conversion takes beside its result: 16 MB of float32, and as much again.
_PIECE_ITEMS = 1 << 22
_EXPONENT = 0x7F80_0000
_LOWER_HALF = 0xFFFF


def convert_tensors(
    tensors: dict[str, TensorSource], dtype: Dtype, progress: bool
) -> dict[str, TensorSource]:
    """Replace float16 and float32 tensors by bfloat16 ones that are held in memory.

    Parameters
    ----------
    tensors : dict of str to TensorSource
        Validated.
    dtype : {"as_stored", "convert"}
        "as_stored" takes tensors whose values are all numbers of bfloat16. "convert" rounds, to
        the nearest, ties to even.
    progress : bool
        Show a progress bar.

    Returns
    -------
    dict of str to TensorSource
        In the same order; what was BF16 or U8 is as it was.

    Raises
    ------
    CheckpointError
        A value is not a number of bfloat16 and `dtype` is "as_stored", with the way out; or it is
        NaN, infinite or beyond bfloat16's range.
    """
    wide = {name for name, source in tensors.items() if source.dtype in FLOAT_DTYPES}
    if not wide:
        return tensors
    from rich.progress import Progress  # here, because most checkpoints need none

    with Progress(disable=not progress, transient=True) as bars:
        task = bars.add_task(
            "Converting to bfloat16", total=sum(tensors[name].nbytes for name in wide)
        )
        result: dict[str, TensorSource] = {}
        for name, source in tensors.items():
            if name not in wide:
                result[name] = source
                continue
            array = _converted(name, source, dtype)
            result[name] = TensorSource(
                source.path, source.offset, array.nbytes, "BF16", source.shape, array
            )
            bars.advance(task, source.nbytes)
    return result


def to_bf16(x: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.bool_]]:
    """Round float32 to the nearest bfloat16, ties to even.

    Parameters
    ----------
    x : numpy.ndarray
        Finite float32.

    Returns
    -------
    bits : numpy.ndarray
        uint16; infinity for what is beyond the range.
    exact : numpy.ndarray
        Whether each number was one of bfloat16.
    """
    bits = x.view(np.uint32)
    half = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    rounded = ((bits + half) >> np.uint32(16)).astype(np.uint16)
    return rounded, (bits & np.uint32(_LOWER_HALF)) == 0


def _converted(name: str, source: TensorSource, dtype: Dtype) -> npt.NDArray[np.uint16]:
    result = np.empty(source.shape, np.uint16)
    flat = result.reshape(-1)
    begin = 0
    for piece in source.pieces(_PIECE_ITEMS):
        values = piece.astype(np.float32)
        bits, exact = to_bf16(values)
        finite = (bits & np.uint16(_EXPONENT >> 16)) != _EXPONENT >> 16
        if not finite.all():
            at = int(np.argmin(finite))
            raise CheckpointError(
                f"{source.path}: tensor {name}: expected finite numbers of bfloat16's range, found "
                f"{values[at]} at {_place(source, begin + at)}"
            )
        if dtype == "as_stored" and not exact.all():
            at = int(np.argmin(exact))
            raise CheckpointError(
                f"{source.path}: tensor {name}: expected dtype BF16, found {source.dtype} with "
                f"{values[at]:.9g} at {_place(source, begin + at)}, which BF16 does not have; pass "
                'dtype="convert" (--dtype convert) to round to bfloat16 at load, or save the model '
                "so (model.to(torch.bfloat16).save_pretrained(FOLDER))"
            )
        flat[begin : begin + len(bits)] = bits
        begin += len(bits)
    return result


def _place(source: TensorSource, index: int) -> list[int]:
    return [int(i) for i in np.unravel_index(index, source.shape)]
