"""The Responses API: its items, events, objects and what is kept of them."""

from .endpoint import routes

__all__ = ["routes"]
