"""A fault stays where it is: no request ends another, nor takes a step away from it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import gptoss
from gptoss import LLM, BackendError, Request, SamplingParams
from support.checkpoints import MICRO, make_checkpoint, recast
from support.engines import CASE, array, make_engine, step, submit

BAD = 77  # the token whose embedding is not finite
ENDS: dict[str, Any] = {"ignore_eos": True, "logit_bias": {BAD: -1e30}}
PROMPTS = [[5, 6, 7], list(range(100, 140)), [200] * 70]
BYSTANDERS: list[dict[str, Any]] = [
    {"temperature": 0, "max_tokens": 150, "logprobs": 2, **ENDS},
    {"seed": 3, "max_tokens": 150, **ENDS},
    {"seed": 4, "top_p": 0.9, "max_tokens": 150, "repetition_penalty": 1.1, **ENDS},
]
# The token alone, at the beginning, at the end, in the middle of prompts of one chunk and of
# several, and after a text that others share.
CULPRITS = [
    [BAD],
    [BAD, 1, 2, 3],
    [1, 2, 3, BAD],
    [*range(100, 120), BAD, *range(120, 140)],
    [*range(100, 140), BAD, 1],
    [*([3] * 90), BAD, *([4] * 600)],
]


def embedding(value: float) -> Any:
    """An edit of a checkpoint: one element of the row of one token."""

    def change(name: str, values: npt.NDArray[np.float32]) -> None:
        if name == "model.embed_tokens.weight":
            values[BAD, 3] = value

    return change


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("whole") / "model"
    make_checkpoint(folder, MICRO)
    return folder


@pytest.fixture(scope="module", params=[np.nan, np.inf])
def damaged(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("damaged") / "model"
    make_checkpoint(folder, MICRO)
    recast(folder / "model.safetensors", lambda _: "BF16", embedding(request.param))
    return folder


@pytest.fixture(
    scope="module",
    params=[
        {},
        {"precision": "reference"},
        {"kv_cache_dtype": "int8", "dense": "q8"},
        # Few pages, so that those of a culprit are soon another's; chunks of prompts.
        {"kv_cache_memory": 2**19, "max_step_tokens": 32, "speculative": "ngram"},
    ],
)
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {"context_length": 1000, "threads": 2, **request.param}


@pytest.fixture(scope="module")
def expected(whole: Path, options: dict[str, Any]) -> list[gptoss.GenerationResult]:
    """What the bystanders get from a checkpoint without damage, alone."""
    with gptoss.load(whole, **options) as llm:
        return [
            llm.generate(*pair[:1], **pair[1]) for pair in zip(PROMPTS, BYSTANDERS, strict=True)
        ]


@pytest.fixture
def llm(damaged: Path, options: dict[str, Any]) -> Iterator[LLM]:
    with gptoss.load(damaged, **options) as model:
        yield model


def bystanders(llm: LLM) -> list[Request]:
    pairs = zip(PROMPTS, BYSTANDERS, strict=True)
    return [llm.submit(prompt, **params) for prompt, params in pairs]


def check(running: list[Request], expected: list[gptoss.GenerationResult]) -> None:
    for request, alone in zip(running, expected, strict=True):
        result = request.result(timeout=60)
        assert result.token_ids == alone.token_ids
        assert result.logprobs == alone.logprobs
        assert result.finish_reason == alone.finish_reason


def test_a_token_without_numbers_ends_its_own_request(
    llm: LLM, expected: list[gptoss.GenerationResult]
) -> None:
    running = bystanders(llm)
    for request in running:
        next(request)
    culprits = [llm.submit(prompt, max_tokens=5, seed=1) for prompt in CULPRITS]
    for culprit in culprits:
        with pytest.raises(BackendError, match="not finite: the checkpoint is damaged"):
            culprit.result(timeout=60)
        assert culprit.finished
    check(running, expected)
    # Nothing of it is left behind, in the pages or in the cache.
    check(bystanders(llm), expected)
    with pytest.raises(BackendError, match="the checkpoint is damaged"):
        llm.generate(CULPRITS[3], max_tokens=5)
    check(bystanders(llm), expected)
    assert llm.stats().running == llm.stats().waiting == 0


def test_a_token_without_numbers_that_is_chosen(
    llm: LLM, expected: list[gptoss.GenerationResult]
) -> None:
    running = bystanders(llm)
    culprit = llm.stream([1, 2, 3], max_tokens=5, logit_bias={BAD: 1e30})
    assert next(culprit).token_ids == [BAD]
    with pytest.raises(BackendError, match="the checkpoint is damaged"):
        next(culprit)
    assert list(culprit) == []
    check(running, expected)


def test_a_scored_prompt_without_numbers(llm: LLM, expected: list[gptoss.GenerationResult]) -> None:
    running = bystanders(llm)
    with pytest.raises(BackendError, match="the checkpoint is damaged"):
        llm.generate([1, 2, BAD, 3], max_tokens=0, prompt_logprobs=1)
    check(running, expected)


def test_one_of_several_samples(llm: LLM, expected: list[gptoss.GenerationResult]) -> None:
    """All of a request's samples have its prompt."""
    running = bystanders(llm)
    with pytest.raises(BackendError, match="the checkpoint is damaged"):
        llm.generate([1, BAD, 2], n=4, max_tokens=5)
    check(running, expected)


