"""What this machine can do, measured in a second: memory's read speed, energy."""

from __future__ import annotations

import platform
import re
import time
from pathlib import Path

import numpy as np

from gptoss import _core

PROBE_BYTES = 400_000_000  # far more than caches hold
_PROBE_K = 2880
_PROBE_ROUNDS = 5

# Of the speed that the probe finds, what decoding in the form makes use of, by the measurements
# in the README.
DECODE_SHARE = {"bf16": 0.9, "bf12": 0.85, "q8": 0.95}

_RAPL = Path("/sys/class/powercap")


class ReadProbe:
    """Measures how fast all threads read memory.

    It is read by the engine's own product of a bfloat16 matrix and a vector, which does little
    else, with the threads and the instruction set that a model would use.

    Parameters
    ----------
    most_bytes : int
        Memory to take for it. The default is beyond the caches of most processors.

    Raises
    ------
    BackendError, ValueError
        GPTOSS_ISA or GPTOSS_NUM_THREADS cannot be used.
    """

    def __init__(self, most_bytes: int = PROBE_BYTES) -> None:
        rows = max(64, most_bytes // (2 * _PROBE_K))
        # 1 in bfloat16. Zeros would be one page, many times.
        self._weights = np.full((rows, _PROBE_K), 0x3F80, np.uint16)
        self._x = np.ones((1, _PROBE_K), np.float32)
        self._pass_s()

    def gb_s(self) -> float:
        """GB/s, of the fastest of some passes: others may use the machine, too."""
        return self._weights.nbytes / min(self._pass_s() for _ in range(_PROBE_ROUNDS)) / 1e9

    def _pass_s(self) -> float:
        start = time.perf_counter()
        _core.dense_matmul(self._x, self._weights, None, True)
        return time.perf_counter() - start


def cpu_name() -> str:
    """What the system calls the processor."""
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        text = ""
    found = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", text, re.M)
    return found[1] if found else platform.processor() or platform.machine()


class EnergyMeter:
    """Energy that the processor's packages have used, where the system tells it (RAPL).

    Attributes
    ----------
    source : str or None
        What is read, None if there is nothing that can be.
    why_not : str
        Why there is nothing, if so.
    """

    def __init__(self, folder: Path = _RAPL) -> None:
        self.source: str | None = None
        self.why_not = f"no RAPL counters in {folder}"
        self._counters: list[tuple[Path, int]] = []
        # The packages: intel-rapl:0, intel-rapl:1 ...; their parts have one more number. AMD's are
        # under the same name.
        for zone in sorted(folder.glob("intel-rapl:*")):
            if zone.name.count(":") != 1:
                continue
            try:
                _read(zone / "energy_uj")
                limit = _read(zone / "max_energy_range_uj")
            except OSError as error:
                self.why_not = f"{zone / 'energy_uj'}: {error.strerror}"
                continue
            self._counters.append((zone / "energy_uj", limit))
        if self._counters:
            self.source = f"RAPL, {len(self._counters)} package(s)"
        self._last = [_read(path) for path, _ in self._counters]

    def joules(self) -> float | None:
        """Energy since the last call, or since the beginning; None if it cannot be read."""
        if not self._counters:
            return None
        now = [_read(path) for path, _ in self._counters]
        total = 0
        for (_, limit), before, after in zip(self._counters, self._last, now, strict=True):
            total += after - before if after >= before else after + limit - before
        self._last = now
        return total / 1e6


def _read(path: Path) -> int:
    return int(path.read_text())
