"""Finding a tokenizer: a file, or what a model's name leads to."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from gptoss.tokenizer.json_file import TokenizerJson

# (path_or_repo, revision, local_files_only) to what is in the file.
Finder = Callable[["str | os.PathLike[str]", "str | None", bool], TokenizerJson]

_finders: list[Finder] = []


def register_finder(finder: Finder) -> None:
    """Enter what knows folders and Hub ids; this package knows files only."""
    _finders[:] = [finder]


def read_tokenizer(
    path_or_repo: str | os.PathLike[str],
    revision: str | None = None,
    local_files_only: bool = False,
) -> TokenizerJson:
    """Read the tokenizer that a file's or a model's name leads to; raises CheckpointError."""
    for finder in _finders:
        return finder(path_or_repo, revision, local_files_only)
    return TokenizerJson.read(Path(path_or_repo))
