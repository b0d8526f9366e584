"""The prefix cache beyond a process: what comes from files has the bits that computing gives."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import gptoss
from gptoss.engine.page_store import PageStore
from gptoss.page_files import HEADER_BYTES, PageFiles

# The window of the checkpoint is 16 tokens.
PROMPT = np.random.default_rng(3).integers(0, 256, 300).tolist()
SCORED: dict[str, Any] = {
    "temperature": 0.0,
    "ignore_eos": True,
    "max_tokens": 12,
    "logprobs": 4,
}
STORED = 256  # tokens of the prompt's complete pages
DEMO = Path(gptoss.__file__).parent / "demo"


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Callable[[str], Path]) -> Path:
    return tiny_checkpoint("hf")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "pages"


def answer(
    model: Path, prompt: list[int] = PROMPT, *, folder: Path | None, **options: Any
) -> gptoss.GenerationResult:
    salt = options.pop("cache_salt", None)
    with gptoss.load(model, prefix_cache_dir=folder, **options) as llm:
        return llm.generate(prompt, cache_salt=salt, **SCORED)


def pages_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix == ".kv")


def what(result: gptoss.GenerationResult) -> object:
    return result.token_ids, result.logprobs


def run(script: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **options,
    )


class TestBits:
    @pytest.mark.parametrize(
        "modes",
        [
            {},
            {"precision": "reference"},
            {"kv_cache_dtype": "int8"},
            {"dense": "q8"},
            {"speculative": "ngram"},
            {"max_step_tokens": 32},
        ],
        ids=str,
    )
    @pytest.mark.parametrize("threads", [(1, 2), (2, 1)], ids=str)
    def test_are_those_that_computing_gives(
        self, checkpoint: Path, folder: Path, modes: dict[str, Any], threads: tuple[int, int]
    ) -> None:
        computed = answer(checkpoint, folder=None, threads=threads[1], **modes)
        first = answer(checkpoint, folder=folder, threads=threads[0], **modes)
        again = answer(checkpoint, folder=folder, threads=threads[1], **modes)
        assert first.usage.cached_tokens == 0
        assert again.usage.cached_tokens == STORED
        assert what(first) == what(again) == what(computed)

    def test_logits_of_every_following_token(self, checkpoint: Path, folder: Path) -> None:
        # Forced, so that all of them are compared, and in several pages.
        rest = np.random.default_rng(4).integers(0, 256, 150).tolist()
        text = [*PROMPT, *rest]
        answer(checkpoint, folder=folder)
        scores = []
        for used in (None, folder):
            with gptoss.load(checkpoint, prefix_cache_dir=used) as llm:
                result = llm.generate(
                    PROMPT,
                    constraint=lambda: _Forced(rest),
                    max_tokens=len(rest) + 1,
                    logprobs=20,
                    temperature=0,
                    ignore_eos=True,
                )
                scores.append(result.logprobs[-1])  # type: ignore[index]
                assert result.token_ids[:-1] == rest
                assert result.usage.cached_tokens == (0 if used is None else STORED)
                follow_up = llm.generate([*text, 1], **SCORED)
                scores.append(what(follow_up))
        assert scores[:2] == scores[2:]

    def test_a_prompt_of_complete_pages(self, checkpoint: Path, folder: Path) -> None:
        prompt = PROMPT[:256]
        expected = what(answer(checkpoint, prompt, folder=None))
        assert what(answer(checkpoint, prompt, folder=folder)) == expected
        again = answer(checkpoint, prompt, folder=folder)
        assert what(again) == expected
        assert again.usage.cached_tokens == 255

    def test_a_text_that_goes_on_and_one_that_branches_off(
        self, checkpoint: Path, folder: Path
    ) -> None:
        first = answer(checkpoint, folder=folder)
        for prompt, cached in [
            ([*PROMPT, *first.token_ids, *range(30)], STORED),
            ([*PROMPT[:200], *range(100)], 192),
            ([*PROMPT[:10], *range(100)], 0),
        ]:
            expected = answer(checkpoint, prompt, folder=None)
            got = answer(checkpoint, prompt, folder=folder)
            assert what(got) == what(expected)
            assert got.usage.cached_tokens == cached

    def test_answers_are_kept_too(self, checkpoint: Path, folder: Path) -> None:
        with gptoss.load(checkpoint, prefix_cache_dir=folder) as llm:
            said = llm.generate(PROMPT, temperature=0, ignore_eos=True, max_tokens=100).token_ids
        text = [*PROMPT, *said, 5]
        got = answer(checkpoint, text, folder=folder)
        assert got.usage.cached_tokens == 384
        assert what(got) == what(answer(checkpoint, text, folder=None))

    def test_long_texts_and_their_windows(self, checkpoint: Path, folder: Path) -> None:
        text = np.random.default_rng(5).integers(0, 256, 1500).tolist()
        answer(checkpoint, text, folder=folder)
        # Those that branch off go back to where a window was kept: every 512 tokens.
        for kept, cached in [(1500, 1472), (1400, 1024), (600, 512), (511, 0)]:
            prompt = [*text[:kept], *range(10)]
            got = answer(checkpoint, prompt, folder=folder)
            assert what(got) == what(answer(checkpoint, prompt, folder=None))
            assert got.usage.cached_tokens >= cached


class _Forced:
    """Says what the output is."""

    def __init__(self, tokens: list[int]) -> None:
        self._tokens = tokens

    def accept(self, token_ids: list[int]) -> gptoss.Decision:
        tokens, self._tokens = self._tokens, []
        assert tokens or token_ids
        return gptoss.Decision(forced=tokens)

    def fill(self, mask: npt.NDArray[np.uint32]) -> None:
        pass


class TestWhatIsNotShared:
    def test_modes(self, checkpoint: Path, folder: Path) -> None:
        for modes in (
            {},
            {"precision": "reference"},
            {"kv_cache_dtype": "int8"},
            {"dense": "q8"},
        ):
            assert answer(checkpoint, folder=folder, **modes).usage.cached_tokens == 0  # type: ignore[arg-type]
        # What is not of the arithmetic does not matter.
        more: dict[str, Any] = {"threads": 1, "max_step_tokens": 100, "context_length": 1000}
        assert answer(checkpoint, folder=folder, **more).usage.cached_tokens == STORED

    def test_instruction_sets(
        self, checkpoint: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answer(checkpoint, folder=folder)
        monkeypatch.setenv("GPTOSS_ISA", "scalar")
        assert answer(checkpoint, folder=folder).usage.cached_tokens == 0

    def test_models(self, checkpoint: Path, tmp_path: Path, folder: Path) -> None:
        answer(checkpoint, folder=folder)
        assert answer(DEMO, folder=folder).usage.cached_tokens == 0
        copy = tmp_path / "copy"
        copy.mkdir()
        for path in checkpoint.iterdir():
            (copy / path.name).write_bytes(path.read_bytes())
            os.utime(copy / path.name, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
        assert answer(copy, folder=folder).usage.cached_tokens == STORED
        weights = next(copy.glob("*.safetensors"))
        os.utime(weights)
        assert answer(copy, folder=folder).usage.cached_tokens == 0

    def test_a_model_with_other_weights_and_the_same_times(
        self, checkpoint: Path, tmp_path: Path, folder: Path
    ) -> None:
        from support.checkpoints import PRESETS, make_checkpoint

        other = tmp_path / "other"
        make_checkpoint(other, PRESETS["tiny"], seed=1)
        for path in checkpoint.iterdir():
            os.utime(other / path.name, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
        answer(checkpoint, folder=folder)
        assert answer(other, folder=folder).usage.cached_tokens == 0

    def test_salts(self, checkpoint: Path, folder: Path) -> None:
        with gptoss.load(checkpoint, prefix_cache_dir=folder) as llm:
            results = [
                llm.generate(PROMPT, cache_salt=salt, **SCORED)
                for salt in (None, "one", "two", "one", None)
            ]
        cached = [result.usage.cached_tokens for result in results]
        assert cached == [0, 0, 0, 299, 299]
        assert len({str(what(result)) for result in results}) == 1
        for salt, expected in [("one", STORED), ("three", 0), (None, STORED)]:
            again = answer(checkpoint, folder=folder, cache_salt=salt)
            assert again.usage.cached_tokens == expected
            assert what(again) == what(results[0])

    def test_scored_prompts_are_computed(self, checkpoint: Path, folder: Path) -> None:
        answer(checkpoint, folder=folder)
        with gptoss.load(checkpoint, prefix_cache_dir=folder) as llm:
            result = llm.generate(PROMPT, max_tokens=0, prompt_logprobs=2)
            assert result.usage.cached_tokens == 0
            assert llm.stats().read_pages == 0


class TestDamage:
    def test_files_that_are_cut_off(self, checkpoint: Path, folder: Path) -> None:
        expected = answer(checkpoint, folder=folder)
        for number, path in enumerate(pages_in(folder)):
            path.write_bytes(path.read_bytes()[: 100 * number])
        again = answer(checkpoint, folder=folder)
        assert what(again) == what(expected)
        assert again.usage.cached_tokens == 0
        # They have been replaced.
        assert answer(checkpoint, folder=folder).usage.cached_tokens == STORED

    def test_files_with_other_bytes(self, checkpoint: Path, folder: Path) -> None:
        expected = answer(checkpoint, folder=folder)
        for path in pages_in(folder):
            data = bytearray(path.read_bytes())
            data[-5] ^= 4
            path.write_bytes(data)
        cached = []
        for _ in range(6):
            again = answer(checkpoint, folder=folder)
            assert what(again) == what(expected)
            cached.append(again.usage.cached_tokens)
        # Each time at least one is met and replaced.
        assert cached[0] == 0
        assert cached == sorted(cached)
        assert cached[-1] == STORED

    @pytest.mark.parametrize("lost", range(8))
    def test_any_one_that_is_lost(self, checkpoint: Path, folder: Path, lost: int) -> None:
        expected = answer(checkpoint, folder=folder)
        pages = pages_in(folder)
        path = pages[lost % len(pages)]
        path.write_bytes(b"x" * path.stat().st_size)
        assert what(answer(checkpoint, folder=folder)) == what(expected)
        assert answer(checkpoint, folder=folder).usage.cached_tokens == STORED

    def test_a_kill_in_the_middle_of_writing(self, checkpoint: Path, folder: Path) -> None:
        script = """
            import sys, numpy as np, gptoss
            llm = gptoss.load(sys.argv[1], prefix_cache_dir=sys.argv[2], threads=1)
            print("begun", flush=True)
            for seed in range(10_000):
                prompt = np.random.default_rng(seed).integers(0, 256, 300).tolist()
                llm.generate(prompt, max_tokens=1)
        """
        expected = {seed: what(answer(checkpoint, _prompt(seed), folder=None)) for seed in range(4)}
        for kill in range(4):
            process = subprocess.Popen(
                [sys.executable, "-c", textwrap.dedent(script), checkpoint, folder],
                stdout=subprocess.PIPE,
            )
            assert process.stdout is not None
            assert process.stdout.readline().strip() == b"begun"
            end_s = time.monotonic() + 60
            while not pages_in(folder) and time.monotonic() < end_s:
                time.sleep(0.002)
            time.sleep(0.013 * kill)
            process.kill()
            process.wait(60)
            process.stdout.close()
            files = PageFiles(folder, 2**30)
            pages = pages_in(folder)
            assert pages
            for path in pages:  # each is whole
                assert files.read(path.name, path.stat().st_size - HEADER_BYTES) is not None
            got = answer(checkpoint, _prompt(kill), folder=folder)
            assert what(got) == expected[kill]

    @pytest.mark.skipif(os.name == "nt", reason="files that are written cannot be removed")
    def test_a_folder_that_is_cleared_meanwhile(self, checkpoint: Path, folder: Path) -> None:
        with gptoss.load(checkpoint, prefix_cache_dir=folder) as llm:
            expected = what(llm.generate(PROMPT, **SCORED))
            _wait_for(lambda: llm.stats().written_pages >= 5)
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()
            assert what(llm.generate(PROMPT, **SCORED)) == expected
        # What is still in memory was offered again.
        assert answer(checkpoint, folder=folder).usage.cached_tokens == STORED


def _prompt(seed: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, 256, 300).tolist()


def prefix_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("gptoss prefix")]


def _wait_for(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.005)


class TestSharing:
    def test_two_processes_at_once(self, checkpoint: Path, folder: Path) -> None:
        script = """
            import sys, numpy as np, gptoss
            with gptoss.load(sys.argv[1], prefix_cache_dir=sys.argv[2], threads=1) as llm:
                for round in range(3):
                    for seed in range(int(sys.argv[3]), int(sys.argv[3]) + 6):
                        prompt = np.random.default_rng(seed).integers(0, 256, 300).tolist()
                        print(seed, llm.generate(prompt, max_tokens=8, temperature=0).token_ids)
        """
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", textwrap.dedent(script), checkpoint, folder, str(first)],
                stdout=subprocess.PIPE,
                text=True,
            )
            for first in (0, 3)
        ]
        lines: set[str] = set()
        for process in processes:
            out, _ = process.communicate(timeout=120)
            assert process.returncode == 0
            lines |= set(out.splitlines())
        assert len(lines) == 9  # both say the same of what both were asked
        with gptoss.load(checkpoint, prefix_cache_dir=folder) as llm:
            for seed in range(9):
                result = llm.generate(_prompt(seed), max_tokens=8, temperature=0)
                assert f"{seed} {result.token_ids}" in lines
                assert result.usage.cached_tokens == STORED

    def test_one_reads_for_all(self, checkpoint: Path, folder: Path) -> None:
        expected = answer(checkpoint, folder=folder)
        n_pages = len(pages_in(folder))
        with gptoss.load(checkpoint, prefix_cache_dir=folder) as llm:
            results = llm.generate([PROMPT] * 12, **SCORED)
            assert llm.stats().read_pages <= n_pages
            assert {str(what(result)) for result in results} == {str(what(expected))}
            assert min(result.usage.cached_tokens for result in results) == STORED

    def test_reading_holds_up_nobody_else(
        self, checkpoint: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        expected = answer(checkpoint, folder=folder)
        go_on = threading.Event()
        read = PageFiles.read

        def slow(self: PageFiles, name: str, size: int) -> object:
            assert go_on.wait(60)
            return read(self, name, size)

        monkeypatch.setattr(PageFiles, "read", slow)
        with gptoss.load(checkpoint, prefix_cache_dir=folder) as llm:
            waiting = llm.submit(PROMPT, **SCORED)
            cancelled = llm.submit(PROMPT, **SCORED)
            assert len(llm.generate(_prompt(1), **SCORED).token_ids) == 12
            assert llm.stats().waiting == 2
            cancelled.cancel()
            assert len(llm.generate(_prompt(2), **SCORED).token_ids) == 12
            assert llm.stats().waiting == 1
            go_on.set()
            assert what(waiting.result()) == what(expected)
            assert waiting.result().usage.cached_tokens == STORED


def _bytes_in(folder: Path) -> int:
    """Of all files, but those that go while they are counted."""
    total = 0
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


class TestTheLimit:
    def test_is_kept(self, checkpoint: Path, folder: Path) -> None:
        with pytest.raises(ValueError, match="prefix_cache_bytes must be at least") as no:
            answer(checkpoint, folder=folder, prefix_cache_bytes=1000)
        least = int(str(no.value).split("at least ")[1].split()[0])
        with gptoss.load(checkpoint, prefix_cache_dir=folder, prefix_cache_bytes=least) as llm:
            llm.generate([_prompt(seed) for seed in range(20)], max_tokens=1)
            assert _bytes_in(folder) <= least
            assert llm.stats().written_pages > 0
        assert least // 2 < _bytes_in(folder) <= least

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"prefix_cache_bytes": 10**9}, ValueError, "goes with prefix_cache_dir"),
            ({"prefix_cache_dir": ""}, ValueError, "must not be empty"),
            ({"prefix_cache_dir": 3}, TypeError, "must be a path, got 3"),
            ({"prefix_cache_dir": ".", "prefix_cache_bytes": 0}, ValueError, "from 1 to"),
            ({"prefix_cache_dir": ".", "prefix_cache_bytes": "8"}, TypeError, "an integer"),
        ],
    )
    def test_arguments(self, options: dict[str, Any], error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            gptoss.load("demo", **options)

    @pytest.mark.skipif(os.name != "posix", reason="needs modes")
    def test_a_folder_of_others_is_refused_before_anything_is_loaded(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o777)
        with pytest.raises(PermissionError, match="no other user may write into"):
            gptoss.load("no such model", prefix_cache_dir=tmp_path)


class TestWhatCannotBeWritten:
    def test_a_full_disk_is_told_once(self, checkpoint: Path, folder: Path) -> None:
        resource = pytest.importorskip("resource")
        done = run(
            """
            import sys, numpy as np, gptoss
            with gptoss.load(sys.argv[1], prefix_cache_dir=sys.argv[2]) as llm:
                for seed in range(5):
                    prompt = np.random.default_rng(seed).integers(0, 256, 300).tolist()
                    print(llm.generate(prompt, max_tokens=12, temperature=0, ignore_eos=True)
                          .token_ids)
                print(llm.stats().written_pages)
            """,
            checkpoint,
            folder,
            # A file of more than so many bytes cannot be written.
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500)),
        )
        assert done.returncode == 0, done
        *answers, written = done.stdout.splitlines()
        assert answers == [
            str(answer(checkpoint, _prompt(n), folder=None).token_ids) for n in range(5)
        ]
        assert written == "0"
        assert done.stderr.count("RuntimeWarning: prefix cache") == 1
        assert "File too large" in done.stderr
        assert "going on without it" in done.stderr
        assert list(folder.iterdir()) == []

    def test_a_folder_that_can_only_be_read_is_read(
        self, checkpoint: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        expected = answer(checkpoint, folder=folder)

        def refuse(*_: object, **__: object) -> None:
            raise OSError(30, "Read-only file system")

        monkeypatch.setattr(os, "utime", refuse)
        monkeypatch.setattr(PageFiles, "_write", refuse)
        again = answer(checkpoint, folder=folder)
        assert again.usage.cached_tokens == STORED
        assert what(again) == what(expected)
        with pytest.warns(RuntimeWarning, match=r"prefix cache .*Read-only.*going on"):
            other = answer(checkpoint, _prompt(1), folder=folder)
        assert other.usage.cached_tokens == 0

    def test_what_fails_while_reading(
        self, checkpoint: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        expected = answer(checkpoint, folder=folder)

        def fail(*_: object) -> None:
            raise MemoryError("no room for a page")

        monkeypatch.setattr(PageFiles, "read", fail)
        with pytest.warns(RuntimeWarning, match="no room for a page"):
            assert what(answer(checkpoint, folder=folder)) == what(expected)

    @pytest.mark.parametrize("name", ["gptoss prefix reader", "gptoss prefix writer"])
    def test_threads_that_cannot_be_made(
        self, checkpoint: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        expected = answer(checkpoint, folder=folder)
        start = threading.Thread.start

        def refuse(self: threading.Thread) -> None:
            if self.name == name:
                raise RuntimeError("can't start new thread")
            start(self)

        monkeypatch.setattr(threading.Thread, "start", refuse)
        with pytest.warns(RuntimeWarning, match="can't start new thread; going on without it"):
            assert what(answer(checkpoint, folder=folder)) == what(expected)


class TestTheEnd:
    def test_of_a_process_that_does_not_close(self, checkpoint: Path, folder: Path) -> None:
        done = run(
            """
            import sys, numpy as np, gptoss
            llm = gptoss.load(sys.argv[1], prefix_cache_dir=sys.argv[2])
            prompt = np.random.default_rng(3).integers(0, 256, 300).tolist()
            llm.generate(prompt, max_tokens=1)
            """,
            checkpoint,
            folder,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert answer(checkpoint, folder=folder).usage.cached_tokens == STORED

    def test_of_requests_that_run(self, checkpoint: Path, folder: Path) -> None:
        with gptoss.load(checkpoint, prefix_cache_dir=folder) as llm:
            stream = llm.stream(PROMPT, max_tokens=3000, ignore_eos=True)
            next(iter(stream))
        assert answer(checkpoint, folder=folder).usage.cached_tokens == STORED

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
    def test_of_a_fork(self, checkpoint: Path, folder: Path) -> None:
        done = run(
            """
            import os, sys, warnings, numpy as np, gptoss
            warnings.simplefilter("ignore", DeprecationWarning)  # Python's, of forks with threads
            llm = gptoss.load(sys.argv[1], prefix_cache_dir=sys.argv[2])
            prompts = [np.random.default_rng(n).integers(0, 256, 300).tolist() for n in range(2)]
            llm.generate(prompts[0], max_tokens=1)
            child = os.fork()
            if child == 0:
                try:
                    llm.generate(prompts[1])
                except gptoss.BackendError as error:
                    print("forked" in str(error), flush=True)
                llm.close()
                sys.exit(0)
            print(os.waitpid(child, 0)[1], flush=True)
            llm.generate(prompts[1], max_tokens=1)
            """,
            checkpoint,
            folder,
        )
        assert (done.stdout, done.stderr) == ("True\n0\n", "")
        for seed in range(2):
            result = answer(checkpoint, _prompt(seed), folder=folder)
            assert result.usage.cached_tokens == STORED

    def test_comes_when_all_is_written(self, checkpoint: Path, folder: Path) -> None:
        llm = gptoss.load(checkpoint, prefix_cache_dir=folder)
        llm.generate(PROMPT, max_tokens=1)
        start_s = time.monotonic()
        llm.close()
        assert time.monotonic() - start_s < 20  # and not the half minute that is its limit
        assert len(pages_in(folder)) >= 5

    def test_nothing_is_left(self, checkpoint: Path, folder: Path) -> None:
        answer(checkpoint, folder=folder)
        _wait_for(lambda: not prefix_threads())

    def test_a_disk_that_hangs_is_not_waited_for_long(
        self, checkpoint: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        go_on = threading.Event()
        monkeypatch.setattr(PageFiles, "_write", lambda *_: go_on.wait(60))
        monkeypatch.setattr("gptoss.engine.loop._FINISH_S", 0.2)
        start_s = time.monotonic()
        answer(checkpoint, folder=folder)
        assert time.monotonic() - start_s < 20
        go_on.set()
        _wait_for(lambda: not prefix_threads())


def test_how_many_pages_there_are_is_found_by_halves(tmp_path: Path) -> None:
    files = PageFiles(tmp_path, 2**20)
    store = PageStore(files, b"model", [64], [0])
    prompt = np.arange(64 * 40, dtype=np.int32)
    names = store._names(prompt, 0)
    for count in range(41):
        assert store.stored_pages(prompt, 0) == count
        assert store.stored_pages(prompt, 1) == 0
        if count < 40:
            files.write(names.of(count, 0), np.zeros(64, np.uint8), 0)
