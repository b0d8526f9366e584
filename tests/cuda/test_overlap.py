"""Kernels that begin before the one ahead of them has ended (programmatic dependent launch), on an
emulated card of compute capability 9.0: nothing races, no bit depends on it, and a wait that is
missing is found. Processes of their own, as each has a card of its own.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import gptoss
from cuda.kernels import structs
from cuda.models import emulated, needs_device, run_and_say, run_elsewhere
from cuda.ptx import Kernel, Statement
from gptoss import _core
from support.checkpoints import MICRO, make_checkpoint

pytestmark = [needs_device, emulated]

FULL = bool(os.environ.get("GPTOSS_EMULATOR_FULL"))
WAIT, LAUNCH = "griddepcontrol.wait;", "griddepcontrol.launch_dependents;"

# What kernels read through the read-only path, with or without a place in L1, by fields of args.h:
# weights, which no kernel of a step writes. CUDA promises nothing of that path for what a kernel
# writes that may still run, as the one ahead may.
READ_ONLY = {
    r"gptoss_dense_matmul_bf16_(8|32|64)": ("DenseMatmulArgs", ["w"]),
    r"gptoss_q8(_0)?_matmul_(8|32)": ("Q8MatmulArgs", ["codes", "scales"]),
    r"gptoss_gate_up_bf16_(8|32|64)": ("GateUpArgs", ["w.blocks", "w.scales"]),
    r"gptoss_down_bf16_(8|32|64)": ("DownArgs", ["w.blocks", "w.scales"]),
    r"gptoss_route_(bf16|f32)": ("RouteArgs", ["router"]),
}
# What else is read before the wait: which pages to prefetch. The host writes it before the step.
OF_THE_STEP = {
    r"gptoss_attention_(split|tile)_(16|32|64)(_int8)?": (
        "AttentionArgs",
        ["step.positions", "step.token_slots", "step.sequence_offsets", "kv.table"],
    )
}
# Memory that is no other kernel's, and what brings memory nearer without a look at it.
HARMLESS = re.compile(r"(?:ld\.param|(?:ld|st|atom|red)\.shared|prefetch\.global\.L2)\b")
ACCESS = re.compile(r"(?:ldu?|st|atom|red|cp|multimem|mbarrier|tex|su(?:ld|st|red)|prefetchu?)\.")


@cache
def kernels(target: str) -> dict[str, str]:
    """Return the PTX of each kernel for a target, by its name, as it lies in the library."""
    found: dict[str, str] = {}
    library = Path(_core.__file__).read_bytes()
    for image in re.findall(rb"\.target %s\b[^\0]*" % target.encode(), library):
        _, *parts = re.split(r"\.entry (\w+)\(", image.decode())
        found |= zip(parts[::2], parts[1::2], strict=True)
    return found


def fields(kernel: str, table: dict[str, tuple[str, list[str]]]) -> set[int]:
    """Return the offsets of what a table says of a kernel."""
    found = set()
    for pattern, (name, paths) in table.items():
        if re.fullmatch(pattern, kernel):
            for path in paths:
                kind, offset = structs()[name], 0
                for field in path.split("."):
                    offset += getattr(kind, field).offset
                    kind = dict(kind._fields_)[field]
                found.add(offset)
    return found


def out_of_turn(kernel: str, text: str) -> set[str]:
    """Return what a kernel does that must not be done beside the one ahead of it."""
    code = Kernel(text)
    origins = code.origins()
    weights, of_the_step = fields(kernel, READ_ONLY), fields(kernel, OF_THE_STEP)

    def are_of(allowed: set[int], access: Statement) -> bool:
        return bool(found := origins(access.address)) and found <= allowed

    found = set()
    for at in code.before(LAUNCH[:-1]):
        if at.op == WAIT[:-1]:
            found.add("waits before the next may be launched")
    for at in code.before(WAIT[:-1]):
        if re.match(r"(?:ret|exit)\b", at.op):
            found.add("ends without a wait")
        elif ACCESS.match(at.op) and not HARMLESS.match(at.op):
            is_load = at.op.startswith("ld.global.")
            is_streamed = at.op.startswith("ld.global.nc.L1::no_allocate.")
            if not is_load or not are_of(weights if is_streamed else of_the_step, at):
                found.add(f"before the wait: {at.op}")
    for at in code.statements:
        if at.op.startswith("ld.global.nc.") and not are_of(weights, at):
            found.add(f"through the read-only path: {at.op}")
    return found


def test_every_kernel_waits_and_older_cards_have_nothing_of_it() -> None:
    older, newer = kernels("sm_80"), kernels("sm_90")
    assert older.keys() == newer.keys()
    assert len(newer) > 50
    for table in (READ_ONLY, OF_THE_STEP):
        for pattern in table:
            assert any(re.fullmatch(pattern, kernel) for kernel in newer), pattern
    found = {kernel: out_of_turn(kernel, text) for kernel, text in newer.items()}
    assert {kernel: faults for kernel, faults in found.items() if faults} == {}
    for kernel, text in older.items():
        assert "griddepcontrol" not in text, kernel
        assert "prefetch" not in text, kernel


@pytest.mark.parametrize(
    ("kernel", "old", "new", "fault"),
    [
        ("gptoss_finite", WAIT, "", "ends without a wait"),
        ("gptoss_finite", LAUNCH, "@%p1 ret; " + LAUNCH, "ends without a wait"),
        ("gptoss_finite", WAIT, "@%p1 " + WAIT, "ends without a wait"),
        ("gptoss_finite", LAUNCH, "", "waits before the next may be launched"),
        (
            "gptoss_finite",
            WAIT,
            "st.global.u32 [%rd1], %r1; " + WAIT,
            "before the wait: st.global.u32",
        ),
        ("gptoss_finite", WAIT, "ld.u32 %r1, [%rd1]; " + WAIT, "before the wait: ld.u32"),
        (
            "gptoss_attention_tile_16",
            WAIT,
            "ld.param.u64 %rd1, [gptoss_attention_tile_16_param_0+72]; "  # qkv
            "ld.global.f32 %f1, [%rd1]; " + WAIT,
            "before the wait: ld.global.f32",
        ),
        (
            "gptoss_dense_matmul_bf16_64",
            "[%rd1+-60]",  # w, with %rd1 at `rows`
            "[%rd1+-68]",  # x
            "before the wait: ld.global.nc.L1::no_allocate.v4.u32",
        ),
        (
            "gptoss_down_f32",
            "ld.global.f32",
            "ld.global.nc.f32",
            "through the read-only path: ld.global.nc.f32",
        ),
    ],
)
def test_what_is_out_of_turn_is_found(kernel: str, old: str, new: str, fault: str) -> None:
    text = kernels("sm_90")[kernel]
    assert out_of_turn(kernel, text) == set()
    assert old in text
    assert fault in out_of_turn(kernel, text.replace(old, new))


@pytest.mark.parametrize(
    ("kernel", "loads"),
    [
        ("gptoss_dense_matmul_bf16_8", 8),  # two groups of four steps
        ("gptoss_dense_matmul_bf16_64", 8),  # a group of two tiles
        ("gptoss_q8_matmul_8", 9),  # three groups: codes of two blocks, scales
    ],
)
def test_weights_are_read_before_the_wait(kernel: str, loads: int) -> None:
    ahead = Kernel(kernels("sm_90")[kernel]).before(WAIT[:-1])
    assert sum(at.op.startswith("ld.global.nc.L1::no_allocate") for at in ahead) == loads


@pytest.fixture(scope="module")
def micro(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("micro")
    make_checkpoint(folder, MICRO)
    return folder


# Prompts that tiled kernels take, alone and in pieces; one comes to positions where attention is
# split.
ANSWERS = """
import ctypes, os
import gptoss

