"""The command `gptoss`: output, exit codes, one-line errors."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import gptoss
import gptoss.published
from gptoss.checkpoint.memory import estimate_config
from gptoss.cli import main

TOKENS = ["--max-tokens", "5", "--ignore-eos"]


@pytest.fixture
def model(tiny_checkpoint: Callable[[str], Path]) -> str:
    return str(tiny_checkpoint("hf"))


@pytest.mark.parametrize("encoding", ["cp1252", "cp437"])
def test_characters_that_the_output_lacks(
    encoding: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Windows' encodings cannot say is replaced, in what every command prints."""
    named = tmp_path / "модель"
    shutil.copytree(model, named)
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    assert main(["info", str(named)]) == 0
    assert written.getvalue().startswith(b"??????")


class TestGenerate:
    def test_text_on_stdout_and_speed_on_stderr(
        self, model: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        bias = [f"--logit-bias={ord(letter)}=30" for letter in "abc"]
        options = ["--seed", "1", "--context-length", "64", "--threads", "1"]
        assert main(["generate", model, "Hello", *TOKENS, *bias, *options]) == 0
        out, err = capsys.readouterr()
        expected = gptoss.generate(
            "Hello",
            model=model,
            max_tokens=5,
            seed=1,
            logit_bias={ord(letter): 30 for letter in "abc"},
        ).text
        assert out == expected + "\n"
        assert len(expected) == 5
        assert err.count("\n") == 1
        assert "5 prompt tokens" in err
        assert "5 generated" in err
        assert "tok/s" in err

    def test_json(self, model: str, capsys: pytest.CaptureFixture[str]) -> None:
        options = ["--temperature", "0", "--logprobs", "2", "--json", "--precision", "reference"]
        assert main(["generate", model, "Hello", *TOKENS, *options]) == 0
        out, err = capsys.readouterr()
        result = json.loads(out)
        assert err == ""
        assert len(result["token_ids"]) == 5
        assert len(result["logprobs"][0]["top_logprobs"]) == 2
        assert result["usage"]["prompt_tokens"] == 5
        assert result["finish_reason"] == "length"

    def test_prompt_from_stdin(
        self, model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sys.stdin", io.StringIO("Hello"))
        assert main(["generate", model, "-", *TOKENS, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["prompt_token_ids"] == list(b"Hello")

    def test_every_sampling_parameter_is_an_option(
        self, model: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        options = (
            "--max-tokens 3 --min-tokens 1 --temperature 0.5 --top-p 0.9 --top-k 4 --min-p 0.1 "
            "--stop x --stop yy "
            "--stop-token-ids 5,6 --seed 1 --logprobs 0 --repetition-penalty 1.1 "
            "--presence-penalty 0.1 --frequency-penalty 0.1 --logit-bias 3=1.5 --ignore-eos --n 2 "
            "--json"
        )
        assert main(["generate", model, "Hello", *options.split()]) == 0
        # Of use to programs; an adapter is named by an option that other commands have as well.
        without = {"allowed_token_ids", "prompt_logprobs", "constraint", "cache_salt", "steer"}
        without |= {"adapter"}
        for name in gptoss.SamplingParams.__dataclass_fields__.keys() - without:
            assert "--" + name.replace("_", "-") in options.split()
        result = json.loads(capsys.readouterr().out)
        assert result["usage"]["completion_tokens"] <= 3
        assert len(result["other_samples"]) == 1

    def test_several_continuations(self, model: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["generate", model, "Hello", *TOKENS, "--n", "2", "--seed", "1"]) == 0
        out, err = capsys.readouterr()
        assert [line for line in out.splitlines() if line.startswith("---")] == [
            "--- 1 of 2",
            "--- 2 of 2",
        ]
        assert len(err.splitlines()) == 2

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--temperature", "-1"], "temperature must be at least 0 and finite, got -1"),
            (["--top-p", "2"], "top_p must be in (0, 1], got 2"),
            (["--device", "cuda"], "device 'cuda' is not available"),
            (["--context-length", "3"], "the prompt has 5 tokens, and the context of 3"),
            (["--precision", "low"], "precision must be one of ('auto', 'reference'), got 'low'"),
            (["--stop-token-ids", "9999"], "stop_token_ids has id 9999, outside the vocabulary"),
        ],
    )
    def test_errors_are_one_line(
        self, model: str, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["generate", model, "Hello", *TOKENS, *options]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("gptoss: error: ")
        assert message in err
        assert err.count("\n") == 1

    def test_damaged_and_absent_checkpoints(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "config.json").write_text("{")
        for path in (tmp_path, tmp_path / "nothing"):
            for command in (["generate", str(path), "x"], ["info", str(path)]):
                assert main(command) == 2
                err = capsys.readouterr().err
                assert err.count("\n") == 1
                assert str(path) in err

    def test_ctrl_c(
        self, model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(self: gptoss.Request) -> gptoss.GenerationChunk:
            raise KeyboardInterrupt

        monkeypatch.setattr(gptoss.Request, "__next__", interrupted)
        assert main(["generate", model, "Hello"]) == 130
        assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("command", ["chat", "generate"])
def test_a_question_in_the_place_of_the_model(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "What is 17 + 25?"]) == 2
    assert capsys.readouterr().err == (
        "gptoss: error: no model is named 'What is 17 + 25?': MODEL comes first, as in "
        f'gptoss {command} demo "…"\n'
    )


class TestInfo:
    def test_tables(self, model: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["info", model]) == 0
        out = capsys.readouterr().out
        for text in ("tiny-hf", "4, 2 of them with a window of 16 tokens", "2,048", "131,072"):
            assert text in out
        total = gptoss.estimate_memory(model, 8192).total_bytes
        assert f"{total / 1e6:.2f} MB" in out

    def test_original_layout(
        self, tiny_checkpoint: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["info", str(tiny_checkpoint("original")), "--precision", "reference"]) == 0
        out = capsys.readouterr().out
        assert "original" in out
        assert "precision reference" in out

    def test_errors_are_one_line(self, model: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["info", model, "--precision", "low"]) == 2
        assert (
            "precision must be one of ('auto', 'reference'), got 'low'" in capsys.readouterr().err
        )


class TestDoctor:
    @pytest.fixture(autouse=True)
    def machine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A machine with 24 GB that reads 40 GB/s."""
        monkeypatch.setattr("gptoss.measure.ReadProbe.gb_s", lambda probe: 40.0)
        monkeypatch.setattr("gptoss.cli.doctor.PROBE_BYTES", 1_000_000)
        monkeypatch.setattr("gptoss._core.available_memory_bytes", lambda: 24 * 10**9)

    def test_says_first_what_fits(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["doctor"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].endswith("24.0 GB of memory free, read at 40 GB/s")
        assert lines[1] == "gpt-oss-20b fits: gptoss chat openai/gpt-oss-20b"
        assert lines[2] == "gpt-oss-120b does not fit into the free memory"
        found = [line for line in lines if line.startswith("│ gpt-oss-20b")]
        rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in found]
        # 3.71 GB of the bf16 form are read for a token, and 90 % of 40 GB/s are 36.
        assert rows[0] == ["gpt-oss-20b", "bf16", "14.1 GB", "131,072", "about 9.7"]
        assert [row[1] for row in rows] == ["bf16", "bf12", "q8"]
        large = gptoss.published.GPT_OSS_120B
        needed = estimate_config("", large, 8192, dense="bf12").total_bytes
        assert any(f"{needed / 1e9 - 24:.1f} GB short" in line for line in lines)

    def test_little_memory(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("gptoss._core.available_memory_bytes", lambda: 14 * 10**9)
        assert main(["doctor"]) == 0
        out = capsys.readouterr().out
        assert "gpt-oss-20b fits" in out
        row = next(line for line in out.splitlines() if "bf16" in line)
        assert "none" not in row
        contexts = [n for n in row.replace(",", "").split() if n.isdigit()]
        shortest, with_int8 = map(int, contexts)
        assert 1024 <= shortest < with_int8 < 131_072
        monkeypatch.setattr("gptoss._core.available_memory_bytes", lambda: 2 * 10**9)
        assert main(["doctor"]) == 0
        assert "gpt-oss-20b does not fit" in capsys.readouterr().out

    def test_lists_what_there_is(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["doctor"]) == 0
        out = capsys.readouterr().out
        for name in ("backend cpu", "backend cuda", "backend metal", "threads", "instruction set"):
            assert name in out
        assert "gptoss has no metal backend yet" in out
        assert "scalar" not in out
        assert main(["doctor", "--verbose"]) == 0
        out = capsys.readouterr().out
        assert "scalar" in out
        assert "numpy" in out

    @pytest.mark.parametrize(
        ("variable", "value", "message"),
        [
            ("GPTOSS_ISA", "mmx", "unknown ISA 'mmx'"),
            ("GPTOSS_NUM_THREADS", "many", "must be a whole number, got 'many'"),
        ],
    )
    def test_says_what_is_wrong(
        self,
        variable: str,
        value: str,
        message: str,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv(variable, value)
        monkeypatch.setenv("COLUMNS", "100")
        assert main(["doctor"]) == 2
        assert message in capsys.readouterr().out

    def test_says_what_was_forced(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("GPTOSS_ISA", "scalar")
        assert main(["doctor"]) == 0
        assert "scalar, set by GPTOSS_ISA" in capsys.readouterr().out

    def test_offline_mode(self) -> None:
        # The probe of memory's speed included: a process of its own.
        found = subprocess.run(
            [sys.executable, "-m", "gptoss", "doctor"],
            env={"HF_HUB_OFFLINE": "1", "PYTHONPATH": ":".join(filter(None, sys.path))},
            capture_output=True,
            text=True,
            check=False,
        )
        assert found.returncode == 0, found.stderr
        assert "offline mode, by HF_HUB_OFFLINE" in found.stdout


class TestMain:
    def test_version(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["--version"]) == 0
        assert capsys.readouterr().out == f"gptoss {gptoss.__version__}\n"

    def test_without_a_command(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main([]) == 2
        assert "generate" in capsys.readouterr().err

    @pytest.mark.parametrize("argv", [["nothing"], ["info"], ["generate", "m", "p", "--x"]])
    def test_wrong_usage(self, argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as found:
            main(argv)
        assert found.value.code == 2
        assert "usage: gptoss" in capsys.readouterr().err

    @pytest.mark.parametrize("command", ["generate", "info", "doctor"])
    def test_help(self, command: str, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as found:
            main([command, "--help"])
        assert found.value.code == 0
        assert f"usage: gptoss {command}" in capsys.readouterr().out

    def test_importing_is_light(self) -> None:
        script = (
            "import sys, gptoss; "
            "print([m for m in ('torch', 'huggingface_hub', 'tokenizers') if m in sys.modules])"
        )
        found = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        )
        assert found.stdout == "[]\n"
