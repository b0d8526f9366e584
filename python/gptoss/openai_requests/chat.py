"""The body of a POST to /v1/chat/completions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gptoss.chat.result import ChatResult
from gptoss.llm import LLM
from gptoss.openai_requests.fields import Field, RequestError, Table
from gptoss.openai_requests.sampling import IGNORED, SAMPLING, sampling_of

_BOOLEAN = {"type": "boolean"}
_TOKENS = {"type": "integer", "minimum": 1, "maximum": 2**31 - 1}
_OBJECTS = {"type": "array", "items": {"type": "object"}}
# OpenAI's names for how much to think, and what gpt-oss was trained with.
EFFORTS = {
    "none": "low",
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
    "max": "high",
}
_EFFORT = {"type": "string", "enum": list(EFFORTS)}

# Of the declarations of tools. They are printed with their indentation: each level makes all lines
# of it longer, so that some megabytes could become some gigabytes.
_MAX_TOOL_LEVELS = 100

CHAT = Table(
    "/v1/chat/completions",
    [
        Field(
            "messages",
            "done",
            "text only: parts of images, audio and files are refused. `reasoning` or "
            "`reasoning_content` of assistant messages is read",
            {**_OBJECTS, "minItems": 1},
        ),
        Field("model", "done", "a name of the served model; may be left out", {"type": "string"}),
        Field("stream", "done", "server-sent events", _BOOLEAN),
        Field(
            "stream_options",
            "done",
            "`include_usage`: a last chunk with the token counts; only with `stream`",
            {"type": "object", "properties": {"include_usage": _BOOLEAN}},
        ),
        Field(
            "max_completion_tokens",
            "done",
            "most tokens to generate, reasoning included; by default until the context is full",
            _TOKENS,
        ),
        Field("max_tokens", "done", "the older name of `max_completion_tokens`", _TOKENS),
        *SAMPLING,
        Field(
            "logprobs",
            "done",
            "log-probabilities of the content's tokens, as the model has them",
            _BOOLEAN,
        ),
        Field(
            "top_logprobs",
            "done",
            "and those of so many alternatives; needs `logprobs`",
            {"type": "integer", "minimum": 0, "maximum": 20},
        ),
        Field(
            "reasoning_effort",
            "done",
            "low, medium, high; none and minimal are low, xhigh and max are high",
            _EFFORT,
        ),
        Field("tools", "done", "of type function, also `strict`; others are refused", _OBJECTS),
        Field(
            "tool_choice",
            "done",
            "auto, none, required, a named function, or allowed_tools",
            {
                "anyOf": [
                    {"type": "string", "enum": ["auto", "none", "required"]},
                    {"type": "object"},
                ]
            },
        ),
        Field(
            "response_format",
            "done",
            "text, json_object or json_schema, which hold whatever the model says; besides, "
            "`regex` and Lark `grammar`",
            {"type": "object"},
        ),
        Field(
            "parallel_tool_calls", "ignored", "gpt-oss makes one call at a time, whatever it says"
        ),
        Field("prediction", "ignored", "it would change the speed, not the answer"),
        Field("verbosity", "ignored", "gpt-oss was not trained with it: ask in the messages"),
        *IGNORED,
        Field("modalities", "refused", "gpt-oss writes text only", meant=(["text"],)),
        Field("audio", "refused", "gpt-oss writes text only"),
        Field("moderation", "refused", "there is no moderation here"),
        Field("web_search_options", "refused", "this server does not search"),
        Field("functions", "refused", "pass `tools`", meant=([],)),
        Field("function_call", "refused", "pass `tool_choice`", meant=("none", "auto")),
        Field(
            "reasoning",
            "done",
            "`exclude`: think, and do not send it; `effort`, `max_tokens`: as `reasoning_effort` "
            "and `max_reasoning_tokens`",
            {
                "type": "object",
                "properties": {
                    "exclude": _BOOLEAN,
                    "effort": _EFFORT,
                    "max_tokens": {"type": "integer", "minimum": 0, "maximum": 2**31 - 1},
                },
            },
            own=True,
        ),
        Field(
            "include_reasoning",
            "done",
            'false is `reasoning: {"exclude": true}`',
            _BOOLEAN,
            own=True,
        ),
        Field(
            "max_reasoning_tokens",
            "done",
            "after so many tokens of reasoning the answer is begun for the model",
            {"type": "integer", "minimum": 0, "maximum": 2**31 - 1},
            own=True,
        ),
        Field(
            "continue_final_message",
            "done",
            "the model goes on with the last message, which is the assistant's",
            _BOOLEAN,
            own=True,
        ),
    ],
    required=("messages",),
)

# Fields that are handed to `LLM.chat` under the same name.
_HANDED_ON = (*("tools", "response_format", "max_reasoning_tokens", "continue_final_message"),)


@dataclass(frozen=True)
class ChatRequest:
    """A body that was checked.

    Attributes
    ----------
    messages : list
        The conversation.
    arguments : dict
        All else that `LLM.chat` is to be given.
    model : str or None
        The model that is asked for.
    stream : bool
        Whether the answer is wanted as it comes.
    include_usage : bool
        Whether a stream ends with the token counts.
    sends_reasoning : bool
        Whether the reasoning is part of the answer.
    n : int
        Samples.
    """

    messages: list[Any]
    arguments: dict[str, Any]
    model: str | None = None
    stream: bool = False
    include_usage: bool = False
    sends_reasoning: bool = True
    n: int = 1

    @classmethod
    def read(cls, body: Mapping[str, Any], *, strict: bool = False) -> ChatRequest:
        """Check a body.

        Parameters
        ----------
        body : mapping
            The request. A null is as if it were not there.
        strict : bool
            Refuse unknown fields.

        Raises
        ------
        RequestError
            A field's value is not allowed, or asks for what is not there.
        """
        given = CHAT.check(body, strict=strict)
        arguments = sampling_of(given)
        arguments |= {name: given[name] for name in _HANDED_ON if name in given}
        stream = given.get("stream", False)
        options = given.get("stream_options")
        if options is not None and not stream:
            raise RequestError("stream_options needs stream: true", "stream_options")
        limit = given.get("max_completion_tokens", given.get("max_tokens"))
        if limit is not None:
            arguments["max_tokens"] = limit
        # There a flag asks for log-probabilities, and a number for alternatives; here one number.
        alternatives = given.get("top_logprobs", 0)
        if given.get("logprobs", False):
            arguments["logprobs"] = alternatives
        elif alternatives:
            raise RequestError("top_logprobs needs logprobs: true", "top_logprobs")
        reasoning = given.get("reasoning", {})
        effort = given.get("reasoning_effort", reasoning.get("effort"))
        if effort is not None:
            arguments["reasoning_effort"] = EFFORTS[effort]
        if reasoning.get("max_tokens") is not None:
            arguments.setdefault("max_reasoning_tokens", reasoning["max_tokens"])
        if not _is_flat(arguments.get("tools"), _MAX_TOOL_LEVELS):
            raise RequestError(
                f"tools must not be nested in more than {_MAX_TOOL_LEVELS} levels", "tools"
            )
        _choose_tools(given.get("tool_choice"), arguments)
        return cls(
            messages=given["messages"],
            arguments=arguments,
            model=given.get("model"),
            stream=stream,
            include_usage=bool((options or {}).get("include_usage")),
            sends_reasoning=not reasoning.get("exclude") and given.get("include_reasoning", True),
            n=given.get("n", 1),
        )


def _is_flat(value: Any, levels: int) -> bool:
    """Whether lists and objects are nested in so many levels at most."""
    if not isinstance(value, (dict, list)):
        return True
    inner = value.values() if isinstance(value, dict) else value
    return levels > 0 and all(_is_flat(each, levels - 1) for each in inner)


def _choose_tools(choice: Any, arguments: dict[str, Any]) -> None:
    """Set `tool_choice`; a choice among some of the tools leaves out the others."""
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        allowed = choice.get("allowed_tools")
        if not isinstance(allowed, dict) or not isinstance(allowed.get("tools"), list):
            raise RequestError("tool_choice.allowed_tools must have a list of tools", "tool_choice")
        mode = allowed.get("mode", "auto")
        if mode not in ("auto", "required"):
            raise RequestError(
                f"tool_choice.allowed_tools.mode must be auto or required, got {mode!r:.100}",
                "tool_choice",
            )
        names = [_function_name(tool) for tool in allowed["tools"]]
        tools = arguments.get("tools", [])
        missing = [name for name in names if name not in map(_function_name, tools)]
        if missing:
            raise RequestError(f"tool_choice: no tool is named {missing[0]!r:.100}", "tool_choice")
        arguments["tools"] = [tool for tool in tools if _function_name(tool) in names]
        arguments["tool_choice"] = mode if names else "none"
    elif choice is not None:
        arguments["tool_choice"] = choice


def _function_name(tool: Any) -> Any:
    function = tool.get("function", tool) if isinstance(tool, dict) else None
    return function.get("name") if isinstance(function, dict) else None


async def answer_chat(llm: LLM, body: Mapping[str, Any]) -> dict[str, Any]:
    """Answer the body of a POST to /v1/chat/completions.

    Whatever model it names, it is this one that answers, with the adapter of that name if there
    is one.

    Parameters
    ----------
    llm : LLM
        The model.
    body : mapping
        The request, without `stream`; unknown fields are errors.

    Returns
    -------
    dict
        A chat completion, as `ChatResult.to_openai` makes it.

    Raises
    ------
    RequestError
        A field is unknown, or asks for what is not there.
    ValueError, TypeError
        As for `LLM.chat`.
    """
    request = ChatRequest.read(body, strict=True)
    if request.stream:
        raise RequestError("stream may only be False here, got True", "stream")
    adapter = request.model if request.model in llm.adapters else None
    result: ChatResult = await llm.achat(request.messages, **request.arguments, adapter=adapter)
    answer = result.to_openai()
    return answer if adapter is None else {**answer, "model": adapter}
