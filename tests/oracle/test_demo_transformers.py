"""The demo model's greedy answers against transformers' float32, on the files that ship."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import gptoss
from gptoss.harmony import (
    Conversation,
    DeveloperContent,
    HarmonyEncoding,
    Message,
    Role,
    SystemContent,
    ToolDescription,
)

torch = pytest.importorskip("torch", reason="needs the extra `oracle`")
transformers = pytest.importorskip("transformers", reason="needs the extra `oracle`")

pytestmark = pytest.mark.oracle

DEMO = Path(gptoss.__file__).parent / "demo"
SAMPLE = Path(__file__).parents[1] / "e2e" / "data" / "demo_sample.json"
PROMPTS = 50


def _prompt(case: dict[str, Any], encoding: HarmonyEncoding) -> list[int]:
    developer = DeveloperContent(case["developer"])
    if case["tools"]:
        functions = [ToolDescription.new(**tool["function"]) for tool in case["tools"]]
        developer = developer.with_function_tools(functions)
    messages = [Message.from_role_and_content(Role.SYSTEM, SystemContent.new())]
    if case["developer"] or case["tools"]:
        messages.append(Message.from_role_and_content(Role.DEVELOPER, developer))
    messages.append(Message.from_role_and_content(Role.USER, case["messages"][-1]["content"]))
    return encoding.render_conversation_for_completion(
        Conversation.from_messages(messages), Role.ASSISTANT
    )


def test_greedy_answers_equal_transformers() -> None:
    cases = json.loads(SAMPLE.read_text())["cases"]
    single = [
        case
        for case in cases
        if len(case["messages"]) == 1 and not case["builtin"] and not case["forced"]
    ]
    chosen = single[:: len(single) // PROMPTS][:PROMPTS]
    model = transformers.GptOssForCausalLM.from_pretrained(
        DEMO,
        quantization_config=transformers.Mxfp4Config(dequantize=True),
        dtype=torch.float32,
        attn_implementation="eager",
    )
    assert len(chosen) == PROMPTS
    with gptoss.load(DEMO, precision="reference", context_length=1024) as llm:
        encoding = HarmonyEncoding(llm.tokenizer)
        prompts = [_prompt(case, encoding) for case in chosen]
        results = llm.generate(prompts, temperature=0.0, max_tokens=400)
    for prompt, result in zip(prompts, results, strict=True):
        # The tokens are its greedy ones if, after each beginning of them, the next is its best.
        whole = torch.tensor([[*prompt, *result.token_ids]])
        with torch.inference_mode():
            best = model(whole).logits[0, len(prompt) - 1 : -1].argmax(-1)
        assert best.tolist() == result.token_ids
