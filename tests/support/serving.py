"""A server in this process, at a port of its own."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import uvicorn

from gptoss.server import ServerSettings, app


@contextlib.contextmanager
def serving(model: Any, **settings: Any) -> Iterator[str]:
    """Serve a model while the block runs; gives the address."""
    config = uvicorn.Config(
        app(model, ServerSettings(**{"drain_s": 0.2, **settings})),
        port=0,
        log_config=None,
        access_log=False,
        lifespan="on",
        ws="none",
        timeout_graceful_shutdown=2,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="server", daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.002)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive(), "the server did not end"
