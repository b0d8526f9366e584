"""`gptoss chat`, on a scripted model."""

from __future__ import annotations

import io
import json
import os
import sys
import types
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
        model: ScriptedModel,
        *arguments: str,
        typed: list[Any] | None = None,
        piped: str = "",
        history: str | None = "",
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
        if history is None:
            monkeypatch.delenv("GPTOSS_HISTORY", raising=False)
        else:
            monkeypatch.setenv("GPTOSS_HISTORY", history)
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


def prompts_of(model: ScriptedModel) -> list[str]:
    return [model.text(prompt).split("<|end|>", 1)[1] for prompt, _ in model.requests]


def said(text: str) -> str:
    return f"<|channel|>final<|message|>{text}<|return|>"


class TestCommands:
    @pytest.mark.parametrize("leave", ["/exit", "/quit", EOFError()])
    def test_leaving(self, run: Run, leave: Any) -> None:
        model = ScriptedModel(FINAL)
        code, out, _ = run(model, typed=["Hi", leave, "never"])
        assert code == 0
        assert len(model.requests) == 1
        assert "error" not in out

    def test_system(self, run: Run) -> None:
        model = ScriptedModel(FINAL, FINAL, FINAL)
        typed = ["/system Be brief.", "A", "/system", "/system Be long.", "B", "/system -", "C"]
        _, out, _ = run(model, typed=typed)
        first, second, third = prompts_of(model)
        assert "Be brief." in first
        assert "Be brief." not in second
        assert "Be long." in second
        assert "A<|end|>" in second  # the conversation goes on
        assert "# Instructions" not in third
        assert "A<|end|>" in third
        assert out.count("system: Be brief.\n") == 2
        assert "system: none\n" in out

    def test_retry(self, run: Run) -> None:
        model = ScriptedModel(said("one"), said("two"), said("three"), said("four"))
        _, out, _ = run(model, typed=["/retry", "A", "/retry", "B", "/retry"])
        assert "error: nothing was asked yet\n" in out
        first, again, second, second_again = prompts_of(model)
        assert again == first
        assert second_again == second
        assert "two<|end|>" in second
        assert "one" not in second

    def test_retry_after_an_error(self, run: Run) -> None:
        class Fussy(ScriptedModel):
            def stream(self, prompt: Any, *arguments: Any, **named: Any) -> Any:
                if self.text(prompt).endswith("bad<|end|><|start|>assistant"):
                    raise ValueError("that is too much")
                return super().stream(prompt, *arguments, **named)

        model = Fussy(said("one"), said("two"))
        _, out, _ = run(model, typed=["A", "bad", "/retry", "/undo", "/undo", "A"])
        assert out.count("error: that is too much") == 2
        assert "forgotten: bad\n" in out
        assert "forgotten: A\n" in out
        assert prompts_of(model)[0] == prompts_of(model)[1]

    def test_undo(self, run: Run) -> None:
        model = ScriptedModel(said("one"), said("two"), said("three"))
        typed = ["A", "B", "/undo", "/undo", "/undo", "C"]
        _, out, _ = run(model, typed=typed)
        assert "forgotten: B\n" in out
        assert "forgotten: A\n" in out
        assert "error: nothing was asked yet" in out
        assert prompts_of(model)[2] == "<|start|>user<|message|>C<|end|><|start|>assistant"

    def test_undo_with_tool_calls(self, run: Run, tmp_path: Path) -> None:
        file = tmp_path / "tools.py"
        file.write_text("def get_time():\n    'Tell the time.'\n    return 'noon'\n")
        model = ScriptedModel(CALL, FINAL, FINAL)
        run(model, "--tools", str(file), typed=["When?", "/undo", "/tools", "And now?"])
        assert "When?" not in prompts_of(model)[2]
        assert "noon" not in prompts_of(model)[2]

    def test_show_reasoning(self, run: Run) -> None:
        model = ScriptedModel(*[THINK + FINAL] * 4)
        typed = ["A", "/show-reasoning", "B", "/show-reasoning off", "C", "/show-reasoning on", "D"]
        _, out, _ = run(model, typed=[*typed, "/show-reasoning maybe"])
        assert out.count("Let me see.\n") == 2
        assert "reasoning is shown\n" in out
        assert "reasoning is hidden\n" in out
        assert "error: /show-reasoning takes on or off, got 'maybe'" in out

    def test_a_typo_gets_one_hint(self, run: Run) -> None:
        _, out, _ = run(ScriptedModel(), "--quiet", typed=["/efort low", "/quti", "/xyzzy"])
        assert out.splitlines()[:3] == [
            "error: there is no command /efort; did you mean /effort?",
            "error: there is no command /quti; did you mean /quit?",
            "error: there is no command /xyzzy; /help lists them",
        ]

    def test_help_lists_all(self, run: Run) -> None:
        _, out, _ = run(ScriptedModel(), typed=["/help"])
        for name in ("/exit", "/quit", "/system", "/retry", "/undo", "/show-reasoning", "/effort"):
            assert name in out

    def test_what_is_no_command(self, run: Run) -> None:
        model = ScriptedModel(FINAL, FINAL)
        run(model, typed=["/etc/hosts: what is it?", " /help me"])
        first, second = prompts_of(model)
        assert "/etc/hosts: what is it?<|end|>" in first
        assert "/help me<|end|>" in second


