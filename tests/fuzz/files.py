""".ccm files: decoded by every engine and instruction set, shown, written as pictures."""

import contextlib
import io
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import mutation
import numpy as np
import tiny
from ccm_format import Chunk, Loose
from mutation import number, pick
from PIL import Image
from target import Target, must

from ccm_fast import errors, files, weights
from ccm_fast._backend import native
from ccm_fast.command.info import _lines, describe
from ccm_fast.interop import pillow
from ccm_fast.native import Codec
from ccm_fast.stream.container import parse_container
from ccm_fast.stream.packet import parse_file

GROUPS = 3  # of the tiny models
FORMATS = ("PNG", "TIFF", "JPEG", "WEBP", "AVIF", "PPM")


def loose(data: bytes) -> Loose:
    """The fields of a good file."""
    container = parse_container(data)
    p = parse_file(container.packet, GROUPS)
    logs = [lanes.bit_length() - 1 for lanes in p.lanes]
    flags = container.packet[0]
    chunks = [Chunk(ord(kind), content) for kind, content in container.chunks.items()]
    fields = (p.fingerprint, p.width, p.height, p.quality_code)
    return Loose(data[3] & 0x7F, chunks, flags, *fields, logs, [bytes(s) for s in p.streams])


# ---------------------------------------------------------------------------------------------------------------------
# Mutators: each changes the fields in place. Checksums are right again when the file is written.


def other_size(rng, f: Loose, seeds) -> None:
    sides = (number(rng, 21), f.width, int(rng.integers(1, 200)), 1 << 20)
    f.width, f.height = pick(rng, sides), pick(rng, (*sides, f.height))


