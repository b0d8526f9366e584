"""Every synchronisation of the corpus, removed or weakened one at a time.

A mutant must be reported or give wrong numbers; the others, and no more, stand in `REDUNDANT` with
the reason.
CI takes a sample of them, GPTOSS_EMULATOR_FULL all.

Compilers write some of them twice: Triton waits for the copies of A and again for those of B, at
the end of a loop and again at its head. Where nothing that `SEPARATES` them can be executed between
two of them they are one site, and a mutant changes both. That alone would hide what one of them is
worth without the other: so each is changed alone, too, in mutants that are counted for themselves.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

from emulator import corpus
from emulator.device import ptx
from emulator.faults import kernel_range

FULL = bool(os.environ.get("GPTOSS_EMULATOR_FULL"))
SEEDS = range(12 if FULL else 4)


def _one_more(match: re.Match[str]) -> str:
    """Let one group more be in flight: the number stands at the end."""
    return f"{match.group(1)}{int(match.group(2)) + 1};"


def _half(match: re.Match[str]) -> str:
    """Halve the number of bytes or arrivals at the end: a register's or a constant."""
    start, last = match.groups()
    if last.isdigit():
        return f"{start}{int(last) // 2};"
    return f"{{ .reg .b32 half; shr.u32 half, {last}, 1; {start}half; }}"


# What is looked for, and what stands in its place.
WEAKER: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
    (r"bar(?:rier)?\.(?:cta\.)?sync[^;]*;", ""),
    (r"bar\.red\.[^;]*;", ""),
    (r"bar\.arrive[^;]*;", ""),
    (r"bar\.arrive[ \t]+(\d), 64;", r"bar.arrive \1, 32;"),
    (r"bar\.sync[ \t]+(\d), 64;", r"bar.sync \1, 32;"),
    (r"bar\.warp\.sync[^;]*;", ""),
    (r"membar\.gl;", ""),
    (r"membar\.gl;", "membar.cta;"),
    (r"cp\.async\.commit_group;", ""),
    (r"cp\.async\.wait_all;", ""),
    (r"cp\.async\.wait_group[ \t]+\d+;", ""),
    (r"(cp\.async\.wait_group[ \t]+)(\d+);", _one_more),
    (r"cp\.async\.bulk\.commit_group;", ""),
    (r"cp\.async\.bulk\.wait_group(\.read)?[ \t]+\d+;", ""),
    (r"(cp\.async\.bulk\.wait_group(?:\.read)?[ \t]+)(\d+);", _one_more),
    (r"cp\.async\.bulk\.wait_group[ \t]+(\d+);", r"cp.async.bulk.wait_group.read \1;"),
    (r"cp\.async\.mbarrier\.arrive[^;]*;", ""),
    (r"(?<!async\.)mbarrier\.arrive\.(?!expect)[^;]*;", ""),
    (r"mbarrier\.(?:try|test)_wait[\w.:]*[ \t]+(\w+|%p\d+),[^;]*;", r"setp.eq.u32 \1, 0, 0;"),
    (r"(mbarrier\.arrive\.expect_tx[^;]*, )(%r\d+|\d+);", _half),
    (r"(mbarrier\.init[^;]*, )(%r\d+|\d+);", _half),
    (r"fence\.mbarrier_init[^;]*;", ""),
    (r"fence\.proxy\.async[^;]*;", ""),
    (r"barrier\.cluster\.arrive[\w.]*;", ""),
    (r"barrier\.cluster\.wait[\w.]*;", ""),
    (r"barrier\.cluster\.arrive(\.aligned)?;", r"barrier.cluster.arrive.relaxed\1;"),
    (r"mbarrier\.arrive\.release\.cluster", "mbarrier.arrive.release.cta"),
    (r"try_wait\.parity\.acquire\.cluster", "try_wait.parity.acquire.cta"),
    (r"setmaxnreg\.dec[^;]*;", ""),
    (r"fence\.proxy\.async\.shared::cta;", "fence.proxy.async.global;"),
    (r"griddepcontrol\.wait;", ""),
    (r"wgmma\.fence[^;]*;", ""),
    (r"wgmma\.commit_group[^;]*;", ""),
    (r"wgmma\.wait_group[^;]*;", ""),
    (r"(wgmma\.wait_group\.sync\.aligned[ \t]+)(\d+);", _one_more),
    (r"ld\.acquire\.gpu", "ld.relaxed.gpu"),
    (r"ld\.acquire\.gpu", "ld.acquire.cta"),
    (r"st\.release\.gpu", "st.relaxed.gpu"),
    (r"st\.release\.gpu", "st.release.cta"),
    (r"atom\.global\.(cas|exch|add)", r"atom.relaxed.cta.global.\1"),
    (r"atom\.global\.gpu\.acq_rel", "atom.global.gpu.relaxed"),
    (r"atom\.global\.gpu\.acq_rel", "atom.global.cta.acq_rel"),
    (r"atom\.add\.release\.gpu", "atom.add.relaxed.gpu"),
    (r"atom\.add\.release\.gpu", "atom.add.release.cta"),
]

