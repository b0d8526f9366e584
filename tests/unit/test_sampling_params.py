"""SamplingParams: names, types, ranges."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from gptoss import SamplingParams
from gptoss.engine.constraints import ConstraintFactory, Decision


def test_names_and_defaults() -> None:
    assert dataclasses.asdict(SamplingParams()) == {
        "max_tokens": None,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "stop": (),
        "stop_token_ids": (),
        "seed": None,
        "logprobs": None,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "logit_bias": {},
        "ignore_eos": False,
        "n": 1,
        "min_tokens": 0,
        "allowed_token_ids": None,
        "prompt_logprobs": None,
        "constraint": None,
        "cache_salt": None,
        "adapter": None,
        "steer": {},
    }


def test_values_get_their_one_type() -> None:
    bias = {np.int64(3): np.float32(0.5)}
    params = SamplingParams(
        max_tokens=np.int32(4),
        temperature=0,
        top_k=np.uint8(2),
        stop="x",
        stop_token_ids=np.array([1, 2]),
        logit_bias=bias,
    )
    assert (params.max_tokens, type(params.max_tokens)) == (4, int)
    assert (params.temperature, type(params.temperature)) == (0.0, float)
    assert params.stop == ("x",)
    assert params.stop_token_ids == (1, 2)
    assert params.logit_bias == {3: 0.5}
    bias[np.int64(4)] = np.float32(1)
    assert params.logit_bias == {3: 0.5}
    assert SamplingParams(stop=["a", "b"]).stop == ("a", "b")


def test_frozen_hashable_and_picklable() -> None:
    params = SamplingParams(temperature=0.5, stop=["a"], logit_bias={1: 2.0}, seed=2**64 - 1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        params.temperature = 1.0  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(params)) == params
    assert hash(params) == hash(dataclasses.replace(params))
    assert dataclasses.replace(params, top_k=3).stop == ("a",)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("max_new_tokens", "max_tokens"),
        ("repeat_penalty", "repetition_penalty"),
        ("temp", "temperature"),
        ("temprature", "temperature"),
        ("n_predict", "max_tokens"),
    ],
)
def test_other_names_get_a_hint(name: str, meant: str) -> None:
    expected = f"unknown sampling parameter {name}: did you mean {meant}\\?"
    with pytest.raises(TypeError, match=expected):
        SamplingParams(**{name: 1})
    with pytest.raises(TypeError, match=expected):
        dataclasses.replace(SamplingParams(), **{name: 1})


def test_a_name_like_no_other_gets_the_list() -> None:
    with pytest.raises(TypeError, match="zzz: known are max_tokens, temperature, "):
        SamplingParams(zzz=1)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("max_tokens", 0, "max_tokens must be at least 1, got 0"),
        ("max_tokens", 2**31, "max_tokens must be at most 2147483647, got 2147483648"),
        ("temperature", -0.1, r"temperature must be at least 0 and finite, got -0\.1"),
        ("temperature", float("nan"), "temperature must be at least 0 and finite, got nan"),
        ("temperature", float("inf"), "temperature must be at least 0 and finite, got inf"),
        ("top_p", 0, r"top_p must be in \(0, 1\], got 0"),
        ("top_p", 1.5, r"top_p must be in \(0, 1\], got 1\.5"),
        ("top_k", -1, "top_k must be at least 0, got -1"),
        ("min_p", 1.1, r"min_p must be in \[0, 1\], got 1\.1"),
        ("stop", "", "stop must not hold an empty string"),
        ("stop_token_ids", [-1], "stop_token_ids must be at least 0, got -1"),
        ("seed", -1, "seed must be at least 0, got -1"),
        ("seed", 2**64, "seed must be at most 18446744073709551615, got"),
        ("logprobs", -1, "logprobs must be at least 0, got -1"),
        ("logprobs", 21, "logprobs must be at most 20, got 21"),
        ("prompt_logprobs", 21, "prompt_logprobs must be at most 20, got 21"),
        ("n", 129, "n must be at most 128, got 129"),
        ("temperature", 10**400, "temperature must be at least 0 and finite, got inf"),
        ("presence_penalty", -(10**400), r"presence_penalty must be in \[-2, 2\], got -inf"),
        ("logit_bias", {1: 10**400}, "logit_bias of 1 must be finite, got inf"),
        ("logit_bias", {"-1": 1.0}, "a token id in logit_bias must be at least 0, got -1"),
        ("logit_bias", {1: 1.0, "1": 2.0}, "logit_bias has token id 1 twice"),
        ("min_tokens", -1, "min_tokens must be at least 0, got -1"),
        ("allowed_token_ids", [], "allowed_token_ids must hold at least one token id"),
        ("allowed_token_ids", [-1], "allowed_token_ids must be at least 0, got -1"),
        ("repetition_penalty", 0, "repetition_penalty must be above 0 and finite, got 0"),
        ("presence_penalty", 2.1, r"presence_penalty must be in \[-2, 2\], got 2\.1"),
        ("frequency_penalty", -3, r"frequency_penalty must be in \[-2, 2\], got -3"),
        ("logit_bias", {1: float("nan")}, "logit_bias of 1 must be finite, got nan"),
        ("logit_bias", {-1: 1.0}, "a token id in logit_bias must be at least 0, got -1"),
    ],
)
def test_values_out_of_range(name: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SamplingParams(**{name: value})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("max_tokens", 1.5, r"max_tokens must be an integer, got 1\.5"),
        ("max_tokens", True, "max_tokens must be an integer, got True"),
        ("temperature", "0.5", "temperature must be a number, got '0.5'"),
        ("top_p", True, "top_p must be a number, got True"),
        ("stop", 7, "stop must be a sequence of strings, got 7"),
        ("stop", [7], "stop must be a string or a sequence of them, got 7 in it"),
        ("stop", b"x", "stop must be a sequence of strings, got b'x'"),
        ("stop_token_ids", 7, "stop_token_ids must be a sequence of token ids, got 7"),
        ("stop_token_ids", ["a"], "stop_token_ids must be an integer, got 'a'"),
        ("logit_bias", [1], r"logit_bias must map token ids to numbers, got \[1\]"),
        ("logit_bias", {"a": 1.0}, "a token id in logit_bias must be an integer, got 'a'"),
        ("logit_bias", {1: "1"}, "logit_bias of 1 must be a number, got '1'"),
        ("allowed_token_ids", "a", "allowed_token_ids must be a sequence of token ids, got 'a'"),
        ("constraint", 7, "constraint must have the methods accept and fill, or be a function"),
        ("ignore_eos", 1, "ignore_eos must be True or False, got 1"),
    ],
)
def test_values_of_the_wrong_type(name: str, value: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        SamplingParams(**{name: value})


def test_none_is_the_default_of_every_parameter() -> None:
    nothing = dict.fromkeys((field.name for field in dataclasses.fields(SamplingParams)), None)
    assert SamplingParams(**nothing) == SamplingParams()  # type: ignore[arg-type]


def test_keys_of_the_bias_may_be_strings_of_digits() -> None:
    assert SamplingParams(logit_bias={"64": -100}).logit_bias == {64: -100.0}  # type: ignore[dict-item]


def test_samples_share_the_bias() -> None:
    """It may have an entry for every token, and there may be 128 samples."""
    params = SamplingParams(logit_bias={1: 2.0}, n=3, seed=5)
    for index in range(3):
        sample = params.for_sample(index)
        assert sample.logit_bias is params.logit_bias
        assert sample.n == 1
    assert params.for_sample(0).seed == 5
    assert params.n == 3


class Nothing:
    """A constraint that decides on nothing."""

    def accept(self, token_ids: list[int]) -> Decision:
        return Decision()

    def fill(self, mask: npt.NDArray[np.uint32]) -> None:
        pass


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"max_tokens": 3, "min_tokens": 4}, "min_tokens must be at most max_tokens, 3, got 4"),
        (
            {"max_tokens": 0, "prompt_logprobs": 0, "n": 2},
            "n must be 1 where a prompt is only scored, got 2",
        ),
        (
            {"constraint": Nothing(), "n": 2},
            "a constraint decides on one sequence: with n=2, pass a function that makes one",
        ),
    ],
)
def test_what_does_not_go_together(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SamplingParams(**params)


def test_no_tokens_are_for_prompts_that_are_scored() -> None:
    assert SamplingParams(max_tokens=0, prompt_logprobs=2).max_tokens == 0


@pytest.mark.parametrize("make", [Nothing, lambda: Nothing()])
def test_a_function_makes_constraints_for_samples(make: ConstraintFactory) -> None:
    params = SamplingParams(constraint=make, n=2)
    assert params.constraint is make
    # What decides does not tell parameters apart.
    assert params == SamplingParams(n=2)
    assert hash(params) == hash(SamplingParams(n=2))


@pytest.mark.parametrize(
    ("salt", "error", "message"),
    [("", ValueError, "must not be empty"), (7, TypeError, "must be a string, got 7")],
)
def test_a_salt_is_a_text(salt: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"cache_salt {message}"):
        SamplingParams(cache_salt=salt)  # type: ignore[arg-type]


def test_salts_have_numbers_of_their_own() -> None:
    salts = [None, "a", "b", "a\ud800"]
    assert len({SamplingParams(cache_salt=salt)._salt for salt in salts}) == 4
    assert SamplingParams()._salt == 0
