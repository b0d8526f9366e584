"""What `gptoss serve` adds to the engine, and what many clients get of it.

    python bench/bench_server.py                       the demo
    python bench/bench_server.py MODEL --tokens 64
    python bench/bench_server.py MODEL --llama model.gguf [--llama-python PYTHON]

clients: 1, 8 and 32 of them ask for streams of chat completions, each as soon as its last one has
ended. Requests per second, time to the first token and between tokens, as the clients see them:
medians, and the 95th of a hundred.
cpu: CPU seconds of the server's process for each token, less those of a process that has the same
requests answered by `LLM.achat` alone, in the same run. The mark is 0.2 ms.
start: from the command to the first response of the port, and to the model's first readiness;
medians of 5.
llama: llama-cpp-python's server on the same weights as a GGUF file, as `bench/compare.py` makes
one, with the same clients.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import itertools
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from timing import print_results

_START_S = 120.0
_POLL_S = 0.002


class Server:
    """A server in a process of its own."""

    def __init__(self, command: list[str], port: int, path: str) -> None:
        self.port = port
        self.first_s = 0.0
        self.ready_s = 0.0
        start_s = time.perf_counter()
        self.process = subprocess.Popen(
            command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        while not self.ready_s:
            if self.process.poll() is not None or time.perf_counter() - start_s > _START_S:
                self.process.kill()
                raise SystemExit(f"it does not run: {' '.join(command)}")
            status = self._status(path)
            now_s = time.perf_counter() - start_s
            if status and not self.first_s:
                self.first_s = now_s
            if status == 200:
                self.ready_s = now_s
            time.sleep(_POLL_S)

    def _status(self, path: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except OSError:
            return 0
        finally:
            connection.close()

    def cpu_s(self) -> float:
        """CPU seconds of the process, all threads together."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(60)


def gptoss_server(model: str, options: Any) -> Server:
    """Begin `gptoss serve`."""
    port = free_port()
    sequences = max(32, *options.clients)
    command = [
        *(sys.executable, "-m", "gptoss", "serve", model, "--port", str(port)),
        *("--threads", str(options.threads), "--context-length", "2048"),
        *("--max-sequences", str(sequences), "--stream-interval", str(options.stream_interval)),
    ]
    return Server(command, port, "/health")


def llama_server(python: str, model: str, threads: int) -> Server:
    """Begin llama-cpp-python's server."""
    port = free_port()
    command = [
        *(python, "-m", "llama_cpp.server", "--model", model, "--port", str(port)),
        *("--n_threads", str(threads), "--n_ctx", "2048"),
    ]
    return Server(command, port, "/v1/models")


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def body(index: int, tokens: int) -> dict[str, Any]:
    """One of the requests; they differ, so that no prompt is another's."""
    messages = [{"role": "user", "content": f"What is {100 + index * 7 % 900} + {index * 13}?"}]
    return {"messages": messages, "max_tokens": tokens, "temperature": 1, "seed": index}


class Times:
    """What clients have seen."""

    def __init__(self) -> None:
        self.first_s: list[float] = []
        self.between_s: list[float] = []
        self.tokens = 0

    def take(self, times_s: list[float], start_s: float, tokens: int) -> None:
        """Take one answer."""
        self.first_s.append(times_s[0] - start_s)
        self.between_s += [b - a for a, b in itertools.pairwise(times_s)]
        self.tokens += tokens


