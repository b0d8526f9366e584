"""Tokens to messages, one token at a time."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from enum import Enum
from typing import Any

from .header import (
    CHANNEL_MARK,
    CHANNELS,
    CONSTRAIN_MARK,
    Header,
    LenientHeader,
    RepairKind,
    lenient_header,
    may_be_header,
    strict_header,
)
from .messages import HarmonyError, Message, Role, TextContent
from .vocabulary import Vocabulary

# A header without <|message|> is taken for content after so many tokens: a role, a channel,
# a content type and the longest function name that the API allows (64 characters) are fewer.
_MAX_HEADER_TOKENS = 64

_STOPS = ("<|end|>", "<|call|>", "<|return|>", "<|endoftext|>")


class StreamState(Enum):
    """What the parser expects."""

    EXPECT_START = "ExpectStart"
    HEADER = "Header"
    CONTENT = "Content"


@dataclass(frozen=True)
class Repair:
    """One thing that lenient parsing put right.

    `kind` is what was wrong, `index` the position in `parser.tokens`, `text` what was left
    out or read otherwise than it stood.
    """

    kind: RepairKind
    index: int
    text: str


class StreamableParser:
    """Parses the tokens of a completion as they come.

    Parameters
    ----------
    encoding : HarmonyEncoding
        Or the `Vocabulary` below it: the special tokens, and the bytes of each id.
    role : Role, optional
        The role whose header the prompt has opened; None if the tokens begin with <|start|>.
    strict : bool
        True: what openai-harmony accepts and refuses. False: repair what a model may do
        wrong, never raise, and list it in `repairs`.

    Notes
    -----
    In lenient mode the deltas of a message add up to its text: a token that ends a message
    may still bring a delta, which belongs to `messages[-1]`. In strict mode, as in
    openai-harmony, bytes that are no UTF-8 at the end of a message are in its text only.
    """

    def __init__(self, encoding: Vocabulary, role: Role | None, *, strict: bool = True) -> None:
        self._vocabulary = encoding
        self._strict = strict
        self._names = encoding.special_names
        self._texts = encoding.texts
        # Tokens that need a decision even within content.
        self._breaks = frozenset(encoding.stop_tokens() if strict else self._names)
        self._default_role = Role(role) if role is not None else Role.ASSISTANT

        self._tokens: list[int] = []
        self._messages: list[Message] = []
        self._repairs: list[Repair] = []
        self._delta: str | None = None

        self._state = StreamState.EXPECT_START if role is None else StreamState.HEADER
        self._next_role = None if role is None else Role(role)  # of the header that is read
        self._header_tokens: list[int] = []
        self._header_index = 0
        self._has_start = True  # the header that is read began with <|start|>

        self._header: Header | None = None  # of the message whose content is read
        self._in_text = False  # in content, and nothing is held back
        self._parts: list[str] = []  # of the text, one for each delta
        self._content = ""  # the first `_joined` parts
        self._joined = 0
        self._pending = bytearray()  # of a character that is not complete
        self._lost = False  # an unknown id has been met in this content (strict)
        self._held: list[int] = []  # <|channel|> in content and what followed it (lenient)
        self._held_index = 0

    # -- what there is -------------------------------------------------------------------

    @property
    def state(self) -> StreamState:
        return self._state

    @property
    def current_role(self) -> Role | None:
        return self._next_role if self._header is None else self._header.author.role

    @property
    def current_channel(self) -> str | None:
        return None if self._header is None else self._header.channel

    @property
    def current_recipient(self) -> str | None:
        return None if self._header is None else self._header.recipient

    @property
    def current_content_type(self) -> str | None:
        return None if self._header is None else self._header.content_type

    @property
    def current_content(self) -> str:
        """The text so far of the message whose content is read."""
        if self._joined < len(self._parts):
            self._content += "".join(self._parts[self._joined :])
            self._joined = len(self._parts)
        return self._content

    @property
    def last_content_delta(self) -> str | None:
        """The text that the last token added, None if it added none."""
        return self._delta

    @property
    def messages(self) -> list[Message]:
        """The messages that are complete."""
        return list(self._messages)

    @property
    def tokens(self) -> list[int]:
        return list(self._tokens)

    @property
    def repairs(self) -> list[Repair]:
        """What lenient parsing has put right so far."""
        return list(self._repairs)

    @property
    def state_data(self) -> dict[str, Any]:
        """The state as a dictionary, in the shape of openai-harmony."""
        data: dict[str, Any] = {"state": self._state.value}
        if self._state is StreamState.HEADER:
            data["header_tokens"] = list(self._header_tokens)
        elif self._header is not None:
            author = self._header.author
            data["header"] = {
                "author": {"role": author.role.value}
                | ({} if author.name is None else {"name": author.name}),
                "recipient": self._header.recipient,
                "channel": self._header.channel,
                "content_type": self._header.content_type,
            }
            encode = self._vocabulary.tokenizer.encode
            data["content_tokens"] = [token for part in self._parts for token in encode(part)]
        return data

    # -- input ---------------------------------------------------------------------------

    def process(self, token: int) -> StreamableParser:
        """Take one token.

        Raises
        ------
        HarmonyError
            In strict mode, if the token cannot come here, or ends a malformed header; the
            parser then expects <|start|>.
        TypeError
            If the token is no integer.
        """
        token = operator.index(token)
        self._tokens.append(token)
        self._delta = None
        if self._in_text and token not in self._breaks:
            text = self._texts.get(token)
            if text is None or self._pending or self._lost:
                self._add_bytes(token)
            else:
                self._parts.append(text)
                self._delta = text
        elif self._strict:
            self._strict_step(token)
        else:
            self._lenient_step(token)
        return self

    def process_eos(self) -> StreamableParser:
        """Take the end of the tokens: the message that is being read is complete.

        Raises
        ------
        HarmonyError
            In strict mode, if a header is not complete.
        """
        self._delta = None
        if self._state is StreamState.CONTENT:
            if self._held:
                self._release()
            self._close()
        elif self._state is StreamState.HEADER:
            if self._strict:
                raise HarmonyError("[parse] the tokens end within a header")
            if self._header_tokens or self._next_role is None:
                self._abandon_header(truncated=True)
            self._state = StreamState.EXPECT_START
        return self

    # -- content -------------------------------------------------------------------------

    def _begin(self, header: Header) -> None:
        self._header = header
        self._next_role = None
        self._header_tokens = []
        self._state = StreamState.CONTENT
        self._in_text = True

    def _close(self) -> None:
        """Complete the message whose content is read."""
        tail = self._pending.decode(errors="replace")
        if not self._strict:
            self._emit(tail)
        text = self.current_content
        if self._strict:
            text += ("\ufffd" if self._lost else "") + tail
        header = self._header
        assert header is not None
        self._messages.append(
            Message(
                author=header.author,
                content=[TextContent(text)],
                channel=header.channel,
                recipient=header.recipient,
                content_type=header.content_type,
            )
        )
        self._header = None
        self._state = StreamState.EXPECT_START
        self._in_text = False
        self._parts = []
        self._content = ""
        self._joined = 0
        self._pending.clear()
        self._lost = False

    def _emit(self, text: str) -> None:
        if not text:
            return
        self._parts.append(text)
        self._delta = (self._delta or "") + text

    def _add_bytes(self, token: int) -> None:
        """Add a token whose bytes may begin or end within a character."""
        piece = self._vocabulary.piece(token)
        if piece is not None and not self._lost:
            self._pending += piece
            self._emit_decoded()
        elif self._strict:
            self._lost = True
        else:
            self._repair("unknown_token", str(token))

    def _emit_decoded(self) -> None:
        """Emit what is complete of the pending bytes, up to the first that are no UTF-8."""
        try:
            text = self._pending.decode()
            self._pending.clear()
        except UnicodeDecodeError as error:
            text = self._pending[: error.start].decode()
            del self._pending[: error.start]
            if error.reason != "unexpected end of data":
                del self._pending[: error.end - error.start]
                self._emit(text)
                text = "\ufffd"
        self._emit(text)

    # -- strict --------------------------------------------------------------------------

    def _strict_step(self, token: int) -> None:
        name = self._names.get(token)
        if self._state is StreamState.CONTENT:
            self._close()
        elif self._state is StreamState.EXPECT_START:
            if name != "<|start|>":
                raise HarmonyError(f"[parse] expected <|start|>, got token {token}")
            # After a malformed header the role that the prompt has named still holds.
            self._open_header(self._next_role)
        elif name == "<|message|>":
            pieces = [self._vocabulary.piece(token) for token in self._header_tokens]
            role = self._next_role
            self._state = StreamState.EXPECT_START
            try:
                text = b"".join(piece for piece in pieces if piece is not None).decode()
            except UnicodeDecodeError as error:
                raise HarmonyError(f"[parse] the header is no UTF-8: {error}") from error
            if None in pieces:
                raise HarmonyError("[parse] unknown token in the header")
            self._begin(strict_header(text, role))
        else:
            self._header_tokens.append(token)

    def _open_header(self, role: Role | None, has_start: bool = True) -> None:
        self._state = StreamState.HEADER
        self._next_role = role
        self._header_tokens = []
        self._header_index = len(self._tokens) - 1
        self._has_start = has_start

    # -- lenient -------------------------------------------------------------------------

    def _repair(self, kind: RepairKind, text: str, index: int | None = None) -> None:
        self._repairs.append(Repair(kind, len(self._tokens) - 1 if index is None else index, text))

    def _lenient_step(self, token: int) -> None:
        name = self._names.get(token)
        if name is None and self._vocabulary.piece(token) is None:
            self._repair("unknown_token", str(token))
        elif self._state is StreamState.CONTENT:
            self._lenient_content(token, name)
        elif self._state is StreamState.HEADER:
            self._lenient_header(token, name)
        elif name == "<|start|>":
            self._open_header(None)
        elif name is None or name in ("<|channel|>", "<|constrain|>", "<|message|>"):
            self._open_header(self._default_role, has_start=False)
            self._lenient_header(token, name)
        else:
            self._repair("stray_special", name)

    def _lenient_content(self, token: int, name: str | None) -> None:
        """Take a special token within content, or any token while some are held back."""
        if self._held:
            if name is None or name == "<|message|>":
                self._held.append(token)
                self._settle_held(name)
                return
            self._release()
        if name == "<|channel|>":
            self._held = [token]
            self._held_index = len(self._tokens) - 1
            self._in_text = False
        elif name == "<|start|>":
            self._repair("missing_end", name)
            self._close()
            self._open_header(None)
        elif name in _STOPS:
            if name == "<|endoftext|>":
                self._repair("missing_end", name)
            self._close()
        elif name is not None:
            self._repair("stray_special", name)

    def _settle_held(self, name: str | None) -> None:
        """Decide whether a <|channel|> in content begins the next message's header."""
        text = self._latin(self._held[1:]).lstrip(" \t\n\f\r").lower()
        if name is None and not text.startswith(CHANNELS):
            if not any(channel.startswith(text) for channel in CHANNELS):
                self._release()
            return
        held, self._held = self._held, []
        self._repair("missing_end", "<|channel|>", self._held_index)
        self._close()
        self._open_header(self._default_role)
        self._header_index = self._held_index
        for token in held:
            self._lenient_header(token, self._names.get(token))

    def _release(self) -> None:
        """Take what was held back for content, without the <|channel|> before it."""
        self._repair("stray_special", "<|channel|>", self._held_index)
        held, self._held = self._held, []
        self._in_text = True
        for token in held[1:]:
            self._add_bytes(token)

    def _lenient_header(self, token: int, name: str | None) -> None:
        """Take a token within a header."""
        if name == "<|message|>":
            self._begin_lenient(ended=False)
        elif name == "<|start|>":
            self._abandon_header()
            self._open_header(None)
        elif name in _STOPS:
            self._abandon_header()
        elif name == "<|channel|>" and self._header_has_content():
            self._abandon_header()
            self._open_header(self._default_role)
            self._header_tokens.append(token)
        elif name in (None, "<|channel|>", "<|constrain|>"):
            self._header_tokens.append(token)
            if name is None and self._is_content():
                self._begin_lenient(ended=True)
        else:
            self._repair("stray_special", str(name))

    def _latin(self, tokens: list[int]) -> str:
        """Tokens as the lenient header reader wants them: latin-1, specials as marks."""
        marks = {"<|channel|>": CHANNEL_MARK, "<|constrain|>": CONSTRAIN_MARK}
        return "".join(
            marks.get(self._names.get(token, ""))
            or (self._vocabulary.piece(token) or b"").decode("latin-1")
            for token in tokens
        )

    def _read_header(self, ended: bool) -> LenientHeader:
        text = self._latin(self._header_tokens)
        return lenient_header(text, self._next_role, self._default_role, ended)

    def _header_has_content(self) -> bool:
        """Whether the header so far, with no more to come, has content in it."""
        words = self._read_header(ended=True).rest.split()
        # Before the first <|channel|> a single word rather is a role that is not known.
        is_second = self._vocabulary.special_id("<|channel|>") in self._header_tokens
        return len(words) >= (1 if is_second else 2)

    def _is_content(self) -> bool:
        """Whether what should be a header cannot be one."""
        if len(self._header_tokens) > _MAX_HEADER_TOKENS:
            return True
        # A header that began with <|start|> may begin with the name of any tool.
        if self._next_role is None:
            return False
        text = self._latin(self._header_tokens)
        return CHANNEL_MARK not in text and CONSTRAIN_MARK not in text and not may_be_header(text)

    def _begin_lenient(self, ended: bool) -> None:
        """Begin the content of a message; if `ended`, with what of it is in the header."""
        read = self._read_header(ended)
        if not self._has_start:
            self._repair("missing_start", "", self._header_index)
        for kind, text in read.notes:
            self._repair(kind, text, self._header_index)
        if ended:
            self._repair("missing_message", "")
        self._begin(read.header)
        if read.rest:
            self._pending += read.rest.encode("latin-1")
            self._emit_decoded()

    def _abandon_header(self, truncated: bool = False) -> None:
        """End a header that has no <|message|>; what is in it is a message, or nothing."""
        read = self._read_header(ended=True)
        if truncated:
            # What was cut off may be the beginning of another name: never call a wrong tool,
            # nor show a piece of a header.
            is_type = read.header.recipient is not None and read.rest.strip().isalpha()
            is_message = not is_type and not may_be_header(read.rest)
        else:
            header = read.header
            is_message = bool(read.rest) or (header.channel or header.recipient) is not None
        if is_message:
            self._begin_lenient(ended=True)
            self._close()
            return
        text = self._latin(self._header_tokens)
        shown = self._vocabulary.decode(self._header_tokens)
        blank = not self._has_start and not text.strip()
        self._repair("stray_text" if blank else "unfinished_header", shown, self._header_index)
        self._state = StreamState.EXPECT_START
        self._next_role = None
