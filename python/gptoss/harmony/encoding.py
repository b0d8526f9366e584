"""The Harmony encoding over a tokenizer: renders conversations, parses completions."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Literal

from gptoss import tokenizer

from .messages import Conversation, HarmonyError, Message, Role
from .parser import StreamableParser
from .render import has_function_tools, message_tokens, without_old_analysis
from .vocabulary import Tokenizer, Vocabulary


@dataclass
class RenderConversationConfig:
    """`auto_drop_analysis`: leave out the analysis of turns that have ended."""

    auto_drop_analysis: bool = True


@dataclass
class RenderOptions:
    """`conversation_has_function_tools`: the system message says where calls go."""

    conversation_has_function_tools: bool = False


class HarmonyEncoding(Vocabulary):
    """Renders messages to tokens and parses tokens to messages.

    Parameters
    ----------
    tokenizer : Tokenizer
        Any tokenizer with the seven Harmony specials; ids are taken from it, none is fixed.

    Raises
    ------
    ValueError
        If a Harmony special is missing.
    """

    name = "HarmonyGptOss"

    def __repr__(self) -> str:
        return f"HarmonyEncoding({self.tokenizer!r})"

    # -- rendering -----------------------------------------------------------------------

    def render_conversation_for_completion(
        self,
        conversation: Conversation,
        next_turn_role: Role,
        config: RenderConversationConfig | None = None,
    ) -> list[int]:
        """The prompt: the conversation, then the opened header of the next message.

        Raises
        ------
        HarmonyError
            As for `render`.
        """
        tokens = self.render_conversation(conversation, config)
        return [*tokens, self._special["<|start|>"], *self._encode(Role(next_turn_role).value)]

    def render_conversation(
        self, conversation: Conversation, config: RenderConversationConfig | None = None
    ) -> list[int]:
        """The tokens of all messages.

        By default, if the last assistant message is a final one, the analysis before the
        first final one is left out.

        Raises
        ------
        HarmonyError
            As for `render`.
        """
        config = config or RenderConversationConfig()
        options = RenderOptions(conversation_has_function_tools=has_function_tools(conversation))
        messages = conversation.messages
        kept = without_old_analysis(messages) if config.auto_drop_analysis else messages
        return [token for message in kept for token in self.render(message, options)]

    def render_conversation_for_training(
        self, conversation: Conversation, config: RenderConversationConfig | None = None
    ) -> list[int]:
        """The tokens of all messages; the last, if a final, ends in <|return|>.

        Raises
        ------
        HarmonyError
            As for `render`.
        """
        tokens = self.render_conversation(conversation, config)
        last = conversation.messages[-1] if conversation.messages else None
        if last is not None and last.author.role is Role.ASSISTANT and last.channel == "final":
            tokens[-1] = self._special["<|return|>"]
        return tokens

    def render(self, message: Message, render_options: RenderOptions | None = None) -> list[int]:
        """The tokens of one message.

        Raises
        ------
        HarmonyError
            If a tool message has no name, a content is in a message of the wrong role, tool
            parameters are no JSON, or a text has a lone surrogate.
        """
        options = render_options or RenderOptions()
        return message_tokens(
            message, self._encode, self._special, options.conversation_has_function_tools
        )

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(_well_formed(text)) if text else []

    # -- parsing -------------------------------------------------------------------------

    def parse_messages_from_completion_tokens(
        self, tokens: Sequence[int], role: Role | None = None, *, strict: bool = True
    ) -> list[Message]:
        """The messages in the tokens of a completion.

        Parameters
        ----------
        tokens : sequence of int
        role : Role, optional
            The role whose header the prompt has opened; None if the tokens begin with
            <|start|>.
        strict : bool
            Raise on malformed tokens as openai-harmony does; False repairs them and never
            raises. `StreamableParser` tells what was repaired.

        Raises
        ------
        HarmonyError
            If `strict` and the tokens are malformed or end within a header.
        """
        parser = StreamableParser(self, role, strict=strict)
        for token in tokens:
            parser.process(token)
        return parser.process_eos().messages

    # -- tokens and text -----------------------------------------------------------------

    def encode(
        self,
        text: str,
        *,
        allowed_special: Literal["all"] | AbstractSet[str] = frozenset(),
        disallowed_special: Literal["all"] | Collection[str] = "all",
    ) -> list[int]:
        """The ids of a text.

        Parameters
        ----------
        text : str
            Lone surrogates become U+FFFD.
        allowed_special : "all" or set of str
            Names that become special tokens.
        disallowed_special : "all" or collection of str
            Names that must not occur; "all" is all that are not allowed, () lets every other
            name be plain text.

        Raises
        ------
        HarmonyError
            If a disallowed name occurs.
        """
        allowed = self.special_tokens_set if allowed_special == "all" else set(allowed_special)
        if disallowed_special == "all":
            disallowed_special = self.special_tokens_set - allowed
        if disallowed_special:
            found = re.search("|".join(map(re.escape, disallowed_special)), text)
            if found:
                raise HarmonyError(
                    f"[encode] the text contains {found.group()!r}; allow it with "
                    "allowed_special, or take it as plain text with disallowed_special=()"
                )
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return self.tokenizer.encode(text, allowed_special=allowed & self.special_tokens_set)


def _well_formed(text: str) -> str:
    """Text that can be encoded: pairs of surrogates joined, a lone one refused."""
    try:
        text.encode()
    except UnicodeEncodeError:
        try:
            return text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError as error:
            raise HarmonyError(f"[render] text with a lone surrogate: {text!r:.100}") from error
    return text


def load_harmony_encoding(
    model_or_path: str | os.PathLike[str] | Tokenizer | Any,
) -> HarmonyEncoding:
    """The Harmony encoding of a model.

    Parameters
    ----------
    model_or_path : object or path
        An object with a `tokenizer`, a tokenizer, a checkpoint folder, or a tokenizer.json.

    Raises
    ------
    FileNotFoundError, CheckpointError
        If there is no such file, or it is no tokenizer.
    ValueError
        If the tokenizer lacks a Harmony special.
    TypeError
        If it is none of these.
    """
    if model_or_path == HarmonyEncoding.name:
        raise ValueError(
            f"[load_harmony_encoding] {model_or_path!r} names no files: pass the checkpoint "
            "folder, its tokenizer.json, or a loaded model"
        )
    if isinstance(model_or_path, (str, os.PathLike)):
        return HarmonyEncoding(tokenizer.Tokenizer.from_file(model_or_path))
    given = getattr(model_or_path, "tokenizer", model_or_path)
    if not hasattr(given, "special_tokens") or not hasattr(given, "decode_bytes"):
        raise TypeError(
            "[load_harmony_encoding] expected a model, a tokenizer or a path, "
            f"got {type(model_or_path).__name__}"
        )
    return HarmonyEncoding(given)
