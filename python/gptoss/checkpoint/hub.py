"""Checkpoints from the Hugging Face Hub, through huggingface_hub and its cache.

What the cache holds in full is used as it is, without asking the Hub: weights do not change, and
a model that was downloaded once then starts at once, with or without a network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub import errors as hub_errors
from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]
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


def fetch_file(
    repo_id: str, file_name: str, *, revision: str | None, local_files_only: bool
) -> Path:
    """Return the cached path of one file of a repository, downloading it if need be.

    Raises
    ------
    CheckpointError
        The Hub cannot be reached, or does not have it.
    """

    def download(local: bool) -> str:
        return huggingface_hub.hf_hub_download(
            repo_id, file_name, revision=revision, local_files_only=local
        )

    with _clear_errors(repo_id, revision, file_name):
        return _cached_first(download, Path.is_file, local_files_only)


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

    def download(local: bool) -> str:
        return huggingface_hub.snapshot_download(
            repo_id,
            revision=revision,
            local_files_only=local,
            allow_patterns=WANTED,
            ignore_patterns=UNWANTED,
        )

    with _clear_errors(repo_id, revision), _progress_bars(progress):
        return _cached_first(download, _is_complete, local_files_only)


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
    with _clear_errors(repo_id, revision):
        try:
            cached = huggingface_hub.snapshot_download(
                repo_id,
                revision=revision,
                local_files_only=True,
                allow_patterns=WANTED,
                ignore_patterns=UNWANTED,
            )
            if _is_complete(Path(cached)):
                return None
        except hub_errors.LocalEntryNotFoundError:
            pass
        if local_files_only:
            raise hub_errors.LocalEntryNotFoundError("not all of it is in the cache")
        info = huggingface_hub.HfApi().model_info(repo_id, revision=revision, files_metadata=True)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
        wanted = filter_repo_objects(sizes, allow_patterns=WANTED, ignore_patterns=UNWANTED)
        total = missing = 0
        for name in wanted:
            total += sizes[name]
            found = huggingface_hub.try_to_load_from_cache(repo_id, name, revision=info.sha)
            if not isinstance(found, str):
                missing += sizes[name]
        return Download(total, missing, Path(constants.HF_HUB_CACHE))


def cached_folder(repo_id: str, *, revision: str | None) -> Path:
    """The folder of the Hub's local cache that has a repository, or what there is of it.

    Raises
    ------
    CheckpointError
        The cache has nothing of it.
    """
    with _clear_errors(repo_id, revision):
        return Path(
            huggingface_hub.snapshot_download(repo_id, revision=revision, local_files_only=True)
        )


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


def _cached_first(
    download: Callable[[bool], str], is_complete: Callable[[Path], bool], local_files_only: bool
) -> Path:
    try:
        cached = Path(download(True))
        if is_complete(cached):
            return cached
    except hub_errors.LocalEntryNotFoundError:
        pass
    return Path(download(local_files_only))


def _is_complete(folder: Path) -> bool:
    wanted = [SINGLE_FILE]
    if (folder / INDEX).is_file():
        weight_map = read_json(folder / INDEX).get("weight_map")
        wanted = list(map(str, weight_map.values())) if isinstance(weight_map, dict) else []
    return all((folder / name).is_file() for name in {CONFIG, TOKENIZER, *wanted})


@contextmanager
def _clear_errors(repo_id: str, revision: str | None, file_name: str = CONFIG) -> Iterator[None]:
    what = repo_id if revision is None else f"{repo_id} at revision {revision}"
    offline_help = (
        "download the repository where there is a network "
        f"(hf download {repo_id} --local-dir FOLDER) and pass FOLDER"
    )
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
        raise CheckpointError(f"{what}: expected {file_name}, found no such file") from error
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
