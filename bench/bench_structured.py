"""What a schema costs: building, compiling, and masks per step, at the published vocabulary.

    python bench/bench_structured.py path/to/tokenizer.json

What the engine's thread does for constraints in a step, `Hub.fill` and `Hub.accept`, is done here
by itself, for one sequence and for eight: masks, forced tokens, headers. Tokens are drawn among
those that are allowed with equal chances, so that all kinds of texts come up, and every answer that
is not cut is read. Times are those of this thread's CPU, so that other work does not count. The
share is that of a step of 20b on a CPU: `--step-ms`, 100 by default, for one sequence, and 1 + 0.4
(T - 1) times as long for T, as docs/engine.md has it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from gptoss import SamplingParams
from gptoss.chat import begin
from gptoss.engine.constraints import Hub, constraint_for_sequence
from gptoss.harmony import HarmonyEncoding
from gptoss.structured import lexicon, schema_grammar
from gptoss.tokenizer import Tokenizer
from timing import print_results

VOCAB = 201_088
TEXT = {"type": "string", "maxLength": 60}
COUNT = {"type": "integer", "minimum": 0, "maximum": 10_000}
PERSON = {
    "type": "object",
    "properties": {
        "name": TEXT,
        "age": COUNT,
        "email": {"type": "string", "format": "email", "maxLength": 40},
        "born": {"type": "string", "format": "date"},
        "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "maxItems": 3},
    },
    "required": ["name", "age", "email", "born", "tags"],
}
SCHEMAS: dict[str, Any] = {
    "any object": {"type": "object"},
    "person": PERSON,
    "people": {"type": "array", "items": PERSON, "minItems": 3, "maxItems": 3},
    "100 properties": {
        "type": "object",
        "properties": {f"field_{i}": TEXT if i % 2 else COUNT for i in range(100)},
    },
    "a pattern": {"type": "string", "pattern": "^[A-Z][a-z]{2,9}( [A-Z][a-z]{2,9}){2,5}$"},
}


class Model:
    """What a chat needs to make a constraint; it answers nothing."""

    name = "none"
    context_length = 4096

    def __init__(self, encoding: HarmonyEncoding) -> None:
        self.harmony = encoding
        self.config: Any = SimpleNamespace(eos_token_ids=(encoding.special_id("<|return|>"),))
        self.constraint: Any = None

    def stream(self, prompt: Any, params: SamplingParams | None = None) -> Any:
        """Keep the constraint."""
        assert params is not None
        self.constraint = params.constraint
        return SimpleNamespace(close=lambda: None)


def steps(encoding: HarmonyEncoding, schema: Any, n: int, rounds: int) -> list[float]:
    """Milliseconds of constraints, for each step with n sequences."""
    model = Model(encoding)
    wanted = {"type": "json_schema", "json_schema": {"name": "form", "schema": schema}}
    begin(model, "Hi", SamplingParams(), response_format=wanted, max_reasoning_tokens=0)
    rng = np.random.default_rng(0)
    end = encoding.special_id("<|return|>")
    times = []
    for _ in range(rounds):
        hub, running = Hub(), dict[int, list[int]]()
        for sequence in range(n):
            hub.add(sequence, constraint_for_sequence(model.constraint))
            running[sequence] = list(hub.accept([(sequence, [])])[0][0])
        while running and max(map(len, running.values())) < 200:
            masks = np.empty((len(running), -(-VOCAB // 32)), np.uint32)
            start = time.thread_time()
            errors = hub.fill(list(running), masks)
            spent_s = time.thread_time() - start
            assert not any(errors), errors
            sampled = []
            for sequence, mask in zip(running, masks, strict=True):
                allowed = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))
                sampled.append((sequence, [int(rng.choice(allowed))]))
            start = time.thread_time()
            verdicts = hub.accept(sampled)
            times.append(1000 * (spent_s + time.thread_time() - start))
            for (sequence, tokens), (forced, _, _, error) in zip(sampled, verdicts, strict=True):
                assert not error
                running[sequence] += [*tokens, *forced]
                if end in running[sequence]:
                    json.loads(encoding.decode(running.pop(sequence)[:-1]))
    return times


def compile_ms(encoding: HarmonyEncoding, schema: Any) -> float:
    """Milliseconds of compiling a schema, the first mask included."""
    times = []
    for _ in range(5):
        start = time.thread_time()
        schema_grammar(encoding, schema, "schema")
        times.append(time.thread_time() - start)
    return 1000 * statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("tokenizer", type=Path, help="tokenizer.json of the published vocabulary")
    parser.add_argument("--step-ms", type=float, default=100.0, help="what a step takes")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    encoding = HarmonyEncoding(Tokenizer(options.tokenizer))
    start = time.thread_time()
    lexicon(encoding)
    build_s = time.thread_time() - start
    rows = []
    for name, schema in SCHEMAS.items():
        row: dict[str, Any] = {
            "schema": name,
            "compile ms": compile_ms(encoding, schema),
        }
        for n in (1, 8):
            times = steps(encoding, schema, n, options.rounds)
            row[f"{n}: median ms"] = statistics.median(times)
            row[f"{n}: mean"] = statistics.mean(times)
            row[f"{n}: max"] = max(times)
            row[f"{n}: %"] = 100 * statistics.mean(times) / (options.step_ms * (1 + 0.4 * (n - 1)))
        rows.append(row)
    title = f"{VOCAB:,} tokens; the lexicon was built in {build_s:.2f} s"
    print_results(title, rows, build_s=build_s, step_ms=options.step_ms)


if __name__ == "__main__":
    main()