# One half of it without the other is no barrier but a mistake of its own: so both go, as well.
CLUSTER_ARRIVE, CLUSTER_WAIT = r"barrier\.cluster\.arrive[\w.]*;", r"barrier\.cluster\.wait[\w.]*;"

KERNEL_OF = {f"triton_{k}": k for k in ("matmul_f16", "matmul_tf32")}
KERNEL_OF = dict.fromkeys(KERNEL_OF, "matmul") | {"triton_sort": "sort_rows"}
KERNEL_OF |= {"triton_cluster_softmax": "softmax", "triton_cluster_sums": "column_sums"}
KERNEL_OF |= {"triton_fp8_matmul": "matmul"}
KERNEL_OF |= {"triton_hopper_matmul": "matmul", "triton_hopper_attention": "attention"}
KERNEL_OF |= {"triton_sm120_softmax": "softmax", "triton_sm120_attention": "attention"}
KERNEL_OF |= {f"triton_tma_matmul{k}": "matmul_tma" for k in ("", "_64", "_32", "_f16")}
KERNEL_OF |= {"triton_sm120_matmul": "matmul", "triton_sm120_tma_matmul": "matmul_tma"}

# What separates two equal synchronisations, by what they begin with.
SEPARATES = [
    (r"cp\.async\.wait", r"cp\.async\.(c[ag]\.|commit)"),
    (r"cp\.async\.commit", r"cp\.async\.wait|bar"),
    (r"bar|membar", r"(ld|st|atom|red|cp|ldmatrix|stmatrix|bar\.arrive)\b(?!\.param)"),
]


@dataclass(frozen=True)
class Mutant:
    """One site of one kernel, changed."""

    case: str
    change: str  # what was written -> what stands there now
    changes: tuple[tuple[int, str], ...]  # line in the file, from 0, and what it is now

    @property
    def lines(self) -> tuple[int, ...]:
        """The lines' numbers."""
        return tuple(i + 1 for i, _ in self.changes)

    @property
    def text(self) -> str:
        """The module with the change."""
        lines = list(_lines(self.case))
        for i, line in self.changes:
            lines[i] = line
        return "\n".join(lines)

    @property
    def name(self) -> str:
        """What identifies the mutant."""
        return f"{self.case}: {self.change} at {', '.join(map(str, self.lines))}"


@cache
def _lines(case: str) -> tuple[str, ...]:
    return tuple(ptx(corpus.file_of(case)).split("\n"))


@cache
def _labels(lines: tuple[str, ...]) -> dict[str, int]:
    return {m.group(1): i for i, line in enumerate(lines) if (m := re.match(r"(\$\w+):", line))}


def _reachable(lines: tuple[str, ...], start: int, separator: str) -> set[int]:
    """Return the lines that execution can come to from behind `start` before a separator."""
    labels = _labels(lines)
    seen: set[int] = set()
    todo = [start + 1]
    while todo:
        at = todo.pop()
        if at in seen or at >= len(lines):
            continue
        seen.add(at)
        code = re.sub(r"^\s*(@!?%p\d+\s+)?", "", lines[at])
        if re.match(separator, code) or re.match(r"(ret|exit)\b", code):
            continue
        branch = re.match(r"bra(\.uni)?\s+(\$\w+)", code)
        if branch:
            todo.append(labels[branch.group(2)])
            if "@" not in lines[at]:
                continue
        todo.append(at + 1)
    return seen


