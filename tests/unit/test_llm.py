"""Generating, streaming and scoring with one model."""

from __future__ import annotations

import dataclasses
import inspect
import pickle
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gptoss
from gptoss import LLM, CheckpointError, SamplingParams
from gptoss.errors import BackendError
from support.checkpoints import MICRO, make_checkpoint
from support.tolerances import LOGPROB

VOCAB = 512
CONTEXT = 300
RETURN = 258  # <|return|> in the tiny vocabulary
LETTERS = dict.fromkeys(b"abcdefgh", 30.0)  # so that the output is text
PROMPTS = ["Hello", [1, 2, 3], "a longer prompt, " * 5, np.arange(40), [7]]


@pytest.fixture(scope="module")
def llm(tiny_checkpoint: Callable[[str], Path]) -> Iterator[LLM]:
    with gptoss.load(tiny_checkpoint("hf"), threads=2, context_length=CONTEXT) as model:
        yield model


def greedy(llm: LLM, prompt: Any, count: int = 20, **more: Any) -> list[int]:
    return llm.generate(prompt, temperature=0, max_tokens=count, ignore_eos=True, **more).token_ids


def assert_nothing_runs(llm: LLM) -> None:
    """Give the engine's thread a moment to drop what was cancelled."""
    deadline = time.monotonic() + 10
    while (stats := llm.stats()).running or stats.waiting:
        assert time.monotonic() < deadline, stats
        time.sleep(0.001)
    assert stats.full_pages.used == stats.window_pages.used == 0


