"""CompressAI's nets, accelerated, against CompressAI itself: one interleaved run.

    python benchmarks/dropin.py [--kind mbt2018 cheng2020-anchor] [--threads 1] [--repeats 2]

N = M = 192, one image of 768x512. The nets are untrained, but coded with what they would be coded with: their y and z
are scaled to the spread of trained ones. Timed in turns: CompressAI's ``compress`` and ``decompress``; ours; and of
decompress the autoregressive part (the y string to y_hat, parameters given) and g_s. Validated: every round trip, and
CompressAI's own strings, which our exact path must decode to the same bits.
"""

from __future__ import annotations

import argparse
import time

import compressai_nets as nets
import torch
from common import save

import ccm_fast
from ccm_fast._backend import load
from ccm_fast.codec import parse_packets

CLASSES = {
    "mbt2018": ("JointAutoregressiveHierarchicalPriors", (192, 192)),
    "cheng2020-anchor": ("Cheng2020Anchor", (192,)),
}


def lively(kind: str) -> torch.nn.Module:
    """An untrained net whose latents have the spread of a trained one's (about one bit a symbol)."""
    name, arguments = CLASSES[kind]
    torch.manual_seed(0)
    net = getattr(nets.compressai_models(), name)(*arguments).eval().requires_grad_(False)
    x = torch.rand(1, 3, 64, 64)
    net.g_a[-1].weight *= 0.8 / net.g_a(x).std()
    y = net.g_a(x)
    net.h_a[-1].weight *= 2 / net.h_a(y).std()
    net.entropy_parameters[-1].bias[: net.M] += 0.5  # scales
    net.update(force=True)
    return net


def median(values: list[float]) -> float:
    """Of an odd or even number of values."""
    values = sorted(values)
    return (values[(len(values) - 1) // 2] + values[len(values) // 2]) / 2


def measure(kind: str, size: tuple[int, int], threads: int, repeats: int, own_repeats: int) -> dict:
    """Seconds of every part, and their ratios."""
    w, h = size
    net = lively(kind)
    x = torch.nn.functional.interpolate(torch.rand(1, 3, h // 16, w // 16), (h, w), mode="bicubic").clamp(0, 1)
    fast = ccm_fast.accelerate(net, torch.rand(2, 3, 128, 128), steps=0)
    seconds: dict[str, list[float]] = {}

    def timed(name: str, call, *arguments, **more):
        start = time.perf_counter()
        result = call(*arguments, **more)
        seconds.setdefault(name, []).append(time.perf_counter() - start)
        return result

    loop_seconds: list[float] = []
    inner = net._decompress_ar

    def loop(*arguments, **more):
        start = time.perf_counter()
        result = inner(*arguments, **more)
        loop_seconds.append(time.perf_counter() - start)
        return result

    net._decompress_ar = loop
    fast.decompress(fast.compress(x)["strings"])  # warm-up
    for _ in range(repeats):
        with torch.no_grad():
            theirs = timed("compressai compress", net.compress, x)
            expected = timed("compressai decompress", net.decompress, theirs["strings"], theirs["shape"])
        for _ in range(own_repeats):
            parts: dict[str, float] = {}
            ours = timed("compress", fast.compress, x, threads=threads)
            found = timed("decompress", fast.decompress, *ours.values(), threads=threads, timings=parts)
            for name, value in parts.items():
                seconds.setdefault(f"decompress: {name}", []).append(value)
            with torch.no_grad():
                y = torch.zeros(1, net.M, h // 16, w // 16)
                timed("g_s of the net", net.g_s, y)
        packets = parse_packets(fast.frozen, ours["strings"], ours["shape"])
        psi = fast.frozen.hyper(fast.frozen.decode_z([packets[0].z_stream], *packets[0].z_shape), h // 16, w // 16)
        for _ in range(own_repeats):
            timed("y to y_hat", fast.frozen.decode_y, psi, [packets[0].y_streams], threads=threads)
        exact = timed("exact path", fast.decompress, theirs["strings"], theirs["shape"])
        assert torch.equal(exact["x_hat"], expected["x_hat"])
        assert (found["x_hat"] - expected["x_hat"]).square().mean() < 1e-3
    seconds["compressai loop"] = loop_seconds
    times = {name: {"median": median(v), "best": min(v), "seconds": v} for name, v in seconds.items()}

    def ratio(a: str, b: str) -> float:
        return times[a]["median"] / times[b]["median"]

    bits = 8 * sum(len(s[0]) for s in ours["strings"])
    return {
        "kind": kind,
        "size": [w, h],
        "threads": threads,
        "isa": load().ops.isa_list().split(",")[0],
        "bits_per_latent": bits / (net.M * (h // 16) * (w // 16)),
        "bytes": {"compressai": sum(len(s[0]) for s in theirs["strings"]), "ours": bits // 8},
        "seconds": times,
        "times_faster": {
            "loop": ratio("compressai loop", "y to y_hat"),
            "decompress": ratio("compressai decompress", "decompress"),
            "compress": ratio("compressai compress", "compress"),
            "g_s": ratio("g_s of the net", "decompress: g_s"),
            "exact path": ratio("compressai decompress", "exact path"),
        },
    }


def main() -> None:
    """Run, print, write benchmarks/results/dropin_KIND_THREADSt.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", nargs="+", default=list(CLASSES), choices=list(CLASSES))
    parser.add_argument("--size", type=int, nargs=2, default=(768, 512), metavar=("W", "H"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=2, help="of CompressAI")
    parser.add_argument("--own-repeats", type=int, default=3, help="of ours, for each of CompressAI's")
    args = parser.parse_args()
    if nets.compressai_models() is None:
        return
    torch.set_num_threads(args.threads)
    for kind in args.kind:
        result = measure(kind, tuple(args.size), args.threads, args.repeats, args.own_repeats)
        print(f"{kind}, {args.size[0]}x{args.size[1]}, {args.threads} threads, {result['isa']}")
        for name, t in result["seconds"].items():
            print(f"  {name:26} {t['median']:9.3f} s  (best {t['best']:.3f})")
        for name, value in result["times_faster"].items():
            print(f"  {name:26} {value:9.1f} times faster")
        print("written to", save(f"dropin_{kind}_{args.threads}t", result))


if __name__ == "__main__":
    main()
