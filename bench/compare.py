"""gptoss beside llama.cpp, its fork ik_llama.cpp and transformers: the same weights, in one run.

    python bench/make_checkpoint.py --preset 20b /path/to/20b
    python bench/compare.py /path/to/20b --llama-python /path/to/llama/bin/python \\
        --ik-python /path/to/ik/bin/python --plot speed

Each program runs in a process of its own, with its files in the page cache (and the others' out of
it: two models may be more than the memory holds) and as many threads as there are CPUs, in rounds;
figures are medians over the rounds, and so are the machine's limits, measured in each. bfloat16
dense matrices, and those held in 12 bits (gptoss dense="bf12"), are compared with bfloat16, 8-bit
ones (dense="q8") with Q8_0; beside the former stand the others' Q8_0 as well, which is their faster
one. llama.cpp and ik_llama.cpp are tried with and without flash attention, from the mapped file and
repacked where asked for, and each measure takes the best. They read a GGUF file that is made from
the checkpoint here, with the experts' MXFP4 values bit for bit. transformers holds the experts in
bfloat16, too many for most machines: two small numbers of layers are measured, and the time that
each layer adds is carried on to the model's. In brackets are shares of a limit: of memory speed for
decoding, of the CPU's arithmetic for the experts' matmuls, and for a prompt that of the whole pass,
with each phase at the peak of the arithmetic that it uses.

Ratios are gptoss / other: speeds above 1 and times and memory below 1 are in favour of gptoss.
The last line is JSON. What it needs beside gptoss: bench/requirements-compare.txt.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from bench_phases import peaks, phase_parameters, prompt_limit_s
from compare_workers import SHORT_PROMPT_TOKENS, files_of
from gptoss.checkpoint import Checkpoint, open_checkpoint
from gptoss.checkpoint.layout import stored_tensors
from gptoss.checkpoint.traffic import decode_bytes
from gptoss.config import ModelConfig
from gptoss.convert import write_gguf
from hw_limits import limits_by, measuring_program
from make_checkpoint import hf_config, write_safetensors_header
from shapes import PAGE_TOKENS

# Changed when the files that are made here change, so that old ones are not taken again.
_FILES_VERSION = 2
_COPY_BYTES = 1 << 26
# Texts whose logits are compared are short and several: a token that rounding sends to another
# expert moves all that follow it in its text, by attention.
_AGREEMENT_PROMPT_TOKENS = 32
_MESSAGE_CHARACTERS = 300
_WORKERS = Path(__file__).with_name("compare_workers.py")
# The form of dense weights in which the others hold what gptoss does, and its type in GGUF.
_THEIR_DENSE = {"bf16": "bf16", "bf12": "bf16", "q8": "q8"}
_GGUF_TYPE = {"bf16": "bf16", "q8": "q8_0"}
# Programs that read GGUF: the package that they are imported as, and the prefix of their options.
_GGUF_PROGRAMS = {"llama.cpp": ("llama_cpp", "llama"), "ik_llama.cpp": ("ik_llama_cpp", "ik")}
_PROGRAMS = ("gptoss", *_GGUF_PROGRAMS, "transformers")
_UNITS = {
    "prefill": "tok/s",
    "experts": "s",
    "depth": "tok/s",
    "batch": "tok/s",
    "load": "s",
    "first": "s",
}
# Its third way, batched_mm, copies the experts of every token: gigabytes for a short prompt.
_TRANSFORMERS_EXPERTS = ("eager", "grouped_mm")

_console = Console(stderr=True)


class WorkerError(Exception):
    """A program could not do its job; the text says why."""


@dataclass
class Variant:
    """A program on one set of files, with the options of which each measure takes the best."""

    program: str
    dense: str
    layers: int
    python: str
    model: Path
    candidates: list[dict[str, Any]]
    # By measure and candidate: one value from each round that it took part in.
    values: dict[str, dict[int, list[float]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )
    about: str = ""
    description: str = ""  # how gptoss computes
    problems: list[str] = field(default_factory=list)

    def best(self, measure: str) -> int | None:
        """Return the candidate with the highest median of a speed; None if there is none."""
        medians = {c: statistics.median(v) for c, v in self.values[measure].items()}
        return max(medians, key=medians.__getitem__) if medians else None

    def median(self, measure: str) -> float | None:
        """Return a measure of its best candidate; times and memory of the fastest decoder."""
        by_speed = measure if _is_speed(measure) else "batch 1"
        best = self.best(by_speed)
        if best is None or best not in self.values[measure]:
            return None
        return statistics.median(self.values[measure][best])

    def memory_share(self, measure: str, nbytes: float) -> float | None:
        """Return the median share of memory's speed, in %, where a token reads so many bytes."""
        best = self.best(measure)
        if best is None:
            return None
        speeds, memory = self.values[measure][best], self.values[f"memory {measure}"][best]
        return statistics.median(
            100 * speed * nbytes / 1e9 / gb_s for speed, gb_s in zip(speeds, memory, strict=True)
        )


