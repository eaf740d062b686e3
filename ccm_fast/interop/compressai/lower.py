"""Lowering: the entropy networks of a CompressAI net become a plan.

The networks stay as they are, layer by layer, with two changes. The masked convolution and the first 1x1 layer, between
which nothing happens, become one (a step then has one product less, and nothing is rounded between them). And z is
coded as round(z - median): its medians enter h_s through one more channel of z that is always the same number, because
a bias would be wrong at the plane's border, where the convolution meets zeros. Its row of the tables makes it cost less
than 0.01 bit a position. Channel contexts keep all their layers, with the part of the first 1x1 layer that reads them
as one more: merged into it, the last 5x5 layer would yield that layer's width (12 times its own in elic2022).

Scales come from calibration (:mod:`ccm_fast.freezing.scales`). Fine-tuning then minimises the divergence of the integer
net's Gaussians from the float net's, so that an undertrained net gets no better by it: what is measured is the price of
integers.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from ccm_fast.constants import CONTEXT_LIMIT
from ccm_fast.entropy.likelihood import lower_bound
from ccm_fast.entropy.plan import Plan
from ccm_fast.freezing.floats import FloatGroup, FloatLayer
from ccm_fast.freezing.layers import Layer, flat, least_error, mean_square
from ccm_fast.freezing.scales import Choose, Seen, fill_group, fill_layers, not_absurdly_fine
from ccm_fast.freezing.tuning import fine_tune
from ccm_fast.interop.compressai.floats import Sample, activate, conv
from ccm_fast.interop.compressai.network import Network
from ccm_fast.interop.compressai.parts import EntropyNet

__all__ = ["lower"]

# Activation ranges tried, as shares of a channel's largest activation, and zero points, of leaky and of linear layers.
_CLIPS = (1.0, 0.85, 0.7, 0.57, 0.46, 0.36, 0.28, 0.2, 0.14)
_ZEROS = {True: (96, 112, 128, 144, 160), False: (0, 1, 2, 3, 5, 8, 12, 20, 32, 64)}
# Positions looked at to choose one activation's scale.
_POSITIONS = 4096
# No unit of contexts below this: rarer channels would get absurdly fine ones.
_CONTEXT_UNIT_MIN = 1 / 64


# ---------------------------------------------------------------------------------------------------------------------
# Calibration


class _Activations:
    """Latents that integer layers read; or, with ``importance``, outputs that they give.

    Args:
        batches: of each image [1, channels, h, w].
        importance: [channels], how much a squared error of a channel matters; of outputs.
        last: the largest value that the last channel has, if it must be represented exactly; of outputs.
    """

    def __init__(self, batches: list[Tensor], importance: Tensor | None = None, last: float | None = None):
        self.batches, self.importance, self.last = batches, importance, last

    def _steps(self, unit: Tensor | None) -> list[Tensor]:
        return self.batches if unit is None else [x / unit[:, None, None] for x in self.batches]

    def square(self, unit: Tensor | None) -> Tensor:
        """The mean square of every channel, in steps of ``unit``."""
        return mean_square(self._steps(unit)) + 1e-6

    def mean(self, unit: Tensor | None) -> Tensor:
        """The mean of every channel, in steps of ``unit``."""
        return flat(self._steps(unit)).mean(1)

    def scale(self, slope: float, saturation: float) -> tuple[Tensor, int]:
        """Units of the bytes of outputs, per channel, and their zero point: those with the least squared error.

        Args:
            slope: of the leaky ReLU that they come from; 0: ReLU, 1: none.
            saturation: share of the best range that is taken.
        """
        x = flat(self.batches)
        x = x[:, torch.linspace(0, x.shape[1] - 1, min(_POSITIONS, x.shape[1])).long()]
        top, bottom = x.amax(1).clamp(min=1e-6), -x.amin(1).clamp(max=0)
        found = (math.inf, None, 0)
        for zero in (0,) if slope == 0.0 else _ZEROS[slope == 1.0]:
            most = torch.maximum(top / (255 - zero), bottom / max(zero, 0.5))
            units = (most * share for share in _CLIPS)
            best, error = least_error(x, units, -zero, 255 - zero, lambda square: square.mean(1))
            total = float((error * self.importance).sum())
            if total < found[0]:
                found = (total, best, zero)
        _, unit, zero = found
        unit = saturation * not_absurdly_fine(unit)
        if self.last is not None:
            unit[-1] = self.last / (255 - zero)
        return unit, zero


def _chooser(saturation: float) -> Choose:
    def choose(layer: Layer, source: FloatLayer, outputs: _Activations, _: Tensor | None) -> Tensor:
        unit, layer.zero = outputs.scale(source.slope, saturation)
        return unit

    return choose


def _importance(layer: FloatLayer, rows: Tensor | None = None) -> Tensor:
    """Of a layer's input channels: the squares of their weights, those of output row n times rows[n]."""
    square = layer.weight.square().sum((2, 3))
    return (square if rows is None else square * rows[:, None]).sum(0)


