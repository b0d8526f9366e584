"""Checkpoints from the Hugging Face Hub, through huggingface_hub and its cache.

What the cache holds in full is used as it is: weights do not change, and a model that was
downloaded once then starts at once, with or without a network. The cache is read here and not by
huggingface_hub, of which some releases ask the Hub even for what is only looked up.
docs/checkpoints.md tells how to bring a copy up to date.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub import errors as hub_errors
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    filter_repo_objects,
    get_session,
)
from huggingface_hub.utils.tqdm import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)

from gptoss._files import read_json
from gptoss.checkpoint.layout import CONFIG, INDEX, SINGLE_FILE
from gptoss.errors import CheckpointError
from gptoss.tokenizer.json_file import TOKENIZER

# Only the Hugging Face layout: a repository also has original/ and metal/, each as large again.
WANTED = ["*.json", "model*.safetensors"]
UNWANTED = ["*/*"]

_DEFAULT_REVISION = "main"
_TRUE = {"1", "ON", "YES", "TRUE"}


def fetch_file(
    repo_id: str, file_name: str, *, revision: str | None, local_files_only: bool
) -> Path:
    """Return the cached path of one file of a repository, downloading it if need be.

    Raises
    ------
    CheckpointError
        The Hub cannot be reached, or does not have it.
    """
    copy = _cached_copy(repo_id, revision)
    if copy is not None and (copy / file_name).is_file():
        return copy / file_name
    problem = _why_unreachable(local_files_only)
    if problem is not None:
        raise _not_here(repo_id, revision, copy, problem, [file_name])
    with _clear_errors(repo_id, revision, file_name):
        return Path(
            huggingface_hub.hf_hub_download(
                repo_id, file_name, revision=revision, local_files_only=False
            )
        )


def fetch_checkpoint(
    repo_id: str, *, revision: str | None, local_files_only: bool, progress: bool
) -> Path:
    """Return the cached folder of a repository in the Hugging Face layout.

    What is missing is downloaded; an interrupted download is resumed by the next call.

    Raises
    ------
    CheckpointError
        The Hub cannot be reached, or does not have it.
    """
    copy = _cached_copy(repo_id, revision)
    missing = None if copy is None else _missing(copy)
    if copy is not None and not missing:
        return copy
    problem = _why_unreachable(local_files_only)
    if problem is not None:
        # Without a tokenizer it can be used all the same, on token ids.
        if copy is not None and missing == [TOKENIZER]:
            return copy
        raise _not_here(repo_id, revision, copy, problem)
    with _clear_errors(repo_id, revision), _progress_bars(progress):
        folder = Path(
            huggingface_hub.snapshot_download(
                repo_id,
                revision=revision,
                local_files_only=False,
                allow_patterns=WANTED,
                ignore_patterns=UNWANTED,
            )
        )
        if not (folder / TOKENIZER).is_file():
            # Leaves a note in the cache that there is none, lest every start asks for it again.
            with contextlib.suppress(hub_errors.EntryNotFoundError):
                huggingface_hub.hf_hub_download(
                    repo_id, TOKENIZER, revision=folder.name, local_files_only=False
                )
    return folder


@dataclass(frozen=True)
class Download:
    """What is to be downloaded before a model can be loaded.

    Attributes
    ----------
    total_bytes, missing_bytes : int
        Of the files that are needed, and of those of them that are not in the cache.
    folder : Path
        The cache.
    """

    total_bytes: int
    missing_bytes: int
    folder: Path


def plan_download(repo_id: str, *, revision: str | None, local_files_only: bool) -> Download | None:
    """Ask the Hub what `fetch_checkpoint` would download; None if the cache has it all.

    Raises
    ------
    CheckpointError
        The cache does not have it all, and the Hub cannot be reached or does not have it.
    """
    copy = _cached_copy(repo_id, revision)
    missing = None if copy is None else _missing(copy)
    if copy is not None and not missing:
        return None
    problem = _why_unreachable(local_files_only)
    if problem is not None:
        if copy is not None and missing == [TOKENIZER]:
            return None  # it can be used on token ids
        raise _not_here(repo_id, revision, copy, problem)
    with _clear_errors(repo_id, revision):
        info = huggingface_hub.HfApi().model_info(repo_id, revision=revision, files_metadata=True)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
        wanted = filter_repo_objects(sizes, allow_patterns=WANTED, ignore_patterns=UNWANTED)
        total = lacking = 0
        for name in wanted:
            total += sizes[name]
            found = huggingface_hub.try_to_load_from_cache(repo_id, name, revision=info.sha)
            if not isinstance(found, str):
                lacking += sizes[name]
        return Download(total, lacking, Path(constants.HF_HUB_CACHE))


def cached_folder(repo_id: str, *, revision: str | None) -> Path:
    """The folder of the Hub's local cache that has a repository, or what there is of it.

    Raises
    ------
    CheckpointError
        The cache has nothing of it.
    """
    copy = _cached_copy(repo_id, revision)
    if copy is None:
        raise _not_here(repo_id, revision, None, "not asked")
    return copy


def checksums(repo_id: str, *, revision: str | None) -> dict[str, str]:
    """Ask the Hub for the checksums of all files of a repository.

    Returns
    -------
    dict of str to str
        In hexadecimal: SHA-256 of large files, git's SHA-1 of the others.

    Raises
    ------
    CheckpointError
        The Hub cannot be reached, or does not have it.
    """
    with _clear_errors(repo_id, revision):
        info = huggingface_hub.HfApi().model_info(repo_id, revision=revision, files_metadata=True)
    found = {}
    for file in info.siblings or ():
        value = file.lfs.sha256 if file.lfs is not None else file.blob_id
        if value is not None:
            found[file.rfilename] = value
    return found


def _repo_cache(repo_id: str) -> Path:
    """The cache's folder of a repository; its layout is documented by huggingface_hub."""
    return Path(constants.HF_HUB_CACHE) / f"models--{repo_id.replace('/', '--')}"


