"""Talk to a model, or ask it one question."""

from __future__ import annotations

import argparse
import contextlib
import inspect
import json
import runpy
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gptoss
from gptoss.chat import ChatDelta, ChatMessage, ChatResult, ToolOutput, run_steps
from gptoss.chat.tools import named_functions
from gptoss.cli import options as shared
from gptoss.engine.sampling import SamplingParams

if TYPE_CHECKING:
    from rich.console import Console

_EFFORTS = ("low", "medium", "high")
_HELP = """\
/effort low|medium|high   how much the model thinks
/tools [FILE.py]          the functions it may call; with a file, those that are in there
/reset                    forget the conversation
/save FILE                write the conversation as JSON
/help                     this
Ctrl-C stops an answer, Ctrl-D leaves."""

# What could move the terminal's cursor, or worse; line feed and tab may pass.
_CONTROLS = {code: "\ufffd" for code in (*range(0x20), *range(0x7F, 0xA0)) if code not in (9, 10)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    shared.add_model_argument(parser)
    parser.add_argument(
        "question",
        metavar="QUESTION",
        nargs="?",
        type=shared.as_text,
        help="answer this and end; - reads stdin, as does none if stdin is no terminal",
    )
    parser.add_argument(
        "--effort", default="medium", choices=_EFFORTS, help="how much the model thinks"
    )
    parser.add_argument("--show-reasoning", action="store_true", help="show what it thinks")
    parser.add_argument("--system", metavar="TEXT", type=shared.as_text, help="instructions")
    parser.add_argument(
        "--tools", metavar="FILE.py", help="run this file; the model may call its functions"
    )
    parser.add_argument("--max-reasoning-tokens", type=int, metavar="N", help="then it must answer")
    parser.add_argument(
        "--json", action="store_true", help="print the answer as OpenAI's API returns it"
    )
    shared.add_sampling_options(parser, without=("ignore_eos", "n", "logprobs"))
    shared.add_loading_options(parser)


def run(options: argparse.Namespace) -> int:
    """Answer the question, or questions until there are no more."""
    params = shared.sampling_params(options)
    tools = {} if options.tools is None else _functions_of(options.tools)
    interactive = options.question is None and sys.stdin.isatty()
    question = None if interactive else shared.read_text(options.question, "QUESTION")
    if interactive and options.json:
        raise ValueError("--json answers one QUESTION: pass one, or - to read it from stdin")
    if question is not None and not question.strip():
        raise ValueError("the QUESTION is empty")
    shared.prepare_stdout()
    with shared.load(options) as llm:
        session = _Session(llm, params, options, tools)
        if question is None:
            session.converse()
        elif options.json:
            print(json.dumps(session.ask(question, _ignore).to_openai()))
        else:
            _answer_once(session, question, options.show_reasoning)
    return 0


class _Session:
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
        self._show_reasoning = options.show_reasoning
        self._instructions: list[ChatMessage] = []
        if options.system is not None:
            self._instructions.append({"role": "system", "content": options.system})
        self._messages = list(self._instructions)
        self._effort = options.effort
        self._tools = tools

    def ask(self, question: str, show: Callable[[ChatDelta | ToolOutput], None]) -> ChatResult:
        """Continue the conversation; an answer that is interrupted stays as far as it came."""
        before = list(self._messages)
        asked = [*before, {"role": "user", "content": question}]
        text = ""
        try:
            steps = self._steps(asked)
            while True:
                try:
                    event = next(steps)
                except StopIteration as end:
                    result: ChatResult = end.value
                    self._messages = list(result.messages)
                    return result
                if isinstance(event, ChatDelta):
                    text += event.text
                show(event)
        except KeyboardInterrupt:
            if text:
                self._messages = [*asked, {"role": "assistant", "content": text}]
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

    # -- at the terminal -----------------------------------------------------------------

    def converse(self) -> None:
        """Answer what is typed, until Ctrl-D."""
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  gives input() its history and line editing
        from rich.console import Console

        console = Console(highlight=False, soft_wrap=True)
        console.print(f"{self._llm.name}. /help lists the commands.", style="dim", markup=False)
        while True:
            try:
                line = shared.as_text(input("> ")).strip()
            except KeyboardInterrupt:
                print()
                continue
            except EOFError:
                print()
                return
            if line.startswith("/"):
                try:
                    console.print(self._command(line), style="dim", markup=False)
                except (OSError, TypeError, ValueError) as error:
                    console.print(f"error: {error}", style="red", markup=False)
            elif line:
                self._answer(line, console)

    def _answer(self, question: str, console: Console) -> None:
        view = _View(console, console, self._show_reasoning)
        try:
            with view:
                result = self.ask(question, view.show)
        except KeyboardInterrupt:
            console.print("(stopped)", style="dim", markup=False)
        except (ValueError, MemoryError) as error:  # such as a conversation that is too long
            console.print(f"error: {error}", style="red", markup=False)
        else:
            line = shared.summary(result.usage, result.timings, result.finish_reason)
            console.print(line, style="dim", markup=False)

    def _command(self, line: str) -> str:
        """Carry out a command; return what to say."""
        name, _, argument = line.partition(" ")
        argument = argument.strip()
        if name == "/effort":
            if argument and argument not in _EFFORTS:
                raise ValueError(f"effort must be one of {', '.join(_EFFORTS)}, got {argument!r}")
            self._effort = argument or self._effort
            return f"effort: {self._effort}"
        if name == "/tools":
            if argument:
                self._tools = _functions_of(argument)
            return f"tools: {', '.join(self._tools) or 'none'}"
        if name == "/reset":
            self._messages = list(self._instructions)
            return "forgotten"
        if name == "/save":
            if not argument:
                raise ValueError("/save needs the name of a file")
            text = json.dumps(self._messages, ensure_ascii=False, indent=2)
            Path(argument).expanduser().write_text(text + "\n", encoding="utf-8")
            return f"saved {len(self._messages)} messages to {argument}"
        if name == "/help":
            return _HELP
        raise ValueError(f"there is no command {name}\n{_HELP}")


class _View:
    """Prints an answer as it comes: what is for the user to `out`, the rest, dimmed, to `aside`.

    As a context manager it ends with a complete line.
    """

    def __init__(self, out: Console, aside: Console, show_reasoning: bool) -> None:
        self._out = out
        self._aside = aside
        self._show_reasoning = show_reasoning
        self._kind = ""  # of what stands in the line that is not complete
        self._status = aside.status("thinking", spinner_style="dim")

    def __enter__(self) -> _View:
        if self._aside.is_terminal:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()
        self._end_line()

    def show(self, event: ChatDelta | ToolOutput) -> None:
        """Print one piece."""
        if isinstance(event, ToolOutput):
            call = event.call
            self._write("call", f"{call.name}({call.arguments})", aside=True)
            self._write("output", event.text, aside=True)
        elif event.kind == "reasoning" and self._show_reasoning:
            self._write("reasoning", event.reasoning, aside=True)
        elif event.kind in ("preamble", "text"):
            self._write(event.kind, event.preamble + event.text)

    def _write(self, kind: str, text: str, *, aside: bool = False) -> None:
        from rich.text import Text

        self._status.stop()
        if kind != self._kind:
            self._end_line()
        self._kind = kind
        console = self._aside if aside else self._out
        if console.is_terminal:
            shown = Text(text.translate(_CONTROLS), style="dim" if aside else "")
            console.print(shown, end="", soft_wrap=True)
        else:  # as it is: rich would replace tabs
            console.file.write(text)
            console.file.flush()

    def _end_line(self) -> None:
        if self._kind:
            (self._out if self._kind in ("preamble", "text") else self._aside).print()
            self._kind = ""


def _answer_once(session: _Session, question: str, show_reasoning: bool) -> None:
    """Print the answer on stdout, and all else on stderr."""
    from rich.console import Console

    out = Console(highlight=False)
    with _View(out, Console(stderr=True, highlight=False), show_reasoning) as view:
        result = session.ask(question, view.show)
    print(shared.summary(result.usage, result.timings, result.finish_reason), file=sys.stderr)


def _ignore(event: ChatDelta | ToolOutput) -> None:
    del event


def _functions_of(path: str) -> dict[str, Callable[..., Any]]:
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
