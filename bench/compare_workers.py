"""What `compare.py` runs in a process for each program: load, measure, compute logits.

Reads a job as JSON from standard input; writes lines of JSON, the last of them the outcome. Needs
numpy and the one program only, so that each can have an environment of its own.
"""

from __future__ import annotations

import ctypes
import gc
import inspect
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

# Tokens of each prompt when several are decoded together, and of the first one after loading.
SHORT_PROMPT_TOKENS = 16
# Physical batch of llama.cpp and its fork, and the default of both; gptoss takes as many tokens in
# a step.
_UBATCH_TOKENS = 512
_BATCH_TOKENS = 2048


class Program(Protocol):
    """One way to run the model, loaded; `about` names it and its version."""

    about: str
    description: str  # of the way it computes, if it tells

    def generate(self, prompts: list[list[int]], new: int) -> list[float]:
        """Continue all prompts together, greedily, by `new` tokens each.

        Returns the times, in seconds: of the start, and of when all had their k-th new token.
        """

    def logits(self, tokens: list[int]) -> np.ndarray:
        """Return the logits of all positions, (T, V) float32."""

    def experts(self, tokens: list[int]) -> np.ndarray | None:
        """Return the experts that each token goes to, (L, T, A), None if it does not tell."""

    def expert_seconds(self) -> float | None:
        """Return the seconds spent in the experts' matmuls so far, None if it does not tell."""


class Gptoss:
    """gptoss, by its public interface."""

    def __init__(self, job: dict[str, Any]) -> None:
        import gptoss

        self.about = f"gptoss {gptoss.__version__}"
        known = inspect.signature(gptoss.load).parameters
        options = job["options"]
        if missing := [name for name in options if name not in known]:
            raise Unsupported(f"this gptoss has no load(..., {missing[0]}=)")
        self._llm = gptoss.load(
            job["model"], threads=job["threads"], context_length=job["context_length"], **options
        )
        self.description = self._llm.description

    def generate(self, prompts: list[list[int]], new: int) -> list[float]:
        times = [time.perf_counter()]
        streams = [
            self._llm.stream(prompt, max_tokens=new, temperature=0, ignore_eos=True)
            for prompt in prompts
        ]
        for _ in range(new):
            for stream in streams:
                if next(stream).cached_tokens:
                    raise RuntimeError("a prompt was to be new, but part of it was cached")
            times.append(time.perf_counter())
        return times

    def logits(self, tokens: list[int]) -> np.ndarray:
        return self._llm.logits(tokens)

    def experts(self, tokens: list[int]) -> np.ndarray | None:
        return self._llm.trace(tokens, what="experts").experts

    def expert_seconds(self) -> float | None:
        seconds = self._llm.stats().phase_seconds
        return seconds["experts_in"] + seconds["experts_out"]


class _Silent:
    """A program that does not tell how it computes, which experts, or where the time goes."""

    description = ""

    def experts(self, tokens: list[int]) -> np.ndarray | None:
        return None

    def expert_seconds(self) -> float | None:
        return None


class _LlamaFamily(_Silent):
    """llama.cpp or a fork: by its C interface, of which all have the part that is used here."""

    _lib: Any  # the module that binds it
    _model: Any
    _vocab_size: int
    _job: dict[str, Any]
    _log: list[str]  # what the library said, where the binding hands it on

    def _context(self, sequences: int, tokens_each: int) -> AbstractContextManager[Any]:
        """Make a context for so many sequences of so many tokens."""
        raise NotImplementedError

    def _decode(self, context: Any, entries: list[tuple[int, int, int, bool]]) -> None:
        """Compute entries of (token, position, sequence, whether its logits are wanted)."""
        lib = self._lib
        batch = lib.llama_batch_init(len(entries), 0, 1)
        try:
            batch.n_tokens = len(entries)
            for i, (token, position, sequence, wanted) in enumerate(entries):
                batch.token[i], batch.pos[i] = token, position
                batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
                batch.logits[i] = wanted
            if status := lib.llama_decode(context, batch):
                raise RuntimeError(f"llama_decode returned {status}: {''.join(self._log[-5:])}")
        finally:
            lib.llama_batch_free(batch)

    def _row(self, context: Any, entry: int) -> np.ndarray:
        pointer = self._lib.llama_get_logits_ith(context, entry)
        return np.ctypeslib.as_array(pointer, (self._vocab_size,))

    def generate(self, prompts: list[list[int]], new: int) -> list[float]:
        with self._context(len(prompts), len(prompts[0]) + new) as context:
            times = [time.perf_counter()]
            entries = [
                (token, position, sequence, position == len(prompt) - 1)
                for sequence, prompt in enumerate(prompts)
                for position, token in enumerate(prompt)
            ]
            for begin in range(0, len(entries), _BATCH_TOKENS):
                piece = entries[begin : begin + _BATCH_TOKENS]
                self._decode(context, piece)
            wanted = [i for i, entry in enumerate(piece) if entry[3]]
            if len(wanted) != len(prompts):
                raise ValueError(f"the prompts together must be at most {_BATCH_TOKENS} tokens")
            for step in range(new):
                tokens = [int(self._row(context, i).argmax()) for i in wanted]
                times.append(time.perf_counter())
                if step == new - 1:
                    break
                position = len(prompts[0]) + step
                self._decode(context, [(t, position, s, True) for s, t in enumerate(tokens)])
                wanted = list(range(len(prompts)))
        return times

    def logits(self, tokens: list[int]) -> np.ndarray:
        with self._context(1, len(tokens)) as context:
            self._decode(context, [(token, i, 0, True) for i, token in enumerate(tokens)])
            return np.stack([self._row(context, i) for i in range(len(tokens))])


