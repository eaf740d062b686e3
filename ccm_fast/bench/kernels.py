"""Every operator of the engine by itself, over sizes: the integer product, h_s, z, y decoded and encoded, rANS alone.

On the CPU each result is compared with that of the scalar kernels, on a GPU with the CPU's. ``cold`` empties the caches
before each call. The same operators, by the same names, run on both.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch

from ccm_fast._backend import load
from ccm_fast.engines import frozen_of
from ccm_fast.entropy.frozen import FrozenEntropyModel
from ccm_fast.stream.packet import stream_code

from . import material
from .coders import make_data
from .coders import ours as coders_of_ours
from .timing import device_for, interleaved, table

__all__ = ["report", "run"]

SIZES = ((256, 256), (768, 512), (1920, 1080))
# Rows x columns of the inputs x outputs: the shapes of ccm-small's and mbt2018's layers at 768x512, and a square one.
PRODUCTS = ((1536, 576, 128), (1536, 2304, 640), (512, 512, 512))


class Case:
    """One operator at one size: the call to time, and the work in it."""

    def __init__(self, name: str, size: str, call: Callable[[], object], work: float = 0, unit: str = ""):
        self.name, self.size, self.call, self.work, self.unit = name, size, call, work, unit


def _same(got, want, what: str) -> None:
    """Compare tuples of tensors (or one) wherever they lie."""
    got, want = (v if isinstance(v, tuple) else (v,) for v in (got, want))
    if len(got) != len(want) or not all(torch.equal(a.cpu(), b.cpu()) for a, b in zip(got, want, strict=True)):
        raise RuntimeError(f"{what}: wrong result")


def _streams(data: torch.Tensor, segments: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Each stream's bytes and, last, the numbers of lanes: GPUs leave room between streams."""
    data, rows = data.cpu(), segments.reshape(-1, 3).cpu()
    return (*(data[start : start + length] for start, length, _ in rows.tolist()), rows[:, 2])


def _products(device: torch.device, quick: bool) -> list[Case]:
    ops, rng, cases = load().ops, np.random.default_rng(0), []
    if device.type != "cpu":
        return []  # a yardstick of the CPU kernels; on a GPU the convolutions inside `hyper` show the same
    for m, k, n in PRODUCTS[:1] if quick else PRODUCTS:
        x = torch.from_numpy(rng.integers(0, 256, (m, k), dtype=np.uint8))
        w = torch.from_numpy(rng.integers(-127, 128, (n, k), dtype=np.int8))
        want = x[:32].int() @ w.int().T
        for isa in ops.isa_list().split(","):
            if isa == "scalar" and m * k * n > 1 << 27:
                continue  # seconds each, and a yardstick for nothing
            _same(ops.int8_product(x, w, isa, 1)[:32], want, f"int8_product {isa}")
            repeats = 1 if isa == "scalar" else 8  # packing the weights is in the time; several products dilute it
            call = functools.partial(ops.int8_product, x, w, isa, repeats)
            cases.append(Case(f"int8_product {isa}", f"{m}x{k}x{n}", call, repeats * m * k * n / 1e9, "Gmac/s"))
    return cases


