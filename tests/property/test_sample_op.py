"""Whatever the row and the rule, every instruction set gives the token of the exact model."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import event, given, settings
from hypothesis import strategies as st

from gptoss import _core
from gptoss.reference.sampling import sample

TARGETS = [name for name, available, _ in _core.targets() if available and ":" in name]

numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)


@st.composite
def rows(draw: st.DrawFn) -> npt.NDArray[np.float32]:
    """Draw logits (V): a normal row, the parts of which are ties, outliers or impossible."""
    size = draw(st.integers(1, 400) | st.sampled_from([1023, 1024, 1025, 4096]))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    row = random.normal(0, draw(st.sampled_from([0.0, 1e-6, 1.0, 8.0, 1e6])), size)
    for value in draw(st.lists(numbers | st.sampled_from([-np.inf, 0.0, 20.0]), max_size=6)):
        begin = draw(st.integers(0, size - 1))
        row[begin : begin + draw(st.sampled_from([1, 1, 3, 64, 100]))] = value
    return row.astype(np.float32)


rules = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.sampled_from([0.0, 0.5, 1.5]) | st.floats(0, 2.0**127, width=32),
        "top_p": st.sampled_from([0.9, 0.5, 0.999]) | st.floats(0, 1, exclude_min=True, width=32),
        "min_p": st.sampled_from([0.05, 0.3]) | st.floats(0, 1, width=32),
        "top_k": st.integers(0, 8) | st.integers(0, 5000),
        "repetition_penalty": st.sampled_from([0.8, 1.2])
        | st.floats(0, 2.0**127, exclude_min=True, width=32),
        "presence_penalty": st.floats(-2, 2, width=32),
        "frequency_penalty": st.floats(-2, 2, width=32),
        "seed": st.integers(0, 2**64 - 1),
    },
)


@settings(max_examples=300, deadline=None)
@given(rows(), rules, st.integers(0, 2**64 - 1), st.data())
def test_tokens_are_those_of_the_exact_model(
    logits: npt.NDArray[np.float32], rule: dict[str, Any], index: int, data: st.DataObject
) -> None:
    tokens = st.integers(0, logits.size - 1)
    bias = data.draw(st.dictionaries(tokens, numbers, max_size=5))
    counts = data.draw(st.dictionaries(tokens, st.integers(0, 2**31 - 1), max_size=9))
    allowed = data.draw(st.none() | st.integers(0, 2**32))
    mask = words = None
    if allowed is not None:
        few = data.draw(st.sampled_from([0.01, 0.5, 0.99]))
        mask = np.random.default_rng(allowed).random(logits.size) < few
        padded = np.append(mask, np.ones(-logits.size % 32, np.bool_))
        words = np.packbits(padded, bitorder="little").view(np.uint32)
    expected = sample(logits, **rule, index=index, logit_bias=bias, counts=counts, mask=mask)
    event(expected if isinstance(expected, str) else "a token")
    for target in TARGETS:
        status, token, _, _ = _core.sample_row(
            logits,
            rule,
            index=index,
            counts=list(counts.items()),
            biases=list(bias.items()),
            mask=words,
            target=target,
        )
        assert (token if status == "ok" else status) == expected, target
