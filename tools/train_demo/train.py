"""Make the demo model: tokenizer, training, export, evaluation.

    python tools/train_demo/train.py OUT
    python tools/train_demo/train.py OUT --start RUN

OUT receives the checkpoint; OUT/run the state (a run that was stopped goes on from it) and the
log. `--start` begins with the tokenizer, weights and optimizer of another run's folder. See
README.md for time and results.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from conversations import earlier_call, example, render
from draws import Draw
from evaluate import evaluate
from export import export
from model import PRODUCTS, ROUND, Batch, FastModel, Params, Shape, init, shipped
from torch import Tensor
from vocabulary import VOCABULARY, train_tokenizer

import gptoss
from gptoss.harmony import HarmonyEncoding
from gptoss.tokenizer import Tokenizer

SEED = 20
BATCH_TOKENS = 4096
STEPS = 4450
QUANTISED_FROM = 0.35  # the part of the run after which the forward pass has the experts in MXFP4
DECAY = 0.6  # the part of the run, its end, in which the learning rate goes down
STARTED_RATE = 0.5  # the part of the peak learning rate for a run with --start
MUON_RATE, ADAM_RATE = 6e-3, 4e-3
WARM_UP = 80
LAST_RATE = 0.01
WEIGHT_DECAY = 0.1
CLIP = 1.0
BALANCE = 1e-3
TOKENIZER_CONVERSATIONS = 6000


def make_batch(encoding: HarmonyEncoding, seed: int, tokens: int) -> Batch:
    """Fresh conversations of about so many tokens; the loss is on what the model says."""
    draw = Draw(seed, held=False)
    ids: list[int] = []
    starts = [0]
    rows: list[int] = []
    targets: list[int] = []
    while len(ids) < tokens:
        prompt, answer = render(example(draw), encoding)
        begin = len(ids) + len(prompt) - 1
        call = earlier_call(prompt, encoding)
        rows += range(len(ids) + call.start - 1, len(ids) + call.stop - 1)
        targets += prompt[call.start : call.stop]
        rows += range(begin, begin + len(answer))
        targets += answer
        ids += prompt + answer[:-1]
        starts.append(len(ids))
    count = len(rows)
    # Filled up with a conversation of nothing, and with rows of no weight.
    ids += [0] * (-len(ids) % ROUND)
    starts.append(len(ids))
    fill = -count % ROUND
    return Batch(
        torch.tensor(ids),
        torch.tensor(starts),
        torch.tensor(rows + [0] * fill),
        torch.tensor(targets + [0] * fill),
        torch.tensor([1 / count] * count + [0.0] * fill),
    )


def orthogonalised(matrix: Tensor) -> Tensor:
    """The nearest matrix with equal singular values, roughly, by Newton-Schulz; batched."""
    x = matrix / (matrix.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    wide = x.shape[-2] <= x.shape[-1]
    x = (x if wide else x.mT).to(PRODUCTS)
    for _ in range(5):
        a = x @ x.mT
        x = 3.4445 * x + (-4.775 * a + 2.0315 * (a @ a)) @ x
    return (x if wide else x.mT).float()


class Optimizer:
    """Muon for the matrices inside the layers, AdamW for everything else."""

    def __init__(self, shape: Shape, params: Params) -> None:
        self.split = {"qkv": [n * 64 for n in (shape.heads, shape.kv_heads, shape.kv_heads)]}
        self.first = {name: torch.zeros_like(value) for name, value in params.items()}
        self.second = {
            name: torch.zeros_like(value)
            for name, value in params.items()
            if not self.is_matrix(name)
        }

    @staticmethod
    def is_matrix(name: str) -> bool:
        return name.endswith((".qkv", ".o", ".w1", ".w2"))

    def update(
        self, params: Params, grads: Params, names: list[str], shrink: float, step: int,
        factor: float,
    ) -> None:  # fmt: skip
        """Change some of the parameters in place."""
        for name in names:
            value = params[name]
            grad = grads[name] * shrink
            first = self.first[name]
            if self.is_matrix(name):
                first.lerp_(grad, 0.05)
                direction = grad.lerp(first, 0.95)
                parts = direction.split(
                    self.split.get(name.split(".")[1], [direction.shape[-2]]), dim=-2
                )
                change = torch.cat(
                    [orthogonalised(part) * (0.2 * max(part.shape[-2:]) ** 0.5) for part in parts],
                    dim=-2,
                )
                value.mul_(1 - WEIGHT_DECAY * MUON_RATE * factor)
                value.sub_(change, alpha=MUON_RATE * factor)
            else:
                second = self.second[name]
                first.lerp_(grad, 0.1)
                second.lerp_(grad.square(), 0.05)
                change = (first / (1 - 0.9 ** (step + 1))) / (
                    (second / (1 - 0.95 ** (step + 1))).sqrt() + 1e-8
                )
                if value.ndim > 1:
                    value.mul_(1 - WEIGHT_DECAY * ADAM_RATE * factor)
                value.sub_(change, alpha=ADAM_RATE * factor)


class Trainer:
    """Parameters, optimizer and threads.

    A run that starts from another's state goes on with its count of steps; `origin` is its first.

    Each thread computes the gradient of its part of a batch on its own, and updates its part of
    the parameters: threads that meet twice in a step stand a busy machine better than ones that
    meet in every operation.
    """

    def __init__(
        self, run: Path, encoding: HarmonyEncoding, threads: int, start: Path | None
    ) -> None:
        torch.set_num_threads(1)
        self.encoding = encoding
        self.threads = threads
        self.pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
        self.shape = Shape(vocab=VOCABULARY)
        self.model = FastModel(self.shape, BALANCE)
        self.params = init(self.shape, SEED)
        self.optimizer = Optimizer(self.shape, self.params)
        self.begin, self.origin, self.tokens, self.seconds = 0, 0, 0, 0.0
        self.file = run / "state.pt"
        given = self.file if self.file.exists() else start and start / self.file.name
        if given:
            state = torch.load(given)
            self.params = state["params"]
            self.optimizer.first, self.optimizer.second = state["first"], state["second"]
            self.begin = self.origin = state["step"]
        if given == self.file:
            self.origin, self.tokens, self.seconds = (
                state[name] for name in ("origin", "tokens", "seconds")
            )
        self.started = self.origin > 0
        matrices = [name for name in self.params if Optimizer.is_matrix(name)]
        others = [name for name in self.params if not Optimizer.is_matrix(name)]
        self.parts = [matrices[i::threads] + others[i::threads] for i in range(threads)]

    def save(self, step: int) -> None:
        state = {
            "params": self.params,
            "first": self.optimizer.first,
            "second": self.optimizer.second,
            "step": step,
            "origin": self.origin,
            "tokens": self.tokens,
            "seconds": self.seconds,
        }
        new = self.file.with_suffix(".new")
        torch.save(state, new)
        new.replace(self.file)

    def rate(self, step: int, progress: float) -> float:
        """Part of the peak learning rate: warm-up, constant, then a line down."""
        left = max(0.0, 1 - progress) / DECAY
        part = min((step - self.origin + 1) / WARM_UP, LAST_RATE + (1 - LAST_RATE) * min(1.0, left))
        return part * (STARTED_RATE if self.started else 1)

    def step(self, step: int, progress: float) -> tuple[float, float]:
        """One step, at this part of the run; returns the loss and the norm of the gradient."""
        weights = shipped(self.params, self.started or progress >= QUANTISED_FROM)
        factor = self.rate(step, progress)

        def gradient(part: int) -> tuple[float, Params, int]:
            seed = (SEED + self.started) * 1_000_003 + step * self.threads + part
            batch = make_batch(self.encoding, seed, BATCH_TOKENS // self.threads)
            return *self.model.step(weights, batch), len(batch.ids)

        results = list(self.pool.map(gradient, range(self.threads)))
        self.tokens += sum(tokens for _, _, tokens in results)
        share = 1 / self.threads
        grads = results[0][1]
        squares = 0.0
        for name, grad in grads.items():
            for _, other, _ in results[1:]:
                grad += other[name]
            grad *= share
            squares += float(grad.square().sum())
        norm = math.sqrt(squares)
        shrink = min(1.0, CLIP / (norm + 1e-6))

        def update(part: list[str]) -> None:
            self.optimizer.update(self.params, grads, part, shrink, step, factor)

        list(self.pool.map(update, self.parts))
        return sum(loss for loss, _, _ in results) * share, norm


def train(out: Path, steps: int, minutes: float | None, threads: int, start: Path | None) -> None:
    """Train into OUT/run for so many steps, or minutes, and write the checkpoint."""
    run = out / "run"
    run.mkdir(parents=True, exist_ok=True)
    tokenizer_file = run / "tokenizer.json"
    if not tokenizer_file.exists():
        if start is None:
            text = train_tokenizer(SEED, TOKENIZER_CONVERSATIONS)
        else:
            text = (start / tokenizer_file.name).read_text(encoding="utf-8")
        tokenizer_file.write_text(text, encoding="utf-8")
    encoding = HarmonyEncoding(Tokenizer.from_file(tokenizer_file))
    trainer = Trainer(run, encoding, threads, start)
    print(f"{sum(p.numel() for p in trainer.params.values()):,} parameters", flush=True)
    losses: list[float] = []
    step = trainer.begin

    def progress() -> float:
        if minutes is None:
            return (step - trainer.origin) / steps
        return trainer.seconds / (60 * minutes)

    with (run / "log.jsonl").open("a", encoding="utf-8") as log:
        while progress() < 1:
            began = time.perf_counter()
            loss, norm = trainer.step(step, progress())
            step += 1
            losses.append(loss)
            trainer.seconds += time.perf_counter() - began
            if step % 50 == 0:
                line = {
                    "step": step,
                    "tokens": trainer.tokens,
                    "loss": round(sum(losses) / len(losses), 4),
                    "gradient": round(norm, 3),
                    "rate": round(trainer.rate(step, progress()), 4),
                    "seconds": round(trainer.seconds),
                }
                print(json.dumps(line), flush=True)
                log.write(json.dumps(line) + "\n")
                log.flush()
                losses.clear()
            if step % 100 == 0:
                trainer.save(step)
        trainer.save(step)
    export(out, trainer.shape, trainer.params, tokenizer_file)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="the folder to write")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--minutes", type=float, help="instead of steps: how long it may train")
    parser.add_argument(
        "--start", metavar="RUN", type=Path, help="the folder of a run to go on from"
    )
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    train(options.out, options.steps, options.minutes, options.threads, options.start)
    with gptoss.load(options.out, context_length=2048) as llm:
        print(json.dumps(evaluate(llm, count=200)))


if __name__ == "__main__":
    main()
