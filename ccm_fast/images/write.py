"""Writing pictures."""

from __future__ import annotations

import io
import os
from typing import BinaryIO

from PIL import Image, PngImagePlugin

from ..atomic import atomic_write
from ..errors import ImageError
from ..lazy import np
from ..stream.container import ALPHA, EXIF, ICC, IPTC, XMP
from . import exif as exif_blocks
from .alpha import decode_alpha
from .colour import to_srgb
from .deep import is_deep, save_deep
from .exif import HEADER, PICTURE_TAGS
from .formats import registered
from .icc import colour_space
from .metadata import app13, checked_exif, iptc_text, metadata, name_lost, orientation
from .picture import Picture, note
from .turn import upright

__all__ = ["save_picture", "to_pillow"]

_NAMES = {EXIF: "EXIF", ICC: "ICC profile", XMP: "XMP", IPTC: "IPTC"}
# Which metadata Pillow writes; into other formats none.
_HOLDS = {name: {EXIF, ICC, XMP, IPTC} for name in ("JPEG", "MPO", "PNG", "TIFF")}
_HOLDS |= {name: {EXIF, ICC, XMP} for name in ("AVIF", "WEBP")}
_OPAQUE = ("JPEG", "MPO", "PPM")  # hold no transparency
_COLOUR_ONLY = ("WEBP",)  # grey becomes RGB
# Pillow's own (JPEG 75 with 4:2:0, WebP 80, AVIF 75) lose more than the codec has lost.
_QUALITY = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"quality": 95}, "AVIF": {"quality": 90}}
_QUALITY |= {"MPO": _QUALITY["JPEG"]}
# Of decoded photographs the lowest levels make smaller files than 6, Pillow's own, in a third of the time.
_QUALITY |= {"PNG": {"compress_level": 2}}
_JPEG_SEGMENT = 65533  # bytes


def to_pillow(picture: Picture) -> Image.Image:
    """A Pillow image of mode L, LA, RGB or RGBA, or I;16; metadata is in its ``info``, where ``save`` finds it.

    Raises:
        DamagedError: the alpha chunk is no PNG of the image's size.
        ImageError: colour, or grey with alpha, of 16 bits: Pillow has no such mode.
    """
    if picture.bits != 8 and (not picture.grey or ALPHA in picture.chunks):
        raise ImageError("Pillow has no image of 16 bits with several channels: write a PNG or a PPM file")
    samples = picture.samples
    if isinstance(samples, memoryview) and picture.bits == 8:
        mode, (height, width) = "L" if picture.grey else "RGB", picture.size
        image = Image.frombuffer(mode, (width, height), samples, "raw", mode, 0, 1)
    else:
        image = Image.fromarray(np.ascontiguousarray(picture.pixels))
    if ALPHA in picture.chunks:
        image.putalpha(Image.fromarray(decode_alpha(picture.chunks[ALPHA], picture.size)))
    image.info.update(metadata(picture.chunks))
    return image


def save_picture(picture: Picture, target: str | os.PathLike | BinaryIO, file_format: str, **options) -> None:
    """Write a picture with Pillow; to a path atomically.

    Metadata that the format cannot hold, or that cannot be parsed, is left out with a PictureWarning; a picture whose
    orientation cannot be written is turned, one whose ICC profile cannot be written is converted to sRGB.

    Args:
        picture: what to write.
        target: path or binary file.
        file_format: Pillow's name of the format.
        options: passed on to Pillow's ``save``; without ``quality`` JPEG and WebP are written at 95 (JPEG with 4:4:4)
            and AVIF at 90.

    Raises:
        ImageError: the format cannot hold it (transparency in a JPEG, for instance).
        OSError: the file cannot be written.
    """
    if isinstance(target, (str, os.PathLike)):
        with atomic_write(target) as file:
            save_picture(picture, file, file_format, **options)
        return
    if not (hasattr(target, "seekable") and target.seekable()):  # some formats go back to their beginning
        whole = io.BytesIO()
        save_picture(picture, whole, file_format, **options)
        target.write(whole.getbuffer())
        return
    name = registered(file_format)
    if ALPHA in picture.chunks and name in _OPAQUE:
        raise ImageError(f"{name} holds no transparency, and the image has an alpha channel: choose PNG or WebP")
    picture = _fitted(picture, name)
    if is_deep(picture, name):
        if ICC in picture.chunks and name not in _HOLDS:
            note(f"{name} holds no ICC profile, and 16 bits are not converted: left out")
        save_deep(picture, target, name, {**_options(picture, name, options), **options})
        return
    image = _with_colour(to_pillow(picture), picture, name)
    ours = _options(picture, name, options)
    if "quality" not in options:
        ours |= _QUALITY.get(name, {})
    if "icc_profile" not in image.info:
        ours.pop("icc_profile", None)
    try:
        if name == "PNG":  # told a format instead of a file's name, Pillow imports others, too
            image.save(_Named(target), **{**ours, **options})
        else:
            image.save(target, name, **{**ours, **options})
    except OSError as error:
        if error.errno is None:  # Pillow's own complaint, not the file system's
            raise ImageError(f"cannot be written as {name}: {error}") from error
        raise
    except MemoryError:
        raise
    except Exception as error:  # Pillow's plugins raise what Python raises on values that they do not expect
        raise ImageError(f"cannot be written as {name}: {error}") from error


