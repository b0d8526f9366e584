"""Measure a model's speed beside the memory's: prompts, one request, several together.

Prompts are random tokens, so that none is like another. Speeds are medians over rounds. "GB/s" is
what decoding reads of weights, keys and values, and its share is of the speed at which this
machine's memory was read just before and after.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import gptoss
from gptoss.checkpoint.memory import matrices_in_q8_0
from gptoss.checkpoint.open import local_model, locate
from gptoss.checkpoint.traffic import decode_bytes
from gptoss.cli import options as shared
from gptoss.cli.chart import Panel, bar_chart, short_number
from gptoss.measure import EnergyMeter, ReadProbe, cpu_name
from gptoss.options import Dense

if TYPE_CHECKING:
    from rich.table import Table

# Before a decoding measure: short, so that nearly all of its time and energy is decoding.
_SHORT_PROMPT_TOKENS = 8
_SECONDS_PER_HOUR = 3600


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", metavar="MODEL", help="a folder, a GGUF file, a Hub id, or `demo`")
    parser.add_argument(
        "--devices",
        default="auto",
        metavar="NAME,...",
        help="backends to measure, as `gptoss doctor` lists them; cuda:0,1 is one",
    )
    parser.add_argument(
        "--prompt",
        type=_counts,
        default=[512],
        metavar="TOKENS,...",
        help="lengths of prompts (default 512)",
    )
    parser.add_argument(
        "--batch",
        type=_counts,
        default=[1, 4, 8],
        metavar="N,...",
        help="requests decoded together (default 1,4,8)",
    )
    parser.add_argument(
        "--new", type=int, default=32, metavar="TOKENS", help="tokens to decode (default 32)"
    )
    parser.add_argument(
        "--rounds", type=int, default=3, metavar="N", help="measure so often (default 3)"
    )
    parser.add_argument(
        "--hourly-price",
        type=float,
        metavar="PRICE",
        help="what the machine costs in an hour: tells the price of a million tokens",
    )
    parser.add_argument("--json", metavar="FILE", help="write the figures as JSON; - for stdout")
    parser.add_argument("--plot", metavar="FILE.svg", help="draw the figures")
    shared.add_loading_options(parser, without=("device", "prefix_cache"))


@dataclass(frozen=True)
class Figure:
    """A speed that was measured.

    Attributes
    ----------
    device : str
        The backend.
    measure : {"prefill", "decode"}
        What was done.
    count : int
        Tokens of the prompt, or requests decoded together.
    tps : float
        Tokens per second, of all requests together: the median.
    tps_range : tuple of float
        The slowest and the fastest round.
    read_gb_s : float or None
        What decoding read, on the CPU.
    memory_gb_s : float or None
        How fast memory was read, before and after.
    joules_per_token : float or None
        Energy, where the system tells it.
    price_per_million : float or None
        Price of a million tokens.
    """

    device: str
    measure: str
    count: int
    tps: float
    tps_range: tuple[float, float]
    read_gb_s: float | None
    memory_gb_s: float | None
    joules_per_token: float | None
    price_per_million: float | None

    @property
    def label(self) -> str:
        """For tables and charts."""
        if self.measure == "prefill":
            return f"prompt of {self.count:,}"
        return "decode, 1 request" if self.count == 1 else f"decode, {self.count} together"


def _devices(text: str) -> list[str]:
    """Names with commas between them; "cuda:0,1" is one, of two cards."""
    names: list[str] = []
    for name in text.split(","):
        if name.isdigit() and names and ":" in names[-1]:
            names[-1] += f",{name}"
        else:
            names.append(name)
    return names


def run(options: argparse.Namespace) -> int:
    """Print a table; write JSON and a chart if asked."""
    from rich.console import Console

    for name, value in (("--new", options.new - 1), ("--rounds", options.rounds)):
        if value < 1:
            raise ValueError(f"{name} must be at least {2 if name == '--new' else 1}")
    shared.check_one_adapter(options, "bench")
    price = options.hourly_price
    if price is not None and not 0 <= price < float("inf"):
        raise ValueError(f"--hourly-price must be at least 0 and finite, got {price}")
    console = Console(stderr=options.json == "-")
    meter = EnergyMeter()
    runs: list[dict[str, Any]] = []
    for device in _devices(options.devices):
        options.device = device
        start = time.perf_counter()
        with shared.load(options) as llm:
            load_s = time.perf_counter() - start
            with console.status(f"measuring on {device}"):
                figures = _Bench(llm, options, meter).figures()
            runs.append(
                {
                    "device": device,
                    "description": llm.description,
                    "load_s": load_s,
                    "figures": figures,
                }
            )
            model = llm.name
    result = {
        "model": model,
        "gptoss": gptoss.__version__,
        "cpu": cpu_name(),
        "new_tokens": options.new,
        "rounds": options.rounds,
        "hourly_price": price,
        "energy": meter.source or f"not told: {meter.why_not}",
    }
    for found in runs:
        console.print(f"{model}: {found['description']}", style="bold", markup=False)
        console.print(f"loaded in {found['load_s']:.2f} s", markup=False)
        console.print(_table(found["figures"]))
    if meter.source is None:
        console.print(f"No energy: {meter.why_not}.", style="dim", markup=False)
    if options.plot:
        _write(options.plot, _chart(result, [f for found in runs for f in found["figures"]]))
    if options.json:
        plain = [{**found, "figures": [asdict(f) for f in found["figures"]]} for found in runs]
        text = json.dumps({**result, "runs": plain}) + "\n"
        if options.json == "-":
            print(text, end="")
        else:
            _write(options.json, text)
    return 0


def _dense_of(description: str) -> Dense:
    """What dense="auto" chose, of a model's description."""
    if "dense weights int8" in description:
        return "q8"
    return "bf12" if "dense weights bf12" in description else "bf16"


