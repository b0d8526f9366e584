"""What a call names is matched with what was declared, and said so where it was not that."""

from __future__ import annotations

from typing import Any

import pytest

from gptoss.chat import build_prompt
from gptoss.harmony.recipients import Recipients
from support.answers import TOOLS, answer
from support.scripted_model import ScriptedModel

ENCODING = ScriptedModel().harmony
ARGUMENTS = '{"c":"ls"}'


def called(script: str, **chat: Any) -> tuple[str, str, list[str]]:
    """The recipient and the arguments of the only call, and the kinds of repairs."""
    result = answer(script, **{"tools": TOOLS, **chat})
    assert result.finish_reason == "tool_calls"
    assert result.text == result.preamble == ""
    (call,) = result.tool_calls
    (message,) = [m for m in result.harmony_messages if m.recipient == call.recipient]
    assert message.content[0].text == call.arguments  # type: ignore[attr-defined]
    return call.recipient, call.arguments, [repair.kind for repair in result.repairs]


# What stands between <|start|>assistant and the arguments.
HEADERS = [
    "<|channel|>bash<|channel|>commentary <|constrain|>json<|message|>",
    "<|channel|>bash<|message|>",
    "<|channel|>bash <|constrain|>json<|message|>",
    "<|channel|>functions.bash<|message|>",
    "<|channel|>functions.bash <|constrain|>json<|message|>",
    "<|channel|>functions.bash",
    "<|channel|>commentary bash<|message|>",
    "<|channel|>commentary bash json<|message|>",
    "<|channel|>commentary bash <|constrain|>json<|message|>",
    "<|channel|>commentaryfunctions.bash<|message|>",
    "<|channel|>commentary functions.bash<|message|>",
    "<|channel|>commentary to=functions bash<|message|>",
    "<|channel|>commentary to=bash <|constrain|>json<|message|>",
    "<|channel|>commentary to=Bash <|constrain|>json<|message|>",
    "<|channel|>commentary to=functions.Bash<|message|>",
    "<|channel|>commentary to=function.bash<|message|>",
    "<|channel|>commentary to=functions/bash<|message|>",
    "<|channel|>commentary to=functions:bash<|message|>",
    "<|channel|>commentary to=functions_bash<|message|>",
    "<|channel|>commentary to=functions.functions.bash<|message|>",
    "<|channel|>commentary to=tools.bash<|message|>",
    "<|channel|>commentary to=container.bash<|message|>",
    "<|channel|>commentary to=mcp__local__bash<|message|>",
    "<|channel|>commentary to=functions.bash.exec<|message|>",
    "<|channel|>commentary to=functions.bash:0<|message|>",
    "<|channel|>commentary to=functions.bash()<|message|>",
    "<|channel|>commentary to=functions.bashjson<|message|>",
    "<|channel|>commentary to=functions.bashcommentary<|message|>",
    "<|channel|>commentary to=functions.bash_tool<|message|>",
    "<|channel|>analysis to=bash code<|message|>",
    " to=bash<|channel|>commentary json<|message|>",
    " to=bash json<|message|>",
]


@pytest.mark.parametrize("header", HEADERS)
def test_names_that_are_near_to_a_declared_one(header: str) -> None:
    recipient, arguments, kinds = called(f"{header}{ARGUMENTS}<|call|>")
    assert (recipient, arguments) == ("functions.bash", ARGUMENTS)
    assert kinds  # never silently


@pytest.mark.parametrize(
    "header",
    ["<|channel|>bash<|channel|>commentary <|constrain|>json", "<|channel|>bash <|constrain|>json"],
)
def test_a_tool_s_name_in_the_channel_s_place_within_content(header: str) -> None:
    script = f"<|channel|>analysis<|message|>Hm.{header}<|message|>{ARGUMENTS}<|call|>"
    assert called(script)[:2] == ("functions.bash", ARGUMENTS)
    assert answer(script, tools=TOOLS).reasoning == "Hm."


@pytest.mark.parametrize("name", ["Get-Weather", "getWeather", "GET_WEATHER", "get.weather"])
def test_other_letters_and_separators(name: str) -> None:
    script = f"<|channel|>commentary to=functions.{name}<|message|>{{}}<|call|>"
    assert called(script) == ("functions.get_weather", "{}", ["bad_recipient"])


