"""Options and output that several commands share."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import gptoss
from gptoss.checkpoint.open import local_model
from gptoss.engine.outputs import Timings, Usage
from gptoss.engine.sampling import SamplingParams
from gptoss.errors import CheckpointError

# Types of the options that are a sampling parameter each, under its own name.
_SIMPLE: dict[str, tuple[type, str]] = {
    "max_tokens": (int, "most tokens to generate"),
    "min_tokens": (int, "the text does not end before so many tokens"),
    "temperature": (float, "0 is greedy"),
    "top_p": (float, "keep the likeliest tokens that together have this probability"),
    "top_k": (int, "keep this many of the likeliest tokens; 0 keeps all"),
    "min_p": (float, "keep tokens at least this likely, relative to the likeliest"),
    "seed": (int, "repeat the same choices"),
    "logprobs": (int, "report log-probabilities, and those of N alternatives (with --json)"),
    "repetition_penalty": (float, "above 1 makes tokens of prompt and output less likely"),
    "presence_penalty": (float, "subtracted from the logits of tokens in the output"),
    "frequency_penalty": (float, "subtracted once for each time that a token is in the output"),
    "n": (int, "number of continuations"),
}
_LOADING = (
    *("device", "threads", "precision", "dense", "context_length", "revision", "local_files_only"),
    "experts",
    "dtype",
    "kv_cache_dtype",
    "speculative",
    "prefix_cache_dir",
    "prefix_cache_bytes",
    "cpu_experts",
)


def add_model_argument(parser: argparse.ArgumentParser) -> None:
    """Declare MODEL, which may be left out."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        nargs="?",
        help="a folder, a GGUF file, a Hub id, or `demo`; by default GPTOSS_MODEL, or else the "
        "demo",
    )


def check_model_argument(options: argparse.Namespace, command: str) -> None:
    """Tell a question that stands in the place of the model.

    Raises
    ------
    ValueError
        MODEL has spaces, and there is no such folder or file.
    """
    name = options.model
    if name is None or not any(map(str.isspace, name)):
        return
    try:
        if local_model(name) is not None:
            return
    except CheckpointError:
        pass
    raise ValueError(
        f'no model is named {name!r:.60}: MODEL comes first, as in gptoss {command} demo "…"'
    )


def add_quiet_option(parser: argparse.ArgumentParser) -> None:
    """Declare --quiet."""
    parser.add_argument(
        "--quiet", "-q", action="store_true", help="print nothing but the answer, and errors"
    )


def add_sampling_options(parser: argparse.ArgumentParser, *, without: tuple[str, ...] = ()) -> None:
    """Declare the sampling parameters."""
    group = parser.add_argument_group("sampling")
    for name, (kind, text) in _SIMPLE.items():
        if name not in without:
            group.add_argument(_option(name), type=kind, metavar="N", help=text)
    group.add_argument(
        "--stop",
        action="append",
        type=as_text,
        metavar="TEXT",
        help="end before this text; may be repeated",
    )
    group.add_argument(
        "--stop-token-ids",
        type=_ids,
        action="extend",
        metavar="ID,...",
        help="end with any of these tokens; may be repeated",
    )
    group.add_argument(
        "--logit-bias",
        type=_bias,
        action="append",
        metavar="ID=N",
        help="add N to a token's logit; may be repeated",
    )
    if "ignore_eos" not in without:
        group.add_argument(
            "--ignore-eos", action="store_true", default=None, help="go on past the stop tokens"
        )


