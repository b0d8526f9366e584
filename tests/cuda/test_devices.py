"""Layers on several devices: the same bits as on one. Processes of their own, as each has devices
of its own.
"""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

import gptoss
from cuda.models import emulated, needs_device, run_and_say, run_elsewhere
from support.checkpoints import MICRO, alternating, make_checkpoint

pytestmark = [needs_device, emulated]

LIMITS = {"context_length": 192, "max_step_tokens": 32, "max_sequences": 4}
N_LAYERS = 3


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three layers; most of their bytes are experts."""
    folder = tmp_path_factory.mktemp("three")
    config = dataclasses.replace(
        MICRO,
        num_hidden_layers=N_LAYERS,
        layer_types=alternating(N_LAYERS),
        num_local_experts=16,
    )
    make_checkpoint(folder, config)
    return folder


SHARED = """
import ctypes, json, os, sys
import gptoss

MODEL, LIMITS = {model!r}, {limits!r}
driver = ctypes.CDLL("libcuda.so.1")
for name in ("emulatorGraphLaunches", "emulatorLaunches", "emulatorPeerCopies"):
    getattr(driver, name).restype = ctypes.c_uint64

def load(device, **options):
    return gptoss.load(MODEL, device=device, **(LIMITS | options))

def free_bytes():
    count, found = ctypes.c_int(), []
    assert driver.cuInit(0) == 0
    driver.cuDeviceGetCount(ctypes.byref(count))
    for ordinal in range(count.value):
        context, free, total = ctypes.c_void_p(), ctypes.c_size_t(), ctypes.c_size_t()
        assert driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), ordinal) == 0
        assert driver.cuCtxPushCurrent_v2(context) == 0
        assert driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)) == 0
        assert driver.cuCtxPopCurrent_v2(ctypes.byref(context)) == 0
        assert driver.cuDevicePrimaryCtxRelease_v2(ordinal) == 0
        found.append(free.value)
    return found

def kernel_that_fails(ordinal):
    context, module, function = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
    assert driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), ordinal) == 0
    assert driver.cuCtxPushCurrent_v2(context) == 0
    ptx = b".version 8.0\\n.target sm_80\\n.address_size 64\\n.visible .entry bad() {{ trap; }}\\n"
    assert driver.cuModuleLoadData(ctypes.byref(module), ptx) == 0
    assert driver.cuModuleGetFunction(ctypes.byref(function), module, b"bad") == 0
    driver.cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, None, None, None)
    assert driver.cuCtxSynchronize() != 0
    assert driver.cuCtxPopCurrent_v2(ctypes.byref(context)) == 0

def answers(llm, n=3):
    # A prompt of several chunks, a batch, what is cached, and samples of one prompt.
    long = [(7 * i * i + i) % 280 for i in range(66)]
    some = gptoss.SamplingParams(max_tokens=n, temperature=1.0, seed=3, ignore_eos=True, logprobs=2)
    results = [llm.generate(long, some), *llm.generate([long, [5, 9, 11], [7]], some)]
    assert results[1].usage.cached_tokens >= 64
    twice = llm.generate([4, 4, 4, 4], some, n=2, logit_bias={{4: 9.0}})
    found = [sample.token_ids for sample in twice.samples]
    for result in results:
        found.append([result.token_ids, [[e.token_id, e.logprob] for e in result.logprobs]])
    # What is inside the layers of each device, and vectors that are added there.
    steer = {{layer: [0.1 * layer - 0.2] * 31 + [5.0] for layer in range(3)}}
    trace = llm.trace(long[:7], steer=steer)
    found.append([a.tolist() for a in (trace.hidden, trace.router, trace.experts, trace.sinks)])
    found.append([a.tolist() for a in (trace.expert_weights, *trace.attention)])
    found.append(llm.generate(long[:7], some, steer=steer).token_ids)
    return json.dumps(found)
