"""What is not a checkpoint of gpt-oss in safetensors: its name, and the way out."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gptoss._files import HEAD_BYTES, open_regular, read_json, what_it_is
from gptoss.checkpoint.layout import CONFIG
from gptoss.errors import CheckpointError
from gptoss.tokenizer.json_file import TOKENIZER

_ADAPTER_CONFIG = "adapter_config.json"
_OURS = "gptoss runs gpt-oss models only (openai/gpt-oss-20b, openai/gpt-oss-120b, fine-tunes)"

# Names of files that a download leaves behind until it is finished.
_UNFINISHED = (
    *("*.incomplete", "*.part", "*.partial", "*.crdownload", "*.download", "*.aria2", "*.tmp"),
    ".cache/huggingface/download/*.incomplete",
)
_ADAPTERS = (_ADAPTER_CONFIG, "adapter_model.*", "adapters.safetensors")
_PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt")
_OTHER_FORMATS = {
    "*.onnx": "an ONNX model",
    "tf_model.h5": "a TensorFlow model",
    "flax_model.msgpack": "a Flax model",
    "*.engine": "a TensorRT engine",
    "model_index.json": "a pipeline of diffusers",
    "model.bin": "a model for another program (as in gpt-oss's metal folder)",
    "metal/model.bin": "gpt-oss for Metal (the metal folder of its repository)",
}


def what_file(path: Path) -> str:
    """Name a file that was passed in place of a checkpoint's folder, and the way out."""
    with contextlib.suppress(CheckpointError, OSError):
        with open_regular(path, limit=None) as file:
            name = what_it_is(file.read(HEAD_BYTES))
        if name is not None:
            return name
    return "a file; pass the folder that holds it"


def what_folder(folder: Path) -> str | None:
    """Name what a folder without the expected files holds, and the way out.

    Returns
    -------
    str or None
        To follow "found"; None where nothing is known.
    """
    entries = list(folder.iterdir())
    if not entries:
        return "an empty folder"
    if _first(folder, *_ADAPTERS):
        return _adapter(folder)
    unfinished = _first(folder, *_UNFINISHED)
    if unfinished:
        return (
            f"an unfinished download ({unfinished}): download again, which goes on where it "
            "stopped with `hf download`"
        )
    gguf = _first(folder, "*.gguf")
    if gguf:
        return f"{gguf} and other files: pass the GGUF file itself"
    if folder.name.startswith("models--") or (folder / "snapshots").is_dir():
        inner = sorted((folder / "snapshots").glob("*"))
        way = f"or {inner[-1]}" if inner else "which downloads it anew"
        return f"a folder of the Hub's cache: pass the Hub id (owner/name), {way}"
    if any(entry.name.startswith("models--") for entry in entries):
        return "the Hub's cache: pass the Hub id (owner/name)"
    weights = _first(folder, "*.safetensors")
    pickle = _first(folder, *_PICKLES)
    if pickle and not weights:  # else it may be an optimizer's state
        return (
            f"{pickle}: PyTorch's pickles are not read; save the model as safetensors "
            "(model.save_pretrained(FOLDER) of transformers)"
        )
    for pattern, name in _OTHER_FORMATS.items():
        if _first(folder, pattern):
            return f"{name}, which is not read; use the safetensors checkpoint"
    if (folder / CONFIG).is_file():
        return None
    inner = sorted(path.parent for path in folder.glob(f"*/{CONFIG}"))
    if inner:
        return f"{CONFIG} in folders inside it: pass one of them, say {inner[-1]}"
    if weights:
        return f"{weights} without {CONFIG}: put the model's {CONFIG} beside it"
    return "a tokenizer without weights" if (folder / TOKENIZER).is_file() else None


def what_config(values: Mapping[str, Any]) -> str | None:
    """Name the model that a config.json without gpt-oss in it belongs to, and the way out."""
    architectures, kind = values.get("architectures"), values.get("model_type")
    names = [str(a) for a in architectures] if isinstance(architectures, list) else []
    if any(name.startswith("GptOss") for name in names) or (not names and kind == "gpt_oss"):
        if names and "GptOssForCausalLM" not in names:
            return f"{names[0]} has no output for text: use the model that it was made from"
        return _quantization(values)
    if "peft_type" in values:
        return "this is the config of a LoRA adapter: merge it into its base model first"
    if "_class_name" in values or "_diffusers_version" in values:
        return f"this is a model of diffusers; {_OURS}"
    if names or isinstance(kind, str):
        family = kind if isinstance(kind, str) else names[0]
        return f"this is a model of another family ({family}); {_OURS}"
    return None


def _quantization(values: Mapping[str, Any]) -> str | None:
    section = values.get("quantization_config")
    method = section.get("quant_method") if isinstance(section, Mapping) else None
    if method is not None and method != "mxfp4":
        return (
            f"these weights are quantised by {method}, which is not read: use MXFP4, as published, "
            'or bfloat16 with experts="mxfp4"'
        )
    if isinstance(values.get("quantization"), Mapping):
        return (
            "these weights are quantised by MLX, which is not read: use MXFP4, as published, or "
            'bfloat16 with experts="mxfp4"'
        )
    return None


def _adapter(folder: Path) -> str:
    base: object = None
    with contextlib.suppress(CheckpointError):
        base = read_json(folder / _ADAPTER_CONFIG).get("base_model_name_or_path")
    of = f" of {base}" if isinstance(base, str) and base else ""
    return (
        f"a LoRA adapter{of}, not a whole model: merge it into its base model first "
        "(PeftModel.from_pretrained(base, FOLDER).merge_and_unload().save_pretrained(OUT) of peft) "
        "and pass OUT"
    )


def _first(folder: Path, *patterns: str) -> str | None:
    return next((path.name for pattern in patterns for path in sorted(folder.glob(pattern))), None)