@cache
def _sites(lines: tuple[str, ...], pattern: str, begin: int, end: int) -> list[tuple[int, ...]]:
    """Return the sites of a pattern: lines that belong together."""
    matches = [i for i in range(begin, end) if re.search(pattern, lines[i])]
    separator = next((s for p, s in SEPARATES if re.match(p, re.sub(r"[\\(]", "", pattern))), None)
    if separator is None:
        return [(i,) for i in matches]
    groups = {i: {i} for i in matches}
    for i in matches:
        reached = _reachable(lines[:end], i, separator)
        for j in matches:
            same = re.sub(r"\s", "", lines[i]) == re.sub(r"\s", "", lines[j])
            if j != i and j in reached and same and not re.match(r"\s*@", lines[j]):
                merged = groups[i] | groups[j]
                for k in merged:
                    groups[k] = merged
    return sorted({tuple(sorted(g)) for g in groups.values()})


def _counts_one(lines: tuple[str, ...], at: int) -> bool:
    """Whether an mbarrier expects a single arrival: there is nothing weaker."""
    count = lines[at].rpartition(",")[2].strip(" ;")
    return count == "1" or any(re.search(rf"mov\.\w+\s+{count}, 1;", line) for line in lines)


def mutants(case: str, alone: bool = False) -> Iterator[Mutant]:
    """Make every mutant of a kernel; with `alone`, those of each of several that are one site."""
    lines = _lines(case)
    text = "\n".join(lines)
    kernel = KERNEL_OF.get(case, case.removeprefix("triton_"))
    first, last = kernel_range(text, kernel)
    begin, end = text[:first].count("\n"), text[:last].count("\n")

    def sites(pattern: str) -> list[tuple[int, ...]]:
        found = _sites(lines, pattern, begin, end)
        return [(i,) for site in found if len(site) > 1 for i in site] if alone else found

    for pattern, replacement in WEAKER:
        for site in sites(pattern):
            if "mbarrier.init" in lines[site[0]] and _counts_one(lines, site[0]):
                continue
            changes = {}
            for i in site:
                match = re.search(pattern, lines[i])
                assert match
                new = replacement(match) if callable(replacement) else match.expand(replacement)
                changes[i] = lines[i][: match.start()] + new + lines[i][match.end() :]
            written = " ".join(match.group(0).split())
            now = " ".join(new.split()) or "nothing"
            yield Mutant(case, f"{written} -> {now}", tuple(changes.items()))
    for site in sites(CLUSTER_ARRIVE):
        changes = {}
        for i in site:
            wait = next(k for k in range(i, end) if re.search(CLUSTER_WAIT, lines[k]))
            changes[i] = re.sub(CLUSTER_ARRIVE, "", lines[i])
            changes[wait] = re.sub(CLUSTER_WAIT, "", lines[wait])
        yield Mutant(case, "barrier.cluster -> nothing", tuple(changes.items()))


# Mutants that change nothing that PTX promises: all of them in what Triton wrote.
_READS = "before it, back to the last barrier, and behind it stand only reads of shared memory"
_ATOMIC = "Triton lets every atomic synchronise the block; nothing is handed over here"
_FENCED = "the fence ahead of it covers both tiles, and nothing is written between"
_COUNTS = "only bytes are expected or copied on both sides: an mbarrier counts them in any order"
_ENDS = "the kernel ends behind it"
_GRID = "the end of the grid makes the copies' writes visible"
_EACH = "each thread has waited for the mbarrier itself, and behind it stand only reads"
_LAST = "the last step's barriers stand behind everybody's last wait for an mbarrier and last read"
_READ = "what stands ahead of it only reads, and a copy over what was read needs no fence"
REDUNDANT: dict[str, str] = {
    "triton_cluster_sums: atom.global.gpu.acq_rel -> atom.global.gpu.relaxed at 190": _ATOMIC,
    "triton_cluster_sums: barrier.cluster.arrive.aligned; -> "
    "barrier.cluster.arrive.relaxed.aligned; at 182": _ATOMIC,
    "triton_cluster_sums: barrier.cluster.arrive.aligned; -> "
    "barrier.cluster.arrive.relaxed.aligned; at 193, 196": _ATOMIC,
    "triton_cluster_sums: barrier.cluster -> nothing at 182, 183": _ATOMIC,
    "triton_cluster_sums: barrier.cluster -> nothing at 193, 194, 196, 197": _ATOMIC,
    "triton_hopper_attention: fence.proxy.async.shared::cta; -> nothing at 850": _FENCED,
    "triton_hopper_attention: fence.proxy.async.shared::cta; -> fence.proxy.async.global; at 850": (
        _FENCED
    ),
    "triton_tma_matmul: bar.sync 0; -> nothing at 114": _COUNTS,
    "triton_tma_matmul: bar.sync 0; -> nothing at 125, 132": _COUNTS,
    "triton_tma_matmul: bar.sync 0; -> nothing at 143": _COUNTS,
    "triton_tma_matmul: bar.sync 0; -> nothing at 346": _COUNTS,
    "triton_tma_matmul: bar.sync 0; -> nothing at 437": _ENDS,
    "triton_tma_matmul: cp.async.bulk.wait_group 0; -> cp.async.bulk.wait_group.read 0; at 436": (
        _GRID
    ),
    "triton_matmul: bar.sync 0; -> nothing at 361": _READS,
    "triton_matmul_f16: bar.sync 0; -> nothing at 258": _READS,
    "triton_matmul_tf32: bar.sync 0; -> nothing at 233": _READS,
    "triton_column_sums: bar.sync 0; -> nothing at 205": _ATOMIC,
    "triton_column_sums: bar.sync 0; -> nothing at 214": _ATOMIC,
    "triton_column_sums: atom.global.gpu.acq_rel -> atom.global.gpu.relaxed at 211": _ATOMIC,
}

