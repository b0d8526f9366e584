"""What rounding experts to MXFP4 costs, by the rule for the scales.

    python bench/bench_rounding.py demo --change 0.02

The experts are moved as training moves them, by normal noise of `--change` times their root mean
square, in bfloat16; then they are rounded both ways. Printed are the weights' square error and the
KL divergence of the next-token distributions from those of the unrounded model, in float64, on
tokens of the demo's kind of text. Takes eight bytes per weight: for small models.
"""

from __future__ import annotations

import argparse
import json

import numpy as np

import gptoss
from gptoss.checkpoint import open_checkpoint
from gptoss.ops import mxfp4_dequantize, mxfp4_quantize
from gptoss.reference.model import ReferenceModel, load_tensors

_TEXT = "What is 17 + 25? The capital of France is Paris. Add 3 and 4, then double the sum."


def _kl(found: np.ndarray, expected: np.ndarray) -> float:
    def log_softmax(x: np.ndarray) -> np.ndarray:
        shifted = x - x.max(-1, keepdims=True)
        return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))

    p, q = log_softmax(expected), log_softmax(found)
    return float((np.exp(p) * (p - q)).sum(-1).mean())


def _main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", default="demo")
    parser.add_argument("--change", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    checkpoint = open_checkpoint(options.model)
    tokens = gptoss.Tokenizer(options.model).encode(_TEXT)
    rng = np.random.default_rng(options.seed)
    tensors = load_tensors(checkpoint)
    experts = [name for name in tensors if name.endswith(("gate_up_proj", "down_proj"))]
    moved = dict(tensors)
    for name in experts:
        values = tensors[name]
        noise = rng.standard_normal(values.shape) * np.sqrt((values**2).mean())
        # As bfloat16 keeps it: 8 bits.
        mantissa, exponent = np.frexp(values + options.change * noise)
        moved[name] = np.ldexp(np.rint(mantissa * 256) / 256, exponent)
    expected = ReferenceModel(checkpoint.config, moved).logits(tokens)
    result: dict[str, object] = {
        "model": checkpoint.name,
        "change": options.change,
        "tokens": len(tokens),
    }
    for rounding in ("plain", "least_squares"):
        rounded = dict(moved)
        square = total = 0.0
        for name in experts:
            x = np.ascontiguousarray(moved[name], np.float32)
            found = mxfp4_dequantize(
                *mxfp4_quantize(x, least_squares=rounding == "least_squares")
            ).astype(np.float64)
            square += float(((found - moved[name]) ** 2).sum())
            total += float((moved[name] ** 2).sum())
            rounded[name] = found
        logits = ReferenceModel(checkpoint.config, rounded).logits(tokens)
        result[rounding] = {
            "relative_error": float(np.sqrt(square / total)),
            "mean_kl": _kl(logits, expected),
        }
    print(json.dumps(result))


if __name__ == "__main__":
    _main()
