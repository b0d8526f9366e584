"""Checking a model's files, byte by byte, against the checksums that are known of them."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from gptoss._files import read_json
from gptoss._threads import keep_interrupts
from gptoss.checkpoint.checkpoint import check_scales
from gptoss.checkpoint.gguf_model import check_gguf_scales, match_gguf
from gptoss.checkpoint.layout import CONFIG, INDEX, SINGLE_FILE
from gptoss.checkpoint.open import (
    find_tensors,
    has_bf16_experts,
    local_model,
    locate,
    match_tensors,
    open_checkpoint,
    read_gguf_tokenizer,
)
from gptoss.checkpoint.safetensors import read_header
from gptoss.errors import CheckpointError
from gptoss.tokenizer.json_file import TOKENIZER

SUMS = "SHA256SUMS"

State = Literal["ok", "unknown", "wrong", "missing"]

# What huggingface_hub notes beside the files that it downloads into a folder.
_NOTES = Path(".cache", "huggingface", "download")
_LISTING_VERSION = 1  # of its lists of a commit's files
_READ_BYTES = 1 << 20
# Enough to be faster than disks are.
_MAX_THREADS = 4
_SHA256 = re.compile(r"[0-9a-f]{64}")
_GIT_SHA1 = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class FileReport:
    """What is to be said of a file.

    Attributes
    ----------
    name : str
        Within the model's folder.
    nbytes : int
        Its size.
    state : {"ok", "unknown", "wrong", "missing"}
        "unknown": nothing says what its checksum should be.
    detail : str
        The checksum's kind and source, or what is wrong.
    """

    name: str
    nbytes: int
    state: State
    detail: str


@dataclass(frozen=True)
class VerifyReport:
    """What `verify_model` found.

    Attributes
    ----------
    folder : Path
        Where the files are.
    files : list of FileReport
        By name.
    problem : str or None
        Why the model cannot be loaded, if so: what is missing, cut, or not as it should be.
    """

    folder: Path
    files: list[FileReport]
    problem: str | None

    @property
    def good(self) -> bool:
        """Whether nothing is wrong; files without a known checksum are not."""
        return self.problem is None and all(f.state in ("ok", "unknown") for f in self.files)


def verify_model(
    path_or_repo: str | os.PathLike[str],
    *,
    revision: str | None = None,
    against: str | None = None,
    on_bytes: Callable[[int, int], None] = lambda done, total: None,
) -> VerifyReport:
    """Check a model's files against the checksums that are known of them, and load its headers.

    Parameters
    ----------
    path_or_repo : str or path
        A folder or a GGUF file; or a Hub id, whose copy in the Hub's local cache is checked.
    revision : str, optional
        Of a Hub id, or of `against`.
    against : str, optional
        A Hub id to ask for the checksums of its files, over the network.
    on_bytes : callable
        Called with the bytes that were read so far, and all.

    Returns
    -------
    VerifyReport

    Raises
    ------
    CheckpointError
        There is no such folder, the cache has nothing of the repository, or `against` cannot be
        asked.

    Notes
    -----
    The first of these that knows a file is believed: `against`; SHA256SUMS in the folder; what
    huggingface_hub noted when it downloaded into the folder; the names of the Hub cache's files;
    the cache's list of a commit's files; of the demo, the installed package's list. The Hub has
    SHA-256 of large files, and git's SHA-1 of the others.
    """
    model = local_model(path_or_repo)
    if model is None:
        from gptoss.checkpoint import hub

        model = hub.cached_folder(os.fspath(path_or_repo), revision=revision)
    folder, needed = _files_of(model)
    sums = _known_sums(folder, needed, against, revision)
    if not model.is_dir():  # other files of the folder are not the model's
        sums = {name: sums[name] for name in needed if name in sums}
    names = sorted({*sums, *needed})
    present = [name for name in names if (folder / name).is_file()]
    sizes = {name: (folder / name).stat().st_size for name in present}
    count = _Counter(sum(sizes[name] for name in present if name in sums), on_bytes)

    def check(name: str) -> FileReport:
        if name not in sizes:
            return FileReport(name, 0, "missing", "expected this file, found none")
        if name not in sums:
            return FileReport(name, sizes[name], "unknown", "no checksum is known")
        expected, source = sums[name]
        kind, found = _digest(folder / name, expected, count)
        if found == expected:
            return FileReport(name, sizes[name], "ok", f"{kind}, {source}")
        return FileReport(
            name,
            sizes[name],
            "wrong",
            f"expected {kind} {expected} ({source}), found {found}{_why(folder / name)}",
        )

    with keep_interrupts(), ThreadPoolExecutor(max_workers=_MAX_THREADS) as pool:
        files = list(pool.map(check, names))
    return VerifyReport(folder, files, _problem(model))


def write_sums(model: Path, on_bytes: Callable[[int, int], None] = lambda a, b: None) -> Path:
    """Write SHA256SUMS for a folder's model files, or beside a GGUF file, as sha256sum does.

    Raises
    ------
    CheckpointError
        There is no model.
    OSError
        A file cannot be read or written.
    """
    located = locate(model)
    folder = model if model.is_dir() else model.parent
    if located.gguf is not None:
        match_gguf(located.gguf, located.config)
        names = [path.name for path in located.gguf.paths]
    else:
        open_checkpoint(folder, progress=False)
        names = sorted(
            path.relative_to(folder).as_posix()
            for path in folder.rglob("*")
            if path.suffix in (".json", ".safetensors") and not _is_hidden(path.relative_to(folder))
        )
    count = _Counter(sum((folder / name).stat().st_size for name in names), on_bytes)
    lines = [f"{_hash(hashlib.sha256(), folder / name, count)}  {name}\n" for name in names]
    path = folder / SUMS
    path.write_text("".join(lines), encoding="utf-8")
    return path


class _Counter:
    """Adds up what several threads have read."""

    def __init__(self, total: int, on_bytes: Callable[[int, int], None]) -> None:
        self._total = total
        self._done = 0
        self._on_bytes = on_bytes
        self._lock = threading.Lock()

    def __call__(self, nbytes: int) -> None:
        with self._lock:
            self._done += nbytes
            self._on_bytes(self._done, self._total)


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _files_of(model: Path) -> tuple[Path, list[str]]:
    """A model's folder, and the files without which it cannot be loaded."""
    folder = model if model.is_dir() else model.parent
    with contextlib.suppress(CheckpointError):  # which opening it tells
        gguf = locate(model).gguf
        if gguf is not None:
            return folder, [path.name for path in gguf.paths]
    return folder, [model.name] if model is not folder else list(_needed(folder))


