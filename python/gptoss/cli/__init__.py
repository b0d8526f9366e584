"""The command `gptoss`."""

from __future__ import annotations

import argparse
import inspect
import os
import sys
from collections.abc import Sequence
from typing import Any

from gptoss.cli import batch, bench, chat, convert, doctor, generate, info, serve, verify
from gptoss.cli.options import prepare_stdout
from gptoss.cli.parser import CommandParser
from gptoss.errors import BackendError

# One module per command; each has add_arguments(parser) and run(options) -> exit code.
_COMMANDS: dict[str, Any] = {
    "chat": chat,
    "generate": generate,
    "serve": serve,
    "batch": batch,
    "bench": bench,
    "info": info,
    "doctor": doctor,
    "verify": verify,
    "convert": convert,
}

_FAILED = 2
_INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it

# What a user can cause. Anything else is a mistake in gptoss and shows its traceback.
_USER_ERRORS = (BackendError, MemoryError, OSError, TypeError, ValueError)


def make_parser() -> CommandParser:
    """Make the parser of the whole command line."""
    parser = CommandParser(
        prog="gptoss", description="Run OpenAI's gpt-oss models on this machine."
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, command in _COMMANDS.items():
        about = inspect.cleandoc(command.__doc__ or "")
        added = commands.add_parser(
            name,
            help=about.partition("\n")[0],
            description=about,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(added)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; None takes those of the process.

    Returns
    -------
    int
        0, or 2 for an error (one line on stderr), or 130 for Ctrl-C.
    """
    prepare_stdout()
    parser = make_parser()
    options = parser.parse_args(argv)
    if options.version:
        import gptoss

        print(f"gptoss {gptoss.__version__}")
        return 0
    if options.command is None:
        parser.print_help(sys.stderr)
        return _FAILED
    try:
        code: int = _COMMANDS[options.command].run(options)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output has had enough. Python would complain once more at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _FAILED
    except _USER_ERRORS as error:
        text = " ".join(str(error).split()) or type(error).__name__
        print(f"gptoss: error: {text}", file=sys.stderr)
        return _FAILED
