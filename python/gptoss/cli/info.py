"""Show a model's architecture, its sizes and the memory it takes."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping

from gptoss import _core
from gptoss.checkpoint import MemoryEstimate, estimate_memory
from gptoss.checkpoint.layout import Layout
from gptoss.checkpoint.open import local_model
from gptoss.checkpoint.residency import (
    USUAL_CONTEXT_TOKENS,
    Residency,
    form_that_stays,
    residencies,
)
from gptoss.checkpoint.resolve import find_model
from gptoss.cli.cards import card_report
from gptoss.cli.options import format_bytes
from gptoss.config import ModelConfig
from gptoss.errors import CheckpointError
from gptoss.options import Dense, check_device, check_modes

_CONTEXT_LENGTHS = (2048, 8192, 32_768, 131_072)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", metavar="MODEL", help="a folder, a GGUF file, a Hub id, or `demo`")
    parser.add_argument("--precision", default="auto", metavar="MODE", help="auto or reference")
    parser.add_argument(
        "--dense",
        metavar="FORM",
        help="bf16, bf12, q8 or auto; by default bf16, and for a card each that it has",
    )
    parser.add_argument("--kv-cache-dtype", default="auto", metavar="TYPE", help="auto or int8")
    parser.add_argument(
        "--device",
        default="cpu",
        metavar="NAME",
        help="whose memory: cpu, or cuda for a card of NVIDIA's",
    )
    parser.add_argument(
        "--memory",
        type=_memory_sizes,
        metavar="SIZE",
        help="how much it has, as 24GB, if it is not here; of several cards each, as 24GB,16GB",
    )
    parser.add_argument("--revision", metavar="NAME", help="branch, tag or commit on the Hub")
    parser.add_argument("--local-files-only", action="store_true", help="do not ask the Hub")


def run(options: argparse.Namespace) -> int:
    """Print tables; weights are not read, and of a Hub id only config.json is downloaded."""
    from rich.console import Console

    hub = {"revision": options.revision, "local_files_only": options.local_files_only}
    located = find_model(options.model, **hub)
    layout, config = located.layout, located.config
    longest = config.max_position_embeddings
    check_device(options.device)
    memory: list[int] = options.memory or []
    if options.device == "cpu" and len(memory) > 1:
        raise ValueError(f"a machine has one --memory, got {len(memory)}")
    check_modes(options.precision, options.dense or "bf16", options.kv_cache_dtype)

    def estimate(length: int, dense: Dense) -> MemoryEstimate:
        return estimate_memory(
            options.model,
            length,
            precision=options.precision,
            dense=dense,
            kv_cache_dtype=options.kv_cache_dtype,
            **hub,
        )

    def memory_tables() -> Iterator[object]:
        forms = residencies(
            lambda dense: estimate(min(USUAL_CONTEXT_TOKENS, longest), dense),
            memory[0] if memory else _core.available_memory_bytes(),
            options.precision,
        )
        dense = form_that_stays(forms) if options.dense == "auto" else options.dense or "bf16"
        lengths = [n for n in _CONTEXT_LENGTHS if n < longest] + [longest]
        yield _memory([estimate(length, dense) for length in lengths])
        yield _residency(forms)

    stored = estimate(min(_CONTEXT_LENGTHS[0], longest), "bf16")
    if options.device == "cuda":
        tables = card_report(
            located,
            precision=options.precision,
            dense=None if options.dense == "auto" else options.dense,
            kv_cache_dtype=options.kv_cache_dtype,
            memory=memory,
        )
    else:
        tables = memory_tables()
    shown = [_architecture(layout, config, stored, _files(options.model, **hub)), *tables]
    console = Console()
    for table in shown:
        console.print(table)
    return 0


def _memory_bytes(text: str) -> int:
    """Bytes of "24GB" or "24GiB", more than 0."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *(GB|GiB|MB|MiB)", text.strip(), re.IGNORECASE)
    units = {"gb": 10**9, "gib": 2**30, "mb": 10**6, "mib": 2**20}
    size = int(float(found[1]) * units[found[2].lower()]) if found else 0
    if not 0 < size < 2**62:
        raise argparse.ArgumentTypeError(f"expected a size such as 24GB or 24GiB, got {text!r}")
    return size


