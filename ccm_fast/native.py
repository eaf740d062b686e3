"""The codec without torch: bytes of .ccm files to NumPy pictures, by the C++ library that ``ccm.h`` declares too."""

from __future__ import annotations

import operator
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from . import _backend
from .errors import LimitError
from .precision import transform_precision
from .shipped import find
from .stream.limits import MAX_PIXELS, check_limit

__all__ = ["Codec", "thread_count"]


def thread_count(threads: int | None) -> int:
    """A number of threads; None becomes the number of cores that this process may use.

    Raises:
        TypeError: no whole number.
        ValueError: less than 1.
    """
    if threads is None:
        return _backend.native().default_threads()
    try:
        threads = operator.index(threads)
    except TypeError:
        raise TypeError(f"threads must be a whole number, not {threads!r}") from None
    if threads < 1:
        raise ValueError(f"threads must be at least 1, not {threads}")
    return min(threads, 1024)


class Codec:
    """A model, ready to decode pictures. Immutable: threads may share it.

    >>> codec = Codec.load("ccm-small")
    >>> picture = codec.decode(open("a.ccm", "rb").read())  # doctest: +SKIP

    Attributes:
        path: the weights file.
        fingerprint: 8 bytes that every file of this model carries.
    """

    def __init__(self, native: Any, path: Path):
        """For :meth:`load`."""
        self._native = native
        self.path = path
        self.fingerprint: bytes = native.fingerprint

    @classmethod
    def load(
        cls,
        name: str | os.PathLike = "ccm-small",
        *,
        threads: int | None = None,
        precision: str | None = None,
        isa: str | None = None,
    ) -> Codec:
        """A shipped model, or one from a weights file.

        Args:
            name: a shipped model's name, or a .safetensors file.
            threads: to read and pack the weights with; None: as many as there are cores.
            precision: what the transforms multiply, "int16" or "float32"; None: as
                :func:`ccm_fast.transform_precision` says.
            isa: instruction set of the entropy path; None: as the environment variable CCM_FAST_ISA says, else
                the best.

        Raises:
            FileNotFoundError: no such model.
            ModelError: not a weights file, or one that is damaged or contradicts itself.
            ValueError: no such instruction set here, or a bad number of threads.
            BuildError: the native library is missing.
        """
        path = find(name)
        floats = (precision or transform_precision()) == "float32"
        isa = os.environ.get("CCM_FAST_ISA", "") if isa is None else isa
        return cls(_backend.native().Codec.open(str(path), thread_count(threads), floats, isa), path)

    @property
    def groups(self) -> int:
        """Groups of latents."""
        return self._native.groups

    def __repr__(self) -> str:
        return f"Codec({self.path.stem}, {self.fingerprint.hex()})"

    @overload
    def decode(self, data: bytes, *, threads: int | None = None, max_pixels: int | None = MAX_PIXELS) -> np.ndarray: ...
    @overload
    def decode(
        self, data: Sequence[bytes], *, threads: int | None = None, max_pixels: int | None = MAX_PIXELS
    ) -> list[np.ndarray]: ...

    def decode(self, data, *, threads=None, max_pixels=MAX_PIXELS):
        """The pictures of .ccm files.

        Args:
            data: the bytes of a file, or of several, which are decoded at the same time.
            threads: None: as many as there are cores.
            max_pixels: larger pictures are refused; None: no limit but the format's.

        Returns:
            uint8 [H, W, 3], or [H, W] of a grey picture; a list of these for several files. Alpha, EXIF and ICC profile
            are what :func:`ccm_fast.decode_file` is for.

        Raises:
            BitstreamError: one of its subclasses says what is wrong with a file.
        """
        one = isinstance(data, (bytes, bytearray, memoryview))
        files = [self.open_file(d, max_pixels) for d in ([data] if one else data)]
        pictures = [pixels for pixels, _, _ in self.decode_files(files, threads)]
        return pictures[0] if one else pictures

    @staticmethod
    def open_file(data: bytes, max_pixels: int | None = MAX_PIXELS) -> Any:
        """A file whose container and header have been checked, with ``fingerprint``, ``chunks`` and ``packet``.

        Raises:
            BitstreamError: one of its subclasses says what is wrong with it.
        """
        check_limit(max_pixels)
        if max_pixels is not None and max_pixels < 1:
            raise LimitError("every image is above the limit of 0 pixels (max_pixels)")
        return _backend.native().File(bytes(data), 0 if max_pixels is None else int(min(max_pixels, 1 << 62)))

    def decode_files(
        self, files: Sequence[Any], threads: int | None = None
    ) -> list[tuple[np.ndarray, np.ndarray, dict[str, float]]]:
        """Pixels, latents and seconds of files from :meth:`open_file`.

        Returns:
            For each: uint8 [H, W, 3] or [H, W]; y_hat, int16 [h, w, M], the same numbers on every machine; seconds of
            the stages ``z``, ``h_s``, ``entropy`` and ``g_s``.

        Raises:
            BitstreamError: as :meth:`decode`.
        """
        return self._native.decode(list(files), thread_count(threads))
