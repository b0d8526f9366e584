"""What an opened checkpoint is: its config, and where each tensor's bytes lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gptoss.checkpoint.layout import MAX_SCALE_BYTE, Layout
from gptoss.checkpoint.safetensors import TensorSource
from gptoss.config import ModelConfig
from gptoss.errors import CheckpointError
from gptoss.tokenizer.json_file import TokenizerJson

_NAN_SCALE_BYTE = 255


@dataclass(frozen=True)
class Checkpoint:
    """A validated checkpoint.

    Attributes
    ----------
    path : Path
        The folder that holds the weights, or the GGUF file (of a split one the first).
    layout : {"hf", "original", "gguf"}
        Which of the two published layouts it has, or that it is GGUF.
    config : ModelConfig
        The model's dimensions, and the ids to stop at.
    tensors : dict of str to TensorSource
        All tensors under canonical names (those of the Hugging Face layout), in the order of
        the model; the same set for all layouts, but that a matrix which GGUF has in Q8_0 is two:
        "....weight.codes" and "....weight.scales".
    tokenizer_path : Path or None
        The tokenizer.json that belongs to it, if there is one; or the GGUF file.
    tokenizer_json : TokenizerJson or None
        What is in that file.
    name : str
        For display: the Hub id, or the folder's name.
    """

    path: Path
    layout: Layout
    config: ModelConfig
    tensors: dict[str, TensorSource]
    tokenizer_path: Path | None
    tokenizer_json: TokenizerJson | None
    name: str

    @property
    def weight_bytes(self) -> int:
        """Bytes of all tensors together."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def converted_bytes(self) -> int:
        """Bytes of the tensors that were made at load, in memory; the others are mapped."""
        return sum(tensor.nbytes for tensor in self.tensors.values() if tensor.array is not None)


def check_scales(checkpoint: Checkpoint) -> None:
    """Check that every MXFP4 scale can be used.

    Scale byte 255 means NaN. With 253 and 254 the largest FP4 value times the scale leaves
    bfloat16's range, and a kernel that folds the scale into a bfloat16 weight would overflow.

    Parameters
    ----------
    checkpoint : Checkpoint
        As `open_checkpoint` returned it.

    Raises
    ------
    CheckpointError
        A scale byte is above 252.

    Notes
    -----
    Reads every scale byte once, one seventeenth of the experts' bytes: 0.6 GB for gpt-oss-20b.
    numpy releases the GIL meanwhile, so that a thread can do it while the model starts.
    """
    for name, tensor in checkpoint.tensors.items():
        if not name.endswith("_scales"):
            continue
        _, rows, blocks = tensor.shape
        for expert, scales in enumerate(tensor.pieces(rows * blocks)):
            if scales.max() <= MAX_SCALE_BYTE:
                continue
            row, block = divmod(int(np.argmax(scales > MAX_SCALE_BYTE)), blocks)
            byte = scales[row * blocks + block]
            meaning = "NaN" if byte == _NAN_SCALE_BYTE else "beyond bfloat16"
            raise CheckpointError(
                f"{tensor.path}: tensor {name}: expected scale bytes up to {MAX_SCALE_BYTE}, "
                f"found {byte} ({meaning}) at [{expert}, {row}, {block}]"
            )