def _memory_sizes(text: str) -> list[int]:
    """Bytes of "24GB", or of each in "24GB,16GB"."""
    return [_memory_bytes(size) for size in text.split(",")]


def _files(model: str, *, revision: str | None, local_files_only: bool) -> str:
    """Where the model's files are, or what is to be downloaded."""
    path = local_model(model)
    if path is not None:
        return str(path)
    from gptoss.checkpoint import hub

    try:
        plan = hub.plan_download(model, revision=revision, local_files_only=local_files_only)
    except CheckpointError:
        return "not all in the Hub's cache, and the Hub was not reached"
    if plan is None:
        return "in the Hub's cache"
    here = plan.total_bytes - plan.missing_bytes
    return (
        f"{format_bytes(plan.missing_bytes)} to download"
        + (f", {format_bytes(here)} are here" if here else "")
        + f", into {plan.folder}"
    )


def _architecture(
    layout: Layout, config: ModelConfig, estimate: MemoryEstimate, files: str
) -> object:
    from rich.table import Table
    from rich.text import Text

    windows = config.layer_types.count("sliding_attention")
    rope = config.rope
    rows = {
        "layout": {"hf": "Hugging Face", "original": "original", "gguf": "GGUF"}[layout],
        "layers": f"{config.num_hidden_layers}, {windows} of them with a window of "
        f"{config.sliding_window} tokens",
        "hidden size": f"{config.hidden_size:,}",
        "attention": f"{config.num_attention_heads} query heads, {config.num_key_value_heads} "
        f"key/value heads of {config.head_dim}",
        "experts": f"{config.num_local_experts}, {config.num_experts_per_tok} per token, "
        f"intermediate size {config.intermediate_size:,}",
        "vocabulary": f"{config.vocab_size:,}",
        "context": f"{config.max_position_embeddings:,} tokens",
        "RoPE": f"theta {rope.theta:,.0f}"
        + (
            f", YaRN factor {rope.factor:g} from {rope.original_context_length:,}"
            if rope.factor > 1
            else ""
        ),
        **{f"weights, {name}": format_bytes(size) for name, size in estimate.weights.items()},
        "weights, all": format_bytes(estimate.weight_bytes),
        "files": files,
    }
    table = Table(title=Text(estimate.name), title_justify="left", show_header=False)
    for name, value in rows.items():
        table.add_row(name, Text(value))
    return table


def _memory(estimates: list[MemoryEstimate]) -> object:
    from rich.table import Table

    first = estimates[0]
    title = f"Memory, precision {first.precision}, dense {first.dense}"
    if first.kv_cache_dtype != "auto":
        title += f", KV cache {first.kv_cache_dtype}"
    table = Table(title=title, title_justify="left")
    for heading in ("context", "weights", "KV cache", "workspace", "total"):
        table.add_column(heading, justify="right")
    for estimate in estimates:
        table.add_row(
            f"{estimate.context_length:,}",
            format_bytes(estimate.weight_bytes),
            format_bytes(estimate.kv_bytes),
            format_bytes(estimate.workspace_bytes),
            format_bytes(estimate.total_bytes),
        )
    return table


def _residency(forms: Mapping[Dense, Residency]) -> object:
    from rich.table import Table

    first = next(iter(forms.values()))
    table = Table(
        title=f"In memory with {first.estimate.context_length:,} tokens of context, of "
        f"{format_bytes(first.available_bytes)} that are available",
        title_justify="left",
    )
    table.add_column("dense")
    table.add_column("needed", justify="right")
    table.add_column("weights")
    for form, residency in forms.items():
        short = residency.needed_bytes - residency.available_bytes
        verdict = "stay in memory" if residency.fits else f"{format_bytes(short)} short"
        table.add_row(form, format_bytes(residency.needed_bytes), verdict)
    return table
