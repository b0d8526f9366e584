"""Attention alone, beside the machine's limits: prefill and decode, layers with a window and full.

    python bench/bench_attention.py
    python bench/bench_attention.py --prefill --decode 32768

`gptoss.ops.banded_attention` fills a cache on every call, so this is the phase `attend` of a model
that has one layer with the published heads and little else. Each step also reads 103 MB of
unembedding, so that keys and values come from memory, as between the weights of a whole model,
and not from a cache (unless that is larger). Depth is the number of tokens before those computed;
medians over rounds.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import gptoss
from bench_phases import keys_seen, seconds_of
from gptoss import LLM, _core
from gptoss.config import LayerType, ModelConfig
from hw_limits import hw_limits, read_gb_s
from make_checkpoint import PRESETS, make_checkpoint
from shapes import PAGE_TOKENS
from timing import print_results

LAYERS: dict[str, LayerType] = {"window": "sliding_attention", "full": "full_attention"}
CACHES: dict[str, Any] = {"f16": "auto", "int8": "int8"}


def attention_model(layer_type: LayerType) -> ModelConfig:
    """One layer with the published heads and vocabulary, and little of all else."""
    return dataclasses.replace(
        PRESETS["20b"],
        hidden_size=256,
        intermediate_size=32,
        num_hidden_layers=1,
        num_local_experts=1,
        num_experts_per_tok=1,
        layer_types=(layer_type,),
    )


def attend_s(llm: LLM, prompt: list[int], depth: int, new: int) -> float:
    """Seconds of attention in a request whose first `depth` tokens are cached."""
    before = llm.stats().cached_tokens
    seconds = seconds_of(llm, prompt, new)["attend"]
    cached = llm.stats().cached_tokens - before
    if cached != depth:
        raise RuntimeError(f"expected {depth} tokens from the KV cache, got {cached}")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--prefill", type=int, nargs="*", default=[0, 2048, 4096], metavar="DEPTH")
    parser.add_argument(
        "--decode", type=int, nargs="*", default=[512, 4096, 16384], metavar="DEPTH"
    )
    parser.add_argument("--chunk", type=int, default=512, metavar="TOKENS")
    parser.add_argument("--new", type=int, default=32, metavar="TOKENS")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()

    threads = args.threads or _core.default_threads()
    limits = hw_limits(threads)
    memory_gb_s = read_gb_s(limits)
    # Depth, tokens of the prompt after it, tokens to generate: as many steps of one token each.
    # Deeper ones go on from the text of those before.
    work = sorted(
        [(depth, args.chunk, 1) for depth in args.prefill]
        + [(depth, 1, args.new) for depth in args.decode]
    )
    length = max(depth + tokens + new for depth, tokens, new in work)
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []

    def measure(llm: LLM, layer: str, cache: str) -> None:
        config, stats = llm.config, llm.stats()
        kv_row = (stats.full_pages.page_bytes + stats.window_pages.page_bytes) / PAGE_TOKENS
        text = rng.integers(0, config.vocab_size, length).tolist()
        for depth, tokens, new in work:
            if depth:
                llm.generate(text[:depth], max_tokens=1)
            times = []
            for _ in range(args.rounds + 1):
                after = rng.integers(0, config.vocab_size, tokens).tolist()
                times.append(attend_s(llm, text[:depth] + after, depth, new))
            seconds = statistics.median(times[1:]) / new  # the first warms up
            keys = keys_seen(config, range(depth, depth + tokens + new - 1)) / new
            operations = 4 * config.num_attention_heads * config.head_dim * keys
            row = {"layer": layer, "cache": cache, "T": tokens, "depth": depth}
            row["ms"] = seconds * 1e3
            # The tokens of a chunk share what they read.
            gb_s = kv_row * keys / seconds / 1e9
            row["GB/s"] = gb_s if tokens == 1 else ""
            row["% of memory"] = 100 * gb_s / memory_gb_s if tokens == 1 else ""
            row["Gop/s"] = operations / seconds / 1e9
            row["% of FMA peak"] = 100 * operations / seconds / 1e9 / limits["fma_gflop_s"][-1]
            rows.append(row)

    for layer, layer_type in LAYERS.items():
        with tempfile.TemporaryDirectory() as folder:
            make_checkpoint(Path(folder), attention_model(layer_type))
            for cache, dtype in CACHES.items():
                with gptoss.load(
                    folder, threads=threads, context_length=length, kv_cache_dtype=dtype
                ) as llm:
                    measure(llm, layer, cache)
    rows.sort(key=lambda row: row["T"] == 1)
    print_results(f"attention, {threads} threads, {_core.selected_isa()}", rows, limits=limits)


if __name__ == "__main__":
    main()