"""


def shared(model: Path) -> str:
    return SHARED.format(model=str(model), limits=LIMITS)


def run(model: Path, code: str, devices: str, **environment: str) -> list[str]:
    return run_elsewhere(shared(model) + code, devices, **environment).splitlines()


THREE = "{0}:memory=64M;{0}:memory=48M;{0}:memory=96M"

EQUAL = """
options = {options!r}
with load("cuda:0", **options) as llm:
    expected = answers(llm)
assert driver.emulatorPeerCopies() == 0
for device, graphs in {devices!r}:
    os.environ["GPTOSS_CUDA_GRAPHS"] = graphs
    before = driver.emulatorGraphLaunches()
    with load(device, **options) as llm:
        found = answers(llm)
        print(llm.description.split(", KV cache")[0], flush=True)
    assert found == expected, device
    assert (driver.emulatorGraphLaunches() > before) == (graphs != "0"), device
assert driver.emulatorPeerCopies() > 0
"""


@pytest.mark.parametrize(
    ("card", "options", "devices"),
    [
        ("A100", {}, [("cuda:0,1", "0"), ("cuda:0,1", "48"), ("cuda:2,0,1", "48")]),
        ("A100", {"dense": "q8", "kv_cache_dtype": "int8"}, [("cuda:1,2", "48")]),
        # Where kernels overlap, beside copies between devices and calls of the host.
        ("H100", {"speculative": "ngram"}, [("cuda:0,1,2", "48")]),
        # Of the first card's layers and of some of the second's.
        ("H100", {"cpu_experts": 2}, [("cuda:0,1,2", "48"), ("cuda:0,2", "0")]),
        ("H100", {"cpu_experts": 3}, [("cuda:0,1,2", "48")]),  # no device has any
    ],
)
def test_bits_are_those_of_one_device(
    card: str, options: dict[str, Any], devices: list[tuple[str, str]], model: Path
) -> None:
    # Access of devices to each other changes nothing.
    peers = "1" if "dense" in options else "0"
    code = EQUAL.format(options=options, devices=devices)
    three = THREE.format(card)
    described = run(model, code, three, GPTOSS_EMULATOR_PEERS=peers, GPTOSS_EMULATOR_SEED="7")
    for (device, _), text in zip(devices, described, strict=True):
        ordinals = device.removeprefix("cuda:").split(",")
        assert re.findall(r"\(cuda:(\d), layers", text) == ordinals
        # Together they have every layer once, in order.
        bounds = [int(n) for pair in re.findall(r"layers (\d+) to (\d+)", text) for n in pair]
        assert bounds[0] == 0
        assert bounds[-1] == N_LAYERS - 1
        assert bounds[2::2] == [n + 1 for n in bounds[1:-1:2]]


STORED = """
folder = {folder!r}
prompt = [(7 * i * i + i) % 280 for i in range(150)]
kept = []
for device in ("cuda:0,1", "cuda:0", "cuda:1,0"):
    with load(device, prefix_cache_dir=folder) as llm:
        result = llm.generate(prompt, max_tokens=3, temperature=0, ignore_eos=True)
        kept.append(result.token_ids)
        print(result.usage.cached_tokens, flush=True)
assert kept[1] == kept[0] and kept[2] == kept[0]
"""


def test_stored_pages_are_those_of_one_device(model: Path, tmp_path: Path) -> None:
    found = run(model, STORED.format(folder=str(tmp_path / "pages")), "A100;A100")
    assert found == ["0", "128", "128"]


CHAT = """
MODEL = "demo"
found = []
for device in ("cuda:0", "cuda:0,1"):
    with load(device) as llm:
        result = llm.chat([{"role": "user", "content": "Hi"}], max_tokens=2, temperature=0)
        found.append(result.message)
