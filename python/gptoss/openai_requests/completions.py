"""The body of a POST to /v1/completions, and its answer."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gptoss.chat.openai import usage_dict
from gptoss.engine.outputs import GenerationResult, TokenLogprob, Usage
from gptoss.engine.sampling import SamplingParams
from gptoss.llm import LLM
from gptoss.openai_requests.fields import Field, RequestError, Table, shown
from gptoss.openai_requests.sampling import IGNORED, SAMPLING, sampling_of

if TYPE_CHECKING:
    from gptoss.tokenizer import Tokenizer

# OpenAI's own default for text completions.
_COMPLETION_TOKENS = 16
# JSON has no infinity; this is what the API reports for a token that is all but impossible.
_LEAST_LOGPROB = -9999.0

_BOOLEAN = {"type": "boolean"}

COMPLETION = Table(
    "/v1/completions",
    [
        Field(
            "prompt",
            "done",
            "a string, a list of strings, token ids, or a list of lists of ids",
            {"anyOf": [{"type": "string", "minLength": 1}, {"type": "array", "minItems": 1}]},
        ),
        Field("model", "done", "a name of the served model; may be left out", {"type": "string"}),
        Field("stream", "done", "server-sent events", _BOOLEAN),
        Field(
            "stream_options",
            "done",
            "`include_usage`: a last chunk with the token counts; only with `stream`",
            {"type": "object", "properties": {"include_usage": _BOOLEAN}},
        ),
        Field(
            "max_tokens",
            "done",
            f"by default {_COMPLETION_TOKENS}; 0 only scores the prompt (`echo` and `logprobs`)",
            {"type": "integer", "minimum": 0, "maximum": 2**31 - 1},
        ),
        Field(
            "echo",
            "done",
            "the prompt stands before the text, with its log-probabilities; those not in a stream",
            _BOOLEAN,
        ),
        Field(
            "logprobs",
            "done",
            "log-probabilities of the tokens, and of so many alternatives",
            {"type": "integer", "minimum": 0, "maximum": 20},
        ),
        *SAMPLING,
        Field("ignore_eos", "done", "go on past the model's own stop tokens", _BOOLEAN, own=True),
        Field(
            "allow_special_tokens",
            "done",
            "names such as `<|start|>` in a prompt are the tokens; otherwise they are text",
            _BOOLEAN,
            own=True,
        ),
        *(each for each in IGNORED if each.name == "user"),
        Field("best_of", "refused", "ask for `n`, and choose", meant=(1,)),
        Field("suffix", "refused", "gpt-oss does not fill gaps", meant=("",)),
    ],
    required=("prompt",),
)


@dataclass(frozen=True)
class CompletionRequest:
    """A body that was checked.

    Attributes
    ----------
    prompts : list of str or list of int
        At least one.
    params : SamplingParams
        What `LLM.submit` is to be given with each.
    model : str or None
        The model that is asked for.
    stream, include_usage, echo, allow_special : bool
        As the fields say.
    """

    prompts: list[str | list[int]]
    params: SamplingParams
    model: str | None = None
    stream: bool = False
    include_usage: bool = False
    echo: bool = False
    allow_special: bool = False

    @classmethod
    def read(cls, body: Mapping[str, Any], *, strict: bool = False) -> CompletionRequest:
        """Check a body; the parameters and errors are as for `ChatRequest.read`."""
        given = COMPLETION.check(body, strict=strict)
        values = sampling_of(given)
        max_tokens = given.get("max_tokens", _COMPLETION_TOKENS)
        alternatives = given.get("logprobs")
        echo = given.get("echo", False)
        stream = given.get("stream", False)
        options = given.get("stream_options")
        if options is not None and not stream:
            raise RequestError("stream_options needs stream: true", "stream_options")
        if stream and echo and alternatives is not None:
            raise RequestError("echo with logprobs needs stream: false", "echo")
        prompt_logprobs = alternatives if echo else None
        if max_tokens == 0 and prompt_logprobs is None:
            prompt_logprobs = 0  # the engine computes nothing else without an output
        params = SamplingParams(
            **values,
            max_tokens=max_tokens,
            logprobs=alternatives,
            prompt_logprobs=prompt_logprobs,
            ignore_eos=given.get("ignore_eos", False),
        )
        return cls(
            prompts=_prompts(given["prompt"]),
            params=params,
            model=given.get("model"),
            stream=stream,
            include_usage=bool((options or {}).get("include_usage")),
            echo=echo,
            allow_special=given.get("allow_special_tokens", False),
        )

    @property
    def cost(self) -> int:
        """Sequences that the engine computes for it."""
        return len(self.prompts) * self.params.n

    def encoded(self, llm: LLM) -> list[list[int]]:
        """The prompts as token ids; each leaves room in the context.

        Raises
        ------
        RequestError
            One is empty, too long, or has an id that is not in the vocabulary.
        """
        allowed = "all" if self.allow_special else ()
        found = []
        for index, prompt in enumerate(self.prompts):
            where = "prompt" if len(self.prompts) == 1 else f"prompt[{index}]"
            if isinstance(prompt, str):
                ids = llm.tokenizer.encode(prompt, allowed_special=allowed)
            else:
                ids = prompt
                size = llm.config.vocab_size
                wrong = next((each for each in ids if not 0 <= each < size), None)
                if wrong is not None:
                    raise RequestError(
                        f"{where}: token id {wrong} lies outside the vocabulary of {size}", where
                    )
            if not ids:
                raise RequestError(f"{where} must not be empty", where)
            least = 0 if self.params.max_tokens == 0 else 1
            if len(ids) + least > llm.context_length:
                raise RequestError(
                    f"{where} has {len(ids)} tokens, and the context of {llm.context_length} must "
                    f"hold it{' and at least one more' if least else ''}",
                    where,
                    "context_length_exceeded",
                )
            found.append(ids)
        return found

    def prompt_text(self, index: int, tokenizer: Tokenizer) -> str:
        """A prompt as text, for `echo`."""
        prompt = self.prompts[index]
        return prompt if isinstance(prompt, str) else tokenizer.decode(prompt)


def _prompts(value: Any) -> list[str | list[int]]:
    if isinstance(value, str):
        return [value]
    if all(isinstance(item, str) for item in value):
        return list(value)
    if all(_is_id(item) for item in value):
        return [value]
    for index, item in enumerate(value):
        if not isinstance(item, list) or not all(map(_is_id, item)):
            raise RequestError(
                "prompt must be a string, a list of strings, token ids, or a list of lists of "
                f"token ids; prompt[{index}] is {shown(item)}",
                "prompt",
            )
    return list(value)


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


async def answer_completion(llm: LLM, body: Mapping[str, Any]) -> dict[str, Any]:
    """Answer the body of a POST to /v1/completions; the parameters are as for `answer_chat`.

    Returns
    -------
    dict
        A text completion: a choice for each prompt, and each of its `n` samples.
    """
    request = CompletionRequest.read(body, strict=True)
    if request.stream:
        raise RequestError("stream may only be False here, got True", "stream")
    adapter = request.model if request.model in llm.adapters else None
    results = await llm.agenerate(request.encoded(llm), request.params, adapter=adapter)
    answer = completion_dict(llm, request, results)
    return answer if adapter is None else {**answer, "model": adapter}


def completion_dict(
    llm: LLM, request: CompletionRequest, results: Sequence[GenerationResult]
) -> dict[str, Any]:
    """The answer to a request: a choice for each prompt, and each of its samples."""
    choices: list[dict[str, Any]] = []
    for index, result in enumerate(results):
        prompt_text = request.prompt_text(index, llm.tokenizer) if request.echo else ""
        for sample in result.samples:
            logprobs = None
            if sample.logprobs is not None:
                before = result.prompt_logprobs or [] if request.echo else []
                scores = [*before, *sample.logprobs]
                ids = [*(result.prompt_token_ids if before else ()), *sample.token_ids]
                logprobs = logprobs_dict(TextOffsets(llm.tokenizer), ids, scores)
            choices.append(
                {
                    "text": prompt_text + sample.text,
                    "index": len(choices),
                    "logprobs": logprobs,
                    "finish_reason": (
                        "length" if request.params.max_tokens == 0 else sample.finish_reason
                    ),
                }
            )
    return {
        **completion_head(llm.name),
        "choices": choices,
        "usage": usage_dict(total_usage(results)),
    }


def completion_head(model: str) -> dict[str, Any]:
    """What an answer, and all chunks of one, have in common."""
    return {
        "id": f"cmpl-{secrets.token_hex(12)}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": model,
    }


def total_usage(results: Iterable[GenerationResult]) -> Usage:
    """What all prompts and samples of a request took; a prompt counts once."""
    results = list(results)
    return Usage(
        sum(result.usage.prompt_tokens for result in results),
        sum(sample.usage.completion_tokens for r in results for sample in r.samples),
        cached_tokens=sum(result.usage.cached_tokens for result in results),
    )


class TextOffsets:
    """Tells where in a text its tokens begin, whose characters may be parted among them.

    Parameters
    ----------
    tokenizer : Tokenizer
    start : int
        Where the first one begins.
    """

    def __init__(self, tokenizer: Tokenizer, start: int = 0) -> None:
        self.tokenizer = tokenizer
        self._decoder = tokenizer.incremental_decoder()
        self._next = start

    def take(self, token_id: int) -> int:
        """Take the next token; return where it begins."""
        offset = self._next
        self._next += len(self._decoder.push(token_id))
        return offset


def logprobs_dict(
    offsets: TextOffsets, ids: Sequence[int], scores: Sequence[TokenLogprob | None]
) -> dict[str, Any]:
    """Log-probabilities of the next tokens of a text.

    None is that of the first one, which nothing comes before.
    """
    tokenizer = offsets.tokenizer
    return {
        "tokens": [token_text(tokenizer, token_id) for token_id in ids],
        "token_logprobs": [None if s is None else max(s.logprob, _LEAST_LOGPROB) for s in scores],
        "top_logprobs": [
            None
            if score is None
            else {
                token_text(tokenizer, top.token_id): max(top.logprob, _LEAST_LOGPROB)
                for top in score.top_logprobs
            }
            for score in scores
        ],
        "text_offset": [offsets.take(token_id) for token_id in ids],
    }


def token_text(tokenizer: Tokenizer, token_id: int) -> str:
    """A token alone; one with a part of a character as OpenAI's API writes it, `bytes:\\xe2`."""
    try:
        data = tokenizer.token_bytes(token_id)
    except ValueError:  # an id without a token
        return ""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
