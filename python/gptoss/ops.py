"""The compiled kernels on numpy arrays.

Arguments are taken as they are or not at all: a wrong dtype raises TypeError, a wrong shape,
order or value raises ValueError, and nothing is converted or copied on the way in. All arrays are
C-contiguous; an array of size 0 is an error, but for escapes.

Letters in shapes: T tokens, K in-features, N out-features, H query heads, G key/value heads, D
head_dim, S keys, E experts, A active experts per token, I intermediate size.

Every op that has a variant per instruction set takes `isa`: "scalar", "avx2", "avx512" and so on
forces one, and None uses the fastest (or the one that the environment variable GPTOSS_ISA names).
An instruction set that this machine lacks raises gptoss.errors.BackendError. A row of a result
does not depend on the other rows of the call, nor on the number of threads.
"""

from __future__ import annotations

import math
import operator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from gptoss import _core
from gptoss.config import RopeConfig

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

F32Array: TypeAlias = npt.NDArray[np.float32]
I32Array: TypeAlias = npt.NDArray[np.int32]
U8Array: TypeAlias = npt.NDArray[np.uint8]

_BLOCK_SIZE = 32
_BLOCK_BYTES = 16
_MAX_INT = 2**31 - 1


def mxfp4_dequantize(blocks: U8Array, scales: U8Array) -> F32Array:
    """Turn MXFP4 into float32.

    Parameters
    ----------
    blocks : numpy.ndarray
        (..., K/32, 16) uint8. Byte i of a block holds element 2i in its low nibble and element
        2i+1 in its high nibble.
    scales : numpy.ndarray
        (..., K/32) uint8, E8M0: s stands for 2^(s - 127), and 255 for NaN.

    Returns
    -------
    numpy.ndarray
        (..., K) float32. Exact, but for values beyond float32's range, which become infinite.

    Raises
    ------
    TypeError
        An array is not uint8.
    ValueError
        A shape or order is not as above.

    Notes
    -----
    Source: OCP Microscaling Formats (MX) v1.0; the packing is that of the gpt-oss checkpoints.
    """
    check = _Arguments("mxfp4_dequantize")
    check.array("scales", scales, np.uint8, "... B")
    check.array("blocks", blocks, np.uint8, f"... B {_BLOCK_BYTES}")
    values = _core.mxfp4_dequantize(blocks.reshape(-1, _BLOCK_BYTES), scales.reshape(-1))
    return values.reshape(*scales.shape[:-1], scales.shape[-1] * _BLOCK_SIZE)


