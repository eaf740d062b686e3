"""Many pictures at once: :func:`decode_batch`, its NumPy half :func:`decode_arrays`, and :func:`encode_batch`."""

from __future__ import annotations

import io
import math
import os
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias, TypeVar, cast

import numpy as np
from PIL import Image

from ._backend import import_with_torch
from .errors import BitstreamError, CcmFastError, PictureWarning, WrongModelError
from .files import Model, encode_picture, model_for
from .images import Picture, from_pillow, open_picture, orientation, turned
from .native import Codec, thread_count
from .reading import read_bytes
from .region import Region, Wanted, turned_region_of
from .registry import DEFAULT_MODEL, codec_for
from .stream.container import Container, parse_container
from .stream.limits import MAX_PIXELS, check_limit
from .stream.quality import quality_code

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from .models import CrossChannelContextModel

__all__ = ["decode_arrays", "decode_batch", "encode_batch"]

Item: TypeAlias = bytes | bytearray | memoryview | str | os.PathLike[str] | BinaryIO
_BYTES = (bytes, bytearray, memoryview)
_T = TypeVar("_T")
#: So many pixels are encoded together, 8192 x 8192, or as much more as the last picture has.
_PIXELS_AT_ONCE = 1 << 26


# ---------------------------------------------------------------------------------------------------------------------
# What happens to pictures that fail


def _check_errors(errors: str) -> None:
    if errors not in ("raise", "skip", "none"):
        raise ValueError(f"errors is 'raise', 'skip' or 'none', not {errors!r}")


def _checked(items: Iterable[_T], what: str) -> list[_T]:
    """The items as a list. Raises TypeError for what is one item and not several."""
    if isinstance(items, (*_BYTES, str, os.PathLike)) or not isinstance(items, Iterable):
        raise TypeError(f"a sequence of {what} is needed, not {type(items).__name__}")
    return list(items)


def _name(k: int, item: object) -> str:
    """How messages call an item."""
    return f"picture {k} ({os.fsdecode(item)})" if isinstance(item, (str, os.PathLike)) else f"picture {k}"


def _named(error: Exception, name: str) -> Exception:
    """The error with the item's name in front; of the operating system's, which have a file's name, the same one."""
    if not isinstance(error, CcmFastError):
        return error
    named = type(error)(f"{name}: {error}")
    named.__cause__ = error
    return named


def _raise_first(found: Sequence[object], items: Sequence[object], start: int = 0) -> None:
    """Raise the first exception among what was found of the items from ``start`` on."""
    for k, one in enumerate(found, start):
        if isinstance(one, Exception):
            raise _named(one, _name(k, items[k]))


def _settle(found: list[_T | Exception], items: Sequence[object], errors: str) -> list[_T | None]:
    """What is left of the items, of which some may be exceptions.

    Raises:
        Exception: the first of them, if ``errors`` is "raise".
    """
    if errors == "raise":
        _raise_first(found, items)
    kept: list[_T | None] = []
    for k, one in enumerate(found):
        if not isinstance(one, Exception):
            kept.append(one)
            continue
        error = _named(one, _name(k, items[k]))
        warnings.warn(f"left out: {error}", PictureWarning, stacklevel=3)
        if errors == "none":
            kept.append(None)
    return kept


# ---------------------------------------------------------------------------------------------------------------------
# Decoding


