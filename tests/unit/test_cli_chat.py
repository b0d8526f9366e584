"""`gptoss chat`, on a scripted model."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gptoss.cli import main, options
from support.scripted_model import ScriptedModel

THINK = "<|channel|>analysis<|message|>Let me see.<|end|><|start|>assistant"
FINAL = "<|channel|>final<|message|>Hello world<|return|>"
CALL = "<|channel|>commentary to=functions.get_time <|constrain|>json<|message|>{}<|call|>"

Run = Callable[..., "tuple[int, str, str]"]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `gptoss chat` with a model, arguments, and lines typed or piped into it."""

    def run_chat(
        model: ScriptedModel, *arguments: str, typed: list[Any] | None = None, piped: str = ""
    ) -> tuple[int, str, str]:
        lines: Iterator[Any] = iter(typed or ())

        def read(prompt: str) -> str:
            line = next(lines, EOFError())
            if isinstance(line, BaseException):
                raise line
            return str(line)

        stdin = io.StringIO(piped)
        stdin.isatty = lambda: typed is not None  # type: ignore[method-assign]
        monkeypatch.setattr("sys.stdin", stdin)
        monkeypatch.setattr("builtins.input", read)
        monkeypatch.setattr("gptoss.load", lambda name, **_: model)
        code = main(["chat", "model", *arguments])
        return code, *capsys.readouterr()

    return run_chat


def test_one_question(run: Run) -> None:
    model = ScriptedModel(THINK + FINAL)
    code, out, err = run(model, "Hi there", "--effort", "low", "--system", "Be brief.", "--seed=3")
    assert (code, out) == (0, "Hello world\n")
    assert "ended by stop" in err
    assert "Let me see" not in err
    prompt, params = model.requests[0]
    assert "Hi there<|end|>" in model.text(prompt)
    assert "Reasoning: low" in model.text(prompt)
    assert "Be brief." in model.text(prompt)
    assert params.seed == 3


def test_reasoning_goes_to_stderr(run: Run) -> None:
    _, out, err = run(ScriptedModel(THINK + FINAL), "Hi", "--show-reasoning")
    assert out == "Hello world\n"
    assert err.startswith("Let me see.\n")


def test_json(run: Run) -> None:
    _, out, _ = run(ScriptedModel(THINK + FINAL), "Hi", "--json")
    answer = json.loads(out)
    assert answer["choices"][0]["message"]["content"] == "Hello world"
    assert answer["choices"][0]["message"]["reasoning"] == "Let me see."


def test_question_from_stdin(run: Run) -> None:
    for arguments in ((), ("-",)):
        model = ScriptedModel(FINAL)
        assert run(model, *arguments, piped="Hi from\nstdin")[1] == "Hello world\n"
        assert "Hi from\nstdin<|end|>" in model.text(model.requests[0][0])
    code, _, err = run(ScriptedModel(), piped=" \n")
    assert (code, err) == (2, "gptoss: error: the QUESTION is empty\n")


def test_max_reasoning_tokens(run: Run) -> None:
    model = ScriptedModel(THINK + FINAL, "Hello<|return|>")
    assert run(model, "Hi", "--max-reasoning-tokens", "2")[1] == "Hello\n"


def test_conversation(run: Run, tmp_path: Path) -> None:
    saved = tmp_path / "saved.json"
    model = ScriptedModel(THINK + FINAL, THINK + FINAL, FINAL)
    code, out, _ = run(
        model,
        "--system=Be brief.",
        typed=[
            "/help",
            "First",
            KeyboardInterrupt(),
            "/effort high",
            "Second",
            f"/save {saved}",
            "/reset",
            "",
            "Third",
            "/effort extreme",
            "/nothing",
            "/tools",
            f"/save {tmp_path / 'no' / 'folder'}",
        ],
    )
    assert code == 0
    assert out.count("Hello world\n") == 3
    assert "Let me see" not in out
    prompts = [model.text(prompt) for prompt, _ in model.requests]
    assert "First" in prompts[1]
    assert "Hello world<|end|>" in prompts[1]
    assert "Reasoning: high" in prompts[1]
    assert "First" not in prompts[2]
    assert "Third" in prompts[2]
    assert all("Be brief." in prompt for prompt in prompts)
    messages = json.loads(saved.read_text())
    assert [m["role"] for m in messages] == ["system", *["user", "assistant"] * 2]
    assert "error: effort must be one of low, medium, high" in out
    assert "error: there is no command /nothing" in out
    assert "tools: none" in out
    assert out.count("error:") == 3