assert found[0] == found[1], found
"""


def test_the_demo_answers_a_chat(model: Path) -> None:
    run(model, CHAT, "A100;A100")


def needed_bytes(model: Path, **options: Any) -> int:
    limits = {"max_sequences": LIMITS["max_sequences"], "chunk_tokens": LIMITS["max_step_tokens"]}
    modes = limits | {"device": "cuda"} | options
    return gptoss.estimate_memory(model, LIMITS["context_length"], **modes).total_bytes


CHOOSE = """
os.dup2(1, 2)
before = free_bytes()
with load("cuda", **{options!r}) as llm:
    print(llm.description.split(", KV cache")[0], flush=True)
    print(llm.generate([3, 4, 5], max_tokens=3, temperature=0, ignore_eos=True).token_ids)
    print([a - b for a, b in zip(before, free_bytes())], flush=True)
assert free_bytes() == before
"""


def test_takes_as_few_devices_as_are_needed(model: Path) -> None:
    needed = needed_bytes(model)
    code = CHOOSE.format(options={})

    def run_with(*shares: float) -> list[str]:
        devices = ";".join(f"A100:memory={int(share * needed * 32 / 31)}" for share in shares)
        return run(model, code, f"T4;{devices}")

    # One is enough: the first that is.
    *_, text, tokens, held = run_with(0.3, 1.1, 1.2)
    assert text == "cuda, Emulated A100"
    assert [size > 0 for size in json.loads(held)] == [False, False, True, False]
    # Two are needed, and are those with most memory.
    note, text, same, held = run_with(0.8, 0.3, 0.9)
    assert same == tokens
    assert re.findall(r"\(cuda:(\d), layers", text) == ["1", "3"]
    where = r"on cuda:{} \(Emulated A100\), 0\.0 GB"
    pieces = rf"gptoss: three\d*: layers \S.* {where.format(1)}, \S.* {where.format(3)}"
    assert re.fullmatch(pieces, note)
    unused, first, idle, last = json.loads(held)
    assert unused == idle == 0
    assert 0 < first < 0.8 * needed
    assert 0 < last < 0.9 * needed


def test_devices_first_then_the_cpu(model: Path) -> None:
    needed = needed_bytes(model, max_sequences=1)
    code = CHOOSE.format(options={"max_sequences": 1})
    devices = ";".join(f"A100:memory={int(share * needed)}" for share in (0.45, 0.66))
    layers, experts, text, _tokens, held = run(model, code, devices)
    assert "layers 0" in layers
    assert re.search(r"experts of [12] of 3 layers in RAM .* all else on the GPUs$", experts)
    assert "(cuda:1, layers" in text
    assert all(size > 0 for size in json.loads(held))


REFUSED = """
before = free_bytes()
for device, options in {cases!r}:
    try:
        load(device, **options)
        print("loaded")
    except (gptoss.BackendError, MemoryError, ValueError) as error:
        print(type(error).__name__, error)
