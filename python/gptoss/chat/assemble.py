"""Putting an answer together: tokens in, deltas and messages out."""

from __future__ import annotations

import dataclasses
import secrets
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gptoss.chat import openai
from gptoss.chat.channels import (
    CHANNEL_OF,
    Kind,
    call_in_text,
    may_be_call,
    read_header,
)
from gptoss.chat.declarations import Declared, clean_recipient
from gptoss.chat.format import message_header
from gptoss.chat.messages import ChatMessage, Prompt, call_fields
from gptoss.chat.result import (
    ChatDelta,
    ChatFinishReason,
    ChatResult,
    ToolCall,
    ToolCallDelta,
)
from gptoss.engine.outputs import Timings, TokenLogprob, Usage
from gptoss.engine.stop_strings import StopStrings
from gptoss.harmony import (
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

# What stands on no channel has to wait for the end of the turn: if a final message comes, it was
# none. If it goes on for longer than this, it is taken for the answer, so that it can be read.
_DOUBT_TOKENS = 512


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


class Assembler:
    """Reads the tokens of an answer as they come.

    Parameters
    ----------
    encoding : HarmonyEncoding
        The model's.
    declared : Declared
        The tools that may be called.
    head : dict
        What all dicts of the OpenAI API have in common.
    stop : sequence of str
        The answer's text ends before the first of these.
    has_logprobs : bool
        Whether they were asked for.
    index : int
        Which of the samples of a prompt it is.

    Attributes
    ----------
    deltas : deque of ChatDelta
        Those that are ready.
    ended_by : str or None
        Why the answer is over; None while it goes on.
    """

    def __init__(
        self,
        encoding: HarmonyEncoding,
        declared: Declared,
        head: dict[str, Any],
        stop: Sequence[str],
        *,
        has_logprobs: bool,
        index: int = 0,
    ) -> None:
        self.deltas: deque[ChatDelta] = deque()
        self.ended_by: ChatFinishReason | None = None
        self._encoding = encoding
        self._declared = declared
        self._recipients = Recipients(declared.recipients)
        self._parser = StreamableParser(
            encoding, Role.ASSISTANT, strict=False, recipients=declared.recipients
        )
        self._processed = 0  # tokens that the parser has taken
        self._parsed = 0  # messages of the parser that have been taken
        self._repairs: list[Repair] = []  # besides the parser's
        self._parts: list[_Part] = []  # as they were written
        self._shown: list[_Part] = []  # as they were shown: what is in doubt has to wait
        self._undecided: list[_Part] = []
        self._open: _Part | None = None  # the one whose content is read
        self._stop_strings = StopStrings(stop)
        self._head = head
        self._index = index
        self._writer = openai.DeltaWriter()
        self._loose: list[TokenLogprob] = []  # of tokens in a header, which may turn out content
        self._content_logprobs: list[Any] | None = [] if has_logprobs else None
        self._reasoning_logprobs: list[TokenLogprob] | None = [] if has_logprobs else None

    # -- tokens --------------------------------------------------------------------------

    def open(self, token_ids: Iterable[int]) -> None:
        """Take what was opened for the model, which is no part of what it says."""
        for token in token_ids:
            self._process(token)
        self._follow(is_prompt=True)

    def take(self, token: int, logprob: TokenLogprob | None, *, is_format: bool = False) -> None:
        """Take a token; `is_format` if it is not the model's: the end of its reasoning."""
        encoding = self._encoding
        if not is_format and not encoding.is_special_token(token):
            self._count(logprob)
        self._process(token)
        # What the format ends may be in the middle of a character.
        self._follow(is_cut=is_format)
        is_start = token == encoding.special_id("<|start|>")
        if is_start or self._parser.state is not StreamState.HEADER:
            self._loose.clear()

    def end(self, reason: ChatFinishReason) -> None:
        """End without a token of the format that does so: take what there is."""
        self._parser.process_eos()
        self._follow()
        self.close(reason)

    def close(self, reason: ChatFinishReason) -> None:
        """Tell what everything is: no more tokens come."""
        self._decide(is_answered=any(part.kind in ("text", "tool_call") for part in self._parts))
        self.ended_by = "stop" if self._stop_strings.found is not None else reason

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

    # -- messages ------------------------------------------------------------------------

    def _follow(self, *, is_prompt: bool = False, is_cut: bool = False) -> None:
        """Take what the last token has changed in the parser.

        If `is_prompt`, the text that there is stood in the prompt, and is not the model's. If
        `is_cut`, a character that is not complete is not shown.
        """
        parser = self._parser
        messages = parser.messages
        while self._parsed < len(messages) and self.ended_by is None:
            message = messages[self._parsed]
            self._parsed += 1
            part = self._open or self._begin(message)
            text = _text(message)[part.length :]
            self._add(part, text.rstrip("\ufffd") if is_cut else text)
            self._complete(part)
        if parser.state is not StreamState.CONTENT or self.ended_by is not None:
            return
        if self._open is not None:
            self._add(self._open, parser.last_content_delta or "")
            return
        text = parser.current_content
        self._open = self._begin(message_header(parser))
        if is_prompt:
            self._open.prefix = text
            self._open.length = self._open.shown = len(text)
        else:
            self._add(self._open, text)

    def _begin(self, message: Message) -> _Part:
        """Begin a message."""
        if message.author.role is not Role.ASSISTANT:
            # The model begins to speak for somebody else: its own turn is over.
            self.ended_by = "stop"
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
        if self.ended_by is not None or not text:
            return
        part.unshown.append(text)
        if part.kind is None and part.tokens > _DOUBT_TOKENS:
            self._decide(is_answered=True)
            self._settle(part, "text")
        if part.kind is None or self._may_be_call(part):
            return
        self._release(part)
        if self._stop_strings.found is not None:
            self.ended_by = "stop"

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
        if self.ended_by is not None:
            return
        if self._is_unnamed_call(part):
            text = "".join(part.unshown)
            found = call_in_text(text, self._recipients)
            if found is not None:
                self._name_call(part, *found)
            elif part.kind in (None, "preamble") and may_be_call(text):
                self._settle(part, "reasoning")  # it was for a tool, not for the user
        if part.kind is None:
            self._undecided.append(part)
            return
        # Whatever token ended it: the turn is over with the answer, or with a call.
        self._release(part, is_end=True)
        if part.kind == "tool_call":
            self.ended_by = "tool_calls"
        elif part.kind == "text":
            self.ended_by = "stop"

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
        has_logprobs = self._content_logprobs is not None
        entries = self._shown_logprobs(part) if has_logprobs else None
        if kind == "reasoning" and self._reasoning_logprobs is not None and entries is not None:
            self._reasoning_logprobs += entries
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
            if field == "content" and self._content_logprobs is not None and entries is not None:
                logprobs = openai.logprob_dicts(self._encoding, entries)
                self._content_logprobs += logprobs
        self.deltas.append(
            ChatDelta(
                kind,
                **delta,
                index=self._index,
                logprobs=entries,
                _head=self._head,
                _openai=shape,
                _logprobs=logprobs,
            )
        )

    def _shown_logprobs(self, part: _Part) -> list[TokenLogprob]:
        """The logprobs of the tokens whose text, or the beginning of it, has now been shown."""
        ready = [logprob for start, logprob in part.logprobs if start < part.shown]
        del part.logprobs[: len(ready)]
        return ready

    # -- the end -------------------------------------------------------------------------

    @property
    def reasoning_tokens(self) -> int:
        """Tokens of reasoning, without markup."""
        return sum(part.tokens for part in self._parts if part.kind == "reasoning")

    def result(
        self,
        before: Sequence[ChatMessage],
        prompt: Prompt,
        usage: Usage,
        timings: Timings,
        token_ids: list[int],
        prompt_token_ids: list[int],
        logprobs: list[TokenLogprob] | None,
    ) -> ChatResult:
        """All of the answer, once it is closed.

        Parameters
        ----------
        before : sequence of dict or Message
            The conversation that it answers.
        prompt : Prompt
            What was made of that.
        usage, timings, token_ids, prompt_token_ids, logprobs
            As in `ChatResult`.
        """
        reason = self.ended_by
        assert reason is not None
        tool_calls = [
            dataclasses.replace(part.call, arguments=part.text)
            for part in self._parts
            if part.call is not None
        ]
        calls = [call.to_openai() for call in tool_calls] if reason == "tool_calls" else []
        message = self._message(calls, prompt.continued)
        return ChatResult(
            text=self._joined("text"),
            reasoning=self._joined("reasoning"),
            preamble=self._joined("preamble"),
            tool_calls=tool_calls,
            finish_reason=reason,
            usage=usage,
            timings=timings,
            token_ids=token_ids,
            prompt_token_ids=prompt_token_ids,
            logprobs=logprobs,
            repairs=sorted(
                [*self._parser.repairs, *self._repairs], key=lambda repair: repair.index
            ),
            harmony_messages=[
                dataclasses.replace(part.message, content=[TextContent(part.prefix + part.text)])
                for part in self._parts
                if part.call is None or reason == "tool_calls"
            ],
            messages=[*(before[:-1] if prompt.continued else before), message],
            message=message,
            _head=self._head,
            _content=self._joined("preamble", "text"),
            _content_logprobs=self._content_logprobs,
            reasoning_logprobs=self._reasoning_logprobs,
        )

    def add_end(self, usage: Usage, total: Usage | None) -> None:
        """Add the last delta; `total` is the usage of all samples, if this is the last of them."""
        shape = self._writer.end()
        self.deltas.append(
            ChatDelta(
                "end",
                finish_reason=self.ended_by,
                usage=usage,
                index=self._index,
                _head=self._head,
                _openai=shape,
                _total=total,
            )
        )

    def _joined(self, *kinds: Kind) -> str:
        texts = (part.text for part in self._shown if part.kind in kinds)
        return openai.SEPARATOR.join(text for text in texts if text)

    def _message(
        self, calls: Sequence[Mapping[str, Any]], continued: Sequence[Message]
    ) -> dict[str, Any]:
        """The assistant's message, with what there was of it if it was continued."""
        texts: dict[Kind | None, list[str]] = {kind: [] for kind in CHANNEL_OF}
        # The last of the earlier ones is the first of the parts.
        for message in continued[:-1]:
            kind = read_header(message, []).kind
            if kind in texts:
                texts[kind].append(_text(message))
        first = self._parts[:1] if continued else []
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
            calls,
        )


def _text(message: Message) -> str:
    """The text of a message that the parser made."""
    (content,) = message.content
    assert isinstance(content, TextContent)
    return content.text
