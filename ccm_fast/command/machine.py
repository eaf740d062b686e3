"""How much a folder job may do at once: what this machine has."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

__all__ = ["available_memory", "default_jobs", "usable_cores"]

# Of each picture in work: 19 megapixels at the 55 bytes a pixel that the encoder takes at its peak.
_BYTES_PER_JOB = 1 << 30


def usable_cores() -> int:
    """Those that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_memory() -> int | None:
    """Bytes that are free or can be made free, for this container too; None: unknown."""
    found = []
    with suppress(OSError, ValueError, IndexError):
        line = next((x for x in Path("/proc/meminfo").read_text().splitlines() if x.startswith("MemAvailable:")), "")
        found.append(int(line.split()[1]) << 10)
    with suppress(OSError, ValueError):  # "max" where there is no limit
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        found.append(max(0, limit - int(Path("/sys/fs/cgroup/memory.current").read_text())))
    return min(found, default=None)


def default_jobs(files: int) -> int:
    """How many files to work on at once: a core for each, as far as memory goes."""
    memory = available_memory()
    room = usable_cores() if memory is None else memory // _BYTES_PER_JOB
    return max(1, min(files, usable_cores(), room))
