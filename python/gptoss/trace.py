"""What is inside a model while it reads a text: hidden states, routing, attention."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from gptoss.config import ModelConfig

What = Literal["hidden", "router", "attention", "experts"]

# What the core calls them, their types, and the dimension of a row that the config names.
_ACTIVATIONS: dict[What, tuple[tuple[str, type], ...]] = {
    "hidden": (("residual", np.float32),),
    "router": (("router_logits", np.float32),),
    "attention": (("attention", np.float32),),
    "experts": (("experts", np.int32), ("expert_weights", np.float32)),
}

# The core keeps what a step computes until it is copied: a step has so many tokens that this is
# enough, but one at least.
_STEP_BYTES = 256 << 20


@dataclass(frozen=True)
class Trace:
    """What `LLM.trace` has found; arrays are None unless they were asked for.

    L layers and P positions were asked for; H query heads, E experts of which A are active.

    Attributes
    ----------
    token_ids : numpy.ndarray
        (T) int32: the text, up to the last of the positions.
    positions : numpy.ndarray
        (P) int32, ascending.
    layers : tuple of int
        Ascending, from 0.
    hidden : numpy.ndarray or None
        (L, P, hidden_size) float32: the residual stream after each layer.
    router : numpy.ndarray or None
        (L, P, E) float32: the router's logits.
    experts, expert_weights : numpy.ndarray or None
        (L, P, A) int32 and float32: the experts that each token went to, the likeliest first, and
        their weights, which add up to 1.
    attention : tuple of numpy.ndarray or None
        For each layer (P, H, K) float32: each key's share. Of a layer that sees all tokens, K = T
        and column k is the key at position k. Of a banded one K is the window, or T if that is
        less, and column k is the key at position p - K + 1 + k for the query at position p.
        `attention_over` has both in one form.
    sinks : numpy.ndarray or None
        (L, P, H) float32: the share of the head's sink, with which those of the keys add up to 1.
    """

    token_ids: npt.NDArray[np.int32]
    positions: npt.NDArray[np.int32]
    layers: tuple[int, ...]
    hidden: npt.NDArray[np.float32] | None = field(default=None, repr=False)
    router: npt.NDArray[np.float32] | None = field(default=None, repr=False)
    experts: npt.NDArray[np.int32] | None = field(default=None, repr=False)
    expert_weights: npt.NDArray[np.float32] | None = field(default=None, repr=False)
    attention: tuple[npt.NDArray[np.float32], ...] | None = field(default=None, repr=False)
    sinks: npt.NDArray[np.float32] | None = field(default=None, repr=False)
    _banded: tuple[bool, ...] = field(default=(), repr=False)

    def attention_over(self, layer: int) -> npt.NDArray[np.float32]:
        """Return a layer's attention by the positions of the keys, whatever its band.

        Parameters
        ----------
        layer : int
            One of `layers`.

        Returns
        -------
        numpy.ndarray
            (P, H, T) float32; 0 for keys that a query does not see.

        Raises
        ------
        ValueError
            The layer, or attention, was not asked for.
        """
        if self.attention is None:
            raise ValueError('attention was not asked for: what=("attention",)')
        if layer not in self.layers:
            raise ValueError(f"layer must be one of {self.layers}, got {layer!r}")
        place = self.layers.index(layer)
        shares = self.attention[place]
        if not self._banded[place]:
            return shares
        width = shares.shape[-1]
        whole = np.zeros((*shares.shape[:2], len(self.token_ids)), np.float32)
        for row, position in enumerate(self.positions.tolist()):
            seen = min(width, position + 1)
            whole[row, :, position + 1 - seen : position + 1] = shares[row, :, width - seen :]
        return whole


@dataclass(frozen=True)
class TracePlan:
    """What a trace takes, before anything is computed.

    Attributes
    ----------
    tokens, positions, layers : numpy.ndarray
        int32: the text up to the last position; what is traced, ascending.
    keys : int
        Tokens that the last of them sees.
    what : tuple of str
        Names of what is kept.
    """

    config: ModelConfig
    tokens: npt.NDArray[np.int32]
    positions: npt.NDArray[np.int32]
    layers: npt.NDArray[np.int32]
    what: tuple[What, ...]

    @classmethod
    def make(
        cls,
        config: ModelConfig,
        ids: npt.NDArray[np.int32],
        positions: npt.NDArray[np.int64],
        layers: Any,
        what: Any,
        max_bytes: int,
    ) -> TracePlan:
        """Check what is asked for; ValueError if it takes more than `max_bytes`."""
        if not len(ids):
            raise ValueError("the prompt is empty: at least one token is needed")
        places = np.unique(positions).astype(np.int32)
        if not len(places):
            raise ValueError("positions must hold at least one position")
        plan = cls(
            config,
            ids[: places[-1] + 1],
            places,
            _layers(layers, config.num_hidden_layers),
            _what(what),
        )
        plan._check_size(max_bytes)
        return plan

    @property
    def keys(self) -> int:
        return len(self.tokens)

    @property
    def step_tokens(self) -> int:
        """Tokens of a step: what it keeps is within `_STEP_BYTES`."""
        return max(1, _STEP_BYTES // max(1, sum(self._position_bytes().values())))

    def allocate(self) -> dict[str, list[npt.NDArray[Any]]]:
        """Make the arrays, (P, ...) for each layer, by the core's names."""
        count = len(self.positions)
        return {
            name: list(np.empty((len(self.layers), count, *self._row(name, 0)), dtype))
            if name != "attention"
            else [np.empty((count, *self._row(name, layer)), dtype) for layer in self.layers]
            for kind in self.what
            for name, dtype in _ACTIVATIONS[kind]
        }

    def result(self, arrays: dict[str, list[npt.NDArray[Any]]]) -> Trace:
        """Put the arrays together once they are filled."""

        def whole(name: str) -> Any:
            # The layers of one array, which they are views of.
            return arrays[name][0].base if name in arrays else None

        attention, sinks = None, None
        if "attention" in arrays:
            attention = tuple(array[..., :-1] for array in arrays["attention"])
            sinks = np.stack([array[..., -1] for array in arrays["attention"]])
        return Trace(
            self.tokens,
            self.positions,
            tuple(self.layers.tolist()),
            whole("residual"),
            whole("router_logits"),
            whole("experts"),
            whole("expert_weights"),
            attention,
            sinks,
            tuple(map(self._is_banded, self.layers)),
        )

    def _is_banded(self, layer: int) -> bool:
        return self.config.layer_types[layer] == "sliding_attention"

    def _row(self, name: str, layer: int) -> tuple[int, ...]:
        config = self.config
        if name == "attention":
            banded = self._is_banded(layer)
            keys = min(self.keys, config.sliding_window) if banded else self.keys
            return config.num_attention_heads, keys + 1
        if name == "residual":
            return (config.hidden_size,)
        if name == "router_logits":
            return (config.num_local_experts,)
        return (config.num_experts_per_tok,)

    def _position_bytes(self) -> dict[What, int]:
        """Bytes of a position, over all layers."""
        return {
            kind: sum(
                int(np.prod(self._row(name, layer))) * np.dtype(dtype).itemsize
                for name, dtype in _ACTIVATIONS[kind]
                for layer in self.layers
            )
            for kind in self.what
        }

    def _check_size(self, max_bytes: int) -> None:
        parts = {kind: n * len(self.positions) for kind, n in self._position_bytes().items()}
        total = sum(parts.values())
        if total > max_bytes:
            listed = ", ".join(f"{kind} {count:,}" for kind, count in parts.items())
            raise ValueError(
                f"the trace takes {total:,} bytes ({listed}), more than max_bytes, {max_bytes:,}: "
                f"ask for less than {len(self.layers)} layers and {len(self.positions)} positions "
                "(layers=, positions=, what=), or raise max_bytes"
            )


def _layers(values: Any, count: int) -> npt.NDArray[np.int32]:
    if values is None:
        return np.arange(count, dtype=np.int32)
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise TypeError(f"layers must be a sequence of integers, got {values!r}")
    chosen = []
    for layer in values:
        if isinstance(layer, (bool, np.bool_)) or not isinstance(layer, (int, np.integer)):
            raise TypeError(f"layers must be integers, got {layer!r}")
        if not -count <= layer < count:
            raise ValueError(f"layers must be in [{-count}, {count}), got {layer}")
        chosen.append(int(layer) % count)
    if not chosen:
        raise ValueError("layers must hold at least one layer")
    return np.unique(chosen).astype(np.int32)


def _what(values: Any) -> tuple[What, ...]:
    known = get_args(What)
    names = (values,) if isinstance(values, str) else tuple(values)
    for name in names:
        if name not in known:
            raise ValueError(f"what must be of {', '.join(known)}, got {name!r}")
    if not names:
        raise ValueError(f"what must hold at least one of {', '.join(known)}")
    return tuple(name for name in known if name in names)
