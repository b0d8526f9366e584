"""gpt-oss in a GGUF file: its config, its tensors under canonical names, its tokenizer.

Names, types and fields are those that llama.cpp's converter gives to these models. BF16 is mapped;
everything else is turned into what the kernels read, in memory: exactly, but for F16 and F32 that
have other numbers than bfloat16 and are rounded only on demand.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gptoss._threads import keep_interrupts
from gptoss.checkpoint.config_json import (
    MAX_COUNT,
    MAX_POSITIONS,
    Fields,
    alternating_layers,
    check_betas,
    read_dimensions,
)
from gptoss.checkpoint.convert import Dtype, convert_tensors
from gptoss.checkpoint.gguf_file import (
    BLOCKS,
    GgufArray,
    GgufFile,
    GgufTensor,
    read_rows,
    row_pieces,
)
from gptoss.checkpoint.layout import (
    MAX_SCALE_BYTE,
    MXFP4_BLOCK_SIZE,
    Q8_0_CODES,
    Q8_0_SCALES,
    stored_tensors,
)
from gptoss.checkpoint.quantize import refuse_wide_experts
from gptoss.checkpoint.safetensors import TensorSource
from gptoss.config import LayerType, ModelConfig, RopeConfig
from gptoss.errors import CheckpointError
from gptoss.options import Experts
from gptoss.tokenizer.json_file import TokenizerJson

ARCHITECTURE = "gpt-oss"
# What llama.cpp's kernels hold as literals for these models.
SWIGLU_LIMIT = 7.0
# The pattern that llama.cpp knows by this name, as the published tokenizer.json writes it.
PRE_TOKENIZER = "gpt-4o"
PRE_TOKENIZER_PATTERN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Kinds of tokens, by their numbers in tokenizer.ggml.token_type.
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5

# The sizes of `read_dimensions`.
_NAMES = {
    "hidden_size": "embedding_length",
    "intermediate_size": "expert_feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "vocab_size": "vocab_size",
    "num_local_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "sliding_window": "attention.sliding_window",
}
_EMBEDDING = "token_embd.weight"
_FLOATS = ("F32", "F16", "BF16")
_MATRIX = (*_FLOATS, "Q8_0")
_EXPERTS = ("MXFP4", *_MATRIX)
# Bounds what a conversion holds beside its result, for each thread.
_PIECE_BYTES = 8 << 20
_MAX_THREADS = 8


@dataclass(frozen=True)
class GgufPart:
    """A tensor of the model, and what it is made of.

    Attributes
    ----------
    name : str
        The canonical name; of experts without "_blocks" and "_scales".
    shape : tuple of int
        The canonical shape; of experts (E, rows, columns).
    sources : tuple of GgufTensor
        One; or two, of which the rows alternate (gate and up).
    """

    name: str
    shape: tuple[int, ...]
    sources: tuple[GgufTensor, ...]

    @property
    def type(self) -> str:
        """Type of the elements, of all sources."""
        return self.sources[0].type

    @property
    def is_experts(self) -> bool:
        """Whether it is the weights of experts."""
        return len(self.shape) == 3

    @property
    def is_mapped(self) -> bool:
        """Whether the kernels read it where it lies."""
        return self.type == "BF16" and len(self.sources) == 1 and not self.is_experts

    @property
    def made_bytes(self) -> int:
        """Memory that it takes, beside what is mapped."""
        items = math.prod(self.shape)
        if self.is_experts:
            return items // MXFP4_BLOCK_SIZE * 17
        if self.type == "Q8_0":
            elements, block_bytes = BLOCKS["Q8_0"]
            return items // elements * block_bytes
        return 0 if self.is_mapped else 2 * items


def gguf_config(file: GgufFile) -> ModelConfig:
    """Read a file's metadata.

    Raises
    ------
    CheckpointError
        It is another model's, or a field is absent, of the wrong type, or not one that gptoss runs.

    Notes
    -----
    GGUF does not say how YaRN's bounds are rounded: as in the published models they are not.
    """
    architecture = file.metadata.get("general.architecture")
    if architecture != ARCHITECTURE:
        raise CheckpointError(
            f"{file.path}: field general.architecture: expected {ARCHITECTURE!r}, found "
            f"{architecture!r:.100}{_other(architecture)}"
        )
    prefix = f"{ARCHITECTURE}."
    values: dict[str, Any] = {
        key.removeprefix(prefix): _shortest(value)
        for key, value in file.metadata.items()
        if key.startswith(prefix)
    }
    if _EMBEDDING in file.tensors:
        values.setdefault("vocab_size", file.tensors[_EMBEDDING].shape[0])
    values.setdefault("expert_feed_forward_length", values.get("feed_forward_length"))
    fields = Fields(values, str(file.path), prefix)
    layers = fields.integer("block_count", maximum=MAX_COUNT)
    sizes = read_dimensions(fields, _NAMES)
    for name in ("attention.value_length", "rope.dimension_count"):
        fields.expect(name, sizes["head_dim"], default=sizes["head_dim"])
    return ModelConfig(
        **sizes,
        num_hidden_layers=layers,
        layer_types=_layer_types(fields, layers),
        rms_norm_eps=fields.number("attention.layer_norm_rms_epsilon"),
        swiglu_limit=SWIGLU_LIMIT,
        max_position_embeddings=fields.integer("context_length", maximum=MAX_POSITIONS),
        rope=_rope(fields),
        eos_token_ids=_eos_ids(file),
    )


def match_gguf(file: GgufFile, config: ModelConfig) -> list[GgufPart]:
    """Check the tensors of a file against its config; in the order of the model.

    Raises
    ------
    CheckpointError
        A tensor is missing or not expected, or has another shape than the config says, or a type
        that is not read.
    """
    wanted = list(_wanted(config))
    known = {name for _, _, names, _ in wanted for name in names}
    missing = [name for _, _, names, _ in wanted for name in names if name not in file.tensors]
    if missing:
        raise CheckpointError(
            f"{file.path}: tensor {missing[0]}: expected by the metadata, found none"
            f"{_and_more(missing)}"
        )
    unexpected = sorted(file.tensors.keys() - known)
    if unexpected:
        raise CheckpointError(
            f"{file.tensors[unexpected[0]].path}: tensor {unexpected[0]:.100}: expected no tensor "
            f"of this name, found one{_and_more(unexpected)}"
        )
    parts = []
    for name, shape, names, types in wanted:
        sources = tuple(file.tensors[own] for own in names)
        one_shape = shape
        if len(sources) == 2:  # gate and up: half of the rows each
            one_shape = (shape[0], shape[1] // 2, *shape[2:])
        for own, source in zip(names, sources, strict=True):
            _check_tensor(own, source, one_shape, types)
        if sources[-1].type != sources[0].type:
            raise CheckpointError(
                f"{sources[1].path}: tensor {names[1]}: expected the type of {names[0]}, "
                f"{sources[0].type}, found {sources[1].type}"
            )
        parts.append(GgufPart(name, shape, sources))
    _check_attention(parts)
    stored = stored_tensors(config, "hf", bf16_experts=True)
    order = {part.name: i for i, one in enumerate(stored) for part in one.parts}
    return sorted(parts, key=lambda part: order[part.name])


def load_gguf(
    file: GgufFile, parts: list[GgufPart], experts: Experts, dtype: Dtype, progress: bool
) -> dict[str, TensorSource]:
    """Map what is BF16, and turn everything else into what the kernels read.

    Parameters
    ----------
    file : GgufFile
        For messages.
    parts : list of GgufPart
        As `match_gguf` returned them.
    experts, dtype
        As for `open_checkpoint`.
    progress : bool
        Show a progress bar, and then what it took in one line.

    Returns
    -------
    dict of str to TensorSource
        `Checkpoint.tensors`.

    Raises
    ------
    CheckpointError
        Experts are not MXFP4 and `experts` does not allow to quantise them; F16 or F32 would be
        rounded and `dtype` does not allow it; a number is NaN, infinite or out of range.
    MemoryError
        There is not enough.
    """
    if experts == "as_stored":
        refuse_wide_experts(
            {
                part.name: TensorSource(
                    part.sources[0].path,
                    part.sources[0].offset,
                    sum(source.nbytes for source in part.sources),
                    part.type,
                    part.shape,
                )
                for part in parts
                if part.is_experts and part.type != "MXFP4"
            }
        )
    made_bytes = sum(part.made_bytes for part in parts)
    _check_memory(file, made_bytes)
    if made_bytes == 0:
        return {name: source for part in parts for name, source in _mapped(part).items()}
    from rich.console import Console  # here, because most checkpoints need none
    from rich.progress import Progress

    begin = time.perf_counter()
    tensors: dict[str, TensorSource] = {}
    console = Console(stderr=True)
    shown = progress and console.is_terminal
    display = Progress(console=console, disable=not shown, transient=True)
    with keep_interrupts(), display as bars, _threads() as run:
        task = bars.add_task("Reading GGUF", total=made_bytes)
        for part in parts:
            tensors |= make_part(part, dtype, run)
            bars.advance(task, part.made_bytes)
    if progress:
        seconds = time.perf_counter() - begin
        console.print(
            f"{file.path.name}: {made_bytes / 1e9:.3g} GB turned from GGUF into the kernels' form, "
            f"in memory, in {seconds:.1f} s",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    return tensors


# Runs functions, on several threads, and raises what one of them raises.
Runner = Callable[[Iterable[Callable[[], None]]], None]


def make_part(part: GgufPart, dtype: Dtype, run: Runner) -> dict[str, TensorSource]:
    """Turn one tensor into what the kernels read: one or two tensors under canonical names."""
    if part.is_mapped:
        return _mapped(part)
    if part.is_experts:
        return _make_experts(part, run)
    if part.type == "Q8_0":
        return _make_q8_0(part, run)
    source = part.sources[0]
    kind, array = source.type, None
    if len(part.sources) == 2:
        kind, array = "F32", _interleaved(part)
    tensor = TensorSource(source.path, source.offset, source.nbytes, kind, part.shape, array)
    return convert_tensors({part.name: tensor}, dtype, progress=False)


def gguf_tokenizer(file: GgufFile) -> TokenizerJson | None:
    """Read the tokenizer of a file's metadata: as a tokenizer.json, or None where there is none.

    Raises
    ------
    CheckpointError
        It is of another kind than gpt-oss's, or damaged.
    """
    whole = file.metadata.get("tokenizer.huggingface.json")
    if isinstance(whole, str):
        return TokenizerJson.parse(whole, source=f"{file.path}: field tokenizer.huggingface.json")
    model = file.metadata.get("tokenizer.ggml.model", "none")
    if model in ("none", "no_vocab"):
        return None
    for key, expected in (
        ("tokenizer.ggml.model", "gpt2"),
        ("tokenizer.ggml.pre", PRE_TOKENIZER),
    ):
        found = file.metadata.get(key)
        if found != expected:
            raise _field_error(file, key, repr(expected), found)
    pieces = _strings(file, "tokenizer.ggml.tokens")
    merges = [merge.split(" ") for merge in _strings(file, "tokenizer.ggml.merges")]
    bad = next((merge for merge in merges if len(merge) != 2), None)
    if bad is not None:
        raise _field_error(
            file, "tokenizer.ggml.merges", "two tokens with a space between", " ".join(bad)
        )
    kinds = _kinds(file, len(pieces))
    vocab: dict[str, int] = {}
    added = []
    for token_id, (piece, kind) in enumerate(zip(pieces, kinds, strict=True)):
        if kind == NORMAL:
            if piece in vocab:
                raise _field_error(file, "tokenizer.ggml.tokens", "each token once", piece)
            vocab[piece] = token_id
        elif kind in (CONTROL, USER_DEFINED):
            added.append({"id": token_id, "content": piece, "special": kind == CONTROL})
        elif kind != UNUSED:
            raise _field_error(
                file, "tokenizer.ggml.token_type", "1, 3, 4 or 5", f"{kind} at {token_id}"
            )
    text = json.dumps(_tokenizer_json(added, vocab, merges), ensure_ascii=False)
    return TokenizerJson.parse(text, source=f"{file.path}: fields tokenizer.ggml")


def _tokenizer_json(added: list[Any], vocab: dict[str, int], merges: list[Any]) -> dict[str, Any]:
    split = {"Regex": PRE_TOKENIZER_PATTERN}
    return {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": split, "behavior": "Isolated", "invert": False},
                {
                    "type": "ByteLevel",
                    "add_prefix_space": False,
                    "trim_offsets": True,
                    "use_regex": False,
                },
            ],
        },
        "post_processor": None,
        "decoder": {
            "type": "ByteLevel",
            "add_prefix_space": True,
            "trim_offsets": True,
            "use_regex": True,
        },
        "model": {"type": "BPE", "ignore_merges": True, "vocab": vocab, "merges": merges},
    }


def _strings(file: GgufFile, key: str) -> list[str]:
    value = file.metadata.get(key)
    strings = value.strings() if isinstance(value, GgufArray) else None
    if strings is None:
        raise _field_error(file, key, "an array of strings", value)
    try:
        return [text.decode() for text in strings]
    except UnicodeDecodeError as error:
        raise _field_error(file, key, "UTF-8", str(error)) from error


def _kinds(file: GgufFile, count: int) -> list[int]:
    key = "tokenizer.ggml.token_type"
    value = file.metadata.get(key)
    numbers = value.numbers() if isinstance(value, GgufArray) else None
    if numbers is None or numbers.dtype.kind not in "iu" or len(numbers) != count:
        raise _field_error(file, key, f"an array of {count} integers", value)
    kinds: list[int] = numbers.tolist()
    return kinds


def _field_error(file: GgufFile, key: str, expected: str, found: object) -> CheckpointError:
    return CheckpointError(f"{file.path}: field {key}: expected {expected}, found {found!r:.100}")


def _other(architecture: object) -> str:
    if architecture == "gptoss":
        return "; this is Ollama's own form of the model: take one that llama.cpp's converter made"
    return "; gptoss runs gpt-oss models only"


def _shortest(value: object) -> object:
    """The number that was meant: float32 in a file, and float64 in a config."""
    return float(str(np.float32(value))) if isinstance(value, float) else value


def _layer_types(fields: Fields, layers: int) -> tuple[LayerType, ...]:
    name = "attention.sliding_window_pattern"
    value = fields.values.get(name, 2)
    if isinstance(value, GgufArray):
        windows = value.numbers()
        if windows is None or windows.dtype.kind != "b" or len(windows) != layers:
            raise fields.error(name, f"{layers} booleans", value)
        return tuple("sliding_attention" if w else "full_attention" for w in windows)
    fields.expect(name, 2, default=2)
    return alternating_layers(layers)


def _rope(fields: Fields) -> RopeConfig:
    theta = fields.number("rope.freq_base", above=1.0)
    kind = fields.values.get("rope.scaling.type", "none")
    if kind == "none":
        fields.expect("rope.scaling.factor", 1, default=1)
        return RopeConfig(theta=theta)
    if kind != "yarn":
        raise fields.error("rope.scaling.type", "'yarn' or 'none'", kind)
    for name in ("attn_factor", "yarn_attn_factor", "yarn_ext_factor"):
        fields.expect(f"rope.scaling.{name}", 1, default=1)
    rope = RopeConfig(
        theta=theta,
        factor=fields.number("rope.scaling.factor", at_least=1.0),
        beta_fast=fields.number("rope.scaling.yarn_beta_fast", default=32.0),
        beta_slow=fields.number("rope.scaling.yarn_beta_slow", default=1.0),
        original_context_length=fields.integer("rope.scaling.original_context_length"),
        truncate=False,
    )
    check_betas(fields, rope, "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow")
    return rope


def _eos_ids(file: GgufFile) -> tuple[int, ...]:
    ids = []
    for name in ("eos", "eot", "eom"):
        key = f"tokenizer.ggml.{name}_token_id"
        value = file.metadata.get(key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise _field_error(file, key, "a token id", value)
        ids.append(value)
    return tuple(dict.fromkeys(ids))


def _wanted(
    config: ModelConfig,
) -> Iterator[tuple[str, tuple[int, ...], tuple[str, ...], tuple[str, ...]]]:
    """Canonical name and shape of every tensor, its names in the file, the types it may have."""
    hidden, vocab, inner = config.hidden_size, config.vocab_size, config.intermediate_size
    heads, experts = config.num_attention_heads, config.num_local_experts
    q_rows = heads * config.head_dim
    kv_rows = config.num_key_value_heads * config.head_dim
    yield "model.embed_tokens.weight", (vocab, hidden), (_EMBEDDING,), _MATRIX
    for layer in range(config.num_hidden_layers):
        hf, own = f"model.layers.{layer}", f"blk.{layer}"
        attention, mlp = f"{hf}.self_attn", f"{hf}.mlp"
        yield f"{hf}.input_layernorm.weight", (hidden,), (f"{own}.attn_norm.weight",), _FLOATS
        for letter, name, rows, columns in (
            ("q", "q", q_rows, hidden),
            ("k", "k", kv_rows, hidden),
            ("v", "v", kv_rows, hidden),
            ("o", "output", hidden, q_rows),
        ):
            stem, name = f"{attention}.{letter}_proj", f"{own}.attn_{name}"
            yield f"{stem}.weight", (rows, columns), (f"{name}.weight",), _MATRIX
            yield f"{stem}.bias", (rows,), (f"{name}.bias",), _FLOATS
        yield f"{attention}.sinks", (heads,), (f"{own}.attn_sinks.weight",), _FLOATS
        norm = f"{own}.post_attention_norm.weight"
        yield f"{hf}.post_attention_layernorm.weight", (hidden,), (norm,), _FLOATS
        for kind, shape in (("weight", (experts, hidden)), ("bias", (experts,))):
            yield f"{mlp}.router.{kind}", shape, (f"{own}.ffn_gate_inp.{kind}",), _FLOATS
        for matrix, names, rows, columns in (
            ("gate_up", ("gate", "up"), 2 * inner, hidden),
            ("down", ("down",), hidden, inner),
        ):
            stem = f"{mlp}.experts.{matrix}_proj"
            stems = [f"{own}.ffn_{name}_exps" for name in names]
            weights, biases = (tuple(f"{s}.{k}" for s in stems) for k in ("weight", "bias"))
            yield stem, (experts, rows, columns), weights, _EXPERTS
            yield f"{stem}_bias", (experts, rows), biases, _FLOATS
    yield "model.norm.weight", (hidden,), ("output_norm.weight",), _FLOATS
    yield "lm_head.weight", (vocab, hidden), ("output.weight",), _MATRIX


def _check_tensor(
    name: str, source: GgufTensor, shape: tuple[int, ...], types: tuple[str, ...]
) -> None:
    if source.type not in types:
        quantised = source.type not in BLOCKS
        advice = "; take a file with experts in MXFP4, as converted from the model" * quantised
        raise CheckpointError(
            f"{source.path}: tensor {name}: expected {', '.join(types[:-1])} or {types[-1]}, found "
            f"{source.type}{advice}"
        )
    if source.shape != shape:
        raise CheckpointError(
            f"{source.path}: tensor {name}: expected shape {shape}, found {source.shape}"
        )
    if source.offset % 2:
        raise CheckpointError(
            f"{source.path}: tensor {name}: expected an even offset, found {source.offset}"
        )


def _check_attention(parts: list[GgufPart]) -> None:
    """The three matrices that share their inputs are multiplied together."""
    types: dict[str, str] = {}
    for part in parts:
        stem, _, kind = part.name.rpartition(".self_attn.")
        if kind not in ("q_proj.weight", "k_proj.weight", "v_proj.weight"):
            continue
        form = "Q8_0" if part.type == "Q8_0" else "F32, F16 or BF16"
        expected = types.setdefault(stem, form)
        if form != expected:
            raise CheckpointError(
                f"{part.sources[0].path}: tensor {part.name}: expected {expected}, as the query's "
                f"matrix of the layer, found {part.type}"
            )


def _and_more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more like it)" if len(names) > 1 else ""


def _check_memory(file: GgufFile, nbytes: int) -> None:
    from gptoss import _core  # here, because reading a header does without it

    available = _core.available_memory_bytes()
    if nbytes > available:
        raise MemoryError(
            f"{file.path}: {nbytes / 1e9:.3g} GB of its weights have to be turned into the "
            f"kernels' form in memory, and {available / 1e9:.3g} GB are available"
        )


class _threads:
    """Some threads, which stop at the first error."""

    def __enter__(self) -> Runner:
        from gptoss import _core

        workers = min(_MAX_THREADS, _core.default_threads())
        self._pool = ThreadPoolExecutor(max_workers=workers)
        return self._run

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _run(self, tasks: Iterable[Callable[[], None]]) -> None:
        futures = [self._pool.submit(task) for task in tasks]
        try:
            for future in futures:
                future.result()
        except BaseException:
            for future in futures:
                future.cancel()
            raise


def _mapped(part: GgufPart) -> dict[str, TensorSource]:
    source = part.sources[0]
    return {part.name: TensorSource(source.path, source.offset, source.nbytes, "BF16", part.shape)}


def _array_source(part: GgufPart, dtype: str, array: npt.NDArray[Any]) -> TensorSource:
    source = part.sources[0]
    return TensorSource(source.path, source.offset, array.nbytes, dtype, array.shape, array)


def _make_q8_0(part: GgufPart, run: Runner) -> dict[str, TensorSource]:
    from gptoss import _core

    (source,) = part.sources
    rows, columns = part.shape
    codes = np.empty((rows, columns), np.int8)
    scales = np.empty((rows, columns // BLOCKS["Q8_0"][0]), np.uint16)

    def make(begin: int, count: int) -> Callable[[], None]:
        def task() -> None:
            bad = _core.q8_0_from_ggml(read_rows(source, begin, count), codes, scales, begin)
            if bad is not None:
                raise CheckpointError(
                    f"{source.path}: tensor {part.name}: expected finite scales, found NaN or "
                    f"infinity at {list(bad)}"
                )

        return task

    run(make(begin, count) for begin, count in row_pieces(source, _PIECE_BYTES))
    return {
        part.name + Q8_0_CODES: _array_source(part, "U8", codes.view(np.uint8)),
        part.name + Q8_0_SCALES: _array_source(part, "F16", scales.view(np.float16)),
    }


def _make_experts(part: GgufPart, run: Runner) -> dict[str, TensorSource]:
    from gptoss import _core
    from gptoss.ops import mxfp4_quantize

    experts, rows, columns = part.shape
    row_blocks = columns // MXFP4_BLOCK_SIZE
    blocks = np.empty((experts * rows, row_blocks * (MXFP4_BLOCK_SIZE // 2)), np.uint8)
    scales = np.empty((experts * rows, row_blocks), np.uint8)
    step = len(part.sources)

    def make(source: GgufTensor, begin: int, count: int, first: int) -> Callable[[], None]:
        def repack() -> None:
            _core.mxfp4_from_ggml(read_rows(source, begin, count), blocks, scales, first, step)

        def quantize() -> None:
            try:
                found, bytes_of_found = mxfp4_quantize(
                    read_floats(source, begin, count), least_squares=True
                )
            except ValueError as error:
                raise CheckpointError(
                    f"{source.path}: tensor {part.name}: expected finite weights, found NaN or "
                    f"infinity in expert {begin * experts * step // (experts * rows)}"
                ) from error
            end = first + step * count
            blocks[first:end:step] = found.reshape(count, -1)
            scales[first:end:step] = bytes_of_found

        return repack if source.type == "MXFP4" else quantize

    # A row of gate, and the row of up, alternate in each expert, and so in all of them.
    run(
        make(source, begin, count, step * begin + offset)
        for offset, source in enumerate(part.sources)
        for begin, count in row_pieces(source, _PIECE_BYTES)
    )
    shape = (experts, rows, row_blocks)
    return {
        part.name + "_blocks": _array_source(part, "U8", blocks.reshape(*shape, -1)),
        part.name + "_scales": _array_source(part, "U8", scales.reshape(shape)),
    }


def read_floats(source: GgufTensor, begin: int, count: int) -> npt.NDArray[np.float32]:
    """Read rows of F32, F16, BF16 or Q8_0 as float32, exactly."""
    rows = read_rows(source, begin, count)
    match source.type:
        case "F32":
            return rows.view("<f4")
        case "F16":
            return rows.view("<f2").astype(np.float32)
        case "BF16":
            return (rows.view("<u2").astype(np.uint32) << 16).view(np.float32)
        case "Q8_0":
            blocks = rows.reshape(count, -1, BLOCKS["Q8_0"][1])
            scales = np.ascontiguousarray(blocks[..., :2]).view("<f2").astype(np.float32)
            return (blocks[..., 2:].view(np.int8) * scales).reshape(count, -1)
    raise AssertionError(source.type)


def _interleaved(part: GgufPart) -> npt.NDArray[np.float32]:
    """Gate's and up's biases (E, I), alternating: (E, 2I)."""
    array = np.empty(part.shape, np.float32)
    for offset, source in enumerate(part.sources):
        array[:, offset::2] = read_floats(source, 0, part.shape[0])
    return array


def check_gguf_scales(parts: Iterable[GgufPart]) -> None:
    """Check as `check_scales` does, from the files; raises CheckpointError."""
    for part in parts:
        if not part.is_experts or part.type != "MXFP4":
            continue
        for source in part.sources:
            for begin, count in row_pieces(source, _PIECE_BYTES):
                scales = read_rows(source, begin, count).reshape(-1, BLOCKS["MXFP4"][1])[:, 0]
                if scales.max() > MAX_SCALE_BYTE:
                    raise CheckpointError(
                        f"{source.path}: tensor {part.name}: expected scale bytes up to "
                        f"{MAX_SCALE_BYTE}, found {scales.max()} in the rows from {begin} on"
                    )


def held_in_q8_0(parts: Iterable[GgufPart]) -> frozenset[str]:
    """Names of the matrices that stay in Q8_0."""
    return frozenset(part.name for part in parts if part.type == "Q8_0" and not part.is_experts)
