"""From a trained model to a larger one without starting anew: a fine group and a smaller hyperprior, or more layers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from ..models import CCMConfig, CrossChannelContextModel
from ..models.transforms import Merge, Split, main_path
from .data import to_tensor
from .fine import start_fine

__all__ = ["deepen", "grow", "is_deeper"]

# Images that statistics of the hyperprior are taken of, and their largest side.
_IMAGES, _SIDE = 240, 256


@torch.no_grad()
def grow(model: CrossChannelContextModel, old: CrossChannelContextModel, images: Sequence[np.ndarray]) -> None:
    """Fill a model whose last group is fine from a trained one without that group.

    Args:
        model: its groups are those of ``old`` and a fine one; its hyperprior may have fewer channels. Overwritten.
        old: the trained model, in evaluation mode.
        images: photographs, uint8 [H, W, 3].

    Raises:
        ValueError: the models differ in other ways, or none of the images is as large as 64x64 pixels.
    """
    a, b = old.config, model.config
    same = ("widths", "blocks", "context_kernel", "schedule", "cross_kernels", "cross_width", "parameter_widths")
    differ = [key for key in same if getattr(a, key) != getattr(b, key)]
    if not b.fine or a.fine or b.groups[:-1] != a.groups or differ:
        raise ValueError(f"{b.name} is not {a.name} with a fine group added: {', '.join(differ) or 'other groups'}")
    if b.hyper_channels > a.hyper_channels or b.psi_channels > a.psi_channels:
        raise ValueError("the hyperprior must not grow")
    some = [i for i in (images[k] for k in range(min(_IMAGES, len(images)))) if min(i.shape[:2]) >= 64]
    if not some:
        raise ValueError("no image is as large as 64x64 pixels")
    side = min(_SIDE, min(min(i.shape[:2]) for i in some)) // 64 * 64
    x = to_tensor([i[:side, :side] for i in some])
    quality = 1 + (a.qualities - 1) * (torch.arange(len(x)) % 16 + 0.5) / 16
    y = torch.cat([old.analysis(p, q) for p, q in zip(x.split(8), quality.split(8), strict=True)])

    small = copy.deepcopy(old)
    _shrink_hyperprior(small, y, b.hyper_channels, b.psi_channels)
    _take_over(model, small)
    start_fine(model, images)


# What may differ between a model and a deeper one, besides its name; and what says nothing of its layers.
_DEPTH = ("blocks", "synthesis_blocks", "fine_deep")
_NO_LAYERS = ("skip_index",)


def is_deeper(config: CCMConfig, old: CCMConfig) -> bool:
    """Whether a model of ``config`` is one of ``old`` with more residual blocks, ``fine_deep``, or both.

    Which symbols are skipped may differ.
    """
    same = replace(config, name=old.name, **{key: getattr(old, key) for key in (*_DEPTH, *_NO_LAYERS)}) == old
    stages = [(config.blocks, old.blocks)]
    stages.append((config.synthesis_blocks or config.blocks, old.synthesis_blocks or old.blocks))
    more = all(len(a) == len(b) and all(m >= n for m, n in zip(a, b, strict=True)) for a, b in stages)
    return (
        same
        and more
        and config.fine_deep >= old.fine_deep
        and any(getattr(config, key) != getattr(old, key) for key in _DEPTH)
    )


@torch.no_grad()
def deepen(model: CrossChannelContextModel, old: CrossChannelContextModel) -> None:
    """Fill a deeper model (:func:`is_deeper`) so that it does what the old one does.

    Further blocks come last at their resolution, with second convolutions of zeros.

    Args:
        model: the deeper one. Overwritten.
        old: the trained one.

    Raises:
        ValueError: the first is no deeper form of the second.
    """
    if not is_deeper(model.config, old.config):
        raise ValueError(f"{model.config.name} is not {old.config.name} with deeper transforms")
    weights = old.state_dict()
    model.load_state_dict({k: v for k, v in weights.items() if not k.startswith(("g_a.", "g_s."))}, strict=False)
    for mine, its in ((model.g_a, old.g_a), (model.g_s, old.g_s)):
        known = main_path(its)
        for layer in main_path(mine):
            if known and type(layer) is type(known[0]):
                layer.load_state_dict(known.pop(0).state_dict())
            else:  # a further block
                layer.conv2.weight.zero_()
                layer.conv2.bias.zero_()
        for branch, trained in zip(_branches(mine), _branches(its), strict=True):
            branch.fine.load_state_dict(trained.fine.state_dict())
    if old.config.fine_deep:
        _branches(model.g_a)[0].deep.load_state_dict(_branches(old.g_a)[0].deep.state_dict())


def _branches(transform: nn.Sequential) -> list[Split | Merge]:
    """Where the fine path of g_a or g_s leaves the main one, or joins it; none without a fine group."""
    return [m for m in transform if isinstance(m, (Split, Merge))]


# ---------------------------------------------------------------------------------------------------------------------


def _best(features: Tensor, following: list[nn.Conv2d], keep: int) -> Tensor:
    """The channels that matter most to what reads them; the others' means go to its biases."""
    weight = sum(conv.weight.square().sum((0, 2, 3)) for conv in following)
    matter = features.square().mean((0, 2, 3)) * weight
    kept = matter.argsort(descending=True)[:keep].sort().values
    rest = torch.ones(len(matter), dtype=torch.bool)
    rest[kept] = False
    for conv in following:
        if conv.bias is not None:
            conv.bias += conv.weight[:, rest].sum((2, 3)) @ features.mean((0, 2, 3))[rest]
    return kept


