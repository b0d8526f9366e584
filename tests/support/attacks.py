"""Hostile tries, in processes of their own: `python -m support.attacks NAME SEED COUNT`.

Each prints a line of JSON with what came of its tries, counted; whatever is not expected ends the
process with a traceback. A try that kills or freezes the process is seen by who started it.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import math
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gptoss
from gptoss import BackendError, CheckpointError
from support.checkpoints import MICRO, make_checkpoint

Counts = collections.Counter[str]

DEMO = Path(gptoss.__file__).parent / "demo"
NOT_FINITE = "the logits are not finite"
ENDLESS: dict[str, Any] = {"ignore_eos": True, "max_tokens": 3000}


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def _check(result: gptoss.GenerationResult) -> None:
    for entry in result.logprobs or ():
        assert not math.isnan(entry.logprob), result
        assert not any(math.isnan(top.logprob) for top in entry.top_logprobs), result


def _says(error: Exception, *parts: str) -> None:
    """Check that a message has one of the parts."""
    assert any(part in str(error) for part in parts), repr(error)


# -- checkpoints -----------------------------------------------------------------------------


def mutations(rng: random.Random, count: int) -> Counts:
    """Change random bytes of a checkpoint's files, then load it and use it."""
    counts: Counts = collections.Counter()
    with _folder() as root:
        good, folder = root / "good", root / "model"
        make_checkpoint(good, MICRO, shard_bytes=35_000)
        shutil.copytree(good, folder)
        names = sorted(path.name for path in good.iterdir())
        for _ in range(count):
            name = rng.choice(names)
            content = bytearray((good / name).read_bytes())
            # Where it hurts: of weights mostly the header.
            end = len(content) if rng.random() < 0.5 else min(len(content), 3000)
            for _ in range(rng.choice((1, 1, 2, 5))):
                at = rng.randrange(end)
                gone = rng.choice((0, 1, 1, 2, 10, len(content)))
                come = rng.choice(
                    (b"", bytes([rng.randrange(256)]), b"9" * 20, b"-", b"null", b"\xff" * 4, b"[")
                )
                content[at : at + gone] = come
            (folder / name).write_bytes(content)
            counts[_use(folder)] += 1
            shutil.copyfile(good / name, folder / name)
    return counts


def _use(folder: Path) -> str:
    try:
        with gptoss.load(folder, threads=1, context_length=512) as llm:
            _check(llm.generate([1, 2, 3], max_tokens=3, ignore_eos=True, logprobs=2))
            llm.logits([1, 2])
    except CheckpointError as error:
        _says(error, str(folder), "tensor")
        return "CheckpointError"
    except RuntimeError as error:
        _says(error, NOT_FINITE)
        return "not finite"
    except ValueError as error:  # of a context or vocabulary that is smaller than asked for
        _says(error, "context_length", "token id", "must")
        return "ValueError"
    except MemoryError:
        return "MemoryError"
    return "runs"


