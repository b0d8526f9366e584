"""Rotary position embedding with YaRN's interpolation (arXiv 2309.00071)."""

from __future__ import annotations

import math

import numpy as np

from gptoss.config import RopeConfig
from gptoss.reference.arrays import FloatArray, IntArray


def inverse_frequencies(config: RopeConfig, head_dim: int) -> FloatArray:
    """Return the angle per position of each pair.

    Pairs that turn more than `beta_fast` times within the original context keep their frequency,
    those that turn less than `beta_slow` times have it divided by `factor`, and those between go
    from one to the other linearly in their index.

    Parameters
    ----------
    config : RopeConfig
        Base, factor and bounds.
    head_dim : int
        D, even.

    Returns
    -------
    numpy.ndarray
        (D/2) float64, radians.
    """
    half = head_dim // 2
    plain: FloatArray = config.theta ** (-np.arange(half) / half)

    def index_that_turns(times: float) -> float:
        wavelength = config.original_context_length / times
        return half * math.log(wavelength / (2 * math.pi)) / math.log(config.theta)

    low = index_that_turns(config.beta_fast)
    high = index_that_turns(config.beta_slow)
    if config.truncate:
        low, high = math.floor(low), math.ceil(high)
    # Bounds as in transformers, which the published configs do not reach.
    low, high = max(low, 0.0), min(high, head_dim - 1.0)
    if low == high:
        high += 0.001
    interpolated = np.clip((np.arange(half) - low) / (high - low), 0.0, 1.0)
    mixed: FloatArray = plain * (interpolated / config.factor + (1.0 - interpolated))
    return mixed


def concentration(config: RopeConfig) -> float:
    """Return what cosines and sines are multiplied by, whatever the length of the text."""
    return 0.1 * math.log(config.factor) + 1.0


def rope(x: FloatArray, positions: IntArray, config: RopeConfig) -> FloatArray:
    """Rotate the pairs (i, i + D/2) of every head by the angles of its token's position.

    Parameters
    ----------
    x : numpy.ndarray
        (T, H, D) float64.
    positions : numpy.ndarray
        (T) int64.
    config : RopeConfig
        Base, factor and bounds.

    Returns
    -------
    numpy.ndarray
        (T, H, D) float64.
    """
    half = x.shape[-1] // 2
    angles = positions[:, None, None] * inverse_frequencies(config, x.shape[-1])
    cos = np.cos(angles) * concentration(config)
    sin = np.sin(angles) * concentration(config)
    first, second = x[..., :half], x[..., half:]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
