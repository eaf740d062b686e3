"""Formats that pictures are read from and written to."""

from __future__ import annotations

import functools
import importlib
from contextlib import suppress

from PIL import Image

from ..errors import ImageError

__all__ = ["READ_FORMATS", "formats_of", "output_format", "readable", "registered", "sample_bits"]

# Pillow's names; MPO files are found by JPEG's. They are named one by one because other plugins of Pillow run
# interpreters (EPS: Ghostscript) or decode embedded pictures while a file is only opened (ICO, ICNS), before its size
# can be looked at.
_PHOTOGRAPHS = ("AVIF", "JPEG", "JPEG2000", "PNG", "TIFF", "WEBP")
READ_FORMATS = (*_PHOTOGRAPHS, "BMP", "DIB", "GIF", "PCX", "PPM", "QOI", "SGI", "TGA")


@functools.cache
def readable() -> tuple[str, ...]:
    """Those of ``READ_FORMATS`` that this Pillow has."""
    Image.init()
    return tuple(name for name in READ_FORMATS if name in Image.OPEN)


# What files of the most common formats begin with, as Pillow's plugins ask.
_BEGINNINGS = {b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG"}


def formats_of(head: bytes) -> tuple[str, ...]:
    """The formats to open a file as, by its first bytes.

    One of the most common ones, or all of :func:`readable`: importing their plugins takes as long as importing NumPy.
    """
    for beginning, name in _BEGINNINGS.items():
        if head.startswith(beginning):
            return (name,)
    return readable()


# Plugins that teach Pillow a format when they are imported, and the packages that they come with.
_PLUGINS = {".jxl": ("pillow_jxl", "pillow-jxl-plugin")}
_PLUGINS |= dict.fromkeys((".heic", ".heif"), ("pillow_heif.HeifImagePlugin", "pillow-heif"))


def output_format(suffix: str) -> str:
    """Pillow's format name of a file suffix, where its plugins are installed of theirs, too.

    Raises:
        ImageError: it is not known, or cannot be written.
    """
    if suffix.lower() == ".png":
        return "PNG"
    Image.preinit()  # the common ones; all plugins take ten times as long
    plugin, package = _PLUGINS.get(suffix.lower(), ("", ""))
    if plugin:
        with suppress(ImportError):
            importlib.import_module(plugin)
    name = Image.EXTENSION.get(suffix.lower()) or Image.registered_extensions().get(suffix.lower())
    if name is None or name == "CCM" or name not in Image.SAVE:
        known = f"it needs the package {package}" if plugin else ".png, .jpg, .webp, .tif and others are known"
        raise ImageError(f"no format to write for the suffix {suffix!r}; {known}")
    return name


def registered(file_format: str) -> str:
    """The name under which Pillow writes a format. Raises ImageError if it writes none of that name."""
    name = file_format.upper()
    if name not in Image.SAVE:
        Image.init()  # loads the rarer plugins
    if name not in Image.SAVE:
        raise ImageError(f"Pillow writes no format {file_format!r}; PNG, JPEG, WEBP, TIFF and others are known")
    return name


def sample_bits(file_format: str, head: bytes) -> int:
    """Bits of a sample of an AVIF, JPEG 2000 or SGI file, by its first bytes; 8 where they do not say it."""
    if file_format == "AVIF" and (at := head.find(b"pixi")) >= 0 and at + 9 < len(head):
        return head[at + 9]  # version, flags and number of channels stand before
    if file_format == "JPEG2000" and (at := head.find(b"\xff\x4f\xff\x51")) >= 0 and at + 42 < len(head):
        return (head[at + 42] & 0x7F) + 1  # of the codestream's SIZ marker
    if file_format == "SGI" and len(head) > 3:
        return 8 * head[3]
    return 8
