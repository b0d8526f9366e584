"""Write a model in another form: the published layout with MXFP4 experts, bfloat16, or GGUF.

IN is any model: a folder (bfloat16, float16 or float32, as fine-tuning leaves them; either
published layout), a GGUF file, a Hub id. OUT appears when it is whole. What is interrupted, by
Ctrl-C or a full disk say, is kept in OUT.partial, and the same command goes on from there.
"""

from __future__ import annotations

import argparse

from gptoss.cli.options import confirm_download, format_bytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", metavar="IN", help="a folder, a GGUF file, a Hub id, or `demo`")
    parser.add_argument("out", metavar="OUT", help="the folder or the GGUF file to make")
    parser.add_argument(
        "--to", default="safetensors", metavar="FORMAT", help="safetensors, or gguf"
    )
    parser.add_argument(
        "--dtype",
        default="mxfp4",
        metavar="TYPE",
        help="what the experts become: mxfp4, or bf16 as transformers trains them",
    )
    parser.add_argument(
        "--dense",
        default="bf16",
        metavar="TYPE",
        help="with --to gguf: embedding, attention and unembedding in bf16 or q8_0",
    )
    parser.add_argument(
        "--rounding",
        default="least-squares",
        metavar="RULE",
        help="scales of experts that are rounded to MXFP4: least-squares, or plain",
    )
    parser.add_argument(
        "--adapter", metavar="DIR", help="a LoRA folder of PEFT to merge into the weights"
    )
    parser.add_argument("--revision", metavar="NAME", help="branch, tag or commit on the Hub")
    parser.add_argument("--local-files-only", action="store_true", help="do not ask the Hub")
    parser.add_argument("--yes", "-y", action="store_true", help="download without asking")
    parser.add_argument("--quiet", "-q", action="store_true", help="print nothing")


def run(options: argparse.Namespace) -> int:
    """Convert, with a progress bar."""
    from gptoss.convert import convert

    confirm_download(options.model, options)
    made = convert(
        options.model,
        options.out,
        to=options.to,
        dtype=options.dtype,
        dense=options.dense,
        rounding=options.rounding.replace("-", "_"),
        adapter=options.adapter,
        revision=options.revision,
        local_files_only=options.local_files_only,
        progress=not options.quiet,
    )
    if not options.quiet:
        print(f"wrote {made.path}: {format_bytes(made.nbytes)}")
    return 0
