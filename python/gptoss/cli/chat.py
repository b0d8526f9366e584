"""Talk to a model, or ask it one question."""

from __future__ import annotations

import argparse
import json
import sys

from gptoss.chat import ChatDelta, ToolOutput
from gptoss.cli import options as shared
from gptoss.cli.conversation import EFFORTS, Conversation, Session, functions_of
from gptoss.cli.view import View


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
        "--effort", default="medium", choices=EFFORTS, help="how much the model thinks"
    )
    parser.add_argument("--show-reasoning", action="store_true", help="show what it thinks")
    parser.add_argument("--system", metavar="TEXT", type=shared.as_text, help="instructions")
    parser.add_argument(
        "--tools",
        metavar="FILE.py",
        help="a file with Python functions that the model may call; it is run",
    )
    parser.add_argument(
        "--max-reasoning-tokens", type=int, metavar="N", help="think so long at most, then answer"
    )
    parser.add_argument(
        "--json", action="store_true", help="print the answer as OpenAI's API returns it"
    )
    parser.add_argument(
        "--plain", action="store_true", help="do not render Markdown on the terminal"
    )
    shared.add_quiet_option(parser)
    shared.add_sampling_options(parser, without=("ignore_eos", "n", "logprobs"))
    shared.add_loading_options(parser)


def run(options: argparse.Namespace) -> int:
    """Answer the question, or questions until there are no more."""
    from rich.console import Console

    shared.check_model_argument(options, "chat")
    params = shared.sampling_params(options)
    tools = {} if options.tools is None else functions_of(options.tools)
    interactive = options.question is None and sys.stdin.isatty()
    question = None if interactive else shared.read_text(options.question, "QUESTION")
    if interactive and options.json:
        raise ValueError("--json answers one QUESTION: pass one, or - to read it from stdin")
    if question is not None and not question.strip():
        raise ValueError("the QUESTION is empty")
    with shared.load(options) as llm:
        if question is None:
            console = Console(highlight=False)
            Conversation(llm, params, options, tools).run(console)
        elif options.json:
            answer = Session(llm, params, options, tools).ask(question, _ignore)
            print(json.dumps(answer.to_openai()))
        else:
            _answer_once(Session(llm, params, options, tools), question, options)
    return 0


def _answer_once(session: Session, question: str, options: argparse.Namespace) -> None:
    """Print the answer on stdout, and all else on stderr."""
    from rich.console import Console

    view = View(
        Console(highlight=False),
        Console(stderr=True, highlight=False),
        show_reasoning=options.show_reasoning,
        markdown=not options.plain,
        quiet=options.quiet,
    )
    with view:
        result = session.ask(question, view.show)
    if not options.quiet:
        line = shared.summary(result.usage, result.timings, result.finish_reason)
        print(line, file=sys.stderr)


def _ignore(event: ChatDelta | ToolOutput) -> None:
    del event
