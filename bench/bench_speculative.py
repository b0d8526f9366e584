"""What prompt-lookup speculation gains: how often guesses are right, and what verifying them takes.

    python bench/make_checkpoint.py --preset 20b --tokenizer tokenizer.json /path/to/20b
    python bench/bench_speculative.py /path/to/20b

The texts are this repository's own, and stand for what a model would write: the drafter guesses
along a text that is given, so no weights are needed and the figures are the same everywhere. The
time of steps of 1 to 16 tokens is measured on the checkpoint, at an empty context, with tokens that
have nothing to do with each other, whose experts overlap no more than by chance. The speed-up is
computed from both.
"""

from __future__ import annotations

import argparse
import itertools
import operator
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

import gptoss
from gptoss import _core
from gptoss.tokenizer import Tokenizer
from shapes import PAGE_TOKENS
from timing import print_results

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tools" / "train_demo"))


class Text(NamedTuple):
    """What a model is asked, and what it is taken to answer."""

    prompt: str
    output: str


def edited_files(limit: int) -> Iterator[Text]:
    """Source files as the last commits that changed them found and left them."""
    log = ["log", "--no-merges", "--diff-filter=M", "--format=commit %H", "--name-only"]
    commit = ""
    for line in filter(None, git(*log, "--", "python", "csrc").splitlines()):
        if line.startswith("commit "):
            commit = line.removeprefix("commit ")
        elif limit > 0 and line.endswith((".py", ".h", ".cpp")):
            before, after = (git("show", f"{at}:{line}") for at in (f"{commit}~", commit))
            if len(before) < 40_000:
                yield Text(
                    f"{line}:\n{before}\nWrite the file anew: {git_subject(commit)}\n", after
                )
                limit -= 1


def second_halves(paths: list[Path]) -> Iterator[Text]:
    """Files that are written on from the middle."""
    for path in paths:
        content = path.read_text()
        middle = content.find("\n", len(content) // 2) + 1
        yield Text(content[:middle], content[middle:])


def documentation_answers() -> Iterator[Text]:
    """Questions on the package with its README in the prompt, and short answers."""
    from facts import FACTS

    readme = (ROOT / "README.md").read_text()
    for fact in FACTS:
        yield Text(f"{readme}\n{fact.wordings()[0]}?\n", fact.answer)


def git(*arguments: str) -> str:
    """The output of a git command in the repository."""
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def git_subject(commit: str) -> str:
    """The first line of a commit's message."""
    return git("show", "--no-patch", "--format=%s", commit).strip()


def step_times(llm: gptoss.LLM, rounds: int) -> dict[int, float]:
    """Median seconds of steps of 1, 2, ... tokens; one of each in every round."""
    rng = np.random.default_rng(0)
    vocab = llm.config.vocab_size
    llm.logits(rng.integers(0, vocab, 512), [-1])  # reads all experts
    sizes = range(1, 2 + _core.DRAFT_TOKENS)
    times: dict[int, list[float]] = {size: [] for size in sizes}
    for _ in range(rounds):
        for size in sizes:
            tokens = rng.integers(0, vocab, size)
            start = time.perf_counter()
            llm.logits(tokens)
            times[size].append(time.perf_counter() - start)
    return {size: statistics.median(seconds) for size, seconds in times.items()}


class Replay:
    """Steps that a kind of text would take."""

    def __init__(self) -> None:
        self.texts = self.tokens = self.accepted = 0
        self.steps: Counter[int] = Counter()  # by the tokens computed in them

    def run(self, prompt: list[int], output: list[int], token_cost: float) -> None:
        """Guess along a text as the engine does while it generates it."""
        drafter = _core.Drafter(np.asarray(prompt, np.int32))
        length, end = len(prompt), len(prompt) + len(output)
        text = prompt + output
        while length < end:
            # Guesses end with the page of the token before them.
            limit = min(PAGE_TOKENS - 1 - (length - 1) % PAGE_TOKENS, end - length - 1)
            draft = drafter.draft(limit, token_cost)
            right = map(operator.eq, draft, text[length:])
            accepted = sum(1 for _ in itertools.takewhile(bool, right))
            for token in text[length : length + accepted + 1]:
                drafter.push(token)
            length += accepted + 1
            self.steps[1 + len(draft)] += 1
            self.accepted += accepted
        self.texts += 1
        self.tokens += len(output)

    def row(self, name: str, step_s: dict[int, float]) -> dict[str, object]:
        """The figures of this kind of text, with measured times of steps."""
        steps = self.steps.total()
        drafted = sum((size - 1) * count for size, count in self.steps.items())
        time_s = sum(step_s[size] * count for size, count in self.steps.items())
        return {
            "text": name,
            "texts": self.texts,
            "tokens": self.tokens,
            "guessed": drafted,
            "right %": 100 * self.accepted / max(drafted, 1),
            "tokens/step": self.tokens / steps,
            "computed speed-up": self.tokens * step_s[1] / time_s,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.json other than the model's")
    parser.add_argument("--edits", type=int, default=40, metavar="N", help="edited files to replay")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--token-cost",
        type=float,
        default=0.4,  # cost() of the CPU backend
        metavar="STEPS",
        help="what the drafter takes a further token of a step to cost",
    )
    args = parser.parse_args()

    with gptoss.load(args.model, threads=args.threads, context_length=2048) as llm:
        tokenizer = Tokenizer.from_file(args.tokenizer) if args.tokenizer else llm.tokenizer
        step_s = step_times(llm, args.rounds)
    costs = [
        {
            "tokens": size,
            "ms": 1e3 * seconds,
            "of one token": seconds / step_s[1],
            "per further token": (seconds / step_s[1] - 1) / (size - 1) if size > 1 else 0.0,
        }
        for size, seconds in step_s.items()
    ]
    print_results(
        f"{args.model}: time of a step (the drafter's rule takes {args.token_cost:g} per further "
        "token)",
        costs,
        model=args.model,
        token_cost=args.token_cost,
    )

    code = sorted((ROOT / "python").rglob("*.py")) + sorted((ROOT / "csrc").rglob("*.cpp"))
    prose = sorted(ROOT.glob("*.md")) + sorted((ROOT / "docs").glob("*.md"))
    kinds = {
        "code: file edited": edited_files(args.edits),
        "code: file written on": second_halves(code),
        "chat: answer from docs": documentation_answers(),
        "chat: docs written on": second_halves(prose),
    }
    rows = []
    for name, texts in kinds.items():
        replay = Replay()
        for text in texts:
            replay.run(
                tokenizer.encode(text.prompt), tokenizer.encode(text.output), args.token_cost
            )
        rows.append(replay.row(name, step_s))
    print_results(
        "Guesses along this repository's texts; speed-up computed from the times above",
        rows,
        model=args.model,
        commit=git("rev-parse", "HEAD").strip(),
    )


if __name__ == "__main__":
    main()
