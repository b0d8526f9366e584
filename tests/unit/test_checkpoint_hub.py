"""Checkpoints from the Hub: what is asked for, the cache, and no network."""

from __future__ import annotations

import io
import shutil
import socket
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants, errors
from huggingface_hub.hf_api import RepoSibling
from huggingface_hub.utils._paths import filter_repo_objects
from huggingface_hub.utils.tqdm import are_progress_bars_disabled

from gptoss.checkpoint import estimate_memory, hub, open_checkpoint
from gptoss.cli import main
from gptoss.errors import CheckpointError
from support.checkpoints import MICRO, edit_json, make_checkpoint

REPO = "someone/some-model"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    make_checkpoint(folder, MICRO, shard_bytes=35_000)
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test an empty cache, and no network."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("the network is blocked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    folder = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


def fill(cache: Path, published: Path, *, without: str = "") -> Path:
    """Lay a repository into the cache, as huggingface_hub does."""
    root = cache / f"models--{REPO.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text("0123abc")
    snapshot = root / "snapshots" / "0123abc"
    shutil.copytree(published, snapshot)
    if without:
        (snapshot / without).unlink()
    return snapshot


class Reachable:
    """A session to whose requests something answers."""

    def head(self, url: str, *, timeout: float) -> None:
        assert url == constants.ENDPOINT


class FakeHub:
    """Stands in for the two download functions; records how they are called."""

    def __init__(self, published: Path) -> None:
        self.published = published
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def hf_hub_download(self, repo_id: str, file_name: str, **arguments: Any) -> str:
        return self._answer("file", repo_id, arguments, self.published / file_name)

    def snapshot_download(self, repo_id: str, **arguments: Any) -> str:
        return self._answer("snapshot", repo_id, arguments, self.published)

    def _answer(self, what: str, repo_id: str, arguments: dict[str, Any], path: Path) -> str:
        assert repo_id == REPO
        assert not arguments["local_files_only"], "what is local is found without huggingface_hub"
        self.calls.append((what, arguments))
        if not path.exists():
            raise http_error(errors.EntryNotFoundError)
        return str(path)


@pytest.fixture
def fake(published: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    result = FakeHub(published)
    monkeypatch.setattr(hub, "get_session", Reachable)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", result.hf_hub_download)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", result.snapshot_download)
    return result


def test_a_hub_id_is_downloaded(fake: FakeHub, published: Path) -> None:
    checkpoint = open_checkpoint(REPO, revision="v2")
    assert checkpoint.name == REPO
    assert checkpoint.tensors == open_checkpoint(published).tensors
    assert [what for what, _ in fake.calls] == ["file", "snapshot"]
    assert all(arguments["revision"] == "v2" for _, arguments in fake.calls)


def test_only_one_layout_is_downloaded(fake: FakeHub) -> None:
    open_checkpoint(REPO)
    arguments = fake.calls[-1][1]
    files = [
        ".gitattributes",
        "LICENSE",
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "metal/model.bin",
        "model-00000-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "original/config.json",
        "original/dtypes.json",
        "original/model.safetensors",
        "tokenizer.json",
    ]
    wanted = filter_repo_objects(
        files,
        allow_patterns=arguments["allow_patterns"],
        ignore_patterns=arguments["ignore_patterns"],
    )
    assert list(wanted) == [
        "config.json",
        "generation_config.json",
        "model-00000-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
    ]


def test_a_wrong_model_is_refused_before_its_weights_come(
    fake: FakeHub, published: Path, tmp_path: Path
) -> None:
    fake.published = Path(shutil.copytree(published, tmp_path / "llama"))
    edit_json(
        fake.published / "config.json",
        lambda values: values.update(architectures=["LlamaForCausalLM"]),
    )
    with pytest.raises(CheckpointError, match="GptOssForCausalLM"):
        open_checkpoint(REPO)
    assert {what for what, _ in fake.calls} == {"file"}


def test_local_files_only_never_asks_the_hub(fake: FakeHub) -> None:
    with pytest.raises(CheckpointError, match="local_files_only"):
        open_checkpoint(REPO, local_files_only=True)
    assert not fake.calls


