"""Does this installation encode and decode exactly? Run by ``ccm-fast selftest``."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

import numpy as np

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

    native = _backend.load()
    return f"instruction sets: {native.ops.isa_list()}"


def _crc() -> str:
    from ccm_fast.stream.crc32c import crc32c, crc32c_python

    data = bytes(range(256)) * 5
    if not crc32c(data) == crc32c_python(data) or crc32c(b"123456789") != 0xE3069283:
        raise ArithmeticError("CRC-32C is wrong")
    return ""


def _models(name: str | None) -> list[tuple[str, object]]:
    from ccm_fast import weights
    from ccm_fast.entropy.frozen import FrozenEntropyModel
    from ccm_fast.entropy.testing import random_plan
    from ccm_fast.models import CCMConfig, CrossChannelContextModel

    names = [name] if name else weights.available()
    if names:
        return [(n, weights.load(n)) for n in names]
    config = CCMConfig(groups=(6, 6), widths=(8, 8, 8), hyper_channels=4, psi_channels=8, cross_kernels=(3, 3))
    model = CrossChannelContextModel(config).eval()
    model.frozen = FrozenEntropyModel(random_plan(np.random.default_rng(1), (6, 6)))
    return [("a random model, as none is shipped", model)]


def _checks_of(name: str, model) -> Iterator[dict]:
    import torch

    from ccm_fast import _backend, decoding
    from ccm_fast.errors import BitstreamError
    from ccm_fast.files import decode_bytes, encode_picture
    from ccm_fast.images import Picture
    from ccm_fast.psnr import psnr

    pixels = _picture(70, 100)
    state = {}

    def encode() -> str:
        state["file"] = encode_picture(Picture(pixels), 4.0, model)
        return f"{len(state['file'])} bytes"

    def decode() -> str:
        decoded = decode_bytes(state["file"], model)
        state["latents"], state["packet"] = torch.from_numpy(decoded.latents)[None], decoded.packet
        return f"PSNR {psnr(decoded.picture.pixels, pixels):.2f} dB"

    def same(latents) -> None:
        if not torch.equal(latents, state["latents"]):
            raise ArithmeticError("other latents")

    def reference() -> str:
        same(decoding.decode_latents(model.frozen, [state["packet"]], engine="reference"))
        return "same latents"

    def threads() -> str:
        for count in (1, 2, 3):
            same(decoding.decode_latents(model.frozen, [state["packet"]] * 2, threads=count)[:1])
        return "same latents with 1, 2, 3 threads and in a batch"

    def instruction_sets() -> str:
        frozen, packet = model.frozen, state["packet"]
        names = _backend.load().ops.isa_list().split(",")
        for isa in names:
            z_hat = frozen.decode_z([packet.z_stream], *packet.z_shape, isa=isa)
            psi = frozen.hyper(z_hat, *packet.y_shape, isa=isa)
            same(frozen.decode_y(psi, [packet.y_streams], isa=isa))
        return f"same latents with {', '.join(names)}"

    def damage() -> str:
        data = state["file"]
        for k in range(0, len(data), 7):
            try:
                decode_bytes(data[:k] + bytes([data[k] ^ 0x10]) + data[k + 1 :], model)
            except BitstreamError:
                continue
            raise ArithmeticError(f"a flipped bit in byte {k} went unnoticed")
        return f"{len(range(0, len(data), 7))} flipped bits, each noticed"

    for what, body in (
        ("encode", encode),
        ("decode", decode),
        ("the reference decoder agrees", reference),
        ("threads and batches agree", threads),
        ("instruction sets agree", instruction_sets),
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
