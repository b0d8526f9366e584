"""Every bound that a test compares numbers with, and where it comes from.

Logits are judged token by token against the float64 reference.

fp32 tier: float32 activations and KV, exact weights. float32 rounds to 2^-24 = 6e-8 relative.
A residual stream collects a few roundings per layer, and a sum over K products in float32 errs by
about sqrt(K) of them. The two public implementations (openai's torch code and transformers, both
in float32) have medians of 2e-7 to 6e-6 per prompt; the median's bound is five times the upper
one, which leaves room for another order of summation. The largest error has a wider bound because
a token whose attention or routing is nearly tied amplifies roundings. On the checkpoints of
model_cases.py transformers stays below 2e-6, and what a wrong formula does is far above: of 37
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

# A log-probability is computed in float64 and rounded to float32: half a unit in the last place of
# numbers up to 16 is 2^-21 = 4.8e-7.
LOGPROB = 1e-6

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


def chi_square_bound(degrees: int) -> float:
    """Bound a chi-square statistic.

    It exceeds k + 2 sqrt(k t) + 2 t with a probability of at most exp(-t) (Laurent and Massart
    2000, lemma 1); t = 20 makes that 2e-9.
    """
    t = 20.0
    return degrees + 2.0 * (degrees * t) ** 0.5 + 2.0 * t
