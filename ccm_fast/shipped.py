"""The weights files that ship with the package: their names, places and fingerprints. Needs no torch."""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path

from . import _backend

__all__ = ["available", "find", "shipped_fingerprints"]

FOLDER = Path(__file__).resolve().parent / "weights_data"


def available() -> list[str]:
    """Names of the models that ship with the package."""
    return sorted(p.stem for p in FOLDER.glob("*.safetensors"))


def find(name: str | os.PathLike[str]) -> Path:
    """The weights file of a shipped model's name, or of a path.

    Raises:
        FileNotFoundError: neither; the message lists the names.
    """
    shipped = FOLDER / f"{name}.safetensors"
    if isinstance(name, str) and name in available():
        return shipped
    path = Path(name)
    if path.is_file():
        return path
    names = ", ".join(available()) or "none"
    raise FileNotFoundError(f"no model called {str(name)!r} (shipped: {names}), and no file of that name")


@functools.cache
def shipped_fingerprints() -> dict[bytes, tuple[str, int]]:
    """Fingerprint -> name and number of groups of every model that ships with the package."""
    found = {}
    for name in available():
        plan = _backend.native().read_plan(str(find(name)))
        groups = int.from_bytes(plan[20:24], "little")  # FORMAT.md, section 7
        found[hashlib.sha256(plan).digest()[:8]] = name, groups
    return found
