"""Measure the CUDA backend on the card at hand: what bench/gpu_report.sh runs when it has built.

    python bench/gpu_report.py --out FOLDER [--seconds 400] [--size tiny]

Every line is a measurement. It is written to FOLDER/report.jsonl and to FOLDER/report.md as soon as
it is there, so that a cut loses nothing, and what no time is left for is a line that says so.

Weights are random, and as large as the published models', but one layer's arrays serve for all: the
machine holds 3 GB of them and makes them in seconds, where a checkpoint would be a file of 13 or
65 GB. On the device each layer has its own copy, so as many bytes are read. Prompts begin alike, so
that a longer context only adds to what was computed of a shorter one.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import cuda_driver
import gptoss
from gptoss import LLM, _core
from gptoss.checkpoint.layout import stored_tensors, tensors_by_role
from gptoss.checkpoint.safetensors import TensorSource
from gptoss.checkpoint.traffic import decode_bytes
from gptoss.config import ModelConfig
from gptoss.published import GPT_OSS_20B, GPT_OSS_120B, alternating

_PATTERN_BYTES = 1 << 24  # of random numbers, repeated
# Of logits to the CPU's in f32, the median's relative error: twice what bf16 inputs make of it
# (tests/support/tolerances.py).
_MOST_ERROR = 0.02
_SCALE_BYTES = (118, 123)  # E8M0, so that the experts' outputs are of order 1


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is measured: models, contexts in tokens, numbers of requests."""

    models: tuple[ModelConfig, ModelConfig]
    checked: ModelConfig
    contexts: tuple[int, ...]
    prompts: tuple[int, ...]
    batches: tuple[int, ...]
    batch_context: int
    new_tokens: int
    served: tuple[int, int, int]  # requests, tokens in, tokens out
    copy_bytes: int
    step_tokens: int


_TINY = dataclasses.replace(
    GPT_OSS_20B,
    hidden_size=64,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=8,
    num_key_value_heads=2,
    head_dim=16,
    vocab_size=320,
    num_local_experts=4,
    num_experts_per_tok=2,
    sliding_window=16,
    layer_types=alternating(2),
)
PLANS = {
    "published": Plan(
        models=(GPT_OSS_20B, GPT_OSS_120B),
        checked=dataclasses.replace(
            GPT_OSS_20B, num_hidden_layers=2, vocab_size=4096, layer_types=alternating(2)
        ),
        contexts=(1024, 8192, 32768, 131072 - 256),
        prompts=(512, 2048, 8192),
        batches=(1, 2, 4, 8, 16, 32, 64, 128),
        batch_context=1024,
        new_tokens=128,
        served=(128, 1024, 1024),
        copy_bytes=1 << 30,
        step_tokens=8192,
    ),
    # For the emulator: every line, and nothing that takes long.
    "tiny": Plan(
        models=(_TINY, dataclasses.replace(_TINY, num_local_experts=5)),
        checked=_TINY,
        contexts=(8, 70),
        prompts=(16,),
        batches=(1, 3),
        batch_context=8,
        new_tokens=3,
        served=(3, 8, 4),
        copy_bytes=1 << 16,
        step_tokens=64,
    ),
}