def mxfp4_quantize(x: F32Array) -> tuple[U8Array, U8Array]:
    """Turn float32 into MXFP4.

    A block's scale is 2^(floor(log2(largest magnitude)) - 2), within E8M0's range; elements are
    rounded to the nearest E2M1 value, ties to the even code, and saturate at 6 times the scale.
    Values that came from MXFP4 come back exactly.

    Parameters
    ----------
    x : numpy.ndarray
        (..., K) float32, finite, K a multiple of 32.

    Returns
    -------
    blocks : numpy.ndarray
        (..., K/32, 16) uint8, packed as `mxfp4_dequantize` reads it.
    scales : numpy.ndarray
        (..., K/32) uint8; a block of zeros has 0.

    Raises
    ------
    TypeError
        x is not float32.
    ValueError
        K is not a multiple of 32, x is not contiguous, or it holds NaN or infinity.

    Notes
    -----
    Source: OCP Microscaling Formats (MX) v1.0, section 6.3.
    """
    check = _Arguments("mxfp4_quantize")
    check.array("x", x, np.float32, "... K")
    check.multiple_of("K", _BLOCK_SIZE)
    if not np.isfinite(x).all():
        raise ValueError("[mxfp4_quantize] expected finite x, got NaN or infinity")
    shape = (*x.shape[:-1], x.shape[-1] // _BLOCK_SIZE)
    blocks, scales = _core.mxfp4_quantize(x.reshape(-1, _BLOCK_SIZE))
    return blocks.reshape(*shape, _BLOCK_BYTES), scales.reshape(shape)


def mxfp4_matmul(
    x: F32Array,
    blocks: U8Array,
    scales: U8Array,
    bias: F32Array | None = None,
    *,
    int8_activations: bool = False,
    isa: str | None = None,
) -> F32Array:
    """Multiply by MXFP4 weights: y = x @ dequantize(blocks, scales)^T + bias.

    Parameters
    ----------
    x : numpy.ndarray
        (T, K) float32, K a multiple of 32.
    blocks : numpy.ndarray
        (N, K/32, 16) uint8, packed as `mxfp4_dequantize` reads it.
    scales : numpy.ndarray
        (N, K/32) uint8.
    bias : numpy.ndarray, optional
        (N) float32.
    int8_activations : bool
        Round x to int8 first, 32 elements to a scale of (largest magnitude) / 127: faster, with
        an error of up to half a step per element. Scale byte 0, 2^-127, then counts as zero.
    isa : str, optional
        Instruction set to use; see the module.

    Returns
    -------
    numpy.ndarray
        (T, N) float32.

    Raises
    ------
    TypeError
        An array has another dtype.
    ValueError
        A shape or order is not as above, or a scale is NaN and int8_activations is set.
    gptoss.errors.BackendError
        `isa` is unknown or cannot run here.

    Notes
    -----
    Weights are decoded exactly and sums are float32: 16 lanes over K, then a tree. With
    int8_activations, products within a block are exact integers, and only the sum over blocks is
    float32. Source: OCP Microscaling Formats (MX) v1.0.
    """
    check = _Arguments("mxfp4_matmul")
    check.array("x", x, np.float32, "T K")
    check.multiple_of("K", _BLOCK_SIZE)
    check.array("blocks", blocks, np.uint8, f"N K/{_BLOCK_SIZE} {_BLOCK_BYTES}")
    check.array("scales", scales, np.uint8, f"N K/{_BLOCK_SIZE}")
    if bias is not None:
        check.array("bias", bias, np.float32, "N")
    if int8_activations and (scales == 255).any():
        raise ValueError(
            "[mxfp4_matmul] expected scales below 255 with int8_activations, got NaN (255)"
        )
    return _core.mxfp4_matmul(x, blocks, scales, bias, bool(int8_activations), isa or "")


def dense_matmul(
    x: F32Array,
    w: npt.NDArray[Any],
    bias: F32Array | None = None,
    *,
    fast: bool = False,
    isa: str | None = None,
) -> F32Array:
    """Multiply by bfloat16 weights: y = x @ w^T + bias.

    Parameters
    ----------
    x : numpy.ndarray
        (T, K) float32.
    w : numpy.ndarray
        (N, K) bfloat16, as ml_dtypes.bfloat16 or as its bits in uint16. Unlike other arrays it
        may lie at an odd address, as tensors in a file do.
    bias : numpy.ndarray, optional
        (N) float32.
    fast : bool
        Use what the instruction set has for bfloat16 weights. AMX splits x into two bfloat16, which
        keeps 16 bits of its 24; AVX512_BF16 rounds it to one; elsewhere nothing changes.
    isa : str, optional
        Instruction set to use; see the module.

    Returns
    -------
    numpy.ndarray
        (T, N) float32.

    Raises
    ------
    TypeError
        An array has another dtype.
    ValueError
        A shape or order is not as above.
    gptoss.errors.BackendError
        `isa` is unknown or cannot run here.

    Notes
    -----
    Weights are widened exactly and sums are float32: 16 lanes over K, then a tree.
    """
    check = _Arguments("dense_matmul")
    check.array("x", x, np.float32, "T K")
    w = _bf16_bits(check, w)
    if bias is not None:
        check.array("bias", bias, np.float32, "N")
    return _core.dense_matmul(x, w, bias, bool(fast), isa or "")


def bf12_encode(
    w: npt.NDArray[Any],
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint16]]:
    """Hold bfloat16 weights in 12 bits, without loss: what `load(dense="bf12")` does.

    The upper byte of a bfloat16 is its sign and seven bits of its exponent. In a row of weights few
    of them are frequent: the 16 most frequent are named by four bits. Groups of 64 weights that
    have another one are kept whole.

    Parameters
    ----------
    w : numpy.ndarray
        (N, K) bfloat16, as ml_dtypes.bfloat16 or as its bits in uint16; values finite.

    Returns
    -------
    rows : numpy.ndarray
        (N, B) uint8, about 1.5 bytes a weight. `gptoss.reference.bf12` reads the format.
    escapes : numpy.ndarray
        (n, 64) uint16, the groups that are kept whole.

    Raises
    ------
    TypeError
        The array has another dtype.
    ValueError
        The shape or order is not as above, or a value is NaN or infinite.
    """
    check = _Arguments("bf12_encode")
    return _core.bf12_encode(_bf16_bits(check, w))