def test_progress_bars_are_switched_off_and_on(
    fake: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    answer = fake.snapshot_download

    def watch(repo_id: str, **arguments: Any) -> str:
        seen.append(are_progress_bars_disabled())
        return answer(repo_id, **arguments)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", watch)
    open_checkpoint(REPO, progress=True)
    open_checkpoint(REPO, progress=False)
    assert seen == [False, True]
    assert not are_progress_bars_disabled()


def test_memory_needs_the_config_only(fake: FakeHub, published: Path) -> None:
    estimate = estimate_memory(REPO)
    assert estimate.name == REPO
    assert estimate.weight_bytes == open_checkpoint(published).weight_bytes
    assert {what for what, _ in fake.calls} == {"file"}


@pytest.mark.parametrize("local_files_only", [False, True])
def test_a_complete_cache_needs_no_network(
    local_files_only: bool, cache: Path, published: Path
) -> None:
    """With huggingface_hub itself, and sockets that refuse to connect."""
    snapshot = fill(cache, published)
    checkpoint = open_checkpoint(REPO, local_files_only=local_files_only)
    assert checkpoint.path == snapshot
    assert checkpoint.name == REPO
    assert estimate_memory(REPO).weight_bytes == checkpoint.weight_bytes


@pytest.mark.parametrize("file", ["model-00001-of-00002.safetensors", "tokenizer.json"])
def test_an_incomplete_cache_is_completed(
    file: str, fake: FakeHub, cache: Path, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = fill(cache, published, without=file)
    fake.published = snapshot
    answer = fake.snapshot_download

    def download(repo_id: str, **arguments: Any) -> str:
        shutil.copyfile(published / file, snapshot / file)
        return answer(repo_id, **arguments)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert open_checkpoint(REPO).tokenizer_path is not None
    assert [what for what, _ in fake.calls] == ["snapshot"]


def test_a_repository_without_tokenizer_is_asked_for_it_once(
    fake: FakeHub, cache: Path, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.published = fill(cache, published, without="tokenizer.json")
    assert open_checkpoint(REPO).tokenizer_path is None
    assert [what for what, _ in fake.calls] == ["snapshot", "file"]
    # What huggingface_hub notes of a file that the Hub does not have.
    note = fake.published.parents[1] / ".no_exist" / fake.published.name / "tokenizer.json"
    note.parent.mkdir(parents=True)
    note.touch()
    fake.calls.clear()
    assert open_checkpoint(REPO).tokenizer_path is None
    assert not fake.calls


def test_an_incomplete_cache_without_network_names_the_shard(cache: Path, published: Path) -> None:
    fill(cache, published, without="model-00001-of-00002.safetensors")
    with pytest.raises(CheckpointError, match=r"shard model-00001.*incomplete"):
        open_checkpoint(REPO, local_files_only=True)


def test_offline_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    """HF_HUB_OFFLINE=1, which huggingface_hub reads when it is imported."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError) as raised:
        open_checkpoint(REPO)
    for part in (REPO, "no such folder", "HF_HUB_OFFLINE", "hf download", "and pass FOLDER"):
        assert part in str(raised.value)


def test_a_thread_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(CheckpointError, match="not reached: can't start new thread"):
        open_checkpoint(REPO)


class ConnectError(Exception):
    """Like the one of the HTTP library, of which huggingface_hub's releases use several."""


def http_error(kind: type[Exception]) -> Exception:
    """Make an error of huggingface_hub without the response that its constructor wants."""
    return kind.__new__(kind)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConnectError("no route"), "download failed .ConnectError: no route.*hf download"),
        (OSError(28, "No space left on device"), "No space left.*call again to resume"),
        (errors.OfflineModeIsEnabled("x"), "the Hub was not reached"),
        (http_error(errors.GatedRepoError), "hf auth login"),
        (http_error(errors.RepositoryNotFoundError), "no such folder, and no repository"),
        (http_error(errors.RevisionNotFoundError), "no revision 'v9'"),
        (http_error(errors.EntryNotFoundError), "expected config.json, found no such file"),
    ],
)
def test_errors_of_the_hub(error: Exception, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **arguments: object) -> str:
        raise error

    monkeypatch.setattr(hub, "get_session", Reachable)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(CheckpointError, match=message) as raised:
        open_checkpoint(REPO, revision="v9")
    assert str(raised.value).startswith(REPO)


