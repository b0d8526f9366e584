"""`gptoss verify`: checksums from each place that knows them, and what is damaged."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
import types
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.hf_api import BlobLfsInfo, RepoSibling

import gptoss
from gptoss.checkpoint.verify import verify_model, write_sums
from gptoss.cli import main
from gptoss.errors import CheckpointError
from support.checkpoints import MICRO, make_checkpoint

REPO = "someone/some-model"
DEMO = Path(gptoss.__file__).parent / "demo"

pytestmark = pytest.mark.usefixtures("no_network")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    make_checkpoint(folder, MICRO, shard_bytes=35_000)
    return folder


def sums_of(path: Path) -> tuple[str, str]:
    """SHA-256, and what git names the content."""
    data = path.read_bytes()
    blob = b"blob %d\0" % len(data) + data
    return hashlib.sha256(data).hexdigest(), hashlib.sha1(blob).hexdigest()


def sum_of(path: Path) -> str:
    """The checksum that the Hub has of a file."""
    return sums_of(path)[path.suffix != ".safetensors"]


def into_cache(folder: Path, cache: Path) -> Path:
    """Lay a folder into the Hub's cache: links to files that are named by their checksums."""
    root = cache / f"models--{REPO.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text("0123abc")
    blobs, snapshot = root / "blobs", root / "snapshots" / "0123abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for path in folder.iterdir():
        shutil.copy(path, blobs / sum_of(path))
        (snapshot / path.name).symlink_to(Path("..", "..", "blobs", sum_of(path)))
    return snapshot


def without_links(snapshot: Path) -> None:
    """Make a snapshot what it is where links cannot be made: the files themselves, no others."""
    blobs = snapshot.parent.parent / "blobs"
    for path in snapshot.iterdir():
        blob = path.resolve()
        path.unlink()
        blob.rename(path)
    assert not list(blobs.iterdir())


def list_files(snapshot: Path) -> Path:
    """Write the list of a commit's files as huggingface_hub does, also of what was not fetched."""
    files: dict[str, Any] = {"README.md": {"size": 3, "blob_id": "1" * 40}}
    for path in snapshot.iterdir():
        sha256, blob_id = sums_of(path)
        files[path.name] = {"size": path.stat().st_size, "blob_id": blob_id}
        if path.suffix == ".safetensors":  # git has a pointer to it
            files[path.name] |= {"blob_id": "2" * 40, "lfs_sha256": sha256}
            files[path.name] |= {"lfs_size": path.stat().st_size, "xet_hash": "3" * 64}
    listing = snapshot.parent.parent / "trees" / f"{snapshot.name}.json"
    listing.parent.mkdir()
    listing.write_text(json.dumps({"format_version": 1, "files": files}))
    return listing


def with_notes(folder: Path) -> None:
    """Note beside the files what `hf download --local-dir` does."""
    notes = folder / ".cache" / "huggingface" / "download"
    notes.mkdir(parents=True)
    for path in list(folder.glob("*.*")):
        if path.is_file():
            text = f"0123abc\n{sum_of(path)}\n1.0\n"
            (notes / f"{path.name}.metadata").write_text(text)


@pytest.fixture(params=["SHA256SUMS", "notes", "cache", "cache by id", "cache without links"])
def known(
    request: pytest.FixtureRequest, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, Path]:
    """A model's name, and the folder with its files, with checksums from each place."""
    if request.param == "SHA256SUMS":
        write_sums(folder)
        return str(folder), folder
    if request.param == "notes":
        with_notes(folder)
        return str(folder), folder
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    snapshot = into_cache(folder, tmp_path / "cache")
    if request.param == "cache without links":
        without_links(snapshot)
        list_files(snapshot)
        return REPO, snapshot
    return (REPO if request.param == "cache by id" else str(snapshot)), snapshot


