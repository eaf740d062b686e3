"""Pillow plugin: importing this module teaches Pillow the suffix .ccm.

>>> import ccm_fast.interop.pillow
>>> from PIL import Image
>>> Image.new("RGB", (64, 48)).save("a.ccm", quality=4)  # doctest: +SKIP
>>> Image.open("a.ccm").size  # doctest: +SKIP
(64, 48)

``Image.open`` reads the header only; pixels are decoded when they are first needed. ``save`` takes ``quality`` (1..8,
default 4), ``model`` (as :func:`ccm_fast.encode_file`), ``lanes``, ``effort``, ``threads``, ``target_size``,
``target_bpp``, ``target_psnr``, and ``exif`` and ``icc_profile`` in place of the image's own (``None`` drops them). Bad
files raise :class:`ccm_fast.BitstreamError`; Pillow's limits on pixels (``Image.MAX_IMAGE_PIXELS``) hold.
"""

from __future__ import annotations

import io

from PIL import Image, ImageFile

from ..images import from_pillow, metadata
from ..stream.container import ALPHA, EXIF, ICC, MAGIC, parse_container
from ..stream.limits import max_file_bytes
from ..stream.packet import peek

__all__ = ["CcmImageFile", "register"]

FORMAT = "CCM"
_OPTIONS = ("lanes", "effort", "threads", "engine", "target_size", "target_bpp", "target_psnr")


def _limit() -> int | None:
    """The number of pixels above which Pillow itself raises DecompressionBombError."""
    return None if Image.MAX_IMAGE_PIXELS is None else 2 * Image.MAX_IMAGE_PIXELS


class CcmImageFile(ImageFile.ImageFile):
    """A .ccm file as a Pillow image of mode L, LA, RGB or RGBA.

    Attributes:
        model: the model to decode with, as for :func:`ccm_fast.decode_file`; None: the shipped one that the file names.
    """

    format = FORMAT
    format_description = "ccm_fast integer learned image codec"
    model = None

    def _open(self) -> None:
        limit = max_file_bytes(_limit())
        self._file = self.fp.read() if limit is None else self.fp.read(limit + 1)
        container = parse_container(self._file)
        head = peek(container.packet, None)  # Image.open looks at the size next
        self._size = head.width, head.height
        self._mode = ("L" if head.grey else "RGB") + ("A" if ALPHA in container.chunks else "")
        self.info.update(metadata(container.chunks))
        self.info["quality"] = 1 + head.quality_code / 32

    def load(self):
        """Decode, at the first call."""
        if self._file is not None:
            from ..files import decode_bytes
            from ..images import to_pillow

            image = to_pillow(decode_bytes(self._file, self.model, max_pixels=_limit()).picture)
            self._file = None
            if self.fp and self._exclusive_fp:
                self.fp.close()
            self.fp = io.BytesIO(image.tobytes())
            self.tile = [ImageFile._Tile("raw", (0, 0, *self.size), 0, self.mode)]
        return super().load()

    def load_seek(self, pos: int) -> None:
        """Part of Pillow's protocol: the pixels begin at the start of the buffer."""


def _accept(prefix: bytes) -> bool:
    return prefix.startswith(MAGIC)


def _save(image: Image.Image, fp, filename: str | bytes) -> None:
    from ..files import DEFAULT_MODEL, encode_picture

    given = image.encoderinfo
    picture = from_pillow(image)
    exif, icc = given.get("exif", ...), given.get("icc_profile", ...)
    if exif is not ...:
        data = exif.tobytes() if isinstance(exif, Image.Exif) else exif or b""
        _replace(picture.chunks, EXIF, data.removeprefix(b"Exif\0\0"))
    if icc is not ...:
        _replace(picture.chunks, ICC, icc or b"")
    options = {name: given[name] for name in _OPTIONS if name in given}
    fp.write(encode_picture(picture, given.get("quality", 4.0), given.get("model", DEFAULT_MODEL), **options))


def _replace(chunks: dict[str, bytes], kind: str, data: bytes) -> None:
    chunks.pop(kind, None)
    if data:
        chunks[kind] = data


def register() -> None:
    """Register the format with Pillow; done by the import. Doing it twice does no harm."""
    Image.register_open(FORMAT, CcmImageFile, _accept)
    Image.register_save(FORMAT, _save)
    Image.register_extension(FORMAT, ".ccm")
    Image.register_mime(FORMAT, "image/x-ccm")


register()
