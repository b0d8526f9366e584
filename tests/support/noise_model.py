"""A model whose tokens are noise, for everything above `LLM.stream`."""

from __future__ import annotations

import dataclasses
from typing import Any

from gptoss import _core
from gptoss.engine.loop import EngineLoop
from gptoss.engine.request import Request
from gptoss.engine.sampling import SamplingParams
from gptoss.harmony import HarmonyEncoding
from gptoss.llm import LLM
from gptoss.text_engine import TextEngine
from support.checkpoints import MICRO
from support.harmony_tokenizer import ByteTokenizer
from support.scripted_model import WORDS, Config


class NoiseModel:
    """The engine on the device of csrc/testing, whose tokens depend on all that came before.

    Attributes
    ----------
    loop : EngineLoop
        To be closed.
    """

    name = "noise"
    chat = LLM.chat
    achat = LLM.achat
    run = LLM.run

    def __init__(
        self, max_steps_ahead: int = 0, *, context_length: int = 2000, max_sequences: int = 4
    ) -> None:
        tokenizer = ByteTokenizer(WORDS)
        self.harmony = HarmonyEncoding(tokenizer)
        ends = ("<|return|>", "<|endoftext|>")
        self.config = Config(tuple(map(self.harmony.special_id, ends)))
        self.context_length = context_length
        self.loop = EngineLoop(
            _core.make_fake_engine(
                vocab_size=tokenizer.vocab_size,
                script=[],
                max_sequences=max_sequences,
                context_length=context_length,
                max_steps_ahead=max_steps_ahead,
            )
        )
        sized = dataclasses.replace(MICRO, vocab_size=tokenizer.vocab_size)
        self._text = TextEngine(self.loop, sized, None, "noise")

    def stream(self, prompt: Any, params: SamplingParams | None = None) -> Request:
        return self._text.submit(prompt, params or SamplingParams(), self)
