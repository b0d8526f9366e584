"""/v1/responses through a port: answers, streams, what is kept, and what goes wrong."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gptoss.engine.outputs import GenerationChunk
from gptoss.engine.sampling import SamplingParams
from gptoss.errors import BackendError
from support.response_types import check_events, check_item_list, check_response
from support.scripted_model import ScriptedModel, ScriptedStream
from support.serving import serving

THINK = "<|channel|>analysis<|message|>Think.<|end|><|start|>assistant"
HELLO = "<|channel|>final<|message|>Hello world<|return|>"
CALL = (
    "<|channel|>commentary to=functions.get_weather<|constrain|>json<|message|>"
    '{"city": "Oslo"}<|call|>'
)
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}


class GatedStream(ScriptedStream):
    """Waits, after some tokens, until its model's gate is open."""

    async def __anext__(self) -> GenerationChunk:
        import asyncio

        model = self._model
        assert isinstance(model, GatedModel)
        while len(self.given) >= model.free_tokens and not model.gate.is_set():
            await asyncio.sleep(0.002)
        if model.error is not None:
            raise model.error
        return await super().__anext__()


class GatedModel(ScriptedModel):
    """A scripted model that stops in the middle of each answer until its gate is open."""

    def __init__(self, *scripts: str, free_tokens: int = 4, **options: Any) -> None:
        super().__init__(*scripts, **options)
        self.gate = threading.Event()
        self.free_tokens = free_tokens
        self.error: Exception | None = None

    def stream(
        self, prompt: Any, params: SamplingParams | None = None, **overrides: Any
    ) -> ScriptedStream:
        assert params is not None
        self.requests.append((list(prompt), params))
        self.streams.append(GatedStream(self, params, len(prompt)))
        return self.streams[-1]


class Client:
    """Asks a server, and holds all that it says to the types."""

    def __init__(self, url: str) -> None:
        self.http = httpx.Client(base_url=f"{url}/v1", timeout=20)

    def create(self, **body: Any) -> dict[str, Any]:
        answer = self.http.post("/responses", json=body)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        check_response(found)
        return found

    def refused(self, status: int = 400, **body: Any) -> dict[str, Any]:
        return self.error(self.http.post("/responses", json=body), status)

    def error(self, answer: httpx.Response, status: int) -> dict[str, Any]:
        assert answer.status_code == status, answer.text
        body: dict[str, Any] = answer.json()
        assert list(body) == ["error"]
        assert set(body["error"]) == {"message", "type", "param", "code"}
        error: dict[str, Any] = body["error"]
        return error

    def stream(self, **body: Any) -> list[dict[str, Any]]:
        with self.http.stream("POST", "/responses", json={**body, "stream": True}) as answer:
            return list(events_of(answer))

    def get(self, response_id: str, **query: Any) -> dict[str, Any]:
        answer = self.http.get(f"/responses/{response_id}", params=query)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        check_response(found)
        return found

    def follow(self, response_id: str, **query: Any) -> list[dict[str, Any]]:
        query = {"stream": "true", **query}
        with self.http.stream("GET", f"/responses/{response_id}", params=query) as answer:
            return list(events_of(answer))

    def items(self, response_id: str, **query: Any) -> dict[str, Any]:
        answer = self.http.get(f"/responses/{response_id}/input_items", params=query)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        check_item_list(found)
        return found

    def until(self, response_id: str, status: str) -> dict[str, Any]:
        found = self.get(response_id)
        deadline = time.monotonic() + 10
        while found["status"] != status:
            assert time.monotonic() < deadline, found
            time.sleep(0.005)
            found = self.get(response_id)
        return found


def events_of(answer: httpx.Response) -> Iterator[dict[str, Any]]:
    """The events of a stream, whose names are their types."""
    assert answer.status_code == 200, answer.read()
    assert answer.headers["content-type"].startswith("text/event-stream")
    name = ""
    for line in answer.iter_lines():
        field, _, value = line.partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            event = json.loads(value)
            assert event["type"] == name
            yield event


@pytest.fixture
def serve() -> Iterator[Any]:
    """Serve a model, and ask it."""
    import contextlib

    with contextlib.ExitStack() as stack:

        def begin(model: ScriptedModel, **settings: Any) -> Client:
            client = Client(stack.enter_context(serving(model, **settings)))
            stack.callback(client.http.close)
            return client

        yield begin