class TestDownloadQuestion:
    """What the commands ask before gigabytes come."""

    @pytest.fixture
    def hub(self, fake: FakeHub, published: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
        """A Hub that tells sizes, too."""
        files = [path for path in published.iterdir() if path.is_file()]
        siblings = [
            *(RepoSibling(path.name, size=path.stat().st_size) for path in files),
            RepoSibling("original/model.safetensors", size=10**12),
            RepoSibling("README.md", size=10**12),
        ]
        info = types.SimpleNamespace(siblings=siblings, sha="0123abc")
        monkeypatch.setattr(
            huggingface_hub.HfApi, "model_info", lambda self, repo_id, **arguments: info
        )
        return fake

    @staticmethod
    def wanted_bytes(published: Path) -> int:
        return sum(
            path.stat().st_size
            for path in published.iterdir()
            if path.suffix in (".json", ".safetensors")
        )

    @pytest.fixture
    def terminal(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
        def type_in(answer: str) -> None:
            stdin = io.StringIO(answer)
            stdin.isatty = lambda: True  # type: ignore[method-assign]
            monkeypatch.setattr("sys.stdin", stdin)
            monkeypatch.setattr("sys.stderr.isatty", lambda: True)

        return type_in

    COMMAND = ("generate", REPO, "ab", "--max-tokens", "1", "--ignore-eos", "--quiet")

    @pytest.mark.parametrize("answer", ["y\n", "YES\n", "\n"])
    def test_yes(
        self,
        hub: FakeHub,
        published: Path,
        terminal: Callable[[str], None],
        answer: str,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        terminal(answer)
        assert main(self.COMMAND) == 0
        err = capsys.readouterr().err
        size = self.wanted_bytes(published) / 1e6
        assert f"{REPO} is not on this machine. Download {size:.2f} MB into" in err

    @pytest.mark.parametrize("answer", ["n\n", "what\n", ""])
    def test_no(
        self,
        hub: FakeHub,
        terminal: Callable[[str], None],
        answer: str,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        terminal(answer)
        assert main(self.COMMAND) == 2
        assert f"gptoss: error: {REPO} was not downloaded\n" in capsys.readouterr().err
        assert all(arguments["local_files_only"] for _, arguments in hub.calls)

    def test_nobody_to_ask(self, hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(self.COMMAND) == 2
        err = capsys.readouterr().err
        assert err.startswith(f"gptoss: error: {REPO} is not on this machine: pass --yes to downl")
        assert err.count("\n") == 1
        assert all(arguments["local_files_only"] for _, arguments in hub.calls)
        assert main([*self.COMMAND, "--yes"]) == 0

    def test_no_room(
        self, hub: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: types.SimpleNamespace(free=1000))
        assert main([*self.COMMAND, "--yes"]) == 2
        err = capsys.readouterr().err
        assert "does not fit into" in err
        assert "1.00 kB are free; HF_HOME names another folder" in err

    def test_nothing_is_asked_of_what_is_here(
        self, cache: Path, published: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fill(cache, published)
        monkeypatch.setattr("gptoss.cli.options.format_bytes", None)
        assert main(self.COMMAND) == 0

    def test_offline(self, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main([*self.COMMAND, "--yes", "--local-files-only"]) == 2
        assert "not in the Hub's local cache" in capsys.readouterr().err

    def test_info_tells_the_size(
        self, hub: FakeHub, published: Path, cache: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["info", REPO]) == 0
        size = self.wanted_bytes(published)
        assert f"{size / 1e6:.2f} MB to download, into" in capsys.readouterr().out
        fill(cache, published, without="model-00000-of-00002.safetensors")
        missing = (published / "model-00000-of-00002.safetensors").stat().st_size
        assert main(["info", REPO]) == 0
        out = capsys.readouterr().out
        assert f"{missing / 1e6:.2f} MB to download, {(size - missing) / 1e6:.2f} MB are" in out
        assert all(what == "file" or arguments["local_files_only"] for what, arguments in hub.calls)

    def test_info_of_what_is_here(
        self, cache: Path, published: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        fill(cache, published)
        assert main(["info", REPO]) == 0
        assert "in the Hub's cache" in capsys.readouterr().out

    def test_info_without_a_network(
        self,
        cache: Path,
        published: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        fill(cache, published, without="model-00000-of-00002.safetensors")
        assert main(["info", REPO]) == 0
        out = capsys.readouterr().out.replace("│", " ")
        assert "not all in the Hub's cache, and the Hub was not reached" in " ".join(out.split())
