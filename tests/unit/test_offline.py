"""Offline is offline: what the cache holds costs no packet, and no network is told at once.

Each case is a process of its own, with an audit hook: huggingface_hub reads its variables when it
is imported, and a hook stays for ever.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from support.checkpoints import MICRO, make_checkpoint

REPO = "someone/some-model"
COMMIT = "a" * 40
OTHER = "b" * 40
SHARD = "model-00001-of-00002.safetensors"

# Prints a line of JSON: packets, what came of the call, and how long it took.
SCRIPT = """
import json, sys, time
packets = []
def watch(event, args):
    sends = ("connect", "getaddrinfo", "gethostbyname", "gethostbyaddr", "sendto", "sendmsg")
    if event.startswith("socket.") and event.split(".")[1] in sends:
        packets.append([event, repr(args[:2])])
sys.addaudithook(watch)
import gptoss
from gptoss.checkpoint import open_checkpoint
from gptoss.cli import main
start = time.monotonic()
try:
    outcome = "" if eval(sys.argv[1]) is not None else "?"
except gptoss.CheckpointError as error:
    outcome = str(error)
print(json.dumps([packets, outcome, time.monotonic() - start]))
"""


class Run(NamedTuple):
    """What a process did."""

    packets: list[list[str]]
    error: str
    seconds: float
    stderr: str


def run(cache: Path, expression: str, **environment: str) -> Run:
    """Evaluate an expression in a new process whose Hub cache is `cache`."""
    drop = ("HF_", "HUGGINGFACE", "TRANSFORMERS", "http_proxy", "https_proxy", "all_proxy")
    inherited = {k: v for k, v in os.environ.items() if not k.lower().startswith(_lower(drop))}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, expression],
        env={**inherited, "HF_HUB_CACHE": str(cache), "HF_HOME": str(cache), **environment},
        cwd=cache,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    packets, error, seconds = json.loads(done.stdout.splitlines()[-1])
    return Run(packets, error, seconds, done.stderr)


def _lower(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name.lower() for name in names)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    make_checkpoint(folder, MICRO, shard_bytes=35_000)
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    folder = tmp_path / "hub"
    folder.mkdir()
    return folder


def fill(cache: Path, published: Path, *, commit: str = COMMIT, ref: str | None = "main") -> Path:
    """Lay a repository into the cache, as huggingface_hub does; return the snapshot."""
    root = cache / f"models--{REPO.replace('/', '--')}"
    if ref is not None:
        (root / "refs").mkdir(parents=True, exist_ok=True)
        (root / "refs" / ref).write_text(commit)
    return Path(shutil.copytree(published, root / "snapshots" / commit))


LOAD = f"gptoss.load({REPO!r}, threads=1)"
USES = {
    "load": LOAD,
    "local_files_only": f"gptoss.load({REPO!r}, local_files_only=True, threads=1)",
    "open_checkpoint": f"open_checkpoint({REPO!r})",
    "estimate_memory": f"gptoss.estimate_memory({REPO!r})",
    "info": f"main(['info', {REPO!r}])",
    "doctor": "main(['doctor'])",
    "demo": "gptoss.load('demo').generate('a', max_tokens=2)",
}


@pytest.mark.parametrize("use", USES)
def test_a_complete_copy_costs_no_packet(use: str, cache: Path, published: Path) -> None:
    fill(cache, published)
    done = run(cache, USES[use])
    assert not done.error
    assert not done.packets


@pytest.mark.parametrize(
    ("name", "value"),
    [("HF_HUB_OFFLINE", "1"), ("HF_HUB_OFFLINE", "yes"), ("TRANSFORMERS_OFFLINE", "1")],
)
@pytest.mark.parametrize("have", ["all", "part", "nothing"])
def test_offline_variables_cost_no_packet(
    name: str, value: str, have: str, cache: Path, published: Path
) -> None:
    if have != "nothing":
        snapshot = fill(cache, published)
        if have == "part":
            (snapshot / SHARD).unlink()
    done = run(cache, LOAD, **{name: value})
    assert not done.packets
    assert bool(done.error) == (have != "all")
    if have == "part":
        assert f"the shard {SHARD} in {snapshot}" in done.error
        assert "the download is incomplete" in done.error
    if have != "all":
        assert "HF_HUB_OFFLINE is set" in done.error
        assert "hf download" in done.error


def test_an_offline_variable_counts_even_after_the_import(cache: Path) -> None:
    set_late = (
        "__import__('huggingface_hub') and __import__('os').environ.update(HF_HUB_OFFLINE='1')"
    )
    done = run(cache, f"[{set_late}, {LOAD}]")
    assert not done.packets
    assert "HF_HUB_OFFLINE is set" in done.error


@pytest.mark.parametrize("have", ["part", "nothing"])
def test_local_files_only_costs_no_packet(have: str, cache: Path, published: Path) -> None:
    if have == "part":
        (fill(cache, published) / SHARD).unlink()
    done = run(cache, f"gptoss.load({REPO!r}, local_files_only=True)")
    assert not done.packets
    assert "local_files_only" in done.error
    assert ("incomplete" if have == "part" else "not in the Hub's local cache") in done.error


def test_a_copy_without_tokenizer_can_be_used_offline(cache: Path, published: Path) -> None:
    (fill(cache, published) / "tokenizer.json").unlink()
    ids = f"gptoss.load({REPO!r}, local_files_only=True, threads=1).generate([1], max_tokens=1)"
    done = run(cache, ids)
    assert not done.packets
    assert not done.error


class TestCacheWithoutRefs:
    """Caches that were copied or packed, and revisions that the cache has under another name."""

    def test_the_only_snapshot_is_used(self, cache: Path, published: Path) -> None:
        fill(cache, published, ref=None)
        done = run(cache, LOAD)
        assert not done.error
        assert not done.packets

    def test_several_snapshots_are_named(self, cache: Path, published: Path) -> None:
        fill(cache, published, ref=None)
        fill(cache, published, ref=None, commit=OTHER)
        done = run(cache, f"gptoss.load({REPO!r}, local_files_only=True)")
        assert f"{COMMIT} and {OTHER}" in done.error
        assert "refs/main" in done.error
        assert f"pass revision='{COMMIT}'" in done.error
        assert not done.packets
        named = f"gptoss.load({REPO!r}, revision='{OTHER}', local_files_only=True, threads=1)"
        assert not run(cache, named).error

    @pytest.mark.parametrize("damage", ["no snapshot", "part"])
    def test_refs_lead_to_what_is_not_there(
        self, damage: str, cache: Path, published: Path
    ) -> None:
        snapshot = fill(cache, published)
        if damage == "part":
            (snapshot / SHARD).unlink()
        else:
            shutil.rmtree(snapshot)
        fill(cache, published, ref=None, commit=OTHER)
        done = run(cache, f"gptoss.load({REPO!r}, local_files_only=True)")
        assert f"pass revision='{OTHER}'" in done.error
        assert not done.packets

    def test_another_revision_is_not_guessed(self, cache: Path, published: Path) -> None:
        fill(cache, published)
        done = run(cache, f"gptoss.load({REPO!r}, revision='v2', local_files_only=True)")
        assert (
            f"at revision v2: no such folder, not in the Hub's local cache; the cache has {COMMIT}"
            in done.error
        )
        assert f"pass revision='{COMMIT}'" in done.error

    @pytest.mark.parametrize("revision", ["..", "../../x", "/etc", ".", ""])
    def test_a_revision_does_not_lead_out_of_the_cache(
        self, revision: str, cache: Path, published: Path
    ) -> None:
        root = fill(cache, published).parents[1]
        shutil.copytree(published, root / "x")
        done = run(cache, f"gptoss.load({REPO!r}, revision={revision!r}, local_files_only=True)")
        assert revision == "" or done.error  # the empty name is the default's
        assert not done.packets


@pytest.fixture
def silent_server() -> Iterator[str]:
    """A server that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def refusing_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("use", [LOAD, USES["estimate_memory"], USES["open_checkpoint"]])
