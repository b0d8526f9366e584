"""The compiled core. Internal: use the gptoss package, which checks arguments."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from gptoss.checkpoint import TensorSource
from gptoss.config import ModelConfig
from gptoss.engine.sampling import SamplingParams

# csrc/bindings/system.cpp
def backends() -> list[tuple[str, bool, str]]: ...
def isas() -> list[tuple[str, bool, str]]: ...
def targets() -> list[tuple[str, bool, str]]: ...
def selected_isa() -> str: ...
def default_threads() -> int: ...
def available_memory_bytes() -> int: ...

# csrc/bindings/ops.cpp; targets are named in csrc/backend/targets.h.
class RopeConfig:
    def __init__(
        self,
        theta: float,
        factor: float,
        beta_fast: float,
        beta_slow: float,
        original_context_length: int,
        truncate: bool,
    ) -> None: ...

def matrix_bytes(format: str, n: int, k: int) -> int: ...
def rms_norm(
    x: npt.NDArray[np.float32], weight: npt.NDArray[np.float32], eps: float, target: str = "cpu"
) -> npt.NDArray[np.float32]: ...
def dense_matmul(
    x: npt.NDArray[np.float32],
    w: npt.NDArray[np.uint16],
    bias: npt.NDArray[np.float32] | None = None,
    fast: bool = False,
    target: str = "cpu",
) -> npt.NDArray[np.float32]: ...
def bf12_encode(
    w: npt.NDArray[np.uint16],
    target: str = "cpu",
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint16]]: ...
def bf12_matmul(
    x: npt.NDArray[np.float32],
    rows: npt.NDArray[np.uint8],
    escapes: npt.NDArray[np.uint16],
    bias: npt.NDArray[np.float32] | None = None,
    target: str = "cpu",
) -> npt.NDArray[np.float32]: ...
def q8_encode(
    w: npt.NDArray[np.uint16],
    target: str = "cpu",
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.uint16]]: ...
def q8_matmul(
    x: npt.NDArray[np.float32],
    codes: npt.NDArray[np.int8],
    scales: npt.NDArray[np.uint16],
    bias: npt.NDArray[np.float32] | None = None,
    q8_0: bool = False,
    exact: bool = False,
    target: str = "cpu",
) -> npt.NDArray[np.float32]: ...
def mxfp4_from_ggml(
    ggml: npt.NDArray[np.uint8],
    blocks: npt.NDArray[np.uint8],
    scales: npt.NDArray[np.uint8],
    first: int = 0,
    step: int = 1,
) -> None: ...
def q8_0_from_ggml(
    ggml: npt.NDArray[np.uint8],
    codes: npt.NDArray[np.int8],
    scales: npt.NDArray[np.uint16],
    first: int = 0,
) -> tuple[int, int] | None: ...
def mxfp4_matmul(
    x: npt.NDArray[np.float32],
    blocks: npt.NDArray[np.uint8],
    scales: npt.NDArray[np.uint8],
    bias: npt.NDArray[np.float32] | None = None,
    int8_activations: bool = False,
    target: str = "cpu",
) -> npt.NDArray[np.float32]: ...
def mxfp4_dequantize(
    blocks: npt.NDArray[np.uint8], scales: npt.NDArray[np.uint8], target: str = "cpu"
) -> npt.NDArray[np.float32]: ...
def mxfp4_quantize(
    x: npt.NDArray[np.float32],
    least_squares: bool = False,
    target: str = "cpu",
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]: ...
def rope(
    x: npt.NDArray[np.float32],
    positions: npt.NDArray[np.int32],
    config: RopeConfig,
    target: str = "cpu",
) -> npt.NDArray[np.float32]: ...
def banded_attention(
    q: npt.NDArray[np.float32],
    k: npt.NDArray[np.float32 | np.float16],
    v: npt.NDArray[np.float32 | np.float16],
    sinks: npt.NDArray[np.float32] | None,
    first_position: int,
    window: int,
    scale: float,
    int8_cache: bool = False,
    target: str = "cpu",
) -> npt.NDArray[np.float32]: ...
def route_topk(
    logits: npt.NDArray[np.float32], top_k: int, target: str = "cpu"
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]: ...
def expert_gather(
    x: npt.NDArray[np.float32],
    experts: npt.NDArray[np.int32],
    n_experts: int,
    target: str = "cpu",
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32], npt.NDArray[np.int32]]: ...
def sample_row(
    logits: npt.NDArray[np.float32],
    rule: dict[str, Any],
    index: int = 0,
    counts: Sequence[tuple[int, int]] = (),
    biases: Sequence[tuple[int, float]] = (),
    mask: npt.NDArray[np.uint32] | None = None,
    scored: int = -1,
    target: str = "cpu",
) -> tuple[Literal["ok", "non_finite", "empty_mask"], int, float, list[tuple[int, float]]]: ...
def time_sample_row(
    logits: npt.NDArray[np.float32],
    rule: dict[str, Any],
    counts: Sequence[tuple[int, int]],
    rounds: int,
    target: str = "cpu",
) -> list[float]: ...
def swiglu(
    gate_up: npt.NDArray[np.float32], limit: float, target: str = "cpu"
) -> npt.NDArray[np.float32]: ...

# csrc/bindings/engine.cpp
class RequestParams:
    def __init__(
        self, params: SamplingParams, adapter: int = 0, salt: int | None = None
    ) -> None: ...
    @property
    def salt(self) -> int: ...

class Event:
    @property
    def request(self) -> int: ...
    @property
    def token_ids(self) -> list[int]: ...
    @property
    def forced(self) -> bool: ...
    @property
    def counted(self) -> bool: ...
    @property
    def finish_reason(self) -> Literal["stop", "length", "abort", "error"] | None: ...
    @property
    def cached_tokens(self) -> int: ...
    @property
    def logprobs(self) -> list[float]: ...
    @property
    def top_logprobs(self) -> list[list[tuple[int, float]]]: ...
    @property
    def prompt_logprobs(self) -> list[float]: ...
    @property
    def prompt_top_logprobs(self) -> list[list[tuple[int, float]]]: ...
    @property
    def error(self) -> str: ...

class Engine:
    def __init__(
        self,
        config: ModelConfig,
        tensors: Mapping[str, TensorSource],  # by role
        eos_token_ids: Sequence[int],
        *,
        device: str,
        threads: int,
        precision: str,
        context_length: int,
        max_step_tokens: int,
        max_sequences: int,
        kv_memory_bytes: int,
        prefix_cache: bool = True,
        speculative: bool = False,
        dense: str = "bf16",
        kv_cache_dtype: str = "auto",
        cpu_experts: int | None = None,  # layers; None: as few as let the rest fit
    ) -> None: ...
    @property
    def cpu_experts(self) -> int: ...  # layers
    @property
    def layer_places(self) -> list[tuple[str, int, int, int]]: ...  # device, layers, weights
    @property
    def context_length(self) -> int: ...
    @property
    def max_step_tokens(self) -> int: ...
    @property
    def max_sequences(self) -> int: ...
    @property
    def description(self) -> str: ...
    @property
    def arithmetic(self) -> str: ...
    @property
    def kv_layout(self) -> str: ...
    @property
    def page_bytes(self) -> list[int]: ...  # by KV group
    def set_constraints(self, hub: Any) -> None: ...
    def set_page_store(self, store: Any) -> None: ...
    def deliver(
        self,
        sequence: int,
        refs: Sequence[tuple[int, int]],  # page, KV group
        pages: Sequence[npt.NDArray[np.uint8]],
        is_last: bool,
    ) -> None: ...
    def want(
        self,
        tokens: npt.NDArray[np.int32],
        salt: int,
        refs: Sequence[tuple[int, int]],
    ) -> None: ...
    def submit(
        self,
        request: int,
        prompt: npt.NDArray[np.int32],
        params: RequestParams,
        seed: int,
        constrained: bool = False,
        stored_pages: int = 0,
    ) -> None: ...
    def submit_logits(
        self,
        request: int,
        tokens: npt.NDArray[np.int32],
        positions: npt.NDArray[np.int32],
        chunk_tokens: int,
        out: npt.NDArray[np.float32],
        params: RequestParams,
    ) -> None: ...
    def submit_trace(
        self,
        request: int,
        tokens: npt.NDArray[np.int32],
        positions: npt.NDArray[np.int32],
        chunk_tokens: int,
        layers: npt.NDArray[np.int32],
        keys: int,
        arrays: Mapping[str, Sequence[npt.NDArray[Any]]],  # by layer
        params: RequestParams,
    ) -> None: ...
    def add_adapter(
        self,
        request: int,
        adapter: int,
        changes: Mapping[str, tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]],  # by role
    ) -> None: ...
    def remove_adapter(self, adapter: int) -> None: ...
    def check_request(self, prompt: npt.NDArray[np.int32], params: RequestParams) -> None: ...
    def cancel(self, request: int) -> None: ...
    def step(self) -> list[Event]: ...
    def idle(self) -> bool: ...
    def stats(self) -> dict[str, Any]: ...

# Devices by name, and how many bytes there are to plan with: of devices with so many bytes, or of
# those that are here, each of which is started and asked once.
def device_rooms(device: str, device_bytes: Sequence[int]) -> list[tuple[str, int]]: ...
def plan_memory(
    config: ModelConfig,
    *,
    device: str,
    threads: int,
    precision: str,
    dense: str,
    kv_cache_dtype: str,
    context_length: int,
    max_step_tokens: int,
    max_sequences: int,
    q8_0: Sequence[str] = [],  # roles
    rooms: Sequence[tuple[str, int]],  # as device_rooms has them
    cpu_experts: int | None = 0,  # layers; None: as few as let the rest fit
) -> dict[str, Any]: ...

# For tests and benchmarks.
class Drafter:
    def __init__(self, prompt: npt.NDArray[np.int32]) -> None: ...
    def push(self, token: int) -> None: ...
    def draft(self, limit: int, token_cost: float) -> list[int]: ...

DRAFT_TOKENS: int

def make_fake_engine(
    *,
    vocab_size: int,
    script: Sequence[int] = [],
    max_sequences: int,
    context_length: int,
    max_steps_ahead: int = 0,
    max_step_tokens: int = 512,
    pages: int = 0,
    prefix_cache: bool = True,
    speculative: bool = False,
) -> Engine: ...
def sample(
    logits: npt.NDArray[np.float32],
    params: SamplingParams,
    prompt: Sequence[int],
    output: Sequence[int],
    token_index: int,
) -> tuple[int, float, list[tuple[int, float]]]: ...
