"""Parts of pictures: rectangles (x, y, width, height) in pixels from the upper left corner."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import TypeAlias

__all__ = ["Region", "Wanted", "region_of", "stored_region", "turned_region_of"]

#: x, y, width, height.
Region: TypeAlias = tuple[int, int, int, int]
#: A rectangle, what makes one of a picture's width and height, or None: the whole picture.
Wanted: TypeAlias = Sequence[int] | Callable[[int, int], Sequence[int]] | None


def region_of(wanted: Wanted, width: int, height: int) -> Region | None:
    """What of a picture of that size is wanted; None: all of it.

    Raises:
        TypeError: the rectangle is not four whole numbers.
        ValueError: it has no pixels, or does not lie within the picture.
    """
    if callable(wanted):
        wanted = wanted(width, height)
    if wanted is None:
        return None
    try:
        x, y, w, h = map(operator.index, wanted)
    except (TypeError, ValueError):
        raise TypeError(f"a region is four whole numbers (x, y, width, height), not {wanted!r}") from None
    if not (x >= 0 and y >= 0 and 1 <= w <= width - x and 1 <= h <= height - y):
        picture = f"does not lie within the picture of {width}x{height}"
        raise ValueError(f"the region of {w}x{h} pixels at ({x}, {y}) {picture}")
    return x, y, w, h


def stored_region(region: Region, orientation: int, width: int, height: int) -> Region:
    """The stored pixels of a rectangle of a picture that EXIF has turned.

    Args:
        region: of the turned picture, within it.
        orientation: EXIF's, 1 to 8.
        width: of the picture as it is stored.
        height: likewise.
    """
    x, y, w, h = region
    across, down = (height, width) if orientation >= 5 else (width, height)
    if orientation in (2, 3, 6, 7):
        x = across - x - w
    if orientation in (3, 4, 7, 8):
        y = down - y - h
    return (y, x, h, w) if orientation >= 5 else (x, y, w, h)


def turned_region_of(wanted: Wanted, orientation: int, width: int, height: int) -> Region | None:
    """:func:`region_of` the picture as EXIF turns it, in stored pixels.

    Args:
        wanted: of the turned picture.
        orientation: EXIF's, 1 to 8.
        width: of the picture as it is stored.
        height: likewise.

    Raises:
        TypeError, ValueError: as there.
    """
    region = region_of(wanted, *((height, width) if orientation >= 5 else (width, height)))
    return None if region is None else stored_region(region, orientation, width, height)
