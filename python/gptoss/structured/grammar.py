"""Grammars: what a text may be, compiled for a vocabulary by llguidance."""

from __future__ import annotations

import json
import re
import threading
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gptoss.harmony import HarmonyEncoding

from .schema import MAX_BYTES, checked_schema, closed_schema

if TYPE_CHECKING:
    import llguidance

# All are stated, as a schema might bring its own. Blanks between values are not allowed: a weak
# model writes them for ever.
_JSON_OPTIONS = {
    "item_separator": ",",
    "key_separator": ":",
    "whitespace_flexible": False,
    "coerce_one_of": False,
    "lenient": False,
}
# Of each grammar; most are llguidance's own. Fuel is what bounds time: 20 ms for the beginning, and
# 14 ms a step. A state takes 1 to 2 kB.
_LIMITS = {
    "max_items_in_row": 2000,
    "initial_lexer_fuel": 1_000_000,
    "step_lexer_fuel": 200_000,
    "step_max_items": 50_000,
    "max_lexer_states": 50_000,
    "max_grammar_size": 500_000,
    "verbose_errors": False,
}


_STATE = re.compile("<(?:state|grammar|non-verbose/)>")
# Which keywords its errors are about, where they do not say so.
_UNNAMED = {
    " range: ": "a minimum, exclusiveMinimum, maximum or exclusiveMaximum: ",
    "regex parse error": "a pattern: ",
}


def _llguidance() -> Any:
    try:
        import llguidance  # imported where it is used: it is optional
    except ImportError as error:
        raise ImportError(
            "structured output needs the package llguidance: "
            "pip install 'gptoss-native[structured]'"
        ) from error
    return llguidance


