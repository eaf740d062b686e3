"""Tiny untrained nets of CompressAI's own classes, lively enough to be worth coding with."""

import pytest
import torch

from ccm_fast.bench import peers

KINDS = {
    "mbt2018": ("JointAutoregressiveHierarchicalPriors", (12, 16)),
    "cheng2020-anchor": ("Cheng2020Anchor", (12,)),
    "cheng2020-attn": ("Cheng2020Attention", (12,)),
    "bmshj2018-hyperprior": ("ScaleHyperprior", (12, 16)),
    "mbt2018-mean": ("MeanScaleHyperprior", (12, 16)),
}


def models():
    """The module compressai.models; tests are skipped where it is not installed (`make test` installs it)."""
    try:
        return peers.compressai("models")
    except ImportError as why:
        pytest.skip(str(why))


def make(kind: str, seed: int = 0, update: bool = True) -> torch.nn.Module:
    name, arguments = KINDS[kind]
    torch.manual_seed(seed)
    net = getattr(models(), name)(*arguments).eval().requires_grad_(False)
    last = [m for m in net.g_a.modules() if isinstance(m, torch.nn.Conv2d)][-1]
    last.weight *= 30
    net.h_a[-1].weight *= 20
    for p in net.h_s.parameters():
        p *= 1.5
    head = net.entropy_parameters if hasattr(net, "entropy_parameters") else net.h_s
    final = [m for m in head if isinstance(m, torch.nn.Conv2d)][-1]
    final.weight *= 4
    final.bias[: net.M] += torch.rand(net.M) * 1.5  # scales
    net.entropy_bottleneck.quantiles[:, 0] += 3 * torch.rand(len(net.entropy_bottleneck.quantiles), 1)
    if update:
        net.update(force=True)
    return net


def photos(count: int, h: int, w: int, seed: int = 0) -> torch.Tensor:
    """Smooth random pictures with some grain, float [count, 3, h, w]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, h // 16 + 2, w // 16 + 2, generator=generator)
    x = torch.nn.functional.interpolate(coarse, (h, w), mode="bicubic")
    return (x + 0.05 * torch.randn(x.shape, generator=generator)).clamp(0, 1)
