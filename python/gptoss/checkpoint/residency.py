"""Which form of a model stays in the memory that there is, and what it means if none does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import get_args

from gptoss.checkpoint.memory import MemoryEstimate
from gptoss.options import Dense, Precision

# What is counted for a request where no context is asked for.
USUAL_CONTEXT_TOKENS = 8192
# The interpreter's, the tokenizer's and the system's own pages.
_OTHER_BYTES = 300_000_000


@dataclass(frozen=True)
class Residency:
    """What a model in one form needs to stay in memory, beside what is there.

    Attributes
    ----------
    estimate : MemoryEstimate
        Of the form.
    available_bytes : int
        What this process may take, limits of control groups included.
    """

    estimate: MemoryEstimate
    available_bytes: int

    @property
    def needed_bytes(self) -> int:
        """What is read or written again and again; of the embedding that is a few rows."""
        estimate = self.estimate
        return estimate.total_bytes - estimate.weights["embedding"] + _OTHER_BYTES

    @property
    def fits(self) -> bool:
        """Whether it stays in memory."""
        return self.needed_bytes <= self.available_bytes


def residencies(
    estimate_of: Callable[[Dense], MemoryEstimate], available_bytes: int, precision: Precision
) -> dict[Dense, Residency]:
    """Every form that goes with the precision, those that change least first."""
    forms: tuple[Dense, ...] = get_args(Dense) if precision == "auto" else ("bf16",)
    return {form: Residency(estimate_of(form), available_bytes) for form in forms}


def form_that_stays(forms: Mapping[Dense, Residency]) -> Dense:
    """What dense="auto" means: the first form that stays in memory, or else the smallest."""
    for form, residency in forms.items():
        if residency.fits:
            return form
    return min(forms, key=lambda form: forms[form].needed_bytes)


def residency_note(
    forms: Mapping[Dense, Residency], dense: Dense, bytes_per_token: float, *, is_auto: bool
) -> str | None:
    """One line where a form was chosen, or will not stay in memory; else None.

    Parameters
    ----------
    forms : mapping of str to Residency
        As `residencies` gives them.
    dense : {"bf16", "bf12", "q8"}
        The form that is loaded.
    bytes_per_token : float
        What is read of it for a token.
    is_auto : bool
        Whether `form_that_stays` chose it.
    """
    residency = forms[dense]
    needed, available = residency.needed_bytes, residency.available_bytes
    there = f"{available / 1e9:.1f} GB are available"
    context = f"with {residency.estimate.context_length:,} tokens of context"
    if residency.fits:
        if not is_auto or dense == next(iter(forms)):
            return None
        first = next(iter(forms.values()))
        return (
            f'dense="auto" takes {dense}, which needs {needed / 1e9:.1f} GB {context}: '
            f"{there}, and {first.estimate.dense} needs {first.needed_bytes / 1e9:.1f}"
        )
    weights = residency.estimate.weight_bytes - residency.estimate.weights["embedding"]
    from_disk = bytes_per_token * min(1.0, (needed - available) / weights)
    smaller = form_that_stays(forms)
    if forms[smaller].fits:
        remedy = f'dense="{smaller}" fits, with {forms[smaller].needed_bytes / 1e9:.1f} GB'
    else:
        remedy = "free memory, or raise the limit on it"
        if forms[smaller].needed_bytes < needed:
            remedy += f'; dense="{smaller}" needs {forms[smaller].needed_bytes / 1e9:.1f} GB'
    return (
        f"the weights will not stay in memory: {needed / 1e9:.1f} GB are needed {context}, "
        f"{there}. A prompt will read most of them from the disk again, and each token some "
        f"{from_disk / 1e9:.1g} GB, at its speed: {remedy} (docs/memory.md)"
    )
