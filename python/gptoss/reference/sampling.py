"""From logits to the probabilities that a token is drawn from, in vLLM's order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from gptoss.reference.arrays import FloatArray, IntArray


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