def main() -> None:
    """Prepare the files, measure in rounds, compare logits, print."""
    args = _arguments()
    if args.plot:
        import matplotlib  # noqa: F401  before the measuring, not after
    args.work.mkdir(parents=True, exist_ok=True)
    source = open_checkpoint(args.model)
    layers = args.layers or source.config.num_hidden_layers
    folder = prepare_model(source, layers, args.work)
    checkpoint = open_checkpoint(folder)
    variants = list(_variants(args, source, checkpoint))

    measures = [f"prefill {n}" for n in args.prefill] + [f"batch {n}" for n in args.batch]
    measures += [f"depth {args.depth}"] if args.depth else []
    limits_of_rounds = []
    with measuring_program() as program:
        for round_index in range(args.rounds):
            limits_of_rounds.append(limits_by(program, args.threads))
            for variant in variants:
                wanted = measures
                if variant.program == "transformers":
                    few = f"prefill {min(args.prefill)}", "batch 1"
                    wanted = [measure for measure in measures if measure in few]
                _drop_others_from_cache(variant, variants)
                _measure(variant, wanted, round_index, args, checkpoint.config, program)

    limits = {
        name: np.median([each[name] for each in limits_of_rounds], axis=0).tolist()
        for name in limits_of_rounds[0]
    }
    rows = _rows(variants, args.dense, measures, checkpoint.config, limits)
    agreement = _agreement(args, checkpoint) if args.agreement_tokens else []
    _print(rows, variants, checkpoint, agreement, args.agreement_layers)
    result = {
        "model": str(args.model),
        "layers": layers,
        "cpu": _cpu_name(),
        "threads": args.threads,
        "rounds": args.rounds,
        "new_tokens": args.new,
        "limits": limits,
        "programs": sorted({v.about for v in variants if v.about}),
        "problems": [problem for v in variants for problem in v.problems],
        "rows": rows,
        "agreement_layers": args.agreement_layers,
        "agreement": agreement,
    }
    if args.plot:
        from plot import plot_comparison

        plot_comparison(result, args.plot)
    print(json.dumps(result))


