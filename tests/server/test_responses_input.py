"""What clients send as input, tools and settings, and what the model is asked."""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Any

import pytest
from openai.types.responses import response_create_params
from openai.types.responses.response_includable import ResponseIncludable

from gptoss.openai_requests.fields import KEYWORDS, RequestError
from gptoss.server.responses.fields import INCLUDABLE, RESPONSES
from gptoss.server.responses.input import chat_messages, droppable_turns, read_items
from gptoss.server.responses.objects import item_page
from gptoss.server.responses.request import read_request
from gptoss.server.responses.tools import Tools, read_choice, read_tools
from support.response_types import check_item_list, check_response


def read(given: Any, **found: Any) -> list[dict[str, Any]]:
    return read_items(given, found.get)


def messages(given: Any, tools: Tools | None = None) -> list[dict[str, Any]]:
    items = read(given)
    check_item_list(item_page(items, False))
    return chat_messages(items, tools or Tools())


def refused(body: dict[str, Any]) -> RequestError:
    with pytest.raises(RequestError) as caught:
        read_request(body, lambda _: None)
    return caught.value


class TestItems:
    def test_a_string(self) -> None:
        assert messages("hi") == [{"role": "user", "content": "hi"}]

    @pytest.mark.parametrize("kind", [{}, {"type": "message"}, {"type": "message", "id": "m1"}])
    @pytest.mark.parametrize("role", ["user", "system", "developer"])
    def test_messages(self, role: str, kind: dict[str, str]) -> None:
        parts = [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]
        for content in ("ab", parts):
            assert messages([{**kind, "role": role, "content": content}]) == [
                {"role": role, "content": "ab"}
            ]

    @pytest.mark.parametrize("item_id", [None, "", 7, "a b", "\ud800", "x" * 201, "é"])
    def test_an_id_that_is_none(self, item_id: Any) -> None:
        (item,) = read([{"role": "user", "content": "hi", "id": item_id}])
        assert item["id"].startswith("msg_")

    def test_what_the_assistant_has_said(self) -> None:
        part = {"type": "output_text", "text": "ab", "annotations": [], "logprobs": None}
        for content in ("ab", [part], [{"type": "input_text", "text": "ab"}]):
            assert messages([{"role": "assistant", "content": content}]) == [
                {"role": "assistant", "content": "ab"}
            ]
        refusal = [{"type": "refusal", "refusal": "no"}]
        assert messages([{"role": "assistant", "content": refusal}])[0]["content"] == "no"

    def test_a_turn_with_a_call(self) -> None:
        given = [
            {"role": "user", "content": "weather?"},
            {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": None,
             "content": [{"type": "reasoning_text", "text": "Look."}], "status": None},
            {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "f",
             "arguments": "{}", "status": "completed"},
            {"type": "function_call_output", "call_id": "c1", "output": "rain"},
        ]  # fmt: skip
        assert messages(given) == [
            {"role": "user", "content": "weather?"},
            {"role": "assistant", "reasoning": "Look."},
            {
                "role": "assistant",
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "rain"},
        ]
        assert read(given)[1]["id"] == "rs_1"

    @pytest.mark.parametrize(
        ("phase", "follows", "key"),
        [
            ({}, "function_call", "preamble"),
            ({}, "message", "content"),
            ({}, None, "content"),
            ({"phase": "commentary"}, "message", "preamble"),
            ({"phase": "final_answer"}, "function_call", "content"),
            ({"phase": None}, "function_call", "preamble"),
        ],
    )
    def test_what_is_said_before_a_call(self, phase: Any, follows: str | None, key: str) -> None:
        following = {
            "function_call": [
                {"type": "reasoning", "summary": []},
                {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            ],
            "message": [{"role": "user", "content": "and?"}],
            None: [],
        }[follows]
        said = {"role": "assistant", "content": "I look.", **phase}
        assert messages([{"role": "user", "content": "hi"}, said, *following])[1] == {
            "role": "assistant",
            key: "I look.",
        }

    def test_a_summary_stands_for_reasoning_that_is_not_there(self) -> None:
        summary = [{"type": "summary_text", "text": "A"}, {"type": "summary_text", "text": "B"}]
        item = {"type": "reasoning", "summary": summary}
        assert messages([item]) == [{"role": "assistant", "reasoning": "A\n\nB"}]
        encrypted = {"type": "reasoning", "summary": [], "encrypted_content": "gAAA"}
        assert messages([encrypted]) == []

    def test_output_in_parts(self) -> None:
        call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
        parts = [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]
        output = {"type": "function_call_output", "call_id": "c", "output": parts}
        assert messages([call, output])[1]["content"] == "ab"

    def test_a_custom_call(self) -> None:
        given = [
            {"type": "custom_tool_call", "call_id": "c", "name": "patch", "input": "*** Begin"},
            {"type": "custom_tool_call_output", "call_id": "c", "output": "done"},
        ]
        found = messages(given)
        assert found[0]["tool_calls"][0]["function"]["arguments"] == "*** Begin"
        assert found[1] == {"role": "tool", "tool_call_id": "c", "content": "done"}

    def test_a_call_that_was_cut(self) -> None:
        call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"a'}
        user = {"role": "user", "content": "go on"}
        assert len(messages([{**call, "status": "completed"}, user])) == 2
        assert messages([{**call, "status": "incomplete"}, user]) == [user]
        output = {"type": "function_call_output", "call_id": "c", "output": "x"}
        assert len(messages([{**call, "status": "incomplete"}, output])) == 2

    def test_a_reference(self) -> None:
        found = {"id": "msg_1", "type": "message", "role": "user", "content": []}
        for given in ({"type": "item_reference", "id": "msg_1"}, {"id": "msg_1"}):
            assert read([given], msg_1=found) == [found]
        with pytest.raises(RequestError, match=r"input\[0\]: no item has the id 'msg_2'") as error:
            read([{"type": "item_reference", "id": "msg_2"}])
        assert error.value.param == "input[0].id"

    def test_a_function_of_a_namespace(self) -> None:
        tools = read_tools(
            [{"type": "namespace", "name": "n", "tools": [{"type": "function", "name": "f"}]}]
        )
        call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
        for declared in (tools, Tools()):
            (found,) = messages([{**call, "namespace": "n"}], declared)
            assert found["tool_calls"][0]["function"]["name"] == "n.f"

    @pytest.mark.parametrize(
        ("given", "param", "message"),
        [
            (7, "input", "input must be a string or a list"),
            ([7], "input[0]", "must be an object"),
            ([{}], "input[0].type", "type must be one of message"),
            ([{"type": "web_search_call", "id": "x"}], "input[0].type", "got 'web_search_call'"),
            ([{"role": "tool", "content": ""}], "input[0].role", "role must be user"),
            ([{"role": "user"}], "input[0].content", "must be a string or a list of text parts"),
            (
                [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}],
                "input[0].content[0]",
                "gpt-oss reads text only, and input_image is an image",
            ),
            (
                [{"role": "user", "content": [{"type": "input_file", "file_id": "x"}]}],
                "input[0].content[0]",
                "input_file is a file",
            ),
            (
                [{"role": "user", "content": [{"type": "input_text"}]}],
                "input[0].content[0]",
                "must have a string as its text",
            ),
            (
                [{"role": "user", "content": [{"type": "refusal", "refusal": "x"}]}],
                "input[0].content[0]",
                "must be a part of type",
            ),
            ([{"type": "reasoning", "content": "x"}], "input[0].content", "must be a list"),
            (
                [{"type": "reasoning", "content": [{}]}],
                "input[0].content[0]",
                "must be a reasoning_text part",
            ),
            (
                [{"type": "function_call", "name": "f", "arguments": "{}"}],
                "input[0].call_id",
                "call_id must be a string",
            ),
            (
                [{"type": "function_call", "call_id": "c", "arguments": "{}"}],
                "input[0].name",
                "name must be a string",
            ),
            (
                [{"type": "function_call", "call_id": "c", "name": "f"}],
                "input[0].arguments",
                "arguments must be a string",
            ),
            (
                [{"type": "function_call_output", "call_id": "c", "output": {"a": 1}}],
                "input[0].output",
                "must be a string or a list of text parts",
            ),
        ],
    )
    def test_what_cannot_be_read(self, given: Any, param: str, message: str) -> None:
        with pytest.raises(RequestError) as error:
            read(given)
        assert message in str(error.value)
        assert error.value.param == param

    def test_an_output_without_a_call(self) -> None:
        with pytest.raises(RequestError, match="no function call has the call_id 'c'"):
            messages([{"type": "function_call_output", "call_id": "c", "output": "x"}])


