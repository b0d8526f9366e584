"""How a server behaves: one frozen dataclass, for the command line and for those who embed it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

MIB = 1 << 20


@dataclass(frozen=True)
class ServerSettings:
    """How a server behaves.

    Parameters
    ----------
    api_keys : tuple of str
        A request needs one of them, as `Authorization: Bearer KEY`; none: no key is asked for.
    served_model_names : tuple of str
        What clients call the model; none: the name it was loaded by, of a folder the last part.
    max_waiting : int
        Most samples that wait for a place among those that are computed; more are refused with 429.
    timeout_s : float, optional
        Most seconds that a request may take, waiting included; None has no limit.
    cors_origins : tuple of str
        Origins whose pages may use the server ("https://example.org"); "*" is all.
    allowed_hosts : tuple of str, optional
        What the Host header may name, without the port; None does not look at it.
    root_path : str
        Where a proxy has put the server ("/llm").
    reasoning : {"show", "hide"}
        "hide" never sends what the model thinks.
    stream_interval : int
        So many tokens of a stream are sent together, but for the first.
    max_body_bytes : int
        Longest body of a request.
    keep_alive_s : float
        After so many seconds of silence a stream gets a comment.
    drain_s : float
        How long running requests may take after the server was told to end.
    store_path : Path, optional
        SQLite file of stored responses; None keeps them in memory.
    store_entries, store_bytes : int
        Most stored responses, and most bytes of them.
    store_ttl_s : float
        Seconds after which a stored response is forgotten.
    page : bool
        Whether the chat page is served at `/`.
    """

    api_keys: tuple[str, ...] = ()
    served_model_names: tuple[str, ...] = ()
    max_waiting: int = 256
    timeout_s: float | None = None
    cors_origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] | None = None
    root_path: str = ""
    reasoning: Literal["show", "hide"] = "show"
    stream_interval: int = 1
    max_body_bytes: int = 16 * MIB
    keep_alive_s: float = 5.0
    drain_s: float = 30.0
    store_path: Path | None = None
    store_entries: int = 1000
    store_bytes: int = 64 * MIB
    store_ttl_s: float = 24 * 3600.0
    page: bool = True

    def __post_init__(self) -> None:
        """Check what can be checked without a model."""
        for name in ("api_keys", "served_model_names", "cors_origins", "allowed_hosts"):
            value = getattr(self, name)
            if value is not None and not all(isinstance(text, str) and text for text in value):
                raise ValueError(f"{name} must be strings that are not empty, got {value!r}")
        for key in self.api_keys:
            if not key.isascii() or not key.isprintable() or " " in key:
                raise ValueError("an API key must be printable ASCII without blanks")
        for name, least in (("max_waiting", 0), ("stream_interval", 1), ("max_body_bytes", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        for name in ("timeout_s", "keep_alive_s", "drain_s", "store_ttl_s"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name} must be a positive number of seconds, got {value}")
        if self.reasoning not in ("show", "hide"):
            raise ValueError(f"reasoning must be show or hide, got {self.reasoning!r}")
        if self.root_path and (not self.root_path.startswith("/") or self.root_path.endswith("/")):
            raise ValueError(
                f"root_path must begin with a slash and not end with one, got {self.root_path!r}"
            )

    def __repr__(self) -> str:
        """All but the keys."""
        shown = (
            f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if f.name != "api_keys"
        )
        return f"ServerSettings(api_keys=({len(self.api_keys)}), {', '.join(shown)})"
