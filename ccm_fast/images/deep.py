"""Pictures of 16 bits: PNG and PPM of several channels, for which Pillow has no mode."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from PIL import Image

from ..errors import ImageError
from ..lazy import np
from ..stream.container import ALPHA
from .alpha import decode_alpha
from .picture import Picture

__all__ = ["is_deep", "save_deep"]

_GREY16 = ("JPEG2000", "PNG", "PPM", "TIFF")  # which Pillow writes from 16-bit grey
_SEVERAL = ("PNG", "PPM")
_ROWS = 64  # filtered and compressed at a time


def is_deep(picture: Picture, name: str) -> bool:
    """Whether :func:`save_deep` is needed. Raises ImageError for 16 bits in a format that has 8."""
    if picture.bits == 8:
        return False
    several = not picture.grey or ALPHA in picture.chunks
    holds = _SEVERAL if several else _GREY16
    if name not in holds:
        kind = "several channels of 16 bits" if several else "16-bit grey"
        raise ImageError(f"{kind} can be written as {', '.join(holds)}, not as {name}")
    return several


def save_deep(picture: Picture, target: BinaryIO, name: str, options: dict) -> None:
    """Write a picture of 16 bits and several channels.

    Args:
        picture: uint16 pixels.
        target: binary file.
        name: "PNG" or "PPM".
        options: metadata, as Pillow's ``save`` takes it.
    """
    planes = picture.pixels[..., None] if picture.grey else picture.pixels
    if ALPHA in picture.chunks:
        alpha = decode_alpha(picture.chunks[ALPHA], picture.size).astype(np.uint16) * 257
        planes = np.dstack([planes, alpha])
    H, W, channels = planes.shape
    if name == "PPM":
        target.write(b"P6\n%d %d\n65535\n" % (W, H) + planes.astype(">u2").tobytes())
        return
    # Pillow writes the metadata, around a picture of one pixel that is then exchanged.
    small = io.BytesIO()
    Image.new({2: "LA", 3: "RGB", 4: "RGBA"}[channels], (1, 1)).save(small, "PNG", **options)
    target.write(b"\x89PNG\r\n\x1a\n")
    for kind, data in _chunks(small.getvalue()):
        if kind == b"IHDR":
            data = struct.pack(">II", W, H) + bytes([16]) + data[9:]
        if kind != b"IDAT":
            _write(target, kind, data)
            continue
        packer = zlib.compressobj(6)
        for rows in _filtered(planes):
            if piece := packer.compress(rows):
                _write(target, b"IDAT", piece)
        _write(target, b"IDAT", packer.flush())


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 8
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        yield data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        at += 12 + length


def _write(target: BinaryIO, kind: bytes, data: bytes) -> None:
    target.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind))))


def _filtered(planes: np.ndarray) -> Iterator[bytes]:
    """Rows with PNG's Paeth filter, some at a time."""
    H, W, channels = planes.shape
    above = np.zeros((1, W + 1, 2 * channels), np.int16)
    for start in range(0, H, _ROWS):
        own = planes[start : start + _ROWS].astype(">u2").view(np.uint8).reshape(-1, W, 2 * channels)
        padded = np.pad(own.astype(np.int16), ((0, 0), (1, 0), (0, 0)))
        upper = np.concatenate([above, padded[:-1]])
        above = padded[-1:]
        left, up, corner = padded[:, :-1], upper[:, 1:], upper[:, :-1]
        by_left, by_up, by_corner = abs(up - corner), abs(left - corner), abs(left + up - 2 * corner)
        guess = np.where((by_left <= by_up) & (by_left <= by_corner), left, np.where(by_up <= by_corner, up, corner))
        rows = (padded[:, 1:] - guess).astype(np.uint8).reshape(len(own), -1)
        yield np.pad(rows, ((0, 0), (1, 0)), constant_values=4).tobytes()