class Lexicon:
    """A model's vocabulary as llguidance takes it; made by `lexicon`, once for each tokenizer.

    Attributes
    ----------
    tokenizer : llguidance.LLTokenizer
    words : int
        32-bit words of a mask over it.
    text : numpy.ndarray
        (words) uint32: the tokens that are text.
    """

    def __init__(self, encoding: HarmonyEncoding) -> None:
        library = _llguidance()
        self._encode = encoding.tokenizer.encode
        pieces = [_piece(encoding, token) for token in range(encoding.tokenizer.vocab_size)]
        # What llguidance's wrapper asks for.
        self.tokens = pieces
        self.special_token_ids = sorted(encoding.special_names)
        self.eos_token_id = encoding.special_id("<|return|>")
        self.bos_token_id = None
        self.tokenizer: llguidance.LLTokenizer = library.LLTokenizer(
            library.TokenizerWrapper(self), eos_token=[self.eos_token_id]
        )
        del self.tokens
        self.words = -(-len(pieces) // 32)
        is_text = np.zeros(self.words * 32, bool)
        is_text[: len(pieces)] = [bool(piece) for piece in pieces]
        is_text[self.special_token_ids] = False
        self.text = np.packbits(is_text, bitorder="little").view(np.uint32)

    def __call__(self, text: str | bytes) -> list[int]:
        return self._encode(text if isinstance(text, str) else text.decode())


def _piece(encoding: HarmonyEncoding, token: int) -> bytes:
    """The bytes of a token, none if it has none; not remembered, as there are 200,000."""
    try:
        return encoding.tokenizer.decode_bytes([token])
    except (ValueError, OverflowError):
        return b""


_lexicons: weakref.WeakKeyDictionary[Any, Lexicon] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def lexicon(encoding: HarmonyEncoding) -> Lexicon:
    """Make a tokenizer's lexicon, or wait for whoever makes it; a second for 200,000 tokens.

    Raises
    ------
    ImportError
        llguidance is not installed.
    """
    with _lock:
        found = _lexicons.get(encoding.tokenizer)
        if found is None:
            found = _lexicons[encoding.tokenizer] = Lexicon(encoding)
        return found


class Grammar:
    """What a text may be.

    Parameters
    ----------
    words : Lexicon
    text : str
        As llguidance's own functions make it.
    where : str
        What errors call it.

    Raises
    ------
    ValueError
        It is not a grammar, allows no text at all, or is too complex.
    """

    def __init__(self, words: Lexicon, text: str, where: str) -> None:
        library = _llguidance()
        self.lexicon = words
        self.where = where
        self._matcher = library.LLMatcher(
            words.tokenizer, text, log_level=0, limits=library.LLParserLimits(**_LIMITS)
        )
        first = Matcher(self, self._matcher)
        first.check()
        # Here, as it may take longer than others, and some errors come with it.
        mask = np.empty(words.words, np.uint32)
        first.fill(mask)
        if not mask.any() and not first.is_complete:
            raise ValueError(f"{where}: no text is valid")

    def matcher(self) -> Matcher:
        """What follows one text."""
        return Matcher(self, self._matcher.deep_copy())


class Matcher:
    """Follows one text, token by token."""

    def __init__(self, grammar: Grammar, matcher: llguidance.LLMatcher) -> None:
        self._grammar = grammar
        self._matcher = matcher

    def take(self, token_ids: Sequence[int]) -> None:
        """Take what has come.

        Raises
        ------
        ValueError
            It is not what the grammar allows.
        """
        if not self._matcher.consume_tokens(list(token_ids)):
            self.check()
            raise ValueError(f"{self._grammar.where}: the text is not what it allows")

    def forced(self) -> list[int]:
        """Take the tokens that are all that can follow, and return them."""
        tokens: list[int] = self._matcher.compute_ff_tokens()
        self.take(tokens)
        return tokens

    @property
    def where(self) -> str:
        """What errors call its grammar."""
        return self._grammar.where

    @property
    def is_complete(self) -> bool:
        """Whether the text may end here."""
        return self._matcher.is_accepting()

    @property
    def is_over(self) -> bool:
        """Whether it must."""
        return self._matcher.is_stopped()

    def fill(self, mask: npt.NDArray[np.uint32]) -> None:
        """Set the bits of the tokens that may come next, and no others, (words) uint32.

        Raises
        ------
        ValueError
            The grammar is too complex.
        """
        self._matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        self.check()
        mask &= self._grammar.lexicon.text

    def check(self) -> None:
        """Raise ValueError if the grammar is none, or was too complex."""
        if self._matcher.is_error():
            raise ValueError(f"{self._grammar.where}: {_reason(self._matcher.get_error())}")


def _reason(error: str) -> str:
    """What users are told of the library's errors: neither its options nor its state."""
    if "coerce_one_of" in error:
        return (
            "the keyword 'oneOf' is supported only where no value can match two of its schemas; "
            "use anyOf"
        )
    if error.startswith("NoExtension"):
        return "no text is valid"
    text = " ".join(_STATE.split(error)[0].split())[:300]
    keyword = next((name for sign, name in _UNNAMED.items() if sign in text), "")
    return keyword + text


def schema_grammar(encoding: HarmonyEncoding, schema: Any, where: str) -> Grammar:
    """The grammar of the JSON texts that a schema allows, without blanks between values.

    Objects have the properties that they list and no others, unless the schema says otherwise.

    Raises
    ------
    ImportError
        llguidance is not installed.
    TypeError, ValueError
        As for `checked_schema`; or it allows nothing, or is too complex.
    """
    closed = closed_schema(checked_schema(schema, where))
    made = _llguidance().LLMatcher.grammar_from_json_schema(
        json.dumps(closed), overrides=_JSON_OPTIONS
    )
    return Grammar(lexicon(encoding), made, where)


def regex_grammar(encoding: HarmonyEncoding, pattern: Any, where: str) -> Grammar:
    """The grammar of what a regular expression matches, from beginning to end.

    Raises
    ------
    ImportError, TypeError, ValueError
        As for `schema_grammar`.
    """
    made = _llguidance().LLMatcher.grammar_from_regex(_text(pattern, where))
    return Grammar(lexicon(encoding), made, where)


def lark_grammar(encoding: HarmonyEncoding, definition: Any, where: str) -> Grammar:
    """The grammar that a text in llguidance's Lark syntax defines.

    Raises
    ------
    ImportError, TypeError, ValueError
        As for `schema_grammar`.
    """
    made = _llguidance().LLMatcher.grammar_from_lark(_text(definition, where))
    return Grammar(lexicon(encoding), made, where)


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{where} must be a string, got {value!r:.100}")
    length = len(value.encode(errors="replace"))
    if not 0 < length <= MAX_BYTES:
        raise ValueError(f"{where} must have 1 to {MAX_BYTES} bytes, got {length}")
    return value
