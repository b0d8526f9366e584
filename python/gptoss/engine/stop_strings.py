"""Cutting text before the first stop string, as the text comes."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Lets text through up to the first stop string.

    Parameters
    ----------
    stop : sequence of str
        None of them is empty.

    Attributes
    ----------
    found : str or None
        The stop string that ended the text; nothing comes after it.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = stop
        self._held = ""  # may be the beginning of a stop string
        self.found: str | None = None

    def push(self, text: str) -> str:
        """Take more text; return what is now certain."""
        if not self._stop:
            return text
        if self.found is not None:
            return ""
        text = self._held + text
        # The one that is complete first, and of those the longest: neither depends on how the
        # text is cut into tokens.
        matches = [(begin + len(s), begin, s) for s in self._stop if (begin := text.find(s)) >= 0]
        if matches:
            _, begin, self.found = min(matches)
            self._held = ""
            return text[:begin]
        self._held = text[_certain(text, self._stop) :]
        return text[: len(text) - len(self._held)]

    def flush(self) -> str:
        """Return what is left when no text follows."""
        rest, self._held = self._held, ""
        return rest


def _certain(text: str, stop: Sequence[str]) -> int:
    """Return how many characters of `text` cannot become part of a stop string."""
    longest = max((len(s) - 1 for s in stop), default=0)
    for begin in range(max(0, len(text) - longest), len(text)):
        if any(s.startswith(text[begin:]) for s in stop):
            return begin
    return len(text)
