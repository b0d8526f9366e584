"""Loading, prefill and decode speed of a whole model, and what memory it takes.

    python bench/make_checkpoint.py --preset 20b /path/to/20b
    python bench/bench_generate.py /path/to/20b --prompt 32 512 2048 --new 32

Speeds are medians over rounds; bytes are those that a decoded token must read (weights of the
active experts, dense weights, keys and values), and their share is of the memory read speed
measured here first.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import get_args

import numpy as np

import gptoss
from gptoss.checkpoint.traffic import decode_bytes
from gptoss.options import Dense
from hw_limits import hw_limits, read_gb_s
from timing import peak_memory_gb, print_results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--prompt", type=int, nargs="+", default=[32, 512], metavar="TOKENS")
    parser.add_argument("--new", type=int, default=32, metavar="TOKENS")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--precision", choices=["auto", "reference"], default="auto")
    parser.add_argument("--dense", choices=get_args(Dense), default="bf16")
    parser.add_argument("--context-length", type=int, default=8192)
    args = parser.parse_args()

    limits = hw_limits(args.threads)
    memory_gb_s = read_gb_s(limits)

    start = time.perf_counter()
    llm = gptoss.load(
        args.model,
        threads=args.threads,
        precision=args.precision,
        dense=args.dense,
        context_length=args.context_length,
    )
    load_s = time.perf_counter() - start
    next(iter(llm.stream([1, 2, 3], max_tokens=1)))
    first_token_s = time.perf_counter() - start

    rng = np.random.default_rng(0)
    rows = []
    with llm:
        for n in args.prompt:
            prefill, decode = [], []
            for _ in range(args.rounds):
                prompt = rng.integers(0, llm.config.vocab_size, n).tolist()
                times = [time.perf_counter()]
                for _chunk in llm.stream(
                    prompt, max_tokens=args.new, temperature=0, ignore_eos=True
                ):
                    times.append(time.perf_counter())
                prefill.append(n / (times[1] - times[0]))
                decode.append(statistics.median(1 / np.diff(times[1:])))
            tps = statistics.median(decode)
            read = decode_bytes(
                llm.config,
                precision=args.precision,
                dense=args.dense,
                depth=n + args.new // 2,
            )
            rows.append(
                {
                    "prompt tokens": n,
                    "prefill tok/s": statistics.median(prefill),
                    "decode tok/s": tps,
                    "GB/token": read / 1e9,
                    "GB/s": tps * read / 1e9,
                    "% of memory speed": 100 * tps * read / 1e9 / memory_gb_s,
                }
            )
        description = llm.stats()
    print_results(
        f"{args.model}: loaded in {load_s:.2f} s, first token after {first_token_s:.2f} s, "
        f"peak memory {peak_memory_gb():.2f} GB",
        rows,
        model=args.model,
        precision=args.precision,
        dense=args.dense,
        load_s=load_s,
        first_token_s=first_token_s,
        peak_memory_gb=peak_memory_gb(),
        limits=limits,
        stats=str(description),
    )


if __name__ == "__main__":
    main()