assert driver.emulatorLaunches() == 0
assert free_bytes() == before
"""


def test_what_fits_nowhere_says_what_each_device_has(model: Path) -> None:
    cases = [
        ("cuda", {"cpu_experts": 0}),
        ("cuda:0", {"cpu_experts": 0}),
        ("cuda:0,1", {"context_length": 8192, "max_sequences": 1, "cpu_experts": 3}),
    ]
    small = "A100:memory=200K;RTX 3090:memory=104K"
    weights, one = run(model, REFUSED.format(cases=cases[:2]), small)
    for name, size in (("A100", "0.20 MB"), ("RTX 3090", "0.10 MB")):
        assert re.search(rf"cuda:\d \(Emulated {name}\) needs \d+\.\d+ .B of {size}", weights)
    assert weights.startswith("MemoryError [cuda] the weights take ")
    assert "and 2 devices have" in weights
    assert "cuda:0 (Emulated A100) has" in one
    assert "RTX" not in one
    needed = needed_bytes(model)
    devices = f"A100:memory={needed};A100:memory={needed}"
    (context,) = run(model, REFUSED.format(cases=cases[2:]), devices)
    assert "a context of 8192 tokens takes" in context
    assert re.search(r"of KV cache on cuda:\d \(Emulated A100\), and only", context)
    assert re.search(r"\(cuda:0 .* free, and needs .*; cuda:1 .* of workspace\)$", context)


NAMES = [
    ("cuda:2", "there is no device cuda:2: the driver shows 2, numbered from 0"),
    ("cuda:0,0", "device cuda:0 is named twice"),
    ("cuda:1", "device cuda:1 is not new enough: Emulated T4 has compute capability 7.5"),
    ("cuda:", "device 'cuda:': expected ordinals behind the colon, as cuda:0 or cuda:0,1"),
    ("cuda:0,", "expected ordinals"),
    ("cuda:x", "expected ordinals"),
    ("cuda:-1", "expected ordinals"),
    ("cuda:0 1", "expected ordinals"),
    ("cpu:0", "cpu has no numbered devices"),
]


def test_names_that_are_none(model: Path) -> None:
    found = run(model, REFUSED.format(cases=[(name, {}) for name, _ in NAMES]), "A100;T4")
    for line, (_, expected) in zip(found, NAMES, strict=True):
        assert line.startswith("BackendError ")
        assert expected in line


def test_more_devices_than_layers(model: Path) -> None:
    (line,) = run(model, REFUSED.format(cases=[("cuda:0,1,2,3", {})]), "A100;A100;A100;A100")
    assert "a model of 3 layers can be split over as many devices, got 4" in line


VISIBLE = """
with load({device!r}) as llm:
    print(llm.description)
"""


@pytest.mark.parametrize(
    ("visible", "device", "expected"),
    [
        ("1", "cuda", "cuda, Emulated RTX 3090, "),
        ("2,0", "cuda:0,1", "Emulated H100 (cuda:0, layers 0 to 1), Emulated A100 (cuda:1,"),
    ],
)
def test_only_visible_devices_count(visible: str, device: str, expected: str, model: Path) -> None:
    devices = "A100;RTX 3090;H100"
    code = VISIBLE.format(device=device)
    (line,) = run(model, code, devices, CUDA_VISIBLE_DEVICES=visible)
    assert expected in line


LOST = """
llm = load("cuda:0,1,2")
llm.generate([1], max_tokens=1)
for ordinal in {ordinals}:
    kernel_that_fails(ordinal)
for _ in range(2):
    try:
        llm.generate([1], max_tokens=3, ignore_eos=True)
        print("no error")
    except gptoss.BackendError as error:
        print(error)
llm.close()
del llm
with load("cuda:{other}") as llm:
    print(len(llm.generate([1], max_tokens=2, ignore_eos=True).token_ids))
"""


@pytest.mark.parametrize(("ordinals", "other"), [([0], 1), ([2], 0), ([2, 1], 0)])
def test_lost_devices_are_named_each_time(ordinals: list[int], other: int, model: Path) -> None:
    first, second, after = run(model, LOST.format(ordinals=ordinals, other=other), "A100;A100;A100")
    named = [int(n) for n in re.findall(r"\[cuda:(\d)\] .*?CUDA_ERROR", first)]
    assert sorted(named) == sorted(ordinals)
    assert second == first
    assert after == "2"


UNAVAILABLE = """
for device in {devices!r}:
    try:
        with load(device) as llm:
            print(llm.description.split(", KV cache")[0], flush=True)
            print(llm.generate([3, 4, 5], max_tokens=3, ignore_eos=True, temperature=0).token_ids)
    except gptoss.BackendError as error:
        print(type(error).__name__, error)
