"""How a request's tokens are chosen, and when it ends."""

from __future__ import annotations

import copy
import difflib
import hashlib
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from numbers import Real
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from gptoss.engine.constraints import Constraint, ConstraintFactory, is_constraint

_T = TypeVar("_T")

_MAX_INT = 2**31 - 1  # the core's integers
_MAX_SEED = 2**64 - 1
_MAX_FLOAT = 3.4e38  # the core's floats
# What the OpenAI API takes, too: each costs every step of all requests, or begins at once.
_MAX_LOGPROBS = 20
_MAX_SAMPLES = 128

# What other libraries call them.
_OTHER_NAMES = {
    "eos_token_id": "stop_token_ids",
    "lora": "adapter",
    "lora_request": "adapter",
    "max_completion_tokens": "max_tokens",
    "max_length": "max_tokens",
    "max_new_tokens": "max_tokens",
    "n_predict": "max_tokens",
    "num_predict": "max_tokens",
    "num_return_sequences": "n",
    "random_seed": "seed",
    "repeat_penalty": "repetition_penalty",
    "stop_sequences": "stop",
    "stop_strings": "stop",
    "temp": "temperature",
    "top_logprobs": "logprobs",
}


@dataclass(frozen=True)
class SamplingParams:
    """How a request's tokens are chosen, and when it ends.

    In order: `logit_bias`, penalties, temperature, `min_p`, `top_k`, `top_p`. A token's random
    number depends on `seed` and its index in the output alone, so that neither other requests nor
    the number of threads changes the outcome.

    Parameters
    ----------
    max_tokens : int, optional
        Most tokens to generate; None goes on until the context is full. 0 only scores the prompt,
        and goes with `prompt_logprobs`.
    temperature : float
        Divides the logits; 0 is greedy: the likeliest token, ties to the lowest id.
    top_p : float
        In (0, 1]: keep the likeliest tokens that together have this probability.
    top_k : int
        Keep this many tokens; 0 keeps all.
    min_p : float
        In [0, 1]: keep tokens at least this likely, relative to the likeliest.
    stop : str or sequence of str
        The text ends before the first of these; they are found across token borders.
    stop_token_ids : sequence of int
        Generation ends with any of these tokens, besides the model's own.
    seed : int, optional
        In [0, 2^64); None draws one from the operating system.
    logprobs : int, optional
        0 reports the log-probability of each chosen token; n, at most 20, adds those of the n
        likeliest. They are those of the model itself, before any of the changes above.
    repetition_penalty : float
        Positive; above 1 makes tokens of prompt and output less likely.
    presence_penalty, frequency_penalty : float
        In [-2, 2]: subtracted from the logits of the output's tokens, once, and once per
        occurrence.
    logit_bias : mapping of int to float
        Added to the logits of these token ids, which may be strings of digits, as in JSON. 1e30
        and beyond force a token, -1e30 and beyond ban it, whatever the penalties do.
    ignore_eos : bool
        Go on past the model's own stop tokens.
    n : int
        Samples of each prompt, at most 128; the prompt is computed once. Of a given `seed` the
        first sample is that of `n=1`, and the others have seeds derived from it.
    min_tokens : int
        Before so many tokens none that would end the text is chosen: neither the model's own stop
        tokens nor `stop_token_ids`. Stop strings end it all the same.
    allowed_token_ids : sequence of int, optional
        No other tokens are chosen; None allows all.
    prompt_logprobs : int, optional
        As `logprobs`, for the tokens of the prompt after the first, in
        `GenerationResult.prompt_logprobs`. The prompt is then computed whole, cached or not.
    constraint : Constraint or callable, optional
        Decides what may follow. A `Constraint` has the state of one sequence: for several samples
        or prompts, pass a function without parameters that makes one for each.
    cache_salt : str, optional
        What is computed of a prompt is reused for requests with the same salt only: one for each
        user keeps them from telling by the time of an answer what others have asked.
    adapter : str, optional
        The name of an adapter that `LLM.load_adapter` has loaded; None is the model as it is.
    steer : mapping of int to array
        Vectors (hidden_size) f32 by layer, from 0: each is added to the residual stream after its
        layer, at every token of the prompt and the output. What is computed of a prompt is reused
        for requests that are steered alike only.

    Raises
    ------
    TypeError
        A value is of the wrong type, or a name is unknown.
    ValueError
        A value is out of its range.

    Notes
    -----
    None stands for the default of any of them.
    """

    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    stop: str | Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    seed: int | None = None
    logprobs: int | None = None
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    ignore_eos: bool = False
    n: int = 1
    min_tokens: int = 0
    allowed_token_ids: Sequence[int] | None = None
    prompt_logprobs: int | None = None
    constraint: Constraint | ConstraintFactory | None = field(default=None, compare=False)
    cache_salt: str | None = None
    adapter: str | None = None
    steer: Mapping[int, npt.ArrayLike] = field(default_factory=dict, hash=False)

    def __new__(cls, *args: Any, **kwargs: Any) -> SamplingParams:
        """Refuse unknown names with a hint, before the generated __init__ does without one."""
        known = [parameter.name for parameter in fields(cls)]
        for name in kwargs:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                meant = _OTHER_NAMES.get(name, close[0] if close else None)
                hint = f"did you mean {meant}?" if meant else f"known are {', '.join(known)}"
                raise TypeError(f"unknown sampling parameter {name}: {hint}")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        """Check every value, and bring each to its one type."""
        for parameter in fields(self):
            if getattr(self, parameter.name) is None:
                factory = parameter.default_factory
                value = parameter.default if factory is MISSING else factory()
                object.__setattr__(self, parameter.name, value)
        stop = self.stop
        least_tokens = 1 if self.prompt_logprobs is None else 0
        normal = {
            "max_tokens": _optional(_integer, "max_tokens", self.max_tokens, least_tokens),
            "temperature": _number("temperature", self.temperature, 0, _MAX_FLOAT),
            "top_p": _number("top_p", self.top_p, 0, 1, above=True),
            "top_k": _integer("top_k", self.top_k, 0),
            "min_p": _number("min_p", self.min_p, 0, 1),
            "stop": (stop,) if isinstance(stop, str) else _sequence("stop", stop, "strings"),
            "stop_token_ids": _token_ids("stop_token_ids", self.stop_token_ids),
            "seed": _optional(_integer, "seed", self.seed, 0, _MAX_SEED),
            "logprobs": _optional(_integer, "logprobs", self.logprobs, 0, _MAX_LOGPROBS),
            "repetition_penalty": _number(
                "repetition_penalty", self.repetition_penalty, 0, _MAX_FLOAT, above=True
            ),
            "presence_penalty": _number("presence_penalty", self.presence_penalty, -2, 2),
            "frequency_penalty": _number("frequency_penalty", self.frequency_penalty, -2, 2),
            "logit_bias": _logit_bias(self.logit_bias),
            "steer": _steer(self.steer),
            "n": _integer("n", self.n, 1, _MAX_SAMPLES),
            "min_tokens": _integer("min_tokens", self.min_tokens, 0),
            "allowed_token_ids": _optional(_token_ids, "allowed_token_ids", self.allowed_token_ids),
            "prompt_logprobs": _optional(
                _integer, "prompt_logprobs", self.prompt_logprobs, 0, _MAX_LOGPROBS
            ),
        }
        for name, value in normal.items():
            object.__setattr__(self, name, value)
        for text in self.stop:
            if not isinstance(text, str):
                raise TypeError(f"stop must be a string or a sequence of them, got {text!r} in it")
            if not text:
                raise ValueError("stop must not hold an empty string")
        if not isinstance(self.ignore_eos, bool):
            raise TypeError(f"ignore_eos must be True or False, got {self.ignore_eos!r}")
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise ValueError(
                f"min_tokens must be at most max_tokens, {self.max_tokens}, got {self.min_tokens}"
            )
        if self.allowed_token_ids is not None and not self.allowed_token_ids:
            raise ValueError("allowed_token_ids must hold at least one token id")
        if self.cache_salt is not None and not isinstance(self.cache_salt, str):
            raise TypeError(f"cache_salt must be a string, got {self.cache_salt!r}")
        if self.cache_salt == "":
            raise ValueError("cache_salt must not be empty")
        if self.adapter is not None and not isinstance(self.adapter, str):
            raise TypeError(f"adapter must be an adapter's name, got {self.adapter!r}")
        self._check_together()

    def _check_together(self) -> None:
        constraint = self.constraint
        if constraint is None or callable(constraint):
            pass
        elif not is_constraint(constraint):
            raise TypeError(
                "constraint must have the methods accept and fill, or be a function that makes "
                f"such an object, got {constraint!r}"
            )
        if is_constraint(constraint) and self.n > 1:
            raise ValueError(
                f"a constraint decides on one sequence: with n={self.n}, pass a function that "
                "makes one for each"
            )
        if self.max_tokens == 0 and self.n > 1:
            raise ValueError(f"n must be 1 where a prompt is only scored, got {self.n}")

    @property
    def _salt(self) -> int:
        """The core's number for what pages must have in common: `cache_salt` and `steer`."""
        return self._salt_with(b"")

    def _salt_with(self, adapter: bytes) -> int:
        """The same beside an adapter's digest: pages are those of an adapter, too."""
        if self.cache_salt is None and not self.steer and not adapter:
            return 0
        text = "" if self.cache_salt is None else self.cache_salt
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8, key=adapter)
        for layer, vector in self.steer.items():
            numbers = np.asarray(vector, np.float32).tobytes()
            digest.update(b"\xff%d:" % layer + numbers)  # \xff is not in UTF-8
        return int.from_bytes(digest.digest(), "little")

    def for_sample(self, index: int) -> SamplingParams:
        """Return the parameters of one of the `n` samples; `seed` must be given."""
        assert self.seed is not None
        sample = copy.copy(self)  # the values are checked, and the bias may be long
        object.__setattr__(sample, "seed", sample_seed(self.seed, index))
        object.__setattr__(sample, "n", 1)
        return sample


