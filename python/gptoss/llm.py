"""Loading a model, and text and tokens in and out of it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast, get_args, overload

import numpy as np
import numpy.typing as npt

from gptoss import _core
from gptoss.checkpoint import Checkpoint, check_scales, open_checkpoint
from gptoss.checkpoint.convert import Dtype
from gptoss.checkpoint.memory import Dense, KvCacheDtype, Precision, check_modes
from gptoss.checkpoint.open import Experts
from gptoss.config import ModelConfig
from gptoss.engine.loop import EngineLoop
from gptoss.engine.outputs import EngineStats, GenerationResult
from gptoss.engine.request import Batch, Completion, Request
from gptoss.engine.sampling import SamplingParams
from gptoss.errors import BackendError

if TYPE_CHECKING:
    from datetime import date

    from gptoss.chat import ChatMessages, ChatResult, ChatStream, Functions
    from gptoss.harmony import HarmonyEncoding, ToolDescription, ToolNamespaceConfig
    from gptoss.tokenizer import Tokenizer

Speculative = Literal["ngram"]
Prompt: TypeAlias = str | Sequence[int] | npt.NDArray[np.integer[Any]]

# New tokens in a step: long prompts are computed in pieces of this size. Bounds the workspace, and
# how long a running request waits for a new one's prompt.
_STEP_TOKENS = 512
_MAX_SEQUENCES = 16
# Prompts of a list that are with the engine at a time: those that run, and enough waiting ones that
# it never runs dry while this thread looks at its results.
_WINDOW_PROMPTS = 4 * _MAX_SEQUENCES
_MAX_INT = 2**31 - 1


def load(
    path_or_repo: str | os.PathLike[str],
    device: str = "auto",
    threads: int | None = None,
    precision: Precision = "auto",
    dense: Dense = "bf16",
    context_length: int | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
    experts: Experts = "as_stored",
    kv_cache_memory: int | None = None,
    kv_cache_dtype: KvCacheDtype = "auto",
    speculative: Speculative | None = None,
    dtype: Dtype = "as_stored",
) -> LLM:
    """Load a model.

    Parameters
    ----------
    path_or_repo : str or path
        A checkpoint's folder in the Hugging Face or the original layout, or a Hub id such as
        "openai/gpt-oss-20b", which is downloaded unless the Hub's local cache has it; or
        "demo", a small model that comes with gptoss.
    device : str
        "auto", or the name of a backend: "cpu". `gptoss doctor` lists them.
    threads : int, optional
        CPU threads; None takes GPTOSS_NUM_THREADS, else all CPUs that the process may use.
    precision : {"auto", "reference"}
        "auto" is fast; "reference" computes in float32 throughout and keeps a float32 KV cache.
    dense : {"bf16", "bf12", "q8"}
        How attention's matrices and the unembedding are held; the last two are made while loading
        and do not go with precision "reference". "bf16": as they are stored, mapped from the file.
        "bf12": the same numbers in 12 bits each, without loss, for the same results; a sixth less
        is read per decoded token, which helps one request at a time, and with AVX512_BF16 up to
        about four; eight or more may be slower. "q8": in int8, 32 weights to a scale; a third less
        is read, for weights that are rounded.
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
        Bytes of KV cache for all requests together, earlier ones included: what they computed is
        used again by requests that begin alike. None takes room for two requests of
        `context_length`, or what is free.
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
        The KV cache for one request of `context_length` does not fit.
    ValueError, TypeError
        An argument is out of range or of the wrong type.

    Notes
    -----
    Weights are mapped from their files, not read: pages come into memory when they are first
    used. Only the MXFP4 scales are looked at beforehand (0.6 GB for gpt-oss-20b: a tenth of a
    second if the system has them cached). While a model is loaded its files must not be written
    to: replace them by renaming new ones over them (docs/checkpoints.md).
    """
    check_modes(precision, dense, kv_cache_dtype)
    if not isinstance(device, str):
        raise TypeError(f"device must be a string, got {device!r}")
    if speculative is not None and speculative not in get_args(Speculative):
        raise ValueError(
            f"speculative must be None or one of {get_args(Speculative)}, got {speculative!r}"
        )
    n_threads = _positive("threads", threads, _MAX_INT)
    n_context = _positive("context_length", context_length, _MAX_INT)
    kv_bytes = _positive("kv_cache_memory", kv_cache_memory, 2**63 - 1)
    checkpoint = open_checkpoint(
        path_or_repo,
        revision=revision,
        local_files_only=local_files_only,
        experts=experts,
        dtype=dtype,
    )
    # Parsing the tokenizer takes a second of one CPU: the engine is made beside it.
    with ThreadPoolExecutor(max_workers=1) as beside:
        try:
            tokenizer = beside.submit(_tokenizer_of, checkpoint)
        except RuntimeError as error:
            raise BackendError(f"cannot start a thread: {error}") from error
        engine = _core.Engine(
            checkpoint.config,
            checkpoint.tensors,
            checkpoint.config.eos_token_ids,
            device=device,
            threads=n_threads,
            precision=precision,
            dense=dense,
            context_length=n_context,
            max_step_tokens=_STEP_TOKENS,
            max_sequences=_MAX_SEQUENCES,
            kv_memory_bytes=kv_bytes,
            kv_cache_dtype=kv_cache_dtype,
            speculative=speculative == "ngram",
        )
        check_scales(checkpoint)
    return LLM(engine, checkpoint.config, tokenizer.result(), checkpoint.name)


def _tokenizer_of(checkpoint: Checkpoint) -> Tokenizer | None:
    from gptoss.tokenizer import Tokenizer

    file = checkpoint.tokenizer_json
    return None if file is None else Tokenizer(file)


@overload
def generate(prompts: str | Sequence[int], *, model: str, **params: Any) -> GenerationResult: ...
@overload
def generate(prompts: Sequence[Prompt], *, model: str, **params: Any) -> list[GenerationResult]: ...
def generate(
    prompts: Any, *, model: str | os.PathLike[str], **params: Any
) -> GenerationResult | list[GenerationResult]:
    """Load a model, generate, and let the model go.

    Every call loads anew: for more than one, keep what `load` returns.

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
    """
    SamplingParams(**params)  # a mistake is found before the model is loaded
    with load(model) as llm:
        return cast("GenerationResult | list[GenerationResult]", llm.generate(prompts, **params))


class LLM:
    """A loaded model; made by `load`.

    It may be used from several threads at the same time: their requests are computed together,
    and each is the same as alone. It cannot be used in a forked process. As a context manager it
    is closed at the end.
    """

    def __init__(
        self, engine: _core.Engine, config: ModelConfig, tokenizer: Tokenizer | None, name: str
    ) -> None:
        self._loop = EngineLoop(engine)
        self._config = config
        self._tokenizer = tokenizer
        self._name = name
        self._context_length = engine.context_length
        self._description = engine.description
        # Also at the end of the process, before the thread is stopped in the middle of a step.
        self._finalizer = weakref.finalize(self, self._loop.close)
        self._loop.start()

    def __repr__(self) -> str:
        return f"LLM({self._name!r}, {self._description}, context_length={self._context_length})"

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all requests and give the memory back; the model cannot be used any more."""
        self._finalizer()

    @property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's tokenizer; ValueError if it has none."""
        if self._tokenizer is None:
            raise ValueError(
                f"{self._name} has no tokenizer.json, so text cannot be used: pass token ids, or "
                "put the file into the checkpoint's folder"
            )
        return self._tokenizer

    @cached_property
    def harmony(self) -> HarmonyEncoding:
        """Harmony on the checkpoint's tokenizer; ValueError if that lacks its special tokens."""
        from gptoss.harmony import HarmonyEncoding

        return HarmonyEncoding(self.tokenizer)

    @property
    def name(self) -> str:
        """The checkpoint's folder or Hub id."""
        return self._name

    @property
    def config(self) -> ModelConfig:
        """The model's dimensions and constants."""
        return self._config

    @property
    def description(self) -> str:
        """What computes, and with what types: device, instruction set, threads, KV cache."""
        return self._description

    @property
    def context_length(self) -> int:
        """Most tokens of a request, prompt and output together."""
        return self._context_length

    def stats(self) -> EngineStats:
        """Return counters: requests, KV cache, tokens and speed."""
        return self._loop.stats()

    @overload
    def generate(
        self,
        prompts: str | Sequence[int] | npt.NDArray[np.integer[Any]],
        params: SamplingParams | None = None,
        *,
        progress: bool = False,
        **overrides: Any,
    ) -> GenerationResult: ...
    @overload
    def generate(
        self,
        prompts: Sequence[Prompt],
        params: SamplingParams | None = None,
        *,
        progress: bool = False,
        **overrides: Any,
    ) -> list[GenerationResult]: ...
    def generate(
        self,
        prompts: Any,
        params: SamplingParams | None = None,
        *,
        progress: bool = False,
        **overrides: Any,
    ) -> GenerationResult | list[GenerationResult]:
        """Continue one prompt, or several together.

        Parameters
        ----------
        prompts : str, token ids, or a list of either
            Token ids are a sequence or a flat numpy array of integers. In a string, names of
            special tokens are plain text; `tokenizer.encode(text, allowed_special="all")` makes
            them special. A list of integers is one prompt, any other list is several.
        params : SamplingParams, optional
            None means the defaults.
        progress : bool
            Show a progress bar.
        **overrides
            Fields of `SamplingParams`, which replace those of `params`.

        Returns
        -------
        GenerationResult, or a list of them for a list
            In the order of the prompts.

        Raises
        ------
        ValueError
            A prompt is empty, holds an id outside the vocabulary, or leaves no room in the
            context (what fits into that waits for room); a parameter is out of range; a string
            came and there is no tokenizer.
        TypeError
            A prompt or parameter is of the wrong type, or the name of one is unknown.

        Notes
        -----
        All prompts are checked before the first begins. Of a long list some dozens are with the
        engine at a time. KeyboardInterrupt cancels the requests of this call and leaves the model
        usable.
        """
        with self._batch(prompts, _merged(params, overrides), progress) as (batch, bar):
            while batch.advance():
                batch.take(batch.mailbox.get())
                bar.advance(finished=batch.finished)
            results = batch.results()
        return results[0] if _is_one_prompt(prompts) else results

    @overload
    async def agenerate(
        self,
        prompts: str | Sequence[int] | npt.NDArray[np.integer[Any]],
        params: SamplingParams | None = None,
        *,
        progress: bool = False,
        **overrides: Any,
    ) -> GenerationResult: ...
    @overload
    async def agenerate(
        self,
        prompts: Sequence[Prompt],
        params: SamplingParams | None = None,
        *,
        progress: bool = False,
        **overrides: Any,
    ) -> list[GenerationResult]: ...
    async def agenerate(
        self,
        prompts: Any,
        params: SamplingParams | None = None,
        *,
        progress: bool = False,
        **overrides: Any,
    ) -> GenerationResult | list[GenerationResult]:
        """As `generate`, for asyncio; cancelling the task cancels its requests."""
        with self._batch(prompts, _merged(params, overrides), progress) as (batch, bar):
            while batch.advance():
                batch.take(await batch.mailbox.get_async())
                bar.advance(finished=batch.finished)
            results = batch.results()
        return results[0] if _is_one_prompt(prompts) else results

    def submit(
        self, prompt: Prompt, params: SamplingParams | None = None, **overrides: Any
    ) -> Request:
        """Begin to continue a prompt, and return at once.

        Parameters
        ----------
        prompt, params, **overrides
            As for `generate`.

        Returns
        -------
        Request
            To iterate over, to await, or to ask for its `result`, in a thread or in asyncio.
            Dropping it cancels it.

        Raises
        ------
        ValueError, TypeError
            As for `generate`; at once, not at the first token.
        """
        params = _merged(params, overrides)
        self._loop.check_usable()
        ids = self._prompt(prompt, params)
        return Request(Completion(self._loop, ids, params, self._tokenizer), self)

    def stream(
        self, prompt: Prompt, params: SamplingParams | None = None, **overrides: Any
    ) -> Request:
        """Continue a prompt token by token: `submit`, for those who iterate over it.

        >>> for chunk in llm.stream("Once upon a time"):
        ...     print(chunk.text, end="", flush=True)
        """
        return self.submit(prompt, params, **overrides)

    def astream(
        self, prompt: Prompt, params: SamplingParams | None = None, **overrides: Any
    ) -> Request:
        """Continue a prompt token by token: `submit`, for those who use `async for`.

        >>> async for chunk in llm.astream("Once upon a time"):
        ...     print(chunk.text, end="", flush=True)
        """
        return self.submit(prompt, params, **overrides)

    @overload
    def chat(
        self,
        messages: ChatMessages,
        params: SamplingParams | None = None,
        *,
        stream: Literal[False] = False,
        **chat: Any,
    ) -> ChatResult: ...
    @overload
    def chat(
        self,
        messages: ChatMessages,
        params: SamplingParams | None = None,
        *,
        stream: Literal[True],
        **chat: Any,
    ) -> ChatStream: ...
    def chat(
        self,
        messages: ChatMessages,
        params: SamplingParams | None = None,
        *,
        tools: Iterable[Mapping[str, Any] | ToolDescription] | None = None,
        tool_choice: str | Mapping[str, Any] = "auto",
        reasoning_effort: str = "medium",
        developer: str | None = None,
        builtin_tools: Iterable[str | ToolNamespaceConfig] = (),
        current_date: str | date | None = None,
        knowledge_cutoff: str | None = "2024-06",
        response_format: Mapping[str, Any] | None = None,
        max_tokens: int | None = None,
        max_reasoning_tokens: int | None = None,
        stream: bool = False,
        **sampling: Any,
    ) -> ChatResult | ChatStream:
        """Answer a conversation.

        Parameters
        ----------
        messages : list of dict, or Harmony messages or conversation
            Messages of the OpenAI chat API. Text of the roles system and developer becomes
            Harmony's developer message; an assistant's `reasoning` is shown to the model until
            the turn that it belongs to has its answer.
        params : SamplingParams, optional
            None means the defaults.
        tools : list of dict, optional
            Functions that the model may call, in the OpenAI API's form; `tool_schema` makes it.
        tool_choice : {"auto", "none", "required"} or dict
            "none" does not declare the tools. "required", or {"type": "function", "function":
            {"name": ...}}, opens the call for the model, which then only writes the arguments;
            if several tools are there, it first chooses among their names.
        reasoning_effort : {"low", "medium", "high"}
            How much the model is asked to think.
        developer : str, optional
            Instructions, after those of the system messages at the beginning.
        builtin_tools : sequence of {"browser", "python"}
            Tools that the model was trained with, for the caller to carry out.
        current_date : str or date, optional
            None leaves it out, so that the prompt is the same on every day.
        knowledge_cutoff : str or None
            What the model is told about it.
        response_format : dict, optional
            {"type": "text"} only.
        max_tokens : int, optional
            Most tokens to generate, reasoning included.
        max_reasoning_tokens : int, optional
            After so many tokens of reasoning it is ended, and the final answer begun, for the
            model; 0 begins with the answer.
        stream : bool
            Return a `ChatStream`, an iterator of `ChatDelta`.
        **sampling
            Fields of `SamplingParams`, which replace those of `params`. `stop` applies to the
            answer's text.

        Returns
        -------
        ChatResult or ChatStream

        Raises
        ------
        ValueError, TypeError
            A message, tool or parameter is not as it should be, the conversation does not fit
            into the context, or the tokenizer lacks the special tokens of Harmony.

        Notes
        -----
        The answer ends with <|return|>, <|call|> or the checkpoint's other stop tokens but
        <|end|>, and in any case after a final message or a call.
        """
        from gptoss import chat as module

        if max_tokens is not None:
            sampling["max_tokens"] = max_tokens
        answer = module.begin(
            self,
            messages,
            _merged(params, sampling),
            tools=tools,
            tool_choice=tool_choice,
            reasoning_effort=reasoning_effort,
            developer=developer,
            builtin_tools=builtin_tools,
            current_date=current_date,
            knowledge_cutoff=knowledge_cutoff,
            response_format=response_format,
            max_reasoning_tokens=max_reasoning_tokens,
        )
        return answer if stream else answer.drain()

    @overload
    async def achat(
        self,
        messages: ChatMessages,
        params: SamplingParams | None = None,
        *,
        stream: Literal[False] = False,
        **chat: Any,
    ) -> ChatResult: ...
    @overload
    async def achat(
        self,
        messages: ChatMessages,
        params: SamplingParams | None = None,
        *,
        stream: Literal[True],
        **chat: Any,
    ) -> ChatStream: ...
    async def achat(
        self,
        messages: ChatMessages,
        params: SamplingParams | None = None,
        *,
        stream: bool = False,
        **chat: Any,
    ) -> ChatResult | ChatStream:
        """As `chat`, for asyncio; cancelling the task cancels the request.

        >>> async for delta in await llm.achat(messages, stream=True):
        ...     print(delta.text, end="", flush=True)
        """
        answer = self.chat(messages, params, stream=True, **chat)
        return answer if stream else await answer.drain_async()

    def run(
        self, messages: ChatMessages, tools: Functions, max_steps: int = 8, **chat: Any
    ) -> ChatResult:
        """Answer a conversation with the help of Python functions.

        Parameters
        ----------
        messages
            As for `chat`.
        tools : list of functions, or dict of functions by name
            The model is shown what `tool_schema` makes of them. What one returns the model
            reads: a string as it is, anything else as JSON. If it raises, or the call is wrong,
            the model reads what the matter is.
        max_steps : int
            How often the model is asked, at most.
        **chat
            As for `chat`, but for `tools` and `stream`. A `tool_choice` that forces a call holds
            for the first step.

        Returns
        -------
        ChatResult
            Of the last step; its `messages` have all the calls and answers. Its `finish_reason`
            is "tool_calls" if `max_steps` was reached before there was an answer.

        Raises
        ------
        ValueError, TypeError
            As for `chat`; or a function cannot be described.
        """
        from gptoss.chat import run_steps

        steps = run_steps(self.chat, messages, tools, max_steps, **chat)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                return cast("ChatResult", end.value)

    def logits(
        self,
        token_ids: Sequence[int] | npt.NDArray[np.integer[Any]],
        positions: Sequence[int] | npt.NDArray[np.integer[Any]] | None = None,
        chunk_tokens: int | None = None,
    ) -> npt.NDArray[np.float32]:
        """Compute the model's logits for a text that is given.

        Parameters
        ----------
        token_ids : sequence of int
            The text, T tokens.
        positions : sequence of int, optional
            Where logits are wanted; position p gives those of the token after token p. Negative
            ones count from the end. None means all, 0.8 MB each with the published vocabulary.
        chunk_tokens : int, optional
            Most tokens to compute at once, up to 512, the default.

        Returns
        -------
        numpy.ndarray
            (len(positions), V) float32, unnormalised.

        Raises
        ------
        ValueError
            `token_ids` is empty or longer than the context, or a value is out of range.

        Notes
        -----
        It goes before running requests: they wait, and the latest of them give up their part of
        the KV cache if it is needed, to be computed again.
        """
        ids = self._token_ids(token_ids)
        count = len(ids)
        wanted = np.arange(count) if positions is None else _integers("positions", positions)
        for position in wanted:
            if not -count <= position < count:
                raise ValueError(
                    f"positions must be in [{-count}, {count}) for {count} tokens, got {position}"
                )
        ascending, where = np.unique(wanted % max(count, 1), return_inverse=True)
        limit = _STEP_TOKENS if chunk_tokens is None else chunk_tokens
        logits = self._loop.logits(
            ids, ascending.astype(np.int32), _positive("chunk_tokens", limit, _STEP_TOKENS)
        )
        in_order = len(where) == len(ascending) and bool(np.all(where[:-1] < where[1:]))
        return logits if in_order else logits[where]

    @contextlib.contextmanager
    def _batch(
        self, prompts: Any, params: SamplingParams, progress: bool
    ) -> Iterator[tuple[Batch, _ProgressBar]]:
        """Check all prompts; cancel what is not finished in the end."""
        self._loop.check_usable()
        seeded = dataclasses.replace(params, seed=0)  # the engine's parameters have one

        def check(prompt: Prompt) -> npt.NDArray[np.int32]:
            ids = self._prompt(prompt, params)
            self._loop.check_request(ids, seeded)
            return ids

        if _is_one_prompt(prompts):
            checked = [check(prompts)]
        else:
            checked = []
            for index, prompt in enumerate(prompts):
                try:
                    checked.append(check(prompt))
                except TypeError as error:
                    raise TypeError(f"prompts[{index}]: {error}") from error
                except ValueError as error:
                    raise ValueError(f"prompts[{index}]: {error}") from error

        def begin(prompt: npt.NDArray[np.int32]) -> Completion:
            return Completion(self._loop, prompt, params, self._tokenizer)

        batch = Batch(begin, checked, _WINDOW_PROMPTS)
        try:
            with _ProgressBar(len(checked), shown=progress) as bar:
                yield batch, bar
        finally:
            batch.cancel()

    def _prompt(self, prompt: Prompt, params: SamplingParams) -> npt.NDArray[np.int32]:
        if isinstance(prompt, str):
            ids = np.asarray(self.tokenizer.encode(prompt), dtype=np.int32)
        else:
            ids = self._token_ids(prompt)
        if params.stop:
            self.tokenizer  # noqa: B018  raises if there is none
        return ids

    def _token_ids(self, values: Any) -> npt.NDArray[np.int32]:
        ids = _integers("token ids", values)
        outside = np.flatnonzero((ids < 0) | (ids >= self._config.vocab_size))
        if len(outside):
            raise ValueError(
                f"token id {ids[outside[0]]} at position {outside[0]} lies outside the vocabulary "
                f"of {self._config.vocab_size}"
            )
        return ids.astype(np.int32)


