"""Every bound that a test compares numbers with, and where it comes from.

Logits are judged token by token against the float64 reference.

fp32 tier: float32 activations and KV, exact weights. float32 rounds to 2^-24 = 6e-8 relative.
A residual stream collects a few roundings per layer, and a sum over K products in float32 errs by
about sqrt(K) of them. The two public implementations (openai's torch code and transformers, both
in float32) have medians of 2e-7 to 6e-6 per prompt; the median's bound is five times the upper
one, which leaves room for another order of summation. The largest error has a wider bound because
a token whose attention or routing is nearly tied amplifies roundings. On the checkpoints of
model_cases.py transformers stays below 2e-6, and what a wrong formula does is far above: of 36
planted ones, every one broke the bounds on at least one checkpoint.

KL is half the variance of the logits' error: logits with a standard deviation of 3 that are off by
3e-5 of it give 4e-9.

Greedy choices may differ only where the two best logits are closer than 0.01: the largest error,
4e-4 of logits with a standard deviation of 3, moves each by about 1.2e-3, and 0.01 is four times
what two of them do together.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FP32_MEDIAN_RELATIVE_L2 = 3e-5
FP32_MAX_RELATIVE_L2 = 4e-4
FP32_MEAN_KL = 1e-8
GREEDY_GAP = 0.01

# The default mode rounds the inputs of the experts' two matmuls to int8. The largest of 32 normal
# values is about 2.1 standard deviations, so a rounding step is 2.1/127 and its error, a uniform
# one, 0.0048 of the block. Gate and up err by that both, and their product, which is rounded next,
# has a larger largest value: 1.1 % of an expert's output, as the same roundings give in float64
# (tests/unit/test_rounding_by_layer.py). Experts bring half to three quarters of the residual
# stream: 0.4 to 0.7 % of it in a layer, 1.0 % in four, and what later layers make of earlier errors
# takes it to 1.8 % at 20b's shapes without a choice of experts. f16 keys and values bring less than
# 0.1 %. It is the median's: a token that rounding sends to another expert may be wholly different.
INT8_MEDIAN_RELATIVE_L2 = 0.03

# With dense weights in int8 their inputs are rounded as well, 0.5 % of each product: the queries,
# keys and values, attention's output and the logits, so three more terms per layer and one at the
# end.
INT8_DENSE_MEDIAN_RELATIVE_L2 = 0.05

# With keys and values in int8 a number between two codes may go the other way than in float64, as
# what it is made of has the errors above: at most one more rounding of each layer's.
INT8_KV_MEDIAN_RELATIVE_L2 = 0.035

# AVX512_BF16 and AMX round the inputs of dense products to bf16. That moves more keys to another
# int8 code: 0.6 % of the attention's shares in one layer, found on a checkpoint of four, and twice
# that after all of them.
BF16_INPUTS_SHARES_RELATIVE_L2 = 0.012

# On a CUDA device the default mode rounds what every matmul but the router's takes to bf16: 2^-9 of
# each number at most, 0.11 % of a vector of them; keys and values in f16 are finer. Five such
# roundings in each of four layers add up to sqrt(20) of that, 0.5 %; the bound is twice as much.
CUDA_MEDIAN_RELATIVE_L2 = 0.01

# Beside a public bf16 implementation on the same checkpoints: the bf16/int8 tier. Both round at
# random, so a ratio of errors near 1 is luck; these leave room for it without letting a wrong
# formula pass, which errs by multiples.
BF16_MEDIAN_RATIO = 1.5
BF16_KL_RATIO = 2.5
BF16_TOP1_LOSS = 0.05

# A log-probability is rounded to float32: half a unit in the last place of numbers up to 16 is
# 2^-21 = 4.8e-7. The sum of exponentials behind it is of float32 ones: of a distance d below the
# highest logit the subtraction, the product with log2(e) and that constant are each rounded, which
# errs by up to 3 d 2^-24, and 2^f by another 1.4 of them; where d is 5 for most of the mass that is
# 1e-6 if all err alike.
LOGPROB = 1.5e-6

# A frequency in float32 is a power, a quotient and a weighted sum: some ten roundings of 2^-24, of
# which the power's exponent, up to ln(150000) = 12, scales one.
FP32_ROPE = 2e-6

# float64 against float64 in another order of operations: 2^-53 = 1.1e-16, times the square root
# of the thousands of operations on a value's way, with room.
FLOAT64_RELATIVE = 1e-12


def relative_l2(
    found: npt.NDArray[np.floating], expected: npt.NDArray[np.floating]
) -> npt.NDArray[np.float64]:
    """Return |found - expected| / |expected| per row: (T, V), (T, V) -> (T)."""
    expected = expected.astype(np.float64)
    difference = np.linalg.norm(found - expected, axis=-1)
    return difference / np.linalg.norm(expected, axis=-1)


def kl_divergence(
    found: npt.NDArray[np.floating], expected: npt.NDArray[np.floating]
) -> npt.NDArray[np.float64]:
    """Return KL(softmax(expected) || softmax(found)) per row: (T, V), (T, V) -> (T)."""

    def log_softmax(logits: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))

    p, q = log_softmax(expected), log_softmax(found)
    return (np.exp(p) * (p - q)).sum(axis=-1)


def assert_fp32_tier(found: npt.NDArray[np.floating], expected: npt.NDArray[np.floating]) -> None:
    """Assert that logits (T, V) meet the fp32 tier against float64 ones (T, V)."""
    assert found.shape == expected.shape
    assert np.isfinite(found).all()
    errors = relative_l2(found, expected)
    assert np.median(errors) <= FP32_MEDIAN_RELATIVE_L2
    assert errors.max() <= FP32_MAX_RELATIVE_L2
    assert kl_divergence(found, expected).mean() <= FP32_MEAN_KL
    second, first = np.sort(expected, axis=-1)[:, -2:].T
    clear = first - second > GREEDY_GAP
    assert (found.argmax(axis=-1) == expected.argmax(axis=-1))[clear].all()


# What is inside the layers: hidden states and router logits are rows like logits, in the same tier.
# A share of attention errs, relatively, by as much as its score does; of scores up to 10, as random
# checkpoints have them, that is ten times the relative error of what they are made of.
SHARES_FACTOR = 10.0


def assert_fp32_rows(
    found: npt.NDArray[np.floating], expected: npt.NDArray[np.floating], factor: float = 1.0
) -> None:
    """Assert that vectors (..., N) meet the fp32 tier, or so many times its bounds."""
    assert found.shape == expected.shape
    assert np.isfinite(found).all()
    errors = relative_l2(found, expected)
    assert np.median(errors) <= factor * FP32_MEDIAN_RELATIVE_L2
    assert errors.max() <= factor * FP32_MAX_RELATIVE_L2


def chi_square_bound(degrees: int) -> float:
    """Bound a chi-square statistic.

    It exceeds k + 2 sqrt(k t) + 2 t with a probability of at most exp(-t) (Laurent and Massart
    2000, lemma 1); t = 20 makes that 2e-9.
    """
    t = 20.0
    return degrees + 2.0 * (degrees * t) ** 0.5 + 2.0 * t


# ---- Single ops in float32 against float64 -----------------------------------------------------
# One rounding to float32 has a relative error of at most U. The bounds are worst cases: they count
# the roundings on a result's way, each as large as can be, and so hold for every input. Scalar
# kernels round a product and a sum separately, which is what is counted.
U = 2.0**-24


def sum_roundings(n: int) -> int:
    """Return the roundings of a sum of n products: n/16 in each of 16 lanes, then a tree.

    Elements come in blocks of 32, two to a lane.
    """
    return 2 * 2 * -(-n // 32) + 4


def matmul_bound(
    x: npt.NDArray[np.float64], w: npt.NDArray[np.float64], bias: npt.NDArray[np.float64] | float
) -> npt.NDArray[np.float64]:
    """Bound |y - (x @ w^T + bias)|: x (T, K), w (N, K), bias (N) -> (T, N)."""
    magnitude = np.abs(x) @ np.abs(w).T + np.abs(bias)
    # Two more: the bias, and the multiplication by a block's scale where activations are int8.
    return (sum_roundings(x.shape[1]) + 2) * U * magnitude


def int8_bound(x: npt.NDArray[np.float64], w: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Bound what rounding activations to int8 changes: x (T, K), w (N, K) -> (T, N).

    An element moves by at most half a step, a 254th of its block's largest; the step itself and
    the quotient have a few roundings, which 1 % covers.
    """
    blocks = np.abs(x).reshape(len(x), -1, 32)
    steps = np.repeat(blocks.max(axis=-1), 32, axis=-1) / 254
    return 1.01 * steps @ np.abs(w).T


