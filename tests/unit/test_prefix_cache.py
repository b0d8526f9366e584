"""What an earlier request has computed of the same beginning is taken over, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import gptoss

# The window of the checkpoint is 16 tokens: a prompt of several pages leaves it far behind.
PROMPT = np.random.default_rng(3).integers(0, 256, 200).tolist()
GREEDY = {"temperature": 0.0, "ignore_eos": True, "max_tokens": 20}


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Callable[[str], Path]) -> Path:
    return tiny_checkpoint("hf")


@pytest.fixture(scope="module")
def alone(checkpoint: Path) -> list[int]:
    """The continuation of PROMPT + its own first 20 tokens + [1, 2, 3], nothing cached."""
    with gptoss.load(checkpoint) as llm:
        first = llm.generate(PROMPT, **GREEDY).token_ids
    with gptoss.load(checkpoint) as llm:
        return llm.generate([*PROMPT, *first, 1, 2, 3], **GREEDY).token_ids


def test_a_continued_sequence_computes_what_is_new(checkpoint: Path, alone: list[int]) -> None:
    with gptoss.load(checkpoint) as llm:
        first = llm.generate(PROMPT, **GREEDY)
        assert first.usage.cached_tokens == 0
        again = llm.generate([*PROMPT, *first.token_ids, 1, 2, 3], **GREEDY)
        # The last token of the answer was never fed back.
        assert again.usage.cached_tokens == len(PROMPT) + 19
        assert again.token_ids == alone


def test_the_same_prompt_twice(checkpoint: Path) -> None:
    with gptoss.load(checkpoint) as llm:
        first, second = (llm.generate(PROMPT, **GREEDY) for _ in range(2))
    assert second.usage.cached_tokens == len(PROMPT) - 1
    assert second.token_ids == first.token_ids


@pytest.mark.parametrize("kept", [1, 17, 63, 64, 65, 128, 199])
def test_a_branch_takes_what_it_shares(checkpoint: Path, kept: int) -> None:
    branch = [*PROMPT[:kept], *((token + 1) % 256 for token in PROMPT[kept:])]
    with gptoss.load(checkpoint) as llm:
        expected = llm.generate(branch, **GREEDY).token_ids
    with gptoss.load(checkpoint) as llm:
        llm.generate(PROMPT, **GREEDY)
        result = llm.generate(branch, **GREEDY)
    assert result.token_ids == expected
    assert 0 < result.usage.cached_tokens <= kept


def test_many_requests_with_one_beginning(checkpoint: Path) -> None:
    prompts = [
        [*PROMPT[:150], *np.random.default_rng(i).integers(0, 256, 30).tolist()] for i in range(24)
    ]
    with gptoss.load(checkpoint) as llm:
        alone = [llm.generate(prompt, **GREEDY).token_ids for prompt in prompts]
        assert llm.stats().cached_tokens >= 23 * 150
    with gptoss.load(checkpoint) as llm:
        together = llm.generate(prompts, **GREEDY)
    assert [result.token_ids for result in together] == alone


def test_a_small_cache_forgets_and_stays_right(checkpoint: Path) -> None:
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, 256, 100).tolist() for _ in range(6)]
    with gptoss.load(checkpoint) as llm:
        expected = [llm.generate(prompt, **GREEDY).token_ids for prompt in prompts]
    with gptoss.load(checkpoint, context_length=256) as llm:
        for _ in range(3):
            results = llm.generate(prompts, **GREEDY)
            assert [result.token_ids for result in results] == expected
        stats = llm.stats()
        assert stats.full_pages.used == stats.window_pages.used == 0
