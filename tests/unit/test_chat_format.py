"""What the format decides on, above an engine whose tokens are noise, with steps in flight."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from gptoss import Decision, SamplingParams
from gptoss.chat import ChatResult, ChatStream, begin
from gptoss.chat.format import Opening, OpeningChoice, ReasoningBudget
from gptoss.chat.messages import Prompt, header
from gptoss.engine.constraints import Constraint
from support.noise_model import NoiseModel
from support.scripted_model import ScriptedModel

MODEL = ScriptedModel()
ENCODING = MODEL.harmony
USER = [{"role": "user", "content": "Hi"}]
TOOLS = [{"type": "function", "function": {"name": name}} for name in ("ab", "abc", "abd", "abcde")]


def comparable(result: ChatResult) -> dict[str, Any]:
    fields = ("text", "reasoning", "finish_reason", "token_ids", "prompt_token_ids", "logprobs")
    return {
        **{name: getattr(result, name) for name in fields},
        "calls": [(call.name, call.arguments) for call in result.tool_calls],
        "usage": dataclasses.replace(result.usage, cached_tokens=0),
    }


# Often enough a header, so that reasoning comes, ends, and comes again.
BIAS = {
    **{ENCODING.special_id(name): 3.0 for name in ("<|channel|>", "<|message|>", "<|end|>")},
    ENCODING.special_id("<|start|>"): 2.0,
    MODEL.tokens("analysis")[0]: 6.0,
    MODEL.tokens("assistant")[0]: 3.0,
    **dict.fromkeys(map(ENCODING.special_id, ("<|return|>", "<|call|>", "<|endoftext|>")), -2.0),
}


@pytest.mark.parametrize("chat", [{"max_reasoning_tokens": 7}, {"max_reasoning_tokens": 15}, {}])
def test_steps_ahead_change_nothing(chat: dict[str, Any]) -> None:
    """And nothing is forced that was said to be free: that would be an error."""
    models = [NoiseModel(max_steps_ahead) for max_steps_ahead in (0, 1, 2)]
    forced = 0
    for seed in range(20):
        found = []
        for model in models:
            params = SamplingParams(seed=seed, max_tokens=90, logit_bias=BIAS, logprobs=0)
            thinking = Prompt(MODEL.tokens("<|start|>assistant"), [header(ENCODING, "analysis")])
            streams = [
                begin(model, USER, params, **chat),
                ChatStream(model, USER, thinking, params, chat.get("max_reasoning_tokens")),
            ]
            found.append([comparable(stream.drain()) for stream in streams])
        assert found[0] == found[1] == found[2]
        forced += sum(f["usage"].completion_tokens < len(f["token_ids"]) for f in found[0])
    assert (forced > 5) == bool(chat)
    for model in models:
        assert model.loop.stats().sequences == 40
        model.loop.close()


def test_a_choice_with_steps_ahead() -> None:
    models = [NoiseModel(max_steps_ahead) for max_steps_ahead in (0, 1, 2)]
    names = set()
    for seed in range(20):
        params = SamplingParams(seed=seed, temperature=9.0, max_tokens=1 + seed % 3, min_tokens=1)
        chat: dict[str, Any] = {"tools": TOOLS, "tool_choice": "required"}
        results = [begin(model, USER, params, **chat).drain() for model in models]
        first, *others = map(comparable, results)
        assert all(other == first for other in others)
        assert len(first["token_ids"]) == first["usage"].completion_tokens <= 1 + seed % 3
        ((name, _),) = first["calls"]
        names.add(name)
        assert MODEL.text(first["prompt_token_ids"]).endswith(
            f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>"
        )
    assert len(names) > 1
    for model in models:
        assert model.loop.stats().sequences == 20
        model.loop.close()


# -- by itself ---------------------------------------------------------------------------


def test_openings() -> None:
    opening = Opening([[1, 2, 3, 9], [1, 2, 4, 5, 9], [1, 2, 4, 6, 9]])
    assert opening.choices == [{2}, {2, 3}, {2, 3}]
    assert opening.take_common() == [1, 2]
    assert opening.allowed == {3, 4}
    with pytest.raises(ValueError, match="chose token 7, which begins none"):
        opening.take(7)
    opening.take(4)
    assert opening.take_common() == []
    opening.take(6)
    assert opening.take_common() == [9]
    assert opening.allowed == set()
    alone = Opening([[1, 2]])
    assert alone.choices == [set()]
    assert alone.take_common() == [1, 2]
    assert alone.allowed == Opening([[]]).allowed == set()


def test_a_choice() -> None:
    choice = OpeningChoice([[70, 2, 33, 9], [70, 2, 64, 5, 9]])
    assert choice.accept([]) == Decision([], counted=False, free=0)
    mask = np.full(3, 2**32 - 1, np.uint32)
    choice.fill(mask)
    assert mask.tolist() == [0, 2, 1]
    forced, counted, free = choice.accept([64])
    assert (forced, counted) == ([5, 9], False)
    assert free > 10**6
    assert choice.accept([3, 4]).forced == []


def decisions(budget: Constraint, markup: str) -> list[tuple[str, int]]:
    """What is forced after each token, and how many are free."""
    made = []
    for token in MODEL.tokens(markup):
        decision = budget.accept([token])
        assert not (decision.forced and decision.counted)
        made.append((MODEL.text(list(decision.forced)), min(decision.free, 99)))
    return made


END = "<|end|><|start|>assistant<|channel|>final<|message|>"


def test_a_budget_tells_what_is_free() -> None:
    budget = ReasoningBudget(ENCODING, [], [], 3)
    assert budget.accept([]) == Decision(free=4)
    assert decisions(budget, "<|channel|>analysis<|message|>a") == [
        *[("", 4), ("", 4), ("", 3), ("", 2)]
    ]
    assert decisions(budget, "<|end|>") == [("", 3)]
    assert decisions(budget, "<|start|>assistant<|channel|>analysis<|message|>b") == [
        *[("", 3)] * 4,
        *[("", 2), ("", 1)],
    ]
    assert decisions(budget, "c") == [(END, 99)]
    assert decisions(budget, "xyz") == [("", 99)] * 3


def test_a_budget_takes_several_at_once() -> None:
    budget = ReasoningBudget(ENCODING, header(ENCODING, "analysis"), [], 5)
    assert budget.accept([]).free == 5
    assert budget.accept(MODEL.tokens("ab")).free == 3
    assert budget.accept(MODEL.tokens("cd")).free == 1
    assert MODEL.text(list(budget.accept(MODEL.tokens("e")).forced)) == END


@pytest.mark.parametrize(
    "opening",
    [
        "<|channel|>final<|message|>",
        "<|channel|>commentary to=functions.ab <|constrain|>json<|message|>",
    ],
)
def test_a_budget_that_is_not_needed(opening: str) -> None:
    assert ReasoningBudget(ENCODING, MODEL.tokens(opening), [], 3).is_over
    budget = ReasoningBudget(ENCODING, [], [], 0)
    assert not budget.is_over
    assert decisions(budget, opening)[-1] == ("", 99)
    assert budget.is_over


def test_commentary_is_no_reasoning() -> None:
    budget = ReasoningBudget(ENCODING, header(ENCODING, "commentary"), [], 2)
    assert decisions(budget, "I look.") == [("", 3)] * 7


def test_a_message_that_begins_with_the_token_that_ends_another() -> None:
    """What <|channel|> begins in a text is known when <|message|> comes."""
    budget = ReasoningBudget(ENCODING, header(ENCODING, "analysis"), [], 12)
    # The word counts as long as it may be text, as it does in the answer's usage.
    made = decisions(budget, "ab<|channel|>answer<|message|>" + "c" * 20)
    assert all(forced == "" for forced, _ in made)
    assert made[-1] == made[-20]