class Llama(_LlamaFamily):
    """llama.cpp, as llama-cpp-python binds it."""

    def __init__(self, job: dict[str, Any]) -> None:
        import llama_cpp

        self.about = f"llama-cpp-python {llama_cpp.__version__}"
        self._lib = lib = llama_cpp
        self._job, self._log = job, []
        self._log_callback = lib.llama_log_callback(self._keep_log)
        lib.llama_log_set(self._log_callback, ctypes.c_void_p(0))
        lib.llama_backend_init()
        params = lib.llama_model_default_params()
        params.n_gpu_layers = 0
        if job["options"]["weights"] == "mapped":
            params.use_extra_bufts = False
        elif job["options"]["weights"] == "repacked":
            params.load_mode = lib.LLAMA_LOAD_MODE_NONE
        self._model = lib.llama_model_load_from_file(job["model"].encode(), params)
        if not self._model:
            raise RuntimeError("".join(self._log[-20:]))
        self._vocab_size = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self._model))

    def _keep_log(self, _level: int, text: bytes, _data: Any) -> None:
        self._log.append(text.decode(errors="replace"))

    @contextmanager
    def _context(self, sequences: int, tokens_each: int) -> Iterator[Any]:
        lib = self._lib
        params = lib.llama_context_default_params()
        params.n_ctx = sequences * -(-tokens_each // 256) * 256
        params.n_batch, params.n_ubatch = _BATCH_TOKENS, _UBATCH_TOKENS
        params.n_seq_max = sequences
        params.n_threads = params.n_threads_batch = self._job["threads"]
        params.flash_attn_type = (
            lib.LLAMA_FLASH_ATTN_TYPE_ENABLED
            if self._job["options"]["flash_attention"]
            else lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
        )
        # As its own programs do: window layers keep their window only, and sequences that share
        # nothing are kept apart.
        params.swa_full = False
        params.kv_unified = False
        context = lib.llama_init_from_model(self._model, params)
        if not context:
            raise RuntimeError("".join(self._log[-20:]))
        try:
            yield context
        finally:
            lib.llama_free(context)


class IkLlama(_LlamaFamily):
    """ik_llama.cpp, as ik-llama-cpp-python binds it."""

    def __init__(self, job: dict[str, Any]) -> None:
        import ik_llama_cpp
        from ik_llama_cpp import _ctypes_api

        self.about = f"ik-llama-cpp-python {ik_llama_cpp.__version__}"
        self._lib = lib = _ctypes_api
        self._job, self._log = job, []
        lib.llama_backend_init()
        params = lib.llama_model_default_params()
        params.n_gpu_layers = 0
        # It repacks in place, which a mapped file does not allow.
        params.repack_tensors = job["options"]["weights"] == "repacked"
        params.use_mmap = not params.repack_tensors
        params.flash_attn = job["options"]["flash_attention"]
        self._model = lib.llama_model_load_from_file(job["model"].encode(), params)
        if not self._model:
            raise RuntimeError("llama_model_load_from_file returned no model")
        self._vocab_size = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self._model))

    @contextmanager
    def _context(self, sequences: int, tokens_each: int) -> Iterator[Any]:
        lib = self._lib
        params = lib.llama_context_default_params()
        params.n_ctx = sequences * -(-tokens_each // 256) * 256
        params.n_batch, params.n_ubatch = _BATCH_TOKENS, _UBATCH_TOKENS
        params.n_seq_max = sequences
        params.n_threads = params.n_threads_batch = self._job["threads"]
        params.flash_attn = self._job["options"]["flash_attention"]
        context = lib.llama_init_from_model(self._model, params)
        if not context:
            raise RuntimeError("llama_init_from_model returned no context")
        try:
            yield context
        finally:
            lib.llama_free(context)


class Transformers(_Silent):
    """transformers on torch in bfloat16, with the experts dequantised."""

    def __init__(self, job: dict[str, Any]) -> None:
        import torch
        import transformers

        self.about = f"transformers {transformers.__version__}, torch {torch.__version__}"
        self._torch = torch
        transformers.logging.set_verbosity_error()
        torch.set_num_threads(job["threads"])
        self._cache = transformers.DynamicCache
        self._model = transformers.AutoModelForCausalLM.from_pretrained(
            job["model"], dtype=torch.bfloat16, **job["options"]
        ).eval()

    def generate(self, prompts: list[list[int]], new: int) -> list[float]:
        torch = self._torch
        with torch.inference_mode():
            times = [time.perf_counter()]
            cache = self._cache(config=self._model.config)
            tokens = torch.tensor(prompts)
            for _ in range(new):
                output = self._model(tokens, past_key_values=cache, logits_to_keep=1)
                tokens = output.logits[:, -1].argmax(-1, keepdim=True)
                times.append(time.perf_counter())
        return times

    def logits(self, tokens: list[int]) -> np.ndarray:
        torch = self._torch
        with torch.inference_mode():
            return self._model(torch.tensor([tokens])).logits[0].float().numpy()


class Unsupported(Exception):
    """The program lacks what the job asks for; its text says what."""


_PROGRAMS: dict[str, type[Gptoss] | type[Llama] | type[IkLlama] | type[Transformers]] = {
    "gptoss": Gptoss,
    "llama.cpp": Llama,
    "ik_llama.cpp": IkLlama,
    "transformers": Transformers,
}


def measure(program: Program, job: dict[str, Any], report: Any) -> dict[str, float]:
    """Measure what the job lists, in tokens per second.

    Decoding is limited by memory, whose speed changes where a machine is shared: it is measured
    just before and just after, on the model's file, as "memory <what was measured>" in GB/s.
    """
    results: dict[str, float] = {}
    rng = np.random.default_rng(job["seed"])

    def generate(count: int, length: int, new: int) -> list[float]:
        prompts = rng.integers(0, job["vocab_size"], (count, length)).tolist()
        return program.generate(prompts, new)

    def rate(times: list[float], count: int) -> float:
        return count * (len(times) - 2) / (times[-1] - times[1])

    for name in job["measures"]:
        report(name)
        kind, _, number = name.partition(" ")
        n = int(number)
        if kind == "prefill":
            before = program.expert_seconds()
            times = generate(1, n, 1)
            results[name] = n / (times[1] - times[0])
            if (after := program.expert_seconds()) is not None and before is not None:
                results[f"experts {n}"] = after - before
            continue
        memory = [memory_gb_s(job)]
        if kind == "depth":
            results[name] = rate(generate(1, n, job["new"]), 1)
        else:
            results[name] = rate(generate(n, SHORT_PROMPT_TOKENS, job["new"]), n)
        memory.append(memory_gb_s(job))
        results[f"memory {name}"] = sum(memory) / 2
    return results


def files_of(model: Path) -> list[Path]:
    """List the files of weights: a model is one, or a folder of them."""
    return [model] if model.is_file() else sorted(model.glob("*.safetensors"))


def memory_gb_s(job: dict[str, Any]) -> float:
    """Measure how fast the job's threads read the model's first file from the page cache."""
    command = [job["hw_limits"], str(job["threads"]), str(files_of(Path(job["model"]))[0])]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def read_once(model: Path) -> None:
    """Bring a model's files into the page cache."""
    buffer = bytearray(1 << 24)
    for file in files_of(model):
        with file.open("rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass


def anonymous_gb() -> float:
    """Memory of this process that no file backs, in GB."""
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024 / 1e9


def save_logits(program: Program, prompts: list[list[int]], folder: Path) -> None:
    """Save the logits of all positions of some texts, one after the other, and their experts."""
    np.save(folder / "logits.npy", np.concatenate([program.logits(prompt) for prompt in prompts]))
    experts = [chosen for prompt in prompts if (chosen := program.experts(prompt)) is not None]
    if experts:
        np.save(folder / "experts.npy", np.concatenate(experts, axis=1))


def run(job: dict[str, Any], report: Any) -> dict[str, Any]:
    """Do one job and return its results."""
    report("reading the files")
    read_once(Path(job["model"]))
    report("loading")
    start = time.perf_counter()
    program = _PROGRAMS[job["program"]](job)
    load_s = time.perf_counter() - start
    if "logits" in job:
        report("logits")
        save_logits(program, job["prompts"], Path(job["logits"]))
        return {"about": program.about, "description": program.description}
    report("first token")
    program.generate([list(range(1, SHORT_PROMPT_TOKENS + 1))], 1)
    results = {"load s": load_s, "first token s": time.perf_counter() - start}
    results |= measure(program, job, report)
    gc.collect()
    results["peak GB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    results["anonymous GB"] = anonymous_gb()
    return {"about": program.about, "description": program.description, "results": results}


def main() -> None:
    """Serve one job."""
    # What libraries print must not get between the lines of JSON.
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def send(**message: Any) -> None:
        print(json.dumps(message), file=output, flush=True)

    job = json.load(sys.stdin)
    try:
        send(**run(job, lambda text: send(progress=text)))
    except Unsupported as error:
        send(unsupported=str(error))


if __name__ == "__main__":
    main()