class _Named:
    """A binary file under the name of a PNG."""

    name = "picture.png"

    def __init__(self, file: BinaryIO):
        self._file = file

    def __getattr__(self, attribute: str) -> object:
        return getattr(self._file, attribute)


def _fitted(picture: Picture, name: str) -> Picture:
    """The picture with the metadata that a format holds, upright if the orientation is not among it."""
    holds = _HOLDS.get(name, set())
    chunks = dict(picture.chunks)
    chunks[EXIF] = checked_exif(chunks.get(EXIF, b""))
    if EXIF not in holds and orientation(chunks) != 1:
        picture = upright(Picture(picture.samples, chunks))
        chunks = dict(picture.chunks)
        if set(exif_blocks.parse(chunks[EXIF]).exif) == {exif_blocks.ORIENTATION}:
            del chunks[EXIF]  # it has done its work
    if XMP in chunks and name in ("JPEG", "MPO") and len(chunks[XMP]) > _JPEG_SEGMENT - 29:
        note("XMP of more than 64 kB does not fit a JPEG and is left out")
        del chunks[XMP]
    lost = [kind for kind in (EXIF, XMP, IPTC) if chunks.get(kind) and kind not in holds]
    if lost:
        note(f"{name} holds no {' and no '.join(_NAMES[kind] for kind in lost)}: left out")
    kept = {kind: data for kind, data in chunks.items() if data and kind not in lost}
    return Picture(picture.samples, kept)


def _with_colour(image: Image.Image, picture: Picture, name: str) -> Image.Image:
    """The image in sRGB, if the format cannot hold its profile."""
    profile = picture.chunks.get(ICC)
    if not profile:
        return image
    mismatch = colour_space(profile) == "GRAY" and (not picture.grey or name in _COLOUR_ONLY)
    if ICC in _HOLDS.get(name, ()) and not mismatch:
        return image
    if image.mode != "I;16" and (converted := to_srgb(image, profile)) is not None:
        return converted
    note(f"{name} cannot hold the ICC profile, and it does not work: left out")
    image.info.pop("icc_profile", None)
    return image


def _options(picture: Picture, name: str, given: dict) -> dict:
    """Metadata as options of Pillow's ``save``, beside those that are given."""
    chunks = picture.chunks
    options = {}
    if ICC in chunks:
        options["icc_profile"] = chunks[ICC]
    if XMP in chunks:
        options["xmp"] = chunks[XMP]
    block = chunks.get(EXIF, b"")
    if name == "TIFF":
        tags = exif_blocks.parse(block, PICTURE_TAGS)  # the others would describe the layout of this very file
        name_lost(tags)
        if given.get("compression") not in (None, "raw") and tags.drop_directories():
            note("EXIF's directories (exposure, position) do not fit a compressed TIFF of Pillow's and are left out")
        tags.exif.update({tag: chunks[kind] for kind, tag in ((XMP, 700), (IPTC, 33723)) if kind in chunks})
        options.pop("xmp", None)
        return options | ({"exif": tags.exif} if len(tags.exif) else {})
    if name in ("JPEG", "MPO"):
        block = _short_exif(block)
        if IPTC in chunks:
            options["extra"] = app13(chunks[IPTC])
            if not options["extra"]:
                note("IPTC of more than 64 kB does not fit a JPEG and is left out")
    elif name == "AVIF":
        block = _sound_exif(block)
    elif name == "PNG" and {XMP, IPTC} & chunks.keys():
        options["pnginfo"] = info = PngImagePlugin.PngInfo()
        if XMP in chunks:
            info.add_itxt("XML:com.adobe.xmp", options.pop("xmp"))
        if IPTC in chunks:
            iptc_text(info, chunks[IPTC])
    return options | ({"exif": HEADER + block} if block else {})


def _short_exif(block: bytes) -> bytes:
    """A block that fits JPEG's segment: the whole one, or one without thumbnail and its largest tags."""
    longest = _JPEG_SEGMENT - len(HEADER)
    if len(block) <= longest:
        return block
    short, lost = exif_blocks.shortened(block, longest)
    names = ", ".join(f"0x{tag:04x}" for tag in lost[:8])
    note("EXIF of more than 64 kB does not fit a JPEG: left out are its thumbnail and the tags " + (names or "(none)"))
    return short


def _sound_exif(block: bytes) -> bytes:
    """A block that Pillow takes apart and puts together, as its AVIF writer does: itself, or the tags that can be."""
    tags = exif_blocks.parse(block)
    name_lost(tags)
    if not tags.lost and exif_blocks.is_rewritable(block):
        return block
    return tags.block()
