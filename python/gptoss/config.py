"""The shape of a gpt-oss model, as its config file states it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

LayerType = Literal["sliding_attention", "full_attention"]

# A parsed config file and its name, for error messages, to the config.
Reader: TypeAlias = Callable[[Mapping[str, Any], str], "ModelConfig"]

# By layout. Readers know files, which this module does not: `gptoss.checkpoint` enters its own.
_readers: dict[str, Reader] = {}


def register_reader(layout: str, reader: Reader) -> None:
    """Enter what reads the config files of a layout."""
    _readers[layout] = reader


@dataclass(frozen=True)
class RopeConfig:
    """Rotary embedding settings; `factor` 1 means plain RoPE, more means YaRN."""

    theta: float
    factor: float = 1.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    original_context_length: int = 4096
    truncate: bool = True


@dataclass(frozen=True)
class ModelConfig:
    """Dimensions and constants of one model; the names are those of the Hugging Face config."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    num_local_experts: int
    num_experts_per_tok: int
    sliding_window: int
    layer_types: tuple[LayerType, ...]
    rms_norm_eps: float
    swiglu_limit: float
    max_position_embeddings: int
    rope: RopeConfig
    eos_token_ids: tuple[int, ...] = ()

    @classmethod
    def from_hf(cls, config: Mapping[str, Any], *, source: str = "config.json") -> ModelConfig:
        """Read the config.json of the Hugging Face layout.

        Parameters
        ----------
        config : mapping
            The parsed JSON object. RoPE is taken from `rope_parameters` (also when nested per
            layer type, if all agree) or from `rope_scaling`.
        source : str
            The file's name, for error messages.

        Returns
        -------
        ModelConfig
            `eos_token_ids` holds what the config itself lists.

        Raises
        ------
        CheckpointError
            A field is absent or of the wrong type, or its value is not one that gptoss runs.
        """
        return _readers["hf"](config, source)

    @classmethod
    def from_original(
        cls, config: Mapping[str, Any], *, source: str = "config.json"
    ) -> ModelConfig:
        """Read the config.json of the original layout.

        That file leaves out what the two models share: the norm's epsilon (1e-5), the layer
        pattern (even layers have the window) and the unrounded YaRN bounds. The longest context
        is the initial one times the scaling factor.

        Parameters
        ----------
        config : mapping
            The parsed JSON object.
        source : str
            The file's name, for error messages.

        Returns
        -------
        ModelConfig
            Without stop ids: this layout has none.

        Raises
        ------
        CheckpointError
            As for `from_hf`.
        """
        return _readers["original"](config, source)