def sample_seed(seed: int, index: int) -> int:
    """Return the seed of a request's sample; the first one has the request's own."""
    if index == 0:
        return seed
    # Far from the seeds that others are likely to give: seed + index would repeat them.
    digest = hashlib.blake2b(f"{seed},{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _optional(check: Any, name: str, value: Any, *limits: int) -> Any:
    return None if value is None else check(name, value, *limits)


def _integer(name: str, value: Any, low: int, high: int = _MAX_INT) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    number = operator.index(value)
    if not low <= number <= high:
        expected = f"at least {low}" if number < low else f"at most {high}"
        raise ValueError(f"{name} must be {expected}, got {number}")
    return number


def _number(name: str, value: Any, low: float, high: float, *, above: bool = False) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    number = _float(value)
    if not low <= number <= high or (above and number == low):
        bracket = "(" if above else "["
        allowed = f"in {bracket}{low:g}, {high:g}]"
        if high == _MAX_FLOAT:
            allowed = f"{'above' if above else 'at least'} {low:g} and finite"
        raise ValueError(f"{name} must be {allowed}, got {number:g}")
    return number


def _float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer beyond all floats
        return float("inf") if value > 0 else float("-inf")


def _sequence(name: str, value: Iterable[_T], of: str) -> tuple[_T, ...]:
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise TypeError(f"{name} must be a sequence of {of}, got {value!r}")
    return tuple(value)


def _token_ids(name: str, value: Iterable[int]) -> tuple[int, ...]:
    return tuple(_integer(name, token_id, 0) for token_id in _sequence(name, value, "token ids"))


def _steer(value: Any) -> dict[int, tuple[float, ...]]:
    if not isinstance(value, Mapping):
        raise TypeError(f"steer must map layers to vectors, got {value!r}")
    result: dict[int, tuple[float, ...]] = {}  # of tuples, so that parameters can be compared
    for given, numbers in value.items():
        layer = _integer("a layer of steer", given, 0)
        array = np.asarray(numbers)
        if array.dtype.kind not in "fiu":
            raise TypeError(f"steer of layer {layer} must be numbers, got {array.dtype.name}")
        if array.ndim != 1:
            raise ValueError(
                f"steer of layer {layer} must be a vector of hidden_size numbers, got shape "
                f"{array.shape}"
            )
        with np.errstate(over="ignore"):  # what is beyond float32 is refused as infinite
            vector = array.astype(np.float32)
        if not np.isfinite(vector).all():
            raise ValueError(f"steer of layer {layer} must be finite in float32")
        result[layer] = tuple(vector.tolist())
    return dict(sorted(result.items()))


def _logit_bias(value: Any) -> dict[int, float]:
    if not isinstance(value, Mapping):
        raise TypeError(f"logit_bias must map token ids to numbers, got {value!r}")
    result: dict[int, float] = {}
    for token_id, bias in value.items():
        if isinstance(token_id, str) and re.fullmatch(r"-?[0-9]{1,19}", token_id):
            token_id = int(token_id)  # JSON has no other keys
        key = _integer("a token id in logit_bias", token_id, 0)
        if key in result:
            raise ValueError(f"logit_bias has token id {key} twice")
        if isinstance(bias, bool) or not isinstance(bias, Real):
            raise TypeError(f"logit_bias of {key} must be a number, got {bias!r}")
        result[key] = _float(bias)
        if not abs(result[key]) <= _MAX_FLOAT:
            raise ValueError(f"logit_bias of {key} must be finite, got {result[key]:g}")
    return result
