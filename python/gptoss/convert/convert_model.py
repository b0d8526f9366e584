"""From a model in any form to the published layout, or to GGUF."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from gptoss._files import read_json
from gptoss.checkpoint.layout import CONFIG, GENERATION_CONFIG, INDEX
from gptoss.checkpoint.open import Located, companion, fetch_model, open_checkpoint
from gptoss.convert.gguf_writer import GgufDense, gguf_file
from gptoss.convert.resumable import finish, partial, partial_folder, write_files
from gptoss.convert.safetensors_writer import (
    SHARD_BYTES,
    ExpertsDtype,
    hf_fields,
    safetensors_files,
    with_experts,
)
from gptoss.convert.source import Source
from gptoss.tokenizer.json_file import TOKENIZER

Target = Literal["safetensors", "gguf"]
Rounding = Literal["least_squares", "plain"]

# What belongs to a model beside its weights, and is copied as it is.
_COMPANIONS = (
    GENERATION_CONFIG,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)


@dataclass(frozen=True)
class Converted:
    """What `convert` wrote.

    Attributes
    ----------
    path : Path
        The folder, or the GGUF file.
    nbytes : int
        Of the weights' files.
    """

    path: Path
    nbytes: int


def convert(
    path_or_repo: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    to: Target = "safetensors",
    dtype: ExpertsDtype = "mxfp4",
    dense: GgufDense = "bf16",
    rounding: Rounding = "least_squares",
    adapter: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
    shard_bytes: int = SHARD_BYTES,
    progress: bool = True,
) -> Converted:
    """Write a model in another form.

    Parameters
    ----------
    path_or_repo : str or path
        As for `load`: either published layout or GGUF; bfloat16, float16 or float32, experts in
        MXFP4 or as transformers saves them ([E, in, out]).
    out : str or path
        The folder to make, or the GGUF file. It is there when it is whole; until then there is
        a folder of its name and ".partial", from which the same call goes on.
    to : {"safetensors", "gguf"}
        The published Hugging Face layout, or one file for llama.cpp.
    dtype : {"mxfp4", "bf16"}
        What the experts become; with "gguf" "mxfp4" only. All else becomes bfloat16, rounded to the
        nearest where it is wider.
    dense : {"bf16", "q8_0"}
        With "gguf": type of the embedding, the attention's matrices and the unembedding.
    rounding : {"least_squares", "plain"}
        How experts that are not MXFP4 get their scales: those with the least square error in each
        block of 32, or 2^(floor(log2(largest)) - 2) as the OCP specification recommends. Either
        returns what came from MXFP4.
    adapter : str or path, optional
        A LoRA folder of PEFT that is merged into the weights, as for `LLM.load_adapter`. Not with a
        GGUF file as the model.
    revision, local_files_only
        As for `load`.
    shard_bytes : int
        Most bytes of tensors in a file of "safetensors"; a tensor above it gets a file of its own.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Converted

    Raises
    ------
    CheckpointError
        There is no such model or adapter, or it is damaged; a number is NaN or infinite.
    OSError
        `out` exists, or cannot be written. What is written is kept.
    ValueError
        An option is not one of those above, or does not go with another; what is there was begun
        with others; or llama.cpp cannot run such a model.
    """
    for name, value, known in (
        ("to", to, Target),
        ("dtype", dtype, ExpertsDtype),
        ("dense", dense, GgufDense),
        ("rounding", rounding, Rounding),
    ):
        if value not in get_args(known):
            raise ValueError(f"{name} must be one of {get_args(known)}, got {value!r}")
    if to == "gguf" and dtype != "mxfp4":
        raise ValueError(f"dtype={dtype!r} does not go with to='gguf', whose experts are MXFP4")
    if to == "safetensors" and dense != "bf16":
        raise ValueError(f"dense={dense!r} goes with to='gguf' only")
    path = Path(out).expanduser()
    if path.exists() and not (path.is_dir() and not any(path.iterdir()) and to != "gguf"):
        raise FileExistsError(f"{path}: expected no such file or folder, found one")
    located = fetch_model(
        path_or_repo, revision=revision, local_files_only=local_files_only, progress=progress
    )
    source = Source.of(located, least_squares=rounding == "least_squares", adapter=adapter)
    if to == "gguf":
        files, index = [gguf_file(source, path.name, dense)], None
    else:
        files, index = safetensors_files(source, dtype, shard_bytes)
    fingerprint = _fingerprint(source, f"{to} {dtype} {dense} {rounding} {shard_bytes}")
    total = sum(file.nbytes for file in files)
    with partial(path, fingerprint) as folder:
        _check_room(folder, total)
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

        columns = (BarColumn(), DownloadColumn(), TimeRemainingColumn())
        console = Console(stderr=True)
        shown = progress and console.is_terminal
        with Progress(*columns, console=console, disable=not shown, transient=True) as bars:
            task = bars.add_task("", total=total)
            write_files(folder, files, lambda nbytes: bars.advance(task, nbytes))
        if to == "gguf":
            finish(folder, path, files[0].name)
        else:
            _write_companions(folder, located, source, dtype)
            if index is not None:
                _write_json(folder / INDEX, index)
            if dtype == "mxfp4":
                open_checkpoint(folder, progress=False)  # as it will be read
            finish(folder, path)
    return Converted(path, total)


def _fingerprint(source: Source, options: str) -> str:
    """Tell whether what is there came from the same model, by its files, and the same options."""
    digest = hashlib.sha256(f"{source.config} {options}".encode())
    if source.adapter is not None:
        digest.update(source.adapter.digest)
    for path in source.files():
        status = path.stat()
        digest.update(f"{path.absolute()} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _check_room(folder: Path, total: int) -> None:
    there = sum(path.stat().st_size for path in folder.iterdir())
    free = shutil.disk_usage(folder).free
    if total - there > free:
        raise OSError(
            f"{partial_folder(folder)}: {(total - there) / 1e9:.3g} GB are to be written, and "
            f"{free / 1e9:.3g} GB are free"
        )


def _write_companions(
    folder: Path, located: Located, source: Source, experts: ExpertsDtype
) -> None:
    if located.layout == "hf":
        fields = with_experts(read_json(located.path / CONFIG), experts)
    else:
        fields = hf_fields(source.config, experts)
    _write_json(folder / CONFIG, fields)
    if source.tokenizer_json is not None:
        (folder / TOKENIZER).write_text(source.tokenizer_json.text, encoding="utf-8")
    for name in _COMPANIONS:
        path = None if located.layout == "gguf" else companion(located, name)
        if path is not None:
            shutil.copyfile(path, folder / name)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
