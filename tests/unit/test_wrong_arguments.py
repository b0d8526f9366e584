"""Clear errors for the rest: arguments of wrong types, and bytes that are no text."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any

import pytest

import gptoss
from gptoss.checkpoint import estimate_memory, open_checkpoint


@pytest.mark.parametrize("device", [None, 5, b"cpu", ["cpu"]])
def test_device(device: Any) -> None:
    """Attack F26."""
    with pytest.raises(TypeError, match="device must be a string, got"):
        gptoss.load("demo", device=device)


@pytest.mark.parametrize(
    ("layers", "error", "message"),
    [
        (2, ValueError, "cpu_experts=2 says what a GPU leaves to the CPU, and this device is"),
        (0, ValueError, "cpu_experts=0 says what a GPU leaves to the CPU, and this device is"),
        (-1, ValueError, "cpu_experts must be from 0 to"),
        ("all", ValueError, "cpu_experts must be \"auto\" or a number of layers, got 'all'"),
        (True, TypeError, "cpu_experts must be an integer, got True"),
        (False, TypeError, "cpu_experts must be an integer, got False"),
        (None, TypeError, "cpu_experts must be an integer, got None"),
    ],
)
def test_experts_on_the_cpu(layers: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        gptoss.load("demo", device="cpu", cpu_experts=layers)


@pytest.mark.parametrize("path", [None, 5, b"demo", ["demo"], 1.5])
def test_path(path: Any) -> None:
    for use in (gptoss.load, open_checkpoint, estimate_memory):
        with pytest.raises(TypeError, match="a checkpoint must be given as a path"):
            use(path)


def test_an_empty_path_is_not_the_current_folder() -> None:
    with pytest.raises(gptoss.CheckpointError, match="found an empty string"):
        gptoss.load("")


@pytest.mark.parametrize("revision", [5, b"main", ["main"]])
def test_revision(revision: Any) -> None:
    with pytest.raises(TypeError, match="revision must be a string or None"):
        gptoss.load("someone/some-model", revision=revision, local_files_only=True)


class TestTimeout:
    """Attack F26: of Request.result."""

    @pytest.mark.parametrize("timeout", ["1", True, [1], b"1", 1j])
    def test_wrong_types(self, timeout: Any) -> None:
        with gptoss.load("demo", threads=1) as llm:
            request = llm.submit("a", max_tokens=3, ignore_eos=True)
            with pytest.raises(TypeError, match="timeout must be a number of seconds or None"):
                request.result(timeout=timeout)
            assert len(request.result().token_ids) == 3

    def test_nan(self) -> None:
        with gptoss.load("demo", threads=1) as llm:
            request = llm.submit("a", max_tokens=3)
            with pytest.raises(ValueError, match="got nan"):
                request.result(timeout=float("nan"))

    @pytest.mark.parametrize("timeout", [float("inf"), 1e300, 10**400, 2**63])
    def test_longer_than_any_clock(self, timeout: Any) -> None:
        with gptoss.load("demo", threads=1) as llm:
            request = llm.submit("a", max_tokens=3, ignore_eos=True)
            assert len(request.result(timeout=timeout).token_ids) == 3

    @pytest.mark.parametrize("timeout", [0, -1, float("-inf"), -(10**400)])
    def test_none_at_all(self, timeout: Any) -> None:
        with gptoss.load("demo", threads=1) as llm:
            request = llm.submit("a", max_tokens=3000, ignore_eos=True)
            start = time.monotonic()
            with pytest.raises(TimeoutError):
                request.result(timeout=timeout)
            assert time.monotonic() - start < 1


@pytest.mark.parametrize(
    ("command", "stdin"),
    [
        (["generate", "demo", b"caf\xe9 \xff"], None),
        (["generate", "demo", "-"], b"caf\xe9 \xff"),
        (["generate", "demo"], b"caf\xe9 \xff"),
        (["generate", "demo", "a", "--stop", b"\xe9"], None),
        (["chat", "demo", b"caf\xe9"], None),
        (["chat", "demo", "-"], b"caf\xe9 \xff"),
        (["chat", "demo", "a", "--system", b"caf\xe9"], None),
    ],
)
def test_bytes_that_are_no_text(command: list[Any], stdin: bytes | None) -> None:
    """Users 21: U+FFFD for each, on the command line as elsewhere."""
    done = subprocess.run(
        [sys.executable, "-m", "gptoss", *command, "--max-tokens", "3", "--json"],
        input=b"" if stdin is None else stdin,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr.decode()
    answer = json.loads(done.stdout)
    if "prompt_token_ids" in answer and "--stop" not in command:
        llm = gptoss.load("demo", threads=1)
        assert llm.tokenizer.decode(answer["prompt_token_ids"]) == "caf\ufffd \ufffd"
