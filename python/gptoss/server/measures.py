"""Counters for Prometheus, under the stems that vLLM's dashboards know."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gptoss.engine.outputs import EngineStats
from gptoss.llm import LLM
from gptoss.server.service import Measures

_SECONDS = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
    5,
    10,
    30,
    60,
    120,
    300,
)
_TOKENS = tuple(2**power for power in range(18))


class Metrics(Measures):
    """What one server has counted and timed; its registry is its own.

    Parameters
    ----------
    llm : LLM
        Asked for its counters when the metrics are read.
    model : str
        The label `model_name` of all of them.
    """

    def __init__(self, llm: LLM, model: str) -> None:
        self.registry = CollectorRegistry()
        self._model = model
        self.registry.register(_EngineCollector(llm, model))
        self._first = self._histogram(
            "time_to_first_token_seconds", "From the request to its first token.", _SECONDS
        )
        self._between = self._histogram(
            "inter_token_latency_seconds", "Between two tokens of a sample.", _SECONDS
        )
        self._whole = self._histogram(
            "e2e_request_latency_seconds", "From the request to the end of its answer.", _SECONDS
        )
        self._prompt = self._histogram("request_prompt_tokens", "Tokens of a prompt.", _TOKENS)
        self._generated = self._histogram(
            "request_generation_tokens", "Tokens that a request generated.", _TOKENS
        )
        self._success = Counter(
            "gptoss:request_success_total",
            "Requests that were answered, by why they ended.",
            ["model_name", "finished_reason"],
            registry=self.registry,
        )
        self._http = Counter(
            "gptoss:http_requests_total",
            "Responses, by route and status.",
            ["handler", "method", "status"],
            registry=self.registry,
        )

    def _histogram(self, name: str, about: str, buckets: tuple[float, ...]) -> Histogram:
        made = Histogram(
            f"gptoss:{name}", about, ["model_name"], buckets=buckets, registry=self.registry
        )
        return made.labels(self._model)

    def first_token(self, seconds: float) -> None:
        """A request has its first token."""
        self._first.observe(seconds)

    def next_token(self, seconds: float) -> None:
        """A sample has one more token."""
        self._between.observe(seconds)

    def finished(
        self, reason: str, seconds: float, prompt_tokens: int, generated_tokens: int
    ) -> None:
        """A request was answered."""
        self._success.labels(self._model, reason).inc()
        self._whole.observe(seconds)
        self._prompt.observe(prompt_tokens)
        self._generated.observe(generated_tokens)

    def responded(self, handler: str, method: str, status: int) -> None:
        """A response was sent."""
        self._http.labels(handler, method, str(status)).inc()


class _EngineCollector(Collector):
    """The engine's own counters, as they are when they are asked for."""

    def __init__(self, llm: LLM, model: str) -> None:
        self._llm = llm
        self._model = model

    def collect(self) -> Iterable[Metric]:
        try:
            stats = self._llm.stats()
        except RuntimeError:  # closed meanwhile
            return
        total = stats.kv_cache_bytes
        gauges = {
            "num_requests_running": ("Samples that are computed.", stats.running),
            "num_requests_waiting": ("Samples that wait for a place.", stats.waiting),
            "kv_cache_usage_perc": (
                "Share of the KV cache that running samples hold, from 0 to 1.",
                stats.kv_used_bytes / total if total else 0.0,
            ),
        }
        for name, (about, value) in gauges.items():
            gauge = GaugeMetricFamily(f"gptoss:{name}", about, labels=["model_name"])
            gauge.add_metric([self._model], value)
            yield gauge
        for name, (about, value) in _counters(stats).items():
            counter = CounterMetricFamily(f"gptoss:{name}", about, labels=["model_name"])
            counter.add_metric([self._model], value)
            yield counter


def _counters(stats: EngineStats) -> dict[str, tuple[str, float]]:
    return {
        "prompt_tokens": ("Tokens of prompts that were computed.", stats.prompt_tokens),
        "generation_tokens": ("Tokens that were generated.", stats.generated_tokens),
        "num_preemptions": ("Samples that had to give up their cache.", stats.preemptions),
        "prefix_cache_queries": ("Tokens of prompts that were looked up.", stats.requested_tokens),
        "prefix_cache_hits": ("Those of them that were cached.", stats.cached_tokens),
        "spec_decode_num_draft_tokens": ("Tokens that were guessed.", stats.drafted_tokens),
        "spec_decode_num_accepted_tokens": ("Those that were right.", stats.accepted_tokens),
        "engine_steps": ("Steps of the engine.", stats.steps),
    }
