"""Pictures: what Pillow reads and writes, to and from the planes that the codec takes.

Taken: every still image that Pillow opens in a grey, RGB, palette, CMYK or YCbCr mode, with or without transparency.
8-bit RGB and grey are coded as they are; 16-bit grey keeps its 16 bits up to the encoder's transform, but a decoder's
output has 8. (16-bit RGB files reach us as 8 bits: Pillow has no such mode.) Alpha is kept losslessly. EXIF and ICC
profile travel along; other metadata (XMP, resolution, comments) does not.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageCms

from .atomic import atomic_write
from .errors import DamagedError, ImageError, LimitError
from .stream.container import ALPHA, EXIF, ICC

__all__ = [
    "Picture",
    "from_pillow",
    "metadata",
    "open_picture",
    "output_format",
    "save_picture",
    "to_pillow",
]

_EXIF_HEADER = b"Exif\0\0"
# TIFF keeps EXIF among its own tags: these describe the picture, the others its layout in the file.
_TIFF_TAGS = (0x010E, 0x010F, 0x0110, 0x0112, 0x0131, 0x0132, 0x013B, 0x8298)
_IFDS = (0x8769, 0x8825)  # Exif, GPS


@dataclass
class Picture:
    """An image on its way into or out of the codec.

    Attributes:
        pixels: uint8 [H, W, 3] for colour, uint8 or uint16 [H, W] for grey.
        chunks: by chunk type of the container: ICC profile, EXIF block, alpha channel as a PNG.
    """

    pixels: np.ndarray
    chunks: dict[str, bytes] = field(default_factory=dict)

    @property
    def grey(self) -> bool:
        """One channel."""
        return self.pixels.ndim == 2

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.pixels.shape[:2]


def _exif(image: Image.Image) -> bytes:
    data = image.info.get("exif", b"")
    if not data and image.format in ("TIFF", None):
        found = image.getexif()
        kept = Image.Exif()
        kept.update({tag: found[tag] for tag in _TIFF_TAGS if tag in found})
        for ifd in _IFDS:
            if tags := found.get_ifd(ifd):
                kept.get_ifd(ifd).update(tags)
                kept[ifd] = dict(tags)
        data = kept.tobytes() if len(kept) else b""
    return data[len(_EXIF_HEADER) :] if data.startswith(_EXIF_HEADER) else data


def _png(alpha: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(alpha).save(out, "PNG", optimize=True)
    return out.getvalue()


def _grey16(image: Image.Image) -> np.ndarray:
    values = np.asarray(image)
    if values.size and (values.min() < 0 or values.max() > 0xFFFF):
        raise ImageError("grey values outside 0 to 65535 (a 32-bit image?)")
    return values.astype(np.uint16)


def _cmyk_to_rgb(image: Image.Image, profile: bytes) -> Image.Image:
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError):  # a broken profile: as if there were none
            pass
    return image.convert("RGB")


def from_pillow(image: Image.Image) -> Picture:
    """A Pillow image as planes and chunks.

    CMYK is converted to sRGB, through its ICC profile where it has one; YCbCr and HSV to RGB; palettes are resolved.

    Raises:
        ImageError: an animation, several pages, or a mode that has no meaning here (LAB, 32-bit integer or float).
    """
    if getattr(image, "is_animated", False) and image.format != "MPO":  # MPO: a photograph and its previews
        raise ImageError(f"{image.format or 'the image'} holds {image.n_frames} frames; only still images can be coded")
    chunks = {}
    if exif := _exif(image):
        chunks[EXIF] = exif
    profile = image.info.get("icc_profile") or b""
    mode = image.mode
    if mode in ("I", "I;16", "I;16B", "I;16L", "I;16N"):
        if profile:
            chunks[ICC] = profile
        return Picture(_grey16(image), chunks)
    if mode == "CMYK":
        image, profile = _cmyk_to_rgb(image, profile), b""
    elif mode in ("YCbCr", "HSV", "RGBX"):
        image = image.convert("RGB")
    elif mode == "1":
        image = image.convert("L")
    elif mode == "RGBa" or mode == "PA":
        image = image.convert("RGBA")
    elif mode == "La":
        image = image.convert("LA")
    elif mode == "P" or "transparency" in image.info:
        if mode == "L":
            image = image.convert("LA")
        elif mode in ("P", "RGB"):
            image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    if image.mode not in ("L", "LA", "RGB", "RGBA"):
        raise ImageError(f"images of mode {image.mode} cannot be coded; convert to RGB or L")
    if profile:
        chunks[ICC] = profile
    planes = np.asarray(image)
    if image.mode in ("LA", "RGBA"):
        if (planes[..., -1] != 255).any():  # an opaque alpha channel says nothing
            chunks[ALPHA] = _png(np.ascontiguousarray(planes[..., -1]))
        planes = planes[..., 0] if image.mode == "LA" else planes[..., :3]
    if 0 in planes.shape:
        raise ImageError("the image has no pixels")
    return Picture(planes, chunks)


def open_picture(source: str | os.PathLike | BinaryIO, max_pixels: int | None) -> Picture:
    """Read an image file.

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
    try:
        with Image.open(source) as image:
            if max_pixels is not None and image.width * image.height > max_pixels:
                raise LimitError(f"image of {image.width}x{image.height} pixels is above the limit of {max_pixels}")
            image.load()
            return from_pillow(image)
    except (ImageError, LimitError):
        raise
    except Image.DecompressionBombError as error:
        raise LimitError(f"{error} (PIL.Image.MAX_IMAGE_PIXELS)") from None
    except Image.UnidentifiedImageError:
        raise ImageError("not an image that Pillow can read") from None
    except (OSError, ValueError, SyntaxError, EOFError, TypeError, IndexError, KeyError, OverflowError) as error:
        # Pillow's plugins raise all of these on damaged files.
        raise ImageError(f"damaged or unreadable image: {error}") from error


