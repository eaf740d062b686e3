"""Pillow plugin: importing this module teaches Pillow the suffix .ccm.

>>> import ccm_fast.interop.pillow
>>> from PIL import Image
>>> Image.new("RGB", (64, 48)).save("a.ccm", quality=4)  # doctest: +SKIP
>>> Image.open("a.ccm").size  # doctest: +SKIP
(64, 48)

``Image.open`` reads the header only; pixels are decoded when they are first needed; ``draft``, which ``thumbnail``
calls, has them decoded to 1/2, 1/4 or 1/8 of the sides. ``save`` takes ``quality`` (1..8,
default 4; numbers above 8 are on JPEG's scale up to 100, see :func:`quality_of`), ``model`` (as
:func:`ccm_fast.encode_file`), ``lanes``, ``effort``, ``tune``, ``threads``, ``target_size``, ``target_bpp``,
``target_psnr``, ``progress``, and ``exif``, ``icc_profile`` and ``xmp`` in place of the image's own (``None`` drops
them).

Files whose beginning is damaged are none to ``Image.open`` (``PIL.UnidentifiedImageError``), as with Pillow's own
formats; damage further on raises :class:`ccm_fast.BitstreamError` when pixels are decoded, and by ``verify``, which
checks the checksums without decoding. Pillow's limits on pixels (``Image.MAX_IMAGE_PIXELS``) hold.
"""

from __future__ import annotations

import io
import math
import re
from typing import IO, Any

from PIL import Image, ImageFile

from ccm_fast.anchors import NOT_LOSSLESS, QUALITIES

from ..errors import BitstreamError, DamagedError
from ..images import from_pillow, metadata, replace_metadata
from ..lazy import np
from ..native import REDUCTIONS, Progress
from ..stream.container import ALPHA, MAGIC, XMP, parse_container
from ..stream.limits import max_file_bytes
from ..stream.packet import guess_groups, peek

__all__ = ["CcmImageFile", "quality_of", "register"]

FORMAT = "CCM"
# JPEG qualities of the same MS-SSIM as the qualities 1 to 8, as the commands' help says them.
_JPEG_QUALITIES = [int(number) for number in re.findall(r"JPEG (\d+)", QUALITIES)]
_OPTIONS = ("lanes", "effort", "tune", "threads", "engine", "target_size", "target_bpp", "target_psnr", "progress")


def _limit() -> int | None:
    """The number of pixels above which Pillow itself raises DecompressionBombError."""
    return None if Image.MAX_IMAGE_PIXELS is None else 2 * Image.MAX_IMAGE_PIXELS


