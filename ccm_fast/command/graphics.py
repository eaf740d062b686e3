"""Pictures that are not for this codec: text and graphics that a lossless file would hold in fewer bytes.

What was measured, at quality 8: lossless WebP is smaller than .ccm for pages of text (22 to 82 kB against 101 to 138),
a chart (9.6 against 15.1), and 4 to 12 times larger for nine photographs of Kodak. Nothing is guessed:
where a picture may be of that kind, it is written as WebP, and the bytes are compared.
"""

from __future__ import annotations

import io
import os
from contextlib import nullcontext
from typing import BinaryIO

from ccm_fast.lazy import np

__all__ = ["smaller_losslessly"]

# Formats whose pixels are exact; JPEG's text has noise around it, which nothing lossless holds well.
_COMPRESSED = ("PNG", "GIF", "WEBP")
_PLAIN = ("BMP", "PPM", "TIFF", "TGA")
# Photographs take 9 bits a pixel and more as PNG (Kodak: 10 to 16), text and graphics up to 3.
_BITS = 6.0
# The share of pixels that equal their left neighbours: photographs up to 0.28, text and graphics 0.55 and more.
_SAME = 0.4
_MAX_SIDE = 16383  # of WebP


def smaller_losslessly(source: str | os.PathLike | BinaryIO, coded: int) -> str | None:
    """One line if the picture is text or graphics that takes fewer bytes losslessly than its .ccm file does.

    Args:
        source: the picture, as it was encoded: a path, or a file that can go back.
        coded: bytes of the .ccm file.
    """
    from PIL import Image

    from ccm_fast.images.formats import formats_of

    is_path = isinstance(source, (str, os.PathLike))
    with open(source, "rb") if is_path else nullcontext(source) as file:
        bytes_before = file.seek(0, os.SEEK_END)
        file.seek(0)
        formats = formats_of(file.read(16))
        file.seek(0)
    with Image.open(source, formats=formats) as image:
        kind = image.format
        if kind not in _COMPRESSED + _PLAIN or max(image.size) > _MAX_SIDE:
            return None
        if kind in _COMPRESSED and 8 * bytes_before > _BITS * image.width * image.height:
            return None
        if image.mode not in ("RGB", "RGBA"):
            image = image.convert("RGBA" if "A" in image.mode or "transparency" in image.info else "RGB")
        pixels = np.asarray(image)[::4]
        if (pixels[:, 1:] == pixels[:, :-1]).all(-1).mean() < _SAME:
            return None
        out = io.BytesIO()
        image.save(out, "WEBP", lossless=True, method=0, quality=0)
    if kind in _COMPRESSED and bytes_before <= min(out.tell(), coded):
        return f"text or graphics: as {kind} it has {bytes_before} bytes, losslessly, as .ccm {coded}"
    if out.tell() < coded:
        return f"text or graphics: a lossless WebP takes {out.tell()} bytes or less, this .ccm {coded}"
    return None
