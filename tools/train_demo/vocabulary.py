"""The demo's tokenizer: a byte-level BPE trained on the demo's own conversations.

Digits stand alone, so that numbers are worked digit by digit; capitalised words and names never
take the space before them, so that a name is the same tokens in a sentence and in a tool call.
"""

from __future__ import annotations

import json
import re

from conversations import Draw, example, render
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
PATTERN = "|".join(re.escape(text) for text in FIXED) + (
    r"| ?\p{Ll}+|\p{Lu}+\p{Ll}*|\p{N}| ?[^\s\p{L}\p{N}]+(?: (?=[\p{Lu}\p{N}]))?|\n+|\s+(?!\S)|\s|."
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
