"""What a model needs on a card of NVIDIA's, by context and number of sequences."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from gptoss.checkpoint.memory import (
    MemoryEstimate,
    Placement,
    card_rooms,
    estimate_config,
    matrices_in_q8_0,
    place,
)
from gptoss.checkpoint.open import Located
from gptoss.cli.options import format_bytes
from gptoss.errors import BackendError
from gptoss.options import MAX_SEQUENCES, Dense, KvCacheDtype, Precision

_CONTEXT_LENGTHS = (4096, 8192, 32_768, 131_072)
_SEQUENCES = (1, 4, 16, 64)
# In GB, as cards are sold; they show as much or more.
_USUAL_SIZES = (8, 12, 16, 24, 32, 48, 80, 96, 141)
_LEGEND = (
    "A cell is what is needed with all experts on cards. 2 cards: load splits the layers over "
    "them; 3 in RAM: it leaves the experts of 3 layers there, to the CPU (docs/cuda.md)."
)


def card_report(
    located: Located,
    *,
    precision: Precision,
    dense: Dense | None,
    kv_cache_dtype: KvCacheDtype,
    memory: Sequence[int],
) -> Iterator[object]:
    """Yield what is to be printed: for each form a table of what is needed, and whether it fits.

    Parameters
    ----------
    located : Located
        The model; of a Hub id its config is enough.
    precision, kv_cache_dtype
        As for `load`.
    dense : {"bf16", "q8"}, optional
        One form; by default those that go with the precision.
    memory : sequence of int
        Bytes of each card; if it is empty, of those that are here. If none is, the smallest usual
        card that is enough stands behind each number.
    """
    from rich.text import Text

    config = located.config
    q8_0 = matrices_in_q8_0(located)
    every: tuple[Dense, ...] = ("bf16", "q8") if precision == "auto" else ("bf16",)
    forms = every if dense is None else (dense,)

    def estimate(dense: Dense, tokens: int, sequences: int) -> MemoryEstimate:
        return estimate_config(
            located.name,
            config,
            tokens,
            precision=precision,
            dense=dense,
            kv_cache_dtype=kv_cache_dtype,
            device="cuda",
            max_sequences=sequences,
            layout=located.layout,
            q8_0=q8_0,
        )

    longest = config.max_position_embeddings
    lengths = [n for n in _CONTEXT_LENGTHS if n < longest] + [longest]
    tables = {
        form: [[estimate(form, length, n) for n in _SEQUENCES] for length in lengths]
        for form in forms
    }
    try:
        rooms = card_rooms(memory)
    except BackendError as error:
        sizes_bytes = [size * 10**9 for size in _USUAL_SIZES]
        usable = [room for _, room in card_rooms(sizes_bytes)]
        usual = dict(zip(_USUAL_SIZES, usable, strict=True))

        def smallest(estimate: MemoryEstimate) -> str:
            enough = (n for n, room in usual.items() if estimate.total_bytes <= room)
            return f"({next(enough, 'none')})"

        for rows in tables.values():
            yield _table(rows, smallest)
        sizes = ", ".join(map(str, _USUAL_SIZES))
        yield Text(
            f"{error}.\nIn brackets: the smallest card that is enough, of {sizes} GB; "
            "--memory 24GB asks for one."
        )
        return

    def placement(form: Dense, tokens: int | None, sequences: int) -> Placement:
        return place(
            config,
            tokens,
            precision=precision,
            dense=form,
            kv_cache_dtype=kv_cache_dtype,
            max_sequences=sequences,
            rooms=rooms,
            q8_0=q8_0,
        )

    def load(form: Dense, sequences: int) -> str:
        try:
            placed = placement(form, None, sequences)
        except MemoryError:
            return "does not fit"
        verdict = _verdict(placed)
        where = "" if verdict == "fits" else f", {verdict}"
        return f"context up to {placed.context_length:,}{where}"

    for form, rows in tables.items():

        def fits(estimate: MemoryEstimate, form: Dense = form) -> str:
            return _verdict(placement(form, estimate.context_length, estimate.max_sequences))

        yield _table(rows, fits)
        yield Text(
            f"{MAX_SEQUENCES} sequences that share pages, as load has it: "
            f"{load(form, MAX_SEQUENCES)}"
        )
        yield Text(f"1 sequence, max_sequences=1: {load(form, 1)}")
    if memory:
        cards = " and ".join(map(format_bytes, memory))
        room = " and ".join(format_bytes(max(0, size)) for _, size in rooms)
        yield Text(f"Planned for {cards}, of which {room} can be used (docs/cuda.md).")
    else:
        yield Text("Planned for what is free on the cards that are here (docs/cuda.md).")
    yield Text(_LEGEND)


def _verdict(placed: Placement) -> str:
    if not placed.fits:
        return "no"
    if placed.cpu_experts:
        return f"{placed.cpu_experts} in RAM"
    return "fits" if placed.devices == 1 else f"{placed.devices} cards"


def _table(
    rows: Sequence[Sequence[MemoryEstimate]], verdict: Callable[[MemoryEstimate], str]
) -> object:
    from rich.table import Table

    first = rows[0][0]
    title = f"GB on a card, precision {first.precision}, dense {first.dense}"
    if first.kv_cache_dtype != "auto":
        title += f", KV cache {first.kv_cache_dtype}"
    table = Table(
        title=f"{title}; weights {format_bytes(first.weight_bytes)}", title_justify="left"
    )
    table.add_column("context", justify="right")
    for estimate in rows[0]:
        n = estimate.max_sequences
        table.add_column(f"{n} sequence{'s' if n > 1 else ''}", justify="right")
    for row in rows:
        cells = [f"{e.total_bytes / 1e9:.2f} {verdict(e)}" for e in row]
        table.add_row(f"{row[0].context_length:,}", *cells)
    return table
