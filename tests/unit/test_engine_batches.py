"""A request's tokens do not depend on what is computed beside it, nor on how it is cut."""

from __future__ import annotations

import numpy as np
import pytest

from gptoss import SamplingParams
from support.engines import CASE, Output, alone, array, make_engine, step, submit


def prompts() -> list[tuple[int, ...]]:
    """Return 64 prompts of 1 to 150 tokens; every fourth begins like the one before it."""
    rng = np.random.default_rng(11)
    found: list[list[int]] = []
    for index in range(64):
        tokens = rng.integers(0, CASE.config.vocab_size, rng.integers(1, 151)).tolist()
        if index % 4 == 3:
            tokens = [*found[-1][: rng.integers(1, 151)], *tokens[:40]]
        found.append(tokens)
    return [tuple(tokens) for tokens in found]


@pytest.mark.parametrize("max_sequences", [16, 64])
@pytest.mark.parametrize(
    ("max_step_tokens", "kv_cache_dtype"),
    [(1, "auto"), (7, "auto"), (64, "auto"), (512, "auto"), (64, "int8")],
)
def test_64_together_are_64_alone(
    max_step_tokens: int, kv_cache_dtype: str, max_sequences: int
) -> None:
    engine = make_engine(
        max_step_tokens=max_step_tokens,
        max_sequences=max_sequences,
        pages=4 * max_sequences,
        kv_cache_dtype=kv_cache_dtype,
    )
    requests = {
        index: (
            prompt,
            SamplingParams(
                temperature=index % 2, seed=index, max_tokens=40, logprobs=1, ignore_eos=True
            ),
        )
        for index, prompt in enumerate(prompts())
    }
    for index, (prompt, params) in requests.items():
        submit(engine, index, array(prompt), params)
    found: dict[int, list[Output]] = {index: [] for index in requests}
    most = 0
    while not engine.idle():
        for index, output, _ in step(engine):
            found[index].append(output)
        most = max(most, engine.stats()["running"])
    for index, (prompt, params) in requests.items():
        assert found[index] == alone(prompt, params, kv_cache_dtype), (
            index
        )  # log-probabilities to the bit
    # With less than a token for each, those that have begun finish before others come.
    assert most >= min(max_sequences, max_step_tokens) // 4
