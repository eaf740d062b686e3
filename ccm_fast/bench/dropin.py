"""CompressAI's nets beside themselves accelerated, in one interleaved run, and how far that is from what limits it.

N = M = 192, one picture of 768x512. The nets are untrained, but coded with what they would be coded with: y and z are
scaled to the spread of trained ones. In turns, with one thread and with two: CompressAI's ``compress`` and
``decompress``, ours (with transforms as :func:`ccm_fast.set_transform_precision` has them, and with floats), of ours
the autoregressive part (the y string to y_hat, psi given), and CompressAI's own strings by the exact path. Every round
trip is checked, and the exact path has to give CompressAI's own picture, bit for bit.

Limits: the autoregressive part's multiply-adds as one dense int8 product of our own kernel; the direct multiply-adds of
g_s at the speed of torch's largest float product.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ccm_fast._backend import load
from ccm_fast.decoding import parse_packets
from ccm_fast.engines import torch_threads
from ccm_fast.entropy.plan import Plan
from ccm_fast.interop.compressai.package import compressai
from ccm_fast.precision import set_transform_precision, transform_precision

from .timing import statistics_of, table

__all__ = ["KINDS", "report", "run"]

#: Class and arguments.
KINDS = {
    "mbt2018": ("JointAutoregressiveHierarchicalPriors", (192, 192)),
    "cheng2020-anchor": ("Cheng2020Anchor", (192,)),
}
# Of the yardsticks: columns of the int8 product (the faster counts), side of the float product.
_COLUMNS, _SIDE = (576, 2304), 1024


def lively(kind: str, width: int | None = None) -> nn.Module:
    """An untrained net whose latents have the spread of a trained one's (about one bit a symbol)."""
    name, arguments = KINDS[kind]
    torch.manual_seed(0)
    net = getattr(compressai("models"), name)(*(width or a for a in arguments)).eval().requires_grad_(False)
    x = torch.rand(1, 3, 64, 64)
    net.g_a[-1].weight *= 0.8 / net.g_a(x).std()
    net.h_a[-1].weight *= 2 / net.h_a(net.g_a(x)).std()
    net.entropy_parameters[-1].bias[: net.M] += 0.5  # scales
    net.update(force=True)
    return net


def multiply_adds(plan: Plan) -> int:
    """Of a position's contexts and heads; h_s is not among them."""
    total = 0
    for group in plan.groups:
        convs = [group.hyper, *group.stack, group.skip, *group.hidden, group.head]
        total += group.weight.size + sum(c.weight.size for c in convs if c is not None)
    return total


def transform_multiply_adds(module: nn.Module, x: Tensor) -> int:
    """Of a transform's convolutions and GDNs, computed directly."""
    total = 0

    def count(m: nn.Module, inputs, output: Tensor) -> None:
        nonlocal total
        if isinstance(m, nn.ConvTranspose2d):
            total += m.weight.numel() * inputs[0][0, 0].numel()
        elif isinstance(m, nn.Conv2d):
            total += m.weight.numel() * output[0, 0].numel()
        elif type(m).__name__ == "GDN":
            total += m.gamma.numel() * output[0, 0].numel()

    hooks = [m.register_forward_hook(count) for m in module.modules()]
    with torch.no_grad():
        module(x)
    for hook in hooks:
        hook.remove()
    return total


