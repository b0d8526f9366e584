"""Adapters that PEFT has saved, against PEFT's own logits; and the example that trains one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gptoss
from support.tolerances import assert_fp32_tier, relative_l2

torch = pytest.importorskip("torch", reason="needs the extra `oracle`")
transformers = pytest.importorskip("transformers", reason="needs the extra `oracle`")
peft = pytest.importorskip("peft", reason="needs the extra `oracle`")

pytestmark = pytest.mark.oracle

DEMO = Path(gptoss.__file__).parent / "demo"
EXAMPLE = Path(__file__).parents[2] / "examples" / "finetune" / "finetune.py"
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]

CASES: dict[str, dict[str, Any]] = {
    "everything": {
        "target_modules": [*ATTENTION, "embed_tokens", "lm_head"],
        "target_parameters": [*EXPERTS, "mlp.router.weight"],
        "r": 4,
        "lora_alpha": 8,
        "rank_pattern": {"o_proj": 2},
        "alpha_pattern": {r"layers\.1\.self_attn\.q_proj": 5, r".*\.experts\.down_proj": 3},
    },
    "rslora": {"target_modules": "all-linear", "r": 9, "lora_alpha": 2, "use_rslora": True},
    "gate_up alone": {"target_modules": [], "target_parameters": EXPERTS[:1], "r": 3},
    "down of some layers": {
        "target_modules": [],
        "target_parameters": ["layers.1.mlp.experts.down_proj", "layers.3.mlp.experts.down_proj"],
        "r": 5,
    },
    "some layers": {"target_modules": ["v_proj"], "layers_to_transform": [0, 2], "r": 2},
    "an expression": {"target_modules": r".*layers\.[13]\.self_attn\.(k|o)_proj", "r": 2},
}


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_peft(tmp_path: Path, case: str) -> None:
    torch.manual_seed(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries about each other
        base = transformers.GptOssForCausalLM.from_pretrained(
            DEMO,
            quantization_config=transformers.Mxfp4Config(dequantize=True),
            dtype=torch.float32,
            attn_implementation="eager",
        )
        model = peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", **CASES[case]))
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = torch.randn_like(parameter) * 0.05
        model.eval()
        model.save_pretrained(tmp_path)
    random = np.random.default_rng(4)
    with gptoss.load(DEMO, precision="reference", context_length=512) as llm:
        llm.load_adapter("a", tmp_path)
        for length in (1, 40, 150):
            prompt = random.integers(0, llm.config.vocab_size, length).tolist()
            with torch.inference_mode():
                expected = model(torch.tensor([prompt])).logits[0].double().numpy()
            assert_fp32_tier(llm.logits(prompt, adapter="a"), expected)
            assert np.median(relative_l2(llm.logits(prompt), expected)) > 1e-4


def test_the_example_teaches_the_demo(tmp_path: Path) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), "demo", "--out", str(tmp_path / "tuned")],
        capture_output=True,
        encoding="utf-8",
        env=environment,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    right, all_of_them = map(int, re.findall(r"^(\d+) of (\d+) answers", done.stdout, re.M)[0])
    assert right == all_of_them, done.stdout
    # And it is the adapter that knows them.
    assert all(
        before != after
        for before, after in re.findall(r"before: (.*)\n  after:  (.*)", done.stdout)
    )
