"""Driving the model through an answer: tokens in, deltas and the result out."""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections import deque
from collections.abc import Coroutine, Iterator
from types import TracebackType
from typing import Any, Protocol

from gptoss.chat import openai
from gptoss.chat.channels import (
    CHANNEL_OF,
    Kind,
    call_in_text,
    may_be_call,
    read_header,
)
from gptoss.chat.declarations import clean_recipient
from gptoss.chat.messages import (
    ChatMessages,
    Prompt,
    assistant_start,
    call_fields,
    header,
    list_messages,
)
from gptoss.chat.result import (
    ChatDelta,
    ChatFinishReason,
    ChatResult,
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
    Repair,
    Role,
    StreamableParser,
    StreamState,
    TextContent,
)
from gptoss.harmony.header import RepairKind
from gptoss.harmony.recipients import Recipients

# Added to the logits of the only tokens that are allowed: far more than logits differ by, and
# little enough for their differences to survive in float32. A higher temperature would overcome it.
_ALLOW = 1000.0
_ALLOW_TEMPERATURE = 10.0

# What stands on no channel has to wait for the end of the turn: if a final message comes, it was
# none. If it goes on for longer than this, it is taken for the answer, so that it can be read.
_DOUBT_TOKENS = 512


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


@dataclasses.dataclass(eq=False)
class _Part:
    """A message of the answer while it is read.

    Attributes
    ----------
    kind : str or None
        What it is; None while that depends on what follows.
    message : Message
        Its header.
    is_answer : bool
        Of no certain kind, but on a channel that most likely means the final one.
    prefix : str
        What of its text stood in the prompt.
    pieces : list of str
        What was shown of its text.
    unshown : list of str
        What was read, and will be shown.
    length, shown : int
        Characters that were read, and shown; of the prefix too.
    tokens : int
        Tokens of its text.
    logprobs : list of (int, TokenLogprob)
        Those of its tokens that are not shown yet, each with the length before it.
    call : ToolCall or None
        Without its arguments.
    """

    kind: Kind | None
    message: Message
    is_answer: bool = False
    prefix: str = ""
    pieces: list[str] = dataclasses.field(default_factory=list)
    unshown: list[str] = dataclasses.field(default_factory=list)
    length: int = 0
    shown: int = 0
    tokens: int = 0
    logprobs: list[tuple[int, TokenLogprob]] = dataclasses.field(default_factory=list)
    call: ToolCall | None = None

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
        self._messages = list_messages(messages)
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

        self._declared = prompt.declared
        self._recipients = Recipients(prompt.declared.recipients)
        self._parser = StreamableParser(
            encoding, Role.ASSISTANT, strict=False, recipients=prompt.declared.recipients
        )
        self._repairs: list[Repair] = []  # besides the parser's
        self._parts: list[_Part] = []  # as they were written
        self._shown: list[_Part] = []  # as they were shown: what is in doubt has to wait
        self._undecided: list[_Part] = []
        self._open: _Part | None = None  # the one whose content is read
        self._parsed = 0  # messages of the parser that have been taken
        self._ended_by: ChatFinishReason | None = None
        self._deltas: deque[ChatDelta] = deque()
        self._writer = openai.DeltaWriter()

        self._token_ids: list[int] = []
        self._logprobs: list[TokenLogprob] = []
        self._loose: list[TokenLogprob] = []  # of tokens in a header, which may turn out content
        self._content_logprobs: list[Any] = []
        self._processed = 0  # tokens that the parser has taken
        self._generated = 0
        self._cached_tokens = 0

        self._prompt = prompt.token_ids
        self._continued = prompt.continued
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

    @property
    def harmony(self) -> HarmonyEncoding:
        """The model's encoding."""
        return self._encoding

    @property
    def room_tokens(self) -> int:
        """How many tokens the context has left after what has come."""
        return self._model.context_length - len(self._prompt) - len(self._token_ids)

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
            self._process(token)
        self._follow(is_prompt=True)

    def _take(self, chunk: GenerationChunk) -> None:
        if len(self._openings) > 1:
            self._tokens.close()
            (chosen,) = chunk.token_ids
            self._openings = [o for o in self._openings if o[self._settled] == chosen]
            if not self._openings:
                raise ValueError(
                    f"tool_choice: the model chose token {chosen}, which begins none of the tools' "
                    "names: logit_bias must not ban all of them"
                )
            self._settled += 1
            self._settle_opening()
            return
        self._last_s = time.perf_counter()
        if not self._generated:
            self._first_s = self._last_s
            self._cached_tokens = chunk.cached_tokens
        start = self._encoding.special_id("<|start|>")
        logprobs = chunk.logprobs or []
        self._logprobs += logprobs
        for index, token in enumerate(chunk.token_ids):
            self._generated += 1
            self._token_ids.append(token)
            is_special = self._encoding.is_special_token(token)
            if chunk.finish_reason == "stop" and not is_special:
                break  # one of the user's own stop tokens, which is not part of the text
            if not is_special:
                self._count(logprobs[index] if logprobs else None)
            self._process(token)
            self._follow()
            if token == start or self._parser.state is not StreamState.HEADER:
                self._loose.clear()
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

    def _count(self, logprob: TokenLogprob | None) -> None:
        """Take note of a token that is no special one, before it is processed."""
        part = self._open
        if part is not None:
            part.tokens += 1
        if logprob is not None and part is not None:
            part.logprobs.append((part.length, logprob))
        elif logprob is not None:
            self._loose.append(logprob)

    def _process(self, token: int) -> None:
        self._processed += 1
        self._parser.process(token)

    def _is_reasoning(self) -> bool:
        return self._open is not None and self._open.kind == "reasoning"

    @property
    def _reasoning_tokens(self) -> int:
        return sum(part.tokens for part in self._parts if part.kind == "reasoning")

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
        self._process(end)
        text = _text(self._parser.messages[-1])
        # A character that was cut in two is not shown.
        self._add(part, text[part.length :].rstrip("\ufffd"))
        self._complete(part)
        self._parsed += 1
        for token in forced:
            self._process(token)
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

    def _follow(self, is_prompt: bool = False) -> None:
        """Take what the last token has changed in the parser.

        If `is_prompt`, the text that there is stood in the prompt, and is not the model's.
        """
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
        text = parser.current_content
        self._open = self._begin(message)
        if is_prompt:
            self._open.prefix = text
            self._open.length = self._open.shown = len(text)
        else:
            self._add(self._open, text)

    def _begin(self, message: Message) -> _Part:
        """Begin a message."""
        if message.author.role is not Role.ASSISTANT:
            # The model begins to speak for somebody else: its own turn is over.
            self._ended_by = "stop"
            return _Part(None, message)
        reading = read_header(message, self._parser.header_repairs)
        if reading.misread is not None:
            self._repair("bad_channel", reading.misread)
        part = _Part(reading.kind, message, is_answer=reading.is_answer)
        part.logprobs = [(0, logprob) for logprob in self._claimed()]
        if part.kind == "tool_call":
            assert message.recipient is not None
            recipient = message.recipient
            if recipient not in self._recipients:
                recipient = clean_recipient(recipient)
                if recipient != message.recipient:
                    self._repair("bad_recipient", message.recipient)
            self._parts.append(part)
            self._begin_call(part, recipient)
            return part
        if part.kind is not None:
            self._settle(part, part.kind)
        self._parts.append(part)
        if part.kind == "text":
            self._decide(is_answered=True)
        return part

    def _begin_call(self, part: _Part, recipient: str) -> None:
        self._decide(is_answered=True)
        part.kind = "tool_call"
        is_builtin = recipient in self._declared.builtin
        part.call = ToolCall(f"call_{secrets.token_hex(12)}", recipient, "", is_builtin)
        channel = part.message.channel or call_fields(recipient)[0]
        part.message = dataclasses.replace(part.message, channel=channel, recipient=recipient)
        self._show(part, "")

    def _claimed(self) -> list[TokenLogprob]:
        """The logprobs of tokens that stood where a header should, and are content."""
        left_bytes = self._parser.header_content_bytes
        claimed: list[TokenLogprob] = []
        while self._loose and left_bytes > 0:
            claimed.append(self._loose.pop())
            left_bytes -= len(self._encoding.piece(claimed[-1].token_id) or b"")
        return claimed[::-1]

    def _add(self, part: _Part, text: str) -> None:
        part.length += len(text)
        if self._ended_by is not None or not text:
            return
        part.unshown.append(text)
        if part.kind is None and part.tokens > _DOUBT_TOKENS:
            self._decide(is_answered=True)
            self._settle(part, "text")
        if part.kind is None or self._may_be_call(part):
            return
        self._release(part)
        if self._stop_strings.found is not None:
            self._ended_by = "stop"

    def _may_be_call(self, part: _Part) -> bool:
        """Whether nothing but a call that is written as JSON has come."""
        is_possible = part.kind in ("reasoning", "preamble") and not (part.pieces or part.prefix)
        begun = next((piece for piece in part.unshown if not piece.isspace()), "")
        return is_possible and bool(self._recipients) and may_be_call(begun)

    def _release(self, part: _Part, *, is_end: bool = False) -> None:
        """Show what was read; at the end of a message also what might become a stop string."""
        text = "".join(part.unshown)
        part.unshown.clear()
        if part.kind == "text":
            text = self._stop_strings.push(text)
            if is_end:
                text += self._stop_strings.flush()
        if text:
            self._show(part, text)

    def _complete(self, part: _Part) -> None:
        self._open = None
        if self._ended_by is not None:
            return
        if self._is_unnamed_call(part):
            found = call_in_text("".join(part.unshown), self._recipients)
            if found is not None:
                self._name_call(part, *found)
            elif part.kind == "preamble":
                self._settle(part, "reasoning")  # it was for a tool, not for the user
        if part.kind is None:
            self._undecided.append(part)
            return
        # Whatever token ended it: the turn is over with the answer, or with a call.
        self._release(part, is_end=True)
        if part.kind == "tool_call":
            self._ended_by = "tool_calls"
        elif part.kind == "text":
            self._ended_by = "stop"

    def _is_unnamed_call(self, part: _Part) -> bool:
        """Whether a call's end was written after a message that goes to nobody."""
        repairs = self._parser.repairs
        return (
            bool(part.unshown)
            and part.kind != "tool_call"
            and bool(repairs)
            and repairs[-1].kind == "missing_recipient"
            and repairs[-1].index == self._processed - 1
        )

    def _name_call(self, part: _Part, recipient: str, arguments: str) -> None:
        """Make a call of a message that is one in its text."""
        self._repair("bad_recipient", "".join(part.unshown))
        part.unshown = [arguments]
        channel, _, content_type = call_fields(recipient)
        part.message = dataclasses.replace(part.message, channel=channel, content_type=content_type)
        self._begin_call(part, recipient)

    def _decide(self, *, is_answered: bool) -> None:
        """Tell what the messages are whose channel did not say it.

        Only in a turn without an answer or a call one of them is taken for the answer: the last
        whose channel seems to mean that, or what the turn ended with.
        """
        parts, self._undecided = self._undecided, []
        answer = None
        if parts and not is_answered:
            last = parts[-1] if parts[-1] is self._parts[-1] else None
            answer = next((part for part in reversed(parts) if part.is_answer), last)
        for part in parts:
            if part is not answer and part.message.channel is None:
                self._repair("missing_channel", "")
            self._settle(part, "text" if part is answer else "reasoning")
            self._release(part, is_end=True)

    def _settle(self, part: _Part, kind: Kind) -> None:
        part.kind = kind
        part.message = dataclasses.replace(part.message, channel=CHANNEL_OF[kind])

    def _repair(self, kind: RepairKind, text: str) -> None:
        self._repairs.append(Repair(kind, max(0, self._processed - 1), text))

    def _show(self, part: _Part, text: str) -> None:
        """Emit a delta; `text` is empty for the beginning of a call."""
        kind = part.kind
        assert kind is not None
        is_first = not part.pieces
        if is_first:
            self._shown.append(part)
        part.pieces.append(text)
        part.shown += len(text)
        delta: dict[str, Any] = {}
        logprobs: list[Any] | None = None
        if part.call is not None:
            index = sum(other.call is not None for other in self._parts) - 1
            call = part.call if is_first else None
            delta["tool_call"] = ToolCallDelta(
                index=index,
                id=None if call is None else call.id,
                name=None if call is None else call.name,
                arguments=text,
            )
            shape = self._writer.call(index, None if call is None else call.to_openai(), text)
        else:
            is_next = is_first and any(p.kind == kind for p in self._shown[:-1])
            delta[kind] = openai.SEPARATOR + text if is_next else text
            # OpenAI's content is preamble and text together.
            field = "reasoning" if kind == "reasoning" else "content"
            shape = self._writer.text(field, text, is_first=is_first)
            if field == "content" and self._params.logprobs is not None:
                logprobs = self._shown_logprobs(part)
                self._content_logprobs += logprobs
        self._deltas.append(
            ChatDelta(kind, **delta, _head=self._head, _openai=shape, _logprobs=logprobs)
        )

    def _shown_logprobs(self, part: _Part) -> list[Any]:
        """The logprobs of the tokens whose text, or the beginning of it, has now been shown."""
        ready = [logprob for start, logprob in part.logprobs if start < part.shown]
        del part.logprobs[: len(ready)]
        return openai.logprob_dicts(self._encoding, ready)

    # -- the end -------------------------------------------------------------------------

    def _end_of_tokens(self, reason: FinishReason) -> None:
        """End without a stop token of the format: take what there is."""
        self._parser.process_eos()
        self._follow()
        self._finish(reason)

    def _finish(self, reason: ChatFinishReason) -> None:
        self._tokens.close()
        self._decide(is_answered=any(part.kind in ("text", "tool_call") for part in self._parts))
        if self._stop_strings.found is not None:
            reason = "stop"
        self._ended_by = reason
        usage = Usage(
            prompt_tokens=len(self._prompt),
            completion_tokens=self._generated,
            reasoning_tokens=self._reasoning_tokens,
            cached_tokens=self._cached_tokens,
        )
        to_first_s = self._first_s - self._start_s
        after_first_s = self._last_s - self._first_s
        tool_calls = [
            dataclasses.replace(part.call, arguments=part.text)
            for part in self._parts
            if part.call is not None
        ]
        message = self._message([call.to_openai() for call in tool_calls], reason)
        before = self._messages[:-1] if self._continued else self._messages
        has_logprobs = self._params.logprobs is not None
        self.result = ChatResult(
            text=self._joined("text"),
            reasoning=self._joined("reasoning"),
            preamble=self._joined("preamble"),
            tool_calls=tool_calls,
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
            logprobs=self._logprobs if has_logprobs else None,
            repairs=sorted(
                [*self._parser.repairs, *self._repairs], key=lambda repair: repair.index
            ),
            harmony_messages=[
                dataclasses.replace(part.message, content=[TextContent(part.prefix + part.text)])
                for part in self._parts
                if part.call is None or reason == "tool_calls"
            ],
            messages=[*before, message],
            message=message,
            _head=self._head,
            _content=self._joined("preamble", "text"),
            _content_logprobs=self._content_logprobs if has_logprobs else None,
        )
        shape = self._writer.end()
        end = ChatDelta("end", finish_reason=reason, usage=usage, _head=self._head, _openai=shape)
        self._deltas.append(end)

    def _joined(self, *kinds: Kind) -> str:
        texts = (part.text for part in self._shown if part.kind in kinds)
        return openai.SEPARATOR.join(text for text in texts if text)

    def _message(self, calls: list[dict[str, Any]], reason: ChatFinishReason) -> dict[str, Any]:
        """The assistant's message, with what there was of it if it was continued."""
        texts: dict[Kind | None, list[str]] = {kind: [] for kind in CHANNEL_OF}
        # The last of the earlier ones is the first of the parts.
        for message in self._continued[:-1]:
            kind = read_header(message, []).kind
            if kind in texts:
                texts[kind].append(_text(message))
        first = self._parts[:1] if self._continued else []
        for part in dict.fromkeys([*first, *self._shown]):
            if part.kind in texts:
                texts[part.kind].append(part.prefix + part.text)
        joined = {
            kind: openai.SEPARATOR.join(text for text in found if text)
            for kind, found in texts.items()
        }
        return openai.message_dict(
            joined["text"],
            joined["reasoning"],
            joined["preamble"],
            calls if reason == "tool_calls" else [],
        )


def _text(message: Message) -> str:
    """The text of a message that the parser made."""
    (content,) = message.content
    assert isinstance(content, TextContent)
    return content.text
