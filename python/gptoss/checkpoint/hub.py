"""Checkpoints from the Hugging Face Hub, through huggingface_hub and its cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import huggingface_hub
from huggingface_hub import errors as hub_errors
from huggingface_hub.utils.tqdm import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)

from gptoss.errors import CheckpointError

# Only the Hugging Face layout: a repository also has original/ and metal/, each as large again.
_WANTED = ["*.json", "model*.safetensors"]
_UNWANTED = ["*/*"]

_T = TypeVar("_T")


def fetch_config(repo_id: str, *, revision: str | None, local_files_only: bool) -> Path:
    """Return the cached path of a repository's config.json, downloading it if need be.

    Raises
    ------
    CheckpointError
        The Hub cannot be reached, or does not have it.
    """
    return Path(
        _call(
            repo_id,
            revision,
            lambda: huggingface_hub.hf_hub_download(
                repo_id, "config.json", revision=revision, local_files_only=local_files_only
            ),
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
    with _progress_bars(progress):
        return Path(
            _call(
                repo_id,
                revision,
                lambda: huggingface_hub.snapshot_download(
                    repo_id,
                    revision=revision,
                    local_files_only=local_files_only,
                    allow_patterns=_WANTED,
                    ignore_patterns=_UNWANTED,
                ),
            )
        )


def _call(repo_id: str, revision: str | None, download: Callable[[], _T]) -> _T:
    what = repo_id if revision is None else f"{repo_id} at revision {revision}"
    offline_help = (
        "download the repository where there is a network "
        f"(hf download {repo_id} --local-dir FOLDER) and pass FOLDER"
    )
    try:
        return download()
    except (hub_errors.LocalEntryNotFoundError, hub_errors.OfflineModeIsEnabled) as error:
        raise CheckpointError(
            f"{what}: not in the local cache, and the Hub was not reached (no network, "
            f"HF_HUB_OFFLINE or local_files_only); {offline_help}"
        ) from error
    except hub_errors.GatedRepoError as error:
        raise CheckpointError(
            f"{what}: the Hub asks for access rights; accept the terms on its page and log in "
            "with `hf auth login`"
        ) from error
    except (hub_errors.RepositoryNotFoundError, hub_errors.HFValidationError) as error:
        raise CheckpointError(
            f"{repo_id}: neither a local folder nor a repository on the Hub that can be read"
        ) from error
    except hub_errors.RevisionNotFoundError as error:
        raise CheckpointError(f"{repo_id}: the Hub has no revision {revision!r}") from error
    except hub_errors.EntryNotFoundError as error:
        raise CheckpointError(f"{what}: expected config.json, found no such file") from error
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
