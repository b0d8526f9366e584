"""`gptoss batch`: OpenAI's batch files, resumed, in order, errors line by line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion

import gptoss
from gptoss import TokenLogprob, TopLogprob
from gptoss.batch import BatchOutput, read_batch, run_batch
from gptoss.cli import main
from gptoss.openai_requests.completions import TextOffsets, logprobs_dict


def line(custom_id: Any, body: Any, **more: Any) -> dict[str, Any]:
    url = "/v1/chat/completions" if "messages" in body else "/v1/completions"
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body, **more}


def chat(custom_id: str, question: str, **body: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}]
    return line(custom_id, {"model": "demo", "messages": messages, "temperature": 0, **body})


def write(path: Path, lines: list[Any]) -> Path:
    texts = [text if isinstance(text, str) else json.dumps(text) for text in lines]
    path.write_text("".join(f"{text}\n" for text in texts))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_text().splitlines()]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write(tmp_path / "in.jsonl", [chat(f"sum {i}", f"What is {i} + 25?") for i in range(10)])


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


@pytest.fixture(scope="module")
def llm() -> Iterator[gptoss.LLM]:
    with gptoss.load("demo", context_length=2048) as llm:
        yield llm


def run(llm: gptoss.LLM, source: Path, out: Path, **more: Any) -> list[dict[str, Any]]:
    lines = read_batch(source)
    with BatchOutput(out, lines) as output:
        asyncio.run(run_batch(llm, lines, output, **more))
    return read(out)


def error_of(llm: gptoss.LLM, tmp_path: Path, request: Any) -> tuple[int, dict[str, Any]]:
    """Status and error of a request."""
    out = tmp_path / "error.jsonl"
    out.unlink(missing_ok=True)
    (answer,) = run(llm, write(tmp_path / "one.jsonl", [request]), out)
    assert answer["error"] is None
    return answer["response"]["status_code"], answer["response"]["body"]["error"]


class TestAnswers:
    def test_chat(self, llm: gptoss.LLM, source: Path, out: Path) -> None:
        answers = run(llm, source, out)
        assert [answer["custom_id"] for answer in answers] == [f"sum {i}" for i in range(10)]
        for i, answer in enumerate(answers):
            assert answer["error"] is None
            assert answer["response"]["status_code"] == 200
            completion = ChatCompletion.model_validate(answer["response"]["body"], strict=True)
            assert completion.choices[0].message.content == f"{i} + 25 = {i + 25}."
        assert len({answer["id"] for answer in answers}) == 10
        assert len({answer["response"]["request_id"] for answer in answers}) == 10

    def test_as_alone(self, llm: gptoss.LLM, tmp_path: Path, out: Path) -> None:
        body = {"reasoning_effort": "high", "max_completion_tokens": 40, "stop": ["="]}
        source = write(tmp_path / "in.jsonl", [chat("a", "What is 170 + 255?", **body)])
        (answer,) = run(llm, source, out)
        alone = llm.chat(
            "What is 170 + 255?",
            temperature=0,
            reasoning_effort="high",
            max_tokens=40,
            stop=["="],
        )
        choice = answer["response"]["body"]["choices"][0]
        assert choice == alone.to_openai()["choices"][0]

    def test_tools(self, llm: gptoss.LLM, tmp_path: Path, out: Path) -> None:
        def get_weather(city: str) -> str:
            """Tell today's weather."""
            return city

        request = chat(
            "a", "Weather?", tools=[gptoss.tool_schema(get_weather)], tool_choice="required"
        )
        (answer,) = run(llm, write(tmp_path / "in.jsonl", [request]), out)
        choice = answer["response"]["body"]["choices"][0]
        assert choice["finish_reason"] == "tool_calls"
        assert choice["message"]["tool_calls"][0]["function"]["name"] == "get_weather"

    def test_logprobs(self, llm: gptoss.LLM, tmp_path: Path, out: Path) -> None:
        request = chat("a", "What is 17 + 25?", logprobs=True, top_logprobs=2)
        (answer,) = run(llm, write(tmp_path / "in.jsonl", [request]), out)
        completion = ChatCompletion.model_validate(answer["response"]["body"], strict=True)
        logprobs = completion.choices[0].logprobs
        assert logprobs is not None
        assert logprobs.content
        assert {len(token.top_logprobs) for token in logprobs.content} == {2}

    def test_completions(self, llm: gptoss.LLM, tmp_path: Path, out: Path) -> None:
        bodies: list[dict[str, Any]] = [
            {"prompt": "1 + 1", "max_tokens": 5},
            {"prompt": ["1 + 1", "2 + 2"], "n": 2, "seed": 3, "temperature": 1},
            {"prompt": [5, 6, 7], "logprobs": 2, "max_tokens": 3, "logit_bias": {"9": 50}},
        ]
        lines = [
            line(str(i), {"temperature": 0, "ignore_eos": True, "user": None, **body})
            for i, body in enumerate(bodies)
        ]
        answers = run(llm, write(tmp_path / "in.jsonl", lines), out)
        one, several, scored = (
            Completion.model_validate(answer["response"]["body"]) for answer in answers
        )
        expected = llm.generate("1 + 1", max_tokens=5, temperature=0, ignore_eos=True)
        assert one.choices[0].text == expected.text
        assert one.choices[0].finish_reason == "length"
        assert one.usage is not None
        assert one.usage.completion_tokens == 5
        assert [choice.index for choice in several.choices] == [0, 1, 2, 3]
        assert several.usage is not None
        assert several.usage.completion_tokens == 4 * 16  # OpenAI's default
        logprobs = scored.choices[0].logprobs
        assert logprobs is not None
        assert logprobs.tokens == [llm.tokenizer.decode([9])] * 3
        assert logprobs.token_logprobs is not None
        assert all(value < 0 for value in logprobs.token_logprobs)
        assert logprobs.top_logprobs is not None
        assert [len(top) for top in logprobs.top_logprobs] == [2, 2, 2]
        assert logprobs.text_offset == [i * len(logprobs.tokens[0]) for i in range(3)]


