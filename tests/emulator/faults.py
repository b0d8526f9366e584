"""Faults to plant: in kernels that nvcc and Triton made, and in small ones written here.

`PLANTED` edits the PTX of a kernel of the corpus. `SMALL` are kernels of their own, each with a
right and a wrong line.
"""
# ruff: noqa: E501 (a line of PTX stays one line)

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

Edit = tuple[str, int | None, str]  # pattern, which match (None: all), replacement


def kernel_range(text: str, kernel: str) -> tuple[int, int]:
    """Return where the kernel's text begins and ends."""
    begin = re.search(rf"^\.visible \.entry {kernel}\(", text, re.MULTILINE)
    assert begin, kernel
    end = re.search(r"^\.(visible|entry|func)\b", text[begin.end() :], re.MULTILINE)
    return begin.start(), begin.end() + end.start() if end else len(text)


def plant(text: str, kernel: str, edits: list[Edit]) -> str:
    """Apply the edits to one kernel of the module; each must change something."""
    begin, end = kernel_range(text, kernel)
    body = text[begin:end]
    for pattern, which, replacement in edits:
        matches = list(re.finditer(pattern, body, re.MULTILINE))
        assert matches, (kernel, pattern)
        chosen = matches if which is None else [matches[which]]
        for match in reversed(chosen):
            # Lines stay where they are, so that reports can be compared.
            body = body[: match.start()] + match.expand(replacement) + body[match.end() :]
    return text[:begin] + body + text[end:]


@dataclass(frozen=True)
class Planted:
    """A fault in a kernel of the corpus."""

    case: str
    edits: list[Edit]
    classes: set[str]  # any of them is right
    access: str = ""  # what the reported instruction must match
    other: str = ""  # and the one on the other side; empty: no other side expected
    kernel: str = ""  # where it is not called as the case
    numbers: str = "any"  # "right": the values do not show the fault


BAR = r"bar(rier)?\.sync[ \t]+0;"
SYNCWARP = r"bar\.warp\.sync[ \t]+-1;"
RAW, WAR = "race-shared-read-after-write", "race-shared-write-after-read"
GLOBAL_RAW = "race-global-read-after-write"
LD, ST = r"ld\.shared", r"st\.shared"

BULK_IN, BULK_OUT = r"cp\.async\.bulk\.shared", r"cp\.async\.bulk\.global"
BULK_TENSOR_OUT = r"cp\.async\.bulk\.tensor\.2d\.global"
# A wait that is over at once.
POLL_ALWAYS: Edit = (
    r"mbarrier\.(?:try|test)_wait[\w.:]*[ \t]+(\w+|%p\d+),[^;]*;",
    0,
    r"setp.eq.u32 \1, 0, 0;",
)

