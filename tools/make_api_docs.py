"""Write docs/python-api.md from the docstrings of what is public.

python tools/make_api_docs.py            write it
python tools/make_api_docs.py --check    exit 1 if it is not what would be written
"""

from __future__ import annotations

import argparse
import dataclasses
import enum
import functools
import inspect
import re
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gptoss
import gptoss.errors
import gptoss.tokenizer

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "python-api.md"

_HEAD = """\
# Python API

<!-- Made by tools/make_api_docs.py from the docstrings: change these, and run it again. -->

Everything that is [public](stability.md), made from the docstrings, which `help(gptoss.load)` shows
as well. V is the size of the vocabulary; [`gptoss.ops`](#gptossops) names the other dimensions.


"""

_SETUP = """\
<!-- setup:
import gptoss
llm = gptoss.load("openai/gpt-oss-20b", context_length=1000)
messages = "What is 17 + 25?"
-->

"""

# A module, the names of it that have a section, and what is said above them.
_MODULES: tuple[tuple[types.ModuleType, tuple[str, ...], str], ...] = (
    (
        gptoss,
        (
            *("load", "generate", "LLM", "SamplingParams", "Request", "GenerationResult"),
            *("GenerationChunk", "Usage", "Timings", "TokenLogprob", "TopLogprob", "Constraint"),
            *("Decision", "EngineStats", "PageStats", "estimate_memory", "MemoryEstimate"),
            *("ModelConfig", "RopeConfig", "tool_schema", "Trace", "save_jsonl"),
        ),
        "`import gptoss`. Loading, generating, chatting.",
    ),
    (gptoss.errors, ("CheckpointError", "BackendError", "ContextLengthError"), ""),
    (gptoss.tokenizer, ("Tokenizer", "IncrementalDecoder"), "`gptoss.Tokenizer` is the first."),
    (gptoss.chat, (), "What `LLM.chat` takes and returns: [Chat](chat.md) tells how it works."),
    (gptoss.harmony, (), "The names of openai-harmony: [Harmony](harmony.md)."),
    (gptoss.ops, (), inspect.cleandoc(gptoss.ops.__doc__ or "")),
)
_ELSEWHERE = {
    "BackendError": "gptoss.errors",
    "CheckpointError": "gptoss.errors",
    "Tokenizer": "gptoss.tokenizer",
}
_SECTION = re.compile(r"^(\w[\w ]*)\n-{3,}\n", re.M)


def document() -> str:
    """The whole text."""
    parts = [_HEAD, _SETUP]
    for module, names, _ in _MODULES:
        parts.append(f"- [`{module.__name__}`](#{_anchor(module.__name__)}): ")
        listed = names or _public(module)
        links = [f"[`{name}`](#{_anchor(f'{module.__name__}.{name}')})" for name in listed]
        parts.append(", ".join(links) + "\n")
    for module, names, about in _MODULES:
        parts.append(f"\n## {module.__name__}\n{about}\n" if about else f"\n## {module.__name__}\n")
        for name in names or _public(module):
            parts.append(_entry(f"{module.__name__}.{name}", getattr(module, name)))
    return "".join(parts)


def _public(module: types.ModuleType) -> tuple[str, ...]:
    """The names of a module that no other section has."""
    return tuple(
        name
        for name in module.__all__
        if name not in _ELSEWHERE and not (module is not gptoss and name in ("tool_schema",))
    )


def missing() -> list[str]:
    """What is public and has no section."""
    there = {name for _, names, _ in _MODULES for name in names}
    modules = {"chat", "harmony", "ops", "__version__"}
    return sorted(set(gptoss.__all__) - there - modules)


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _entry(path: str, thing: Any) -> str:
    heading = f"\n### {path}\n"
    if isinstance(thing, type):
        return heading + _class(path.rpartition(".")[2], thing)
    if callable(thing) and inspect.isroutine(thing):
        return heading + _routine(path.rpartition(".")[2], thing)
    return heading + f"`{_plain(thing)}`\n"


def _class(name: str, kind: type) -> str:
    parts = []
    if issubclass(kind, enum.Enum):
        values = ", ".join(f"`{name}.{member.name}`" for member in kind)
        return _docstring(kind) + f"\n{values}\n"
    if issubclass(kind, Exception):
        bases = ", ".join(f"`{base.__name__}`" for base in kind.__bases__)
        return _docstring(kind) + f"\nIt is a {bases}.\n"
    made = not getattr(kind, "_is_protocol", False) and "Parameters" in (kind.__doc__ or "")
    if dataclasses.is_dataclass(kind) or made:
        parts.append(f"```text\n{_line(name, kind)}\n```\n")
    parts.append(_docstring(kind))
    plain = []
    for member, value in _members(kind):
        if _routine_of(value).__doc__:
            parts.append(_member(f"{name}.{member}", value))
        else:
            plain.append(_line(f"{name}.{member}", value))
    if plain:
        lines = "\n".join(plain)
        parts.append(f"\n**Further members**\n\n```text\n{lines}\n```\n")
    return "".join(parts)


def _members(kind: type) -> Iterator[tuple[str, Any]]:
    """The methods and properties that a class defines, in the order of its source."""
    for name, value in vars(kind).items():
        wanted = _is_attribute(value) or isinstance(
            value, classmethod | staticmethod | types.FunctionType
        )
        if wanted and not name.startswith("_"):
            yield name, value