def prepare_model(
    source: Checkpoint,
    layers: int,
    work: Path,
    *,
    truncate: bool | None = None,
    experts: int | None = None,
) -> Path:
    """Return a checkpoint of the Hugging Face layout with the first layers of another.

    Parameters
    ----------
    source : Checkpoint
        Of either layout.
    layers : int
        How many of its layers, from the first.
    work : Path
        Where to write what is not there already.
    truncate : bool, optional
        Whether YaRN's bounds are rounded, instead of what the config says.
    experts : int, optional
        How many of each layer's experts, from the first, instead of all.

    Returns
    -------
    Path
        The source's own folder, if nothing is to be changed.

    Raises
    ------
    ValueError
        There are fewer layers, or experts, or fewer are asked for than a token goes to.
    """
    config = source.config
    if not 1 <= layers <= config.num_hidden_layers:
        raise ValueError(f"--layers must be 1 to {config.num_hidden_layers}, got {layers}")
    truncate = config.rope.truncate if truncate is None else truncate
    experts = config.num_local_experts if experts is None else experts
    if not config.num_experts_per_tok <= experts <= config.num_local_experts:
        raise ValueError(
            f"experts must be {config.num_experts_per_tok} to {config.num_local_experts}, "
            f"got {experts}"
        )
    changed = dataclasses.replace(
        config,
        num_hidden_layers=layers,
        layer_types=config.layer_types[:layers],
        num_local_experts=experts,
        rope=dataclasses.replace(config.rope, truncate=truncate),
    )
    if source.layout == "hf" and changed == config:
        return source.path
    of = "" if experts == config.num_local_experts else f"-{experts}-experts"
    folder = work / f"{source.name}-{layers}-layers{of}-{_digest(source, changed)}"
    if folder.is_dir():
        return folder
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=work, prefix="partial-") as made:
        partial = Path(made) / folder.name
        partial.mkdir()
        same_tensors = (layers, experts) == (config.num_hidden_layers, config.num_local_experts)
        if source.layout == "hf" and same_tensors:
            for file in source.path.glob("model*"):
                (partial / file.name).symlink_to(file.resolve())
        else:
            _write_tensors(source, changed, partial / "model.safetensors")
        (partial / "config.json").write_text(json.dumps(hf_config(changed), indent=2))
        if source.tokenizer_path is not None:
            (partial / "tokenizer.json").symlink_to(source.tokenizer_path.resolve())
        partial.replace(folder)
    return folder


def _write_tensors(source: Checkpoint, config: ModelConfig, path: Path) -> None:
    tensors = list(stored_tensors(config, "hf"))
    with path.open("wb") as file, _console.status(f"Writing {path.parent.name}"):
        write_safetensors_header(file, tensors)
        for tensor in tensors:
            rows = source.tensors[tensor.name].read()[: tensor.shape[0]]  # or experts
            data = rows.reshape(-1).view(np.uint8)
            for begin in range(0, len(data), _COPY_BYTES):
                file.write(data[begin : begin + _COPY_BYTES].data)


def _digest(checkpoint: Checkpoint, config: ModelConfig) -> str:
    """Tell apart files made from other weights, or with another config."""
    files = sorted({tensor.path.resolve() for tensor in checkpoint.tensors.values()})
    stats = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    text = f"{_FILES_VERSION} {stats} {config} {checkpoint.tokenizer_path}"
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _gguf(checkpoint: Checkpoint, dense: str, work: Path) -> Path:
    name = f"{checkpoint.name}-{dense}-{_digest(checkpoint, checkpoint.config)}.gguf"
    path = work / name
    if not path.is_file():
        free = shutil.disk_usage(work).free
        if checkpoint.weight_bytes > free:
            raise OSError(
                f"{path}: needs up to {checkpoint.weight_bytes / 1e9:.0f} GB, "
                f"{free / 1e9:.0f} GB are free"
            )
        write_gguf(checkpoint, path, dense=_GGUF_TYPE[dense], progress=True)
    return path


def _variants(
    args: argparse.Namespace, source: Checkpoint, checkpoint: Checkpoint
) -> Iterator[Variant]:
    layers = checkpoint.config.num_hidden_layers
    for program, (package, prefix) in _GGUF_PROGRAMS.items():
        if program in args.programs:
            _require(package, getattr(args, f"{prefix}_python"), f"--{prefix}-python")
    if "transformers" in args.programs:
        for package in ("torch", "transformers"):
            _require(package, args.transformers_python, "--transformers-python")
    for dense in args.dense:
        if "gptoss" in args.programs:
            options = {} if dense == "bf16" else {"dense": dense}
            yield Variant("gptoss", dense, layers, sys.executable, checkpoint.path, [options])
    their_dense = list(dict.fromkeys(_THEIR_DENSE[dense] for dense in args.dense))
    for dense in their_dense:
        for program, (_, prefix) in _GGUF_PROGRAMS.items():
            if program not in args.programs:
                continue
            candidates = [
                {"weights": weights, "flash_attention": flash}
                for weights in getattr(args, f"{prefix}_weights")
                for flash in (False, True)
            ]
            path = _gguf(checkpoint, dense, args.work)
            python = getattr(args, f"{prefix}_python")
            yield Variant(program, dense, layers, python, path, candidates)
    if "transformers" in args.programs and "bf16" in their_dense:
        for count in (args.transformers_layers, 2 * args.transformers_layers):
            folder = prepare_model(source, count, args.work)
            candidates = [{"experts_implementation": name} for name in _TRANSFORMERS_EXPERTS]
            python = args.transformers_python
            yield Variant("transformers", "bf16", count, python, folder, candidates)


