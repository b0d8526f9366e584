"""Opening a checkpoint: find it, read its config and headers, check that they agree."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from gptoss._files import clear_system_errors, read_json
from gptoss.checkpoint.checkpoint import Checkpoint
from gptoss.checkpoint.config_json import config_from_hf, config_from_original, read_token_ids
from gptoss.checkpoint.convert import FLOAT_DTYPES, Dtype, convert_tensors
from gptoss.checkpoint.foreign import what_config, what_file, what_folder
from gptoss.checkpoint.gguf_file import GgufFile, is_gguf, read_gguf, split_stem
from gptoss.checkpoint.gguf_model import gguf_config, gguf_tokenizer, load_gguf, match_gguf
from gptoss.checkpoint.layout import (
    CONFIG,
    GENERATION_CONFIG,
    INDEX,
    SINGLE_FILE,
    Layout,
    stored_tensors,
)
from gptoss.checkpoint.quantize import quantize_experts, refuse_wide_experts
from gptoss.checkpoint.safetensors import TensorSource, read_header
from gptoss.config import ModelConfig
from gptoss.errors import CheckpointError
from gptoss.options import Experts
from gptoss.tokenizer.json_file import TOKENIZER, TokenizerJson

_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

# The name of the model that comes with the package; a folder that has it too is "./demo".
_DEMO = "demo"

# The tokens that end a turn, with their ids in the published vocabulary. Early generation
# configs leave out the last.
_STOP_TOKENS = {"<|return|>": 200002, "<|endoftext|>": 199999, "<|call|>": 200012}
_PUBLISHED_VOCAB_SIZE = 201_088


@dataclass(frozen=True)
class Located:
    """A checkpoint's folder or GGUF file, its layout and its parsed config."""

    path: Path
    layout: Layout
    config: ModelConfig
    name: str
    gguf: GgufFile | None = None


def open_checkpoint(
    path_or_repo: str | os.PathLike[str],
    *,
    revision: str | None = None,
    local_files_only: bool = False,
    experts: Experts = "as_stored",
    dtype: Dtype = "as_stored",
    progress: bool = True,
) -> Checkpoint:
    """Find a checkpoint and validate it, without reading the weights that are used as they lie.

    Parameters
    ----------
    path_or_repo : str or path
        A folder in the Hugging Face or the original layout, a folder that holds `original/`, a
        GGUF file or a folder with one, a Hub id such as "openai/gpt-oss-20b", or "demo". What
        exists wins over a Hub id, and a complete copy in the Hub's local cache is used without
        asking the Hub.
    revision : str, optional
        Branch, tag or commit on the Hub.
    local_files_only : bool
        Use the Hub's local cache only, as HF_HUB_OFFLINE=1 does.
    experts : {"as_stored", "mxfp4"}
        "mxfp4" quantises experts that are stored in bfloat16 (or wider), which takes minutes for
        a large model; it changes nothing for experts that are MXFP4 already. "as_stored" refuses
        bfloat16 experts.
    dtype : {"as_stored", "convert"}
        What is done with tensors in float16 or float32, as some fine-tunes have them: they become
        bfloat16 in memory. "convert" rounds; "as_stored" takes only what needs no rounding.
    progress : bool
        Show progress bars for a download, for quantising and for converting, and say in one line
        what was made of a GGUF file.

    Returns
    -------
    Checkpoint
        Config, tensors under canonical names, tokenizer path.

    Raises
    ------
    CheckpointError
        There is no such checkpoint, or it is damaged, incomplete or of another model. The
        message names the file, the tensor or field, what was expected and what was found.
    MemoryError
        What is to be made of a GGUF file does not fit.
    ValueError
        `experts` or `dtype` is not one of the two.

    Notes
    -----
    Scale bytes are weights: `check_scales` looks at them.
    """
    if experts not in get_args(Experts):
        raise ValueError(f"experts must be one of {get_args(Experts)}, got {experts!r}")
    if dtype not in get_args(Dtype):
        raise ValueError(f"dtype must be one of {get_args(Dtype)}, got {dtype!r}")
    located = fetch_model(
        path_or_repo, revision=revision, local_files_only=local_files_only, progress=progress
    )
    return _open_located(located, experts, dtype, progress)


def fetch_model(
    path_or_repo: str | os.PathLike[str],
    *,
    revision: str | None = None,
    local_files_only: bool = False,
    progress: bool = True,
) -> Located:
    """Find a model's files, of a Hub id after downloading them; raises as `open_checkpoint`."""
    local = local_model(path_or_repo)
    if local is not None:
        return locate(local)
    from gptoss.checkpoint import hub  # here, because importing it takes a while

    repo_id = os.fspath(path_or_repo)
    # The config first: a wrong model is refused before its gigabytes come.
    config_path = hub.fetch_file(
        repo_id, CONFIG, revision=revision, local_files_only=local_files_only
    )
    parse_config(config_path)
    local = hub.fetch_checkpoint(
        repo_id, revision=revision, local_files_only=local_files_only, progress=progress
    )
    return dataclasses.replace(locate(local), name=repo_id)


