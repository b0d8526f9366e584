"""Errors as the OpenAI API has them: a status, and a body that says what is wrong."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

from gptoss.errors import BackendError, ContextLengthError
from gptoss.openai_requests import CHAT, COMPLETION, RequestError
from gptoss.openai_requests.fields import one_line

_log = logging.getLogger("gptoss.server")

RETRY_AFTER_S = 1
_FIELD = re.compile(r"([a-z_]+)(?:\[\d+\]|\.\w+)*")


class ApiError(Exception):
    """What a client is told instead of an answer.

    Attributes
    ----------
    status : int
        HTTP's.
    headers : dict of str to str
        More of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
        self._type = type
        self._param = param
        self._code = code

    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        return {
            "error": {
                "message": str(self),
                "type": self._type,
                "param": self._param,
                "code": self._code,
            }
        }


class ClientLeftError(Exception):
    """The client has closed the connection: nobody reads an answer."""


def busy(message: str) -> ApiError:
    """The queue is full."""
    return ApiError(
        429,
        message,
        type="rate_limit_error",
        code="queue_full",
        headers={"Retry-After": str(RETRY_AFTER_S)},
    )


def unavailable(message: str, code: str) -> ApiError:
    """The model is not there yet, or not any more."""
    return ApiError(
        503,
        message,
        type="server_error",
        code=code,
        headers={"Retry-After": str(RETRY_AFTER_S)},
    )


def timed_out(seconds: float) -> ApiError:
    """The deadline has passed."""
    return ApiError(
        504,
        f"the request was not finished after {seconds:g} s",
        type="server_error",
        code="timeout",
    )


def bad_request(error: Exception) -> ApiError:
    """What was raised while a request was checked, in terms of the API.

    ValueError and TypeError are what the request's author did; anything else is `api_error`'s.
    """
    if isinstance(error, ContextLengthError):
        return ApiError(400, one_line(error), param="messages", code="context_length_exceeded")
    if isinstance(error, RequestError):
        return ApiError(400, one_line(error), param=error.param, code=error.code)
    if isinstance(error, (ValueError, TypeError)):
        return ApiError(400, one_line(error), param=_param(str(error)))
    return api_error(error)


def api_error(error: BaseException) -> ApiError:
    """What was raised once a request was accepted, in terms of the API."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, RequestError):
        return bad_request(error)
    if isinstance(error, ImportError):  # of what holds answers to a schema
        return ApiError(501, one_line(error), type="server_error", code="not_installed")
    if isinstance(error, MemoryError):
        return unavailable("there is no memory for this request now", "out_of_memory")
    if isinstance(error, BackendError):
        _log.error("the engine failed: %s", one_line(error))
        return ApiError(500, one_line(error), type="server_error", code="engine_error")
    _log.error("unexpected error", exc_info=error)
    return ApiError(500, "internal error: the log has it", type="server_error")


def _param(message: str) -> str | None:
    """The field that a message of the library begins with, as in "messages[0]: …"."""
    found = _FIELD.match(message)
    return found[0] if found is not None and (found[1] in CHAT or found[1] in COMPLETION) else None
