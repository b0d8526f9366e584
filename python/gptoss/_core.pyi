"""The compiled core. Internal: use the gptoss package, which checks arguments."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from gptoss.checkpoint import TensorSource
from gptoss.config import ModelConfig

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
    target: str = "cpu",
) -> npt.NDArray[np.float32]: ...
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
    ) -> None: ...
    @property
    def context_length(self) -> int: ...
    @property
    def description(self) -> str: ...
    def submit(self, request: int, prompt: npt.NDArray[np.int32], params: Any) -> None: ...
    def check_request(self, prompt: npt.NDArray[np.int32], params: Any) -> None: ...
    def cancel(self, request: int) -> None: ...
    def step(
        self,
    ) -> list[
        tuple[int, int, Literal["stop", "length"] | None, float, list[tuple[int, float]], int]
    ]: ...
    def idle(self) -> bool: ...
    def logits(
        self,
        request: int,
        tokens: npt.NDArray[np.int32],
        positions: npt.NDArray[np.int32],
        chunk_tokens: int,
    ) -> npt.NDArray[np.float32] | None: ...
    def stats(self) -> dict[str, Any]: ...

class Drafter:
    def __init__(self, prompt: npt.NDArray[np.int32]) -> None: ...
    def push(self, token: int) -> None: ...
    def draft(self, limit: int) -> list[int]: ...

DRAFT_TOKENS: int
TOKEN_COST: float

def sample(
    logits: npt.NDArray[np.float32],
    params: Any,
    prompt: Sequence[int],
    output: Sequence[int],
    token_index: int,
) -> tuple[int, float, list[tuple[int, float]]]: ...