def weights(rng: random.Random, count: int) -> Counts:
    """Put numbers that are none into tensors, in every mode."""
    counts: Counts = collections.Counter()
    modes: list[dict[str, Any]] = [
        {},
        {"dense": "q8"},
        {"dense": "bf12"},
        {"precision": "reference"},
        {"kv_cache_dtype": "int8"},
    ]
    with _folder() as root:
        shutil.copytree(DEMO, root / "model")
        path = root / "model" / "model.safetensors"
        content = (DEMO / "model.safetensors").read_bytes()
        end = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:end])
        names = sorted(name for name in header if name != "__metadata__")
        for _ in range(count):
            name, mode = rng.choice(names), rng.choice(modes)
            begin, stop = (end + offset for offset in header[name]["data_offsets"])
            damaged = bytearray(content)
            if header[name]["dtype"] == "BF16":
                value = rng.choice((0x7FC0, 0xFFC0, 0x7F81, 0x7F80, 0xFF80, 0x7F7F, 0xFF7F, 0))
                bits = value.to_bytes(2, "little")
            else:
                bits = bytes([rng.choice((0, 1, 252, 253, 255))]) * 2
            if rng.random() < 0.3:
                damaged[begin:stop] = bits * ((stop - begin) // 2)
            else:
                at = begin + 2 * rng.randrange((stop - begin) // 2)
                damaged[at : at + 2] = bits
            path.write_bytes(damaged)
            try:
                with gptoss.load(path.parent, threads=1, context_length=512, **mode) as llm:
                    temperature = rng.choice((0.0, 1.0))
                    _check(llm.generate("Hello", max_tokens=3, logprobs=2, temperature=temperature))
                counts["runs"] += 1
            except CheckpointError as error:
                _says(error, name)
                counts["CheckpointError"] += 1
            except RuntimeError as error:
                _says(error, NOT_FINITE)
                counts["not finite"] += 1
    return counts


def file_changes(rng: random.Random, count: int) -> Counts:
    """Change the weights' file while tokens are made of it."""
    counts: Counts = collections.Counter()
    size = (DEMO / "model.safetensors").stat().st_size
    for _ in range(count):
        with _folder() as root:
            shutil.copytree(DEMO, root / "model")
            path = root / "model" / "model.safetensors"
            how = rng.choice(("truncated", "overwritten", "renamed", "deleted", "grown", "noise"))
            dense = rng.choice(("bf16", "q8", "bf12"))
            with gptoss.load(root / "model", threads=2, context_length=4096, dense=dense) as llm:
                request = llm.submit("Once", **ENDLESS)
                for _ in range(rng.randrange(1, 60)):
                    next(request)
                if how == "truncated":
                    os.truncate(path, rng.randrange(size))
                elif how == "overwritten":
                    path.write_bytes(rng.randbytes(rng.randrange(size)))
                elif how == "renamed":
                    (root / "other").write_bytes(b"")
                    (root / "other").rename(path)
                elif how == "deleted":
                    path.unlink()
                elif how == "grown":
                    os.truncate(path, size + rng.randrange(1 << 24))
                else:
                    with path.open("r+b") as file:
                        file.seek(rng.randrange(size - 4096))
                        file.write(rng.randbytes(4096))
                try:
                    for _ in range(100):
                        next(request)
                    outcome = "goes on"
                except BackendError as error:
                    _says(error, "has become shorter")
                    outcome = "BackendError"
                except RuntimeError as error:
                    _says(error, NOT_FINITE)
                    outcome = "not finite"
            assert outcome == "BackendError" or how not in ("truncated", "overwritten")
            assert outcome == "goes on" or how not in ("renamed", "deleted", "grown")
            counts[f"{how}: {outcome}"] += 1
    return counts


# -- the process -----------------------------------------------------------------------------


def memory(rng: random.Random, count: int) -> Counts:
    """Limit the address space while tokens are made, then lift the limit."""
    counts: Counts = collections.Counter()
    _, highest = resource.getrlimit(resource.RLIMIT_AS)
    for _ in range(count):
        llm = gptoss.load("demo", threads=2, context_length=4096)  # whose buffers have to grow
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        used = pages * resource.getpagesize()
        room = rng.choice((0, 1 << 16, 1 << 20, 1 << 22, 1 << 24))
        prompt = [rng.randrange(256) for _ in range(rng.choice((1, 500, 3000)))]
        resource.setrlimit(resource.RLIMIT_AS, (used + room, highest))
        try:
            if rng.random() < 0.5:
                llm.generate(prompt, max_tokens=5, ignore_eos=True, n=rng.choice((1, 4)))
            else:
                llm.logits(prompt)
            outcome = "runs"
        except (MemoryError, BackendError) as error:
            outcome = type(error).__name__
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (highest, highest))
        counts[outcome] += 1
        _idle(llm)
        assert llm.generate("a", max_tokens=3, ignore_eos=True).usage.completion_tokens == 3
        llm.close()
    return counts


def interrupts(rng: random.Random, count: int) -> Counts:
    """Press Ctrl-C at random moments."""
    counts: Counts = collections.Counter()
    signal.signal(signal.SIGALRM, signal.default_int_handler)

    def press_again(lost: sys.UnraisableHookArgs) -> None:
        # In a finalizer or a callback of a weak reference Python drops it, wherever it comes from.
        if lost.exc_type is not KeyboardInterrupt:
            sys.__unraisablehook__(lost)
        signal.setitimer(signal.ITIMER_REAL, 0.01)

    sys.unraisablehook = press_again
    llm = gptoss.load("demo", threads=2, context_length=4096)
    uses: dict[str, Callable[[], object]] = {
        "generate": lambda: llm.generate("a", **ENDLESS),
        "several": lambda: llm.generate(["a", "b", "c"], **ENDLESS),
        "stream": lambda: list(llm.stream("a", **ENDLESS)),
        "logits": lambda: [llm.logits([97] * 2000) for _ in range(1000)],
        "chat": lambda: [
            llm.chat([{"role": "user", "content": "hi"}], max_tokens=100) for _ in range(1000)
        ],
        "result": lambda: llm.submit("a", **ENDLESS).result(),
        "load": lambda: [gptoss.load("demo", threads=2) for _ in range(1000)],
    }
    for use in uses.values():  # what is imported late must not be what is interrupted
        signal.setitimer(signal.ITIMER_REAL, 1.0)
        with contextlib.suppress(KeyboardInterrupt):
            use()
    for _ in range(count):
        name = rng.choice(sorted(uses))
        try:
            signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.0005, 0.15))
            uses[name]()
            raise AssertionError(f"{name} ended by itself")
        except KeyboardInterrupt:
            counts[name] += 1
    _idle(llm)
    assert llm.generate("a", max_tokens=3, ignore_eos=True).usage.completion_tokens == 3
    llm.close()
    deadline = time.monotonic() + 10
    while any(thread.name == "gptoss engine" for thread in threading.enumerate()):
        assert time.monotonic() < deadline, threading.enumerate()
        time.sleep(0.01)
    return counts


