"""Golden streams: which events come for which deltas, in which order."""

from __future__ import annotations

from typing import Any

import pytest

from gptoss.chat.result import ChatDelta, ToolCallDelta
from gptoss.engine.outputs import Usage
from gptoss.server.responses.events import EventWriter
from gptoss.server.responses.request import read_request
from gptoss.server.responses.tools import Tools, read_tools
from support.response_types import check_events, check_response

BEGIN = ["response.created", "response.in_progress"]
REASONING = [
    "response.output_item.added",
    "response.content_part.added",
    "response.reasoning_text.delta",
    "response.reasoning_text.done",
    "response.content_part.done",
    "response.output_item.done",
]
MESSAGE = [
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
]
CALL = [
    "response.output_item.added",
    "response.function_call_arguments.delta",
    "response.function_call_arguments.done",
    "response.output_item.done",
]


def writer(tools: Tools | None = None, **options: Any) -> EventWriter:
    asked = read_request({"input": "hi", "metadata": {"a": "b"}}, lambda _: None)
    return EventWriter(asked.new_response("demo"), tools or Tools(), **options)


def call(arguments: str, index: int = 0, name: str | None = None) -> ChatDelta:
    call_id = None if name is None else f"call_{index}"
    return ChatDelta("tool_call", tool_call=ToolCallDelta(index, call_id, name, arguments))


def end(reason: Any = "stop") -> ChatDelta:
    return ChatDelta("end", finish_reason=reason, usage=Usage(10, 7, 3, 4))


def text(text: str) -> ChatDelta:
    return ChatDelta("text", text=text)


def reasoning(text: str) -> ChatDelta:
    return ChatDelta("reasoning", reasoning=text)


def preamble(text: str) -> ChatDelta:
    return ChatDelta("preamble", preamble=text)


def write(made: EventWriter, *deltas: ChatDelta) -> list[dict[str, Any]]:
    events = made.begin()
    for delta in deltas:
        events += made.end(delta) if delta.kind == "end" else made.take(delta)
    check_response(made.response)
    return events