print(json.dumps(gptoss._core.device_rooms("cuda", [])))
"""


def test_a_card_that_another_process_has_is_passed_over(model: Path) -> None:
    code = UNAVAILABLE.format(devices=["cuda", "cuda:1", "cuda:0", "cuda:1,0"])
    found = run(model, code, "A100:unavailable;RTX 3090")
    assert found[0] == found[2] == "cuda, Emulated RTX 3090"
    assert found[1] == found[3]
    for line in found[4:6]:  # they were asked for
        assert re.match(r"BackendError .*context of cuda:0 \(Emulated A100\): .*UNAVAILABLE", line)
    assert [name for name, _ in json.loads(found[6])] == ["cuda:1 (Emulated RTX 3090)"]
    assert len(found) == 7


def test_no_card_can_be_had(model: Path) -> None:
    code = UNAVAILABLE.replace("print(json", "# ").format(devices=["cuda"])
    (line,) = run(model, code, "A100:unavailable;RTX 3090:unavailable")
    assert "BackendError" in line
    assert "cuda:0 (Emulated A100)" in line  # the first says why


CONTEXTS = """
from gptoss.cli import main
driver.emulatorContexts.restype = ctypes.c_uint64
for arguments in {cases!r}:
    before = driver.emulatorContexts()
    assert main(["info", MODEL, "--device", "cuda", *arguments]) == 0
    print("contexts", driver.emulatorContexts() - before)
"""


def test_info_asks_each_card_once(model: Path) -> None:
    found = run(model, CONTEXTS.format(cases=[[], ["--memory", "24GB"]]), "T4;A100;RTX 3090")
    counts = [line.split()[1] for line in found if line.startswith("contexts ")]
    assert counts == ["2", "0"]  # the T4 is too old to be asked
    assert any("Planned for what is free on the cards that are here" in line for line in found)


FAIL = """
def fail(device, at_call, after, error):
    driver.emulatorFail(device, at_call, ctypes.c_uint64(after), error)

OUT_OF_MEMORY, ILLEGAL_ADDRESS, ECC_UNCORRECTABLE = 2, 700, 214

def attempt(llm, prompt, **options):
    try:
        return str(llm.generate(prompt, max_tokens=3, ignore_eos=True, temperature=0).token_ids)
    except (gptoss.BackendError, MemoryError) as error:
        return f"{{type(error).__name__}} {{error}}"
"""

FULL = (
    FAIL
    + """
prompt = [(7 * i * i + i) % 280 for i in range(40)]
with load("cuda:0,1") as llm:
    expected = attempt(llm, prompt)
for device, at in {cases!r}:
    with load("cuda:0,1") as llm:
        # The slot's first step: its rows of the tables have never been on a device.
        fail(device, 1, at, OUT_OF_MEMORY)
        print(attempt(llm, prompt))
        assert attempt(llm, prompt) == expected
"""
)


def test_what_a_step_lacks_memory_for_ends_that_step_alone(model: Path) -> None:
    """Of the tables what has changed is sent once: to all devices, whatever happens on one."""
    cases = [(0, 0), (0, 9), (1, 14)]
    found = run(model, FULL.format(cases=cases), "A100;A100", GPTOSS_CUDA_GRAPHS="0")
    assert len(found) == len(cases)
    for (device, _), line in zip(cases, found, strict=True):
        assert re.match(rf"MemoryError \[cuda:{device}\] .*CUDA_ERROR_OUT_OF_MEMORY", line), line


LOST_MIDWAY = (
    FAIL
    + """
prompt = [(7 * i * i + i) % 280 for i in range(100)]
for device, after in {cases!r}:
    with load("cuda:0,1,2") as llm:
        attempt(llm, prompt[:5])
        fail(device, 0, after, ILLEGAL_ADDRESS)
        print(attempt(llm, prompt), flush=True)
        print(attempt(llm, prompt), flush=True)
    for ordinal in range(3):
        assert driver.cuDevicePrimaryCtxReset_v2(ordinal) == 0
