"""Results as JSON lines: prompt, reasoning, answer and tokens, for whoever looks at them later."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from gptoss.chat import ChatResult
from gptoss.engine.outputs import GenerationResult, TokenLogprob
from gptoss.harmony import Message

if TYPE_CHECKING:
    from gptoss.tokenizer import Tokenizer


def save_jsonl(
    path: str | os.PathLike[str],
    results: GenerationResult | ChatResult | Iterable[GenerationResult | ChatResult],
    tokenizer: Tokenizer | None = None,
) -> int:
    """Append results to a file of JSON lines, one for each sample.

    Parameters
    ----------
    path : str or path
        The file; it is made if it is not there.
    results : GenerationResult, ChatResult, or an iterable of them
        What `generate` and `chat` return; of an iterator each is written as it comes.
    tokenizer : Tokenizer, optional
        `llm.tokenizer`, for the prompt's text.

    Returns
    -------
    int
        Lines that were written.

    Raises
    ------
    OSError
        The file cannot be written.
    TypeError
        Something else is among the results.

    Notes
    -----
    A line has `prompt` (text with the names of special tokens, null without a tokenizer),
    `messages` (of a chat, without the answer, else null), `reasoning`, `preamble`, `answer`,
    `tool_calls`, `finish_reason`, `prompt_token_ids`, `token_ids`, `logprobs` (numbers, one for
    each of `token_ids`, null unless they were asked for), `reasoning_tokens` and `index`, which
    counts the samples of a prompt.
    """
    given = [results] if isinstance(results, (GenerationResult, ChatResult)) else results
    count = 0
    with open(path, "a", encoding="utf-8") as file:  # noqa: PTH123  a str is a path as well
        for result in given:
            for record in _records(result, tokenizer):
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
                count += 1
    return count


def _records(result: Any, tokenizer: Tokenizer | None) -> Iterator[dict[str, Any]]:
    if not isinstance(result, (GenerationResult, ChatResult)):
        raise TypeError(f"results must be of generate or chat, got {type(result).__name__}")
    samples: list[GenerationResult | ChatResult] = [*result.samples]
    for index, sample in enumerate(samples):
        is_chat = isinstance(sample, ChatResult)
        yield {
            "prompt": None if tokenizer is None else tokenizer.decode(sample.prompt_token_ids),
            "messages": _conversation(sample) if isinstance(sample, ChatResult) else None,
            "reasoning": sample.reasoning if isinstance(sample, ChatResult) else "",
            "preamble": sample.preamble if isinstance(sample, ChatResult) else "",
            "answer": sample.text,
            "tool_calls": [call.to_openai() for call in sample.tool_calls]
            if isinstance(sample, ChatResult)
            else [],
            "finish_reason": sample.finish_reason,
            "prompt_token_ids": sample.prompt_token_ids,
            "token_ids": sample.token_ids,
            "logprobs": _numbers(sample.logprobs),
            "reasoning_tokens": sample.usage.reasoning_tokens if is_chat else 0,
            "index": index,
        }


def _conversation(result: ChatResult) -> list[Any]:
    return [
        message.to_dict() if isinstance(message, Message) else message
        for message in result.messages[:-1]
    ]


def _numbers(logprobs: list[TokenLogprob] | None) -> list[float] | None:
    return None if logprobs is None else [entry.logprob for entry in logprobs]
