"""Every file of examples/ runs on the demo, as a user would start it."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import jsonschema
import pytest
from starlette.requests import ClientDisconnect

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
FILES = sorted(EXAMPLES.glob("*.py"))


def run(
    name: str, *arguments: str | Path, stdin: str = "", cwd: Path | None = None, rc: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run an example without a network."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *map(str, arguments)],
        input=stdin,
        capture_output=True,
        encoding="utf-8",
        cwd=cwd,
        env=environment,
        timeout=120,
    )
    assert done.returncode == rc, done.stdout + done.stderr
    return done


def load(name: str) -> ModuleType:
    """Import an example, for its parts."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses and pydantic look up types
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_each_says_how_it_is_run(file: Path) -> None:
    doc = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    assert doc is not None
    assert f"python examples/{file.name} demo" in doc
    assert f"python examples/{file.name} openai/gpt-oss-20b" in doc
    assert f"[{file.name}]({file.name})" in (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert "usage:" in run(file.name, "--help").stdout


def test_there_are_six() -> None:
    assert len(FILES) == 6


class TestChat:
    def test_a_conversation_is_kept(self, tmp_path: Path) -> None:
        history = tmp_path / "talk.json"
        options = ("demo", "--history", history, "--temperature", "0")
        out = run("chat.py", *options, stdin="What is 17 + 25?\n").stdout
        assert "42" in out
        # It goes on where it was: the second question makes sense after the first alone.
        out = run("chat.py", *options, stdin="Add 5.\n").stdout
        assert "47" in out
        messages = json.loads(history.read_text(encoding="utf-8"))
        assert [m["role"] for m in messages] == ["user", "assistant"] * 2
        run("chat.py", *options, stdin="/new\nWhat is 1 + 2?\n")
        assert len(json.loads(history.read_text(encoding="utf-8"))) == 2

    def test_effort_and_reasoning(self) -> None:
        question = "What is 345 + 278?\n"
        lengths = []
        for effort in ("low", "high"):
            stdin = f"/reasoning\n/effort {effort}\n{question}"
            out = run("chat.py", "demo", "--temperature", "0", stdin=stdin).stdout
            assert "623" in out
            assert "\033" not in out  # no colours in a pipe
            lengths.append(len(out))
        hidden = run("chat.py", "demo", "--temperature", "0", stdin=question).stdout
        assert len(hidden) < lengths[0] < lengths[1]

    def test_unknown_commands_and_errors_go_on(self) -> None:
        stdin = "/effort huge\n/nothing\nWhat is 17 + 25?\n/quit\nWhat is 1 + 1?\n"
        out = run("chat.py", "demo", "--temperature", "0", stdin=stdin).stdout
        assert out.count("/effort low|medium|high") == 2
        assert "42" in out
        assert "1 + 1" not in out
        out = run("chat.py", "demo", "--max-tokens", "0", stdin="Hi\nHi\n").stdout
        assert out.count("max_tokens") == 2


class TestAskFolder:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        (tmp_path / "house").mkdir()
        (tmp_path / "house" / "rent.md").write_text(
            "# The flat\n\nFourth floor, with a balcony.\n\nThe rent is due on the third of a "
            "month; late payments cost ten euros.\n"
        )
        (tmp_path / "cellar.txt").write_text("The cellar's key hangs behind the blue door.\n")
        (tmp_path / "long.md").write_text(
            "\n\n".join(f"Paragraph {i} says nothing. " + "Filler. " * 40 for i in range(30))
            + "\n\nThe zeppelin leaves at noon.\n"
        )
        (tmp_path / "picture.png").write_bytes(b"rent rent rent\x00\xff")
        return tmp_path

    def test_files_are_cited(self, folder: Path) -> None:
        out = run("ask_folder.py", "demo", folder, "When is the rent due?", "--max-tokens", "60")
        cited = re.findall(r"^\[(\d+)\] (\S+):(\d+)$", out.stdout, re.M)
        assert cited[0] == ("1", "house/rent.md", "1")
        assert [number for number, _, _ in cited] == [str(i + 1) for i in range(len(cited))]
        assert "picture.png" not in out.stdout

    def test_nothing_found(self, folder: Path) -> None:
        done = run("ask_folder.py", "demo", folder, "Xylophone?", rc=1)
        assert "has a word of the question" in done.stderr
        assert run("ask_folder.py", "demo", folder, "?!", rc=1).stdout == ""
        assert "is no folder" in run("ask_folder.py", "demo", "/nowhere", "Hi", rc=2).stderr

    def test_passages(self, folder: Path) -> None:
        module = load("ask_folder")
        text = (folder / "long.md").read_text()
        pieces = list(module.passages(folder / "long.md", "long.md"))
        assert len(pieces) > 5
        lines = text.splitlines()
        for piece in pieces:
            assert piece.text.startswith(lines[piece.line - 1][:20])
        # Nothing is lost between them.
        assert "".join("".join(p.text for p in pieces).split()) == "".join(text.split())

    def test_search(self, folder: Path) -> None:
        module = load("ask_folder")
        with contextlib.closing(module.index_folder(folder)) as index:
            found = module.search(index, 'Where "is" the key AND (NOT) the doors*?', 4)
            assert found[0].file == "cellar.txt"  # no word is an operator, and doors is door
            zeppelin = module.search(index, "zeppelin", 4)
            assert [passage.file for passage in zeppelin] == ["long.md"]
            assert "noon" in zeppelin[0].text
            assert len(module.search(index, "paragraph", 2)) == 2
            assert module.search(index, "", 4) == []


class TestAgent:
    @pytest.mark.parametrize(
        ("task", "call", "told"),
        [
            ("What is the price of Oslo?", "get_price(product='Oslo') = 249", "249"),
            ("What is the stock of Lima?", "get_stock(product='Lima') = 2", "2"),
        ],
    )
    def test_it_calls(self, task: str, call: str, told: str) -> None:
        lines = run("agent.py", "demo", task, "--effort", "low").stdout.splitlines()
        assert lines[0].strip() == call
        assert told in lines[-1]

    def test_errors_are_told_to_the_model(self) -> None:
        out = run("agent.py", "demo", "What is the price of Bern?", "--effort", "low").stdout
        assert "get_price(product='Bern'): there is no product 'Bern'" in out

    def test_orders_are_asked_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        module = load("agent")
        shop = module.Shop(ask_first=True)
        asked = []

        def say(answer: str) -> Callable[[str], str]:
            return lambda question: asked.append(question) or answer  # type: ignore[func-returns-value]

        monkeypatch.setattr("builtins.input", say("n"))
        assert "refused" in shop.order("Lima", 5)
        assert shop.get_stock("Lima") == 2
        monkeypatch.setattr("builtins.input", say("Y"))
        shop.order("Lima", 5)
        assert shop.get_stock("Lima") == 7
        assert asked == ["Order 5 of Lima? [y/N] "] * 2
        monkeypatch.delattr("builtins.input")
        module.Shop(ask_first=False).order("Lima", 5)
        with pytest.raises(ValueError, match="from 1 to 100, got 0"):
            shop.order("Lima", 0)


class TestExtract:
    """What the demo makes of an invoice is nonsense; but it is of the shape."""

    def check(self, line: str, module: ModuleType) -> dict[str, Any]:
        fields: dict[str, Any] = json.loads(line)
        jsonschema.validate(fields, module.INVOICE, format_checker=jsonschema.FormatChecker())
        assert list(fields) == module.INVOICE["required"]
        date.fromisoformat(fields["due"])
        return fields

    def test_the_sample(self) -> None:
        done = run("extract.py", "demo")
        module = load("extract")
        fields = self.check(done.stdout, module)
        named = re.findall(r"^the sample: (\w+) is not in the text$", done.stderr, re.M)
        assert named == module.not_in_text(fields, module.SAMPLE)

    @pytest.mark.parametrize("effort", ["low", "high"])
    def test_files(self, tmp_path: Path, effort: str) -> None:
        texts = {"a.txt": "Invoice 7 of Müller & Søn: 12 USD.", "b.txt": "What is 17 + 25?"}
        for name, text in texts.items():
            (tmp_path / name).write_text(text, encoding="utf-8")
        done = run("extract.py", "demo", *texts, "--effort", effort, cwd=tmp_path)
        lines = done.stdout.splitlines()
        assert len(lines) == 2
        module = load("extract")
        for line, (name, text) in zip(lines, texts.items(), strict=True):
            for field in module.not_in_text(self.check(line, module), text):
                assert f"{name}: {field} is not in the text" in done.stderr

    def test_not_in_text(self) -> None:
        fields = {"number": "2026-118", "seller": "Lindqvist Pianos", "total": 360, "due": "never"}
        module = load("extract")
        assert module.not_in_text(fields, module.SAMPLE) == ["due"]


class TestBatch:
    def test_answers_and_going_on(self, tmp_path: Path) -> None:
        questions, answers = tmp_path / "questions.jsonl", tmp_path / "answers.jsonl"
        sums = {f"q{i}": (37 * i + 4, 12 * i + 9) for i in range(20)}
        lines = [
            json.dumps({"id": name, "question": f"What is {a} + {b}?", "topic": "sums"})
            for name, (a, b) in sums.items()
        ]
        questions.write_text("\n".join(lines[:10]) + "\n\n")
        done = run("batch_jsonl.py", "demo", questions, answers)
        assert "10/10" in done.stderr
        # Stopped in the middle of a line, and more questions since.
        written = answers.read_text(encoding="utf-8")
        answers.write_text(written[:-20], encoding="utf-8")
        questions.write_text("\n".join(lines))
        done = run("batch_jsonl.py", "demo", questions, answers)
        assert "11 to answer, 9 answered before" in done.stderr
        rows = [json.loads(line) for line in answers.read_text(encoding="utf-8").splitlines()]
        assert sorted(row["id"] for row in rows) == sorted(sums)
        assert all(row["topic"] == "sums" and row["finish_reason"] == "stop" for row in rows)
        right = sum(str(sum(sums[row["id"]])) in row["answer"] for row in rows)
        assert right >= 19  # the demo's share of right sums is above 95 %

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ('{"id": 1}', "questions.jsonl:1: expected"),
            ('{"id": 1, "question": "a"}\n{"id": 1, "question": "b"}', "1 occurs twice"),
        ],
    )
    def test_bad_lines(self, tmp_path: Path, text: str, message: str) -> None:
        (tmp_path / "questions.jsonl").write_text(text)
        done = run("batch_jsonl.py", "demo", "questions.jsonl", "out.jsonl", cwd=tmp_path, rc=1)
        assert message in done.stderr
        assert not (tmp_path / "out.jsonl").exists()

    def test_a_question_that_does_not_fit(self, tmp_path: Path) -> None:
        rows = [{"id": 1, "question": "No. " * 200_000}, {"id": 2, "question": "What is 1 + 2?"}]
        (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
        run("batch_jsonl.py", "demo", "in.jsonl", "out.jsonl", cwd=tmp_path)
        lines = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
        found = {row["id"]: row for row in map(json.loads, lines)}
        assert "context" in found[1]["error"]
        assert "3" in found[2]["answer"]


class Client:
    """One request to an ASGI application, which sees what it sends as it sends it.

    It goes away after `most` pieces of the body, as a server tells an application with the given
    version of the ASGI specification: from 2.4 on, what is sent is refused as well.
    """

    def __init__(self, body: Any, most: int = 1_000_000, spec_version: str = "2.3") -> None:
        self.status = 0
        self.pieces: list[str] = []
        self._body = json.dumps(body).encode()
        self._most = most
        self._spec_version = spec_version
        self._sent = False
        self._gone = asyncio.Event()

    async def post(self, app: Any, path: str) -> None:
        headers = [(b"content-type", b"application/json")]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": self._spec_version},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": headers,
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8000),
        }
        await app(scope, self._receive, self._send)

    async def _receive(self) -> dict[str, Any]:
        if not self._sent:
            self._sent = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        if self._gone.is_set() and self._spec_version >= "2.4":
            raise OSError("the client has gone away")
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif message["body"]:
            self.pieces.append(message["body"].decode())
            if len(self.pieces) == self._most:
                self._gone.set()

    @property
    def events(self) -> list[dict[str, Any]]:
        assert all(piece.startswith("data: ") and piece.endswith("\n\n") for piece in self.pieces)
        return [json.loads(piece.removeprefix("data: ")) for piece in self.pieces]


