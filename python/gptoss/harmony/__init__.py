"""Harmony, the conversation format of gpt-oss: messages to tokens and back.

The names are those of the openai-harmony package, so code moves over by changing the
import; the vocabulary comes from the checkpoint's own tokenizer.
"""

from .encoding import (
    HarmonyEncoding,
    RenderConversationConfig,
    RenderOptions,
    load_harmony_encoding,
)
from .messages import (
    Author,
    ChannelConfig,
    Content,
    Conversation,
    DeveloperContent,
    HarmonyError,
    Message,
    ReasoningEffort,
    Role,
    SystemContent,
    TextContent,
    ToolDescription,
    ToolNamespaceConfig,
)
from .parser import Repair, StreamableParser, StreamState
from .vocabulary import Tokenizer

__all__ = [
    "Author",
    "ChannelConfig",
    "Content",
    "Conversation",
    "DeveloperContent",
    "HarmonyEncoding",
    "HarmonyError",
    "Message",
    "ReasoningEffort",
    "RenderConversationConfig",
    "RenderOptions",
    "Repair",
    "Role",
    "StreamState",
    "StreamableParser",
    "SystemContent",
    "TextContent",
    "Tokenizer",
    "ToolDescription",
    "ToolNamespaceConfig",
    "load_harmony_encoding",
]