def _idle(llm: gptoss.LLM) -> None:
    deadline = time.monotonic() + 10
    while (stats := llm.stats()).running or stats.waiting or stats.full_pages.used:
        assert time.monotonic() < deadline, stats
        time.sleep(0.01)


def forks(rng: random.Random, count: int) -> Counts:
    """Fork while tokens are made; children use what they inherit, or load anew."""
    counts: Counts = collections.Counter()
    llm = gptoss.load("demo", threads=2, context_length=4096)
    uses: dict[str, Callable[[gptoss.Request], object]] = {
        "next": next,
        "result": lambda request: request.result(timeout=60),
        "await": lambda request: asyncio.run(_result(request)),
        "generate": lambda request: llm.generate("a", max_tokens=2),
        "chat": lambda request: llm.chat([{"role": "user", "content": "hi"}], max_tokens=2),
        "logits": lambda request: llm.logits([97]),
        "stats": lambda request: llm.stats(),
    }
    for _ in range(count):
        name = rng.choice([*sorted(uses), "load", "close", "exit"])
        request = llm.submit("a", **ENDLESS)
        for _ in range(rng.randrange(1, 20)):
            next(request)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                if name == "load":
                    with gptoss.load("demo", threads=1) as own:
                        own.generate("a", max_tokens=2)
                    code = 0
                elif name == "close":
                    request.cancel()
                    llm.close()
                    code = 0
                elif name == "exit":
                    code = 0
                else:
                    uses[name](request)
            except BackendError as error:
                code = 0 if "forked" in str(error) else 2
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        assert status == 0, (name, status)
        next(request)
        request.cancel()
        counts[name] += 1
    _idle(llm)
    return counts


async def _result(request: gptoss.Request) -> gptoss.GenerationResult:
    return await request


ATTACKS: dict[str, Callable[[random.Random, int], Counts]] = {
    attack.__name__: attack
    for attack in (mutations, weights, file_changes, memory, interrupts, forks)
}

if __name__ == "__main__":
    NAME, SEED, COUNT = sys.argv[1:]
    print(json.dumps(ATTACKS[NAME](random.Random(f"{NAME} {SEED}"), int(COUNT))))
