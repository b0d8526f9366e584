"""Choosing a token from a row of logits, on each instruction set, against reading the row.

    python bench/bench_sampling.py

One thread; the row, 804 kB with the published vocabulary, is in the cache. Minima of many calls,
which is what the op takes when nothing disturbs it. "passes" is how often it goes over the row at
least: once for the highest logit, once for the masses; with penalties twice more to copy it.
"limit" is what reading takes so often at the speed of the greedy choice, which does little else;
the masses' twenty or so instructions for 16 tokens come on top. The rows: `peaked` as a model's
that knows what comes next, a few hundred tokens far above all others; `flat`, normal numbers, where
top_p leaves half of the vocabulary.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import numpy.typing as npt

from gptoss import _core
from timing import print_results

VOCAB = 201_088
SEEN_TOKENS = 2000

CASES: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "temperature 1": {},
    "top_p 0.95": {"top_p": 0.95},
    "top_k 50": {"top_k": 50},
    "min_p 0.05": {"min_p": 0.05},
    "logprobs 5": {"n_logprobs": 5},
    "penalties": {
        "repetition_penalty": 1.1,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.1,
    },
}
PASSES = {"greedy": 1, "top_k 50": 1, "penalties": 4}  # others: 2


def rows_of_logits() -> dict[str, npt.NDArray[np.float32]]:
    """Make a row of each kind: (V) float32."""
    rng = np.random.default_rng(0)
    flat = rng.standard_normal(VOCAB)
    peaked = 2.5 * rng.standard_normal(VOCAB)
    likely = rng.choice(VOCAB, 400, replace=False)
    peaked[likely] += 6 + rng.exponential(3, likely.size)
    return {"peaked": peaked.astype(np.float32), "flat": flat.astype(np.float32)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--target", nargs="*", help="default: all that run here")
    args = parser.parse_args()
    targets = args.target or [
        name for name, available, _ in _core.targets() if available and ":" in name
    ]
    rng = np.random.default_rng(1)
    seen = [(token, 1) for token in rng.choice(VOCAB, SEEN_TOKENS, replace=False).tolist()]
    logits = rows_of_logits()
    rows: list[dict[str, Any]] = []
    for target in targets:
        pass_ms = 0.0
        for case, rule in CASES.items():
            counts = seen if case == "penalties" else []
            row: dict[str, Any] = {"target": target, "case": case}
            for kind, values in logits.items():
                seconds = _core.time_sample_row(values, rule, counts, args.rounds, target)
                row[f"{kind} ms"] = min(seconds) * 1e3
            pass_ms = pass_ms or row["flat ms"]
            row["passes"] = PASSES.get(case, 2)
            row["limit ms"] = row["passes"] * pass_ms
            rows.append(row)
    print_results(f"sampling a row of {VOCAB:,}, one thread", rows, vocab_size=VOCAB)


if __name__ == "__main__":
    main()
