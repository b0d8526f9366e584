"""First token of a prompt that an earlier process has computed, from files.

    python bench/make_checkpoint.py --preset 20b --layers 12 /path/to/20b-12
    python bench/bench_prefix_cache.py /path/to/20b-12 --prompt 1000 8000

For each length: the first token of a prompt that is computed, with the folder and without it, then
of a new model that finds it in the folder, `--rounds` times, with the files dropped from the page
cache before each. The tokens and their log-probabilities must be the same.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import gptoss
from timing import print_results


def drop_from_page_cache(folder: Path) -> int:
    """Have the system read the folder's files from the disk next time; returns their bytes."""
    total = 0
    for path in folder.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # what is not written yet cannot be dropped
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            total += os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)
    return total


def first_token(
    model: str, prompt: list[int], folder: Path | None, threads: int | None
) -> tuple[float, float, gptoss.GenerationResult, int]:
    """Seconds to the first token, to close the model, the result, and the pages read."""
    with gptoss.load(
        model, threads=threads, context_length=len(prompt) + 64, prefix_cache_dir=folder
    ) as llm:
        llm.generate(prompt[-40:], max_tokens=1)  # weights are in memory, threads have begun
        params: dict[str, Any] = {"temperature": 0, "ignore_eos": True, "logprobs": 5}
        result = llm.generate(prompt, max_tokens=2, **params)
        pages = llm.stats().read_pages
        start_s = time.perf_counter()
    return result.timings.time_to_first_token_s, time.perf_counter() - start_s, result, pages


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--prompt", type=int, nargs="+", default=[1000, 8000], metavar="TOKENS")
    parser.add_argument(
        "--rest", type=int, default=0, metavar="TOKENS", help="behind complete pages: computed"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--folder", type=Path, help="on the disk that is to be measured")
    parser.add_argument("--not-without", action="store_true", help="leave out the run without it")
    args = parser.parse_args()

    rng = np.random.default_rng(0)
    rows = []
    for count in args.prompt:
        stored = count // 64 * 64
        prompt = rng.integers(0, 512, stored + args.rest).tolist()
        with tempfile.TemporaryDirectory(dir=args.folder) as name:
            folder = Path(name) / "pages"

            def run(used: Path | None, prompt: list[int] = prompt) -> Any:
                return first_token(args.model, prompt, used, args.threads)

            without_s = None if args.not_without else run(None)[0]
            computed_s, close_s, computed, _ = run(folder)
            times = []
            for _ in range(args.rounds):
                size_bytes = drop_from_page_cache(folder)
                seconds, _, found, pages = run(folder)
                assert found.token_ids == computed.token_ids
                assert found.logprobs == computed.logprobs
                assert found.usage.cached_tokens == min(stored, len(prompt) - 1)
                times.append(seconds)
        rows.append(
            {
                "prompt": len(prompt),
                "computed s": without_s,
                "computed and kept s": computed_s,
                "last writes s": close_s,
                "from files s": statistics.median(times),
                "slowest s": max(times),
                "pages": pages,
                "MB": size_bytes / 1e6,
            }
        )
    print_results(f"{args.model}: first token", rows, model=args.model)


if __name__ == "__main__":
    main()