def _alpha(data: bytes, size: tuple[int, int]) -> Image.Image:
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            if image.mode != "L" or image.size != (size[1], size[0]):
                raise DamagedError("the alpha channel is not an 8-bit grey PNG of the image's size")
            image.load()
            return image.copy()
    except DamagedError:
        raise
    except (OSError, ValueError, SyntaxError, EOFError, TypeError, Image.DecompressionBombError) as error:
        raise DamagedError(f"the alpha channel does not decode: {error}") from error


def to_pillow(picture: Picture) -> Image.Image:
    """A Pillow image of mode L, LA, RGB or RGBA; EXIF and ICC profile are in its ``info``, where ``save`` finds them.

    Raises:
        DamagedError: the alpha chunk is no PNG of the image's size.
    """
    image = Image.fromarray(np.ascontiguousarray(picture.pixels))
    if ALPHA in picture.chunks:
        image.putalpha(_alpha(picture.chunks[ALPHA], picture.size))
    image.info.update(metadata(picture.chunks))
    return image


def metadata(chunks: dict[str, bytes]) -> dict[str, bytes]:
    """EXIF and ICC profile as Pillow names them, in ``info`` and as options of ``save``."""
    info = {}
    if EXIF in chunks:
        info["exif"] = _EXIF_HEADER + chunks[EXIF]
    if ICC in chunks:
        info["icc_profile"] = chunks[ICC]
    return info


def output_format(suffix: str) -> str:
    """Pillow's format name of a file suffix. Raises ImageError for unknown ones, and for those it cannot write."""
    known = Image.registered_extensions()
    name = known.get(suffix.lower())
    if name is None or name == "CCM" or name not in Image.SAVE:
        raise ImageError(f"no format to write for the suffix {suffix!r}; .png, .jpg, .webp, .tif and others are known")
    return name


def save_picture(picture: Picture, target: str | os.PathLike | BinaryIO, file_format: str, **options) -> None:
    """Write a picture with Pillow; to a path atomically.

    Raises:
        ImageError: the format cannot hold it (transparency in a JPEG, for instance).
        OSError: the file cannot be written.
    """
    if isinstance(target, (str, os.PathLike)):
        with atomic_write(target) as file:
            save_picture(picture, file, file_format, **options)
        return
    if ALPHA in picture.chunks and file_format in ("JPEG", "MPO", "PPM"):
        raise ImageError(f"{file_format} holds no transparency, and the image has an alpha channel: choose PNG or WebP")
    if not (hasattr(target, "seekable") and target.seekable()):  # some formats go back to their beginning
        whole = io.BytesIO()
        save_picture(picture, whole, file_format, **options)
        target.write(whole.getbuffer())
        return
    image = to_pillow(picture)
    if file_format.upper() not in Image.SAVE:
        Image.init()  # loads the rarer plugins
    if file_format.upper() not in Image.SAVE:
        raise ImageError(f"Pillow writes no format {file_format!r}; PNG, JPEG, WEBP, TIFF and others are known")
    try:
        image.save(target, file_format, **metadata(picture.chunks), **options)
    except (ValueError, KeyError) as error:
        raise ImageError(f"cannot be written as {file_format}: {error}") from error
    except OSError as error:
        if error.errno is None:  # Pillow's own complaint, not the file system's
            raise ImageError(f"cannot be written as {file_format}: {error}") from error
        raise