def test_all_is_well(known: tuple[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    name, folder = known
    report = verify_model(name)
    assert report.good
    assert report.folder == folder
    assert {file.state for file in report.files} == {"ok"}
    assert len([f for f in report.files if f.name.endswith(".safetensors")]) == 3
    assert main(["verify", name]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == f"As it should be: {len(report.files)} files."
    assert main(["verify", name, "--quiet"]) == 0
    assert capsys.readouterr().out == ""


SHARD = "model-00001-of-00002.safetensors"


def damage_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


@pytest.mark.parametrize(
    ("damage", "name", "state", "detail"),
    [
        (damage_byte, SHARD, "wrong", "expected SHA-256"),
        (damage_byte, "config.json", "wrong", "expected "),
        (cut, SHARD, "wrong", "the file is cut off"),
        (cut, "tokenizer.json", "wrong", "expected "),
        (Path.unlink, SHARD, "missing", "expected this file, found none"),
        (Path.unlink, "tokenizer.json", "missing", "expected this file, found none"),
        (Path.unlink, "model.safetensors.index.json", "missing", "expected this file, found none"),
    ],
)
def test_damage_is_found(
    known: tuple[str, Path],
    damage: Any,
    name: str,
    state: str,
    detail: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model, folder = known
    damage(folder / name if damage is Path.unlink else (folder / name).resolve())
    report = verify_model(model)
    assert not report.good
    found = {file.name: file for file in report.files}
    assert found[name].state == state
    assert detail in found[name].detail
    assert all(file.state == "ok" for file in report.files if file.name != name)
    assert main(["verify", model, "--quiet"]) == 1
    out = capsys.readouterr().out
    assert out.startswith(f"{state:<8}{name}")


def test_an_interrupted_download(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard that the index names and that never came has no link in the cache."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    (folder / SHARD).unlink()
    into_cache(folder, tmp_path / "cache")
    report = verify_model(REPO)
    assert [file.name for file in report.files if file.state == "missing"] == [SHARD]
    assert report.problem is not None
    assert "the download is incomplete" in report.problem


def test_the_list_of_files_is_what_the_library_keeps(folder: Path, tmp_path: Path) -> None:
    library = pytest.importorskip("huggingface_hub._tree_cache", reason="has no such lists yet")
    listing = list_files(into_cache(folder, tmp_path))
    entries = library.read_tree_cache(str(listing.parent.parent), listing.stem)
    assert entries[SHARD].lfs_sha256 == sum_of(folder / SHARD)
    assert entries["config.json"].blob_id == sum_of(folder / "config.json")


class TestWithoutChecksums:
    def test_good(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert {file.state for file in verify_model(folder).files} == {"unknown"}
        assert main(["verify", str(folder)]) == 0
        assert "no checksums are known" in capsys.readouterr().out

    @pytest.mark.parametrize("listing", [None, "{", "[]", '{"format_version": 2, "files": {}}'])
    def test_a_cache_without_links(
        self,
        folder: Path,
        tmp_path: Path,
        listing: str | None,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """Without the Hub's list of the files, or with one that cannot be read, it says so."""
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        snapshot = into_cache(folder, tmp_path / "cache")
        without_links(snapshot)
        if listing is not None:
            list_files(snapshot).write_text(listing)
        report = verify_model(REPO)
        assert report.good
        assert {file.detail for file in report.files} == {"no checksum is known"}
        assert main(["verify", REPO]) == 0
        verdict = capsys.readouterr().out.splitlines()[-1]
        assert "no checksums are known, so that damage may be unseen" in verdict
        # What it advises for later.
        command = verdict[verdict.index("`gptoss ") + 8 : verdict.index("` makes a SHA256SUMS")]
        assert main(shlex.split(command)) == 0
        assert {file.state for file in verify_model(REPO).files} == {"ok"}
        damage_byte(snapshot / SHARD)
        assert not verify_model(REPO).good

    def test_what_can_be_seen_without(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        cut(folder / SHARD)
        assert main(["verify", str(folder)]) == 1
        out = capsys.readouterr().out
        assert "the file is cut off" in out
        assert "Not as it should be" in out

    def test_bad_scales(self, tmp_path: Path) -> None:
        make_checkpoint(tmp_path / "m", MICRO)
        file = tmp_path / "m" / "model.safetensors"
        from gptoss.checkpoint import open_checkpoint

        tensors = open_checkpoint(tmp_path / "m").tensors
        scales = next(t for name, t in tensors.items() if name.endswith("_scales"))
        data = bytearray(file.read_bytes())
        data[scales.offset] = 255
        file.write_bytes(data)
        problem = verify_model(tmp_path / "m").problem
        assert problem is not None
        assert "expected scale bytes up to 252, found 255 (NaN)" in problem

    def test_bfloat16_experts_are_no_problem(self, tmp_path: Path) -> None:
        make_checkpoint(tmp_path / "m", MICRO, bf16_experts=True)
        assert verify_model(tmp_path / "m").good

    def test_original_layout(self, tmp_path: Path) -> None:
        make_checkpoint(tmp_path / "m", MICRO, layout="original")
        report = verify_model(tmp_path / "m")
        assert report.good
        assert "original/config.json" in [file.name for file in report.files]
        write_sums(tmp_path / "m")
        assert {file.state for file in verify_model(tmp_path / "m").files} == {"ok"}

    def test_an_empty_folder(self, tmp_path: Path) -> None:
        report = verify_model(tmp_path)
        assert {file.state for file in report.files} == {"missing"}
        assert not report.good


class TestAgainst:
    """Checksums from the Hub, for files that came another way."""

    @pytest.fixture
    def hub(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        siblings = []
        for path in folder.iterdir():
            sha256, sha1 = sums_of(path)
            lfs = BlobLfsInfo(1, sha256, 1) if path.suffix == ".safetensors" else None
            siblings.append(RepoSibling(path.name, blob_id=sha1, lfs=lfs))
        siblings.append(RepoSibling("README.md", blob_id="0" * 40))
        siblings.append(RepoSibling("original/config.json", blob_id="0" * 40))
        info = types.SimpleNamespace(siblings=siblings)
        monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda self, name, **_: info)

    def test_good_and_damaged(
        self, hub: None, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["verify", "--against", REPO, str(folder)]) == 0
        out = capsys.readouterr().out
        assert f"SHA-256, {REPO}" in out
        assert f"git SHA-1, {REPO}" in out
        assert "README" not in out
        damage_byte(folder / SHARD)
        write_sums(folder)  # which the Hub knows better
        assert main(["verify", "--against", REPO, str(folder)]) == 1
        (folder / SHARD).unlink()
        assert main(["verify", "--against", REPO, str(folder)]) == 1
        assert f"missing {SHARD}" in capsys.readouterr().out

    def test_no_network(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(CheckpointError, match="the Hub was not reached"):
            verify_model(folder, against=REPO)


class TestWrite:
    def test_as_sha256sum_does(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (folder / "notes.txt").write_text("not the model's")
        assert main(["verify", "--write", str(folder)]) == 0
        assert capsys.readouterr().out == f"wrote {folder / 'SHA256SUMS'}\n"
        lines = (folder / "SHA256SUMS").read_text().splitlines()
        files = sorted(p.name for p in folder.iterdir() if p.suffix in (".json", ".safetensors"))
        assert lines == [f"{sums_of(folder / name)[0]}  {name}" for name in files]

    def test_only_of_a_model(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        cut(folder / SHARD)
        assert main(["verify", "--write", str(folder)]) == 2
        assert "the file is cut off" in capsys.readouterr().err
        assert not (folder / "SHA256SUMS").exists()
        assert main(["verify", "--write", REPO]) == 2
        assert (
            f"--write needs a folder or a GGUF file, got the Hub id {REPO}"
            in capsys.readouterr().err
        )

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("abc  model.safetensors", "line 1: expected a SHA-256 and a file's name"),
            ("0" * 64 + "  /etc/passwd", "line 1: expected a file within the folder"),
            ("0" * 64 + "  a/../../b", "line 1: expected a file within the folder"),
        ],
    )
    def test_damaged_lists(self, folder: Path, line: str, message: str) -> None:
        (folder / "SHA256SUMS").write_text(line + "\n")
        with pytest.raises(CheckpointError, match=message):
            verify_model(folder)

    def test_binary_mode_and_other_spellings(self, folder: Path) -> None:
        sha256 = sums_of(folder / "config.json")[0]
        (folder / "SHA256SUMS").write_text(f"{sha256.upper()} *./config.json\n")
        states = {file.name: file.state for file in verify_model(folder).files}
        assert states["config.json"] == "ok"
        assert states[SHARD] == "unknown"


def test_progress(folder: Path) -> None:
    write_sums(folder)
    seen: list[tuple[int, int]] = []
    verify_model(folder, on_bytes=lambda done, total: seen.append((done, total)))
    total = sum(p.stat().st_size for p in folder.iterdir() if p.name != "SHA256SUMS")
    assert seen[-1] == (total, total)
    assert seen == sorted(seen)


def test_nothing_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert main(["verify", REPO]) == 2
    assert "not in the Hub's local cache" in capsys.readouterr().err


def test_the_demo_against_the_installed_package(monkeypatch: pytest.MonkeyPatch) -> None:
    import base64
    from importlib import metadata

    entries = []
    for path in DEMO.iterdir():
        digest = base64.urlsafe_b64encode(hashlib.sha256(path.read_bytes()).digest()).decode()
        entry = metadata.PackagePath(f"gptoss/demo/{path.name}")
        entry.hash = metadata.FileHash(f"sha256={digest.rstrip('=')}")
        entries.append(entry)
    monkeypatch.setattr(metadata, "files", lambda name: entries)
    report = verify_model("demo")
    assert {file.state for file in report.files} == {"ok"}
    assert {file.detail for file in report.files} == {"SHA-256, the installed package"}
    entries[0].hash = metadata.FileHash("sha256=" + "A" * 43)
    assert not verify_model("demo").good
