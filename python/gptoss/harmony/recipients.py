"""Which of the declared tools a model most likely means by a name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

FUNCTIONS = "functions."

# To one of these an assistant's message is no call.
LISTENERS = (None, "all", "assistant", "user")

_TRAINED = re.compile(r"python|browser\.[\w.-]+", re.ASCII)
_NO_NAME = re.compile(r"[\s{}\"]")  # arguments, or several words
# Between a namespace and a name, as models write it; "_" and "-" are within names.
_SEPARATORS = re.compile(r"[^\w-]+|__+")
# What models glue to a name: the namespace or a word for it, and the content type or a channel.
_PREFIX = re.compile(r"(?:functions?|tools?)[_-]?(?=.)", re.IGNORECASE)
# How alike a misspelt name is to the one that is meant. Names that differ by a word ("set_min" and
# "set_max", "get_user" and "get_user_names") are less.
_LEAST_ALIKE = 0.9
_SUFFIX = re.compile(
    r"(?<=.)[_-]?(?:json|tools?|functions?|call)$|(?<=[^_-])(?:code|commentary|analysis)$"
)


def is_trained(recipient: str) -> bool:
    """Whether the model knows this recipient from its training: `python`, or one of `browser`."""
    return _TRAINED.fullmatch(recipient) is not None


class Recipients:
    """The recipients of a conversation's calls, to be found by what is near to their names.

    Parameters
    ----------
    names : iterable of str
        As they are declared: "functions.get_weather", "python", "browser.search", ...
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names = frozenset(names)
        self._by_key: dict[str, set[str]] = {}
        for name in self._names:
            for form in (name, name.removeprefix(FUNCTIONS)):
                self._by_key.setdefault(_key(form), set()).add(name)
        bare: dict[str, set[str]] = {}
        for name in self._names:
            if not name.startswith(FUNCTIONS):
                bare.setdefault(_key(name.rpartition(".")[2]), set()).add(name)
        for key, found in bare.items():
            self._by_key.setdefault(key, found)  # a function of that name is meant rather

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __bool__(self) -> bool:
        return bool(self._names)

    def match(self, text: str) -> str | None:
        """The recipient that is meant, None if it is none of them, or could be several.

        A name is meant by itself, in other letters or with other separators, within another
        namespace (the last one counts) or none, with a type or a word like "tool" glued to it, and
        with a letter or two wrong. Another word in it makes it another name: `get_user_names` is
        not `get_user`.
        """
        if text in self._names:
            return text
        if _NO_NAME.search(text):
            return None
        parts = [part for part in _SEPARATORS.split(text) if part]
        for candidate in (text, *reversed(parts)):
            bare = _PREFIX.sub("", candidate, count=1) if _PREFIX.match(candidate) else candidate
            for form in (candidate, _SUFFIX.sub("", candidate), bare, _SUFFIX.sub("", bare)):
                found = self._by_key.get(_key(form))
                if found is not None:
                    return next(iter(found)) if len(found) == 1 else None
        return self._misspelt(_key(_PREFIX.sub("", parts[-1], count=1))) if parts else None

    def _misspelt(self, key: str) -> str | None:
        """The only name that a misspelt one is alike to.

        It begins with the same letter and has the same numbers: `unlock` is not `lock`, nor is
        `door_1` `door_2`.
        """
        digits = re.findall(r"\d", key)
        alike = {
            name
            for known, names in self._by_key.items()
            if known[:1] == key[:1] and re.findall(r"\d", known) == digits
            if difflib.SequenceMatcher(None, key, known).ratio() >= _LEAST_ALIKE
            for name in names
        }
        return next(iter(alike)) if len(alike) == 1 else None


def _key(name: str) -> str:
    """A name without what models get wrong in it: case and separators."""
    return re.sub(r"[\W_]+", "", name).lower()
