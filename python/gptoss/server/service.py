"""What all endpoints share: the model, its queue, a pool of workers, and deadlines."""

from __future__ import annotations

import asyncio
import functools
import json
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from gptoss.chat import ChatStream
from gptoss.engine.outputs import Usage
from gptoss.llm import LLM
from gptoss.server.errors import (
    ApiError,
    ClientLeftError,
    bad_request,
    busy,
    timed_out,
    unavailable,
)
from gptoss.server.settings import ServerSettings

_T = TypeVar("_T")

# Threads that tokenize, render and compile. Several, so that a long prompt does not hold up short
# ones; few, as each takes time from the engine's own threads.
_WORKERS = 4
# From so many bytes on, JSON is parsed and checked by a worker: a megabyte takes ten milliseconds.
_BIG_JSON_BYTES = 64 * 1024
_MAX_DIGITS = 18  # of a Content-Length: what is longer is too long in any case
# A body that stops coming is given up on after so many seconds.
_BODY_TIMEOUT_S = 60.0


@dataclass
class RequestLog:
    """What the access line says about a request, besides its path and status.

    Attributes
    ----------
    request_id : str
        In the `x-request-id` header as well.
    start_s : float
        When it began, on the clock of time.perf_counter().
    first_token_s : float, optional
        When its first token came, on the same clock.
    prompt_tokens, cached_tokens, completion_tokens : int
        What it took.
    reason : str
        Why it ended.
    """

    request_id: str
    start_s: float = field(default_factory=time.perf_counter)
    first_token_s: float | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reason: str = ""


class Measures:
    """What is counted and timed of requests; this one does not."""

    def first_token(self, seconds: float) -> None:
        """A request has its first token."""

    def next_token(self, seconds: float) -> None:
        """A sample has one more token."""

    def finished(
        self, reason: str, seconds: float, prompt_tokens: int, generated_tokens: int
    ) -> None:
        """A request was answered."""

    def responded(self, handler: str, method: str, status: int) -> None:
        """A response was sent."""


class Service:
    """The model and what its requests share; the endpoints' only argument.

    Parameters
    ----------
    settings : ServerSettings
    name : str, optional
        What the model is called before it is there.
    make_measures : callable
        Makes, of the model and its name, what counts its requests.

    Attributes
    ----------
    accepting : bool
        Whether requests are begun; False once the server was told to end.
    measures : Measures
        Where requests are counted.
    """

    def __init__(
        self,
        settings: ServerSettings,
        name: str | None = None,
        make_measures: Callable[[LLM, str], Measures] | None = None,
    ) -> None:
        self.settings = settings
        self.accepting = True
        self.created = int(time.time())
        self._llm: LLM | None = None
        self._name = name
        self._make_measures = make_measures
        self._workers: ThreadPoolExecutor | None = None
        self.measures = Measures()
        self._places = 0  # of the queue, that are taken
        self._tasks: set[asyncio.Task[Any]] = set()
        self._on_close: list[Callable[[], None]] = []

    # -- the model -----------------------------------------------------------------------

    @property
    def llm(self) -> LLM:
        """The model; raises a 503 before it is loaded, and once the server ends."""
        if not self.accepting:
            raise unavailable("the server is shutting down", "shutting_down")
        if self._llm is None:
            raise unavailable("the model is being loaded", "model_loading")
        return self._llm

    @property
    def is_ready(self) -> bool:
        """Whether requests are answered."""
        return self.accepting and self._llm is not None

    def set_model(self, llm: LLM) -> None:
        """Begin to answer; may be called from any thread.

        Raises
        ------
        ValueError
            An adapter has a name of the model.
        """
        served = self.settings.served_model_names or (_short_name(llm.name),)
        twice = set(served) & set(llm.adapters)
        if twice:
            raise ValueError(f"{twice.pop()!r} is the name of the model: call the adapter another")
        if self._make_measures is not None:
            name = (self.settings.served_model_names or (_short_name(llm.name),))[0]
            self.measures = self._make_measures(llm, name)
        self._llm = llm

    @property
    def model_names(self) -> tuple[str, ...]:
        """What clients may call the model; the first is what answers say."""
        if self.settings.served_model_names:
            return self.settings.served_model_names
        name = self._name if self._llm is None else self._llm.name
        return (_short_name(name or "model"),)

    @property
    def adapter_names(self) -> tuple[str, ...]:
        """The adapters, which clients name like models; none before the model is there."""
        names = () if self._llm is None else self._llm.adapters
        return tuple(name for name in names if name not in self.model_names)

    def check_model(self, name: str | None) -> None:
        """Raise a 404 for a model that is not served."""
        names = (*self.model_names, *self.adapter_names)
        if name is not None and name not in names:
            raise ApiError(
                404,
                f"there is no model {name!r:.100} here, only {', '.join(names)}",
                param="model",
                code="model_not_found",
            )

    # -- work ----------------------------------------------------------------------------

    async def in_worker(self, function: Callable[..., _T], *args: Any, **named: Any) -> _T:
        """Call a function in a worker: whatever takes more than a millisecond."""
        if self._workers is None:
            self._workers = ThreadPoolExecutor(_WORKERS, "gptoss server")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._workers, functools.partial(function, *args, **named)
        )

    def call(self, request: Request, model: str | None = None) -> Call:
        """Begin to answer a request for a model; raises a 404 or 503 if it is not there."""
        self.check_model(model)
        return Call(self, request, self.llm, model)

    def take_places(self, count: int, what: str) -> None:
        """Take places of the queue; raises a 429 if they are not free."""
        all_places = self.llm.max_sequences + self.settings.max_waiting
        if count > all_places:
            raise ApiError(
                400, f"{what} needs {count} places, and the server has {all_places}", param=what
            )
        if self._places + count > all_places:
            raise busy(
                f"{self._places} samples are computed or wait, of at most {all_places}: try again"
            )
        self._places += count

    def free_places(self, count: int) -> None:
        """Give places back."""
        self._places -= count

    # -- the end -------------------------------------------------------------------------

    def add_task(self, task: asyncio.Task[Any]) -> None:
        """Have a task cancelled when the server stops waiting for it."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def drain(self) -> None:
        """Begin nothing new; cancel what is not finished after `drain_s`."""
        if self.accepting:
            self.accepting = False
            asyncio.get_running_loop().call_later(self.settings.drain_s, self.cancel_all)

    def cancel_all(self) -> None:
        """Cancel what runs; clients are told that the server ends."""
        for task in list(self._tasks):
            task.cancel()

    def on_close(self, function: Callable[[], None]) -> None:
        """Have a function called at the end, after the workers."""
        self._on_close.append(function)

    async def end(self) -> None:
        """Wait for what runs, for at most `drain_s` since `drain`, and close."""
        self.drain()
        if self._tasks:
            await asyncio.wait(set(self._tasks))
        self.close()

    def close(self) -> None:
        """End the workers, and what was opened; the model is the caller's."""
        if self._workers is not None:
            self._workers.shutdown(wait=False, cancel_futures=True)
            self._workers = None
        for function in self._on_close:
            function()