driver = ctypes.CDLL("libcuda.so.1")
driver.emulatorOverlapping.restype = ctypes.c_uint64
some = gptoss.SamplingParams(
    max_tokens={tokens}, temperature=1.0, seed=3, ignore_eos=True, logprobs=2
)
prompts = [[(7 * i * i + i) % 280 for i in range(n)] for n in {lengths}]

def answers(overlaps, graphs):
    os.environ["GPTOSS_CUDA_PDL"], os.environ["GPTOSS_CUDA_GRAPHS"] = overlaps, graphs
    before = driver.emulatorOverlapping()
    with gptoss.load(
        {path!r}, device="cuda", context_length=192, max_step_tokens=96, max_sequences=4,
        **{options},
    ) as llm:
        found = llm.generate(prompts, some) + [llm.generate(prompts[-1], some)]
    text = repr([(result.token_ids, result.logprobs) for result in found])
    return text, driver.emulatorOverlapping() - before
"""

COMPARED = """
expected, none = answers("0", "48")
assert none == 0, none
for graphs in ("48", "0"):
    found, overlapping = answers("1", graphs)
    assert found == expected, graphs
    print(overlapping)
"""


MODES: dict[str, dict[str, Any]] = {
    "bf16": {},
    "int8": {"dense": "q8", "kv_cache_dtype": "int8"},
    "f32": {"precision": "reference"},
}


@pytest.mark.parametrize("seed", range(1, 7 if FULL else 2))
@pytest.mark.parametrize("options", MODES.values(), ids=MODES)
def test_nothing_races_and_no_bit_depends_on_it(
    options: dict[str, Any], seed: int, micro: Path
) -> None:
    lengths = (3, 2) if "precision" in options else (130, 3)
    code = ANSWERS.format(path=str(micro), options=options, tokens=4, lengths=lengths)
    out = run_elsewhere(code + COMPARED, "H100", GPTOSS_EMULATOR_SEED=str(seed))
    in_graphs, alone = map(int, out.split())
    assert in_graphs > 50
    assert alone > 50


def patched(folder: Path, change: Callable[[bytes], bytes]) -> str:
    """Copy the package with its library changed; return where Python finds it."""
    library = Path(_core.__file__)
    package = folder / "gptoss"
    package.mkdir()
    for entry in Path(gptoss.__file__).parent.iterdir():
        if entry.suffix != ".so":
            (package / entry.name).symlink_to(entry)
    (package / library.name).write_bytes(change(library.read_bytes()))
    return os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])


def without_newer_kernels(library: bytes) -> bytes:
    """Say of PTX for 9.0, in what stands before it in a fat binary, that it is for 20.0."""
    entry = rb"(\x01\0\x01\x01[\x40-\xff]\0\0\0.{20})%b"
    old, new = (struct.pack("<I", number) for number in (90, 200))
    out, count = re.subn(entry % re.escape(old), rb"\g<1>" + new, library, flags=re.DOTALL)
    assert count > 5
    return out


def test_what_cannot_overlap_is_launched_in_order(micro: Path, tmp_path: Path) -> None:
    code = ANSWERS.format(path=str(micro), options={}, tokens=4, lengths=(3,))
    code += "for graphs in ('48', '0'):\n    print(*answers('1', graphs), sep='|')\n"

    def run(card: str, **environment: str) -> tuple[set[str], list[int]]:
        lines = run_elsewhere(code, card, **environment).splitlines()
        parts = [line.rpartition("|") for line in lines]
        return {text for text, _, _ in parts}, [int(count) for _, _, count in parts]

    expected, (in_graphs, alone) = run("H100")
    assert 0 < in_graphs <= alone
    assert run("A100")[1] == [0, 0]
    # Kernels for 8.0 do not wait, on whatever card.
    found, counts = run("H100", PYTHONPATH=patched(tmp_path, without_newer_kernels))
    assert counts == [0, 0]
    assert found == expected
    # Edges of graphs came with CUDA 12.3.
    found, (in_graphs_then, alone_then) = run("H100", GPTOSS_EMULATOR_DRIVER="535")
    assert 0 < in_graphs_then < in_graphs
    assert alone_then == alone
    assert found == expected


REFUSED = """
expected, none = answers("0", "48")
for graphs in ("48", "48", "0"):
    found, overlapping = answers("1", graphs)
    assert found == expected, graphs
    print(overlapping)
