"""LoRA adapters as PEFT saves them: a folder, read strictly, to what the engine adds.

PEFT keeps of a change its two factors A (r, in) and B (out, r), and it is scale * B @ A. Of
experts, which are one parameter (E, in, out), A is (E * r, in) and B (out, r * E), so that expert e
has rows [e * r, (e + 1) * r) of A, and every E-th column of B from e on.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gptoss._files import read_json
from gptoss.checkpoint.safetensors import NUMPY_DTYPES, TensorSource, read_header
from gptoss.config import ModelConfig
from gptoss.errors import CheckpointError

_CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"

_FloatArray = npt.NDArray[np.float32]

# Fields of a config that say nothing about what is computed from the saved factors.
_IGNORED = {
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "ensure_weight_tying",  # of models whose unembedding is the embedding
    "eva_config",
    "inference_mode",
    "init_lora_weights",
    "layers_pattern",
    "loftq_config",
    "lora_dropout",  # of training
    "lora_ga_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",  # of use_qalora, which is refused
    "revision",
}
_UNDERSTOOD = {
    "alpha_pattern",
    "exclude_modules",
    "layers_to_transform",
    "lora_alpha",
    "peft_type",
    "r",
    "rank_pattern",
    "target_modules",
    "target_parameters",
    "task_type",
    "use_rslora",
}
# What is refused by a sentence of its own; other fields by their name.
_REFUSED = {
    "alora_invocation_tokens": "an activated LoRA, which applies from a token on",
    "bias": "biases that were trained",
    "fan_in_fan_out": "weights that are transposed, which gpt-oss does not have",
    "layer_replication": "layers that are repeated",
    "lora_bias": "a bias in the change",
    "modules_to_save": "modules that were trained whole: merge them into the checkpoint",
    "trainable_token_indices": "embeddings of tokens that were trained: merge them",
    "use_dora": "DoRA, which is no change of low rank",
    "use_qalora": "QALoRA",
}
# Ways to begin that change the base model's weights, so that the factors go with others.
_CHANGES_BASE = ("corda", "loftq", "lora_ga", "olora", "pissa")

# Patterns of ranks are regular expressions: these bound what one can cost.
_MAX_PATTERN_CHARS = 200
_MAX_QUANTIFIERS = 4

_PIECE_ITEMS = 1 << 22

_PREFIX = "base_model.model."
_FACTOR = re.compile(r"(.+)\.(lora_[AB]\.weight|lora_embedding_[AB])")
_IN_LAYER = re.compile(r"model\.layers\.(\d{1,6})\.(.+)")
_ATTENTION = {f"self_attn.{letter}_proj": letter for letter in "qkvo"}
_EXPERTS = "mlp.experts"
_PUBLISHED_LAYERS = {"20b": 24, "120b": 36}


class Change(NamedTuple):
    """What is added to a matrix: x @ first^T @ second.

    Attributes
    ----------
    first : numpy.ndarray
        (r, K) float32; of experts (E, r, K); of the embedding (V, r): a row for each token.
    second : numpy.ndarray
        (r, N) float32; of experts (E, r, N). The scale is in it.
    """

    first: _FloatArray
    second: _FloatArray


@dataclass(frozen=True)
class Adapter:
    """An adapter that has been read.

    Attributes
    ----------
    changes : dict of str to Change
        By role (csrc/model/adapter.h), for example "layers.3.attention.q".
    digest : bytes
        Of everything that its results depend on.
    """

    changes: dict[str, Change]
    digest: bytes


@dataclass(frozen=True)
class AdapterReader:
    """Reads adapters of one model.

    Parameters
    ----------
    config : ModelConfig
        The model's dimensions.
    tensors : mapping of str to TensorSource
        Its tensors, as `Checkpoint.tensors` has them.
    """

    config: ModelConfig
    tensors: Mapping[str, TensorSource]

    def read(self, path: str | os.PathLike[str]) -> Adapter:
        """Read a folder that PEFT's `save_pretrained` made.

        Parameters
        ----------
        path : str or path
            The folder, with adapter_config.json and adapter_model.safetensors.

        Returns
        -------
        Adapter

        Raises
        ------
        CheckpointError
            There is no such folder; a file is damaged, of another base model, or of a kind of
            adapter that is not LoRA on attention, router, experts, embedding or unembedding.
        TypeError
            `path` is no path.
        """
        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(f"path must be a path, got {path!r}")
        folder = Path(path)
        _check_files(folder)
        settings = _Settings(folder / _CONFIG, read_json(folder / _CONFIG), self.config)
        file = folder / _WEIGHTS
        changes = _Weights(file, settings, self.config, self.tensors).changes()
        digest = hashlib.blake2b(digest_size=32)
        for role, change in sorted(changes.items()):
            digest.update(f"{role} {change.first.shape} {change.second.shape}".encode())
            digest.update(change.first.data)
            digest.update(change.second.data)
        return Adapter(changes, digest.digest())


def _check_files(folder: Path) -> None:
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder}: expected a folder with {_CONFIG}, found "
            f"{'a file' if folder.exists() else 'nothing'}; one on the Hub comes by "
            "`hf download ID --local-dir FOLDER`"
        )
    if not (folder / _CONFIG).exists():
        what = "a whole model" if (folder / "config.json").exists() else "another folder"
        raise CheckpointError(
            f"{folder}: expected a PEFT adapter with {_CONFIG}, found none; it is {what}"
        )
    if not (folder / _WEIGHTS).exists() and (folder / "adapter_model.bin").exists():
        raise CheckpointError(
            f"{folder}: expected {_WEIGHTS}, found adapter_model.bin: pickles are not read; save "
            "it anew with safe_serialization=True"
        )


class _Settings:
    """What an adapter_config.json says."""

    def __init__(self, path: Path, values: dict[str, Any], config: ModelConfig) -> None:
        self._path = path
        self._values = values
        self._check_kind()
        self._check_base(config)
        self.rank = self._count("r", values.get("r", 8))
        self.alpha = self._number("lora_alpha", values.get("lora_alpha", 8))
        self.ranks = self._patterns("rank_pattern", self._count)
        self.alphas = self._patterns("alpha_pattern", self._number)
        self.is_rslora = self._flag("use_rslora")
        self.parameters = self._names("target_parameters") or []
        modules = values.get("target_modules")
        self.modules = (
            ["q_proj", "k_proj", "v_proj", "o_proj"]
            if modules == "all-linear"
            else []
            if isinstance(modules, str)  # a regular expression
            else self._names("target_modules") or []
        )
        # Whether every module of these names has a change.
        self.names_all = not values.get("layers_to_transform") and not values.get("exclude_modules")
        if values.get("layers_to_transform") == 0:
            self.names_all = False

    def error(self, field: str, expected: str, found: object) -> CheckpointError:
        """What to raise about a field."""
        return CheckpointError(
            f"{self._path}: {field}: expected {expected}, found {_short(repr(found))}"
        )

    def _check_kind(self) -> None:
        values = self._values
        if values.get("peft_type") != "LORA":
            raise self.error("peft_type", "'LORA'", values.get("peft_type"))
        if values.get("task_type") not in (None, "CAUSAL_LM"):
            raise self.error("task_type", "'CAUSAL_LM'", values["task_type"])
        for field, value in values.items():
            if field in _IGNORED or field in _UNDERSTOOD or not value:
                continue
            if field == "bias" and value == "none":
                continue
            if field == "runtime_config" and isinstance(value, dict):
                continue  # where PEFT computes
            what = _REFUSED.get(field)
            if what is not None:
                raise CheckpointError(
                    f"{self._path}: {field}: expected none, found {_short(repr(value))}: {what}"
                )
            raise self.error(field, "a LoRA without it, which is not known", value)
        begun = values.get("init_lora_weights")
        if isinstance(begun, str) and begun.lower().startswith(_CHANGES_BASE):
            raise CheckpointError(
                f"{self._path}: init_lora_weights: found {begun!r}, which changes the base model's "
                "weights: convert it with path_initial_model_for_weight_conversion of PEFT's "
                "save_pretrained"
            )

    def _check_base(self, config: ModelConfig) -> None:
        name = self._values.get("base_model_name_or_path")
        match = re.search(r"gpt-oss-(20b|120b)", name) if isinstance(name, str) else None
        if match is not None and _PUBLISHED_LAYERS[match[1]] != config.num_hidden_layers:
            raise CheckpointError(
                f"{self._path}: base_model_name_or_path: expected a model of "
                f"{config.num_hidden_layers} layers, found {_short(repr(name))}: the adapter is of "
                "another base model"
            )

    def _count(self, field: str, value: object) -> int:
        if type(value) is not int or not 1 <= value <= 65536:
            raise self.error(field, "a rank from 1 to 65536", value)
        return value

    def _number(self, field: str, value: object) -> float:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not abs(value) <= 1e30:  # type: ignore[arg-type]
            raise self.error(field, "a number", value)
        return float(value)  # type: ignore[arg-type]

    def _flag(self, field: str) -> bool:
        value = self._values.get(field)
        if value is not None and not isinstance(value, bool):
            raise self.error(field, "true or false", value)
        return bool(value)

    def _names(self, field: str) -> list[str] | None:
        value = self._values.get(field)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise self.error(field, "a list of names", value)
        return value

    def _patterns(self, field: str, check: Any) -> list[tuple[re.Pattern[str], Any]]:
        value = self._values.get(field) or {}
        if not isinstance(value, dict):
            raise self.error(field, "an object", value)
        patterns = []
        for key, number in value.items():
            quantifiers = len(re.findall(r"[*+?{]", key))
            if (
                len(key) > _MAX_PATTERN_CHARS
                or quantifiers > _MAX_QUANTIFIERS
                or re.search(r"\)[*+?{]|\\[0-9]|\(\?", key)
            ):
                raise self.error(field, "a pattern without repeated groups", key)
            try:
                pattern = re.compile(rf"(.*\.)?({key})$")
            except (re.error, RecursionError, OverflowError) as error:
                raise self.error(field, f"regular expressions ({error})", key) from error
            patterns.append((pattern, check(f"{field} {_short(key)}", number)))
        return patterns

    def scale_of(self, key: str, rank: int) -> float:
        """The factor of a change of this rank; CheckpointError if it should have another rank."""
        expected = _first_match(self.ranks, key, self.rank)
        if rank != expected:
            raise CheckpointError(
                f"{self._path}: r: expected the rank of the weights of {key}, {rank}, found "
                f"{expected}"
            )
        alpha: float = _first_match(self.alphas, key, self.alpha)
        return alpha / math.sqrt(rank) if self.is_rslora else alpha / rank

    def targets_parameter(self, name: str) -> bool:
        """Whether target_parameters names it, by PEFT's rule."""
        return any(name == target or name.endswith(f".{target}") for target in self.parameters)

    def targets_module(self, name: str) -> bool:
        """Whether target_modules names it, where that is a list."""
        return any(name == target or name.endswith(f".{target}") for target in self.modules)