# Matmuls whose source is counted with other tiles or for another card; and what in them is
# redundant, by kernel, sites of `bar.sync` and the reason, and the wait before the end.
VARIANTS = {f"triton_tma_matmul_{k}" for k in ("64", "32", "f16")}
VARIANTS |= {"triton_sm120_matmul", "triton_sm120_tma_matmul"}
_BARRIERS = {
    "triton_sm120_tma_matmul": {
        "99": _COUNTS, "199": _EACH, "403": _COUNTS, "453": _LAST, "506": _ENDS,
    },
    "triton_tma_matmul_32": {
        "113": _COUNTS, "124, 131": _COUNTS, "142": _COUNTS, "284": _COUNTS, "360": _ENDS,
    },
    "triton_tma_matmul_64": {
        "121": _COUNTS, "132, 139": _COUNTS, "150": _COUNTS, "161, 168": _COUNTS, "179": _COUNTS,
        "360": _COUNTS, "457": _ENDS,
    },
    "triton_tma_matmul_f16": {
        "114": _COUNTS, "125, 132": _COUNTS, "143": _COUNTS, "415": _COUNTS, "521": _ENDS,
    },
}  # fmt: skip
_WAITS = {
    "sm120_tma_matmul": 505,
    "tma_matmul_32": 359,
    "tma_matmul_64": 456,
    "tma_matmul_f16": 520,
}
REDUNDANT_IN_VARIANTS = {
    f"{case}: bar.sync 0; -> nothing at {sites}": reason
    for case, barriers in _BARRIERS.items()
    for sites, reason in barriers.items()
} | {
    f"triton_{kernel}: cp.async.bulk.wait_group 0; -> cp.async.bulk.wait_group.read 0; at {line}": (
        _GRID
    )
    for kernel, line in _WAITS.items()
}
REDUNDANT_IN_VARIANTS |= {
    f"triton_sm120_tma_matmul: fence.proxy.async.shared::cta; -> {now} at 393": _READ
    for now in ("nothing", "fence.proxy.async.global;")
}

