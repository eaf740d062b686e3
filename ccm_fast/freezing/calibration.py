"""Calibration of our models: the scales of activations with the least code length, layer by layer.

What follows from them is in :mod:`ccm_fast.freezing.scales`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from ccm_fast.constants import CONTEXT_LIMIT
from ccm_fast.entropy.likelihood import logistic_likelihood, scale_from_index
from ccm_fast.freezing.floats import FloatGroup, FloatLayer
from ccm_fast.freezing.layers import Layer, flat, least_error, mean_square
from ccm_fast.freezing.rounded import Group, Network, hyper_layers
from ccm_fast.freezing.scales import Choose, Seen, fill_group, fill_layers, not_absurdly_fine
from ccm_fast.models.ccm import CrossChannelContextModel
from ccm_fast.models.context import GroupContext

__all__ = ["best_calibration", "code_length"]

# Activation ranges tried, as shares of a channel's largest activation.
_CLIPS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.33, 0.27, 0.22, 0.18, 0.15, 0.12, 0.1)
# How far each channel's activation scale follows its own range (1) or the layer's (0); 1/2 shares the rounding noise
# between activations and the weights that read them (cross-layer equalization, Nagel et al. 2019, arXiv 1906.04721).
EQUALIZATIONS = (0.5, 1.0)
# Shares of the ranges with the least squared error. Low qualities use a small part of the range that high ones need,
# and rounding costs them more than saturation costs the others: about half is best (measured on the code length).
SATURATIONS = (1.0, 0.7, 0.5, 0.42)


def code_length(y_hat: Tensor, mean: Tensor, index: Tensor) -> Tensor:
    """Bits per image [B] of y_hat [B, M, h, w], means and scale indexes of its shape; all float32."""
    return -torch.log2(logistic_likelihood(y_hat, mean, scale_from_index(index))).flatten(1).sum(1)


# Outputs of layers stay below 2 to this, which leaves a factor of 2 for the rounding of weights.
_REACH = 30


class _Scales(NamedTuple):
    """How activation scales are chosen.

    Attributes:
        equalization: see EQUALIZATIONS.
        saturation: see SATURATIONS.
    """

    equalization: float
    saturation: float


class _Activations(NamedTuple):
    """What was seen of feature maps (:class:`ccm_fast.freezing.scales.Activations`).

    Attributes:
        power: mean square of every channel.
        best: of every channel, the range with the least squared error; of feature maps that will be bytes.
    """

    power: Tensor
    best: Tensor | None = None

    def square(self, unit: Tensor | None) -> Tensor:
        """The mean squares in steps of ``unit`` [channels] (None: 1)."""
        return (self.power / unit**2 if unit is not None else self.power) + 1e-6

    def mean(self, unit: Tensor | None) -> None:
        """Biases stay as they are."""

    def unit(self, way: _Scales) -> Tensor:
        """Units of the bytes, per channel."""
        best, e = self.best, way.equalization
        return way.saturation * best**e * best.max() ** (1 - e) / 255


def _latents(batches: list[Tensor]) -> _Activations:
    return _Activations(mean_square(batches))


def _features(batches: list[Tensor], importance: list[float]) -> _Activations:
    """Of feature maps after a ReLU; ``importance`` of every image."""
    x = flat(batches)
    samples = zip(batches, importance, strict=True)
    weight = torch.cat([torch.full((b.shape[0] * b.shape[2] * b.shape[3],), k) for b, k in samples])
    top = x.amax(1).clamp(min=1e-6)
    unit, _ = least_error(x, (top * share / 255 for share in _CLIPS), 0, 255, lambda square: square @ weight)
    # So would layers that never fire: any unit will do for them.
    best = not_absurdly_fine(unit * 255) if x.max() > 0 else torch.ones_like(top)
    return _Activations(x.square().mean(1), best)


def _within_32_bits(out_unit: Tensor, source: FloatLayer, unit: Tensor | None) -> Tensor:
    """Units of a layer's outputs, not so fine that any input could overflow 32 bits in them.

    That is so of channels that hardly ever fire and have large weights, as Adam makes them: their range says nothing.

    Args:
        out_unit: per channel, by the activations that were seen.
        source: the layer.
        unit: of its inputs, bytes, per channel; None: latents.
    """
    largest = 255 * unit[None, :, None, None] if unit is not None else CONTEXT_LIMIT
    bound = (source.weight.abs() * largest).sum((1, 2, 3)) + source.bias.abs()
    phases = source.upsample**2
    return torch.maximum(out_unit.repeat_interleave(phases), bound / 2**_REACH).view(-1, phases).amax(1)


def _chooser(ways: Iterator[_Scales]) -> Choose:
    """Units by one of ``ways`` after the other."""

    def choose(_: Layer, source: FloatLayer, outputs: _Activations, unit: Tensor | None) -> Tensor:
        return _within_32_bits(outputs.unit(next(ways)), source, unit)

    return choose


def _float_layer(conv: nn.Conv2d, upsample: int = 1, slope: float = 0.0) -> FloatLayer:
    bias = conv.bias if conv.bias is not None else conv.weight.new_zeros(conv.out_channels)
    return FloatLayer(conv.weight, bias, upsample, slope)


def _float_group(context: GroupContext) -> FloatGroup:
    spatial = context.spatial
    return FloatGroup(
        _float_layer(context.hyper),
        [_float_layer(conv) for conv in context.stack],
        None if context.skip is None else _float_layer(context.skip),
        None if spatial is None else spatial.weight * spatial.taps.any(0).any(0),
        [*(_float_layer(conv) for conv in context.hidden), _float_layer(context.head, slope=1.0)],
    )


@torch.no_grad()
def _hyper_activations(
    model: CrossChannelContextModel, data: list[tuple[Tensor, Tensor]], importance: list[float]
) -> tuple[list[_Activations], list[Tensor]]:
    """Of z_hat and of every layer of h_s; and psi of each image, cropped to y's size."""
    x = [z.clamp(-CONTEXT_LIMIT, CONTEXT_LIMIT) for _, z in data]
    found = [_latents(x)]
    for conv, up in hyper_layers(model):
        x = [F.relu(F.pixel_shuffle(conv(b), up) if up > 1 else conv(b)) for b in x]
        found.append(_features(x, importance))
    return found, [_crop(p, y) for p, (y, _) in zip(x, data, strict=True)]


