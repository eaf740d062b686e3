"""Lowering: the entropy networks of a CompressAI net become a plan.

The networks stay as they are, layer by layer, with two changes. The masked convolution and the first 1x1 layer, between
which nothing happens, become one (a step then has one product less, and nothing is rounded between them). And z is
coded as round(z - median): its medians enter h_s through one more channel of z that is always the same number, because
a bias would be wrong at the plane's border, where the convolution meets zeros. Its row of the tables makes it cost less
than 0.01 bit a position.

Scales come from calibration. Fine-tuning then minimises the divergence of the integer net's Gaussians from the float
net's, so that an undertrained net gets no better by it: what is measured is the price of integers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ccm_fast.integer.layers import (
    SUM_STEPS,
    WEIGHT_MAX,
    Layer,
    fill,
    flat,
    mean_square,
    quantize_weight,
    round_ste,
    to_bytes,
)
from ccm_fast.integer.layers import fine_tune as _fine_tune
from ccm_fast.integer.plan import ACCUMULATE, HEAD, LEAKY8, NUM_INDEXES, RELU8, GroupPlan, Plan, TableRows, fixed_point
from ccm_fast.interop.compressai.read import EntropyNet, FloatLayer
from ccm_fast.models.context import CONTEXT_LIMIT
from ccm_fast.models.entropy import gaussian_likelihood, lower_bound

__all__ = ["Sample", "lower", "sample"]

#: Steps of the scale codes: the largest scale's share, so that codes have 16 bits (1/256 with CompressAI's table, whose
#: closest borders are 0.014 apart).
SCALE_CODES = 65536
# Activation ranges tried, as shares of a channel's largest activation, and zero points, of leaky and of linear layers.
_CLIPS = (1.0, 0.85, 0.7, 0.57, 0.46, 0.36, 0.28, 0.2, 0.14)
_ZEROS = {True: (96, 112, 128, 144, 160), False: (0, 1, 2, 3, 5, 8, 12, 20, 32, 64)}
# Positions looked at to choose one activation's scale.
_POSITIONS = 4096
# No unit of contexts below this: rarer channels would get absurdly fine ones.
_CONTEXT_UNIT_MIN = 1 / 64


def _activate(x: Tensor, layer: FloatLayer) -> Tensor:
    if layer.upsample == 2:
        x = F.pixel_shuffle(x, 2)
    return x if layer.slope == 1.0 else F.leaky_relu(x, layer.slope)


def _conv(x: Tensor, layer: FloatLayer) -> Tensor:
    return F.conv2d(x, layer.weight, layer.bias, padding=layer.weight.shape[-1] // 2)


@dataclass(eq=False)
class Sample:
    """One image's latents.

    Attributes:
        z: float [1, N, hz, wz], whole numbers: round(z - median).
        y_hat: [1, M, h, w], what a decoder will have.
        y: [1, M, h, w], before rounding.
        mean, scale: [1, M, h, w], the float net's.
        bits: the code length of y in the float net.
    """

    z: Tensor
    y_hat: Tensor
    y: Tensor
    mean: Tensor
    scale: Tensor
    bits: float


class _Float:
    """The float networks, evaluated on all positions at once."""

    def __init__(self, net: EntropyNet):
        self.net = net
        if net.kind == "autoregressive":
            width = net.head[0].weight.shape[1] - len(net.context)
            first = net.head[0].weight
            self.features, self.last = net.h_s, None
            self.from_psi = FloatLayer(first[:, :width], net.head[0].bias, 1, net.head[0].slope)
            k = 1 + 2 * max(max(map(abs, t)) for t in net.taps)
            folded = torch.einsum("dc,cmt->dmt", first[:, width:, 0, 0].double(), net.context.double()).float()
            self.spatial = folded.new_zeros(*folded.shape[:2], k, k)
            for t, (di, dj) in enumerate(net.taps):
                self.spatial[:, :, di + k // 2, dj + k // 2] = folded[:, :, t]
            self.tail = net.head[1:]
        else:
            self.features, self.last = net.h_s[:-1], net.h_s[-1]

    def psi(self, z: Tensor, h: int, w: int) -> list[Tensor]:
        """The outputs of the layers of h_s; the last is not cropped."""
        x, out = z + self.net.medians.reshape(1, -1, 1, 1), []
        for layer in self.features:
            x = _activate(_conv(x, layer), layer)
            out.append(x)
        return out

    def pre(self, psi: Tensor, y_hat: Tensor) -> Tensor:
        """The sum of all contexts."""
        return _conv(psi, self.from_psi) + F.conv2d(y_hat, self.spatial, padding=self.spatial.shape[-1] // 2)

    def parameters(self, psi: Tensor, y_hat: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and scale."""
        if self.last is not None:
            x = _activate(_conv(psi, self.last), self.last)
            if self.net.kind == "scale":
                return torch.zeros_like(x), x
        else:
            x = F.leaky_relu(self.pre(psi, y_hat), self.from_psi.slope)
            for layer in self.tail:
                x = _activate(_conv(x, layer), layer)
        scale, mean = x.chunk(2, 1)
        return mean, scale


