"""The ASGI application."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.exceptions import HTTPException

from gptoss.llm import LLM
from gptoss.server import chat, health, responses
from gptoss.server.errors import ApiError, ClientLeftError
from gptoss.server.responding import on_exception
from gptoss.server.service import Service
from gptoss.server.settings import ServerSettings


def app(llm: LLM, settings: ServerSettings | None = None) -> Starlette:
    """Make an ASGI application that answers with a model, to serve or to mount in another.

    Parameters
    ----------
    llm : LLM
        Stays the caller's, who closes it after the application has ended.
    settings : ServerSettings, optional
        None means the defaults: no key is asked for, and the Host header is not looked at.

    Returns
    -------
    starlette.applications.Starlette
        It needs no lifespan events, so that it can be mounted.
    """
    return make_app(Service(llm, settings or ServerSettings()))


def make_app(service: Service) -> Starlette:
    """Make the application of a service, whose model may be loaded later."""
    routes = [*chat.routes(service), *responses.routes(service), *health.routes(service)]

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await service.end()

    starlette = Starlette(
        routes=routes,
        lifespan=lifespan,
        exception_handlers={
            HTTPException: on_exception,
            ApiError: on_exception,
            ClientLeftError: on_exception,
            Exception: on_exception,
        },
    )
    starlette.router.redirect_slashes = False
    return starlette
