"""What the faster modes cost in accuracy: logits of a text beside those of the reference mode.

    python bench/bench_accuracy.py demo
    python bench/bench_accuracy.py /path/to/20b --tokens 128 --text README.md

Each mode is loaded in turn and given the same tokens, in texts of `--each`. Errors are relative to
the reference mode (float32 throughout, weights as stored): the median over tokens of the logits'
relative L2 error, the mean Kullback-Leibler divergence of the next token's distribution in nats,
and how often the likeliest token is the same. Without a tokenizer, and for checkpoints of random
weights, the tokens are random.

Where two experts' logits are nearly equal, the least rounding sends a token to the other, whose
output has nothing in common with the first's under random weights; attention hands the difference
on to all tokens that follow. So there are two more columns: how many tokens go to other experts in
some layer, and the median error over tokens that neither do nor follow one that does in their
text, which is what a mode rounds.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

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


class Figures(NamedTuple):
    """Of each of T tokens, or of those of several texts."""

    errors: npt.NDArray[np.floating]
    divergences: npt.NDArray[np.floating]
    same_top: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, found: npt.NDArray[np.floating], truth: npt.NDArray[np.floating]) -> Figures:
        log_p, log_q = log_softmax(truth), log_softmax(found)
        return cls(
            np.linalg.norm(found - truth, axis=-1) / np.linalg.norm(truth, axis=-1),
            (np.exp(log_p) * (log_p - log_q)).sum(axis=-1),
            found.argmax(-1) == truth.argmax(-1),
        )

    def row(self, mode: str) -> dict[str, Any]:
        return {
            "mode": mode,
            "median error": float(np.median(self.errors)),
            "mean KL": float(self.divergences.mean()),
            "worst KL": float(self.divergences.max()),
            "same top token %": 100 * float(self.same_top.mean()),
        }


def compare(
    mode: str, found: npt.NDArray[np.floating], truth: npt.NDArray[np.floating]
) -> dict[str, Any]:
    return Figures.of(found, truth).row(mode)


@dataclass
class Read:
    """What a mode makes of a text of T tokens."""

    logits: npt.NDArray[np.float32]  # (T, V)
    experts: npt.NDArray[np.int32]  # (L, T, A), of each token and layer in ascending order


def read(llm: gptoss.LLM, tokens: list[int]) -> Read:
    experts = llm.trace(tokens, what="experts").experts
    assert experts is not None
    return Read(llm.logits(tokens), np.sort(experts, axis=-1))


class Comparison:
    """A mode beside the reference, text after text."""

    def __init__(self) -> None:
        self.figures: list[Figures] = []
        self.rerouted: list[bool] = []  # a token goes to other experts in some layer
        self.untouched: list[bool] = []  # neither it nor any before it in its text does

    def add(self, found: Read, truth: Read) -> None:
        self.figures.append(Figures.of(found.logits, truth.logits))
        rerouted = (found.experts != truth.experts).any(axis=(0, 2))
        self.rerouted += rerouted.tolist()
        self.untouched += (~np.logical_or.accumulate(rerouted)).tolist()

    def row(self, mode: str) -> dict[str, Any]:
        figures = Figures(*map(np.concatenate, zip(*self.figures, strict=True)))
        errors = figures.errors[self.untouched]
        return {
            **figures.row(mode),
            "other experts %": 100 * float(np.mean(self.rerouted)),
            "median error before": float(np.median(errors)) if len(errors) else None,
            "of tokens %": 100 * float(np.mean(self.untouched)),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--each", type=int, default=32, help="tokens of a text; default: 32")
    parser.add_argument("--text", type=Path, help="a file; by default random tokens")
    args = parser.parse_args()

    texts: list[list[int]] = []
    truth: list[Read] = []
    rows = []
    for mode, options in MODES.items():
        with gptoss.load(args.model, context_length=args.each + 1, **options) as llm:
            if mode == "reference":
                texts = texts_of(llm, args)
                truth = [read(llm, tokens) for tokens in texts]
                continue
            comparison = Comparison()
            for tokens, expected in zip(texts, truth, strict=True):
                comparison.add(read(llm, tokens), expected)
            rows.append(comparison.row(mode))
    count = sum(map(len, texts))
    print_results(f"{args.model}, {count} tokens", rows, model=args.model, texts=len(texts))


def texts_of(llm: gptoss.LLM, args: argparse.Namespace) -> list[list[int]]:
    if args.text is None:
        rng = np.random.default_rng(0)
        tokens = rng.integers(0, llm.config.vocab_size, args.tokens).tolist()
    else:
        tokens = llm.tokenizer.encode(args.text.read_text())[: args.tokens]
    return [tokens[begin : begin + args.each] for begin in range(0, len(tokens), args.each)]


if __name__ == "__main__":
    main()