@pytest.mark.parametrize(
    "name", ["get_weather_now", "get", "weather", "bashful", "rebash", "unknown", "bash_code"]
)
def test_other_names_are_other_tools(name: str) -> None:
    script = f"<|channel|>commentary to=functions.{name}<|message|>{{}}<|call|>"
    assert called(script) == (f"functions.{name}", "{}", [])


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("functions.get_wether", "functions.get_weather"),
        ("get_weahter", "functions.get_weather"),
        ("functions.get_weathers", "functions.get_weather"),
        ("to_functions.GetWeatherr", "functions.get_weather"),
        ("functions.list_file", "functions.list_files"),
        ("functions.get_user_names", None),  # another word
        ("functions.set_max_value", None),
        ("functions.unlock_door", None),
        ("functions.open_door_2", None),
        ("functions.wait", None),
    ],
)
def test_a_letter_or_two_may_be_wrong(written: str, meant: str | None) -> None:
    names = ("get_weather", "list_files", "get_user", "set_min_value", "lock_door", "open_door_1")
    recipients = Recipients([f"functions.{name}" for name in names])
    assert recipients.match(written) == meant


def test_what_could_be_two_names_is_none() -> None:
    recipients = Recipients(["functions.read_files", "functions.read_filed"])
    assert recipients.match("functions.read_filez") is None


def test_what_could_be_several_is_none() -> None:
    recipients = Recipients(["functions.getTime", "functions.get_time", "functions.x"])
    assert recipients.match("get_time") is None
    assert recipients.match("functions.get_time") == "functions.get_time"
    assert recipients.match("X") == "functions.x"
    assert Recipients().match("x") is None
    assert Recipients(["python", "functions.python"]).match("python") == "python"
    assert recipients.match("...") is None
    assert recipients.match('{"name":"x"}') is None


def test_made_up_names_are_names() -> None:
    """They come back in the history, where others would be refused."""
    model = ScriptedModel("<|channel|>commentary to=functions.é;rm|x<|message|>{}<|call|>")
    result = model.chat([{"role": "user", "content": "Hi"}], tools=TOOLS)
    (call,) = result.tool_calls
    assert call.recipient == "functions._rm_x" or call.name.isascii()
    assert [repair.kind for repair in result.repairs] == ["bad_recipient"]
    build_prompt(ENCODING, result.messages, tools=TOOLS)


@pytest.mark.parametrize(
    ("made_up", "recipient"),
    [
        ("functions.functions.", "functions._"),
        ("functions.functions.functions.nobody", "functions.nobody"),
        ("functions.", "functions._"),
    ],
)
def test_a_namespace_that_is_written_twice_is_one(made_up: str, recipient: str) -> None:
    model = ScriptedModel(f"<|channel|>commentary to={made_up}<|message|>{{}}<|call|>")
    result = model.chat([{"role": "user", "content": "Hi"}], tools=TOOLS)
    assert [call.recipient for call in result.tool_calls] == [recipient]
    assert [repair.kind for repair in result.repairs] == ["bad_recipient"]
    build_prompt(ENCODING, result.messages, tools=TOOLS)


def test_a_tool_s_name_in_a_final_header_is_no_call() -> None:
    result = answer("<|channel|>final bash it is<|message|>Hello<|return|>", tools=TOOLS)
    assert (result.text, result.tool_calls) == ("Hello", [])
    result = answer("<|channel|>analysis bash<|message|>Hm.<|return|>", tools=TOOLS)
    assert (result.reasoning, result.tool_calls) == ("Hm.", [])


# -- a call's end without a recipient ----------------------------------------------------


@pytest.mark.parametrize("channel", ["commentary", "analysis", "commentary <|constrain|>json"])
@pytest.mark.parametrize(
    "text",
    [
        '{"name":"bash","arguments":{"c": "ls"}}',
        '{"name":"functions.bash","parameters":{"c": "ls"}}',
        ' {"tool":"Bash","args":{"c": "ls"}}',
        '{"function":{"name":"bash","arguments":"{\\"c\\": \\"ls\\"}"}}',
        '{"type":"function","function":{"name":"bash","arguments":{"c": "ls"}}}',
        '{"recipient_name":"functions.bash","parameters":{"c": "ls"}}',
    ],
)
def test_a_call_that_is_written_as_json(channel: str, text: str) -> None:
    recipient, arguments, kinds = called(f"<|channel|>{channel}<|message|>{text}<|call|>")
    assert (recipient, arguments) == ("functions.bash", '{"c": "ls"}')
    assert kinds == ["missing_recipient", "bad_recipient"]