def same_latents(rng, f: Loose, seeds) -> None:
    f.width, f.height = (max(1, -(-side // 16) * 16 - int(rng.integers(16))) for side in (f.width, f.height))


def other_quality(rng, f: Loose, seeds) -> None:
    f.quality = int(rng.integers(256))


def other_flags(rng, f: Loose, seeds) -> None:
    f.flags ^= pick(rng, (1, 1, 2, 4, int(rng.integers(256))))


def other_version(rng, f: Loose, seeds) -> None:
    f.version = pick(rng, (1, 2, 3, 0, int(rng.integers(128))))
    if rng.random() < 0.5:
        f.flags ^= 4


def other_lanes(rng, f: Loose, seeds) -> None:
    k = int(rng.integers(len(f.lanes)))
    f.lanes[k] = int(rng.integers(8))
    if any(f.lanes):
        f.flags &= ~2
    if rng.random() < 0.7:  # long enough for its states
        f.streams[k] = f.streams[k].ljust(5 << f.lanes[k], b"\x01")
    if rng.random() < 0.1:
        f.lane_bits = int(rng.integers(8))


def other_lengths(rng, f: Loose, seeds) -> None:
    f.lengths = f.true_lengths()
    k = int(rng.integers(len(f.lengths)))
    f.lengths[k] = number(rng, 35) if rng.random() < 0.3 else max(0, f.lengths[k] + int(rng.integers(-6, 7)))


def moved_border(rng, f: Loose, seeds) -> None:
    """A stream ends earlier or later than it did, and the next one begins there."""
    k, payload = int(rng.integers(len(f.streams) - 1)), f.streams
    both = payload[k] + payload[k + 1]
    at = int(np.clip(len(payload[k]) + rng.integers(-8, 9), 0, len(both)))
    payload[k], payload[k + 1] = both[:at], both[at:]


def damaged_stream(rng, f: Loose, seeds) -> None:
    k = int(rng.integers(len(f.streams)))
    f.streams[k] = mutation.damage(rng, f.streams[k])


def damaged_state(rng, f: Loose, seeds) -> None:
    """Flags of long states, states at their limits, and their last bytes."""
    k = int(rng.integers(len(f.streams)))
    data = bytearray(f.streams[k].ljust(5, b"\0"))
    lanes = 1 << f.lanes[k]
    at = int(rng.integers(min(len(data), 6 * lanes)))
    if rng.random() < 0.5:
        data[at] = pick(rng, (0, 1, 0xC0, 0xFF, data[at] ^ 1 << int(rng.integers(8))))
    else:
        state = pick(rng, (0, 191, 192, 193, 3 << 22, 1 << 24, (1 << 24) - 1, 1 << 32, (1 << 32) - 1, (1 << 40) - 1))
        data[at : at + 5] = state.to_bytes(5, "little")[: len(data) - at]
    f.streams[k] = bytes(data)


def words(rng, f: Loose, seeds) -> None:
    """Words that are missing, or too many."""
    k = int(rng.integers(len(f.streams)))
    count = int(rng.integers(1, 9))
    if rng.random() < 0.5:
        f.streams[k] = f.streams[k][: -2 * count]
    else:
        f.streams[k] += pick(rng, (rng.bytes(2 * count), bytes(2 * count), rng.bytes(count)))


def splice(rng, f: Loose, seeds) -> None:
    """Streams, with their lanes, or metadata of another file."""
    other = loose(pick(rng, seeds))
    if rng.random() < 0.3:
        f.chunks = other.chunks
        return
    k, own = int(rng.integers(len(f.streams))), int(rng.integers(len(f.streams)))
    f.streams[own], f.lanes[own] = other.streams[k], other.lanes[k]
    if any(f.lanes):
        f.flags &= ~2
    if rng.random() < 0.5:
        f.flags, f.version = other.flags, other.version


def other_fields(rng, f: Loose, seeds) -> None:
    kind = int(rng.integers(6))
    if kind == 0:
        f.spare = int(rng.integers(1, 6))
    elif kind == 1:
        f.checksum = 1 << int(rng.integers(32))
    elif kind == 2:
        f.fingerprint = mutation.damage(rng, f.fingerprint)[:8].ljust(8, b"\0")
    elif kind == 3:
        f.tail = rng.bytes(int(rng.integers(1, 20)))
    elif kind == 4:
        f.with_end = False
    else:
        f.magic = mutation.damage(rng, f.magic)


def other_chunks(rng, f: Loose, seeds) -> None:
    """Metadata chunks: their number, kinds, lengths and checksums."""
    kind = int(rng.integers(5))
    if kind == 0 or not f.chunks:
        f.chunks.append(Chunk(pick(rng, (*b"IXAMN", int(rng.integers(256)))), rng.bytes(int(rng.integers(60)))))
        return
    k = int(rng.integers(len(f.chunks)))
    if kind == 1:
        del f.chunks[k]
    elif kind == 2:
        f.chunks.append(f.chunks[k])
    elif kind == 3:
        f.chunks[k].longer = number(rng) if rng.random() < 0.3 else int(rng.integers(-9, 10))
    else:
        f.chunks[k].broken = True


def metadata(rng, f: Loose, seeds) -> None:
    """What is inside of metadata chunks, and the alpha channel."""
    for c in f.chunks:
        if rng.random() < 0.5:
            structured: Callable | None = {ord("A"): mutation.damage_png, ord("X"): mutation.damage_tiff}.get(c.kind)
            c.data = mutation.damage_by(rng, c.data, structured)


MUTATORS = (other_size, same_latents, other_quality, other_flags, other_version, other_lanes, other_lengths)
MUTATORS += (moved_border, damaged_stream, damaged_stream, damaged_state, words, splice, other_fields, other_chunks)
MUTATORS += (metadata, metadata, metadata)


# ---------------------------------------------------------------------------------------------------------------------


def pictures() -> list[Image.Image]:
    """With everything that a file carries."""
    exif = Image.Exif()
    exif.update({0x10F: "maker", 0x112: 6, 0x132: "2026:11:30 00:00:00", 0x11A: 72.5, 0x9C9B: b"a\0b\0"})
    exif.get_ifd(0x8769).update({0x9003: "2026:11:30 00:00:00", 0xA002: 5616, 0x829A: 0.01, 0x9286: b"ASCII\0\0\0text"})
    exif.get_ifd(0x8825).update({1: "N", 2: (1.0, 2.0, 3.0)})
    profile = Path(__file__).with_name("corpus") / "srgb.icc"
    full = {
        "exif": exif.tobytes(),
        "xmp": b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>",
        "icc_profile": profile.read_bytes(),
    }
    out = []
    for k, (height, width) in enumerate(((33, 50), (16, 16), (64, 70), (5, 90))):
        image = Image.fromarray(tiny.photo(height, width, k))
        if k % 2:
            image = image.convert("L")
        if k < 2:
            image.putalpha(Image.linear_gradient("L").resize((width, height)))
        if k != 1:
            image.info.update(full)
        out.append(image)
    return out


class Files(Target):
    name = "files"
    # The largest picture of a model that need not code its symbols goes on without bytes, on every instruction set:
    # 3.4 s alone, 7.3 s seen where the other thread of the core was busy, too.
    seconds = 20.0
    thorough = False

    def __init__(self):
        isas = native().isa_list().split(",")
        with tempfile.NamedTemporaryFile(suffix=".safetensors", delete=False) as skipping:
            pass
        weights.save(tiny.skipping(), skipping.name)
        paths = (tiny.GOLDEN / "tiny.safetensors", Path(skipping.name))
        self.codecs = [[Codec.load(path, threads=1, isa=isa) for isa in isas] for path in paths]
        os.unlink(skipping.name)
        self.models = (tiny.model(), tiny.skipping())
        self.seeds = [path.read_bytes() for path in sorted(tiny.GOLDEN.glob("*.ccm"))]
        for k, picture in enumerate(pictures()):
            for codecs, lanes in zip(self.codecs, ((1, 4), (32, 128)), strict=True):
                out = io.BytesIO()
                files.encode_file(picture, out, 3 + k, codecs[0], lanes=lanes[k % 2], effort=1)
                self.seeds.append(out.getvalue())
        self.seeds += [_version_1(self.models[0], seed) for seed in self.seeds if loose(seed).version == 2]
        pillow.register()

    def make(self, rng):
        seed = pick(rng, self.seeds)
        f = loose(seed)
        for _ in range(pick(rng, (1, 1, 1, 2, 3))):
            pick(rng, MUTATORS)(rng, f, self.seeds)
        if rng.random() < 0.05:
            f.width, f.height = 13377, 13377
        data = f.to_bytes()
        if rng.random() < 0.05:
            data = mutation.damage(rng, data)
        return data[: int(rng.integers(len(data)))] if rng.random() < 0.03 else data

    def check(self, data):
        rng = mutation.options_of(data)
        which = int(self.codecs[1][0].fingerprint in data[:4000])
        best, *others = self.codecs[which]
        options = {"threads": int(rng.integers(1, 4)), "depth": pick(rng, (8, 8, 16))}
        kind, decoded = self._decode(data, best, options)
        for codec in others:
            other, found = self._decode(data, codec, options)
            must(other == kind, f"{kind} by one instruction set, {other} by another")
            must(decoded is None or np.array_equal(decoded.latents, found.latents), "other latents by another set")
        size = None if decoded is None else decoded.picture.size
        if rng.random() < 0.1 and (size is None or size[0] * size[1] < 64**2) and len(data) < 20000:
            engine = pick(rng, ("cpu", "reference"))
            other, found = self._decode(data, self.models[which], {**options, "engine": engine, "max_pixels": 64**2})
            if decoded is None and other == "LimitError":
                return kind
            both = {kind, other} == {"DamagedError", "TruncatedError"}  # garbage may be found out either way
            must(other == kind or both, f"{kind} without torch, {other} with it ({engine})")
            must(decoded is None or np.array_equal(decoded.latents, found.latents), f"other latents with {engine}")
        self._use(rng, data, best, decoded)
        return kind

    def _decode(self, data, model, options):
        try:
            decoded = files.decode_bytes(data, model, **options)
        except errors.BitstreamError as error:
            must(type(error) is not errors.BitstreamError and bool(str(error)), f"no kind: {error!r}")
            return type(error).__name__, None
        return "picture", decoded

    def _use(self, rng, data, codec, decoded) -> None:
        """What else may be done with a file: a share of it each time, or everything."""

        def now(share: float) -> bool:
            return rng.random() < share or self.thorough

        allowed = (errors.BitstreamError, errors.ImageError)
        if decoded is not None and now(0.5):
            for chosen in FORMATS if self.thorough else [pick(rng, FORMATS)]:
                with contextlib.suppress(*allowed):
                    out = io.BytesIO()
                    files.decode_file(io.BytesIO(data), out, codec, file_format=chosen)
                    with Image.open(out, formats=[chosen]) as image:
                        must(sorted(image.size) == sorted(decoded.picture.size), f"{chosen} of another size")
                        image.load()
        if now(0.1):
            with contextlib.suppress(errors.BitstreamError):
                "\n".join(_lines(describe(data)))
        if now(0.1):
            with contextlib.suppress(errors.BitstreamError):
                codec.decode(data, groups=pick(rng, (0, 1, 2, 3, "available")), max_pixels=1 << 20)
        if decoded is None and now(0.1):
            with contextlib.suppress(*allowed, OSError, Image.DecompressionBombError):
                Image.open(io.BytesIO(data), formats=["CCM"]).load()


def _version_1(model, data: bytes) -> bytes:
    """A file of the tiny model with streams of version 1; of another model the file itself."""

    import torch

    from ccm_fast.stream.container import write_container

    p = parse_file(parse_container(data).packet, GROUPS)
    if p.fingerprint != model.frozen.fingerprint:
        return data
    decoded = files.decode_bytes(data, model)
    z_hat = model.frozen.decode_z([p.z_stream], *p.z_shape)
    (z,) = model.frozen.encode_z(z_hat, lanes=2)
    psi = model.frozen.hyper(z_hat, *p.y_shape)
    (y,) = model.frozen.encode_y(psi, torch.from_numpy(decoded.latents)[None], lanes=8)
    streams, lanes = tuple(s.data for s in (z, *y)), tuple(s.lanes for s in (z, *y))
    old = p._replace(streams=streams, lanes=lanes, version=1, tapers=())
    return write_container(old.to_file(), parse_container(data).chunks)
