"""Sampling on the device: the bits of the CPU, row by row and through slots and guesses."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from cuda.kernels import SEEDS, Gpu, fill, logit_ranges, read_records, records
from gptoss import _core
from gptoss.reference.sampling import masses

Logits = npt.NDArray[np.float32]
STATUS = ["ok", "non_finite", "empty_mask"]
SEEN = 1 << 31


def row_of(kind: str, size: int, seed: int) -> Logits:
    random = np.random.default_rng((seed, size))
    logits = random.standard_normal(size)
    if kind == "peaked":
        logits[random.integers(0, size, 1 + size // 50)] += 15
    elif kind == "ties":
        logits = np.round(logits)
    elif kind == "equal":
        logits[:] = 3.25
    elif kind == "wide":
        logits *= 30
    elif kind == "huge":
        logits = np.clip(logits * 10.0 ** random.integers(-38, 39, size), -3e38, 3e38)
    elif kind == "impossible":
        logits[random.random(size) < 0.5] = -np.inf
        logits[random.integers(size)] = 1.0
    elif kind == "zeros":
        logits = np.where(random.random(size) < 0.5, -0.0, random.choice([0.0, -1.0], size))
    return logits.astype(np.float32)


KINDS = ["flat", "peaked", "ties", "equal", "wide", "huge", "impossible", "zeros"]
RULES: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {},
    {"temperature": 0.4},
    {"temperature": 50.0},
    {"temperature": 1e-44},
    {"temperature": 3.4e38},
    {"min_p": 0.05},
    {"min_p": 1.0},
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": 300},
    {"top_p": 0.95},
    {"top_p": 1e-30},
    {"top_p": 0.99999994},
    {"top_k": 40, "top_p": 0.8, "n_logprobs": 3},
    {"top_k": 200, "top_p": 0.9, "min_p": 0.01, "temperature": 1.3, "n_logprobs": 20},
]


def exponent_scale(temperature: float) -> np.float32:
    info = np.finfo(np.float32)
    exact = 1 / math.log(2.0) / float(np.float32(temperature))
    return np.float32(min(max(exact, float(info.tiny)), float(info.max)))


def row_struct(rule: Mapping[str, Any], **fields: Any) -> ctypes.Structure:
    """Make a SampleRow of what ops::SamplingRule has."""
    temperature = rule.get("temperature", 1.0)
    top_p = np.float32(rule.get("top_p", 1.0))
    penalties = {
        "repetition_penalty": rule.get("repetition_penalty", 1.0),
        "presence_penalty": rule.get("presence_penalty", 0.0),
        "frequency_penalty": rule.get("frequency_penalty", 0.0),
    }
    values = {"guess": -1, "mask": -1, "target": -1, **penalties, **fields}
    return fill(
        "SampleRow",
        top_k=rule.get("top_k", 0),
        n_logprobs=rule.get("n_logprobs", -1),
        greedy=int(np.float32(temperature) == 0),
        exponent_scale=exponent_scale(temperature) if temperature else 0.0,
        min_p=rule.get("min_p", 0.0),
        has_penalties=int(tuple(penalties.values()) != (1.0, 0.0, 0.0)),
        top_p_fraction=0 if top_p == 1 else int(float(top_p) * 2.0**64),
        all_top_p=int(top_p == 1),
        seed=rule.get("seed", 0),
        **values,
    )


class Sampler:
    """Slots on a device, and launches of the kernel."""

    def __init__(self, vocab: int, slots: int = 1) -> None:
        self.gpu = Gpu("sample")
        self.vocab = vocab
        self.counts = self.gpu.put(np.zeros((slots, vocab)), np.uint32, "counts")
        self.set_slots([(-1, 0)] * slots)

    def set_slots(self, states: Sequence[tuple[int, int]]) -> None:
        rows = [fill("SlotState", last_token=last, index=index) for last, index in states]
        self.slots = self.gpu.put(records("SlotState", rows), name="slots")

    def slot(self, slot: int) -> tuple[int, int]:
        state = read_records("SlotState", self.slots)[slot]
        return state.last_token, state.index

    def run(
        self,
        logits: Logits,
        rows: Sequence[ctypes.Structure],
        units: Sequence[int],
        *,
        biases: Sequence[tuple[int, float]] = (),
        masks: npt.NDArray[np.uint32] | None = None,
        seed: int = 0,
        ranged: bool = False,
    ) -> list[Any]:
        gpu, n_units = self.gpu, len(units) - 1
        size = ctypes.sizeof(fill("SampleOut"))
        out = gpu.empty(size * len(rows), np.uint8, "out")
        entries = [fill("BiasEntry", token=token, bias=bias) for token, bias in biases]
        args = fill(
            "SampleArgs",
            logits=gpu.put(logits),
            ranges=gpu.put(logit_ranges(logits)) if ranged else 0,
            rows=gpu.put(records("SampleRow", rows)),
            units=gpu.put(units, np.int32),
            masks=gpu.put(masks) if masks is not None else 0,
            biases=gpu.put(records("BiasEntry", entries)),
            counts=self.counts,
            slots=self.slots,
            changed=gpu.empty((n_units, self.vocab), np.float32, "changed"),
            candidates=gpu.empty((n_units, self.vocab), np.int32, "candidates"),
            out=out,
            n_units=n_units,
            vocab_size=self.vocab,
        )
        gpu.launch("gptoss_sample", n_units, 256, args, seed=seed)
        return read_records("SampleOut", out)


def logprob(found: Any, logit: float) -> float:
    """Make a log-probability as the host does."""
    total = math.log(found.mass) - math.log(2.0) * 40
    return float(np.float32(float(logit) - float(found.largest_logit) - total))


def assert_same(found: Any, expected: tuple[Any, ...], logits: Logits, about: Any) -> None:
    """Compare a SampleOut with what the CPU says."""
    status, token, chance, top = expected
    assert found.sampled == 1
    assert (STATUS[found.status], found.token) == (status, token), about
    if status != "ok":
        return
    assert np.float32(found.logit) == logits[token], about
    assert found.n_top == len(top), about
    if found.mass:
        assert found.mass == int(masses(logits).sum()), about
        assert logprob(found, found.logit) == pytest.approx(chance, rel=1e-6, abs=1e-7), about
    for entry, (expected_token, expected_chance) in zip(found.top, top, strict=False):
        assert entry.token == expected_token, about
        assert logprob(found, entry.logit) == pytest.approx(expected_chance, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("size", [1, 33, 700])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ranged", [False, True])
def test_tokens_are_those_of_the_cpu(kind: str, size: int, ranged: bool) -> None:
    sampler = Sampler(size, len(RULES))
    logits = np.array([row_of(kind, size, i) for i in range(len(RULES))])
    indices = [3 * i for i in range(len(RULES))]
    rules = [{**rule, "seed": 2**63 + 9} for rule in RULES]
    rows = [row_struct(rule, row=i, slot=i) for i, rule in enumerate(rules)]
    for seed in SEEDS:
        sampler.set_slots([(-1, index) for index in indices])
        found = sampler.run(logits, rows, range(len(rows) + 1), seed=seed, ranged=ranged)
        for i, rule in enumerate(rules):
            expected = _core.sample_row(logits[i], rule, index=indices[i])
            assert_same(found[i], expected, logits[i], rule)
            assert sampler.slot(i) == (found[i].token, indices[i] + 1)


def test_a_longer_row() -> None:
    size = 5003
    rules = [{"top_p": 0.9}, {"top_k": 50}, {"n_logprobs": 20}, {"top_k": 3000, "top_p": 0.7}]
    sampler = Sampler(size, len(rules))
    logits = np.array([row_of(kind, size, 3) for kind in ("flat", "peaked", "ties", "flat")])
    rows = [row_struct({**rule, "seed": 5}, row=i, slot=i) for i, rule in enumerate(rules)]
    found = sampler.run(logits, rows, range(5), ranged=True)
    for i, rule in enumerate(rules):
        expected = _core.sample_row(logits[i], {**rule, "seed": 5})
        assert_same(found[i], expected, logits[i], rule)


@pytest.mark.parametrize("size", [1, 31, 64, 600])
def test_biases_penalties_and_masks(size: int) -> None:
    random = np.random.default_rng(size)
    n = 12
    sampler = Sampler(size, n)
    logits, rows, biases, masks, expected = [], [], [], [], []
    counts = np.zeros((n, size), np.uint32)
    for i in range(n):
        logits.append(row_of("huge" if i % 5 == 4 else "ties" if i % 2 else "flat", size, i))
        few = min(size, 20)
        seen = random.choice(size, few, replace=False)
        times = random.integers(0, 4, few)
        counts[i, seen] = SEEN + times
        biased = random.choice(size, few, replace=False).tolist()
        values = random.normal(0, 3, few).astype(np.float32)
        values[::7] = [-3.4e38, 1e30, 3.4e38][i % 3]
        own = list(zip(biased, values.tolist(), strict=True)) if i % 3 != 1 else []
        rule = {
            "temperature": float(random.choice([0.0, 0.7])),
            "top_p": float(random.choice([0.8, 1.0])),
            "top_k": int(random.choice([0, 5])),
            "repetition_penalty": float(random.choice([0.7, 1.0, 1.4, 1e-44])),
            "presence_penalty": float(random.choice([0.0, 0.5])),
            "frequency_penalty": float(random.choice([0.0, -0.3])),
            "seed": i,
            "n_logprobs": int(random.choice([-1, 0, 2])),
        }
        allowed = random.random(size) < random.choice([0.02, 0.5])
        padded = np.zeros(-(-size // 32) * 32, np.bool_)
        padded[:size] = allowed
        mask = np.packbits(padded, bitorder="little").view(np.uint32)
        has_mask = i % 4 == 0
        places = {"bias_begin": len(biases), "bias_end": len(biases) + len(own)}
        rows.append(row_struct(rule, row=i, slot=i, mask=len(masks) if has_mask else -1, **places))
        biases += own
        if has_mask:
            masks.append(mask)
        expected.append(
            _core.sample_row(
                logits[i],
                rule,
                counts=list(zip(seen.tolist(), times.tolist(), strict=True)),
                biases=own,
                mask=mask if has_mask else None,
            )
        )
    for seed in SEEDS:
        sampler.counts.write(counts)
        sampler.set_slots([(-1, 0)] * n)
        found = sampler.run(
            np.array(logits),
            rows,
            range(n + 1),
            biases=biases,
            masks=np.array(masks),
            seed=seed,
        )
        for i in range(n):
            assert_same(found[i], expected[i], logits[i], i)


def test_what_gives_no_token() -> None:
    size = 70
    logits = np.array([row_of("flat", size, i) for i in range(6)])
    logits[0, 3], logits[1, 69], logits[2] = np.nan, np.inf, -np.inf
    logits[5, 0] = np.nan
    sampler = Sampler(size, 6)
    masks = np.zeros((1, 3), np.uint32)
    rows = [
        row_struct({}, row=0, slot=0),
        row_struct({"temperature": 0.0}, row=1, slot=1),
        row_struct({"n_logprobs": 2}, row=2, slot=2),
        row_struct({}, row=3, slot=3, mask=0),
        row_struct({}, row=4, slot=4, target=0),
        row_struct({}, row=5, slot=5, target=1),
    ]
    found = sampler.run(logits, rows, range(7), masks=masks)
    assert [STATUS[row.status] for row in found] == [
        *["non_finite"] * 3,
        "empty_mask",
        "ok",
        "non_finite",
    ]
    assert [row.token for row in found] == [-1, -1, -1, -1, 0, -1]
    assert [sampler.slot(i) for i in range(6)] == [(-1, 0)] * 6
    assert not sampler.counts.numpy().any()


def test_scored_rows_leave_the_slot_alone() -> None:
    size = 90
    logits = np.array([row_of("impossible", size, 4), row_of("flat", size, 5)])
    impossible = int(np.flatnonzero(logits[0] == -np.inf)[0])
    sampler = Sampler(size)
    rule = {"n_logprobs": 20, "temperature": 0.0}
    rows = [
        row_struct(rule, row=row, slot=0, target=target)
        for row, target in ((0, impossible), (1, 0), (1, 89))
    ]
    found = sampler.run(logits, rows, range(4))
    for i, (row, target) in enumerate(((0, impossible), (1, 0), (1, 89))):
        expected = _core.sample_row(logits[row], rule, scored=target)
        assert_same(found[i], expected, logits[row], i)
    assert sampler.slot(0) == (-1, 0)
    assert not sampler.counts.numpy().any()


def test_a_unit_ends_with_the_first_token_that_is_not_its_guess() -> None:
    size = 50
    rule = {"frequency_penalty": 4.0, "presence_penalty": 1.0, "seed": 11, "n_logprobs": 0}
    logits = np.array([row_of("flat", size, i) for i in range(7)])
    for wrong in range(4):
        # What the CPU samples, each token counted for the next.
        counts = {7: 0, 8: 2}
        tokens: list[int] = []
        expected = []
        for i in range(4):
            row = _core.sample_row(logits[i], rule, index=5 + i, counts=list(counts.items()))
            expected.append(row)
            tokens.append(row[1])
            counts[row[1]] = counts.get(row[1], 0) + 1
        guesses = [(token + (i == wrong)) % size for i, token in enumerate(tokens[:3])] + [-1]
        rows = [row_struct(rule, row=i, slot=1, guess=guesses[i]) for i in range(4)]
        rows += [row_struct({"temperature": 0.0}, row=6, slot=0)]
        sampler = Sampler(size, 2)
        before = np.zeros((2, size), np.uint32)
        before[1, 7], before[1, 8] = SEEN, SEEN + 2
        for seed in SEEDS:
            sampler.counts.write(before)
            sampler.set_slots([(3, 0), (8, 5)])
            found = sampler.run(logits, rows, [0, 4, 5], seed=seed)
            reached = min(wrong + 1, 4)
            assert [row.sampled for row in found] == [1] * reached + [0] * (4 - reached) + [1]
            for i in range(reached):
                assert_same(found[i], expected[i], logits[i], i)
            assert all(row.token == -1 and row.n_top == 0 for row in found[reached:4])
            assert sampler.slot(1) == (tokens[reached - 1], 5 + reached)
            after = before[1].copy()
            for token in tokens[:reached]:
                after[token] = (int(after[token]) | SEEN) + 1
            assert np.array_equal(sampler.counts.numpy()[1], after)
            assert sampler.slot(0) == (int(np.argmax(logits[6])), 1)


@pytest.mark.parametrize("n", [1, 255, 257, 600])
def test_count_tokens(n: int) -> None:
    gpu = Gpu("sample")
    vocab = 40
    tokens = np.random.default_rng(n).integers(0, vocab, n)
    counts = gpu.put(np.zeros(vocab), np.uint32)
    state = gpu.put(records("SlotState", [fill("SlotState", last_token=-1, index=2)]))
    for is_output in (0, 1):
        args = fill(
            "CountTokensArgs",
            tokens=gpu.put(tokens, np.int32),
            counts=counts,
            slot=state,
            n=n,
            is_output=is_output,
        )
        gpu.launch("gptoss_count_tokens", -(-n // 256), 256, args)
        times = np.bincount(tokens, minlength=vocab)
        expected = np.where(times > 0, SEEN, 0) + times * is_output
        assert np.array_equal(counts.numpy(), expected)
        (slot,) = read_records("SlotState", state)
        last = (int(tokens[-1]), 2 + n) if is_output else (-1, 2)
        assert (slot.last_token, slot.index) == last
