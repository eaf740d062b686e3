"""Lowering: the entropy networks of a CompressAI net become a plan.

The networks stay as they are, layer by layer, with two changes. The masked convolution and the first 1x1 layer, between
which nothing happens, become one (a step then has one product less, and nothing is rounded between them). And z is
coded as round(z - median): its medians enter h_s through one more channel of z that is always the same number, because
a bias would be wrong at the plane's border, where the convolution meets zeros. Its row of the tables makes it cost less
than 0.01 bit a position. Channel contexts keep all their layers, with the part of the first 1x1 layer that reads them
as one more: merged into it, the last 5x5 layer would yield that layer's width (12 times its own in elic2022).

Scales come from calibration. Fine-tuning then minimises the divergence of the integer net's Gaussians from the float
net's, so that an undertrained net gets no better by it: what is measured is the price of integers.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from ccm_fast.constants import CONTEXT_LIMIT
from ccm_fast.entropy.likelihood import lower_bound
from ccm_fast.entropy.plan import RELU8, Plan
from ccm_fast.freezing.layers import SUM_STEPS, WEIGHT_MAX, Layer, fill, flat, mean_square, quantize_weight
from ccm_fast.freezing.layers import fine_tune as _fine_tune
from ccm_fast.interop.compressai.floats import Sample, activate, conv
from ccm_fast.interop.compressai.network import Network
from ccm_fast.interop.compressai.parts import EntropyNet, FloatLayer

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


def _activation_scale(
    batches: list[Tensor], layer: FloatLayer, importance: Tensor, saturation: float
) -> tuple[Tensor, int]:
    """Units of the bytes of a layer's outputs, per channel, and its zero point: those with the least squared error.

    ``importance`` [channels]: how much a squared error of a channel matters.
    """
    x = flat(batches)
    x = x[:, torch.linspace(0, x.shape[1] - 1, min(_POSITIONS, x.shape[1])).long()]
    top, bottom = x.amax(1).clamp(min=1e-6), -x.amin(1).clamp(max=0)
    found = (math.inf, None, 0)
    for zero in (0,) if layer.slope == 0.0 else _ZEROS[layer.slope == 1.0]:
        most = torch.maximum(top / (255 - zero), bottom / max(zero, 0.5))
        best, error = most.clone(), torch.full_like(top, math.inf)
        for share in _CLIPS:
            unit = most * share
            steps = torch.round(x / unit[:, None]).clamp(-zero, 255 - zero)
            e = (steps * unit[:, None] - x).square().mean(1)
            best, error = torch.where(e < error, unit, best), torch.minimum(e, error)
        total = float((error * importance).sum())
        if total < found[0]:
            found = (total, best, zero)
    _, unit, zero = found
    # Channels that hardly ever fire would get absurdly fine units.
    return saturation * torch.maximum(unit, unit.max() / 1000), zero


def _importance(layer: FloatLayer, rows: Tensor | None = None) -> Tensor:
    """Of a layer's input channels: the squares of their weights, those of output row n times rows[n]."""
    square = layer.weight.square().sum((2, 3))
    return (square if rows is None else square * rows[:, None]).sum(0)


def _set(layer: Layer, source: FloatLayer, inputs: list[Tensor], in_unit: Tensor | None, out_unit: Tensor) -> None:
    """Fill a layer; its bias also takes up what rounding the weights changes on average."""
    steps = inputs if in_unit is None else [x / in_unit[:, None, None] for x in inputs]
    fill(layer, source.weight, source.bias, in_unit, out_unit, mean_square(steps) + 1e-6)
    with torch.no_grad():
        error = layer.value - torch.round(layer.value.clamp(-WEIGHT_MAX, WEIGHT_MAX))
        layer.bias += (error.sum((2, 3)) @ flat(steps).mean(1)) * layer.log_factor.exp()


@torch.no_grad()
def _calibrate(net: EntropyNet, data: list[Sample], saturation: float) -> Network:
    network = Network(net)
    model = network.float
    sizes = [s.y.shape[-2:] for s in data]
    features = [model.psi(s.z) for s in data]
    x, unit = [network.z_inputs(s.z) for s in data], None
    for k, (layer, source) in enumerate(zip(network.h_s, net.h_s, strict=True)):
        out = [f[k] for f in features]
        if k + 1 < len(net.h_s):
            importance = _importance(net.h_s[k + 1])
        else:
            importance = sum(_importance(group.from_psi) for group in net.groups)
        out_unit, layer.zero = _activation_scale(out, source, importance, saturation)
        if net.marked and all(x.upsample == 1 for x in net.h_s[k + 1 :]):
            # Its one value is the largest byte, however the others saturate.
            out_unit[-1] = float(out[0][:, -1].max()) / (255 - layer.zero)
        if k == 0 and network.constant:
            extra = network.median_weight[:, None] / network.constant
            source = FloatLayer(torch.cat([source.weight, extra], 1), source.bias, source.upsample, source.slope)
        _set(layer, source, x, unit, out_unit.repeat_interleave(source.upsample**2))
        x, unit = out, out_unit
    psi = [p[..., : size[0], : size[1]] for p, size in zip(x, sizes, strict=True)]
    if network.reads_y:
        _calibrate_context(network, data)
    for g in range(len(net.groups)):
        _calibrate_group(network, g, data, psi, unit, saturation)
    return network