def add_loading_options(parser: argparse.ArgumentParser, *, without: tuple[str, ...] = ()) -> None:
    """Declare how to load the model."""
    group = parser.add_argument_group("model")
    if "device" not in without:
        group.add_argument(
            "--device",
            default="auto",
            metavar="NAME",
            help="a backend, as `gptoss doctor` lists them; cuda:1 or cuda:0,1: these GPUs",
        )
    group.add_argument("--threads", type=int, metavar="N", help="CPU threads; by default all")
    group.add_argument(
        "--precision", default="auto", metavar="MODE", help="auto, or reference: float32 throughout"
    )
    group.add_argument(
        "--dense",
        default="bf16",
        metavar="FORM",
        help="how attention and unembedding are held: bf16; bf12, the same in 12 bits, longer "
        "to load and faster to decode; q8, rounded to 8 bits, the fastest; or auto, the first of "
        "these that stays in memory",
    )
    group.add_argument(
        "--context-length", type=int, metavar="N", help="most tokens, prompt and output together"
    )
    group.add_argument(
        "--adapter",
        type=_adapter,
        action="append",
        metavar="NAME=DIR",
        help="load a LoRA adapter from this folder, as PEFT saves it; may be repeated",
    )
    group.add_argument("--revision", metavar="NAME", help="branch, tag or commit on the Hub")
    group.add_argument("--local-files-only", action="store_true", help="do not ask the Hub")
    group.add_argument("--yes", "-y", action="store_true", help="download the model without asking")
    group.add_argument(
        "--experts",
        default="as_stored",
        metavar="FORM",
        help="mxfp4 quantises experts that are stored in bfloat16",
    )
    group.add_argument(
        "--cpu-experts",
        type=_layers,
        default="auto",
        metavar="N",
        help="on a GPU: keep the experts of N layers in RAM, for the CPU to compute; auto: as few "
        "as let the rest fit",
    )
    group.add_argument(
        "--kv-cache-dtype",
        default="auto",
        metavar="TYPE",
        help="auto, or int8 for nearly half the memory",
    )
    group.add_argument(
        "--dtype",
        default="as_stored",
        metavar="HOW",
        help="convert rounds tensors that are stored in float16 or float32 to bfloat16",
    )
    group.add_argument(
        "--speculative",
        metavar="HOW",
        help="ngram guesses ahead where the text repeats itself: the same tokens, sooner",
    )
    if "prefix_cache" not in without:
        group.add_argument(
            "--prefix-cache",
            dest="prefix_cache_dir",
            metavar="DIR",
            help="keep in this folder what was computed of prompts, for the next time; texts could "
            "be inferred from it",
        )
        group.add_argument(
            "--prefix-cache-bytes",
            type=int,
            metavar="N",
            help="most bytes in that folder (default 8 GiB)",
        )


def sampling_params(options: argparse.Namespace) -> SamplingParams:
    """Return what the sampling options say."""
    values: dict[str, Any] = {}
    for name in (*_SIMPLE, "stop", "stop_token_ids", "ignore_eos"):
        if getattr(options, name, None) is not None:
            values[name] = getattr(options, name)
    return SamplingParams(
        **values, adapter=adapter_of(options), logit_bias=dict(options.logit_bias or ())
    )


def adapter_of(options: argparse.Namespace) -> str | None:
    """The adapter that a command begins with: the first one that is named."""
    named = getattr(options, "adapter", None)
    return named[0][0] if named else None


def check_one_adapter(options: argparse.Namespace, command: str) -> None:
    """Raise ValueError for several adapters where one prompt is answered."""
    if options.adapter and len(options.adapter) > 1:
        raise ValueError(
            f"gptoss {command} answers with one --adapter, got {len(options.adapter)}: "
            "gptoss serve and gptoss batch choose among several"
        )


def model_name(options: argparse.Namespace) -> str:
    """The model that is named, or the default, which one line on stderr then says."""
    name: str | None = options.model or os.environ.get("GPTOSS_MODEL")
    if not name:
        name = "demo"
        if not options.quiet:
            print(
                "gptoss: no MODEL, and GPTOSS_MODEL is not set: this is the small demo model. "
                "For a real one, name openai/gpt-oss-20b (a download of 14 GB) or a folder.",
                file=sys.stderr,
            )
    return name


def load(options: argparse.Namespace) -> gptoss.LLM:
    """Load the model of `model_name`, after the question whether to download it."""
    name = model_name(options)
    confirm_download(name, options)
    return load_named(name, options)


