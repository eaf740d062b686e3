"""The weights files that ship with the package: their names, places and fingerprints. Needs no torch."""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path

from . import _backend

__all__ = ["available", "find", "hinted", "is_accelerated", "shipped_fingerprints"]

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
    import hashlib  # OpenSSL: 3 ms

    found = {}
    for name in available():
        plan = _backend.native().read_plan(str(find(name)))
        groups = int.from_bytes(plan[20:24], "little")  # FORMAT.md, section 7
        found[hashlib.sha256(plan).digest()[:8]] = name, groups
    return found


@functools.cache
def _noted(folder: Path) -> dict[bytes, str]:
    """Fingerprint -> name, as the evaluations beside the weights give them (NAME.json)."""
    found = {}
    for path in folder.glob("*.json"):
        note = re.search(rb'"fingerprint": *"([0-9a-f]{16})"', path.read_bytes())
        if note:
            found[bytes.fromhex(note[1].decode())] = path.stem
    return found


def hinted(head: bytes) -> str | None:
    """The shipped model whose fingerprint seems to be among the first bytes of a file, or None.

    A hint, without reading any weights: the model that is opened tells its fingerprint.
    """
    names = (name for fingerprint, name in _noted(FOLDER).items() if fingerprint in head)
    return next((name for name in names if name in available()), None)


# No header of a weights file is longer.
_HEADER_MAX = 1 << 20


def is_accelerated(name: object) -> bool:
    """Whether a name is that of a file of an accelerated net of CompressAI, which runs by torch; False for all else.

    The file's header is looked at, and nothing else.
    """
    if not isinstance(name, (str, os.PathLike)) or (isinstance(name, str) and name in available()):
        return False
    try:
        import json

        with open(name, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size)) if 2 <= size <= _HEADER_MAX else {}
        return str(header["__metadata__"]["format"]).startswith("ccm_fast accelerated net")
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False  # whoever opens it says what is wrong with it
