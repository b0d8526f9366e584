"""Driving the model through an answer: tokens in, deltas and the result out."""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections import deque
from collections.abc import Coroutine, Iterator
from types import TracebackType
from typing import Any, Protocol

from gptoss.chat.messages import (
    ChatMessage,
    ChatMessages,
    Prompt,
    assistant_start,
    header,
    is_call,
    message_list,
)
from gptoss.chat.result import (
    SEPARATOR,
    ChatDelta,
    ChatFinishReason,
    ChatResult,
    DeltaKind,
    ToolCall,
    ToolCallDelta,
)
from gptoss.config import ModelConfig
from gptoss.engine.outputs import (
    FinishReason,
    GenerationChunk,
    Timings,
    TokenLogprob,
    Usage,
)
from gptoss.engine.sampling import SamplingParams
from gptoss.engine.stop_strings import StopStrings
from gptoss.harmony import (
    Author,
    HarmonyEncoding,
    Message,
    Role,
    StreamableParser,
    StreamState,
    TextContent,
)

# Added to the logits of the only tokens that are allowed: far more than logits differ by, and
# little enough for their differences to survive in float32. A higher temperature would overcome it.
_ALLOW = 1000.0
_ALLOW_TEMPERATURE = 10.0


class TokenStream(Protocol):
    """One request's tokens, as `LLM.stream` gives them."""

    def __next__(self) -> GenerationChunk: ...
    def __anext__(self) -> Coroutine[Any, Any, GenerationChunk]: ...

    def close(self) -> None:
        """Cancel the request."""


class Model(Protocol):
    """What a chat needs of an `LLM`."""

    @property
    def name(self) -> str: ...
    @property
    def config(self) -> ModelConfig: ...
    @property
    def context_length(self) -> int: ...
    @property
    def harmony(self) -> HarmonyEncoding: ...
    def stream(self, prompt: Any, params: SamplingParams | None = None) -> TokenStream: ...


@dataclasses.dataclass
class _Part:
    """A message of the answer while it is read."""

    kind: DeltaKind
    message: Message
    pieces: list[str] = dataclasses.field(default_factory=list)  # of what was shown
    length: int = 0  # characters of its text that have been read
    call: ToolCall | None = None  # without its arguments

    @property
    def text(self) -> str:
        return "".join(self.pieces)


