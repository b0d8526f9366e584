"""Options and output that several commands share."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

import gptoss
from gptoss.engine.outputs import Timings, Usage
from gptoss.engine.sampling import SamplingParams

# Types of the options that are a sampling parameter each, under its own name.
_SIMPLE: dict[str, tuple[type, str]] = {
    "max_tokens": (int, "most tokens to generate"),
    "temperature": (float, "0 is greedy"),
    "top_p": (float, "keep the likeliest tokens that together have this probability"),
    "top_k": (int, "keep this many tokens"),
    "min_p": (float, "keep tokens at least this likely, relative to the likeliest"),
    "seed": (int, "repeat the same choices"),
    "logprobs": (int, "report log-probabilities, and those of N alternatives (with --json)"),
    "repetition_penalty": (float, "above 1 makes tokens of prompt and output less likely"),
    "presence_penalty": (float, "subtracted from the logits of tokens in the output"),
    "frequency_penalty": (float, "the same, once per occurrence"),
    "n": (int, "so many continuations"),
}
_LOADING = (
    *("device", "threads", "precision", "dense", "context_length", "revision", "local_files_only"),
    "experts",
    "dtype",
    "kv_cache_dtype",
    "speculative",
)


def add_model_argument(parser: argparse.ArgumentParser) -> None:
    """Declare MODEL, which may be left out."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        nargs="?",
        help="a folder, a Hub id, or `demo`; by default GPTOSS_MODEL, or else the demo",
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
        "--stop-token-ids", type=int, nargs="+", metavar="ID", help="end with any of these tokens"
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


def add_loading_options(parser: argparse.ArgumentParser) -> None:
    """Declare how to load the model."""
    group = parser.add_argument_group("model")
    group.add_argument("--device", default="auto", help="a backend, as `gptoss doctor` lists them")
    group.add_argument("--threads", type=int, metavar="N", help="CPU threads")
    group.add_argument("--precision", default="auto", help="auto or reference")
    group.add_argument(
        "--dense",
        default="bf16",
        help="how attention and unembedding are held: bf16; bf12, the same in 12 bits, longer "
        "to load and faster to decode; or q8, rounded to 8 bits, the fastest",
    )
    group.add_argument(
        "--context-length", type=int, metavar="N", help="most tokens, prompt and output together"
    )
    group.add_argument("--revision", help="branch, tag or commit on the Hub")
    group.add_argument("--local-files-only", action="store_true", help="do not ask the Hub")
    group.add_argument(
        "--experts",
        default="as_stored",
        help="mxfp4 quantises experts that are stored in bfloat16",
    )
    group.add_argument(
        "--dtype",
        default="as_stored",
        help="convert rounds tensors that are stored in float16 or float32 to bfloat16",
    )
    group.add_argument(
        "--kv-cache-dtype", default="auto", help="auto, or int8 for nearly half the memory"
    )
    group.add_argument(
        "--speculative",
        metavar="HOW",
        help="ngram guesses ahead where the text repeats itself: the same tokens, sooner",
    )


def sampling_params(options: argparse.Namespace) -> SamplingParams:
    """Return what the sampling options say."""
    values: dict[str, Any] = {}
    for name in (*_SIMPLE, "stop", "stop_token_ids", "ignore_eos"):
        if getattr(options, name, None) is not None:
            values[name] = getattr(options, name)
    return SamplingParams(**values, logit_bias=dict(options.logit_bias or ()))


def load(options: argparse.Namespace) -> gptoss.LLM:
    """Load the model that is named, or the default, which one line on stderr then says."""
    name = options.model or os.environ.get("GPTOSS_MODEL")
    if not name:
        name = "demo"
        print(
            "gptoss: no MODEL, and GPTOSS_MODEL is not set: this is the small demo model. "
            "For a real one, name openai/gpt-oss-20b (a download of 14 GB) or a folder.",
            file=sys.stderr,
        )
    return gptoss.load(name, **{option: getattr(options, option) for option in _LOADING})


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
    """Have characters that the terminal cannot show replaced, not end the program."""
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


def _bias(text: str) -> tuple[int, float]:
    token_id, _, bias = text.partition("=")
    try:
        return int(token_id), float(bias)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected ID=N, got {text!r}") from None
