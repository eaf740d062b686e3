"""Small nets of CompressAI's own classes, trained here: random weights say nothing about rates.

    python benchmarks/compressai_nets.py --data DATA --kind mbt2018

trains one net for the second highest rate and fine-tunes it to four; about half an hour on one core for each kind.
Checkpoints go to runs/compressai, which git ignores; what is already there is not trained again.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from ccm_fast.interop.compressai import package

RUNS = Path(__file__).resolve().parent.parent / "runs" / "compressai"
#: Weight of 255^2 MSE against bits per pixel, as in CompressAI's own training.
LAMBDAS = (0.0018, 0.0035, 0.0067, 0.013)
FIRST = 0.0067
#: Class name, arguments, crops per step, steps of the first training, steps of each fine-tuning.
KINDS = {
    "mbt2018": ("JointAutoregressiveHierarchicalPriors", (48, 64), 4, 3000, 400),
    "cheng2020-anchor": ("Cheng2020Anchor", (32,), 4, 1000, 150),
    "mbt2018-mean": ("MeanScaleHyperprior", (48, 64), 4, 1500, 200),
    "checkerboard": ("Cheng2020AnchorCheckerboard", (32,), 4, 1000, 150),
    "elic2022-chandelier": ("Elic2022Chandelier", (24, 32, [4, 4, 8, 16]), 4, 1500, 200),
}


def compressai_models():
    """The module compressai.models, or None (with a line) where it is not installed."""
    try:
        return package.compressai("models")
    except ImportError as why:
        print(f"compressai: skipped ({why})")
        return None


def path_of(kind: str, lmbda: float) -> Path:
    """Where a net's parameters lie."""
    return RUNS / f"{kind}-{lmbda:g}.pt"


def make(kind: str) -> torch.nn.Module:
    """An untrained net."""
    name, arguments = KINDS[kind][:2]
    return getattr(compressai_models(), name)(*arguments)


def load(kind: str, lmbda: float) -> torch.nn.Module:
    """A trained net, updated, in evaluation mode. Raises FileNotFoundError if it is not trained yet."""
    net = make(kind)
    net.load_state_dict(torch.load(path_of(kind, lmbda), weights_only=True))
    net.eval()
    net.update(force=True, update_quantiles=True)
    return net


def train(net: torch.nn.Module, data, lmbda: float, steps: int, batch: int, rate: float) -> None:
    """Rate-distortion training with CompressAI's loss; noise in place of rounding, as its modules do."""
    parameters = [p for name, p in net.named_parameters() if not name.endswith("quantiles")]
    optimizer = torch.optim.Adam(parameters, lr=rate)
    net.train()
    start, mean = time.time(), [0.0, 0.0]
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * max(0.02, 0.5 * (1 + math.cos(math.pi * step / steps))) * min(1, (step + 1) / 50)
        x = data.batch(batch).contiguous(memory_format=torch.channels_last)
        out = net(x)
        pixels = x.numel() / 3
        bpp = sum(-torch.log2(p).sum() for p in out["likelihoods"].values()) / pixels
        mse = F.mse_loss(out["x_hat"], x)
        loss = lmbda * 255**2 * mse + bpp
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        mean = [0.98 * m + 0.02 * float(v.detach()) for m, v in zip(mean, (bpp, mse), strict=True)]
        if (step + 1) % 100 == 0:
            psnr = -10 * math.log10(mean[1])
            print(f"{lmbda:g} {step + 1:5} {mean[0]:.4f} bpp {psnr:.2f} dB {time.time() - start:.0f} s", flush=True)


def ensure(kind: str, paths: list[Path]) -> None:
    """Train what is missing of a kind."""
    from ccm_fast.train.data import CropDataset, load_images

    missing = [x for x in LAMBDAS if not path_of(kind, x).exists()]
    if not missing:
        return
    _, _, batch, first, more = KINDS[kind]
    data = CropDataset(load_images(paths), 128, seed=1)
    RUNS.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    net = make(kind).to(memory_format=torch.channels_last)
    base = RUNS / f"{kind}-base.pt"
    if base.exists():
        net.load_state_dict(torch.load(base, weights_only=True))
    else:
        train(net, data, FIRST, first, batch, 1e-3)
        torch.save(net.state_dict(), base)
    start = net.state_dict()
    start = {k: v.clone() for k, v in start.items()}
    for lmbda in missing:
        net.load_state_dict(start)
        train(net, data, lmbda, more, batch, 5e-4)
        torch.save(net.state_dict(), path_of(kind, lmbda))


def main() -> None:
    """Train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="tar shards or folders of photographs")
    parser.add_argument("--kind", nargs="+", default=list(KINDS), choices=list(KINDS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    # With oneDNN, as torch 2.13 has it, the backward pass of cheng2020 ends in "free(): invalid next size" or a
    # segmentation fault (AVX2, one thread); torch's own convolutions do not.
    torch.backends.mkldnn.set_flags(False)
    for kind in args.kind:
        ensure(kind, args.data)


if __name__ == "__main__":
    main()
