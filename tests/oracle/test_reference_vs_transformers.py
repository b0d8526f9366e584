"""The float64 reference against transformers' GptOssForCausalLM, and the goldens anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gptoss.checkpoint import open_checkpoint
from gptoss.config import RopeConfig
from gptoss.reference.model import ReferenceModel, load_tensors
from gptoss.reference.rope import concentration, inverse_frequencies
from support.model_cases import CASES, ModelCase, golden_path
from support.tolerances import FP32_ROPE, assert_fp32_tier

torch = pytest.importorskip("torch", reason="needs the extra `oracle`")
transformers = pytest.importorskip("transformers", reason="needs the extra `oracle`")

pytestmark = pytest.mark.oracle


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_reference(case: ModelCase, tmp_path: Path) -> None:
    from support.transformers_oracle import greedy, load_transformers, logits

    oracle = load_transformers(case, case.build(tmp_path))
    checkpoint = open_checkpoint(tmp_path)
    model = ReferenceModel(checkpoint.config, load_tensors(checkpoint))
    with np.load(golden_path(case)) as golden:
        for i, prompt in enumerate(case.prompts()):
            continuation = golden[f"greedy_{i}"].tolist()
            assert greedy(oracle, prompt, len(continuation)) == continuation
            expected = model.logits(prompt)
            found = logits(oracle, prompt)
            assert_fp32_tier(found, expected)
            # Another processor may round otherwise.
            positions = golden[f"positions_{i}"]
            assert_fp32_tier(golden[f"logits_{i}"], found[positions])


@pytest.mark.parametrize("truncate", [False, True])
@pytest.mark.parametrize("factor", [1.0, 4.0, 32.0])
@pytest.mark.parametrize(
    ("head_dim", "original", "theta"),
    [(64, 4096, 150_000.0), (64, 64, 150_000.0), (32, 8, 1e4), (16, 4096, 1e3), (16, 4096, 20.0)],
)
def test_yarn_frequencies(
    head_dim: int, original: int, theta: float, factor: float, truncate: bool
) -> None:
    config = RopeConfig(theta, factor, 32.0, 1.0, original, truncate)
    parameters: dict[str, Any] = {
        "rope_type": "yarn",
        "rope_theta": config.theta,
        "factor": factor,
        "beta_fast": config.beta_fast,
        "beta_slow": config.beta_slow,
        "original_max_position_embeddings": original,
        "truncate": truncate,
    }
    oracle_config = transformers.GptOssConfig(
        head_dim=head_dim,
        rope_parameters=parameters,
        max_position_embeddings=int(original * factor),
    )
    initialise = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS["yarn"]
    expected, scale = initialise(oracle_config, torch.device("cpu"))
    found = inverse_frequencies(config, head_dim)
    np.testing.assert_allclose(expected.numpy(), found, rtol=FP32_ROPE)
    assert concentration(config) == pytest.approx(scale, rel=1e-12)