def prompts(model: ScriptedModel) -> list[str]:
    return [model.text(prompt) for prompt, _ in model.requests]


class TestAnswers:
    def test_text(self, serve: Any) -> None:
        model = ScriptedModel(THINK + HELLO)
        answer = serve(model).create(input="hi", instructions="Be brief.", metadata={"a": "b"})
        assert answer["status"] == "completed"
        assert [item["type"] for item in answer["output"]] == ["reasoning", "message"]
        assert answer["output"][1]["content"][0]["text"] == "Hello world"
        assert answer["metadata"] == {"a": "b"}
        assert answer["model"] == "scripted"
        assert answer["usage"]["output_tokens"] > 0
        assert "# Instructions\n\nBe brief." in prompts(model)[0]

    def test_a_stream_has_the_same_answer(self, serve: Any) -> None:
        client = serve(ScriptedModel(THINK + HELLO, THINK + HELLO))
        whole = client.create(input="hi")
        events = client.stream(input="hi")
        types = check_events(events)
        assert types[:2] == ["response.created", "response.in_progress"]
        assert types[-1] == "response.completed"
        streamed = events[-1]["response"]
        for answer in (whole, streamed):
            for key in ("id", "created_at", "completed_at"):
                del answer[key]
            for item in answer["output"]:
                del item["id"]
        assert streamed == whole

    def test_a_call_and_its_output(self, serve: Any) -> None:
        model = ScriptedModel(THINK + CALL, HELLO)
        client = serve(model)
        first = client.create(input="weather?", tools=[WEATHER], store=False)
        reasoning, call = first["output"]
        assert (call["name"], call["arguments"]) == ("get_weather", '{"city": "Oslo"}')
        output = {"type": "function_call_output", "call_id": call["call_id"], "output": "rain"}
        given = [{"role": "user", "content": "weather?"}, reasoning, call, output]
        second = client.create(input=given, tools=[WEATHER], store=False)
        assert second["output"][0]["content"][0]["text"] == "Hello world"
        # What was thought before the call is shown to the model again.
        begun = prompts(model)[0] + THINK + CALL
        assert prompts(model)[1].startswith(begun.replace("<|constrain|>", " <|constrain|>"))
        assert "rain" in prompts(model)[1]

    def test_a_required_call(self, serve: Any) -> None:
        model = ScriptedModel('{"city": "Oslo"}<|call|>', '{"city": "Oslo"}<|call|>')
        client = serve(model)
        for choice in ("required", {"type": "function", "name": "get_weather"}):
            answer = client.create(input="weather?", tools=[WEATHER], tool_choice=choice)
            (call,) = answer["output"]
            assert call["arguments"] == '{"city": "Oslo"}'
            assert answer["tool_choice"] == choice

    def test_arguments_that_are_no_json(self, serve: Any) -> None:
        broken = CALL.replace('{"city": "Oslo"}', "{city: Oslo")
        client = serve(ScriptedModel(broken, broken, HELLO))
        answer = client.create(input="weather?", tools=[WEATHER])
        assert answer["output"][0]["arguments"] == "{city: Oslo"
        check_events(client.stream(input="weather?", tools=[WEATHER]))
        output = {"type": "function_call_output", "output": "what?"}
        output["call_id"] = answer["output"][0]["call_id"]
        client.create(input=[output], previous_response_id=answer["id"])

    @pytest.mark.parametrize(
        "script",
        [
            "Hello world<|return|>",
            "<|channel|>finale<|message|>Hello world<|return|>",
            "<|channel|>commentary to=functions.<|message|>{}<|call|>",
            "<|channel|>commentary to=python<|message|>1 + 1<|call|>",
            "<|channel|>analysis<|message|>Think.<|return|>",
            "<|return|>",
            "<|start|>user<|message|>hi<|end|>",
            "<|message|><|message|><|channel|><|end|><|call|>",
        ],
    )
    def test_whatever_a_model_writes(self, serve: Any, script: str) -> None:
        client = serve(ScriptedModel(script, script, HELLO))
        answer = client.create(input="hi")
        assert answer["status"] == "completed"
        check_events(client.stream(input="hi"))
        client.create(input="and?", previous_response_id=answer["id"])

    def test_max_output_tokens(self, serve: Any) -> None:
        client = serve(ScriptedModel(THINK + HELLO, THINK + HELLO))
        answer = client.create(input="hi", max_output_tokens=4)
        assert answer["status"] == "incomplete"
        assert answer["incomplete_details"] == {"reason": "max_output_tokens"}
        assert answer["usage"]["output_tokens"] == 4
        assert check_events(client.stream(input="hi", max_output_tokens=4))[-1] == (
            "response.incomplete"
        )

    def test_logprobs(self, serve: Any) -> None:
        client = serve(ScriptedModel(HELLO, HELLO, HELLO))
        include = ["message.output_text.logprobs"]
        part = client.create(input="hi", include=include)["output"][0]["content"][0]
        assert "".join(entry["token"] for entry in part["logprobs"]) == "Hello world"
        events = client.stream(input="hi", include=include)
        check_events(events)
        streamed = [
            entry
            for event in events
            if event["type"] == "response.output_text.delta"
            for entry in event["logprobs"]
        ]
        assert streamed == part["logprobs"]
        assert client.create(input="hi")["output"][0]["content"][0]["logprobs"] == []

    @pytest.mark.parametrize("where", ["setting", "request"])
    def test_hidden_reasoning_is_still_shown_to_the_model(self, serve: Any, where: str) -> None:
        model = ScriptedModel(THINK + CALL, HELLO, THINK + HELLO)
        client = serve(model, **({"reasoning": "hide"} if where == "setting" else {}))
        hidden = {"reasoning": {"exclude": True}} if where == "request" else {}
        first = client.create(input="weather?", tools=[WEATHER], **hidden)
        assert [item["type"] for item in first["output"]] == ["function_call"]
        assert first["usage"]["output_tokens_details"]["reasoning_tokens"] > 0
        output = {"type": "function_call_output", "output": "rain"}
        output["call_id"] = first["output"][0]["call_id"]
        client.create(input=[output], previous_response_id=first["id"], **hidden)
        assert "Think." in prompts(model)[1]
        events = client.stream(input="hi", **hidden)
        assert "response.reasoning_text.delta" not in check_events(events)
        assert "Think." not in str(events)
        assert "Think." not in str(client.get(first["id"]))

    def test_functions_of_a_namespace(self, serve: Any) -> None:
        script = CALL.replace("get_weather", "n.get_weather")
        model = ScriptedModel(script, HELLO)
        client = serve(model)
        tools = [
            {"type": "namespace", "name": "n", "description": "Outside", "tools": [WEATHER]},
            {"type": "web_search"},
        ]
        answer = client.create(input="weather?", tools=tools)
        (call,) = answer["output"]
        assert (call["namespace"], call["name"]) == ("n", "get_weather")
        assert [tool["type"] for tool in answer["tools"]] == ["namespace"]
        assert "type n.get_weather" in prompts(model)[0]
        output = {"type": "function_call_output", "call_id": call["call_id"], "output": "rain"}
        client.create(input=[output], previous_response_id=answer["id"], tools=tools)
        assert "to=functions.n.get_weather" in prompts(model)[1]