class _Weights:
    """What an adapter_model.safetensors holds."""

    def __init__(
        self,
        path: Path,
        settings: _Settings,
        config: ModelConfig,
        base: Mapping[str, TensorSource],
    ) -> None:
        self._path = path
        self._settings = settings
        self._config = config
        self._base = base
        # By module, as the model names it, and factor: A, B, embedding_A or embedding_B.
        self._factors: dict[str, dict[str, TensorSource]] = {}
        for name, tensor in read_header(path).items():
            self._sort_in(name, tensor)

    def changes(self) -> dict[str, Change]:
        """Every change, by role."""
        found: dict[str, Change] = {}
        experts: dict[int, dict[int, str]] = {}  # by layer and depth of nesting
        for module in self._factors:
            match = _IN_LAYER.fullmatch(module)
            if module == "model.embed_tokens":
                found["embedding"] = self._embedding(module)
            elif module == "lm_head":
                found["unembedding"] = self._dense(
                    module, self._config.hidden_size, self._config.vocab_size
                )
            elif match is not None:
                layer, inner = int(match[1]), match[2]
                stem = inner
                while stem.endswith(".base_layer"):
                    stem = stem.removesuffix(".base_layer")
                if stem == _EXPERTS:
                    depth = inner.count(".base_layer")
                    experts.setdefault(layer, {})[depth] = module
                else:
                    role, k, n = self._dense_place(layer, inner, module)
                    found[role] = self._dense(module, k, n)
            else:
                raise self._unknown(module)
        for layer, modules in experts.items():
            found.update(self._experts(layer, modules))
        if not found:
            raise CheckpointError(f"{self._path}: expected factors of LoRA, found none")
        self._check_all(found)
        return found

    def _sort_in(self, name: str, tensor: TensorSource) -> None:
        plain = name.removeprefix(_PREFIX)
        match = _FACTOR.fullmatch(plain)
        if match is not None:
            factor = match[2].removeprefix("lora_").removesuffix(".weight")
            in_layer = _IN_LAYER.fullmatch(match[1])
            if in_layer is not None:
                self._check_layer(int(in_layer[1]), name)
            factors = self._factors.setdefault(match[1], {})
            if factor in factors:
                raise CheckpointError(f"{self._path}: tensor {name}: found it twice")
            factors[factor] = tensor
            return
        stem = plain.removesuffix(".weight").removesuffix(".base_layer")
        if stem in ("model.embed_tokens", "lm_head") and plain.endswith(".weight"):
            self._check_same(name, tensor, f"{stem}.weight")
            return
        raise self._unknown(name)

    def _unknown(self, name: str) -> CheckpointError:
        why = ""
        for part, meaning in (
            ("lora_magnitude_vector", "DoRA, which is no change of low rank"),
            ("modules_to_save", "a module that was trained whole: merge it into the checkpoint"),
            ("trainable_tokens", "embeddings of tokens that were trained: merge them"),
            ("lora_B.bias", "a bias in the change (lora_bias)"),
            ("experts.gate_up_projs", "experts as modules of their own, which is not PEFT's form"),
            ("experts.down_projs", "experts as modules of their own, which is not PEFT's form"),
        ):
            if part in name:
                why = f"; it is {meaning}"
        return CheckpointError(
            f"{self._path}: tensor {_short(name)}: expected factors of q_proj, k_proj, v_proj, "
            "o_proj, mlp.router, mlp.experts, embed_tokens or lm_head of gpt-oss, found another "
            f"name{why}"
        )

    def _check_layer(self, layer: int, name: str) -> None:
        count = self._config.num_hidden_layers
        if layer >= count:
            raise CheckpointError(
                f"{self._path}: tensor {name}: expected layers below {count}, found {layer}: the "
                "adapter is of another base model"
            )

    def _dense_place(self, layer: int, inner: str, module: str) -> tuple[str, int, int]:
        """The role of a module and the sizes (in, out) of its matrix."""
        config = self._config
        hidden = config.hidden_size
        q_size = config.num_attention_heads * config.head_dim
        kv_size = config.num_key_value_heads * config.head_dim
        if inner == "mlp.router":
            return f"layers.{layer}.router", hidden, config.num_local_experts
        letter = _ATTENTION.get(inner)
        if letter is None:
            raise self._unknown(module)
        k, n = {"q": (hidden, q_size), "o": (q_size, hidden)}.get(letter, (hidden, kv_size))
        return f"layers.{layer}.attention.{letter}", k, n

    def _pair(self, module: str, a: str = "A", b: str = "B") -> tuple[_FloatArray, _FloatArray]:
        factors = self._factors[module]
        if set(factors) != {a, b}:
            raise CheckpointError(
                f"{self._path}: tensor {module}.lora_{a}: expected it and lora_{b}, found "
                f"{', '.join(f'lora_{name}' for name in sorted(factors))}"
            )
        first, second = (self._read(f"{module}.lora_{name}", factors[name]) for name in (a, b))
        return first, second

    def _read(self, name: str, tensor: TensorSource) -> _FloatArray:
        if tensor.dtype not in NUMPY_DTYPES or tensor.dtype == "U8":
            raise CheckpointError(
                f"{self._path}: tensor {name}: expected F32, F16 or BF16, found {tensor.dtype}"
            )
        if len(tensor.shape) != 2 or min(tensor.shape) == 0:
            raise CheckpointError(
                f"{self._path}: tensor {name}: expected two dimensions, found shape {tensor.shape}"
            )
        values = np.empty(math.prod(tensor.shape), np.float32)
        begin = 0
        for piece in tensor.pieces(_PIECE_ITEMS):
            part = values[begin : begin + len(piece)]
            part[:] = _as_float(piece)
            if not np.isfinite(part).all():
                place = begin + int(np.argmin(np.isfinite(part)))
                raise CheckpointError(
                    f"{self._path}: tensor {name}: expected finite numbers, found "
                    f"{values[place]} at {divmod(place, tensor.shape[1])}"
                )
            begin += len(piece)
        return values.reshape(tensor.shape)

    def _wrong_shape(
        self, module: str, a: _FloatArray, b: _FloatArray, k: int, n: int
    ) -> CheckpointError:
        return CheckpointError(
            f"{self._path}: tensor {module}: expected factors A (r, {k}) and B ({n}, r), found "
            f"{a.shape} and {b.shape}: the adapter is of another base model"
        )

    def _key(self, module: str) -> str:
        """What PEFT looks ranks up by: a parameter where that is the target, else a module."""
        parameter = f"{module}.weight"
        return parameter if self._settings.targets_parameter(parameter) else module

    def _dense(self, module: str, k: int, n: int) -> Change:
        a, b = self._pair(module)
        rank = len(a)
        if a.shape != (rank, k) or b.shape != (n, rank):
            raise self._wrong_shape(module, a, b, k, n)
        scale = self._settings.scale_of(self._key(module), rank)
        return Change(a, _scaled(b.T, scale))

    def _embedding(self, module: str) -> Change:
        vocab, hidden = self._config.vocab_size, self._config.hidden_size
        if "embedding_A" not in self._factors[module] and "A" in self._factors[module]:
            # The parameter was the target: its change is B @ A, as of any other.
            second, first = self._pair(module)
            expected = second.shape == (first.shape[1], hidden) and len(first) == vocab
            if not expected:
                raise self._wrong_shape(module, second, first, hidden, vocab)
        else:
            a, b = self._pair(module, "embedding_A", "embedding_B")
            if a.shape != (len(a), vocab) or b.shape != (hidden, len(a)):
                raise self._wrong_shape(module, a, b, vocab, hidden)
            first, second = np.ascontiguousarray(a.T), b.T
        scale = self._settings.scale_of(self._key(module), first.shape[1])
        return Change(first, _scaled(second, scale))

    def _experts(self, layer: int, modules: dict[int, str]) -> Iterator[tuple[str, Change]]:
        """The changes of a layer's experts.

        PEFT wraps a parameter around those before it, in the order of the model, and names none:
        the outermost of the wrappers is the last of the parameters that are targets.
        """
        config = self._config
        hidden, inter = config.hidden_size, config.intermediate_size
        sizes = {"gate_up_proj": (hidden, 2 * inter), "down_proj": (inter, hidden)}
        stem = f"model.layers.{layer}.{_EXPERTS}"
        order = ("gate_up_proj", "gate_up_proj_bias", "down_proj", "down_proj_bias")
        names = [name for name in order if self._settings.targets_parameter(f"{stem}.{name}")]
        for name in names:
            if name not in sizes:
                raise self._settings.error(
                    "target_parameters", "the experts' gate_up_proj and down_proj", name
                )
        if sorted(modules) != list(range(len(names))):
            raise CheckpointError(
                f"{self._path}: tensor {stem}: expected factors of the parameters that "
                f"target_parameters names, {names}, found those of {len(modules)}"
            )
        pairs = {
            name: self._pair(modules[len(names) - 1 - place]) for place, name in enumerate(names)
        }
        experts = config.num_local_experts

        def fits(name: str, is_swapped: bool) -> bool:
            a, b = pairs[name]
            k, n = reversed(sizes[name]) if is_swapped else sizes[name]
            rows = len(a)
            return rows % experts == 0 and a.shape == (rows, k) and b.shape == (n, rows)

        # A PEFT that takes the parameter for (E, out, in) has A and B change places.
        is_swapped = not all(fits(name, False) for name in names)
        for name in names:
            a, b = pairs[name]
            if not fits(name, is_swapped):
                raise CheckpointError(
                    f"{self._path}: tensor {stem}: expected factors of {name} of {experts} "
                    f"experts, A ({experts} r, {sizes[name][0]}) and B ({sizes[name][1]}, "
                    f"r {experts}), found {a.shape} and {b.shape}: the adapter is of another base "
                    "model"
                )
            rank = len(a) // experts
            scale = self._settings.scale_of(f"{stem}.{name}", rank)
            first = a.reshape(experts, rank, -1)
            second = b.reshape(len(b), rank, experts).transpose(2, 1, 0)
            if is_swapped:
                first, second = np.ascontiguousarray(second), first
            role = name.removesuffix("_proj")
            yield f"layers.{layer}.experts.{role}", Change(first, _scaled(second, scale))

    def _check_same(self, name: str, tensor: TensorSource, base_name: str) -> None:
        """Check that a weight that PEFT saved along is the model's own."""
        base = self._base[base_name]
        shape = self._config.vocab_size, self._config.hidden_size
        same = tensor.shape == shape and tensor.dtype in NUMPY_DTYPES and tensor.dtype != "U8"
        if same and base.dtype == "BF16":  # not one of a GGUF file that is quantised
            pieces = zip(tensor.pieces(_PIECE_ITEMS), base.pieces(_PIECE_ITEMS), strict=True)
            # What was trained in float16 has rounded the base: close is the same.
            same = all(
                np.allclose(_as_float(mine), _as_float(other), rtol=2**-7, atol=1e-6)
                for mine, other in pieces
            )
        if not same:
            raise CheckpointError(
                f"{self._path}: tensor {name}: expected the model's own {base_name}, found another "
                f"({tensor.dtype} {tensor.shape}): the adapter is of another base model, or was "
                "trained with more than LoRA"
            )

    def _check_all(self, found: Mapping[str, Change]) -> None:
        """Where targets are named for all layers, all must be there."""
        settings = self._settings
        if not settings.names_all:
            return
        for layer in range(self._config.num_hidden_layers):
            stem, role = f"model.layers.{layer}", f"layers.{layer}"
            wanted = {
                f"{role}.attention.{letter}": settings.targets_module(f"{stem}.{name}")
                or settings.targets_parameter(f"{stem}.{name}.weight")
                for name, letter in _ATTENTION.items()
            }
            wanted[f"{role}.router"] = settings.targets_parameter(f"{stem}.mlp.router.weight")
            for name in ("gate_up", "down"):
                target = f"{stem}.{_EXPERTS}.{name}_proj"
                wanted[f"{role}.experts.{name}"] = settings.targets_parameter(target)
            for name, is_wanted in wanted.items():
                if is_wanted and name not in found:
                    raise CheckpointError(
                        f"{self._path}: expected factors of {name}, which the config's targets "
                        f"name in a model of {self._config.num_hidden_layers} layers, found none: "
                        "the adapter is of another base model, or its file was cut"
                    )


def _first_match(patterns: list[tuple[re.Pattern[str], Any]], key: str, default: Any) -> Any:
    return next((value for pattern, value in patterns if pattern.match(key)), default)


def _as_float(values: npt.NDArray[Any]) -> _FloatArray:
    """Numbers of a file as float32; uint16 are the bits of bf16."""
    if values.dtype == np.uint16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32, copy=False)


def _scaled(values: _FloatArray, scale: float) -> _FloatArray:
    """Times a scale, C-contiguous."""
    return np.ascontiguousarray(values * np.float32(scale))


def _short(text: str) -> str:
    return text if len(text) <= 100 else text[:100] + "..."
