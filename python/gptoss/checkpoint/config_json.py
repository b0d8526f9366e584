"""Reading a model's config.json, in the Hugging Face and in the original layout."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

from gptoss.config import LayerType, ModelConfig, RopeConfig, register_reader
from gptoss.errors import CheckpointError

# Upper bounds that no gpt-oss-like model comes near. They keep a damaged config from asking for
# absurd work, and every tensor's size inside 64 bits.
_MAX_SIZE = 1 << 24
MAX_COUNT = 1 << 12
MAX_POSITIONS = 1 << 24

# The two constants of the architecture that the kernels hold as literals.
_SWIGLU_ALPHA = 1.702
_ORIGINAL_RMS_NORM_EPS = 1e-5

# The sizes of `read_dimensions`, as the two layouts call them.
_HF_NAMES = {
    name: name
    for name in (
        *("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"),
        *("head_dim", "vocab_size", "num_local_experts", "num_experts_per_tok", "sliding_window"),
    )
}
_ORIGINAL_NAMES = _HF_NAMES | {
    "num_local_experts": "num_experts",
    "num_experts_per_tok": "experts_per_token",
}


def config_from_hf(config: Mapping[str, Any], source: str) -> ModelConfig:
    """Read the config.json of the Hugging Face layout; `ModelConfig.from_hf` documents it."""
    fields = Fields(config, source)
    architectures = config.get("architectures")
    if architectures is None:
        fields.expect("model_type", "gpt_oss")
    elif not (isinstance(architectures, list) and "GptOssForCausalLM" in architectures):
        raise fields.error("architectures", "['GptOssForCausalLM']", architectures)
    fields.expect("hidden_act", "silu", default="silu")
    fields.expect("attention_bias", True, default=True)
    fields.flag("tie_word_embeddings", default=False)
    fields.expect("swiglu_alpha", _SWIGLU_ALPHA, default=_SWIGLU_ALPHA)
    quantization = config.get("quantization_config")
    if quantization is not None:
        fields.section("quantization_config").expect("quant_method", "mxfp4")
    layers = fields.integer("num_hidden_layers", maximum=MAX_COUNT)
    max_positions = fields.integer("max_position_embeddings", maximum=MAX_POSITIONS)
    return ModelConfig(
        **read_dimensions(fields, _HF_NAMES),
        num_hidden_layers=layers,
        layer_types=_layer_types(fields, layers),
        rms_norm_eps=fields.number("rms_norm_eps", default=1e-5),
        swiglu_limit=fields.number("swiglu_limit", default=7.0),
        max_position_embeddings=max_positions,
        rope=_hf_rope(fields),
        eos_token_ids=read_token_ids(config, "eos_token_id", source=source),
    )


def config_from_original(config: Mapping[str, Any], source: str) -> ModelConfig:
    """Read the config.json of the original layout; `ModelConfig.from_original` documents it."""
    fields = Fields(config, source)
    layers = fields.integer("num_hidden_layers", maximum=MAX_COUNT)
    rope = RopeConfig(
        theta=fields.number("rope_theta", above=1.0),
        factor=fields.number("rope_scaling_factor", at_least=1.0),
        beta_fast=fields.number("rope_ntk_beta"),
        beta_slow=fields.number("rope_ntk_alpha"),
        original_context_length=fields.integer("initial_context_length"),
        truncate=False,
    )
    check_betas(fields, rope, "rope_ntk_beta", "rope_ntk_alpha")
    max_positions = math.floor(rope.original_context_length * rope.factor)
    if max_positions > MAX_POSITIONS:
        raise fields.error(
            "rope_scaling_factor", f"a context of at most {MAX_POSITIONS}", max_positions
        )
    return ModelConfig(
        **read_dimensions(fields, _ORIGINAL_NAMES),
        num_hidden_layers=layers,
        layer_types=alternating_layers(layers),
        rms_norm_eps=_ORIGINAL_RMS_NORM_EPS,
        swiglu_limit=fields.number("swiglu_limit", default=7.0),
        max_position_embeddings=max_positions,
        rope=rope,
        eos_token_ids=(),
    )


class Fields:
    """Typed access to a config; each failure names the file, the field, and both values."""

    def __init__(self, values: Mapping[str, Any], source: str, prefix: str = "") -> None:
        self.values = values
        self.source = source
        self.prefix = prefix

    def error(self, name: str, expected: str, found: object) -> CheckpointError:
        text = repr(found)
        if len(text) > 100:
            text = text[:100] + "..."
        return CheckpointError(
            f"{self.source}: field {self.prefix}{name}: expected {expected}, found {text}"
        )

    def section(self, name: str) -> Fields:
        value = self.values.get(name)
        if not isinstance(value, Mapping):
            raise self.error(name, "an object", value)
        return Fields(value, self.source, f"{self.prefix}{name}.")

    def get(self, name: str, expected: str, default: object = None) -> Any:
        value = self.values.get(name, default)
        if value is None:
            if name in self.values:
                raise self.error(name, expected, None)
            raise CheckpointError(
                f"{self.source}: field {self.prefix}{name}: expected {expected}, found none"
            )
        return value

    def expect(self, name: str, expected: object, default: object = None) -> None:
        found = self.get(name, repr(expected), default)
        # 1 == True in Python; in a config they differ.
        if found != expected or isinstance(found, bool) != isinstance(expected, bool):
            raise self.error(name, repr(expected), found)

    def flag(self, name: str, default: bool) -> bool:
        value = self.get(name, "true or false", default)
        if not isinstance(value, bool):
            raise self.error(name, "true or false", value)
        return value

    def integer(self, name: str, *, maximum: int = _MAX_SIZE, multiple_of: int = 1) -> int:
        expected = f"an integer from 1 to {maximum}"
        if multiple_of > 1:
            expected = f"a multiple of {multiple_of} up to {maximum}"
        value = self.get(name, expected)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error(name, expected, value)
        if not 1 <= value <= maximum or value % multiple_of:
            raise self.error(name, expected, value)
        return value

    def number(
        self,
        name: str,
        *,
        default: float | None = None,
        above: float = 0.0,
        at_least: float | None = None,
    ) -> float:
        bound = f"above {above:g}" if at_least is None else f"of at least {at_least:g}"
        expected = f"a finite number {bound}"
        value = self.get(name, expected, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.error(name, expected, value)
        # Within float32's range, because the kernels hold these constants as float32.
        if not abs(value) <= 3e38 or (value <= above if at_least is None else value < at_least):
            raise self.error(name, expected, value)
        return float(value)


def read_token_ids(config: Mapping[str, Any], name: str, *, source: str) -> tuple[int, ...]:
    """Read a field that is one token id, a list of ids, null or absent."""
    value = config.get(name)
    ids = [] if value is None else value if isinstance(value, list) else [value]
    for token_id in ids:
        if isinstance(token_id, bool) or not isinstance(token_id, int) or token_id < 0:
            raise Fields(config, source).error(name, "a token id or a list of them", value)
    return tuple(dict.fromkeys(ids))


def read_dimensions(fields: Fields, names: Mapping[str, str]) -> dict[str, int]:
    """Read the sizes that every layout states, within what the kernels support.

    `names` has the layout's own names by those of `ModelConfig`.
    """
    sizes = {
        size: fields.integer(names[size], maximum=maximum, multiple_of=multiple)
        for size, maximum, multiple in (
            ("hidden_size", _MAX_SIZE, 32),
            ("intermediate_size", _MAX_SIZE, 32),
            ("num_attention_heads", MAX_COUNT, 1),
            ("num_key_value_heads", MAX_COUNT, 1),
            ("head_dim", MAX_COUNT, 16),
            ("vocab_size", _MAX_SIZE, 1),
            ("num_local_experts", MAX_COUNT, 1),
            ("sliding_window", _MAX_SIZE, 1),
        )
    }
    heads, kv_heads = sizes["num_attention_heads"], sizes["num_key_value_heads"]
    if heads % kv_heads:
        raise fields.error(
            names["num_key_value_heads"], f"a divisor of {heads} query heads", kv_heads
        )
    sizes["num_experts_per_tok"] = fields.integer(
        names["num_experts_per_tok"], maximum=sizes["num_local_experts"]
    )
    return sizes


def alternating_layers(layers: int) -> tuple[LayerType, ...]:
    return tuple("full_attention" if i % 2 else "sliding_attention" for i in range(layers))


def _layer_types(fields: Fields, layers: int) -> tuple[LayerType, ...]:
    types = fields.values.get("layer_types")
    if types is None:
        return alternating_layers(layers)
    if not isinstance(types, list):
        raise fields.error("layer_types", "a list", types)
    if len(types) != layers:
        raise fields.error("layer_types", f"{layers} entries", len(types))
    for value in types:
        if value not in ("sliding_attention", "full_attention"):
            raise fields.error("layer_types", "'sliding_attention' or 'full_attention'", value)
    return cast(tuple[LayerType, ...], tuple(types))


def _hf_rope(fields: Fields) -> RopeConfig:
    if fields.values.get("rope_parameters") is not None:
        rope = fields.section("rope_parameters")
        nested = [name for name in ("sliding_attention", "full_attention") if name in rope.values]
        if nested:
            settings = [_rope_settings(rope.section(name), fields) for name in nested]
            if any(other != settings[0] for other in settings[1:]):
                raise fields.error("rope_parameters", "equal for all layer types", settings)
            return settings[0]
    elif fields.values.get("rope_scaling") is not None:
        rope = fields.section("rope_scaling")
    else:
        # Releases of transformers disagree about what its absence means (plain or YaRN 32).
        raise fields.error("rope_scaling", "an object (or rope_parameters)", None)
    return _rope_settings(rope, fields)


def _rope_settings(rope: Fields, top: Fields) -> RopeConfig:
    theta = (rope if "rope_theta" in rope.values else top).number("rope_theta", above=1.0)
    rope.expect("partial_rotary_factor", 1, default=1)
    kind = rope.values.get("rope_type", rope.values.get("type", "default"))
    if kind == "default":
        rope.expect("factor", 1, default=1)
        return RopeConfig(theta=theta)
    if kind != "yarn":
        raise rope.error("rope_type", "'yarn' or 'default'", kind)
    settings = RopeConfig(
        theta=theta,
        factor=rope.number("factor", at_least=1.0),
        beta_fast=rope.number("beta_fast", default=32.0),
        beta_slow=rope.number("beta_slow", default=1.0),
        original_context_length=rope.integer("original_max_position_embeddings"),
        truncate=rope.flag("truncate", default=True),
    )
    check_betas(rope, settings, "beta_fast", "beta_slow")
    scale = 0.1 * math.log(settings.factor) + 1.0
    if rope.values.get("attention_factor") is not None:
        found = rope.number("attention_factor")
        if not math.isclose(found, scale, rel_tol=1e-6):
            raise rope.error("attention_factor", f"0.1 ln(factor) + 1 = {scale:.7f}", found)
    for name in ("mscale", "mscale_all_dim"):
        if rope.values.get(name) is not None:
            raise rope.error(name, "no such field", rope.values[name])
    return settings


def check_betas(fields: Fields, rope: RopeConfig, fast: str, slow: str) -> None:
    if rope.beta_fast <= rope.beta_slow:
        raise fields.error(fast, f"more than {slow} ({rope.beta_slow:g})", rope.beta_fast)


register_reader("hf", config_from_hf)
register_reader("original", config_from_original)