def local_model(path_or_repo: str | os.PathLike[str]) -> Path | None:
    """Return the existing folder or GGUF file that is meant, or None if it must be a Hub id.

    Raises
    ------
    CheckpointError
        It can be neither.
    TypeError
        It is neither a string nor a path.
    """
    if not isinstance(path_or_repo, (str, os.PathLike)):
        raise TypeError(f"a checkpoint must be given as a path or a Hub id, got {path_or_repo!r}")
    if path_or_repo == _DEMO:
        return Path(__file__).parents[1] / _DEMO
    text = os.fspath(path_or_repo)
    if not isinstance(text, str):
        raise TypeError(f"a checkpoint must be given as a path of str, got {text!r}")
    if not text:
        raise CheckpointError(
            "expected a folder, a GGUF file or a Hub id (owner/name), found an empty string"
        )
    try:
        path = Path(text).expanduser()
        if path.is_dir():
            return path
        exists = path.exists()
        if exists and is_gguf(path):
            return path
    except (OSError, ValueError, RuntimeError) as error:  # a name too long, NUL, unknown ~user
        raise CheckpointError(f"{text!r}: expected a folder, found: {error}") from error
    if exists:
        raise CheckpointError(
            f"{path}: expected a checkpoint's folder or a GGUF file, found {what_file(path)}"
        )
    if isinstance(path_or_repo, str) and _REPO_ID.fullmatch(text):
        return None
    raise CheckpointError(
        f"{text}: expected a folder, a GGUF file or a Hub id (owner/name), found neither: there is "
        f"no {path.absolute()}"
    )


@clear_system_errors()
def locate(folder: Path) -> Located:
    """Find the weights' folder inside `folder`, or the GGUF file, and read its config."""
    if not folder.is_dir():
        return _locate_gguf(folder)
    inner = folder / "original"
    has_config = (folder / CONFIG).is_file()
    has_weights = next(folder.glob("*.safetensors"), None) is not None
    if not (has_config and has_weights) and (inner / CONFIG).is_file():
        path = inner
    elif has_config:
        path = folder
    elif not has_config and not has_weights and len(models := _gguf_models(folder)) == 1:
        return _locate_gguf(models[0])
    else:
        raise CheckpointError(
            f"{folder}: expected config.json or original/config.json, found neither{_but(folder)}"
        )
    layout, config = parse_config(path / CONFIG)
    absolute = _absolute(path)
    name = absolute.parent.name if absolute.name == "original" else absolute.name
    return Located(path, layout, config, name)


def _locate_gguf(path: Path) -> Located:
    file = read_gguf(path)
    return Located(file.path, "gguf", gguf_config(file), file.name, file)


def _gguf_models(folder: Path) -> list[Path]:
    """The GGUF files in a folder, one of each split model."""
    models = {split_stem(path): path for path in sorted(folder.glob("*.gguf"), reverse=True)}
    return sorted(models.values())


def _absolute(path: Path) -> Path:
    # Not Path.resolve: the name that a user gave to a link is the model's, and a link's parent
    # may hold the tokenizer.
    return Path(os.path.abspath(path))  # noqa: PTH100


def parse_config(path: Path) -> tuple[Layout, ModelConfig]:
    """Read a config.json of either layout."""
    values = read_json(path)
    advice = what_config(values)
    try:
        if "architectures" in values or "model_type" in values:
            config = config_from_hf(values, str(path))
        elif "num_experts" in values:
            return "original", config_from_original(values, str(path))
        else:
            raise CheckpointError(
                f"{path}: expected the config of a gpt-oss model (with architectures, or with "
                f"num_experts), found the fields {sorted(values)[:10]}"
            )
    except CheckpointError as error:
        if advice is None:
            raise
        raise CheckpointError(f"{error}; {advice}") from error
    if advice is not None:
        raise CheckpointError(f"{path}: expected a gpt-oss model as published, found: {advice}")
    return "hf", config


def _but(folder: Path) -> str:
    """What else is in a folder that lacks something, to append to a message."""
    found = what_folder(folder)
    return "" if found is None else f", but {found}"


@clear_system_errors()
def find_tensors(located: Located) -> dict[str, TensorSource]:
    """Read the headers of a checkpoint's files: all tensors, under the names they have there.

    Where the config ties them, the unembedding is the embedding, as in transformers.
    """
    found = _read_headers(located)
    embedding = found.get("model.embed_tokens.weight")
    tied = located.layout == "hf" and read_json(located.path / CONFIG).get("tie_word_embeddings")
    if tied and embedding is not None:
        found["lm_head.weight"] = embedding
    return found