def bf12_matmul(
    x: F32Array,
    rows: npt.NDArray[np.uint8],
    escapes: npt.NDArray[np.uint16],
    bias: F32Array | None = None,
    *,
    isa: str | None = None,
) -> F32Array:
    """Multiply by weights held in 12 bits: the bits of `dense_matmul(..., fast=True)`.

    Parameters
    ----------
    x : numpy.ndarray
        (T, K) float32.
    rows, escapes : numpy.ndarray
        (N, B) uint8 and (n, 64) uint16, from `bf12_encode` of (N, K) weights.
    bias : numpy.ndarray, optional
        (N) float32.
    isa : str, optional
        Instruction set to use; see the module.

    Returns
    -------
    numpy.ndarray
        (T, N) float32.

    Raises
    ------
    TypeError
        An array has another dtype.
    ValueError
        A shape or order is not as above, or a row refers to groups that `escapes` does not have.
    gptoss.errors.BackendError
        `isa` is unknown or cannot run here.
    """
    check = _Arguments("bf12_matmul")
    check.array("x", x, np.float32, "T K")
    check.array("rows", rows, np.uint8, "N B")
    check.array("escapes", escapes, np.uint16, "n 64", smallest=0)
    if bias is not None:
        check.array("bias", bias, np.float32, "N")
    return _core.bf12_matmul(x, rows, escapes, bias, isa or "")


def q8_encode(w: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.uint16]]:
    """Round bfloat16 weights to int8, 32 of a row to a scale: what `load(dense="q8")` does.

    Parameters
    ----------
    w : numpy.ndarray
        (N, K) bfloat16, as ml_dtypes.bfloat16 or as its bits in uint16; K a multiple of 32,
        values finite.

    Returns
    -------
    codes : numpy.ndarray
        (N, K) int8 from -127 to 127. A row is in groups of four blocks of 32 (the last may be
        fewer), in each all elements at even places of their blocks before those at odd ones.
    scales : numpy.ndarray
        (N, K/32) uint16, bits of bfloat16: w = code * scale / 2, up to a quarter of a scale.

    Raises
    ------
    TypeError
        The array has another dtype.
    ValueError
        The shape or order is not as above, or a value is NaN or infinite.
    """
    check = _Arguments("q8_encode")
    w = _bf16_bits(check, w)
    check.multiple_of("K", _BLOCK_SIZE)
    return _core.q8_encode(w)


def q8_matmul(
    x: F32Array,
    codes: npt.NDArray[np.int8],
    scales: npt.NDArray[np.uint16],
    bias: F32Array | None = None,
    *,
    isa: str | None = None,
) -> F32Array:
    """Multiply by int8 weights: y = x @ w^T + bias.

    Parameters
    ----------
    x : numpy.ndarray
        (T, K) float32, K a multiple of 32. Rounded to int8, 32 elements to a scale of (largest
        magnitude) / 127.
    codes, scales : numpy.ndarray
        (N, K) int8 and (N, K/32) uint16, from `q8_encode`.
    bias : numpy.ndarray, optional
        (N) float32.
    isa : str, optional
        Instruction set to use; see the module.

    Returns
    -------
    numpy.ndarray
        (T, N) float32.

    Raises
    ------
    TypeError
        An array has another dtype.
    ValueError
        A shape or order is not as above.
    gptoss.errors.BackendError
        `isa` is unknown or cannot run here.

    Notes
    -----
    Products within a block are exact integers, and only the sum over blocks is float32.
    """
    check = _Arguments("q8_matmul")
    check.array("x", x, np.float32, "T K")
    check.multiple_of("K", _BLOCK_SIZE)
    check.array("codes", codes, np.int8, "N K")
    check.array("scales", scales, np.uint16, f"N K/{_BLOCK_SIZE}")
    if bias is not None:
        check.array("bias", bias, np.float32, "N")
    return _core.q8_matmul(x, codes, scales, bias, isa or "")


