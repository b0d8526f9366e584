"""Long contexts: logits against float64 up to the last token; speed and memory by depth.

    python bench/make_checkpoint.py --preset 20b --layers 2 /path/to/2
    python bench/bench_long_context.py accuracy /path/to/2 --tokens 131072

    python bench/make_checkpoint.py --preset 20b --layers 12 /path/to/12
    python bench/bench_long_context.py speed /path/to/12 --tokens 131072

`accuracy` gives the engine random tokens and compares its logits at some positions, spread evenly
from the first to the last, with those of the whole model in float64. Nothing is taken over from the
engine: keys and values of every layer come from float64 hidden states of all positions before. All
but the last layer are computed for every position, a chunk at a time; of the last layer there are
keys and values for every position, and the rest for the wanted ones alone. With 20b's shapes a
layer in full is about 0.25 GFLOP per token (33 TFLOP for 131,072), 8 bytes per hidden value, and
one more unembedding; one full layer's attention over all positions would be as much again and more,
so the checkpoint should have two layers, of which the first has a window. Errors are those of
bench_accuracy.py, of each mode against float64.

`speed` lets one prompt grow, doubling from 4,096 tokens: what an earlier, shorter prompt had is in
the KV cache, so each row has the speed of the part that is new, and of decoding at that depth. All
of 131,072 tokens take hours on two cores, nearly all of it attention. With `--filled` the last 512
tokens of each prompt are computed; keys and values of those before are random numbers, which take
the same memory and the same time to read.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt

import gptoss
from bench_accuracy import MODES, compare
from compare_workers import anonymous_gb
from gptoss.checkpoint import Checkpoint, open_checkpoint
from gptoss.checkpoint.traffic import decode_bytes
from gptoss.config import ModelConfig
from gptoss.page_files import PageFiles
from gptoss.reference import bf16, mxfp4
from gptoss.reference.arrays import FloatArray, IntArray
from gptoss.reference.attention import banded_attention
from gptoss.reference.dense import dense, unembed
from gptoss.reference.experts import mixture
from gptoss.reference.rms_norm import rms_norm
from gptoss.reference.rope import rope
from gptoss.reference.route_topk import route_topk
from timing import peak_memory_gb, print_results

# Bounds the inputs of the chosen experts: 1.5 GB with 20b's shapes. In each chunk every expert is
# made float64 once more, which takes some 15 s for 20b's.
CHUNK_TOKENS = 16_384
# Bounds the scores of attention, (queries, H/G, keys) float64, and some copies of them.
SCORES = 1 << 24
VOCAB_ROWS = 1 << 14
# A prompt's tokens that are computed after pages of random numbers: a step of the engine.
FILLED_NEW_TOKENS = 512


class Experts:
    """Matrices of experts that are turned into float64 one by one, when asked for."""

    def __init__(self, checkpoint: Checkpoint, name: str) -> None:
        self._blocks = checkpoint.tensors[f"{name}_blocks"].read()
        self._scales = checkpoint.tensors[f"{name}_scales"].read()

    def __len__(self) -> int:
        return len(self._blocks)

    def __getitem__(self, expert: int) -> FloatArray:
        return mxfp4.dequantize(self._blocks[expert], self._scales[expert])


class LongReference:
    """The reference model's logits at some positions of a long text.

    The formulas are those of `gptoss.reference`; here is only what is computed when, so that it
    fits into memory.
    """

    def __init__(self, checkpoint: Checkpoint, chunk_tokens: int = CHUNK_TOKENS) -> None:
        self._checkpoint = checkpoint
        self._config: ModelConfig = checkpoint.config
        self._chunk_tokens = chunk_tokens

    def logits(self, token_ids: IntArray, positions: IntArray) -> FloatArray:
        """(len(positions), V): the logits after the tokens at these positions, in rising order."""
        config = self._config
        # Gathered as bits: the whole table in float64 would be 4.6 GB.
        x = bf16.from_bits(self._bits("model.embed_tokens.weight")[token_ids])
        everywhere: IntArray = np.arange(len(token_ids))
        for layer in range(config.num_hidden_layers):
            is_last = layer == config.num_hidden_layers - 1
            x = self._layer(layer, x, positions if is_last else everywhere)
        normed = rms_norm(x, self._tensor("model.norm.weight"), config.rms_norm_eps)
        rows = self._bits("lm_head.weight")
        pieces = [
            unembed(normed, bf16.from_bits(rows[begin : begin + VOCAB_ROWS]))
            for begin in range(0, len(rows), VOCAB_ROWS)
        ]
        return np.concatenate(pieces, axis=-1)

    def _bits(self, name: str) -> npt.NDArray[np.uint16]:
        bits: npt.NDArray[np.uint16] = self._checkpoint.tensors[name].read()
        return bits

    def _tensor(self, name: str) -> FloatArray:
        return bf16.from_bits(self._bits(name))

    def _layer(self, layer: int, x: FloatArray, positions: IntArray) -> FloatArray:
        """The hidden states after a layer at some positions: x (T, N) -> (len(positions), N)."""
        config, name = self._config, f"model.layers.{layer}"
        norm = self._tensor(f"{name}.input_layernorm.weight")
        weights = {
            f"{letter}_proj": (
                self._tensor(f"{name}.self_attn.{letter}_proj.weight"),
                self._tensor(f"{name}.self_attn.{letter}_proj.bias"),
            )
            for letter in "qkvo"
        }

        def heads(projection: str, wanted: IntArray) -> FloatArray:
            normed = rms_norm(x[wanted], norm, config.rms_norm_eps)
            return dense(normed, *weights[projection]).reshape(len(wanted), -1, config.head_dim)

        shape = (len(x), config.num_key_value_heads, config.head_dim)
        k, v = np.empty(shape), np.empty(shape)
        for part in self._chunks(np.arange(len(x))):
            k[part] = rope(heads("k_proj", part), part, config.rope)
            v[part] = heads("v_proj", part)
        sinks = self._tensor(f"{name}.self_attn.sinks")
        is_banded = config.layer_types[layer] == "sliding_attention"
        window = config.sliding_window if is_banded else None
        router = [self._tensor(f"{name}.mlp.router.{kind}") for kind in ("weight", "bias")]
        experts = f"{name}.mlp.experts"
        gate_up = Experts(self._checkpoint, f"{experts}.gate_up_proj")
        down = Experts(self._checkpoint, f"{experts}.down_proj")
        biases = [self._tensor(f"{experts}.{kind}_bias") for kind in ("gate_up_proj", "down_proj")]
        mlp_norm = self._tensor(f"{name}.post_attention_layernorm.weight")

        result = np.empty((len(positions), x.shape[1]))
        for chunk in self._chunks(np.arange(len(positions))):
            part = positions[chunk]
            q = rope(heads("q_proj", part), part, config.rope)
            attended = self._attention(q, k, v, sinks, window, part)
            h = x[part] + dense(attended.reshape(len(part), -1), *weights["o_proj"])
            normed = rms_norm(h, mlp_norm, config.rms_norm_eps)
            chosen, shares = route_topk(dense(normed, *router), config.num_experts_per_tok)
            output = mixture(
                normed,
                chosen,
                shares,
                gate_up,  # type: ignore[arg-type]  # what `mixture` asks of it are len and [expert]
                biases[0],
                down,  # type: ignore[arg-type]
                biases[1],
                config.swiglu_limit,
            )
            result[chunk] = np.add(h, output)
            print(f"float64, layer {layer}: {part[-1] + 1:,} tokens", file=sys.stderr)
        return result

    def _attention(
        self,
        q: FloatArray,
        k: FloatArray,
        v: FloatArray,
        sinks: FloatArray,
        window: int | None,
        positions: IntArray,
    ) -> FloatArray:
        """`banded_attention`, a few queries at a time, over those keys alone that they see."""
        group = q.shape[1] // k.shape[1]
        result = np.empty_like(q)
        for some in self._queries(positions, window, group):
            end = positions[some].max() + 1
            begin = 0 if window is None else max(0, positions[some].min() - window + 1)
            for head in range(k.shape[1]):
                mine = slice(head * group, (head + 1) * group)
                result[some, mine] = banded_attention(
                    q[some, mine],
                    k[begin:end, head : head + 1],
                    v[begin:end, head : head + 1],
                    sinks[mine],
                    window,
                    positions[some] - begin,
                    1.0 / math.sqrt(self._config.head_dim),
                )
        return result

    def _queries(self, positions: IntArray, window: int | None, group: int) -> Iterator[slice]:
        """Slices of neighbouring queries whose scores fit, and of a window, whose keys overlap."""
        begin = 0
        while begin < len(positions):
            keys = int(positions[begin]) + 1 if window is None else 2 * window
            end = min(len(positions), begin + max(1, SCORES // (group * keys)))
            if window is not None:
                last = positions[begin] + max(1, window // 2)
                end = min(end, int(np.searchsorted(positions, last)))
            yield slice(begin, end)
            begin = end

    def _chunks(self, values: IntArray) -> list[IntArray]:
        return [
            values[begin : begin + self._chunk_tokens]
            for begin in range(0, len(values), self._chunk_tokens)
        ]


def spread(tokens: int, count: int) -> IntArray:
    """`count` positions from the first to the last, evenly; fewer if there are fewer tokens."""
    return np.unique(np.linspace(0, tokens - 1, count).round().astype(np.int64))


def measure_accuracy(model: str, tokens: int, count: int, modes: list[str]) -> None:
    """Print the errors of each mode against float64."""
    checkpoint = open_checkpoint(model)
    token_ids = np.random.default_rng(0).integers(0, checkpoint.config.vocab_size, tokens)
    positions = spread(tokens, count)
    start = time.perf_counter()
    truth = LongReference(checkpoint).logits(token_ids, positions)
    float64_s = time.perf_counter() - start
    rows = []
    for mode in modes:
        with gptoss.load(model, context_length=tokens, **MODES[mode]) as llm:
            start = time.perf_counter()
            found = llm.logits(token_ids.tolist(), positions)
            seconds = time.perf_counter() - start
        if not np.isfinite(found).all():
            raise SystemExit(f"{mode}: a logit is not finite")
        error = np.linalg.norm(found - truth, axis=-1) / np.linalg.norm(truth, axis=-1)
        row = compare(mode, found, truth)
        row["worst error"] = float(error.max())
        row["at position"] = int(positions[error.argmax()])
        row["error of the last"] = float(error[-1])
        row["tok/s"] = tokens / seconds
        rows.append(row)
        print(row, file=sys.stderr)  # the next mode may take another hour
    print_results(
        f"{model}: {tokens:,} tokens, {len(positions)} positions against float64 "
        f"({float64_s:,.0f} s)",
        rows,
        model=model,
        tokens=tokens,
        positions=positions.tolist(),
        float64_s=float64_s,
        peak_memory_gb=peak_memory_gb(),
    )


def depths(tokens: int, first: int) -> list[int]:
    """Lengths of the growing prompt: doubled from the first, the last being all tokens."""
    lengths = []
    while first < tokens:
        lengths.append(first)
        first *= 2
    return [*lengths, tokens]


class RandomPages(PageFiles):
    """Stands in for the files of the prefix cache: has every page, of random numbers in f16."""

    def __init__(self, folder: str | os.PathLike[str], max_bytes: int) -> None:
        super().__init__(folder, max_bytes)
        self.is_full = True
        self._pages: dict[int, npt.NDArray[np.uint8]] = {}

    def has(self, name: str, size_bytes: int) -> bool:
        return self.is_full

    def touch(self, name: str, size_bytes: int, time_ns: int) -> bool:
        return self.is_full

    def read(self, name: str, size_bytes: int) -> npt.NDArray[np.uint8] | None:
        if size_bytes not in self._pages:
            values = np.random.default_rng(0).standard_normal(size_bytes // 2, np.float32)
            self._pages[size_bytes] = values.astype(np.float16).view(np.uint8)
        return self._pages[size_bytes] if self.is_full else None

    def write(self, name: str, contents: npt.NDArray[np.uint8], time_ns: int) -> None:
        pass


@contextlib.contextmanager
def random_pages() -> Iterator[tuple[RandomPages, dict[str, Any]]]:
    """Pages for the models that are loaded meanwhile, with these arguments of `load`."""
    # `gptoss.load` is the function.
    module = importlib.import_module("gptoss.load")
    with tempfile.TemporaryDirectory() as folder:
        pages = RandomPages(folder, sys.maxsize)
        with mock.patch.object(module, "PageFiles", return_value=pages):
            yield pages, {"prefix_cache_dir": folder}


def measure_speed(
    model: str, tokens: int, new: int, first: int, options: dict[str, Any], *, filled: bool
) -> None:
    """Print prefill and decode speed as the context fills, and the memory that it takes."""
    start = time.perf_counter()
    rows = []
    with contextlib.ExitStack() as stack:
        pages, arguments = stack.enter_context(random_pages()) if filled else (None, {})
        llm = stack.enter_context(gptoss.load(model, context_length=tokens, **arguments, **options))
        load_s = time.perf_counter() - start
        # The last prompt leaves room for what is decoded after it.
        prompt = np.random.default_rng(0).integers(0, llm.config.vocab_size, tokens - new).tolist()
        for depth in depths(len(prompt), first):
            if pages is not None:
                pages.is_full = True
                llm.generate(prompt[: depth - FILLED_NEW_TOKENS], max_tokens=1)
                pages.is_full = False
            times = [time.perf_counter()]
            for chunk in llm.stream(prompt[:depth], max_tokens=new, temperature=0, ignore_eos=True):
                times.append(time.perf_counter())
                cached = chunk.cached_tokens
            stats = llm.stats()
            held = sum(
                (pages.used + pages.cached) * pages.page_bytes
                for pages in (stats.full_pages, stats.window_pages)
            )
            tps = statistics.median(1 / np.diff(times[1:]))
            read = decode_bytes(llm.config, depth=depth + new // 2, **options)
            rows.append(
                {
                    "depth": depth,
                    "new tokens": depth - cached,
                    "prefill tok/s": (depth - cached) / (times[1] - times[0]),
                    "decode tok/s": tps,
                    "GB/token": read / 1e9,
                    "GB/s": tps * read / 1e9,
                    "KV cache, GB": held / 1e9,
                    "memory without files, GB": anonymous_gb(),
                    "peak with them, GB": peak_memory_gb(),
                }
            )
        description = llm.description
    estimate_gb = gptoss.estimate_memory(model, tokens, **options).total_bytes / 1e9
    print_results(
        f"{model}: {tokens:,} tokens of context, {description}, loaded in {load_s:.2f} s, "
        f"estimated at {estimate_gb:.2f} GB",
        rows,
        model=model,
        tokens=tokens,
        description=description,
        load_s=load_s,
        estimate_gb=estimate_gb,
        peak_memory_gb=peak_memory_gb(),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    accuracy = commands.add_parser("accuracy", help="logits against float64")
    accuracy.add_argument("--positions", type=int, default=50)
    accuracy.add_argument("--modes", nargs="+", choices=MODES, default=["reference", "default"])
    speed = commands.add_parser("speed", help="prefill, decode and memory by depth")
    speed.add_argument("--new", type=int, default=16, help="tokens to decode at each depth")
    speed.add_argument("--first", type=int, default=4096, help="the first prompt's tokens")
    speed.add_argument("--mode", choices=MODES, default="default")
    speed.add_argument(
        "--filled", action="store_true", help="compute the last 512 tokens of each prompt only"
    )
    for command in (accuracy, speed):
        command.add_argument("model")
        command.add_argument("--tokens", type=int, default=131_072)
    args = parser.parse_args()
    if args.command == "accuracy":
        measure_accuracy(args.model, args.tokens, args.positions, args.modes)
    else:
        options = MODES[args.mode]
        if args.filled and "kv_cache_dtype" in options:
            parser.error("--filled has keys and values in f16 alone")
        if args.filled and args.first <= FILLED_NEW_TOKENS:
            parser.error(f"--filled needs --first above {FILLED_NEW_TOKENS}, got {args.first}")
        measure_speed(args.model, args.tokens, args.new, args.first, options, filled=args.filled)


if __name__ == "__main__":
    main()
