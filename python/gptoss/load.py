"""Loading a model: from a checkpoint's name to an `LLM`."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, cast, overload

from gptoss import _core, tokenizer
from gptoss._threads import thread_errors
from gptoss.adapters import AdapterReader
from gptoss.checkpoint import Checkpoint, check_scales, open_checkpoint
from gptoss.checkpoint.convert import Dtype
from gptoss.checkpoint.identity import identity as checkpoint_identity
from gptoss.checkpoint.layout import matrices_held_in_q8_0, tensors_by_role
from gptoss.checkpoint.memory import estimate_config
from gptoss.checkpoint.residency import (
    USUAL_CONTEXT_TOKENS,
    form_that_stays,
    residencies,
    residency_note,
)
from gptoss.checkpoint.traffic import decode_bytes
from gptoss.engine.outputs import GenerationResult
from gptoss.engine.page_store import PageStore
from gptoss.engine.sampling import SamplingParams
from gptoss.errors import CheckpointError
from gptoss.llm import LLM
from gptoss.options import (
    MAX_INT,
    MAX_SEQUENCES,
    MOST_SEQUENCES,
    MOST_STEP_TOKENS,
    PREFIX_CACHE_BYTES,
    STEP_TOKENS,
    CpuExperts,
    Dense,
    DenseOption,
    Experts,
    KvCacheDtype,
    Precision,
    Speculative,
    check_modes,
    count,
    count_or_zero,
    cpu_expert_layers,
    layer_range,
)
from gptoss.page_files import PageFiles
from gptoss.text_engine import Prompt


def load(
    path_or_repo: str | os.PathLike[str],
    device: str = "auto",
    threads: int | None = None,
    precision: Precision = "auto",
    dense: DenseOption = "bf16",
    context_length: int | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
    experts: Experts = "as_stored",
    kv_cache_memory: int | None = None,
    kv_cache_dtype: KvCacheDtype = "auto",
    speculative: Speculative | None = None,
    dtype: Dtype = "as_stored",
    *,
    max_sequences: int = MAX_SEQUENCES,
    max_step_tokens: int = STEP_TOKENS,
    prefix_cache_dir: str | os.PathLike[str] | None = None,
    prefix_cache_bytes: int | None = None,
    cpu_experts: CpuExperts = "auto",
) -> LLM:
    """Load a model.

    Parameters
    ----------
    path_or_repo : str or path
        A checkpoint's folder in the Hugging Face or the original layout; a GGUF file, of a split
        one any part, or a folder with one; a Hub id such as "openai/gpt-oss-20b", which is
        downloaded unless the Hub's local cache has it; or "demo", a small model that comes with
        gptoss.
    device : str
        "auto", or the name of a backend, "cpu" or "cuda"; `gptoss doctor` lists them. "cuda" takes
        one GPU if the model fits on it, else as few as it fits on, with layers in proportion to
        their free memory; "cuda:1" takes that one, "cuda:0,1" splits the layers over these
        (docs/cuda.md). CUDA_VISIBLE_DEVICES says which there are.
    threads : int, optional
        CPU threads; None takes GPTOSS_NUM_THREADS, else as many as suit the CPUs that the process
        may use (docs/environment.md).
    precision : {"auto", "reference"}
        "auto" is fast; "reference" computes in float32 throughout and keeps a float32 KV cache.
    dense : {"bf16", "bf12", "q8", "auto"}
        How attention's matrices and the unembedding are held; bf12 and q8 are made while loading
        and do not go with precision "reference". "bf16": as they are stored, mapped from the file.
        Those that a GGUF file has in Q8_0 stay so, whatever is asked for here.
        "bf12": the same numbers in 12 bits each, without loss, for the same results; a sixth less
        is read per decoded token, which helps one request at a time, and with AVX512_BF16 up to
        about four; eight or more may be slower. "q8": in int8, 32 weights to a scale; a third less
        is read, for weights that are rounded. "auto": the first of the three that stays in the
        memory that this process may use, with `context_length` or 8,192 tokens, or else "q8"; on
        a GPU "bf16".
    context_length : int, optional
        Most tokens of a request, prompt and output together. None takes the model's limit, or
        what fits into memory.
    revision : str, optional
        Branch, tag or commit on the Hub.
    local_files_only : bool
        Do not ask the Hub.
    experts : {"as_stored", "mxfp4"}
        "mxfp4" quantises experts that are stored in bfloat16, which are refused otherwise.
    kv_cache_memory : int, optional
        Bytes of KV cache for all requests together; finished ones stay in it until they are
        evicted, so that requests that begin alike reuse their prefixes. None takes room for two
        requests of `context_length`, or what is free.
    kv_cache_dtype : {"auto", "int8"}
        "auto" is float16 (float32 with precision "reference"). "int8" rounds keys and values to
        8 bits, with a scale for each token and head: 47 % less memory for a context; not with
        precision "reference". `docs/engine.md` has its measured error.
    speculative : {"ngram"}, optional
        "ngram" guesses tokens where a text repeats itself or its prompt, and verifies several in
        one step: faster where much is quoted, and the same tokens in any case.
    dtype : {"as_stored", "convert"}
        "convert" rounds tensors that are stored in float16 or float32, as those of some
        fine-tunes, to bfloat16, in memory. "as_stored" takes them if no value needs rounding.
    max_sequences : int
        Most sequences that are computed at a time, up to 4,096; others wait. Each has a place in
        the window layers' KV cache.
    max_step_tokens : int
        Most new tokens in a step, of all sequences together, up to 65,536: long prompts are
        computed in pieces. Bounds the activations, which are allocated once.
    prefix_cache_dir : str or path, optional
        A folder that keeps what was computed of prompts and answers, so that requests that begin
        alike need not compute it again after a restart, or in another process. It is made with
        mode 0700: texts could be inferred from what is in it. `docs/engine.md` says more.
    prefix_cache_bytes : int, optional
        Most bytes in that folder, of all models that use it; the least recently used go first.
        None is 8 GiB.
    cpu_experts : int or "auto"
        On a GPU: of so many layers, the first ones, the experts stay in the machine's memory, and
        the CPU computes them; so a model runs that is larger than the GPU's memory, more slowly.
        "auto" is 0 if everything fits, with `context_length` or 8,192 tokens, on one GPU or on all
        together, and else as few as let the rest fit; a line on stderr says how many. A number does
        not go with the CPU as the device. `docs/cuda.md` says more.

    Returns
    -------
    LLM

    Raises
    ------
    CheckpointError
        There is no such checkpoint, or it is damaged, incomplete or of another model.
    BackendError
        The device is not available.
    MemoryError
        The KV cache for one request of `context_length` does not fit, or what is to be made of a
        GGUF file.
    ValueError, TypeError
        An argument is out of range or of the wrong type.
    OSError
        `prefix_cache_dir` cannot be made; a PermissionError if it is another user's, or if others
        may write into it.

    Notes
    -----
    Weights are mapped from their files, not read: pages come into memory when they are first
    used. Of a GGUF file only those in BF16 are; the others are made at load (docs/gguf.md). A line
    on stderr says if they will not stay in memory, and what to do (docs/memory.md).
    Only the MXFP4 scales are looked at beforehand (0.6 GB for gpt-oss-20b: a tenth of a
    second if the system has them cached). While a model is loaded its files must not be written
    to: replace them by renaming new ones over them (docs/checkpoints.md).
    """
    check_modes(precision, dense, kv_cache_dtype, speculative)
    if not isinstance(device, str):
        raise TypeError(f"device must be a string, got {device!r}")
    n_cpu_experts = cpu_expert_layers(cpu_experts)
    n_threads = count_or_zero("threads", threads, MAX_INT)
    n_context = count_or_zero("context_length", context_length, MAX_INT)
    n_sequences = count("max_sequences", max_sequences, MOST_SEQUENCES)
    n_step = count("max_step_tokens", max_step_tokens, MOST_STEP_TOKENS)
    kv_bytes = count_or_zero("kv_cache_memory", kv_cache_memory, 2**63 - 1)
    files = _page_files(prefix_cache_dir, prefix_cache_bytes)
    available = _core.available_memory_bytes()
    checkpoint = open_checkpoint(
        path_or_repo,
        revision=revision,
        local_files_only=local_files_only,
        experts=experts,
        dtype=dtype,
    )
    held = _dense_form(
        checkpoint, device, precision, dense, kv_cache_dtype, n_context, n_step, available
    )
    # Parsing the tokenizer takes a second of one CPU: the engine is made beside it.
    parsed: SimpleQueue[tokenizer.Tokenizer | BaseException | None] = SimpleQueue()
    parsing = Thread(target=_parse_tokenizer, args=(checkpoint, parsed), name="gptoss tokenizer")
    with thread_errors("a thread"):
        parsing.start()
    try:
        with _tensors_named(checkpoint):
            engine = _core.Engine(
                checkpoint.config,
                tensors_by_role(checkpoint.config, checkpoint.tensors),
                checkpoint.config.eos_token_ids,
                device=device,
                threads=n_threads,
                precision=precision,
                dense=held,
                context_length=n_context,
                max_step_tokens=n_step,
                max_sequences=n_sequences,
                kv_memory_bytes=kv_bytes,
                kv_cache_dtype=kv_cache_dtype,
                speculative=speculative == "ngram",
                cpu_experts=n_cpu_experts,
            )
        for note in _placement_notes(checkpoint, engine, available):
            print(f"gptoss: {checkpoint.name}: {note}", file=sys.stderr)
        check_scales(checkpoint)
    finally:
        found = parsed.get()
    if isinstance(found, BaseException):
        raise found
    store = None if files is None else _page_store(files, engine, checkpoint)
    adapters = AdapterReader(checkpoint.config, checkpoint.tensors)
    return LLM(engine, checkpoint.config, found, checkpoint.name, store, adapters)


def _dense_form(
    checkpoint: Checkpoint,
    device: str,
    precision: Precision,
    dense: DenseOption,
    kv_cache_dtype: KvCacheDtype,
    context_length: int,
    step_tokens: int,
    available_bytes: int,
) -> Dense:
    """Choose what dense="auto" means, and say so, or that the weights will not stay in memory."""
    first = next((name for name, available, _ in _core.backends() if available), None)
    if (first if device == "auto" else device) != "cpu":
        return "bf16" if dense == "auto" else dense
    config = checkpoint.config
    in_q8_0 = matrices_held_in_q8_0(checkpoint.tensors)
    tokens = min(context_length or USUAL_CONTEXT_TOKENS, config.max_position_embeddings)
    forms = residencies(
        lambda form: estimate_config(
            checkpoint.name,
            config,
            tokens,
            precision=precision,
            dense=form,
            kv_cache_dtype=kv_cache_dtype,
            chunk_tokens=min(step_tokens, tokens),
            layout="hf",
            q8_0=in_q8_0,
        ),
        available_bytes,
        precision,
    )
    held = form_that_stays(forms) if dense == "auto" else dense
    read = decode_bytes(
        config, precision=precision, dense=held, kv_cache_dtype=kv_cache_dtype, q8_0=in_q8_0
    )
    note = residency_note(forms, held, read, is_auto=dense == "auto")
    if note is not None:
        print(f"gptoss: {checkpoint.name}: {note}", file=sys.stderr)
    return held


def _placement_notes(
    checkpoint: Checkpoint, engine: _core.Engine, available_bytes: int
) -> Iterator[str]:
    """What lies where, unless it is all in one place."""
    places = engine.layer_places
    if places:
        yield "layers " + ", ".join(
            f"{layer_range(begin, end)} on {device}, {size / 1e9:.1f} GB"
            for device, begin, end, size in places
        )
    if engine.cpu_experts > 0:
        where = "the GPUs" if places else "the GPU"
        yield _cpu_experts_note(checkpoint, engine.cpu_experts, available_bytes, where)


def _cpu_experts_note(
    checkpoint: Checkpoint, n_layers: int, available_bytes: int, where: str
) -> str:
    """Which experts are not on the GPU."""
    roles = tensors_by_role(checkpoint.config, checkpoint.tensors)
    size = sum(
        roles[role].nbytes
        for layer in range(n_layers)
        for role in roles
        if role.startswith(f"layers.{layer}.experts.")
    )
    note = (
        f"experts of {n_layers} of {checkpoint.config.num_hidden_layers} layers in RAM "
        f"({size / 1e9:.1f} GB), where the CPU computes them, all else on {where}"
    )
    if size <= available_bytes:
        return note
    return (
        f"{note}; only {available_bytes / 1e9:.1f} GB of RAM are available, so they will be read "
        "from the disk again and again (docs/memory.md)"
    )


def _page_files(folder: str | os.PathLike[str] | None, max_bytes: int | None) -> PageFiles | None:
    if folder is None:
        if max_bytes is not None:
            raise ValueError("prefix_cache_bytes goes with prefix_cache_dir, which is not given")
        return None
    if not isinstance(folder, (str, os.PathLike)):
        raise TypeError(f"prefix_cache_dir must be a path, got {folder!r}")
    if not os.fspath(folder):
        raise ValueError("prefix_cache_dir must not be empty")
    return PageFiles(
        folder, count_or_zero("prefix_cache_bytes", max_bytes, 2**63 - 1) or PREFIX_CACHE_BYTES
    )


def _page_store(files: PageFiles, engine: _core.Engine, checkpoint: Checkpoint) -> PageStore:
    """Bind the pages to everything that their bits depend on beside the tokens."""
    parts = [
        checkpoint_identity(checkpoint),
        engine.arithmetic.encode(),
        engine.kv_layout.encode(),
        repr(engine.page_bytes).encode(),
        # The kernels as they were compiled, and the functions that they take from the system.
        _core_digest(),
        " ".join(platform.libc_ver()).encode(),
    ]
    identity = hashlib.sha256(b"".join(len(part).to_bytes(8, "little") + part for part in parts))
    windows = [0, checkpoint.config.sliding_window]
    return PageStore(files, identity.digest(), engine.page_bytes, windows[: len(engine.page_bytes)])


@functools.cache  # of the file that was imported, also if another one comes in its place
def _core_digest() -> bytes:
    return hashlib.sha256(Path(_core.__file__).read_bytes()).digest()


@contextmanager
def _tensors_named(checkpoint: Checkpoint) -> Iterator[None]:
    """Name the file and the tensor in errors of the core, which knows its role."""
    try:
        yield
    except CheckpointError as error:
        role, _, what = str(error).partition(": ")
        source = tensors_by_role(checkpoint.config, checkpoint.tensors).get(role)
        if source is None:
            raise
        name = next(name for name, other in checkpoint.tensors.items() if other is source)
        raise CheckpointError(f"{source.path}: tensor {name}: {what}") from error


def _parse_tokenizer(
    checkpoint: Checkpoint, parsed: SimpleQueue[tokenizer.Tokenizer | BaseException | None]
) -> None:
    file = checkpoint.tokenizer_json
    try:
        parsed.put(None if file is None else tokenizer.Tokenizer(file))
    except BaseException as error:  # whatever it is, it is the caller's
        parsed.put(error)


@overload
def generate(prompts: str | Sequence[int], *, model: str, **params: Any) -> GenerationResult: ...
@overload
def generate(prompts: Sequence[Prompt], *, model: str, **params: Any) -> list[GenerationResult]: ...
def generate(
    prompts: Any, *, model: str | os.PathLike[str], **params: Any
) -> GenerationResult | list[GenerationResult]:
    """Load a model, generate, and let the model go.

    Every call loads anew, with the defaults of `load`: for more than one call, or for another way
    of loading, keep what `load` returns.

    Parameters
    ----------
    prompts
        As for `LLM.generate`.
    model : str or path
        As for `load`.
    **params
        Fields of `SamplingParams`.

    Returns
    -------
    GenerationResult, or a list of them for a list
        In the order of the prompts.

    Raises
    ------
    ValueError, TypeError
        A parameter is out of range or unknown, before the model is loaded; or as for
        `LLM.generate`.
    CheckpointError, MemoryError
        As for `load`.
    """
    SamplingParams(**params)  # a mistake is found before the model is loaded
    with load(model) as llm:
        return cast("GenerationResult | list[GenerationResult]", llm.generate(prompts, **params))