class CcmImageFile(ImageFile.ImageFile):
    """A .ccm file as a Pillow image of mode L, LA, RGB or RGBA.

    Attributes:
        model: the model to decode with, as for :func:`ccm_fast.decode_file`; None: the shipped one that the file names.
        groups: for a preview, likewise; None: "available" where Pillow's LOAD_TRUNCATED_IMAGES is set, else all.
        progress: called while pixels are decoded, likewise.
    """

    format = FORMAT
    format_description = "ccm_fast integer learned image codec"
    model = None
    groups: int | str | None = None
    progress: Progress | None = None
    _reduce = 1
    _cropped = False
    _file: bytes | None = None  # what is not decoded yet; unpickled images have nothing left to decode

    def _open(self) -> None:
        limit = max_file_bytes(_limit())
        assert self.fp is not None
        data = self.fp.read() if limit is None else self.fp.read(limit + 1)
        try:
            container = parse_container(data)
            head = peek(container.packet, None)  # Image.open looks at the size next
        except BitstreamError as error:
            raise SyntaxError(str(error)) from error  # by which Pillow's plugins say that the file is not theirs
        self._file = data
        self._size = head.width, head.height
        self._mode = ("L" if head.grey else "RGB") + ("A" if ALPHA in container.chunks else "")
        self.info.update(metadata(container.chunks))
        self.info["quality"] = 1 + head.quality_code / 32

    def draft(self, mode: str | None, size: tuple[int, int] | None) -> tuple[str, tuple[int, int, float, float]] | None:
        """Decode to 1/2, 1/4 or 1/8 of the sides, the smallest that are no smaller than ``size``, in less time.

        As with Pillow's JPEG plugin the image's size changes at once, ``Image.thumbnail`` calls it by itself, and a
        second call changes nothing. Modules of torch as ``model`` decode whole pictures only.

        Args:
            mode: not looked at: the mode stays.
            size: the least size of interest, pixels.

        Returns:
            The mode, and what the new pixels show of the picture, in their unit; None where nothing changes.
        """
        from ..files import is_native

        if size is None or self._file is None or self._reduce != 1 or not is_native(self.model, None):
            return None
        width, height = self.size
        most = min(width // max(size[0], 1), height // max(size[1], 1))
        self._reduce = max(factor for factor in REDUCTIONS if factor <= max(most, 1))
        if self._reduce == 1:
            return None
        self._size = -(-width // self._reduce), -(-height // self._reduce)
        return self.mode, (0, 0, width / self._reduce, height / self._reduce)

    def thumbnail(
        self,
        size: tuple[float, float],
        resample: Image.Resampling = Image.Resampling.BICUBIC,
        reducing_gap: float | None = 2.0,
    ) -> None:
        """As Pillow's, which asks :meth:`draft` for the sides that are given: here for those that come of them."""
        share = min(math.floor(size[0]) / self.width, math.floor(size[1]) / self.height)
        if 0 < share < 1:
            size = math.ceil(share * self.width), math.ceil(share * self.height)
        super().thumbnail(size, resample, reducing_gap)

    def crop(self, box: tuple[float, float, float, float] | None = None) -> Image.Image:
        """As Pillow's. The first part that is taken of a file is decoded alone; another one needs the whole picture."""
        from ..files import is_native

        if box is not None and self._file is not None and not self._cropped and is_native(self.model, None):
            left, top, right, bottom = (round(edge) for edge in box)
            if 0 <= left < right <= self.width and 0 <= top < bottom <= self.height:
                self._cropped = True
                image = self._decoded((left, top, right - left, bottom - top))
                image.info = self.info.copy()
                return image
        return super().crop(box)

    def _decoded(self, region: tuple[int, int, int, int] | None = None) -> Image.Image:
        from ..files import decode_bytes
        from ..images import to_pillow

        assert self._file is not None
        groups = "available" if self.groups is None and ImageFile.LOAD_TRUNCATED_IMAGES else self.groups
        options: dict[str, Any] = {"max_pixels": _limit(), "groups": groups, "progress": self.progress}
        options |= {"reduce": self._reduce, "region": region}
        return to_pillow(decode_bytes(self._file, self.model, latents=False, **options).picture)

    def load(self) -> Any:
        """Decode, at the first call."""
        if self._file is not None:
            image = self._decoded()
            self._file = None
            if self.fp and self._exclusive_fp:
                self.fp.close()
            self.fp = io.BytesIO(image.tobytes())
            self.tile = [ImageFile._Tile("raw", (0, 0, *self.size), 0, self.mode)]
        return super().load()

    def verify(self) -> None:
        """Check the checksums of the file, without decoding; as with other formats, open it again to load it.

        Raises:
            BitstreamError: the file is damaged or cut off.
        """
        if self._file is not None and guess_groups(parse_container(self._file).packet, None) is None:
            raise DamagedError("no number of groups makes the checksum right: the data is damaged or cut off")
        super().verify()

    def load_seek(self, pos: int) -> None:
        """Part of Pillow's protocol: the pixels begin at the start of the buffer."""


def _accept(prefix: bytes) -> bool:
    return prefix.startswith(MAGIC)


def _save(image: Image.Image, fp: IO[bytes], filename: str | bytes) -> None:
    from ..files import encode_picture
    from ..registry import DEFAULT_MODEL

    given = image.encoderinfo
    if given.get("lossless"):
        raise ValueError(NOT_LOSSLESS)
    exif = given.get("exif", ...)
    if isinstance(exif, Image.Exif):
        exif = exif.tobytes()
    replaced = {"exif": exif, "icc": given.get("icc_profile", ...)}
    picture = replace_metadata(from_pillow(image), **{k: v or b"" for k, v in replaced.items() if v is not ...})
    if (xmp := given.get("xmp", ...)) is not ...:
        picture.chunks.pop(XMP, None)
        picture.chunks |= {XMP: xmp.encode() if isinstance(xmp, str) else bytes(xmp)} if xmp else {}
    options = {name: given[name] for name in _OPTIONS if name in given}
    model = given.get("model", DEFAULT_MODEL)
    fp.write(encode_picture(picture, quality_of(given.get("quality", 4.0)), model, **options))


def quality_of(value: float) -> float:
    """The quality, 1 to 8, that is meant by a number on Pillow's scale; numbers up to 8 are our own.

    A number above 8 and up to 100 is the quality of a JPEG whose MS-SSIM is about the same. Other numbers are handed
    back, for others to refuse.
    """
    if not isinstance(value, (int, float)) or not 8 < value <= 100:
        return value
    return float(np.interp(value, _JPEG_QUALITIES, range(1, 9)))


def register() -> None:
    """Register the format with Pillow; done by the import. Doing it twice does no harm."""
    Image.register_open(FORMAT, CcmImageFile, _accept)
    Image.register_save(FORMAT, _save)
    Image.register_extension(FORMAT, ".ccm")
    Image.register_mime(FORMAT, "image/x-ccm")


register()
