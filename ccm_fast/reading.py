"""Reading files of unknown origin: no more than can be of use, and nothing that does not begin as it should."""

from __future__ import annotations

import os
from typing import BinaryIO

from .errors import LimitError, NotCcmError
from .stream.container import MAGIC
from .stream.limits import MAX_PIXELS, max_file_bytes

__all__ = ["read_at_most", "read_bytes"]

# Bytes of the first read, and of the largest: what a file claims is taken only as it comes.
_FIRST, _LARGEST = 1 << 16, 1 << 24


def read_at_most(file: BinaryIO, limit: int | None, magic: bytes = b"") -> bytes:
    """All of a binary file, however few bytes each of its reads gives (pipes, files without buffering).

    Args:
        file: where to read from, to its end.
        limit: bytes; None: no limit.
        magic: what a file of the right kind begins with.

    Raises:
        TypeError: the file is open for text.
        NotCcmError: it begins otherwise; no more than the first bytes are read.
        LimitError: it is longer than ``limit``.
        BlockingIOError: it has nothing to read at the moment.
    """
    parts: list[bytes] = []
    size, step = 0, _FIRST
    while True:
        part = file.read(step if limit is None else min(step, limit + 1 - size))
        if isinstance(part, str):
            raise TypeError("the file is open for text: open it with mode 'rb'")
        if part is None:
            raise BlockingIOError("the file is non-blocking and has nothing to read")
        if not part:
            return b"".join(parts)
        parts.append(part)
        size += len(part)
        if size - len(part) < len(magic):  # the first reads
            start = b"".join(parts)[: len(magic)]
            if not magic.startswith(start):
                raise NotCcmError("not a .ccm file (it does not begin with CCM)")
        if limit is not None and size > limit:
            raise LimitError(f"more than {limit} bytes, which no image within the limit of pixels takes")
        step = min(2 * step, _LARGEST)


def read_bytes(src: str | os.PathLike[str] | BinaryIO, max_pixels: int | None = MAX_PIXELS) -> bytes:
    """A whole .ccm file; of other files, the first bytes only.

    Raises:
        TypeError: neither a path nor a binary file.
        NotCcmError: it does not begin like a .ccm file.
        LimitError: larger than any file of ``max_pixels`` pixels can be.
        OSError: it cannot be read.
    """
    limit = max_file_bytes(max_pixels)
    if isinstance(src, (str, os.PathLike)):
        with open(src, "rb") as file:
            return read_at_most(file, limit, MAGIC)
    if not hasattr(src, "read"):
        raise TypeError(f"a path or a binary file is needed, not {type(src).__name__}")
    return read_at_most(src, limit, MAGIC)
