"""/metrics: counters for Prometheus."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gptoss.server.service import Service


def routes(service: Service) -> list[Route]:
    """The endpoints of this module."""

    async def metrics(request: Request) -> Response:
        service.llm  # noqa: B018  a 503 as long as there is none
        # Here, as it takes a while: before the model is loaded nobody needs it.
        from prometheus_client.exposition import choose_encoder

        from gptoss.server.measures import Metrics

        assert isinstance(service.measures, Metrics)
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        data = await service.in_worker(encode, service.measures.registry)
        return Response(data, headers={"content-type": content_type})

    return [Route("/metrics", metrics)]
