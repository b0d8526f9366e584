"""`LLM`, the front of the house: text, tokens and conversations in and out of a loaded model."""

from __future__ import annotations

import dataclasses
import os
import weakref
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, cast, overload

import numpy as np
import numpy.typing as npt

from gptoss import _core
from gptoss.adapters import AdapterReader
from gptoss.chat import (
    ChatMessages,
    ChatResult,
    ChatStream,
    Functions,
    begin,
    build_prompt,
    run_steps,
)
from gptoss.config import ModelConfig
from gptoss.engine.loop import EngineLoop
from gptoss.engine.outputs import EngineStats, GenerationResult
from gptoss.engine.page_store import PageStore
from gptoss.engine.request import Request
from gptoss.engine.sampling import SamplingParams
from gptoss.harmony import (
    Conversation,
    HarmonyEncoding,
    Message,
    ToolDescription,
    ToolNamespaceConfig,
)
from gptoss.text_engine import Prompt, TextEngine
from gptoss.trace import Trace, What

if TYPE_CHECKING:
    from gptoss.tokenizer import Tokenizer


class LLM:
    """A loaded model; made by `load`.

    It may be used from several threads at the same time: their requests are computed together,
    and each is the same as alone. It cannot be used in a forked process. As a context manager it
    is closed at the end.
    """

    def __init__(
        self,
        engine: _core.Engine,
        config: ModelConfig,
        tokenizer: Tokenizer | None,
        name: str,
        store: PageStore | None = None,
        adapters: AdapterReader | None = None,
    ) -> None:
        self._loop = EngineLoop(engine, store)
        self._config = config
        self._text = TextEngine(self._loop, config, tokenizer, name)
        self._name = name
        self._adapters = adapters
        self._context_length = engine.context_length
        self._description = engine.description
        # Also at the end of the process, before the thread is stopped in the middle of a step; and
        # once more after a close that was interrupted.
        weakref.finalize(self, self._loop.close)

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
        self._loop.close()

    @property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's tokenizer; ValueError if it has none."""
        return self._text.tokenizer

    @cached_property
    def harmony(self) -> HarmonyEncoding:
        """Harmony on the checkpoint's tokenizer; ValueError if that lacks its special tokens."""
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

    @property
    def max_sequences(self) -> int:
        """Most sequences that are computed at a time; others wait."""
        return self._loop.max_sequences

    def load_adapter(self, name: str, path: str | os.PathLike[str]) -> None:
        """Load a LoRA adapter, for requests that name it (`adapter=`).

        Parameters
        ----------
        name : str
            What requests call it; of no other adapter that is loaded.
        path : str or path
            A folder as PEFT's `save_pretrained` makes it, with adapter_config.json and
            adapter_model.safetensors: changes of attention, router, experts, embedding and
            unembedding.

        Raises
        ------
        CheckpointError
            There is no such folder, a file is damaged, the adapter is of another base model, or
            it has what is not LoRA: `modules_to_save`, DoRA, biases.
        ValueError, TypeError
            There is an adapter of this name, or an argument is of the wrong type.
        BackendError
            The device has no adapters.
        MemoryError
            Its factors, held in float32, do not fit.

        Notes
        -----
        May be called while requests run, from any thread. A request with an adapter shares no
        prefix with one that has another or none, and its results do not depend on what others
        have.
        """
        if not isinstance(name, str):
            raise TypeError(f"name must be a string, got {name!r}")
        if not name or not name.isprintable():
            raise ValueError(f"name must be printable and not empty, got {name!r:.100}")
        if self._adapters is None:
            raise ValueError("this model was not made by gptoss.load: it takes no adapters")
        if name in self._loop.adapter_names:  # before a large file is read
            raise ValueError(f"there is an adapter named {name!r} already: unload it first")
        adapter = self._adapters.read(path)
        self._loop.load_adapter(name, adapter.changes, adapter.digest)

    def unload_adapter(self, name: str) -> None:
        """Let an adapter go; requests that have it are computed with it to their end.

        Parameters
        ----------
        name : str
            As `load_adapter` was given it; it can be given to another from now on.

        Raises
        ------
        ValueError
            There is no adapter of this name.
        """
        self._loop.unload_adapter(name)

    @property
    def adapters(self) -> tuple[str, ...]:
        """The names of the adapters that are loaded."""
        return self._loop.adapter_names

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
        return self._text.generate(prompts, _merged(params, overrides), progress)

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
        """Continue one prompt, or several together, in asyncio.

        Cancelling the task cancels its requests.

        Parameters
        ----------
        prompts, params, progress, **overrides
            As for `generate`.

        Returns
        -------
        GenerationResult, or a list of them for a list
            In the order of the prompts.

        Raises
        ------
        ValueError, TypeError
            As for `generate`; before the first prompt begins.
        """
        return await self._text.agenerate(prompts, _merged(params, overrides), progress)

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
        return self._text.submit(prompt, _merged(params, overrides), self)

    def stream(
        self, prompt: Prompt, params: SamplingParams | None = None, **overrides: Any
    ) -> Request:
        """Continue a prompt token by token: `submit`, for those who iterate over it.

        Parameters
        ----------
        prompt, params, **overrides
            As for `generate`.

        Returns
        -------
        Request
            An iterator of `GenerationChunk`, one for each token; closing or dropping it cancels it.

        Raises
        ------
        ValueError, TypeError
            As for `generate`; at once, not at the first token.

        Examples
        --------
        >>> for chunk in llm.stream("Once upon a time"):
        ...     print(chunk.text, end="", flush=True)
        """
        return self.submit(prompt, params, **overrides)

    def astream(
        self, prompt: Prompt, params: SamplingParams | None = None, **overrides: Any
    ) -> Request:
        """Continue a prompt token by token: `submit`, for those who use `async for`.

        Not a coroutine: what it returns is iterated over, not awaited, to have the tokens.

        Parameters
        ----------
        prompt, params, **overrides
            As for `generate`.

        Returns
        -------
        Request
            An asynchronous iterator of `GenerationChunk`, one for each token; cancelling the task
            that waits for it, or dropping it, cancels it.

        Raises
        ------
        ValueError, TypeError
            As for `generate`; at once, not at the first token.

        Examples
        --------
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
        tool_choice: str | Mapping[str, Any] | None = "auto",
        reasoning_effort: str | None = "medium",
        developer: str | None = None,
        builtin_tools: Iterable[str | ToolNamespaceConfig] | None = (),
        current_date: str | date | None = None,
        knowledge_cutoff: str | None = "2024-06",
        response_format: Mapping[str, Any] | None = None,
        max_tokens: int | None = None,
        max_reasoning_tokens: int | None = None,
        continue_final_message: bool = False,
        stream: bool = False,
        **sampling: Any,
    ) -> ChatResult | ChatStream:
        """Answer a conversation.

        Parameters
        ----------
        messages : str, list of dict, or Harmony messages or conversation
            Messages of the OpenAI chat API; a string is one of the user. Text of the roles system
            and developer becomes Harmony's developer message; an assistant's `reasoning` is shown
            to the model until the turn that it belongs to has its answer.
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
            What the answer must be, whatever the model says, unless it is cut: {"type":
            "json_schema", "json_schema": {"name": ..., "schema": ...}}, {"type": "json_object"},
            {"type": "regex", "pattern": ...}, {"type": "grammar", "syntax": "lark", "definition":
            ...}, or {"type": "text"}: anything. Reasoning is free, and so are calls of tools, but
            for the arguments of those that are "strict". The grammar is compiled here, in
            milliseconds; the first of a model takes a second.
        max_tokens : int, optional
            Most tokens to generate, reasoning included.
        max_reasoning_tokens : int, optional
            After so many tokens of reasoning it is ended, and the final answer begun, for the
            model; 0 begins with the answer.
        continue_final_message : bool
            Have the model go on with the last message, which must be the assistant's: the result
            has what it adds, and in `messages` the whole. Without it that message is complete, and
            the model begins another.
        stream : bool
            Return a `ChatStream`, an iterator of `ChatDelta`.
        **sampling
            Fields of `SamplingParams`, which replace those of `params`. `stop` applies to the
            answer's text. With `n` there are several answers: deltas have their `index`, and the
            result is the first of its `samples`.

        Returns
        -------
        ChatResult or ChatStream

        Raises
        ------
        ValueError, TypeError
            A message, tool or parameter is not as it should be, the conversation does not fit
            into the context, or the tokenizer lacks the special tokens of Harmony. A schema has a
            keyword that cannot be enforced.
        ImportError
            There is a `response_format` or a strict tool, and llguidance is not installed.

        Notes
        -----
        The answer ends with <|return|>, <|call|> or the checkpoint's other stop tokens but
        <|end|>, and in any case after a final message or a call.
        """
        if max_tokens is not None:
            sampling["max_tokens"] = max_tokens
        answer = begin(
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
            continue_final_message=continue_final_message,
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
        """Answer a conversation, in asyncio.

        Cancelling the task cancels the request.

        Parameters
        ----------
        messages, params, stream, **chat
            As for `chat`.

        Returns
        -------
        ChatResult or ChatStream
            A `ChatStream` is an asynchronous iterator of `ChatDelta`.

        Raises
        ------
        ValueError, TypeError
            As for `chat`.

        Examples
        --------
        >>> async for delta in await llm.achat(messages, stream=True):
        ...     print(delta.text, end="", flush=True)
        """
        if chat.get("response_format") is None and chat.get("tools") is None:
            answer = self.chat(messages, params, stream=True, **chat)
        else:  # what compiles a grammar holds up no event loop
            import asyncio  # imported where it is used: most programs do without

            answer = await asyncio.to_thread(
                lambda: self.chat(messages, params, stream=True, **chat)
            )
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
            reads: a string as it is, anything else as JSON; no more than fits into half of what
            the context has left. If it raises, or the call or its arguments' types are wrong, the
            model is given the error message.
        max_steps : int
            How often the model is asked, at most.
        **chat
            As for `chat`, but for `tools` and `stream`. A `tool_choice` that forces a call holds
            for the first step.

        Returns
        -------
        ChatResult
            Of the last step; its `messages` have all the calls and answers. Its `finish_reason`
            is "tool_calls" if `max_steps` was reached before there was an answer, and "length" if
            the conversation has outgrown the context.

        Raises
        ------
        ValueError, TypeError
            As for `chat`; or a function cannot be described.
        """
        steps = run_steps(self.chat, messages, tools, max_steps, **chat)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                return cast("ChatResult", end.value)

    def logits(
        self,
        token_ids: Prompt,
        positions: Sequence[int] | npt.NDArray[np.integer[Any]] | None = None,
        chunk_tokens: int | None = None,
        *,
        adapter: str | None = None,
    ) -> npt.NDArray[np.float32]:
        """Compute the model's logits for a text that is given.

        Parameters
        ----------
        token_ids : str or sequence of int
            The text, T tokens; a string is encoded as for `generate`.
        positions : sequence of int, optional
            Where logits are wanted; position p gives those of the token after token p. Negative
            ones count from the end. None means all, 0.8 MB each with the published vocabulary.
        chunk_tokens : int, optional
            Most tokens to compute at once, up to the `max_step_tokens` of `load`, the default.
        adapter : str, optional
            The name of an adapter that is loaded; None is the model as it is.

        Returns
        -------
        numpy.ndarray
            (len(positions), V) float32, unnormalised.

        Raises
        ------
        ValueError
            `token_ids` is empty or longer than the context, or a value is out of range; a string
            came and there is no tokenizer; there is no such adapter.

        Notes
        -----
        It is computed beside running requests, as one more of them.
        """
        return self._text.logits(token_ids, positions, chunk_tokens, adapter)

    def trace(
        self,
        text: Prompt | ChatMessages,
        layers: Iterable[int] | None = None,
        what: What | Iterable[What] = ("hidden", "router", "attention", "experts"),
        *,
        positions: Sequence[int] | npt.NDArray[np.integer[Any]] | None = None,
        steer: Mapping[int, npt.ArrayLike] | None = None,
        max_bytes: int = 1 << 30,
    ) -> Trace:
        """Compute a text and look inside: hidden states, routing, attention.

        Parameters
        ----------
        text : str, sequence of int, or messages
            The text, T tokens; a string is encoded as for `generate`, messages as `chat` would
            put them before the model. The tokens of an answer follow those of its prompt:
            `[*result.prompt_token_ids, *result.token_ids]`.
        layers : iterable of int, optional
            From 0; negative ones count from the end. None means all.
        what : str or iterable of {"hidden", "router", "attention", "experts"}
            What is kept of each layer.
        positions : sequence of int, optional
            Where it is kept; negative ones count from the end. None means all. Tokens behind the
            last one are not computed.
        steer : mapping of int to array, optional
            As in `SamplingParams`.
        max_bytes : int
            Most bytes that the arrays may take.

        Returns
        -------
        Trace
            Of numpy arrays.

        Raises
        ------
        ValueError
            The text is empty or longer than the context, a value is out of range, or the arrays
            would be larger than `max_bytes`; the device is not one that can be looked into.
        TypeError
            A value is of the wrong type.

        Notes
        -----
        The text is computed beside running requests, as one more of them, and whole: what is
        cached is not used. Attention's shares are computed from the queries and from the keys as
        the KV cache holds them, in float64 (on a GPU in float32), beside the kernel that makes the
        output of it.

        Examples
        --------
        >>> trace = llm.trace("Once upon a time", layers=[0, -1], what="experts")
        >>> print(trace.experts.shape)
        """
        prompt: Any = text
        if isinstance(prompt, Conversation) or (
            isinstance(prompt, Sequence) and prompt and isinstance(prompt[0], (Mapping, Message))
        ):
            prompt = build_prompt(self.harmony, prompt).token_ids
        return self._text.trace(prompt, layers, positions, what, max_bytes, steer)


def _merged(params: SamplingParams | None, overrides: dict[str, Any]) -> SamplingParams:
    if params is None:
        return SamplingParams(**overrides)
    if not isinstance(params, SamplingParams):
        raise TypeError(f"params must be a SamplingParams, got {type(params).__name__}")
    return dataclasses.replace(params, **overrides)