class Clocks:
    """What nvidia-smi says of the card while a line is measured; nothing where there is none."""

    _FIELDS = (
        "clocks.sm",
        "clocks.mem",
        "temperature.gpu",
        "power.draw",
    )
    _REASONS = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")  # newer, older

    def __init__(self) -> None:
        self._lines: list[list[str]] = []
        self._process: subprocess.Popen[str] | None = None
        if shutil.which("nvidia-smi") is None:
            return
        commands = []
        for reasons in self._REASONS:
            query = f"--query-gpu={','.join([*self._FIELDS, reasons])}"
            commands.append(["nvidia-smi", query, "-i", "0", "--format=csv,noheader,nounits"])
        known = [c for c in commands if subprocess.run(c, capture_output=True).returncode == 0]
        if not known:
            return
        self._process = subprocess.Popen(
            [*known[0], "-lms", "500"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.append([field.strip() for field in line.split(",")])

    def close(self) -> None:
        """Stop asking."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._reader.join(timeout=5)
            assert self._process.stdout is not None
            self._process.stdout.close()

    def mark(self) -> int:
        """Begin a line: what to give to `since`."""
        return len(self._lines)

    def since(self, mark: int) -> dict[str, Any]:
        """Return the lowest clocks, the highest temperature and power, all throttle reasons."""
        lines = [line for line in self._lines[mark:] if len(line) == len(self._FIELDS) + 1]
        if not lines:
            return {}

        def numbers(column: int) -> list[float]:
            found = []
            for line in lines:
                with contextlib.suppress(ValueError):
                    found.append(float(line[column]))
            return found or [float("nan")]

        reasons = 0
        for line in lines:
            with contextlib.suppress(ValueError):
                reasons |= int(line[4], 16)
        return {
            "sm_mhz": min(numbers(0)),
            "memory_mhz": min(numbers(1)),
            "celsius": max(numbers(2)),
            "watts": max(numbers(3)),
            "throttle": f"{reasons:#x}",
        }


class Report:
    """Lines that are written when they are made."""

    def __init__(self, out: Path, seconds: float) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self._json, self._table = out / "report.jsonl", out / "report.md"
        self._end = time.monotonic() + seconds
        self.clocks = Clocks()
        self.copy_gb_s = 0.0
        if not self._table.exists():
            heading = "| measurement | result | GB/s | of the copy | clocks, throttling | s |\n"
            self._append(self._table, heading + "|---|---:|---:|---:|---|---:|\n")

    @staticmethod
    def _append(path: Path, text: str) -> None:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)

    @property
    def left_s(self) -> float:
        """Seconds until nothing more is begun."""
        return max(0.0, self._end - time.monotonic())

    def line(
        self,
        name: str,
        measure: Callable[[], dict[str, Any]],
        *,
        needs_s: float = 5.0,
        fatal: bool = False,
    ) -> dict[str, Any]:
        """Measure and write. An error is a line too, and ends the report only if it is fatal.

        `measure` returns "value" and "unit", perhaps "gb_s", and whatever else is worth keeping.
        """
        mark, begin = self.clocks.mark(), time.monotonic()
        found: dict[str, Any] = {"name": name}
        error: Exception | None = None
        if self.left_s < needs_s:
            found["skipped"] = f"{self.left_s:.0f} s left, {needs_s:.0f} needed"
        else:
            try:
                found |= measure()
            except Exception as raised:  # what a card does to one line must not cost the others
                error = raised
                found["error"] = f"{type(raised).__name__}: {raised}"
        found["seconds"] = round(time.monotonic() - begin, 2)
        found["clocks"] = self.clocks.since(mark)
        if "gb_s" in found and self.copy_gb_s:
            found["of_copy"] = found["gb_s"] / self.copy_gb_s
        self._append(self._json, json.dumps(found) + "\n")
        self._append(self._table, self._row(found))
        print(self._row(found), end="", flush=True)
        if error is not None and fatal:
            raise error
        return found

    @staticmethod
    def _row(found: dict[str, Any]) -> str:
        result = found.get("error") or found.get("skipped")
        if result is None:
            value = found.get("value")
            number = f"{value:,.4g}" if isinstance(value, float) else str(value)
            result = f"{number} {found.get('unit', '')}".strip()
        clocks = found["clocks"]
        told = (
            f"{clocks['sm_mhz']:.0f}/{clocks['memory_mhz']:.0f} MHz, {clocks['watts']:.0f} W, "
            f"{clocks['celsius']:.0f} °C, {clocks['throttle']}"
            if clocks
            else ""
        )
        cells = [
            found["name"],
            str(result).replace("|", "/").replace("\n", " ")[:300],
            f"{found['gb_s']:,.0f}" if "gb_s" in found else "",
            f"{found['of_copy']:.0%}" if "of_copy" in found else "",
            told,
            f"{found['seconds']:.1f}",
        ]
        return "| " + " | ".join(cells) + " |\n"


def random_bytes(rng: np.random.Generator, shape: Sequence[int]) -> npt.NDArray[np.uint8]:
    """Repeat a piece of random bytes: (shape) uint8."""
    total = int(np.prod(shape))
    return np.resize(rng.integers(0, 256, min(total, _PATTERN_BYTES), np.uint8), shape)


def random_bf16(
    rng: np.random.Generator, shape: Sequence[int], mean: float, std: float
) -> npt.NDArray[np.uint16]:
    """Likewise normal numbers: bits of bf16."""
    total = int(np.prod(shape))
    values = rng.normal(mean, std, min(total, _PATTERN_BYTES // 16)).astype(np.float32)
    return np.resize((values.view(np.uint32) >> 16).astype(np.uint16), shape)


def random_tensors(config: ModelConfig) -> dict[str, TensorSource]:
    """Make weights by role, one layer's arrays for all layers."""
    rng = np.random.default_rng(0)
    made: dict[str, npt.NDArray[Any]] = {}
    tensors = {}
    for stored in stored_tensors(config, "hf"):
        (part,) = stored.parts
        name = part.name.split(".", 3)[-1] if ".layers." in part.name else part.name
        if name not in made:
            made[name] = _random_tensor(rng, name, part.shape, stored.dtype)
        array = made[name]
        tensors[part.name] = TensorSource(
            Path("random"), 0, array.nbytes, stored.dtype, part.shape, array
        )
    return tensors_by_role(config, tensors)


def _random_tensor(
    rng: np.random.Generator, name: str, shape: tuple[int, ...], dtype: str
) -> npt.NDArray[Any]:
    if dtype == "U8":
        if name.endswith("_scales"):
            return np.resize(
                rng.integers(*_SCALE_BYTES, min(int(np.prod(shape)), _PATTERN_BYTES), np.uint8),
                shape,
            )
        return random_bytes(rng, shape)
    if name.endswith("norm.weight"):
        return random_bf16(rng, shape, 1.0, 0.1)
    if len(shape) == 1 or name.endswith(("bias", "sinks")):
        return random_bf16(rng, shape, 0.0, 0.1)
    if "embed" in name:
        return random_bf16(rng, shape, 0.0, 1.0)
    return random_bf16(rng, shape, 0.0, 1.2 / np.sqrt(shape[-1]))


class Model:
    """A loaded model and what is measured with it."""

    def __init__(
        self,
        config: ModelConfig,
        plan: Plan,
        device: str,
        dense: str,
        context: int,
        step_tokens: int,
        sequences: int,
        precision: str = "auto",
    ) -> None:
        self._config, self._plan, self._dense = config, plan, dense
        begin = time.perf_counter()
        tensors = random_tensors(config)
        made = time.perf_counter()
        engine = _core.Engine(
            config,
            tensors,
            (),
            device=device,
            threads=0,
            precision=precision,
            dense=dense,
            context_length=context,
            max_step_tokens=step_tokens,
            max_sequences=sequences,
            kv_memory_bytes=0,
        )
        self.llm = LLM(engine, config, None, "random")
        self.made_s = made - begin
        self.load_s = time.perf_counter() - made
        self.bytes = sum(stored.nbytes for stored in stored_tensors(config, "hf"))
        self._rng = np.random.default_rng(1)
        self._sequences = sequences
        self._common: list[int] = []
        self._several: list[list[int]] = []

    def tokens(self, count: int) -> list[int]:
        """Random ids, unlike all before."""
        return [int(i) for i in self._rng.integers(0, self._config.vocab_size, count)]

    def _common_prefix(self, count: int) -> list[int]:
        if len(self._common) < count:
            self._common += self.tokens(count - len(self._common))
        return self._common[:count]

    def loading(self) -> dict[str, Any]:
        """Tell how long it took."""
        return {
            "value": round(self.load_s, 2),
            "unit": f"s for {self.bytes / 1e9:.1f} GB",
            "upload_gb_s": self.bytes / 1e9 / self.load_s,
            "weights_made_s": self.made_s,
            "context_tokens": self.llm.context_length,
            "sequences": self._sequences,
            "description": self.llm.description,
        }

    def warm_up(self) -> dict[str, Any]:
        """Run every kind of step once; say whether what comes is sound."""
        results = self.llm.generate([self.tokens(9), self.tokens(3)], **self._greedy(4))
        logits = self.llm.logits(self.tokens(5))
        if not np.isfinite(logits).all() or any(len(r.token_ids) != 4 for r in results):
            raise ValueError("logits are not finite, or tokens are missing")
        return {"value": float(np.std(logits)), "unit": "standard deviation of logits"}

    def _greedy(self, new: int) -> dict[str, Any]:
        return {"max_tokens": new, "temperature": 0, "ignore_eos": True}

    def decode(self, context: int, requests: int = 1) -> dict[str, Any]:
        """Tokens per second of requests that are decoded together, after a prompt each."""
        new = self._plan.new_tokens
        if requests > self._sequences:
            raise ValueError(f"this card has room for {self._sequences} sequences")
        if requests == 1:
            prompts = [self._common_prefix(context)]
        else:
            while len(self._several) < requests:
                self._several.append(self.tokens(context))
            prompts = self._several[:requests]
        self.llm.generate(prompts, **self._greedy(1))  # what follows finds the prompts' keys
        begin = time.perf_counter()
        results = self.llm.generate(prompts, **self._greedy(new))
        seconds = time.perf_counter() - begin
        tps = sum(result.timings.generation_tps for result in results)
        step = decode_bytes(
            self._config,
            dense=self._dense,  # type: ignore[arg-type]
            depth=context + new // 2,
            sequences=requests,
        )
        return {
            "value": tps,
            "unit": "tok/s",
            "gb_s": tps / requests * step / 1e9,
            "step_bytes": step,
            "wall_tps": requests * new / seconds,
            "cached_tokens": statistics.median(r.usage.cached_tokens for r in results),
        }

    def prefill(self, count: int) -> dict[str, Any]:
        """Tokens per second of a prompt, the median of three."""
        rates = [
            self.llm.generate(self.tokens(count), **self._greedy(1)).timings.prompt_tps
            for _ in range(3)
        ]
        return {"value": statistics.median(rates), "unit": "tok/s", "rounds": rates}

    def serve(
        self, requests: int, tokens_in: int, tokens_out: int, limit_s: float
    ) -> dict[str, Any]:
        """Output tokens per second while requests come as fast as they are taken."""
        before = self.llm.stats().generated_tokens
        begin = time.perf_counter()
        running = [
            self.llm.submit(self.tokens(tokens_in), **self._greedy(tokens_out))
            for _ in range(requests)
        ]
        finished = 0
        for request in running:
            with contextlib.suppress(TimeoutError):
                request.result(timeout=max(0.0, begin + limit_s - time.perf_counter()))
                finished += 1
        made = self.llm.stats().generated_tokens - before
        seconds = time.perf_counter() - begin
        for request in running:
            request.cancel()
        return {
            "value": made / seconds,
            "unit": "output tok/s"
            if finished == requests
            else f"output tok/s, cut at {limit_s:.0f} s",
            "finished_requests": finished,
            "made_tokens": made,
        }

    def close(self) -> None:
        """Give the device's memory back."""
        self.llm.close()


def check(config: ModelConfig, plan: Plan, device: str) -> dict[str, Any]:
    """Compare a model's logits with the CPU's in f32, and with those of a prompt in pieces."""
    tokens = [int(i) for i in np.random.default_rng(2).integers(0, config.vocab_size, 70)]
    logits = []
    for name, precision in ((device, "auto"), ("cpu", "reference")):
        model = Model(config, plan, name, "bf16", 128, 64, 1, precision)
        logits.append(model.llm.logits(tokens))
        if precision == "auto":
            is_same = np.array_equal(model.llm.logits(tokens, chunk_tokens=9), logits[0])
        model.close()
    found, expected = logits
    errors = np.linalg.norm(found - expected, axis=-1) / np.linalg.norm(expected, axis=-1)
    error = float(np.median(errors))
    if not error <= _MOST_ERROR or not is_same:
        raise ValueError(
            f"logits err by {error:.3g}, at most {_MOST_ERROR}; of a prompt in pieces they "
            f"{'have' if is_same else 'do not have'} the same bits"
        )
    return {"value": error, "unit": "of the logits' size, and the same bits in pieces"}


@contextlib.contextmanager
def loaded(
    report: Report, name: str, needs_s: float, make: Callable[[], Model]
) -> Iterator[Model | None]:
    """Load a model as a line of the report; None if that fails or no time is left."""
    model: Model | None = None

    def load() -> dict[str, Any]:
        nonlocal model
        model = make()
        return model.loading()

    report.line(f"{name}: load", load, needs_s=needs_s)
    if model is None:
        yield None
        return
    try:
        report.line(f"{name}: first steps", model.warm_up)
        yield model
    finally:
        model.close()


def measure(plan: Plan, report: Report, device: str) -> None:
    """Write all lines."""
    driver = cuda_driver.driver()
    info = driver.device

    def machine() -> dict[str, Any]:
        return {
            "value": info.name,
            "unit": f"{info.capability[0]}.{info.capability[1]}, {info.multiprocessors} SMs, "
            f"{info.memory_bytes / 2**30:.1f} GiB, driver for CUDA {info.driver}",
            "gptoss": gptoss.__version__,
            "backends": _core.backends(),
            "nvidia_smi": _nvidia_smi(),
        }

    def copy() -> dict[str, Any]:
        report.copy_gb_s = driver.copy_gb_s(plan.copy_bytes)
        return {"value": report.copy_gb_s, "unit": "GB/s, read and written"}

    report.line("device", machine, fatal=True, needs_s=0)
    report.line("copy within the device", copy, needs_s=0)
    report.line("two layers beside the CPU", lambda: check(plan.checked, plan, device), needs_s=20)
    small, large = plan.models
    most = max(plan.batches)
    longest = max(plan.contexts) + 2 * plan.new_tokens

    def of(config: ModelConfig, dense: str, context: int, sequences: int) -> Callable[[], Model]:
        def make() -> Model:
            def sized(part: int) -> Model:
                sizes = (context // part, plan.step_tokens // part, max(1, sequences // part))
                return Model(config, plan, device, dense, *sizes)

            # Smaller cards have less room.
            for part in (1, 2, 4, 8):
                with contextlib.suppress(MemoryError):
                    return sized(part)
            return sized(16)

        return make

    with loaded(report, "20b", 30, of(small, "bf16", longest, most)) as model:
        if model is not None:
            first, *others = plan.contexts
            report.line(f"20b: decode at {first:,}", lambda: model.decode(first))
            for count in plan.prompts:
                report.line(f"20b: prefill {count:,}", lambda n=count: model.prefill(n))  # type: ignore[misc]
            for requests in plan.batches:
                report.line(
                    f"20b: {requests} together at {plan.batch_context:,}",
                    lambda n=requests: model.decode(plan.batch_context, n),  # type: ignore[misc]
                    needs_s=10,
                )
            for context in others:
                report.line(
                    f"20b: decode at {context:,}",
                    lambda n=context: model.decode(n),  # type: ignore[misc]
                    needs_s=context / 2000,
                )
            requests, tokens_in, tokens_out = plan.served
            report.line(
                f"20b: served, {requests} requests, {tokens_in:,} in, {tokens_out:,} out",
                lambda: model.serve(*plan.served, limit_s=min(60.0, report.left_s / 2)),
                needs_s=20,
            )
    short = plan.contexts[0] + 2 * plan.new_tokens
    with loaded(report, "20b q8", 30, of(small, "q8", short, 1)) as model:
        if model is not None:
            report.line(f"20b q8: decode at {plan.contexts[0]:,}", lambda: model.decode(first))
            count = plan.prompts[-1]
            if count < short:
                report.line(f"20b q8: prefill {count:,}", lambda: model.prefill(count))
    with loaded(report, "120b", 60, of(large, "bf16", short, 1)) as model:
        if model is not None:
            report.line(f"120b: decode at {plan.contexts[0]:,}", lambda: model.decode(first))


def _nvidia_smi() -> str:
    if shutil.which("nvidia-smi") is None:
        return "not there"
    done = subprocess.run(["nvidia-smi", "-q", "-i", "0"], capture_output=True, text=True)
    return done.stdout[:20_000]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="a folder for the report")
    parser.add_argument("--seconds", type=float, default=400.0, help="nothing is begun after that")
    parser.add_argument("--size", choices=PLANS, default="published")
    parser.add_argument("--device", default="cuda", help="a backend of this build")
    options = parser.parse_args(arguments)
    report = Report(options.out, options.seconds)
    try:
        measure(PLANS[options.size], report, options.device)
    finally:
        report.clocks.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