def _operators(
    device: torch.device, threads: int, width: int, height: int, ops, pack: Callable[[FrozenEntropyModel], torch.Tensor]
) -> list[Case]:
    """Operators ``ops`` on a device, with models as ``pack`` gives them; results must be the CPU's scalar ones."""
    from ccm_fast.bench.stages import first_groups

    cpu, code = load().ops, stream_code(0, 2)  # as files have them
    frozen = frozen_of(material.model())
    z_hat, y_hat = material.latents(width, height)
    z_hat = frozen.fix_z(z_hat)  # channels that are not coded have one value
    h, w = y_hat.shape[1:3]
    hz, wz = z_hat.shape[1:3]
    size, count = f"{width}x{height}", y_hat.numel()
    scalar = frozen.packed("scalar")
    psi = cpu.hyper(scalar, z_hat, h, w, threads)
    z_data, z_segments = cpu.encode_z(scalar, z_hat, code, threads)
    skips = frozen.plan.skip >= 0  # then the encoder decides what symbols that are not coded stand for
    if skips:
        data, segments, y_hat = cpu.encode_settled(scalar, psi, y_hat, code, threads)
    else:
        data, segments = cpu.encode_y(scalar, psi, y_hat, code, threads)

    there = functools.partial(torch.Tensor.to, device=device)
    packed = pack(frozen)
    d_z, d_y, d_psi, d_data, d_z_data = map(there, (z_hat, y_hat, psi, data, z_data))
    d_z_segments, d_segments = there(z_segments), there(segments)

    def parameters() -> tuple[torch.Tensor, torch.Tensor]:
        if ops is cpu:
            return ops.parameters(packed, d_psi, d_y, threads)
        return frozen.parameters_on(d_psi, d_y)  # GPUs have no operator of their own for it

    encode = ops.encode_settled if skips else ops.encode_y
    calls = {
        "decode_z": (lambda: ops.decode_z(packed, d_z_data, d_z_segments, hz, wz, threads), z_hat, z_hat.numel()),
        "hyper": (lambda: ops.hyper(packed, d_z, h, w, threads), psi, 0),
        "parameters": (parameters, cpu.parameters(scalar, psi, y_hat, threads), count),
        "encode_z": (lambda: ops.encode_z(packed, d_z, code, threads), (z_data, z_segments), z_hat.numel()),
        "encode_y": (lambda: encode(packed, d_psi, d_y, code, threads)[:2], (data, segments), count),
    }
    cases = []
    for name, (call, want, work) in calls.items():
        got = call()
        if name == "decode_z":
            got = got[0]
        elif name.startswith("encode"):
            got, want = _streams(*got), _streams(*want)
        _same(got, want, f"{name} {size}")
        cases.append(Case(name, size, call, work / 1e6, "Msym/s" if work else ""))
    groups = len(frozen.plan.groups)
    for g in range(1, groups + 1):
        first = frozen if g == groups else first_groups(frozen, g)
        packed_g, part = pack(first), d_segments[:, :g].contiguous()

        def call(packed_g=packed_g, part=part):
            return ops.decode_y(packed_g, d_psi, d_data, part, threads)

        channels = sum(frozen.plan.group_channels[:g])
        _same(call()[0], y_hat[..., :channels].contiguous(), f"decode_y {size}")
        cases.append(Case(f"decode_y, {g} of {groups} groups", size, call, h * w * channels / 1e6, "Msym/s"))
    return cases


def _coder(quick: bool) -> list[Case]:
    data = make_data("photo", 20_000 if quick else 200_000)
    cases = []
    for coder in coders_of_ours(data):
        if not np.array_equal(coder.decode(), data.symbols):
            raise RuntimeError(f"{coder.name} decodes wrongly")
        lanes = coder.name.split(", ")[1]
        cases.append(Case(f"rans decode, {lanes}", "photo", coder.decode, coder.count / 1e6, "Msym/s"))
        cases.append(Case(f"rans encode, {lanes}", "photo", coder.encode, coder.count / 1e6, "Msym/s"))
    return cases


def run(
    device: str = "cpu", *, threads: int = 1, cold: bool = False, quick: bool = False, repeats: int | None = None
) -> dict:
    """Time every operator.

    Args:
        device: "cpu", "cuda" or "cuda:N".
        threads: CPU threads of the engine.
        cold: empty the caches before each call.
        quick: small sizes, few repeats.
        repeats: timed calls each.

    Returns:
        ``device``, ``threads``, ``cold`` and ``cases``: a list of ``name``, ``size``, statistics, ``rate``, ``unit``.

    Raises:
        DeviceError: no such device. RuntimeError: a wrong result.
    """
    where = device_for(device)
    engine = "cpu" if where.type == "cpu" else "cuda"
    cases = _products(where, quick) + _coder(quick)
    for width, height in ((64, 48),) if quick else SIZES:
        cases += _operators(where, threads, width, height, load().ops, lambda frozen: frozen.packed_for(engine, None))
    calls = {str(k): case.call for k, case in enumerate(cases)}
    times = interleaved(calls, repeats or (2 if quick else 9), warmup=1, device=where, cold=cold)
    found = []
    for k, case in enumerate(cases):
        rate = case.work / times[str(k)]["median"] if case.work else None
        found.append({"name": case.name, "size": case.size, **times[str(k)], "rate": rate, "unit": case.unit})
    return {"device": str(where), "threads": threads, "cold": cold, "cases": found}


def report(result: dict) -> str:
    """A table for people."""
    rows: list[list] = [["operator", "size", "median ms", "best ms", "spread %", "rate", "unit"]]
    for c in result["cases"]:
        rows.append([c["name"], c["size"], 1e3 * c["median"], 1e3 * c["best"], 100 * c["spread"], c["rate"], c["unit"]])
    caches = "cold" if result["cold"] else "warm"
    return f"{result['device']}, {result['threads']} thread(s), {caches} caches\n" + table(rows)
