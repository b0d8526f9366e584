"""Each phase of the forward pass beside the machine's limits: prefill and decode, in a whole model.

    python bench/make_checkpoint.py --preset 20b /path/to/20b
    python bench/bench_phases.py /path/to/20b --prompt 512 --new 32

Prefill is compared with the arithmetic that the phase's inputs allow, decode with the memory read
speed: a phase reads its weights, and attention the keys and values. Medians over rounds. In the
last row the peak is what the phases' peaks allow for the whole pass.
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

    def limit(*names: str) -> float:
        return next((limits[name][-1] for name in names if name in limits), 0.0)

    isa = description.split(", ")[1]
    if isa == "amx":
        # An AMX product of 32 elements of K fills half of a tile; two bf16 take two products.
        int8 = limit("amx_int8_gop_s") / 2
    elif isa == "avx2":
        int8 = limit("int16_chain_256_gop_s", "int16_chain_gop_s")
    elif isa == "avx_vnni":
        int8 = limit("int8_256_gop_s", "int8_gop_s")
    else:
        int8 = limit("int8_gop_s")
    return {
        "f32": limit(*["fma_256_gflop_s"] * (isa in ("avx2", "avx_vnni")), "fma_gflop_s"),
        "bf16": limit("bf16_gflop_s"),
        "2 x bf16": limit("amx_bf16_gflop_s") / 2,
        "int8": int8,
    }


def peaks(description: str, limits: dict[str, list[float]]) -> dict[str, float]:
    """The arithmetic limit of each phase, in 1e9 operations per second."""
    by_inputs, inputs = peaks_by_inputs(description, limits), inputs_of(description)
    dense, expert = by_inputs[inputs["dense"]], by_inputs[inputs["expert"]]
    if description.split(", ")[1] == "avx2" and "dense weights int8" in description:
        dense /= 2  # a pair of such products fills 16 bits: widening takes the place of a product
    return {
        "attention_in": dense,
        "attend": by_inputs["f32"],
        "attention_out": dense,
        "experts_in": expert,
        "experts_out": expert,
        "unembed": dense,
    }


def prompt_operations(config: ModelConfig, tokens: int) -> dict[str, float]:
    """Operations of each phase that has matrix products, for a prompt of so many tokens."""
    operations = {name: 2 * tokens * n for name, n in phase_parameters(config).items()}
    per_key = config.num_attention_heads * config.head_dim
    operations["attend"] = 4 * per_key * keys_seen(config, range(tokens))
    operations["unembed"] /= tokens  # for the last token alone
    return operations


def prompt_limit_s(
    config: ModelConfig, tokens: int, description: str, limits: dict[str, list[float]]
) -> float | None:
    """Least seconds for a prompt: of each phase its operations by the peak of its arithmetic.

    None if the machine's peak is not known for a phase.
    """
    peak = peaks(description, limits)
    if not all(peak.values()):
        return None
    return sum(n / peak[name] / 1e9 for name, n in prompt_operations(config, tokens).items())


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

    peak = peaks(description, limits)
    operations = prompt_operations(config, args.prompt)
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
    whole_s = sum(row["prefill ms"] for row in rows) / 1e3
    least_s = prompt_limit_s(config, args.prompt, description, limits)
    rows.append(
        {
            "phase": "all",
            "prefill ms": 1e3 * whole_s,
            "Gop/s": sum(operations.values()) / whole_s / 1e9,
            "% of peak": 100 * least_s / whole_s if least_s else "",
            "decode ms/token": sum(row["decode ms/token"] for row in rows),
            "GB/s": "",
            "% of memory": "",
        }
    )
    print_results(
        f"{args.model}, {description}: {args.prompt} tokens, then {args.new}",
        rows,
        model=args.model,
        limits=limits,
    )


if __name__ == "__main__":
    main()
