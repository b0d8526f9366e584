"""What the faster modes cost in accuracy: logits of a text beside those of the reference mode.

    python bench/bench_accuracy.py demo
    python bench/bench_accuracy.py /path/to/20b --tokens 128 --text README.md

Each mode is loaded in turn and given the same tokens. Errors are relative to the reference mode
(float32 throughout, weights as stored): the median over tokens of the logits' relative L2 error,
the mean Kullback-Leibler divergence of the next token's distribution in nats, and how often the
likeliest token is the same. Without a tokenizer, and for checkpoints of random weights, the tokens
are random.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import gptoss
from timing import print_results

MODES: dict[str, dict[str, Any]] = {
    "reference": {"precision": "reference"},
    "default": {},
    'kv_cache_dtype="int8"': {"kv_cache_dtype": "int8"},
    'dense="q8"': {"dense": "q8"},
    "both": {"dense": "q8", "kv_cache_dtype": "int8"},
}


def log_softmax(logits: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def compare(
    mode: str, found: npt.NDArray[np.floating], truth: npt.NDArray[np.floating]
) -> dict[str, Any]:
    error = np.linalg.norm(found - truth, axis=-1) / np.linalg.norm(truth, axis=-1)
    log_p, log_q = log_softmax(truth), log_softmax(found)
    divergence = (np.exp(log_p) * (log_p - log_q)).sum(axis=-1)
    return {
        "mode": mode,
        "median error": float(np.median(error)),
        "mean KL": float(divergence.mean()),
        "worst KL": float(divergence.max()),
        "same top token %": 100 * float((found.argmax(-1) == truth.argmax(-1)).mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--text", type=Path, help="a file; by default random tokens")
    args = parser.parse_args()

    tokens: list[int] = []
    logits: dict[str, npt.NDArray[np.float32]] = {}
    for mode, options in MODES.items():
        with gptoss.load(args.model, context_length=args.tokens + 1, **options) as llm:
            if not tokens and args.text is None:
                rng = np.random.default_rng(0)
                tokens = rng.integers(0, llm.config.vocab_size, args.tokens).tolist()
            elif not tokens:
                tokens = llm.tokenizer.encode(args.text.read_text())[: args.tokens]
            logits[mode] = llm.logits(tokens)
    truth = logits.pop("reference")
    rows = [compare(mode, found, truth) for mode, found in logits.items()]
    print_results(f"{args.model}, {len(tokens)} tokens", rows, model=args.model)


if __name__ == "__main__":
    main()