def _bf16_bits(check: _Arguments, w: npt.NDArray[Any]) -> npt.NDArray[np.uint16]:
    # ml_dtypes is not imported for this: its type is known by its name.
    if isinstance(w, np.ndarray) and w.dtype.name == "bfloat16":
        w = w.view(np.uint16)
    check.array("w", w, np.uint16, "N K", called="bfloat16 or uint16", aligned=False)
    return w


def banded_attention(
    q: F32Array,
    k: npt.NDArray[np.float32 | np.float16],
    v: npt.NDArray[np.float32 | np.float16],
    sinks: F32Array | None = None,
    *,
    window: int | None = None,
    first_position: int | None = None,
    scale: float | None = None,
    int8_cache: bool = False,
    isa: str | None = None,
) -> F32Array:
    """Attend causally, within a window, with grouped heads and learned sinks.

    Key s stands at position s, and query t at first_position + t. Key s is visible to position p
    if p - window < s <= p. Query head h uses key/value head h // (H / G).

    Parameters
    ----------
    q : numpy.ndarray
        (T, H, D) float32, D a multiple of 16 up to 256.
    k, v : numpy.ndarray
        (S, G, D) float32 or float16, both the same; H is a multiple of G.
    sinks : numpy.ndarray, optional
        (H) float32: one logit per query head that takes part in the softmax, unscaled, and has no
        value.
    window : int, optional
        Number of keys that a query sees, its own position included. None: all up to its own.
    first_position : int, optional
        Position of the first query, at most S - T, which is the default: the queries stand at the
        last positions.
    scale : float, optional
        Factor on the scores; 1 / sqrt(D) by default.
    int8_cache : bool
        Round k and v, which are float32 then, to int8 with a scale for each token and head, as
        `load(kv_cache_dtype="int8")` does.
    isa : str, optional
        Instruction set to use; see the module.

    Returns
    -------
    numpy.ndarray
        (T, H, D) float32.

    Raises
    ------
    TypeError
        An array has another dtype, or window or first_position is not an integer.
    ValueError
        A shape, order or value is not as above.
    gptoss.errors.BackendError
        `isa` is unknown or cannot run here.

    Notes
    -----
    Scores, softmax and sums are float32. Source: openai/gpt-oss.
    """
    check = _Arguments("banded_attention")
    check.array("q", q, np.float32, "T H D")
    half = isinstance(k, np.ndarray) and k.dtype == np.float16 and not int8_cache
    kind = np.float16 if half else np.float32
    check.array("k", k, kind, "S G D", called="float32" if int8_cache else "float32 or float16")
    check.array("v", v, kind, "S G D", called=f"{np.dtype(kind)}, as k is")
    if sinks is not None:
        check.array("sinks", sinks, np.float32, "H")
    spare = k.shape[0] - q.shape[0]
    if spare < 0:
        raise ValueError(
            f"[banded_attention] expected at least as many keys as queries, got {k.shape[0]} keys "
            f"and {q.shape[0]} queries"
        )
    first = spare if first_position is None else first_position
    return _core.banded_attention(
        q,
        k,
        v,
        sinks,
        check.integer("first_position", first, 0, spare),
        0 if window is None else check.integer("window", window, 1, _MAX_INT),
        check.number("scale", q.shape[2] ** -0.5 if scale is None else scale),
        bool(int8_cache),
        isa or "",
    )


def expert_gather(
    x: F32Array, experts: I32Array, n_experts: int
) -> tuple[F32Array, I32Array, I32Array]:
    """Sort (token, choice) pairs by expert and gather their rows.

    Each expert then reads its weights once for all of its tokens. The sort is stable: within an
    expert, pairs keep their order.

    Parameters
    ----------
    x : numpy.ndarray
        (T, N) float32.
    experts : numpy.ndarray
        (T, A) int32: each token's experts, in [0, n_experts).
    n_experts : int
        E.

    Returns
    -------
    rows : numpy.ndarray
        (T*A, N) float32: x of each pair's token.
    pairs : numpy.ndarray
        (T*A) int32: t * A + a of each row.
    offsets : numpy.ndarray
        (E + 1) int32: expert e has rows offsets[e] to offsets[e + 1] - 1.

    Raises
    ------
    TypeError
        An array has another dtype, or n_experts is not an integer.
    ValueError
        A shape, order or value is not as above.
    """
    check = _Arguments("expert_gather")
    check.array("x", x, np.float32, "T N")
    check.array("experts", experts, np.int32, "T A")
    if experts.size > _MAX_INT:
        raise ValueError(f"[expert_gather] expected T * A below 2^31, got {experts.size}")
    return _core.expert_gather(x, experts, check.integer("n_experts", n_experts, 1, _MAX_INT - 1))