PLANTED: dict[str, Planted] = {
    # ---- barriers ----
    "rmsnorm without its first barrier": Planted("rmsnorm", [(BAR, 0, "")], {RAW, WAR}, LD, ST),
    "rmsnorm without its second barrier": Planted("rmsnorm", [(BAR, 1, "")], {RAW, WAR}, LD, ST),
    "softmax without its first barrier": Planted(
        "softmax", [(BAR, 0, "")], {RAW, WAR}, "shared", "shared"
    ),
    "softmax without its second barrier": Planted(
        "softmax", [(BAR, 1, "")], {RAW, WAR}, "shared", "shared"
    ),
    "softmax without its third barrier": Planted(
        "softmax", [(BAR, 2, "")], {RAW, WAR}, "shared", "shared"
    ),
    "transpose without its barrier": Planted(
        "transpose", [(BAR, 0, "")], {RAW, WAR}, "shared", "shared"
    ),
    "scan without the barrier between warps": Planted(
        "scan", [(BAR, 0, "")], {RAW, WAR}, "shared", "shared"
    ),
    "matmul without the barrier after the wait": Planted(
        "matmul", [(BAR, 0, "")], {"async-read-early", RAW, "race-warp"}, "ldmatrix", r"cp\.async"
    ),
    "matmul without the barrier before the refill": Planted(
        "matmul", [(BAR, 1, "")], {WAR, "race-warp", "async-read-early"}, "", ""
    ),
    "reduce_last_block without the barrier behind the flag": Planted(
        "reduce_last_block", [(BAR, 1, "")], {RAW, WAR}, "shared", "shared"
    ),
    "histogram without the barrier behind the zeros": Planted(
        "histogram", [(BAR, 0, "")], {"race-mixed"}, "shared", "shared"
    ),
    "histogram without the barrier before the sum": Planted(
        "histogram", [(BAR, 1, "")], {"race-mixed"}, "shared", "shared"
    ),
    "chain without the barrier behind the poll": Planted(
        "chain", [(BAR, 0, "")], {GLOBAL_RAW}, r"ld\.global", r"st\.global", numbers="any"
    ),
    "chain without the barrier before the release": Planted(
        "chain", [(BAR, 1, "")], {GLOBAL_RAW}, r"ld\.global", r"st\.global"
    ),
    "grid_phases without the barrier before the grid's": Planted(
        "grid_phases", [(BAR, 0, "")], {GLOBAL_RAW}, r"ld\.global", r"st\.global"
    ),
    "grid_phases without the barrier behind the grid's": Planted(
        "grid_phases",
        [(BAR, 1, "")],
        {GLOBAL_RAW, "race-global-write-after-read"},
        "global",
        "global",
    ),
    # ---- lanes of a warp ----
    "scan without the first __syncwarp": Planted(
        "scan", [(SYNCWARP, 0, "")], {"race-warp"}, LD, ST
    ),
    "scan without the second __syncwarp": Planted(
        "scan", [(SYNCWARP, 1, "")], {"race-warp"}, ST, LD
    ),
    "scan without the third __syncwarp": Planted(
        "scan", [(SYNCWARP, 2, "")], {"race-warp"}, LD, ST
    ),
    "scan without any __syncwarp": Planted(
        "scan", [(SYNCWARP, None, "")], {"race-warp"}, "", "shared"
    ),
    "async_sizes without __syncwarp": Planted(
        "async_sizes", [(SYNCWARP, 0, "")], {"race-warp", "async-read-early"}, LD, r"cp\.async"
    ),
    "rmsnorm shuffles with a mask without lane 31": Planted(
        "rmsnorm",
        [(r"mov\.u32 ([ \t]*%r13), -1;", 0, r"mov.u32 \1, 0x7fffffff;")],
        {"member-mask"},
        "shfl",
        numbers="any",
    ),
    "votes with a mask of half a warp": Planted(
        "votes",
        [(r"(vote\.sync\.ballot\.b32 [^;]*), %r4;", 0, r"\1, 0xffff;")],
        {"member-mask"},
        "vote",
    ),
    # ---- asynchronous copies ----
    "matmul waits for one group too few": Planted(
        "matmul",
        [(r"cp\.async\.wait_group 1;", None, "cp.async.wait_group 2;")],
        {"async-read-early"},
        "ldmatrix",
        r"cp\.async",
    ),
    "matmul does not wait": Planted(
        "matmul",
        [(r"cp\.async\.wait_group 1;", None, "")],
        {"async-read-early"},
        "ldmatrix",
        r"cp\.async",
    ),
    "matmul commits nothing": Planted(
        "matmul",
        [(r"cp\.async\.commit_group;", None, "")],
        {"async-read-early"},
        "ldmatrix",
        r"cp\.async",
    ),
    "async_sizes does not wait": Planted(
        "async_sizes", [(r"cp\.async\.wait_all;", 0, "")], {"async-read-early"}, LD, r"cp\.async"
    ),
    "async_sizes commits but does not wait": Planted(
        "async_sizes",
        [(r"cp\.async\.wait_all;", 0, "cp.async.commit_group;")],
        {"async-not-waited"},
        "ret",
    ),
    # ---- fences, scopes, flags ----
    "reduce_last_block without the fence before the counter": Planted(
        "reduce_last_block",
        [(r"membar\.gl;", 0, "")],
        {GLOBAL_RAW},
        r"ld\.global",
        r"st\.global",
        numbers="right",
    ),
    "reduce_last_block without the fence behind the counter": Planted(
        "reduce_last_block",
        [(r"membar\.gl;", 1, "")],
        {GLOBAL_RAW},
        r"ld\.global",
        r"st\.global",
        numbers="right",
    ),
    "reduce_last_block fences for its block only": Planted(
        "reduce_last_block",
        [(r"membar\.gl;", 0, "membar.cta;")],
        {GLOBAL_RAW},
        r"ld\.global",
        r"st\.global",
        numbers="right",
    ),
    "reduce_last_block counts at block scope": Planted(
        "reduce_last_block",
        [(r"atom\.global\.add", 0, "atom.relaxed.cta.global.add")],
        {"race-scope"},
        "atom",
        "atom",
        numbers="right",
    ),
    "chain polls relaxed": Planted(
        "chain",
        [(r"ld\.acquire", 0, "ld.relaxed")],
        {GLOBAL_RAW},
        r"ld\.global",
        r"st\.global",
        numbers="right",
    ),
    "chain sets its flag relaxed": Planted(
        "chain",
        [(r"st\.release", 0, "st.relaxed")],
        {GLOBAL_RAW},
        r"ld\.global",
        r"st\.global",
        numbers="right",
    ),
    "chain releases to its block only": Planted(
        "chain",
        [(r"st\.release\.gpu", 0, "st.release.cta")],
        {"race-scope"},
        "",
        "",
        numbers="right",
    ),
    "chain acquires from its block only": Planted(
        "chain",
        [(r"ld\.acquire\.gpu", 0, "ld.acquire.cta")],
        {"race-scope"},
        "",
        "",
        numbers="right",
    ),
    "chain sets its flag by a plain store": Planted(
        "chain",
        [(r"st\.release\.gpu\.global", 0, "st.global")],
        {"race-mixed"},
        "",
        "",
        numbers="right",
    ),
    "chain polls by plain loads": Planted(
        "chain",
        [(r"ld\.acquire\.gpu\.global", 0, "ld.global")],
        {"race-mixed"},
        "",
        "",
        numbers="right",
    ),
    "chain never sets its flag": Planted(
        "chain", [(r"st\.release\.gpu\.global\.u32 [^;]*;", 0, "")], {"endless-spin"}, "", ""
    ),
    "grid_phases arrives relaxed": Planted(
        "grid_phases",
        [(r"atom\.add\.release", 0, "atom.add.relaxed")],
        {GLOBAL_RAW},
        r"ld\.global",
        r"st\.global",
        numbers="right",
    ),
    "grid_phases waits relaxed": Planted(
        "grid_phases",
        [(r"ld\.acquire", 0, "ld.relaxed")],
        {GLOBAL_RAW},
        r"ld\.global",
        r"st\.global",
        numbers="right",
    ),
    "locked without the fence behind the lock": Planted(
        "locked",
        [(r"membar\.gl;", 0, "")],
        {GLOBAL_RAW, "race-global-write-after-write", "race-global-write-after-read"},
        "global",
        "global",
        numbers="right",
    ),
    "locked without the fence before unlocking": Planted(
        "locked",
        [(r"membar\.gl;", 1, "")],
        {GLOBAL_RAW, "race-global-write-after-write", "race-global-write-after-read"},
        "global",
        "global",
        numbers="right",
    ),
    "locked never unlocks": Planted(
        "locked", [(r"atom\.global\.exch[^;]*;", 0, "")], {"endless-spin"}, "", ""
    ),
    "tile_sums adds without an atomic": Planted(
        "tile_sums",
        [(r"atom\.global\.add\.u32 [^;]*, \[(%rd\d+)\], (%r\d+);", 0, r"st.global.u32 [\1], \2;")],
        {"race-warp", "race-global-write-after-write"},
        r"st\.global",
        r"st\.global",
    ),
    # ---- named barriers ----
    "named_barriers never says that it is empty again": Planted(
        "named_barriers", [(r"bar\.arrive 2, 64;", 1, "")], {"deadlock"}, "bar", ""
    ),
    "named_barriers waits at the wrong barrier": Planted(
        "named_barriers", [(r"bar\.sync 1, 64;", 0, "bar.sync 3, 64;")], {"deadlock"}, "bar", ""
    ),
    "named_barriers expects different numbers": Planted(
        "named_barriers",
        [(r"bar\.arrive 1, 64;", 0, "bar.arrive 1, 32;")],
        {"barrier-count", RAW, "deadlock"},
        "",
        "",
    ),
    "named_barriers refills without waiting": Planted(
        "named_barriers", [(r"bar\.sync 2, 64;", 1, "")], {"barrier-count", WAR, RAW}, "", ""
    ),
    # ---- memory ----
    "rmsnorm with a shared array too small": Planted(
        "rmsnorm", [], {"out-of-bounds-shared"}, "shared", ""
    ),
    "rmsnorm runs over the end of the row": Planted(
        "rmsnorm",
        [(r"(ld\.param\.u32[ \t]+(%r\d+), \[rmsnorm_param_3\];)", 0, r"\1 add.u32 \2, \2, 1;")],
        {"out-of-bounds-global"},
        "global",
        "",
    ),
    "matmul reads fragments from an odd address": Planted(
        "matmul", [(r"(ldmatrix[^;]*\[%r\d+)\]", 0, r"\1+8]")], {"misaligned"}, "ldmatrix", ""
    ),
    "matmul starts from accumulators that were never set": Planted(
        "matmul",
        [(r"mov\.f32 [ \t]*%f\d+, 0f00000000;", None, "")],
        {"uninitialised-store"},
        r"st\.global",
        "",
    ),
    "histogram does not zero its bins": Planted(
        "histogram",
        [(r"st\.shared\.u32[^;]*;", None, "")],
        {"uninitialised-branch", "uninitialised-store"},
        "",
        "",
    ),
    "mixed indexes its local array out of bounds": Planted(
        "mixed",
        [(r"\.b8([ \t]+__local_depot\d+)\[64\]", 0, r".b8\1[56]")],
        {"out-of-bounds-local"},
        "local",
        "",
    ),
    "fp4_table indexes out of the table": Planted(
        "fp4_table",
        [(r"(and\.b64[ \t]+%rd\d+, %rd\d+), 60;", 0, r"\1, 1020;")],
        {"out-of-bounds-global"},
        r"ld\.const",
        "",
    ),
    "calls with an assertion that fails": Planted(
        "calls", [(r"(setp\.lt\.s32[ \t]+%p\d+, %r\d+), 65;", 0, r"\1, 5;")], {"assert"}, "call", ""
    ),
    # ---- compute capability 9.0 ----
    "bulk_double does not wait for its tile": Planted(
        "bulk_double", [POLL_ALWAYS], {"async-read-early"}, LD, BULK_IN
    ),
    "bulk_double without the fence between proxies": Planted(
        "bulk_double",
        [(r"fence\.proxy\.async[^;]*;", 0, "")],
        {"proxy-fence"},
        BULK_OUT,
        ST,
        numbers="right",
    ),
    "bulk_double fences the other state space": Planted(
        "bulk_double",
        [(r"fence\.proxy\.async\.shared::cta;", 0, "fence.proxy.async.global;")],
        {"proxy-fence"},
        BULK_OUT,
        ST,
        numbers="right",
    ),
    "bulk_double fences before it writes": Planted(
        "bulk_double",
        [
            (r"fence\.proxy\.async[^;]*;", 0, ""),
            (r"(ld\.shared\.u32[^;]*;)", 0, r"\1 fence.proxy.async;"),
        ],
        {"proxy-fence"},
        BULK_OUT,
        ST,
        numbers="right",
    ),
    "bulk_double without the barrier before the copy out": Planted(
        "bulk_double", [(BAR, 1, "")], {RAW, "async-source-written"}, "", ""
    ),
    "bulk_double without the barrier behind the initialisation": Planted(
        "bulk_double", [(BAR, 0, "")], {"race-mixed", "mbarrier"}, "mbarrier", ""
    ),
    "bulk_double does not commit": Planted(
        "bulk_double",
        [(r"cp\.async\.bulk\.commit_group;", 0, "")],
        {"async-not-waited"},
        "ret",
        numbers="right",
    ),
    "bulk_double ends before the copy out has read": Planted(
        "bulk_double",
        [(r"cp\.async\.bulk\.wait_group\.read 0;", 0, "")],
        {"async-not-waited"},
        "ret",
        numbers="right",
    ),
    "bulk_double expects more bytes than come": Planted(
        "bulk_double",
        [(r"(mbarrier\.arrive\.expect_tx[^;]*), %r7;", 0, r"\1, 528;")],
        {"endless-spin"},
        "",
    ),
    "bulk_double expects fewer bytes than come": Planted(
        "bulk_double",
        [(r"(mbarrier\.arrive\.expect_tx[^;]*), %r7;", 0, r"\1, 496;")],
        {"endless-spin"},
        "",
    ),
    "bulk_double arrives without expecting bytes": Planted(
        "bulk_double",
        [(r"mbarrier\.arrive\.expect_tx([^;]*), %r7;", 0, r"mbarrier.arrive\1;")],
        {"async-read-early", "endless-spin"},
        "",
    ),
    "bulk_double initialises nothing": Planted(
        "bulk_double", [(r"mbarrier\.init[^;]*;", 0, "")], {"mbarrier"}, "mbarrier"
    ),
    "bulk_double initialises twice": Planted(
        "bulk_double", [(r"(mbarrier\.init[^;]*;)", 0, r"\1 \1")], {"mbarrier"}, r"mbarrier\.init"
    ),
    "bulk_double for no arrival at all": Planted(
        "bulk_double",
        [(r"(mbarrier\.init[^;]*), %r\d+;", 0, r"\1, 0;")],
        {"mbarrier"},
        r"mbarrier\.init",
    ),
    "bulk_double reads its mbarrier as memory": Planted(
        "bulk_double",
        [(BAR, 0, "bar.sync 0; ld.shared.u32 %r3, [_ZZ11bulk_doubleE4full];")],
        {"mbarrier"},
        LD,
    ),
    "bulk_double writes over its mbarrier": Planted(
        "bulk_double",
        [(BAR, 0, "bar.sync 0; st.shared.u32 [_ZZ11bulk_doubleE4full], %r1;")],
        {"mbarrier"},
        ST,
    ),
    "bulk_double invalidates its mbarrier under the copy": Planted(
        "bulk_double",
        [(f"({BULK_IN}[^;]*;)", 0, r"\1 mbarrier.inval.shared.b64 [%r4];")],
        {"mbarrier"},
        r"mbarrier\.inval",
    ),
    "bulk_double writes where the copy goes": Planted(
        "bulk_double",
        [(f"({BULK_IN}[^;]*;)", 0, r"\1 st.shared.u32 [%r6], %r7;")],
        {"async-overwritten"},
        ST,
        BULK_IN,
    ),
    "bulk_double copies one place twice at once": Planted(
        "bulk_double",
        [(f"({BULK_IN}[^;]*;)", 0, r"\1 \1")],
        {"async-overwritten"},
        BULK_IN,
        BULK_IN,
    ),
    "bulk_double copies from an odd address": Planted(
        "bulk_double",
        [(f"({BULK_IN}[^;]*), \\[%rd3\\]", 0, r"\1, [%rd3+8]")],
        {"misaligned"},
        BULK_IN,
    ),
    "bulk_double copies part of 16 bytes": Planted(
        "bulk_double",
        [(f"({BULK_IN}[^;]*), %r7, ", 0, r"\1, 504, ")],
        {"misaligned"},
        BULK_IN,
    ),
    "bulk_double copies more than the tile": Planted(
        "bulk_double",
        [(f"({BULK_IN}[^;]*), %r7, ", 0, r"\1, 528, ")],
        {"out-of-bounds-shared"},
        BULK_IN,
    ),
    "bulk_double copies what is beyond the input": Planted(
        "bulk_double",
        [(f"({BULK_IN}[^;]*), \\[%rd3\\]", 0, r"\1, [%rd3+1024]")],
        {"out-of-bounds-global"},
        BULK_IN,
    ),
    "bulk_pipeline refills without waiting": Planted(
        "bulk_pipeline",
        [POLL_ALWAYS],
        {WAR, "async-overwritten", "mbarrier"},
        "",
    ),
    "bulk_pipeline never says that a stage is empty": Planted(
        "bulk_pipeline",
        [(r"mbarrier\.arrive\.shared::cta\.b64 _[^;]*;", None, "")],
        {"endless-spin"},
        "",
    ),
    "bulk_pipeline takes half the arrivals for all": Planted(
        "bulk_pipeline",
        [(r"(mbarrier\.init\.shared::cta\.b64 \[%r\d+\]), [^;]*;", 1, r"\1, 32;")],
        {WAR, "mbarrier", "endless-spin"},
        "",
    ),
    "bulk_pipeline waits for the wrong parity": Planted(
        "bulk_pipeline",
        [
            (
                r"(mbarrier\.try_wait[^;]*p, \[%r\d+\]), (%r\d+);",
                0,
                r"xor.b32 \2, \2, 1; \1, \2;",
            )
        ],
        {WAR, "async-overwritten", "mbarrier"},
        "",
    ),
    "copies_arrive never arrives": Planted(
        "copies_arrive",
        [(r"cp\.async\.mbarrier[^;]*;", None, "")],
        {"endless-spin"},
        "",
    ),
    "copies_arrive arrives before its copies": Planted(
        "copies_arrive",
        [(r"cp\.async\.mbarrier\.arrive\.noinc([^;]*)\[", None, r"mbarrier.arrive\1_, [")],
        {"async-read-early"},
        LD,
        r"cp\.async",
    ),
    "copies_arrive does not wait for its copies": Planted(
        "copies_arrive",
        [(POLL_ALWAYS[0], None, POLL_ALWAYS[2])],
        {"async-read-early"},
        LD,
        r"cp\.async",
    ),
    "copies_arrive overwrites what is copied out": Planted(
        "copies_arrive",
        [(r"cp\.async\.bulk\.wait_group\.read 1;", None, "")],
        {"async-source-written"},
        ST,
        BULK_OUT,
    ),
    "copies_arrive waits for one group too few": Planted(
        "copies_arrive",
        [(r"cp\.async\.bulk\.wait_group\.read 1;", None, "cp.async.bulk.wait_group.read 2;")],
        {"async-source-written"},
        ST,
        BULK_OUT,
    ),
    "copies_arrive copies out before the other lanes have written": Planted(
        "copies_arrive",
        [(SYNCWARP, None, "")],
        {"race-warp", "async-source-written", RAW, "race-shared-write-after-write"},
        "",
    ),
    "split_barrier does not wait": Planted(
        "split_barrier",
        [(r"mbarrier\.test_wait[^;]*;", 0, "setp.eq.u32 p, 0, 0;")],
        {RAW, WAR, "race-warp"},
        "",
        "",
    ),
    "split_barrier waits for another phase": Planted(
        "split_barrier",
        [(r"(mbarrier\.arrive[^;]*b64 (%rd\d+),[^;]*;)", 0, r"\1 add.u64 \2, \2, 1;")],
        {"endless-spin"},
        "",
    ),
    "split_barrier is invalidated while others wait": Planted(
        "split_barrier", [(BAR, 1, "")], {"race-mixed", "mbarrier"}, "mbarrier", "mbarrier"
    ),
    "split_barrier expects one arrival too few": Planted(
        "split_barrier",
        [(r"(mbarrier\.init[^;]*), %r\d+;", 0, r"\1, 63;")],
        {RAW, "race-warp", "endless-spin"},
        "",
    ),
    "dependent_step does not wait for the grid before": Planted(
        "dependent_step",
        [(r"griddepcontrol\.wait;", 0, "")],
        {"race-grids"},
        r"ld\.global",
        r"st\.global",
    ),
    # ---- wgmma ----
    "Triton's tensor matmul without wgmma.fence": Planted(
        "triton_tma_matmul",
        [(r"wgmma\.fence\.sync\.aligned;", 0, "")],
        {"wgmma-fence"},
        "wgmma",
        kernel="matmul_tma",
        numbers="right",
    ),
    "Triton's tensor matmul reads its accumulators too early": Planted(
        "triton_tma_matmul",
        [(r"wgmma\.wait_group\.sync\.aligned 0;", None, "")],
        {"wgmma-register"},
        "",
        kernel="matmul_tma",
        numbers="right",
    ),
    "Triton's tensor matmul refills a stage that is read": Planted(
        "triton_tma_matmul",
        [(r"wgmma\.wait_group\.sync\.aligned 1;", None, "wgmma.wait_group.sync.aligned 3;")],
        {"async-source-written"},
        r"cp\.async\.bulk\.tensor",
        "wgmma",
        kernel="matmul_tma",
        numbers="any",
    ),
    "Triton's tensor matmul does not wait for its tiles": Planted(
        "triton_tma_matmul",
        [POLL_ALWAYS],
        {"async-read-early"},
        "wgmma",
        r"cp\.async\.bulk\.tensor",
        kernel="matmul_tma",
    ),
    "Triton's tensor matmul without the fence before its copy out": Planted(
        "triton_tma_matmul",
        [(r"fence\.proxy\.async[^;]*;", None, "")],
        {"proxy-fence"},
        BULK_TENSOR_OUT,
        ST,
        kernel="matmul_tma",
        numbers="right",
    ),
    "Triton's matmul for 9.0 without the fence between proxies": Planted(
        "triton_hopper_matmul",
        [(r"fence\.proxy\.async[^;]*;", None, "")],
        {"proxy-fence"},
        "wgmma",
        r"cp\.async",
        kernel="matmul",
        numbers="right",
    ),
    "Triton's matmul for 9.0 commits nothing": Planted(
        "triton_hopper_matmul",
        [(r"wgmma\.commit_group\.sync\.aligned;", None, "")],
        {"wgmma-register"},
        "",
        kernel="matmul",
        numbers="right",
    ),
    "Triton's attention for 9.0 writes A registers in flight": Planted(
        "triton_hopper_attention",
        [(r"wgmma\.wait_group\.sync\.aligned 0;", None, "")],
        {"wgmma-register"},
        "",
        kernel="attention",
        numbers="right",
    ),
    "tf32 products of what is rounded without a fence": Planted(
        "matmul_tf32",
        [(r"fence\.proxy\.async[^;]*;", 0, "")],
        {"proxy-fence"},
        "wgmma",
        ST,
        numbers="right",
    ),
    "tf32 products before the others have rounded": Planted(
        "matmul_tf32", [(r"bar\.sync[ \t]+1, 128;", 0, "")], {RAW}, "wgmma", ST, numbers="any"
    ),
    "Triton's tensor matmul stores results over what other warps' wgmma may read": Planted(
        "triton_tma_matmul",
        [(BAR, 10, ""), (BAR, 10, "")],
        {"async-source-written"},
        ST,
        "wgmma",
        kernel="matmul_tma",
        numbers="right",
    ),
    # ---- Triton ----
    "Triton's column sums without the barrier before lanes store what they share": Planted(
        "triton_column_sums",
        [(BAR, 1, "")],
        {"race-warp"},
        ST,
        LD,
        kernel="column_sums",
        numbers="right",
    ),
    "Triton's sort without the barrier before lanes store what they share": Planted(
        "triton_sort",
        [(BAR, 1, "")],
        {"race-warp"},
        ST,
        LD,
        kernel="sort_rows",
        numbers="right",
    ),
    "Triton's matmul without the barrier before its epilogue": Planted(
        "triton_matmul",
        [(r"bar\.sync[ \t]+0;", 6, "")],
        {WAR, "race-warp", RAW},
        "",
        "",
        kernel="matmul",
    ),
    "Triton's attention without a barrier that orders one warp": Planted(
        "triton_attention",
        [(r"bar\.sync[ \t]+0;", 2, "")],
        {"race-warp"},
        "",
        "",
        kernel="attention",
        numbers="right",
    ),
    "Triton's matmul without its third barrier": Planted(
        "triton_matmul",
        [(r"bar\.sync[ \t]+0;", 2, "")],
        {"async-read-early", WAR, "race-warp", RAW},
        "",
        "",
        kernel="matmul",
    ),
    "Triton's matmul waits for too few groups": Planted(
        "triton_matmul",
        [(r"cp\.async\.wait_group[ \t]+2;", None, "cp.async.wait_group 5;")],
        {"async-read-early"},
        "ldmatrix",
        r"cp\.async",
        kernel="matmul",
    ),
    "Triton's softmax without its first barrier": Planted(
        "triton_softmax",
        [(r"bar\.sync[ \t]+0;", 0, "")],
        {RAW, WAR},
        "shared",
        "shared",
        kernel="softmax",
    ),
    "Triton's sort without its first barrier": Planted(
        "triton_sort",
        [(r"bar\.sync[ \t]+0;", 0, "")],
        {RAW, WAR, "race-warp"},
        "shared",
        "shared",
        kernel="sort_rows",
    ),
}