"""


@pytest.mark.parametrize("refused", ["launches", "edges", "graphs", "launches;edges"])
def test_what_a_driver_refuses_of_it_is_gone_without(refused: str, micro: Path) -> None:
    code = ANSWERS.format(path=str(micro), options={}, tokens=4, lengths=(3,)) + REFUSED
    out, said = run_and_say(code, "H100", GPTOSS_EMULATOR_REFUSE=refused)
    first, again, alone = map(int, out.split())
    assert first == again
    # Of each of the two it is said, once, whatever is loaded later.
    notes = [line for line in said.splitlines() if line.startswith("gptoss: ")]
    launches_do_not = "launches" in refused
    graphs_do_not = refused.removeprefix("launches").strip(";") != ""
    assert len(notes) == graphs_do_not + launches_do_not, said
    for note in notes:
        assert note.startswith("gptoss: cuda:0 (Emulated H100): its driver does not take kernels")
        assert "CUDA_ERROR_NOT_SUPPORTED" in note
    assert sum("in a graph" in note for note in notes) == graphs_do_not
    assert (alone > 0) == (not launches_do_not)
    # Beside graphs some are launched alone.
    assert (first < alone) == (graphs_do_not and not launches_do_not)
    assert (first > 0) == (not (graphs_do_not and launches_do_not))


FULL_FOR_A_MOMENT = """
expected, none = answers("0", "0")
for after in (60, 61, 62, 63):
    driver.emulatorFail(0, 1, ctypes.c_uint64(after), 2)
    try:
        answers("1", "0")
        print("no error")
    except MemoryError:
        print("MemoryError")
