"""Nothing kills or freezes the process: threads, files that shrink, forks, interrupts, drops.

What could end a process runs in one of its own.
"""

from __future__ import annotations

import asyncio
import gc
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import gptoss
from gptoss import BackendError
from support.paths import real_data

resource = pytest.importorskip("resource")  # of POSIX, as are the signals and forks below

DEMO = Path(gptoss.__file__).parent / "demo"
ENDLESS: dict[str, Any] = {"max_tokens": 3000, "ignore_eos": True, "temperature": 0.0}


def run(
    script: str, *arguments: object, limits: dict[int, int] | None = None, timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run a script in a new process."""

    def limit() -> None:
        for which, value in (limits or {}).items():
            resource.setrlimit(which, (value, resource.getrlimit(which)[1]))

    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        preexec_fn=limit if limits else None,
        check=False,
    )


class TestThreadsThatCannotBeMade:
    """Attack F3."""

    @pytest.mark.parametrize("megabytes", [2000, 3000, 4000])
    def test_the_model_is_refused(self, megabytes: int) -> None:
        done = run(
            """
            import gptoss
            try:
                gptoss.load("demo", threads=1024)
            except (gptoss.BackendError, MemoryError) as error:
                print(type(error).__name__, error)
            print(len(gptoss.load("demo", threads=2).generate("a", max_tokens=3).token_ids))
            """,
            limits={resource.RLIMIT_AS: megabytes * 1_000_000},
        )
        assert done.returncode == 0, done
        first, second = done.stdout.splitlines()
        assert "of 1024 threads" in first
        assert "ask for fewer" in first
        assert int(second) >= 1

    @pytest.mark.parametrize("name", ["gptoss engine", "gptoss tokenizer"])
    def test_threads_of_python(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        real = threading.Thread.start

        def start(self: threading.Thread) -> None:
            if self.name.startswith(name):
                raise RuntimeError("can't start new thread")
            real(self)

        monkeypatch.setattr(threading.Thread, "start", start)
        with pytest.raises(BackendError, match="can't start new thread"):
            gptoss.load("demo", threads=1).generate("a", max_tokens=1)

    def test_no_memory_for_the_first_frame_of_a_thread(self) -> None:
        done = run(
            """
            import resource
            import gptoss
            highest = resource.getrlimit(resource.RLIMIT_AS)[1]
            for room in (0, 1 << 16, 1 << 20, 1 << 21, 5 << 20, 16 << 20):
                # The stack of the thread that reads the tokenizer is kept for the next one.
                llm = gptoss.load("demo", threads=2, context_length=4096)
                pages = int(open("/proc/self/statm").read().split()[0])
                resource.setrlimit(
                    resource.RLIMIT_AS, (pages * resource.getpagesize() + room, highest)
                )
                try:
                    llm.logits([1] * 500)
                except (gptoss.BackendError, MemoryError) as error:
                    print(error)
                finally:
                    resource.setrlimit(resource.RLIMIT_AS, (highest, highest))
                assert len(llm.generate("a", max_tokens=3, ignore_eos=True).token_ids) == 3
            """,
            timeout=30,
        )
        assert done.returncode == 0, done
        assert "cannot start the engine's thread" in done.stdout


# Arguments: a folder with a checkpoint to change, a file that may take a file's place, how to load.
SHRINK = """
import os, shutil, sys
import gptoss
folder, other, how, when, options = sys.argv[1:6]
weights = folder + "/model.safetensors"
size = os.path.getsize(weights)
def change():
    if how == "nothing left": os.truncate(weights, 0)
    elif how == "half": os.truncate(weights, size // 2)
    elif how == "one byte": os.truncate(weights, size - 1)
    elif how == "overwritten":
        with open(weights, "wb") as file: file.write(b"GGUF" * 1000)
    elif how == "renamed over": os.replace(other, weights)
    elif how == "deleted": os.unlink(weights)
    elif how == "grown": os.truncate(weights, size + 10_000_000)
    elif how == "touched": os.utime(weights)
    elif how == "mode": os.chmod(weights, 0)
llm = gptoss.load(folder, threads=2, context_length=4096, **eval(options))
ids, greedy = list(b"Once upon a time"), {"ignore_eos": True, "temperature": 0}
expected = llm.generate(ids, max_tokens=40, **greedy).token_ids
def use():
    if when == "before": change(); return llm.generate(ids, max_tokens=40, **greedy).token_ids
    if when == "logits": change(); return expected if len(llm.logits(ids)) else None
    stream = llm.stream(ids, max_tokens=3000, **greedy)
    got = next(stream).token_ids
    change()
    for chunk in stream: got = got + chunk.token_ids
    return got[:40]
for attempt in range(2):
    try:
        print("same" if use() == expected else "other")
    except gptoss.BackendError as error:
        print("BackendError", error)
    change = lambda: None
llm.close()
print("closed")
"""


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DEMO, tmp_path / "model"))


MODES = ["{'dense': 'q8'}", "{'dense': 'bf12'}", "{'precision': 'reference'}"]


@pytest.mark.parametrize(
    ("how", "when", "options"),
    [
        *(
            (how, when, "{}")
            for how in ("nothing left", "half", "one byte", "overwritten")
            for when in ("before", "while it generates", "logits")
        ),
        *(("nothing left", "while it generates", options) for options in MODES),
    ],
)
def test_a_checkpoint_that_shrinks(
    how: str, when: str, options: str, checkpoint: Path, tmp_path: Path
) -> None:
    """Attack F4, users 28."""
    done = run(SHRINK, checkpoint, tmp_path / "none", how, when, options)
    assert done.returncode == 0, done
    *attempts, last = done.stdout.splitlines()
    assert last == "closed"
    assert len(attempts) == 2  # it stays so
    for line in attempts:
        assert line.startswith(f"BackendError {checkpoint}/model.safetensors has become shorter")
        assert "load the model again" in line
        assert "renaming" in line


@pytest.mark.parametrize("when", ["before", "while it generates", "logits"])
@pytest.mark.parametrize("how", ["renamed over", "deleted", "grown", "touched", "mode"])
def test_a_checkpoint_that_changes_otherwise(
    how: str, when: str, checkpoint: Path, tmp_path: Path
) -> None:
    other = shutil.copyfile(DEMO / "tokenizer.json", tmp_path / "shorter")
    done = run(SHRINK, checkpoint, other, how, when, "{}")
    assert done.returncode == 0, done
    assert done.stdout.splitlines() == ["same", "same", "closed"]


def test_the_model_beside_it_goes_on(checkpoint: Path) -> None:
    done = run(
        """
        import os, sys
        import gptoss
        other = gptoss.load("demo", threads=1)
        lost = gptoss.load(sys.argv[1], threads=1)
        going = other.submit("Once", max_tokens=300, ignore_eos=True)
        next(going)
        os.truncate(sys.argv[1] + "/model.safetensors", 0)
        try: lost.generate("Once", max_tokens=5)
        except gptoss.BackendError: print("lost")
        print(len(going.result().token_ids))
        print(len(other.generate("a", max_tokens=5, ignore_eos=True).token_ids))
        """,
        checkpoint,
    )
    assert done.stdout.split() == ["lost", "300", "5"], done


def test_faulthandler_still_reports_other_faults(checkpoint: Path) -> None:
    script = """
        import faulthandler, os, sys, mmap
        {before}
        import gptoss
        llm = gptoss.load(sys.argv[1], threads=1)
        {after}
        llm.generate("a", max_tokens=1)
        with open(sys.argv[1] + "/config.json", "r+b") as file:
            mapped = mmap.mmap(file.fileno(), 0)
            os.truncate(sys.argv[1] + "/config.json", 0)
            mapped[0]
        """
    for before, after in (("faulthandler.enable()", ""), ("", "faulthandler.enable()"), ("", "")):
        shutil.copyfile(DEMO / "config.json", checkpoint / "config.json")
        done = run(script.format(before=before, after=after), checkpoint)
        assert done.returncode == -signal.SIGBUS
        assert done.stderr.count("Fatal Python error: Bus error") == bool(before or after)


# Prints what becomes of each use of a request in a forked child.
FORK = """
import asyncio, os, sys
import gptoss
llm = gptoss.load("demo", threads=2)
async def as_task(request): return await request
async def as_loop(request): return [chunk async for chunk in request]
uses = {
    "next": next,
    "result": lambda r: r.result(),
    "timeout": lambda r: r.result(timeout=100),
    "list": list,
    "await": lambda r: asyncio.run(as_task(r)),
    "async for": lambda r: asyncio.run(as_loop(r)),
}
for name, use in uses.items():
    request = llm.stream("abc", max_tokens=200, ignore_eos=True)
    next(request)
    if name == "result": llm.close()  # what has arrived does not count either
    child = os.fork()
    if child == 0:
        try: use(request)
        except gptoss.BackendError as error: print(name, "forked" in str(error), flush=True)
        try: use(request)
        except gptoss.BackendError as error: print(name, "forked" in str(error), flush=True)
        request.cancel()
        os._exit(0)
    os.waitpid(child, 0)
    if name == "result": llm = gptoss.load("demo", threads=2)
    else: assert len(request.result().token_ids) == 200
"""


def test_a_forked_child_does_not_wait() -> None:
    """Attack F5."""
    done = run(FORK)
    assert done.returncode == 0, done
    names = ("next", "result", "timeout", "list", "await", "async for")
    assert done.stdout.splitlines() == [f"{name} True" for name in names for _ in range(2)]


class TestADroppedModel:
    """Attack F13: its requests go on, and then it is closed."""

    def test_stream(self) -> None:
        stream = gptoss.load("demo", threads=1).stream("Once", max_tokens=20, ignore_eos=True)
        gc.collect()
        assert sum(len(chunk.token_ids) for chunk in stream) == 20

    def test_submit(self) -> None:
        def begin() -> gptoss.Request:
            return gptoss.load("demo", threads=1).submit("Once", max_tokens=20, ignore_eos=True)

        requests = [begin() for _ in range(3)]
        gc.collect()
        assert [len(request.result().token_ids) for request in requests] == [20, 20, 20]

    def test_in_asyncio(self) -> None:
        async def use() -> int:
            request = gptoss.load("demo", threads=1).submit("Once", max_tokens=20, ignore_eos=True)
            gc.collect()
            return len((await request).token_ids)

        assert asyncio.run(use()) == 20

    def test_it_is_closed_with_its_last_request(self) -> None:
        before = engine_threads()
        request = gptoss.load("demo", threads=1).submit("Once", **ENDLESS)
        next(request)
        assert len(engine_threads() - before) == 1
        del request
        wait_until(lambda: engine_threads() <= before)


def engine_threads() -> set[threading.Thread]:
    gc.collect()
    return {thread for thread in threading.enumerate() if thread.name == "gptoss engine"}


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class TestInterruptedLoading:
    """Attack F14: no thread, engine or pool is left."""

    @pytest.mark.parametrize("when", ["before", "after"])
    def test_while_the_thread_is_started(self, when: str, monkeypatch: pytest.MonkeyPatch) -> None:
        before = engine_threads()
        real = threading.Thread.start

        def start(self: threading.Thread) -> None:
            if self.name == "gptoss engine" and when == "before":
                raise KeyboardInterrupt
            real(self)
            if self.name == "gptoss engine":
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            for _ in range(5):
                with pytest.raises(KeyboardInterrupt):
                    gptoss.load("demo", threads=1).generate("a", max_tokens=1)
        wait_until(lambda: engine_threads() <= before)
        assert len(gptoss.load("demo", threads=1).generate("a", max_tokens=2).token_ids) >= 1

    def test_at_any_moment(self) -> None:
        done = run(
            """
            import gc, os, random, signal, threading, time
            import gptoss
            signal.signal(signal.SIGALRM, signal.default_int_handler)
            random.seed(7)
            usual = []
            for _ in range(3):
                start = time.monotonic()
                gptoss.load("demo", threads=2).close()
                usual.append(time.monotonic() - start)
            native = len(os.listdir("/proc/self/task"))
            interrupts = 0
            for _ in range(60):
                try:
                    signal.setitimer(signal.ITIMER_REAL, random.uniform(0.01, 1.1) * min(usual))
                    llm = gptoss.load("demo", threads=2)
                    llm.submit("a", max_tokens=50, ignore_eos=True)
                    llm.close()
                    signal.setitimer(signal.ITIMER_REAL, 0)
                except KeyboardInterrupt:
                    interrupts += 1
                llm = None
            gc.collect()
            deadline = time.monotonic() + 10
            names = lambda: [t.name for t in threading.enumerate() if t.name == "gptoss engine"]
            more = lambda: len(os.listdir("/proc/self/task")) - native
            while (names() or more() > 0) and time.monotonic() < deadline: time.sleep(0.01)
            print(interrupts, len(names()), max(0, more()))
            """
        )
        assert done.returncode == 0, done
        interrupts, engine_threads, threads_of_pools = map(int, done.stdout.split())
        assert interrupts >= 20
        assert (engine_threads, threads_of_pools) == (0, 0)


# Argument: what to interrupt. Python looks for signals where a function begins and where one in C
# returns. What it interrupts in `threading` may leave a thread waiting that has not begun: the
# process must not wait for it at its end.
INTERRUPTED = """
import os, sys, threading
import gptoss

kept = gptoss.load("demo", threads=2, context_length=1024)
few = {"max_tokens": 4, "ignore_eos": True}
kept.generate("a", **few)

def used():
    llm = gptoss.load("demo", threads=2, context_length=1024)
    llm.generate("a", **few)
    return llm

def loaded():
    return gptoss.load("demo", threads=2, context_length=1024)

uses = {
    "load": (lambda: None, lambda _: loaded()),
    "first": (loaded, lambda llm: llm.generate("a", **few)),
    "generate": (lambda: kept, lambda llm: llm.generate(["a", "b"], **few)),
    "stream": (lambda: kept, lambda llm: list(llm.stream("a", **few))),
    "result": (lambda: kept, lambda llm: llm.submit("a", **few).result()),
    "logits": (lambda: kept, lambda llm: llm.logits([97] * 20)),
    "close": (used, lambda llm: llm.close()),
}
prepare, use = uses[sys.argv[1]]
waits = "threading.py", "_threads.py", "load.py", "llm.py", "loop.py", "request.py"

def interrupt(at):
    seen = 0
    def look(frame, event, _):
        nonlocal seen
        if event in ("call", "c_return") and frame.f_code.co_filename.endswith(waits):
            seen += 1
            if seen == at:
                raise KeyboardInterrupt
    llm = prepare()
    dropped = []  # by a finalizer
    sys.unraisablehook = dropped.append
    sys.setprofile(look)
    try:
        use(llm)
        outcome = "dropped" if dropped else "ended" if seen < at else "swallowed"
    except KeyboardInterrupt:
        outcome = "interrupted"
    finally:
        sys.setprofile(None)
    if sys.argv[1] == "close":
        llm.close()
        while sum(thread.name == "gptoss engine" for thread in threading.enumerate()) > 1: pass
    elif llm is not None:
        while (stats := llm.stats()).running or stats.waiting or stats.full_pages.used: pass
        assert len(llm.generate("b", **few).token_ids) == 4
    return outcome, seen

_, points = interrupt(0)
outcomes = [interrupt(at)[0] for at in range(1, points + 1)]
print(*(outcomes.count(each) for each in ("interrupted", "dropped", "ended", "swallowed")))
sys.stdout.flush()
os._exit(0)
"""


@pytest.mark.parametrize(
    "use", ["load", "first", "generate", "stream", "result", "logits", "close"]
)
def test_interrupted_wherever_python_looks_for_signals(use: str) -> None:
    done = run(INTERRUPTED, use)
    assert done.returncode == 0, done
    interrupted, _, _, swallowed = map(int, done.stdout.split())
    assert interrupted >= 10
    assert swallowed == 0


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="the module's name changed")
def test_subinterpreters_are_refused() -> None:
    """Attack F34."""
    module = "_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters"
    done = run(
        f"""
        import {module} as interpreters
        script = '''
        try:
            import gptoss
            print("imported")
        except ImportError as error:
            print("ImportError", error)
        '''
        import textwrap
        {"interpreters.exec" if module == "_interpreters" else "interpreters.run_string"}(
            interpreters.create(), textwrap.dedent(script))
        """
    )
    # From 3.13 on Python refuses it first.
    ours = "ImportError gptoss runs in the main interpreter only"
    pythons = "ImportError module gptoss._core does not support loading in subinterpreters"
    assert done.stdout.startswith((ours, pythons)), done
    assert "numpy" not in done.stderr.lower()


class TestASecondWaiter:
    """Attack F21: it is refused, and the first one waits on."""

    def test_tasks(self) -> None:
        async def use() -> None:
            with gptoss.load("demo", threads=1) as llm:
                request = llm.submit("Once", max_tokens=200, ignore_eos=True)
                first = asyncio.create_task(request_result(request))
                await asyncio.sleep(0)
                # At any time, also between two letters and when one has come but is not read yet.
                while request._mailbox._letters.empty():
                    time.sleep(0.001)
                for _ in range(20):
                    with pytest.raises(RuntimeError, match="another task is waiting"):
                        await request
                    await asyncio.sleep(0)
                assert len((await first).token_ids) == 200

        asyncio.run(use())


async def request_result(request: gptoss.Request) -> gptoss.GenerationResult:
    return await request


def test_nothing_on_stderr() -> None:
    """Users 23: of what other libraries have to say."""
    done = run(
        """
        import gptoss
        with gptoss.load("demo", threads=1) as llm:
            llm.generate("a", max_tokens=3)
            llm.chat([{"role": "user", "content": "hi"}], max_tokens=3)
        """
    )
    assert done.returncode == 0
    assert not done.stderr


def test_files_of_the_process_stay_few() -> None:
    """Descriptors that watch the weights' files are given back."""
    folder = Path("/proc/self/fd")
    before = len(list(folder.iterdir()))
    for _ in range(5):
        gptoss.load("demo", threads=1).close()
    assert len(list(folder.iterdir())) == before


@pytest.mark.parametrize(
    "text",
    ["' ' * 1_300_000", "'a' + '\\t' * 1_000_001 + 'b'", "('\\u3000' * 1_000_000 + 'x') * 2"],
)
def test_white_space_without_end_is_no_panic(text: str) -> None:
    """Users 23."""
    done = run(
        f"""
        import sys
        from gptoss.tokenizer import Tokenizer
        tokenizer = Tokenizer.from_file(sys.argv[1])
        text = {text}
        ids = tokenizer.encode(text)
        print(tokenizer.decode(ids) == text)
        """,
        real_data() / "gpt-oss-20b",
        timeout=200,
    )
    assert done.stdout.split() == ["True"]
    assert not done.stderr
