"""EXIF, XMP and IPTC: from Pillow's images into chunks, and back into what Pillow's ``save`` takes."""

from __future__ import annotations

import re
import struct

from PIL import Image, PngImagePlugin

from ..errors import ImageError
from ..stream.container import EXIF, ICC, IPTC, XMP
from . import exif as exif_blocks
from .exif import HEADER, ORIENTATION, PICTURE_TAGS, Tags, is_exif, orientation_of, strip_header
from .picture import Picture, note

__all__ = [
    "app13",
    "checked_exif",
    "iptc_text",
    "metadata",
    "name_lost",
    "orientation",
    "read_metadata",
    "replace_metadata",
    "set_orientation",
]

_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:\s*=\s*["\']|>)([1-8])')
# Texts of PNG files that are carried otherwise, or tell of programs and files alone.
_KNOWN_TEXT = re.compile(r"XML:com\.adobe\.xmp|Raw profile type .*|Software|(date|exif|png|tiff|icc|xmp|photoshop):.*")
# Comments that programs leave in every file that they write.
_PROGRAMS = (b"CREATOR: gd-jpeg", b"Created ", b"File written by Adobe", b"LEAD Tech", b"Lavc", b"Optimized by ")
_IPTC_RESOURCE = 0x0404  # of Photoshop's image resources
_IPTC_TAG, _PHOTOSHOP_TAG = 33723, 34377


def read_metadata(image: Image.Image) -> dict[str, bytes]:
    """Chunks of an image's EXIF, XMP and IPTC; a PictureWarning names what cannot be carried."""
    chunks = {EXIF: _exif(image), XMP: _xmp(image), IPTC: _iptc(image)}
    if orientation_of(chunks[EXIF]) is None and (found := _XMP_ORIENTATION.search(chunks[XMP])):
        set_orientation(chunks, int(found[1]))
    _name_texts(image)
    return {kind: data for kind, data in chunks.items() if data}


def _exif(image: Image.Image) -> bytes:
    data = image.info.get("exif") or _raw_profile(image, "exif")
    if data:
        return checked_exif(strip_header(data))
    if image.format not in ("TIFF", None):
        return b""
    tags = Tags()
    tags.add(image.getexif(), PICTURE_TAGS)
    name_lost(tags)
    return tags.block()


def _name_texts(image: Image.Image) -> None:
    """A PictureWarning about comments and PNG's texts, which no chunk holds."""
    lost = []
    comment = image.info.get("comment") or b""
    comment = comment.encode() if isinstance(comment, str) else comment
    if isinstance(comment, bytes) and (comment := comment.strip(b"\0 \r\n")) and not comment.startswith(_PROGRAMS):
        lost.append(f"the comment {comment[:40].decode('latin-1')!r}{'...' if len(comment) > 40 else ''}")
    if isinstance(image, PngImagePlugin.PngImageFile):
        names = [name for name, text in image.text.items() if text and not _KNOWN_TEXT.fullmatch(name)]
        if names:
            lost.append(f"PNG text ({', '.join(names[:8])}{', ...' if len(names) > 8 else ''})")
    if lost:
        note(f"{' and '.join(lost)} cannot be kept and is left out")


def checked_exif(block: bytes) -> bytes:
    """The block, or with a PictureWarning nothing if it is none."""
    if not block or is_exif(block):
        return block
    note("EXIF that cannot be parsed is left out")
    return b""


def name_lost(tags: Tags) -> None:
    """A PictureWarning about tags that cannot be carried, if there are any."""
    if tags.lost:
        note(f"EXIF tags that cannot be read are left out: {', '.join(f'0x{tag:04x}' for tag in tags.lost[:8])}")


def _raw_profile(image: Image.Image, kind: str) -> bytes:
    """A profile as ImageMagick writes it into PNG text: name, length, hexadecimal digits."""
    text = image.info.get(f"Raw profile type {kind}") or image.info.get(f"Raw profile type {kind.upper()}")
    if not isinstance(text, str):
        return b""
    try:
        _, length, digits = text.strip().split("\n", 2) if text.strip().count("\n") > 1 else ("", "0", "")
        return bytes.fromhex("".join(digits.split()))[: int(length)]
    except ValueError:
        note(f"a profile that cannot be parsed is left out: Raw profile type {kind}")
        return b""


def _xmp(image: Image.Image) -> bytes:
    data = image.info.get("xmp") or b""
    if b"HasExtendedXMP" in (data := (data.encode() if isinstance(data, str) else bytes(data)).rstrip(b"\0")):
        note("the extension of XMP beyond 64 kB is left out")
    return data


def _iptc(image: Image.Image) -> bytes:
    try:
        if found := _raw_profile(image, "iptc"):
            return _resource(found) if found.startswith(b"8BIM") else found
        if isinstance(found := image.info.get("photoshop"), dict):
            return bytes(found.get(_IPTC_RESOURCE, b""))
        tags = getattr(image, "tag_v2", {})
        if _IPTC_TAG in tags:
            value = tags[_IPTC_TAG]
            if isinstance(value, tuple):  # Photoshop calls the bytes 32-bit numbers
                order = ">" if tags.prefix == b"MM" else "<"
                return struct.pack(f"{order}{len(value)}I", *value).rstrip(b"\0")
            return bytes(value)
        return _resource(tags[_PHOTOSHOP_TAG]) if _PHOTOSHOP_TAG in tags else b""
    except Exception:  # whatever odd values make Pillow raise
        note("IPTC that cannot be parsed is left out")
        return b""


def _resource(data: bytes) -> bytes:
    """IPTC among Photoshop's image resources."""
    at = 0
    while data[at : at + 4] == b"8BIM":
        (kind,) = struct.unpack_from(">H", data, at + 4)
        at += 6 + (data[at + 6] + 2 & ~1)  # a name, padded to an even length
        (length,) = struct.unpack_from(">I", data, at)
        if kind == _IPTC_RESOURCE:
            return data[at + 4 : at + 4 + length]
        at += 4 + (length + 1 & ~1)
    return b""


def app13(iptc: bytes) -> bytes:
    """JPEG's segment for IPTC, or nothing if it is too long for one."""
    body = b"Photoshop 3.0\0" + _resources(iptc)
    return b"\xff\xed" + struct.pack(">H", len(body) + 2) + body if len(body) + 2 <= 0xFFFF else b""


def _resources(iptc: bytes) -> bytes:
    head = b"8BIM" + struct.pack(">H", _IPTC_RESOURCE) + b"\0\0" + struct.pack(">I", len(iptc))
    return head + iptc + b"\0" * (len(iptc) & 1)


def iptc_text(info: PngImagePlugin.PngInfo, iptc: bytes) -> None:
    """Add IPTC to PNG's text, as ImageMagick does."""
    digits = _resources(iptc).hex()
    lines = "\n".join(digits[at : at + 72] for at in range(0, len(digits), 72))
    info.add_text("Raw profile type iptc", f"\niptc\n{len(digits) // 2:8d}\n{lines}\n", zip=True)


def orientation(chunks: dict[str, bytes]) -> int:
    """How the picture is to be turned to stand upright: EXIF's number, 1 to 8."""
    return orientation_of(chunks.get(EXIF, b"")) or 1


def set_orientation(chunks: dict[str, bytes], value: int) -> None:
    """Write the orientation into the EXIF chunk, which is built anew."""
    tags = exif_blocks.parse(chunks.get(EXIF, b""))
    tags.exif[ORIENTATION] = value
    chunks[EXIF] = tags.block()


def metadata(chunks: dict[str, bytes]) -> dict[str, bytes]:
    """EXIF, ICC profile and XMP as Pillow names them, in ``info`` and as options of ``save``."""
    info = {}
    if block := checked_exif(chunks.get(EXIF, b"")):
        info["exif"] = HEADER + block
    if ICC in chunks:
        info["icc_profile"] = chunks[ICC]
    if XMP in chunks:
        info["xmp"] = chunks[XMP]
    return info


def replace_metadata(picture: Picture, exif: bytes | None = None, icc: bytes | None = None) -> Picture:
    """The picture with another EXIF block or ICC profile; None leaves what there is, empty bytes take it away.

    Raises:
        ImageError: these bytes are no EXIF block or no ICC profile.
    """
    chunks = dict(picture.chunks)
    for kind, data in ((EXIF, exif), (ICC, icc)):
        if data is not None:
            chunks.pop(kind, None)
            if data:
                chunks[kind] = data
    if exif:
        chunks[EXIF] = strip_header(exif)
        if not is_exif(chunks[EXIF]):
            raise ImageError("not an EXIF block: it begins with Exif, II* or MM*")
    if icc and icc[36:40] != b"acsp":
        raise ImageError("not an ICC profile")
    return Picture(picture.samples, chunks)