def load_named(name: str, options: argparse.Namespace, **more: int) -> gptoss.LLM:
    """Load a model as the options, and more arguments of `gptoss.load`, say."""
    given = {option: getattr(options, option) for option in _LOADING if hasattr(options, option)}
    llm = gptoss.load(name, **{**given, **more})
    try:
        for adapter, folder in getattr(options, "adapter", None) or ():
            llm.load_adapter(adapter, folder)
    except BaseException:
        llm.close()
        raise
    return llm


def confirm_download(name: str, options: argparse.Namespace) -> None:
    """Ask whether to download a model that is not on this machine; --yes is the answer.

    Raises
    ------
    ValueError
        The answer is no, or nobody can be asked.
    OSError
        The disk has too little room.
    """
    try:
        if local_model(name) is not None:
            return
    except CheckpointError:
        return  # loading it says the same
    from gptoss.checkpoint import hub

    plan = hub.plan_download(
        name, revision=options.revision, local_files_only=options.local_files_only
    )
    if plan is None:
        return
    size, free = format_bytes(plan.missing_bytes), _free_bytes(plan.folder)
    if free is not None and free < plan.missing_bytes:
        raise OSError(
            f"{name}: the download of {size} does not fit into {plan.folder}, where "
            f"{format_bytes(free)} are free; HF_HOME names another folder"
        )
    if options.yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise ValueError(
            f"{name} is not on this machine: pass --yes to download {size} into {plan.folder}"
        )
    room = "" if free is None else f" ({format_bytes(free)} free)"
    print(
        f"{name} is not on this machine. Download {size} into {plan.folder}{room}? [Y/n] ",
        end="",
        file=sys.stderr,
        flush=True,
    )
    answer = sys.stdin.readline()
    if answer.strip().lower() not in ("", "y", "yes") or not answer:
        raise ValueError(f"{name} was not downloaded")


def _free_bytes(folder: Path) -> int | None:
    """Room on the disk of a folder that may not be there yet."""
    for parent in (folder, *folder.parents):
        try:
            return shutil.disk_usage(parent).free
        except OSError:
            continue
    return None


def format_bytes(nbytes: float) -> str:
    """A size in a unit that a person reads."""
    if nbytes < 1e4:
        return f"{nbytes / 1e3:.2f} kB"
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e8 else f"{nbytes / 1e6:.2f} MB"


def as_text(argument: str) -> str:
    """Replace each byte of an argument, or of stdin, that is not in the system's encoding.

    Python hands them on as lone surrogates; they become U+FFFD, as everywhere in gptoss.
    """
    return argument.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def read_text(argument: str | None, what: str) -> str:
    """Return an argument, or all of stdin if it is `-` or left out and stdin is no terminal."""
    if argument is not None and argument != "-":
        return argument
    if argument is None and sys.stdin.isatty():
        raise ValueError(f"no {what}: pass one, or - to read it from stdin")
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="surrogateescape")
    return as_text(sys.stdin.read())


def prepare_stdout() -> None:
    """Have characters that are not in the encoding of stdout replaced, not end the program."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")


def summary(usage: Usage, timings: Timings, finish_reason: str) -> str:
    """Return one line on a request's size and speed."""
    return (
        f"{usage.prompt_tokens} prompt tokens, {timings.prompt_tps:.1f} tok/s; "
        f"{usage.completion_tokens} generated, {timings.generation_tps:.1f} tok/s; "
        f"first after {timings.time_to_first_token_s:.2f} s; ended by {finish_reason}"
    )


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _ids(text: str) -> list[int]:
    # Commas, and not a list of arguments, which would swallow the positional ones behind it.
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected ID or ID,ID,..., got {text!r}") from None


def _adapter(text: str) -> tuple[str, str]:
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise argparse.ArgumentTypeError(f"expected NAME=DIR, got {text!r}")
    return name, folder


def _layers(text: str) -> int | str:
    if text == "auto":
        return text
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number or auto, got {text!r}") from None


def _bias(text: str) -> tuple[int, float]:
    token_id, _, bias = text.partition("=")
    try:
        return int(token_id), float(bias)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected ID=N, got {text!r}") from None