def test_impossible_tokens_are_json(llm: gptoss.LLM) -> None:
    never = float("-inf")
    scores = [TokenLogprob(9, never, (TopLogprob(8, never), TopLogprob(7, -1.5)))]
    found = logprobs_dict(TextOffsets(llm.tokenizer), [9], scores)
    assert found["token_logprobs"] == [-9999.0]
    assert sorted(found["top_logprobs"][0].values()) == [-9999.0, -1.5]


class TestErrors:
    @pytest.mark.parametrize(
        ("body", "param", "message"),
        [
            ({"temprature": 1}, "temprature", "unknown field temprature; did you mean temperature"),
            ({"temperature": -1}, "temperature", "temperature must be at least 0"),
            ({"stream": True}, "stream", "stream may only be False here, got True"),
            ({"top_logprobs": 2}, "top_logprobs", "top_logprobs needs logprobs: true"),
            ({"messages": "Hi"}, "messages", "messages must be a list, got 'Hi'"),
            ({"messages": []}, "messages", "messages must not be empty"),
            ({"messages": None}, "messages", "you must provide a messages parameter"),
            ({"n": 200}, "n", "n must be at most 128"),
            ({"logit_bias": {"x": 1}}, "logit_bias", "logit_bias must have token ids as keys"),
            ({"max_tokens": "many"}, "max_tokens", "max_tokens must be an integer"),
            ({"messages": [{"role": "user", "content": "x " * 3000}]}, None, "context of 2048"),
        ],
    )
    def test_of_a_request(
        self, llm: gptoss.LLM, tmp_path: Path, body: Any, param: str | None, message: str
    ) -> None:
        request = chat("a", "Hi")
        request["body"] |= body
        status, error = error_of(llm, tmp_path, request)
        assert status == 400
        assert message in error["message"]
        assert error["type"] == "invalid_request_error"
        assert error["param"] == param

    def test_of_a_completion(self, llm: gptoss.LLM, tmp_path: Path) -> None:
        request = line("a", {"model": "demo"})
        assert "you must provide a prompt" in error_of(llm, tmp_path, request)[1]["message"]
        request["body"] |= {"prompt": "x", "suffix": "y"}
        assert "suffix is not supported" in error_of(llm, tmp_path, request)[1]["message"]

    def test_no_memory_for_one_is_its_own_error(
        self, llm: gptoss.LLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def fail(*args: Any, **named: Any) -> None:
            raise MemoryError("no room")

        monkeypatch.setattr(llm, "achat", fail)
        status, error = error_of(llm, tmp_path, chat("a", "Hi"))
        assert (status, error["type"], error["message"]) == (500, "server_error", "no room")

    @pytest.mark.parametrize(
        ("bad", "custom_id", "code", "message"),
        [
            ("{", None, "invalid_json_line", "line 2: expected a JSON object, found Expecting"),
            ("[1]", None, "invalid_json_line", "line 2: expected a JSON object, found [1]"),
            ('"\udcff"', None, "invalid_json_line", "line 2: expected a JSON object"),
            ("[" * 100_000, None, "invalid_json_line", "line 2: expected a JSON object"),
            (line(5, {}), None, "missing_required_parameter", "custom_id must be a string, got 5"),
            (chat("first", "x"), "first", "duplicate_custom_id", "another request named 'first'"),
            (line("b", {}, method="GET"), "b", "invalid_method", "must be 'POST', got 'GET'"),
            (line("b", {}, url="/v1/embeddings"), "b", "invalid_url", "got '/v1/embeddings'"),
            (line("b", [1]), "b", "missing_required_parameter", "body must be an object, got [1]"),
        ],
    )
    def test_of_a_line(
        self,
        llm: gptoss.LLM,
        tmp_path: Path,
        out: Path,
        bad: Any,
        custom_id: str | None,
        code: str,
        message: str,
    ) -> None:
        source = tmp_path / "in.jsonl"
        texts = [t if isinstance(t, str) else json.dumps(t) for t in (chat("first", "Hi"), bad)]
        source.write_bytes("\n".join([*texts, ""]).encode(errors="surrogateescape"))
        good, answer = run(llm, source, out)
        assert good["response"]["status_code"] == 200
        assert answer["custom_id"] == custom_id
        assert answer["response"] is None
        assert answer["error"]["code"] == code
        assert message in answer["error"]["message"]

    def test_blank_lines_are_no_requests(self, tmp_path: Path) -> None:
        source = write(tmp_path / "in.jsonl", ["", chat("a", "Hi"), "  ", "{"])
        lines = read_batch(source)
        assert [(found.number, found.custom_id) for found in lines] == [(2, "a"), (4, None)]
        with pytest.raises(ValueError, match="expected a request in each line, found no line"):
            read_batch(write(tmp_path / "empty.jsonl", ["", " "]))


class TestResuming:
    @pytest.mark.parametrize("kept", [0, 1, 7, 10])
    @pytest.mark.parametrize("cut", [b"", b'{"id": "batch_req_1", "cus'])
    def test_after_an_interruption(
        self, llm: gptoss.LLM, source: Path, out: Path, kept: int, cut: bytes
    ) -> None:
        whole = run(llm, source, out)
        data = b"".join(out.read_bytes().splitlines(keepends=True)[:kept])
        out.write_bytes(data + cut)
        again = run(llm, source, out)
        assert out.read_bytes().startswith(data)
        assert [a["custom_id"] for a in again] == [a["custom_id"] for a in whole]
        assert [a["response"]["body"]["choices"] for a in again] == [
            a["response"]["body"]["choices"] for a in whole
        ]

    def test_what_was_done_is_not_asked_again(
        self, llm: gptoss.LLM, source: Path, out: Path
    ) -> None:
        run(llm, source, out)
        out.write_bytes(b"".join(out.read_bytes().splitlines(keepends=True)[:7]))
        seen: list[dict[str, Any]] = []
        run(llm, source, out, on_answer=seen.append)
        assert sorted(answer["custom_id"] for answer in seen) == ["sum 7", "sum 8", "sum 9"]

    @pytest.mark.parametrize(
        ("first", "message"),
        [
            ({"custom_id": "other", "response": None, "error": {}}, "answers 'other', and request"),
            ({"no": "answer"}, "line 1 is no answer to a request; it is the output of another"),
            ("text", "line 1 is no answer to a request"),
        ],
    )
    def test_another_file_is_left_alone(
        self, source: Path, out: Path, first: Any, message: str
    ) -> None:
        before = write(out, [first]).read_bytes()
        with pytest.raises(ValueError, match=message):
            BatchOutput(out, read_batch(source))
        assert out.read_bytes() == before

    def test_more_answers_than_requests(self, llm: gptoss.LLM, source: Path, out: Path) -> None:
        run(llm, source, out)
        fewer = read_batch(source)[:3]
        with pytest.raises(ValueError, match="line 4: there are only 3 requests"):
            BatchOutput(out, fewer)


class Slow:
    """A model whose requests end when the test says so."""

    adapters = ()

    def __init__(self) -> None:
        self.running: dict[str, asyncio.Future[None]] = {}
        self.most = 0

    async def achat(self, messages: Any, **_: Any) -> Any:
        (message,) = messages
        future = asyncio.get_running_loop().create_future()
        self.running[message["content"]] = future
        self.most = max(self.most, sum(not f.done() for f in self.running.values()))
        await future
        return self

    def to_openai(self) -> dict[str, Any]:
        return {}


class TestOrder:
    def test_lines_are_written_in_order_as_soon_as_they_can_be(
        self, source: Path, out: Path
    ) -> None:
        model: Any = Slow()

        async def script() -> None:
            lines = read_batch(source)
            with BatchOutput(out, lines) as output:
                task = asyncio.create_task(run_batch(model, lines, output, in_flight=3))
                await asyncio.sleep(0.05)
                assert len(model.running) == 3
                written = []
                for i in (2, 1, 3, 0):
                    model.running[f"What is {i} + 25?"].set_result(None)
                    await asyncio.sleep(0.05)
                    written.append([answer["custom_id"] for answer in read(out)])
                assert written == [[], [], [], ["sum 0", "sum 1", "sum 2", "sum 3"]]
                # A slow one at the head did not keep others from beginning.
                assert len(model.running) == 7
                assert model.most == 3
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                assert all(future.done() for future in model.running.values())

        asyncio.run(script())
        assert len(read(out)) == 4

    def test_a_slow_one_does_not_let_memory_grow_for_ever(
        self, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("gptoss.batch._AHEAD", 2)
        source = write(tmp_path / "in.jsonl", [chat(str(i), str(i)) for i in range(50)])
        model: Any = Slow()

        async def script() -> None:
            lines = read_batch(source)
            with BatchOutput(out, lines) as output:
                task = asyncio.create_task(run_batch(model, lines, output, in_flight=3))
                for _ in range(20):
                    await asyncio.sleep(0.002)
                    for name, future in model.running.items():
                        if name != "0" and not future.done():
                            future.set_result(None)
                assert len(model.running) == 6
                model.running["0"].set_result(None)
                while not task.done():
                    await asyncio.sleep(0)
                    for future in model.running.values():
                        if not future.done():
                            future.set_result(None)

        asyncio.run(script())
        assert [answer["custom_id"] for answer in read(out)] == [str(i) for i in range(50)]


class TestCommand:
    def test_all_at_once(self, source: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["batch", str(source), str(out)]) == 0
        stdout, err = capsys.readouterr()
        assert stdout == ""
        assert err.startswith("10 requests answered; ")
        assert "tok/s" in err
        assert len(read(out)) == 10
        assert main(["batch", str(source), str(out)]) == 0
        assert capsys.readouterr().err == "10 requests answered; all of them before\n"
        assert main(["batch", "--quiet", str(source), "--overwrite", str(out)]) == 0
        assert capsys.readouterr().err == ""
        assert len(read(out)) == 10

    def test_errors_in_lines_show_in_the_exit_code(
        self, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        source = write(tmp_path / "in.jsonl", [chat("a", "Hi"), "{", chat("b", "Hi", n=200)])
        for _ in range(2):
            assert main(["batch", str(source), str(out), "--model", "demo"]) == 1
            assert "3 requests answered, 2 of them with an error; " in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("models", "message"),
        [
            (
                ["gpt-4o"],
                "name gpt-4o, which is no folder, no GGUF file and no Hub id: pass --model",
            ),
            (["demo", "other"], "The requests name demo, other: pass --model MODEL"),
            ([None], "The requests name none: pass --model MODEL"),
        ],
    )
    def test_which_model(
        self,
        tmp_path: Path,
        out: Path,
        models: list[Any],
        message: str,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.delenv("GPTOSS_MODEL", raising=False)
        lines = [chat(str(i), "Hi", model=model) for i, model in enumerate(models)]
        source = write(tmp_path / "in.jsonl", lines)
        assert main(["batch", str(source), str(out)]) == 2
        assert message in capsys.readouterr().err
        assert not out.exists()
        monkeypatch.setenv("GPTOSS_MODEL", "demo")
        assert main(["batch", str(source), str(out)]) == 0
        assert read(out)[0]["response"]["body"]["model"] == "demo"

    def test_mistakes(self, source: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for arguments, message in (
            ([str(source), str(source)], "the output must be another file than the input"),
            ([str(source), str(out), "--in-flight", "0"], "--in-flight must be at least 1"),
            ([str(out), str(out)], "No such file"),
        ):
            before = source.read_bytes()
            assert main(["batch", *arguments]) == 2
            err = capsys.readouterr().err
            assert message in err
            assert err.count("\n") == 1
            assert source.read_bytes() == before

    def test_ctrl_c_keeps_what_is_there(
        self,
        source: Path,
        out: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        wrote = BatchOutput.write

        def write_some(self: BatchOutput, answer: dict[str, Any]) -> None:
            wrote(self, answer)
            if self.done == 4:
                raise KeyboardInterrupt

        monkeypatch.setattr(BatchOutput, "write", write_some)
        assert main(["batch", str(source), str(out), "--in-flight", "2"]) == 130
        err = capsys.readouterr().err
        assert f"4 of 10 requests are answered in {out}; the same command goes on" in err
        assert len(read(out)) == 4
        assert main(["batch", str(source), str(out)]) == 0
        assert [answer["custom_id"] for answer in read(out)] == [f"sum {i}" for i in range(10)]
