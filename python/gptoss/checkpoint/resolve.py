"""From a model's name to its files: "demo", a folder, a GGUF file or a Hub id."""

from __future__ import annotations

import os
from pathlib import Path

from gptoss.checkpoint.gguf_file import is_gguf
from gptoss.checkpoint.layout import CONFIG
from gptoss.checkpoint.open import (
    Located,
    local_model,
    locate,
    parse_config,
    read_gguf_tokenizer,
)
from gptoss.errors import CheckpointError
from gptoss.tokenizer.find import register_finder
from gptoss.tokenizer.json_file import TOKENIZER, TokenizerJson


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
    path = local_model(path_or_repo)
    if path is not None:
        return locate(path)
    from gptoss.checkpoint import hub  # here, because importing it takes a while

    repo_id = os.fspath(path_or_repo)
    config = hub.fetch_file(repo_id, CONFIG, revision=revision, local_files_only=local_files_only)
    return Located(config.parent, *parse_config(config), repo_id)


def find_tokenizer(
    path_or_repo: str | os.PathLike[str],
    revision: str | None = None,
    local_files_only: bool = False,
) -> TokenizerJson:
    """Read a model's tokenizer; of a Hub id nothing else is downloaded.

    Parameters
    ----------
    path_or_repo : str or path
        As for `open_checkpoint`; also a tokenizer.json, whose name ends in ".json".
    revision, local_files_only
        As for `open_checkpoint`.

    Raises
    ------
    CheckpointError
        There is no such model, or it has no tokenizer, or a damaged one.
    """
    path = Path(path_or_repo)
    if path.suffix == ".json":
        return TokenizerJson.read(path)
    model = local_model(path_or_repo)
    if model is None:
        from gptoss.checkpoint import hub

        return TokenizerJson.read(
            hub.fetch_file(
                os.fspath(path_or_repo),
                TOKENIZER,
                revision=revision,
                local_files_only=local_files_only,
            )
        )
    # The original layout's folder lies inside of the one that has the tokenizer.
    folders = [model]
    if model.absolute().name == "original":
        folders.append(model.absolute().parent)
    for folder in folders:
        if (folder / TOKENIZER).is_file():
            return TokenizerJson.read(folder / TOKENIZER)
    if is_gguf(model) or next(model.glob("*.gguf"), None) is not None:
        gguf = locate(model).gguf
        found = None if gguf is None else read_gguf_tokenizer(gguf)
        if found is not None:
            return found
    raise CheckpointError(f"{model}: expected {TOKENIZER}, found no such file")


register_finder(find_tokenizer)
