"""Timing that survives a busy machine: candidates in turns, medians, spreads, cold caches on request."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from ccm_fast.atomic import atomic_write
from ccm_fast.environment import collect
from ccm_fast.errors import CcmFastError

__all__ = ["DeviceError", "device_for", "interleaved", "statistics_of", "table", "write_json"]

# More than the last-level cache of any processor or GPU that this is likely to meet (AMD's largest: 1.1 GB with stacked
# cache, but a core sees 96 MB of it; H100 50 MB, RTX 5090 96 MB).
FLUSH_BYTES = 128 << 20


class DeviceError(CcmFastError, RuntimeError):
    """The device that was asked for is not there."""


def device_for(name: str) -> torch.device:
    """The device of a name such as "cpu", "cuda" or "cuda:1".

    Raises:
        DeviceError: this machine has no such device.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise DeviceError(f"device {name!r} is unknown: use cpu, cuda or cuda:N")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            why = "this torch was built without CUDA" if torch.version.cuda is None else "no GPU is visible to torch"
            raise DeviceError(f"--device {name} needs an NVIDIA GPU: {why} (torch {torch.__version__})")
        if (device.index or 0) >= torch.cuda.device_count():
            raise DeviceError(f"--device {name}: there are only {torch.cuda.device_count()} GPUs")
    return device


def statistics_of(seconds: list[float]) -> dict:
    """``median``, ``best``, ``spread`` (interquartile range over the median) and all ``seconds``."""
    q1, middle, q3 = statistics.quantiles(seconds, n=4) if len(seconds) > 1 else seconds * 3
    return {"median": middle, "best": min(seconds), "spread": (q3 - q1) / middle if middle else 0.0, "seconds": seconds}


def interleaved(
    candidates: dict[str, Callable[[], object]],
    repeats: int = 15,
    warmup: int = 2,
    *,
    device: torch.device | None = None,
    cold: bool = False,
) -> dict[str, dict]:
    """Time callables in turns, so that whatever disturbs the machine disturbs all of them.

    Args:
        candidates: name -> callable.
        repeats: timed rounds.
        warmup: rounds before them.
        device: a CUDA device: events on its current stream are read instead of the clock.
        cold: write 128 MB between the calls, so that nothing that a call reads is in a cache.

    Returns:
        :func:`statistics_of` each.
    """
    cuda = device is not None and device.type == "cuda"
    flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device=device or "cpu") if cold else None
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(warmup + repeats):
        for name, call in candidates.items():
            if flush is not None:
                flush.fill_(number % 256)
            if cuda:
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                torch.cuda.synchronize(device)
                start.record()
                call()
                end.record()
                torch.cuda.synchronize(device)
                elapsed = start.elapsed_time(end) / 1e3
            else:
                before = time.perf_counter()
                call()
                elapsed = time.perf_counter() - before
            if number >= warmup:
                seconds[name].append(elapsed)
    return {name: statistics_of(values) for name, values in seconds.items()}


def table(rows: Iterable[Iterable[object]]) -> str:
    """Rows of cells (the first is the header) as aligned text; numbers to the right."""
    cells = [[f"{c:.2f}" if isinstance(c, float) else "" if c is None else str(c) for c in row] for row in rows]
    right = [all(_numeric(row[k]) for row in cells[1:]) for k in range(len(cells[0]))]
    width = [max(len(row[k]) for row in cells) for k in range(len(cells[0]))]
    return "\n".join(
        "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, width, right, strict=True)).rstrip()
        for row in cells
    )


def _numeric(text: str) -> bool:
    return not text or text.replace(".", "").replace(",", "").replace("-", "").replace("%", "").isdigit()


def write_json(path: str | Path, payload: dict) -> Path:
    """Write the payload with the environment beside it, complete or not at all."""
    text = json.dumps({"environment": collect(), **payload}, indent=1) + "\n"
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(text.encode())
    return path
