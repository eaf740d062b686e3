"""Damage to bytes, and to the formats inside of files, whose own checksums are made right again."""

import contextlib
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

Item = TypeVar("Item")
#: Numbers at which limits and types end.
EDGES = (
    0,
    1,
    2,
    15,
    16,
    17,
    127,
    128,
    255,
    256,
    2**15 - 1,
    2**15,
    2**16 - 1,
    2**16,
    2**24,
    2**31 - 1,
    2**31,
    2**32 - 1,
)


def pick(rng: np.random.Generator, items: Sequence[Item]) -> Item:
    return items[int(rng.integers(len(items)))]


def options_of(data: bytes) -> np.random.Generator:
    """What a check chooses besides its input: the same for the same bytes, so that a file alone repeats a case."""
    return np.random.default_rng(zlib.crc32(data))


def number(rng: np.random.Generator, bits: int = 32) -> int:
    """An edge or any number of so many bits, small ones as often as large ones."""
    if rng.random() < 0.5:
        return pick(rng, EDGES) % (1 << bits)
    return int(rng.integers(1 << int(rng.integers(1, bits + 1)), dtype=np.uint64))


def damage(rng: np.random.Generator, data: bytes) -> bytes:
    """The bytes with some of them flipped, overwritten, left out, repeated or moved."""
    out = bytearray(data)
    for _ in range(1 << int(rng.integers(4))):
        at, length = int(rng.integers(len(out) + 1)), int(rng.integers(1, 1 << int(rng.integers(1, 8))))
        end = min(at + length, len(out))
        kind = int(rng.integers(8))
        if kind <= 1 and at < len(out):
            out[at] ^= 1 << int(rng.integers(8)) if kind else int(rng.integers(256))
        elif kind == 2:
            value = number(rng)
            out[at : at + 4] = struct.pack(pick(rng, ("<I", ">I")), value)[: max(1, len(out) - at)]
        elif kind == 3:
            del out[at:end]
        elif kind == 4:
            out[at:at] = rng.bytes(length)
        elif kind == 5:
            out[at:end] = data[int(rng.integers(len(data) + 1)) :][: end - at]
        elif kind == 6 and rng.random() < 0.3:
            del out[at:]
        elif kind == 7:
            out[at:end] = bytes([pick(rng, (0, 255, 128))]) * (end - at)
    return bytes(out)


def damage_png(rng: np.random.Generator, data: bytes) -> bytes:
    """A PNG file with other chunks, each with the right checksum."""
    chunks, at = [], 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        chunks.append([data[at + 4 : at + 8], data[at + 8 : at + 8 + size]])
        at += 12 + size
    for _ in range(int(rng.integers(1, 4))):
        k = int(rng.integers(len(chunks)))
        kind = int(rng.integers(7))
        if kind == 0:
            chunks[k][1] = damage(rng, chunks[k][1])
        elif kind == 1 and chunks[k][0] == b"IDAT":  # other pixels under a right Adler-32
            with contextlib.suppress(zlib.error):
                chunks[k][1] = zlib.compress(damage(rng, zlib.decompress(chunks[k][1])))
        elif kind == 2:
            chunks[0][1] = edge_header(rng, chunks[0][1])
        elif kind == 3:
            chunks.insert(k, list(pick(rng, chunks)))
        elif kind == 4 and len(chunks) > 1:
            del chunks[k]
        elif kind == 5:
            chunks.insert(1, [pick(rng, _PNG_TYPES), rng.bytes(int(rng.integers(40)))])
        elif kind == 6:
            chunks[k], chunks[0] = chunks[0], chunks[k]
    out = [data[:8]]
    for name, content in chunks:
        out += [len(content).to_bytes(4, "big"), name, content, zlib.crc32(name + content).to_bytes(4, "big")]
    return b"".join(out)


_PNG_TYPES = (
    b"PLTE",
    b"tRNS",
    b"gAMA",
    b"cHRM",
    b"sRGB",
    b"cICP",
    b"iCCP",
    b"eXIf",
    b"zTXt",
    b"iTXt",
    b"tEXt",
    b"acTL",
)


def edge_header(rng: np.random.Generator, header: bytes) -> bytes:
    """A PNG's IHDR of another size, depth or colour type."""
    out = bytearray(header.ljust(13, b"\0"))
    kind = int(rng.integers(3))
    if kind < 2:
        out[4 * kind : 4 * kind + 4] = number(rng).to_bytes(4, "big")
    else:
        out[int(rng.integers(8, 13))] = pick(rng, (0, 1, 2, 3, 4, 6, 8, 16, 255))
    return bytes(out)


def damage_tiff(rng: np.random.Generator, data: bytes) -> bytes:
    """A TIFF file, or an EXIF block, with other entries in its directories."""
    start = 6 if data[:6] == b"Exif\0\0" else 0
    body = bytearray(data[start:])
    order = {b"II": "<", b"MM": ">"}.get(bytes(body[:2]))
    if order is None or len(body) < 16:
        return damage(rng, data)
    at = struct.unpack_from(order + "I", body, 4)[0]
    if at + 2 > len(body):
        return damage(rng, data)
    count = struct.unpack_from(order + "H", body, at)[0]
    for _ in range(int(rng.integers(1, 4))):
        entry = at + 2 + 12 * int(rng.integers(max(1, count)))
        if entry + 12 > len(body):
            break
        kind = int(rng.integers(4))
        if kind == 0:
            struct.pack_into(order + "H", body, entry, pick(rng, _TIFF_TAGS))
        elif kind == 1:
            struct.pack_into(order + "H", body, entry + 2, int(rng.integers(16)))
        else:
            struct.pack_into(order + "I", body, entry + 4 * kind - 4, number(rng))
    return data[:start] + bytes(body)


# What says how pixels lie, then where other directories are.
_TIFF_TAGS = (0x100, 0x101, 0x102, 0x103, 0x106, 0x10A, 0x111, 0x112, 0x115, 0x116, 0x117, 0x11C, 0x142, 0x143, 0x144)
_TIFF_TAGS += (0x13D, 0x140, 0x152, 0x153, 0x14A, 0x15B, 0x8769, 0x8825, 0x8773, 0x83BB, 0x2BC, 0xA005, 0xFE)


def damage_jpeg(rng: np.random.Generator, data: bytes) -> bytes:
    """A JPEG file with another segment: length, content, order."""
    segments, at = [], 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        size = int.from_bytes(data[at + 2 : at + 4], "big")
        segments.append([data[at : at + 2], data[at + 4 : at + 2 + size], 0])
        at += 2 + size
    if not segments:
        return damage(rng, data)
    k = int(rng.integers(len(segments)))
    kind = int(rng.integers(5))
    if kind == 0:
        segments[k][1] = damage(rng, segments[k][1])
    elif kind == 1:
        segments[k][2] = int(rng.integers(-8, 9))
    elif kind == 2:
        segments.insert(k, list(pick(rng, segments)))
    elif kind == 3:
        segments[k][1] = damage_tiff(rng, segments[k][1])
    else:
        segments.insert(0, [bytes([0xFF, int(rng.integers(0xC0, 0xF0))]), rng.bytes(int(rng.integers(60))), 0])
    parts = [name + ((len(body) + 2 + off) % 65536).to_bytes(2, "big") + body for name, body, off in segments]
    return data[:2] + b"".join(parts) + data[at:]


def damage_by(rng: np.random.Generator, data: bytes, structured: Callable | None) -> bytes:
    """Mostly by the format's own mutator, where it has one."""
    if structured is None or rng.random() < 0.3:
        return damage(rng, data)
    return structured(rng, data)
