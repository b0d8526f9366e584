"""Mixtures of experts: the choice of experts, their inputs and their activation."""

from __future__ import annotations

import numpy as np

from gptoss import _core
from gptoss.ops._arguments import MAX_INT, Arguments, F32Array, I32Array


def route_topk(
    logits: F32Array, top_k: int, *, target: str | None = None
) -> tuple[I32Array, F32Array]:
    """Pick each token's experts and their weights.

    Parameters
    ----------
    logits : numpy.ndarray
        (T, E) float32.
    top_k : int
        A, between 1 and E.
    target : str, optional
        Where to run; see the module.

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
    gptoss.errors.BackendError
        The target is unknown or cannot run here.

    Notes
    -----
    Source: openai/gpt-oss, which takes the softmax after the choice.
    """
    check = Arguments("route_topk")
    check.array("logits", logits, np.float32, "T E")
    return _core.route_topk(
        logits, check.integer("top_k", top_k, 1, logits.shape[1]), check.target(target)
    )


def expert_gather(
    x: F32Array, experts: I32Array, n_experts: int, *, target: str | None = None
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
    target : str, optional
        Where to run; see the module.

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
    gptoss.errors.BackendError
        The target is unknown or cannot run here.
    """
    check = Arguments("expert_gather")
    check.array("x", x, np.float32, "T N")
    check.array("experts", experts, np.int32, "T A")
    if experts.size > MAX_INT:
        raise ValueError(f"[expert_gather] expected T * A below 2^31, got {experts.size}")
    return _core.expert_gather(
        x, experts, check.integer("n_experts", n_experts, 1, MAX_INT - 1), check.target(target)
    )


def swiglu(
    gate_up: F32Array, limit: float = 7.0, *, target: str | None = None, isa: str | None = None
) -> F32Array:
    """Combine gate and up: h = g * sigmoid(1.702 g) * (u + 1).

    g = min(gate, limit) and u = clip(up, -limit, limit).

    Parameters
    ----------
    gate_up : numpy.ndarray
        (T, 2 I) float32, interleaved: gate = [:, 0::2], up = [:, 1::2].
    limit : float
        Positive; 7 in the gpt-oss models.
    target, isa : str, optional
        Where to run; see the module.

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
        The target is unknown or cannot run here.

    Notes
    -----
    Source: openai/gpt-oss.
    """
    check = Arguments("swiglu")
    check.array("gate_up", gate_up, np.float32, "T 2I")
    check.multiple_of("2I", 2)
    return _core.swiglu(gate_up, check.number("limit", limit), check.target(target, isa))
