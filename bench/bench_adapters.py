"""What adapters cost: decoding and prompts with LoRA against the model as it is.

    python bench/bench_adapters.py FOLDER --rank 16 --targets all

FOLDER is a checkpoint (`bench/make_checkpoint.py` makes one with random weights). An adapter of
random factors is made for it. Rounds alternate between requests without and with the adapter, so
that what else the machine does meets both; the ratio is that of the medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import gptoss

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

from support.adapters import ATTENTION, EXPERTS, MODULES, PARAMETERS, make_adapter

TARGETS: dict[str, tuple[Any, Any]] = {
    "attention": (ATTENTION, ()),
    "experts": ((), EXPERTS),
    "attention,experts": (ATTENTION, EXPERTS),
    "all": (MODULES, PARAMETERS),
}


def rates(
    llm: gptoss.LLM, adapter: str | None, options: argparse.Namespace, turn: int
) -> tuple[float, float]:
    """Tokens per second of decoding and of a prompt."""
    rng = np.random.default_rng(0)

    def prompt(tokens: int) -> list[int]:
        return rng.integers(0, llm.config.vocab_size, tokens).tolist()

    fixed: dict[str, Any] = {"ignore_eos": True, "temperature": 0.0, "adapter": adapter}
    salt = f"{turn} {adapter}"  # nothing is cached
    short = [prompt(16) for _ in range(options.batch)]
    results = llm.generate(short, max_tokens=options.new, cache_salt=salt, **fixed)
    long = llm.generate(prompt(options.prompt), max_tokens=1, cache_salt=salt, **fixed)
    return sum(result.timings.generation_tps for result in results), long.timings.prompt_tps


def main() -> None:
    """Print a line for each measure, and JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--targets", choices=TARGETS, default="attention,experts")
    parser.add_argument("--batch", type=int, default=1, help="requests that decode together")
    parser.add_argument("--new", type=int, default=32, help="tokens to decode")
    parser.add_argument("--prompt", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    modules, parameters = TARGETS[options.targets]
    with (
        tempfile.TemporaryDirectory() as folder,
        gptoss.load(options.model, threads=options.threads, context_length=2048) as llm,
    ):
        made = make_adapter(
            Path(folder), llm.config, rank=options.rank, modules=modules, parameters=parameters
        )
        llm.load_adapter("a", made)
        found: dict[str | None, list[tuple[float, float]]] = {None: [], "a": []}
        for turn in range(-1, options.rounds):
            for adapter, rounds in found.items():
                measured = rates(llm, adapter, options, turn)
                if turn >= 0:  # the first warms up
                    rounds.append(measured)
        print(f"{llm.description}; rank {options.rank}, {options.targets}")
        lines = {}
        for place, what in enumerate(("decode", "prompt")):
            plain, adapted = (
                statistics.median(rates[place] for rates in rounds) for rounds in found.values()
            )
            lines[what] = {"plain_tps": plain, "adapter_tps": adapted, "cost": plain / adapted - 1}
            print(
                f"{what}: {plain:.2f} tok/s, with the adapter {adapted:.2f}: "
                f"{100 * (plain / adapted - 1):+.1f} % time"
            )
        if options.json is not None:
            options.json.write_text(json.dumps({**vars(options), "json": None, **lines}))


if __name__ == "__main__":
    main()
