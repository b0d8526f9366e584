"""OpenAI's batch files: requests as JSON lines in, responses as JSON lines out, in their order."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptoss.llm import LLM
from gptoss.openai_requests import answer_chat, answer_completion, error_body

# Requests with the engine at a time: those that run, and as many that wait, so that it never runs
# dry.
IN_FLIGHT = 32
# A slow request holds back the lines behind it: so many times the requests in flight may wait.
_AHEAD = 32

_ANSWERS = {"/v1/chat/completions": answer_chat, "/v1/completions": answer_completion}
_OK = 200


@dataclass(frozen=True)
class BatchLine:
    """A line of a batch file.

    Attributes
    ----------
    number : int
        Counted from 1.
    custom_id : str or None
        The request's name, None if the line has none that can be used.
    url : str
        What would answer it at OpenAI.
    body : dict
        The request.
    error : dict or None
        What is wrong with the line itself: OpenAI's `code`, and a `message`.
    """

    number: int
    custom_id: str | None
    url: str = ""
    body: dict[str, Any] | None = None
    error: dict[str, str] | None = None


def read_batch(path: Path) -> list[BatchLine]:
    """Read a batch file; a line that is no request is returned with its error.

    Raises
    ------
    OSError
        The file cannot be read.
    ValueError
        It holds no line.
    """
    lines: list[BatchLine] = []
    seen: set[str] = set()
    with path.open("rb") as file:
        for number, data in enumerate(file, 1):
            if data.strip():
                lines.append(_read_line(number, data, seen))
    if not lines:
        raise ValueError(f"{path}: expected a request in each line, found no line")
    return lines


def _read_line(number: int, data: bytes, seen: set[str]) -> BatchLine:
    custom_id: str | None = None

    def wrong(code: str, message: str) -> BatchLine:
        return BatchLine(
            number, custom_id, error={"code": code, "message": f"line {number}: {message}"}
        )

    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        return wrong("invalid_json_line", f"expected a JSON object, found {error}")
    if not isinstance(value, dict):
        return wrong("invalid_json_line", f"expected a JSON object, found {value!r:.100}")
    given_id = value.get("custom_id")
    if not isinstance(given_id, str):
        return wrong("missing_required_parameter", f"custom_id must be a string, got {given_id!r}")
    custom_id = given_id
    if custom_id in seen:
        return wrong("duplicate_custom_id", f"there is another request named {custom_id!r}")
    seen.add(custom_id)
    if value.get("method", "POST") != "POST":
        return wrong("invalid_method", f"method must be 'POST', got {value['method']!r:.100}")
    url = value.get("url")
    if url not in _ANSWERS:
        return wrong("invalid_url", f"url must be one of {', '.join(_ANSWERS)}, got {url!r:.100}")
    body = value.get("body")
    if not isinstance(body, dict):
        return wrong("missing_required_parameter", f"body must be an object, got {body!r:.100}")
    return BatchLine(number, custom_id, url, body)


class BatchOutput:
    """The output file: it grows by whole lines, and can be gone on with.

    Attributes
    ----------
    done : int
        Lines that it has.
    failed : int
        Those of them that are no answer.
    """

    def __init__(self, path: Path, lines: list[BatchLine]) -> None:
        """Open the file, after the lines that it has already.

        A last line that was cut, as by a loss of power, is removed.

        Raises
        ------
        OSError
            The file cannot be written.
        ValueError
            It holds something other than the answers to the first of `lines`.
        """
        self.done = 0
        self.failed = 0
        end = 0
        if path.exists():
            with path.open("rb") as file:
                for data in file:
                    if not data.endswith(b"\n"):
                        break
                    self._check(path, data, lines)
                    end += len(data)
        self._file = path.open("ab")
        self._file.truncate(end)

    def _check(self, path: Path, data: bytes, lines: list[BatchLine]) -> None:
        where = f"{path}: line {self.done + 1}"
        other = "it is the output of another batch: name another file, or pass --overwrite"
        try:
            answer = json.loads(data)
            found, is_answer = answer["custom_id"], _is_answer(answer)
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{where} is no answer to a request; {other}") from error
        if self.done == len(lines):
            raise ValueError(f"{where}: there are only {len(lines)} requests; {other}")
        line = lines[self.done]
        if found != line.custom_id:
            raise ValueError(
                f"{where} answers {found!r}, and request {self.done + 1} is {line.custom_id!r}; "
                f"{other}"
            )
        self.done += 1
        self.failed += not is_answer

    def write(self, answer: dict[str, Any]) -> None:
        """Append an answer; it is in the file when this returns."""
        self._file.write(json.dumps(answer, ensure_ascii=False, allow_nan=False).encode() + b"\n")
        self._file.flush()
        self.done += 1
        self.failed += not _is_answer(answer)

    def __enter__(self) -> BatchOutput:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _is_answer(answer: dict[str, Any]) -> bool:
    response = answer["response"]
    return response is not None and response["status_code"] == _OK


async def run_batch(
    llm: LLM,
    lines: list[BatchLine],
    output: BatchOutput,
    *,
    in_flight: int = IN_FLIGHT,
    on_answer: Callable[[dict[str, Any]], None] = lambda answer: None,
) -> None:
    """Answer the lines that the output lacks, and write the answers in the order of the lines.

    Parameters
    ----------
    llm : LLM
        The model that answers all.
    lines : list of BatchLine
        As `read_batch` returns them.
    output : BatchOutput
        Where the answers go.
    in_flight : int
        Most requests that are with the engine at a time.
    on_answer : callable
        Called with each answer as it comes, in whatever order.

    Notes
    -----
    A request that is wrong or too large has its error in its line. When this is cancelled, what is
    not written yet is lost; everything before it stays.
    """
    running: dict[asyncio.Task[dict[str, Any]], int] = {}
    waiting: dict[int, dict[str, Any]] = {}
    begun = output.done
    try:
        while output.done < len(lines):
            ahead = output.done + _AHEAD * in_flight
            while len(running) < in_flight and begun < min(len(lines), ahead):
                running[asyncio.create_task(_answer(llm, lines[begun]))] = begun
                begun += 1
            finished, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in finished:
                answer = task.result()
                waiting[running.pop(task)] = answer
                on_answer(answer)
            while output.done in waiting:
                output.write(waiting.pop(output.done))
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _answer(llm: LLM, line: BatchLine) -> dict[str, Any]:
    """The line of the output for a line of the input."""
    response = None
    if line.error is None:
        assert line.body is not None
        try:
            status, body = _OK, await _ANSWERS[line.url](llm, line.body)
        except (ValueError, TypeError) as error:
            status, body = 400, error_body(error)
        except MemoryError as error:
            status, body = 500, error_body(error)
        response = {
            "status_code": status,
            "request_id": f"req_{secrets.token_hex(12)}",
            "body": body,
        }
    return {
        "id": f"batch_req_{secrets.token_hex(12)}",
        "custom_id": line.custom_id,
        "response": response,
        "error": line.error,
    }
