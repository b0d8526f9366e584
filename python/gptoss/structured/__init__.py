"""What a text must be: JSON of a schema, a regular expression, a grammar."""

from .grammar import Grammar, Matcher, lark_grammar, lexicon, regex_grammar, schema_grammar
from .keywords import FORMATS, KEYWORDS, Keyword

__all__ = [
    "FORMATS",
    "KEYWORDS",
    "Grammar",
    "Keyword",
    "Matcher",
    "lark_grammar",
    "lexicon",
    "regex_grammar",
    "schema_grammar",
]