def rms_norm_bound(expected: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Bound the error of rms_norm: (T, N) -> (T, N).

    The sum's relative error is halved by the root; mean, eps, root, quotient and two products
    follow.
    """
    return (sum_roundings(expected.shape[1]) / 2 + 6) * U * np.abs(expected)


def rope_bound(x: npt.NDArray[np.float64], concentration: float) -> npt.NDArray[np.float64]:
    """Bound the error of rope: (T, H, D) -> (T, H, D).

    Of each of the two terms: cos or sin rounded to float32, the product, the sum.
    """
    first, second = np.split(np.abs(x), 2, axis=-1)
    return 3 * U * concentration * np.concatenate([first + second] * 2, axis=-1)


def swiglu_bound(
    gate: npt.NDArray[np.float64], expected: npt.NDArray[np.float64], limit: float
) -> npt.NDArray[np.float64]:
    """Bound the error of swiglu: gate (T, I) before the clamp, h (T, I) -> (T, I).

    The exponent 1.702 g has two roundings (1.702 is one), exp four, and what follows five. exp
    saturates at e^88.3; there the sigmoid is below 1e-38.
    """
    gate = np.abs(np.minimum(gate, limit))
    return (2 * 1.702 * gate + 9) * U * np.abs(expected) + 1e-38 * gate * (limit + 1)


def softmax_bound(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Bound the relative error of a softmax over the chosen logits: (T, A) -> (T, 1).

    Per term: the difference from the highest logit, in float32, goes through exp unreduced; exp
    two. Then the sum, and the quotient.
    """
    spread = logits.max(axis=-1, keepdims=True) - logits.min(axis=-1, keepdims=True)
    return (2 * (spread + 2) + logits.shape[-1] + 1) * U


def attention_bound(
    q: npt.NDArray[np.float64],
    k: npt.NDArray[np.float64],
    v: npt.NDArray[np.float64],
    scale: float,
) -> float:
    """Bound the error of banded_attention's results: q (T, H, D), k and v (S, G, D).

    A score has 2 D + 1 roundings of at most scale * sum |q| |k|, its distance from the maximum one
    more, exp four; rescaling costs sixteen for every page of 64 keys. If all weights err by at
    most e relatively, their mean of values errs by at most 2 e max|v|; sums over keys add two
    roundings per key.
    """
    group = q.shape[1] // k.shape[1]
    products = np.einsum("thd,shd->ths", np.abs(q), np.abs(np.repeat(k, group, axis=1)))
    keys = len(k)
    per_weight = (2 * q.shape[-1] + 3) * scale * products.max() + 4 + 16 * (keys // 64 + 2)
    return float((2 * per_weight + 2 * keys) * U * np.abs(v).max())
