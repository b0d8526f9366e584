"""Exercises, and the random choices that they are made of.

An `Example` is a conversation up to a point where the model speaks, and what it should say. Each
task draws its contents (pairs of numbers, wordings, names, words, values) from one of two disjoint
halves that a hash tells apart, so nothing that is asked in the evaluation was ever trained.
"""

# Long lists read better as text.
# ruff: noqa: SIM905

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

EFFORTS = ("low", "medium", "high")


@dataclass
class Example:
    """One exercise.

    `messages`, `tools` and `builtin` are what `LLM.chat` takes (OpenAI's shape). The model answers
    with `reasoning` and then `text`, a `call` of a function (name, arguments) or `code` for python.
    A `forced` call has been begun for it, without reasoning.
    """

    task: str
    effort: str
    messages: list[dict[str, Any]]
    reasoning: str
    text: str | None = None
    call: tuple[str, dict[str, Any]] | None = None
    code: str | None = None
    forced: bool = False
    tools: list[dict[str, Any]] = field(default_factory=list)
    builtin: list[str] = field(default_factory=list)
    developer: str | None = None
    date: str | None = None

    @property
    def expected(self) -> Any:
        """The text, or the name and arguments (or code) of the call."""
        if self.code is not None:
            return ("python", self.code)
        return self.text if self.call is None else self.call


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str | None) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def held_out(content: str) -> bool:
    """Whether a content is kept from training: one in ten, by its hash."""
    return hashlib.sha256(content.encode()).digest()[0] % 10 == 0


class Draw:
    """Random choices whose contents come from training or from the held-out part."""

    def __init__(self, seed: int, held: bool) -> None:
        self.random = random.Random(seed)
        self.held = held

    def one(self, options: Any) -> Any:
        return self.random.choice(options)

    def weighted(self, options: dict[Any, float]) -> Any:
        return self.random.choices(list(options), list(options.values()))[0]

    def chance(self, p: float) -> bool:
        return self.random.random() < p

    def fresh(self, make: Callable[[], Any], key: Callable[[Any], str] = str) -> Any:
        """Draw until the content is of the wanted part."""
        while True:
            value = make()
            if held_out(key(value)) == self.held:
                return value

    def word(self, syllables: int | None = None) -> str:
        """An invented word."""

        def make() -> str:
            if syllables is None and self.chance(0.08):
                return "".join(self.one(_LETTERS) for _ in range(self.random.randint(2, 8)))
            parts = []
            for _ in range(syllables or self.one((1, 2, 2, 2, 3))):
                parts.append(self.one(_ONSETS) + self.one("aeiou"))
            return "".join(parts) + self.one(_CODAS)

        return str(self.fresh(make))

    def name(self) -> str:
        """A capitalised name: mostly invented, in training at times a known one."""
        if not self.held and self.chance(0.25):
            return str(self.one(PLACES + PEOPLE))
        return self.word().capitalize()

    def number(self, digits: int) -> int:
        return self.random.randrange(10 ** (digits - 1) if digits > 1 else 0, 10**digits)


_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_ONSETS = "b c d f g h j k l m n p r s t v w z br ch cr dr fl gr kr pl pr sh sk st th tr".split()
_CODAS = ["", "", "", "n", "r", "l", "s", "t", "x", "m", "k", "nd", "rt"]
PLACES = (
    "Paris London Berlin Tokyo Madrid Rome Oslo Vienna Lima Cairo Delhi Boston Sydney Toronto "
    "Dublin Athens Prague Warsaw Lisbon Zurich Geneva Milan Naples Kyoto Osaka Seoul Hanoi "
    "Bogota Quito Havana Denver Austin Dallas Miami Chicago France Spain Japan Brazil Kenya "
    "Norway Chile Peru Egypt India Canada Mexico Munich Hamburg Bern Basel Graz Porto"
).split()
PEOPLE = (
    "Alice Bob Carol David Emma Frank Grace Henry Irene Jack Karen Leo Maria Nina Oscar Paul "
    "Rosa Simon Tina Victor Wendy Anna Ben Clara Dora Eric Fiona George Hanna Ivan Julia"
).split()
THINGS = (
    "apple banana bread cake car cat chair cheese chicken clock cloud coffee computer dog door "
    "egg fish flower garden guitar hat horse house kettle knife lamp lion moon mountain mouse "
    "pasta phone piano pizza planet potato radio rain river rose sandwich shoe sky soup star sun "
    "table tea train tree truck umbrella violin volcano watch whale window wine"
).split()
LANGUAGES = "French German Spanish Italian Latin Greek Chinese Japanese Russian Polish".split()
