"""Normalisation."""

from __future__ import annotations

import numpy as np

from gptoss import _core
from gptoss.ops._arguments import Arguments, F32Array


def rms_norm(
    x: F32Array,
    weight: F32Array,
    eps: float = 1e-5,
    *,
    target: str | None = None,
    isa: str | None = None,
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
    target, isa : str, optional
        Where to run; see the module.

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
        The target is unknown or cannot run here.

    Notes
    -----
    The mean is a float32 sum in 16 lanes, then a tree. Source: arXiv 1910.07467.
    """
    check = Arguments("rms_norm")
    check.array("x", x, np.float32, "T N")
    check.array("weight", weight, np.float32, "N")
    return _core.rms_norm(x, weight, check.number("eps", eps), check.target(target, isa))