def _crop(psi: Tensor, y: Tensor) -> Tensor:
    return psi[..., : y.shape[-2], : y.shape[-1]]


@torch.no_grad()
def _group_activations(
    context: GroupContext, psi: list[Tensor], earlier: list[Tensor], own: list[Tensor], importance: list[float]
) -> Seen:
    """All float activations of a group, computed once for all ways to scale them."""
    pre = [context.base(p, e if e.shape[1] else None) for p, e in zip(psi, earlier, strict=True)]
    if context.spatial is not None:
        pre = [b + context.spatial(o) for b, o in zip(pre, own, strict=True)]

    def layers(x: list[Tensor], convs: Sequence[nn.Conv2d]) -> list[_Activations]:
        found = []
        for conv in convs:
            x = [F.relu(conv(b)) for b in x]
            found.append(_features(x, importance))
        return found

    f = [F.relu(b) for b in pre]
    return Seen(
        _latents(psi),
        _latents(earlier),
        _latents(own),
        _features(f, importance),
        layers(earlier, context.stack[:-1]),
        layers(f, context.hidden),
    )


@torch.no_grad()
def _calibrate_hyper(
    network: Network, model: CrossChannelContextModel, found: list[_Activations], way: _Scales
) -> Tensor:
    """Set h_s; returns the units of psi."""
    sources = [_float_layer(conv, up) for conv, up in hyper_layers(model)]
    return fill_layers(network.h_s, sources, found[0], None, found[1:], _chooser(repeat(way)))


def _activations(group: Group) -> int:
    """How many layers of a group give bytes: the sum of contexts, the stack's but for its last, the hidden ones."""
    return 1 + max(len(group.stack) - 1, 0) + len(group.hidden)