class _Bench:
    """The measures of one loaded model."""

    def __init__(self, llm: gptoss.LLM, options: argparse.Namespace, meter: EnergyMeter) -> None:
        self._llm = llm
        self._options = options
        self._meter = meter
        self._adapter = shared.adapter_of(options)
        self._rng = np.random.default_rng(0)
        self._device = llm.description.partition(",")[0]
        path = local_model(options.model)
        self._q8_0 = frozenset() if path is None else matrices_in_q8_0(locate(path))
        self._dense = _dense_of(llm.description) if options.dense == "auto" else options.dense
        self._probe = ReadProbe() if self._device == "cpu" else None

    def figures(self) -> list[Figure]:
        """Measure all."""
        options = self._options
        longest = max(*options.prompt, _SHORT_PROMPT_TOKENS + options.new - 1)
        if longest >= self._llm.context_length:
            raise ValueError(
                f"{longest} tokens and one more do not fit into the context of "
                f"{self._llm.context_length}: pass --context-length or fewer tokens"
            )
        self._generate(self._prompt(_SHORT_PROMPT_TOKENS), max_tokens=2)
        return [
            *(self._figure("prefill", n, self._prefill) for n in options.prompt),
            *(self._figure("decode", n, self._decode) for n in options.batch),
        ]

    def _prompt(self, tokens: int) -> list[int]:
        return [int(i) for i in self._rng.integers(0, self._llm.config.vocab_size, tokens)]

    def _generate(self, prompts: Any, **params: Any) -> Any:
        return self._llm.generate(prompts, ignore_eos=True, adapter=self._adapter, **params)

    def _prefill(self, tokens: int) -> tuple[float, int]:
        """Tokens per second, and how many tokens that took energy."""
        result = self._generate(self._prompt(tokens), max_tokens=1)
        return result.timings.prompt_tps, tokens

    def _decode(self, requests: int) -> tuple[float, int]:
        prompts = [self._prompt(_SHORT_PROMPT_TOKENS) for _ in range(requests)]
        results = self._generate(prompts, max_tokens=self._options.new, temperature=0)
        return sum(r.timings.generation_tps for r in results), requests * self._options.new

    def _figure(self, measure: str, count: int, work: Callable[[int], tuple[float, int]]) -> Figure:
        memory = [] if self._probe is None else [self._probe.gb_s()]
        rates, joules = [], []
        for _ in range(self._options.rounds):
            self._meter.joules()
            rate, tokens = work(count)
            used = self._meter.joules()
            rates.append(rate)
            if used is not None:
                joules.append(used / tokens)
        if self._probe is not None:
            memory.append(self._probe.gb_s())
        tps = statistics.median(rates)
        read = None
        if measure == "decode" and self._probe is not None:
            read = tps / count * self._step_bytes(count) / 1e9
        price = self._options.hourly_price
        return Figure(
            device=self._device,
            measure=measure,
            count=count,
            tps=tps,
            tps_range=(min(rates), max(rates)),
            read_gb_s=read,
            memory_gb_s=statistics.mean(memory) if memory else None,
            joules_per_token=statistics.median(joules) if joules else None,
            price_per_million=None
            if price is None
            else price / _SECONDS_PER_HOUR / tps * 1_000_000,
        )

    def _step_bytes(self, requests: int) -> float:
        options = self._options
        return decode_bytes(
            self._llm.config,
            precision=options.precision,
            dense=self._dense,
            kv_cache_dtype=options.kv_cache_dtype,
            depth=_SHORT_PROMPT_TOKENS + options.new // 2,
            sequences=requests,
            q8_0=self._q8_0,
        )


