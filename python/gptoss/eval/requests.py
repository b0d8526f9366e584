"""What an evaluation harness asks of a model, answered by an `LLM`; knows no harness."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gptoss.chat import build_prompt
from gptoss.engine.sampling import SamplingParams
from gptoss.harmony import Role
from gptoss.llm import LLM

# Before a text that nothing comes before.
_PREFIXES = ("<|startoftext|>", "<|endoftext|>")


class Requests:
    """Log-likelihoods and texts, as lm-evaluation-harness defines them.

    Parameters
    ----------
    llm : LLM
        The model.
    reasoning_effort : str
        Of chats.
    max_gen_toks : int
        Most tokens of a text whose task does not say it. Of an answer in a chat, which reasoning
        comes before, at least as many whatever the task says.
    """

    def __init__(self, llm: LLM, reasoning_effort: str, max_gen_toks: int) -> None:
        self.llm = llm
        self.reasoning_effort = reasoning_effort
        self.max_gen_toks = max_gen_toks
        special = llm.tokenizer.special_tokens
        prefix = next((special[name] for name in _PREFIXES if name in special), None)
        if prefix is None:
            raise ValueError(f"the tokenizer has none of {', '.join(_PREFIXES)}")
        self._prefix = prefix
        assistant = llm.tokenizer.encode("<|start|>assistant", allowed_special="all")
        self._opening = tuple(assistant)

    def loglikelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """Of each continuation after its context; and whether it is the greedy one.

        What does not fit into the context is cut from its beginning.
        """
        texts, counts = [], []
        for context, continuation in pairs:
            before, after = self._pair(context, continuation)
            texts.append([*before, *after][-self.llm.context_length :])
            counts.append(min(len(after), len(texts[-1]) - 1))
        return self._score(texts, counts)

    def rolling(self, texts: Sequence[str]) -> list[float]:
        """Of whole texts, each in windows of the context's length, every token counted once."""
        windows: list[list[int]] = []
        counts: list[int] = []
        owners: list[int] = []
        for owner, text in enumerate(texts):
            for window, count in self._windows(self._encode(text)):
                windows.append(window)
                counts.append(count)
                owners.append(owner)
        sums = [0.0] * len(texts)
        for owner, (logprob, _) in zip(owners, self._score(windows, counts), strict=True):
            sums[owner] += logprob
        return sums

    def texts(self, requests: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
        """What follows each context, up to the first of its stop strings.

        After a prompt of `chat_prompt` it is the answer's final text, without reasoning.
        """
        found = [""] * len(requests)
        groups: dict[SamplingParams, list[int]] = {}
        prompts: list[list[int]] = []
        stops: list[tuple[str, ...]] = []
        for index, (context, options) in enumerate(requests):
            params, until = self._params(options)
            ids = self._encode(context) or [self._prefix]
            is_chat = tuple(ids[-len(self._opening) :]) == self._opening
            limit = params.max_tokens or 1
            if is_chat:  # stop strings are the answer's: in reasoning they mean nothing
                limit = max(limit, self.max_gen_toks)
            # Half of the context at least is left for the prompt.
            limit = min(limit, max(1, self.llm.context_length // 2))
            prompts.append(ids[-(self.llm.context_length - limit) :])
            stops.append(until if is_chat else ())
            key = dataclasses.replace(params, max_tokens=limit, stop=() if is_chat else until)
            groups.setdefault(key, []).append(index)
        for params, indices in groups.items():
            results = self.llm.generate([prompts[i] for i in indices], params)
            for index, result in zip(indices, results, strict=True):
                is_chat = tuple(prompts[index][-len(self._opening) :]) == self._opening
                text = self._answer(result.token_ids) if is_chat else result.text
                found[index] = _cut(text, stops[index])
        return found

    def chat_prompt(self, messages: Sequence[Mapping[str, Any]], opens: bool) -> str:
        """What the model sees of a conversation, as text with the names of special tokens.

        Unless `opens`, it ends in the middle of the last message, which is the assistant's.
        """
        prompt = build_prompt(
            self.llm.harmony,
            list(messages),
            reasoning_effort=self.reasoning_effort,
            continue_final_message=not opens,
        )
        begun = prompt.openings[0] if prompt.openings else ()  # of the message that is continued
        return self.llm.tokenizer.decode([*prompt.token_ids, *begun])

    def _encode(self, text: str) -> list[int]:
        return self.llm.tokenizer.encode(text, allowed_special="all")

    def _pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        # Spaces at the border belong to what follows, as they do in the vocabulary.
        kept = context.rstrip()
        continuation = context[len(kept) :] + continuation
        whole, before = self._encode(kept + continuation), self._encode(kept)
        after = whole[len(before) :]
        if not before:
            before = [self._prefix]
        return before, after

    def _windows(self, tokens: list[int]) -> Iterator[tuple[list[int], int]]:
        """Windows, and how many of the last tokens of each count."""
        text = [self._prefix, *tokens]
        step = self.llm.context_length - 1
        for begin in range(1, len(text), step):
            end = min(begin + step, len(text))
            yield text[max(0, end - step - 1) : end], end - begin

    def _score(self, texts: list[list[int]], counts: list[int]) -> list[tuple[float, bool]]:
        results = self.llm.generate(texts, max_tokens=0, prompt_logprobs=1)
        scores = []
        for result, count in zip(results, counts, strict=True):
            assert result.prompt_logprobs is not None
            entries = [entry for entry in result.prompt_logprobs if entry is not None]
            entries = entries[len(entries) - count :]
            greedy = all(entry.token_id == entry.top_logprobs[0].token_id for entry in entries)
            scores.append((sum(entry.logprob for entry in entries), greedy))
        return scores

    def _params(self, options: Mapping[str, Any]) -> tuple[SamplingParams, tuple[str, ...]]:
        given = dict(options)
        until = given.pop("until", None) or ()
        stops = (until,) if isinstance(until, str) else tuple(until)
        sampled = given.pop("do_sample", None)
        temperature = float(given.pop("temperature", 0.0 if not sampled else 1.0))
        limit = self.max_gen_toks
        for name in ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens"):
            limit = int(given.pop(name, limit))
        params = SamplingParams(
            max_tokens=limit, temperature=temperature if sampled is not False else 0.0, **given
        )
        return params, tuple(stop for stop in stops if stop)

    def _answer(self, token_ids: list[int]) -> str:
        messages = self.llm.harmony.parse_messages_from_completion_tokens(
            token_ids, Role.ASSISTANT, strict=False
        )
        final = [message for message in messages if message.channel == "final"]
        return "".join(getattr(part, "text", "") for m in final for part in m.content)


def _cut(text: str, stops: Sequence[str]) -> str:
    ends = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(ends)] if ends else text