@torch.no_grad()
def _calibrate(net: EntropyNet, data: list[Sample], saturation: float) -> Network:
    network = Network(net)
    model = network.float
    choose = _chooser(saturation)
    found: list[_Activations] = []
    for k, out in enumerate(zip(*(model.psi(s.z) for s in data), strict=True)):
        if k + 1 < len(net.h_s):
            importance = _importance(net.h_s[k + 1])
        else:
            importance = sum(_importance(group.from_psi) for group in net.groups)
        # Of features that mark anchors the last one's one value is the largest byte, however the others saturate.
        exact = net.marked and all(x.upsample == 1 for x in net.h_s[k + 1 :])
        found.append(_Activations([*out], importance, float(out[0][:, -1].max()) if exact else None))
    sources = list(net.h_s)
    if network.constant:
        extra = network.median_weight[:, None] / network.constant
        sources[0] = replace(sources[0], weight=torch.cat([sources[0].weight, extra], 1))
    z = _Activations([network.z_inputs(s.z) for s in data])
    unit = fill_layers(network.h_s, sources, z, None, found, choose)
    if network.reads_y:
        _calibrate_context(network, data)
    psi = [p[..., : s.y.shape[-2], : s.y.shape[-1]] for p, s in zip(found[-1].batches, data, strict=True)]
    for g in range(len(net.groups)):
        _calibrate_group(network, g, data, psi, unit, saturation)
    return network


def _calibrate_group(
    network: Network, g: int, data: list[Sample], psi: list[Tensor], psi_unit: Tensor, saturation: float
) -> None:
    net, model, integer = network.net, network.float, network.groups[g]
    group, spatial = net.groups[g], model.spatial[g]
    start, own = model.start[g], slice(model.start[g], model.start[g] + group.channels)
    end = torch.full((2 * group.channels,), 1 / 16)
    end[group.channels :] = network.scale_step
    context = [network.contexts(s.y_hat) for s in data]
    hyper, stack, tail = group.from_psi, list(group.stack), list(group.tail)
    seen = Seen(
        _Activations(psi),
        _Activations([c[:, :start] for c in context]),
        _Activations([c[:, own] for c in context]),
        None,
        [],
        [],
    )

    outputs = [model.stack(s.y_hat, g)[:-1] for s in data]
    if tail:
        tail[-1] = _means_first(tail[-1], False)
        # What an error of a mean or a scale costs in code length.
        rows = flat([1 / (s.scale[:, own].square() + 1 / 12) for s in data]).mean(1).repeat(2)
        x = [F.leaky_relu(model.pre(p, s.y_hat, g), integer.slope) for p, s in zip(psi, data, strict=True)]
        seen.sum = _Activations(x, _importance(tail[0]))
        sum_unit, integer.zero = seen.sum.scale(hyper.slope, saturation)
        for k, source in enumerate(tail[:-1]):
            x = [activate(conv(b, source), source) for b in x]
            seen.hidden.append(_Activations(x, _importance(tail[k + 1], rows if k == len(tail) - 2 else None)))
    else:
        hyper, sum_unit = _means_first(hyper, net.kind == "scale"), end
        stack[-1:] = [_means_first(source, False) for source in stack[-1:]]
        spatial = None if spatial is None else spatial.roll(group.channels, 0)
    seen.stack = [_Activations([*out], _importance(stack[k + 1])) for k, out in enumerate(zip(*outputs, strict=True))]
    if network.reads_y:
        units = network.context_unit
        spatial = None if spatial is None else spatial * units[None, own, None, None]
        if stack:
            stack[0] = replace(stack[0], weight=stack[0].weight * units[None, :start, None, None])
    source = FloatGroup(hyper, stack, None, spatial, tail)
    fill_group(integer, source, seen, psi_unit, sum_unit, end, _chooser(saturation))