def rms_norm(
    x: F32Array, weight: F32Array, eps: float = 1e-5, *, isa: str | None = None
) -> F32Array:
    """Normalise rows: y = x / sqrt(mean(x^2) + eps) * weight.

    Parameters
    ----------
    x : numpy.ndarray
        (T, N) float32.
    weight : numpy.ndarray
        (N) float32.
    eps : float
        Not negative; 1e-5 in the gpt-oss models.
    isa : str, optional
        Instruction set to use; see the module.

    Returns
    -------
    numpy.ndarray
        (T, N) float32.

    Raises
    ------
    TypeError
        An array has another dtype.
    ValueError
        A shape, order or value is not as above.
    gptoss.errors.BackendError
        `isa` is unknown or cannot run here.

    Notes
    -----
    The mean is a float32 sum in 16 lanes, then a tree. Source: arXiv 1910.07467.
    """
    check = _Arguments("rms_norm")
    check.array("x", x, np.float32, "T N")
    check.array("weight", weight, np.float32, "N")
    return _core.rms_norm(x, weight, check.number("eps", eps), isa or "")


def rope(
    x: F32Array, positions: I32Array, config: RopeConfig, *, isa: str | None = None
) -> F32Array:
    """Rotate pairs (i, i + D/2) of every head by the angle of its token's position.

    Parameters
    ----------
    x : numpy.ndarray
        (T, H, D) float32, D even.
    positions : numpy.ndarray
        (T) int32, not negative.
    config : gptoss.config.RopeConfig
        theta above 1; a factor above 1 interpolates as YaRN does and scales the result by
        0.1 ln(factor) + 1.
    isa : str, optional
        Instruction set to use; see the module.

    Returns
    -------
    numpy.ndarray
        (T, H, D) float32.

    Raises
    ------
    TypeError
        An array has another dtype, or config is not a RopeConfig.
    ValueError
        A shape, order or value is not as above.
    gptoss.errors.BackendError
        `isa` is unknown or cannot run here.

    Notes
    -----
    Angles, sines and cosines are float64, the rotation is float32. Source: arXiv 2104.09864 and
    2309.00071.
    """
    check = _Arguments("rope")
    check.array("x", x, np.float32, "T H D")
    check.multiple_of("D", 2)
    check.array("positions", positions, np.int32, "T")
    if not isinstance(config, RopeConfig):
        raise TypeError(f"[rope] expected config as RopeConfig, got {type(config).__name__}")
    core_config = _core.RopeConfig(
        config.theta,
        config.factor,
        config.beta_fast,
        config.beta_slow,
        config.original_context_length,
        config.truncate,
    )
    return _core.rope(x, positions, core_config, isa or "")


def swiglu(gate_up: F32Array, limit: float = 7.0, *, isa: str | None = None) -> F32Array:
    """Combine gate and up: h = g * sigmoid(1.702 g) * (u + 1).

    g = min(gate, limit) and u = clip(up, -limit, limit).

    Parameters
    ----------
    gate_up : numpy.ndarray
        (T, 2 I) float32, interleaved: gate = [:, 0::2], up = [:, 1::2].
    limit : float
        Positive; 7 in the gpt-oss models.
    isa : str, optional
        Instruction set to use; see the module.

    Returns
    -------
    numpy.ndarray
        (T, I) float32.

    Raises
    ------
    TypeError
        gate_up is not float32.
    ValueError
        A shape, order or value is not as above.
    gptoss.errors.BackendError
        `isa` is unknown or cannot run here.

    Notes
    -----
    Source: openai/gpt-oss.
    """
    check = _Arguments("swiglu")
    check.array("gate_up", gate_up, np.float32, "T 2I")
    check.multiple_of("2I", 2)
    return _core.swiglu(gate_up, check.number("limit", limit), isa or "")