class ChatStream(Iterator[ChatDelta]):
    """An answer, as it comes; made by `LLM.chat(stream=True)` and `LLM.achat(stream=True)`.

    To iterate over with `for` or `async for`. Closing it, dropping it, or cancelling the task that
    waits for it, cancels the request.

    Attributes
    ----------
    result : ChatResult or None
        All of it, once the last delta has come.
    """

    def __init__(
        self,
        model: Model,
        messages: ChatMessages,
        prompt: Prompt,
        params: SamplingParams,
        max_reasoning_tokens: int | None,
    ) -> None:
        self.result: ChatResult | None = None
        self._model = model
        self._encoding = encoding = model.harmony
        self._messages: list[ChatMessage] = message_list(messages)
        self._max_reasoning_tokens = max_reasoning_tokens
        self._head = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": model.name,
        }
        self._start_s = self._first_s = self._last_s = time.perf_counter()

        # Stop tokens are decided on here: <|end|> goes on, whatever the checkpoint's config says.
        ends = {*encoding.stop_tokens_for_assistant_actions(), *model.config.eos_token_ids}
        ends.discard(encoding.special_id("<|end|>"))
        self._params = dataclasses.replace(
            params,
            stop=(),
            stop_token_ids=(*sorted(ends), *params.stop_token_ids),
            ignore_eos=True,
        )
        self._stop_strings = StopStrings(params.stop)

        self._parser = StreamableParser(encoding, Role.ASSISTANT, strict=False)
        self._parts: list[_Part] = []
        self._open: _Part | None = None  # the one whose content is read
        self._parsed = 0  # messages of the parser that have been taken
        self._ended_by: ChatFinishReason | None = None
        self._deltas: deque[ChatDelta] = deque()
        self._has_delta = False
        self._shown: set[str] = set()  # what has text: kinds of deltas, and "content"

        self._token_ids: list[int] = []
        self._logprobs: list[TokenLogprob] = []
        self._generated = 0
        self._reasoning_tokens = 0
        self._cached_tokens = 0

        self._prompt = prompt.token_ids
        self._openings = prompt.openings
        if not self._openings:
            is_final = max_reasoning_tokens == 0
            self._openings = [header(encoding, "final") if is_final else []]
        self._settled = 0  # tokens that all the openings have in common
        self._tokens: TokenStream
        self._settle_opening()

    def __next__(self) -> ChatDelta:
        while not self._deltas:
            if self._ended_by is not None:
                raise StopIteration
            try:
                self._take(next(self._tokens))
            except BaseException:
                self.close()
                raise
        return self._deltas.popleft()

    def __aiter__(self) -> ChatStream:
        return self

    async def __anext__(self) -> ChatDelta:
        while not self._deltas:
            if self._ended_by is not None:
                raise StopAsyncIteration
            try:
                self._take(await self._tokens.__anext__())
            except BaseException:
                self.close()
                raise
        return self._deltas.popleft()

    def close(self) -> None:
        """Cancel the request if it is not finished; there will be no more deltas."""
        self._tokens.close()
        self._deltas.clear()
        self._ended_by = self._ended_by or "stop"

    def drain(self) -> ChatResult:
        """Take all that is left, and return the result."""
        with self:
            for _ in self:
                pass
        if self.result is None:
            raise RuntimeError("the stream was closed before its end")
        return self.result

    async def drain_async(self) -> ChatResult:
        """As `drain`, for asyncio."""
        with self:
            async for _ in self:
                pass
        return self.drain()

    def __enter__(self) -> ChatStream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # -- tokens --------------------------------------------------------------------------

    def _settle_opening(self) -> None:
        """Ask the model for a token at which the openings differ, or begin its answer."""
        openings, params = self._openings, self._params
        while len(openings) > 1:
            allowed = {opening[self._settled] for opening in openings}
            if len(allowed) > 1:
                # Penalties and stop tokens would compete with the bias.
                choosing = SamplingParams(
                    max_tokens=1,
                    temperature=min(params.temperature, _ALLOW_TEMPERATURE),
                    top_p=params.top_p,
                    top_k=params.top_k,
                    min_p=params.min_p,
                    seed=params.seed,
                    ignore_eos=True,
                    logit_bias={
                        token: params.logit_bias.get(token, 0.0) + _ALLOW for token in allowed
                    },
                )
                self._tokens = self._model.stream(
                    [*self._prompt, *openings[0][: self._settled]], choosing
                )
                return
            self._settled += 1
        (opening,) = openings
        self._prompt = [*self._prompt, *opening]
        self._tokens = self._model.stream(self._prompt, self._params)
        for token in opening:
            self._parser.process(token)
        self._follow()

    def _take(self, chunk: GenerationChunk) -> None:
        if len(self._openings) > 1:
            self._tokens.close()
            (chosen,) = chunk.token_ids
            self._openings = [o for o in self._openings if o[self._settled] == chosen]
            self._settled += 1
            self._settle_opening()
            return
        self._last_s = time.perf_counter()
        if not self._generated:
            self._first_s = self._last_s
            self._cached_tokens = chunk.cached_tokens
        self._logprobs += chunk.logprobs or ()
        for token in chunk.token_ids:
            self._generated += 1
            self._token_ids.append(token)
            is_special = self._encoding.is_special_token(token)
            if chunk.finish_reason == "stop" and not is_special:
                break  # one of the user's own stop tokens, which is not part of the text
            if self._is_reasoning() and not is_special:
                self._reasoning_tokens += 1
            self._parser.process(token)
            self._follow()
        if self._ended_by is not None:
            self._finish(self._ended_by)
        elif chunk.finish_reason is not None:
            self._end_of_tokens(chunk.finish_reason)
        elif (
            self._max_reasoning_tokens is not None
            and self._is_reasoning()
            and self._reasoning_tokens >= self._max_reasoning_tokens
        ):
            self._force_final()

    def _is_reasoning(self) -> bool:
        return self._open is not None and self._open.kind == "reasoning"

    def _force_final(self) -> None:
        """End the reasoning, and have the model continue with its answer."""
        encoding = self._encoding
        self._tokens.close()
        end = encoding.special_id("<|end|>")
        forced = [*assistant_start(encoding), *header(encoding, "final")]
        self._token_ids += [end, *forced]
        if self._params.logprobs is not None:
            self._logprobs += [TokenLogprob(token, 0.0) for token in (end, *forced)]
        part = self._open
        assert part is not None
        text = _text(self._parser.process(end).messages[-1])
        # A character that was cut in two is not shown.
        self._add(part, text[part.length :].rstrip("\ufffd"))
        self._complete(part)
        self._parsed += 1
        for token in forced:
            self._parser.process(token)
        self._follow()

        prompt = [*self._prompt, *self._token_ids]
        if len(prompt) >= self._model.context_length:
            self._finish("length")
            return
        params = self._params
        changed: dict[str, Any] = {}
        if params.max_tokens is not None:
            changed["max_tokens"] = params.max_tokens - self._generated
        if params.seed is not None:
            # Random numbers depend on the seed and the index in the output, which begins anew.
            changed["seed"] = (params.seed + self._generated) % 2**64
        self._tokens = self._model.stream(prompt, dataclasses.replace(params, **changed))

    # -- messages ------------------------------------------------------------------------

    def _follow(self) -> None:
        """Take what the last token has changed in the parser."""
        parser = self._parser
        messages = parser.messages
        while self._parsed < len(messages) and self._ended_by is None:
            message = messages[self._parsed]
            self._parsed += 1
            part = self._open or self._begin(message)
            self._add(part, _text(message)[part.length :])
            self._complete(part)
        if parser.state is not StreamState.CONTENT or self._ended_by is not None:
            return
        if self._open is not None:
            self._add(self._open, parser.last_content_delta or "")
            return
        author = Author(parser.current_role or Role.ASSISTANT)
        message = Message(
            author,
            [],
            parser.current_channel,
            parser.current_recipient,
            parser.current_content_type,
        )
        self._open = self._begin(message)
        self._add(self._open, parser.current_content)

    def _begin(self, message: Message) -> _Part:
        part = _Part(_kind(message), message)
        if message.author.role is not Role.ASSISTANT:
            # The model begins to speak for somebody else: its own turn is over.
            self._ended_by = "stop"
            return part
        self._parts.append(part)
        if part.kind == "tool_call":
            assert message.recipient is not None
            part.call = ToolCall(f"call_{secrets.token_hex(12)}", message.recipient, "")
            self._show(part, "")
        return part

    def _add(self, part: _Part, text: str) -> None:
        part.length += len(text)
        if self._ended_by is not None or not text:
            return
        if part.kind == "text":
            text = self._stop_strings.push(text)
        if text:
            self._show(part, text)
        if self._stop_strings.found is not None:
            self._ended_by = "stop"

    def _complete(self, part: _Part) -> None:
        self._open = None
        if self._ended_by is not None:
            return
        if part.kind == "text" and (rest := self._stop_strings.flush()):
            self._show(part, rest)
        # Whatever token ended it: the turn is over with the answer, or with a call.
        if part.kind == "tool_call":
            self._ended_by = "tool_calls"
        elif part.message.channel == "final":
            self._ended_by = "stop"

    def _show(self, part: _Part, text: str) -> None:
        """Emit a delta; `text` is empty for the beginning of a call."""
        is_first = not part.pieces
        part.pieces.append(text)
        # OpenAI's content is preamble and text together.
        field = "reasoning" if part.kind == "reasoning" else "content"
        openai: dict[str, Any] = {} if self._has_delta else {"role": "assistant"}
        self._has_delta = True
        delta: dict[str, Any] = {}
        if part.call is not None:
            index = sum(other.call is not None for other in self._parts) - 1
            call = part.call if is_first else None
            delta["tool_call"] = ToolCallDelta(
                index=index,
                id=None if call is None else call.id,
                name=None if call is None else call.name,
                arguments=text,
            )
            piece = {"function": {"arguments": text}} if call is None else call.to_openai()
            openai["tool_calls"] = [{"index": index, **piece}]
        elif is_first:
            for shown, name in ((delta, part.kind), (openai, field)):
                shown[name] = SEPARATOR + text if name in self._shown else text
            self._shown |= {part.kind, field}
        else:
            delta[part.kind] = openai[field] = text
        self._deltas.append(ChatDelta(part.kind, **delta, _head=self._head, _openai=openai))

    # -- the end -------------------------------------------------------------------------

    def _end_of_tokens(self, reason: FinishReason) -> None:
        """End without a stop token of the format: take what there is."""
        self._parser.process_eos()
        self._follow()
        self._finish(reason)

    def _finish(self, reason: ChatFinishReason) -> None:
        self._tokens.close()
        self._ended_by = reason
        usage = Usage(
            prompt_tokens=len(self._prompt),
            completion_tokens=self._generated,
            reasoning_tokens=self._reasoning_tokens,
            cached_tokens=self._cached_tokens,
        )
        to_first_s = self._first_s - self._start_s
        after_first_s = self._last_s - self._first_s
        result = ChatResult(
            text=self._joined("text"),
            reasoning=self._joined("reasoning"),
            preamble=self._joined("preamble"),
            tool_calls=[
                dataclasses.replace(part.call, arguments=part.text)
                for part in self._parts
                if part.call is not None
            ],
            finish_reason=reason,
            usage=usage,
            timings=Timings(
                time_to_first_token_s=to_first_s,
                prompt_tps=len(self._prompt) / to_first_s if to_first_s > 0 else 0.0,
                generation_tps=(
                    (self._generated - 1) / after_first_s if after_first_s > 0 else 0.0
                ),
            ),
            token_ids=self._token_ids,
            prompt_token_ids=self._prompt,
            logprobs=None if self._params.logprobs is None else self._logprobs,
            repairs=self._parser.repairs,
            harmony_messages=[
                dataclasses.replace(part.message, content=[TextContent(part.text)])
                for part in self._parts
                if part.call is None or reason == "tool_calls"
            ],
            messages=[],
            _head=self._head,
            _content=self._joined("preamble", "text"),
        )
        self.result = dataclasses.replace(result, messages=[*self._messages, result.message])
        openai = {} if self._has_delta else {"role": "assistant"}
        end = ChatDelta("end", finish_reason=reason, usage=usage, _head=self._head, _openai=openai)
        self._deltas.append(end)

    def _joined(self, *kinds: DeltaKind) -> str:
        texts = (part.text for part in self._parts if part.kind in kinds)
        return SEPARATOR.join(text for text in texts if text)


def _kind(message: Message) -> DeltaKind:
    """Where a message of the assistant goes: told by its header alone, never by its text."""
    if is_call(message):
        return "tool_call"
    if message.channel == "analysis":
        return "reasoning"
    return "preamble" if message.channel == "commentary" else "text"


def _text(message: Message) -> str:
    """The text of a message that the parser made."""
    (content,) = message.content
    assert isinstance(content, TextContent)
    return content.text
