"""/v1/models: the one model, under each of its names, and its adapters."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gptoss.server.responding import JsonResponse
from gptoss.server.service import Service


def routes(service: Service) -> list[Route]:
    """The endpoints of this module."""

    def model(name: str) -> dict[str, Any]:
        found = {
            "id": name,
            "object": "model",
            "created": service.created,
            "owned_by": "gptoss",
            "root": service.model_names[0],
            "parent": service.model_names[0] if name in service.adapter_names else None,
        }
        if service.is_ready:
            found["max_model_len"] = service.llm.context_length
        return found

    async def list_all(request: Request) -> Response:
        names = (*service.model_names, *service.adapter_names)
        return JsonResponse({"object": "list", "data": [model(name) for name in names]})

    async def retrieve(request: Request) -> Response:
        name = request.path_params["name"]
        service.check_model(name)
        return JsonResponse(model(name))

    return [Route("/v1/models", list_all), Route("/v1/models/{name:path}", retrieve)]
