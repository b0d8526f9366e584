"""Requests of the OpenAI API, as dicts: tables of their fields, checked, and answers as dicts."""

from .chat import CHAT, ChatRequest, answer_chat
from .completions import COMPLETION, CompletionRequest, answer_completion
from .fields import Field, RequestError, Table, error_body

__all__ = [
    "CHAT",
    "COMPLETION",
    "ChatRequest",
    "CompletionRequest",
    "Field",
    "RequestError",
    "Table",
    "answer_chat",
    "answer_completion",
    "error_body",
]
