"""Layers of transforms: torch's own convolutions against ours, floats and integers, and the machine's peak.

    python benchmarks/transforms.py [--threads 1] [--repeats 5]

Every layer in turns, processor time of the process; results are compared with torch's. The peak is a matrix product of
torch's on operands in the cache, the best of several sizes. Of whole transforms, those of CompressAI's nets among them
where it is installed, the multiply-adds that are left after Winograd are counted and divided by the time at the peak.
"""

from __future__ import annotations

import argparse
import time

import torch
from common import save
from compressai_nets import compressai_models
from torch import nn

import ccm_fast
from ccm_fast.bench import dropin
from ccm_fast.interop.compressai.synthesis import fast_transform
from ccm_fast.models import inference
from ccm_fast.precision import set_transform_precision

N = 192  # channels of the nets that CompressAI trains for its higher rates
LAYERS = {
    "3x3": (lambda: nn.Conv2d(N, N, 3, padding=1), (256, 384)),
    "3x3, LeakyReLU": (lambda: nn.Sequential(nn.Conv2d(N, N, 3, padding=1), nn.LeakyReLU()), (128, 192)),
    "3x3, stride 2": (lambda: nn.Conv2d(N, N, 3, 2, 1), (256, 384)),
    "5x5, stride 2": (lambda: nn.Conv2d(N, N, 5, 2, 2), (256, 384)),
    "5x5, stride 2, transposed": (lambda: nn.ConvTranspose2d(N, N, 5, 2, 2, 1), (128, 192)),
    "5x5, stride 2, transposed, to 3": (lambda: nn.ConvTranspose2d(N, 3, 5, 2, 2, 1), (256, 384)),
    "5x5, stride 2, of 3": (lambda: nn.Conv2d(3, N, 5, 2, 2), (512, 768)),
    "1x1, stride 2": (lambda: nn.Conv2d(N, N, 1, 2), (256, 384)),
}


def seconds(call, *arguments) -> float:
    """Processor time of one call."""
    start = time.process_time()
    call(*arguments)
    return time.process_time() - start


def median(values: list[float]) -> float:
    """The middle one."""
    return sorted(values)[len(values) // 2]


def peak() -> float:
    """G multiply-adds/s of torch's matrix product, the best of some that fit the caches."""
    best = 0.0
    for n in (256, 512, 1024, 2048):
        a = torch.randn(n, n)
        best = max(best, *(n**3 / max(seconds(torch.mm, a, a), 1e-9) / 1e9 for _ in range(5)))
    return best


def multiply_adds(fast: nn.Module, x: torch.Tensor) -> int:
    """Of a fast copy with floats, as they are computed."""
    total = 0

    def counted(m: inference.WinogradConv | inference.DirectConv, inner):
        def added(x: torch.Tensor, *more, **options) -> torch.Tensor:
            nonlocal total
            y = inner(x, *more, **options)
            if isinstance(m, inference.WinogradConv):
                side = 12 if m.shape[1] == 4 else 6
                tiles = -(-x.shape[2] // side) * -(-x.shape[3] // side)
                total += tiles * (m.packed.numel() - 64 * m.shape[2])  # masks come first
            else:
                total += m.packed.numel() * y[0, 0].numel()
            total += 0 if m.then.gamma is None else m.then.gamma.numel() * y[0, 0].numel()
            return y

        return added

    convs = [m for m in fast.modules() if isinstance(m, (inference.WinogradConv, inference.DirectConv))]
    for m in convs:
        m.added = counted(m, m.added)
    fast(x)
    for m in convs:
        del m.added
    return total


PRECISIONS = {"float32": 1e-4, "int16": 2e-2}  # and the error that stops the benchmark, relative to the result


def compare(module: nn.Module, x: torch.Tensor, repeats: int, fast_copy=inference.inference) -> tuple[dict, nn.Module]:
    """Seconds of a module and of its fast copies, their relative errors, and the copy with floats."""
    expected, calls, row = module(x), {"torch": module}, {}
    for name, limit in PRECISIONS.items():
        set_transform_precision(name)
        calls[name] = fast_copy(module)
        error = (calls[name](x) - expected).square().mean().sqrt() / expected.square().mean().sqrt()
        assert error < limit, f"{name}: wrong by {float(error):.2g}"
        row[f"error_{name}"] = float(error)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            times[name].append(seconds(call, x))
    return {**{name: median(v) for name, v in times.items()}, **row}, calls["float32"]


def said(name: str, row: dict) -> str:
    """Times of a layer, ms, and the error of integers."""
    ms = {k: 1e3 * row[k] for k in ("torch", *PRECISIONS)}
    times = ", ".join(f"{k} {v:7.1f}" for k, v in ms.items())
    return f"{name:32} {times} ms: {ms['torch'] / ms['int16']:5.2f} times faster, error {row['error_int16']:.1e}"


def main() -> None:
    """Run, print, write benchmarks/results/transforms_THREADSt.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    result = {"threads": args.threads, "peak_gmacs": peak(), "layers": {}}
    print(f"peak: {result['peak_gmacs']:.1f} G multiply-adds/s")
    with torch.inference_mode():
        for name, (make, size) in LAYERS.items():
            with torch.inference_mode(False):
                module = make().eval().requires_grad_(False)
            weight = next(module.parameters())
            first = module[0] if isinstance(module, nn.Sequential) else module
            x = torch.randn(1, first.in_channels, *size).contiguous(memory_format=torch.channels_last)
            row, _ = compare(module, x, args.repeats)
            # Multiply-adds of the plain form; the positions at which all taps are used.
            where = size[0] * size[1]
            if not isinstance(first, nn.ConvTranspose2d):
                where //= first.stride[0] ** 2
            row["gmacs"] = where * weight.numel() / row["int16"] / 1e9
            result["layers"][name] = row
            print(f"{said(name, row)}, {row['gmacs']:6.1f} G plain multiply-adds/s")
        model = ccm_fast.load("ccm-small")
        channels = model.config.latent_channels
        picture = torch.rand(1, 3, 512, 768)
        whole = [
            ("g_a of ccm-small", model.g_a, picture, inference.inference),
            ("g_s of ccm-small", model.g_s, torch.randn(1, channels, 32, 48), inference.inference),
        ]
        for kind in dropin.KINDS if compressai_models() else ():
            with torch.inference_mode(False):
                net = dropin.lively(kind)
            y = torch.randn(1, N, 32, 48)
            whole += [(f"g_a of {kind}", net.g_a, picture, fast_transform)]
            whole += [(f"g_s of {kind}", net.g_s, y, fast_transform)]
        for name, module, x, fast_copy in whole:
            row, fast = compare(module, x.contiguous(memory_format=torch.channels_last), args.repeats, fast_copy)
            row["multiply_adds"] = multiply_adds(fast, x)
            row["of_peak"] = {k: row["multiply_adds"] / 1e9 / result["peak_gmacs"] / row[k] for k in PRECISIONS}
            result["layers"][name] = row
            peaks = " and ".join(f"{100 * v:.0f} %" for v in row["of_peak"].values())
            print(f"{said(name, row)}, {row['multiply_adds'] / 1e9:5.1f} G multiply-adds at {peaks} of floats' peak")
    print("written to", save(f"transforms_{args.threads}t", result))


if __name__ == "__main__":
    main()