HEADER = """
.version 8.0
.target sm_80
.address_size 64
.const .align 4 .b8 constants[64];
.entry k(.param .u64 x, .param .u64 out, .param .u32 n) {
  .reg .pred %p<8>;
  .reg .b32 %r<40>;
  .reg .b64 %rd<20>;
  .reg .f32 %f<8>;
  .shared .align 16 .b8 first[256];
  .shared .align 16 .b8 second[1024];
  .local .align 8 .b8 own[32];
  ld.param.u64 %rd1, [x];
  ld.param.u64 %rd2, [out];
  ld.param.u32 %r1, [n];
  mov.u32 %r2, %tid.x;
  mov.u32 %r3, %ctaid.x;
  mov.u32 %r4, %ntid.x;
  mad.lo.s32 %r5, %r3, %r4, %r2;
  mul.wide.u32 %rd3, %r5, 4;
  add.s64 %rd4, %rd1, %rd3;
  add.s64 %rd5, %rd2, %rd3;
  mov.u32 %r6, %laneid;
  mov.u32 %r7, %warpid;
  shl.b32 %r8, %r2, 2;
  mov.u32 %r9, first;
  add.u32 %r10, %r9, %r8;
"""


@dataclass(frozen=True)
class Small:
    """A kernel with one line that may be right or wrong: blocks of 64 threads, two of them."""

    body: str  # {} stands for the line
    right: str
    wrong: str
    classes: set[str]
    other: str = ""
    options: dict[str, Any] = field(default_factory=dict)  # of the wrong one
    target: str = "sm_80"
    always: dict[str, Any] = field(default_factory=dict)  # of both

    def text(self, line: str) -> str:
        """Return the module with the right or the wrong line."""
        return (
            HEADER.replace("sm_80", self.target) + self.body.replace("{}", line) + "\n  ret;\n}\n"
        )


