"""The model `gptoss` of lm-evaluation-harness."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gptoss.eval.requests import Requests
from gptoss.load import load

try:
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model
except ImportError as error:
    raise ImportError(
        "evaluation needs lm-evaluation-harness: pip install 'gptoss-native[eval]'"
    ) from error


@register_model("gptoss")
class GptossLM(LM):  # type: ignore[misc]
    """A model that `load` has loaded, for the harness.

    Parameters
    ----------
    pretrained : str
        A folder, a Hub id or "demo".
    reasoning_effort : {"low", "medium", "high"}
        With --apply_chat_template.
    max_gen_toks : int
        Most tokens of a text whose task does not say it; in a chat, reasoning included, at least as
        many in any case.
    batch_size, max_batch_size
        Ignored: what runs together the engine decides.
    **options
        Of `gptoss.load`: context_length, precision, threads, ...
    """

    def __init__(
        self,
        pretrained: str = "openai/gpt-oss-20b",
        reasoning_effort: str = "medium",
        max_gen_toks: int = 2048,
        batch_size: Any = None,
        max_batch_size: Any = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self._llm = load(pretrained, **options)
        self._requests = Requests(self._llm, reasoning_effort, max_gen_toks)

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Of continuations: (context, continuation) each."""
        return self._requests.loglikelihoods([request.args for request in requests])

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """Of whole texts."""
        return self._requests.rolling([request.args[0] for request in requests])

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Texts: (context, options) each."""
        return self._requests.texts([request.args for request in requests])

    def apply_chat_template(
        self, chat_history: list[dict[str, Any]], add_generation_prompt: bool = True
    ) -> str:
        """Render a conversation in Harmony."""
        return self._requests.chat_prompt(chat_history, opens=add_generation_prompt)

    def chat_template(self, chat_template: bool | str = False) -> str:
        """What the harness tells its templates apart by."""
        return f"harmony, reasoning effort {self._requests.reasoning_effort}"

    @property
    def tokenizer_name(self) -> str:
        """What the harness tells its caches apart by."""
        return self._llm.name.replace("/", "__")
