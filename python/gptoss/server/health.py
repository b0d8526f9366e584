"""/health: whether requests are answered."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gptoss.server.errors import RETRY_AFTER_S
from gptoss.server.responding import JsonResponse
from gptoss.server.service import Service


def routes(service: Service) -> list[Route]:
    """The endpoints of this module."""

    async def ready(request: Request) -> Response:
        if service.is_ready:
            return JsonResponse({"status": "ok"})
        status = "loading" if service.accepting else "shutting_down"
        return JsonResponse({"status": status}, 503, {"Retry-After": str(RETRY_AFTER_S)})

    async def live(request: Request) -> Response:
        return JsonResponse({"status": "ok"})

    return [Route("/health", ready), Route("/health/live", live)]