# Of several that are one site each alone: what is redundant, by what is changed, kernel and lines.
_JOINED = "its copies go into the next group, and who waits for them waits for that"
_AGAIN = "another wait for the same groups stands before the next read"
_OTHERS = "the others of its site order what must be ordered; or the site is redundant, too"
_TMA_BARRIERS = {
    "triton_tma_matmul": ("103", "125", "132", "258", "327", "336", "366", "373"),
    "triton_tma_matmul_32": ("102", "124", "131", "227", "263", "272", "304", "311"),
    "triton_tma_matmul_64": (
        "110", "132", "139", "161", "168", "294", "341", "350", "380", "393",
    ),
    "triton_tma_matmul_f16": ("103", "125", "132", "322", "396", "405"),
    "triton_sm120_tma_matmul": ("88", "386", "394"),
}  # fmt: skip
_WAITS_FOR_ALL = {
    "triton_matmul_f16": ("257", "331", "332", "390"),
    "triton_matmul_tf32": ("232", "334", "335", "367"),
}
_ALONE: dict[str, tuple[str, dict[str, tuple[str, ...]]]] = {
    "cp.async.commit_group; -> nothing": (_JOINED, {
        "triton_matmul": ("128",),
        "triton_matmul_f16": ("123", "317"),
        "triton_matmul_tf32": ("120", "311"),
        "triton_attention": ("154", "801"),
        "triton_fp8_matmul": ("138", "518"),
        "triton_hopper_matmul": ("157",),
        "triton_hopper_attention": ("176", "1018"),
        "triton_sm120_matmul": ("126",),
        "triton_sm120_attention": ("154", "816"),
    }),
    "cp.async.wait_group 2; -> nothing": (_AGAIN, {"triton_matmul": ("360", "495", "496")}),
    "cp.async.wait_group 2; -> cp.async.wait_group 3;": (
        _AGAIN, {"triton_matmul": ("360", "495", "496")},
    ),
    "cp.async.wait_group 0; -> nothing": (_AGAIN, _WAITS_FOR_ALL),
    "cp.async.wait_group 0; -> cp.async.wait_group 1;": (_AGAIN, _WAITS_FOR_ALL),
    "bar.sync 0; -> nothing": (_OTHERS, _TMA_BARRIERS),
    "barrier.cluster -> nothing": (_OTHERS, {"triton_cluster_sums": ("193, 194", "196, 197")}),
    "barrier.cluster.wait.aligned; -> nothing": (_ENDS, {"triton_cluster_sums": ("197",)}),
    "barrier.cluster.arrive.aligned; -> barrier.cluster.arrive.relaxed.aligned;": (
        _ATOMIC, {"triton_cluster_sums": ("193", "196")},
    ),
}  # fmt: skip
REDUNDANT_ALONE = {
    f"{case}: {change} at {lines}": reason
    for change, (reason, cases) in _ALONE.items()
    for case, sites in cases.items()
    for lines in sites
}


def _all(alone: bool = False) -> list[Mutant]:
    return [m for case in corpus.CASES if case not in VARIANTS for m in mutants(case, alone)]


def _of_variants(alone: bool = False) -> list[Mutant]:
    return [m for case in sorted(VARIANTS) for m in mutants(case, alone)]


def _is_noticed(mutant: Mutant) -> bool:
    for seed in SEEDS:
        outcome = corpus.run(mutant.case, mutant.text, seed=seed, max_warp_instructions=10_000_000)
        if outcome.result.errors or not outcome.is_right:
            return True
    return False


def _sample(every: list[Mutant], count: int) -> list[Mutant]:
    return every if FULL else random.Random(0).sample(every, count)


def _check(chosen: list[Mutant], redundant: dict[str, str]) -> None:
    """Those that nothing notices are exactly those that there is a reason for."""
    alive = {m.name for m in chosen if not _is_noticed(m)}
    excused = redundant.keys() & {m.name for m in chosen}
    assert alive == excused, "\n".join(sorted(alive ^ excused))


def test_mutants_are_noticed() -> None:
    _check(_sample(_all(), 70), REDUNDANT)


def test_mutants_of_variants_are_noticed() -> None:
    _check(_sample(_of_variants(), 12), REDUNDANT_IN_VARIANTS)


def test_mutants_of_one_of_several_are_noticed() -> None:
    _check(_sample(_all(alone=True) + _of_variants(alone=True), 16), REDUNDANT_ALONE)


def test_mutants_are_as_many_as_the_documentation_says() -> None:
    names, others = {m.name for m in _all()}, {m.name for m in _of_variants()}
    assert REDUNDANT.keys() <= names
    assert REDUNDANT_IN_VARIANTS.keys() <= others
    assert (len(names), len(REDUNDANT)) == (399, 19)
    assert len(REDUNDANT) <= 0.05 * len(names)
    assert (len(others), len(REDUNDANT_IN_VARIANTS)) == (109, 28)
    # Every one that changes what PTX promises is noticed; none of nvcc's kernels has another.
    assert all(name.startswith("triton_") for name in REDUNDANT | REDUNDANT_ALONE)

    alone, others_alone = ({m.name for m in each(alone=True)} for each in (_all, _of_variants))
    assert REDUNDANT_ALONE.keys() <= alone | others_alone
    assert (len(alone), len(REDUNDANT_ALONE.keys() & alone)) == (116, 49)
    assert (len(others_alone), len(REDUNDANT_ALONE.keys() & others_alone)) == (37, 28)
    # Instruction by instruction: sites of one, and each of several.
    of_one = {
        m.name for m in _all() if len(m.lines) <= 1 + m.change.startswith("barrier.cluster ->")
    }
    found = REDUNDANT.keys() & of_one | REDUNDANT_ALONE.keys() & alone
    assert (len(of_one | alone), len(found)) == (468, 65)
