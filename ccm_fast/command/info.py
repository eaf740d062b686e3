"""``ccm-fast info``: what is in .ccm files, without decoding them."""

from __future__ import annotations

import json
from collections.abc import Iterator

from .messages import complain, reason, say, shown
from .streams import binary_input, ccm_files

__all__ = ["describe", "run"]


def describe(data: bytes) -> dict:
    """What can be said of a .ccm file without decoding it. Raises BitstreamError."""
    from ccm_fast.errors import DamagedError
    from ccm_fast.stream.container import CHUNK_NAMES, parse_container
    from ccm_fast.stream.packet import guess_groups, peek, preview_bytes

    container = parse_container(data)
    fixed = peek(container.packet, None)
    packet = guess_groups(container.packet, None)
    if packet is None:
        raise DamagedError("no number of groups makes the checksum right: the data is damaged or cut off")
    sizes = [len(s) for s in packet.streams]
    before = len(data) - len(container.packet)
    return {
        "bytes": len(data),
        "version": data[3] & 0x0F,
        "width": fixed.width,
        "height": fixed.height,
        "grey": fixed.grey,
        "quality": packet.quality,
        "bpp": 8 * len(data) / (fixed.width * fixed.height),
        "fingerprint": fixed.fingerprint.hex(),
        "model": _model_name(fixed.fingerprint),
        "groups": packet.groups,
        "lanes": {"z": packet.lanes[0], "y": list(packet.lanes[1:])},
        "tapers": list(packet.tapers[1:]) or [0] * packet.groups,
        "parts": {
            "container": before,
            "header": len(packet.header()),
            "z": sizes[0],
            "y": sizes[1:],
        },
        "previews": [*(before + n for n in preview_bytes(container.packet, packet.groups)), len(data)],
        "chunks": {CHUNK_NAMES.get(kind, kind): len(content) for kind, content in container.chunks.items()},
    }


def _model_name(fingerprint: bytes) -> str | None:
    """The shipped model with this fingerprint, if this installation can tell."""
    try:
        from ccm_fast.shipped import shipped_fingerprints

        return shipped_fingerprints().get(fingerprint, (None,))[0]
    except (ImportError, OSError, ValueError):
        return None


def _lines(report: dict) -> Iterator[str]:
    r, parts = report, report["parts"]
    kind = "grey" if r["grey"] else "colour"
    yield f"{r['width']}x{r['height']} {kind}, quality {r['quality']:g}, {r['bytes']} bytes, {r['bpp']:.4f} bpp"
    model = f" ({r['model']})" if r["model"] else ""
    yield f"  format version {r['version']}, model {r['fingerprint']}{model}, {r['groups']} groups"
    yield f"  bytes  container {parts['container']}, header {parts['header']}, z {parts['z']}, y {parts['y']}"
    yield f"  previews  first bytes for 0 to {r['groups']} groups: {', '.join(map(str, r['previews']))}"
    tapers = f", tapers {r['tapers']}" if any(r["tapers"]) else ""
    yield f"  lanes  z {r['lanes']['z']}, y {r['lanes']['y']}{tapers}"
    if r["chunks"]:
        yield "  chunks " + ", ".join(f"{shown(name)} {size}" for name, size in r["chunks"].items())


def run(args) -> int:
    """``ccm-fast info``."""
    from ccm_fast.reading import read_bytes

    failed = False
    for name in ccm_files(args.files):
        try:
            report = {"file": name, **describe(read_bytes(binary_input(name), args.max_pixels))}
        except Exception as error:
            failed = True
            why = reason(error, name)
            complain(name, why)
            report = {"file": name, "error": why, "type": type(error).__name__}
        if args.json:
            say(json.dumps(report))
        elif "error" not in report:
            first, *rest = _lines(report)
            say("\n".join((f"{shown(name)}: {first}", *rest)))
    return int(failed)
