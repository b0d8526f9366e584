"""Text and token ids in, text and token ids out: a model below every format of chat."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from gptoss._progress import ProgressBar
from gptoss.config import ModelConfig
from gptoss.engine.constraints import is_constraint
from gptoss.engine.loop import EngineLoop
from gptoss.engine.outputs import GenerationResult
from gptoss.engine.request import Batch, Completion, EngineParams, Request
from gptoss.engine.sampling import SamplingParams
from gptoss.options import PROMPTS_PER_SEQUENCE, count_or_zero
from gptoss.trace import Trace, TracePlan

if TYPE_CHECKING:
    from gptoss.tokenizer import Tokenizer

Prompt: TypeAlias = str | Sequence[int] | npt.NDArray[np.integer[Any]]


class TextEngine:
    """What `LLM` does with prompts, under the same names and with the same errors.

    It checks prompts, turns strings into token ids, and begins and awaits what the engine runs.
    """

    def __init__(
        self, loop: EngineLoop, config: ModelConfig, tokenizer: Tokenizer | None, name: str
    ) -> None:
        self._loop = loop
        self._config = config
        self._vocab_size = config.vocab_size
        self._tokenizer = tokenizer
        self._name = name

    @property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's tokenizer; ValueError if it has none."""
        if self._tokenizer is None:
            raise ValueError(
                f"{self._name} has no tokenizer.json, so text cannot be used: pass token ids, or "
                "put the file into the checkpoint's folder"
            )
        return self._tokenizer

    def generate(
        self, prompts: Any, params: SamplingParams, progress: bool
    ) -> GenerationResult | list[GenerationResult]:
        """Continue one prompt, or several together, and wait for them in this thread."""
        with self._batch(prompts, params, progress) as (batch, bar):
            while batch.advance():
                batch.take(batch.mailbox.get())
                bar.advance(finished=batch.finished)
            results = batch.results()
        return results[0] if _is_one_prompt(prompts) else results

    async def agenerate(
        self, prompts: Any, params: SamplingParams, progress: bool
    ) -> GenerationResult | list[GenerationResult]:
        """Continue one prompt, or several together, and wait for them in this task."""
        with self._batch(prompts, params, progress) as (batch, bar):
            while batch.advance():
                batch.take(await batch.mailbox.get_async())
                bar.advance(finished=batch.finished)
            results = batch.results()
        return results[0] if _is_one_prompt(prompts) else results

    def submit(self, prompt: Prompt, params: SamplingParams, model: object) -> Request:
        """Begin to continue a prompt, and return at once; the request keeps `model` alive."""
        self._loop.check_usable()
        ids = self._checked_prompt(prompt, params)
        engine_params = EngineParams(params, self._loop)
        completion = Completion(self._loop, ids, engine_params, self._tokenizer)
        return Request(completion, model)

    def logits(
        self,
        token_ids: Prompt,
        positions: Any = None,
        chunk_tokens: int | None = None,
        adapter: str | None = None,
    ) -> npt.NDArray[np.float32]:
        """Compute the logits at `positions` of a text, (len(positions), V)."""
        ids = self._prompt(token_ids)
        # Looked at before so many logits are made room for.
        ascending, where = np.unique(self._positions(ids, positions), return_inverse=True)
        most = self._loop.max_step_tokens
        chunk = count_or_zero("chunk_tokens", chunk_tokens, most) or most
        logits = np.empty((len(ascending), self._vocab_size), np.float32)
        params = EngineParams(SamplingParams(adapter=adapter), self._loop).first
        places = ascending.astype(np.int32)
        self._loop.read(
            lambda engine, sequence: engine.submit_logits(
                sequence, ids, places, chunk, logits, params
            )
        )
        in_order = len(where) == len(ascending) and bool(np.all(where[:-1] < where[1:]))
        return logits if in_order else logits[where]

    def trace(
        self, text: Prompt, layers: Any, positions: Any, what: Any, max_bytes: int, steer: Any
    ) -> Trace:
        """Compute a text and keep what is inside the layers."""
        params = EngineParams(SamplingParams(steer=steer), self._loop).first
        ids = self._prompt(text)
        plan = TracePlan.make(
            self._config, ids, self._positions(ids, positions), layers, what, max_bytes
        )
        arrays = plan.allocate()
        chunk = min(plan.step_tokens, self._loop.max_step_tokens)
        self._loop.read(
            lambda engine, sequence: engine.submit_trace(
                sequence,
                plan.tokens,
                plan.positions,
                chunk,
                plan.layers,
                plan.keys,
                arrays,
                params,
            )
        )
        return plan.result(arrays)

    def _positions(self, ids: npt.NDArray[np.int32], positions: Any) -> npt.NDArray[np.int64]:
        """Positions of a text that is read, counted from its beginning."""
        count, longest = len(ids), self._loop.context_length
        if count > longest:
            raise ValueError(f"the sequence has {count} tokens, more than the context of {longest}")
        wanted = np.arange(count) if positions is None else _integers("positions", positions)
        for position in wanted:
            if not -count <= position < count:
                raise ValueError(
                    f"positions must be in [{-count}, {count}) for {count} tokens, got {position}"
                )
        return wanted % max(count, 1)

    @contextlib.contextmanager
    def _batch(
        self, prompts: Any, params: SamplingParams, progress: bool
    ) -> Iterator[tuple[Batch, ProgressBar]]:
        """Check all prompts; cancel what is not finished in the end."""
        self._loop.check_usable()
        engine_params = EngineParams(params, self._loop)

        def check(prompt: Prompt) -> npt.NDArray[np.int32]:
            ids = self._checked_prompt(prompt, params)
            self._loop.check_request(ids, engine_params.first)
            return ids

        if _is_one_prompt(prompts):
            checked = [check(prompts)]
        else:
            if is_constraint(params.constraint) and len(prompts) > 1:
                raise ValueError(
                    f"a constraint decides on one sequence: for {len(prompts)} prompts, pass a "
                    "function that makes one for each"
                )
            checked = []
            for index, prompt in enumerate(prompts):
                try:
                    checked.append(check(prompt))
                except TypeError as error:
                    raise TypeError(f"prompts[{index}]: {error}") from error
                except ValueError as error:
                    raise ValueError(f"prompts[{index}]: {error}") from error

        def begin(prompt: npt.NDArray[np.int32]) -> Completion:
            return Completion(self._loop, prompt, engine_params, self._tokenizer)

        batch = Batch(begin, checked, PROMPTS_PER_SEQUENCE * self._loop.max_sequences)
        try:
            with ProgressBar(len(checked), shown=progress) as bar:
                yield batch, bar
        finally:
            batch.cancel()

    def _checked_prompt(self, prompt: Prompt, params: SamplingParams) -> npt.NDArray[np.int32]:
        ids = self._prompt(prompt)
        if params.stop:
            self.tokenizer  # noqa: B018  raises if there is none
        return ids

    def _prompt(self, prompt: Prompt) -> npt.NDArray[np.int32]:
        if isinstance(prompt, str):
            return np.asarray(self.tokenizer.encode(prompt), dtype=np.int32)
        return self._token_ids(prompt)

    def _token_ids(self, values: Any) -> npt.NDArray[np.int32]:
        ids = _integers("token ids", values)
        outside = np.flatnonzero((ids < 0) | (ids >= self._vocab_size))
        if len(outside):
            raise ValueError(
                f"token id {ids[outside[0]]} at position {outside[0]} lies outside the vocabulary "
                f"of {self._vocab_size}"
            )
        return ids.astype(np.int32)


def _is_one_prompt(prompts: Any) -> bool:
    """Whether this is one prompt, not a list of them."""
    if isinstance(prompts, str) or hasattr(prompts, "__array__"):
        return True
    if not isinstance(prompts, Sequence) or isinstance(prompts, (bytes, bytearray)):
        raise TypeError(
            f"prompts must be a string, token ids or a list of either, got {type(prompts).__name__}"
        )
    if prompts and isinstance(prompts[0], Mapping):
        raise TypeError("prompts must be strings or token ids, got messages, which chat takes")
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