@pytest.mark.parametrize(
    "script",
    [
        '<|channel|>commentary<|message|>{"c":"ls"}<|call|>',
        '<|channel|>commentary<|message|>{"name":"rm","arguments":{}}<|call|>',
        "<|channel|>commentary<|message|>ls<|call|>",
        "<|channel|>commentary to=assistant<|channel|>analysis <|constrain|>json<|message|>"
        '{"c":"ls"}<|call|>',
        '<|channel|>analysis<|message|>{"c":"ls"}<|call|>',
        '<|channel|>shell2<|message|>{"c":"ls"}<|call|>',
        '<|message|>{"c":"ls"}<|call|>',
        '<|channel|>answer<|message|>{"name":"rm","arguments":{}}<|call|>',
        "<|channel|>final<|message|>Hello<|call|>",
    ],
)
def test_a_call_s_end_is_told(script: str) -> None:
    result = answer(script, tools=TOOLS)
    assert result.tool_calls == []
    assert "missing_recipient" in [repair.kind for repair in result.repairs]
    written = script.split("<|message|>")[1].removesuffix("<|call|>")
    assert written in result.reasoning + result.preamble + result.text
    if "{" in written:
        assert result.reasoning == written  # for a tool, whichever: nothing to show to the user


def test_json_that_is_no_call() -> None:
    text = '{"name":"bash","arguments":{}}'
    result = answer(f"<|channel|>commentary<|message|>{text}<|end|><|return|>", tools=TOOLS)
    assert (result.preamble, result.tool_calls) == (text, [])
    result = answer(f"<|channel|>analysis<|message|>{text}", tools=TOOLS, max_tokens=20)
    assert result.reasoning
    assert text.startswith(result.reasoning)


# -- built-in tools ----------------------------------------------------------------------

CODE = "<|channel|>analysis to=python code<|message|>print(1)<|call|>"


def history(script: str, **chat: Any) -> str:
    result = answer(script, **chat)
    call = result.tool_calls[0]
    messages = [*result.messages, {"role": "tool", "tool_call_id": call.id, "content": "1"}]
    return ENCODING.decode_utf8(build_prompt(ENCODING, messages, **chat).token_ids)


def test_a_function_that_is_named_as_a_builtin_tool() -> None:
    (call,) = answer(CODE, tools=TOOLS).tool_calls
    assert (call.name, call.recipient, call.arguments_valid) == ("python", "python", False)
    assert history(CODE, tools=TOOLS).endswith(
        f"<|start|>assistant{CODE}"
        "<|start|>python to=assistant<|channel|>analysis<|message|>1<|end|><|start|>assistant"
    )
    script = "<|channel|>commentary to=functions.python <|constrain|>json<|message|>{}<|call|>"
    assert called(script) == ("functions.python", "{}", [])
    assert f"<|start|>assistant{script}" in history(script, tools=TOOLS)
    # Without the namespace, but in JSON.
    script = "<|channel|>commentary to=python <|constrain|>json<|message|>{}<|call|>"
    assert called(script) == ("functions.python", "{}", ["bad_recipient"])


def test_code_is_valid_for_the_builtin_tool_alone() -> None:
    for chat, is_valid in (
        ({}, False),
        ({"tools": TOOLS}, False),
        ({"builtin_tools": ["python"]}, True),
        ({"builtin_tools": ["python"], "tools": TOOLS}, True),
    ):
        (call,) = answer(CODE, **chat).tool_calls  # type: ignore[arg-type]
        assert call.arguments_valid == is_valid
        assert f"<|start|>assistant{CODE}" in history(CODE, **chat)


def test_both_can_be_declared() -> None:
    chat: dict[str, Any] = {"builtin_tools": ["python", "browser"], "tools": TOOLS}
    for recipient in ("python", "functions.python", "browser.search"):
        script = f"<|channel|>analysis to={recipient} code<|message|>{{}}<|call|>"
        assert called(script, **chat) == (recipient, "{}", [])
    script = "<|channel|>analysis to=Browser.Search code<|message|>{}<|call|>"
    assert called(script, **chat) == ("browser.search", "{}", ["bad_recipient"])


def test_a_builtin_tool_without_its_namespace() -> None:
    script = "<|channel|>analysis to=search code<|message|>{}<|call|>"
    kinds = ["bad_recipient"]
    assert called(script, tools=None, builtin_tools=["browser"]) == ("browser.search", "{}", kinds)
    # A function of that name is meant rather.
    tools = [{"name": "search"}]
    for builtin in (["browser"], []):
        found = called(script, tools=tools, builtin_tools=builtin)
        assert found == ("functions.search", "{}", kinds)


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("github.search", "commentary to=functions.github.search <|constrain|>json"),
        ("browser", "commentary to=functions.browser <|constrain|>json"),
        ("functions.w", "commentary to=functions.w <|constrain|>json"),
        ("browser.search", "analysis to=browser.search code"),
        ("python", "analysis to=python code"),
    ],
)
def test_only_python_and_browser_are_built_in(name: str, header: str) -> None:
    call = {"id": "1", "function": {"name": name, "arguments": "{}"}}
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "tool_calls": [call]}]
    text = ENCODING.decode_utf8(build_prompt(ENCODING, messages).token_ids)
    assert f"<|start|>assistant<|channel|>{header}<|message|>{{}}<|call|>" in text
