"""Continue a prompt."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys

from gptoss.cli import options as shared


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    shared.add_model_argument(parser)
    parser.add_argument(
        "prompt",
        metavar="PROMPT",
        nargs="?",
        type=shared.as_text,
        help="the text to continue; - or none at all reads stdin",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    shared.add_quiet_option(parser)
    shared.add_sampling_options(parser)
    shared.add_loading_options(parser)


def run(options: argparse.Namespace) -> int:
    """Print the continuation as it comes, several at the end, and the speed on stderr."""
    shared.check_model_argument(options, "generate")
    shared.check_one_adapter(options, "generate")
    params = shared.sampling_params(options)
    prompt = shared.read_text(options.prompt, "PROMPT")
    with shared.load(options) as llm:
        if options.json:
            print(json.dumps(dataclasses.asdict(llm.generate(prompt, params))))
            return 0
        with llm.stream(prompt, params) as stream:
            if params.n == 1:
                try:
                    for chunk in stream:
                        print(chunk.text, end="", flush=True)
                finally:
                    print(flush=True)
            samples = stream.result().samples
        for index, sample in enumerate(samples, 1):
            if params.n > 1:
                print(f"--- {index} of {params.n}\n{sample.text}", flush=True)
            if not options.quiet:
                summary = shared.summary(sample.usage, sample.timings, sample.finish_reason)
                print(summary, file=sys.stderr)
    return 0