# A warp of four writes 16 of A's 64 rows, which are all zero like B.
_WGMMA_OF_ROWS = """
  .shared .align 128 .b8 a[2048];
  .shared .align 128 .b8 b[256];
  .reg .b64 %w<4>;
  mov.u32 %r11, b;
  mad.lo.u32 %r12, %r2, 16, %r11;
  setp.lt.u32 %p1, %r2, 16;
  @%p1 st.shared.v4.u32 [%r12], {0, 0, 0, 0};
  bar.sync 0;
  mov.u32 %r13, a;
  mad.lo.u32 %r14, %r2, 16, %r13;
  st.shared.v4.u32 [%r14], {0, 0, 0, 0};
  fence.proxy.async.shared::cta;
  {}
  shr.u32 %r15, %r13, 4;
  shr.u32 %r16, %r11, 4;
  cvt.u64.u32 %w0, %r15;
  cvt.u64.u32 %w1, %r16;
  or.b64 %w2, %w0, 0x1000080000;
  or.b64 %w3, %w1, 0x1000080000;
  mov.pred %p2, 0;
  mov.f32 %f0, 0f00000000;
  mov.f32 %f1, %f0;
  mov.f32 %f2, %f0;
  mov.f32 %f3, %f0;
  wgmma.fence.sync.aligned;
  wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f0,%f1,%f2,%f3}, %w2, %w3, %p2, 1, 1, 0, 0;
  wgmma.commit_group.sync.aligned;
  wgmma.wait_group.sync.aligned 0;
  bar.sync 0;"""