SUM = {"messages": [{"role": "user", "content": "What is 17 + 25?"}], "temperature": 0}


class TestWebApp:
    def test_answers_are_streamed(self) -> None:
        async def main() -> None:
            app = load("web_app").create_app("demo", context_length=2048)
            async with app.router.lifespan_context(app):
                # More than one at a time; each is as if it were alone.
                clients = [Client({**SUM, "effort": e}) for e in ("low", "high", "high")]
                await asyncio.gather(*(client.post(app, "/chat") for client in clients))
                lengths = []
                for client in clients:
                    assert client.status == 200
                    assert client.events[-1] == {"finish_reason": "stop"}
                    assert "42" in "".join(event.get("text", "") for event in client.events)
                    reasoning = "".join(event.get("reasoning", "") for event in client.events)
                    lengths.append(len(reasoning))
                assert len(clients[0].pieces) > 10
                assert 0 < lengths[0] < lengths[1] == lengths[2]

        asyncio.run(main())

    def test_bad_requests(self) -> None:
        async def main() -> None:
            app = load("web_app").create_app("demo", context_length=512)
            async with app.router.lifespan_context(app):
                for body, status, word in (
                    ({"messages": [{"role": "nobody", "content": "Hi"}]}, 400, "nobody"),
                    ({"messages": [{"role": "user", "content": "No. " * 1000}]}, 400, "context"),
                    ({**SUM, "effort": "huge"}, 422, "effort"),
                    ({}, 422, "messages"),
                ):
                    client = Client(body)
                    await client.post(app, "/chat")
                    assert (client.status, word in client.pieces[0]) == (status, True)

        asyncio.run(main())

    @pytest.mark.parametrize("spec_version", ["2.3", "2.4"])
    def test_a_client_that_goes_away_cancels(self, spec_version: str) -> None:
        async def main() -> None:
            app = load("web_app").create_app("demo")
            async with app.router.lifespan_context(app):
                llm = app.state.llm
                # The demo would fill its 8,192 tokens: nothing but the client can end this sooner.
                endless = {**SUM, "max_tokens": 8192}
                original, streams = llm.achat, []

                async def achat(*args: Any, **options: Any) -> Any:
                    end = llm.harmony.special_id("<|return|>")
                    bias = {end: -1e30, llm.harmony.special_id("<|call|>"): -1e30}
                    streams.append(await original(*args, **options, logit_bias=bias))
                    return streams[-1]

                llm.achat = achat
                client = Client(endless, most=3, spec_version=spec_version)
                # From 2.4 on Starlette tells the server that the client was gone.
                with contextlib.suppress(ClientDisconnect):
                    await client.post(app, "/chat")
                for _ in range(500):
                    if llm.stats().running == 0:
                        break
                    await asyncio.sleep(0.01)
                assert llm.stats().running == 0
                assert 3 <= llm.stats().generated_tokens < 2000
                # And it still answers.
                after = Client(SUM)
                llm.achat = original
                await after.post(app, "/chat")
                assert after.events[-1] == {"finish_reason": "stop"}

        asyncio.run(main())

    def test_it_listens(self, tmp_path: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, str(EXAMPLES / "web_app.py"), "demo", "--port", str(port)]
        with (
            (tmp_path / "log").open("w") as log,
            subprocess.Popen(command, stdout=log, stderr=log) as server,
            httpx.Client(
                base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False
            ) as client,
        ):
            try:
                for _ in range(600):
                    with contextlib.suppress(httpx.ConnectError):
                        client.get("/health")
                        break
                    assert server.poll() is None, (tmp_path / "log").read_text()
                    time.sleep(0.1)
                with client.stream("POST", "/chat", json=SUM) as response:
                    assert response.headers["content-type"].startswith("text/event-stream")
                    lines = [line for line in response.iter_lines() if line]
                events = [json.loads(line.removeprefix("data: ")) for line in lines]
                assert "42" in "".join(event.get("text", "") for event in events)
                assert client.get("/health").json()["model"] == "demo"
            finally:
                server.terminate()
        assert "Application shutdown complete" in (tmp_path / "log").read_text()