def _is_attribute(value: Any) -> bool:
    return isinstance(value, property | functools.cached_property)


def _routine_of(value: Any) -> Callable[..., Any]:
    """The function of a method or property."""
    routine: Callable[..., Any] | None = value
    if isinstance(value, property):
        routine = value.fget
    elif isinstance(value, functools.cached_property):
        routine = value.func
    elif isinstance(value, classmethod | staticmethod):
        routine = value.__func__
    assert routine is not None
    return routine


def _member(path: str, value: Any) -> str:
    routine = _routine_of(value)
    heading = f"\n#### {path}\n"
    if _is_attribute(value):
        result = inspect.signature(routine).return_annotation
        return f"{heading}Attribute, `{_plain(result)}`.\n\n" + _docstring(routine)
    return f"{heading}```text\n{_line(path, value)}\n```\n" + _docstring(routine)


def _routine(name: str, routine: Callable[..., Any]) -> str:
    return f"```text\n{_line(name, routine)}\n```\n" + _docstring(routine)


def _line(path: str, value: Any) -> str:
    """How something is called, on one line if it fits, else with a line for each parameter."""
    routine = value if isinstance(value, type) else _routine_of(value)
    signature = inspect.signature(routine)
    returns = signature.return_annotation
    if _is_attribute(value):
        return f"{path}: {_plain(returns)}"
    skipped = "." in path and not isinstance(value, staticmethod)  # self, cls
    shown: list[str] = []
    for parameter in list(signature.parameters.values())[int(skipped) :]:
        if parameter.kind is parameter.KEYWORD_ONLY and not any(p.startswith("*") for p in shown):
            shown.append("*")
        text = str(parameter.replace(annotation=parameter.empty))
        if parameter.default is not parameter.empty:
            text = f"{parameter.name}={_default(parameter.default)}"
        shown.append(text)
    prefix = "await " if inspect.iscoroutinefunction(routine) else ""
    line = f"{prefix}{path}({', '.join(shown)})"
    if len(line) > 96:
        inner = "".join(f"    {text},\n" for text in shown)
        line = f"{prefix}{path}(\n{inner})"
    if not isinstance(value, type) and returns not in (signature.empty, None, "None"):
        line += f" -> {_plain(returns)}"
    return line


def _default(value: Any) -> str:
    if isinstance(value, enum.Enum):
        return f"{type(value).__name__}.{value.name}"
    text = repr(value)
    if text.startswith("<") or " at 0x" in text:
        return "…"
    return text


def _plain(annotation: Any) -> str:
    text = annotation if isinstance(annotation, str) else str(annotation)
    if isinstance(annotation, type):
        text = annotation.__name__
    text = re.sub(r"\b(?:typing|collections\.abc|types|numpy|datetime)\.", "", text)
    return re.sub(r"\bgptoss(?:\.\w+)*\.(\w+)", r"\1", text)


def _docstring(thing: Any) -> str:
    """A docstring in numpydoc's form, as Markdown."""
    text = inspect.cleandoc(thing.__doc__ or "")
    if dataclasses.is_dataclass(thing) and re.fullmatch(r"\w+\(.*\)", text, re.S):
        text = ""  # that which dataclass makes where there is none
    pieces = _SECTION.split(text)
    parts = [_prose(pieces[0])]
    for title, body in zip(pieces[1::2], pieces[2::2], strict=True):
        if title in ("Parameters", "Attributes"):
            parts.append(f"\n**{title}**\n\n{_fields(body, named=True)}")
        elif title in ("Returns", "Yields", "Raises"):
            parts.append(f"\n**{title}**\n\n{_fields(body, named=False)}")
        elif title == "Examples":
            parts.append(_examples(body))
        else:
            parts.append(f"\n**{title}**\n\n{_prose(body)}")
    return "".join(parts)


def _prose(text: str) -> str:
    return text.strip() + "\n" if text.strip() else ""


def _fields(body: str, named: bool) -> str:
    """A list of fields: `name : type`, or a type alone, above text that is indented."""
    parts: list[str] = []
    for line in body.strip("\n").splitlines():
        if not line.strip():
            continue
        if not line.startswith(" "):
            name, _, kind = line.partition(" : ")
            if named:
                parts.append(f"\n- `{name}`" + (f" ({kind})" if kind else ""))
            else:
                parts.append(f"\n- {line}")
            first = True
        else:
            parts.append((": " if first else "\n  ") + line.strip())
            first = False
    return "".join(parts).lstrip("\n") + "\n"


def _examples(body: str) -> str:
    code = [line[4:] for line in body.splitlines() if line.startswith((">>> ", "... "))]
    text = "\n".join(code)
    mark = "<!-- not shown: made from a docstring -->\n" if "print(" in text else ""
    return f"\n{mark}```python\n{text}\n```\n"


def main() -> int:
    """Write the document, or check it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true")
    text = document()
    if not parser.parse_args().check:
        DOCUMENT.write_text(text, encoding="utf-8")
        return 0
    if DOCUMENT.is_file() and DOCUMENT.read_text(encoding="utf-8") == text:
        return 0
    print(f"{DOCUMENT} is stale: python tools/make_api_docs.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