@dataclass
class _Open:
    """A file whose header has been read; how its picture is to be turned (EXIF's numbers); what of it is decoded."""

    file: Any
    turn: int
    region: Region | None = None

    @property
    def raw_shape(self) -> tuple[int, int, int]:
        """Of what is decoded."""
        return (self.file.height, self.file.width, 3) if self.region is None else (*self.region[:1:-1], 3)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of that, turned."""
        height, width, _ = self.raw_shape
        return (height, width, 3) if self.turn < 5 else (width, height, 3)

    def choose(self, wanted: Wanted) -> None:
        """Decode a part alone, of the turned picture. Raises TypeError, ValueError."""
        self.region = turned_region_of(wanted, self.turn, self.file.width, self.file.height)


def _read(item: Item, max_pixels: int | None) -> bytes:
    return bytes(item) if isinstance(item, _BYTES) else read_bytes(item, max_pixels)


def _opened(items: list[Item], orient: bool, max_pixels: int | None) -> list[_Open | Exception]:
    found: list[_Open | Exception] = []
    for item in items:
        try:
            file = Codec.open_file(_read(item, max_pixels), max_pixels)
            found.append(_Open(file, orientation(file.chunks) if orient else 1))
        except (BitstreamError, OSError) as error:
            found.append(error)
    return found


def _by_codec(opened: list[_Open | Exception], model: Codec | str | os.PathLike[str] | None) -> dict[Codec, list[int]]:
    """The places of the files by the codec that decodes them; those without one become WrongModelError."""
    codecs: dict[bytes, Codec] = {}
    places: dict[Codec, list[int]] = {}
    for k, one in enumerate(opened):
        if isinstance(one, Exception):
            continue
        fingerprint = one.file.fingerprint
        try:
            if fingerprint not in codecs:
                codecs[fingerprint] = codec_for(model, fingerprint)
            places.setdefault(codecs[fingerprint], []).append(k)
        except WrongModelError as error:
            opened[k] = error
    return places


def decode_arrays(
    items: Iterable[Item],
    *,
    errors: str = "raise",
    orient: bool = False,
    region: Wanted = None,
    threads: int | None = None,
    model: Codec | str | os.PathLike[str] | None = None,
    max_pixels: int | None = MAX_PIXELS,
) -> np.ndarray | list[np.ndarray | None]:
    """Decode .ccm files side by side into NumPy arrays; needs no torch.

    The interpreter's lock is released meanwhile. Arguments and errors as :func:`decode_batch`.

    Returns:
        uint8 [N, H, W, 3], or a list of arrays [H, W, 3] as described there.
    """
    _check_errors(errors)
    check_limit(max_pixels)
    given, threads = _checked(items, "files"), thread_count(threads)
    opened = _opened(given, orient, max_pixels)
    places = _by_codec(opened, model)
    if errors == "raise":
        _raise_first(opened, given)  # before any work is done
    good = {k: one for k, one in enumerate(opened) if isinstance(one, _Open)}
    for k, one in good.items():
        try:
            one.choose(region)
        except ValueError as why:
            raise ValueError(f"{_name(k, given[k])}: {why}") from why
    # Pictures of one size are decoded into the array that is returned, unless they are to be turned.
    shapes = {one.shape for one in good.values()}
    whole = np.empty((len(good), *shapes.pop()), np.uint8) if len(shapes) == 1 and errors != "none" else None
    to = dict(zip(good, whole if whole is not None else (np.empty(one.shape, np.uint8) for one in good.values())))
    raw = {}
    for k, one in good.items():
        raw[k] = to[k] if one.turn == 1 else np.empty(one.raw_shape, np.uint8)
    found: list[np.ndarray | Exception] = [one if isinstance(one, Exception) else to[k] for k, one in enumerate(opened)]
    for codec, where in places.items():
        files, parts = [good[k].file for k in where], [good[k].region for k in where]
        results = codec.decode_into(files, [raw[k] for k in where], threads, parts)
        for k, error in zip(where, results, strict=True):
            if error is not None:
                found[k] = error
            elif raw[k] is not to[k]:
                to[k][...] = turned(raw[k], good[k].turn)
    kept = _settle(found, given, errors)
    if whole is None or len(kept) == len(whole):
        return kept if whole is None else whole
    return np.stack([one for one in kept if one is not None]) if kept else []


def decode_batch(
    items: Iterable[Item],
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    errors: str = "raise",
    orient: bool = False,
    threads: int | None = None,
    *,
    region: Wanted = None,
    model: Model = None,
    engine: str | None = None,
    max_pixels: int | None = MAX_PIXELS,
) -> Tensor | list[Tensor | None]:
    """Decode .ccm files side by side into torch tensors: RGB, grey pictures in all three channels, alpha left out.

    On the CPU each core decodes a picture at a time, without torch and without the interpreter's lock. A GPU gets all
    streams in one copy, decodes pictures of one size together and sizes beside each other, and the host waits once,
    when all are queued.

    Args:
        items: bytes of .ccm files, paths, or binary files.
        device: where the pixels are wanted, which is where they are computed; None: the CPU, or with a module as
            ``model`` its device.
        dtype: None: uint8, 0 to 255; a floating point type: 0 to 1.
        errors: what a picture that cannot be read or decoded does. "raise": the first one's error is raised, and names
            it; "skip": it is left out; "none": None takes its place. The last two name it in a PictureWarning.
        orient: turn pictures as their EXIF orientation asks for.
        threads: in all; None: as many as there are cores.
        region: a part of each alone, (x, y, width, height) in pixels of the picture, turned if it is; or a function
            that makes one of its width and height, for crops at random. On the CPU only, and there in less time.
        model: as for :func:`ccm_fast.decode_file`; None: for each file the shipped model that it names.
        engine: "cpu", "cuda" or "reference", of modules; None: by the device.
        max_pixels: larger pictures are errors; None: no limit but the format's.

    Returns:
        [N, 3, H, W] if all pictures have one size; on the CPU in torch's channels_last layout. A list of [3, H, W] if
        there are several sizes, if there is no picture, and always with ``errors="none"``.

    Raises:
        BitstreamError: one of its subclasses says what is wrong with a file, and the message with which.
        OSError: a file cannot be read.
        FileNotFoundError, ModelError, NotFrozenError: the model is not usable.
        BuildError: torch is not installed; :func:`decode_arrays` works without.
        TypeError, ValueError: an argument is not as it should be.
    """
    torch = import_with_torch("torch", "ccm_fast.decode_batch")
    if dtype is not None and dtype != torch.uint8 and not dtype.is_floating_point:
        raise TypeError(f"dtype must be torch.uint8 or a floating point type, not {dtype}")
    tensors = import_with_torch("ccm_fast.tensor_batches", "ccm_fast.decode_batch")
    if model is None or isinstance(model, (Codec, str, os.PathLike)):
        if engine in (None, "cpu") and torch.device(device or "cpu").type == "cpu":
            options: dict[str, Any] = {"errors": errors, "orient": orient, "threads": threads, "max_pixels": max_pixels}
            options["region"] = region
            decoded: Tensor | list[Tensor | None]
            decoded = tensors.from_arrays(decode_arrays(items, model=model, **options), dtype)
            return decoded
    else:
        tensors.check_place(model, device)
    if region is not None:
        raise ValueError("parts of pictures (region) are decoded on the CPU, with a model's name, a file or a Codec")
    _check_errors(errors)
    check_limit(max_pixels)
    given = _checked(items, "files")
    files: list[Container | Exception] = []
    for item in given:
        try:
            files.append(parse_container(_read(item, max_pixels)))
        except (BitstreamError, OSError) as error:
            files.append(error)
    if errors == "raise":
        _raise_first(files, given)
    options = {"engine": engine, "threads": threads, "max_pixels": max_pixels, "orient": orient}
    found = tensors.decode_containers(files, lambda fingerprint: model_for(model, fingerprint), device, **options)
    decoded = tensors.collected(_settle(found, given, errors), dtype, always_list=errors == "none")
    return decoded


# ---------------------------------------------------------------------------------------------------------------------
# Encoding


def _picture(item: Any, max_pixels: int | None) -> Picture:
    """The picture that an item of :func:`encode_batch` is. Raises TypeError for what is none."""
    if isinstance(item, Picture):
        return item
    if isinstance(item, Image.Image):
        return from_pillow(item)
    if isinstance(item, np.ndarray):
        return Picture(item)
    if hasattr(item, "detach"):  # a tensor; torch need not be imported to tell
        if item.ndim != 3 or item.shape[0] not in (1, 3):
            raise TypeError(f"tensors of pictures are [3, H, W] or [1, H, W], not {list(item.shape)}")
        planes = item.detach().cpu().numpy()
        return Picture(np.ascontiguousarray(planes[0] if len(planes) == 1 else planes.transpose(1, 2, 0)))
    return open_picture(io.BytesIO(item) if isinstance(item, _BYTES) else item, max_pixels)


def encode_batch(
    pictures: Iterable[Any],
    quality: float | Sequence[float] = 4.0,
    *,
    model: Model = DEFAULT_MODEL,
    effort: int | None = None,
    tune: str | None = None,
    lanes: int = 0,
    errors: str = "raise",
    threads: int | None = None,
    max_pixels: int | None = MAX_PIXELS,
) -> list[bytes | None]:
    """Encode pictures side by side, each core one at a time, without the interpreter's lock.

    Args:
        pictures: any of uint8 or uint16 tensors [3, H, W] or [1, H, W], a tensor [N, 3, H, W] of them, NumPy arrays
            [H, W, 3] or [H, W], Pillow images, and paths or bytes of image files, whose metadata travels along.
        quality: 1 to 8, of all or of each.
        model: as for :func:`ccm_fast.encode_file`.
        effort: likewise.
        tune: likewise.
        lanes: likewise.
        errors: as for :func:`decode_batch`; what cannot be read or encoded.
        threads: in all; None: as many as there are cores.
        max_pixels: larger image files are errors; None: no limit.

    Returns:
        The bytes of each .ccm file: those that :func:`ccm_fast.encode_file` writes. A module on a GPU encodes pictures
        of equal size together at efforts up to 3; its transforms may then differ in their last bits from those of one
        picture, and files by a few symbols.

    Raises:
        ImageError, LimitError, EncodeError, OSError: a picture cannot be read or encoded; the message says which.
        TypeError, ValueError: an argument is not as it should be.
    """
    _check_errors(errors)
    given, threads = _checked(pictures, "pictures"), thread_count(threads)
    qualities = list(quality) if isinstance(quality, Iterable) else [quality] * len(given)
    if len(qualities) != len(given):
        raise ValueError(f"{len(qualities)} qualities for {len(given)} pictures")
    options: dict[str, Any] = {"lanes": lanes, "effort": effort, "threads": threads}
    codec = codec_for(model) if isinstance(model, (Codec, str, os.PathLike)) else None
    if codec is not None and not codec.encodes(effort, tune):
        codec = None
    on_gpu = _on_gpu(model, effort)
    found: list[bytes | Exception] = []
    for some, their in _pieces(_opened_pictures(given, threads, max_pixels), qualities):
        start = len(found)
        if errors == "raise":
            _raise_first(some, given, start)  # before more work is done
        if codec is not None:
            found += _encoded_natively(codec, some, their, options)
        elif on_gpu is not None:
            found += _encoded_on_gpu(on_gpu, some, their, {"effort": effort, "tune": tune, "lanes": lanes})
        else:
            found += [_encoded(one, q, model, tune=tune, **options) for one, q in zip(some, their, strict=True)]
        if errors == "raise":
            _raise_first(found[start:], given, start)
    return _settle(found, given, errors)


def _opened_pictures(given: list[Any], threads: int, max_pixels: int | None) -> Iterator[Picture | Exception]:
    """The pictures, in order: image files are read by as many threads as there may be, a few ahead of their use."""

    def opened(item: object) -> Picture | Exception:
        try:
            return _picture(item, max_pixels)
        except (CcmFastError, OSError) as error:
            return error

    if threads == 1 or not any(isinstance(item, (*_BYTES, str, os.PathLike)) for item in given):
        yield from map(opened, given)
        return
    with ThreadPoolExecutor(threads, "ccm-fast") as pool:
        ahead: deque[Future[Picture | Exception]] = deque()
        for item in given:
            ahead.append(pool.submit(opened, item))
            if len(ahead) > 2 * threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _pieces(
    pictures: Iterator[Picture | Exception], qualities: list[float]
) -> Iterator[tuple[list[Picture | Exception], list[float]]]:
    """Pictures and their qualities, as many at a time as make up so many pixels that threads are busy with them."""
    some: list[Picture | Exception] = []
    start, pixels = 0, 0
    for one in pictures:
        some.append(one)
        pixels += 0 if isinstance(one, Exception) else math.prod(one.size)
        if pixels >= _PIXELS_AT_ONCE:
            yield some, qualities[start : start + len(some)]
            start, pixels, some = start + len(some), 0, []
    if some:
        yield some, qualities[start:]


def _encoded_natively(
    codec: Codec, pictures: list[Picture | Exception], qualities: list[float], options: dict[str, Any]
) -> list[bytes | Exception]:
    """Files of pictures, all handed to the native codec together."""
    good = [(one, q) for one, q in zip(pictures, qualities, strict=True) if isinstance(one, Picture)]
    pixels, chunks = [one.pixels for one, _ in good], [one.chunks for one, _ in good]
    files = codec.encode_each(pixels, [q for _, q in good], chunks, **options)
    for file in files:
        if isinstance(file, Exception) and not isinstance(file, CcmFastError):
            raise file  # an argument's fault, and no picture's
    each = iter(files)
    return [one if isinstance(one, Exception) else next(each) for one in pictures]


def _on_gpu(model: Model, effort: int | None) -> CrossChannelContextModel | None:
    """The model if a GPU encodes with it and the CPU decides nothing."""
    if model is None or isinstance(model, (Codec, str, os.PathLike)):
        return None
    tensors = import_with_torch("ccm_fast.tensor_batches", "ccm_fast.encode_batch with a module")
    return cast("CrossChannelContextModel", model) if tensors.queues(model, effort) else None


def _encoded_on_gpu(
    model: CrossChannelContextModel,
    pictures: list[Picture | Exception],
    qualities: list[float],
    options: dict[str, Any],
) -> list[bytes | Exception]:
    """Files of pictures, all queued on a GPU together."""
    good = [(one, quality_code(q)) for one, q in zip(pictures, qualities, strict=True) if isinstance(one, Picture)]
    tensors = import_with_torch("ccm_fast.tensor_batches", "ccm_fast.encode_batch with a module")
    each = iter(tensors.encode_pictures(model, [one for one, _ in good], [code for _, code in good], **options))
    return [one if isinstance(one, Exception) else next(each) for one in pictures]


def _encoded(picture: Picture | Exception, quality: float, model: Model, **options: Any) -> bytes | Exception:
    if isinstance(picture, Exception):
        return picture
    try:
        return encode_picture(picture, quality, model, **options)
    except CcmFastError as error:
        return error