def _known_sums(
    folder: Path, needed: list[str], against: str | None, revision: str | None
) -> dict[str, tuple[str, str]]:
    """Of each file the checksum that it should have, and who says so."""
    known: dict[str, tuple[str, str]] = {}
    for source, found in (
        ("the installed package", _installed_sums(folder)),
        ("the Hub cache's list", _cache_listed_sums(folder)),
        ("the Hub cache", _cache_sums(folder)),
        ("the download's notes", _noted_sums(folder)),
        (SUMS, _listed_sums(folder)),
    ):
        known |= {name: (value, source) for name, value in found}
    if against is not None:
        from gptoss.checkpoint import hub

        for name, value in hub.checksums(against, revision=revision).items():
            # Not what else a repository has, such as another layout.
            if name in needed or (folder / name).is_file():
                known[name] = value, against
    return known


def _listed_sums(folder: Path) -> Iterator[tuple[str, str]]:
    path = folder / SUMS
    if not path.is_file():
        return
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        match = re.fullmatch(r"([0-9A-Fa-f]{64}) [ *](.+)", line)
        if match is None:
            raise CheckpointError(
                f"{path}: line {number}: expected a SHA-256 and a file's name, found {line!r:.100}"
            )
        name = PurePosixPath(match[2])
        if name.is_absolute() or ".." in name.parts:
            raise CheckpointError(
                f"{path}: line {number}: expected a file within the folder, found {match[2]!r:.100}"
            )
        yield str(name), match[1].lower()


def _installed_sums(folder: Path) -> Iterator[tuple[str, str]]:
    """Of the demo, what the installed wheel's own list of files says."""
    if folder != local_model("demo"):
        return
    from importlib import metadata

    with contextlib.suppress(metadata.PackageNotFoundError):
        for file in metadata.files("gptoss-native") or ():
            if file.hash is not None and file.hash.mode == "sha256" and file.parent.name == "demo":
                data = base64.urlsafe_b64decode(file.hash.value + "=")
                yield file.name, data.hex()


