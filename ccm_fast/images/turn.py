"""Turning pictures upright, and what then may go: metadata that asks for it."""

from __future__ import annotations

from ..lazy import np
from ..stream.container import ALPHA, EXIF, IPTC, XMP
from .alpha import decode_alpha, encode_alpha
from .metadata import orientation, set_orientation
from .picture import Picture

__all__ = ["strip_metadata", "turned", "upright"]


def turned(planes: np.ndarray, orientation: int) -> np.ndarray:
    """An array [H, W, ...] as EXIF's orientation, 1 to 8, asks for it."""
    if orientation >= 5:
        planes = planes.swapaxes(0, 1)
    return planes[:: -1 if orientation in (3, 4, 7, 8) else 1, :: -1 if orientation in (2, 3, 6, 7) else 1]


def upright(picture: Picture) -> Picture:
    """The picture as its EXIF orientation asks to see it, with the orientation 1.

    Raises:
        DamagedError: the alpha chunk is no PNG of the image's size.
    """
    found = orientation(picture.chunks)
    if found == 1:
        return picture
    chunks = dict(picture.chunks)
    if ALPHA in chunks:
        chunks[ALPHA] = encode_alpha(turned(decode_alpha(chunks[ALPHA], picture.size), found))
    set_orientation(chunks, 1)
    return Picture(np.ascontiguousarray(turned(picture.pixels, found)), chunks)


def strip_metadata(picture: Picture) -> Picture:
    """The picture without EXIF, XMP and IPTC, turned upright if EXIF asks for it. Its colour (ICC profile) stays."""
    picture = upright(picture)
    kept = {kind: data for kind, data in picture.chunks.items() if kind not in (EXIF, XMP, IPTC)}
    return Picture(picture.samples, kept)
