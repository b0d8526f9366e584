"""The second machine's commands of docs/offline.md, in processes that cannot reach a network."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import gptoss

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "offline.md"
DEMO = Path(gptoss.__file__).parent / "demo"

# Run by Python at its start: any connection, any name that is looked up, ends the program.
NO_NETWORK = """\
import os, socket

def refuse(*args, **named):
    os.write(2, b"the network was asked\\n")
    os._exit(99)

for name in ("connect", "connect_ex", "sendto"):
    setattr(socket.socket, name, refuse)
socket.getaddrinfo = refuse
"""


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    start = folder / "start"
    start.mkdir(exist_ok=True)
    (start / "sitecustomize.py").write_text(NO_NETWORK)
    home = folder / "home"
    home.mkdir(exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if name[:3] != "HF_"}
    paths = [str(start), *filter(None, sys.path)]
    return subprocess.run(
        ["bash", "-euc", command],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**environment, "PYTHONPATH": os.pathsep.join(paths), "HOME": str(home)},
        timeout=120,
    )


def test_verify_and_chat(tmp_path: Path) -> None:
    block = re.search(r"<!-- offline: install -->\n```\n(.*?)```", DOCUMENT.read_text(), re.S)
    assert block is not None
    install, use = block[1].splitlines()
    assert "--no-index" in install  # which tools/check_offline.sh runs
    shutil.copytree(DEMO, tmp_path / "gpt-oss-20b")
    command = use.replace(".venv/bin/gptoss", f"{sys.executable} -m gptoss")
    done = run(command, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "17 + 25 = 42." in done.stdout


def test_the_network_is_cut_off(tmp_path: Path) -> None:
    """What asks the Hub is seen by this test."""
    done = run(f"{sys.executable} -m gptoss chat someone/else Hi", tmp_path)
    assert done.returncode == 99, done.stderr
    assert "the network was asked" in done.stderr
