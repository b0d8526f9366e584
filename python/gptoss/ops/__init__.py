"""The compiled kernels on numpy arrays.

Arguments are taken as they are or not at all: a wrong dtype raises TypeError, a wrong shape,
order or value raises ValueError, and nothing is converted or copied on the way in. All arrays are
C-contiguous; an array of size 0 is an error, but for escapes.

Letters in shapes: T tokens, K in-features, N out-features, H query heads, G key/value heads, D
head_dim, S keys, E experts, A active experts per token, I intermediate size.

Every op takes `target`, the device that runs it: "cpu", which is the default, or one of its
instruction sets, "cpu:scalar", "cpu:avx2", "cpu:avx512" and so on. "cpu" alone is the fastest of
them here, or the one that the environment variable GPTOSS_ISA names. A target that is unknown, or
that cannot run here, raises gptoss.errors.BackendError. Where an op takes `isa` as well, isa="avx2"
is target="cpu:avx2". A row of a result does not depend on the other rows of the call, nor on the
number of threads.
"""

from gptoss.ops.attention import banded_attention, rope
from gptoss.ops.matmul import bf12_encode, bf12_matmul, dense_matmul, q8_encode, q8_matmul
from gptoss.ops.moe import expert_gather, route_topk, swiglu
from gptoss.ops.mxfp4 import mxfp4_dequantize, mxfp4_matmul, mxfp4_quantize
from gptoss.ops.norm import rms_norm

__all__ = [
    "banded_attention",
    "bf12_encode",
    "bf12_matmul",
    "dense_matmul",
    "expert_gather",
    "mxfp4_dequantize",
    "mxfp4_matmul",
    "mxfp4_quantize",
    "q8_encode",
    "q8_matmul",
    "rms_norm",
    "rope",
    "route_topk",
    "swiglu",
]
