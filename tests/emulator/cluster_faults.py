"""Faults of clusters and of setmaxnreg, as those of faults.py."""
# ruff: noqa: E501 (a line of PTX stays one line)

from __future__ import annotations

from emulator.faults import LOAD_STORE, POLL_ALWAYS, RAW, WAR, Edit, Planted, Small

ARRIVE, WAIT = r"barrier\.cluster\.arrive[\w.]*;", r"barrier\.cluster\.wait[\w.]*;"
MULTICAST = r"multicast::cluster"
DIFFERENT_WARPS = "{.reg .pred q; .reg .b32 w; mov.u32 w, %tid.x; setp.ge.u32 q, w, 32;"


def _without_barrier(which: int) -> list[Edit]:
    return [(ARRIVE, which, ""), (WAIT, which, "")]


PLANTED: dict[str, Planted] = {
    "cluster_histogram without the barrier behind the zeros": Planted(
        "cluster_histogram", _without_barrier(0), {"race-mixed"}, "", ""
    ),
    "cluster_histogram without the barrier before the sum": Planted(
        "cluster_histogram", _without_barrier(1), {"race-mixed"}, "", ""
    ),
    "cluster_histogram's blocks end while others count in them": Planted(
        "cluster_histogram", _without_barrier(1), {"cluster-exit"}, "atom", "ret"
    ),
    "cluster_histogram with atomics of the block's scope": Planted(
        "cluster_histogram",
        [(r"atom\.add\.u32", 0, "atom.relaxed.cta.add.u32")],
        {"race-scope"},
        r"atom",
        r"atom",
        numbers="right",
    ),
    "cluster_histogram waits without having arrived": Planted(
        "cluster_histogram", [(ARRIVE, 1, "")], {"barrier-count"}, "wait", ""
    ),
    "cluster_histogram arrives twice": Planted(
        "cluster_histogram", [(WAIT, 0, "")], {"barrier-count"}, "arrive", ""
    ),
    "cluster_sum without its barrier": Planted(
        "cluster_sum", _without_barrier(0), {RAW, WAR}, "", ""
    ),
    "cluster_sum hands its stores on with a relaxed arrival": Planted(
        "cluster_sum",
        [(ARRIVE, 0, "barrier.cluster.arrive.relaxed;")],
        {RAW},
        r"ld\.shared",
        r"st\.f32",
        numbers="right",
    ),
    "cluster_ring arrives with the block's scope": Planted(
        "cluster_ring",
        [(r"arrive\.release\.cluster", 0, "arrive.release.cta")],
        {RAW},
        r"ld\.shared",
        r"st\.shared::cluster",
        numbers="right",
    ),
    "cluster_ring waits with the block's scope": Planted(
        "cluster_ring",
        [(r"parity\.acquire\.cluster", 0, "parity.acquire.cta")],
        {RAW},
        r"ld\.shared",
        r"st\.shared::cluster",
        numbers="right",
    ),
    "cluster_ring does not fence its mbarrier": Planted(
        "cluster_ring",
        [(r"fence\.mbarrier_init[\w.]*;", 0, "")],
        {"race-mixed"},
        r"mbarrier\.(arrive|try_wait)",
        r"mbarrier\.init",
        numbers="right",
    ),
    "cluster_ring does not wait for its neighbour": Planted(
        "cluster_ring", [POLL_ALWAYS], {RAW, WAR, "cluster-exit"}, "", ""
    ),
    "cluster_ring stores into its own block": Planted(
        "cluster_ring", [(r"(mapa[^;]*), %r4;", 0, r"\1, 0;")], {"race-warp", RAW, WAR, "cluster-exit", "race-shared-write-after-write", "uninitialised-store"}, "", ""
    ),
    "cluster_multicast before the mbarriers are known": Planted(
        "cluster_multicast",
        [(r"barrier\.cluster\.arrive\.relaxed\.aligned;", 0, "bar.sync 0;"), (WAIT, 0, "")],
        {"mbarrier", "race-mixed"},
        "",
        "",
    ),
    "cluster_multicast without waiting for free stages": Planted(
        "cluster_multicast",
        [(r"mbarrier\.try_wait\.parity\.acquire\.cluster[\w.:]*[ \t]+(p),[^;]*;", 0, r"setp.eq.u32 \1, 0, 0;")],
        {"async-overwritten", WAR},
        MULTICAST,
        "",
    ),
    "cluster_multicast to one block less": Planted(
        "cluster_multicast",
        [(r"(multicast::cluster[^;]*), %rs1;", None, r"\1, 3;")],
        {"endless-spin"},
        "",
    ),
    "cluster_multicast to a block that is none": Planted(
        "cluster_multicast",
        [(r"(multicast::cluster[^;]*), %rs1;", 0, r"\1, 15;")],
        {"out-of-bounds-shared"},
        MULTICAST,
    ),
    "cluster_multicast expects too little": Planted(
        "cluster_multicast",
        [(r"(mbarrier\.arrive\.expect_tx[^;]*), %r98;", 0, r"\1, 256;")],
        {"endless-spin"},
        "",
    ),
    "cluster_multicast ends while others arrive at its mbarriers": Planted(
        "cluster_multicast",
        [(r"barrier\.cluster\.arrive\.aligned;", 0, ""), (WAIT, 1, "")],
        {"cluster-exit"},
        "arrive",
        "",
        numbers="right",
    ),
    "cluster_copy without the fence between proxies": Planted(
        "cluster_copy",
        [(r"fence\.proxy\.async[^;]*;", 0, "")],
        {"proxy-fence"},
        r"cp\.async\.bulk",
        r"st\.shared",
        numbers="right",
    ),
    "cluster_copy without the first barrier": Planted(
        "cluster_copy", _without_barrier(0), {RAW, "mbarrier", "race-mixed", "async-source-written", "async-read-early"}, "", ""
    ),
    "cluster_copy counts on its own mbarrier": Planted(
        "cluster_copy",
        [(r"(cp\.async\.bulk[^;]*, )\[%r20\]", 0, r"\1[%r21]")],
        {"mbarrier"},
        r"cp\.async\.bulk",
    ),
    "cluster_copy does not wait": Planted(
        "cluster_copy", [POLL_ALWAYS], {"async-read-early", RAW}, r"ld\.shared", r"cp\.async\.bulk"
    ),
    "cluster_copy writes its source too early": Planted(
        "cluster_copy",
        [(r"(cp\.async\.bulk[^;]*;)", 0, r"\1 st.shared.u32 [%r15], %r22;")],
        {"async-source-written"},
        r"st\.shared",
        r"cp\.async\.bulk",
    ),
    "Triton's softmax without a barrier of the cluster": Planted(
        "triton_cluster_softmax", _without_barrier(0), {RAW, WAR}, "", "", kernel="softmax"
    ),
    "Triton's softmax without the last barrier of the cluster": Planted(
        "triton_cluster_softmax", _without_barrier(3), {"cluster-exit"}, r"ld\.shared::cluster", "ret", kernel="softmax"
    ),
    "Triton's softmax reads the other block's memory as its own": Planted(
        "triton_cluster_softmax", [(r"ld\.shared::cluster", 0, "ld.shared")], {"wrong-space"}, r"ld\.shared", kernel="softmax"
    ),
    # ---- setmaxnreg ----
    "specialised gives no registers back": Planted(
        "specialised", [(r"setmaxnreg\.dec[^;]*;", 0, "")], {"deadlock", "endless-spin"}, "", ""
    ),
    "specialised takes more registers than there are": Planted(
        "specialised", [(r"(setmaxnreg\.inc[\w.]*) 104;", 0, r"\1 112;")], {"deadlock", "endless-spin"}, "", ""
    ),
    "specialised gives up more than it has": Planted(
        "specialised", [(r"(setmaxnreg\.dec[\w.]*) 24;", 0, r"\1 72;"), (r"(setmaxnreg\.inc[\w.]*) 104;", 0, r"\1 64;")], {"setmaxnreg"}, "dec", numbers="right"
    ),
    "specialised takes what it has": Planted(
        "specialised", [(r"(setmaxnreg\.inc[\w.]*) 104;", 0, r"\1 56;")], {"setmaxnreg"}, "inc", numbers="right"
    ),
    "specialised without one warp": Planted(
        "specialised",
        [(r"(setmaxnreg\.dec[^;]*;)", 0, DIFFERENT_WARPS + r" @q \1}"), (r"(setmaxnreg\.inc[\w.]*) 104;", 0, r"\1 80;")],
        {"setmaxnreg"},
        "setmaxnreg",
        numbers="right",
    ),
    "specialised does it twice without a barrier": Planted(
        "specialised", [(r"setmaxnreg\.dec([\w.]*) 24;", 0, r"setmaxnreg.dec\1 40; setmaxnreg.dec\1 24;")], {"setmaxnreg"}, "setmaxnreg", numbers="right"
    ),
    "specialised by different instructions": Planted(
        "specialised",
        [(r"(setmaxnreg\.dec[^;]*;)", 0, DIFFERENT_WARPS + r" @q \1 @!q \1}")],
        {"setmaxnreg"},
        "setmaxnreg",
        "setmaxnreg",
        numbers="right",
    ),
}  # fmt: skip