@torch.no_grad()
def sample(net: EntropyNet, y: Tensor, z: Tensor) -> Sample:
    """The latents that coding y and z (floats, of one image) would give with the float net.

    Rounding around the mean is serial with a context model; three rounds over all positions come close enough to it for
    statistics.
    """
    model = _Float(net)
    h, w = y.shape[-2:]
    z = torch.round(z - net.medians.reshape(1, -1, 1, 1))
    psi = model.psi(z, h, w)[-1][..., :h, :w]
    y_hat = y
    for _ in range(3 if net.context is not None else 1):
        mean, _ = model.parameters(psi, y_hat)
        y_hat = torch.round(y - mean) + mean
    mean, scale = model.parameters(psi, y_hat)
    scale = scale.clamp(min=float(net.scale_table[0]), max=float(net.scale_table[-1]))
    bits = -torch.log2(gaussian_likelihood(torch.round(y - mean) + mean, mean, scale)).sum()
    return Sample(z, y_hat, y, mean, scale, max(1.0, float(bits)))


# ---------------------------------------------------------------------------------------------------------------------


class _Network(nn.Module):
    """The integer network, with real-valued parameters; see :mod:`ccm_fast.integer.layers`."""

    def __init__(self, net: EntropyNet):
        super().__init__()
        self.net, self.float = net, _Float(net)
        self.h_s = nn.ModuleList()
        for k, layer in enumerate(self.float.features):
            output = RELU8 if layer.slope == 0.0 else LEAKY8
            self.h_s.append(Layer(output, signed=k == 0, upsample=layer.upsample, slope=layer.slope))
        self.hyper = Layer(ACCUMULATE, signed=False)
        self.hidden = nn.ModuleList()
        self.head = None
        self.spatial = None
        self.zero = 0
        if net.kind == "autoregressive":
            for layer in self.float.tail[:-1]:
                output = RELU8 if layer.slope == 0.0 else LEAKY8
                self.hidden.append(Layer(output, signed=False, slope=layer.slope))
            self.head = Layer(HEAD, signed=False)
            self.slope = self.float.from_psi.slope
            self.output = RELU8 if self.slope == 0.0 else LEAKY8
        else:
            self.output, self.slope = HEAD, 1.0
        # The channel of medians: a constant, as large as makes its weights no larger than the others.
        first = net.h_s[0].weight
        medians = torch.einsum("ocuv,c->ouv", first.double(), net.medians.double()).float()
        self.constant = 0
        if float(medians.abs().max()) > 1e-6 * float(first.abs().max()):
            ratio = medians.abs().amax((1, 2)) / first.abs().amax((1, 2, 3)).clamp(min=1e-12)
            self.constant = int(ratio.median().ceil().clamp(1, CONTEXT_LIMIT))
        self.median_weight = medians

    def z_inputs(self, z: Tensor) -> Tensor:
        """z as the integer h_s sees it."""
        if self.constant:
            z = torch.cat([z, torch.full_like(z[:, :1], self.constant)], 1)
        return z.clamp(-CONTEXT_LIMIT, CONTEXT_LIMIT)

    def contexts(self, y_hat: Tensor) -> Tensor:
        """y_hat as the integer contexts see it."""
        steps = torch.floor(y_hat / self.context_unit[:, None, None] + 0.5)
        return steps.clamp(-CONTEXT_LIMIT, CONTEXT_LIMIT)

    def forward(self, y_hat: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and scale, on the grids of their codes."""
        x = self.z_inputs(z)
        for layer in self.h_s:
            x = layer(x)
        pre = self.hyper(x[..., : y_hat.shape[-2], : y_hat.shape[-1]])
        if self.spatial is not None:
            weight = round_ste(self.spatial.clamp(-WEIGHT_MAX, WEIGHT_MAX)) * self.usable
            pre = pre + F.conv2d(self.contexts(y_hat), weight, padding=weight.shape[-1] // 2)
        pre = pre * self.log_factor.exp()[:, None, None]
        if self.head is None:
            mean, scale = round_ste(pre).chunk(2, 1)
        else:
            f = to_bytes(pre, self.output, self.zero, self.slope)
            for layer in self.hidden:
                f = layer(f)
            mean, scale = self.head(f).chunk(2, 1)
        return mean / 16, scale * self.scale_step

    @property
    def scale_step(self) -> float:
        return float(self.net.scale_table[-1]) / (SCALE_CODES - 1)

    @torch.no_grad()
    def export(self) -> Plan:
        net = self.net
        mult, shift = fixed_point(self.log_factor.double().exp().numpy())
        D, M = len(mult), net.channels
        taps = net.taps if self.spatial is not None else []
        weight = np.zeros((D, len(taps), M), np.int8)
        if taps:
            value = torch.floor(self.spatial.double().clamp(-WEIGHT_MAX, WEIGHT_MAX) + 0.5).numpy()
            r = value.shape[-1] // 2
            for t, (di, dj) in enumerate(taps):
                weight[:, t] = value[:, :, di + r, dj + r]
        leaky = self.output == LEAKY8
        group = GroupPlan(
            np.array(taps, np.int32).reshape(-1, 2),
            weight,
            mult,
            shift,
            self.hyper.export(),
            [],
            None,
            [layer.export() for layer in self.hidden],
            None if self.head is None else self.head.export(),
            self.output,
            self.zero if leaky else 0,
            np.rint(self.slope * mult).astype(np.int32) if leaky else None,
        )
        radius = max((max(map(abs, t)) for t in taps), default=0)
        context = (None, None)
        if taps:
            context = fixed_point(1 / (16 * self.context_unit.double().numpy()))
        codes = np.arange(SCALE_CODES) * self.scale_step
        scale_table = np.searchsorted(net.scale_table[:-1].double().numpy(), codes, side="left").astype(np.uint8)
        return Plan(
            (M,),
            net.hyper_channels + bool(self.constant),
            radius + 1 if taps else 0,
            1 if taps else 0,
            np.zeros((1, 1), np.int32),
            [layer.export() for layer in self.h_s],
            [group],
            scale_table,
            np.zeros(NUM_INDEXES, np.uint8),
            net.y_rows,
            _with_constant(net.z_rows, self.constant),
            True,
            *context,
        )


def _with_constant(rows: TableRows, constant: int) -> TableRows:
    """One more row, in which ``constant`` (0: no such row) has all the probability that the format lets it have."""
    if not constant:
        return rows
    row = np.arange(constant + 2, dtype=np.uint16)  # symbols 0 .. constant, and the escape
    row[-1] = 65535
    return TableRows(
        np.append(rows.lo, 0).astype(np.int32),
        np.append(rows.n, constant + 2).astype(np.int32),
        np.concatenate([rows.cdf, row]),
    )


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
    fill(layer, source.weight, source.bias, in_unit, out_unit, mean_square(steps, None))
    with torch.no_grad():
        error = layer.value - torch.round(layer.value.clamp(-WEIGHT_MAX, WEIGHT_MAX))
        layer.bias += (error.sum((2, 3)) @ flat(steps).mean(1)) * layer.log_factor.exp()


@torch.no_grad()
def _calibrate(net: EntropyNet, data: list[Sample], saturation: float) -> _Network:
    network = _Network(net)
    model = network.float
    sizes = [s.y.shape[-2:] for s in data]
    features = [model.psi(s.z, *size) for s, size in zip(data, sizes, strict=True)]
    readers = [*model.features[1:], model.last if model.last is not None else model.from_psi]
    x, unit = [network.z_inputs(s.z) for s in data], None
    for k, (layer, source) in enumerate(zip(network.h_s, model.features, strict=True)):
        out = [f[k] for f in features]
        out_unit, layer.zero = _activation_scale(out, source, _importance(readers[k]), saturation)
        if k == 0 and network.constant:
            extra = network.median_weight[:, None] / network.constant
            source = FloatLayer(torch.cat([source.weight, extra], 1), source.bias, source.upsample, source.slope)
        _set(layer, source, x, unit, out_unit.repeat_interleave(source.upsample**2))
        x, unit = out, out_unit
    psi = [p[..., : size[0], : size[1]] for p, size in zip(x, sizes, strict=True)]
    M = net.channels
    head_unit = torch.cat([torch.full((M,), 1 / 16), torch.full((M,), network.scale_step)])
    # What an error of a mean or a scale costs in code length.
    rows = flat([1 / (s.scale.square() + 1 / 12) for s in data]).mean(1).repeat(2)
    if model.last is not None:
        last = _means_first(model.last, net.kind == "scale")
        sum_unit = head_unit / SUM_STEPS
        network.log_factor = nn.Parameter((sum_unit / head_unit).log())
        _set(network.hyper, last, psi, unit, sum_unit)
        return network
    head = _means_first(model.tail[-1], False)
    _calibrate_context(network, data)
    pre = [model.pre(p, s.y_hat) for p, s in zip(psi, data, strict=True)]
    f = [F.leaky_relu(p, network.slope) for p in pre]
    chain = [*model.tail[:-1], head]
    f_unit, network.zero = _activation_scale(f, model.from_psi, _importance(chain[0]), saturation)
    if network.output == RELU8:
        network.zero = 0
    weight = model.spatial * network.context_unit[None, :, None, None]
    context = [network.contexts(s.y_hat) for s in data]
    value, sum_unit = quantize_weight(weight, mean_square(context, None), f_unit / SUM_STEPS)
    network.spatial = nn.Parameter(value.contiguous())
    network.register_buffer("usable", (model.spatial != 0).any(0).any(0).float(), persistent=False)
    network.log_factor = nn.Parameter((sum_unit / f_unit).log())
    _set(network.hyper, model.from_psi, psi, unit, sum_unit)
    x, unit = f, f_unit
    for k, (layer, source) in enumerate(zip(network.hidden, chain[:-1], strict=True)):
        out = [_activate(_conv(b, source), source) for b in x]
        importance = _importance(chain[k + 1], rows if k == len(chain) - 2 else None)
        out_unit, layer.zero = _activation_scale(out, source, importance, saturation)
        _set(layer, source, x, unit, out_unit)
        x, unit = out, out_unit
    _set(network.head, head, x, unit, head_unit)
    return network


def _calibrate_context(network: _Network, data: list[Sample]) -> None:
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


def _excess(network: _Network, y_hat: Tensor, z: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
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
    net: EntropyNet, data: list[Sample], steps: int, batch: int = 4, seed: int = 0, history: list[float] | None = None
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

    Raises:
        OverflowProofError: some input could overflow 32 bits.
    """
    tensors = [(s.y_hat, s.z, s.mean, s.scale) for s in data]

    @torch.no_grad()
    def total(network: _Network) -> float:
        return sum(float(_excess(network, *t)) / s.bits for t, s in zip(tensors, data, strict=True)) / len(data)

    candidates = [_calibrate(net, data, saturation) for saturation in (1.0, 0.75)]
    excess = [total(c) for c in candidates]
    network = candidates[int(np.argmin(excess))]
    if history is not None:
        history.append(min(excess))

    def loss(batch_tensors: tuple[Tensor, ...], chosen: list[int]) -> Tensor:
        return (_excess(network, *batch_tensors) / torch.tensor([data[k].bits for k in chosen])).mean()

    if steps:
        with torch.enable_grad():
            found = _fine_tune(network, tensors, loss, steps, batch, seed=seed)
        if history is not None:
            history += [*found, total(network)]
    return network.export()
