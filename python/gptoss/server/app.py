"""The ASGI application."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from gptoss.llm import LLM
from gptoss.openai_requests import RequestError
from gptoss.server import (
    chat,
    completions,
    health,
    messages,
    metrics,
    models,
    openapi,
    page,
    responses,
    tokenize,
)
from gptoss.server.errors import ApiError
from gptoss.server.middleware import Errors, Front, HostCheck, KeyCheck, OriginCheck
from gptoss.server.responding import on_exception
from gptoss.server.service import Measures, Service
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
    service = make_service(settings or ServerSettings())
    service.set_model(llm)
    return make_app(service)


def make_service(settings: ServerSettings, name: str | None = None) -> Service:
    """Make a service without its model, which `set_model` brings."""
    return Service(settings, name, _measures)


def make_app(service: Service) -> Starlette:
    """Make the application of a service, whose model may be loaded later."""
    settings = service.settings
    public = [*health.routes(service), *(page.routes(service) if settings.page else [])]
    private = [
        route
        for module in (chat, responses, messages, completions, models, tokenize, metrics, openapi)
        for route in module.routes(service)
    ]

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await service.end()

    routes = [*public, *private]
    middleware = [Middleware(Front, service=service, routes=routes), Middleware(Errors)]
    if settings.allowed_hosts is not None:
        middleware.append(Middleware(HostCheck, allowed=settings.allowed_hosts))
    if settings.cors_origins:
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=settings.cors_origins,
                allow_methods=["GET", "POST", "DELETE"],
                allow_headers=["*"],
                expose_headers=["x-request-id", "retry-after"],
            )
        )
        middleware.append(Middleware(Errors))  # so that pages may read what is refused below
    if settings.api_keys:
        middleware.append(Middleware(KeyCheck, keys=settings.api_keys, public=public))
    else:
        middleware.append(Middleware(OriginCheck, allowed=settings.cors_origins))
    starlette = Starlette(
        routes=routes,
        middleware=middleware,
        lifespan=lifespan,
        exception_handlers={
            HTTPException: on_exception,
            ApiError: on_exception,
            RequestError: on_exception,
        },
    )
    starlette.router.redirect_slashes = False
    return starlette


def _measures(llm: LLM, model: str) -> Measures:
    # Here, as it takes a while: the port is to answer before that.
    from gptoss.server.measures import Metrics

    return Metrics(llm, model)
