"""/v1/messages: Anthropic's API, held to the types of its own package, and asked by its client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import pydantic
import pytest
from anthropic.types import Message, RawMessageStreamEvent, message_create_params

from gptoss.openai_requests.fields import RequestError
from gptoss.server.messages.request import MESSAGES, read_request
from support.scripted_model import ScriptedModel
from support.serving import serving

THINK = "<|channel|>analysis<|message|>Think.<|end|><|start|>assistant"
HELLO = "<|channel|>final<|message|>Hello world<|return|>"
CALL = (
    "<|channel|>commentary to=functions.get_weather<|constrain|>json<|message|>"
    '{"city": "Oslo"}<|call|>'
)
WEATHER = {
    "name": "get_weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
USER = [{"role": "user", "content": "hi"}]

_EVENT: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(RawMessageStreamEvent)


@pytest.fixture
def ask() -> Iterator[Any]:
    """Serve a model, and give a function that asks it."""
    import contextlib

    with contextlib.ExitStack() as stack:

        def begin(model: ScriptedModel, **settings: Any) -> httpx.Client:
            url = stack.enter_context(serving(model, **settings))
            return stack.enter_context(httpx.Client(base_url=f"{url}/v1", timeout=20))

        yield begin


def answer(client: httpx.Client, **body: Any) -> dict[str, Any]:
    reply = client.post("/messages", json={"messages": USER, "max_tokens": 100, **body})
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    Message.model_validate(found)
    return found


def stream(client: httpx.Client, **body: Any) -> list[dict[str, Any]]:
    """The events of an answer, each of which has the form of its type."""
    body = {"messages": USER, "max_tokens": 100, "stream": True, **body}
    events = []
    for block in client.post("/messages", json=body).text.split("\n\n"):
        if block and not block.startswith(":"):
            name, data = block.split("\n")
            events.append(json.loads(data.removeprefix("data: ")))
            assert name == f"event: {events[-1]['type']}"
            assert _EVENT.validate_python(events[-1]).type == events[-1]["type"]
    return events


class TestAnswers:
    def test_text(self, ask: Any) -> None:
        model = ScriptedModel(THINK + HELLO)
        found = answer(ask(model), system="Be brief.")
        assert found["content"] == [
            {"type": "thinking", "thinking": "Think.", "signature": ""},
            {"type": "text", "text": "Hello world"},
        ]
        assert found["stop_reason"] == "end_turn"
        assert found["usage"]["output_tokens"] > 0
        assert "Be brief." in model.text(model.requests[0][0])

    def test_a_stream(self, ask: Any) -> None:
        events = stream(ask(ScriptedModel(THINK + CALL)), tools=[WEATHER])
        kinds = [
            event["type"] + str(event.get("index", ""))
            for event in events
            if event["type"] != "content_block_delta"
        ]
        assert kinds == [
            *("message_start", "content_block_start0", "content_block_stop0"),
            *("content_block_start1", "content_block_stop1", "message_delta", "message_stop"),
        ]
        deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
        assert "".join(delta.get("thinking", "") for delta in deltas) == "Think."
        assert "".join(delta.get("partial_json", "") for delta in deltas) == '{"city": "Oslo"}'
        assert events[-2]["delta"]["stop_reason"] == "tool_use"
        assert events[-2]["usage"]["input_tokens"] > 0

    def test_a_tool(self, ask: Any) -> None:
        model = ScriptedModel(THINK + CALL, HELLO)
        client = ask(model)
        tools = [WEATHER, {"type": "web_search_20250305", "name": "web_search"}]
        first = answer(client, tools=tools)
        assert first["stop_reason"] == "tool_use"
        call = first["content"][1]
        assert (call["name"], call["input"]) == ("get_weather", {"city": "Oslo"})
        result = {"type": "tool_result", "tool_use_id": call["id"], "content": "rain"}
        conversation = [
            *USER,
            {"role": "assistant", "content": first["content"]},
            {"role": "user", "content": [result]},
        ]
        assert answer(client, messages=conversation, tools=tools)["content"][0]["text"] == (
            "Hello world"
        )
        prompt = model.text(model.requests[1][0])
        assert "Think." in prompt
        assert "rain" in prompt
        assert "web_search" not in prompt

    def test_cut(self, ask: Any) -> None:
        assert answer(ask(ScriptedModel(THINK + HELLO)), max_tokens=3)["stop_reason"] == (
            "max_tokens"
        )

    @pytest.mark.parametrize("hidden", ["disabled", "omitted", "setting"])
    def test_thinking_that_is_not_shown(self, ask: Any, hidden: str) -> None:
        client = ask(
            ScriptedModel(THINK + HELLO, THINK + HELLO),
            **({"reasoning": "hide"} if hidden == "setting" else {}),
        )
        thinking = {
            "disabled": {"thinking": {"type": "disabled"}},
            "omitted": {"thinking": {"type": "adaptive", "display": "omitted"}},
            "setting": {},
        }[hidden]
        (block,) = answer(client, **thinking)["content"]
        assert block == {"type": "text", "text": "Hello world"}
        assert "Think." not in str(stream(client, **thinking))

    def test_arguments_that_are_no_json(self, ask: Any) -> None:
        script = CALL.replace('{"city": "Oslo"}', "{city")
        found = answer(ask(ScriptedModel(script)), tools=[WEATHER])
        assert found["content"][0]["input"] == {"arguments": "{city"}

    def test_a_preamble_and_an_answer_are_two_blocks(self, ask: Any) -> None:
        said = "<|channel|>commentary<|message|>Wait.<|end|><|start|>assistant"
        found = answer(ask(ScriptedModel(said + HELLO)))
        assert [block["text"] for block in found["content"]] == ["Wait.", "Hello world"]

    def test_the_beginning_of_an_answer(self, ask: Any) -> None:
        model = ScriptedModel(" world<|return|>")
        found = answer(ask(model), messages=[*USER, {"role": "assistant", "content": "Hello"}])
        assert found["content"] == [{"type": "text", "text": " world"}]
        assert model.text(model.requests[0][0]).endswith("final<|message|>Hello")

    def test_count(self, ask: Any) -> None:
        model = ScriptedModel(HELLO)
        client = ask(model)
        body = {"messages": USER, "tools": [WEATHER], "system": [{"type": "text", "text": "a"}]}
        counted = client.post("/messages/count_tokens", json=body).json()
        usage = answer(client, **body)["usage"]
        assert counted == {"input_tokens": usage["input_tokens"]}

    def test_the_count_with_a_schema(self, ask: Any) -> None:
        client = ask(ScriptedModel(HELLO))
        schema = {"type": "object", "properties": {"city": {"type": "string"}}}
        shown = {"output_config": {"format": {"type": "json_schema", "schema": schema}}}
        plain, told = (
            client.post("/messages/count_tokens", json={"messages": USER, **more}).json()
            for more in ({}, shown)
        )
        assert told["input_tokens"] > plain["input_tokens"] + 10


class TestRefusals:
    @pytest.mark.parametrize(
        ("body", "status", "kind"),
        [
            ({"messages": []}, 400, "invalid_request_error"),
            ({"messages": "hi"}, 400, "invalid_request_error"),
            ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, 400,
             "invalid_request_error"),
            ({"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]}, 400,
             "invalid_request_error"),
            ({"messages": [{"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "x", "content": 7}]}]}, 400,
             "invalid_request_error"),
            ({"messages": [{"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "x", "content": [None]}]}]}, 400,
             "invalid_request_error"),
            ({"messages": [{"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": None}]}]}, 400, "invalid_request_error"),
            ({"messages": [{"role": "assistant", "content": [
                {"type": "tool_use", "id": "x", "name": "a b"}]}]}, 400, "invalid_request_error"),
            ({"messages": USER, "tool_choice": {"type": "any"}}, 400, "invalid_request_error"),
            ({"messages": USER, "tools": [WEATHER], "tool_choice": {"type": "tool"}}, 400,
             "invalid_request_error"),
            ({"messages": USER, "model": "claude"}, 404, "not_found_error"),
            ({"messages": [{"role": "user", "content": "x" * 5000}]}, 400,
             "invalid_request_error"),
        ],
    )  # fmt: skip
    def test_in_the_form_of_this_api(
        self, ask: Any, body: dict[str, Any], status: int, kind: str
    ) -> None:
        client = ask(ScriptedModel(context_length=4000))
        for more in ({}, {"stream": True}):
            reply = client.post("/messages", json={**body, **more})
            assert reply.status_code == status, reply.text
            error = reply.json()
            assert error["type"] == "error"
            assert error["error"]["type"] == kind
            assert error["error"]["message"]

    def test_where(self) -> None:
        with pytest.raises(RequestError, match="text only") as error:
            read_request({"messages": [{"role": "user", "content": [{"type": "image"}]}]})
        assert error.value.param == "messages[0].content[0]"


def test_every_field_of_anthropic_stands_in_the_table() -> None:
    import typing

    known = {
        name
        for kind in ("NonStreaming", "Streaming")
        for name in typing.get_type_hints(
            getattr(message_create_params, f"MessageCreateParams{kind}")
        )
    }
    assert known - {field.name for field in MESSAGES} == set()


def test_the_documents_have_the_table() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "messages.md"
    assert page.read_text().endswith(f"<!-- table: messages -->\n{MESSAGES.markdown()}")


def test_anthropics_own_client() -> None:
    model = ScriptedModel(THINK + HELLO, THINK + CALL)
    with (
        serving(model) as url,
        anthropic.Anthropic(base_url=url, api_key="none", max_retries=0, timeout=20) as client,
    ):
        found = client.messages.create(model="scripted", max_tokens=100, messages=USER)
        assert found.content[1].text == "Hello world"
        with client.messages.stream(
            model="scripted", max_tokens=100, messages=USER, tools=[WEATHER]
        ) as streamed:
            last = streamed.get_final_message()
        assert last.content[1].input == {"city": "Oslo"}
        with pytest.raises(anthropic.NotFoundError):
            client.messages.create(model="claude", max_tokens=100, messages=USER)
