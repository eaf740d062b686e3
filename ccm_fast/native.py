"""The codec without torch: .ccm files to NumPy pictures and back, by the C++ library of ``ccm.h``."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias, cast, overload

from . import _backend
from .effort.levels import DEFAULT_EFFORT
from .errors import LimitError
from .lazy import np
from .precision import transform_precision
from .region import Region, Wanted, region_of
from .shipped import find
from .stream.limits import MAX_PIXELS, check_limit
from .stream.packet import groups_available
from .stream.quality import quality_code

__all__ = ["NATIVE_EFFORT", "PROGRESS_STEPS", "REDUCTIONS", "Codec", "Progress", "add_seconds", "thread_count"]

#: Told of (steps done, steps in all).
Progress: TypeAlias = Callable[[int, int], None]

#: The largest effort without torch: those above follow gradients.
NATIVE_EFFORT = 3
#: Steps that the progress of native calls, and of searches, is told in.
PROGRESS_STEPS = 100
#: Of the sides, by which pictures can be decoded reduced.
REDUCTIONS = (1, 2, 4, 8)


def thread_count(threads: int | None) -> int:
    """A number of threads; None becomes the number of cores that this process may use.

    Raises:
        TypeError: no whole number.
        ValueError: less than 1.
    """
    if threads is None:
        available: int = _backend.native().default_threads()
        return available
    try:
        threads = operator.index(threads)
    except TypeError:
        raise TypeError(f"threads must be a whole number, not {threads!r}") from None
    if threads < 1:
        raise ValueError(f"threads must be at least 1, not {threads}")
    return min(threads, 1024)


def add_seconds(timings: dict[str, float] | None, seconds: dict[str, float]) -> None:
    """Add seconds by stage."""
    if timings is not None:
        for name, value in seconds.items():
            timings[name] = timings.get(name, 0.0) + value


def _by_share(progress: Progress | None) -> Callable[[float], None] | None:
    """What the native codec calls with the share that is done, 0 to 1."""
    if progress is None:
        return None
    last = -1

    def tell(share: float) -> None:
        nonlocal last
        if (done := int(share * PROGRESS_STEPS)) > last:
            last = done
            progress(done, PROGRESS_STEPS)

    return tell


class Codec:
    """A model, ready to encode and decode pictures. Immutable: threads may share it.

    >>> codec = Codec.load("ccm-small")
    >>> data = codec.encode(np.zeros((20, 30, 3), np.uint8), quality=4)
    >>> codec.decode(data).shape
    (20, 30, 3)

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
        name: str | os.PathLike[str] = "ccm-small",
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
        return cls(_backend.native().Codec.open(str(path), thread_count(threads), floats, isa or ""), path)

    @property
    def groups(self) -> int:
        """Groups of latents."""
        groups: int = self._native.groups
        return groups

    def plan_bytes(self) -> bytes:
        """The frozen entropy model, see :mod:`ccm_fast.entropy.plan`."""
        plan: bytes = _backend.native().read_plan(str(self.path))
        return plan

    def __repr__(self) -> str:
        return f"Codec({self.path.stem}, {self.fingerprint.hex()})"

    def encodes(self, effort: int | None = None, tune: str | None = None) -> bool:
        """Whether :meth:`encode` takes this effort and tuning, instead of the modules of torch.

        Args:
            effort: 1 to 9; None: the default.
            tune: "psnr", "ms-ssim"; None: what the model was trained for.
        """
        squared = self._native.metric == "mse"
        if effort is None:
            effort = DEFAULT_EFFORT if squared else 1
        tuned = tune is None or (tune == "psnr" and squared)
        return tuned and not isinstance(effort, bool) and effort in range(1, self._native.most_effort + 1)

    @overload
    def encode(
        self,
        picture: np.ndarray | memoryview,
        quality: float = 4.0,
        *,
        effort: int | None = None,
        lanes: int = 0,
        threads: int | None = None,
        chunks: dict[str, bytes] | None = None,
        timings: dict[str, float] | None = None,
        progress: Progress | None = None,
    ) -> bytes: ...
    @overload
    def encode(
        self,
        picture: Sequence[np.ndarray | memoryview],
        quality: float = 4.0,
        *,
        effort: int | None = None,
        lanes: int = 0,
        threads: int | None = None,
        chunks: dict[str, bytes] | None = None,
        timings: dict[str, float] | None = None,
        progress: Progress | None = None,
    ) -> list[bytes]: ...

    def encode(
        self,
        picture: np.ndarray | memoryview | Sequence[np.ndarray | memoryview],
        quality: float = 4.0,
        *,
        effort: int | None = None,
        lanes: int = 0,
        threads: int | None = None,
        chunks: dict[str, bytes] | None = None,
        timings: dict[str, float] | None = None,
        progress: Progress | None = None,
    ) -> bytes | list[bytes]:
        """The bytes of a .ccm file: those that :func:`ccm_fast.encode_file` writes.

        Args:
            picture: uint8 or uint16, [H, W, 3] or, of a grey picture, [H, W]; or a list of these, which are encoded at
                the same time. Contiguous memoryviews of these shapes (format "B" or "H") will do, too.
            quality: from 1 (smallest) to 8 (best), in 1/32 steps.
            effort: 1 to 3, see :func:`ccm_fast.encode_file`, which has more; None: the default.
            lanes: rANS lanes per stream, a power of two up to 128; 0: chosen by the payload.
            threads: in all; None: as many as there are cores.
            chunks: ICC profile, EXIF block and alpha channel as files hold them, see :mod:`ccm_fast.stream.container`.
            timings: if given, seconds are added to its keys ``g_a``, ``h_a``, ``h_s``, ``effort``, ``entropy``: of
                several pictures the sums.
            progress: called with (steps done, steps in all) now and then, at most 20 times a second, in this thread:
                about how far the work is. What it raises ends the call.

        Returns:
            A file's bytes; a list of these for several pictures, the same whatever the number of threads.

        Raises:
            TypeError, ValueError: a picture, or an option, is not as it should be; an effort that needs torch.
            EncodeError: the model makes latents of a picture that cannot be coded.
            ModelError: the weights that only an encoder needs, which are read at its first use, are not usable.
        """
        several = isinstance(picture, (list, tuple))
        pictures = cast("Sequence[np.ndarray | memoryview]", picture if several else [picture])
        parts = [chunks or {}] * len(pictures)
        options: dict[str, Any] = {"effort": effort, "lanes": lanes, "threads": threads, "timings": timings}
        files: list[bytes] = []
        for found in self.encode_each(pictures, [quality] * len(pictures), parts, progress=progress, **options):
            if isinstance(found, Exception):
                raise found
            files.append(found)
        return files if several else files[0]

    def encode_each(
        self,
        pictures: Sequence[np.ndarray | memoryview],
        qualities: Sequence[float],
        chunks: Sequence[dict[str, bytes]],
        *,
        effort: int | None = None,
        lanes: int = 0,
        threads: int | None = None,
        timings: dict[str, float] | None = None,
        progress: Progress | None = None,
    ) -> list[bytes | Exception]:
        """Encode pictures side by side, each with its own quality and chunks. Arguments as :meth:`encode`.

        Returns:
            For each the bytes of its file, or the exception that it failed with.

        Raises:
            TypeError, ValueError: what :meth:`encode` raises them for, where pictures or options show it beforehand.
        """
        codes = [quality_code(quality) for quality in qualities]
        for one in pictures:
            if not isinstance(one, memoryview) and not isinstance(one, np.ndarray):  # looked for in this order
                raise TypeError(f"a NumPy array is needed, not {type(one).__name__}")
        pixels = [one if isinstance(one, memoryview) else np.ascontiguousarray(one) for one in pictures]
        parts = [[(kind.encode("latin-1"), data) for kind, data in one.items()] for one in chunks]
        found: list[bytes | Exception] = []
        options = (effort or 0, lanes, thread_count(threads), parts, _by_share(progress))
        for result in self._native.encode(pixels, codes, *options):
            if isinstance(result, Exception):
                found.append(result)
                continue
            found.append(result[0])
            add_seconds(timings, result[1])
        if progress is not None:
            progress(PROGRESS_STEPS, PROGRESS_STEPS)
        return found

    @overload
    def decode(
        self,
        data: bytes,
        *,
        threads: int | None = None,
        max_pixels: int | None = MAX_PIXELS,
        groups: int | str | None = None,
        reduce: int = 1,
        region: Wanted = None,
        progress: Progress | None = None,
    ) -> np.ndarray: ...
    @overload
    def decode(
        self,
        data: Sequence[bytes],
        *,
        threads: int | None = None,
        max_pixels: int | None = MAX_PIXELS,
        groups: int | str | None = None,
        reduce: int = 1,
        region: Wanted = None,
        progress: Progress | None = None,
    ) -> list[np.ndarray]: ...

    def decode(
        self,
        data: bytes | Sequence[bytes],
        *,
        threads: int | None = None,
        max_pixels: int | None = MAX_PIXELS,
        groups: int | str | None = None,
        reduce: int = 1,
        region: Wanted = None,
        progress: Progress | None = None,
    ) -> np.ndarray | list[np.ndarray]:
        """The pictures of .ccm files.

        Args:
            data: the bytes of a file, or of several, which are decoded at the same time.
            threads: None: as many as there are cores.
            max_pixels: larger pictures are refused; None: no limit but the format's.
            groups: read the first so many groups of latents alone, for a preview: the rest, which may be missing, is
                what the model expects. "available": as many as the bytes hold. None: the whole file, or an error.
            reduce: 2, 4 or 8: a picture of 1/2, 1/4 or 1/8 of the sides, rounded up, in less time than the whole one:
                what is finest is neither decoded nor computed (docs/pictures.md).
            region: a part alone, (x, y, width, height) in pixels of the picture, reduced if it is; or a function that
                makes one of its width and height. Its pixels are those of the whole picture, in less time and memory.
            progress: as for :meth:`encode`.

        Returns:
            uint8 [H, W, 3], or [H, W] of a grey picture; a list of these for several files. Alpha, EXIF and ICC profile
            are what :func:`ccm_fast.decode_file` is for.

        Raises:
            BitstreamError: one of its subclasses says what is wrong with a file.
            TypeError, ValueError: an argument is not as it should be; the region does not lie within the picture.
        """
        one = isinstance(data, (bytes, bytearray, memoryview))
        files = [self.open_file(d, max_pixels) for d in cast("Sequence[bytes]", [data] if one else data)]
        options: dict[str, Any] = {"groups": groups, "latents": False, "progress": progress}
        options |= {"reduce": reduce, "region": region}
        if groups == "available":
            pictures = [self.decode_files([file], threads, **options)[0][0] for file in files]
        else:
            pictures = [pixels for pixels, _, _ in self.decode_files(files, threads, **options)]
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
        self,
        files: Sequence[Any],
        threads: int | None = None,
        depth: int = 8,
        groups: int | str | None = None,
        latents: bool = True,
        progress: Progress | None = None,
        reduce: int = 1,
        region: Wanted = None,
    ) -> list[tuple[np.ndarray, np.ndarray | None, dict[str, float]]]:
        """Pixels, latents and seconds of files from :meth:`open_file`: :meth:`decode_buffers` as arrays."""
        found = self.decode_buffers(files, threads, depth, groups, latents, progress, reduce, region)
        return [
            (np.asarray(pixels), None if y_hat is None else np.asarray(y_hat), seconds)
            for pixels, y_hat, seconds in found
        ]

    def decode_buffers(
        self,
        files: Sequence[Any],
        threads: int | None = None,
        depth: int = 8,
        groups: int | str | None = None,
        latents: bool = True,
        progress: Progress | None = None,
        reduce: int = 1,
        region: Wanted = None,
    ) -> list[tuple[memoryview, memoryview | None, dict[str, float]]]:
        """Pixels, latents and seconds of files from :meth:`open_file`, without NumPy.

        Returns:
            For each: uint8 (depth 16: uint16) [H, W, 3] or [H, W]; y_hat, int16 [h, w, M], the
            same numbers on every machine, or None where ``latents`` are not wanted; seconds of the stages ``z``,
            ``h_s``, ``entropy`` and ``g_s``. Memory is the caller's: ``numpy.asarray`` takes it as it is.

        Raises:
            BitstreamError: as :meth:`decode`.
            TypeError, ValueError: groups is no number of groups that the model has; "available" of several files;
                reduce is not 1, 2, 4 or 8, or latents are wanted of a reduced picture; the region is none.
        """
        decoded: list[tuple[memoryview, memoryview | None, dict[str, float]]]
        read = self._groups_to_read(files, groups)
        if reduce not in REDUCTIONS:
            raise ValueError(f"reduce must be one of {REDUCTIONS}, not {reduce!r}")
        regions = [region_of(region, -(-file.width // reduce), -(-file.height // reduce)) for file in files]
        options = (thread_count(threads), depth, read, latents, _by_share(progress), reduce, regions)
        decoded = self._native.decode(list(files), *options)
        if progress is not None:
            progress(PROGRESS_STEPS, PROGRESS_STEPS)
        return decoded

    def _groups_to_read(self, files: Sequence[Any], groups: int | str | None) -> int:
        """The number for the native decoder; -1: all."""
        if groups is None:
            return -1
        if groups == "available":
            (file,) = files
            return groups_available(file.packet, self.groups)
        try:
            number = operator.index(groups)  # type: ignore[arg-type]
        except TypeError:
            raise TypeError(f"groups must be a whole number, 'available' or None, not {groups!r}") from None
        if not 0 <= number <= self.groups:
            raise ValueError(f"groups must lie in 0..{self.groups}, not be {number}")
        return number

    def decode_into(
        self,
        files: Sequence[Any],
        out: Sequence[np.ndarray],
        threads: int | None = None,
        regions: Sequence[Region | None] = (),
    ) -> list[Exception | None]:
        """Decode files from :meth:`open_file` side by side into arrays of the caller's.

        Args:
            files: what to decode.
            out: for each a contiguous array, uint8 [H, W, 3]; a grey picture is written into all three channels.
            threads: None: as many as there are cores.
            regions: for each what of it is decoded, of :func:`ccm_fast.region.region_of`; empty: all of every file.

        Returns:
            None for each file that was decoded, the BitstreamError of one that is damaged.
        """
        errors: list[Exception | None] = self._native.decode_into(
            list(files), list(out), thread_count(threads), list(regions)
        )
        return errors