def _cut(conv: nn.Conv2d, outputs: Tensor | None, inputs: Tensor | None) -> None:
    for kept, axis in ((outputs, 0), (inputs, 1)):
        if kept is not None:
            conv.weight = nn.Parameter(conv.weight.index_select(axis, kept))
    if outputs is not None:
        conv.bias = nn.Parameter(conv.bias[outputs])


def _shrink_hyperprior(model: CrossChannelContextModel, y: Tensor, hyper: int, psi: int) -> None:
    """Keep ``hyper`` channels of z and ``psi`` of everything inside h_a and h_s, and of what leaves it."""
    h_a, h_s = model.h_a, model.h_s
    z_hat = torch.round(h_a(y))
    f = y[:, : h_a[0].in_channels]
    for at in (0, 2):
        f = h_a[at + 1](h_a[at](f))
        kept = _best(f, [h_a[at + 2]], psi)
        _cut(h_a[at], kept, None)
        _cut(h_a[at + 2], None, kept)
        f = f[:, kept]
    kept = _best(z_hat, [h_s[0]], hyper)
    _cut(h_a[4], kept, None)
    _cut(h_s[0], None, kept)
    for values in (model.z_prior.matrices, model.z_prior.biases, model.z_prior.factors):
        for k, value in enumerate(values):
            values[k] = nn.Parameter(value[kept])
    f = z_hat[:, kept]
    readers = [[h_s[2]], [h_s[5]], [group.hyper for group in model.contexts]]
    for (first, last), reading in zip(((0, 2), (2, 5), (5, 8)), readers, strict=True):
        f = nn.Sequential(*list(h_s)[first:last])(f)
        kept = _best(f, reading, psi)
        phases = h_s[first].out_channels // f.shape[1]
        _cut(h_s[first], (kept[:, None] * phases + torch.arange(phases)).flatten(), None)
        for conv in reading:
            _cut(conv, None, kept)
        f = f[:, kept]


def _take_over(model: CrossChannelContextModel, old: CrossChannelContextModel) -> None:
    """Every parameter of the old model into its place, the first rows of it where there are more."""
    for mine, its in ((model.g_a, old.g_a), (model.g_s, old.g_s)):
        for layer, known in zip(main_path(mine), main_path(its), strict=True):
            layer.load_state_dict(known.state_dict())
    weights = old.state_dict()
    for name, value in model.state_dict().items():
        if name in weights and not name.startswith(("g_a.", "g_s.")):
            known = weights[name]
            value[tuple(slice(0, n) for n in known.shape)] = known