TWO = {"cluster": 2, "profile": "H100"}
SYNC = "barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;"
LAUNCH = LOAD_STORE + "{}"
RANK = "mov.u32 %r20, %cluster_ctarank; xor.b32 %r21, %r20, 1; mapa.shared::cluster.u32 %r22, %r10, %r21;\n"

SMALL: dict[str, Small] = {
    "shared memory of another block as the own": Small(
        RANK + "st.shared.u32 [%r10], %r2;\n" + SYNC + " {} " + SYNC, "ld.shared::cluster.u32 %r23, [%r22];", "ld.shared.u32 %r23, [%r22];", {"wrong-space"}, always=TWO,
    ),
    "a rank beyond the cluster": Small(
        RANK + "st.shared.u32 [%r10], %r2;\n" + SYNC + " mapa.shared::cluster.u32 %r22, %r10, {}; ld.shared::cluster.u32 %r23, [%r22]; " + SYNC, "1", "2", {"out-of-bounds-shared"}, always=TWO,
    ),
    "out of bounds in another block": Small(
        RANK + "st.shared.u32 [%r10], %r2;\n" + SYNC + " ld.shared::cluster.u32 %r23, [%r22{}]; " + SYNC, "", "+4096", {"out-of-bounds-shared"}, always=TWO,
    ),
    "nothing was written in another block": Small(
        RANK + "{}\n" + SYNC + " ld.shared::cluster.u32 %r23, [%r22]; st.global.u32 [%rd5], %r23; " + SYNC, "st.shared.u32 [%r10], %r2;", "", {"uninitialised-store"}, r"ld\.shared::cluster", always=TWO,
    ),
    "a block ends that another one reads": Small(
        RANK + "st.shared.u32 [%r10], %r2;\n" + SYNC + " ld.shared::cluster.u32 %r23, [%r22]; {}", SYNC, "", {"cluster-exit"}, always=TWO,
    ),
    "two blocks write one word": Small(
        RANK + "setp.eq.u32 %p1, %r20, 0; mov.u32 %r24, 0; mapa.shared::cluster.u32 %r22, %r10, %r24;\n " + SYNC + " {}st.shared::cluster.u32 [%r22], %r5; " + SYNC, "@%p1 ", "", {"race-shared-write-after-write", "race-same-value"}, "st", always=TWO,
    ),
    "atomics of the block's scope on the cluster's memory": Small(
        RANK + "st.shared.u32 [%r10], 0; mov.u32 %r24, 0; mapa.shared::cluster.u32 %r22, %r10, %r24;\n " + SYNC + " atom.relaxed.{}.shared::cluster.add.u32 %r23, [%r22], 1; " + SYNC, "cluster", "cta", {"race-scope"}, "atom", always=TWO,
    ),
    "a cluster's barrier that one warp misses": Small(
        "setp.eq.u32 %p1, %r7, 0;\n {} barrier.cluster.arrive;\n {} barrier.cluster.wait;\n bar.sync 1, 64;", "", "@%p1", {"deadlock"}, always=TWO,
    ),
    "lanes of a warp at different barriers of the cluster": Small(
        "setp.lt.u32 %p1, %r6, {};\n @%p1 bra LESS;\n barrier.cluster.arrive.aligned;\n bra.uni MET;\nLESS:\n barrier.cluster.arrive.aligned;\nMET:\n barrier.cluster.wait;", "0", "7", {"divergent-warp", "divergent-barrier"}, always=TWO,
    ),
    "a relaxed arrival hands nothing over": Small(
        RANK + "st.shared.u32 [%r10], %r2;\n barrier.cluster.arrive.{};\n barrier.cluster.wait;\n ld.shared::cluster.u32 %r23, [%r22]; " + SYNC, "release", "relaxed", {RAW}, r"st\.shared", always=TWO,
    ),
    "a fence that does not reach the cluster": Small(
        RANK + "st.shared.u32 [%r10], %r2;\n fence.acq_rel.{};\n barrier.cluster.arrive.relaxed;\n barrier.cluster.wait;\n ld.shared::cluster.u32 %r23, [%r22]; " + SYNC, "cluster", "cta", {RAW}, r"st\.shared", always=TWO,
    ),
    "a flag of the block's scope in another block": Small(
        RANK + "mov.u32 %r25, second; mapa.shared::cluster.u32 %r26, %r25, %r21; setp.eq.u32 %p1, %r2, 0; setp.eq.u32 %p2, %r20, 0; @%p1 st.shared.u32 [%r25], 0;\n "
        + SYNC + " and.pred %p3, %p1, %p2; @!%p3 bra OTHER; st.shared::cluster.u32 [%r22], 5; st.release.{}.shared::cluster.u32 [%r26], 1; bra.uni DONE;\n"
        "OTHER:\n @%p2 bra DONE; @!%p1 bra DONE;\nPOLL:\n ld.acquire.cluster.shared.u32 %r27, [%r25]; setp.eq.u32 %p4, %r27, 0; @%p4 bra POLL;\n ld.shared.u32 %r28, [%r10];\nDONE:\n " + SYNC,
        "cluster", "cta", {RAW, "race-scope"}, "st", always=TWO,
    ),
    "a cluster that does not divide the grid": Small(
        LAUNCH, "", "", {"launch-limit"}, "", {"cluster": 3, "profile": "H100"},
    ),
    "clusters before compute capability 9.0": Small(
        LAUNCH, "", "", {"launch-limit"}, "", {"cluster": 2, "profile": "RTX 4090"},
    ),
    "a cluster of more blocks than every card takes": Small(
        LAUNCH, "", "", {"launch-limit"}, "", {"grid": 16, "block": 8, "cluster": 16, "profile": "H100"},
    ),
}  # fmt: skip
