"""What the benchmarks share: interleaved timing, the environment, results as JSON."""

from __future__ import annotations

import json
import statistics
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

from ccm_fast.environment import collect

__all__ = ["interleaved", "save", "wrapped"]

RESULTS = Path(__file__).parent / "results"


def interleaved(candidates: dict[str, Callable[[], object]], repeats: int = 15, warmup: int = 2) -> dict[str, dict]:
    """Time callables in turns, so that whatever disturbs the machine disturbs all of them.

    Returns:
        For each name: ``median``, ``best`` and ``spread`` (interquartile range over the median), and all ``seconds``.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for round_ in range(warmup + repeats):
        for name, call in candidates.items():
            start = time.perf_counter()
            call()
            if round_ >= warmup:
                seconds[name].append(time.perf_counter() - start)
    result = {}
    for name, values in seconds.items():
        q1, middle, q3 = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
        result[name] = {"median": middle, "best": min(values), "spread": (q3 - q1) / middle, "seconds": values}
    return result


def wrapped(text: str) -> str:
    """A document whose lines of prose have at most 120 characters; tables, figures and comments stay as they are."""
    lines = []
    for line in text.split("\n"):
        further = "  " if line.startswith("- ") else ""
        fits = len(line) <= 120 or line.startswith(("|", "!", "<", "#"))
        lines += [line] if fits else textwrap.wrap(line, 120, subsequent_indent=further, break_on_hyphens=False)
    return "\n".join(lines)


def save(name: str, payload: dict) -> Path:
    """Write ``benchmarks/results/NAME.json`` with the environment beside the figures."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"environment": collect(), **payload}, indent=1) + "\n", encoding="utf-8")
    return path
