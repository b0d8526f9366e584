"""From a folder on disk to text on the terminal, in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "gptoss", "generate"]
# The same, which presses Ctrl-C for itself when there is a file of the name.
INTERRUPTIBLE = """
import os, signal, sys, threading, time
def press():
    while not os.path.exists(sys.argv[1]):
        time.sleep(0.01)
    signal.raise_signal(signal.SIGINT)
threading.Thread(target=press, daemon=True).start()
from gptoss.cli import main
sys.exit(main(["generate", *sys.argv[2:]]))
"""


def test_both_layouts_give_the_same_text(tiny_checkpoint: Callable[[str], Path]) -> None:
    options = ["Hello", "--max-tokens", "40", "--temperature", "0", "--ignore-eos"]
    texts = []
    for layout in ("hf", "original"):
        for threads in ("1", "2"):
            found = subprocess.run(
                [*COMMAND, str(tiny_checkpoint(layout)), *options, "--threads", threads],
                capture_output=True,
                check=False,
                timeout=60,
            )
            assert found.returncode == 0, found.stderr
            assert b"40 generated" in found.stderr
            texts.append(found.stdout)
    assert len(texts[0]) > 20
    assert texts == [texts[0]] * 4


def test_every_instruction_set_gives_text(tiny_checkpoint: Callable[[str], Path]) -> None:
    from gptoss import _core

    options = ["Hello", "--max-tokens", "5", "--temperature", "0", "--ignore-eos"]
    for name, supported, missing in _core.isas():
        found = subprocess.run(
            [*COMMAND, str(tiny_checkpoint("hf")), *options],
            env=os.environ | {"GPTOSS_ISA": name},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        if supported:
            assert found.returncode == 0, found.stderr
            assert "5 generated" in found.stderr
        else:
            assert found.returncode == 2
            assert missing in found.stderr


def test_ctrl_c_ends_it_at_once(tiny_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    # In the background of a shell the tests ignore Ctrl-C, and so would their children.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    # Windows sends it to all processes of a console: there one presses it for itself.
    command = COMMAND
    if sys.platform == "win32":
        command = [sys.executable, "-c", INTERRUPTIBLE, str(tmp_path / "now")]
    process = subprocess.Popen(
        [*command, str(tiny_checkpoint("hf")), "Hello", "--ignore-eos"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    signal.signal(signal.SIGINT, before)
    assert process.stdout is not None
    assert process.stdout.read(10)  # it is generating
    if sys.platform == "win32":
        (tmp_path / "now").touch()
    else:
        process.send_signal(signal.SIGINT)
    start = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in err
    assert time.monotonic() - start < 10


def test_a_closed_pipe_is_no_traceback(tiny_checkpoint: Callable[[str], Path]) -> None:
    if sys.platform == "win32":
        pytest.skip("no such pipes on Windows")
    process = subprocess.Popen(
        [*COMMAND, str(tiny_checkpoint("hf")), "Hello", "--ignore-eos"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.read(1)
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 2
    assert err == b""