def _require(package: str, python: str, option: str) -> None:
    found = subprocess.run(
        [python, "-c", f"import {package}"], capture_output=True, text=True, check=False
    )
    if found.returncode:
        reason = found.stderr.strip().splitlines()[-1:]
        raise SystemExit(
            f"{python} cannot import {package} ({' '.join(reason)}): install what "
            f"bench/requirements-compare.txt lists, name another Python with {option}, or leave "
            "the program out with --programs"
        )


def _drop_others_from_cache(variant: Variant, variants: list[Variant]) -> None:
    """Let the system forget the files that this variant does not read.

    They could push its own out of the page cache, or keep them from lying in large pieces there.
    """

    def files(model: Path) -> set[Path]:
        return {file.resolve() for file in files_of(model)}

    for path in set().union(*(files(v.model) for v in variants)) - files(variant.model):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _measure(
    variant: Variant,
    measures: list[str],
    round_index: int,
    args: argparse.Namespace,
    config: ModelConfig,
    program: Path,
) -> None:
    """Measure every candidate in the first round, then each where it was the best."""
    longest = max(args.depth, *args.prefill) + args.new
    # gptoss makes room for two contexts: all sequences that are decoded together fit into one.
    pages = -(-(SHORT_PROMPT_TOKENS + args.new) // PAGE_TOKENS)
    together = max(args.batch) * pages * PAGE_TOKENS
    for index, options in enumerate(variant.candidates):
        wanted = [m for m in measures if round_index == 0 or variant.best(m) == index]
        if not wanted:
            continue
        job = {
            "program": variant.program,
            "model": str(variant.model),
            "options": options,
            "threads": args.threads,
            "context_length": max(longest + 1, together),
            "vocab_size": config.vocab_size,
            "measures": wanted,
            "new": args.new,
            "seed": round_index,
            "hw_limits": str(program),
        }
        label = f"Round {round_index + 1} of {args.rounds}: {_label(variant, options)}"
        try:
            answer = _run(variant.python, job, label)
        except WorkerError as error:
            variant.problems.append(f"{_label(variant, options)}: {error}")
            _console.print(f"[yellow]Left out:[/] {variant.problems[-1]}")
            continue
        variant.about, variant.description = answer["about"], answer["description"]
        for name, value in answer["results"].items():
            variant.values[name][index].append(value)


def _label(variant: Variant, options: dict[str, Any]) -> str:
    chosen = ", ".join(f"{name}={value}" for name, value in options.items() if name != "dense")
    text = f"{variant.program} {variant.dense}, {variant.layers} layers"
    return f"{text} ({chosen})" if chosen else text


def _run(python: str, job: dict[str, Any], label: str) -> dict[str, Any]:
    """Do a job in a process of its own, showing how far it is."""
    with (
        tempfile.TemporaryFile("w+") as errors,
        _console.status(label) as status,
        subprocess.Popen(
            [python, str(_WORKERS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(job))
            process.stdin.close()
            message: dict[str, Any] = {}
            for line in process.stdout:
                message = json.loads(line)
                if "progress" in message:
                    status.update(f"{label}: {message['progress']}")
        except BaseException:
            process.kill()
            raise
        code = process.wait()
        if "unsupported" in message:
            raise WorkerError(message["unsupported"])
        if code:
            errors.seek(0)
            last = "".join(errors.read().strip().splitlines()[-1:])[:_MESSAGE_CHARACTERS]
            at = message.get("progress", "start")
            ended = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            raise WorkerError(f"{ended} during {at}: {last}")
        return message


def _is_speed(measure: str) -> bool:
    return _unit(measure) == "tok/s"


def _unit(measure: str) -> str:
    return _UNITS.get(measure.split()[0], "GB")


def _rows(
    variants: list[Variant],
    dense_types: list[str],
    measures: list[str],
    config: ModelConfig,
    limits: dict[str, list[float]],
) -> list[dict[str, Any]]:
    """Collect medians: one row for each measure, dense type and program."""
    others = ["load s", "first token s", "peak GB", "anonymous GB"]
    experts = [m.replace("prefill", "experts") for m in measures if m.startswith("prefill")]
    descriptions = {v.dense: v.description for v in variants if v.program == "gptoss"}
    rows = []
    for dense in dense_types:
        theirs = _THEIR_DENSE[dense]
        # What they hold in 8 bits is compared with every form.
        own = {
            (v.program, v.dense): v
            for v in variants
            if (v.program == "gptoss" and v.dense == dense)
            or (v.program in _GGUF_PROGRAMS and v.dense in (theirs, "q8"))
        }
        for measure in [*measures, *experts, *others]:
            values = {key: (v.median(measure), _chosen(v, measure)) for key, v in own.items()}
            values["transformers", theirs] = _extrapolated(variants, theirs, measure, config)
            ours = values.get(("gptoss", dense), (None, ""))[0]
            for (program, held), (value, note) in values.items():
                if value is None:
                    continue
                row = {
                    "dense": dense,
                    "measure": measure,
                    "program": program,
                    "held": held,
                    "value": value,
                    "unit": _unit(measure),
                    "options": note,
                    "gptoss / it": ours / value if ours else None,
                }
                variant = own.get((program, held))
                if variant and (nbytes := _bytes_read(config, measure, held)):
                    row["% of memory speed"] = variant.memory_share(measure, nbytes)
                tokens = int(measure.split()[1]) if measure.startswith(("prefill", "exp")) else 0
                if measure in experts:
                    peak = peaks(descriptions[dense], limits)["experts_in"]
                    gop = _expert_gop(config, tokens)
                    row["% of peak"] = 100 * gop / value / peak if peak else None
                elif tokens and program == "gptoss":
                    least_s = prompt_limit_s(config, tokens, descriptions[dense], limits)
                    row["% of peak"] = 100 * least_s * value / tokens if least_s else None
                rows.append(row)
    return rows


def _chosen(variant: Variant, measure: str) -> str:
    best = variant.best(measure if _is_speed(measure) else "batch 1")
    if best is None or len(variant.candidates) == 1:
        return ""
    return ", ".join(f"{name}={value}" for name, value in variant.candidates[best].items())


def _extrapolated(
    variants: list[Variant], dense: str, measure: str, config: ModelConfig
) -> tuple[float | None, str]:
    """Carry on from two numbers of layers: times, and memory, are linear in the layers.

    What does not depend on them, the unembedding above all, is in both and so counted once.
    """
    pair = [v for v in variants if v.program == "transformers" and v.dense == dense]
    best = pair[-1].best(measure if _is_speed(measure) else "batch 1") if pair else None
    if best is None or any(best not in v.values[measure] for v in pair):
        return None, ""
    few, many = (v.layers for v in pair)
    first, second = (statistics.median(v.values[measure][best]) for v in pair)
    if _is_speed(measure):
        first, second = 1 / first, 1 / second
    each = (second - first) / (many - few)
    value = first + each * (config.num_hidden_layers - few)
    if value <= 0:
        pair[-1].problems.append(f"transformers, {measure}: {many} layers took less than {few}")
        return None, ""
    note = f"carried on from {few} and {many} layers, {_chosen(pair[-1], measure)}"
    return (1 / value if _is_speed(measure) else value), note


def _bytes_read(config: ModelConfig, measure: str, dense: str) -> float | None:
    """Return the bytes that a decoded token must read, where there is one token at a time."""
    kind, _, number = measure.partition(" ")
    if kind != "depth" and measure != "batch 1":
        return None
    return decode_bytes(config, dense=dense, depth=int(number) if kind == "depth" else 0)


def _expert_gop(config: ModelConfig, tokens: int) -> float:
    """Return the operations of the experts' matmuls, in 1e9."""
    parameters = phase_parameters(config)
    return 2 * tokens * (parameters["experts_in"] + parameters["experts_out"]) / 1e9


def _agreement(args: argparse.Namespace, checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """Compare logits of the programs with those of gptoss in float32, twice.

    First of the model as it is, where a rounding may send a token to another expert; under random
    weights this is most of a program's difference, and luck. Then of a model that has only as many
    experts in each layer as a token goes to: what differs there is rounding.
    """
    layers = min(args.agreement_layers, checkpoint.config.num_hidden_layers)
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, checkpoint.config.vocab_size, args.agreement_tokens).tolist()
    each = _AGREEMENT_PROMPT_TOKENS
    prompts = [tokens[begin : begin + each] for begin in range(0, len(tokens), each)]
    return [
        {"experts": title, **entry}
        for title, experts in (
            ("routed", None),
            ("all used", checkpoint.config.num_experts_per_tok),
        )
        for entry in _agreement_of(
            args,
            open_checkpoint(prepare_model(checkpoint, layers, args.work, experts=experts)),
            prompts,
        )
    ]


def _agreement_of(
    args: argparse.Namespace, checkpoint: Checkpoint, prompts: list[list[int]]
) -> Iterator[dict[str, Any]]:
    # llama.cpp and its fork round YaRN's bounds to whole dimensions; the published config asks not
    # to.
    layers = checkpoint.config.num_hidden_layers
    rounded = prepare_model(checkpoint, layers, args.work, truncate=True)
    jobs: dict[str, tuple[str, str, Path, dict[str, Any]]] = {}
    ours = sys.executable
    reference = "gptoss float32"
    rounded_reference = f"{reference}, YaRN rounded"
    jobs[reference] = (ours, "gptoss", checkpoint.path, {"precision": "reference"})
    jobs[rounded_reference] = (ours, "gptoss", rounded, {"precision": "reference"})
    for dense in args.dense:
        options = {} if dense == "bf16" else {"dense": dense}
        jobs[f"gptoss {dense}"] = (ours, "gptoss", checkpoint.path, options)
        theirs = _THEIR_DENSE[dense]
        for program, (_, prefix) in _GGUF_PROGRAMS.items():
            if program in args.programs:
                weights, python = (getattr(args, f"{prefix}_{n}") for n in ("weights", "python"))
                options = {"weights": weights[0], "flash_attention": False}
                path = _gguf(checkpoint, theirs, args.work)
                jobs[f"{program} {theirs}"] = (python, program, path, options)

    found: dict[str, Path] = {}
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        for name, (python, program, model, options) in jobs.items():
            path = Path(folder) / str(len(found))
            path.mkdir()
            job = {
                "program": program,
                "model": str(model),
                "options": options,
                "threads": args.threads,
                "context_length": max(map(len, prompts)) + 1,
                "prompts": prompts,
                "logits": str(path),
            }
            try:
                _run(python, job, f"Logits: {name}")
            except WorkerError as error:
                _console.print(f"[yellow]Left out:[/] logits of {name}: {error}")
                continue
            found[name] = path
        pairs = [(name, reference) for name in jobs if name != reference]
        pairs += [(name, rounded_reference) for name in jobs if name.split()[0] in _GGUF_PROGRAMS]
        pairs += [
            (f"gptoss {dense}", f"{program} {_THEIR_DENSE[dense]}")
            for dense in args.dense
            for program in _GGUF_PROGRAMS
        ]
        for name, against in pairs:
            if name in found and against in found:
                difference = _difference(found[name], found[against])
                yield {"logits": name, "against": against, **difference}


def _difference(path: Path, expected_path: Path) -> dict[str, float | None]:
    """Compare what two programs saved; the divergence is that of the first from the second."""
    errors, divergences, same = [], [], []
    found, expected = (np.load(p / "logits.npy", mmap_mode="r") for p in (path, expected_path))
    for x32, y32 in zip(found, expected, strict=True):
        x, y = x32.astype(np.float64), y32.astype(np.float64)
        errors.append(np.linalg.norm(x - y) / np.linalg.norm(y))
        log_p, log_q = (z - z.max() - np.log(np.exp(z - z.max()).sum()) for z in (y, x))
        divergences.append(np.sum(np.exp(log_p) * (log_p - log_q)))
        same.append(x.argmax() == y.argmax())
    return {
        "relative L2, median": float(np.median(errors)),
        "relative L2, max": float(np.max(errors)),
        "KL, mean": float(np.mean(divergences)),
        "top-1 equal, %": 100 * float(np.mean(same)),
        "other experts, %": _routed_otherwise(path, expected_path),
    }


def _routed_otherwise(path: Path, expected_path: Path) -> float | None:
    """Return the share of positions that have another choice in any layer; None if not told."""
    files = [p / "experts.npy" for p in (path, expected_path)]
    if not all(file.is_file() for file in files):
        return None
    found, expected = (np.sort(np.load(file), axis=-1) for file in files)  # (L, T, A)
    return 100 * float((found != expected).any(axis=(0, 2)).mean())


def _print(
    rows: list[dict[str, Any]],
    variants: list[Variant],
    checkpoint: Checkpoint,
    agreement: list[dict[str, Any]],
    agreement_layers: int,
) -> None:
    # A table that is not for a terminal need not fit into 80 columns.
    console = Console() if sys.stdout.isatty() else Console(width=140)
    for about in sorted({v.about for v in variants if v.about}):
        console.print(about)
    memory = [
        gb_s
        for v in variants
        for measure, candidates in v.values.items()
        if measure.startswith("memory ")
        for values in candidates.values()
        for gb_s in values
    ]
    console.print(_cpu_name())
    if memory:
        low, middle, high = min(memory), statistics.median(memory), max(memory)
        console.print(f"Memory was read at {low:.1f} to {high:.1f} GB/s, median {middle:.1f}")
    for dense in dict.fromkeys(row["dense"] for row in rows):
        title = f"{checkpoint.name}, {checkpoint.config.num_hidden_layers} layers, dense {dense}"
        table = Table("", "unit", title=title)
        mine = [row for row in rows if row["dense"] == dense]
        columns = list(dict.fromkeys((row["program"], row["held"]) for row in mine))
        for program, held in columns:
            name = program if held in (dense, _THEIR_DENSE[dense]) else f"{program} {held}"
            table.add_column(name, justify="right")
            if program != "gptoss":
                table.add_column(f"gptoss / {name}", justify="right")
        for measure in dict.fromkeys(row["measure"] for row in mine):
            cells = [_title(measure), _unit(measure)]
            for program, held in columns:
                wanted = measure, program, held
                row = next(
                    (r for r in mine if (r["measure"], r["program"], r["held"]) == wanted), {}
                )
                cells.append(_cell(row))
                if program != "gptoss":
                    ratio = row.get("gptoss / it")
                    cells.append("" if ratio is None else f"{ratio:.2f}")
            table.add_row(*cells)
        console.print(table)
    options: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        if row["options"] and (_is_speed(row["measure"]) or row["program"] == "transformers"):
            options[f"{row['program']} {row['held']}, {row['options']}"].append(row["measure"])
    for taken, where in options.items():
        console.print(f"{taken}: {'; '.join(map(_title, dict.fromkeys(where)))}")
    for problem in (problem for v in variants for problem in v.problems):
        console.print(f"Left out: {problem}")
    if agreement:
        title = f"Logits of {min(agreement_layers, checkpoint.config.num_hidden_layers)} layers"
        table = Table(*agreement[0], title=title)
        for entry in agreement:
            table.add_row(*(_agreement_cell(value) for value in entry.values()))
        console.print(table)


def _agreement_cell(value: str | float | None) -> str:
    return "" if value is None else value if isinstance(value, str) else f"{value:.4g}"


def _title(measure: str) -> str:
    kind, _, number = measure.partition(" ")
    if kind == "batch":
        return f"decode, {number} sequence{'' if number == '1' else 's'}"
    return {
        "prefill": f"prefill, {number} tokens",
        "experts": f"experts' matmuls of {number} tokens",
        "depth": f"decode after {number} tokens",
        "load": "loading",
        "first": "first token, loading included",
        "peak": "peak memory, mapped files included",
        "anonymous": "memory without mapped files",
    }[kind]


def _cell(row: dict[str, Any]) -> str:
    if not row:
        return ""
    text = f"{row['value']:,.2f}"
    share = row.get("% of memory speed", row.get("% of peak"))
    return text if share is None else f"{text} ({share:.0f} %)"


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a checkpoint's folder")
    parser.add_argument("--layers", type=int, metavar="N", help="the first N layers; default: all")
    parser.add_argument(
        "--programs",
        nargs="+",
        choices=_PROGRAMS,
        default=list(_PROGRAMS),
    )
    parser.add_argument(
        "--dense",
        nargs="+",
        choices=list(_THEIR_DENSE),
        default=list(_THEIR_DENSE),
        help="how the dense matrices are held; default: all",
    )
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument(
        "--prefill", type=int, nargs="+", default=[512, 2048], metavar="TOKENS", help="prompts"
    )
    parser.add_argument(
        "--depth", type=int, default=4096, metavar="TOKENS", help="decode after these; 0: do not"
    )
    parser.add_argument(
        "--batch",
        type=int,
        nargs="+",
        default=[1, 2, 4, 8, 16],
        metavar="SEQUENCES",
        help="decode together; their tokens are added up",
    )
    parser.add_argument("--new", type=int, default=32, metavar="TOKENS", help="to decode in each")
    parser.add_argument(
        "--threads", type=int, default=len(os.sched_getaffinity(0)), help="default: all CPUs"
    )
    parser.add_argument(
        "--llama-python",
        default=sys.executable,
        metavar="PATH",
        help="a Python that has llama-cpp-python; default: this one",
    )
    parser.add_argument(
        "--llama-weights",
        nargs="+",
        choices=["default", "repacked", "mapped"],
        default=["default"],
        help="what llama.cpp does with the weights: its default, which maps the file and repacks a "
        "copy; only the repacked copy; only the mapped file. Of several, each measure takes the "
        "best",
    )
    parser.add_argument(
        "--ik-python",
        default=sys.executable,
        metavar="PATH",
        help="a Python that has ik-llama-cpp-python; default: this one",
    )
    parser.add_argument(
        "--ik-weights",
        nargs="+",
        choices=["repacked", "mapped"],
        default=["repacked", "mapped"],
        help="what ik_llama.cpp does with the weights: repacks all of them, or maps the file; "
        "default: both, and each measure takes the better",
    )
    parser.add_argument(
        "--transformers-python",
        default=sys.executable,
        metavar="PATH",
        help="a Python that has torch and transformers; default: this one",
    )
    parser.add_argument(
        "--transformers-layers",
        type=int,
        default=2,
        metavar="N",
        help="measure N and 2 N layers of transformers; default: 2",
    )
    parser.add_argument(
        "--agreement-tokens",
        type=int,
        default=256,
        metavar="TOKENS",
        help=f"compare the logits of so many, in texts of {_AGREEMENT_PROMPT_TOKENS}; 0: do not; "
        "default: 256",
    )
    parser.add_argument(
        "--agreement-layers",
        type=int,
        default=4,
        metavar="N",
        help="of the first N layers: in a deep model of random weights every difference grows "
        "until the experts are others; default: 4",
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=Path(tempfile.gettempdir()) / "gptoss-compare",
        metavar="FOLDER",
        help="for the files made here, which the next run takes again; default: %(default)s",
    )
    parser.add_argument("--plot", type=Path, metavar="PATH", help="write PATH.svg and PATH.png")
    args = parser.parse_args()
    if 1 not in args.batch:
        parser.error("--batch must hold 1")
    for name in ("rounds", "new", "threads", "transformers_layers", "agreement_layers"):
        if getattr(args, name) < (2 if name == "new" else 1):
            parser.error(f"--{name.replace('_', '-')} is too small")
    return args


if __name__ == "__main__":
    main()
