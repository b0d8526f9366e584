"""Serve a model under OpenAI's API.

The port answers at once, with 503 until the model is loaded. Without options only this machine
reaches it.
"""

from __future__ import annotations

import argparse
import sys

from gptoss.cli import options as shared


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    shared.add_model_argument(parser)
    parser.add_argument("--host", default="127.0.0.1", metavar="NAME", help="where to listen")
    parser.add_argument(
        "--port", type=int, default=8000, metavar="N", help="0 takes one that is free"
    )
    shared.add_quiet_option(parser)
    shared.add_loading_options(parser)


def run(options: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM."""
    from gptoss.server.run import listen, serve
    from gptoss.server.settings import ServerSettings

    name = shared.model_name(options)
    shared.confirm_download(name, options)
    settings = ServerSettings()
    listener = listen(options.host, options.port)
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    if not options.quiet:
        print(f"gptoss: serving {name} at http://{shown}:{port}/v1", file=sys.stderr, flush=True)
    serve(lambda: shared.load_named(name, options), listener, settings, name)
    return 0
