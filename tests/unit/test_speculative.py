"""Guessing tokens ahead makes the same output in fewer steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gptoss
from gptoss import LLM, _core
from gptoss.cli import main

LETTERS = dict.fromkeys(b"abc", 30.0)  # so few that the output repeats itself


@pytest.fixture(scope="module")
def models(tiny_checkpoint: Callable[[str], Path]) -> Iterator[tuple[LLM, LLM]]:
    """The same model without speculation, and with it and hardly any cache."""
    checkpoint = tiny_checkpoint("hf")
    with (
        gptoss.load(checkpoint, context_length=300) as plain,
        gptoss.load(
            checkpoint, context_length=300, speculative="ngram", kv_cache_memory=2**18
        ) as speculative,
    ):
        yield plain, speculative


def outcome(result: gptoss.GenerationResult) -> tuple[Any, ...]:
    return result.token_ids, result.text, result.logprobs, result.finish_reason, result.stop_reason


requests = st.fixed_dictionaries(
    {"max_tokens": st.integers(1, 60), "seed": st.integers(0, 9)},
    optional={
        "temperature": st.sampled_from([0.0, 0.3, 1.0]),
        "top_k": st.integers(0, 3),
        "top_p": st.floats(0.1, 1.0),
        "repetition_penalty": st.floats(0.7, 1.5),
        "frequency_penalty": st.floats(-1, 1),
        "stop": st.sampled_from(["cab", "aa", "bcb"]),
        "stop_token_ids": st.just([98]),
        "logprobs": st.integers(0, 3),
        "logit_bias": st.just(LETTERS),
        "ignore_eos": st.booleans(),
    },
)
prompts = st.one_of(
    st.text("abc", min_size=1, max_size=150),
    st.lists(st.integers(0, 255), min_size=1, max_size=150),
    st.builds(lambda piece, n: piece * n, st.text("abcd ", min_size=1, max_size=9), st.just(12)),
)


@settings(max_examples=60, deadline=None)
@given(prompts=st.lists(prompts, min_size=1, max_size=4), params=requests)
def test_the_output_is_the_same(
    models: tuple[LLM, LLM], prompts: list[str | list[int]], params: dict[str, Any]
) -> None:
    plain, speculative = models
    expected = [outcome(result) for result in plain.generate(prompts, **params)]
    assert [outcome(result) for result in speculative.generate(prompts, **params)] == expected
    streamed = [chunk.text for chunk in speculative.stream(prompts[0], **params)]
    assert "".join(streamed) == expected[0][1]


def test_guesses_were_made_right_and_wrong(models: tuple[LLM, LLM]) -> None:
    plain, speculative = models
    for seed in range(20):
        speculative.generate("abcabc", max_tokens=50, seed=seed, logit_bias=LETTERS)
    stats = speculative.stats()
    assert 0 < stats.accepted_tokens < stats.drafted_tokens
    assert stats.full_pages.used == 0
    assert plain.stats().drafted_tokens == 0


def test_the_demo_repeats_itself_in_fewer_steps() -> None:
    prompt = "1 2 3 4 " * 12  # it answers with a loop
    greedy = {"temperature": 0, "max_tokens": 80, "ignore_eos": True}
    with gptoss.load("demo") as llm:
        expected = llm.generate(prompt, **greedy).token_ids
    with gptoss.load("demo", speculative="ngram") as llm:
        assert llm.generate(prompt, **greedy).token_ids == expected
        # A step for every token that was not a guess.
        assert llm.stats().accepted_tokens > 40


def test_arguments() -> None:
    with pytest.raises(ValueError, match=r"speculative must be None or one of .*, got 'eagle'"):
        gptoss.load("demo", speculative="eagle")  # type: ignore[arg-type]


def test_the_command_line_has_it(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["generate", "demo", "one two three " * 9, "--max-tokens", "9", "--temperature", "0"]
    assert main([*command]) == 0
    expected = capsys.readouterr().out
    assert main([*command, "--speculative", "ngram"]) == 0
    assert capsys.readouterr().out == expected


class TestDrafter:
    def test_replay(self) -> None:
        """Along a text that quotes its prompt whole."""
        prompt = np.random.default_rng(0).integers(0, 10_000, 500).astype(np.int32)
        drafter = _core.Drafter(prompt)
        assert drafter.draft(8, 0.4) == []
        right = 0
        for i, token in enumerate(prompt.tolist()):
            draft = drafter.draft(4, 0.4)
            assert draft == np.roll(prompt, -i)[: len(draft)].tolist()  # the end is a loop's
            right += len(draft)
            drafter.push(token)
        assert right > 4 * 450

    def test_prompt_must_be_an_array_of_int32(self) -> None:
        with pytest.raises(TypeError):
            _core.Drafter(np.zeros(3))  # type: ignore[arg-type]