class TestDropping:
    def test_turns(self) -> None:
        roles = ["developer", "user", "assistant", "assistant", "tool", "assistant", "user"]
        given = [{"role": role} for role in roles]
        assert droppable_turns(given) == [[1], [2, 3, 4], [5]]

    def test_one_long_turn_keeps_its_question_and_its_last_step(self) -> None:
        roles = ["user", "assistant", "assistant", "tool", "assistant", "tool", "assistant", "tool"]
        assert droppable_turns([{"role": role} for role in roles]) == [[1, 2, 3], [4, 5]]

    def test_parallel_calls_stay_with_their_outputs(self) -> None:
        roles = ["user", "assistant", "assistant", "tool", "tool", "assistant", "user"]
        assert droppable_turns([{"role": role} for role in roles]) == [[0], [1, 2, 3, 4], [5]]

    def test_nothing_to_drop(self) -> None:
        assert droppable_turns([]) == []
        assert droppable_turns([{"role": "developer"}]) == []
        assert droppable_turns([{"role": "developer"}, {"role": "user"}]) == []


FUNCTION = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}}


class TestTools:
    def test_functions(self) -> None:
        tools = read_tools([{**FUNCTION, "description": "d", "strict": True}])
        assert tools.functions == [
            {
                "type": "function",
                "function": {
                    "name": "f",
                    "description": "d",
                    "parameters": FUNCTION["parameters"],
                    "strict": True,
                },
            }
        ]
        assert tools.original_name("f") == (None, "f")
        assert tools.original_name("made_up") == (None, "made_up")

    def test_types_that_are_not_served_are_left_out(self) -> None:
        tools = read_tools([{"type": "web_search"}, FUNCTION, {"type": "custom", "name": "p"}])
        assert [tool["name"] for tool in tools.shown] == ["f"]

    def test_a_namespace_keeps_its_functions_apart(self) -> None:
        inner = [FUNCTION, {"type": "custom", "name": "p"}]
        tools = read_tools(
            [FUNCTION, {"type": "namespace", "name": "n", "description": "d", "tools": inner}]
        )
        assert [each["function"]["name"] for each in tools.functions] == ["f", "n.f"]
        assert tools.original_name("n.f") == ("n", "f")
        assert tools.shown[1]["tools"] == [tools.shown[0]]

    def test_a_namespace_without_functions_is_left_out(self) -> None:
        assert read_tools([{"type": "namespace", "name": "n", "tools": []}]).shown == []

    def test_a_long_namespace_is_left_off(self) -> None:
        long = {"type": "namespace", "name": "n" * 63, "tools": [FUNCTION]}
        tools = read_tools([long])
        assert tools.original_name("f") == ("n" * 63, "f")
        assert tools.declared_name("n" * 63, "f") == "f"
        with pytest.raises(RequestError, match="another tool named 'f'"):
            read_tools([long, FUNCTION])

    @pytest.mark.parametrize(
        ("tool", "param"),
        [
            ({"type": "function"}, "tools[0].name"),
            ({**FUNCTION, "parameters": []}, "tools[0].parameters"),
            ({**FUNCTION, "description": 1}, "tools[0].description"),
            ({**FUNCTION, "strict": "yes"}, "tools[0].strict"),
            ({"type": "namespace", "name": "n"}, "tools[0].tools"),
            ({"type": "namespace", "name": "n", "tools": [1]}, "tools[0].tools[0]"),
            ({"type": "namespace", "name": "n", "tools": [{"type": "function"}]},
             "tools[0].tools[0].name"),
        ],
    )  # fmt: skip
    def test_wrong(self, tool: dict[str, Any], param: str) -> None:
        assert refused({"input": "hi", "tools": [tool]}).param == param

    def test_choices(self) -> None:
        tools = read_tools([FUNCTION, {**FUNCTION, "name": "g"}])
        assert read_choice("auto", tools) == ("auto", tools.functions)
        assert read_choice("none", tools)[0] == "none"
        assert read_choice("required", tools)[0] == "required"
        named = {"type": "function", "function": {"name": "g"}}
        assert read_choice({"type": "function", "name": "g"}, tools) == (named, tools.functions)
        allowed = {"type": "allowed_tools", "tools": [{"type": "function", "name": "g"}]}
        for mode in ("auto", "required"):
            assert read_choice({**allowed, "mode": mode}, tools) == (mode, tools.functions[1:])

    @pytest.mark.parametrize(
        "choice",
        [
            *("any", {"type": "web_search_preview"}, {"type": "function", "name": "g"}),
            *({"type": "allowed_tools"}, {"type": "allowed_tools", "mode": "auto", "tools": [1]}),
            {"type": "allowed_tools", "mode": "required", "tools": []},
            {"type": "allowed_tools", "mode": "auto", "tools": [{"name": "g"}]},
        ],
    )
    def test_wrong_choices(self, choice: Any) -> None:
        error = refused({"input": "hi", "tools": [FUNCTION], "tool_choice": choice})
        assert error.param is not None
        assert error.param.startswith("tool_choice")

    def test_required_without_functions(self) -> None:
        body = {"input": "hi", "tools": [{"type": "web_search"}], "tool_choice": "required"}
        assert refused(body).param == "tool_choice"


