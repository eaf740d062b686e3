""".ccm files: encoding pictures into them and back, with the model found by the file's fingerprint."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias, TypeGuard, Union

from PIL import Image

from ._backend import import_with_torch
from .atomic import atomic_write
from .eager import eager
from .images import (
    Picture,
    cropped_alpha,
    from_pillow,
    open_picture,
    output_format,
    reduced_alpha,
    replace_metadata,
    save_picture,
    strip_metadata,
    to_pillow,
)
from .lazy import np
from .native import NATIVE_EFFORT, PROGRESS_STEPS, REDUCTIONS, Codec, Progress, add_seconds
from .psnr import psnr
from .reading import read_bytes
from .region import Wanted, region_of
from .registry import DEFAULT_MODEL, codec_for, named_model
from .shipped import is_accelerated
from .stream.container import ALPHA, FILTER, parse_container
from .stream.limits import MAX_PIXELS, check_limit
from .stream.packet import Packet, parse_file, peek
from .stream.quality import quality_code
from .timing import stage

if TYPE_CHECKING:
    from .interop.compressai import AcceleratedNet
    from .models import CrossChannelContextModel

__all__ = [
    "Decoded",
    "codec_for",
    "decode_bytes",
    "decode_file",
    "encode_file",
    "encode_picture",
    "is_native",
    "model_for",
    "opened",
    "read_bytes",
]


Model: TypeAlias = Union["CrossChannelContextModel", "AcceleratedNet", Codec, str, "os.PathLike[str]", None]


def _tensor_files(what: str = "encoding, or decoding with this model and engine,") -> ModuleType:
    return import_with_torch("ccm_fast.tensor_files", what)


def is_native(model: Model, engine: str | None) -> TypeGuard[Codec | str | os.PathLike[str] | None]:
    """Whether the codec without torch does what is asked for: on the CPU, with a model that is no module of torch."""
    if engine not in (None, "cpu") or not (model is None or isinstance(model, (Codec, str, os.PathLike))):
        return False
    return not is_accelerated(model)


def model_for(model: Model, fingerprint: bytes | None = None) -> CrossChannelContextModel | AcceleratedNet:
    """The torch module, or accelerated net, to work with.

    Args:
        model: a model; the name of a shipped one or a weights file; None: the shipped one with this fingerprint.
        fingerprint: of the stream to decode, if one is to be decoded; the model is checked against it.

    Raises:
        FileNotFoundError: no model of that name.
        NotFrozenError: the model is not frozen.
        WrongModelError: no shipped model has the fingerprint, or the given one has another.
    """
    module: CrossChannelContextModel | AcceleratedNet
    module = _tensor_files().module_for(named_model(model, fingerprint), fingerprint)
    return module


def opened(
    model: str | os.PathLike[str], engine: str | None = None
) -> Codec | CrossChannelContextModel | AcceleratedNet:
    """What a command works with: the codec without torch where that will do, else a module.

    Raises:
        FileNotFoundError, ModelError: no such model.
        BuildError: it needs torch, which is not there.
    """
    return codec_for(model) if is_native(model, engine) else model_for(model)


# ---------------------------------------------------------------------------------------------------------------------
# Encoding


def encode_picture(
    picture: Picture,
    quality: float = 4.0,
    model: Model = None,
    *,
    lanes: int = 0,
    threads: int | None = None,
    engine: str | None = None,
    effort: int | None = None,
    tune: str | None = None,
    target_size: int | None = None,
    target_bpp: float | None = None,
    target_psnr: float | None = None,
    progress: Progress | None = None,
    timings: dict[str, float] | None = None,
) -> bytes:
    """The bytes of a .ccm file. Arguments and errors as :func:`encode_file`."""
    code = quality_code(quality)
    light = effort is None or effort in range(1, NATIVE_EFFORT + 1)
    encode: Callable[[int], bytes]
    options: dict[str, Any] = {"effort": effort, "lanes": lanes, "threads": threads, "timings": timings}
    searching = not target_size is target_bpp is target_psnr is None
    attempts = _Attempts(progress) if searching and progress is not None else None
    options["progress"] = progress if attempts is None else attempts.tell
    if light and is_native(model, engine) and (codec := codec_for(model)).encodes(effort, tune):
        model = codec

        def encode(code: int) -> bytes:
            return codec.encode(picture.samples, 1 + code / 32, chunks=picture.chunks, **options)
    else:
        tensors = _tensor_files(
            "encoding with this model and engine" if not is_native(model, engine) else "this effort or tuning"
        )
        model = model_for(model)
        options |= {"engine": engine, "tune": tune}
        encode = tensors.encoder(picture, model, **options)

    def quality_of(data: bytes) -> float:
        decoded = decode_bytes(data, model, threads=threads, engine=engine, max_pixels=None, latents=False)
        return psnr(picture.pixels, decoded.picture.pixels)

    if not searching:
        return encode(code)
    if hasattr(model, "accelerated"):
        raise ValueError("a net of CompressAI has one quality: no target can be met by another")
    from .effort.targets import Target

    def attempt(code: int) -> bytes:
        data = encode(code)
        if attempts is not None:
            attempts.next()
        return data

    H, W = picture.size
    data = Target(target_size, target_bpp, target_psnr).find(attempt, quality_of, H * W, code)
    if progress is not None:
        progress(PROGRESS_STEPS, PROGRESS_STEPS)
    return data


class _Attempts:
    """How far a search is whose length nobody knows: every attempt brings it half of the way that is left."""

    def __init__(self, progress: Progress):
        self.progress, self.left = progress, 1.0

    def tell(self, done: int, steps: int) -> None:
        """Steps of the attempt that is under way."""
        self.progress(int(PROGRESS_STEPS * (1 - self.left * (1 - done / max(steps, 1) / 2))), PROGRESS_STEPS)

    def next(self) -> None:
        """One is over."""
        self.left /= 2


@eager
def encode_file(
    src: str | os.PathLike[str] | BinaryIO | Image.Image,
    dst: str | os.PathLike[str] | BinaryIO,
    quality: float = 4.0,
    model: Model = DEFAULT_MODEL,
    *,
    lanes: int = 0,
    threads: int | None = None,
    engine: str | None = None,
    effort: int | None = None,
    tune: str | None = None,
    target_size: int | None = None,
    target_bpp: float | None = None,
    target_psnr: float | None = None,
    max_pixels: int | None = MAX_PIXELS,
    strip: bool = False,
    exif: bytes | None = None,
    icc: bytes | None = None,
    progress: Progress | None = None,
    timings: dict[str, float] | None = None,
) -> dict[str, Any]:
    """Encode an image file to a .ccm file, which appears under its name only when complete.

    Alpha is kept losslessly; EXIF, ICC profile, XMP and IPTC travel along; see :mod:`ccm_fast.images` for what is
    taken. A PictureWarning names what is lost.

    Args:
        src: path, binary file or Pillow image.
        dst: path or binary file; an existing file is replaced.
        quality: from 1 (smallest) to 8 (best), in 1/32 steps.
        model: a frozen model, the name of a shipped one, or a weights file; or what :func:`ccm_fast.accelerate` made of
            a net of CompressAI, which has one quality, and neither efforts nor tunings nor targets.
        lanes: rANS lanes per stream (1, 2, 4, 8, 16, 32, 64, 128; the engine "cuda" up to 32); 0 chooses them by the
            payload. Many decode fastest on GPUs, and cost about 2 bytes each and stream (docs/cuda.md).
        threads: of torch and of the entropy coder; None: torch's setting.
        engine: "cpu", "cuda" or "reference" (slow): the same bytes from the same latents; None: by the model's device.
        effort: 1 to 9, None: the default; as for :func:`ccm_fast.compress`.
        tune: "psnr" or "ms-ssim", None: what the model was trained for; likewise.
        target_size: bytes that the whole file may take; the best quality that keeps to it is searched, from ``quality``
            on, in a handful of encodings: the file is at most 2 % smaller, or the next step of quality is too large.
        target_bpp: the same, in bits per pixel.
        target_psnr: dB that the decoded picture reaches, by at most 0.05 more or the next step of quality.
        max_pixels: larger images are refused; None: no limit.
        strip: leave out EXIF, XMP and IPTC; a picture that EXIF would have turned is turned.
        exif: an EXIF block in place of the picture's own; empty: none.
        icc: an ICC profile in place of the picture's own; empty: none.
        progress: called now and then, in this thread, with (steps done, steps in all): about how far the encoding is.
            What it raises ends it.
        timings: if given, seconds are added to its keys ``read``, ``g_a``, ``h_a``, ``h_s``, ``effort``, ``entropy``,
            ``filter``.

    Returns:
        ``{"width", "height", "bytes", "bpp", "quality"}`` of the file, the quality as quantized.

    Raises:
        ImageError: src is no image, or of a kind that cannot be coded; exif or icc is none.
        LimitError: more than ``max_pixels`` pixels.
        EncodeError: the model makes latents of this image that cannot be coded.
        TargetError: no quality meets the target.
        NotFrozenError, FileNotFoundError, ModelError: the model is not usable.
        TypeError: src or dst is neither a path nor a file.
        ValueError: quality, lanes, threads, effort, tune or target out of range, several targets, or a tune that the
            model does not have.
        OSError: a file cannot be read or written.
    """
    quality_code(quality)  # before anything is read
    check_limit(max_pixels)
    _check_target(dst)
    with stage(timings, "read"):
        picture = from_pillow(src) if isinstance(src, Image.Image) else open_picture(src, max_pixels)
        picture = replace_metadata(strip_metadata(picture) if strip else picture, exif, icc)
    options: dict[str, Any] = {"lanes": lanes, "threads": threads, "engine": engine, "timings": timings}
    options |= {"target_size": target_size, "target_bpp": target_bpp, "target_psnr": target_psnr}
    data = encode_picture(picture, quality, model, effort=effort, tune=tune, progress=progress, **options)
    if isinstance(dst, (str, os.PathLike)):
        with atomic_write(dst) as file:
            file.write(data)
    else:
        dst.write(data)
    H, W = picture.size
    found = peek(parse_container(data).packet, None).quality_code
    return {"width": W, "height": H, "bytes": len(data), "bpp": 8 * len(data) / (W * H), "quality": 1 + found / 32}


def _check_target(dst: object) -> None:
    """Raises TypeError, before the work is done, for what is neither a path nor a file to write to."""
    if not isinstance(dst, (str, os.PathLike)) and not hasattr(dst, "write"):
        raise TypeError(f"a path or a binary file to write to is needed, not {type(dst).__name__}")


# ---------------------------------------------------------------------------------------------------------------------
# Decoding


class Decoded:
    """What a .ccm file holds.

    Attributes:
        picture: pixels and metadata.
        latents: y_hat, int16 [h, w, M]: the same numbers on every machine; None where they were not asked for.
        packet_bytes: the header and the streams.
        groups: groups of latents.
    """

    def __init__(self, picture: Picture, latents: np.ndarray | None, packet_bytes: bytes | memoryview, groups: int):
        """Of what was decoded."""
        self.picture, self.latents = picture, latents
        self.packet_bytes, self.groups = packet_bytes, groups

    @functools.cached_property
    def packet(self) -> Packet:
        """The header's fields and the streams."""
        return parse_file(self.packet_bytes, self.groups, None)