class TestInput:
    def test_several_lines(self, run: Run) -> None:
        model = ScriptedModel(FINAL, FINAL, FINAL, FINAL)
        typed = [
            *("one \\", "two\\", "three"),
            *('"""first', "  second", "/third", 'fourth"""'),
            *('"""', "alone", '"""'),
            '"""in one line"""',
        ]
        run(model, typed=typed)
        asked = [prompt.rpartition("<|start|>user<|message|>")[2] for prompt in prompts_of(model)]
        assert [text.partition("<|end|>")[0] for text in asked] == [
            "one \ntwo\nthree",
            "first\n  second\n/third\nfourth",
            "alone",
            "in one line",
        ]

    def test_ctrl_c_forgets_what_was_begun(self, run: Run) -> None:
        model = ScriptedModel(FINAL)
        run(model, typed=['"""', "never", KeyboardInterrupt(), "\\", KeyboardInterrupt(), "Hi"])
        assert prompts_of(model) == ["<|start|>user<|message|>Hi<|end|><|start|>assistant"]

    def test_the_end_of_input_ends_a_block(self, run: Run) -> None:
        for typed in (['"""', "Hi"], ["Hi\\"]):
            model = ScriptedModel(FINAL)
            run(model, typed=typed)
            assert "Hi<|end|>" in prompts_of(model)[0]

    @pytest.mark.parametrize("with_readline", [True, False])
    def test_history(
        self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_readline: bool
    ) -> None:
        file = tmp_path / "state" / "gptoss" / "history.jsonl"
        given: list[str] = []
        fake = types.SimpleNamespace(
            add_history=given.append, set_auto_history=lambda enabled: given.append(str(enabled))
        )
        monkeypatch.setitem(sys.modules, "readline", fake if with_readline else None)

        def chat(*typed: str) -> tuple[ScriptedModel, str]:
            model = ScriptedModel(*[FINAL] * 3)
            for name in ("XDG_STATE_HOME", "LOCALAPPDATA"):
                monkeypatch.setenv(name, str(tmp_path / "state"))
            code, out, _ = run(model, typed=list(typed), history=None)
            assert code == 0
            return model, out

        _, out = chat("/history", "First\\", "question", "Second", "Second")
        assert "nothing was asked yet" in out
        assert [json.loads(line) for line in file.read_text().splitlines()] == [
            "/history",
            "First\nquestion",
            "Second",
        ]
        assert os.name == "nt" or file.stat().st_mode & 0o077 == 0
        if with_readline:
            assert given == ["False", "/history", "First\nquestion", "Second"]
        given.clear()
        model, out = chat("/history", "/history 1", "/history 3", "/history x")
        assert given[:4] == (["False", "/history", "First\nquestion", "Second"] * with_readline)
        assert "1  First question\n2  Second\n" in out
        assert "First\nquestion<|end|>" in prompts_of(model)[0]
        assert out.count("error: /history takes a number from 1 to 2") == 2

    def test_a_damaged_history_is_no_error(self, run: Run, tmp_path: Path) -> None:
        file = tmp_path / "history"
        file.write_bytes(b'"good"\n{\n\xff\n5\n"last"\n')
        _, out, _ = run(ScriptedModel(), typed=["/history"], history=str(file))
        assert "1  good\n2  last\n" in out
        folder = tmp_path / "folder"
        folder.mkdir()
        code, out, _ = run(ScriptedModel(FINAL), typed=["Hi", "/history"], history=str(folder))
        assert (code, "1  Hi\n" in out) == (0, True)

    def test_the_history_does_not_grow_for_ever(self, run: Run, tmp_path: Path) -> None:
        file = tmp_path / "history"
        file.write_text("".join(f'"q{i}"\n' for i in range(2001)))
        run(ScriptedModel(), typed=["/help"], history=str(file))
        assert file.read_text().splitlines()[:1] == ['"q1001"']


def test_quiet(run: Run) -> None:
    code, out, err = run(ScriptedModel(THINK + FINAL), "Hi", "--quiet")
    assert (code, out, err) == (0, "Hello world\n", "")
    _, out, err = run(ScriptedModel(THINK + FINAL), "-q", typed=["Hi"])
    assert (out, err) == ("Hello world\n\n", "")


def test_markdown_is_for_terminals(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "<|channel|>final<|message|># A\n\n**b** `c`<|return|>"
    assert run(ScriptedModel(script), "Hi")[1] == "# A\n\n**b** `c`\n"
    assert run(ScriptedModel(script), typed=["Hi"])[1].splitlines()[1:4] == ["# A", "", "**b** `c`"]
    monkeypatch.setenv("FORCE_COLOR", "1")
    out = run(ScriptedModel(script), "Hi")[1]
    assert "**" not in out
    assert "**b** `c`" in run(ScriptedModel(script), "Hi", "--plain")[1]


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
