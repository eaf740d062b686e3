"""Units of a conversion: what there is in a source, and the work on each, in any process."""

from __future__ import annotations

import os
import shutil
import tarfile
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ..atomic import atomic_write
from ..data.sources import is_shard
from ..errors import CcmFastError, PictureWarning
from ..stream.limits import max_file_bytes
from .recode import Recoder

__all__ = ["MANIFEST", "Report", "Unit", "convert_unit", "find_units", "new_names"]

MANIFEST = "manifest.jsonl"
_NAMED = 100  # pictures of a unit whose errors are listed


@dataclass(frozen=True)
class Unit:
    """One file of the source and the file of the target that it becomes, relative to both folders.

    Attributes:
        kind: "picture", "shard", "table" or "copy".
    """

    name: str
    target: str
    kind: str


@dataclass
class Report:
    """What became of a unit's pictures.

    Attributes:
        pictures: how many were converted.
        bytes_in: of those.
        bytes_out: likewise.
        decibels: PSNR of each, where it is measured.
        errors: messages by the names of pictures that stay as they were.
        failed: how many those are.
        notes: what cannot be kept of a picture.
    """

    pictures: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    decibels: list[float] = field(default_factory=list)
    errors: dict[str, str] = field(default_factory=dict)
    failed: int = 0
    notes: set[str] = field(default_factory=set)

    def convert(self, recoder: Recoder, name: str, data: bytes) -> bytes | None:
        """The new picture, or None if it fails."""
        try:
            found = recoder.recode(data)
        except (CcmFastError, ValueError, MemoryError) as error:
            self.failed += 1
            if len(self.errors) < _NAMED:
                self.errors[name] = f"{type(error).__name__}: {error}"
            return None
        self.pictures += 1
        self.bytes_in += len(data)
        self.bytes_out += len(found.data)
        if found.psnr is not None:
            self.decibels.append(found.psnr)
        return found.data

    def line(self, unit: Unit) -> dict:
        """For the manifest: the same for the same input and settings, wherever the work was done."""
        found = {"source": unit.name, "target": unit.target, "kind": unit.kind, "pictures": self.pictures}
        found |= {"bytes_in": self.bytes_in, "bytes_out": self.bytes_out}
        if self.decibels:
            mean = sum(self.decibels) / len(self.decibels)
            found |= {"psnr": round(mean, 3), "psnr_least": round(min(self.decibels), 3)}
        if self.failed:
            found |= {"failed": self.failed, "errors": self.errors}
        return found | ({"notes": sorted(self.notes)} if self.notes else {})


def find_units(source: Path, recoder: Recoder) -> list[Unit]:
    """Every file of a folder, to all depths, by name; or the one file that the source is.

    Raises:
        FileNotFoundError: there is no such source.
        OSError: a folder cannot be read.
    """
    if not source.is_dir():
        if not source.exists():
            raise FileNotFoundError(2, os.strerror(2), str(source))
        names = [source.name]
    else:
        names = []

        def unreadable(error: OSError) -> None:
            raise error

        for folder, _, files in os.walk(source, onerror=unreadable):
            names += [Path(folder, file).relative_to(source).as_posix() for file in files]
    names.sort()
    targets = new_names(names, recoder)
    return [Unit(name, target, _kind(name, recoder)) for name, target in zip(names, targets, strict=True)]


def _kind(name: str, recoder: Recoder) -> str:
    if recoder.takes(name):
        return "picture"
    return "shard" if is_shard(name) else "table" if name.lower().endswith(".parquet") else "copy"


def new_names(names: Iterable[str], recoder: Recoder) -> list[str]:
    """The names with the new suffix where they are pictures'; added to the old one where two would be the same."""
    names = list(names)
    found = [f"{name.rpartition('.')[0]}.{recoder.to}" if recoder.takes(name) else name for name in names]
    counts = Counter(found)
    return [
        f"{old}.{recoder.to}" if counts[new] > 1 and recoder.takes(old) else new
        for old, new in zip(names, found, strict=True)
    ]


def convert_unit(unit: Unit, source: str, target: str, recoder: Recoder, column: str | None = None) -> dict:
    """Do a unit's work: its file is in the target afterwards, or its line for the manifest has the key ``error``.

    Args:
        unit: what to do.
        source: the source's folder, or file.
        target: the target's folder.
        recoder: what becomes of each picture.
        column: of the pictures in a table; None: "image", or the only one that may be it.
    """
    path = Path(source, unit.name) if os.path.isdir(source) else Path(source)
    out, report = Path(target, unit.target), Report()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", PictureWarning)
            _WORK[unit.kind](path, out, recoder, report, column)
        report.notes |= {str(warning.message) for warning in caught}
        return report.line(unit) | {"source_bytes": path.stat().st_size, "target_bytes": out.stat().st_size}
    except (CcmFastError, OSError, ValueError, ImportError, tarfile.TarError, MemoryError) as error:
        return report.line(unit) | {"error": f"{type(error).__name__}: {error}"}


def _picture(path: Path, out: Path, recoder: Recoder, report: Report, _: str | None) -> None:
    limit = max_file_bytes(recoder.max_pixels)
    if limit is not None and path.stat().st_size > limit:
        raise ValueError(f"more than {limit} bytes")
    data = report.convert(recoder, path.name, path.read_bytes())
    if data is None:
        raise ValueError(next(iter(report.errors.values())))
    with atomic_write(out) as file:
        file.write(data)


def _copy(path: Path, out: Path, *_: object) -> None:
    with open(path, "rb") as file, atomic_write(out) as copy:
        shutil.copyfileobj(file, copy)


def _shard(path: Path, out: Path, recoder: Recoder, report: Report, _: str | None) -> None:
    """A tar archive with its members in their order; pictures that fail stay as they are."""
    with tarfile.open(path, "r:") as old:
        names = new_names([member.name for member in old], recoder)
        old.fileobj.seek(old.offset)
        if any(old.fileobj.read(tarfile.BLOCKSIZE)):  # a header that cannot be read is to tarfile the archive's end
            raise tarfile.ReadError(f"damaged at byte {old.offset}")
        with atomic_write(out) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as new:
            for member, name in zip(old.getmembers(), names, strict=True):
                content = old.extractfile(member) if member.isreg() else None
                if content is None or not recoder.takes(member.name):
                    new.addfile(member, content)
                    continue
                data = content.read()
                if len(data) < member.size:
                    raise tarfile.ReadError(f"cut off inside of {member.name}")
                _add(new, member, name, data, report.convert(recoder, member.name, data))


def _add(shard: tarfile.TarFile, member: tarfile.TarInfo, name: str, old: bytes, new: bytes | None) -> None:
    import io

    data = old if new is None else new
    if new is not None:
        member.name, member.size = name, len(new)
        member.pax_headers = {k: v for k, v in member.pax_headers.items() if k not in ("path", "size")}
    shard.addfile(member, io.BytesIO(data))


def _table(path: Path, out: Path, recoder: Recoder, report: Report, column: str | None) -> None:
    from .tables import convert_table

    with atomic_write(out) as file:
        convert_table(path, file, recoder, report, column)


_WORK = {"picture": _picture, "shard": _shard, "table": _table, "copy": _copy}
