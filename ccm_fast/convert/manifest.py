"""The manifest: a line of JSON for the settings, then one for each unit, by which a conversion goes on after a stop."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ..atomic import atomic_write, is_temporary
from .units import MANIFEST, Unit

__all__ = ["Manifest", "SettingsError", "open_manifest"]


class SettingsError(ValueError):
    """The target was made with other settings, or something else is working on it."""


class Manifest:
    """Lines of units that are done, and the file that they are in.

    Attributes:
        lines: by the unit's name.
    """

    def __init__(self, path: Path, file: BinaryIO, settings: dict, lines: dict[str, dict]):
        self._path, self._file, self._settings, self.lines = path, file, settings, lines

    def is_done(self, unit: Unit, source: Path) -> bool:
        """Whether a unit needs no work: its line is here, its target is whole, and its source is as long as it was."""
        line = self.lines.get(unit.name)
        if line is None or "error" in line or line["target"] != unit.target:
            return False
        path = source / unit.name if source.is_dir() else source
        try:
            sizes = path.stat().st_size, (self._path.parent / unit.target).stat().st_size
        except OSError:
            return False
        return sizes == (line["source_bytes"], line["target_bytes"])

    def add(self, line: dict) -> None:
        """Note down what became of a unit."""
        self.lines[line["source"]] = line
        self._file.write(_line(line))
        self._file.flush()

    def finish(self, units: list[Unit]) -> None:
        """Write the file anew: one line for each of the units, in their order."""
        with atomic_write(self._path) as file:
            file.write(_line({"settings": self._settings}))
            file.writelines(_line(self.lines[unit.name]) for unit in units if unit.name in self.lines)


def _line(entry: dict) -> bytes:
    return json.dumps(entry, ensure_ascii=True).encode() + b"\n"


def _read(path: Path) -> tuple[dict | None, dict[str, dict], int]:
    """Settings, lines, and how many bytes of the file are whole: a stop may have cut off the last line."""
    settings, lines, whole = None, {}, 0
    with open(path, "rb") as file:
        for text in file:
            try:
                entry = json.loads(text)
            except ValueError:
                break
            if not text.endswith(b"\n") or not isinstance(entry, dict):
                break
            whole += len(text)
            if "settings" in entry:
                settings = entry["settings"]
            else:
                lines[entry["source"]] = entry
    return settings, lines, whole


@contextmanager
def open_manifest(target: Path, settings: dict, force: bool) -> Iterator[Manifest]:
    """The manifest of a target, new or to go on with; the target is locked meanwhile.

    Args:
        target: the folder, which is made.
        settings: what the outputs depend on.
        force: begin anew where they differ.

    Raises:
        SettingsError: they differ; another process is at work on the target.
        OSError: it cannot be written.
    """
    target.mkdir(parents=True, exist_ok=True)
    path = target / MANIFEST
    with _locked(target):
        for folder, _, names in os.walk(target):  # of processes that were killed
            for name in filter(is_temporary, names):
                os.unlink(os.path.join(folder, name))
        old, lines, whole = _read(path) if path.exists() else (None, {}, 0)
        if old is not None and old != settings:
            if not force:
                different = ", ".join(k for k in settings if old.get(k) != settings[k])
                raise SettingsError(f"{target} was made with other settings ({different}): --force begins anew")
            old, lines, whole = None, {}, 0
        with open(path, "ab") as file:
            file.truncate(whole)
            if old is None:
                file.write(_line({"settings": settings}))
                file.flush()
            yield Manifest(path, file, settings, lines)


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:  # no POSIX system: two conversions at once are the user's care
        yield
        return
    folder = os.open(target, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise SettingsError(f"another conversion is at work on {target}") from None
    finally:
        os.close(folder)
