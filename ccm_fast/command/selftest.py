"""Does this installation encode and decode exactly? Run by ``ccm-fast selftest``."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ccm_fast.native import Codec

from .messages import say

__all__ = ["checks", "run"]


def _picture(height: int, width: int) -> np.ndarray:
    """A generated image with gradients, edges and texture: uint8 [height, width, 3]."""
    i, j = np.mgrid[:height, :width].astype(np.float64)
    planes = [128 + 90 * np.sin(i / 9 + k) * np.cos(j / 13 - k) + 30 * ((i // 16 + j // 16 + k) % 2) for k in range(3)]
    noise = ((i * 7919 + j * 104729) % 31 - 15)[..., None]
    return np.clip(np.stack(planes, -1) + noise, 0, 255).astype(np.uint8)


def _check(name: str, body: Callable[[], str]) -> dict:
    start = time.perf_counter()
    try:
        note, ok = body(), True
    except Exception as error:  # whatever goes wrong is the result
        note, ok = f"{type(error).__name__}: {error}", False
    return {"name": name, "ok": ok, "note": note, "seconds": round(time.perf_counter() - start, 3)}


def _native() -> str:
    from ccm_fast import _backend

    note = f"instruction sets: {_backend.native().isa_list()}"
    if _backend.has_torch():
        _backend.load()
        note += "; torch's operators load"
    return note


def _crc() -> str:
    from ccm_fast.stream.crc32c import crc32c, crc32c_python

    data = bytes(range(256)) * 5
    if not crc32c(data) == crc32c_python(data) or crc32c(b"123456789") != 0xE3069283:
        raise ArithmeticError("CRC-32C is wrong")
    return ""


def _models(name: str | None) -> list[tuple[str, Codec]]:
    from ccm_fast.native import Codec
    from ccm_fast.shipped import available

    names = [name] if name else available()
    return [(n, Codec.load(n)) for n in names]


def _checks_of(name: str, codec: Codec) -> Iterator[dict]:
    from ccm_fast import _backend
    from ccm_fast.entropy import Plan, reference
    from ccm_fast.errors import BitstreamError
    from ccm_fast.files import decode_bytes, encode_picture, model_for
    from ccm_fast.images import Picture
    from ccm_fast.native import Codec
    from ccm_fast.psnr import psnr

    pixels = _picture(70, 100)
    state = {}

    def encode() -> str:
        state["file"] = encode_picture(Picture(pixels), 4.0, codec, effort=None if codec.encodes() else 1)
        return f"{len(state['file'])} bytes"

    def decode() -> str:
        state["decoded"] = decode_bytes(state["file"], codec)
        return f"PSNR {psnr(state['decoded'].picture.pixels, pixels):.2f} dB"

    def same(latents: np.ndarray) -> None:
        if not np.array_equal(latents, state["decoded"].latents):
            raise ArithmeticError("other latents")

    def oracle() -> str:
        plan, packet = Plan.from_bytes(codec.plan_bytes()), state["decoded"].packet
        z_hat = reference.decode_z(plan, packet.z_stream, *packet.z_shape)
        psi = reference.hyper(plan, z_hat, *packet.y_shape)
        same(reference.decode_y(plan, psi, packet.y_streams))
        return "same latents"

    def threads() -> str:
        for count in (1, 2, 3):
            for _, latents, _ in codec.decode_files([codec.open_file(state["file"])] * 2, count):
                same(latents)
        return "same latents with 1, 2, 3 threads and of several files at once"

    def instruction_sets() -> str:
        names = _backend.native().isa_list().split(",")
        for isa in names:
            same(decode_bytes(state["file"], Codec.load(codec.path, isa=isa)).latents)
        return f"same latents with {', '.join(names)}"

    def modules() -> str:
        decoded = decode_bytes(state["file"], model_for(codec))
        same(decoded.latents)
        if not np.array_equal(decoded.picture.pixels, state["decoded"].picture.pixels):
            raise ArithmeticError("another picture")
        return "same latents, same picture"

    def damage() -> str:
        data = state["file"]
        for k in range(0, len(data), 7):
            try:
                decode_bytes(data[:k] + bytes([data[k] ^ 0x10]) + data[k + 1 :], codec)
            except BitstreamError:
                continue
            raise ArithmeticError(f"a flipped bit in byte {k} went unnoticed")
        return f"{len(range(0, len(data), 7))} flipped bits, each noticed"

    for what, body in (
        ("encode", encode),
        ("decode", decode),
        ("the reference decoder agrees", oracle),
        ("threads and batches agree", threads),
        ("instruction sets agree", instruction_sets),
        *([("torch's modules agree", modules)] if _backend.has_torch() else []),
        ("damage is noticed", damage),
    ):
        yield _check(f"{name}: {what}", body)


def checks(model: str | None = None) -> Iterator[dict]:
    """Run the checks; yields ``{"name", "ok", "note", "seconds"}`` of each.

    Args:
        model: a shipped model's name or a weights file; None: all that ship with the package.
    """
    yield _check("native library", _native)
    yield _check("CRC-32C", _crc)
    found: list = []
    load = _check("load models", lambda: found.extend(_models(model)) or ", ".join(name for name, _ in found))
    yield load
    for name, loaded in found:
        yield from _checks_of(name, loaded)


def run(args) -> int:
    """``ccm-fast selftest``."""
    results = []
    for check in checks(args.model):
        results.append(check)
        if not args.json:
            say(f"{'ok  ' if check['ok'] else 'FAIL'}  {check['name']}  {check['note']}".rstrip())
    good = all(check["ok"] for check in results)
    if args.json:
        say(json.dumps({"ok": good, "checks": results}))
    else:
        say("all checks passed" if good else "SOME CHECKS FAILED; please report them together with `ccm-fast env`")
    return int(not good)
