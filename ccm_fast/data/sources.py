"""Where samples lie: folders of .ccm files, and tar shards whose members of one name are a sample (as webdataset's)."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

__all__ = ["Place", "Sample", "find_sources", "is_shard", "samples_of", "split_name"]

_SHARD = ".tar"
_BLOCK = 512  # bytes, of which archives are made


class Place(NamedTuple):
    """Bytes within a file."""

    offset: int
    size: int

    def read(self, path: str | os.PathLike[str]) -> bytes:
        """The bytes. Raises EOFError where the file ends before."""
        with open(path, "rb") as file:
            file.seek(self.offset)
            data = file.read(self.size)
        if len(data) < self.size:
            raise EOFError(f"{os.fspath(path)} ends before byte {self.offset + self.size}")
        return data


class Sample(NamedTuple):
    """A picture, and what lies beside it in a shard.

    Attributes:
        key: path below the source without suffix, or a member's name up to the first dot of its last part.
        source: the .ccm file, or the shard.
        parts: by extension where the parts are in the shard; empty for a .ccm file.
    """

    key: str
    source: str
    parts: dict[str, Place]


def is_shard(name: str | os.PathLike[str]) -> bool:
    """Whether a file's name is a tar archive's."""
    return os.fspath(name).lower().endswith(_SHARD)


def split_name(name: str) -> tuple[str, str]:
    """Key and extension of a member: "a/b.c.ccm" is ("a/b", "c.ccm")."""
    folder, _, last = name.rpartition("/")
    stem, _, extension = last.partition(".")
    return (f"{folder}/{stem}" if folder else stem), extension.lower()


def find_sources(sources: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[tuple[str, str]]:
    """(file, key) of every .ccm file and (shard, "") of every shard, each folder's in the order of their names.

    Args:
        sources: a folder, a .ccm file or a tar archive, or several of them.

    Raises:
        FileNotFoundError: there is nothing of that name, or nothing that could be read in any of them.
    """
    given = [sources] if isinstance(sources, (str, os.PathLike)) else list(sources)
    found = []
    for source in map(Path, given):
        if not source.is_dir():
            if not source.exists():
                raise FileNotFoundError(f"there is no {source}")
            found.append((str(source), "" if is_shard(source) else source.stem))
            continue
        inside = []
        for folder, _, names in os.walk(source):
            inside += [Path(folder, name) for name in names if name.lower().endswith((".ccm", _SHARD))]
        for path in sorted(inside):
            key = PurePosixPath(path.relative_to(source).with_suffix(""))
            found.append((str(path), "" if is_shard(path) else str(key)))
    if not found:
        raise FileNotFoundError(f"no .ccm file and no tar archive in {', '.join(map(str, given))}")
    return found


def samples_of(source: str, key: str) -> Iterator[Sample]:
    """The samples of a source that :func:`find_sources` has found, in their order.

    A shard's members that follow each other and have one key are a sample, if one of them is a .ccm file. Only headers
    are read.

    Raises:
        tarfile.ReadError: a shard is no tar archive, is compressed, damaged or cut off.
        OSError: it cannot be read.
    """
    if not is_shard(source):
        yield Sample(key, source, {})
        return
    last: str | None = None
    parts: dict[str, Place] = {}
    for name, place in _members(source):
        key, extension = split_name(name)
        if key != last:
            yield from _whole(last, source, parts)
            last, parts = key, {}
        parts[extension] = place
    yield from _whole(last, source, parts)


def _members(source: str) -> Iterator[tuple[str, Place]]:
    """Name and place of every file in a shard. Raises as :func:`samples_of`."""
    size = os.path.getsize(source)
    try:
        with tarfile.open(source, "r:") as shard:
            while (member := shard.next()) is not None:
                shard.members = []  # type: ignore[attr-defined]  # it would keep all of them
                if member.offset_data + member.size > size:
                    raise tarfile.ReadError(f"cut off inside of {member.name}")
                if member.isfile():
                    yield member.name, Place(member.offset_data, member.size)
            shard.fileobj.seek(shard.offset)
            if any(shard.fileobj.read(_BLOCK)):  # a header that tarfile cannot read is to it the archive's end
                raise tarfile.ReadError(f"damaged at byte {shard.offset}")
    except tarfile.ReadError as error:
        raise tarfile.ReadError(f"{source}: {error}") from error


def _whole(key: str | None, source: str, parts: dict[str, Place]) -> Iterator[Sample]:
    if key is not None and any(extension.rpartition(".")[2] == "ccm" for extension in parts):
        yield Sample(key, source, parts)