def route_topk(logits: F32Array, top_k: int) -> tuple[I32Array, F32Array]:
    """Pick each token's experts and their weights.

    Parameters
    ----------
    logits : numpy.ndarray
        (T, E) float32.
    top_k : int
        A, between 1 and E.

    Returns
    -------
    experts : numpy.ndarray
        (T, A) int32: the largest logits, largest first; of equal ones the lower index. NaN ranks
        below all others.
    weights : numpy.ndarray
        (T, A) float32: softmax over those A logits.

    Raises
    ------
    TypeError
        logits is not float32, or top_k is not an integer.
    ValueError
        A shape, order or value is not as above.

    Notes
    -----
    Source: openai/gpt-oss, which takes the softmax after the choice.
    """
    check = _Arguments("route_topk")
    check.array("logits", logits, np.float32, "T E")
    return _core.route_topk(logits, check.integer("top_k", top_k, 1, logits.shape[1]))


class _Arguments:
    """Checks one call's arguments; sizes that go by the same letter must agree."""

    def __init__(self, op: str) -> None:
        self.op = op
        self.sizes: dict[str, tuple[int, ...]] = {}

    def array(
        self,
        name: str,
        value: object,
        dtype: type[np.generic],
        shape: str,
        *,
        called: str | None = None,
        aligned: bool = True,
        smallest: int = 1,
    ) -> None:
        """Check an array against "T K" or "N K/32 16"; "..." stands for any leading sizes."""
        kind = called or np.dtype(dtype).name
        if not isinstance(value, np.ndarray):
            raise TypeError(
                f"[{self.op}] expected {name} as a numpy array of {kind}, got "
                f"{type(value).__name__}"
            )
        if value.dtype != dtype:
            raise TypeError(f"[{self.op}] expected {name} as {kind}, got {value.dtype}")
        if not self._fits(value.shape, shape.split()):
            known = ", ".join(
                f"{letter} = {', '.join(map(str, sizes))}"
                for letter, sizes in self.sizes.items()
                if letter in shape
            )
            raise ValueError(
                f"[{self.op}] expected {name} of shape ({shape.replace(' ', ', ')})"
                f"{f' with {known}' if known else ''}, got {value.shape}"
            )
        if min(value.shape) < smallest or max(value.shape) > _MAX_INT:
            raise ValueError(
                f"[{self.op}] expected sizes of {name} from {smallest} to {_MAX_INT}, got "
                f"{value.shape}"
            )
        if not value.flags.c_contiguous:
            raise ValueError(
                f"[{self.op}] expected {name} as a C-contiguous array, got strides "
                f"{value.strides} for shape {value.shape}"
            )
        if aligned and not value.flags.aligned:
            raise ValueError(
                f"[{self.op}] expected {name} at an address divisible by {value.itemsize}, got "
                f"{value.ctypes.data:#x}"
            )

    def _fits(self, found: tuple[int, ...], expected: list[str]) -> bool:
        found_sizes: list[tuple[int, ...]] = [(size,) for size in found]
        if expected[0] == "...":
            n_leading = len(found) - len(expected) + 1
            if n_leading < 0:
                return False
            found_sizes[:n_leading] = [found[:n_leading]]
        if len(found_sizes) != len(expected):
            return False
        known = dict(self.sizes)
        for sizes, size_name in zip(found_sizes, expected, strict=True):
            letter, _, divisor = size_name.partition("/")
            if letter.isdigit():
                wanted: tuple[int, ...] = (int(letter),)
            elif divisor:
                wanted = (known[letter][0] // int(divisor),)
            else:
                wanted = known.setdefault(letter, sizes)
            if sizes != wanted:
                return False
        self.sizes = known
        return True

    def multiple_of(self, letter: str, divisor: int) -> None:
        (size,) = self.sizes[letter]
        if size % divisor:
            raise ValueError(
                f"[{self.op}] expected {letter} to be a multiple of {divisor}, got {size}"
            )

    def integer(self, name: str, value: int, low: int, high: int) -> int:
        try:
            number = operator.index(value)
        except TypeError:
            raise TypeError(
                f"[{self.op}] expected {name} as an integer, got {type(value).__name__}"
            ) from None
        if not low <= number <= high:
            raise ValueError(f"[{self.op}] expected {name} from {low} to {high}, got {number}")
        return number

    def number(self, name: str, value: float) -> float:
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise TypeError(
                f"[{self.op}] expected {name} as a number, got {type(value).__name__}"
            ) from None
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise ValueError(f"[{self.op}] expected {name} to be finite, got {number}")
        return number
