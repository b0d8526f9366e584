"""What an evaluation harness is answered, against our own count; the harness itself stands in."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import gptoss
from gptoss import LLM
from gptoss.eval.requests import Requests
from support.tolerances import LOGPROB

CONTEXT = 320
TEXT = "You are a helpful assistant. What is 17 + 25? It is 42, and 3 + 4 is 7. "


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with gptoss.load("demo", context_length=CONTEXT, precision="reference") as model:
        yield model


@pytest.fixture(scope="module")
def asked(llm: LLM) -> Requests:
    return Requests(llm, "low", 100)


def logprobs(llm: LLM, ids: list[int]) -> npt.NDArray[np.float64]:
    """Of each token but the first after those before it: (T - 1, V)."""
    logits = llm.logits(ids)[:-1].astype(np.float64)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def prefix_of(llm: LLM) -> int:
    special = llm.tokenizer.special_tokens
    return next(special[n] for n in ("<|startoftext|>", "<|endoftext|>") if n in special)


class TestLikelihoods:
    @pytest.mark.parametrize(
        ("context", "continuation"),
        [
            ("What is 17 + 25?", " 42"),
            ("What is 17 + 25? ", "42"),  # the space goes with what follows
            ("", "What is"),
            ("Hello", ""),
        ],
    )
    def test_a_continuation(
        self, llm: LLM, asked: Requests, context: str, continuation: str
    ) -> None:
        ((found, greedy),) = asked.loglikelihoods([(context, continuation)])
        before = llm.tokenizer.encode(context.rstrip())
        whole = llm.tokenizer.encode(context + continuation)
        after = whole[len(before) :]
        ids = [*(before or [prefix_of(llm)]), *after]
        rows = logprobs(llm, ids)[len(ids) - 1 - len(after) :]
        expected = rows[np.arange(len(after)), after].sum()
        assert found == pytest.approx(expected, abs=len(after) * LOGPROB)
        assert greedy == bool((rows.argmax(axis=-1) == after).all())

    def test_the_greedy_one_is_told(self, llm: LLM, asked: Requests) -> None:
        prompt = asked.chat_prompt([{"role": "user", "content": "What is 3 + 4?"}], opens=True)
        ids = llm.tokenizer.encode(prompt, allowed_special="all")
        made = llm.generate(ids, max_tokens=8, temperature=0).token_ids
        text = llm.tokenizer.decode(made)
        assert asked.loglikelihoods([(prompt, text), (prompt, text + " no")]) == [
            (pytest.approx(asked.loglikelihoods([(prompt, text)])[0][0]), True),
            (pytest.approx(asked.loglikelihoods([(prompt, text + " no")])[0][0]), False),
        ]

    def test_what_is_too_long_is_cut_from_its_beginning(self, llm: LLM, asked: Requests) -> None:
        context = TEXT * 20
        ((found, _),) = asked.loglikelihoods([(context, "and")])
        before = llm.tokenizer.encode(context.rstrip())
        after = len(llm.tokenizer.encode(context.rstrip() + " and")) - len(before)
        ids = [*before, *llm.tokenizer.encode(context.rstrip() + " and")[-after:]][-CONTEXT:]
        rows = logprobs(llm, ids)[-after:]
        expected = rows[np.arange(after), ids[-after:]].sum()
        assert found == pytest.approx(expected, abs=after * LOGPROB)

    def test_a_whole_text(self, llm: LLM, asked: Requests) -> None:
        ids = [prefix_of(llm), *llm.tokenizer.encode(TEXT)]
        rows = logprobs(llm, ids)
        expected = rows[np.arange(len(ids) - 1), ids[1:]].sum()
        found, nothing = asked.rolling([TEXT, ""])
        assert found == pytest.approx(expected, abs=len(ids) * LOGPROB)
        assert nothing == 0.0

    @pytest.mark.parametrize("count", [1, CONTEXT - 1, CONTEXT, 2 * CONTEXT - 2, 1000])
    def test_every_token_of_a_long_text_counts_once(self, asked: Requests, count: int) -> None:
        tokens = list(range(count))
        counted: list[int] = []
        for window, of_window in asked._windows(tokens):
            assert 2 <= len(window) <= CONTEXT
            assert len(window) == min(CONTEXT, count + 1) or count < CONTEXT
            counted += window[len(window) - of_window :]
        assert counted == tokens


class TestTexts:
    def test_a_continued_text(self, llm: LLM, asked: Requests) -> None:
        ids = llm.tokenizer.encode("What is")
        whole = llm.generate(ids, max_tokens=20, temperature=0)
        stop = whole.text[3:5]
        found = asked.texts(
            [
                ("What is", {"max_gen_toks": 20, "do_sample": False, "temperature": 1.0}),
                ("What is", {"max_gen_toks": 20, "until": [stop, ""]}),
                ("What is", {"max_gen_toks": 5, "until": "never"}),
            ]
        )
        assert found[0] == whole.text
        assert found[1] == whole.text[: whole.text.index(stop)]
        assert found[2] == llm.generate(ids, max_tokens=5, temperature=0).text

    def test_a_chat_answers_without_its_reasoning(self, llm: LLM, asked: Requests) -> None:
        messages = [{"role": "user", "content": "What is 3 + 4?"}]
        expected = llm.chat(messages, reasoning_effort="low", temperature=0, max_tokens=100)
        prompt = asked.chat_prompt(messages, opens=True)
        assert prompt.endswith("<|start|>assistant")
        ids = llm.tokenizer.encode(prompt, allowed_special="all")
        assert ids == expected.prompt_token_ids
        options = {"max_gen_toks": 1, "until": ["\n\n"]}  # what the task asks for is the answer's
        assert asked.texts([(prompt, options)]) == [expected.text.partition("\n\n")[0]]
        assert expected.text

    def test_an_assistant_that_is_continued(self, asked: Requests) -> None:
        messages = [
            {"role": "user", "content": "What is 3 + 4?"},
            {"role": "assistant", "content": "It is"},
        ]
        assert asked.chat_prompt(messages, opens=False).endswith("final<|message|>It is")

    def test_unknown_options(self, asked: Requests) -> None:
        with pytest.raises(TypeError, match="unknown sampling parameter beams"):
            asked.texts([("Hi", {"beams": 4})])


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, dict[str, Any]]:
    """`gptoss.eval.harness` on a stand-in for lm_eval 0.4: its base class, its registry."""
    registered: dict[str, Any] = {}

    class Base:
        def __init__(self) -> None:
            self.is_initialised = True

    def register_model(name: str) -> Callable[[Any], Any]:
        return lambda cls: registered.setdefault(name, cls)

    modules = {
        "lm_eval": ModuleType("lm_eval"),
        "lm_eval.api": ModuleType("lm_eval.api"),
        "lm_eval.api.model": SimpleNamespace(LM=Base),
        "lm_eval.api.registry": SimpleNamespace(register_model=register_model),
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "gptoss.eval.harness", raising=False)
    module = importlib.import_module("gptoss.eval.harness")
    monkeypatch.delitem(sys.modules, "gptoss.eval.harness")
    return module, registered


def test_the_model_of_the_harness(
    harness: tuple[Any, dict[str, Any]], llm: LLM, asked: Requests
) -> None:
    module, registered = harness
    assert registered == {"gptoss": module.GptossLM}
    model = module.GptossLM(
        "demo", "low", 100, batch_size="auto", context_length=CONTEXT, precision="reference"
    )
    assert model.is_initialised
    pair, text = ("What is", " this"), ("Hello", {"max_gen_toks": 4})
    (scored,) = model.loglikelihood([SimpleNamespace(args=pair)])
    assert [scored] == asked.loglikelihoods([pair])
    assert model.loglikelihood_rolling([SimpleNamespace(args=("Hello",))]) == asked.rolling(
        ["Hello"]
    )
    assert model.generate_until([SimpleNamespace(args=text)]) == asked.texts([text])
    chat = [{"role": "user", "content": "Hi"}]
    assert model.apply_chat_template(chat) == asked.chat_prompt(chat, opens=True)
    assert "low" in model.chat_template()
    assert model.tokenizer_name == "demo"


def test_without_the_harness(monkeypatch: pytest.MonkeyPatch) -> None:
    there = [name for name in sys.modules if name.startswith("lm_eval.")]
    for name in ("lm_eval", *there):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "gptoss.eval.harness", raising=False)
    with pytest.raises(ImportError, match=r"gptoss-native\[eval\]"):
        importlib.import_module("gptoss.eval.harness")