def _cached_copy(repo_id: str, revision: str | None) -> Path | None:
    """Find the folder of a revision, whole or not. Never asks the Hub."""
    if revision is not None and not isinstance(revision, str):
        raise TypeError(f"revision must be a string or None, got {revision!r}")
    root = _repo_cache(repo_id)
    commit = revision or _DEFAULT_REVISION
    ref = root / "refs" / commit
    if ref.is_file():
        commit = ref.read_text(errors="replace").strip()
    elif revision is None:
        # Caches that were copied or packed often lack refs/: the only snapshot is what is meant.
        snapshots = _snapshots(repo_id)
        return snapshots[0] if len(snapshots) == 1 else None
    # A plain name: a revision must not lead out of the cache.
    snapshot = root / "snapshots" / commit
    return snapshot if re.fullmatch(r"\w[\w.-]*", commit) and snapshot.is_dir() else None


def _snapshots(repo_id: str) -> list[Path]:
    return sorted(path for path in (_repo_cache(repo_id) / "snapshots").glob("*") if path.is_dir())


def _missing(folder: Path) -> list[str]:
    """Files that a snapshot lacks, the tokenizer last."""
    weights = [SINGLE_FILE]
    if (folder / INDEX).is_file() and not (folder / SINGLE_FILE).is_file():
        weight_map = read_json(folder / INDEX).get("weight_map")
        weights = list(map(str, weight_map.values())) if isinstance(weight_map, dict) else []
    wanted = [CONFIG, *sorted(set(weights))]
    # huggingface_hub's note of a file that the repository does not have.
    if not (folder.parents[1] / ".no_exist" / folder.name / TOKENIZER).is_file():
        wanted.append(TOKENIZER)
    return [name for name in wanted if not (folder / name).is_file()]