class _Case:
    """A net, what it codes, and the seconds of everything that was timed with so many threads."""

    def __init__(self, kind: str, size: tuple[int, int], width: int | None):
        from ccm_fast import accelerate

        w, h = size
        self.kind, self.latent = kind, (h // 16, w // 16)
        self.net = lively(kind, width)
        small = torch.rand(1, 3, max(2, h // 16), max(2, w // 16))
        self.x = torch.nn.functional.interpolate(small, (h, w), mode="bicubic").clamp(0, 1)
        self.precision, images = transform_precision(), torch.rand(2, 3, 128, 128)
        set_transform_precision("float32")
        self.floats = accelerate(self.net, images, steps=0)
        set_transform_precision(self.precision)
        self.fast = accelerate(self.net, images, steps=0)
        self.frozen = self.fast.frozen
        self.seconds: dict[int, dict[str, list[float]]] = {}
        self.loop: list[float] = []
        inner = self.net._decompress_ar

        def loop(*arguments, **more):
            start = time.perf_counter()
            result = inner(*arguments, **more)
            self.loop.append(time.perf_counter() - start)
            return result

        self.net._decompress_ar = loop
        positions = math.prod(self.latent)
        self.context_macs = positions * multiply_adds(self.frozen.plan)
        self.transform_macs = transform_multiply_adds(self.net.g_s, torch.zeros(1, self.net.M, *self.latent))
        self.products: dict[str, Callable[[], object]] = {}
        self.scale: dict[int, float] = {}
        for k in _COLUMNS:
            n = max(1, round(self.context_macs / (positions * k)))
            a, b = torch.randint(0, 256, (positions, k), dtype=torch.uint8), torch.randint(-127, 128, (n, k)).char()
            if not torch.equal(load().ops.int8_product(a[:8], b, "", 1), a[:8].int() @ b.int().T):
                raise RuntimeError("int8_product: wrong result")
            for name, repeats in (("product", 1), ("packing", 0)):  # packing is in both, and taken off
                self.products[f"{name} {k}"] = functools.partial(load().ops.int8_product, a, b, "", repeats)
            self.scale[k] = self.context_macs / (positions * k * n)
        for fast in (self.floats, self.fast):
            fast.decompress(*fast.compress(self.x).values())  # warm

    def timed(self, count: int, name: str, call: Callable, /, *arguments, **more):
        start = time.perf_counter()
        result = call(*arguments, **more)
        self.seconds.setdefault(count, {}).setdefault(name, []).append(time.perf_counter() - start)
        return result

    def round(self, threads: int, own_repeats: int) -> None:
        """Everything once, ours several times."""
        net, fast, timed = self.net, self.fast, functools.partial(self.timed, threads)
        square = torch.rand(_SIDE, _SIDE)
        with torch_threads(threads), torch.no_grad():
            theirs = timed("compressai compress", net.compress, self.x)
            self.loop.clear()
            expected = timed("compressai decompress", net.decompress, theirs["strings"], theirs["shape"])["x_hat"]
            self.seconds[threads].setdefault("compressai loop", []).append(sum(self.loop))
            for _ in range(own_repeats):
                parts: dict[str, float] = {}
                ours = timed("compress", fast.compress, self.x, threads=threads)
                found = timed("decompress", fast.decompress, *ours.values(), threads=threads, timings=parts)
                timed("compress, floats", self.floats.compress, self.x, threads=threads)
                floats = timed("decompress, floats", self.floats.decompress, *ours.values(), threads=threads)
                for name, value in parts.items():
                    self.seconds[threads].setdefault(f"decompress: {name}", []).append(value)
                packets = parse_packets(self.frozen, ours["strings"], ours["shape"])
                z_hat = self.frozen.decode_z([packets[0].z_stream], *packets[0].z_shape)
                psi = self.frozen.hyper(z_hat, *self.latent)
                timed("y to y_hat", self.frozen.decode_y, psi, [packets[0].y_streams], threads=threads)
                timed("g_s of the net", net.g_s, torch.zeros(1, net.M, *self.latent))
                for name, call in self.products.items():
                    timed(name, call)
                timed("float product", torch.mm, square, square)
            exact = timed("exact path", fast.decompress, theirs["strings"], theirs["shape"], threads=threads)["x_hat"]
        if not torch.equal(exact, expected):
            raise RuntimeError(f"{self.kind}: the exact path gives another picture")
        if not bool((found["x_hat"] - expected).square().mean() < 1e-3):
            raise RuntimeError(f"{self.kind}: the accelerated net gives another picture")
        self.apart = float((found["x_hat"] - floats["x_hat"]).square().mean().sqrt())
        self.bytes = {"compressai": sum(len(s[0]) for s in theirs["strings"]), "ours": sum(map(len, ours_of(ours)))}

    def result(self, threads: int, size: Sequence[int]) -> dict:
        times = {name: statistics_of(v) for name, v in self.seconds[threads].items()}

        def ratio(a: str, b: str) -> float:
            return times[a]["median"] / times[b]["median"]

        product = min((times[f"product {k}"]["best"] - times[f"packing {k}"]["best"]) * self.scale[k] for k in _COLUMNS)
        peak = _SIDE**3 / times["float product"]["best"]
        return {
            "kind": self.kind,
            "size": list(size),
            "threads": threads,
            "isa": load().ops.isa_list().split(",")[0],
            "transforms": self.precision,
            "levels_apart": 255 * self.apart,
            "bits_per_latent": 8 * self.bytes["ours"] / (self.net.M * math.prod(self.latent)),
            "bytes": self.bytes,
            "seconds": times,
            "times_faster": {
                "loop": ratio("compressai loop", "y to y_hat"),
                "decompress": ratio("compressai decompress", "decompress"),
                "compress": ratio("compressai compress", "compress"),
                "decompress, floats": ratio("compressai decompress", "decompress, floats"),
                "compress, floats": ratio("compressai compress", "compress, floats"),
                "g_s": ratio("g_s of the net", "decompress: g_s"),
                "exact path": ratio("compressai decompress", "exact path"),
            },
            "limits": {
                "context_multiply_adds": self.context_macs,
                # Our kernel has one thread; so many of them would share it evenly.
                "product_seconds": product / threads,
                "context_over_product": times["y to y_hat"]["median"] / (product / threads),
                "g_s_multiply_adds": self.transform_macs,
                "float_peak_gmacs": peak / 1e9,
                "g_s_seconds_at_peak": self.transform_macs / peak,
                "g_s_over_peak": times["decompress: g_s"]["median"] / (self.transform_macs / peak),
            },
        }


def ours_of(out: dict) -> list[bytes]:
    """All strings."""
    return [s for part in out["strings"] for s in part]


def run(
    quick: bool = False,
    *,
    kinds: Sequence[str] = tuple(KINDS),
    size: tuple[int, int] = (768, 512),
    threads: Sequence[int] = (1, 2),
    repeats: int | None = None,
    own_repeats: int = 3,
    say: Callable[[str], None] = print,
) -> dict:
    """Measure; some five minutes with the defaults, nearly all of them CompressAI's.

    Returns:
        ``cases``: for each net and number of threads ``seconds`` (statistics of every part), ``times_faster``,
        ``limits`` and ``bytes``; none (after a line) where CompressAI is not installed.

    Raises:
        RuntimeError: a wrong result.
    """
    try:
        compressai("models")
    except ImportError as why:
        say(f"compressai: skipped ({why})")
        return {"cases": []}
    if quick:
        kinds, size, threads, own_repeats = kinds[:1], (64, 64), threads[:1], 1
    cases = [_Case(kind, size, 16 if quick else None) for kind in kinds]
    for number in range(repeats or (1 if quick else 2)):
        for case in cases:
            for count in threads:
                case.round(count, own_repeats)
        say(f"round {number + 1} of {repeats or (1 if quick else 2)} done") if not quick else None
    return {"cases": [case.result(count, size) for case in cases for count in threads]}


def report(result: dict) -> str:
    """Tables for people."""
    rows: list[list] = [["net", "threads", "part", "CompressAI s", "ours s", "times faster"]]
    limits: list[list] = [["net", "threads", "what", "ms", "its limit ms", "ratio"]]
    for c in result["cases"]:
        t = {name: v["median"] for name, v in c["seconds"].items()}
        whole = [(name, name + way) for name in ("compress", "decompress") for way in ("", ", floats")]
        for theirs, ours in (*whole, ("loop", "y to y_hat"), ("decompress", "exact path")):
            slow, quick = t[f"compressai {theirs}"], t[ours]
            rows.append([c["kind"], c["threads"], ours, slow, f"{quick:.4f}", slow / quick])
        rows.append([c["kind"], c["threads"], "g_s", t["g_s of the net"], f"{t['decompress: g_s']:.4f}", None])
        rows[-1][-1] = c["times_faster"]["g_s"]
        m = c["limits"]
        head = [c["kind"], c["threads"]]
        seconds, least = 1e3 * t["y to y_hat"], 1e3 * m["product_seconds"]
        limits.append([*head, "y to y_hat, dense int8 product", seconds, least, m["context_over_product"]])
        seconds, least = 1e3 * t["decompress: g_s"], 1e3 * m["g_s_seconds_at_peak"]
        limits.append([*head, f"g_s, {m['float_peak_gmacs']:.0f} Gmac/s", seconds, least, m["g_s_over_peak"]])
    return f"{table(rows)}\n\n{table(limits)}" if result["cases"] else "no CompressAI here: nothing to compare with"
