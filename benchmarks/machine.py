"""The machine that figures come from: without it they say nothing."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter

__all__ = ["Machine", "Neighbours"]

_SYNCHRONISATIONS = 500
_PROCESSES = Path("/proc")


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


class Neighbours:
    """Watches how much of the processors other programs take. Only Linux tells; elsewhere it stays at zero."""

    def __init__(self) -> None:
        self._servers: list[int] = []

    def leave_out(self, server: int) -> None:
        """Count a server's process and its children as the benchmark's own."""
        self._servers.append(server)

    def watch(self) -> Callable[[], float]:
        """Return a function that says which share of the processors other programs took since now."""
        before = self._times()

        def share() -> float:
            busy, total, own = (now - then for now, then in zip(self._times(), before, strict=True))
            return max(0.0, (busy - own) / total) if total else 0.0

        return share

    def _times(self) -> tuple[int, int, int]:
        """Return the busy, all, and our own clock ticks until now."""
        if not (_PROCESSES / "stat").exists():
            return 0, 0, 0
        times = [int(value) for value in (_PROCESSES / "stat").read_text().splitlines()[0].split()[1:9]]
        idle = times[3] + times[4]
        processes = [os.getpid(), *self._servers]
        for server in self._servers:
            children = _PROCESSES / f"{server}/task/{server}/children"
            processes += [int(child) for child in children.read_text().split()]
        return sum(times) - idle, sum(times), sum(_ticks(process) for process in processes)


def _ticks(process: int) -> int:
    """Return a process's clock ticks, those of its ended children included; 0 where it has just ended."""
    try:
        text = (_PROCESSES / f"{process}/stat").read_text()
    except OSError:
        return 0
    return sum(int(value) for value in text.rpartition(")")[2].split()[11:15])


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