def _calibrate_context(network: Network, data: list[Sample]) -> None:
    x = flat([s.y_hat for s in data])
    most = x.abs().amax(1) / CONTEXT_LIMIT
    units = ((most * share).clamp(min=_CONTEXT_UNIT_MIN) for share in _CLIPS)
    network.context_unit, _ = least_error(x, units, -CONTEXT_LIMIT, CONTEXT_LIMIT, lambda square: square.mean(1))


def _means_first(layer: FloatLayer, scales_only: bool) -> FloatLayer:
    """CompressAI's heads yield scales, then means; ours means, then scales (zero means if there are none)."""
    if scales_only:
        zero = torch.zeros_like
        return FloatLayer(torch.cat([zero(layer.weight), layer.weight]), torch.cat([zero(layer.bias), layer.bias]))
    order = torch.arange(len(layer.bias)).roll(len(layer.bias) // 2)
    return FloatLayer(layer.weight[order], layer.bias[order])


# ---------------------------------------------------------------------------------------------------------------------


def _excess(network: Network, y_hat: Tensor, z: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Divergence of the float net's Gaussians (mean, scale) from the integer net's, bits per image [B].

    Both with the variance of a unit interval added: symbols are whole numbers.
    """
    m, s = network(y_hat, z)
    low, high = float(network.net.scale_table[0]), float(network.net.scale_table[-1])
    s = -lower_bound(-lower_bound(s, low), -high)
    true, ours = scale.square() + 1 / 12, s.square() + 1 / 12
    nats = 0.5 * ((ours / true).log() + (true + (m - mean).square()) / ours - 1)
    return nats.flatten(1).sum(1) / math.log(2)


def lower(
    net: EntropyNet,
    data: list[Sample],
    steps: int,
    batch: int = 4,
    seed: int = 0,
    history: list[float] | None = None,
    progress: bool = False,
) -> Plan:
    """The plan of a net.

    Args:
        net: from :func:`ccm_fast.interop.compressai.read.read`.
        data: calibration samples, some 30 or more.
        steps: of fine-tuning; 0: calibration only.
        batch: samples per step.
        seed: of their order.
        history: if given, the relative excess of code length is appended: after calibration (all samples), then of
            every step, then at the end (all samples).
        progress: show bars.

    Raises:
        OverflowProofError: some input could overflow 32 bits.
    """
    tensors = [(s.y_hat, s.z, s.mean, s.scale) for s in data]

    @torch.no_grad()
    def total(network: Network) -> float:
        return sum(float(_excess(network, *t)) / s.bits for t, s in zip(tensors, data, strict=True)) / len(data)

    candidates, excess = [], []
    for saturation in tqdm((1.0, 0.75), disable=not progress, desc="calibration"):
        candidates.append(_calibrate(net, data, saturation))
        excess.append(total(candidates[-1]))
    network = candidates[int(np.argmin(excess))]
    if history is not None:
        history.append(min(excess))

    def loss(batch_tensors: tuple[Tensor, ...], chosen: list[int]) -> Tensor:
        return (_excess(network, *batch_tensors) / torch.tensor([data[k].bits for k in chosen])).mean()

    if steps:
        with torch.enable_grad():
            found = fine_tune(network, tensors, loss, steps, batch, seed=seed, progress=progress)
        if history is not None:
            history += [*found, total(network)]
    return network.export()
