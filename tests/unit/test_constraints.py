"""Constraints: masks and forced tokens from outside, on the demo model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import gptoss
from gptoss import LLM, BackendError, Constraint, Decision

PROMPT = "What is 17 + 25?"
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 12, "ignore_eos": True}
SOME: dict[str, Any] = {"seed": 3, "max_tokens": 12, "ignore_eos": True}
LETTERS = [*range(64, 90)]


@pytest.fixture(scope="module", params=[None, "ngram"])
def llm(request: pytest.FixtureRequest) -> Iterator[LLM]:
    with gptoss.load("demo", context_length=1000, speculative=request.param) as model:
        yield model
        assert model._loop._hub._constraints == {}
        assert model._loop._hub._errors == {}


class Scripted:
    """Decides by the number of the call; lets through the tokens of `allowed`."""

    def __init__(
        self,
        decide: Callable[[int, list[int]], Decision] = lambda *_: Decision(),
        allowed: Sequence[int] | None = None,
    ) -> None:
        self.accepted: list[list[int]] = []
        self.fills = 0
        self._decide = decide
        self._allowed = allowed

    def accept(self, token_ids: list[int]) -> Decision:
        self.accepted.append(token_ids)
        return self._decide(len(self.accepted) - 1, token_ids)

    def fill(self, mask: npt.NDArray[np.uint32]) -> None:
        self.fills += 1
        assert mask.dtype == np.uint32
        assert (mask == 2**32 - 1).all()
        if self._allowed is not None:
            mask[:] = 0
            for token in self._allowed:
                mask[token // 32] |= np.uint32(1 << token % 32)


def forcing(where: int, decision: Decision) -> Callable[[int, list[int]], Decision]:
    return lambda call, _: decision if call == where else Decision()


class TestMasks:
    @pytest.mark.parametrize("params", [GREEDY, SOME])
    def test_a_mask_is_a_list_of_allowed_tokens(self, llm: LLM, params: dict[str, Any]) -> None:
        constraint = Scripted(allowed=LETTERS)
        result = llm.generate(PROMPT, **params, constraint=constraint)
        assert set(result.token_ids) <= set(LETTERS)
        expected = llm.generate(PROMPT, **params, allowed_token_ids=LETTERS)
        assert result.token_ids == expected.token_ids
        assert result.token_ids != llm.generate(PROMPT, **params).token_ids

    def test_it_is_told_what_was_sampled(self, llm: LLM) -> None:
        constraint = Scripted()
        result = llm.generate(PROMPT, **SOME, constraint=constraint)
        assert constraint.accepted[0] == []
        told = [token for tokens in constraint.accepted for token in tokens]
        assert told == result.token_ids[: len(told)]
        assert all(constraint.accepted[1:])
        assert result.token_ids == llm.generate(PROMPT, **SOME).token_ids

    def test_free_tokens_are_not_masked(self, llm: LLM) -> None:
        constraint = Scripted(lambda *_: Decision(free=1), allowed=LETTERS)
        result = llm.generate(PROMPT, **SOME, constraint=constraint)
        assert constraint.fills == 0
        assert result.token_ids == llm.generate(PROMPT, **SOME).token_ids

    def test_no_token_left(self, llm: LLM) -> None:
        with pytest.raises(BackendError, match="no token is allowed"):
            llm.generate(PROMPT, **SOME, constraint=Scripted(allowed=[]))
        with pytest.raises(BackendError, match="no token is allowed"):
            llm.generate(PROMPT, **SOME, constraint=Scripted(allowed=[64]), allowed_token_ids=[65])

    def test_what_keeps_a_mask_harms_nobody(self, llm: LLM) -> None:
        kept: list[npt.NDArray[np.uint32]] = []

        class Keeper(Scripted):
            def fill(self, mask: npt.NDArray[np.uint32]) -> None:
                kept.append(mask)

        expected = llm.generate(PROMPT, **SOME).token_ids
        assert llm.generate(PROMPT, **SOME, constraint=Keeper()).token_ids == expected
        for mask in kept:
            mask[:] = 0
        assert llm.generate(PROMPT, **SOME, constraint=Scripted()).token_ids == expected


class TestForced:
    FORCED = (70, 71, 72)

    @pytest.mark.parametrize("counted", [True, False])
    def test_the_answer_goes_on_after_them(self, llm: LLM, counted: bool) -> None:
        prompt = llm.tokenizer.encode(PROMPT)
        constraint = Scripted(forcing(0, Decision(self.FORCED, counted=counted)))
        result = llm.generate(prompt, **GREEDY, constraint=constraint, logprobs=2)
        rest = llm.generate([*prompt, *self.FORCED], **GREEDY).token_ids
        sampled = 9 if counted else 12  # of max_tokens
        assert result.token_ids == [*self.FORCED, *rest[:sampled]]
        assert result.usage.completion_tokens == 12
        assert result.logprobs is not None
        assert [e.token_id for e in result.logprobs] == result.token_ids
        for entry in result.logprobs[:3]:
            assert entry.logprob == 0
            assert entry.top_logprobs == ()
        assert all(len(entry.top_logprobs) == 2 for entry in result.logprobs[3:])
        assert constraint.accepted[0] == []
        # Forced tokens are not reported back.
        told = [token for tokens in constraint.accepted for token in tokens]
        assert told == rest[: len(told)]

    def test_in_the_middle(self, llm: LLM) -> None:
        prompt = llm.tokenizer.encode(PROMPT)

        class AfterFour(Scripted):
            count = 0

            def accept(self, token_ids: list[int]) -> Decision:
                before, self.count = self.count, self.count + len(token_ids)
                if before < 4 <= self.count:
                    self.at = self.count
                    return Decision([70, 71], counted=False)
                return Decision()

        constraint = AfterFour()
        result = llm.generate(prompt, **GREEDY, constraint=constraint)
        at = constraint.at
        free = llm.generate(prompt, **GREEDY).token_ids
        assert result.token_ids[: at + 2] == [*free[:at], 70, 71]
        rest = llm.generate([*prompt, *result.token_ids[: at + 2]], **GREEDY).token_ids
        assert result.token_ids[at + 2 :] == rest[: 12 - at]
        assert result.usage.completion_tokens == 12
        assert len(result.token_ids) == 14

    def test_chunks_say_so(self, llm: LLM) -> None:
        for counted in (True, False):
            make = lambda counted=counted: Scripted(forcing(1, Decision([70], counted=counted)))  # noqa: E731
            chunks = list(llm.stream(PROMPT, **GREEDY, constraint=make()))
            (forced,) = (chunk for chunk in chunks if chunk.forced)
            assert forced.token_ids == [70]
            assert forced.counted == counted
            assert all(chunk.counted for chunk in chunks if chunk is not forced)
            result = llm.generate(PROMPT, **GREEDY, constraint=make())
            assert [t for chunk in chunks for t in chunk.token_ids] == result.token_ids
            assert "".join(chunk.text for chunk in chunks) == result.text

    def test_a_forced_stop_token_ends_it_if_it_counts(self, llm: LLM) -> None:
        params = GREEDY | {"stop_token_ids": [70]}
        for counted, reason in ((True, "stop"), (False, "length")):
            constraint = Scripted(forcing(0, Decision([71, 70], counted=counted)))
            result = llm.generate(PROMPT, **params, constraint=constraint)
            assert result.token_ids[:2] == [71, 70]
            assert result.finish_reason == reason
            if counted:
                assert result.token_ids == [71, 70]
                assert result.stop_reason == 70
                assert result.text == llm.tokenizer.decode([71])

    def test_outside_the_vocabulary(self, llm: LLM) -> None:
        far = llm.config.vocab_size
        with pytest.raises(BackendError, match=f"forces token id {far}, outside the vocabulary"):
            llm.generate(PROMPT, **SOME, constraint=Scripted(lambda *_: Decision([far])))
        for token in (-1, 2**31):
            with pytest.raises(ValueError, match=f"the constraint forces token id {token}, which"):
                llm.generate(PROMPT, **SOME, constraint=Scripted(lambda *_, t=token: Decision([t])))


class Broken(Scripted):
    """Raises in one of its calls."""

    def __init__(self, error: BaseException, method: str, call: int) -> None:
        super().__init__()
        self._error = error
        self._left = {method: call}

    def _count(self, method: str) -> None:
        if method in self._left:
            self._left[method] -= 1
            if self._left[method] < 0:
                raise self._error

    def accept(self, token_ids: list[int]) -> Decision:
        self._count("accept")
        return super().accept(token_ids)

    def fill(self, mask: npt.NDArray[np.uint32]) -> None:
        self._count("fill")
        super().fill(mask)


class Falsy(Exception):
    """What looks like no exception to those who only ask whether it is true."""

    def __bool__(self) -> bool:
        return False


class TestErrors:
    @pytest.mark.parametrize("error", [KeyError("grammar"), SystemExit("no"), Falsy()])
    @pytest.mark.parametrize("method", ["accept", "fill"])
    @pytest.mark.parametrize("call", [0, 2])
    def test_it_ends_its_own_request_only(
        self, llm: LLM, method: str, call: int, error: BaseException
    ) -> None:
        params = SOME | {"max_tokens": 60}
        prompts = ["a", "b", "What is"]
        expected = [llm.generate(prompt, **params).token_ids for prompt in prompts]
        others = [
            llm.submit(prompt, **params, constraint=None if i else Scripted())
            for i, prompt in enumerate(prompts)
        ]
        broken = llm.submit(PROMPT, **params, constraint=Broken(error, method, call))
        for _ in range(2):
            with pytest.raises(type(error)) as found:
                broken.result()
            assert found.value is error
        assert broken.finished
        assert [other.result().token_ids for other in others] == expected

    def test_what_came_before_it_is_streamed(self, llm: LLM) -> None:
        expected = llm.generate(PROMPT, **SOME).token_ids
        found: list[int] = []
        stream = llm.stream(PROMPT, **SOME, constraint=Broken(KeyError(), "fill", 3))

        def consume() -> None:
            for chunk in stream:
                found.extend(chunk.token_ids)

        with pytest.raises(KeyError):
            consume()
        assert len(found) >= 3
        assert found == expected[: len(found)]
        assert list(stream) == []

    @pytest.mark.parametrize(
        ("answer", "message"),
        [
            (None, "accept must return a Decision, got NoneType"),
            (Decision(["a"]), "'str' object cannot be interpreted as an integer"),  # type: ignore[list-item]
            (Decision(free="a"), "'str' object cannot be interpreted as an integer"),  # type: ignore[arg-type]
        ],
    )
    def test_wrong_answers(self, llm: LLM, answer: Any, message: str) -> None:
        with pytest.raises(TypeError, match=message):
            llm.generate(PROMPT, **SOME, constraint=Scripted(lambda *_: answer))

    def test_what_makes_none(self, llm: LLM) -> None:
        with pytest.raises(TypeError, match="constraint must make an object with the methods"):
            llm.generate(PROMPT, **SOME, constraint=lambda: 5)


class TestSeveral:
    def test_each_sample_and_prompt_has_one_of_its_own(self, llm: LLM) -> None:
        made: list[Scripted] = []

        def make() -> Constraint:
            made.append(Scripted(allowed=LETTERS))
            return made[-1]

        params = SOME | {"n": 3}
        results = llm.generate([PROMPT, "a"], **params, constraint=make)
        assert len(made) == 6
        expected = llm.generate([PROMPT, "a"], **params, allowed_token_ids=LETTERS)
        for result, wanted in zip(results, expected, strict=True):
            assert [s.token_ids for s in result.samples] == [s.token_ids for s in wanted.samples]

    def test_one_is_for_one(self, llm: LLM) -> None:
        with pytest.raises(ValueError, match="for 2 prompts, pass a function that makes one"):
            llm.generate(["a", "b"], **SOME, constraint=Scripted())
        constraint = Scripted()
        with llm.submit("a", ignore_eos=True, constraint=constraint) as running:
            next(running)
            with pytest.raises(ValueError, match="this one is in use"):
                llm.generate("a", **SOME, constraint=constraint)
            next(running)  # is not harmed

    def test_a_class_makes_them(self, llm: LLM) -> None:
        result = llm.generate([PROMPT, "a"], **SOME, constraint=Scripted)
        assert result[0].token_ids == llm.generate(PROMPT, **SOME).token_ids


class TestOfTheParameters:
    def test_min_tokens(self, llm: LLM) -> None:
        free = llm.generate(PROMPT, temperature=0, max_tokens=30, ignore_eos=True).token_ids
        stop = free[2]
        short = llm.generate(PROMPT, temperature=0, max_tokens=30, stop_token_ids=[stop])
        assert short.token_ids == free[:3]
        longer = llm.generate(
            PROMPT, temperature=0, max_tokens=30, min_tokens=6, stop_token_ids=[stop]
        )
        assert stop not in longer.token_ids[:6]
        assert not set(longer.token_ids[:6]) & set(llm.config.eos_token_ids)
        assert len(longer.token_ids) >= 6

    def test_prompt_logprobs_agree_with_logits(self, llm: LLM) -> None:
        result = llm.generate(PROMPT, **GREEDY, prompt_logprobs=3, logprobs=0)
        prompt = result.prompt_token_ids
        logits = llm.logits(prompt).astype(np.float64)
        expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        assert result.prompt_logprobs is not None
        first, *entries = result.prompt_logprobs
        assert first is None
        assert len(entries) == len(prompt) - 1
        for place, entry in enumerate(entries):
            assert entry is not None
            assert entry.token_id == prompt[place + 1]
            assert abs(entry.logprob - expected[place, entry.token_id]) < 1e-4
            top = np.argsort(-logits[place], kind="stable")[:3].tolist()
            assert [t.token_id for t in entry.top_logprobs] == top
        # The rest is as without.
        plain = llm.generate(PROMPT, **GREEDY, logprobs=0)
        assert plain.prompt_logprobs is None
        assert result.token_ids == plain.token_ids
        assert result.logprobs == plain.logprobs

    def test_scoring_alone(self, llm: LLM) -> None:
        scored = llm.generate(PROMPT, max_tokens=0, prompt_logprobs=1)
        assert (scored.token_ids, scored.text, scored.finish_reason) == ([], "", "length")
        assert scored.usage.completion_tokens == 0
        again = llm.generate(PROMPT, **GREEDY, prompt_logprobs=1)
        assert scored.prompt_logprobs == again.prompt_logprobs
        (chunk,) = llm.stream(PROMPT, max_tokens=0, prompt_logprobs=1)
        assert (chunk.token_ids, chunk.finish_reason) == ([], "length")

    def test_of_one_token(self, llm: LLM) -> None:
        assert llm.generate([5], max_tokens=0, prompt_logprobs=1).prompt_logprobs == [None]

    def test_samples_share_them(self, llm: LLM) -> None:
        result = llm.generate(PROMPT, **SOME, n=3, prompt_logprobs=0)
        for sample in result.samples:
            assert sample.prompt_logprobs == result.prompt_logprobs
            assert sample.prompt_logprobs is not None
            assert len(sample.prompt_logprobs) == len(result.prompt_token_ids)
