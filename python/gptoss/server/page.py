"""The chat page: a folder of files, served at `/` and below `/page/`."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

if TYPE_CHECKING:
    from gptoss.server.service import Service

_FOLDER = Path(__file__).with_name("page")
_INDEX = "index.html"
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
}

# Everything is the page's own; what DOMPurify has sanitised is the only text that becomes markup.
_POLICY = "; ".join(
    (
        "default-src 'self'",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types dompurify",
    )
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-dns-prefetch-control": "off",  # else the names in an answer's links would be looked up
}


def routes(service: Service) -> list[Route]:
    """Make the routes of the page.

    The files are read once, here, and nothing but them is served. Their addresses hold a hash of
    all of them, so that a browser may keep them for good and still gets every change.

    Parameters
    ----------
    service : Service
        What the other endpoints answer from. The page needs none of it: it is a client of theirs.

    Returns
    -------
    list of Route
        GET of `/` and of `/page/HASH/NAME`.
    """
    files = {
        path.relative_to(_FOLDER).as_posix(): (path.read_bytes(), _TYPES[path.suffix])
        for path in sorted(_FOLDER.rglob("*"))
        if path.suffix in _TYPES
    }
    index = (_FOLDER / _INDEX).read_bytes()
    digest = hashlib.sha256(index)
    for name, (content, _) in files.items():
        digest.update(f"\0{name}\0{len(content)}\0".encode() + content)
    version = digest.hexdigest()[:16]
    index = index.replace(b'"page/', f'"page/{version}/'.encode())
    tag = f'"{version}"'

    async def show_index(request: Request) -> Response:
        headers = {**_HEADERS, "cache-control": "no-cache", "etag": tag}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(index, media_type="text/html; charset=utf-8", headers=headers)

    async def show_file(request: Request) -> Response:
        found = files.get(request.path_params["name"])
        if found is None or request.path_params["version"] != version:
            return Response("not found", 404, _HEADERS, "text/plain")
        content, media_type = found
        headers = {**_HEADERS, "cache-control": "public, max-age=31536000, immutable"}
        return Response(content, media_type=media_type, headers=headers)

    return [
        Route("/", show_index, include_in_schema=False),
        Route("/page/{version}/{name:path}", show_file, include_in_schema=False),
    ]
