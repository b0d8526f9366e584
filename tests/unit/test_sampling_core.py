"""The sampler of the core against the probabilities of the float64 reference."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from gptoss import SamplingParams, _core
from gptoss.reference.sampling import probabilities
from support.tolerances import LOGPROB, chi_square_bound

PROMPT = [3, 5, 5, 8]
OUTPUT = [5, 7, 7, 7, 11]
PENALTIES = {"repetition_penalty": 1.3, "presence_penalty": 0.4, "frequency_penalty": 0.3}
BIAS = {0: 2.0, 5: -1.5, 40: 3.0}

CASES: list[dict[str, Any]] = [
    {},
    {"temperature": 0.6},
    {"temperature": 2.5},
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": 1000},
    {"top_p": 0.5},
    {"top_p": 0.9},
    {"top_p": 1e-6},
    {"min_p": 0.05},
    {"min_p": 1.0},
    {"top_k": 12, "top_p": 0.8},
    {"top_k": 12, "min_p": 0.1},
    {"top_p": 0.9, "min_p": 0.02},
    {"temperature": 1.7, "top_k": 20, "top_p": 0.95, "min_p": 0.01},
    PENALTIES,
    {"repetition_penalty": 0.7},
    {"logit_bias": BIAS},
    {**PENALTIES, "logit_bias": BIAS, "temperature": 0.8, "top_k": 15, "top_p": 0.9},
]


def random_logits(seed: int, size: int, spread: float = 2.0) -> npt.NDArray[np.float32]:
    return (spread * np.random.default_rng(seed).standard_normal(size)).astype(np.float32)


def draw(logits: npt.NDArray[np.float32], params: SamplingParams, count: int) -> Counter[int]:
    return Counter(_core.sample(logits, params, PROMPT, OUTPUT, index)[0] for index in range(count))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_frequencies(case: dict[str, Any]) -> None:
    logits = random_logits(1, 50)
    count = 20_000
    drawn = draw(logits, SamplingParams(seed=7, **case), count)
    expected = count * probabilities(
        logits.astype(np.float64), prompt=PROMPT, output=OUTPUT, **case
    )
    assert set(drawn) <= set(np.flatnonzero(expected).tolist())
    # The rare tokens together, because the statistic wants a handful of each.
    frequent = np.flatnonzero(expected >= 10)
    found = np.array([drawn[token] for token in frequent.tolist()] + [0.0])
    wanted = np.append(expected[frequent], 0.0)
    found[-1], wanted[-1] = count - found.sum(), count - wanted.sum()
    if wanted[-1] < 10:  # too few still: into the most frequent
        best = int(wanted[:-1].argmax())
        found[best], wanted[best] = found[best] + found[-1], wanted[best] + wanted[-1]
        found, wanted = found[:-1], wanted[:-1]
    statistic = float(np.sum((found - wanted) ** 2 / wanted))
    assert statistic <= chi_square_bound(len(wanted) - 1)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("size", [1, 2, 33, 700])
def test_kept_tokens(seed: int, size: int) -> None:
    random = np.random.default_rng((seed, size))
    logits = random_logits(seed, size, spread=4.0)
    case = {
        "temperature": float(random.uniform(0.3, 2.0)),
        "top_k": int(random.integers(0, size + 1)),
        "top_p": float(random.choice([0.3, 0.7, 0.95, 1.0])),
        "min_p": float(random.choice([0.0, 0.01, 0.3])),
    }
    expected = probabilities(logits.astype(np.float64), **case)
    count = 2000
    drawn = {
        _core.sample(logits, SamplingParams(seed=seed, **case), [], [], index)[0]
        for index in range(count)
    }
    assert drawn <= set(np.flatnonzero(expected).tolist())
    # A token of probability 1.5 % is missed by 2,000 draws once in 10^13 times.
    assert drawn >= set(np.flatnonzero(expected > 0.015).tolist())


@pytest.mark.parametrize("seed", range(20))
def test_greedy_with_penalties(seed: int) -> None:
    logits = random_logits(seed, 40, spread=0.5)
    case = {**PENALTIES, "logit_bias": BIAS | {40 - 1: 0.1}, "temperature": 0.0}
    case["logit_bias"].pop(40)
    expected = probabilities(logits.astype(np.float64), prompt=PROMPT, output=OUTPUT, **case)
    token, *_ = _core.sample(logits, SamplingParams(seed=0, **case), PROMPT, OUTPUT, 0)
    assert token == expected.argmax()


def test_ties_go_to_the_lower_id() -> None:
    logits = np.zeros(12, np.float32)  # holds OUTPUT
    logits[[2, 4, 6]] = 1.0
    assert _core.sample(logits, SamplingParams(seed=0, temperature=0), [], [], 0)[0] == 2
    kept = draw(logits, SamplingParams(seed=0, top_k=2), 500)
    assert set(kept) == {2, 4}


def test_a_vanishing_temperature_is_greedy() -> None:
    logits = random_logits(3, 100)
    for temperature in (1e-5, 1e-20, 1e-44):
        kept = draw(logits, SamplingParams(seed=0, temperature=temperature), 50)
        assert set(kept) == {int(logits.argmax())}


def test_seed_and_index_alone_decide() -> None:
    logits = random_logits(2, 1000, spread=0.1)

    def tokens(seed: int) -> list[int]:
        params = SamplingParams(seed=seed)
        return [_core.sample(logits, params, [], [], index)[0] for index in range(50)]

    first = tokens(1)
    assert tokens(1) == first
    for other in (0, 2, 2**64 - 1):
        assert sum(a == b for a, b in zip(tokens(other), first, strict=True)) < 10


def test_logprobs_are_the_models_own() -> None:
    logits = random_logits(4, 300)
    wide = logits.astype(np.float64)
    expected = wide - np.log(np.exp(wide).sum())
    params = SamplingParams(seed=0, logprobs=5, temperature=3.0, logit_bias={250: 9.0}, top_k=2)
    token, logprob, top = _core.sample(logits, params, PROMPT, OUTPUT, 0)
    assert abs(logprob - expected[token]) <= LOGPROB
    likeliest = np.argsort(-wide, kind="stable")[:5]
    assert [entry[0] for entry in top] == likeliest.tolist()
    np.testing.assert_allclose([entry[1] for entry in top], expected[likeliest], atol=LOGPROB)
    assert _core.sample(logits, SamplingParams(seed=0, logprobs=0), [], [], 0)[2] == []
    everything = _core.sample(logits[:12], SamplingParams(seed=0, logprobs=20), [], [], 0)[2]
    assert len(everything) == 12


def test_logits_that_are_not_finite() -> None:
    for bad in (np.nan, -np.inf, np.inf):
        with pytest.raises(RuntimeError, match="the logits are not finite"):
            _core.sample(np.full(8, bad, np.float32), SamplingParams(seed=0), [], [], 0)
