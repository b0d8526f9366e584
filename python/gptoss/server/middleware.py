"""What stands before all endpoints: request ids, the access line, hosts, origins and keys."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gptoss.server.errors import ApiError, ClientLeftError, api_error
from gptoss.server.responding import error_response
from gptoss.server.service import RequestLog, Service

_access = logging.getLogger("gptoss.server.access")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class Front:
    """The outermost: gives each request its id, writes its line, and answers what nobody caught."""

    def __init__(self, app: ASGIApp, service: Service, routes: Sequence[Route]) -> None:
        self._app = app
        self._service = service
        self._paths: dict[Any, str] = {route.endpoint: route.path for route in routes}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        known = _REQUEST_ID.fullmatch(given) is not None
        log = RequestLog(given if known else f"req_{secrets.token_hex(12)}")
        scope["gptoss.log"] = log
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = log.request_id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except ClientLeftError:
            status = 499
        except Exception as error:
            if status:
                raise  # it has begun: the connection is cut
            await error_response(api_error(error))(scope, receive, send_with_id)
        finally:
            self._write(scope, log, status)

    def _write(self, scope: Scope, log: RequestLog, status: int) -> None:
        now_s = time.perf_counter()
        handler = self._paths.get(scope.get("endpoint"), "other")
        measures = self._service.measures
        if measures is not None:
            measures.responded(handler, scope["method"], status)
        if not _access.isEnabledFor(logging.INFO):
            return
        client = (scope.get("client") or ("-",))[0]
        path = scope["path"].encode("unicode_escape").decode()[:200]
        parts = [f'{log.request_id} {client} "{scope["method"][:20]} {path}" {status}']
        if log.prompt_tokens:
            parts.append(
                f"prompt={log.prompt_tokens} cached={log.cached_tokens} "
                f"generated={log.completion_tokens}"
            )
        if log.first_token_s is not None:
            parts.append(f"first={log.first_token_s - log.start_s:.3f}s")
        parts.append(f"total={now_s - log.start_s:.3f}s")
        if log.reason:
            parts.append(log.reason)
        _access.info(" ".join(parts))


class HostCheck:
    """Refuses requests that name another host: a page whose own name was made to point here."""

    def __init__(self, app: ASGIApp, allowed: Sequence[str]) -> None:
        self._app = app
        self._allowed = {name.lower() for name in allowed}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not _is_health(scope):
            host = host_name(Headers(scope=scope).get("host", ""))
            if host not in self._allowed and "*" not in self._allowed:
                raise ApiError(
                    403,
                    f"the Host header names {host!r:.100}, which is not served here: the server's "
                    "owner can allow it with --allowed-host",
                    code="host_not_allowed",
                )
        await self._app(scope, receive, send)


class OriginCheck:
    """Refuses requests of pages from elsewhere, which browsers send even if no answer is shown."""

    def __init__(self, app: ASGIApp, allowed: Sequence[str]) -> None:
        self._app = app
        self._allowed = set(allowed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and "*" not in self._allowed:
            headers = Headers(scope=scope)
            origin = headers.get("origin")
            if origin is not None and origin not in self._allowed and not _is_own(origin, headers):
                raise ApiError(
                    403,
                    f"pages of {origin!r:.100} may not use this server: its owner can allow it "
                    "with --cors-origin",
                    code="origin_not_allowed",
                )
        await self._app(scope, receive, send)


class KeyCheck:
    """Asks for a key, but for the public routes."""

    def __init__(self, app: ASGIApp, keys: Sequence[str], public: Sequence[Route]) -> None:
        self._app = app
        self._digests = [_digest(key) for key in keys]
        self._public = list(public)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._is_public(scope):
            headers = Headers(scope=scope)
            scheme, _, key = headers.get("authorization", "").partition(" ")
            if not key and "x-api-key" in headers:  # where Anthropic's clients have it
                scheme, key = "bearer", headers["x-api-key"]
            # All are compared, each in constant time.
            given = _digest(key.strip())
            found = [hmac.compare_digest(given, digest) for digest in self._digests]
            if scheme.lower() != "bearer" or not any(found):
                what = "the API key is not known here" if key else "an API key is needed"
                raise ApiError(
                    401,
                    f"{what}: send it as Authorization: Bearer KEY",
                    code="invalid_api_key",
                    headers={"WWW-Authenticate": "Bearer"},
                )
        await self._app(scope, receive, send)

    def _is_public(self, scope: Scope) -> bool:
        return any(route.matches(scope)[0] is Match.FULL for route in self._public)


class Errors:
    """Answers what the checks below it raise; endpoints have their own handler."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except ApiError as error:
            await error_response(error)(scope, receive, send)


def _is_health(scope: Scope) -> bool:
    """Whether this is asked by what looks after the process, which may call it anything."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", "")).split("/")[1:2] == ["health"]


def host_name(header: str) -> str:
    """The host of a Host header, without the port and the brackets of IPv6."""
    try:
        return (urlsplit(f"//{header}").hostname or "").lower()
    except ValueError:
        return ""


def _is_own(origin: str, headers: Headers) -> bool:
    """Whether a page was loaded from this server, under the name that it uses now."""
    try:
        return urlsplit(origin).netloc.lower() == headers.get("host", "").lower() != ""
    except ValueError:
        return False


def _digest(text: str) -> bytes:
    # Of one length, as compare_digest tells different lengths apart at once.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
