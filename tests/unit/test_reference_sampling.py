"""Properties of the reference's sampling probabilities, and small results by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptoss.reference.sampling import penalized, probabilities
from support.tolerances import FLOAT64_RELATIVE

# Probabilities 0.4, 0.3, 0.2, 0.1, not in order of their ids.
LOGITS = np.log(np.array([0.2, 0.4, 0.1, 0.3]))


def check(expected: list[float], **params: Any) -> None:
    found = probabilities(LOGITS, **params)
    np.testing.assert_allclose(found, np.array(expected) / sum(expected), atol=FLOAT64_RELATIVE)


def test_no_cut_is_softmax() -> None:
    check([2, 4, 1, 3])
    check([2, 4, 1, 3], top_k=0, top_p=1.0, min_p=0.0)


def test_temperature() -> None:
    check([4, 16, 1, 9], temperature=0.5)
    check([0, 1, 0, 0], temperature=0.0)


def test_greedy_takes_the_lowest_of_equal_ids() -> None:
    assert probabilities(np.array([1.0, 2.0, 2.0]), temperature=0.0).tolist() == [0, 1, 0]


def test_top_k() -> None:
    check([0, 4, 0, 3], top_k=2)
    check([0, 1, 0, 0], top_k=1)
    check([2, 4, 1, 3], top_k=9)


def test_equal_tokens_are_cut_the_higher_id_first() -> None:
    assert probabilities(np.zeros(4), top_k=2).tolist() == [0.5, 0.5, 0, 0]
    assert probabilities(np.zeros(4), top_p=0.6).tolist() == pytest.approx([1 / 3] * 3 + [0])


@pytest.mark.parametrize(
    ("top_p", "expected"),
    [
        (0.01, [0, 1, 0, 0]),
        (0.39, [0, 1, 0, 0]),
        (0.41, [0, 4, 0, 3]),
        (0.69, [0, 4, 0, 3]),
        (0.71, [2, 4, 0, 3]),
        (0.91, [2, 4, 1, 3]),
    ],
)
def test_top_p_keeps_the_fewest_that_reach_it(top_p: float, expected: list[float]) -> None:
    check(expected, top_p=top_p)


def test_top_p_counts_what_the_other_cuts_left() -> None:
    # Of 4 : 3 the first alone has 0.57.
    check([0, 1, 0, 0], top_k=2, top_p=0.5)
    check([0, 4, 0, 3], top_k=2, top_p=0.6)
    # Of 4 : 3 : 2 the first two have 0.78, of all four 0.7.
    check([0, 4, 0, 3], min_p=0.5, top_p=0.75)


def test_min_p_is_relative_to_the_likeliest() -> None:
    check([2, 4, 0, 3], min_p=0.4)
    check([0, 4, 0, 3], min_p=0.6)
    check([0, 1, 0, 0], min_p=1.0)


def test_min_p_comes_after_temperature() -> None:
    # At temperature 0.5 the shares are 4 : 16 : 1 : 9.
    check([0, 16, 0, 9], min_p=0.4, temperature=0.5)


def test_bias_comes_before_the_penalties() -> None:
    logits = np.array([1.0, -1.0, 0.5])
    found = penalized(logits, logit_bias={1: 3.0}, repetition_penalty=2.0, output=[1])
    assert found.tolist() == [1.0, 1.0, 0.5]
    assert logits.tolist() == [1.0, -1.0, 0.5]


def test_penalties() -> None:
    logits = np.array([4.0, -4.0, 4.0, -4.0, 4.0])
    found = penalized(
        logits,
        repetition_penalty=2.0,
        presence_penalty=0.5,
        frequency_penalty=0.25,
        prompt=[0, 1, 0],
        output=[2, 3, 3, 3],
    )
    # Of the prompt only the repetition penalty counts, and once.
    assert found.tolist() == [2.0, -8.0, 2.0 - 0.75, -8.0 - 1.25, 4.0]


params = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.0, 0.3, 1.0, 2.0]),
        "top_k": st.integers(0, 9),
        "top_p": st.floats(0.01, 1.0),
        "min_p": st.floats(0.0, 1.0),
    }
)


# Logits that are equal or differ enough for their probabilities to differ.
tellable = st.floats(-30, 30).map(lambda logit: round(logit, 3))


@given(st.lists(tellable, min_size=1, max_size=8), params)
def test_what_is_left_is_a_distribution_of_the_likeliest(
    logits: list[float], params: dict[str, Any]
) -> None:
    values = np.array(logits)
    found = probabilities(values, **params)
    assert found.sum() == pytest.approx(1.0)
    kept = found > 0
    assert kept[values.argmax()]
    assert params["top_k"] == 0 or kept.sum() <= params["top_k"]
    if not kept.all() and params["temperature"]:
        # A float underflows to 0 below 1e-308, which logits of -30 and 30 do not reach.
        assert values[kept].min() >= values[~kept].max()
