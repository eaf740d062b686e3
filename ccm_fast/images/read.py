"""Reading pictures."""

from __future__ import annotations

import io
import os
from itertools import islice
from typing import BinaryIO

from PIL import Image

from ..errors import ImageError, LimitError
from ..lazy import np
from ..stream.container import ALPHA, ICC
from .alpha import encode_alpha, fill_invisible
from .colour import cmyk_to_rgb, find_cicp, profile_of
from .formats import formats_of, readable, sample_bits
from .metadata import read_metadata
from .picture import Picture, note

__all__ = ["from_pillow", "open_picture"]

_HEAD = 1 << 16  # bytes in which a file says what it holds
_GREY16 = ("I", "I;16", "I;16B", "I;16L", "I;16N")
_TIFF_PHOTOMETRIC, _TIFF_SUBFILE, _TIFF_OLD_SUBFILE = 262, 254, 255


def open_picture(source: str | os.PathLike | BinaryIO, max_pixels: int | None) -> Picture:
    """Read an image file of one of ``READ_FORMATS``.

    Raises:
        TypeError: neither a path nor a file.
        ImageError: unreadable, damaged, or not a kind that can be coded.
        LimitError: more than ``max_pixels`` pixels, or more than Pillow's own limit allows.
        OSError: the file cannot be opened.
    """
    if isinstance(source, (str, os.PathLike)):
        with open(source, "rb") as file:
            return open_picture(file, max_pixels)
    if not hasattr(source, "read"):
        raise TypeError(f"a path, a binary file or a Pillow image is needed, not {type(source).__name__}")
    if not (hasattr(source, "seekable") and source.seekable()):
        source = io.BytesIO(source.read())
    start = source.tell()
    try:
        head = source.read(_HEAD)
        source.seek(start)
        with Image.open(source, formats=formats_of(head)) as image:
            if max_pixels is not None and image.width * image.height > max_pixels:
                raise LimitError(f"image of {image.width}x{image.height} pixels is above the limit of {max_pixels}")
            page = _choose_page(image)
            if max_pixels is not None and image.width * image.height > max_pixels:
                raise LimitError(f"page of {image.width}x{image.height} pixels is above the limit of {max_pixels}")
            fine = _sixteen_bits(image, source, start, page)
            if fine is None and image.mode not in _GREY16 and (bits := sample_bits(image.format, head)) > 8:
                note(f"samples of {bits} bits are reduced to the 8 that Pillow reads of this format")
            return _picture(image, find_cicp(head), fine)
    except (ImageError, LimitError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise LimitError(f"{error} (PIL.Image.MAX_IMAGE_PIXELS)") from None
    except Image.UnidentifiedImageError:
        raise ImageError(f"not an image of a format that is read here ({', '.join(readable())})") from None
    except Exception as error:  # Pillow's plugins raise what Python raises on damaged files
        raise ImageError(f"damaged or unreadable image: {error}") from error


def from_pillow(image: Image.Image) -> Picture:
    """A Pillow image as planes and chunks.

    CMYK is converted to sRGB, through its ICC profile where it has one; YCbCr and HSV to RGB; palettes are resolved.

    Raises:
        ImageError: an animation, several pages, or a mode that has no meaning here (LAB, 32-bit integer or float).
    """
    _choose_page(image)
    return _picture(image, None, None)


def _choose_page(image: Image.Image) -> int:
    """Go to the one picture of a file, and return its number. Raises ImageError if there are several."""
    if not getattr(image, "is_animated", False):
        return 0
    if image.format == "MPO":
        note(f"an MPO file: its other {image.n_frames - 1} pictures (previews, a gain map, a second view) are left out")
        return 0
    pages = (page for page in range(image.n_frames) if image.format != "TIFF" or not _is_reduced(image, page))
    main = list(islice(pages, 2))  # files may claim billions
    if len(main) != 1:
        raise ImageError(f"{image.format or 'the image'} holds {image.n_frames} frames; only still images can be coded")
    image.seek(main[0])
    return main[0]


def _is_reduced(image: Image.Image, page: int) -> bool:
    """Whether a page of a TIFF is a smaller version of another one, or a mask."""
    image.seek(page)
    return bool(image.tag_v2.get(_TIFF_SUBFILE, 0) & 0b101) or image.tag_v2.get(_TIFF_OLD_SUBFILE, 1) == 2


def _raw_mode(image: Image.Image) -> str:
    """How samples lie in a file that is opened and not loaded, in Pillow's words; else an empty string."""
    tiles = getattr(image, "tile", None)
    args = tiles[0].args if tiles else ""
    args = args[0] if isinstance(args, tuple) and args else args
    return args if isinstance(args, str) else ""


def _sixteen_bits(image: Image.Image, source: BinaryIO, start: int, page: int) -> np.ndarray | None:
    """uint16 [H, W, C] of a PNG or TIFF file of 16 bits and several channels, which Pillow has no mode for.

    Pillow can be told that the bytes lie otherwise: what it reads of 16-bit samples as if their bytes were swapped is
    the low bytes, and grey with alpha has the layout of four 8-bit channels.
    """
    raw = _raw_mode(image)
    if image.format == "PPM":
        return _ppm(image, source)
    if image.format not in ("PNG", "TIFF") or len(getattr(image, "tile", ())) == 0:
        return None
    if raw == "LA;16B":
        planes = _load_as(image.format, source, start, page, "RGBA").astype(np.uint16)
        return planes[..., ::2] << 8 | planes[..., 1::2]
    kind, _, order = raw.partition(";")
    if kind not in ("RGB", "RGBA") or order not in ("16B", "16L", "16N"):
        return None
    high, low = ("16B", "16L") if order == "16B" else ("16L", "16B")
    planes = _load_as(image.format, source, start, page, f"{kind};{high}").astype(np.uint16) << 8
    return planes | _load_as(image.format, source, start, page, f"{kind};{low}")


def _ppm(image: Image.Image, source: BinaryIO) -> np.ndarray | None:
    """uint16 [H, W, 3] of a binary PPM of more than 8 bits."""
    (tile,) = image.tile
    if tile.codec_name != "ppm" or image.mode != "RGB" or tile.args[1] <= 255:
        return None
    at = source.tell()
    source.seek(tile.offset)
    data = source.read(6 * image.width * image.height)
    source.seek(at)
    values = np.frombuffer(data, ">u2").reshape(image.height, image.width, 3)
    scaled = np.minimum(values * np.float32(65535 / tile.args[1]) + 0.5, 65535)
    return scaled.astype(np.uint16)


def _load_as(file_format: str, source: BinaryIO, start: int, page: int, raw: str) -> np.ndarray:
    """The pixels of a file that is read as if its samples lay otherwise."""
    at = source.tell()
    source.seek(start)
    try:
        with Image.open(source, formats=[file_format]) as image:
            if page:
                image.seek(page)
            args = [(raw, *t.args[1:]) if isinstance(t.args, tuple) else raw for t in image.tile]
            image.tile = [t._replace(args=a) for t, a in zip(image.tile, args, strict=True)]
            return np.asarray(image)
    finally:
        source.seek(at)


def _picture(image: Image.Image, cicp: bytes | None, fine: np.ndarray | None) -> Picture:
    raw = _raw_mode(image)
    image.load()
    if 0 in image.size:
        raise ImageError("the image has no pixels")
    pixels, alpha = _planes(image, raw, fine)
    chunks = read_metadata(image)
    if image.mode != "CMYK" and (profile := profile_of(image, pixels.ndim == 2, cicp)):
        chunks[ICC] = profile
    if alpha is not None and (alpha != 255).any():  # an opaque alpha channel says nothing
        chunks[ALPHA] = encode_alpha(alpha)
        pixels = fill_invisible(pixels, alpha)
    return Picture(pixels, chunks)


def _planes(image: Image.Image, raw: str, fine: np.ndarray | None) -> tuple[np.ndarray | memoryview, np.ndarray | None]:
    """Pixels, and uint8 [H, W] of alpha if there is any."""
    key = image.info.get("transparency")
    if fine is not None:
        alpha = None if fine.shape[2] == 3 else (fine[..., -1] / 257 + 0.5).astype(np.uint8)
        pixels = fine[..., 0] if fine.shape[2] == 2 else fine[..., :3]
        return pixels, _keyed(pixels, key) if alpha is None else alpha
    mode = image.mode
    if mode in _GREY16:
        values = _grey16(image)
        alpha = _keyed(values, key)
        if raw == "I;12":
            values = (values * np.float32(65535 / 4095) + 0.5).astype(np.uint16)
        if image.format == "TIFF" and image.tag_v2.get(_TIFF_PHOTOMETRIC) == 0:  # white is zero
            values = 65535 - values
        return values, alpha
    if mode in ("1", "L", "RGB") and key is not None:
        pixels = np.asarray(image.convert("L") if mode == "1" else image)
        bits = {"L;2": 2, "L;4": 4}.get(raw)
        if bits and isinstance(key, int) and key < 1 << bits:  # Pillow spreads the samples to 8 bits, and not the key
            key = key * 255 // ((1 << bits) - 1)
        return pixels, _keyed(pixels, key)
    if mode == "RGBA" and raw == "LA;16B":  # grey whose four channels Pillow has filled
        planes = np.asarray(image)
        return planes[..., 0], planes[..., 3]
    if mode == "CMYK":
        image = cmyk_to_rgb(image)
    elif mode in ("YCbCr", "HSV", "RGBX"):
        image = image.convert("RGB")
    elif mode == "1":
        image = image.convert("L")
    elif mode in ("RGBa", "PA"):
        image = image.convert("RGBA")
    elif mode == "La":
        image = image.convert("LA")
    elif mode == "P":
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    if image.mode not in ("L", "LA", "RGB", "RGBA"):
        raise ImageError(f"images of mode {image.mode} cannot be coded; convert to RGB or L")
    if image.mode in ("L", "RGB"):
        shape = (image.height, image.width, 3)[: 2 if image.mode == "L" else 3]
        return memoryview(image.tobytes()).cast("B", shape), None
    planes = np.asarray(image)
    return planes[..., 0] if image.mode == "LA" else planes[..., :3], planes[..., -1]


def _grey16(image: Image.Image) -> np.ndarray:
    values = np.asarray(image)
    if values.size and (values.min() < 0 or values.max() > 0xFFFF):
        raise ImageError("grey values outside 0 to 65535 (a 32-bit image?)")
    return values.astype(np.uint16)


def _keyed(pixels: np.ndarray, key) -> np.ndarray | None:
    """Alpha of a picture with one transparent colour: a number for grey, three for RGB."""
    wanted = 1 if pixels.ndim == 2 else 3
    colours = (key,) if isinstance(key, int) else key
    if not isinstance(colours, tuple) or len(colours) != wanted:
        return None
    same = pixels == np.array(colours, np.int64)
    return np.where(same if wanted == 1 else same.all(-1), 0, 255).astype(np.uint8)