def _table(figures: list[Figure]) -> Table:
    from rich.table import Table

    columns: dict[str, Callable[[Figure], str | None]] = {
        "measure": lambda f: f.label,
        "tokens/s": lambda f: short_number(f.tps),
        "from … to": lambda f: " … ".join(map(short_number, f.tps_range)),
        "GB/s": lambda f: None if f.read_gb_s is None else f"{f.read_gb_s:.1f}",
        "of memory": lambda f: (
            None
            if f.read_gb_s is None or f.memory_gb_s is None
            else f"{f.read_gb_s / f.memory_gb_s:.0%} of {f.memory_gb_s:.1f}"
        ),
        "J/token": lambda f: None if f.joules_per_token is None else f"{f.joules_per_token:.3g}",
        "price of 1M": lambda f: (
            None if f.price_per_million is None else short_number(f.price_per_million)
        ),
    }
    table = Table()
    for heading, value in columns.items():
        if any(value(figure) is not None for figure in figures):
            is_name = heading == "measure"
            table.add_column(heading, justify="left" if is_name else "right", no_wrap=is_name)
    for figure in figures:
        shown = [
            value(figure) or ""
            for value in columns.values()
            if any(value(other) is not None for other in figures)
        ]
        table.add_row(*shown)
    return table


def _chart(result: dict[str, Any], figures: list[Figure]) -> str:
    devices = list(dict.fromkeys(figure.device for figure in figures))
    panels = []
    for measure, title in (("prefill", "Reading a prompt"), ("decode", "Generating")):
        labels = list(dict.fromkeys(f.label for f in figures if f.measure == measure))
        found = {(f.device, f.label): f.tps for f in figures if f.measure == measure}
        series = {device: [found.get((device, label)) for label in labels] for device in devices}
        panels.append(Panel(f"{title}, tokens/s", labels, series))
    subtitle = f"{result['cpu']}, gptoss {result['gptoss']}"
    return bar_chart(str(result["model"]), subtitle, panels)


def _write(path: str, text: str) -> None:
    Path(path).expanduser().write_text(text, encoding="utf-8")


def _counts(text: str) -> list[int]:
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected N or N,N,..., got {text!r}") from None
    if min(counts) < 1:
        raise argparse.ArgumentTypeError(f"expected counts of at least 1, got {text!r}")
    return counts
