"""Tiny untrained nets of CompressAI's own classes, lively enough to be worth coding with."""

import importlib.util

import pytest
import torch

from ccm_fast.interop.compressai import package

KINDS = {
    "mbt2018": ("JointAutoregressiveHierarchicalPriors", (12, 16)),
    "cheng2020-anchor": ("Cheng2020Anchor", (12,)),
    "cheng2020-attn": ("Cheng2020Attention", (12,)),
    "bmshj2018-hyperprior": ("ScaleHyperprior", (12, 16)),
    "mbt2018-mean": ("MeanScaleHyperprior", (12, 16)),
    "checkerboard": ("Cheng2020AnchorCheckerboard", (12,)),
    "elic2022-official": ("Elic2022Official", (8, 16, [2, 3, 4, 7])),
    "elic2022-chandelier": ("Elic2022Chandelier", (8, 16, [2, 3, 4, 7])),
}


def models():
    """The module compressai.models; tests are skipped where it is not installed (`make test` installs it)."""
    if importlib.util.find_spec("compressai") is None:
        pytest.skip("compressai is not installed")
    return package.compressai("models")  # one that is there and cannot be imported is a failure


def make(kind: str, seed: int = 0, update: bool = True) -> torch.nn.Module:
    name, arguments = KINDS[kind]
    torch.manual_seed(seed)
    net = getattr(models(), name)(*arguments).eval().requires_grad_(False)
    codecs = [net]
    hyper = net
    if hasattr(net, "latent_codec"):
        hyper, y = net.latent_codec["hyper"], net.latent_codec["y"]
        codecs = [y.latent_codec[f"y{k}"] for k in range(len(y.groups))] if hasattr(y, "groups") else [y]
        for context in getattr(y, "channel_context", {}).values():
            for p in context.parameters():
                p *= 2
    wide = torch.rand(2, 3, 128, 128)
    last = [m for m in net.g_a if isinstance(m, torch.nn.Conv2d)][-1]
    last.weight *= 30 if hyper is net else 3 / net.g_a(wide).std()
    hyper.h_a[-1].weight *= 20 if hyper is net else 3 / hyper.h_a(net.g_a(wide)).std()
    for p in hyper.h_s.parameters():
        p *= 1.5
    for codec in codecs:
        head = codec.entropy_parameters if hasattr(codec, "entropy_parameters") else net.h_s
        final = [m for m in head if isinstance(m, torch.nn.Conv2d)][-1]
        final.weight *= 4
        half = len(final.bias) // 2 if hasattr(codec, "latent_codec") else net.M
        means_first = codec is not net and codec.latent_codec["y"].chunks[0] == "means"
        final.bias[half:] += torch.rand(half) * 1.5 if means_first else 0
        final.bias[:half] += 0 if means_first else torch.rand(half) * 1.5  # scales
        if codec is not net:  # anchors do not see it
            codec.context_prediction.bias += 2 * torch.randn(len(codec.context_prediction.bias))
    hyper.entropy_bottleneck.quantiles[:, 0] += 3 * torch.rand(len(hyper.entropy_bottleneck.quantiles), 1)
    if update:
        net.update(force=True)
    return net


def photos(count: int, h: int, w: int, seed: int = 0) -> torch.Tensor:
    """Smooth random pictures with some grain, float [count, 3, h, w]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, h // 16 + 2, w // 16 + 2, generator=generator)
    x = torch.nn.functional.interpolate(coarse, (h, w), mode="bicubic")
    return (x + 0.05 * torch.randn(x.shape, generator=generator)).clamp(0, 1)