"""
)


def test_a_device_that_fails_in_a_step_is_named(model: Path) -> None:
    cases = [(2, 10), (0, 20)]
    found = run(model, LOST_MIDWAY.format(cases=cases), "A100;A100;A100")
    assert len(found) == 2 * len(cases)
    for i, (device, _) in enumerate(cases):
        first, again = found[2 * i : 2 * i + 2]
        assert re.match(rf"BackendError \[cuda:{device}\] .*CUDA_ERROR_ILLEGAL_ADDRESS", first), (
            first
        )
        assert again == first
        assert first.count("[cuda:") == 1


GUEST = """
import threading
context, stream, graph = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
assert driver.cuInit(0) == 0
assert driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
assert driver.cuCtxPushCurrent_v2(context) == 0
assert driver.cuStreamCreate(ctypes.byref(stream), 1) == 0
with load("cuda:0") as llm:
    expected = llm.generate([1, 2, 3], max_tokens=3, temperature=0, ignore_eos=True).token_ids
assert driver.cuStreamBeginCapture_v2(stream, 0) == 0  # no thread may do what is not safe
with load("cuda:0,1") as llm:
    found = llm.generate([1, 2, 3], max_tokens=3, temperature=0, ignore_eos=True, logprobs=1)
    assert found.token_ids == expected
assert driver.cuStreamEndCapture(stream, ctypes.byref(graph)) == 0
mode = ctypes.c_int(1)
assert driver.cuThreadExchangeStreamCaptureMode(ctypes.byref(mode)) == 0
assert mode.value == 0  # it is as before
child = os.fork()
if child == 0:
    for device in ("cuda", "auto"):
        try:
            with load(device, max_sequences=1) as llm:
                print(llm.description.split(",")[0], flush=True)
        except gptoss.BackendError as error:
            print(error, flush=True)
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


def test_other_libraries_may_capture_meanwhile_and_a_fork_is_told(model: Path) -> None:
    cuda, auto = run(model, GUEST, "A100;A100")
    assert "device 'cuda' is not available: this process was forked from one that had" in cuda
    assert auto.startswith("cpu")


LOST_AND_CLOSED = (
    FAIL.format()
    + """
prompt = [(7 * i * i + i) % 280 for i in range(100)]
llm = load("cuda:0,1,2")
guest = load("cuda:0")
alone = attempt(guest, [1, 2, 3])
print(attempt(llm, prompt))
llm.close()
del llm
print(attempt(guest, [1, 2, 3]) == alone)
guest.close()
del guest
sys.stderr.write("closed\\n")
for device in ("cuda:0", "cuda:1", "cuda:2", "cuda:3", "cuda"):
    try:
        with load(device) as llm:
            print(llm.description.split(", KV cache")[0], attempt(llm, [1, 2, 3]))
    except gptoss.BackendError as error:
        print(error)
"""
)


@pytest.mark.parametrize("endless", [False, True])
def test_closing_ends_after_a_device_is_lost(endless: bool, model: Path) -> None:
    """Work of the others that waits for the lost device may never end."""
    said, notes = run_and_say(
        shared(model) + LOST_AND_CLOSED,
        "A100;A100;A100;A100",
        timeout_s=120,
        GPTOSS_EMULATOR_LOSE="1@75",
        GPTOSS_EMULATOR_ENDLESS=str(int(endless)),
    )
    step, guest, first, lost, last, unused, chosen = said.splitlines()
    assert step.startswith("BackendError [cuda:1] the device's work: ")
    before_close, after = notes.split("closed\n")
    left = [line for line in before_close.splitlines() if "has not ended" in line]
    assert len(left) == (2 if endless else 0)
    if endless:  # another model is on a card with work that was left
        assert guest == "True"
        assert left[1].endswith(" on cuda:0 (Emulated A100)")
    assert "context of cuda:1" in lost
    for line, device in ((first, "cuda:0"), (last, "cuda:2")):
        if endless:
            assert line.startswith(f"[{device}] Emulated A100 still has work of a model that was")
            assert f"{device} (Emulated A100)" in left[0]
        else:
            assert line == unused
    assert unused.startswith("cuda, Emulated A100 [")
    assert chosen == unused
    assert "gptoss:" not in after


