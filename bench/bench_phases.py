"""Each phase of the forward pass beside the machine's limits: prefill and decode, in a whole model.

    python bench/make_checkpoint.py --preset 20b /path/to/20b
    python bench/bench_phases.py /path/to/20b --prompt 512 --new 32

Prefill is compared with the arithmetic that the phase's inputs allow, decode with the memory read
speed: a phase reads its weights, and attention the keys and values. Medians over rounds.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

import numpy as np

import gptoss
from gptoss import LLM
from gptoss.config import ModelConfig
from hw_limits import hw_limits, read_gb_s
from timing import print_results

_MXFP4_BYTES = 17 / 32
# Of a weight; a row of bf12 has a table besides.
DENSE_BYTES = {"bf16": 2.0, "bf12": 1.51, "q8": 34 / 32}


def phase_parameters(config: ModelConfig) -> dict[str, float]:
    """Weights that a token meets in each phase, of all layers."""
    c = config
    q, kv = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
    expert = c.num_experts_per_tok * c.hidden_size * c.intermediate_size
    layers = {
        "attention_in": c.hidden_size * (q + 2 * kv),
        "attention_out": q * c.hidden_size,
        "experts_in": 2 * expert,
        "experts_out": expert,
    }
    whole = {name: float(c.num_hidden_layers * n) for name, n in layers.items()}
    return whole | {"unembed": float(c.vocab_size * c.hidden_size)}


def phase_bytes(config: ModelConfig, dense: str) -> dict[str, float]:
    """Bytes of those weights; `dense`: how the dense ones are held."""
    return {
        name: n * (_MXFP4_BYTES if name.startswith("experts") else DENSE_BYTES[dense])
        for name, n in phase_parameters(config).items()
    }


def keys_seen(config: ModelConfig, positions: range) -> int:
    """Keys that the tokens at these positions see, of all layers."""
    seen = np.arange(positions.start, positions.stop) + 1
    windowed = np.minimum(seen, config.sliding_window)
    return sum(
        int((windowed if kind == "sliding_attention" else seen).sum())
        for kind in config.layer_types
    )


def inputs_of(description: str) -> dict[str, str]:
    """What a model makes of the inputs of "dense" and "expert" matmuls."""
    parts = description.split(", ")
    return dict(part.rsplit(" inputs ", 1) for part in parts if " inputs " in part)


def peaks_by_inputs(description: str, limits: dict[str, list[float]]) -> dict[str, float]:
    """The arithmetic limit of each kind of inputs, in 1e9 operations per second; 0: none."""
    # An AMX product of 32 elements of K fills half of a tile; two bf16 take two products.
    amx = description.startswith("cpu, amx")
    return {
        "f32": limits["fma_gflop_s"][-1],
        "bf16": limits.get("bf16_gflop_s", [0.0])[-1],
        "2 x bf16": limits.get("amx_bf16_gflop_s", [0.0])[-1] / 2,
        "int8": limits["amx_int8_gop_s"][-1] / 2 if amx else limits.get("int8_gop_s", [0.0])[-1],
    }


def peaks(description: str, limits: dict[str, list[float]]) -> dict[str, float]:
    """The arithmetic limit of each phase, in 1e9 operations per second."""
    by_inputs, inputs = peaks_by_inputs(description, limits), inputs_of(description)
    dense, expert = by_inputs[inputs["dense"]], by_inputs[inputs["expert"]]
    return {
        "attention_in": dense,
        "attend": by_inputs["f32"],
        "attention_out": dense,
        "experts_in": expert,
        "experts_out": expert,
        "unembed": dense,
    }


def seconds_of(llm: LLM, prompt: list[int], new: int) -> dict[str, float]:
    """Seconds that a request spends in each phase."""
    before = llm.stats().phase_seconds
    llm.generate(prompt, max_tokens=new, temperature=0, ignore_eos=True)
    return {name: total - before[name] for name, total in llm.stats().phase_seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--prompt", type=int, default=512, metavar="TOKENS")
    parser.add_argument("--new", type=int, default=32, metavar="TOKENS")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--dense", choices=list(DENSE_BYTES), default="bf16")
    args = parser.parse_args()

    limits = hw_limits(args.threads)
    memory_gb_s = read_gb_s(limits)
    length = args.prompt + args.new
    rng = np.random.default_rng(0)
    rounds = []
    with gptoss.load(
        args.model, threads=args.threads, dense=args.dense, context_length=length + 1
    ) as llm:
        config, description = llm.config, llm.description
        for _ in range(args.rounds + 1):
            prompt = rng.integers(0, config.vocab_size, args.prompt).tolist()
            # The second request takes the prompt's keys and values over: only decoding is left.
            rounds.append((seconds_of(llm, prompt, 1), seconds_of(llm, prompt, args.new)))

    def median(index: int, phase: str) -> float:
        return statistics.median(times[index][phase] for times in rounds[1:])  # the first warms up

    parameters = phase_parameters(config)
    peak = peaks(description, limits)
    per_key = config.num_attention_heads * config.head_dim
    operations = {name: 2 * args.prompt * n for name, n in parameters.items()}
    operations["attend"] = 4 * per_key * keys_seen(config, range(args.prompt))
    operations["unembed"] = 2 * parameters["unembed"]  # for the last token alone
    nbytes = phase_bytes(config, args.dense)
    kv_row = 4 * config.num_key_value_heads * config.head_dim  # f16 keys and values
    decoded = range(args.prompt, length - 1)
    nbytes["attend"] = kv_row * keys_seen(config, decoded) / len(decoded)
    rows: list[dict[str, Any]] = []
    for phase in rounds[0][0]:
        prefill_s, token_s = median(0, phase), median(1, phase) / args.new
        row: dict[str, Any] = {"phase": phase, "prefill ms": 1e3 * prefill_s}
        has = phase in operations
        row["Gop/s"] = operations[phase] / prefill_s / 1e9 if has else ""
        row["% of peak"] = 100 * row["Gop/s"] / peak[phase] if has and peak[phase] else ""
        row["decode ms/token"] = 1e3 * token_s
        row["GB/s"] = nbytes[phase] / token_s / 1e9 if has else ""
        row["% of memory"] = 100 * row["GB/s"] / memory_gb_s if has else ""
        rows.append(row)
    print_results(
        f"{args.model}, {description}: {args.prompt} tokens, then {args.new}",
        rows,
        model=args.model,
        limits=limits,
    )


if __name__ == "__main__":
    main()