@pytest.mark.parametrize("endpoint", ["unresolved", "refused"])
def test_no_network_is_told_at_once(endpoint: str, use: str, cache: Path) -> None:
    address = refusing_address() if endpoint == "refused" else "http://hub.invalid"
    done = run(cache, use, HF_ENDPOINT=address)
    assert "not in the Hub's local cache; the Hub was not reached:" in done.error
    assert f"hf download {REPO}" in done.error
    assert done.seconds < 2
    assert not done.stderr
    assert len([event for event, _ in done.packets if event == "socket.getaddrinfo"]) <= 1


def test_no_network_and_half_a_copy(cache: Path, published: Path) -> None:
    (fill(cache, published) / SHARD).unlink()
    done = run(cache, LOAD, HF_ENDPOINT=refusing_address())
    assert f"the shard {SHARD}" in done.error
    assert "incomplete" in done.error
    assert done.seconds < 2
    assert not done.stderr


def test_packets_that_vanish(silent_server: str, cache: Path) -> None:
    done = run(cache, LOAD, HF_ENDPOINT=silent_server, HF_HUB_ETAG_TIMEOUT="1")
    assert "the Hub was not reached: " in done.error
    assert "HF_HUB_ETAG_TIMEOUT" in done.error or "imeout" in done.error
    assert done.seconds < 2
    assert not done.stderr


def test_a_resolver_that_hangs(cache: Path) -> None:
    """No timeout of an HTTP library bounds that."""
    hang = "setattr(__import__('socket'), 'getaddrinfo', lambda *a, **k: time.sleep(30))"
    done = run(cache, f"[{hang}, {LOAD}]", HF_HUB_ETAG_TIMEOUT="1")
    assert "no answer within 1 s (HF_HUB_ETAG_TIMEOUT sets this)" in done.error
    assert done.seconds < 3


def test_the_command_ends_at_once(cache: Path) -> None:
    start = time.monotonic()
    environment: dict[str, Any] = {**os.environ, "HF_HUB_CACHE": str(cache)}
    done = subprocess.run(
        [sys.executable, "-m", "gptoss", "chat", REPO, "hi"],
        env={**environment, "HF_ENDPOINT": refusing_address()},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert time.monotonic() - start < 10
