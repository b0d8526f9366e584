"""Chat in the OpenAI API's shape: dicts in, text, reasoning and tool calls out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gptoss.engine.sampling import SamplingParams
from gptoss.errors import ContextLengthError

from .messages import ChatMessage, ChatMessages, build_prompt, list_messages
from .response_format import read_response_format
from .result import ChatDelta, ChatFinishReason, ChatResult, ToolCall, ToolCallDelta
from .stream import ChatStream, Model
from .structure import compile_grammars
from .tools import Functions, ToolOutput, run_steps, tool_schema

__all__ = [
    "ChatDelta",
    "ChatFinishReason",
    "ChatMessage",
    "ChatMessages",
    "ChatResult",
    "ChatStream",
    "Functions",
    "Model",
    "ToolCall",
    "ToolCallDelta",
    "ToolOutput",
    "begin",
    "build_prompt",
    "run_steps",
    "tool_schema",
]


def begin(
    model: Model,
    messages: ChatMessages,
    params: SamplingParams,
    *,
    response_format: Mapping[str, Any] | None = None,
    max_reasoning_tokens: int | None = None,
    **chat: Any,
) -> ChatStream:
    """Begin an answer; the parameters are those of `LLM.chat`, the rest those of `build_prompt`."""
    wanted = read_response_format(response_format)
    if params.ignore_eos:
        raise ValueError("ignore_eos: a chat ends where the model ends it; use generate to go on")
    if max_reasoning_tokens is not None:
        if isinstance(max_reasoning_tokens, bool) or not isinstance(max_reasoning_tokens, int):
            raise TypeError(
                f"max_reasoning_tokens must be an integer or None, got {max_reasoning_tokens!r}"
            )
        if max_reasoning_tokens < 0:
            raise ValueError(
                f"max_reasoning_tokens must not be negative, got {max_reasoning_tokens}"
            )
    messages = list_messages(messages)  # once: it may be an iterator
    prompt = build_prompt(model.harmony, messages, response_format=wanted, **chat)
    grammars = compile_grammars(model.harmony, prompt, wanted)
    length = len(prompt.token_ids) + max(map(len, prompt.openings), default=0)
    if length >= model.context_length:
        raise ContextLengthError(
            f"the prompt has {length} tokens, and the context of {model.context_length} must hold "
            "it and at least one more"
        )
    return ChatStream(model, messages, prompt, params, max_reasoning_tokens, grammars)