async def ask(port: int, request: dict[str, Any], times: Times) -> None:
    """Take one stream, and note when each of its pieces came."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    data = json.dumps(
        {**request, "stream": True, "stream_options": {"include_usage": True}}
    ).encode()
    start_s = time.perf_counter()
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(data) + data
    )
    times_s: list[float] = []
    tokens = 0
    while line := await reader.readline():
        if not line.startswith(b"data: {"):
            continue
        now_s = time.perf_counter()
        # A client that parses all of it would take the CPU from the server.
        if b'"completion_tokens":' in line:
            tokens = json.loads(line[6:])["usage"]["completion_tokens"]
        elif b'"role"' not in line and b'"delta":{}' not in line:
            times_s.append(now_s)
    writer.close()
    if not times_s:
        raise SystemExit("an answer has no tokens")
    times.take(times_s, start_s, tokens or len(times_s))


async def crowd(
    clients: int, requests: int, one: Callable[[int, Times], Any]
) -> tuple[Times, float]:
    """Have so many clients ask, one request after the other; return what they saw, and seconds."""
    times = Times()
    next_request = iter(range(requests))

    async def client() -> None:
        for index in next_request:
            await one(index, times)

    start_s = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return times, time.perf_counter() - start_s


def percentile(values: list[float], share: float) -> float:
    """The value below which that share lies."""
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


def row(name: str, clients: int, times: Times, seconds: float) -> dict[str, Any]:
    """A row of the table."""
    return {
        "server": name,
        "clients": clients,
        "requests/s": len(times.first_s) / seconds,
        "tok/s": times.tokens / seconds,
        "first ms": statistics.median(times.first_s) * 1e3,
        "first p95": percentile(times.first_s, 0.95) * 1e3,
        "between ms": statistics.median(times.between_s) * 1e3,
        "between p95": percentile(times.between_s, 0.95) * 1e3,
    }


def measure(server: Server, name: str, clients: int, options: Any) -> dict[str, Any]:
    """Have clients ask a server."""

    async def one(index: int, times: Times) -> None:
        await ask(server.port, body(index, options.tokens), times)

    requests = options.requests * clients
    asyncio.run(crowd(clients, clients, one))  # warm
    before_s = server.cpu_s()
    times, seconds = asyncio.run(crowd(clients, requests, one))
    found = row(name, clients, times, seconds)
    found["CPU ms/token"] = (server.cpu_s() - before_s) / times.tokens * 1e3
    return found


def library(model: str, threads: int, clients: int, requests: int, tokens: int) -> None:
    """Have the same requests answered without a server; print the CPU seconds for each token."""
    import gptoss

    with gptoss.load(
        model, threads=threads, context_length=2048, max_sequences=max(32, clients)
    ) as llm:

        async def one(index: int, times: Times) -> None:
            request = body(index, tokens)
            times_s = []
            start_s = time.perf_counter()
            stream = await llm.achat(request.pop("messages"), stream=True, **request)
            async for delta in stream:
                if delta.kind != "end":
                    times_s.append(time.perf_counter())
            times.take(times_s, start_s, stream.result.usage.completion_tokens)

        asyncio.run(crowd(clients, clients, one))
        before = resource.getrusage(resource.RUSAGE_SELF)
        times, seconds = asyncio.run(crowd(clients, requests, one))
        after = resource.getrusage(resource.RUSAGE_SELF)
        found = row("LLM.achat", clients, times, seconds)
        cpu_s = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
        found["CPU ms/token"] = cpu_s / times.tokens * 1e3
    print(json.dumps(found))


def main() -> None:
    """Print a table, the differences and the times of the start."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", default="demo")
    parser.add_argument("--threads", type=int, default=1, help="of the engine")
    parser.add_argument("--tokens", type=int, default=48, help="most of each answer")
    parser.add_argument("--requests", type=int, default=8, help="of each client")
    parser.add_argument(
        "--clients",
        type=lambda text: [int(part) for part in text.split(",")],
        default=[1, 8, 32],
        metavar="N,...",
    )
    parser.add_argument("--stream-interval", type=int, default=1, metavar="N")
    parser.add_argument("--llama", metavar="GGUF", help="the same weights for llama.cpp")
    parser.add_argument("--llama-python", default=sys.executable, metavar="PYTHON")
    parser.add_argument("--library", type=int, metavar="CLIENTS", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.library:
        count = options.requests * options.library
        library(options.model, options.threads, options.library, count, options.tokens)
        return

    rows, added_ms = [], {}
    with gptoss_server(options.model, options) as server:
        for clients in options.clients:
            served = measure(server, "gptoss", clients, options)
            command = [
                *(sys.executable, __file__, options.model, "--threads", str(options.threads)),
                *("--tokens", str(options.tokens), "--requests", str(options.requests)),
                *("--library", str(clients)),
            ]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            alone = json.loads(output.splitlines()[-1])
            rows += [served, alone]
            added_ms[clients] = served["CPU ms/token"] - alone["CPU ms/token"]
    if options.llama:
        with llama_server(options.llama_python, options.llama, options.threads) as server:
            rows += [measure(server, "llama.cpp", clients, options) for clients in options.clients]
    starts = []
    for _ in range(5):
        with gptoss_server(options.model, options) as server:
            starts.append((server.first_s, server.ready_s))
    port_s, ready_s = (statistics.median(values) for values in zip(*starts, strict=True))
    for clients, value in added_ms.items():
        print(f"{clients} clients: {value:.3f} ms of CPU added for each token (mark: 0.2)")
    print(f"the port answers after {port_s:.2f} s (mark: 1), the model after {ready_s:.2f} s")
    print_results(
        "gptoss serve", rows, added_cpu_ms=added_ms, port_s=port_s, ready_s=ready_s,
        load=os.getloadavg()[0],
    )  # fmt: skip


if __name__ == "__main__":
    main()