LOST_UNDER = (
    FAIL.format()
    + """
llm = load("cuda:0,1,2")
some = gptoss.SamplingParams(max_tokens=4, ignore_eos=True, temperature=0.0)
llm.generate([1, 2, 3], some, logit_bias={1: 1.0})  # in both flights there is room for one
driver.emulatorLoseAfter.restype = ctypes.c_bool
assert driver.emulatorLoseAfter(1, ctypes.c_uint64(3))
for _ in range(2):
    try:
        WHAT
        print("no error")
    except gptoss.BackendError as error:
        print(error)
llm.close()
"""
)


@pytest.mark.parametrize(
    "what",
    [
        "llm.logits(list(range(20)))",
        "llm.trace(list(range(20)), layers=[2], what='hidden')",
        "llm.generate([9, 8, 7], some, logit_bias={i: 0.5 for i in range(100)})",
    ],
    ids=["logits", "trace", "biases"],
)
def test_no_copy_waits_for_a_device_that_is_lost(what: str, model: Path) -> None:
    """A driver may copy memory that is not pinned, and free, only once the work ahead has ended."""
    said, _ = run_and_say(
        shared(model) + LOST_UNDER.replace("WHAT", what),
        "A100;A100;A100",
        timeout_s=120,
        GPTOSS_EMULATOR_ENDLESS="1",
        GPTOSS_EMULATOR_SEED="4",
    )
    first, again = said.splitlines()
    assert first.startswith("[cuda:1] ")
    assert first.count("[cuda:") == 1
    assert again == first


CLOSED = """
before = free_bytes()
llm = load("cuda:0,1", cpu_experts=1)
held = [a - b for a, b in zip(before, free_bytes())]
assert min(held) > 0
llm.generate([1, 2, 3], max_tokens=2)
assert [a - b for a, b in zip(before, free_bytes())] == held  # a step allocates nothing
request = llm.submit([1, 2, 3], max_tokens=20, ignore_eos=True)
llm.close()  # with a step in flight
del llm, request
assert free_bytes() == before
# After a step that failed, too, whose error is kept.
llm = load("cuda:0,1")
driver.emulatorFail(1, 1, ctypes.c_uint64(9), 2)
try:
    llm.generate([1, 2, 3], max_tokens=2)
    raise SystemExit("no error")
except MemoryError as error:
    kept = error
llm.close()
del llm
assert free_bytes() == before
# What fails on the second is given back on both.
try:
    load("cuda:0,1", kv_cache_memory=1 << 40, cpu_experts=0)
except MemoryError as error:
    print(error)
assert free_bytes() == before
"""


def test_gives_everything_back_on_every_device(model: Path) -> None:
    needed = needed_bytes(model)
    run(model, CLOSED, f"A100;A100:memory={needed}")


KINDS = """
prompt = [(7 * i * i + i) % 280 for i in range(70)]
for device in ("cuda:0", "cuda:0,1", "cuda:0,1", "cuda:1,0"):
    with load(device, prefix_cache_dir={folder!r}) as llm:
        result = llm.generate(prompt, max_tokens=2, temperature=0, ignore_eos=True)
        print(result.usage.cached_tokens, flush=True)
"""


def test_two_kinds_of_device_are_told_apart(model: Path, tmp_path: Path) -> None:
    # Tensor cores of two kinds may round otherwise: stored pages are not each other's.
    found = run(model, KINDS.format(folder=str(tmp_path / "pages")), "A100;RTX 3090")
    assert found == ["0", "0", "64", "0"]


def test_doctor_names_all_devices() -> None:
    code = "from gptoss.cli import main; main(['doctor'])"
    out = " ".join(run_elsewhere(code, "A100;T4;RTX 3090", COLUMNS="400").split())
    assert "cuda:0: Emulated A100, compute capability 8.0" in out
    assert "cuda:2: Emulated RTX 3090, compute capability 8.6" in out
