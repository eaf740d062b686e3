""".ccm files: encoding pictures into them and back, with the model found by the file's fingerprint."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .atomic import atomic_write
from .decoding import DecodedLatents, check_fingerprint, decode_packets, render
from .effort.targets import Target, picture_psnr
from .encoding import encode_packets, quality_code
from .engines import frozen_of, stage, torch_threads
from .errors import WrongModelError
from .images import Picture, open_picture, output_format, save_picture, to_pillow
from .models import CrossChannelContextModel
from .reading import read_bytes
from .stream.container import parse_container, write_container
from .stream.limits import MAX_PIXELS, check_limit
from .stream.packet import Packet, parse_file, peek

__all__ = ["Decoded", "decode_bytes", "decode_file", "encode_file", "encode_picture", "model_for", "read_bytes"]

Model = CrossChannelContextModel | str | os.PathLike | None
DEFAULT_MODEL = "ccm-small"


@functools.lru_cache(maxsize=4)
def _load(name: str) -> CrossChannelContextModel:
    from .weights import load

    return load(name)


@functools.cache
def shipped_fingerprints() -> dict[bytes, tuple[str, int]]:
    """Fingerprint -> name and number of groups of every model that ships with the package."""
    from safetensors import safe_open

    from .weights import available, find

    found = {}
    for name in available():
        with safe_open(str(find(name)), framework="np") as file:
            plan = file.get_tensor("plan").tobytes()
        groups = int.from_bytes(plan[20:24], "little")  # FORMAT.md, section 7
        found[hashlib.sha256(plan).digest()[:8]] = name, groups
    return found


def model_for(model: Model, fingerprint: bytes | None = None) -> CrossChannelContextModel:
    """The model to work with.

    Args:
        model: a model; the name of a shipped one or a weights file; None: the shipped one with this fingerprint.
        fingerprint: of the stream to decode, if one is to be decoded; the model is checked against it.

    Raises:
        FileNotFoundError: no model of that name.
        NotFrozenError: the model is not frozen.
        WrongModelError: no shipped model has the fingerprint, or the given one has another.
    """
    if model is None:
        if fingerprint is None:
            model = DEFAULT_MODEL
        elif fingerprint in shipped_fingerprints():
            model = shipped_fingerprints()[fingerprint][0]
        else:
            names = ", ".join(name for name, _ in shipped_fingerprints().values()) or "none"
            raise WrongModelError(
                f"written with the model {fingerprint.hex()}, which does not ship with this release (shipped: {names});"
                " name its weights file"
            )
    if not isinstance(model, CrossChannelContextModel):
        model = _load(os.fspath(model))
    frozen = frozen_of(model)
    if fingerprint is not None:
        check_fingerprint(fingerprint, frozen)
    return model


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
    target_size: int | None = None,
    target_bpp: float | None = None,
    target_psnr: float | None = None,
    progress: Callable[[int, int], None] | None = None,
    timings: dict | None = None,
) -> bytes:
    """The bytes of a .ccm file. Arguments and errors as :func:`encode_file`."""
    code = quality_code(quality)
    model = model_for(model)
    pixels, (H, W) = picture.pixels, picture.size
    scale = float(np.iinfo(pixels.dtype).max)

    def read(rows: slice, columns: slice) -> Tensor:
        # Repeats the edge where a piece reaches beyond the image.
        part = pixels[rows, columns]
        over = [(0, rows.stop - rows.start - part.shape[0]), (0, columns.stop - columns.start - part.shape[1])]
        part = np.pad(part, over + [(0, 0)] * (pixels.ndim - 2), mode="edge")
        values = torch.from_numpy(part.astype(np.float32)).div_(scale)
        return (values.expand(3, -1, -1) if picture.grey else values.permute(2, 0, 1))[None]

    options = {"grey": picture.grey, "lanes": lanes, "threads": threads, "engine": engine, "timings": timings}
    options |= {"effort": effort, "progress": progress}

    def encode(code: int) -> bytes:
        (packet,) = encode_packets(model, read, (H, W), [code], **options)
        return write_container(packet.to_file(), picture.chunks)

    def psnr(data: bytes) -> float:
        decoded = decode_bytes(data, model, threads=threads, engine=engine, max_pixels=None)
        return picture_psnr(pixels, decoded.picture.pixels)

    if target_size is target_bpp is target_psnr is None:
        return encode(code)
    return Target(target_size, target_bpp, target_psnr).find(encode, psnr, H * W, code)


def encode_file(
    src: str | os.PathLike | BinaryIO | Image.Image,
    dst: str | os.PathLike | BinaryIO,
    quality: float = 4.0,
    model: Model = DEFAULT_MODEL,
    *,
    lanes: int = 0,
    threads: int | None = None,
    engine: str | None = None,
    effort: int | None = None,
    target_size: int | None = None,
    target_bpp: float | None = None,
    target_psnr: float | None = None,
    max_pixels: int | None = MAX_PIXELS,
    progress: Callable[[int, int], None] | None = None,
    timings: dict | None = None,
) -> dict:
    """Encode an image file to a .ccm file, which appears under its name only when complete.

    Alpha is kept losslessly, EXIF and ICC profile travel along; see :mod:`ccm_fast.images` for what is taken.

    Args:
        src: path, binary file or Pillow image.
        dst: path or binary file; an existing file is replaced.
        quality: from 1 (smallest) to 8 (best), in 1/32 steps.
        model: a frozen model, the name of a shipped one, or a weights file.
        lanes: rANS lanes per stream (1, 2, 4, 8, 16, 32); 0 chooses them by the payload's size. 32 decode fastest on
            GPUs, and cost up to 5 bytes each and stream (docs/cuda.md).
        threads: of torch and of the entropy coder; None: torch's setting.
        engine: "cpu", "cuda" or "reference" (slow): the same bytes from the same latents; None: by the model's device.
        effort: 1 to 9, None: the default; as for :func:`ccm_fast.compress`.
        target_size: bytes that the whole file may take; the best quality that keeps to it is searched, from ``quality``
            on, in a handful of encodings: the file is at most 2 % smaller, or the next step of quality is too large.
        target_bpp: the same, in bits per pixel.
        target_psnr: dB that the decoded picture reaches, by at most 0.05 more or the next step of quality.
        max_pixels: larger images are refused; None: no limit.
        progress: called with (steps done, steps in all) by efforts that take steps, 4 and above.
        timings: if given, seconds are added to its keys ``read``, ``g_a``, ``h_a``, ``h_s``, ``effort``, ``entropy``.

    Returns:
        ``{"width", "height", "bytes", "bpp", "quality"}`` of the file, the quality as quantized.

    Raises:
        ImageError: src is no image, or of a kind that cannot be coded.
        LimitError: more than ``max_pixels`` pixels.
        EncodeError: the model makes latents of this image that cannot be coded.
        TargetError: no quality meets the target.
        NotFrozenError, FileNotFoundError, ModelError: the model is not usable.
        TypeError: src or dst is neither a path nor a file.
        ValueError: quality, lanes, threads, effort or target out of range, several targets, or an effort that the model
            does not have.
        OSError: a file cannot be read or written.
    """
    from .images import from_pillow

    quality_code(quality)  # before anything is read
    check_limit(max_pixels)
    _check_target(dst)
    with stage(timings, "read"):
        picture = from_pillow(src) if isinstance(src, Image.Image) else open_picture(src, max_pixels)
    options = {"lanes": lanes, "threads": threads, "engine": engine, "timings": timings}
    options |= {"target_size": target_size, "target_bpp": target_bpp, "target_psnr": target_psnr}
    data = encode_picture(picture, quality, model, effort=effort, progress=progress, **options)
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


@dataclass
class Decoded:
    """What a .ccm file holds.

    Attributes:
        picture: pixels and metadata.
        packet: the header's fields and the streams.
        latents: y_hat, int16 [h, w, M]: the same numbers on every machine.
    """

    picture: Picture
    packet: Packet
    latents: np.ndarray


def decode_bytes(
    data: bytes,
    model: Model = None,
    *,
    threads: int | None = None,
    engine: str | None = None,
    max_pixels: int | None = MAX_PIXELS,
    timings: dict | None = None,
) -> Decoded:
    """Decode the bytes of a .ccm file. Arguments and errors as :func:`decode_file`."""
    container = parse_container(data)
    model = model_for(model, peek(container.packet, max_pixels).fingerprint)
    frozen = frozen_of(model)
    packet = parse_file(container.packet, len(frozen.plan.groups), max_pixels)
    device = next(model.parameters()).device
    decoded = decode_packets(frozen, [packet], threads=threads, engine=engine, device=device, timings=timings)
    decoded.check()
    picture = Picture(_pixels(model, decoded, packet, threads, timings), container.chunks)
    return Decoded(picture, packet, decoded.y_hat[0].cpu().numpy())


def _pixels(model, decoded: DecodedLatents, packet: Packet, threads: int | None, timings: dict | None) -> np.ndarray:
    """uint8 [H, W] or [H, W, 3]."""
    out = np.empty((packet.height, packet.width) + (() if packet.grey else (3,)), np.uint8)
    with torch.inference_mode(), torch_threads(threads), stage(timings, "g_s"):
        for rows, columns, pixels in render(model, decoded.reconstruct(model), [packet]):
            levels = pixels[0].float().mul_(255).round_().to("cpu", torch.uint8)
            out[rows, columns] = levels[0].numpy() if packet.grey else levels.permute(1, 2, 0).numpy()
    return out


def decode_file(
    src: str | os.PathLike | BinaryIO,
    dst: str | os.PathLike | BinaryIO | None = None,
    model: Model = None,
    *,
    file_format: str | None = None,
    threads: int | None = None,
    engine: str | None = None,
    max_pixels: int | None = MAX_PIXELS,
    timings: dict | None = None,
    **save_options,
) -> Image.Image | None:
    """Decode a .ccm file to an image file, or to a Pillow image.

    Args:
        src: path or binary file.
        dst: path or binary file; an existing file is replaced, in one go. None: return a Pillow image.
        model: a frozen model, a name or a weights file; None: the shipped model whose fingerprint the file carries.
        file_format: Pillow's name of the format to write ("PNG", "JPEG", ...); None: by dst's suffix, else PNG.
        threads: of torch and of the entropy decoder; None: torch's setting.
        engine: "cpu", "cuda" or "reference" (slow): the same latents; None: by the model's device.
        max_pixels: largest image to decode; None: no limit but the format's.
        timings: if given, seconds are added to its keys ``z``, ``h_s``, ``entropy``, ``g_s``, ``write``.
        save_options: passed on to Pillow's ``save``, such as ``quality=90`` for JPEG.

    Returns:
        The image (mode L, LA, RGB or RGBA; 8 bits a channel) if dst is None. EXIF and ICC profile are in its ``info``.

    Raises:
        BitstreamError: one of its subclasses says what is wrong with the file.
        ImageError: the format cannot hold the image, or is not known.
        NotFrozenError, FileNotFoundError, ModelError: the model is not usable.
        OSError: a file cannot be read or written.
    """
    if dst is not None:
        _check_target(dst)
    if not isinstance(file_format, (str, type(None))):
        raise TypeError(f"file_format is the name of a format, such as 'PNG', not {file_format!r}")
    if file_format is None and dst is not None:
        is_path = isinstance(dst, (str, os.PathLike)) and Path(dst).suffix
        file_format = output_format(Path(dst).suffix) if is_path else "PNG"
    data = read_bytes(src, max_pixels)
    decoded = decode_bytes(data, model, threads=threads, engine=engine, max_pixels=max_pixels, timings=timings)
    if dst is None:
        return to_pillow(decoded.picture)
    with stage(timings, "write"):
        save_picture(decoded.picture, dst, file_format, **save_options)
    return None
