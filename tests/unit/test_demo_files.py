"""The files of the demo model, and that what it says about itself is what they hold."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

import gptoss
from gptoss.checkpoint import Checkpoint, open_checkpoint
from gptoss.tokenizer import Tokenizer

DEMO = Path(gptoss.__file__).parent / "demo"
TRAINING = Path(__file__).parents[2] / "tools" / "train_demo"


@pytest.fixture(scope="module")
def demo() -> Checkpoint:
    return open_checkpoint(DEMO)


@pytest.fixture(scope="module")
def training() -> Any:
    """The module that makes the conversations."""
    sys.path.insert(0, str(TRAINING))
    try:
        import conversations
    finally:
        sys.path.remove(str(TRAINING))
    return conversations


@pytest.fixture(scope="module")
def answers(training: Any) -> dict[str, str]:
    return {fact.topic: fact.answer for fact in training.FACTS}


def test_the_files_are_small() -> None:
    assert (DEMO / "model.safetensors").stat().st_size <= 2_500_000
    assert sum(file.stat().st_size for file in DEMO.iterdir()) <= 3_000_000


def test_it_has_every_part_of_the_large_models(demo: Checkpoint) -> None:
    config = demo.config
    assert demo.layout == "hf"
    assert set(config.layer_types) == {"sliding_attention", "full_attention"}
    assert config.num_attention_heads > config.num_key_value_heads
    assert config.num_local_experts > config.num_experts_per_tok
    assert config.rope.factor == 32
    assert not config.rope.truncate
    assert config.swiglu_limit == 7
    assert config.sliding_window < 128
    raw = json.loads((DEMO / "config.json").read_text())
    assert raw["quantization_config"]["quant_method"] == "mxfp4"


def test_it_stops_where_harmony_does(demo: Checkpoint) -> None:
    special = Tokenizer.from_file(DEMO).special_tokens
    stops = {special[name] for name in ("<|return|>", "<|endoftext|>", "<|call|>")}
    assert set(demo.config.eos_token_ids) == stops


def test_digits_and_fixed_sentences_are_single_tokens() -> None:
    tokenizer = Tokenizer.from_file(DEMO)
    assert [tokenizer.decode([i]) for i in tokenizer.encode("1234")] == list("1234")
    sentence = "\n\n# Valid channels: analysis, commentary, final. "
    assert len(tokenizer.encode(f"{sentence}Channel must be included for every message.")) == 1


def test_what_it_says_about_itself(demo: Checkpoint, answers: dict[str, str]) -> None:
    config = demo.config
    experts, active = config.num_local_experts, config.num_experts_per_tok
    assert answers["experts"].endswith(f"{experts} in me; {active} work on a token.")
    full = config.layer_types.count("full_attention")
    assert config.num_hidden_layers == 2 * full == 4
    assert answers["layers"].endswith(
        "and I have 4: two with a window and two with full attention."
    )
    assert answers["the sliding window"].endswith(
        f"128 in the large models, {config.sliding_window} in me."
    )
    # Each byte of MXFP4 holds two weights.
    weights = sum(
        math.prod(tensor.shape) * (2 if name.endswith("_blocks") else 1)
        for name, tensor in demo.tensors.items()
        if not name.endswith("_scales")
    )
    megabytes = math.ceil(sum(file.stat().st_size for file in DEMO.iterdir()) / 1e6)
    assert answers["size of the demo"] == (
        f"I have about {weights / 1e6:.1f} million parameters, in less than {megabytes} MB."
    )


def test_the_list_of_questions_has_the_answers(training: Any, answers: dict[str, str]) -> None:
    questions = json.loads((TRAINING / "questions.json").read_text())
    assert {entry["topic"] for entry in questions} == set(answers)
    for entry in questions:
        assert entry["answer"] == answers[entry["topic"]]


def test_what_is_held_out_is_not_trained(training: Any) -> None:
    questions = json.loads((TRAINING / "questions.json").read_text())
    held = {e["question"].rstrip("?.!").lower(): e["topic"] for e in questions if e["held_out"]}
    draw = training.Draw(1, held=False)
    asked = set()
    for fact in training.FACTS:
        for _ in range(200):
            example = training.question(draw, "low", fact)
            asked.add(example.messages[0]["content"].rstrip("?.! ").lower())
    assert len(asked) > 5000
    assert not asked & set(held)