class TestFields:
    def test_every_field_of_openai_stands_in_the_table(self) -> None:
        known = {
            name
            for kind in ("NonStreaming", "Streaming")
            for name in typing.get_type_hints(
                getattr(response_create_params, f"ResponseCreateParams{kind}")
            )
        }
        assert {field.name for field in RESPONSES if not field.own} == known

    def test_the_documents_have_the_table(self) -> None:
        page = Path(__file__).resolve().parents[2] / "docs" / "responses.md"
        assert page.read_text().endswith(f"<!-- table: responses -->\n{RESPONSES.markdown()}")

    def test_everything_that_may_be_included_is_known(self) -> None:
        assert set(INCLUDABLE) == set(typing.get_args(ResponseIncludable))

    def test_schemas_are_checked(self) -> None:
        def walk(schema: Any) -> None:
            if isinstance(schema, dict):
                assert set(schema) <= KEYWORDS
                for inner in schema.get("properties", {}).values():
                    walk(inner)
                for inner in (schema.get("items"), *schema.get("anyOf", ())):
                    walk(inner)

        for field in RESPONSES:
            assert field.note
            assert field.schema or field.state != "done", field.name
            walk(field.schema)

    @pytest.mark.parametrize(
        ("body", "param"),
        [
            ({}, "input"),
            ({"input": None}, "input"),
            ({"input": "hi", "background": True, "store": False}, "background"),
            ({"input": "hi", "conversation": "conv_1"}, "conversation"),
            ({"input": "hi", "prompt": {"id": "p"}}, "prompt"),
            ({"input": "hi", "moderation": {"model": "m"}}, "moderation"),
            ({"input": "hi", "truncation": "middle"}, "truncation"),
            ({"input": "hi", "max_output_tokens": 0}, "max_output_tokens"),
            ({"input": "hi", "temperature": "hot"}, "temperature"),
            ({"input": "hi", "top_logprobs": 21}, "top_logprobs"),
            ({"input": "hi", "include": ["everything"]}, "include[0]"),
            ({"input": "hi", "reasoning": {"effort": "extreme"}}, "reasoning.effort"),
            ({"input": "hi", "text": {"format": {"type": "xml"}}}, "text.format.type"),
            ({"input": "hi", "text": {"format": {"type": "json_schema", "schema": {}}}},
             "text.format.name"),
            ({"input": "hi", "text": {"format": {"type": "json_schema", "name": "a"}}},
             "text.format.schema"),
            ({"input": "hi", "tools": ["f"]}, "tools[0]"),
            ({"input": "hi", "tools": [{}]}, "tools[0].type"),
            ({"input": "hi", "metadata": {"a": 1}}, "metadata.a"),
            ({"input": "hi", "metadata": {"a" * 65: "b"}}, "metadata"),
            ({"input": "hi", "metadata": {str(i): "" for i in range(17)}}, "metadata"),
            ({"input": "hi", "stream": 1}, "stream"),
        ],
    )  # fmt: skip
    def test_wrong(self, body: dict[str, Any], param: str) -> None:
        found = refused(body).param
        assert found is not None
        assert found.startswith(param)

    def test_defaults(self) -> None:
        asked = read_request({"input": "hi"}, lambda _: None)
        assert asked.chat == {"reasoning_effort": "medium"}
        assert asked.store
        assert not asked.stream
        check_response(asked.new_response("demo"))

    def test_what_is_asked_of_the_model(self) -> None:
        schema = {"type": "object", "properties": {}}
        body = {
            "input": "hi",
            "instructions": "Be brief.",
            "max_output_tokens": 50,
            "temperature": 0,
            "top_p": 0.5,
            "top_logprobs": 2,
            "seed": 7,
            "reasoning": {"effort": "minimal", "summary": "auto", "exclude": True},
            "text": {"format": {"type": "json_schema", "name": "a", "schema": schema,
                                "strict": None}},
            "tools": [FUNCTION],
            "client_metadata": {"unknown": "to all but codex"},
        }  # fmt: skip
        asked = read_request(body, lambda _: None)
        assert asked.chat == {
            "max_tokens": 50,
            "temperature": 0,
            "top_p": 0.5,
            "logprobs": 2,
            "seed": 7,
            "reasoning_effort": "low",
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "a", "schema": schema},
            },
            "tools": read_tools([FUNCTION]).functions,
            "tool_choice": "auto",
        }
        assert asked.instructions == "Be brief."
        assert asked.has_logprobs
        assert not asked.shows_reasoning
        response = asked.new_response("demo")
        check_response(response)
        assert response["text"]["format"] == {"type": "json_schema", "name": "a", "schema": schema}
        assert response["reasoning"] == {"effort": "minimal", "summary": None}

    def test_logprobs_that_are_included(self) -> None:
        body = {"input": "hi", "include": ["message.output_text.logprobs"]}
        assert read_request(body, lambda _: None).chat["logprobs"] == 0