def _why_unreachable(local_files_only: bool) -> str | None:
    """Say why the Hub is not to be asked, or try once and say why it cannot be; None: it can.

    huggingface_hub itself tries for half a minute, with a warning each time.
    """
    if local_files_only:
        return "not asked: local_files_only"
    variables = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    # huggingface_hub reads them when it is imported, which may be before they were set.
    if constants.HF_HUB_OFFLINE or any(os.environ.get(v, "").upper() in _TRUE for v in variables):
        return "not asked: HF_HUB_OFFLINE is set"
    timeout_s = constants.HF_HUB_ETAG_TIMEOUT
    answers: SimpleQueue[Exception | None] = SimpleQueue()

    def ask() -> None:
        try:
            # Whatever it answers will do. By huggingface_hub's session, for proxies and mirrors.
            get_session().head(constants.ENDPOINT, timeout=timeout_s)
            answers.put(None)
        except Exception as error:  # of whichever HTTP library this huggingface_hub uses
            answers.put(error)

    # In a thread: no timeout of those libraries bounds looking up the name, or the sum over its
    # addresses.
    try:
        threading.Thread(target=ask, name="gptoss hub", daemon=True).start()
        error = answers.get(timeout=timeout_s)
    except Empty:
        return f"not reached: no answer within {timeout_s} s (HF_HUB_ETAG_TIMEOUT sets this)"
    except RuntimeError as no_thread:
        return f"not reached: {no_thread}"
    return None if error is None else f"not reached: {type(error).__name__}: {error}"


def _not_here(
    repo_id: str,
    revision: str | None,
    copy: Path | None,
    problem: str,
    wanted: list[str] | None = None,
) -> CheckpointError:
    """Say what the cache has, and how to get what it has not: `wanted`, or a whole checkpoint."""
    what = _what(repo_id, revision)
    if copy is not None:
        lacking = _missing(copy) if wanted is None else wanted
        missing = [f"the shard {n}" if n.endswith(".safetensors") else n for n in lacking]
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        found = (
            f"expected {missing[0]}{more} in {copy}, found no such file: the download is incomplete"
        )
    else:
        found = "no such folder, not in the Hub's local cache"
    usable = [path.name for path in _snapshots(repo_id) if path != copy and _is_complete(path)]
    if usable:
        found += (
            f"; the cache has {' and '.join(usable)}, but refs/{revision or _DEFAULT_REVISION} "
            f"does not say so: pass revision={usable[0]!r}"
        )
    return CheckpointError(f"{what}: {found}; the Hub was {problem}; {_offline_help(repo_id)}")


def _is_complete(folder: Path) -> bool:
    try:
        return not _missing(folder)
    except CheckpointError:  # a damaged index
        return False


def _what(repo_id: str, revision: str | None) -> str:
    return repo_id if revision is None else f"{repo_id} at revision {revision}"


def _offline_help(repo_id: str) -> str:
    return (
        "download the repository where there is a network "
        f"(hf download {repo_id} --local-dir FOLDER) and pass FOLDER"
    )


@contextmanager
def _clear_errors(repo_id: str, revision: str | None, file_name: str = CONFIG) -> Iterator[None]:
    what, offline_help = _what(repo_id, revision), _offline_help(repo_id)
    try:
        yield
    except CheckpointError:
        raise
    except (hub_errors.LocalEntryNotFoundError, hub_errors.OfflineModeIsEnabled) as error:
        raise CheckpointError(
            f"{what}: no such folder, not in the Hub's local cache, and the Hub was not reached "
            f"(no network, HF_HUB_OFFLINE or local_files_only); {offline_help}"
        ) from error
    except hub_errors.GatedRepoError as error:
        raise CheckpointError(
            f"{what}: the Hub asks for access rights; accept the terms on its page and log in "
            "with `hf auth login`"
        ) from error
    except (hub_errors.RepositoryNotFoundError, hub_errors.HFValidationError) as error:
        raise CheckpointError(
            f"{repo_id}: no such folder, and no repository on the Hub that can be read"
        ) from error
    except hub_errors.RevisionNotFoundError as error:
        raise CheckpointError(f"{repo_id}: the Hub has no revision {revision!r}") from error
    except hub_errors.EntryNotFoundError as error:
        if file_name != CONFIG:
            raise CheckpointError(f"{what}: expected {file_name}, found no such file") from error
        raise CheckpointError(
            f"{what}: expected {CONFIG}, found no such file; of a repository of GGUF files "
            "download the file (hf download) and pass it; adapters (LoRA) are merged into their "
            "model first"
        ) from error
    except Exception as error:
        # Connection failures reach us as types of whichever HTTP library the installed
        # huggingface_hub uses, and a full disk as an OSError.
        raise CheckpointError(
            f"{what}: download failed ({type(error).__name__}: {error}); call again to resume, "
            f"or {offline_help}"
        ) from error


@contextmanager
def _progress_bars(wanted: bool) -> Iterator[None]:
    if wanted or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