class TestRefusals:
    def test_a_body_that_is_none(self, serve: Any) -> None:
        client = serve(ScriptedModel())
        for content in (b"", b"{", b"[]", b'{"input": NaN}', b"[" * 100_000):
            client.error(client.http.post("/responses", content=content), 400)

    def test_fields(self, serve: Any) -> None:
        client = serve(ScriptedModel())
        assert client.refused(input=7)["param"] == "input"
        assert client.refused(input="hi", truncation="x")["param"] == "truncation"
        assert client.refused(input=[])["param"] == "input"
        error = client.refused(
            input=[{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]
        )
        assert error["param"] == "input[0].content[0]"
        assert error["type"] == "invalid_request_error"
        assert client.refused(404, input="hi", model="gpt-6")["code"] == "model_not_found"
        name = {"type": "function", "name": "a b"}
        assert client.refused(input="hi", tools=[name])["param"] == "tools"
        call = {"type": "function_call", "call_id": "c", "name": "a b", "arguments": ""}
        assert client.refused(input=[call])["param"] == "input"

    def test_a_stream_is_refused_before_its_first_byte(self, serve: Any) -> None:
        client = serve(ScriptedModel(context_length=100))
        error = client.refused(input="x" * 200, stream=True)
        assert (error["param"], error["code"]) == ("input", "context_length_exceeded")

    def test_ids_that_are_not_there(self, serve: Any) -> None:
        client = serve(ScriptedModel())
        error = client.refused(input="hi", previous_response_id="resp_x")
        assert error["code"] == "previous_response_not_found"
        assert error["param"] == "previous_response_id"
        http = client.http
        for answer in (
            http.get("/responses/resp_x"),
            http.delete("/responses/resp_x"),
            http.post("/responses/resp_x/cancel"),
            http.get("/responses/resp_x/input_items"),
        ):
            assert "resp_x" in client.error(answer, 404)["message"]
        client.error(http.get("/responses/resp_x", params={"stream": "true"}), 400)
        client.error(http.get("/responses/resp_x", params={"stream": "1"}), 400)
        client.error(http.put("/responses"), 405)


class TestTruncation:
    TURNS = tuple(
        {"role": role, "content": f"{role} {index} " + "x" * 40}
        for index in range(8)
        for role in ("user", "assistant")
    )

    def test_disabled(self, serve: Any) -> None:
        client = serve(ScriptedModel(context_length=600))
        given = [*self.TURNS, {"role": "user", "content": "now"}]
        assert client.refused(input=given)["code"] == "context_length_exceeded"

    def test_auto_leaves_out_the_oldest(self, serve: Any) -> None:
        model = ScriptedModel(*[HELLO] * 8, context_length=900)
        client = serve(model)
        given = [*self.TURNS, {"role": "user", "content": "now"}]
        answer = client.create(
            input=given, instructions="Be brief.", truncation="auto", max_output_tokens=100
        )
        assert answer["status"] == "completed"
        kept = prompts(model)[-1]
        assert "Be brief." in kept
        assert "user 0 " not in kept
        assert "user 7 " in kept
        assert kept.endswith("<|start|>user<|message|>now<|end|><|start|>assistant")
        # No more than had to go: one turn more, and there would be no room for the answer.
        length = len(model.requests[-1][0])
        assert 900 - 100 - 70 < length <= 900 - 100
        assert all(stream.closed for stream in model.streams)

    def test_what_fits_is_left_alone(self, serve: Any) -> None:
        model = ScriptedModel(HELLO)
        serve(model).create(input=list(self.TURNS), truncation="auto")
        assert len(model.requests) == 1
        assert "user 0 " in prompts(model)[0]

    def test_a_question_that_does_not_fit_alone(self, serve: Any) -> None:
        model = ScriptedModel(HELLO, context_length=600)
        given = [*self.TURNS, {"role": "user", "content": "x" * 700}]
        error = serve(model).refused(input=given, truncation="auto")
        assert error["code"] == "context_length_exceeded"


class TestKeeping:
    def test_turns(self, serve: Any) -> None:
        model = ScriptedModel(THINK + HELLO, HELLO, HELLO)
        client = serve(model)
        first = client.create(input="one", instructions="Say it in French.")
        second = client.create(input="two", previous_response_id=first["id"])
        third = client.create(input="three", previous_response_id=second["id"])
        assert third["previous_response_id"] == second["id"]
        assert "French" not in prompts(model)[2]
        for text in ("one", "two", "three", "Hello world"):
            assert text in prompts(model)[2]
        assert "Think." not in prompts(model)[2]  # of a turn that has its answer
        assert client.get(first["id"]) == first

    def test_the_next_turn_outlives_the_ones_before(self, serve: Any) -> None:
        model = ScriptedModel(HELLO, HELLO, HELLO)
        client = serve(model)
        first = client.create(input="one")
        second = client.create(input="two", previous_response_id=first["id"])
        assert client.http.delete(f"/responses/{first['id']}").json() == {
            "id": first["id"],
            "object": "response",
            "deleted": True,
        }
        client.error(client.http.get(f"/responses/{first['id']}"), 404)
        client.create(input="three", previous_response_id=second["id"])
        assert "one" in prompts(model)[2]

    def test_store_false(self, serve: Any) -> None:
        client = serve(ScriptedModel(HELLO, HELLO))
        answer = client.create(input="hi", store=False)
        client.error(client.http.get(f"/responses/{answer['id']}"), 404)
        answer = client.stream(input="hi", store=False)[-1]["response"]
        client.error(client.http.get(f"/responses/{answer['id']}"), 404)

    def test_a_stream_is_kept_when_its_last_event_is_there(self, serve: Any) -> None:
        client = serve(ScriptedModel(HELLO))
        answer = client.stream(input="hi")[-1]["response"]
        assert client.get(answer["id"]) == answer

    def test_bounds_and_expiry(self, serve: Any) -> None:
        client = serve(ScriptedModel(*[HELLO] * 4), store_entries=2, store_ttl_s=0.3)
        ids = [client.create(input="hi")["id"] for _ in range(3)]
        client.error(client.http.get(f"/responses/{ids[0]}"), 404)
        client.get(ids[2])
        time.sleep(0.35)
        client.error(client.http.get(f"/responses/{ids[2]}"), 404)

    def test_one_that_is_larger_than_the_store(self, serve: Any) -> None:
        client = serve(ScriptedModel(HELLO, HELLO), store_bytes=500)
        assert client.create(input="hi")["store"] is False
        assert client.stream(input="hi")[-1]["response"]["store"] is False

    def test_a_file_outlives_the_server(self, serve: Any, tmp_path: Path) -> None:
        path = tmp_path / "store"
        first_model = ScriptedModel(HELLO)
        with serving(first_model, store_path=path) as url:
            client = Client(url)
            first = client.create(input="one")
            client.http.close()
        model = ScriptedModel(HELLO)
        client = serve(model, store_path=path)
        assert client.get(first["id"]) == first
        client.create(input="two", previous_response_id=first["id"])
        assert "one" in prompts(model)[0]

    def test_a_file_that_cannot_be_written_costs_no_answer(
        self, serve: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: Any) -> bool:
            raise OSError("the store of responses: database or disk is full")

        client = serve(ScriptedModel(HELLO))
        monkeypatch.setattr("gptoss.server.responses.store.ResponseStore.put", full)
        answer = client.create(input="hi")
        assert answer["status"] == "completed"
        assert answer["store"] is False

    def test_input_items(self, serve: Any) -> None:
        client = serve(ScriptedModel(HELLO, HELLO))
        first = client.create(input=[{"role": "user", "content": f"m{i}"} for i in range(4)])
        second = client.create(input="last", previous_response_id=first["id"])
        page = client.items(second["id"], limit=2)
        texts = [item["content"][0]["text"] for item in page["data"]]
        assert texts == ["last", "Hello world"]
        assert page["has_more"]
        page = client.items(second["id"], after=page["last_id"], limit=100)
        assert [item["content"][0]["text"] for item in page["data"]] == ["m3", "m2", "m1", "m0"]
        assert not page["has_more"]
        page = client.items(first["id"], order="asc", limit=1)
        assert page["data"][0]["content"][0]["text"] == "m0"
        assert (
            client.items(first["id"], order="asc", after=page["last_id"])["data"][0]
            != (page["data"][0])
        )
        for query in ({"limit": 0}, {"limit": "x"}, {"order": "up"}, {"after": "msg_x"}):
            answer = client.http.get(f"/responses/{first['id']}/input_items", params=query)
            assert client.error(answer, 400)["param"] == next(iter(query))

    def test_references_to_items(self, serve: Any) -> None:
        model = ScriptedModel(THINK + CALL, HELLO)
        client = serve(model)
        first = client.create(input="weather?", tools=[WEATHER])
        given: list[Any] = [{"role": "user", "content": "weather?"}]
        given += [{"type": "item_reference", "id": item["id"]} for item in first["output"]]
        call_id = first["output"][1]["call_id"]
        given.append({"type": "function_call_output", "call_id": call_id, "output": "rain"})
        client.create(input=given, tools=[WEATHER])
        assert "Think." in prompts(model)[1]


class TestBackground:
    def test_answered_later(self, serve: Any) -> None:
        model = GatedModel(HELLO)
        client = serve(model)
        answer = client.create(input="hi", background=True)
        assert answer["status"] == "queued"
        client.until(answer["id"], "in_progress")
        error = client.refused(input="hi", previous_response_id=answer["id"])
        assert error["param"] == "previous_response_id"
        model.gate.set()
        done = client.until(answer["id"], "completed")
        assert done["output"][0]["content"][0]["text"] == "Hello world"
        assert client.http.post(f"/responses/{answer['id']}/cancel").json() == done

    def test_a_stream_that_is_left_and_followed_again(self, serve: Any) -> None:
        model = GatedModel(THINK + HELLO, free_tokens=16)
        client = serve(model)
        seen: list[dict[str, Any]] = []
        body = {"input": "hi", "background": True, "stream": True}
        with client.http.stream("POST", "/responses", json=body) as answer:
            for event in events_of(answer):
                seen.append(event)
                if event["type"] == "response.output_text.delta":
                    break
        response_id = seen[0]["response"]["id"]
        model.gate.set()
        client.until(response_id, "completed")
        rest = client.follow(response_id, starting_after=seen[-1]["sequence_number"])
        types = check_events([*seen, *rest])
        assert types[:3] == ["response.created", "response.queued", "response.in_progress"]
        assert types[-1] == "response.completed"
        assert client.follow(response_id) == [*seen, *rest]
        assert client.follow(response_id, starting_after=10_000) == []

    def test_followed_while_it_runs(self, serve: Any) -> None:
        model = GatedModel(HELLO)
        client = serve(model)
        response_id = client.create(input="hi", background=True)["id"]
        followed: list[list[dict[str, Any]]] = []
        threads = [
            threading.Thread(target=lambda: followed.append(client.follow(response_id)))
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        time.sleep(0.05)
        model.gate.set()
        for thread in threads:
            thread.join(10)
        assert len(followed) == 3
        assert followed[0] == followed[1] == followed[2]
        assert check_events(followed[0])[-1] == "response.completed"

    def test_cancelled(self, serve: Any) -> None:
        model = GatedModel(HELLO, HELLO)
        client = serve(model)
        response_id = client.create(input="hi", background=True)["id"]
        client.until(response_id, "in_progress")
        cancelled = client.http.post(f"/responses/{response_id}/cancel").json()
        check_response(cancelled)
        assert cancelled["status"] == "cancelled"
        assert model.streams[0].closed
        assert client.get(response_id) == cancelled
        assert client.http.post(f"/responses/{response_id}/cancel").json() == cancelled
        assert check_events(client.follow(response_id))[-1] == "response.incomplete"
        model.gate.set()
        client.create(input="go on", previous_response_id=response_id)

    def test_only_what_is_in_the_background_is_cancelled(self, serve: Any) -> None:
        client = serve(ScriptedModel(HELLO))
        answer = client.create(input="hi")
        client.error(client.http.post(f"/responses/{answer['id']}/cancel"), 400)

    def test_deleted_while_it_runs(self, serve: Any) -> None:
        model = GatedModel(HELLO)
        client = serve(model)
        response_id = client.create(input="hi", background=True)["id"]
        assert client.http.delete(f"/responses/{response_id}").status_code == 200
        assert model.streams[0].closed
        client.error(client.http.get(f"/responses/{response_id}"), 404)
        client.error(client.http.get(f"/responses/{response_id}", params={"stream": "true"}), 400)

    def test_a_failure(self, serve: Any) -> None:
        model = GatedModel(HELLO)
        client = serve(model)
        response_id = client.create(input="hi", background=True)["id"]
        client.until(response_id, "in_progress")
        model.error = BackendError("the device is gone")
        model.gate.set()
        failed = client.until(response_id, "failed")
        assert failed["error"] == {"code": "server_error", "message": "the device is gone"}
        assert check_events(client.follow(response_id))[-1] == "response.failed"

    def test_the_deadline(self, serve: Any) -> None:
        model = GatedModel(HELLO)
        client = serve(model, timeout_s=0.2)
        response_id = client.create(input="hi", background=True)["id"]
        assert "0.2 s" in client.until(response_id, "failed")["error"]["message"]
        assert model.streams[0].closed

    def test_what_does_not_fit_is_refused_at_once(self, serve: Any) -> None:
        client = serve(ScriptedModel(context_length=100))
        assert client.refused(input="x" * 200, background=True)["code"] == (
            "context_length_exceeded"
        )

    def test_a_server_that_ends(self, tmp_path: Path) -> None:
        path = tmp_path / "store"
        model = GatedModel(HELLO)
        with serving(model, store_path=path, drain_s=0.1) as url:
            client = Client(url)
            response_id = client.create(input="hi", background=True)["id"]
            client.until(response_id, "in_progress")
            client.http.close()
        with serving(ScriptedModel(), store_path=path) as url:
            client = Client(url)
            error = client.get(response_id)["error"]
            assert error["message"] == "the server is shutting down"
            client.http.close()

    def test_old_events_are_forgotten(self, serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("gptoss.server.responses.answer._KEPT_EVENTS_BYTES", 0)
        client = serve(ScriptedModel(HELLO, HELLO))
        first = client.create(input="hi", background=True)["id"]
        client.until(first, "completed")
        client.follow(first)
        client.create(input="hi", background=True)
        client.error(client.http.get(f"/responses/{first}", params={"stream": "true"}), 400)
        client.get(first)


class TestFaults:
    def test_a_stream_that_breaks(self, serve: Any) -> None:
        model = GatedModel(HELLO)
        client = serve(model)
        model.error = BackendError("the device is gone")
        events = client.stream(input="hi")
        assert check_events(events)[-1] == "response.failed"
        assert events[-1]["response"]["error"]["message"] == "the device is gone"
        client.until(events[-1]["response"]["id"], "failed")

    def test_an_answer_that_breaks(self, serve: Any) -> None:
        model = GatedModel(HELLO)
        client = serve(model)
        model.error = BackendError("the device is gone")
        assert client.refused(500, input="hi")["message"] == "the device is gone"

    def test_the_deadline(self, serve: Any) -> None:
        model = GatedModel(HELLO, HELLO)
        client = serve(model, timeout_s=0.2)
        assert client.refused(504, input="hi")["code"] == "timeout"
        events = client.stream(input="hi")
        assert check_events(events)[-1] == "response.failed"
        assert all(stream.closed for stream in model.streams)

    def test_a_full_queue(self, serve: Any) -> None:
        model = GatedModel(*[HELLO] * 20)
        client = serve(model, max_waiting=0)
        ids = [client.create(input="hi", background=True)["id"] for _ in range(16)]
        assert client.refused(429, input="hi")["code"] == "queue_full"
        assert client.refused(429, input="hi", background=True)["code"] == "queue_full"
        model.gate.set()
        for response_id in ids:
            client.until(response_id, "completed")
        client.create(input="hi")

    @pytest.mark.parametrize("streams", [True, False])
    def test_a_client_that_leaves(self, serve: Any, streams: bool) -> None:
        model = GatedModel(HELLO)
        client = serve(model)
        body = {"input": "hi", "stream": streams}
        if streams:
            with client.http.stream("POST", "/responses", json=body) as answer:
                events = events_of(answer)
                response_id = next(events)["response"]["id"]
                assert client.get(response_id)["status"] == "in_progress"
        else:
            with pytest.raises(httpx.ReadTimeout):
                client.http.post("/responses", json=body, timeout=0.2)
        deadline = time.monotonic() + 5
        while not model.streams[0].closed:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        assert not model.gate.is_set()

    def test_texts_that_are_no_unicode(self, serve: Any) -> None:
        client = serve(ScriptedModel(HELLO))
        body = b'{"input": "\\ud800", "instructions": "\\udfff"}'
        answer = client.http.post("/responses", content=body)
        assert answer.status_code == 200
        client.items(answer.json()["id"])


def test_nothing_of_a_response_that_is_not_stored_is_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with serving(ScriptedModel(HELLO, HELLO), store_path=path) as url:
        client = Client(url)
        client.create(input="private", store=False)
        client.create(input="public")
        client.http.close()
    database = sqlite3.connect(path)
    (body,) = [row[0] for row in database.execute("SELECT body FROM responses")]
    database.close()
    assert "public" in body
    assert b"private" not in b"".join(file.read_bytes() for file in tmp_path.iterdir())
