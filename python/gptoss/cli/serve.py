"""Serve a model under OpenAI's API.

The port answers at once, with 503 until the model is loaded. Without --host only this machine
reaches it; elsewhere a key is needed. Ctrl-C and SIGTERM end it once the running requests are
answered, a second Ctrl-C at once. docs/server.md has the endpoints and their fields.
"""

from __future__ import annotations

import argparse
import ipaddress
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptoss.cli import options as shared

if TYPE_CHECKING:
    from gptoss.server.settings import ServerSettings

_KEY_VARIABLE = "GPTOSS_API_KEY"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
# Options that are a field of ServerSettings each, by the option's name.
_SETTINGS = {
    "served_model_name": "served_model_names",
    "max_waiting": "max_waiting",
    "timeout": "timeout_s",
    "cors_origin": "cors_origins",
    "root_path": "root_path",
    "reasoning": "reasoning",
    "stream_interval": "stream_interval",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    shared.add_model_argument(parser)
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="NAME",
        help="the address to listen at; 0.0.0.0 is all of this machine's",
    )
    parser.add_argument(
        "--port", type=int, default=8000, metavar="N", help="0 takes one that is free"
    )
    parser.add_argument(
        "--api-key",
        action="append",
        metavar="KEY",
        help=f"requests need it; may be repeated. Others on this machine see arguments: "
        f"{_KEY_VARIABLE} and --api-key-file hide it",
    )
    parser.add_argument(
        "--api-key-file", metavar="FILE", help="a file with a key in each line; # begins a comment"
    )
    parser.add_argument(
        "--no-auth", action="store_true", help="ask for no key where others can reach the port"
    )
    parser.add_argument(
        "--served-model-name",
        action="append",
        metavar="NAME",
        help="what clients call the model; may be repeated. By default the Hub id, or the "
        "folder's name",
    )
    parser.add_argument(
        "--max-waiting",
        type=int,
        metavar="N",
        help="most samples that wait; others are refused with 429 (default 256)",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        metavar="SECONDS",
        help="most that a request may take, waiting included; by default there is no limit",
    )
    parser.add_argument(
        "--cors-origin",
        action="append",
        metavar="ORIGIN",
        help="pages of this origin may use the server (https://example.org; * is all); may be "
        "repeated",
    )
    parser.add_argument(
        "--allowed-host",
        action="append",
        metavar="NAME",
        help="a name under which clients reach the server, besides this machine's own; may be "
        "repeated",
    )
    parser.add_argument(
        "--root-path", metavar="PATH", help="where a proxy has put the server, such as /llm"
    )
    parser.add_argument(
        "--reasoning",
        choices=("show", "hide"),
        help="hide never sends what the model thinks (default show)",
    )
    parser.add_argument(
        "--stream-interval",
        type=int,
        metavar="N",
        help="send N tokens of a stream at a time, for many clients (default 1)",
    )
    parser.add_argument(
        "--store",
        metavar="FILE",
        help="keep responses in this SQLite file, and not only in memory; made if it is not there",
    )
    parser.add_argument(
        "--max-sequences",
        type=int,
        metavar="N",
        help="most samples that are computed at a time (default 16)",
    )
    parser.add_argument(
        "--max-step-tokens",
        type=int,
        metavar="N",
        help="most new tokens in a step of the engine (default 512)",
    )
    parser.add_argument("--no-page", action="store_true", help="leave out the chat page at /")
    parser.add_argument(
        "--quiet", "-q", action="store_true", help="no line for each request, nor at the beginning"
    )
    shared.add_loading_options(parser)


def run(options: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM."""
    settings = settings_of(options)
    try:
        from gptoss.server.run import listen, serve
    except ImportError as error:
        raise ValueError(
            f"the server needs {error.name}: pip install 'gptoss-native[server]'"
        ) from error
    name = shared.model_name(options)
    shared.confirm_download(name, options)
    more = {
        option: getattr(options, option)
        for option in ("max_sequences", "max_step_tokens")
        if getattr(options, option) is not None
    }
    _prepare_log(quiet=options.quiet)
    with listen(options.host, options.port) as listener:
        host, port = listener.getsockname()[:2]
        if not options.quiet:
            shown = f"[{host}]" if ":" in host else host
            print(f"gptoss: {name} at http://{shown}:{port}/v1", file=sys.stderr, flush=True)
        serve(
            lambda: shared.load_named(name, options, **more),
            listener,
            settings,
            name,
            quiet=options.quiet,
        )
    return 0


def settings_of(options: argparse.Namespace) -> ServerSettings:
    """The server's settings, as the options say.

    Raises
    ------
    ValueError
        They contradict each other, or would let others in without a key.
    """
    from gptoss.server.settings import ServerSettings

    keys = _keys(options)
    is_local = _is_loopback(options.host)
    if keys and options.no_auth:
        raise ValueError("--no-auth does not go with a key")
    if not (keys or is_local or options.no_auth):
        raise ValueError(
            f"others can reach {options.host}: pass --api-key-file or set {_KEY_VARIABLE}, or say "
            "--no-auth if nobody is to be kept out"
        )
    if not (keys or is_local):
        print(
            f"gptoss: warning: whoever can reach {options.host} can use this server (--no-auth)",
            file=sys.stderr,
        )
    values: dict[str, Any] = {}
    for option, name in _SETTINGS.items():
        value = getattr(options, option)
        if value is not None:
            values[name] = tuple(value) if isinstance(value, list) else value
    if options.store is not None:
        values["store_path"] = Path(options.store)
    hosts = tuple(options.allowed_host or ())
    if is_local:
        hosts = (*_LOOPBACK, options.host, *hosts)
    values["page"] = not options.no_page
    return ServerSettings(api_keys=keys, allowed_hosts=hosts or None, **values)


def _keys(options: argparse.Namespace) -> tuple[str, ...]:
    keys = list(options.api_key or ())
    if variable := os.environ.get("GPTOSS_API_KEY"):
        keys.append(variable)
    if options.api_key_file is not None:
        text = Path(options.api_key_file).read_text(encoding="utf-8")
        lines = [line.partition("#")[0].strip() for line in text.splitlines()]
        found = [line for line in lines if line]
        if not found:
            raise ValueError(f"{options.api_key_file} has no key in it")
        keys += found
    return tuple(dict.fromkeys(keys))


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _prepare_log(*, quiet: bool) -> None:
    """Send what the server logs to stderr: errors, and a line for each request."""
    log = logging.getLogger("gptoss.server")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.WARNING if quiet else logging.INFO)
    log.propagate = False
