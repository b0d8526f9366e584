"""The input of a response: items as clients write them, made one form, and then chat messages."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from gptoss.openai_requests.fields import RequestError
from gptoss.server.responses.objects import Item, new_id, output_text
from gptoss.server.responses.tools import Tools

FindItem: TypeAlias = Callable[[str], "Item | None"]

_READ = (
    *("message", "reasoning", "function_call", "function_call_output", "custom_tool_call"),
    *("custom_tool_call_output", "item_reference"),
)
_ID = re.compile(r"[!-~]{1,200}")
_TEXT_PARTS = ("input_text", "output_text", "text")
_NO_TEXT = {
    "input_image": "an image",
    "image_url": "an image",
    "input_file": "a file",
    "file": "a file",
    "input_audio": "audio",
}


def read_items(given: Any, find: FindItem) -> list[Item]:
    """The items of a request's `input`, each in the form in which the API hands it out.

    Parameters
    ----------
    given : str or list
        What the request has.
    find : callable
        The item of an id that an earlier answer had, None if it is not known.

    Raises
    ------
    RequestError
        Something cannot be read; `param` says where it stands.
    """
    if isinstance(given, str):
        return [_text_message("user", given)]
    if not isinstance(given, list):
        raise RequestError(
            f"input must be a string or a list of items, got {given!r:.100}", "input"
        )
    return [_item(item, f"input[{index}]", find) for index, item in enumerate(given)]


def _item(given: Any, where: str, find: FindItem) -> Item:
    if not isinstance(given, Mapping):
        raise RequestError(f"{where} must be an object, got {given!r:.100}", where)
    kind = given.get("type")
    if kind is None:
        kind = "message" if "role" in given else "item_reference" if "id" in given else None
    if kind == "message":
        return _message(given, where)
    if kind == "reasoning":
        return _reasoning(given, where)
    if kind == "function_call":
        return _call(given, where)
    if kind in ("function_call_output", "custom_tool_call_output"):
        output = _output(given.get("output"), f"{where}.output")
        call_id = _string(given, "call_id", where)
        return {**_head(given, "function_call_output", "fco"), "call_id": call_id, "output": output}
    if kind == "custom_tool_call":
        # It has no form of its own here: the model wrote a text to a tool all the same.
        return _call({**given, "arguments": given.get("input")}, where)
    if kind == "item_reference":
        found = find(_string(given, "id", where))
        if found is None:
            raise RequestError(f"{where}: no item has the id {given['id']!r:.100}", f"{where}.id")
        return found
    raise RequestError(
        f"{where}: type must be one of {', '.join(_READ)}, got {kind!r:.100}", f"{where}.type"
    )


def _head(given: Mapping[str, Any], kind: str, prefix: str) -> Item:
    """What all items begin with; an id that is none is replaced, and no status means done."""
    item_id = given.get("id")
    status = "incomplete" if given.get("status") in ("incomplete", "in_progress") else "completed"
    return {
        "id": item_id if isinstance(item_id, str) and _ID.fullmatch(item_id) else new_id(prefix),
        "type": kind,
        "status": status,
    }


def _string(given: Mapping[str, Any], key: str, where: str) -> str:
    value = given.get(key)
    if not isinstance(value, str) or not value:
        raise RequestError(f"{where}: {key} must be a string, got {value!r:.100}", f"{where}.{key}")
    return value


def _text_message(role: str, text: str) -> Item:
    content = [{"type": "input_text", "text": text}]
    return {**_head({}, "message", "msg"), "role": role, "content": content}


def _message(given: Mapping[str, Any], where: str) -> Item:
    role = given.get("role")
    if role not in ("user", "assistant", "system", "developer"):
        raise RequestError(
            f"{where}: role must be user, assistant, system or developer, got {role!r:.100}",
            f"{where}.role",
        )
    content = given.get("content")
    if isinstance(content, str):
        content = [{"type": "input_text", "text": content}]
    parts: list[Item] = []
    for kind, text in _parts(content, f"{where}.content", refusals=role == "assistant"):
        if role != "assistant":
            parts.append({"type": "input_text", "text": text})
        elif kind == "refusal":
            parts.append({"type": "refusal", "refusal": text})
        else:
            parts.append(output_text(text))
    item = {**_head(given, "message", "msg"), "role": role, "content": parts}
    if role == "assistant" and given.get("phase") in ("commentary", "final_answer"):
        item["phase"] = given["phase"]
    return item


def _parts(content: Any, where: str, *, refusals: bool = False) -> list[tuple[str, str]]:
    """The type and the text of each part of a content."""
    if not isinstance(content, list):
        raise RequestError(
            f"{where} must be a string or a list of text parts, got {content!r:.100}", where
        )
    found = []
    for index, part in enumerate(content):
        part_where = f"{where}[{index}]"
        kind = part.get("type") if isinstance(part, Mapping) else None
        if isinstance(kind, str) and kind in _NO_TEXT:
            raise RequestError(
                f"{part_where}: gpt-oss reads text only, and {kind} is {_NO_TEXT[kind]}", part_where
            )
        if kind not in _TEXT_PARTS and not (refusals and kind == "refusal"):
            raise RequestError(
                f"{part_where}: must be a part of type {' or '.join(_TEXT_PARTS)}, got "
                f"{part!r:.100}",
                part_where,
            )
        text = part.get("refusal" if kind == "refusal" else "text")
        if not isinstance(text, str):
            raise RequestError(f"{part_where}: must have a string as its text", part_where)
        found.append((str(kind), text))
    return found


def _reasoning(given: Mapping[str, Any], where: str) -> Item:
    """Reasoning; what another server has encrypted is not readable here, and left out."""
    item = {**_head(given, "reasoning", "rs"), "summary": []}
    for key, kind in (("summary", "summary_text"), ("content", "reasoning_text")):
        parts = given.get(key) or []
        if not isinstance(parts, list):
            raise RequestError(
                f"{where}.{key} must be a list of {kind} parts, got {parts!r:.100}",
                f"{where}.{key}",
            )
        texts = []
        for index, part in enumerate(parts):
            text = part.get("text") if isinstance(part, Mapping) else None
            if not isinstance(text, str):
                part_where = f"{where}.{key}[{index}]"
                raise RequestError(f"{part_where}: must be a {kind} part with a text", part_where)
            texts.append({"type": kind, "text": text})
        item[key] = texts
    return item


def _call(given: Mapping[str, Any], where: str) -> Item:
    arguments = given.get("arguments")
    if isinstance(arguments, (dict, list)):
        arguments = json.dumps(arguments, ensure_ascii=False)
    if not isinstance(arguments, str):
        raise RequestError(
            f"{where}: arguments must be a string, got {arguments!r:.100}", f"{where}.arguments"
        )
    item = {
        **_head(given, "function_call", "fc"),
        "call_id": _string(given, "call_id", where),
        "name": _string(given, "name", where),
        "arguments": arguments,
    }
    if given.get("namespace") is not None:
        item["namespace"] = _string(given, "namespace", where)
    return item


def _output(output: Any, where: str) -> str | list[Item]:
    if isinstance(output, str):
        return output
    return [{"type": "input_text", "text": text} for _, text in _parts(output, where)]


# -- chat messages -----------------------------------------------------------------------


def chat_messages(items: Sequence[Item], tools: Tools) -> list[dict[str, Any]]:
    """What `LLM.chat` is asked: a message for each item that says something.

    Parameters
    ----------
    items : sequence of dict
        As `read_items` makes them, and as answers have them.
    tools : Tools
        Under which names functions were declared.

    Raises
    ------
    RequestError
        An output answers no call.
    """
    called = {item["call_id"] for item in items if item["type"] == "function_call"}
    answered = {item["call_id"] for item in items if item["type"] == "function_call_output"}
    messages: list[dict[str, Any]] = []
    for index, item in enumerate(items):
        kind = item["type"]
        if kind == "function_call_output":
            if item["call_id"] not in called:
                raise RequestError(
                    f"input: no function call has the call_id {item['call_id']!r:.100}, which an "
                    "output answers",
                    "input",
                )
            messages.append(
                {
                    "role": "tool",
                    "tool_call_id": item["call_id"],
                    "content": _joined(item["output"]),
                }
            )
        elif kind == "function_call":
            # A call that was cut is nothing that the model should see as made.
            if item["status"] == "completed" or item["call_id"] in answered:
                messages.append(_call_message(item, tools))
        elif kind == "reasoning":
            thought = _joined(item.get("content") or item["summary"], between="\n\n")
            if thought:
                messages.append({"role": "assistant", "reasoning": thought})
        elif item["role"] == "assistant":
            text = _joined(item["content"])
            key = "preamble" if _is_preamble(item, items[index + 1 :]) else "content"
            if text or key == "content":
                messages.append({"role": "assistant", key: text})
        else:
            messages.append({"role": item["role"], "content": _joined(item["content"])})
    return messages


def _call_message(item: Item, tools: Tools) -> dict[str, Any]:
    name = tools.declared_name(item.get("namespace"), item["name"])
    function = {"name": name, "arguments": item["arguments"]}
    call = {"id": item["call_id"], "type": "function", "function": function}
    return {"role": "assistant", "tool_calls": [call]}


def _is_preamble(item: Item, following: Iterable[Item]) -> bool:
    """Whether a message of the assistant's is what it says before a call."""
    if item.get("phase") is not None:
        return bool(item["phase"] == "commentary")
    for other in following:
        if other["type"] != "reasoning":
            return bool(other["type"] == "function_call")
    return False


def _joined(content: str | Iterable[Item], between: str = "") -> str:
    if isinstance(content, str):
        return content
    return between.join(
        part["refusal" if part["type"] == "refusal" else "text"] for part in content
    )


# -- what does not fit -------------------------------------------------------------------


def droppable_turns(messages: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """What may be left out of a conversation, oldest first, each as indices of messages.

    A turn is a message of the user's, or what the assistant said until then with the outputs that
    belong to it. Instructions stay, and so do the user's last message and the last turn.
    """
    turns: list[list[int]] = []
    last_user = max((i for i, m in enumerate(messages) if m["role"] == "user"), default=-1)
    before = None
    for index, message in enumerate(messages):
        role = message["role"]
        if role in ("system", "developer"):
            continue
        # An assistant's step goes from its reasoning to the outputs of its calls.
        goes_on = before is not None and role in ("assistant", "tool") and before != "user"
        if goes_on and not (role == "assistant" and before == "tool"):
            turns[-1].append(index)
        else:
            turns.append([index])
        before = role
    return [turn for turn in turns[:-1] if last_user not in turn]