def _read_headers(located: Located) -> dict[str, TensorSource]:
    index_path = located.path / INDEX
    single = located.path / SINGLE_FILE
    # As transformers does: the one file wins. The original layout has no index.
    if located.layout == "hf" and not single.is_file() and index_path.is_file():
        return _indexed_tensors(index_path)
    files = [single] if located.layout == "hf" else sorted(located.path.glob("*.safetensors"))
    if not files or not files[0].is_file():
        wanted = f"{SINGLE_FILE} or {INDEX}" if located.layout == "hf" else "*.safetensors"
        raise CheckpointError(
            f"{located.path}: expected {wanted}, found no such file{_but(located.path)}"
        )
    return _merged((path, read_header(path)) for path in files)


def _merged(headers: Iterable[tuple[Path, dict[str, TensorSource]]]) -> dict[str, TensorSource]:
    found: dict[str, TensorSource] = {}
    for path, header in headers:
        for name, tensor in header.items():
            if name in found:
                raise CheckpointError(
                    f"{path}: tensor {name}: expected in one file, found in "
                    f"{found[name].path.name} too"
                )
            found[name] = tensor
    return found


def _indexed_tensors(index_path: Path) -> dict[str, TensorSource]:
    weight_map = read_json(index_path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(
            f"{index_path}: field weight_map: expected an object from tensors to files, found "
            f"{type(weight_map).__name__}"
        )
    headers: dict[str, dict[str, TensorSource]] = {}
    for name, file_name in weight_map.items():
        # A plain name only: an index must not make us read files elsewhere.
        if not isinstance(file_name, str) or not re.fullmatch(r"[\w-][\w. -]*", file_name):
            raise CheckpointError(
                f"{index_path}: tensor {name}: expected a file name, found {file_name!r}"
            )
        if file_name not in headers:
            shard = index_path.parent / file_name
            if not shard.exists():
                raise CheckpointError(
                    f"{index_path}: tensor {name}: expected the shard {file_name}, found no such "
                    f"file; the download is incomplete{_but(index_path.parent)}"
                )
            headers[file_name] = read_header(shard)
        if name not in headers[file_name]:
            raise CheckpointError(
                f"{index_path.parent / file_name}: tensor {name}: expected here by "
                f"{index_path.name}, found no such tensor"
            )
    found = _merged((index_path.parent / name, header) for name, header in headers.items())
    for name, tensor in found.items():
        if name not in weight_map:
            raise CheckpointError(
                f"{tensor.path}: tensor {name}: expected an entry in {index_path.name}, found none"
            )
    return found


def has_bf16_experts(found: dict[str, TensorSource]) -> bool:
    """Whether the experts are stored dequantised."""
    return any(re.search(r"\.mlp\.experts\.(gate_up|down)_proj$", name) for name in found)


def match_tensors(
    located: Located, found: dict[str, TensorSource], *, bf16_experts: bool
) -> dict[str, TensorSource]:
    """Check the tensors in the files against the config, and give them their canonical names.

    Raises
    ------
    CheckpointError
        A tensor is missing or not expected, or has another shape than the config says, or a dtype
        that cannot become the one it should have.
    """
    stored = list(stored_tensors(located.config, located.layout, bf16_experts=bf16_experts))
    missing = [wanted.name for wanted in stored if wanted.name not in found]
    if missing:
        raise CheckpointError(
            f"{located.path}: tensor {missing[0]}: expected by {CONFIG}, found in no file"
            f"{_and_more(missing)}"
        )
    unexpected = sorted(found.keys() - {wanted.name for wanted in stored})
    if unexpected:
        raise CheckpointError(
            f"{found[unexpected[0]].path}: tensor {unexpected[0]}: expected no tensor of this "
            f"name, found one{_and_more(unexpected)}"
        )
    tensors: dict[str, TensorSource] = {}
    for wanted in stored:
        source = found[wanted.name]
        convertible = wanted.dtype == "BF16" and source.dtype in FLOAT_DTYPES
        if source.dtype != wanted.dtype and not convertible:
            advice = "; save the model in bfloat16" if wanted.dtype == "BF16" else ""
            raise CheckpointError(
                f"{source.path}: tensor {wanted.name}: expected dtype {wanted.dtype}, found "
                f"{source.dtype}{advice}"
            )
        if source.shape != wanted.shape:
            raise CheckpointError(
                f"{source.path}: tensor {wanted.name}: expected shape {wanted.shape}, found "
                f"{source.shape}"
            )
        if source.dtype == "BF16" and source.offset % 2:
            raise CheckpointError(
                f"{source.path}: tensor {wanted.name}: expected an even offset for BF16, found "
                f"{source.offset}; write the file anew with the safetensors library"
            )
        offset = source.offset
        for part in wanted.parts:
            nbytes = source.nbytes // wanted.shape[0] * part.shape[0]
            tensors[part.name] = TensorSource(source.path, offset, nbytes, source.dtype, part.shape)
            offset += nbytes
    return tensors


def _and_more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more like it)" if len(names) > 1 else ""


