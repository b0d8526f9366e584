"""The sampling op on every instruction set: the token of the exact model, and its distribution."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from gptoss import _core
from gptoss.reference.sampling import MASS_BITS, changed_logits, masses, probabilities, sample
from support.tolerances import LOGPROB, chi_square_bound

Logits = npt.NDArray[np.float32]

TARGETS = [name for name, available, _ in _core.targets() if available and ":" in name]
FORCE = 3.4e38


def row_of(kind: str, size: int, seed: int) -> Logits:
    random = np.random.default_rng((seed, size))
    logits = random.standard_normal(size)
    if kind == "peaked":
        logits[random.integers(0, size, 1 + size // 50)] += 15
    elif kind == "ties":
        logits = np.round(logits)
    elif kind == "equal":
        logits[:] = 3.25
    elif kind == "wide":
        logits *= 30
    elif kind == "huge":
        logits = np.clip(logits * 10.0 ** random.integers(-38, 39, size), -3e38, 3e38)
    elif kind == "impossible":
        logits[random.random(size) < 0.5] = -np.inf
        logits[random.integers(size)] = 1.0
    return logits.astype(np.float32)


KINDS = ["flat", "peaked", "ties", "equal", "wide", "huge", "impossible"]
SIZES = [1, 2, 15, 16, 17, 63, 64, 65, 127, 1000, 1024, 1025, 3001]
RULES: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {},
    {"temperature": 0.4},
    {"temperature": 50.0},
    {"temperature": 1e-44},
    {"temperature": 3.4e38},
    {"min_p": 0.05},
    {"min_p": 1.0},
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": 900},
    {"top_p": 0.95},
    {"top_p": 0.3},
    {"top_p": 1e-30},
    {"top_p": 0.99999994},
    {"top_k": 40, "top_p": 0.8},
    {"top_k": 600, "top_p": 0.9, "min_p": 0.01, "temperature": 1.3},
]


def pack(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint32]:
    words = np.zeros(-(-mask.size // 32) * 32, np.bool_)
    words[: mask.size] = mask
    return np.packbits(words, bitorder="little").view(np.uint32)


def token_of(logits: Logits, rule: dict[str, Any], target: str, **inputs: Any) -> int | str:
    status, token, _, _ = _core.sample_row(logits, rule, target=target, **inputs)
    assert (status == "ok") == (token >= 0)
    return token if status == "ok" else status


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_those_of_the_exact_model(kind: str, size: int) -> None:
    for number, rule in enumerate(RULES):
        logits = row_of(kind, size, number)
        for index in range(4):
            expected = sample(logits, **rule, seed=9, index=index)
            for target in TARGETS:
                found = token_of(logits, {**rule, "seed": 9}, target, index=index)
                assert found == expected, (rule, target, index)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "rule",
    [{"top_p": 0.95}, {"top_k": 50}, {"min_p": 0.05}, {}, {"top_k": 60_000, "top_p": 0.5}],
    ids=str,
)
def test_the_published_vocabulary(rule: dict[str, Any], target: str) -> None:
    for kind in ("flat", "peaked"):
        logits = row_of(kind, 201_088, 3)
        for index in range(3):
            found = token_of(logits, {**rule, "seed": 2}, target, index=index)
            assert found == sample(logits, **rule, seed=2, index=index)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("size", [1, 31, 32, 33, 64, 100, 1500])
def test_biases_penalties_and_masks(size: int, target: str) -> None:
    random = np.random.default_rng(size)
    for seed in range(20):
        logits = row_of("ties" if seed % 2 else "flat", size, seed)
        few = min(size, 20)
        biased = random.choice(size, few, replace=False).tolist()
        seen = random.choice(size, few, replace=False).tolist()
        bias = dict(zip(biased, random.normal(0, 3, few).astype(np.float32).tolist(), strict=True))
        counts = dict(zip(seen, random.integers(0, 4, few).tolist(), strict=True))
        rule = {
            "temperature": float(random.choice([0.0, 0.7])),
            "top_p": float(random.choice([0.8, 1.0])),
            "top_k": int(random.choice([0, 5])),
            "repetition_penalty": float(random.choice([0.7, 1.0, 1.4])),
            "presence_penalty": float(random.choice([0.0, 0.5])),
            "frequency_penalty": float(random.choice([0.0, -0.3])),
        }
        mask = random.random(size) < random.choice([0.02, 0.5])
        for allowed in (None, mask):
            expected = sample(
                logits, **rule, logit_bias=bias, counts=counts, mask=allowed, seed=seed
            )
            found = token_of(
                logits,
                {**rule, "seed": seed},
                target,
                counts=list(counts.items()),
                biases=list(bias.items()),
                mask=None if allowed is None else pack(allowed),
            )
            assert found == expected, (seed, rule)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("repetition_penalty", [0.8, 1e-38, 1e-44, 3e38])
@pytest.mark.parametrize("temperature", [0.0, 1.0, 100.0])
def test_bans_and_forces_outweigh_penalties(
    temperature: float, repetition_penalty: float, target: str
) -> None:
    logits = row_of("flat", 300, 1)
    rule = {
        "temperature": temperature,
        "repetition_penalty": repetition_penalty,
        "frequency_penalty": -2.0,
    }
    counts = [(token, token % 3) for token in range(300)]
    for index in range(5):
        forced = token_of(logits, rule, target, index=index, counts=counts, biases=[(123, FORCE)])
        assert forced == 123
        bans = [(token, -FORCE) for token in range(300) if token != 77]
        assert token_of(logits, rule, target, index=index, counts=counts, biases=bans) == 77


@pytest.mark.parametrize("target", TARGETS)
def test_parameters_cannot_make_logits_non_finite(target: str) -> None:
    for logits in (row_of("huge", 200, 0), row_of("flat", 200, 0)):
        for bias in (FORCE, -FORCE):
            for repetition_penalty in (1e-44, 3e38):
                counts = dict.fromkeys(range(200), 2**31 - 1)
                biases = dict.fromkeys(range(0, 200, 2), bias)
                rule = {"repetition_penalty": repetition_penalty, "presence_penalty": -2.0}
                z = changed_logits(logits, **rule, logit_bias=biases, counts=counts)
                assert np.isfinite(z).all()
                found = token_of(
                    logits, rule, target, counts=list(counts.items()), biases=list(biases.items())
                )
                assert found == sample(logits, **rule, logit_bias=biases, counts=counts)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("place", [0, 16, 63, 64, 129])
def test_rows_that_are_not_finite(place: int, target: str) -> None:
    for bad in (np.nan, np.inf):
        logits = row_of("flat", 130, 0)
        logits[place] = bad
        ban = [(place, -FORCE)]
        mask = pack(np.arange(130) != place)
        for rule in ({}, {"temperature": 0.0}, {"n_logprobs": 3}):
            assert _core.sample_row(logits, rule, target=target) == ("non_finite", -1, 0.0, [])
            # What the row holds is the checkpoint's fault, whatever the parameters hide.
            assert token_of(logits, rule, target, biases=ban, mask=mask) == "non_finite"
        assert token_of(logits, {}, target, scored=3) == "non_finite"
    logits[:] = -np.inf
    assert token_of(logits, {}, target) == "non_finite"
    logits[place] = -1e-3
    for temperature in (0.0, 1.0):
        assert token_of(logits, {"temperature": temperature}, target) == place


@pytest.mark.parametrize("target", TARGETS)
def test_a_mask_that_allows_nothing(target: str) -> None:
    logits = row_of("flat", 70, 0)
    logits[7] = -np.inf
    for allowed in ([], [7]):
        mask = pack(np.isin(np.arange(70), allowed))
        for rule in ({}, {"temperature": 0.0}, {"n_logprobs": 2, "top_p": 0.5}):
            found = _core.sample_row(logits, rule, mask=mask, biases=[(7, FORCE)], target=target)
            assert found == ("empty_mask", -1, 0.0, [])
    # The bits beyond the vocabulary mean nothing.
    mask = pack(np.arange(96) >= 69)
    assert token_of(logits, {}, target, mask=mask) == 69


def log_softmax(logits: Logits) -> npt.NDArray[np.float64]:
    wide = logits.astype(np.float64)
    return wide - wide.max() - np.log(np.exp(wide - wide.max()).sum())


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kind", ["flat", "peaked", "ties", "equal", "impossible"])
def test_log_probabilities_are_the_models_own(kind: str, target: str) -> None:
    for size in (1, 5, 64, 65, 1200, 5000):
        logits = row_of(kind, size, 5)
        expected = log_softmax(logits)
        ids = np.argsort(-logits, kind="stable")[:20]
        ids = ids[logits[ids] > -np.inf]
        rule = {"n_logprobs": 20, "temperature": 2.0, "top_k": 3, "presence_penalty": 1.0}
        _, token, logprob, top = _core.sample_row(
            logits, rule, counts=[(0, 1)], biases=[(size - 1, 2.0)], target=target
        )
        assert abs(logprob - expected[token]) <= LOGPROB
        assert [entry[0] for entry in top] == ids.tolist()
        np.testing.assert_allclose([entry[1] for entry in top], expected[ids], atol=LOGPROB)
        # The same without other parameters, where the draw shares what was computed.
        plain = _core.sample_row(logits, {"n_logprobs": 20, "seed": 1}, target=target)
        assert plain[3] == top
        assert plain[1] == sample(logits, seed=1)
        assert _core.sample_row(logits, {"n_logprobs": 0}, target=target)[3] == []


@pytest.mark.parametrize("target", TARGETS)
def test_scored_rows(target: str) -> None:
    logits = row_of("flat", 500, 4)
    expected = log_softmax(logits)
    for token_id in (0, 63, 64, 499):
        for n in (-1, 0, 4):
            status, token, logprob, top = _core.sample_row(
                logits, {"n_logprobs": n, "temperature": 0.0}, scored=token_id, target=target
            )
            assert (status, token, len(top)) == ("ok", token_id, max(n, 0))
            assert abs(logprob - expected[token_id]) <= LOGPROB
    logits[9] = -np.inf
    assert _core.sample_row(logits, {}, scored=9, target=target)[2] == -np.inf


def test_masses_are_the_exponential() -> None:
    logits = np.linspace(-30, 0, 20_001, dtype=np.float32)
    expected = np.exp(logits.astype(np.float64)) * 2.0**MASS_BITS
    found = masses(logits).astype(np.float64)
    # The exponent's rounding, of up to 44 octaves, and the polynomial's 1.4 units; then the whole
    # number's half.
    exponent = np.log(2) * np.abs(logits / np.log(2)) * 2
    assert (np.abs(found - expected) <= (exponent + 2) * 2.0**-24 * expected + 0.5).all()
    assert found[-1] == 2.0**MASS_BITS


def test_draws_follow_the_probabilities() -> None:
    logits = row_of("flat", 40, 2)
    rule = {"temperature": 0.9, "top_p": 0.9, "top_k": 30, "min_p": 0.01}
    count = 20_000
    drawn = Counter(
        token_of(logits, {**rule, "seed": 5}, "cpu", index=index) for index in range(count)
    )
    expected = count * probabilities(logits.astype(np.float64), **rule)
    kept = np.flatnonzero(expected)
    assert set(drawn) == set(kept.tolist())
    found = np.array([drawn[token] for token in kept.tolist()])
    statistic = float(np.sum((found - expected[kept]) ** 2 / expected[kept]))
    assert statistic <= chi_square_bound(len(kept) - 1)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("top_p", "kept"), [(0.25, 1), (0.5, 2), (0.500001, 3), (0.75, 3)])
def test_a_share_that_is_reached_exactly(top_p: float, kept: int, target: str) -> None:
    logits = np.zeros(4, np.float32)
    drawn = {token_of(logits, {"top_p": top_p}, target, index=index) for index in range(100)}
    assert drawn == set(range(kept))


@pytest.mark.parametrize("target", TARGETS)
def test_a_cut_among_tokens_that_penalties_lowered(target: str) -> None:
    logits = np.zeros(40, np.float32)
    counts = dict.fromkeys(range(20), 1)
    rule = {"presence_penalty": 1.0, "top_p": 0.9}
    expected = [sample(logits, **rule, counts=counts, index=index) for index in range(300)]
    found = [
        token_of(logits, rule, target, index=index, counts=list(counts.items()))
        for index in range(300)
    ]
    assert found == expected
    assert 0 < len({token for token in found if token < 20}) < 20


def test_seeds_and_indices_do_not_share_numbers() -> None:
    logits = np.zeros(4096, np.float32)
    tokens = {
        (seed, index): token_of(logits, {"seed": seed}, "cpu", index=index)
        for seed in (0, 1, 2**64 - 1)
        for index in (0, 1, 2, 2**40, 2**64 - 1)
    }
    assert len(set(tokens.values())) == len(tokens)


@pytest.mark.parametrize(
    ("rule", "inputs", "message"),
    [
        ({"temperature": -1.0}, {}, "temperature must be at least 0"),
        ({"top_p": 0.0}, {}, r"top_p must be in \(0, 1\]"),
        ({"min_p": 1.5}, {}, r"min_p must be in \[0, 1\]"),
        ({"top_k": -1}, {}, "top_k must not be negative"),
        ({"repetition_penalty": 0.0}, {}, "repetition_penalty must be positive"),
        ({"presence_penalty": np.nan}, {}, "must be finite"),
        ({"n_logprobs": 21}, {}, "logprobs must be at most 20"),
        ({"top": 1}, {}, "unknown field of a sampling rule: top"),
        ({}, {"scored": 8}, r"target must lie in \[0, 8\)"),
        ({}, {"counts": [(8, 0)]}, r"token ids must lie in \[0, 8\)"),
        ({}, {"counts": [(1, -1)]}, "counts must not be negative"),
        ({}, {"biases": [(-1, 0.0)]}, r"token ids must lie in \[0, 8\)"),
        ({}, {"biases": [(1, np.inf)]}, "a bias must be finite"),
        ({}, {"mask": np.zeros(2, np.uint32)}, r"mask must be of shape \(1\), got 2"),
    ],
)
def test_bad_arguments(rule: dict[str, Any], inputs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _core.sample_row(np.zeros(8, np.float32), rule, **inputs)
