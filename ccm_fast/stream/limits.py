"""Limits that are checked before anything is allocated."""

from __future__ import annotations

from ccm_fast.constants import MAX_GROUPS

from ..errors import LimitError

__all__ = ["MAX_CHUNK_BYTES", "MAX_GROUPS", "MAX_PIXELS", "MAX_SIDE", "check_limit", "check_size", "max_file_bytes"]

MAX_SIDE = 1 << 20
MAX_PIXELS = 178_956_970  # the default of Pillow, above which it raises DecompressionBombError
MAX_CHUNK_BYTES = 64 << 20  # all chunks of a file together


def check_limit(max_pixels: int | None) -> None:
    """Raises ValueError for what is neither a number of pixels nor None."""
    if max_pixels is not None and not max_pixels >= 0:  # NaN would be no limit
        raise ValueError(f"max_pixels must be a number of pixels, or None, not {max_pixels!r}")


def check_size(width: int, height: int, max_pixels: int | None = MAX_PIXELS) -> None:
    """Raises LimitError if an image of width x height pixels is outside the format or has more than ``max_pixels``.

    ``None`` means no limit beyond the format's own (2^20 pixels a side). ValueError if it is no number of pixels.
    """
    check_limit(max_pixels)
    if not 1 <= width <= MAX_SIDE or not 1 <= height <= MAX_SIDE:
        raise LimitError(f"image of {width}x{height} pixels: sides are 1 to {MAX_SIDE}")
    if max_pixels is not None and width * height > max_pixels:
        raise LimitError(f"image of {width}x{height} pixels is above the limit of {max_pixels} pixels (max_pixels)")


def max_file_bytes(max_pixels: int | None = MAX_PIXELS) -> int | None:
    """The largest file worth reading: no encoder writes 8 bytes a pixel. None: no limit.

    Pictures that are to be encoded keep to it, too: uncompressed, RGBA of 16 bits takes 8 bytes a pixel.
    """
    check_limit(max_pixels)
    return None if max_pixels is None else MAX_CHUNK_BYTES + 8 * max_pixels + 4096
