"""From a model's name to its files: "demo", a folder, or a Hub id, wherever a model is named."""

from __future__ import annotations

import os
from pathlib import Path

from gptoss.checkpoint.layout import CONFIG
from gptoss.checkpoint.open import Located, local_folder, locate, parse_config
from gptoss.errors import CheckpointError
from gptoss.tokenizer.find import register_finder
from gptoss.tokenizer.json_file import TOKENIZER


def find_model(
    path_or_repo: str | os.PathLike[str],
    *,
    revision: str | None = None,
    local_files_only: bool = False,
) -> Located:
    """Find a model and read its config; of a Hub id nothing else is downloaded.

    Parameters
    ----------
    path_or_repo, revision, local_files_only
        As for `open_checkpoint`.

    Raises
    ------
    CheckpointError
        There is no such model, or its config is not one that gptoss runs.
    """
    folder = local_folder(path_or_repo)
    if folder is not None:
        return locate(folder)
    from gptoss.checkpoint import hub  # here, because importing it takes a while

    repo_id = os.fspath(path_or_repo)
    path = hub.fetch_file(repo_id, CONFIG, revision=revision, local_files_only=local_files_only)
    return Located(path.parent, *parse_config(path), repo_id)


def find_tokenizer(
    path_or_repo: str | os.PathLike[str],
    revision: str | None = None,
    local_files_only: bool = False,
) -> Path:
    """Find a model's tokenizer.json; of a Hub id nothing else is downloaded.

    Parameters
    ----------
    path_or_repo : str or path
        As for `open_checkpoint`; also the file itself, whose name ends in ".json".
    revision, local_files_only
        As for `open_checkpoint`.

    Raises
    ------
    CheckpointError
        There is no such model, or it has no tokenizer.json.
    """
    path = Path(path_or_repo)
    if path.suffix == ".json":
        return path
    folder = local_folder(path_or_repo)
    if folder is None:
        from gptoss.checkpoint import hub

        return hub.fetch_file(
            os.fspath(path_or_repo),
            TOKENIZER,
            revision=revision,
            local_files_only=local_files_only,
        )
    # The original layout's folder lies inside of the one that has the tokenizer.
    for parent in (folder, folder.absolute().parent):
        if (parent / TOKENIZER).is_file():
            return parent / TOKENIZER
        if folder.absolute().name != "original":
            break
    raise CheckpointError(f"{folder}: expected {TOKENIZER}, found no such file")


register_finder(find_tokenizer)