@torch.no_grad()
def _calibrate_group(
    group: Group, context: GroupContext, found: Seen, psi_unit: Tensor, ways: Sequence[_Scales]
) -> None:
    """Set a group; one of ``ways`` for each of its :func:`_activations`."""
    rest = iter(ways)
    sum_unit = found.sum.unit(next(rest))
    end = torch.tensor([1 / 16, 1 / GroupContext.INDEX_GAIN]).repeat_interleave(group.channels)
    fill_group(group, _float_group(context), found, psi_unit, sum_unit, end, _chooser(rest))


def best_calibration(
    model: CrossChannelContextModel, data: list[tuple[Tensor, Tensor]], expected: list[float], progress: bool = False
) -> Network:
    """The calibrated network with the least relative code length among a few ways to choose activation scales.

    One way for all of h_s and the groups that follow, then one for each group, on which no other one depends, and then
    for each of its layers, one after another. An activation's error counts by what it does to the relative code length,
    so an image counts by 1 / its bits.

    Args:
        model: the float model.
        data: of each image y_hat [1, M, h, w] and z_hat [1, N, hz, wz], float32.
        expected: bits of each by the float model.
        progress: show a bar.
    """
    ways = [_Scales(e, s) for e in EQUALIZATIONS for s in SATURATIONS]
    importance = [1e3 / bits for bits in expected]
    network = Network(model)
    hyper, float_psi = _hyper_activations(model, data, importance)
    context = [y.clamp(-CONTEXT_LIMIT, CONTEXT_LIMIT) for y, _ in data]
    # psi of the integers and its unit, by way, and of each group its channels, what it reads, and its activations.
    psi: list[tuple[list[Tensor], Tensor]] = []
    for way in ways:
        unit = _calibrate_hyper(network, model, hyper, way)
        with torch.no_grad():
            psi.append(([_crop(network.hyper(z), y) for y, z in data], unit))
    groups, start = [], 0
    for g, group in enumerate(network.groups):
        before, own = slice(start), slice(start, start + group.channels)
        earlier, mine = ([c[:, part] for c in context] for part in (before, own))
        groups.append((own, earlier, mine, _group_activations(model.contexts[g], float_psi, earlier, mine, importance)))
        start += group.channels

    @torch.no_grad()
    def length(g: int, h: int, chosen: list[_Scales]) -> float:
        """The relative code length of a group, mean over images, with psi of way h."""
        group, (own, earlier, mine, found), (bytes_, unit) = network.groups[g], groups[g], psi[h]
        _calibrate_group(group, model.contexts[g], found, unit, chosen)
        total = 0.0
        for p, e, o, (y, _), bits in zip(bytes_, earlier, mine, data, expected, strict=True):
            mean, index = group(p, e, o)
            total += float(code_length(y[:, own], mean / 16, index)) / bits
        bar.update()
        return total / len(data)

    sizes = [_activations(group) for group in network.groups]
    # Every way for every group, twice but for the best one, then each layer's others, and the end.
    tries = sum(len(ways) + (len(ways) - 1) * (1 + layers) + 1 for layers in sizes)
    bar = tqdm(total=tries, disable=not progress, unit="try", desc="calibration")
    # For each way of h_s, the length of every group that follows it.
    uniform = [[length(g, h, [way] * sizes[g]) for g in range(len(groups))] for h, way in enumerate(ways)]
    h = min(range(len(ways)), key=lambda k: sum(uniform[k]))
    _calibrate_hyper(network, model, hyper, ways[h])
    for g, layers in enumerate(sizes):
        tried = [(uniform[h][g] if way is ways[h] else length(g, h, [way] * layers), [way] * layers) for way in ways]
        least, chosen = min(tried, key=lambda c: c[0])
        for k in range(layers):
            for way in [w for w in ways if w is not chosen[k]]:
                other = [*chosen[:k], way, *chosen[k + 1 :]]
                if (found := length(g, h, other)) < least:
                    least, chosen = found, other
        length(g, h, chosen)
    bar.close()
    return network
