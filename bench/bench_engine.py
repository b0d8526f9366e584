"""Throughput of several requests together, and what the prefix cache saves a continued chat.

    python bench/make_checkpoint.py --preset 20b /path/to/20b
    python bench/bench_engine.py /path/to/20b --batch 1 2 4 8 16 --history 4000

Decode: requests with prompts of their own, all running from the first token to the last; the sum
of their speeds, the median of rounds. Sampling: as many requests, greedy and sampled, and what
share of the phases' time sampling takes. First token: a chat of `--history` tokens goes on with
`--message` new ones, right after its last answer, and the same with nothing cached. Beside a
stream: how long a running request waits for a token at most while a prompt of `--history` tokens
is read, and what that costs the prompt.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import gptoss
from timing import peak_memory_gb, print_results


def decode_rows(
    llm: gptoss.LLM, prompts: list[list[int]], batches: list[int], new: int, rounds: int
) -> list[dict[str, Any]]:
    """Measure decode speed for each number of requests together."""
    params: dict[str, Any] = {"temperature": 0, "ignore_eos": True}
    llm.generate(prompts, max_tokens=2, **params)  # their prompts are cached now: they start as one
    rows: list[dict[str, Any]] = []
    for batch in batches:
        speeds = []
        for _ in range(rounds):
            results = llm.generate(prompts[:batch], max_tokens=new, **params)
            assert all(len(result.token_ids) == new for result in results)
            speeds.append(sum(result.timings.generation_tps for result in results))
        tps = statistics.median(speeds)
        rows.append(
            {
                "requests": batch,
                "decode tok/s": tps,
                "each": tps / batch,
                "ratio": tps / rows[0]["decode tok/s"] if rows else 1.0,
            }
        )
    return rows


def sampling_rows(
    llm: gptoss.LLM, prompts: list[list[int]], new: int, rounds: int
) -> list[dict[str, Any]]:
    """Measure decode speed with several ways of choosing tokens, and sampling's share of a step."""
    ways: dict[str, dict[str, Any]] = {
        "greedy": {"temperature": 0},
        "temperature 1": {},
        "top_p 0.95": {"top_p": 0.95},
        "logprobs 5": {"logprobs": 5},
    }
    rows: list[dict[str, Any]] = []
    for way, params in ways.items():
        speeds, shares = [], []
        for _ in range(rounds):
            before = llm.stats().phase_seconds
            results = llm.generate(prompts, max_tokens=new, ignore_eos=True, seed=1, **params)
            spent = {name: s - before[name] for name, s in llm.stats().phase_seconds.items()}
            speeds.append(sum(result.timings.generation_tps for result in results))
            shares.append(spent["sample"] / sum(spent.values()))
        rows.append(
            {
                "requests": len(prompts),
                "sampling": way,
                "decode tok/s": statistics.median(speeds),
                "share of sampling %": 100 * statistics.median(shares),
            }
        )
    return rows


def stall_rows(llm: gptoss.LLM, prompt: list[int], stream: list[int]) -> list[dict[str, Any]]:
    """Measure a stream's longest wait for a token beside a prompt, and the prompt's own speed."""
    greedy: dict[str, Any] = {"temperature": 0, "ignore_eos": True}
    alone = llm.generate(prompt[::-1], max_tokens=1, **greedy).timings.time_to_first_token_s
    with llm.submit(stream, **greedy) as running:
        next(running)
        times = [time.perf_counter()]
        for _ in range(8):
            next(running)
            times.append(time.perf_counter())
        plain = float(np.mean(np.diff(times)))
        beside = llm.submit(prompt, max_tokens=1, **greedy)
        start = last = time.perf_counter()
        waits = []
        while llm.stats().running > 1 or llm.stats().waiting or not waits:
            next(running)
            now = time.perf_counter()
            waits.append(now - last)
            last = now
        seconds = last - start
        beside.result()
    return [
        {
            "prompt tokens": len(prompt),
            "plain step ms": 1e3 * plain,
            "median wait ms": 1e3 * statistics.median(waits),
            "longest wait ms": 1e3 * max(waits),
            "median, longest in plain steps": (
                f"{statistics.median(waits) / plain:.2f}, {max(waits) / plain:.2f}"
            ),
            "prompt tok/s beside": len(prompt) / seconds,
            "alone": len(prompt) / alone,
        }
    ]


def first_token_rows(
    llm: gptoss.LLM, tokens: Callable[[int], list[int]], history: int, message: int, rounds: int
) -> list[dict[str, Any]]:
    """Measure the time to the first token with and without what came before in the cache."""
    found: dict[str, list[gptoss.GenerationResult]] = {"no": [], "yes": []}
    params: dict[str, Any] = {"temperature": 0, "ignore_eos": True, "max_tokens": 2}
    for _ in range(rounds):
        chat = tokens(history)
        found["no"].append(llm.generate(chat, **params))
        chat += found["no"][-1].token_ids + tokens(message)
        found["yes"].append(llm.generate(chat, **params))
    rows = []
    for cached, results in found.items():
        median = statistics.median(r.timings.time_to_first_token_s for r in results)
        rows.append(
            {
                "cached": cached,
                "prompt tokens": results[-1].usage.prompt_tokens,
                "of them cached": results[-1].usage.cached_tokens,
                "first token after s": median,
                "ratio": rows[0]["first token after s"] / median if rows else 1.0,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 2, 4, 8, 16], metavar="N")
    parser.add_argument("--prompt", type=int, default=32, metavar="TOKENS")
    parser.add_argument("--new", type=int, default=64, metavar="TOKENS")
    parser.add_argument("--history", type=int, default=4000, metavar="TOKENS")
    parser.add_argument("--message", type=int, default=50, metavar="TOKENS")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()

    most = max(args.batch)
    needed = max(args.history + args.message, args.prompt + args.new) + 64
    rng = np.random.default_rng(0)
    with gptoss.load(args.model, threads=args.threads, context_length=needed) as llm:
        # Ids of text: those of special tokens come last.
        text_ids = min(llm.config.vocab_size, 199_998)

        def tokens(count: int) -> list[int]:
            return rng.integers(0, text_ids, count).tolist()  # type: ignore[no-any-return]

        prompts = [tokens(args.prompt) for _ in range(most)]
        decode = decode_rows(llm, prompts, args.batch, args.new, args.rounds)
        sampling = sampling_rows(llm, prompts, args.new, args.rounds)
        first = first_token_rows(llm, tokens, args.history, args.message, args.rounds)
        stall = stall_rows(llm, tokens(args.history), tokens(8))
    print_results(f"{args.model}: requests together", decode, model=args.model)
    print_results(f"{args.model}: ways of sampling", sampling, model=args.model)
    print_results(f"{args.model}: a stream beside a prompt", stall, model=args.model)
    peak = peak_memory_gb()
    print_results(
        f"{args.model}: a chat goes on; peak memory {peak:.2f} GB",
        first,
        model=args.model,
        prompt=args.prompt,
        new=args.new,
        decode=decode,
        sampling=sampling,
        stall=stall,
        peak_memory_gb=peak,
    )


if __name__ == "__main__":
    main()
