"""Attention, and the rotation of its positions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gptoss import _core
from gptoss.config import RopeConfig
from gptoss.ops._arguments import MAX_INT, Arguments, F32Array, I32Array


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
    target: str | None = None,
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
    target, isa : str, optional
        Where to run; see the module.

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
        The target is unknown or cannot run here.

    Notes
    -----
    Scores, softmax and sums are float32. Source: openai/gpt-oss.
    """
    check = Arguments("banded_attention")
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
        0 if window is None else check.integer("window", window, 1, MAX_INT),
        check.number("scale", q.shape[2] ** -0.5 if scale is None else scale),
        bool(int8_cache),
        check.target(target, isa),
    )


def rope(
    x: F32Array,
    positions: I32Array,
    config: RopeConfig,
    *,
    target: str | None = None,
    isa: str | None = None,
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
    target, isa : str, optional
        Where to run; see the module.

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
        The target is unknown or cannot run here.

    Notes
    -----
    Angles, sines and cosines are float64, the rotation is float32. Source: arXiv 2104.09864 and
    2309.00071.
    """
    check = Arguments("rope")
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
    return _core.rope(x, positions, core_config, check.target(target, isa))
