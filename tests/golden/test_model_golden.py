"""The model against frozen results of transformers' float32 GptOssForCausalLM.

The golden files are made by tools/make_model_golden.py; the checkpoints are rebuilt from seeds.
"""

from __future__ import annotations

import json

import numpy as np
import numpy.typing as npt
import pytest

from gptoss.checkpoint import Checkpoint, open_checkpoint
from gptoss.reference.model import ReferenceModel, load_tensors
from model_cases import CASES, ModelCase, describe, golden_path
from tolerances import assert_fp32_tier


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> ModelCase:
    return request.param


@pytest.fixture(scope="module")
def checkpoint(case: ModelCase, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(case.build(tmp_path_factory.mktemp(case.name)))


@pytest.fixture(scope="module")
def golden(case: ModelCase) -> dict[str, npt.NDArray[np.generic]]:
    with np.load(golden_path(case)) as arrays:
        return dict(arrays)


def test_golden_belongs_to_the_case(
    case: ModelCase, checkpoint: Checkpoint, golden: dict[str, npt.NDArray[np.generic]]
) -> None:
    assert checkpoint.config == case.config
    about = json.loads(str(golden["about"]))
    now = describe(case, checkpoint)
    assert {key: about[key] for key in now} == now, "run tools/make_model_golden.py"


def test_reference(
    case: ModelCase, checkpoint: Checkpoint, golden: dict[str, npt.NDArray[np.generic]]
) -> None:
    model = ReferenceModel(checkpoint.config, load_tensors(checkpoint))
    for i, prompt in enumerate(case.prompts()):
        continuation = golden[f"greedy_{i}"].tolist()
        logits = model.logits(prompt + continuation)
        # Causal: the rows of the prompt do not depend on what follows.
        assert_fp32_tier(golden[f"logits_{i}"], logits[golden[f"positions_{i}"]])
        assert logits[len(prompt) - 1 : -1].argmax(axis=-1).tolist() == continuation


def test_goldens_are_small_and_all_in_use() -> None:
    files = list(golden_path(CASES[0]).parent.iterdir())
    assert {path.name for path in files} == {golden_path(case).name for case in CASES}
    assert sum(path.stat().st_size for path in files) < 300_000