def decode_bytes(
    data: bytes,
    model: Model = None,
    *,
    threads: int | None = None,
    engine: str | None = None,
    max_pixels: int | None = MAX_PIXELS,
    depth: int = 8,
    groups: int | str | None = None,
    reduce: int = 1,
    region: Wanted = None,
    timings: dict[str, float] | None = None,
    latents: bool = True,
    progress: Progress | None = None,
) -> Decoded:
    """Decode the bytes of a .ccm file. Arguments and errors as :func:`decode_file`; latents: whether to keep them."""
    if reduce not in REDUCTIONS:
        raise ValueError(f"reduce must be one of {REDUCTIONS}, not {reduce!r}")
    if depth not in (8, 16):
        raise ValueError(f"depth must be 8 or 16 bits, not {depth!r}")
    if is_native(model, engine):
        file = Codec.open_file(data, max_pixels)
        codec = codec_for(model, file.fingerprint)
        size = -(-file.height // reduce), -(-file.width // reduce)
        region = region_of(region, *size[::-1])
        how = (groups, latents, progress, reduce, region)
        ((samples, values, seconds),) = codec.decode_buffers([file], threads, depth, *how)
        add_seconds(timings, seconds)
        y_hat = None if values is None else np.asarray(values)
        chunks = file.chunks
        chunks.pop(FILTER, None)  # the pixels have gone through it
        if reduce > 1 and ALPHA in chunks:
            chunks |= {ALPHA: reduced_alpha(chunks[ALPHA], (file.height, file.width), reduce)}
        if region is not None and ALPHA in chunks:
            chunks |= {ALPHA: cropped_alpha(chunks[ALPHA], size, region)}
        return Decoded(Picture(samples, chunks), y_hat, file.packet, codec.groups)
    if groups is not None or reduce != 1 or region is not None:
        what = "parts (region)" if region is not None else "previews (groups)" if reduce == 1 else "reduced pictures"
        raise ValueError(f"{what} are made by the engine 'cpu' of a model's name, a weights file or a Codec")
    container = parse_container(data)
    module = model_for(model, peek(container.packet, max_pixels).fingerprint)
    options: dict[str, Any] = {
        "threads": threads,
        "engine": engine,
        "max_pixels": max_pixels,
        "depth": depth,
        "timings": timings,
    }
    pixels, y_hat = _tensor_files().decode_container(container, module, latents=latents, **options)
    assert module.frozen is not None
    chunks = {kind: data for kind, data in container.chunks.items() if kind != FILTER}
    return Decoded(Picture(pixels, chunks), y_hat, container.packet, len(module.frozen.plan.groups))


@eager
def decode_file(
    src: str | os.PathLike[str] | BinaryIO,
    dst: str | os.PathLike[str] | BinaryIO | None = None,
    model: Model = None,
    *,
    file_format: str | None = None,
    threads: int | None = None,
    engine: str | None = None,
    max_pixels: int | None = MAX_PIXELS,
    depth: int = 8,
    strip: bool = False,
    groups: int | str | None = None,
    reduce: int = 1,
    region: Wanted = None,
    progress: Progress | None = None,
    timings: dict[str, float] | None = None,
    **save_options: Any,
) -> Image.Image | None:
    """Decode a .ccm file to an image file, or to a Pillow image.

    Args:
        src: path or binary file.
        dst: path or binary file; an existing file is replaced, in one go. None: return a Pillow image.
        model: a :class:`ccm_fast.Codec`, a frozen module, a name or a weights file; None: the shipped model whose
            fingerprint the file carries.
        file_format: Pillow's name of the format to write ("PNG", "JPEG", ...); None: by dst's suffix, else PNG.
        threads: None: as many as there are cores; with a module of torch, torch's setting.
        engine: "cpu", "cuda" or "reference" (slow): the same latents; None: by the model's device. All but a name or a
            weights file on "cpu" needs torch.
        max_pixels: largest image to decode; None: no limit but the format's.
        depth: bits of a sample, 8 or 16, rounded from the same floats. 16 is written as PNG or PPM;
            grey also as TIFF or JPEG 2000.
        strip: leave out EXIF, XMP and IPTC; a picture that EXIF would have turned is turned.
        groups: for a preview: read the first so many groups of latents alone, as :meth:`ccm_fast.Codec.decode` does;
            the file may end after them. "available": as many as are there. None: the whole file.
        reduce: 2, 4 or 8: a picture of 1/2, 1/4 or 1/8 of the sides, rounded up, in less time, likewise.
        region: a part alone, (x, y, width, height), likewise. It counts in pixels as they are stored, before EXIF turns
            them (:func:`ccm_fast.region.stored_region` translates).
        progress: as for :func:`encode_file`; decoding by modules of torch tells nothing.
        timings: if given, seconds are added to its keys ``z``, ``h_s``, ``entropy``, ``g_s``, ``write``.
        save_options: passed on to Pillow's ``save``, such as ``quality=90``. Without it JPEG and WebP are written at 95
            (JPEG with 4:4:4) and AVIF at 90, so that little is lost for the second time.

    Returns:
        The image (mode L, LA, RGB or RGBA; 8 bits a channel; with ``depth=16`` I;16 of grey pictures) if dst is None.
        EXIF, ICC profile and XMP are in its ``info``.

    Raises:
        BitstreamError: one of its subclasses says what is wrong with the file.
        ImageError: the format cannot hold the image, or is not known.
        NotFrozenError, FileNotFoundError, ModelError: the model is not usable.
        TypeError, ValueError: an argument is not as it should be; the region does not lie within the picture.
        OSError: a file cannot be read or written.
    """
    if dst is not None:
        _check_target(dst)
    if not isinstance(file_format, (str, type(None))):
        raise TypeError(f"file_format is the name of a format, such as 'PNG', not {file_format!r}")
    if file_format is None and dst is not None:
        suffix = Path(dst).suffix if isinstance(dst, (str, os.PathLike)) else ""
        file_format = output_format(suffix) if suffix else "PNG"
    data = read_bytes(src, max_pixels)
    options: dict[str, Any] = {
        "threads": threads,
        "engine": engine,
        "max_pixels": max_pixels,
        "depth": depth,
        "groups": groups,
        "reduce": reduce,
        "region": region,
        "timings": timings,
    }
    picture = decode_bytes(data, model, latents=False, progress=progress, **options).picture
    if strip:
        picture = strip_metadata(picture)
    if dst is None:
        return to_pillow(picture)
    assert file_format is not None
    with stage(timings, "write"):
        save_picture(picture, dst, file_format, **save_options)
    return None