class TestOrder:
    def test_text(self) -> None:
        events = write(writer(), text("Hello"), end())
        assert check_events(events) == [*BEGIN, *MESSAGE, "response.completed"]
        assert events[0]["response"]["output"] == []
        assert events[0]["response"]["usage"] is None
        assert events[0]["response"]["status"] == "in_progress"
        response = events[-1]["response"]
        assert response["status"] == "completed"
        assert response["completed_at"] is not None
        (item,) = response["output"]
        assert item["phase"] == "final_answer"
        assert item["content"] == [
            {"type": "output_text", "text": "Hello", "annotations": [], "logprobs": []}
        ]
        assert response["usage"] == {
            "input_tokens": 10,
            "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
            "output_tokens": 7,
            "output_tokens_details": {"reasoning_tokens": 3},
            "total_tokens": 17,
        }

    def test_reasoning_and_text(self) -> None:
        events = write(writer(), reasoning("Hm"), text("Hello"), end())
        assert check_events(events) == [*BEGIN, *REASONING, *MESSAGE, "response.completed"]
        item = events[-1]["response"]["output"][0]
        assert item["summary"] == []
        assert item["content"] == [{"type": "reasoning_text", "text": "Hm"}]

    def test_a_call(self) -> None:
        events = write(
            writer(), reasoning("Hm"), call("", name="f"), call('{"a": 1}'), end("tool_calls")
        )
        assert check_events(events) == [*BEGIN, *REASONING, *CALL, "response.completed"]
        item = events[-1]["response"]["output"][1]
        assert (item["name"], item["call_id"]) == ("f", "call_0")
        assert item["arguments"] == '{"a": 1}'
        assert item["status"] == "completed"

    def test_several_channels_in_one_turn(self) -> None:
        events = write(
            writer(),
            reasoning("A"),
            reasoning("B"),
            preamble("I will look."),
            reasoning("\n\nC"),
            call("", name="f"),
            call("{}"),
            end("tool_calls"),
        )
        types = check_events(events)
        reasoning_twice = [*REASONING[:3], *REASONING[2:]]
        assert types == [
            *(*BEGIN, *reasoning_twice, *MESSAGE, *REASONING, *CALL, "response.completed")
        ]
        output = events[-1]["response"]["output"]
        assert [item["type"] for item in output] == [
            *("reasoning", "message", "reasoning", "function_call"),
        ]
        assert output[1]["phase"] == "commentary"
        # What separates two texts of a kind in a chat is not part of the second item.
        assert output[2]["content"][0]["text"] == "C"

    def test_two_calls(self) -> None:
        events = write(
            writer(), call("", 0, "f"), call("{}", 0), call("", 1, "g"), call("{}", 1), end()
        )
        assert check_events(events) == [*BEGIN, *CALL, *CALL, "response.completed"]

    def test_a_call_without_arguments(self) -> None:
        events = write(writer(), call("", name="f"), end("tool_calls"))
        assert check_events(events) == [*BEGIN, *CALL[:1], *CALL[2:], "response.completed"]

    @pytest.mark.parametrize(
        ("delta", "item_events"),
        [(text("He"), MESSAGE), (reasoning("H"), REASONING), (call("{", name="f"), CALL)],
    )
    def test_cut(self, delta: ChatDelta, item_events: list[str]) -> None:
        events = write(writer(), delta, end("length"))
        assert check_events(events) == [*BEGIN, *item_events, "response.incomplete"]
        response = events[-1]["response"]
        assert response["status"] == "incomplete"
        assert response["incomplete_details"] == {"reason": "max_output_tokens"}
        assert response["completed_at"] is None
        assert response["output"][0]["status"] == "incomplete"

    def test_cut_before_anything(self) -> None:
        assert check_events(write(writer(), end("length"))) == [*BEGIN, "response.incomplete"]

    def test_no_answer_is_an_empty_one(self) -> None:
        empty = [name for name in MESSAGE if not name.endswith("delta")]
        events = write(writer(), reasoning("Hm"), end())
        assert check_events(events) == [*BEGIN, *REASONING, *empty, "response.completed"]
        assert events[-1]["response"]["output"][1]["content"][0]["text"] == ""

    def test_failed(self) -> None:
        made = writer()
        events = [*made.begin(), *made.take(text("He")), *made.fail("the engine failed")]
        assert check_events(events) == [*BEGIN, *MESSAGE, "response.failed"]
        response = events[-1]["response"]
        assert response["error"] == {"code": "server_error", "message": "the engine failed"}
        assert response["output"][0]["status"] == "incomplete"
        check_response(response)

    def test_queued_and_cancelled(self) -> None:
        made = writer()
        events = [*made.queue(), *made.begin(), *made.take(text("He")), *made.cancel()]
        assert check_events(events) == [
            *("response.created", "response.queued", "response.in_progress"),
            *(*MESSAGE, "response.incomplete"),
        ]
        assert [event["response"]["status"] for event in events[:3]] == [
            *("queued", "queued", "in_progress"),
        ]
        assert events[-1]["response"]["status"] == "cancelled"
        assert made.has_ended


class TestWhatIsShown:
    def test_hidden_reasoning_leaves_no_trace_but_in_the_items(self) -> None:
        made = writer(shows_reasoning=False)
        events = write(made, reasoning("secret"), text("Hello"), end())
        assert check_events(events) == [*BEGIN, *MESSAGE, "response.completed"]
        assert "secret" not in str(events)
        assert "secret" not in str(made.response)
        assert [item["type"] for item in made.items] == ["reasoning", "message"]
        assert made.items[0]["content"][0]["text"] == "secret"

    def test_a_function_of_a_namespace(self) -> None:
        tools = read_tools(
            [{"type": "namespace", "name": "n", "tools": [{"type": "function", "name": "f"}]}]
        )
        events = write(writer(tools), call("{}", name="n.f"), end("tool_calls"))
        check_events(events)
        item = events[-1]["response"]["output"][0]
        assert (item["namespace"], item["name"]) == ("n", "f")

    def test_logprobs(self) -> None:
        top = {"token": "", "bytes": None, "logprob": -2.0}
        entry = {"token": "He", "bytes": [72, 101], "logprob": -1.0, "top_logprobs": [top]}
        delta = ChatDelta("text", text="He", _logprobs=[entry])
        events = write(writer(has_logprobs=True), delta, end())
        check_events(events)
        shown = [{**entry, "top_logprobs": [{**top, "bytes": []}]}]
        assert events[4]["logprobs"] == shown
        assert events[5]["logprobs"] == shown
        assert events[-1]["response"]["output"][0]["content"][0]["logprobs"] == shown
        assert write(writer(), delta, end())[4]["logprobs"] == []