@clear_system_errors()
def _open_located(located: Located, experts: Experts, dtype: Dtype, progress: bool) -> Checkpoint:
    if located.gguf is not None:
        return _open_gguf(located, located.gguf, experts, dtype, progress)
    found = find_tensors(located)
    bf16_experts = has_bf16_experts(found)
    tensors = match_tensors(located, found, bf16_experts=bf16_experts)
    tokenizer_path = companion(located, TOKENIZER)
    tokenizer_json = read_tokenizer_json(located)
    stop_ids = stop_token_ids(located, tokenizer_json)
    # Each reads gigabytes: whatever can be refused without that has been.
    if bf16_experts and experts == "as_stored":
        refuse_wide_experts(tensors)
    tensors = convert_tensors(tensors, dtype, progress)
    if bf16_experts:
        tensors = quantize_experts(located.config, tensors, progress)
    return Checkpoint(
        path=located.path,
        layout=located.layout,
        config=dataclasses.replace(located.config, eos_token_ids=stop_ids),
        tensors=tensors,
        tokenizer_path=tokenizer_path,
        tokenizer_json=tokenizer_json,
        name=located.name,
    )


def _open_gguf(
    located: Located, file: GgufFile, experts: Experts, dtype: Dtype, progress: bool
) -> Checkpoint:
    parts = match_gguf(file, located.config)
    tokenizer_json = read_tokenizer_json(located)
    stop_ids = stop_token_ids(located, tokenizer_json)
    return Checkpoint(
        path=located.path,
        layout="gguf",
        config=dataclasses.replace(located.config, eos_token_ids=stop_ids),
        tensors=load_gguf(file, parts, experts, dtype, progress),
        tokenizer_path=None if tokenizer_json is None else located.path,
        tokenizer_json=tokenizer_json,
        name=located.name,
    )


def read_gguf_tokenizer(file: GgufFile) -> TokenizerJson | None:
    """Read the tokenizer of a GGUF file, or else the tokenizer.json beside it, if there is one."""
    found = gguf_tokenizer(file)
    beside = file.path.parent / TOKENIZER
    if found is None and beside.is_file():
        return TokenizerJson.read(beside)
    return found


def read_tokenizer_json(located: Located) -> TokenizerJson | None:
    """Read the tokenizer that belongs to a model, if there is one; raises CheckpointError."""
    if located.gguf is not None:
        return read_gguf_tokenizer(located.gguf)
    path = companion(located, TOKENIZER)
    return None if path is None else TokenizerJson.read(path)


def companion(located: Located, file_name: str) -> Path | None:
    """Find a file beside the weights; for the original layout also in the folder above."""
    folders = [located.path]
    absolute = _absolute(located.path)
    if located.layout == "original" and absolute.name == "original":
        folders.append(absolute.parent)
    return next((f / file_name for f in folders if (f / file_name).is_file()), None)


def stop_token_ids(located: Located, tokenizer_json: TokenizerJson | None) -> tuple[int, ...]:
    """Stop at what the generation config lists, else the config, and at every end of a turn."""
    config = located.config
    ids = config.eos_token_ids
    source = str(located.path if located.layout == "gguf" else located.path / CONFIG)
    generation_path = companion(located, GENERATION_CONFIG)
    if generation_path is not None:
        generation = read_json(generation_path)
        listed = read_token_ids(generation, "eos_token_id", source=str(generation_path))
        if listed:
            ids, source = listed, str(generation_path)
    if tokenizer_json is not None:
        added = {token.content: token.id for token in tokenizer_json.added}
        origin_of_named = tokenizer_json.source
    else:
        added = _STOP_TOKENS if config.vocab_size == _PUBLISHED_VOCAB_SIZE else {}
        origin_of_named = ""  # ids within that vocabulary
    named = [(added[name], origin_of_named) for name in _STOP_TOKENS if name in added]
    for token_id, origin in [*((token_id, source) for token_id in ids), *named]:
        if token_id >= config.vocab_size:
            raise CheckpointError(
                f"{origin}: stop token: expected an id below the vocabulary's "
                f"{config.vocab_size}, found {token_id}"
            )
    return tuple(dict.fromkeys([*ids, *(token_id for token_id, _ in named)]))
