"""Entropy models that benchmarks/context_ablation.py compares, and the latents that they code."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ccm_fast.entropy.schedule import Schedule
from ccm_fast.models import CCMConfig, CrossChannelContextModel
from ccm_fast.models.context import SpatialContext
from ccm_fast.train.data import ImageFiles
from ccm_fast.train.klt import groups_in_turn
from ccm_fast.train.stages import TRANSFORMS

__all__ = [
    "build",
    "channel_order",
    "channel_strengths",
    "latents",
    "sizes",
    "spatial",
    "transforms_digest",
    "variants",
    "write",
]

SORTED = ("ccm-uneven", "ccm-4-sorted")  # strong channels first


def variants(base: CCMConfig) -> dict[str, CCMConfig]:
    """Configurations with the transforms of `base`; what is not named is as there."""
    M = base.latent_channels
    base = replace(base, reconstruction="integer")  # centroids, and pictures, would differ from variant to variant

    def sized(groups: tuple[int, ...], schedule: str) -> CCMConfig:
        widths = tuple(max(1, round(w * len(base.groups) / len(groups))) for w in base.parameter_widths)
        return replace(base, groups=groups, schedule=schedule, parameter_widths=widths)

    def equal(n: int) -> tuple[int, ...]:
        return tuple(M * (k + 1) // n - M * k // n for k in range(n))

    eighth = M // 8
    made = {
        "spatial": sized((M,), "wavefront"),
        "ccm-4": sized(equal(4), "wavefront"),
        "hyper": sized((M,), "single"),
        "channel-4": sized(equal(4), "single"),
        "ccm-2": sized(equal(2), "wavefront"),
        "ccm-8": sized(equal(8), "wavefront"),
        "ccm-uneven": sized((eighth, eighth, 2 * eighth, M - 4 * eighth), "wavefront"),
        "ccm-4-sorted": sized(equal(4), "wavefront"),
    }
    return {name: replace(config, name=name) for name, config in made.items()}


# ---------------------------------------------------------------------------------------------------------------------
# The latents


def transforms_digest(model: CrossChannelContextModel) -> str:
    """Of everything that decides the latents and what is made of them."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if name.startswith(TRANSFORMS):
            digest.update(name.encode() + value.float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


@torch.no_grad()
def latents(model: CrossChannelContextModel, digest: str, images: ImageFiles, folder: Path, limit: int) -> Tensor:
    """y [2n, M, h, w] before the gain, fp16: of the centre of each training image, and of its mirror image."""
    count = min(limit or len(images), len(images))
    side = min(min(size) for size in images.sizes) // 16 * 16
    names = json.dumps([digest, count, side, [(str(Path(p).name), n) for p, _, n in images.places]])
    path = folder / f"latents_{hashlib.sha256(names.encode()).hexdigest()[:16]}.pt"
    if path.is_file():
        return torch.load(path, weights_only=True)
    out = []
    for k in range(count):
        i, j = ((s - side) // 2 for s in images.sizes[k])
        x = torch.tensor(images[k][i : i + side, j : j + side]).permute(2, 0, 1)[None].float().div_(255)
        both = torch.cat([x, x.flip(3)]).contiguous(memory_format=torch.channels_last)
        out.append(model.g_a(both).half())
    y = torch.cat(out)
    write(y, path)
    return y


def write(value: object, path: Path) -> None:
    """torch.save, in one go."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    torch.save(value, temporary)
    temporary.replace(path)


def channel_strengths(model: CrossChannelContextModel, y: Tensor) -> Tensor:
    """Log of each channel's standard deviation in quantization steps, mean over the qualities: [M]."""
    power = torch.stack([part.float().square().mean((0, 2, 3)) for part in y.split(256)]).mean(0)
    return power.log() / 2 + model.log_gain.detach().mean(0)


def channel_order(strengths: Tensor, config: CCMConfig) -> list[int]:
    """Which of the source's channels stands at each place of a variant's latents."""
    by_strength = strengths.argsort(descending=True).tolist()
    if config.name in SORTED:
        return by_strength
    order = [0] * len(by_strength)
    for channel, place in zip(by_strength, groups_in_turn(config.groups), strict=True):
        order[place] = channel
    return order


# ---------------------------------------------------------------------------------------------------------------------
# The models


@torch.no_grad()
def build(
    config: CCMConfig, source: CrossChannelContextModel, order: list[int], strengths: Tensor, seed: int
) -> CrossChannelContextModel:
    """A new entropy model beside the source's transforms and gains, whose latent channels take another order."""
    torch.manual_seed(seed)
    model = CrossChannelContextModel(config)
    for part in ("g_a", "g_s"):
        getattr(model, part).load_state_dict(getattr(source, part).state_dict())
    model.log_gain.copy_(source.log_gain[:, order])
    model.log_inverse_gain.copy_(source.log_inverse_gain[:, order])
    last = [m for m in model.g_a.modules() if isinstance(m, nn.Conv2d)][-1]
    first = next(m for m in model.g_s.modules() if isinstance(m, nn.Conv2d))
    if last.out_channels != len(order) or first.in_channels != len(order):
        raise RuntimeError("the transforms' outer convolutions are not those of the latents")
    last.weight.copy_(last.weight[order])
    last.bias.copy_(last.bias[order])
    first.weight.copy_(first.weight[:, order])
    # All start from every channel's own sigma, as a training does (train/klt.py).
    for group, own in zip(model.contexts, strengths[order].exp().split(config.groups), strict=True):
        group.start_from(own)
    for name, p in model.named_parameters():
        p.requires_grad_(not name.startswith(TRANSFORMS))
    return model


@torch.no_grad()
def sizes(model: CrossChannelContextModel) -> dict[str, int]:
    """``parameters`` of the entropy model, and ``multiply_adds`` of a decoder for a latent position: h_s, contexts."""
    c, found = model.config, {"multiply_adds": 0}
    taps = len(Schedule.from_name(c.schedule, c.context_kernel).taps(c.context_kernel))
    unused = (c.context_kernel**2 - taps) * sum(m.weight.shape[0] * m.weight.shape[1] for m in spatial(model))
    trained = sum(p.numel() for n, p in model.named_parameters() if not n.startswith(TRANSFORMS))
    side = 8  # latents; z has a quarter

    def count(module: nn.Conv2d, _, out: Tensor) -> None:
        read = taps if isinstance(module, SpatialContext) else module.kernel_size[0] * module.kernel_size[1]
        found["multiply_adds"] += out.numel() * module.in_channels * read

    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, nn.Conv2d)]
    y, z = torch.zeros(1, c.latent_channels, side, side), torch.zeros(1, c.hyper_channels, side // 4, side // 4)
    model.entropy_parameters(y, z)
    for hook in hooks:
        hook.remove()
    return {"parameters": trained - unused, "multiply_adds": found["multiply_adds"] // side**2}


def spatial(model: CrossChannelContextModel) -> list[SpatialContext]:
    """Its masked convolutions."""
    return [m for m in model.modules() if isinstance(m, SpatialContext)]