LOAD_STORE = "ld.global.u32 %r20, [%rd4];\n  st.global.u32 [%rd5], %r20;"
_COPY_BACK = """
  .shared .align 8 .b64 full;
  mov.u32 %r11, full;
  setp.ne.u32 %p1, %r2, 0;
  @!%p1 mbarrier.init.shared::cta.b64 [%r11], 1;
  st.global.u32 [%rd5], %r2;
  {}
  bar.sync 0;
  mad.wide.u32 %rd6, %r3, 256, %rd2;
  @!%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r11], 256;
  @!%p1 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r9], [%rd6], 256, [%r11];
WAIT:
  mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r11], 0;
  @!%p2 bra WAIT;"""

SMALL: dict[str, Small] = {
    "a wgmma while other warps write their rows of A": Small(
        _WGMMA_OF_ROWS,
        "bar.sync 0;",
        "",
        {RAW},
        r"st\.shared",
        target="sm_90a",
        always={"profile": "H100", "grid": 1, "block": 128},
    ),
    "a fence between proxies for the other state space": Small(
        _COPY_BACK,
        "fence.proxy.async.global;",
        "fence.proxy.async.shared::cta;",
        {"proxy-fence"},
        r"st\.global",
        {"profile": "H100"},
        "sm_90",
    ),
    "no fence between proxies for global memory": Small(
        _COPY_BACK,
        "fence.proxy.async;",
        "",
        {"proxy-fence"},
        r"st\.global",
        {"profile": "H100"},
        "sm_90",
    ),
    "null": Small(
        "{}\n ld.global.u32 %r20, [%rd6];", "mov.b64 %rd6, %rd4;", "mov.b64 %rd6, 16;", {"null"}
    ),
    "before the beginning": Small(
        "ld.global.u32 %r20, [{}];", "%rd1", "%rd1+-4", {"out-of-bounds-global"}
    ),
    "behind the end": Small(
        "ld.global.u32 %r20, [{}];", "%rd1+508", "%rd1+512", {"out-of-bounds-global"}
    ),
    "across the end": Small(
        "{};",
        "ld.global.v2.u32 {%r20, %r21}, [%rd1+504]",
        "ld.global.v2.u64 {%rd10, %rd11}, [%rd1+496]; ld.global.v4.u64 {%rd10, %rd11, %rd12, %rd13}, [%rd1+496]",
        {"misaligned", "out-of-bounds-global"},
    ),
    "misaligned": Small("ld.global.u32 %r20, [{}];", "%rd1+4", "%rd1+2", {"misaligned"}),
    "misaligned vector": Small(
        "ld.global.v4.u32 {%r20, %r21, %r22, %r23}, [{}];", "%rd1+16", "%rd1+8", {"misaligned"}
    ),
    "address never set": Small(
        "{}\n add.s64 %rd7, %rd4, %rd6;\n ld.global.u32 %r20, [%rd7];",
        "mov.b64 %rd6, 0;",
        "",
        {"uninitialised-address"},
    ),
    "branch on a value never set": Small(
        "{}\n setp.eq.u32 %p1, %r20, 0;\n @%p1 bra DONE;\n st.global.u32 [%rd5], %r2;\nDONE:",
        "mov.u32 %r20, %r2;",
        "",
        {"uninitialised-branch"},
    ),
    "branch on && with a value never set": Small(
        "{}\n setp.eq.u32 %p1, %r20, 0;\n setp.gt.u32 %p2, %r2, 1000;\n and.pred %p3, %p2, %p1;\n"
        " or.pred %p4, !%p2, %p1;\n @%p3 bra DONE;\n @%p4 bra DONE;\n st.global.u32 [%rd5], %r2;\nDONE:",
        "",
        "not.pred %p2, %p2; xor.pred %p5, %p2, %p6;\n @%p5 bra DONE;",
        {"uninitialised-branch"},
    ),
    "store of a value never set": Small(
        "{}\n st.global.u32 [%rd5], %r20;", "mov.u32 %r20, 1;", "", {"uninitialised-store"}
    ),
    "store of shared memory never written": Small(
        "{}\n ld.shared.u32 %r20, [%r10];\n add.u32 %r21, %r20, 1;\n st.global.u32 [%rd5], %r21;",
        "st.shared.u32 [%r10], %r2;",
        "",
        {"uninitialised-store"},
        r"ld\.shared",
    ),
    "store of global memory never written": Small(
        "{}\n ld.global.u32 %r20, [%rd5];\n st.global.u32 [%rd5], %r20;",
        "st.global.u32 [%rd5], %r2;",
        "",
        {"uninitialised-store"},
        r"ld\.global",
    ),
    "store of local memory never written": Small(
        "{}\n ld.local.u32 %r20, [own+8];\n st.global.u32 [%rd5], %r20;",
        "st.local.u32 [own+8], %r2;",
        "st.local.u32 [own+4], %r2;",
        {"uninitialised-store"},
        r"ld\.local",
    ),
    "a value never set comes through a shuffle": Small(
        "setp.lt.u32 %p1, %r6, 16;\n {}\n shfl.sync.bfly.b32 %r21, %r20, 16, 31, -1;\n"
        " st.global.u32 [%rd5], %r21;",
        "mov.u32 %r20, 3;",
        "@%p1 mov.u32 %r20, 3;",
        {"uninitialised-store"},
    ),
    "shuffle with a mask never set": Small(
        "{}\n shfl.sync.idx.b32 %r21, %r2, 0, 31, %r20;",
        "mov.u32 %r20, -1;",
        "mov.u32 %r20, %r30;",
        {"uninitialised-operand"},
    ),
    "shared index out of its array": Small(
        "st.shared.u32 [{}], %r2;", "%r10", "%r10+4", {"out-of-bounds-shared"}
    ),
    "shared address null": Small(
        "ld.shared.u32 %r20, [{}];",
        "second",
        "0",
        {"out-of-bounds-shared", "uninitialised-address"},
    ),
    "local index out of its array": Small(
        "{} st.local.u32 [%r20], %r2;",
        "mov.u32 %r20, 28;",
        "mov.u32 %r20, 32;",
        {"out-of-bounds-local"},
    ),
    "parameter out of the block": Small(
        "{} ld.param.u32 %r20, [%rd6];",
        "mov.u64 %rd6, 16;",
        "mov.u64 %rd6, 20;",
        {"out-of-bounds-param"},
    ),
    "write to constant memory": Small(
        "mov.u64 %rd6, constants; {}",
        "ld.const.u32 %r20, [%rd6];",
        "st.global.u32 [%rd6], %r2;",
        {"write-to-constant"},
    ),
    "generic address of another space": Small(
        "cvta.to.shared.u64 %rd7, {};", "%rd8", "%rd4", {"wrong-space"}
    ),
    "atomic on local memory": Small(
        "mov.u64 %rd6, own; cvta.local.u64 %rd7, %rd6; {}",
        "st.u32 [%rd7], %r2;",
        "atom.add.u32 %r20, [%rd7], 1;",
        {"wrong-space"},
    ),
    "read-only load of what the kernel writes": Small(
        "st.global.u32 [%rd5], %r2;\n {}",
        "ld.global.u32 %r20, [%rd5];",
        "ld.global.nc.u32 %r20, [%rd5];",
        {"read-only-written"},
        r"st\.global",
    ),
    "shuffle from a lane that is away": Small(
        "setp.ge.u32 %p1, %r6, 16;\n @%p1 bra AWAY;\n shfl.sync.idx.b32 %r20, %r2, {}, 31, 0xffff;\nAWAY:",
        "5",
        "20",
        {"shuffle-inactive-lane"},
    ),
    "matrix load by half a warp": Small(
        "setp.ge.u32 %p1, %r6, 16;\n {}\n mov.u32 %r20, second;\n"
        " ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r21}, [%r20];",
        "",
        "@%p1 exit;",
        {"divergent-warp"},
    ),
    "barrier in one branch only": Small(
        "setp.lt.u32 %p1, %r6, {};\n @%p1 bra LESS;\n bar.sync 0;\n bra.uni DONE;\nLESS:\n bar.sync 0;\nDONE:",
        "0",
        "7",
        {"divergent-barrier"},
        r"bar\.sync",
    ),
    "lanes wait for each other at different places": Small(
        "setp.lt.u32 %p1, %r6, {};\n @%p1 bra LESS;\n bar.warp.sync -1;\n bra.uni DONE;\nLESS:\n"
        " vote.sync.any.pred %p2, %p1, -1;\nDONE:",
        "0",
        "7",
        {"divergent-warp"},
        r"bar\.warp|vote",
    ),
    "barrier 16": Small("{};", "bar.sync 15", "bar.sync 16", {"barrier-count"}),
    "barrier of 33 threads": Small("bar.sync 1, {};", "64", "33", {"barrier-count"}),
    "barrier of more threads than the block has": Small(
        "bar.sync 1, {};", "64", "128", {"barrier-count"}
    ),
    "barrier that one warp skips": Small(
        "setp.eq.u32 %p1, %r7, 0;\n {}", "bar.sync 1, 64;", "@%p1 bar.sync 1, 64;", {"deadlock"}
    ),
    "several threads write one value": Small(
        "setp.eq.u32 %p1, %r5, 0;\n {}",
        "@%p1 st.global.u32 [%rd2], 5;",
        "st.global.u32 [%rd2], 5;",
        {"race-same-value"},
        r"st\.global",
    ),
    "blocks write different values": Small(
        "setp.eq.u32 %p1, %r2, 0;\n @%p1 st.global.u32 [{}], %r3;",
        "%rd5",
        "%rd2",
        {"race-global-write-after-write", "race-same-value"},
        r"st\.global",
    ),
    "a block writes what another reads": Small(
        "xor.b32 %r20, %r5, 64;\n mul.wide.u32 %rd6, %r20, 4;\n add.s64 %rd7, %rd1, %rd6;\n"
        " ld.global.u32 %r21, [%rd4];\n st.global.u32 [{}], %r2;",
        "%rd5",
        "%rd7",
        {"race-global-write-after-read", GLOBAL_RAW},
        "global",
    ),
    "warps write one shared word": Small(
        "shl.b32 %r20, {}, 2;\n mov.u32 %r21, second;\n add.u32 %r21, %r21, %r20;\n"
        " setp.eq.u32 %p1, %r6, 0;\n @%p1 st.shared.u32 [%r21], %r2;",
        "%r2",
        "%r6",
        {"race-shared-write-after-write"},
        r"st\.shared",
    ),
    "lanes write one shared word": Small(
        "{}\n st.shared.u32 [%r20], %r2;",
        "mov.u32 %r20, %r10;",
        "mov.u32 %r20, first;",
        {"race-warp"},
        r"st\.shared",
    ),
    "neighbouring bytes are no race": Small(  # the wrong line overlaps by one byte
        "mov.u32 %r20, second;\n add.u32 %r20, %r20, %r2;\n {}",
        "st.shared.u8 [%r20], 1;",
        "st.shared.u8 [%r20], %r2; st.shared.u8 [%r20+1], %r2;",
        {"race-warp"},
        r"st\.shared",
    ),
    "an atomic against a plain load": Small(
        "atom.global.add.u32 %r20, [%rd1], 1;\n {}",
        "ld.relaxed.gpu.global.u32 %r21, [%rd1];",
        "ld.global.u32 %r21, [%rd1];",
        {"race-mixed"},
        "atom",
    ),
    "atomics of the scope of a cluster": Small(
        "atom.relaxed.{}.global.add.u32 %r20, [%rd1], 1;", "sys", "cluster", {"race-scope"}, "atom"
    ),
    "atomics of too narrow a scope": Small(
        "atom.relaxed.{}.global.add.u32 %r20, [%rd1], 1;", "gpu", "cta", {"race-scope"}, "atom"
    ),
    "one lane releases for the others": Small(
        "setp.ne.u32 %p1, %r3, 0;\n setp.eq.u32 %p2, %r2, 0;\n @%p1 bra READER;\n"
        " st.global.u32 [%rd5], %r2;\n {}\n @%p2 st.release.gpu.global.u32 [%rd1], 1000;\n bra.uni DONE;\n"
        "READER:\n @!%p2 bra WAIT;\nPOLL:\n ld.acquire.gpu.global.u32 %r20, [%rd1];\n"
        " setp.ne.u32 %p3, %r20, 1000;\n @%p3 bra POLL;\nWAIT:\n bar.sync 0;\n"
        " add.s64 %rd7, %rd2, 20;\n ld.global.u32 %r21, [%rd7];\nDONE:",
        "bar.sync 1, 64;",
        "",
        {GLOBAL_RAW},
        r"st\.global",
    ),
    "one lane acquires for the others": Small(
        "setp.ne.u32 %p1, %r3, 0;\n setp.eq.u32 %p2, %r2, 0;\n @%p1 bra READER;\n"
        " st.global.u32 [%rd5], %r2;\n bar.sync 1, 64;\n @%p2 st.release.gpu.global.u32 [%rd1], 1000;\n"
        " bra.uni DONE;\nREADER:\n @!%p2 bra WAIT;\nPOLL:\n ld.acquire.gpu.global.u32 %r20, [%rd1];\n"
        " setp.ne.u32 %p3, %r20, 1000;\n @%p3 bra POLL;\nWAIT:\n {}\n add.s64 %rd7, %rd2, 20;\n"
        " ld.global.u32 %r21, [%rd7];\nDONE:",
        "bar.sync 0;",
        "",
        {GLOBAL_RAW, "race-global-write-after-read"},
        "global",
    ),
    "fences of too narrow a scope": Small(
        "setp.ne.u32 %p1, %r3, 0;\n setp.ne.u32 %p2, %r2, 0;\n @%p2 bra DONE;\n @%p1 bra READER;\n"
        " st.global.u32 [%rd2], 7;\n fence.acq_rel.{};\n st.relaxed.gpu.global.u32 [%rd1], 1000;\n"
        " bra.uni DONE;\nREADER:\n ld.relaxed.gpu.global.u32 %r20, [%rd1];\n setp.ne.u32 %p3, %r20, 1000;\n"
        " @%p3 bra READER;\n fence.acq_rel.gpu;\n ld.global.u32 %r21, [%rd2];\nDONE:",
        "gpu",
        "cta",
        {GLOBAL_RAW},
        r"st\.global",
    ),
    "the source of a copy is overwritten": Small(
        "setp.ne.u32 %p1, %r3, 0;\n @%p1 exit;\n setp.eq.u32 %p2, %r7, 1;\n"
        " @!%p2 cp.async.ca.shared.global [%r10], [%rd4], 4;\n {}\n @%p2 st.global.u32 [%rd4+-128], %r2;\n"
        " cp.async.wait_all;",
        "cp.async.wait_all; bar.sync 0;",
        "bar.sync 0;",
        {"async-source-written", "race-global-write-after-read"},
        r"st\.global|cp\.async",
    ),
    "a copy lands on what is still read": Small(
        "st.shared.u32 [%r10], %r2;\n bar.sync 0;\n xor.b32 %r20, %r8, 128;\n add.u32 %r20, %r20, %r9;\n"
        " ld.shared.u32 %r21, [%r20];\n {}\n cp.async.ca.shared.global [%r10], [%rd4], 4;\n"
        " cp.async.wait_all;",
        "bar.sync 0;",
        "",
        {WAR},
        r"ld\.shared",
    ),
    "two copies to one place": Small(
        "cp.async.ca.shared.global [%r10], [%rd4], 4;\n {}\n"
        " cp.async.ca.shared.global [%r10], [%rd4], 4;\n cp.async.wait_all;",
        "cp.async.wait_all;",
        "",
        {"async-overwritten"},
        r"cp\.async",
    ),
    "a store into a copy in flight": Small(
        "cp.async.ca.shared.global [%r10], [%rd4], 4;\n {}\n st.shared.u32 [%r10], %r2;\n"
        " cp.async.wait_all;",
        "cp.async.wait_all;",
        "",
        {"async-overwritten"},
        r"cp\.async",
    ),
    "a copy from out of bounds": Small(
        "cp.async.ca.shared.global [%r10], [{}], 4;\n cp.async.wait_all;",
        "%rd4",
        "%rd4+256",
        {"out-of-bounds-global"},
    ),
    "a copy to an odd place": Small(
        "setp.eq.u32 %p1, %r2, 0;\n @%p1 cp.async.cg.shared.global [{}], [%rd1], 16;\n cp.async.wait_all;",
        "first",
        "first+8",
        {"misaligned"},
    ),
    "an endless loop": Small("{}", "", "LOOP:\n bra LOOP;", {"endless-spin"}),
    "an endless loop that counts": Small(
        "mov.u32 %r20, 0;\nLOOP:\n add.u32 %r20, %r20, 1;\n setp.{};\n @%p1 bra LOOP;",
        "lt.u32 %p1, %r20, 100",
        "ge.u32 %p1, %r20, 1",
        {"instruction-limit"},
        "",
        {"max_warp_instructions": 100_000},
    ),
    "a poll of what nobody writes": Small(
        "{}\nPOLL:\n ld.volatile.global.u32 %r20, [%rd4];\n setp.ne.u32 %p1, %r20, 1000;\n @%p1 bra POLL;",
        "st.volatile.global.u32 [%rd4], 1000;",
        "",
        {"endless-spin"},
    ),
    "a trap": Small("{}", "", "trap;", {"trap"}),
    "too many threads": Small(LOAD_STORE + "{}", "", "", {"launch-limit"}, "", {"block": 1056}),
    "too much shared memory": Small(
        LOAD_STORE + "{}", "", "", {"launch-limit"}, "", {"shared": 200_000}
    ),
    "too many cooperating blocks": Small(
        LOAD_STORE + "{}", "", "", {"launch-limit"}, "", {"grid": 2_000, "cooperative": True}
    ),
}
