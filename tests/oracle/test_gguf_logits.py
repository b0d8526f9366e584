"""Another program's logits of GGUF files: ik_llama.cpp's, of ours and of its own.

It rounds the inputs of matrix products to int8 and keeps an f16 KV cache, so two of its numbers are
not expected to be ours; what is off by more than that (an order of nibbles, of gate and up, a
sink, the window, the rope) would be off everywhere.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import gptoss
from gptoss.convert import convert

pytestmark = pytest.mark.oracle


def their_logits(path: Path, tokens: list[int]) -> npt.NDArray[np.float64]:
    """(T, V), of one context of 512 tokens."""
    ik_llama_cpp = pytest.importorskip("ik_llama_cpp", reason="ik_llama.cpp is not installed")
    c = pytest.importorskip("ik_llama_cpp._ctypes_api")
    model: Any = ik_llama_cpp.IkLlama(str(path), n_ctx=512, n_threads=1, flash_attn=False)
    batch = c.llama_batch_init(len(tokens), 0, 1)
    try:
        batch.n_tokens = len(tokens)
        for place, token in enumerate(tokens):
            batch.token[place], batch.pos[place] = token, place
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
            batch.logits[place] = 1
        assert c.llama_decode(model.ctx, batch) == 0
        rows = [
            np.ctypeslib.as_array(c.llama_get_logits_ith(model.ctx, i), (model._model.n_vocab,))
            for i in range(len(tokens))
        ]
        return np.stack(rows).astype(np.float64)
    finally:
        c.llama_batch_free(batch)


AVX2 = pytest.mark.skipif(
    ("avx2", True) not in [isa[:2] for isa in gptoss._core.isas()],
    reason="ik_llama.cpp's wheel needs AVX2",
)


def compare(path: Path, bound: float, **options: Any) -> None:
    with gptoss.load(path, precision="reference", context_length=512, **options) as llm:
        text = "".join(f"What is {a} + {a * 7}? " for a in range(3, 25))
        tokens = llm.tokenizer.encode(text)[:200]  # three windows of the demo and more
        ours = llm.logits(tokens).astype(np.float64)
    theirs = their_logits(path, tokens)
    assert theirs.shape == ours.shape
    errors = np.linalg.norm(ours - theirs, axis=1) / np.linalg.norm(ours, axis=1)
    # Where a token's experts are nearly tied, int8 inputs choose others: the median tells.
    assert np.median(errors) < bound
    assert np.median(errors[-50:]) < bound
    assert (ours.argmax(1) == theirs.argmax(1)).mean() > 0.85
    # The measure tells what is wrong: another position's logits are far away.
    shifted = np.linalg.norm(ours[1:] - theirs[:-1], axis=1) / np.linalg.norm(ours[1:], axis=1)
    assert np.median(shifted) > 0.5


@AVX2
@pytest.mark.parametrize("dense", ["bf16", "q8_0"])
def test_a_file_of_ours(tmp_path: Path, dense: Any) -> None:
    convert("demo", tmp_path / "demo.gguf", to="gguf", dense=dense, progress=False)
    compare(tmp_path / "demo.gguf", 0.04)


@AVX2
@pytest.mark.parametrize(("kind", "bound"), [("COPY", 0.04), ("BF16", 0.02), ("Q8_0", 0.08)])
def test_a_file_that_llama_quantize_wrote(tmp_path: Path, kind: str, bound: float) -> None:
    """Experts that it has widened are rounded back to MXFP4 here."""
    ik_llama_cpp = pytest.importorskip("ik_llama_cpp", reason="ik_llama.cpp is not installed")
    tool = ik_llama_cpp.find_quantize_bin()
    convert("demo", tmp_path / "demo.gguf", to="gguf", progress=False)
    path = tmp_path / f"{kind}.gguf"
    subprocess.run(
        [tool, "--allow-requantize", tmp_path / "demo.gguf", path, kind, "1"],
        check=True,
        capture_output=True,
        env={"LD_LIBRARY_PATH": str(Path(tool).parents[1] / "lib")},
    )
    compare(path, bound, dtype="convert", experts="mxfp4")
