"""The machine that figures come from: without it they say nothing."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter

__all__ = ["Machine", "others_share"]

_SYNCHRONISATIONS = 500
_LOOKING_SECONDS = 0.5
_PROCESSOR_TIMES = Path("/proc/stat")


@dataclass(frozen=True, slots=True)
class Machine:
    """Processors, Python, and how long the disk takes to keep 4 KiB for good, in µs."""

    cores: int
    processor: str
    system: str
    python: str
    fsync_append: tuple[float, float]
    fsync_overwrite: tuple[float, float]

    @classmethod
    def measured(cls, folder: Path) -> Machine:
        return cls(
            cores=os.cpu_count() or 1,
            processor=_processor(),
            system=f"{platform.system()} {platform.release()}",
            python=f"{platform.python_implementation()} {platform.python_version()}",
            fsync_append=_synchronisation(folder / "append", extent=0),
            fsync_overwrite=_synchronisation(folder / "overwrite", extent=_SYNCHRONISATIONS),
        )

    def lines(self) -> list[str]:
        append, overwrite = self.fsync_append, self.fsync_overwrite
        disk = f"appended {append[0]:.0f} ({append[1]:.0f}) µs, overwritten {overwrite[0]:.0f} ({overwrite[1]:.0f}) µs"
        return [
            f"{self.cores} cores, {self.processor}, {self.system}, {self.python}",
            f"fsync of 4 KiB, median (99%): {disk}",
        ]


def others_share() -> float | None:
    """Return how much of the processors other programs take while this one sleeps a moment. None outside Linux."""
    before = _busy_and_total()
    time.sleep(_LOOKING_SECONDS)
    after = _busy_and_total()
    if before is None or after is None:
        return None
    return (after[0] - before[0]) / (after[1] - before[1])


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _synchronisation(path: Path, *, extent: int) -> tuple[float, float]:
    """Return the median and the 99th percentile of writing 4 KiB for good, into a file that is `extent` blocks long."""
    block = b"\0" * 4096
    synchronise = getattr(os, "fdatasync", os.fsync)
    times: list[float] = []
    with path.open("wb", buffering=0) as file:
        file.write(block * extent)
        os.fsync(file.fileno())
        file.seek(0)
        for _ in range(_SYNCHRONISATIONS):
            file.write(block)
            started = perf_counter()
            synchronise(file.fileno())
            times.append((perf_counter() - started) * 1e6)
    path.unlink()
    return median(times), quantiles(times, n=100)[98]


def _busy_and_total() -> tuple[int, int] | None:
    if not _PROCESSOR_TIMES.exists():
        return None
    times = [int(value) for value in _PROCESSOR_TIMES.read_text().splitlines()[0].split()[1:9]]
    return sum(times) - times[3] - times[4], sum(times)
