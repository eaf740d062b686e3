"""The decoder's context + rANS part beside its multiply-adds as one dense product, which it may beat (Winograd).

Three things in turns, in one run, on one thread by default:

- ``decode``: from the y strings to y_hat with a model of the given preset's sizes (random integer weights; the symbols
  are drawn from the model itself, so that the entropy coder sees the statistics that its tables describe);
- ``product``: the same number of multiply-adds as one dense int8 matrix product with our own kernel, one row for every
  latent position; the faster of two lengths of the columns, 576 and 2,304;
- ``compressai``: the autoregressive loop of CompressAI's mbt2018 (N = M = 192) for an image of the same size, if that
  package is installed.

    python benchmarks/context_rans.py --preset ccm-base --threads 1
"""

from __future__ import annotations

import argparse
import functools
from itertools import pairwise

import numpy as np
import torch
from common import interleaved, save
from compressai_nets import compressai_models

from ccm_fast._backend import load
from ccm_fast.entropy import reference_streams
from ccm_fast.entropy.testing import random_plan, sample_latents
from ccm_fast.models import PRESETS, CCMConfig


def multiply_adds(c: CCMConfig) -> tuple[int, int]:
    """Multiply-adds per latent position of the contexts: (dense part, step part). h_s is not among them."""
    width = c.parameter_widths
    dense = step = 0
    for g, own in enumerate(c.groups):
        before = sum(c.groups[:g])
        dense += c.psi_channels * width[0]
        if before:
            kernels = c.stack_kernels(g)
            dims = [before, *[c.cross_width] * (len(kernels) - 1), width[0]]
            dense += sum(a * b * k * k for a, b, k in zip(dims, dims[1:], kernels, strict=False))
            dense += before * width[0] * c.cross_skip_kernel**2
        taps = c.context_kernel**2 // 2  # of the causal mask
        step += taps * own * width[0] + sum(a * b for a, b in pairwise(width)) + width[-1] * 2 * own
    return dense, step


def compressai_loop(h: int, w: int):
    """A callable that runs CompressAI's autoregressive decoding of one image, or None (with a line) without it."""
    models = compressai_models()
    if models is None:
        return None
    torch.manual_seed(0)
    net = models.JointAutoregressiveHierarchicalPriors(192, 192).eval()
    net.update()
    with torch.no_grad():
        params = torch.randn(1, 2 * 192, h, w)
        y = torch.randn(1, 192, h, w) * 2
        pad = 2  # of its 5x5 context
        string = net._compress_ar(torch.nn.functional.pad(y, (pad,) * 4), params, h, w, 5, pad)

        def decode():
            y_hat = torch.zeros(1, 192, h + 2 * pad, w + 2 * pad)
            net._decompress_ar(string, y_hat, params, h, w, 5, pad)
            return y_hat

    return torch.no_grad()(decode)


def main() -> None:
    """Run, print, write benchmarks/results/context_rans_PRESET.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="ccm-base", choices=sorted(PRESETS))
    parser.add_argument("--size", type=int, nargs=2, default=(768, 512), metavar=("W", "H"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--scale", type=float, default=8, help="typical scale index of the symbols; 8 is sigma = 0.29")
    parser.add_argument("--compressai-repeats", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    ops = load().ops

    c = PRESETS[args.preset]
    w, h = (-(-s // 16) for s in args.size)
    rng = np.random.default_rng(0)
    plan = random_plan(
        rng,
        groups=c.groups,
        hyper_channels=c.hyper_channels,
        psi_channels=c.psi_channels,
        cross_kernels=[c.stack_kernels(g) for g in range(len(c.groups))],
        cross_width=c.cross_width,
        skip_kernel=c.cross_skip_kernel,
        widths=c.parameter_widths,
        scale_centre=args.scale,
    )
    z, y = sample_latents(rng, plan, h, w)
    packed = ops.pack_plan(torch.frombuffer(bytearray(plan.to_bytes()), dtype=torch.uint8), "")
    psi = ops.hyper(packed, torch.from_numpy(z.astype(np.int16))[None], h, w, args.threads)
    y = torch.from_numpy(y.astype(np.int16))[None]
    data, segments = ops.encode_y(packed, psi, y, 0, args.threads)

    dense, step = multiply_adds(c)
    total = (dense + step) * h * w
    products, scale = {}, {}
    for k in (576, 2304):
        n = max(1, round(total / (h * w * k)))
        x8 = torch.from_numpy(rng.integers(0, 256, (h * w, k), dtype=np.uint8))
        w8 = torch.from_numpy(rng.integers(-127, 128, (n, k), dtype=np.int8))
        assert torch.equal(ops.int8_product(x8[:64], w8, "", 1), x8[:64].int() @ w8.int().T)
        products[f"product {k}"] = functools.partial(ops.int8_product, x8, w8, "", 1)
        products[f"packing {k}"] = functools.partial(ops.int8_product, x8, w8, "", 0)  # to be taken off
        scale[k] = total / (h * w * k * n)

    def decode():
        y_hat, status = ops.decode_y(packed, psi, data, segments, args.threads)
        assert status.item() == 0
        assert torch.equal(y_hat, y)

    times = interleaved({"decode": decode, **products}, args.repeats)

    def product(key: str) -> float:
        return min((times[f"product {k}"][key] - times[f"packing {k}"][key]) * scale[k] for k in scale)

    ideal = reference_streams.ideal_bits(plan.y_rows, *coded(ops, packed, psi, y)) / 8
    result = {
        "preset": args.preset,
        "size": list(args.size),
        "threads": args.threads,
        "isa": ops.isa_list().split(",")[0],
        "multiply_adds": {"dense": dense * h * w, "step": step * h * w},
        "bytes": data.numel(),
        "ideal_bytes": ideal,
        "bits_per_symbol": 8 * ideal / y.numel(),
        "lanes": segments[0, :, 2].tolist(),
        "decode_seconds": times["decode"]["median"],
        "product_seconds": product("median"),
        "product_gmacs": total / product("median") / 1e9,
        "ratio": times["decode"]["median"] / product("median"),
        "ratio_of_best": times["decode"]["best"] / product("best"),
        "spread": {name: t["spread"] for name, t in times.items()},
    }
    loop = compressai_loop(h, w) if args.compressai_repeats else None
    if loop:
        slow = interleaved({"compressai": loop, "decode": decode}, args.compressai_repeats, warmup=0)
        result["compressai_seconds"] = slow["compressai"]["median"]
        result["times_faster"] = slow["compressai"]["median"] / times["decode"]["median"]
    for key, value in result.items():
        print(f"{key:20} {value}")
    print("written to", save(f"context_rans_{args.preset}_{args.threads}t", result))


def coded(ops, packed, psi, y):
    """Rows and row-relative values of all symbols."""
    offset, row = ops.parameters(packed, psi, y, 1)
    return row.numpy().astype(np.int64).ravel(), (y - offset).numpy().astype(np.int64).ravel()


if __name__ == "__main__":
    main()
