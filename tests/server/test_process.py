"""`gptoss serve` as a process: the openai package as its client, signals, faults."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from .conftest import Process

QUESTION: Any = [{"role": "user", "content": "What is 17 + 25?"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tell today's weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


@pytest.fixture
def client(server: Process) -> Iterator[openai.OpenAI]:
    wait_until_ready(server)
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def get(server: Process, path: str, **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def wait_until_ready(server: Process) -> None:
    end_s = time.monotonic() + 60
    while get(server, "/health")[0] != 200:
        assert time.monotonic() < end_s
        time.sleep(0.02)


class TestOpenAi:
    def test_an_answer(self, client: openai.OpenAI) -> None:
        found = client.chat.completions.create(model="demo", messages=QUESTION, temperature=0)
        assert "42" in (found.choices[0].message.content or "")

    def test_a_stream(self, client: openai.OpenAI) -> None:
        whole = client.chat.completions.create(model="demo", messages=QUESTION, temperature=0)
        stream = client.chat.completions.create(
            model="demo",
            messages=QUESTION,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = list(stream)
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        assert text == whole.choices[0].message.content
        assert chunks[-1].usage == whole.usage or chunks[-1].usage is not None

    def test_its_own_reader_of_streams(self, client: openai.OpenAI) -> None:
        with client.chat.completions.stream(
            model="demo",
            messages=QUESTION,
            temperature=0,
            tools=[WEATHER],
            tool_choice="required",
            max_tokens=60,
        ) as stream:
            for _ in stream:
                pass
            found = stream.get_final_completion()
        (call,) = found.choices[0].message.tool_calls or ()
        assert call.function.name == "get_weather"

    def test_completions(self, client: openai.OpenAI) -> None:
        found = client.completions.create(model="demo", prompt=["1, 2,", "a"], max_tokens=3, n=2)
        assert [choice.index for choice in found.choices] == [0, 1, 2, 3]
        pieces = client.completions.create(model="demo", prompt="1,", max_tokens=3, stream=True)
        assert list(pieces)

    def test_models(self, client: openai.OpenAI) -> None:
        assert [model.id for model in client.models.list()] == ["demo"]
        assert client.models.retrieve("demo").owned_by == "gptoss"

    def test_errors_are_its_exceptions(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.BadRequestError) as bad:
            client.chat.completions.create(model="demo", messages=QUESTION, temperature=-1)
        assert bad.value.param == "temperature"
        with pytest.raises(openai.NotFoundError) as missing:
            client.chat.completions.create(model="gpt-4o", messages=QUESTION)
        assert missing.value.code == "model_not_found"
        url = {"url": "data:image/png;base64,AAAA"}
        image: Any = [{"role": "user", "content": [{"type": "image_url", "image_url": url}]}]
        with pytest.raises(openai.BadRequestError, match="text only"):
            client.chat.completions.create(model="demo", messages=image)

    def test_many_at_a_time(self, client: openai.OpenAI) -> None:
        def answer(i: int) -> bool:
            messages: Any = [{"role": "user", "content": f"What is {i} + 25?"}]
            found = client.chat.completions.create(
                model="demo", messages=messages, temperature=0, stream=i % 2 == 0
            )
            if i % 2 == 0:
                text = "".join(c.choices[0].delta.content or "" for c in found)
            else:
                text = found.choices[0].message.content or ""
            return str(i + 25) in text

        with ThreadPoolExecutor(12) as pool:
            right = list(pool.map(answer, range(10, 34)))
        assert sum(right) >= 20  # a small model

    def test_closing_a_stream_ends_it(self, client: openai.OpenAI, server: Process) -> None:
        stream = client.completions.create(
            model="demo",
            prompt="1,",
            max_tokens=4000,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        next(iter(stream))
        assert running(server) == 1
        stream.close()
        end_s = time.monotonic() + 10
        while running(server):
            assert time.monotonic() < end_s
            time.sleep(0.01)


def running(server: Process) -> float:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    (line,) = [row for row in text.splitlines() if row.startswith("gptoss:num_requests_running{")]
    return float(line.rpartition(" ")[2])


class TestTheWire:
    def test_a_client_that_reads_nothing_holds_up_nobody(
        self, client: openai.OpenAI, server: Process
    ) -> None:
        body = json.dumps(
            {"prompt": "1,", "max_tokens": 3000, "ignore_eos": True, "stream": True, "logprobs": 5}
        ).encode()
        with socket.create_connection(("127.0.0.1", server.port)) as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.sendall(
                b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: "
                + str(len(body)).encode()
                + b"\r\n\r\n"
                + body
            )
            assert slow.recv(15) == b"HTTP/1.1 200 OK"
            found = client.chat.completions.create(model="demo", messages=QUESTION, temperature=0)
            assert found.choices[0].message.content

    def test_a_body_without_a_length(self, server: Process) -> None:
        wait_until_ready(server)
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        pieces = iter([b'{"prompt": ', b'"Hello"}'])
        connection.request("POST", "/tokenize", body=pieces, encode_chunked=True,
                           headers={"Transfer-Encoding": "chunked"})  # fmt: skip
        response = connection.getresponse()
        assert response.status == 200
        assert json.loads(response.read())["count"] >= 1
        connection.close()

    def test_a_body_that_says_it_is_too_long(self, server: Process) -> None:
        """It is refused before it comes."""
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
            connection.sendall(
                b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n"
            )
            reply = b"".join(iter(lambda: connection.recv(10_000), b""))  # it is closed, too
        assert reply.startswith(b"HTTP/1.1 413 ")
        assert b"request_too_large" in reply

    def test_what_is_no_http(self, server: Process) -> None:
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
            connection.sendall(b"\x16\x03\x01 what is this\r\n\r\n")
            assert connection.recv(1000).startswith(b"HTTP/1.1 400 ")
        assert get(server, "/health/live")[0] == 200

    def test_another_host(self, server: Process) -> None:
        status, body = get(server, "/v1/models", Host="evil.example")
        assert (status, body["error"]["code"]) == (403, "host_not_allowed")


class TestBeginAndEnd:
    def test_the_port_answers_before_the_model_is_there(self) -> None:
        with Process("--threads", "1") as server:
            status, body = get(server, "/health/live")
            assert (status, body) == (200, {"status": "ok"})
            status, body = get(server, "/health")
            assert (status, body["status"]) in ((503, "loading"), (200, "ok"))
            wait_until_ready(server)

    def test_sigterm_lets_running_answers_finish(self) -> None:
        with Process("--context-length", "4096", "--threads", "1") as server:
            wait_until_ready(server)
            pieces: list[str] = []
            begun = threading.Event()

            def read() -> None:
                with openai.OpenAI(base_url=f"{server.url}/v1", api_key="x") as client:
                    stream = client.completions.create(
                        model="demo",
                        prompt="1,",
                        max_tokens=300,
                        stream=True,
                        extra_body={"ignore_eos": True},
                        stream_options={"include_usage": True},
                    )
                    for chunk in stream:
                        begun.set()
                        pieces.append(str(chunk.usage and chunk.usage.completion_tokens))

            reader = threading.Thread(target=read)
            reader.start()
            assert begun.wait(20)
            server.process.send_signal(signal.SIGTERM)
            reader.join(20)
            assert pieces[-1] == "300"
            assert server.end() == 0, server.lines
            assert any("POST /v1/completions" in line for line in server.lines)
            assert not any("Traceback" in line for line in server.lines), server.lines

    def test_ctrl_c(self) -> None:
        with Process("--threads", "1") as server:
            wait_until_ready(server)
            server.process.send_signal(signal.SIGINT)
            assert server.end() == 130, server.lines
            assert not any("Traceback" in line for line in server.lines), server.lines

    def test_a_model_that_cannot_be_loaded(self) -> None:
        with Process("--context-length", "100000000") as server:
            assert server.end() == 2
        assert any("gptoss: error: " in line for line in server.lines), server.lines
        assert not any("Traceback" in line for line in server.lines)

    def test_a_port_that_is_taken(self, server: Process) -> None:
        with pytest.raises(AssertionError, match=r"cannot listen at 127\.0\.0\.1 port"):
            Process("--port", str(server.port))

    def test_ipv6(self) -> None:
        if not socket.has_ipv6:
            pytest.skip("no IPv6")
        try:
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        except OSError:
            pytest.skip("no IPv6")
        with Process("--host", "::1") as server:
            assert server.url.startswith("http://[::1]:")
            with socket.create_connection(("::1", server.port), timeout=20) as connection:
                connection.sendall(
                    b"GET /health/live HTTP/1.1\r\nHost: [::1]:%d\r\n\r\n" % server.port
                )
                assert connection.recv(100).startswith(b"HTTP/1.1 200 ")

    def test_keys_are_needed(self) -> None:
        with Process("--threads", "1", env={"GPTOSS_API_KEY": "my-key"}) as server:
            wait_until_ready(server)
            assert get(server, "/v1/models")[0] == 401
            assert get(server, "/v1/models", Authorization="Bearer my-key")[0] == 200
        assert not any("my-key" in line for line in server.lines)
