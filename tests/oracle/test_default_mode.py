"""The default mode's accuracy beside that of transformers in bf16, both against float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import gptoss
from gptoss.checkpoint import open_checkpoint
from gptoss.reference.model import ReferenceModel, load_tensors
from support.model_cases import CASES
from support.tolerances import (
    BF16_KL_RATIO,
    BF16_MEDIAN_RATIO,
    BF16_TOP1_LOSS,
    kl_divergence,
    relative_l2,
)

torch = pytest.importorskip("torch", reason="needs the extra `oracle`")
pytest.importorskip("transformers", reason="needs the extra `oracle`")

pytestmark = pytest.mark.oracle


def test_default_mode_errs_no_more_than_bf16(tmp_path: Path) -> None:
    from support.transformers_oracle import load_transformers

    expected, ours, theirs = [], [], []
    for case in CASES:
        folder = case.build(tmp_path / case.name)
        checkpoint = open_checkpoint(folder)
        reference = ReferenceModel(checkpoint.config, load_tensors(checkpoint))
        bf16 = load_transformers(case, folder).to(torch.bfloat16)
        with gptoss.load(folder) as llm:
            for prompt in case.prompts():
                expected.append(reference.logits(prompt))
                ours.append(llm.logits(prompt).astype(np.float64))
                with torch.inference_mode():
                    theirs.append(bf16(torch.tensor([prompt])).logits[0].double().numpy())
    truth, our, their = map(np.concatenate, (expected, ours, theirs))

    def top1(logits: np.ndarray) -> float:
        return float((logits.argmax(axis=-1) == truth.argmax(axis=-1)).mean())

    our_median, their_median = (np.median(relative_l2(x, truth)) for x in (our, their))
    our_kl, their_kl = (kl_divergence(x, truth).mean() for x in (our, their))
    print(
        f"median {our_median:.4f} vs {their_median:.4f}; KL {our_kl:.5f} vs {their_kl:.5f}; "
        f"top-1 {top1(our):.3f} vs {top1(their):.3f}"
    )
    assert our_median <= BF16_MEDIAN_RATIO * their_median
    assert our_kl <= BF16_KL_RATIO * their_kl
    assert top1(our) >= top1(their) - BF16_TOP1_LOSS
