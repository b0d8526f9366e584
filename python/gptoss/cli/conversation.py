"""A conversation at the terminal, and the commands that steer it."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import json
import re
import runpy
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gptoss
from gptoss.chat import ChatDelta, ChatMessage, ChatResult, ToolOutput, run_steps
from gptoss.chat.tools import named_functions
from gptoss.cli import options as shared
from gptoss.cli.prompt import Prompt, history_path
from gptoss.cli.view import View
from gptoss.engine.sampling import SamplingParams

if TYPE_CHECKING:
    import argparse

    from rich.console import Console

EFFORTS = ("low", "medium", "high")

# By name: the argument, and what it does.
COMMANDS = {
    "/effort": ("[low|medium|high]", "how much the model thinks"),
    "/show-reasoning": ("[on|off]", "show what it thinks, or not"),
    "/system": ("[TEXT]", "its instructions; - for none"),
    "/adapter": ("[NAME]", "the adapter it answers with; - for none"),
    "/tools": ("[FILE.py]", "the functions it may call; with a file, those that are in there"),
    "/retry": ("", "answer the last question again"),
    "/undo": ("", "forget the last question and its answer"),
    "/reset": ("", "forget the conversation"),
    "/save": ("FILE", "write the conversation as JSON"),
    "/history": ("[N]", "what was asked lately; with a number, ask that again"),
    "/help": ("", "these commands"),
    "/exit": ("", "leave, as do /quit and Ctrl-D (Windows: Ctrl-Z, Enter)"),
}
_HIDDEN = ("/quit",)
# A path such as /etc/hosts is none, and with a blank before it a line is never one.
_IS_COMMAND = re.compile(r"/[\w-]*(?:\s|$)")
_HISTORY_SHOWN = 20


class Session:
    """A conversation, and how it is to be continued."""

    def __init__(
        self,
        llm: gptoss.LLM,
        params: SamplingParams,
        options: argparse.Namespace,
        tools: dict[str, Callable[..., Any]],
    ) -> None:
        self._llm = llm
        self._params = params
        self._max_reasoning_tokens = options.max_reasoning_tokens
        self._system: str | None = options.system
        self._turns: list[ChatMessage] = []
        self._effort = options.effort
        self._tools = tools

    @property
    def messages(self) -> list[ChatMessage]:
        """The conversation so far."""
        if self._system is None:
            return list(self._turns)
        return [{"role": "system", "content": self._system}, *self._turns]

    def ask(self, question: str, show: Callable[[ChatDelta | ToolOutput], None]) -> ChatResult:
        """Continue the conversation; an answer that is interrupted stays as far as it came."""
        before = self.messages
        instructions = len(before) - len(self._turns)
        asked = [*before, {"role": "user", "content": question}]
        text = ""
        try:
            steps = self._steps(asked)
            while True:
                try:
                    event = next(steps)
                except StopIteration as end:
                    result: ChatResult = end.value
                    self._turns = list(result.messages)[instructions:]
                    return result
                if isinstance(event, ChatDelta):
                    text += event.text
                show(event)
        except KeyboardInterrupt:
            if text:
                answer = {"role": "assistant", "content": text}
                self._turns = [*asked, answer][instructions:]
            raise

    def _steps(
        self, messages: list[ChatMessage]
    ) -> Generator[ChatDelta | ToolOutput, None, ChatResult]:
        return run_steps(
            self._llm.chat,
            messages,
            self._tools,
            params=self._params,
            reasoning_effort=self._effort,
            max_reasoning_tokens=self._max_reasoning_tokens,
        )


class Conversation(Session):
    """A session at the terminal."""

    def __init__(
        self,
        llm: gptoss.LLM,
        params: SamplingParams,
        options: argparse.Namespace,
        tools: dict[str, Callable[..., Any]],
    ) -> None:
        super().__init__(llm, params, options, tools)
        self._show_reasoning = options.show_reasoning
        self._markdown = not options.plain
        self._quiet = options.quiet
        self._prompt = Prompt(history_path())
        self._unanswered: str | None = None  # a question that came to nothing

    def run(self, console: Console) -> None:
        """Answer what is typed, until Ctrl-D or /exit."""
        if not self._quiet:
            self._say(console, f"{self._llm.name}. /help lists the commands.")
        while True:
            try:
                text = self._prompt.read()
            except KeyboardInterrupt:
                print()
                continue
            except EOFError:
                print()
                return
            if not text.strip():
                continue
            self._prompt.add(text)
            if not _IS_COMMAND.match(text):
                self._answer(text.strip(), console)
                continue
            name, _, argument = text.strip().partition(" ")
            if name in ("/exit", "/quit"):
                return
            try:
                self._command(name, argument.strip(), console)
            except (OSError, TypeError, ValueError) as error:
                console.print(f"error: {error}", style="red", markup=False, soft_wrap=True)

    def _answer(self, question: str, console: Console) -> None:
        view = View(
            console,
            console,
            show_reasoning=self._show_reasoning,
            markdown=self._markdown,
            quiet=self._quiet,
        )
        before = self._turns
        try:
            with view:
                result = self.ask(question, view.show)
        except KeyboardInterrupt:
            self._say(console, "(stopped)")
        except (ValueError, MemoryError) as error:  # such as a conversation that is too long
            console.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        else:
            if not self._quiet:
                self._say(
                    console, shared.summary(result.usage, result.timings, result.finish_reason)
                )
        self._unanswered = question if self._turns is before else None

    @staticmethod
    def _say(console: Console, text: str) -> None:
        console.print(text, style="dim", markup=False, soft_wrap=True)

    def _command(self, name: str, argument: str, console: Console) -> None:
        """Carry out a command."""
        if name == "/retry":
            self._answer(self._take_back(), console)
        elif name == "/history" and argument:
            self._answer(self._entry(argument), console)
        else:
            self._say(console, self._setting(name, argument))

    def _setting(self, name: str, argument: str) -> str:
        """Carry out a command that asks the model nothing; return what to say."""
        if name == "/effort":
            if argument and argument not in EFFORTS:
                raise ValueError(f"effort must be one of {', '.join(EFFORTS)}, got {argument!r}")
            self._effort = argument or self._effort
            return f"effort: {self._effort}"
        if name == "/show-reasoning":
            if argument not in ("", "on", "off"):
                raise ValueError(f"/show-reasoning takes on or off, got {argument!r}")
            self._show_reasoning = argument == "on" if argument else not self._show_reasoning
            return f"reasoning is {'shown' if self._show_reasoning else 'hidden'}"
        if name == "/system":
            if argument:
                self._system = None if argument == "-" else argument
            return f"system: {'none' if self._system is None else self._system}"
        if name == "/adapter":
            return self._choose_adapter(argument)
        if name == "/tools":
            if argument:
                self._tools = functions_of(argument)
            return f"tools: {', '.join(self._tools) or 'none'}"
        if name == "/undo":
            return f"forgotten: {self._take_back()}"
        if name == "/reset":
            self._turns = []
            return "forgotten"
        if name == "/save":
            if not argument:
                raise ValueError("/save needs the name of a file")
            messages = self.messages
            text = json.dumps(messages, ensure_ascii=False, indent=2)
            Path(argument).expanduser().write_text(text + "\n", encoding="utf-8")
            return f"saved {len(messages)} messages to {argument}"
        if name == "/history":
            return self._history()
        if name == "/help":
            return _help()
        raise ValueError(f"there is no command {name}{_meant(name)}")

    def _choose_adapter(self, argument: str) -> str:
        names = self._llm.adapters
        if argument:
            adapter = None if argument == "-" else argument
            if adapter is not None and adapter not in names:
                raise ValueError(f"no adapter is named {adapter!r}: {', '.join(names) or 'none'}")
            self._params = dataclasses.replace(self._params, adapter=adapter)
        others = [name for name in names if name != self._params.adapter]
        loaded = f" (loaded, too: {', '.join(others)})" if others else ""
        return f"adapter: {self._params.adapter or 'none'}{loaded}"

    def _take_back(self) -> str:
        """Forget the last question and all that came after it; return the question."""
        if self._unanswered is not None:
            question, self._unanswered = self._unanswered, None
            return question
        for index in range(len(self._turns) - 1, -1, -1):
            turn: Any = self._turns[index]
            if turn["role"] == "user":
                self._turns = self._turns[:index]
                return str(turn["content"])
        raise ValueError("nothing was asked yet")

    def _questions(self) -> list[str]:
        return [entry for entry in self._prompt.entries if not _IS_COMMAND.match(entry)]

    def _entry(self, argument: str) -> str:
        questions = self._questions()
        if not argument.isdecimal() or not 1 <= int(argument) <= len(questions):
            raise ValueError(f"/history takes a number from 1 to {len(questions)}: {argument!r}")
        return questions[int(argument) - 1].strip()

    def _history(self) -> str:
        questions = self._questions()
        first = max(0, len(questions) - _HISTORY_SHOWN)
        lines = [
            f"{number}  {' '.join(text.split())}"
            for number, text in enumerate(questions[first:], first + 1)
        ]
        return "\n".join(lines) or "nothing was asked yet"


def _help() -> str:
    rows = [(f"{name} {argument}", text) for name, (argument, text) in COMMANDS.items()]
    width = max(len(usage) for usage, _ in rows) + 2
    lines = [f"{usage:<{width}}{text}" for usage, text in rows]
    lines.append('A line that ends with \\ goes on in the next; so does all between two """.')
    lines.append("Ctrl-C stops an answer. A blank before the slash: it is no command.")
    return "\n".join(lines)


def _meant(name: str) -> str:
    close = difflib.get_close_matches(name, (*COMMANDS, *_HIDDEN), n=1)
    return f"; did you mean {close[0]}?" if close else "; /help lists them"


def functions_of(path: str) -> dict[str, Callable[..., Any]]:
    """The functions that a Python file defines, but for those with an underscore."""
    module = "gptoss_tools"
    values = runpy.run_path(str(Path(path).expanduser()), run_name=module)
    functions = [
        value
        for name, value in values.items()
        if inspect.isfunction(value) and value.__module__ == module and not name.startswith("_")
    ]
    if not functions:
        raise ValueError(f"{path} defines no function")
    return named_functions(functions)
