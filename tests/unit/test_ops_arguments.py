"""What gptoss.ops refuses, and how it says so."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from gptoss import ops
from gptoss.config import RopeConfig


def zeros(*shape: int, dtype: Any = np.float32) -> Any:
    return np.zeros(shape, dtype)


def u8(*shape: int) -> Any:
    return zeros(*shape, dtype=np.uint8)


def misaligned(*shape: int) -> Any:
    return np.zeros(4 * int(np.prod(shape)) + 1, np.uint8)[1:].view(np.float32).reshape(shape)


def strided(*shape: int) -> Any:
    return np.zeros((*shape[:-1], 2 * shape[-1]), np.float32)[..., ::2]


ROPE = RopeConfig(theta=10000.0)
I32 = np.int32

# What a valid call of each op takes; cases replace single arguments.
VALID: dict[str, dict[str, Any]] = {
    "mxfp4_dequantize": {"blocks": u8(2, 3, 16), "scales": u8(2, 3)},
    "mxfp4_quantize": {"x": zeros(2, 64)},
    "mxfp4_matmul": {"x": zeros(2, 64), "blocks": u8(5, 2, 16), "scales": u8(5, 2)},
    "dense_matmul": {"x": zeros(2, 9), "w": zeros(5, 9, dtype=np.uint16)},
    "banded_attention": {"q": zeros(2, 4, 16), "k": zeros(3, 2, 16), "v": zeros(3, 2, 16)},
    "expert_gather": {"x": zeros(2, 9), "experts": zeros(2, 4, dtype=I32), "n_experts": 4},
    "rms_norm": {"x": zeros(2, 9), "weight": zeros(9)},
    "rope": {"x": zeros(2, 4, 16), "positions": zeros(2, dtype=I32), "config": ROPE},
    "swiglu": {"gate_up": zeros(2, 10)},
    "route_topk": {"logits": zeros(2, 9), "top_k": 4},
}

TYPE_ERRORS: list[tuple[str, dict[str, Any], str]] = [
    ("mxfp4_dequantize", {"scales": zeros(2, 3, dtype=np.int8)}, "scales as uint8, got int8"),
    ("mxfp4_dequantize", {"blocks": zeros(2, 3, 16)}, "blocks as uint8, got float32"),
    ("mxfp4_quantize", {"x": zeros(2, 64, dtype=np.float64)}, "x as float32, got float64"),
    ("mxfp4_matmul", {"x": [[0.0] * 64]}, "x as a numpy array of float32, got list"),
    ("mxfp4_matmul", {"x": zeros(2, 64, dtype=">f4")}, "x as float32, got >f4"),
    ("mxfp4_matmul", {"bias": zeros(5, dtype=np.float16)}, "bias as float32, got float16"),
    ("dense_matmul", {"w": zeros(5, 9)}, "w as bfloat16 or uint16, got float32"),
    ("dense_matmul", {"w": zeros(5, 9, dtype=np.float16)}, "bfloat16 or uint16, got float16"),
    ("banded_attention", {"q": zeros(2, 4, 16, dtype=np.float16)}, "q as float32, got float16"),
    ("banded_attention", {"k": zeros(3, 2, 16, dtype=np.float64)}, "k as float32 or float16, got"),
    ("banded_attention", {"k": None}, "k as a numpy array of float32 or float16, got NoneType"),
    ("banded_attention", {"v": zeros(3, 2, 16, dtype=np.float16)}, "v as float32, as k is, got"),
    (
        "banded_attention",
        {
            "k": zeros(3, 2, 16, dtype=np.float16),
            "v": zeros(3, 2, 16, dtype=np.float16),
            "int8_cache": True,
        },
        "k as float32, got float16",
    ),
    ("banded_attention", {"window": 1.5}, "window as an integer, got float"),
    ("banded_attention", {"scale": "one"}, "scale as a number, got str"),
    ("expert_gather", {"experts": zeros(2, 4, dtype=np.int64)}, "experts as int32, got int64"),
    ("expert_gather", {"n_experts": 4.0}, "n_experts as an integer, got float"),
    ("rms_norm", {"weight": zeros(9, dtype=np.float64)}, "weight as float32, got float64"),
    ("rms_norm", {"eps": None}, "eps as a number, got NoneType"),
    ("rope", {"positions": zeros(2, dtype=np.int64)}, "positions as int32, got int64"),
    ("rope", {"config": 10000.0}, "config as RopeConfig, got float"),
    ("swiglu", {"gate_up": zeros(2, 10, dtype=np.float16)}, "gate_up as float32, got float16"),
    ("route_topk", {"logits": zeros(2, 9, dtype=np.float64)}, "logits as float32, got float64"),
]

VALUE_ERRORS: list[tuple[str, dict[str, Any], str]] = [
    ("mxfp4_dequantize", {"blocks": u8(2, 3, 8)}, "blocks of shape (..., B, 16) with ... = 2, B"),
    ("mxfp4_dequantize", {"blocks": u8(3, 2, 16)}, "got (3, 2, 16)"),
    ("mxfp4_dequantize", {"blocks": u8(2, 0, 16), "scales": u8(2, 0)}, "sizes of scales from 1"),
    ("mxfp4_quantize", {"x": zeros(2, 33)}, "K to be a multiple of 32, got 33"),
    ("mxfp4_quantize", {"x": zeros(0, 32)}, "sizes of x from 1 to 2147483647, got (0, 32)"),
    ("mxfp4_quantize", {"x": np.full((1, 32), np.nan, np.float32)}, "finite x"),
    ("mxfp4_quantize", {"x": np.full((1, 32), -np.inf, np.float32)}, "finite x"),
    ("mxfp4_matmul", {"x": zeros(2, 100)}, "K to be a multiple of 32, got 100"),
    ("mxfp4_matmul", {"x": zeros(2, 96)}, "blocks of shape (N, K/32, 16) with K = 96, got"),
    ("mxfp4_matmul", {"x": zeros(64)}, "x of shape (T, K), got (64,)"),
    ("mxfp4_matmul", {"x": strided(2, 64)}, "x as a C-contiguous array, got strides (512, 8)"),
    ("mxfp4_matmul", {"x": zeros(64, 2).T}, "x as a C-contiguous array"),
    ("mxfp4_matmul", {"x": misaligned(2, 64)}, "x at an address divisible by 4, got 0x"),
    ("mxfp4_matmul", {"scales": u8(4, 2)}, "scales of shape (N, K/32) with K = 64, N = 5, got"),
    ("mxfp4_matmul", {"bias": zeros(6)}, "bias of shape (N) with N = 5, got (6,)"),
    ("mxfp4_matmul", {"blocks": u8(0, 2, 16)}, "sizes of blocks from 1"),
    ("mxfp4_matmul", {"scales": u8(5, 2) + np.uint8(255), "int8_activations": True}, "below 255"),
    ("dense_matmul", {"w": zeros(5, 8, dtype=np.uint16)}, "w of shape (N, K) with K = 9, got"),
    ("dense_matmul", {"w": zeros(5, 18, dtype=np.uint16)[:, ::2]}, "w as a C-contiguous array"),
    ("banded_attention", {"k": zeros(3, 2, 32)}, "k of shape (S, G, D) with D = 16, got"),
    ("banded_attention", {"v": zeros(4, 2, 16)}, "v of shape (S, G, D) with D = 16, S = 3, G = 2"),
    ("banded_attention", {"sinks": zeros(2)}, "sinks of shape (H) with H = 4, got (2,)"),
    ("banded_attention", {"q": zeros(2, 3, 16)}, "H must be a multiple of G"),
    ("banded_attention", {"q": zeros(4, 4, 16)}, "as many keys as queries, got 3 keys and 4"),
    ("banded_attention", {"first_position": 2}, "first_position from 0 to 1, got 2"),
    ("banded_attention", {"first_position": -1}, "first_position from 0 to 1, got -1"),
    ("banded_attention", {"window": 0}, "window from 1 to 2147483647, got 0"),
    ("banded_attention", {"window": 2**31}, "window from 1 to 2147483647, got 2147483648"),
    ("banded_attention", {"scale": np.nan}, "scale to be finite, got nan"),
    ("expert_gather", {"experts": zeros(2, 4, dtype=I32) + I32(4)}, "in [0, 4), got 4"),
    ("expert_gather", {"experts": zeros(2, 4, dtype=I32) - I32(1)}, "in [0, 4), got -1"),
    ("expert_gather", {"experts": zeros(3, 4, dtype=I32)}, "experts of shape (T, A) with T = 2"),
    ("expert_gather", {"n_experts": 0}, "n_experts from 1"),
    ("rms_norm", {"weight": zeros(8)}, "weight of shape (N) with N = 9, got (8,)"),
    ("rms_norm", {"x": zeros(2, 0), "weight": zeros(0)}, "sizes of x from 1"),
    ("rms_norm", {"eps": -1.0}, "eps must not be negative, got -1"),
    ("rms_norm", {"eps": np.inf}, "eps to be finite, got inf"),
    ("rope", {"x": zeros(2, 4, 15)}, "D to be a multiple of 2, got 15"),
    ("rope", {"positions": zeros(3, dtype=I32)}, "positions of shape (T) with T = 2, got (3,)"),
    ("rope", {"positions": zeros(2, dtype=I32) - I32(1)}, "positions must not be negative, got -1"),
    ("rope", {"config": RopeConfig(theta=1.0)}, "theta must be above 1, got 1"),
    ("rope", {"config": RopeConfig(theta=2.0, factor=0.5)}, "factor must be at least 1, got 0.5"),
    ("swiglu", {"gate_up": zeros(2, 9)}, "2I to be a multiple of 2, got 9"),
    ("swiglu", {"limit": 0.0}, "limit must be positive, got 0"),
    ("route_topk", {"top_k": 10}, "top_k from 1 to 9, got 10"),
    ("route_topk", {"top_k": 0}, "top_k from 1 to 9, got 0"),
    ("route_topk", {"logits": zeros(0, 9)}, "sizes of logits from 1"),
]


@pytest.mark.parametrize("op", VALID)
def test_the_valid_calls_are_valid(op: str) -> None:
    getattr(ops, op)(**VALID[op])


@pytest.mark.parametrize(("op", "change", "message"), TYPE_ERRORS)
def test_a_wrong_type_is_refused(op: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=re.escape(message)) as caught:
        getattr(ops, op)(**VALID[op] | change)
    assert str(caught.value).startswith(f"[{op}] expected ")


@pytest.mark.parametrize(("op", "change", "message"), VALUE_ERRORS)
def test_a_wrong_value_is_refused(op: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        getattr(ops, op)(**VALID[op] | change)
    assert str(caught.value).startswith(f"[{op}] ")
