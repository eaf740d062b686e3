"""Result files as tables: what the sections of benchmarks/readme.py are made with."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
WEIGHTS = ROOT / "ccm_fast" / "weights_data"

Column = str | Callable[[dict], str]  # a cell of an item: a format string of its values, or a function


def load(name: str, folder: Path | None = None) -> dict | None:
    """A result file, or None: its section stays empty."""
    path = (folder or RESULTS) / name
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def made_of(name: str) -> Callable[[Callable[[dict], str]], Callable[[], str]]:
    """A section made of one result file."""

    def section(make: Callable[[dict], str]) -> Callable[[], str]:
        return lambda: make(result) if (result := load(name)) else ""

    return section


def table(items: Iterable[dict], columns: dict[str, Column], below: str = "") -> str:
    """Markdown: a row for each item, with the cells that the columns make of it, and text below. "" without items."""
    cells = [c.format_map if isinstance(c, str) else c for c in columns.values()]
    rows = ["| " + " | ".join(cell(item) for cell in cells) + " |" for item in items]
    head = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join([*head, *rows, *(["", below] if below else [])]) if rows else ""


def ms(seconds: float) -> str:
    return f"{1000 * seconds:.0f}"


def machine(result: dict) -> str:
    e = result["environment"]
    return f"Machine: {e['cpu']}, {e['cores']} cores, {e['kernels'].split(',')[0]} kernels, torch {e['torch']}."


def times_of(result: dict) -> str:
    """The machine that times were measured on, and that it was with weights from before, where it was."""
    of = result.get("times_of")
    if of is None:
        return machine(result)
    return f"{machine(of)} Times are of weights that shipped before ({of['weights']})."
