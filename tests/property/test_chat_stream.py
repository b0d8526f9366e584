"""Whatever tokens a model makes: no error, no markup, and nothing lost."""

from __future__ import annotations

from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from gptoss.chat import ChatStream
from gptoss.outputs import GenerationChunk
from support.scripted_model import WORDS, ScriptedModel

MODEL = ScriptedModel()
SPECIALS = sorted(MODEL.harmony.special_names)
USER = [{"role": "user", "content": "Hi"}]
TOOLS = [{"type": "function", "function": {"name": "get_weather"}}]

pieces = st.one_of(
    st.sampled_from(SPECIALS).map(lambda token: [token]),
    st.sampled_from(WORDS).map(lambda word: MODEL.harmony.encode(word, disallowed_special=())),
    st.lists(st.integers(0, MODEL.harmony.tokenizer.vocab_size + 2), max_size=4),
    st.sampled_from(
        [
            "<|channel|>analysis<|message|>Hm 😀",
            "<|end|><|start|>assistant<|channel|>final<|message|>",
            "<|channel|>commentary<|message|>",
            '<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{"a":1}',
            "<|end|><|start|>assistant",
            "<|start|>user<|message|>",
            "<|channel|>thoughts<|message|>ab",
            "<|channel|>answer<|message|>ab",
        ]
    ).map(MODEL.tokens),
)
scripts = st.lists(pieces, max_size=12).map(lambda found: [t for piece in found for t in piece])


def stream(script: list[int], **chat: Any) -> ChatStream:
    # The second goes on where reasoning was ended.
    model = ScriptedModel(script, script)
    # The script ends where max_tokens ends it.
    return model.chat(USER, stream=True, tools=TOOLS, max_tokens=max(1, len(script)), **chat)


@settings(max_examples=400, deadline=None)
@given(scripts.filter(bool), st.none() | st.integers(0, 5))
@example(MODEL.tokens(" to=functions.functions.<|start|>"), None)
@example(MODEL.tokens(" to=functions.functions.get_weather<|message|>{}"), None)
def test_any_tokens(script: list[int], limit: int | None) -> None:
    streamed = stream(script, max_reasoning_tokens=limit)
    deltas = list(streamed)
    result = streamed.result
    assert result is not None
    whole = stream(script, max_reasoning_tokens=limit).drain()
    for name in ("text", "reasoning", "preamble"):
        shown = "".join(getattr(delta, name) for delta in deltas)
        assert shown == getattr(result, name) == getattr(whole, name)
        # The words of this vocabulary cannot spell a special token's name in one piece.
        assert "<|" not in shown or _spells(script)
    content = "".join(
        delta.to_openai()["choices"][0]["delta"].get("content") or "" for delta in deltas
    )
    assert content == (result.to_openai()["choices"][0]["message"]["content"] or "")
    assert whole.usage == result.usage
    assert whole.harmony_messages == result.harmony_messages
    assert [(c.name, c.arguments) for c in whole.tool_calls] == [
        (c.name, c.arguments) for c in result.tool_calls
    ]
    arguments = "".join(d.tool_call.arguments for d in deltas if d.tool_call is not None)
    assert arguments == "".join(call.arguments for call in result.tool_calls)
    for message in result.harmony_messages:
        (part,) = message.content
        texts = (result.text, result.reasoning, result.preamble, arguments)
        assert any(part.text in text for text in texts)  # type: ignore[attr-defined]
    # What comes out can go in again.
    calls = [call.id for call in result.tool_calls if "tool_calls" in result.message]
    answers = [{"role": "tool", "tool_call_id": call, "content": "x"} for call in calls]
    ScriptedModel(MODEL.tokens("<|return|>")).chat([*result.messages, *answers, *USER])


class Watched:
    """A request's tokens; told of each whether it was forced, and by what right."""

    def __init__(self, streamed: ChatStream, limit: int) -> None:
        self.found: list[bool] = []
        self.expected: list[bool] = []
        self._inner, self._limit = streamed._tokens, limit
        self._answer = streamed._samples[0].answer

    def __next__(self) -> GenerationChunk:
        answer = self._answer
        is_reasoning = answer._open is not None and answer._open.kind == "reasoning"
        self.expected.append(is_reasoning and answer.reasoning_tokens >= self._limit)
        chunk = next(self._inner)
        self.found.append(chunk.forced and chunk.token_ids == [MODEL.harmony.special_id("<|end|>")])
        return chunk

    def close(self) -> None:
        self._inner.close()


@settings(max_examples=400, deadline=None)
@given(scripts.map([*MODEL.tokens("<|channel|>analysis<|message|>")].__add__), st.integers(1, 5))
def test_the_budget_reads_as_the_answer_does(script: list[int], limit: int) -> None:
    """It has to count alone, ahead of whoever shows the answer."""
    streamed = stream(script, max_reasoning_tokens=limit)
    watched = Watched(streamed, limit)
    streamed._tokens = watched  # type: ignore[assignment]
    for _ in streamed:
        pass
    assert watched.found == watched.expected


def _spells(script: list[int]) -> bool:
    """Whether "<" and "|" come in plain tokens."""
    return {ord("<"), ord("|")} <= set(script)
