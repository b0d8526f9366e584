"""JSON responses, and errors as responses."""

from __future__ import annotations

from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from gptoss.server.errors import ApiError, ClientLeftError, api_error
from gptoss.server.streams import json_bytes

# What nginx notes for a client that has left; nobody reads it but the log.
_CLIENT_LEFT = 499


class JsonResponse(Response):
    """A JSON body, whatever characters its texts have."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Serialise."""
        return json_bytes(content)


def bytes_response(data: bytes) -> Response:
    """JSON that was made elsewhere."""
    return Response(data, media_type="application/json")


def error_response(error: ApiError) -> JsonResponse:
    """An error as a response."""
    return JsonResponse(error.body(), error.status, error.headers)


async def on_exception(request: Request, error: Exception) -> Response:
    """Turn whatever an endpoint raised into a response."""
    if isinstance(error, ClientLeftError):
        return Response(status_code=_CLIENT_LEFT)
    if isinstance(error, HTTPException):
        return error_response(_http_error(request, error))
    return error_response(api_error(error))


def _http_error(request: Request, error: HTTPException) -> ApiError:
    """Starlette's own: a path that is not there, a method that it does not have."""
    path = request.url.path
    if error.status_code == 404:
        return ApiError(404, f"there is nothing at {path!r:.200}", code="not_found")
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        return ApiError(
            405,
            f"{path!r:.200} takes {allowed}, not {request.method!r:.20}",
            code="method_not_allowed",
            headers=error.headers,
        )
    return ApiError(error.status_code, error.detail, headers=error.headers)
