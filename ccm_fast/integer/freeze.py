"""Freezing: a float entropy network becomes integers.

The network is written down once more in the units of the integers (:mod:`ccm_fast.integer.layers`). Calibration chooses
the scales from activations; then a short fine-tuning with straight-through gradients on the code length itself moves
weights across rounding thresholds (in the spirit of AdaRound, Nagel et al. 2020, arXiv 2004.10568, but end to end).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ccm_fast.integer.cost import image_tensor
from ccm_fast.integer.fitting import Latents, fit_to_symbols
from ccm_fast.integer.frozen import FrozenEntropyModel
from ccm_fast.integer.layers import (
    SUM_STEPS,
    WEIGHT_MAX,
    Layer,
    fill,
    fine_tune,
    flat,
    mean_square,
    quantize_weight,
    share_scales,
)
from ccm_fast.integer.layers import round_ste as _round
from ccm_fast.integer.plan import ACCUMULATE, HEAD, NUM_INDEXES, RELU8, GroupPlan, Plan, fixed_point
from ccm_fast.integer.tables import fraction_bits, prior_rows, typical_rows
from ccm_fast.models.ccm import CrossChannelContextModel
from ccm_fast.models.context import CONTEXT_LIMIT, GroupContext
from ccm_fast.models.entropy import logistic_likelihood, scale_from_index
from ccm_fast.models.schedule import Schedule

__all__ = ["freeze"]

# Activation ranges tried, as shares of a channel's largest activation.
_CLIPS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.33, 0.27, 0.22, 0.18, 0.15, 0.12, 0.1)
# How far each channel's activation scale follows its own range (1) or the layer's (0); 1/2 shares the rounding noise
# between activations and the weights that read them (cross-layer equalization, Nagel et al. 2019, arXiv 1906.04721).
EQUALIZATIONS = (0.5, 1.0)
# Shares of the ranges with the least squared error. Low qualities use a small part of the range that high ones need,
# and rounding costs them more than saturation costs the others: about half is best (measured on the code length).
SATURATIONS = (1.0, 0.7, 0.5, 0.42)


class _Group(nn.Module):
    """A group's network; mirrors :class:`ccm_fast.models.context.GroupContext`."""

    def __init__(self, context: GroupContext):
        super().__init__()
        self.channels = context.channels
        self.hyper = Layer(ACCUMULATE, signed=False)
        last = len(context.stack) - 1
        self.stack = nn.ModuleList(
            Layer(ACCUMULATE if k == last else RELU8, signed=k == 0) for k in range(len(context.stack))
        )
        self.skip = Layer(ACCUMULATE, signed=True) if context.skip is not None else None
        self.hidden = nn.ModuleList(Layer(RELU8, signed=False) for _ in context.hidden)
        self.head = Layer(HEAD, signed=False)
        self.schedule = context.spatial.schedule if context.spatial is not None else None
        if self.schedule is not None:
            self.register_buffer("usable", context.spatial.taps.clone())

    def set_spatial(self, value: Tensor | None, factor: Tensor) -> None:
        """value [D, C, k, k] in units of the integer weight; factor [D] turns the sum into bytes."""
        self.spatial = nn.Parameter(value.contiguous()) if value is not None else None
        self.log_factor = nn.Parameter(factor.log())
        self.log_scale = None

    def share_scales(self) -> None:
        """See :func:`ccm_fast.integer.layers.share_scales`: in the stack, and from the sum of contexts on."""
        share_scales(list(self.stack))
        tail = [*self.hidden, self.head]
        share_scales(tail)
        self.log_scale = tail[0].log_scale_in = nn.Parameter(torch.zeros_like(self.log_factor))

    def factor(self) -> Tensor:
        """log-factors from the sum to its bytes."""
        return self.log_factor if self.log_scale is None else self.log_factor - self.log_scale

    def spatial_sum(self, own: Tensor) -> Tensor:
        weight = _round(self.spatial.clamp(-WEIGHT_MAX, WEIGHT_MAX))
        ph, pw = self.schedule.period
        out = None
        for a in range(ph):
            for b in range(pw):
                full = F.conv2d(own, weight * self.usable[a, b], padding=weight.shape[-1] // 2)
                if ph == pw == 1:
                    return full
                out = torch.zeros_like(full) if out is None else out
                out[:, :, a::ph, b::pw] = full[:, :, a::ph, b::pw]
        return out

    def forward(self, psi: Tensor, earlier: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        pre = self.hyper(psi)
        if len(self.stack):
            x = earlier
            for layer in self.stack:
                x = layer(x)
            pre = pre + x
        if self.skip is not None:
            pre = pre + self.skip(earlier)
        if self.spatial is not None:
            pre = pre + self.spatial_sum(own)
        f = _round(pre * self.factor().exp()[:, None, None]).clamp(0, 255)
        for layer in self.hidden:
            f = layer(f)
        return self.head(f).chunk(2, dim=1)

    @torch.no_grad()
    def export(self, kernel: int) -> GroupPlan:
        mult, shift = fixed_point(self.factor().double().exp().numpy())
        D, r = len(mult), kernel // 2
        taps = self.schedule.taps(kernel) if self.schedule is not None else []
        weight = np.zeros((D, len(taps), self.channels), np.int8)
        if taps:
            value = torch.floor(self.spatial.double().clamp(-WEIGHT_MAX, WEIGHT_MAX) + 0.5).numpy()
            for t, (di, dj) in enumerate(taps):
                weight[:, t] = value[:, :, di + r, dj + r]
        return GroupPlan(
            np.array(taps, np.int32).reshape(-1, 2),
            weight,
            mult,
            shift,
            self.hyper.export(),
            [layer.export() for layer in self.stack],
            self.skip.export() if self.skip is not None else None,
            [layer.export() for layer in self.hidden],
            self.head.export(),
        )


class _Network(nn.Module):
    """The whole entropy network in the units of the integers."""

    def __init__(self, model: CrossChannelContextModel):
        super().__init__()
        self.h_s = nn.ModuleList()
        for k, (_, up) in enumerate(_hyper_layers(model)):
            self.h_s.append(Layer(RELU8, signed=k == 0, upsample=up))
        self.groups = nn.ModuleList(_Group(c) for c in model.contexts)

    def hyper(self, z_hat: Tensor) -> Tensor:
        """psi, before it is cropped to the size of y."""
        psi = z_hat.clamp(-CONTEXT_LIMIT, CONTEXT_LIMIT)
        for layer in self.h_s:
            psi = layer(psi)
        return psi

    def forward(self, y_hat: Tensor, z_hat: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and scale index [B, M, h, w], rounded to the grids of the codes (1/16 and 1)."""
        psi = self.hyper(z_hat)[..., : y_hat.shape[-2], : y_hat.shape[-1]]
        context = y_hat.clamp(-CONTEXT_LIMIT, CONTEXT_LIMIT)
        means, indexes, start = [], [], 0
        for group in self.groups:
            m, s = group(psi, context[:, :start], context[:, start : start + group.channels])
            means.append(m / 16)
            indexes.append(s)
            start += group.channels
        return torch.cat(means, 1), torch.cat(indexes, 1)

    def export(self, model: CrossChannelContextModel) -> Plan:
        c = model.config
        schedule = Schedule.from_name(c.schedule, c.context_kernel)
        return Plan(
            tuple(c.groups),
            c.hyper_channels,
            schedule.row_step,
            schedule.col_step,
            np.array(schedule.pattern, np.int32),
            [layer.export() for layer in self.h_s],
            [group.export(c.context_kernel) for group in self.groups],
            np.arange(NUM_INDEXES, dtype=np.uint8),
            fraction_bits(),
            typical_rows(),
            prior_rows(model.z_prior),
        )


def _hyper_layers(model: CrossChannelContextModel) -> list[tuple[nn.Conv2d, int]]:
    """The convolutions of h_s, each with the upsampling that follows."""
    out: list[tuple[nn.Conv2d, int]] = []
    for module in model.h_s:
        if isinstance(module, nn.Conv2d):
            out.append((module, 1))
        elif isinstance(module, nn.PixelShuffle):
            out[-1] = (out[-1][0], module.upscale_factor)
    return out


# ---------------------------------------------------------------------------------------------------------------------
# Calibration


class _Scales(NamedTuple):
    """How activation scales are chosen.

    Attributes:
        importance: of each calibration image.
        equalization: see EQUALIZATIONS.
        saturation: see SATURATIONS.
    """

    importance: list[float]
    equalization: float
    saturation: float


def _activation_scale(batches: list[Tensor], scales: _Scales) -> Tensor:
    """Units of the bytes after a ReLU, per channel: a share of the range with the least squared error."""
    x = flat(batches)
    samples = zip(batches, scales.importance, strict=True)
    weight = torch.cat([torch.full((b.shape[0] * b.shape[2] * b.shape[3],), k) for b, k in samples])
    top = x.amax(1).clamp(min=1e-6)
    best, error = top.clone(), torch.full_like(top, math.inf)
    for share in _CLIPS:
        unit = top * share / 255
        e = (torch.round(x / unit[:, None]).clamp(max=255) * unit[:, None] - x).square() @ weight
        best, error = torch.where(e < error, unit * 255, best), torch.minimum(e, error)
    # Channels that hardly ever fire would get absurdly fine units, and so would layers that never do: any unit will do.
    best = torch.maximum(best, best.max() / 1000) if x.max() > 0 else torch.ones_like(best)
    return scales.saturation * best**scales.equalization * best.max() ** (1 - scales.equalization) / 255


class _Inputs(NamedTuple):
    """What groups are calibrated on.

    Attributes:
        psi: of each image, as the float model computes it; its channels' ``unit``; and its ``bytes``, by the integers.
        context: y_hat of each image, as contexts see it.
    """

    psi: list[Tensor]
    unit: Tensor
    bytes: list[Tensor]
    context: list[Tensor]


@torch.no_grad()
def _calibrate_hyper(
    network: _Network, model: CrossChannelContextModel, data: list[tuple[Tensor, Tensor]], scales: _Scales
) -> _Inputs:
    """Set h_s by the activations of ``data`` (pairs y_hat, z_hat)."""
    x = [z.clamp(-CONTEXT_LIMIT, CONTEXT_LIMIT) for _, z in data]
    unit = None
    for layer, (conv, up) in zip(network.h_s, _hyper_layers(model), strict=True):
        square = mean_square(x, unit)
        x = [F.relu(F.pixel_shuffle(conv(b), up) if up > 1 else conv(b)) for b in x]
        out_unit = _activation_scale(x, scales)
        fill(layer, conv.weight, conv.bias, unit, out_unit.repeat_interleave(up * up), square)
        unit = out_unit
    parts = []
    for (y, z), p in zip(data, x, strict=True):
        inside = (..., slice(y.shape[-2]), slice(y.shape[-1]))
        parts.append((p[inside], network.hyper(z)[inside], y.clamp(-CONTEXT_LIMIT, CONTEXT_LIMIT)))
    psi, units, context = (list(part) for part in zip(*parts, strict=True))
    return _Inputs(psi, unit, units, context)


def _channels(group: _Group, start: int) -> tuple[slice, slice]:
    """Channels of y that a group reads: the earlier ones, and its own."""
    return slice(start), slice(start, start + group.channels)


def _activations(group: _Group) -> int:
    """How many layers of a group give bytes: the sum of contexts, the stack's but for its last, the hidden ones."""
    return 1 + max(len(group.stack) - 1, 0) + len(group.hidden)


@torch.no_grad()
def _calibrate_group(
    group: _Group, float_group: GroupContext, inputs: _Inputs, start: int, ways: Sequence[_Scales]
) -> None:
    """Set a group, whose channels begin at ``start``; one of ``ways`` for each of its :func:`_activations`."""
    psi, psi_unit, ways = inputs.psi, inputs.unit, iter(ways)
    earlier, own = ([c[:, part] for c in inputs.context] for part in _channels(group, start))
    pre = [float_group.base(p, e if e.shape[1] else None) for p, e in zip(psi, earlier, strict=True)]
    if float_group.spatial is not None:
        pre = [b + float_group.spatial(o) for b, o in zip(pre, own, strict=True)]
    f = [F.relu(b) for b in pre]
    f_unit = _activation_scale(f, next(ways))

    # The sum of contexts: in units of the spatial weights, or freely chosen without them.
    sum_unit, value = f_unit / SUM_STEPS, None
    if float_group.spatial is not None:
        weight = float_group.spatial.weight * float_group.spatial.taps.any(0).any(0)
        value, sum_unit = quantize_weight(weight, mean_square(own, None), f_unit / SUM_STEPS)
    group.set_spatial(value, sum_unit / f_unit)

    fill(group.hyper, float_group.hyper.weight, float_group.hyper.bias, psi_unit, sum_unit, mean_square(psi, psi_unit))
    x, unit = earlier, None
    for k, (layer, conv) in enumerate(zip(group.stack, float_group.stack, strict=True)):
        square = mean_square(x, unit)
        if k == len(group.stack) - 1:
            out_unit = sum_unit
        else:
            x = [F.relu(conv(b)) for b in x]
            out_unit = _activation_scale(x, next(ways))
        fill(layer, conv.weight, conv.bias, unit, out_unit, square)
        unit = out_unit
    if group.skip is not None:
        fill(group.skip, float_group.skip.weight, float_group.skip.bias, None, sum_unit, mean_square(earlier, None))

    unit = f_unit
    for layer, conv in zip(group.hidden, float_group.hidden, strict=True):
        square = mean_square(f, unit)
        f = [F.relu(conv(b)) for b in f]
        out_unit = _activation_scale(f, next(ways))
        fill(layer, conv.weight, conv.bias, unit, out_unit, square)
        unit = out_unit
    C = group.channels
    out_unit = torch.cat([torch.full((C,), 1 / 16), torch.full((C,), 1 / GroupContext.INDEX_GAIN)])
    fill(group.head, float_group.head.weight, float_group.head.bias, unit, out_unit, mean_square(f, unit))


# ---------------------------------------------------------------------------------------------------------------------
# Fine-tuning


def _bits(y_hat: Tensor, mean: Tensor, index: Tensor) -> Tensor:
    """Code length per image, bits [B]."""
    return -torch.log2(logistic_likelihood(y_hat, mean, scale_from_index(index))).flatten(1).sum(1)


@torch.no_grad()
def _relative(group: _Group, inputs: _Inputs, start: int, data: list[tuple[Tensor, Tensor]], expected) -> float:
    """The code length of a group, relative to the expected one of all of them; mean over images."""
    before, own = _channels(group, start)
    total = 0.0
    for psi, context, (y, _), bits in zip(inputs.bytes, inputs.context, data, expected, strict=True):
        mean, index = group(psi, context[:, before], context[:, own])
        total += float(_bits(y[:, own], mean / 16, index)) / bits
    return total / len(data)


def _best_calibration(
    model: CrossChannelContextModel, data: list[tuple[Tensor, Tensor]], expected: list[float]
) -> _Network:
    """The calibrated network with the least relative code length among a few ways to choose activation scales.

    One way for all of h_s and the groups that follow, then one for each group, on which no other one depends, and then
    for each of its layers, one after another. An activation's error counts by what it does to the relative code length,
    so an image counts by 1 / its bits.
    """
    ways = [_Scales([1e3 / bits for bits in expected], e, s) for e in EQUALIZATIONS for s in SATURATIONS]
    network = _Network(model)
    starts = [sum(model.config.groups[:g]) for g in range(len(network.groups))]

    def length(g: int, inputs: _Inputs, chosen: list[_Scales]) -> float:
        group = network.groups[g]
        _calibrate_group(group, model.contexts[g], inputs, starts[g], chosen)
        return _relative(group, inputs, starts[g], data, expected)

    uniform = []  # for each way, the length of every group
    for way in ways:
        inputs = _calibrate_hyper(network, model, data, way)
        uniform.append([length(g, inputs, [way] * _activations(group)) for g, group in enumerate(network.groups)])
    inputs = _calibrate_hyper(network, model, data, ways[min(range(len(ways)), key=lambda k: sum(uniform[k]))])
    for g, group in enumerate(network.groups):
        layers = _activations(group)
        least, chosen = min(((length(g, inputs, [way] * layers), [way] * layers) for way in ways), key=lambda c: c[0])
        for k in range(layers):
            for way in [w for w in ways if w is not chosen[k]]:
                tried = [*chosen[:k], way, *chosen[k + 1 :]]
                if (found := length(g, inputs, tried)) < least:
                    least, chosen = found, tried
        length(g, inputs, chosen)
    return network


# ---------------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def _collect(
    model: CrossChannelContextModel, images: Sequence[Tensor | np.ndarray], crop: int, generator: torch.Generator
) -> list[Latents]:
    """Latents of one random crop per image, at qualities spread evenly over the trained range."""
    data = []
    spread = torch.randperm(len(images), generator=generator).tolist()
    for image, k in zip(images, spread, strict=True):
        x = image_tensor(image)
        i, j = (int(torch.randint(max(1, s - crop + 1), (1,), generator=generator)) for s in x.shape[1:])
        quality = 1.0 + (model.config.qualities - 1) * (k + 0.5) / len(images)
        x = x[None, :, i : i + crop, j : j + crop]
        y = model.analysis(x, torch.tensor([quality]))
        z_hat = torch.round(model.h_a(y))
        y_hat = model.coded(y, z_hat)
        data.append(Latents(y_hat, z_hat, (y - y_hat).half(), quality, tuple(x.shape[2:])))
    return data


#: Fine-tuning steps from so many images on. Fewer images would rather be learned by heart; what more of both bring
#: is in train/ship.py.
FINE_TUNE_STEPS = {0: 0, 32: 300, 256: 1000, 3000: 2000}
#: Images that scales are chosen by: every choice is tried on all of them, which takes four minutes of two cores.
CALIBRATION_IMAGES = 64


def freeze(
    model: CrossChannelContextModel,
    images: Sequence[Tensor | np.ndarray],
    *,
    steps: int | None = None,
    batch: int = 4,
    crop: int = 288,
    seed: int = 0,
    history: list[float] | None = None,
) -> FrozenEntropyModel:
    """Give a trained model its integer entropy model; sets ``model.frozen`` and returns it.

    The float parameters are not touched. All qualities are calibrated together, over the whole trained range. With
    enough images the tables of y take the shapes of what is coded with them, and centroids its means
    (:mod:`ccm_fast.integer.fitting`).

    Args:
        model: the trained model; put into evaluation mode.
        images: calibration images, each float [3, H, W] in [0, 1] or uint8 [H, W, 3] or [3, H, W]; some 64 varied
            photographs (not those that results are reported on).
        steps: fine-tuning steps; None: 1000 with at least 256 images, 300 with at least 32, none with fewer; 0:
            calibration only.
        batch: crops per step.
        crop: side of the random crop that is taken of each image, pixels.
        seed: seed of crops, qualities and order.
        history: if given, the relative code length of every step (1: that of the float model) is appended.

    Returns:
        The frozen model.

    Raises:
        TypeError, ValueError: no images, or not images.
        OverflowProofError: some input could overflow 32 bits.
    """
    if not len(images):
        raise ValueError("freezing needs calibration images")
    model.eval()
    model.sensitivities = None  # of other transforms, perhaps
    generator = torch.Generator().manual_seed(seed)
    crops = _collect(model, images, crop, generator)
    data = [(c.y_hat, c.z_hat) for c in crops]
    with torch.no_grad():
        expected = [max(1.0, float(_bits(y, *model.entropy_parameters(y, z)))) for y, z in data]
    network = _best_calibration(model, data[:CALIBRATION_IMAGES], expected[:CALIBRATION_IMAGES])
    if steps is None:
        steps = max(n for least, n in FINE_TUNE_STEPS.items() if len(images) >= least)
    if steps:

        def loss(tensors: tuple[Tensor, ...], chosen: list[int]) -> Tensor:
            # Every image counts by its code length relative to the expected one, whatever its quality.
            y_hat, z_hat = tensors
            return (_bits(y_hat, *network(y_hat, z_hat)) / torch.tensor([expected[k] for k in chosen])).mean()

        for group in network.groups:
            group.share_scales()
        with torch.enable_grad():
            found = fine_tune(network, data, loss, steps, batch, seed=seed)
        if history is not None:
            history += found
    model.frozen = FrozenEntropyModel(network.export(model))
    return fit_to_symbols(model, crops)