found, overlapping = answers("1", "0")
assert found == expected
assert overlapping > 0
"""


def test_too_little_memory_is_no_refusal(micro: Path) -> None:
    code = ANSWERS.format(path=str(micro), options={}, tokens=4, lengths=(3,)) + FULL_FOR_A_MOMENT
    out, said = run_and_say(code, "H100")
    assert out.split() == ["MemoryError"] * 4
    assert "does not take" not in said


# What a long prompt and a short one launch behind another kernel, which each of these races with.
# Not here: gptoss_embed, gptoss_count_tokens and gptoss_sample, behind copies, which wait for
# nothing; and gptoss_gate_up_f32, which fails for row numbers that are not there yet before it has
# read what another kernel still writes.
FAULTS = {"bf16": "dense_matmul_bf16_8 attention_split_16 gate_up_bf16_8"}
if FULL:
    experts = "route_bf16 expert_sort combine combine_norm_bf16 " + " ".join(
        f"{product}_bf16_{rows}" for product in ("gate_up", "down") for rows in (8, 32, 64)
    )
    FAULTS = {
        "bf16": "dense_matmul_bf16_8 dense_matmul_bf16_32 dense_matmul_bf16_64 rope_kv_f16 "
        f"attention_split_16 attention_tile_16 rms_norm_bf16 finite {experts}",
        "int8": "q8_matmul_8 q8_matmul_32 q8_matmul_128 quantize_bf16 rope_kv_int8 "
        f"attention_split_16_int8 attention_tile_16_int8 rms_norm_bf16 finite {experts}",
        "f32": "dense_matmul_f32 rope_kv_f32 attention_f32 rms_norm_f32 finite route_f32 "
        "down_f32 combine combine_norm_f32 expert_sort",
    }


def without_wait(library: bytes, kernel: str) -> bytes:
    """Blank the waits of a kernel, whose PTX for 9.0 lies in the library as text."""
    out = bytearray(library)
    found = 0
    for match in re.finditer(rb"\.entry %s\([^\0]*?(?=\.entry |\0)" % kernel.encode(), library):
        for wait in re.finditer(WAIT.encode(), match[0]):
            place = match.start() + wait.start()
            out[place : place + len(WAIT)] = b" " * len(WAIT)
            found += 1
    assert found > 0, kernel
    return bytes(out)


@pytest.mark.parametrize(
    ("mode", "kernel"),
    [(mode, f"gptoss_{name}") for mode, names in FAULTS.items() for name in names.split()],
)
def test_a_missing_wait_is_reported(mode: str, kernel: str, micro: Path, tmp_path: Path) -> None:
    options, lengths = MODES[mode], (20 if mode == "f32" else 130, 3)
    code = ANSWERS.format(path=str(micro), options=options, tokens=3, lengths=lengths) + (
        "driver.emulatorTakeReports.restype = ctypes.c_char_p\n"
        "try:\n    answers('1', '48')\n"
        "except gptoss.BackendError as error:\n    print(error)\n"
        "print(driver.emulatorTakeReports().decode())"
    )
    search = patched(tmp_path, lambda library: without_wait(library, kernel))
    out = run_elsewhere(code, "H100", PYTHONPATH=search, GPTOSS_EMULATOR_QUIET="1")
    # An address that is not there yet may be one of no memory.
    assert re.search("CUDA_ERROR_(?:LAUNCH_FAILED|ILLEGAL_ADDRESS)", out)
    reports = re.findall(r"^error (\S+) in (\w+)|by (\w+), CTA", out, re.MULTILINE)
    assert "race-grids" in {name for name, _, _ in reports}
    assert kernel in {other for _, *sides in reports for other in sides}
