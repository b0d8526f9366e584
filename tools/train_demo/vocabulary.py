"""The demo's tokenizer: a byte-level BPE trained on the demo's own conversations.

Digits stand alone, so that numbers are worked digit by digit; only a few small words take the space
before them, so that a name or a value is the same tokens in a sentence, in JSON and in a tool call.
"""

# Long lists read better as text.
# ruff: noqa: SIM905

from __future__ import annotations

import json
import re

from conversations import example, render
from draws import Draw
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Trained

from gptoss.harmony import HarmonyEncoding
from gptoss.tokenizer import Tokenizer

VOCABULARY = 1536
SPECIALS = (
    "<|startoftext|>",
    "<|endoftext|>",
    "<|return|>",
    "<|constrain|>",
    "<|channel|>",
    "<|start|>",
    "<|end|>",
    "<|message|>",
    "<|call|>",
    "<|endofprompt|>",
)
# What Harmony says in every conversation is cut out whole, so that it costs a token each.
FIXED = (
    "You are ChatGPT, a large language model trained by OpenAI.\nKnowledge cutoff: 2024-06\n",
    "\n\n# Valid channels: analysis, commentary, final. "
    "Channel must be included for every message.",
    "\nCalls to these tools must go to the commentary channel: 'functions'.",
    "# Tools\n\n## functions\n\nnamespace functions {\n\n",
    "}) => any;\n\n",
    "} // namespace functions",
    " = (_: {\n",
    ": string,\n",
    ": number,\n",
    "# Instructions\n\n",
)
# Words of the sentences around what is asked and told: only they are one with the space before
# them. All else (names, values, digits, signs) is the same tokens wherever it stands, so that it
# can be copied token by token.
SMALL_WORDS = (
    "a about all an and answer are arguments asked asks at be by call can cannot carry check "
    "compare count developer digit digits do does end every first float for from give go gptoss "
    "has have how i if in into is it its join keep know large larger length letters letter like "
    "me memory minus model models my need needs not number numbers of one only or plus please "
    "printed reversed right run runs say says sentence should smaller so sum tell than that the "
    "their them then there these they thing this to token tokens tool tools topic until use used "
    "user uses using wants what when where which who why will with without word write you your"
).split()
# Signs that never join others.
ALONE = "$€£°%/"
PATTERN = "|".join(re.escape(text) for text in FIXED) + (
    rf"| (?:{'|'.join(SMALL_WORDS)})(?![\p{{L}}\p{{N}}_])"
    r"|\p{Ll}+|\p{Lu}+\p{Ll}*|\p{N}"
    rf"|-(?=\p{{N}})|[{ALONE}]"
    rf"| ?(?:(?!-\p{{N}})[^\s\p{{L}}\p{{N}}{ALONE}])+(?: (?=[\p{{L}}\p{{N}}]))?"
    r"|\n+|\s+(?!\S)|\s|."
)


def train_tokenizer(seed: int, conversations: int) -> str:
    """The text of a tokenizer.json, trained on rendered conversations."""
    bytes_only = Tokenizer(_empty())
    encoding = HarmonyEncoding(bytes_only)
    draw = Draw(seed, held=False)
    texts = []
    for _ in range(conversations):
        prompt, answer = render(example(draw), encoding)
        # What is between two special tokens is encoded on its own.
        text = bytes_only.decode([*prompt, *answer])
        for name in SPECIALS:
            text = text.replace(name, "\0")
        texts += [part for part in text.split("\0") if part]
    inner = Trained(models.BPE())
    inner.pre_tokenizer = _pre_tokenizer()
    inner.decoder = decoders.ByteLevel()
    inner.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY - len(SPECIALS),
            min_frequency=2,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return _with_specials(inner)


def _pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _empty() -> str:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Trained(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    inner.pre_tokenizer = _pre_tokenizer()
    inner.decoder = decoders.ByteLevel()
    return _with_specials(inner)


def _with_specials(inner: Trained) -> str:
    inner.add_special_tokens([AddedToken(name, normalized=False) for name in SPECIALS])
    text: str = inner.to_str(pretty=False)
    return json.dumps(json.loads(text), ensure_ascii=False, separators=(",", ":"))