class Call:
    """A request while it is answered: its places in the queue and its deadline.

    Attributes
    ----------
    llm : LLM
        The model that answers it.
    model : str
        What the answer calls it: the adapter that was asked for, or the model's first name.
    log : RequestLog
        For the access line.
    """

    def __init__(
        self, service: Service, request: Request, llm: LLM, model: str | None = None
    ) -> None:
        self.service = service
        self.request = request
        self.llm = llm
        self.set_model(model)
        self.log: RequestLog = request.scope.get("gptoss.log") or RequestLog("")
        self._places = 0
        self._last_s: dict[int, float] = {}  # when each sample had its last token
        timeout_s = service.settings.timeout_s
        self.deadline_s = None if timeout_s is None else time.monotonic() + timeout_s

    def set_model(self, model: str | None) -> None:
        """Take what was asked for, which `Service.check_model` has let through."""
        names = self.service.model_names
        adapter = None if model is None or model in names else model
        self.model = adapter or names[0]
        # What the methods of `LLM` are to be given more.
        self.adapter: dict[str, Any] = {} if adapter is None else {"adapter": adapter}

    def __enter__(self) -> Call:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def admit(self, cost: int, param: str) -> None:
        """Take so many places of the queue, until `release`; raises a 429."""
        self.service.take_places(cost, param)
        self._places += cost

    def release(self) -> None:
        """Give the places back; may be called again."""
        places, self._places = self._places, 0
        self.service.free_places(places)

    def saw_token(self, sample: int = 0) -> None:
        """Note that a token has come."""
        now_s = time.perf_counter()
        before_s = self._last_s.get(sample)
        self._last_s[sample] = now_s
        if before_s is not None:
            self.service.measures.next_token(now_s - before_s)
        elif self.log.first_token_s is None:
            self.saw_first(now_s - self.log.start_s)

    def saw_first(self, seconds: float) -> None:
        """Note when the first token has come, after the beginning."""
        self.log.first_token_s = self.log.start_s + seconds
        self.service.measures.first_token(seconds)

    def finish(self, usage: Usage, reason: str) -> None:
        """Note that the answer is whole."""
        log = self.log
        log.prompt_tokens, log.completion_tokens = usage.prompt_tokens, usage.completion_tokens
        log.cached_tokens, log.reason = usage.cached_tokens, reason
        self.service.measures.finished(
            reason,
            time.perf_counter() - log.start_s,
            usage.prompt_tokens,
            usage.completion_tokens,
        )

    @property
    def left_s(self) -> float | None:
        """Seconds until the deadline."""
        return None if self.deadline_s is None else max(0.0, self.deadline_s - time.monotonic())

    def timeout(self) -> ApiError:
        """The error of a deadline that has passed."""
        return timed_out(self.service.settings.timeout_s or 0.0)

    async def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Await something that ends when the client leaves, or the time is over.

        Raises
        ------
        ApiError
            504 at the deadline, 503 if the server ends first.
        ClientLeftError
            The client has left.
        """
        task = asyncio.create_task(work)
        left = asyncio.create_task(until_left(self.request))
        self.service.add_task(task)
        try:
            done, _ = await asyncio.wait(
                {task, left}, timeout=self.left_s, return_when=asyncio.FIRST_COMPLETED
            )
            if task in done:
                if task.cancelled():
                    raise unavailable("the server is shutting down", "shutting_down")
                return task.result()
            if left in done:
                raise ClientLeftError
            raise self.timeout()
        finally:
            task.cancel()
            left.cancel()
            await asyncio.gather(task, left, return_exceptions=True)

    async def check(self, function: Callable[..., _T], *args: Any, **named: Any) -> _T:
        """Call in a worker what checks the request: its ValueErrors are the client's.

        Raises
        ------
        ApiError, ClientLeftError
            400 for ValueError and TypeError, and as `run`.
        """
        try:
            return await self.run(self.service.in_worker(function, *args, **named))
        except (ValueError, TypeError) as error:
            raise bad_request(error) from error

    async def begin_chat(self, messages: list[Any], **chat: Any) -> ChatStream:
        """Check a conversation and begin to answer it; the parameters are those of `LLM.chat`."""
        return await self.check(self.llm.chat, messages, stream=True, **chat, **self.adapter)


async def until_left(request: Request) -> None:
    """Wait until the client closes the connection; its body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def read_json(service: Service, request: Request) -> dict[str, Any]:
    """Read the body of a request, a JSON object.

    Raises
    ------
    ApiError
        400 if it is none, 413 if it is too long, 415 if it is compressed, 408 if it stops coming.
    """
    return await read_request(service, request, lambda body: body)