def _noted_sums(folder: Path) -> Iterator[tuple[str, str]]:
    notes = folder / _NOTES
    for path in sorted(notes.rglob("*.metadata")):
        # The commit, the file's checksum, the time.
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        name = path.relative_to(notes).as_posix().removesuffix(".metadata")
        if len(lines) > 1 and _is_sum(lines[1]):
            yield name, lines[1]


def _cache_sums(folder: Path) -> Iterator[tuple[str, str]]:
    """A snapshot's files are links to files that are named by their checksums."""
    if folder.parent.name != "snapshots":
        return
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() and _is_sum(name := path.readlink().name):
            yield path.relative_to(folder).as_posix(), name


def _cache_listed_sums(folder: Path) -> Iterator[tuple[str, str]]:
    """What huggingface_hub keeps of a commit's files: the Hub's answer, asked for a whole snapshot.

    Where links cannot be made, as on Windows without the right to, a snapshot's files are the files
    themselves, and nothing but this list knows their checksums. Files that were fetched one by one
    have none, nor those of releases before it was kept.
    """
    path = folder.parent.parent / "trees" / f"{folder.name}.json"
    if folder.parent.name != "snapshots" or not path.is_file():
        return
    try:
        listing = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # the Hub's library fetches such a list again
        return
    if not isinstance(listing, dict) or listing.get("format_version") != _LISTING_VERSION:
        return
    files = listing.get("files")
    for name, entry in files.items() if isinstance(files, dict) else ():
        # The repository's other files need not have been fetched.
        if not isinstance(entry, dict) or not (folder / name).is_file():
            continue
        value = entry.get("lfs_sha256")
        if value is None and entry.get("xet_hash") is None:  # else git knows a pointer alone
            value = entry.get("blob_id")
        if isinstance(value, str) and _is_sum(value):
            yield name, value


def _is_sum(text: str) -> bool:
    return bool(_SHA256.fullmatch(text) or _GIT_SHA1.fullmatch(text))


def _needed(folder: Path) -> Iterable[str]:
    """Names of the files without which the model cannot be loaded, as far as one can tell."""
    if (folder / "original" / CONFIG).is_file() and not (folder / CONFIG).is_file():
        inner = folder / "original"
        return [
            TOKENIZER,
            *(f"original/{path.name}" for path in (inner / CONFIG, *inner.glob("*.safetensors"))),
        ]
    weights = [SINGLE_FILE]
    if (folder / INDEX).is_file():
        weight_map = None
        with contextlib.suppress(CheckpointError):  # which opening the checkpoint tells
            weight_map = read_json(folder / INDEX).get("weight_map")
        weights = [INDEX]
        if isinstance(weight_map, dict):
            weights += sorted({str(name) for name in weight_map.values()})
    elif not (folder / SINGLE_FILE).is_file():
        shards = [path.name for path in folder.glob("*.safetensors")]
        weights = [INDEX, *shards] if shards else [SINGLE_FILE]
    return [CONFIG, TOKENIZER, *weights]


def _digest(path: Path, expected: str, count: Callable[[int], None]) -> tuple[str, str]:
    """The kind of a checksum, and what it is of the file that is there."""
    if _SHA256.fullmatch(expected):
        return "SHA-256", _hash(hashlib.sha256(), path, count)
    # As git names a file's content.
    sha1 = hashlib.sha1(usedforsecurity=False)
    sha1.update(f"blob {path.stat().st_size}\0".encode())
    return "git SHA-1", _hash(sha1, path, count)


def _hash(state: hashlib._Hash, path: Path, count: Callable[[int], None]) -> str:
    with path.open("rb") as file:
        while data := file.read(_READ_BYTES):
            state.update(data)
            count(len(data))
    return state.hexdigest()


def _why(path: Path) -> str:
    """What a damaged file looks like, if that can be told."""
    if path.suffix != ".safetensors":
        return ""
    try:
        read_header(path)
    except CheckpointError as error:
        return f"; {str(error).partition(': ')[2]}"
    return ""


def _problem(model: Path) -> str | None:
    try:
        located = locate(model)
        if located.gguf is not None:
            check_gguf_scales(match_gguf(located.gguf, located.config))
            read_gguf_tokenizer(located.gguf)
            return None
        found = find_tensors(located)
        bf16_experts = has_bf16_experts(found)
        match_tensors(located, found, bf16_experts=bf16_experts)
        if not bf16_experts:  # which would be quantised, to no end here
            check_scales(open_checkpoint(model, progress=False))
    except CheckpointError as error:
        return str(error)
    return None
