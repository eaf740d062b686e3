"""EXIF blocks: what may be handed to Pillow, which of their tags can be carried, orientation.

A block comes from a stranger. Pillow copies what a tag's header claims for each tag, raises whatever Python raises on
odd values, and lets tags of the block describe the layout of a TIFF file that it writes. So a block is measured before
Pillow sees it, and where single tags are needed, those that Pillow reads and writes are taken one by one.
"""

from __future__ import annotations

import struct

from PIL import Image

__all__ = ["HEADER", "ORIENTATION", "Tags", "is_exif", "is_rewritable", "orientation_of", "parse", "shortened"]
__all__ += ["strip_header"]

HEADER = b"Exif\0\0"
ORIENTATION = 0x0112
EXIF_IFD, GPS_IFD, INTEROP_IFD = 0x8769, 0x8825, 0xA005
# TIFF keeps EXIF among its own tags: these describe the picture, the others its layout in the file.
PICTURE_TAGS = frozenset((0x010E, 0x010F, 0x0110, ORIENTATION, 0x0131, 0x0132, 0x013B, 0x8298))
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}


def strip_header(data: bytes) -> bytes:
    """An EXIF block as PNG and .ccm keep it: it begins with TIFF's byte order."""
    while data.startswith(HEADER):
        data = data[len(HEADER) :]
    return data


def is_exif(block: bytes) -> bool:
    """Whether a block begins as TIFF does, and its tags claim no more data than a few times what is there.

    Tags may share data, so a hostile block of n bytes can claim n^2 / 12, which Pillow would copy.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if order is None or len(block) < 8:
        return False
    (start,) = struct.unpack_from(order + "I", block, 4)
    todo, seen, claimed = [start], set(), 0
    while todo:
        at = todo.pop()
        if at in seen or at + 2 > len(block):
            continue
        seen.add(at)
        (count,) = struct.unpack_from(order + "H", block, at)
        count = min(count, (len(block) - at - 2) // 12)
        for tag, kind, number, value in struct.iter_unpack(order + "HHII", block[at + 2 : at + 2 + 12 * count]):
            if tag in (EXIF_IFD, GPS_IFD, INTEROP_IFD):
                todo.append(value)
            size = _SIZES.get(kind, 0) * number
            claimed += size if value + size <= len(block) else 0
        if claimed > 4 * len(block) + 4096 or len(seen) > 16:
            return False
    return True


class Tags:
    """The tags of a block that Pillow reads and writes.

    Attributes:
        exif: these tags, with the Exif, GPS and interoperability directories.
        lost: numbers of the tags that are left out, because Pillow cannot read or write their values.
    """

    def __init__(self) -> None:
        self.exif = Image.Exif()
        self.lost: list[int] = []

    def add(self, source: Image.Exif, only: frozenset[int] | None = None) -> None:
        """Take tags (of the first directory only ``only``) from what Pillow has parsed."""
        for tag in sorted(source):
            if tag in (EXIF_IFD, GPS_IFD) or (only is not None and tag not in only):
                continue
            if (value := self._value(source.__getitem__, tag, None)) is not None:
                self.exif[tag] = value
        for ifd in (EXIF_IFD, GPS_IFD):
            if tags := self._directory(source, ifd):
                self.exif.get_ifd(ifd).update(tags)
                self.exif[ifd] = dict(tags)

    def block(self) -> bytes:
        """As bytes; empty if there are no tags."""
        return strip_header(self.exif.tobytes()) if len(self.exif) else b""

    def drop_directories(self) -> bool:
        """Leave out the Exif and GPS directories; returns whether there were any."""
        found = [ifd for ifd in (EXIF_IFD, GPS_IFD) if ifd in self.exif]
        for ifd in found:
            del self.exif[ifd]
        return bool(found)

    def _directory(self, source: Image.Exif, ifd: int) -> dict:
        try:
            found = source.get_ifd(ifd)
        except Exception:  # of a directory that is not where the block says, or not a directory
            self.lost.append(ifd)
            return {}
        tags = {}
        for tag in sorted(found):
            if tag == INTEROP_IFD:
                if inner := self._directory(source, INTEROP_IFD):
                    tags[tag] = inner
            elif (value := self._value(found.__getitem__, tag, ifd)) is not None:
                tags[tag] = value
        return tags

    def _value(self, get, tag: int, group: int | None):
        from PIL.TiffImagePlugin import ImageFileDirectory_v2  # 3 ms that pictures without EXIF need not wait

        try:
            value = get(tag)
            if tag == ORIENTATION and group is None and not (isinstance(value, int) and 1 <= value <= 8):
                raise ValueError("no orientation")
            if isinstance(value, str) and not value.isascii():
                value = value.encode("latin-1")  # the file's own bytes: Pillow reads them as Latin-1, and writes "?"
            probe = ImageFileDirectory_v2(group=group)
            probe[tag] = value
            probe.tobytes()
        except Exception:  # Pillow's readers and writers raise what Python raises on the values that they meet
            self.lost.append(tag)
            return None
        return value


def parse(block: bytes, only: frozenset[int] | None = None) -> Tags:
    """The tags of a block; of one that is no EXIF none."""
    tags = Tags()
    if is_exif(block):
        source = Image.Exif()
        try:
            source.load(block)
        except Exception:
            return tags
        tags.add(source, only)
    return tags


def orientation_of(block: bytes) -> int | None:
    """Of the block, 1 to 8; None if it has none that is valid."""
    if not is_exif(block):
        return None
    source = Image.Exif()
    try:
        source.load(block)
        value = source.get(ORIENTATION)
    except Exception:  # whatever odd values make Pillow raise
        return None
    return value if isinstance(value, int) and 1 <= value <= 8 else None


def is_rewritable(block: bytes) -> bool:
    """Whether Pillow writes the block again, with all that is in it."""
    source = Image.Exif()
    try:
        source.load(block)
        source.tobytes()
    except Exception:  # whatever odd values make Pillow raise
        return False
    return True


def shortened(block: bytes, longest: int) -> tuple[bytes, list[int]]:
    """The tags of a block that fit into ``longest`` bytes, without thumbnail, and numbers of those that are left out.

    The largest tags are left out first; among them are the maker's notes, where there are some.
    """
    tags = parse(block)
    lost = list(tags.lost)
    sizes = {(None, tag): _size(tags.exif[tag]) for tag in tags.exif if tag not in (EXIF_IFD, GPS_IFD)}
    for ifd in (EXIF_IFD, GPS_IFD):
        sizes |= {(ifd, tag): _size(value) for tag, value in tags.exif.get(ifd, {}).items()}
    for ifd, tag in sorted(sizes, key=sizes.__getitem__, reverse=True):
        if len(short := tags.block()) <= longest:
            return short, lost
        lost.append(tag)
        if ifd is None:
            del tags.exif[tag]
        else:
            kept = {other: value for other, value in tags.exif[ifd].items() if other != tag}
            del tags.exif[ifd]
            if kept:
                tags.exif[ifd] = kept
    return b"", lost


def _size(value) -> int:
    return len(value) if isinstance(value, (bytes, str, tuple, dict)) else 1