async def read_request(
    service: Service, request: Request, check: Callable[[dict[str, Any]], _T]
) -> _T:
    """Read the body of a request, a JSON object, and check it; long ones in a worker.

    Raises
    ------
    ApiError
        As `read_json`, and 400 for the ValueErrors and TypeErrors of `check`.
    """
    if request.headers.get("content-encoding", "identity") != "identity":
        raise ApiError(415, "send the body as it is, without content-encoding")
    limit = service.settings.max_body_bytes
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and (len(declared) > _MAX_DIGITS or int(declared) > limit):
        raise _too_long(limit)
    try:
        data = await asyncio.wait_for(_read_body(request, limit), _BODY_TIMEOUT_S)
    except asyncio.TimeoutError:
        raise ApiError(408, f"the body did not come within {_BODY_TIMEOUT_S:g} s") from None
    except ClientDisconnect:
        raise ClientLeftError from None

    def work() -> _T:
        body = _parse_object(data)
        try:
            return check(body)
        except (ValueError, TypeError) as error:
            raise bad_request(error) from error

    return work() if len(data) < _BIG_JSON_BYTES else await service.in_worker(work)


def _parse_object(data: bytes) -> dict[str, Any]:
    try:
        value = parse_json(data)
    except RecursionError:
        raise ApiError(400, "the body is JSON that is nested too deeply") from None
    except ValueError as error:
        raise ApiError(400, f"the body is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise ApiError(400, f"the body must be a JSON object, got {value!r:.100}")
    return value


async def _read_body(request: Request, limit: int) -> bytes:
    pieces = bytearray()
    async for piece in request.stream():
        pieces += piece
        if len(pieces) > limit:
            raise _too_long(limit)
    return bytes(pieces)


def _too_long(limit: int) -> ApiError:
    return ApiError(
        413,
        f"the body is longer than {limit} bytes",
        code="request_too_large",
        headers={"Connection": "close"},
    )


def parse_json(data: bytes) -> Any:
    """Parse JSON as its standard has it: NaN, infinity and 1e999 are no numbers."""
    return json.loads(data, parse_constant=_no_number, parse_float=_finite)


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        _no_number(text)
    return value


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number")


def _short_name(name: str) -> str:
    """A Hub id as it is, of a folder its last part: clients are not told where it lies."""
    path = PurePath(name)
    is_id = not path.is_absolute() and len(path.parts) <= 2 and path.parts[:1] != ("..",)
    return name if is_id else path.name or name
