"""Experts that a checkpoint stores in bfloat16 or wider, turned into MXFP4 at load."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from gptoss.checkpoint.layout import MXFP4_BLOCK_SIZE
from gptoss.checkpoint.safetensors import TensorSource
from gptoss.config import ModelConfig
from gptoss.errors import CheckpointError

_PROJECTIONS = (".mlp.experts.gate_up_proj", ".mlp.experts.down_proj")


def refuse_wide_experts(tensors: dict[str, TensorSource]) -> None:
    """Raise CheckpointError with the memory that quantising would take, if any expert is wide."""
    wide = {name: source for name, source in tensors.items() if name.endswith(_PROJECTIONS)}
    if not wide:
        return
    wide_bytes = sum(source.nbytes for source in wide.values())
    items = sum(math.prod(source.shape) for source in wide.values())
    # 4 bits each, and 8 more for each block of 32.
    narrow_bytes = items * (4 * MXFP4_BLOCK_SIZE + 8) // (8 * MXFP4_BLOCK_SIZE)
    first, source = next(iter(wide.items()))
    raise CheckpointError(
        f"{source.path}: tensor {first}: expected MXFP4 blocks and scales, found {source.dtype}: "
        f'the experts take {wide_bytes / 1e9:.3g} GB so; pass experts="mxfp4" to quantise them '
        f"at load, to {narrow_bytes / 1e9:.3g} GB of memory"
    )


def quantize_experts(
    config: ModelConfig, tensors: dict[str, TensorSource], progress: bool
) -> dict[str, TensorSource]:
    """Replace the experts' [E, in, out] bfloat16, float16 or float32 by MXFP4 blocks and scales.

    Values that came from MXFP4 come back exactly.

    Parameters
    ----------
    config : ModelConfig
        Gives the number of experts.
    tensors : dict of str to TensorSource
        Validated; the experts' weights are called `...gate_up_proj` and `...down_proj`.
    progress : bool
        Show a progress bar.

    Returns
    -------
    dict of str to TensorSource
        The canonical tensors; the new ones hold arrays.

    Raises
    ------
    CheckpointError
        A weight is NaN or infinite.
    """
    # Here, because most checkpoints need neither: rich takes a while to import, and the float64
    # reference reads checkpoints without the compiled core.
    from rich.progress import Progress

    from gptoss.ops import mxfp4_quantize

    wide = {name: source for name, source in tensors.items() if name.endswith(_PROJECTIONS)}
    result: dict[str, TensorSource] = {}
    with Progress(disable=not progress, transient=True) as bars:
        task = bars.add_task("Quantising experts", total=len(wide) * config.num_local_experts)
        for name, source in tensors.items():
            if name not in wide:
                result[name] = source
                continue
            experts, columns, rows = source.shape
            row_blocks = columns // MXFP4_BLOCK_SIZE
            blocks = np.empty((experts, rows, row_blocks, MXFP4_BLOCK_SIZE // 2), np.uint8)
            scales = np.empty((experts, rows, row_blocks), np.uint8)
            for expert, matrix in enumerate(source.pieces(columns * rows)):
                try:
                    weights = np.ascontiguousarray(_to_f32(matrix).reshape(columns, rows).T)
                    blocks[expert], scales[expert] = mxfp4_quantize(weights)
                except ValueError as error:
                    raise CheckpointError(
                        f"{source.path}: tensor {name}: expected finite weights, found NaN or "
                        f"infinity in expert {expert}"
                    ) from error
                bars.advance(task)
            for suffix, array in (("_blocks", blocks), ("_scales", scales)):
                result[name + suffix] = TensorSource(
                    source.path, source.offset, array.nbytes, "U8", array.shape, array
                )
    return result


def _to_f32(values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    if values.dtype == np.uint16:  # the bits of bfloat16
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)
