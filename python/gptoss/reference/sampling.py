"""From logits to the next token, in vLLM's order.

`probabilities` is the mathematics in float64. `sample` is csrc/ops/sample.h, rounding by rounding:
the token that every device must give.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from gptoss.reference.arrays import FloatArray, IntArray

_Float32Array: TypeAlias = npt.NDArray[np.float32]
_MassArray: TypeAlias = npt.NDArray[np.uint64]
_BoolArray: TypeAlias = npt.NDArray[np.bool_]

MASS_BITS = 40
_LOGIT_LIMIT = np.float32(1e30)
_PENALTY_LIMIT = np.float32(1e29)
# 2^f on [-1/2, 1/2], from the constant on.
_EXP2 = [
    np.float32(float.fromhex(digits))
    for digits in (
        "0x1p+0",
        "0x1.62e430p-1",
        "0x1.ebfbdcp-3",
        "0x1.c6aee8p-5",
        "0x1.3b2d4cp-7",
        "0x1.5f3e54p-10",
        "0x1.41fbbcp-13",
    )
]


def probabilities(
    logits: FloatArray,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    presence_penalty: float = 0.0,
    frequency_penalty: float = 0.0,
    logit_bias: Mapping[int, float] | None = None,
    prompt: Sequence[int] = (),
    output: Sequence[int] = (),
) -> FloatArray:
    """Return each token's probability of being drawn next.

    In order: bias, penalties, temperature, min_p, top_k, top_p. Each cut works on what the one
    before it left, and at least one token stays.

    Parameters
    ----------
    logits : numpy.ndarray
        (V) float64.
    temperature : float
        Divides the logits; 0 puts all probability on the most likely token.
    top_k : int
        Keep the k most likely tokens; 0 keeps all.
    top_p : float
        Keep the fewest tokens, most likely first, that reach this probability together.
    min_p : float
        Keep the tokens of at least this share of the highest probability.
    repetition_penalty : float
        Positive logits of tokens in the prompt or the output are divided by it, others multiplied.
    presence_penalty : float
        Subtracted once from tokens in the output.
    frequency_penalty : float
        Subtracted from tokens in the output, once per occurrence.
    logit_bias : mapping of int to float, optional
        Added to the logits of tokens.
    prompt, output : sequence of int
        Ids so far.

    Returns
    -------
    numpy.ndarray
        (V) float64. Equally likely tokens are cut the higher id first.

    Raises
    ------
    ValueError
        A logit is NaN or infinite: nothing that follows from it is a probability.
    """
    if not np.isfinite(logits).all():
        raise ValueError("[probabilities] expected finite logits, got NaN or infinity")
    logits = penalized(
        logits,
        repetition_penalty=repetition_penalty,
        presence_penalty=presence_penalty,
        frequency_penalty=frequency_penalty,
        logit_bias=logit_bias,
        prompt=prompt,
        output=output,
    )
    if temperature == 0.0:
        certain: FloatArray = np.eye(1, logits.size, int(np.argmax(logits)))[0]
        return certain
    probability = _softmax(logits / temperature)
    probability[probability < min_p * probability.max()] = 0.0
    likely_first = np.argsort(-probability, kind="stable")
    if top_k > 0:
        probability[likely_first[top_k:]] = 0.0
    probability /= probability.sum()
    if top_p < 1.0:
        before = np.cumsum(probability[likely_first]) - probability[likely_first]
        cut: IntArray = likely_first[before >= top_p]
        probability[cut[cut != likely_first[0]]] = 0.0
        probability /= probability.sum()
    return probability


def penalized(
    logits: FloatArray,
    *,
    repetition_penalty: float = 1.0,
    presence_penalty: float = 0.0,
    frequency_penalty: float = 0.0,
    logit_bias: Mapping[int, float] | None = None,
    prompt: Sequence[int] = (),
    output: Sequence[int] = (),
) -> FloatArray:
    """Apply the bias and the penalties; parameters as in `probabilities`. Returns (V) float64."""
    logits = logits.copy()
    for token, bias in (logit_bias or {}).items():
        logits[token] += bias
    seen = sorted({*prompt, *output})
    logits[seen] = np.where(
        logits[seen] > 0, logits[seen] / repetition_penalty, logits[seen] * repetition_penalty
    )
    counts = np.bincount(np.asarray(output, np.int64), minlength=logits.size)
    logits -= frequency_penalty * counts + presence_penalty * (counts > 0)
    return logits


def _softmax(logits: FloatArray) -> FloatArray:
    weights: FloatArray = np.exp(logits - logits.max())
    weights /= weights.sum()
    return weights


def sample(
    logits: _Float32Array,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    presence_penalty: float = 0.0,
    frequency_penalty: float = 0.0,
    logit_bias: Mapping[int, float] | None = None,
    counts: Mapping[int, int] | None = None,
    mask: _BoolArray | None = None,
    seed: int = 0,
    index: int = 0,
) -> int | Literal["non_finite", "empty_mask"]:
    """Choose a token as csrc/ops/sample.h does, bit by bit.

    Parameters
    ----------
    logits : numpy.ndarray
        (V) float32.
    temperature, top_k, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty
        As in `probabilities`, rounded to float32.
    logit_bias : mapping of int to float, optional
        Added to the logits of tokens.
    counts : mapping of int to int, optional
        Tokens of prompt and output, and how often each is in the output.
    mask : numpy.ndarray, optional
        (V) bool: the tokens that are allowed.
    seed, index : int
        In [0, 2^64).

    Returns
    -------
    int or str
        The token, or why there is none.
    """
    if not (logits < np.inf).all() or not np.isfinite(logits).any():
        return "non_finite"
    z = changed_logits(
        logits,
        repetition_penalty=repetition_penalty,
        presence_penalty=presence_penalty,
        frequency_penalty=frequency_penalty,
        logit_bias=logit_bias,
        counts=counts,
    )
    if mask is not None:
        z[~mask] = -np.inf
    if z.max() == -np.inf:
        return "empty_mask"
    if np.float32(temperature) == 0:
        return int(np.argmax(z))
    mass = masses(z, temperature=temperature, min_p=min_p)
    order = np.argsort(-z, kind="stable")
    if top_k > 0:
        mass[order[top_k:]] = 0
    if np.float32(top_p) < 1:
        fraction = int(float(np.float32(top_p)) * 2.0**64)
        target = max(1, int(mass.sum()) * fraction >> 64)
        reached = np.cumsum(mass[order]) >= target
        mass[order[int(np.argmax(reached)) + 1 :]] = 0
    place = int(mass.sum()) * random_bits(seed, index) >> 64
    return int(np.argmax(np.cumsum(mass) > np.uint64(place)))


def changed_logits(
    logits: _Float32Array,
    *,
    repetition_penalty: float = 1.0,
    presence_penalty: float = 0.0,
    frequency_penalty: float = 0.0,
    logit_bias: Mapping[int, float] | None = None,
    counts: Mapping[int, int] | None = None,
) -> _Float32Array:
    """Apply bias, penalties and the clamp in float32; parameters as in `sample`. Returns (V)."""
    z = logits.copy()
    repetition = np.float32(repetition_penalty)
    presence = np.float32(presence_penalty)
    frequency = np.float32(frequency_penalty)
    with np.errstate(over="ignore", under="ignore"):
        for token, bias in (logit_bias or {}).items():
            z[token] += np.float32(bias)
        for token, count in (counts or {}).items():
            value = z[token]
            if not abs(value) < _PENALTY_LIMIT:  # impossible, banned or forced
                continue
            value = value / repetition if value > 0 else value * repetition
            value = value - frequency * np.float32(count)
            value = value - (presence if count > 0 else np.float32(0))
            z[token] = np.clip(value, -_PENALTY_LIMIT, _PENALTY_LIMIT)
    possible = logits > -np.inf
    z[possible] = np.clip(z[possible], -_LOGIT_LIMIT, _LOGIT_LIMIT)
    return z


def masses(z: _Float32Array, *, temperature: float = 1.0, min_p: float = 0.0) -> _MassArray:
    """Return probabilities relative to the likeliest token as integers of 40 fraction bits.

    Parameters
    ----------
    z : numpy.ndarray
        (V) float32 logits, -inf where a token is impossible, but not everywhere.
    temperature, min_p : float
        As in `probabilities`, rounded to float32; the temperature is above 0.

    Returns
    -------
    numpy.ndarray
        (V) uint64.
    """
    info = np.finfo(np.float32)
    exact_scale = 1 / np.log(2.0) / float(np.float32(temperature))
    scale = np.float32(min(max(exact_scale, float(info.tiny)), float(info.max)))
    with np.errstate(over="ignore", under="ignore"):
        y = np.maximum((z - z.max()) * scale, np.float32(-64))
    n = np.rint(y)
    f = y - n
    p = np.full_like(f, _EXP2[-1])
    for coefficient in reversed(_EXP2[:-1]):
        p = _fma(p, f, coefficient)
    v = np.ldexp(p, n.astype(np.int32) + MASS_BITS)
    rounded = np.where(v < np.float32(min_p) * np.float32(2.0**MASS_BITS), 0, np.rint(v))
    return rounded.astype(np.uint64)


def random_bits(seed: int, index: int) -> int:
    """Return the 64 random bits of a token: two rounds of splitmix64's finaliser."""
    modulus = 2**64
    z = (seed + (index + 1) * 0x9E3779B97F4A7C15) % modulus
    for _ in range(2):
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % modulus
        z = (z ^ z >> 27) * 0x94D049BB133111EB % modulus
        z = ((z ^ z >> 31) + seed) % modulus
    return z


def _fma(a: _Float32Array, b: _Float32Array, c: np.float32) -> _Float32Array:
    """Return a * b + c rounded once; results must not be subnormal."""
    product = a.astype(np.float64) * b
    total = product + np.float64(c)
    # The rounding to float64 misleads the one to float32 only where it ends halfway between two of
    # them. What it left out (Knuth's two-sum) tells which way to go.
    shifted = total - product
    left_out = (product - (total - shifted)) + (np.float64(c) - shifted)
    halfway = (total.view(np.uint64) & np.uint64(2**29 - 1)) == 2**28
    nudged = np.nextafter(total, np.where(left_out > 0, np.inf, -np.inf))
    return np.where(halfway & (left_out != 0), nudged, total).astype(np.float32)
