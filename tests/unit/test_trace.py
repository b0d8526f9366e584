"""What is inside the layers, and vectors that are added to them."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import gptoss
from gptoss import LLM, SamplingParams, Trace, _core
from gptoss.checkpoint import open_checkpoint
from gptoss.config import ModelConfig
from gptoss.reference.model import ReferenceModel, ReferenceTrace, load_tensors
from support.engines import CASE, Output, alone, array, make_engine, step, submit
from support.model_cases import CASES, ModelCase
from support.tolerances import (
    BF16_INPUTS_SHARES_RELATIVE_L2,
    FP32_MAX_RELATIVE_L2,
    INT8_KV_MEDIAN_RELATIVE_L2,
    SHARES_FACTOR,
    assert_fp32_rows,
    relative_l2,
)

FIELDS = ("hidden", "router", "experts", "expert_weights", "sinks")
TEXT = [(7 * i * i + 3) % 512 for i in range(150)]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> ModelCase:
    return request.param


@pytest.fixture(scope="module")
def folder(case: ModelCase, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return case.build(tmp_path_factory.mktemp(case.name))


@pytest.fixture(scope="module")
def reference(folder: Path) -> ReferenceModel:
    checkpoint = open_checkpoint(folder)
    return ReferenceModel(checkpoint.config, load_tensors(checkpoint))


@pytest.fixture(scope="module")
def llm(tiny_checkpoint: Callable[[str], Path]) -> Iterator[LLM]:
    path = tiny_checkpoint("hf")
    with gptoss.load(path, threads=2, context_length=300, precision="reference") as model:
        yield model


def vector_of(config: ModelConfig, seed: int, scale: float = 0.5) -> npt.NDArray[np.float64]:
    values = np.random.default_rng(seed).normal(size=config.hidden_size) * scale
    return values.astype(np.float32).astype(np.float64)


def shares(trace: Trace | ReferenceTrace, layer: int) -> npt.NDArray[np.floating]:
    """A layer's attention by position, the sinks' shares behind it: (P, H, T + 1)."""
    if isinstance(trace, Trace):
        assert trace.sinks is not None
        keys, sinks = trace.attention_over(layer), trace.sinks[trace.layers.index(layer)]
    else:
        keys, sinks = trace.attention[layer], trace.sinks[layer]
    return np.concatenate([keys, sinks[..., None]], axis=-1)


def assert_twin(found: Trace, expected: ReferenceTrace) -> None:
    assert found.hidden is not None
    assert found.router is not None
    assert found.experts is not None
    assert found.expert_weights is not None
    assert_fp32_rows(found.hidden, expected.hidden)
    if expected.router.shape[-1] > 1:
        assert_fp32_rows(found.router, expected.router)
    for layer in found.layers:
        assert_fp32_rows(shares(found, layer), shares(expected, layer), SHARES_FACTOR)
    # Experts are told apart where no two of their logits are nearly the same.
    ordered = -np.sort(-expected.router, axis=-1)[..., : expected.experts.shape[-1] + 1]
    scale = np.linalg.norm(expected.router, axis=-1)
    gaps = np.abs(np.diff(ordered, axis=-1)).min(axis=-1, initial=np.inf)
    clear = gaps > 4 * FP32_MAX_RELATIVE_L2 * scale
    assert clear.mean() > 0.5
    np.testing.assert_array_equal(found.experts[clear], expected.experts[clear])
    assert_fp32_rows(found.expert_weights[clear], expected.expert_weights[clear], SHARES_FACTOR)


def assert_same(found: Trace, expected: Trace, rows: Any = slice(None)) -> None:
    """Bit for bit, as far as both have it."""
    for name in FIELDS:
        values, others = getattr(found, name), getattr(expected, name)
        if values is None:
            continue
        places = [expected.layers.index(layer) for layer in found.layers]
        np.testing.assert_array_equal(values, others[places][:, rows], err_msg=name)
    for layer in found.layers if found.attention is not None else ():
        width = len(found.token_ids)
        whole = expected.attention_over(layer)[rows]
        np.testing.assert_array_equal(found.attention_over(layer), whole[..., :width])
        assert not whole[..., width:].any()


class TestAgainstTheTwin:
    def test_every_layer_and_position(
        self, case: ModelCase, folder: Path, reference: ReferenceModel
    ) -> None:
        with gptoss.load(folder, precision="reference", threads=2) as llm:
            for prompt in case.prompts():
                found = llm.trace(prompt)
                assert found.token_ids.tolist() == prompt
                assert found.layers == tuple(range(case.config.num_hidden_layers))
                assert_twin(found, reference.trace(prompt))

    def test_steered(self, case: ModelCase, folder: Path, reference: ReferenceModel) -> None:
        config = case.config
        steer = {0: vector_of(config, 1), config.num_hidden_layers - 1: vector_of(config, 2)}
        with gptoss.load(folder, precision="reference", threads=2) as llm:
            for prompt in case.prompts():
                expected = reference.trace(prompt, steer)
                assert_twin(llm.trace(prompt, steer=steer), expected)
                if len(prompt) < 2:
                    continue
                scored = llm.generate(prompt, prompt_logprobs=0, max_tokens=0, steer=steer)
                assert scored.prompt_logprobs is not None
                logprobs = [entry.logprob for entry in scored.prompt_logprobs[1:] if entry]
                logits = expected.logits[:-1]
                logits = logits - logits.max(axis=-1, keepdims=True)
                truth = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
                # Two logits' errors, or a logit's and the sum's.
                bound = 2 * FP32_MAX_RELATIVE_L2 * np.linalg.norm(expected.logits[:-1], axis=-1)
                error = np.abs(np.array(logprobs) - truth[np.arange(len(prompt) - 1), prompt[1:]])
                assert (error <= bound).all()

    @pytest.mark.parametrize("kv_cache_dtype", ["auto", "int8"])
    def test_keys_are_read_as_the_cache_holds_them(
        self, kv_cache_dtype: str, tiny_checkpoint: Callable[[str], Path]
    ) -> None:
        checkpoint = open_checkpoint(tiny_checkpoint("hf"))
        tensors = load_tensors(checkpoint)
        reference = ReferenceModel(
            checkpoint.config, tensors, int8_kv_cache=kv_cache_dtype == "int8"
        )
        expected = reference.trace(TEXT)
        with gptoss.load(checkpoint.path, kv_cache_dtype=kv_cache_dtype, threads=2) as llm:
            found = llm.trace(TEXT, what="attention")
            rounds_inputs = "dense inputs bf16" in llm.description
        bound = INT8_KV_MEDIAN_RELATIVE_L2
        if rounds_inputs:
            bound += BF16_INPUTS_SHARES_RELATIVE_L2
        for layer in found.layers:
            errors = relative_l2(shares(found, layer), shares(expected, layer))
            assert np.median(errors) <= bound


class TestParts:
    def test_shares_add_up_to_one(self, llm: LLM) -> None:
        trace = llm.trace(TEXT, what="attention")
        for layer in trace.layers:
            total = shares(trace, layer).sum(axis=-1)
            np.testing.assert_allclose(total, 1.0, rtol=0, atol=1e-5)

    def test_a_band_ends_with_the_token_itself(self, llm: LLM) -> None:
        window = llm.config.sliding_window
        assert llm.config.layer_types[0] == "sliding_attention"
        trace = llm.trace(TEXT, what="attention", layers=[0, 1])
        assert trace.attention is not None
        heads = llm.config.num_attention_heads
        assert trace.attention[0].shape == (len(TEXT), heads, window)
        assert trace.attention[1].shape == (len(TEXT), heads, len(TEXT))
        assert not trace.attention[0][0, :, :-1].any()  # nothing comes before the first token
        np.testing.assert_array_equal(
            trace.attention_over(0)[-1, :, -window:], trace.attention[0][-1]
        )

    def test_less_is_the_same_of_it(self, llm: LLM) -> None:
        whole = llm.trace(TEXT)
        some = llm.trace(TEXT, layers=[-1, 1], positions=[90, 3, 64], what=("hidden", "experts"))
        assert some.positions.tolist() == [3, 64, 90]
        assert some.layers == (1, llm.config.num_hidden_layers - 1)
        assert some.token_ids.tolist() == TEXT[:91]
        assert some.router is some.attention is some.sinks is None
        assert_same(some, whole, [3, 64, 90])
        last = llm.trace(TEXT, positions=[-1], what=["attention", "router"])
        assert last.hidden is last.experts is last.expert_weights is None
        assert_same(last, whole, [len(TEXT) - 1])

    def test_chunks_change_nothing(self, llm: LLM, tiny_checkpoint: Callable[[str], Path]) -> None:
        path = tiny_checkpoint("hf")
        with gptoss.load(
            path, context_length=300, precision="reference", max_step_tokens=7
        ) as small:
            assert_same(small.trace(TEXT), llm.trace(TEXT))

    def test_text_and_messages(self, llm: LLM) -> None:
        assert llm.trace("ab", layers=[0], what="hidden").token_ids.tolist() == [97, 98]
        messages = [{"role": "user", "content": "ab"}]
        with gptoss.load("demo", context_length=512) as demo:
            prompt = demo.chat(messages, max_tokens=1).prompt_token_ids
            for given in (messages, gptoss.harmony.Conversation.from_messages([])):
                if isinstance(given, list):
                    assert demo.trace(given, [0], "router").token_ids.tolist() == prompt
                else:
                    with pytest.raises(ValueError, match="message"):
                        demo.trace(given)

    def test_beside_other_requests(self, llm: LLM) -> None:
        expected = llm.trace(TEXT)
        params = SamplingParams(max_tokens=120, temperature=0, ignore_eos=True)
        written = llm.generate([[i, 5] for i in range(4)], params)
        with llm.stream([3, 5], params) as other:
            next(other)
            threads = [
                threading.Thread(target=lambda: found.append(llm.trace(TEXT))) for _ in range(3)
            ]
            found: list[Trace] = []
            for thread in threads:
                thread.start()
            beside = llm.generate([[i, 5] for i in range(4)], params)
            for thread in threads:
                thread.join()
            assert other.result().token_ids == written[3].token_ids
        assert [result.token_ids for result in beside] == [r.token_ids for r in written]
        assert len(found) == 3
        for trace in found:
            assert_same(trace, expected)


class TestErrors:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"layers": [4]}, r"layers must be in \[-4, 4\), got 4"),
            ({"layers": []}, "layers must hold at least one"),
            ({"positions": [150]}, r"positions must be in \[-150, 150\)"),
            ({"positions": []}, "positions must hold at least one"),
            (
                {"what": "logits"},
                "what must be of hidden, router, attention, experts, got 'logits'",
            ),
            ({"what": ()}, "what must hold at least one"),
            ({"steer": {0: [1.0]}}, "steer has 1 numbers for layer 0, expected hidden_size"),
            ({"text": []}, "the prompt is empty"),
            ({"text": [1] * 301}, "301 tokens, more than the context of 300"),
        ],
    )
    def test_values(self, llm: LLM, arguments: dict[str, Any], message: str) -> None:
        assert llm.config.num_hidden_layers == 4
        with pytest.raises(ValueError, match=message):
            llm.trace(**{"text": TEXT, **arguments})

    @pytest.mark.parametrize("layers", [3, "1", [1.5], [True]])
    def test_types(self, llm: LLM, layers: Any) -> None:
        with pytest.raises(TypeError, match="layers must be"):
            llm.trace(TEXT, layers)

    def test_too_large(self, llm: LLM) -> None:
        row = llm.config.hidden_size * 4
        whole = row * len(TEXT) * llm.config.num_hidden_layers
        with pytest.raises(ValueError, match=f"takes {whole:,} bytes .*hidden {whole:,}.*layers="):
            llm.trace(TEXT, what="hidden", max_bytes=whole - 1)
        assert llm.trace(TEXT, what="hidden", max_bytes=whole).hidden is not None
        assert llm.trace(TEXT, [0], "hidden", positions=[9], max_bytes=row).hidden is not None

    def test_what_was_not_asked_for(self, llm: LLM) -> None:
        with pytest.raises(ValueError, match="attention was not asked for"):
            llm.trace(TEXT, what="router").attention_over(0)
        with pytest.raises(ValueError, match=r"layer must be one of \(1,\), got 0"):
            llm.trace(TEXT, [1], "attention").attention_over(0)

    def test_a_device_that_can_neither(self) -> None:
        engine = _core.make_fake_engine(vocab_size=97, max_sequences=1, context_length=256, pages=8)
        steered = _core.RequestParams(SamplingParams(steer={0: [1.0]}))
        with pytest.raises(ValueError, match="this device cannot steer"):
            engine.check_request(array([1]), steered)
        plain = _core.RequestParams(SamplingParams())
        with pytest.raises(ValueError, match="this device cannot be looked into"):
            engine.submit_trace(1, array([1]), array([0]), 1, array([0]), 1, {}, plain)


class TestSteer:
    @pytest.mark.parametrize(
        ("steer", "error", "message"),
        [
            ([1.0], TypeError, "steer must map layers to vectors"),
            ({"0": [1.0]}, TypeError, "a layer of steer must be an integer"),
            ({-1: [1.0]}, ValueError, "a layer of steer must be at least 0, got -1"),
            ({0: ["a"]}, TypeError, "steer of layer 0 must be numbers, got str"),
            ({0: [True]}, TypeError, "steer of layer 0 must be numbers, got bool"),
            ({0: [[1.0]]}, ValueError, r"steer of layer 0 must be a vector .* got shape \(1, 1\)"),
            ({0: [np.nan]}, ValueError, "steer of layer 0 must be finite"),
            ({0: [1e39]}, ValueError, "steer of layer 0 must be finite"),
        ],
    )
    def test_wrong_values(self, steer: Any, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            SamplingParams(steer=steer)

    def test_layers_that_are_not_there(self, llm: LLM) -> None:
        vector = np.zeros(llm.config.hidden_size)
        with pytest.raises(ValueError, match=r"layers of steer must lie in \[0, 4\), got 4"):
            llm.generate("a", steer={4: vector})

    def test_parameters_are_values(self) -> None:
        given = np.array([1.0, 2.0])
        params = SamplingParams(steer={3: given, 1: given})
        assert list(params.steer) == [1, 3]
        assert params == SamplingParams(steer={1: (1, 2), 3: [1.0, 2.0]})
        assert params != SamplingParams(steer={1: [1.0, 2.0]})
        assert hash(params) == hash(dataclasses.replace(params))
        given[0] = 9.0
        assert params.steer[1] == (1.0, 2.0)

    def test_a_request_concerns_itself_alone(self) -> None:
        prompts = [tuple(range(i, i + 40)) for i in range(6)]
        vector = vector_of(CASE.config, 4)
        plain = SamplingParams(temperature=0, seed=1, max_tokens=30, logprobs=1, ignore_eos=True)
        steered = dataclasses.replace(plain, steer={1: vector})
        engine = make_engine(max_step_tokens=50, speculative=True)
        requests = {i: (p, steered if i % 2 else plain) for i, p in enumerate(prompts)}
        for index, (prompt, params) in requests.items():
            submit(engine, index, array(prompt), params)
        found: dict[int, list[Output]] = {index: [] for index in requests}
        while not engine.idle():
            for index, output, _ in step(engine):
                found[index].append(output)
        for index, (prompt, params) in requests.items():
            assert found[index] == alone(prompt, params), index
        assert alone(prompts[1], plain) != alone(prompts[1], steered)

    def test_prefixes_are_not_shared(self, llm: LLM) -> None:
        prompt = TEXT[40:140]
        ways: list[dict[int, Any]] = [{}, {1: vector_of(llm.config, 5)}]
        ways += [{1: vector_of(llm.config, 6)}, {2: vector_of(llm.config, 5)}]
        firsts = []
        for steer in ways:
            params = SamplingParams(max_tokens=8, temperature=0, ignore_eos=True, steer=steer)
            first = llm.generate(prompt, params, logprobs=0)
            again = llm.generate(prompt, params, logprobs=0)
            assert first.usage.cached_tokens == 0
            assert again.usage.cached_tokens > 0
            assert again.logprobs == first.logprobs
            firsts.append(first.logprobs)
        assert all(a != b for i, a in enumerate(firsts) for b in firsts[:i])

    def test_a_zero_vector_changes_nothing(self, llm: LLM) -> None:
        zero = {layer: np.zeros(llm.config.hidden_size) for layer in range(4)}
        params = SamplingParams(max_tokens=20, temperature=0, ignore_eos=True, logprobs=1)
        assert llm.generate(TEXT[:9], params, steer=zero).logprobs == (
            llm.generate(TEXT[:9], params).logprobs
        )

    def test_chats_and_streams(self) -> None:
        with gptoss.load("demo", context_length=512) as demo:
            steer = {1: np.full(demo.config.hidden_size, 3.0)}
            plain = demo.chat("Hi", max_tokens=12, temperature=0)
            steered = demo.chat("Hi", max_tokens=12, temperature=0, steer=steer)
            assert plain.token_ids != steered.token_ids
            deltas = list(demo.chat("Hi", max_tokens=12, temperature=0, steer=steer, stream=True))
            assert "".join(d.text for d in deltas) == steered.text
            prompt = plain.prompt_token_ids
            chunks = demo.stream(prompt, max_tokens=5, temperature=0, steer=steer)
            once = demo.generate(prompt, max_tokens=5, temperature=0, steer=steer)
            assert [token for c in chunks for token in c.token_ids] == once.token_ids
