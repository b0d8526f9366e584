"""Continue a prompt."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from typing import Any

import gptoss
from gptoss.sampling import SamplingParams

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
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", metavar="MODEL", help="a folder or a Hub id")
    parser.add_argument("prompt", metavar="PROMPT", help="the text to continue; - reads stdin")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    sampling = parser.add_argument_group("sampling")
    for name, (kind, text) in _SIMPLE.items():
        sampling.add_argument(_option(name), type=kind, metavar="N", help=text)
    sampling.add_argument(
        "--stop", action="append", metavar="TEXT", help="end before this text; may be repeated"
    )
    sampling.add_argument(
        "--stop-token-ids", type=int, nargs="+", metavar="ID", help="end with any of these tokens"
    )
    sampling.add_argument(
        "--logit-bias",
        type=_bias,
        action="append",
        metavar="ID=N",
        help="add N to a token's logit; may be repeated",
    )
    sampling.add_argument(
        "--ignore-eos", action="store_true", default=None, help="go on past the stop tokens"
    )
    loading = parser.add_argument_group("model")
    loading.add_argument(
        "--device", default="auto", help="a backend, as `gptoss doctor` lists them"
    )
    loading.add_argument("--threads", type=int, metavar="N", help="CPU threads")
    loading.add_argument("--precision", default="auto", help="auto or reference")
    loading.add_argument(
        "--context-length", type=int, metavar="N", help="most tokens, prompt and output together"
    )
    loading.add_argument("--revision", help="branch, tag or commit on the Hub")
    loading.add_argument("--local-files-only", action="store_true", help="do not ask the Hub")
    loading.add_argument(
        "--experts",
        default="as_stored",
        help="mxfp4 quantises experts that are stored in bfloat16",
    )


def run(options: argparse.Namespace) -> int:
    """Print the continuation as it comes, and the speed on stderr."""
    params = _params(options)
    prompt = sys.stdin.read() if options.prompt == "-" else options.prompt
    # Characters that the terminal cannot show must not end the program.
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    loading = ("device", "threads", "precision", "context_length", "revision", "local_files_only")
    with gptoss.load(
        options.model, experts=options.experts, **{name: getattr(options, name) for name in loading}
    ) as llm:
        if options.json:
            print(json.dumps(dataclasses.asdict(llm.generate(prompt, params))))
            return 0
        stream = llm.stream(prompt, params)
        try:
            for chunk in stream:
                print(chunk.text, end="", flush=True)
        finally:
            print(flush=True)
            stream.close()
        assert stream.result is not None
        print(_summary(stream.result), file=sys.stderr)
    return 0


def _summary(result: gptoss.GenerationResult) -> str:
    usage, timings = result.usage, result.timings
    return (
        f"{usage.prompt_tokens} prompt tokens, {timings.prompt_tps:.1f} tok/s; "
        f"{usage.completion_tokens} generated, {timings.generation_tps:.1f} tok/s; "
        f"first after {timings.time_to_first_token_s:.2f} s; ended by {result.finish_reason}"
    )


def _params(options: argparse.Namespace) -> SamplingParams:
    values: dict[str, Any] = {}
    for name in (*_SIMPLE, "stop", "stop_token_ids", "ignore_eos"):
        if getattr(options, name) is not None:
            values[name] = getattr(options, name)
    return SamplingParams(**values, logit_bias=dict(options.logit_bias or ()))


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _bias(text: str) -> tuple[int, float]:
    token_id, _, bias = text.partition("=")
    try:
        return int(token_id), float(bias)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected ID=N, got {text!r}") from None
