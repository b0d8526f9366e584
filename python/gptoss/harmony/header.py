"""A message's header: as openai-harmony reads it, and as a model may have meant it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from .messages import Author, HarmonyError, Role
from .recipients import FUNCTIONS, LISTENERS, Recipients, is_trained

CHANNELS = ("analysis", "commentary", "final")
_ROLES = tuple(role.value for role in Role)

RepairKind = Literal[
    "bad_channel",  # the channel is not named after <|channel|>, or not as it should be
    "bad_role",  # no role, or none that is known
    "bad_recipient",  # not written as " to=...", in the wrong place, or not as it was declared
    "duplicate_channel",  # the last one counts
    "duplicate_recipient",  # the first one counts
    "header_text",  # words in a header that mean nothing, left out; or it is no UTF-8
    "missing_channel",  # no channel, or its name without <|channel|>
    "missing_end",  # the message was ended by the next one's header, or by <|endoftext|>
    "missing_message",  # no <|message|>: what followed the header is the content
    "missing_recipient",  # a call's end, and nobody who was called
    "missing_start",  # no <|start|>
    "stray_special",  # a special token where it means nothing, left out
    "stray_text",  # white space between messages, left out
    "unfinished_header",  # a header with nothing to keep, left out
    "unknown_token",  # an id that is not in the vocabulary, left out
]


@dataclass(frozen=True)
class Header:
    """What the header of a message says."""

    author: Author
    recipient: str | None = None
    channel: str | None = None
    content_type: str | None = None


# What Unicode, and so Rust, takes for white space; str.split knows more.
_WHITE_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_EDGES = re.compile(f"^[{_WHITE_SPACE}]+|[{_WHITE_SPACE}]+$")
_CHANNEL_NAME = re.compile(f"<\\|channel\\|>([^{_WHITE_SPACE}<]*)")
_ASCII_WORDS = re.compile(r"[^ \t\n\f\r]+")


def strict_header(text: str, role: Role | None) -> Header:
    """Read a header as openai-harmony does, accidents included.

    Parameters
    ----------
    text : str
        The decoded header, special tokens by name.
    role : Role, optional
        The role that the prompt has named already.

    Raises
    ------
    HarmonyError
        Where openai-harmony raises one.
    """
    channel = None
    marker = _CHANNEL_NAME.search(text)
    if marker:
        channel = marker.group(1)
        if not channel:
            raise HarmonyError("[parse] <|channel|> without a channel name in the header")
        text = text[: marker.start()] + text[marker.end() :]
    text = _EDGES.sub("", text).replace("<|constrain|>", " <|constrain|>")
    words = _ASCII_WORDS.findall(text)

    name = None
    if role is None:
        if not words:
            raise HarmonyError("[parse] no role in the header")
        name = words[0]
        if name in _ROLES:
            role = Role(name)
        elif len(words) > 1 or name.startswith("to="):
            role = Role.TOOL
            del words[0]
        else:
            raise HarmonyError(f"[parse] unknown role {name!r}")
    if words and words[0] == role.value:
        del words[0]

    recipient = content_type = None
    if words:
        last = words.pop()
        if last.startswith("to="):
            recipient = last[3:]
        elif not words:  # a single word is the recipient, whatever it is
            recipient = last
        else:
            content_type = last
            recipient = words.pop().removeprefix("to=")
    if words:
        raise HarmonyError(f"[parse] header with too many words: {words!r}")
    author = Author(role=role, name=name if role is Role.TOOL else None)
    return Header(author, recipient, channel, content_type)


# The lenient reader works on latin-1 text, one character per byte, so that what turns out
# to be content can be given back byte for byte; these stand for the two special tokens.
CHANNEL_MARK = "\u0100"
CONSTRAIN_MARK = "\u0101"
_GAP = " \t\n\f\r"
_WORD = re.compile(rf"[^{_GAP}{CHANNEL_MARK}{CONSTRAIN_MARK}]+")
_KNOWN_CHANNEL = re.compile("|".join(CHANNELS), re.IGNORECASE)
_RECIPIENT = re.compile(rf"to=([ \t]*)([^{_GAP}{{{CHANNEL_MARK}{CONSTRAIN_MARK}]+)")
_CONSTRAINT = re.compile(rf"{CONSTRAIN_MARK}[ \t]*([\w/+.-]*)", re.ASCII)
_TYPE_BEFORE_JSON = re.compile(rf"(json|code)(?=[{_GAP}]*\{{)")
_TYPE = re.compile(r"[\w/+.-]+", re.ASCII)
_NO_CONTENT = re.compile(r"[?!.,;:/\\|_+=~-]")  # right after a channel's name: junk, no answer
_TOOL = re.compile(r"functions\.[\w.-]+|browser\.[\w.-]+|python", re.ASCII)
_TYPES = ("json", "code")
_HEADER_WORDS = (*_ROLES, *CHANNELS, "to=", *(f"assistant{name}" for name in CHANNELS))


@dataclass
class LenientHeader:
    """What `lenient_header` made of a header.

    `rest` is content that stood in the header (latin-1, one character per byte), `notes`
    are the repairs and their texts.
    """

    header: Header
    rest: str
    notes: list[tuple[RepairKind, str]]


@dataclass
class _Reading:
    """A header while it is read."""

    role: Role | None
    recipients: Recipients
    name: str | None = None
    channel: str | None = None
    recipient: str | None = None
    content_type: str | None = None
    words: list[str] = field(default_factory=list)  # bare ones
    notes: list[tuple[RepairKind, str]] = field(default_factory=list)


def lenient_header(
    text: str, role: Role | None, default: Role, ended: bool, recipients: Recipients
) -> LenientHeader:
    """Read a header for what it most likely means; never raises.

    Parameters
    ----------
    text : str
        The header, latin-1, with `CHANNEL_MARK` and `CONSTRAIN_MARK` for these tokens.
    role : Role, optional
        The role if it is known already.
    default : Role
        The role if the header names none.
    ended : bool
        True if the header ended without <|message|>: the first thing in it that belongs to
        no header begins the content. False if all of it is header.
    recipients : Recipients
        Those that were declared, which may stand in the wrong place or form.
    """
    read = _Reading(role, recipients)
    plain = text.replace(CHANNEL_MARK, "").replace(CONSTRAIN_MARK, "")
    if not ended and "\ufffd" in _shown(plain):
        read.notes.append(("header_text", _shown(plain)))
    at = 0
    while True:
        start = _after_gap(text, at)
        if start == len(text):
            at = start
            break
        if text[start] == CHANNEL_MARK:
            at = _read_channel(read, text, start + 1, ended)
            continue
        constraint = _CONSTRAINT.match(text, start)
        if constraint:
            if read.content_type is None:
                read.content_type = f"<|constrain|>{constraint.group(1)}"
            else:
                read.words.append(constraint.group(1))
            at = constraint.end()
            continue
        recipient = _RECIPIENT.match(text, start)
        if recipient:
            gap_before, name = recipient.groups()
            if read.recipient is not None:
                read.notes.append(("duplicate_recipient", _shown(name)))
            else:
                read.recipient = name
                if gap_before or read.content_type is not None or read.words:
                    read.notes.append(("bad_recipient", _shown(recipient.group())))
            at = recipient.end()
            continue
        end = _read_word(read, text, start, ended, first=not text[:start].strip())
        if end is None:  # content begins
            at = start
            break
        at = end
    return _finished(read, text[at:], default)


def _read_channel(read: _Reading, text: str, at: int, ended: bool) -> int:
    """Read the name after <|channel|> and return where it ends."""
    if read.channel is not None:
        read.notes.append(("duplicate_channel", read.channel))
    start = _after_gap(text, at)
    match = _WORD.match(text, start)
    word = match.group() if match else ""
    end = start + len(word)
    known = _KNOWN_CHANNEL.match(word)
    tail = word[known.end() :] if known else word
    named = word.partition("{")[0]
    name_end = start + len(named)
    if tail and read.recipient is None and _may_end_here(text, name_end, ended):
        # The name of a tool in the channel's place.
        read.recipient = read.recipients.match(_shown(named))
        if read.recipient is not None:
            read.channel = None
            read.notes.append(("bad_channel", _shown(named)))
            return name_end
    if known:
        read.channel = known.group().lower()
        if start != at or read.channel != known.group():
            read.notes.append(("bad_channel", text[at : start + known.end()]))
        if not tail or tail.startswith("to="):
            return end - len(tail)
        if ended:
            if _NO_CONTENT.match(tail):
                read.notes.append(("bad_channel", _shown(word)))
            return end - len(tail)
        glued = read.recipients.match(_shown(tail)) if read.recipient is None else None
        if glued is not None:
            read.recipient = glued
            read.notes.append(("bad_recipient", _shown(tail)))
        else:
            read.notes.append(("bad_channel", _shown(word)))
        return end
    if word and not ended and not word.startswith("to="):
        read.channel = _shown(word)
        if start != at or not _TYPE.fullmatch(word):
            read.notes.append(("bad_channel", _shown(text[at:end])))
        return end
    read.channel = None
    read.notes.append(("bad_channel", ""))
    # At the very end it may be a name that was cut off.
    cut_off = end == len(text) and any(name.startswith(word) for name in CHANNELS)
    return end if cut_off else at


def _may_end_here(text: str, end: int, ended: bool) -> bool:
    """Whether what follows a word lets it be a whole piece of a header."""
    follows = text[end:].lstrip(_GAP)
    return (
        not ended
        or not follows
        or follows.startswith((CHANNEL_MARK, CONSTRAIN_MARK, "{"))
        or _TYPE_BEFORE_JSON.match(follows) is not None
    )


def _read_word(read: _Reading, text: str, start: int, ended: bool, first: bool) -> int | None:
    """Read a bare word and return where it ends, or None if content begins with it."""
    match = _WORD.match(text, start)
    assert match is not None  # white space and marks have been read
    word, end = match.group(), match.end()
    if first and read.role is None:
        return _read_role(read, word, text, end, ended)
    follows = text[end:].lstrip(_GAP)
    if first and read.role is not None and word.startswith(read.role.value):
        tail = word[len(read.role.value) :]
        if not tail and (not ended or not follows or follows.startswith((CHANNEL_MARK, "to="))):
            return end
        if tail in CHANNELS and not ended:
            read.channel = tail
            read.notes.append(("missing_channel", tail))
            return end
    if ended:
        kind = _TYPE_BEFORE_JSON.match(text, start)
        if kind and read.recipient is not None and read.content_type is None:
            read.content_type = kind.group()
            return kind.end()
        return None
    if read.channel is None and word in CHANNELS:
        read.channel = word
        read.notes.append(("missing_channel", word))
    elif read.recipient is None and _TOOL.fullmatch(word):
        read.recipient = word
        read.notes.append(("bad_recipient", word))
    else:
        read.words.append(word)
    return end


def _read_role(read: _Reading, word: str, text: str, end: int, ended: bool) -> int | None:
    """Read the first word, which should be a role: a name may follow it after a colon."""
    value, colon, name = word.partition(":")
    if value in _ROLES:
        read.role = Role(value)
        read.name = _shown(name) if colon else None
        return end
    glued = next((role for role in _ROLES if word.startswith(role)), None)
    if glued is not None:
        tail = word[len(glued) :]
        if tail in CHANNELS and not ended:
            read.role, read.channel = Role(glued), tail
            read.notes.append(("missing_channel", tail))
            return end
        if ended and not tail[:1].islower():  # content; else a longer word
            read.role = Role(glued)
            return end - len(tail)
    speaks_to = text[end:].lstrip(_GAP).startswith("to=")
    if ended and not speaks_to and not _TOOL.match(word):
        return None
    read.name = _shown(word)  # a tool, if what follows says so
    read.role = None
    return end


def _finished(read: _Reading, rest: str, default: Role) -> LenientHeader:
    role, name = read.role, read.name
    if role is None:
        # A tool names itself instead of its role, and says to whom it speaks.
        is_tool = name is not None and (read.recipient is not None or _TOOL.match(name))
        role = Role.TOOL if is_tool else default
        if not is_tool or read.recipient is None:
            read.notes.append(("bad_role", name or ""))
        name = name if is_tool else None
    kind = read.content_type
    _find_recipient(read, kind)
    if kind is None and len(read.words) == 1 and _TYPE.fullmatch(read.words[0]):
        kind = read.words[0]
    # Only what is sent to a tool may be of a type of its own.
    if read.words and (kind != read.words[0] or (read.recipient is None and kind not in _TYPES)):
        read.notes.append(("header_text", _shown(" ".join(read.words))))
    constraint = (kind or "").removeprefix("<|constrain|>")
    if read.channel is None and constraint != kind and constraint in CHANNELS:
        read.notes.append(("bad_channel", f"<|constrain|>{constraint}"))
        read.channel, kind = constraint, None
    for mark, special in ((CHANNEL_MARK, "<|channel|>"), (CONSTRAIN_MARK, "<|constrain|>")):
        if mark in rest:
            read.notes += [("stray_special", special)] * rest.count(mark)
            rest = rest.replace(mark, "")
    recipient = None if read.recipient is None else _declared(read, _shown(read.recipient), kind)
    header = Header(Author(role, name), recipient, read.channel, kind)
    return LenientHeader(header, rest, read.notes)


def _find_recipient(read: _Reading, kind: str | None) -> None:
    """Take a bare word for the recipient where it can hardly be anything else."""
    words = [word for word in read.words if word not in _TYPES]
    if len(words) != 1 or read.channel == "final" or read.role not in (None, Role.ASSISTANT):
        return
    is_typed = kind is not None or len(words) < len(read.words)
    if read.channel == "analysis" and not is_typed:
        return
    namespace = FUNCTIONS.rstrip(".")
    if read.recipient is not None and _shown(read.recipient).strip(".") != namespace:
        return
    meant = read.recipients.match(_shown(words[0]))
    if meant is not None:
        read.recipient = meant
        read.words.remove(words[0])
        read.notes.append(("bad_recipient", _shown(words[0])))


def _declared(read: _Reading, recipient: str, kind: str | None) -> str:
    """The recipient that was declared, if this one is near to it."""
    if recipient in LISTENERS:
        return recipient
    # A tool that the model was trained with is called in code, a function in JSON.
    if is_trained(recipient) and "json" not in (kind or ""):
        return recipient
    meant = read.recipients.match(recipient)
    if meant is None or meant == recipient:
        return recipient
    read.notes.append(("bad_recipient", recipient))
    return meant


def _after_gap(text: str, at: int) -> int:
    return len(text) - len(text[at:].lstrip(_GAP))


def may_be_header(text: str) -> bool:
    """Whether text (latin-1) without a special token may still become a header."""
    words = _WORD.findall(text)
    known = _HEADER_WORDS
    for index, word in enumerate(words):
        unfinished = index == len(words) - 1 and text.endswith(word)
        if word.startswith("to="):
            known = (*_HEADER_WORDS, *_TYPES)  # the type of a call
        elif word not in known and not (
            unfinished and any(name.startswith(word) for name in known)
        ):
            return False
    return True


def _shown(text: str) -> str:
    """Latin-1 text, one character per byte, as the text that its bytes are."""
    return text.encode("latin-1").decode(errors="replace")
