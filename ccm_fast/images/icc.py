"""ICC profiles made from what PNG and AVIF say of colour by other means (ICC.1:2022, matrix and curves)."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from ..lazy import np

__all__ = ["REC709", "Curve", "colour_space", "gamma_curve", "make_profile", "table_curve"]

# Chromaticities x, y of white (D65), red, green, blue.
REC709 = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
_D50 = (0.9642, 1.0, 0.8249)
_BRADFORD = ((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296))

Curve = bytes  # a tag of the type "para" or "curv"


def _fixed(*values: float) -> bytes:
    """s15Fixed16 numbers."""
    return b"".join(struct.pack(">i", round(v * 65536)) for v in values)


def gamma_curve(*parameters: float) -> Curve:
    """y = x^g; with five parameters g, a, b, c, d: (a x + b)^g from d on, c x below."""
    kind = {1: 0, 5: 3}[len(parameters)]
    return b"para\0\0\0\0" + struct.pack(">HH", kind, 0) + _fixed(*parameters)


def table_curve(values: np.ndarray) -> Curve:
    """Values in [0, 1] at evenly spaced inputs."""
    levels = np.rint(np.clip(values, 0, 1) * 65535).astype(">u2")
    return b"curv\0\0\0\0" + struct.pack(">I", len(levels)) + levels.tobytes()


def colour_space(profile: bytes) -> str:
    """The header's colour space, such as "RGB", "GRAY" or "CMYK"."""
    return profile[16:20].decode("latin-1").strip()


def _xyz(x: float, y: float) -> np.ndarray:
    return np.array([x / y, 1.0, (1 - x - y) / y])


def _text(text: str) -> bytes:
    data = text.encode("utf-16-be")
    return b"mluc\0\0\0\0" + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(data), 28) + data


def make_profile(
    name: str, curve: Curve, chromaticities: Sequence[float] = REC709, *, grey: bool = False, cicp: bytes = b""
) -> bytes:
    """A display profile.

    Args:
        name: its description.
        curve: of the samples, to linear light.
        chromaticities: x, y of white, red, green and blue; grey profiles need the white only.
        grey: of one channel.
        cicp: four bytes of code points (ITU-T H.273) for readers that know more than curves, or none.

    Raises:
        ValueError: the chromaticities are no colour space.
    """
    x, y, *corners = chromaticities
    with np.errstate(all="ignore"):
        white = _xyz(x, y) if y > 0 else np.full(3, np.nan)
        bradford = np.array(_BRADFORD)
        cone = np.diag((bradford @ _D50) / (bradford @ white))
        adapt = np.linalg.inv(bradford) @ cone @ bradford
    if not np.isfinite(adapt).all() or abs(adapt).max() > 100:
        raise ValueError("no white point")
    tags = {b"desc": _text(name), b"cprt": _text("CC0"), b"wtpt": b"XYZ \0\0\0\0" + _fixed(*_D50)}
    tags[b"chad"] = b"sf32\0\0\0\0" + _fixed(*adapt.ravel())
    if grey:
        tags[b"kTRC"] = curve
    else:
        if min(corners[1::2]) <= 0:
            raise ValueError("a primary colour without light")
        primaries = np.stack([_xyz(*corners[k : k + 2]) for k in (0, 2, 4)], 1)
        if abs(np.linalg.det(primaries)) < 1e-6:
            raise ValueError("primary colours on one line")
        columns = adapt @ (primaries * np.linalg.solve(primaries, white))
        if abs(columns).max() > 100:
            raise ValueError("primary colours on one line")
        for k, letter in enumerate(b"rgb"):
            tags[bytes([letter]) + b"XYZ"] = b"XYZ \0\0\0\0" + _fixed(*columns[:, k])
            tags[bytes([letter]) + b"TRC"] = curve
    if cicp:
        tags[b"cicp"] = b"cicp\0\0\0\0" + cicp
    return _assemble(tags, b"GRAY" if grey else b"RGB ", 0x04400000 if cicp else 0x04300000)


def _assemble(tags: dict[bytes, bytes], space: bytes, version: int) -> bytes:
    table, body, places = [], b"", {}
    start = 128 + 4 + 12 * len(tags)
    for tag, data in tags.items():
        if data not in places:  # the three curves are one
            places[data] = start + len(body)
            body += data + b"\0" * (-len(data) % 4)
        table.append(tag + struct.pack(">II", places[data], len(data)))
    head = struct.pack(">II4s4s4s", 0, version, b"mntr", space, b"XYZ ") + struct.pack(">6H", 2024, 1, 1, 0, 0, 0)
    head += b"acsp" + bytes(24) + struct.pack(">I", 0) + _fixed(*_D50)
    profile = head.ljust(124, b"\0") + struct.pack(">I", len(tags)) + b"".join(table) + body
    return struct.pack(">I", len(profile) + 4) + profile
