"""Running the server in this process: the port first, then the model."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
import threading
from collections.abc import Callable
from types import FrameType

import uvicorn

from gptoss.llm import LLM
from gptoss.server.app import make_app, make_service
from gptoss.server.service import Service
from gptoss.server.settings import ServerSettings

# After the service has cancelled what was not finished, its last events are sent.
_LAST_EVENTS_S = 5


class _Server(uvicorn.Server):
    """Uvicorn's server; tells the service of a signal, and loads the model once it listens."""

    def __init__(self, config: uvicorn.Config, service: Service, on_start: Callable[[], None]):
        super().__init__(config)
        self._service = service
        self._on_start = on_start
        self._loop: asyncio.AbstractEventLoop | None = None
        self.was_interrupted = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        self._on_start()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Not noted as uvicorn does, which raises the signal again when all is done: SIGTERM would
        # end the process before the model is closed.
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True
        self.was_interrupted |= sig == signal.SIGINT
        if self._loop is not None:
            end = self._service.cancel_all if self.force_exit else self._service.drain
            self._loop.call_soon_threadsafe(end)


def listen(host: str, port: int) -> socket.socket:
    """Open the port.

    Raises
    ------
    OSError
        It is in use, or not allowed.
    ValueError
        There is no such port.
    """
    if not 0 <= port < 2**16:
        raise ValueError(f"the port must be from 0 to 65535, got {port}")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise OSError(f"cannot listen at {host} port {port}: {error.strerror or error}") from error
    listener.setblocking(False)
    return listener


def serve(
    load: Callable[[], LLM],
    listener: socket.socket,
    settings: ServerSettings,
    name: str,
    *,
    quiet: bool = False,
) -> None:
    """Serve until a signal ends it; the model is loaded while the port answers already.

    Parameters
    ----------
    load : callable
        Returns the model; called in a thread of its own.
    listener : socket
        As `listen` opens it.
    settings : ServerSettings
    name : str
        What the model is called before it is there.
    quiet : bool
        Do not say when it is ready.

    Raises
    ------
    Exception
        What `load` has raised.
    KeyboardInterrupt
        Ctrl-C has ended it, after what was running.
    """
    service = make_service(settings, name)
    failed: list[BaseException] = []
    loaded: list[LLM] = []

    def load_model() -> None:
        try:
            loaded.append(load())
            service.set_model(loaded[0])
            if not quiet:
                print(f"gptoss: {loaded[0]!r} is ready", file=sys.stderr, flush=True)
        except BaseException as error:
            failed.append(error)
            server.should_exit = True

    loader = threading.Thread(target=load_model, name="gptoss loading", daemon=True)
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
    config = uvicorn.Config(
        make_app(service),
        log_config=None,
        access_log=False,
        lifespan="on",
        ws="none",
        server_header=False,
        root_path=settings.root_path,
        timeout_graceful_shutdown=int(settings.drain_s) + _LAST_EVENTS_S,
    )
    server = _Server(config, service, loader.start)
    try:
        server.run(sockets=[listener])
    finally:
        for llm in loaded:
            llm.close()
    if failed:
        raise failed[0]
    if server.was_interrupted:
        raise KeyboardInterrupt