class _ProgressBar:
    """Prompts done and tokens per second, if shown at all."""

    def __init__(self, total: int, *, shown: bool) -> None:
        self._bar: Any = None
        if shown:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            self._bar = Progress(
                TextColumn("Generating"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[tps]:.1f} tok/s"),
                transient=True,
            )
            self._task = self._bar.add_task("", total=total, tps=0.0)
        self._tokens = 0
        self._start_s = time.perf_counter()

    def advance(self, *, finished: int) -> None:
        """Count one token."""
        self._tokens += 1
        if self._bar is not None:
            seconds = time.perf_counter() - self._start_s
            self._bar.update(self._task, completed=finished, tps=self._tokens / seconds)

    def __enter__(self) -> _ProgressBar:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()


def _merged(params: SamplingParams | None, overrides: dict[str, Any]) -> SamplingParams:
    if params is None:
        return SamplingParams(**overrides)
    if not isinstance(params, SamplingParams):
        raise TypeError(f"params must be a SamplingParams, got {type(params).__name__}")
    return dataclasses.replace(params, **overrides)


def _is_one_prompt(prompts: Any) -> bool:
    """Whether this is one prompt, not a list of them."""
    if isinstance(prompts, str) or hasattr(prompts, "__array__"):
        return True
    if not isinstance(prompts, Sequence) or isinstance(prompts, (bytes, bytearray)):
        raise TypeError(
            f"prompts must be a string, token ids or a list of either, got {type(prompts).__name__}"
        )
    # Anything but a prompt begins a list of integers, be it one that cannot be a token.
    return bool(prompts) and not (
        isinstance(prompts[0], (str, Sequence)) or np.ndim(prompts[0]) > 0
    )


def _integers(name: str, values: Any) -> npt.NDArray[np.int64]:
    if isinstance(values, (str, bytes)):
        raise TypeError(f"{name} must be a sequence of integers, got {values!r}")
    try:
        array = np.asarray(values if hasattr(values, "__array__") else list(values))
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be a flat sequence of integers: {error}") from error
    if array.ndim != 1:
        raise TypeError(f"{name} must be a flat sequence of integers, got shape {array.shape}")
    if array.size == 0:
        return np.empty(0, np.int64)
    if array.dtype.kind not in "iu" or array.max() > np.iinfo(np.int64).max:
        raise TypeError(f"{name} must be integers of 64 bits, got {array.dtype.name}")
    return array.astype(np.int64)


def _positive(name: str, value: int | None, limit: int) -> int:
    """Check an optional argument; the core's word for None is 0."""
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if not 1 <= value <= limit:
        raise ValueError(f"{name} must be from 1 to {limit}, got {value}")
    return int(value)