def test_interrupting_an_answer(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ScriptedModel(THINK + FINAL, FINAL)
    taken = type(model).stream

    def stream(self: ScriptedModel, *args: Any, **named: Any) -> Any:
        tokens = taken(self, *args, **named)
        if len(self.requests) > 1:
            return tokens

        class Interrupted:
            def __next__(self) -> Any:
                if model.text(tokens.given).endswith("Hello"):
                    raise KeyboardInterrupt
                return next(tokens)

            def close(self) -> None:
                tokens.close()

        return Interrupted()

    monkeypatch.setattr(ScriptedModel, "stream", stream)
    code, out, _ = run(model, "--show-reasoning", typed=["First", "Second"])
    assert code == 0
    assert "Let me see.\nHello\n(stopped)\nHello world\n" in out
    assert model.streams[0].closed
    assert "final<|message|>Hello<|end|>" in model.text(model.requests[1][0])


def test_errors_do_not_end_a_conversation(run: Run) -> None:
    model = ScriptedModel(FINAL, context_length=500)
    code, out, _ = run(model, typed=["bad " * 200, "Hi"])
    assert code == 0
    assert "error: the prompt has" in out
    assert "Hello world" in out
    assert "bad" not in model.text(model.requests[0][0])


def test_tools(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "tools.py"
    file.write_text(
        "from pathlib import Path\n"
        "def get_time():\n    'Tell the time.'\n    return 'noon'\n"
        "def _hidden(): pass\n"
        "class Other: pass\n"
    )
    model = ScriptedModel(CALL, FINAL)
    _, out, err = run(model, "When?", "--tools", str(file))
    assert out == "Hello world\n"
    assert err.startswith("get_time({})\nnoon\n")
    assert "type get_time = () => any;" in model.text(model.requests[0][0])
    assert "noon<|end|>" in model.text(model.requests[1][0])
    model = ScriptedModel(CALL, FINAL)
    _, out, _ = run(model, typed=[f"/tools {file}", "When?"])
    assert "tools: get_time\n" in out
    assert "get_time({})\nnoon\nHello world\n" in out
    file.write_text("x = 1\n")
    code, _, err = run(ScriptedModel(), "When?", "--tools", str(file))
    assert (code, "defines no function" in err) == (2, True)


def test_terminals_are_not_steered(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "<|channel|>final<|message|>a\x1b[2Jb\x9bc\td<|return|>"
    assert run(ScriptedModel(script), "Hi")[1] == "a\x1b[2Jb\x9bc\td\n"  # a file gets it all
    monkeypatch.setenv("FORCE_COLOR", "1")
    out = run(ScriptedModel(script), "Hi")[1]
    assert "\x1b[2J" not in out
    assert "\x9b" not in out


def test_json_needs_a_question(run: Run) -> None:
    code, _, err = run(ScriptedModel(), "--json", typed=[])
    assert (code, "--json answers one QUESTION" in err) == (2, True)


def test_default_model(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    loaded: list[str] = []

    def load(name: str, **_: Any) -> ScriptedModel:
        loaded.append(name)
        return ScriptedModel(FINAL)

    monkeypatch.setattr("gptoss.load", load)
    monkeypatch.setattr("sys.stdin", io.StringIO("Hi"))
    monkeypatch.setenv("GPTOSS_MODEL", "mine")
    assert main(["chat"]) == 0
    assert loaded == ["mine"]
    assert "openai/gpt-oss-20b" not in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", io.StringIO("Hi"))
    monkeypatch.delenv("GPTOSS_MODEL")
    assert main(["chat"]) == 0
    assert loaded == ["mine", "demo"]
    first_line = capsys.readouterr().err.splitlines()[0]
    assert "demo" in first_line
    assert "openai/gpt-oss-20b" in first_line


def test_read_text_of_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    stdin = io.StringIO("x")
    monkeypatch.setattr("sys.stdin", stdin)
    assert options.read_text("a", "PROMPT") == "a"
    assert options.read_text(None, "PROMPT") == "x"
    stdin.isatty = lambda: True  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="no PROMPT"):
        options.read_text(None, "PROMPT")
