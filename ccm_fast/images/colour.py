"""Colour: the ICC profile of a picture, from whatever its file says of it; and conversion to sRGB."""

from __future__ import annotations

import io

from PIL import Image

from ..lazy import np
from .icc import REC709, Curve, colour_space, gamma_curve, make_profile, table_curve
from .picture import note

__all__ = ["cmyk_to_rgb", "find_cicp", "profile_of", "to_srgb"]

_SRGB = gamma_curve(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
_REC709_CURVE = gamma_curve(1 / 0.45, 1 / 1.099, 0.099 / 1.099, 1 / 4.5, 0.081)
_REFERENCE_WHITE = 203.0  # cd/m^2 of graphics white in HDR (ITU-R BT.2408): what an SDR viewer shows as white
# Code points of ITU-T H.273: chromaticities of white, red, green and blue.
_PRIMARIES = {
    1: REC709,
    4: (0.310, 0.316, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08),
    5: (0.3127, 0.329, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),
    6: (0.3127, 0.329, 0.63, 0.34, 0.31, 0.595, 0.155, 0.07),
    7: (0.3127, 0.329, 0.63, 0.34, 0.31, 0.595, 0.155, 0.07),
    9: (0.3127, 0.329, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    11: (0.314, 0.351, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),
    12: (0.3127, 0.329, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),
}
_PQ, _HLG = 16, 18
_CURVES = {1: _REC709_CURVE, 4: gamma_curve(2.2), 5: gamma_curve(2.8), 6: _REC709_CURVE, 8: gamma_curve(1.0)}
_CURVES |= {13: _SRGB, 14: _REC709_CURVE, 15: _REC709_CURVE}


def _hdr_curve(transfer: int) -> Curve:
    """Light of an HDR sample over that of graphics white; what is brighter is cut off."""
    x = np.linspace(0, 1, 4096)
    if transfer == _PQ:
        e = x ** (32 / 2523)
        nits = 10000 * (np.maximum(e - 3424 / 4096, 0) / (2413 / 128 - 2392 / 128 * e)) ** (16384 / 2610)
    else:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        scene = np.where(x <= 0.5, x * x / 3, (np.exp((x - c) / a) + b) / 12)
        nits = 1000 * scene**1.2
    return table_curve(nits / _REFERENCE_WHITE)


def find_cicp(head: bytes) -> bytes | None:
    """The four code points that a PNG (cICP) or an AVIF file (nclx) holds, by its first bytes."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        place = 8
        while place + 12 <= len(head) and (kind := head[place + 4 : place + 8]) != b"IDAT":
            length = int.from_bytes(head[place : place + 4], "big")
            if kind == b"cICP" and length == 4:
                return head[place + 8 : place + 12]
            place += 12 + length
    elif head[4:8] == b"ftyp" and (place := head.find(b"colrnclx")) >= 0 and place + 15 <= len(head):
        codes = head[place + 8 : place + 15]
        return bytes((codes[1], codes[3], 0, 1)) if not codes[0] and not codes[2] else None
    return None


def profile_of(image: Image.Image, grey: bool, cicp: bytes | None = None) -> bytes:
    """The ICC profile to keep with an image's pixels; empty for sRGB.

    CICP goes before an ICC profile, and that before gAMA and cHRM, as the PNG specification has it.

    Args:
        image: as opened by Pillow.
        grey: the pixels are of one channel.
        cicp: code points of primaries and transfer, then two bytes that do not matter here.
    """
    profile = image.info.get("icc_profile") or b""
    if cicp and (image.format == "PNG" or not profile) and (made := _from_cicp(cicp, grey)) is not None:
        return made
    if profile:
        space = colour_space(profile)
        if space in ("CMYK", "Lab", "XYZ") or (space == "GRAY" and not grey):
            note(f"the ICC profile is for {space}, which the pixels are not, and is left out")
            return b""
        return profile
    if "srgb" in image.info or image.format != "PNG":
        return b""
    return _from_gamma(image.info.get("gamma"), image.info.get("chromaticity"), grey)


def _from_cicp(cicp: bytes, grey: bool) -> bytes | None:
    """A profile; empty for sRGB; None where the code points say nothing."""
    primaries, transfer = cicp[0], cicp[1]
    if 2 in (primaries, transfer):  # unspecified
        return None
    if primaries == 1 and transfer in (1, 6, 13):
        return b""  # video's curve is shown as sRGB's by those who show pictures
    if primaries not in _PRIMARIES or transfer not in (*_CURVES, _PQ, _HLG):
        note(f"colour of CICP {primaries}/{transfer} has no profile here: the pixels are kept as they are, as if sRGB")
        return None
    if transfer in (_PQ, _HLG):
        name = "PQ" if transfer == _PQ else "HLG"
        note(f"{name}: kept with an ICC profile whose highlights end at {_REFERENCE_WHITE:.0f} cd/m^2 in SDR viewers")
        curve = _hdr_curve(transfer)
    else:
        curve = _CURVES[transfer]
    codes = bytes((primaries, transfer, 0, 1))
    return make_profile(f"CICP {primaries}/{transfer}", curve, _PRIMARIES[primaries], grey=grey, cicp=codes)


def _from_gamma(gamma: float | None, chromaticities: tuple[float, ...] | None, grey: bool) -> bytes:
    like_srgb = gamma is None or abs(gamma * 2.2 - 1) < 0.02
    if chromaticities is None or grey or max(abs(a - b) for a, b in zip(chromaticities, REC709, strict=True)) < 0.002:
        chromaticities = REC709
        if like_srgb:
            return b""
    try:
        if not like_srgb and not 0.05 < gamma < 20:
            raise ValueError(f"gamma {gamma}")
        curve = _SRGB if like_srgb else gamma_curve(1 / gamma)
        name = "cHRM" if like_srgb else f"gAMA {gamma:.5f}"
        return make_profile(name, curve, chromaticities, grey=grey)
    except ValueError as error:
        note(f"gAMA and cHRM that make no colour space are left out: {error}")
        return b""


def cmyk_to_rgb(image: Image.Image) -> Image.Image:
    """CMYK as sRGB, through its profile where it has one that works."""
    from PIL import ImageCms  # LittleCMS: 3 ms

    if profile := image.info.get("icc_profile"):
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError):  # a broken profile: as if there were none
            note("the ICC profile of the CMYK picture does not work; its colours are converted without it")
    return image.convert("RGB")


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image | None:
    """An image of mode L, LA, RGB or RGBA with its colours in sRGB, or None if the profile does not work.

    Grey becomes RGB unless its profile is grey, too.
    """
    from PIL import ImageCms

    alpha = image.getchannel("A") if image.mode in ("LA", "RGBA") else None
    grey = image.mode in ("L", "LA")
    colours = image.convert("L" if grey else "RGB") if alpha is not None else image
    try:
        if grey and colour_space(profile) != "GRAY":
            colours = colours.convert("RGB")
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        out = ImageCms.profileToProfile(colours, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None
    if grey:
        out = out.convert("L")
    if alpha is not None:
        out.putalpha(alpha)
    out.info = {key: value for key, value in image.info.items() if key != "icc_profile"}
    return out