def _calibrate_group(
    network: Network, g: int, data: list[Sample], psi: list[Tensor], psi_unit: Tensor, saturation: float
) -> None:
    net, model, integer = network.net, network.float, network.groups[g]
    group = net.groups[g]
    own = slice(model.start[g], model.start[g] + group.channels)
    head_unit = torch.full((2 * group.channels,), 1 / 16)
    head_unit[group.channels :] = network.scale_step
    # What an error of a mean or a scale costs in code length.
    rows = flat([1 / (s.scale[:, own].square() + 1 / 12) for s in data]).mean(1).repeat(2)
    from_psi, mixed = group.from_psi, group.stack[-1] if group.stack else None
    spatial = model.spatial[g]
    if group.tail:
        chain = [*group.tail[:-1], _means_first(group.tail[-1], False)]
        pre = [model.pre(p, s.y_hat, g) for p, s in zip(psi, data, strict=True)]
        f = [F.leaky_relu(p, integer.slope) for p in pre]
        f_unit, zero = _activation_scale(f, from_psi, _importance(chain[0]), saturation)
        integer.zero = 0 if integer.output == RELU8 else zero
    else:
        from_psi, f_unit = _means_first(from_psi, net.kind == "scale"), head_unit
        mixed = None if mixed is None else _means_first(mixed, False)
        spatial = None if spatial is None else spatial.roll(group.channels, 0)
    sum_unit = f_unit / SUM_STEPS
    if spatial is not None:
        units = network.context_unit[own]
        context = [network.contexts(s.y_hat)[:, own] for s in data]
        value, sum_unit = quantize_weight(spatial * units[None, :, None, None], mean_square(context) + 1e-6, sum_unit)
        integer.spatial = nn.Parameter(value.contiguous())
        integer.register_buffer("usable", (spatial != 0).any(0).any(0).float(), persistent=False)
    integer.log_factor = nn.Parameter((sum_unit / f_unit).log())
    _set(integer.hyper, from_psi, psi, psi_unit, sum_unit)
    if group.stack:
        outputs = [model.stack(s.y_hat, g) for s in data]
        x, unit = [network.contexts(s.y_hat)[:, : own.start] for s in data], None
        chain_up = [*group.stack[:-1], mixed]
        for k, (layer, source) in enumerate(zip(integer.stack, chain_up, strict=True)):
            if k == 0:
                units = network.context_unit[: own.start]
                source = FloatLayer(source.weight * units[None, :, None, None], source.bias, 1, source.slope)
            if k == len(chain_up) - 1:
                _set(layer, source, x, unit, sum_unit)
                break
            out = [o[k] for o in outputs]
            out_unit, layer.zero = _activation_scale(out, source, _importance(chain_up[k + 1]), saturation)
            _set(layer, source, x, unit, out_unit)
            x, unit = out, out_unit
    if not group.tail:
        return
    x, unit = f, f_unit
    for k, (layer, source) in enumerate(zip(integer.hidden, chain[:-1], strict=True)):
        out = [activate(conv(b, source), source) for b in x]
        importance = _importance(chain[k + 1], rows if k == len(chain) - 2 else None)
        out_unit, layer.zero = _activation_scale(out, source, importance, saturation)
        _set(layer, source, x, unit, out_unit)
        x, unit = out, out_unit
    _set(integer.head, chain[-1], x, unit, head_unit)


def _calibrate_context(network: Network, data: list[Sample]) -> None:
    x = flat([s.y_hat for s in data])
    most = x.abs().amax(1) / CONTEXT_LIMIT
    best, error = most.clone(), torch.full_like(most, math.inf)
    for share in _CLIPS:
        unit = (most * share).clamp(min=_CONTEXT_UNIT_MIN)
        steps = torch.round(x / unit[:, None]).clamp(-CONTEXT_LIMIT, CONTEXT_LIMIT)
        e = (steps * unit[:, None] - x).square().mean(1)
        best, error = torch.where(e < error, unit, best), torch.minimum(e, error)
    network.context_unit = best


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
            found = _fine_tune(network, tensors, loss, steps, batch, seed=seed, progress=progress)
        if history is not None:
            history += [*found, total(network)]
    return network.export()