EXTREME: list[dict[str, Any]] = [
    {"logit_bias": {64: 3e38}, "repetition_penalty": 0.8},
    {"logit_bias": {64: -3e38}, "repetition_penalty": 3e38},
    {"repetition_penalty": 1e-38},
    {"repetition_penalty": 1e-38, "logit_bias": dict.fromkeys(range(288), -3e38)},
    {"temperature": 1e-38, "presence_penalty": 2.0, "frequency_penalty": -2.0},
    {"temperature": 3e38, "min_p": 1.0},
]


@pytest.mark.parametrize("params", EXTREME)
def test_parameters_at_their_ends_harm_nobody(
    whole: Path, options: dict[str, Any], expected: list[gptoss.GenerationResult], params: Any
) -> None:
    with gptoss.load(whole, **options) as llm:
        running = bystanders(llm)
        for request in running:
            next(request)
        extreme = [
            llm.submit(PROMPTS[0], max_tokens=40, ignore_eos=True, seed=seed, **params)
            for seed in range(2)
        ]
        for request in extreme:
            result = request.result(timeout=60)
            assert len(result.token_ids) == 40
        if params == EXTREME[0]:
            assert set(result.token_ids) == {64}
        check(running, expected)


# -- counted, not timed --------------------------------------------------------------------


HEAVY: dict[str, tuple[int, dict[str, Any]]] = {
    "logprobs": (1, {"logprobs": 20}),
    "samples": (128, {}),
    "bias": (1, {"logit_bias": {i: 0.01 * (i % 7) for i in range(CASE.config.vocab_size)}}),
    "all": (
        128,
        {
            "logprobs": 20,
            "prompt_logprobs": 20,
            "logit_bias": dict.fromkeys(range(CASE.config.vocab_size), 1.0),
            "repetition_penalty": 1.5,
        },
    ),
}


@pytest.mark.parametrize("heavy", HEAVY)
@pytest.mark.parametrize("max_sequences", [4, 130])
def test_a_token_in_every_step(heavy: str, max_sequences: int) -> None:
    """However much another request wants, and however many sequences it is."""
    count, wanted = HEAVY[heavy]
    engine = make_engine(max_sequences=max_sequences, pages=max_sequences * 2)
    params = SamplingParams(max_tokens=60, ignore_eos=True, temperature=0, seed=1)
    submit(engine, 1, array([1, 2, 3]), params)
    assert [request for request, _, _ in step(engine)] == [1]
    for sample in range(count):
        its = SamplingParams(max_tokens=3, ignore_eos=True, seed=sample, **wanted)
        submit(engine, 2 + sample, array([*range(100, 150)]), its)
    ended = 0
    for _ in range(59):
        made = step(engine)
        assert [request for request, _, _ in made].count(1) == 1
        ended += sum(output.finish_reason is not None for _, output, _ in made)
    while not engine.idle():
        ended += sum(output.finish_reason is not None for _, output, _ in step(engine))
    assert ended == count + 1
