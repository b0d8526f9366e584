"""Anthropic's Messages API, as far as its clients need it to talk to gpt-oss."""

from .endpoint import routes

__all__ = ["routes"]