class TestPrompts:
    def test_one_in_one_out(self, llm: LLM) -> None:
        result = llm.generate("ab", max_tokens=3, seed=1, ignore_eos=True)
        assert result.prompt_token_ids == [97, 98]
        assert len(result.token_ids) == 3
        assert result.finish_reason == "length"
        assert result.stop_reason is None
        assert result.logprobs is None
        assert result.usage == gptoss.Usage(prompt_tokens=2, completion_tokens=3)
        assert result.timings.prompt_tps > 0
        assert result.timings.generation_tps > 0
        assert pickle.loads(pickle.dumps(result)) == result

    @pytest.mark.parametrize("ids", [[97, 98], (97, 98), np.array([97, 98], np.uint16)])
    def test_ids_are_one_prompt(self, llm: LLM, ids: Any) -> None:
        assert greedy(llm, ids) == greedy(llm, "ab")

    def test_list_in_list_out(self, llm: LLM) -> None:
        results = llm.generate(PROMPTS, max_tokens=2, temperature=0)
        assert [len(r.prompt_token_ids) for r in results] == [5, 3, 85, 40, 1]
        assert [r.prompt_token_ids for r in llm.generate(["ab"], max_tokens=1)] == [[97, 98]]
        assert [r.prompt_token_ids for r in llm.generate([[5]], max_tokens=1)] == [[5]]
        assert [r.prompt_token_ids for r in llm.generate(("a", "b"), max_tokens=1)] == [[97], [98]]
        assert llm.generate([]) == []

    def test_more_prompts_than_run_at_once(self, llm: LLM) -> None:
        results = llm.generate([[i] for i in range(40)], max_tokens=2, temperature=0)
        assert [r.prompt_token_ids for r in results] == [[i] for i in range(40)]
        assert results[39].token_ids == llm.generate([39], max_tokens=2, temperature=0).token_ids

    @pytest.mark.parametrize(
        ("prompt", "message"),
        [
            ("", "the prompt is empty"),
            ([[]], "the prompt is empty"),
            (["a", ""], "the prompt is empty"),
            (np.array([], int), "the prompt is empty"),
            ([1, VOCAB], f"token id {VOCAB} at position 1 lies outside the vocabulary of {VOCAB}"),
            ([-1], f"token id -1 at position 0 lies outside the vocabulary of {VOCAB}"),
            ([2**40], "token id 1099511627776 at position 0 lies outside"),
            ([5] * CONTEXT, f"the prompt has {CONTEXT} tokens, and the context of {CONTEXT}"),
        ],
    )
    def test_prompts_that_cannot_be_run(self, llm: LLM, prompt: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            llm.generate(prompt)
        assert_nothing_runs(llm)

    @pytest.mark.parametrize(
        ("prompt", "message"),
        [
            (None, "prompts must be a string, token ids or a list of either, got NoneType"),
            (7, "prompts must be .* got int"),
            (b"ab", "prompts must be .* got bytes"),
            ({"prompt": "a"}, "prompts must be .* got dict"),
            ([1.5], "token ids must be integers of 64 bits, got float64"),
            ([True], "token ids must be integers of 64 bits, got bool"),
            ([2**70], "token ids must be integers of 64 bits, got object"),
            ([1, "a"], "token ids must be integers of 64 bits"),
            ([None], "token ids must be integers of 64 bits, got object"),
            ([{"role": "user", "content": "Hi"}], "got messages, which chat takes"),
            ([[1, [2]]], "token ids must be a flat sequence of integers"),
            ([[[1]]], "token ids must be a flat sequence of integers, got shape"),
            (np.zeros((2, 2), int), r"token ids must be a flat sequence .* got shape \(2, 2\)"),
            (["a", 1], "token ids must be a flat sequence of integers"),
        ],
    )
    def test_prompts_of_the_wrong_type(self, llm: LLM, prompt: Any, message: str) -> None:
        with pytest.raises(TypeError, match=message):
            llm.generate(prompt)

    def test_names_of_special_tokens_are_text(self, llm: LLM) -> None:
        assert RETURN not in llm.generate("<|return|>", max_tokens=1).prompt_token_ids


class TestParameters:
    def test_overrides_replace_fields(self, llm: LLM) -> None:
        params = SamplingParams(max_tokens=9, temperature=0, ignore_eos=True)
        assert len(llm.generate("a", params).token_ids) == 9
        assert len(llm.generate("a", params, max_tokens=4).token_ids) == 4
        assert params.max_tokens == 9

    def test_every_field_is_an_override(self, llm: LLM) -> None:
        for field in dataclasses.fields(SamplingParams):
            value = {"max_tokens": 1, "seed": 3, "logprobs": 1}.get(
                field.name, getattr(SamplingParams(), field.name)
            )
            llm.generate("a", SamplingParams(max_tokens=1), **{field.name: value, "max_tokens": 1})

    def test_unknown_names(self, llm: LLM) -> None:
        with pytest.raises(TypeError, match="max_new_tokens: did you mean max_tokens"):
            llm.generate("a", max_new_tokens=3)
        with pytest.raises(TypeError, match="temp: did you mean temperature"):
            llm.stream("a", temp=0)

    def test_params_of_another_type(self, llm: LLM) -> None:
        with pytest.raises(TypeError, match="params must be a SamplingParams, got dict"):
            llm.generate("a", {"max_tokens": 3})  # type: ignore[arg-type]

    @pytest.mark.parametrize("name", ["logit_bias", "stop_token_ids"])
    def test_ids_outside_the_vocabulary(self, llm: LLM, name: str) -> None:
        value: Any = {VOCAB: 1.0} if name == "logit_bias" else [VOCAB]
        with pytest.raises(ValueError, match=f"{name} has id {VOCAB}, outside the vocabulary"):
            llm.generate("a", **{name: value})


class TestTokens:
    def test_greedy_is_the_largest_logit(self, llm: LLM) -> None:
        tokens = greedy(llm, [1, 2, 3])
        logits = llm.logits([1, 2, 3, *tokens])
        assert tokens == logits[2:-1].argmax(axis=1).tolist()

    @pytest.mark.parametrize("params", [{"temperature": 0}, {"seed": 5, "top_p": 0.9}], ids=str)
    def test_threads_batch_and_layout_change_nothing(
        self, llm: LLM, tiny_checkpoint: Callable[[str], Path], params: dict[str, Any]
    ) -> None:
        params = {**params, "max_tokens": 30, "ignore_eos": True}
        together = [r.token_ids for r in llm.generate(PROMPTS, **params)]
        assert [llm.generate(p, **params).token_ids for p in PROMPTS] == together
        for layout in ("hf", "original"):
            with gptoss.load(tiny_checkpoint(layout), threads=1, context_length=200) as other:
                assert [r.token_ids for r in other.generate(PROMPTS, **params)] == together

    def test_seeds(self, llm: LLM) -> None:
        def tokens(**params: Any) -> list[int]:
            return llm.generate("a", max_tokens=30, ignore_eos=True, **params).token_ids

        assert tokens(seed=1) == tokens(seed=1)
        assert tokens(seed=1) != tokens(seed=2)
        assert tokens() != tokens()

    def test_a_list_of_equal_prompts_without_seed_differs(self, llm: LLM) -> None:
        a, b = llm.generate(["a", "a"], max_tokens=30, ignore_eos=True)
        assert a.token_ids != b.token_ids

    def test_reference_precision_agrees_on_likely_tokens(
        self, llm: LLM, tiny_checkpoint: Callable[[str], Path]
    ) -> None:
        with gptoss.load(
            tiny_checkpoint("hf"), precision="reference", context_length=CONTEXT
        ) as exact:
            a, b = exact.logits(PROMPTS[3]), llm.logits(PROMPTS[3])
        assert not np.array_equal(a, b)
        assert np.mean(a.argmax(axis=1) == b.argmax(axis=1)) > 0.8

    def test_max_tokens_and_the_contexts_end(self, llm: LLM) -> None:
        assert llm.context_length == CONTEXT
        prompt = [1] * (CONTEXT - 5)
        full = llm.generate(prompt, ignore_eos=True)
        assert (len(full.token_ids), full.finish_reason) == (5, "length")
        assert len(llm.generate([1] * (CONTEXT - 1), ignore_eos=True).token_ids) == 1

    def test_penalties_and_bias_reach_the_sampler(self, llm: LLM) -> None:
        free = greedy(llm, "a", 30, logit_bias=LETTERS)
        varied = greedy(llm, "a", 30, logit_bias=LETTERS, frequency_penalty=2.0)
        assert set(free) <= set(LETTERS)
        assert len(set(varied)) == len(LETTERS) > len(set(free))


class TestEnds:
    def test_stops_at_the_models_own_token(self, llm: LLM) -> None:
        result = llm.generate("a", temperature=0, logit_bias={RETURN: 100.0})
        assert (result.token_ids, result.text) == ([RETURN], "")
        assert (result.finish_reason, result.stop_reason) == ("stop", RETURN)

    def test_ignore_eos(self, llm: LLM) -> None:
        result = llm.generate(
            "a", temperature=0, logit_bias={RETURN: 100.0}, ignore_eos=True, max_tokens=4
        )
        assert (result.token_ids, result.finish_reason) == ([RETURN] * 4, "length")
        assert result.text == ""  # a special token is no text wherever it stands

    def test_stop_token_ids(self, llm: LLM) -> None:
        tokens = greedy(llm, "a", 30, logit_bias=LETTERS, frequency_penalty=1.0)
        stop = next(t for t in tokens if t != tokens[0])
        end = tokens.index(stop)
        result = llm.generate(
            "a",
            temperature=0,
            logit_bias=LETTERS,
            frequency_penalty=1.0,
            stop_token_ids=[511, stop],
            ignore_eos=True,
        )
        assert result.token_ids == tokens[: end + 1]
        assert result.text == bytes(tokens[:end]).decode()
        assert (result.finish_reason, result.stop_reason) == ("stop", stop)

    def test_stop_strings(self, llm: LLM) -> None:
        params: dict[str, Any] = {"logit_bias": LETTERS, "seed": 3, "max_tokens": 60}
        text = llm.generate("a", **params).text
        assert len(text) == 60
        stop = text[20:24]
        begin = text.index(stop)
        for stops in (stop, [stop], ["zzz", stop + "h" * 50, stop]):
            result = llm.generate("a", stop=stops, **params)
            assert result.text == text[:begin]
            assert result.token_ids == list(text[: begin + 4].encode())
            assert (result.finish_reason, result.stop_reason) == ("stop", stop)
            assert result.usage.completion_tokens == begin + 4
        assert_nothing_runs(llm)
        a, b = llm.generate(["a", "a"], stop=stop, **params)
        assert a.text == b.text == text[:begin]

    def test_a_stop_string_that_never_comes_is_not_held_back_for_ever(self, llm: LLM) -> None:
        params: dict[str, Any] = {"logit_bias": LETTERS, "seed": 3, "max_tokens": 60}
        text = llm.generate("a", **params).text
        result = llm.generate("a", stop=text[-5:] + "z", **params)
        assert (result.text, result.finish_reason) == (text, "length")

    def test_the_last_token_may_complete_a_stop_string(self, llm: LLM) -> None:
        params: dict[str, Any] = {"logit_bias": LETTERS, "seed": 3, "max_tokens": 60}
        text = llm.generate("a", **params).text
        result = llm.generate("a", stop=text[-7:], **params)
        assert (result.text, result.finish_reason) == (text[:-7], "stop")


class TestStream:
    @pytest.mark.parametrize(
        "params",
        [
            {"logit_bias": LETTERS},
            {"logit_bias": LETTERS, "stop": ["abc", "ha", "dd"], "logprobs": 2},
            {"logit_bias": dict.fromkeys("äé€😀".encode(), 30.0)},
            {},
        ],
        ids=["text", "stop strings", "UTF-8", "any bytes"],
    )
    @pytest.mark.parametrize("seed", range(4))
    def test_chunks_make_up_the_result(self, llm: LLM, params: dict[str, Any], seed: int) -> None:
        params = {**params, "seed": seed, "max_tokens": 80}
        whole = llm.generate("x", **params)
        stream = llm.stream("x", **params)
        chunks = list(stream)
        assert "".join(c.text for c in chunks) == whole.text
        assert [t for c in chunks for t in c.token_ids] == whole.token_ids
        assert [c.finish_reason for c in chunks[:-1]] == [None] * (len(chunks) - 1)
        assert chunks[-1].finish_reason == whole.finish_reason
        assert chunks[-1].stop_reason == whole.stop_reason
        assert stream.finished
        assert dataclasses.replace(stream.result(), timings=whole.timings) == whole
        if "logprobs" in params:
            assert [e for c in chunks for e in c.logprobs or ()] == whole.logprobs
        if "stop" not in params:
            text = [t for t in whole.token_ids if t not in llm.tokenizer.special_tokens.values()]
            assert whole.finish_reason == "stop" or whole.text == llm.tokenizer.decode(text)

    def test_characters_come_whole(self, llm: LLM) -> None:
        # Two bytes, of which the first is made likely once and the second after it.
        bias = {0xC3: 50.0, 0xA9: 49.0}
        chunks = list(
            llm.stream("x", temperature=0, logit_bias=bias, frequency_penalty=2, max_tokens=8)
        )
        assert {c.text for c in chunks} <= {"", "é", "\ufffd", "\ufffd\ufffd"}
        assert "é" in [c.text for c in chunks]

    def test_mistakes_show_at_once(self, llm: LLM) -> None:
        with pytest.raises(ValueError, match="the prompt is empty"):
            llm.stream("")
        with pytest.raises(TypeError, match="token ids must be integers of 64 bits, got str32"):
            llm.stream(["a", "b"])  # type: ignore[list-item]

    def test_closing_cancels(self, llm: LLM) -> None:
        stream = llm.stream("a", ignore_eos=True)
        next(stream)
        stream.close()
        assert next(stream, None) is None
        with pytest.raises(RuntimeError, match="the request was cancelled before its end"):
            stream.result()
        with llm.stream("a", ignore_eos=True) as another:
            next(another)
        dropped = llm.stream("a", ignore_eos=True)
        del dropped
        assert_nothing_runs(llm)


class TestLogprobs:
    def test_agree_with_logits(self, llm: LLM) -> None:
        result = llm.generate("abc", seed=1, max_tokens=12, logprobs=20, ignore_eos=True)
        assert result.logprobs is not None
        found = llm.logits([*result.prompt_token_ids, *result.token_ids])[2:-1]
        likeliest = np.argsort(-found, axis=1, kind="stable")[:, :20]  # of equal ones the lower id
        logits = found.astype(float)
        expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        for token, row, entry, top in zip(
            result.token_ids, expected, result.logprobs, likeliest, strict=True
        ):
            assert entry.token_id == token
            assert abs(entry.logprob - row[token]) <= LOGPROB
            ids = [t.token_id for t in entry.top_logprobs]
            assert ids == top.tolist()
            np.testing.assert_allclose(
                [t.logprob for t in entry.top_logprobs], row[ids], atol=LOGPROB
            )
            assert all(
                a.logprob >= b.logprob
                for a, b in zip(entry.top_logprobs, entry.top_logprobs[1:], strict=False)
            )

    def test_counts(self, llm: LLM) -> None:
        for count in (0, 3):
            result = llm.generate("a", max_tokens=2, logprobs=count, ignore_eos=True)
            assert result.logprobs is not None
            assert [len(entry.top_logprobs) for entry in result.logprobs] == [count] * 2


class TestLogits:
    TOKENS = np.random.default_rng(0).integers(0, VOCAB, 70).tolist()

    def test_chunks_change_nothing(self, llm: LLM) -> None:
        whole = llm.logits(self.TOKENS)
        assert (whole.shape, whole.dtype) == ((70, VOCAB), np.float32)
        for chunk_tokens in (1, 7, 64, 512):
            assert np.array_equal(llm.logits(self.TOKENS, chunk_tokens=chunk_tokens), whole)

    @pytest.mark.parametrize("positions", [[0], [69], [-1], [5, 3, 3, -70], [], range(10, 20)])
    def test_positions(self, llm: LLM, positions: Any) -> None:
        found = llm.logits(self.TOKENS, positions, chunk_tokens=16)
        expected = llm.logits(self.TOKENS)[np.asarray(list(positions), int)]
        assert np.array_equal(found, expected)

    def test_beside_running_requests(self, llm: LLM) -> None:
        alone = llm.logits(self.TOKENS)
        with llm.stream("a", ignore_eos=True) as stream:
            next(stream)
            assert np.array_equal(llm.logits(self.TOKENS), alone)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"token_ids": []}, "the prompt is empty"),
            ({"token_ids": [VOCAB]}, "outside the vocabulary"),
            ({"token_ids": [1] * (CONTEXT + 1)}, "more than the context of 300"),
            ({"token_ids": [1, 2], "positions": [2]}, r"in \[-2, 2\) for 2 tokens, got 2"),
            ({"token_ids": [1, 2], "positions": [-3]}, r"in \[-2, 2\) for 2 tokens, got -3"),
            ({"token_ids": [1], "chunk_tokens": 0}, "chunk_tokens must be from 1 to 512, got 0"),
            ({"token_ids": [1], "chunk_tokens": 513}, "chunk_tokens must be from 1 to 512"),
        ],
    )
    def test_mistakes(self, llm: LLM, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            llm.logits(**arguments)

    def test_text(self, llm: LLM) -> None:
        assert (llm.logits("ab") == llm.logits([97, 98])).all()
        with pytest.raises(TypeError, match="token ids must be a sequence of integers, got b'ab'"):
            llm.logits(b"ab")  # type: ignore[arg-type]


class TestLoad:
    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ({"threads": 0}, ValueError, "threads must be from 1 to 2147483647, got 0"),
            ({"threads": 1.5}, TypeError, "threads must be an integer, got 1.5"),
            ({"threads": 10**6}, ValueError, "threads must be between 1 and"),
            ({"context_length": 0}, ValueError, "context_length must be from 1 to"),
            ({"context_length": 131_073}, ValueError, "context_length must be .* 131072"),
            ({"precision": "fp8"}, ValueError, "precision must be one of .* got 'fp8'"),
            ({"kv_cache_dtype": "fp8"}, ValueError, "kv_cache_dtype must be one of .* got 'fp8'"),
            (
                {"kv_cache_dtype": "int8", "precision": "reference"},
                ValueError,
                "rounds keys and values",
            ),
            ({"device": "tpu"}, BackendError, "unknown device 'tpu'; expected auto, .*cpu"),
            ({"device": "cuda"}, BackendError, "device 'cuda' is not available"),
            ({"experts": "int4"}, ValueError, "experts must be one of .* got 'int4'"),
            ({"kv_cache_memory": 1}, MemoryError, "of KV cache, and only 1 bytes"),
            ({"kv_cache_memory": -1}, ValueError, "kv_cache_memory must be from 1 to"),
        ],
    )
    def test_mistakes(
        self,
        tiny_checkpoint: Callable[[str], Path],
        arguments: dict[str, Any],
        error: type[Exception],
        message: str,
    ) -> None:
        with pytest.raises(error, match=message):
            gptoss.load(tiny_checkpoint("hf"), **arguments)

    def test_no_such_folder(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="expected a folder, a GGUF file or a Hub id"):
            gptoss.load(tmp_path / "nothing")

    def test_scales_are_checked(self, tmp_path: Path) -> None:
        make_checkpoint(tmp_path, MICRO)
        source = gptoss.checkpoint.open_checkpoint(tmp_path).tensors
        scales = next(tensor for name, tensor in source.items() if name.endswith("_scales"))
        with scales.path.open("r+b") as file:
            file.seek(scales.offset)
            file.write(b"\xff")
        with pytest.raises(CheckpointError, match="found 255"):
            gptoss.load(tmp_path)

    def test_without_a_tokenizer(self, tmp_path: Path) -> None:
        make_checkpoint(tmp_path, MICRO)
        (tmp_path / "tokenizer.json").unlink()
        with gptoss.load(tmp_path, context_length=64) as llm:
            result = llm.generate([1, 2], max_tokens=3, ignore_eos=True)
            assert (len(result.token_ids), result.text) == (3, "")
            message = "has no tokenizer.json, so text cannot be used: pass token ids"
            for act in (
                lambda: llm.tokenizer,
                lambda: llm.generate("a"),
                lambda: llm.stream("a"),
                lambda: llm.generate([1], stop="x"),
            ):
                with pytest.raises(ValueError, match=message):
                    act()

    def test_attributes(self, llm: LLM) -> None:
        assert llm.config.vocab_size == VOCAB
        assert llm.tokenizer.encode("a") == [97]
        assert repr(llm).startswith("LLM('tiny-hf")

    def test_environment_names_no_model(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GPTOSS_MODEL", "x")
        assert inspect.signature(gptoss.load).parameters["path_or_repo"].default is inspect._empty

    def test_one_liner(self, llm: LLM, tiny_checkpoint: Callable[[str], Path]) -> None:
        model = tiny_checkpoint("hf")
        params: dict[str, Any] = {"seed": 1, "max_tokens": 5}
        result = gptoss.generate("a", model=model, **params)
        assert result.token_ids == llm.generate("a", **params).token_ids
        assert len(gptoss.generate(["a", "b"], model=model, **params)) == 2
        with pytest.raises(TypeError, match="did you mean max_tokens"):
            gptoss.generate("a", model="no/such-model", max_new_tokens=1)


def test_progress_bar(llm: LLM, capsys: pytest.CaptureFixture[str]) -> None:
    params: dict[str, Any] = {"max_tokens": 3, "temperature": 0, "ignore_eos": True}
    plain = llm.generate(["a", "b"], **params)
    assert capsys.readouterr().out == ""
    shown = llm.generate(["a", "b"], progress=True, **params)
    assert [r.token_ids for r in shown] == [r.token_ids for r in plain]


def test_public_names_exist() -> None:
    for name in gptoss.__all__:
        assert getattr(gptoss, name) is not None
    assert set(gptoss.__all__) == set(dir(gptoss))
    with pytest.raises(AttributeError, match="no attribute 'chatt'"):
        gptoss.chatt  # type: ignore[attr-defined]  # noqa: B018
