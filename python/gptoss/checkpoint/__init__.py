"""Checkpoints on disk or on the Hub: found, validated, and described tensor by tensor."""

from gptoss.checkpoint.checkpoint import Checkpoint, check_scales
from gptoss.checkpoint.memory import MemoryEstimate, estimate_memory
from gptoss.checkpoint.open import open_checkpoint
from gptoss.checkpoint.safetensors import TensorSource

__all__ = [
    "Checkpoint",
    "MemoryEstimate",
    "TensorSource",
    "check_scales",
    "estimate_memory",
    "open_checkpoint",
]
