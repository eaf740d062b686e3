"""Integer layers before they are integers: the building blocks of freezing.

A network is written down once more in the units of the integers: real-valued weights that are rounded to int8 in the
forward pass, real multipliers, outputs rounded to bytes. Scales come from calibration; fine-tuning moves weights across
rounding thresholds with straight-through gradients. What is rounded at the end is what the forward pass has seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ccm_fast.entropy.plan import ACCUMULATE, LEAKY8, RELU8, IntConv, fixed_point
from ccm_fast.entropy.plan_checks import SIGNED_MAX, UNSIGNED_MAX

__all__ = [
    "WEIGHT_MAX",
    "Layer",
    "export_sum",
    "flat",
    "int32",
    "least_error",
    "mean_square",
    "quantize_weight",
    "round_ste",
    "share_scales",
    "to_bytes",
    "within_32_bits",
]

WEIGHT_MAX = 127
# Largest factor that a multiplier and a shift express, and accumulator that 32 bits hold.
_FACTOR_MAX, _ACCUMULATOR_MAX = 2.0**14 * (1 - 2.0**-20), 2**31 - 1
# And a sum of layers' outputs, with room for what rounding to coarser steps may add.
_SUM_MAX = 2.0**31 - 2.0**22
# Weight ranges tried, as shares of a channel's largest weight.
_RANGES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5)


def round_ste(x: Tensor) -> Tensor:
    """Round half up, as requantization does; the gradient of the identity."""
    return x + (torch.floor(x + 0.5) - x).detach()


def int32(a: np.ndarray) -> np.ndarray:
    """Clipped to 32 bits; the overflow proof judges what comes of it."""
    limit = 2**31 - 1
    return np.clip(a, -limit, limit).astype(np.int32)


def to_bytes(pre: Tensor, output: int, zero: int, slope: float) -> Tensor:
    """What RELU8 and LEAKY8 make of values in units of their steps."""
    if output == LEAKY8:
        return round_ste(torch.where(pre < 0, pre * slope, pre)).clamp(-zero, 255 - zero)
    return round_ste(pre).clamp(0, 255)


class Layer(nn.Module):
    """An integer convolution as it will be, with real-valued parameters.

    ``out = round(exp(log_factor) * conv(x, round(value)) + bias)``, bias in units of the output.

    Args:
        output: RELU8, LEAKY8, ACCUMULATE or HEAD.
        signed: inputs are latents.
        upsample: 2: a pixel shuffle follows.
        slope: of LEAKY8's negative side; 1: a linear layer. Calibration sets its zero point.
    """

    def __init__(self, output: int, signed: bool, upsample: int = 1, slope: float = 0.0):
        super().__init__()
        self.output, self.signed, self.upsample, self.slope, self.zero = output, signed, upsample, slope, 0
        self.log_scale_in = self.log_scale_out = None

    def set(self, value: Tensor, factor: Tensor, bias: Tensor | None) -> None:
        """value [out, in, k, k] in units of the integer weight; factor, bias [out]."""
        self.value = nn.Parameter(value.contiguous())
        self.log_factor = nn.Parameter(factor.log())
        self.bias = nn.Parameter(bias.clone() if bias is not None else torch.zeros_like(factor))

    def scaled(self) -> tuple[Tensor, Tensor, Tensor]:
        """Weights (not rounded), log-factors and biases with the scales of inputs and outputs."""
        value, log_factor, bias = self.value, self.log_factor, self.bias
        if self.log_scale_in is not None:
            value = value * self.log_scale_in.exp()[None, :, None, None]
        if self.log_scale_out is not None:
            log_factor, bias = log_factor - self.log_scale_out, bias * (-self.log_scale_out).exp()
        return value.clamp(-WEIGHT_MAX, WEIGHT_MAX), log_factor, bias

    def forward(self, x: Tensor) -> Tensor:
        value, log_factor, bias = self.scaled()
        weight, factor = round_ste(value), log_factor.exp()[:, None, None]
        out = F.conv2d(x, weight, padding=weight.shape[-1] // 2) * factor + bias[:, None, None]
        if self.output in (RELU8, LEAKY8):
            out = to_bytes(out, self.output, self.zero, self.slope)
        else:
            out = round_ste(out)
        return F.pixel_shuffle(out, 2) if self.upsample == 2 else out

    def _integers(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Weights int8 [out, k, k, in], biases in accumulators, factors, and the largest accumulators there can be.

        Biases that would leave 32 bits with the largest inputs end there: such channels are constant.
        """
        value, log_factor, bias = self.scaled()
        weight = torch.floor(value + 0.5).permute(0, 2, 3, 1).contiguous().numpy().astype(np.int8)
        factor = log_factor.double().exp().numpy()
        reach = np.abs(weight.astype(np.int64)).sum((1, 2, 3)) * (SIGNED_MAX if self.signed else UNSIGNED_MAX)
        room = _ACCUMULATOR_MAX - reach
        bias = np.clip(np.rint(bias.double().numpy() / factor), -room, room)
        return weight, int32(bias), factor, reach + np.abs(bias)

    @torch.no_grad()
    def reach(self) -> tuple[np.ndarray, np.ndarray]:
        """Per output channel the largest magnitude of an output before any clamp, and the factor to it."""
        _, _, factor, bound = self._integers()
        return factor * bound, factor

    @torch.no_grad()
    def export(self, coarser: np.ndarray | float = 1.0) -> IntConv:
        """The integers. ``coarser``: outputs are in steps so many times as large, per channel."""
        weight, bias, factor, bound = self._integers()
        factor = factor / coarser
        if self.output != ACCUMULATE:
            factor = within_32_bits(factor, bound)
        mult, shift = fixed_point(factor)
        conv = IntConv(weight, bias, mult, shift, self.output, self.signed, self.upsample)
        if self.output == LEAKY8:
            conv.zero, conv.below = self.zero, np.rint(self.slope * mult).astype(np.int32)
        return conv


def within_32_bits(factor: np.ndarray, bound: np.ndarray) -> np.ndarray:
    """Factors that requantize accumulators up to ``bound`` within 32 bits: lowered, where they would not.

    What is requantized is clamped to a byte (or to a code of 16 bits) next. Where a factor is lowered, some input makes
    2^31 steps of it, and all but inputs within a ten millionth (or 65,536th) part of that are clamped, before as after.
    """
    return np.minimum(factor, np.minimum((2.0**31 - 8) / np.maximum(bound, 1.0), _FACTOR_MAX))


def export_sum(
    parts: list[Layer], spatial: Tensor | None, factor: np.ndarray
) -> tuple[list[IntConv], np.ndarray | None, np.ndarray]:
    """The integers of layers whose outputs are added, and of what becomes of the sum.

    Its steps are coarser than the layers have been given where no input could otherwise be kept within 32 bits: that is
    so of channels that hardly ever fire, whose own range says nothing of what their inputs can do.

    Args:
        parts: ACCUMULATE layers of D outputs.
        spatial: weights [D, C, k, k] of latents, in steps of the sum; None: no spatial context.
        factor: [D], from the sum to what follows.

    Returns:
        The layers, the spatial weights (rounded, int8), and the factors.
    """
    reaches, factors = zip(*(layer.reach() for layer in parts), strict=True)
    total = np.sum(reaches, axis=0)
    value = None
    if spatial is not None:
        value = spatial.double().clamp(-WEIGHT_MAX, WEIGHT_MAX)
        total = total + np.rint(value.abs().sum((1, 2, 3)).numpy()) * SIGNED_MAX
    coarser = np.maximum(np.max(factors, axis=0) / _FACTOR_MAX, np.maximum(total / _SUM_MAX, 1.0))
    if value is not None:
        value = torch.floor(value / torch.from_numpy(coarser)[:, None, None, None] + 0.5).numpy().astype(np.int8)
    convs = [layer.export(coarser) for layer in parts]
    return convs, value, within_32_bits(factor * coarser, total / coarser)


def share_scales(layers: list[Layer]) -> None:
    """Let each layer's bytes have scales, one a channel, that the next one's weights take back; 1 at first.

    In real numbers they change nothing. With rounding and saturation their gradients, straight through both, weigh one
    against the other, as learned step sizes do (Esser et al. 2020, arXiv 1902.08153).
    """
    for before, after in pairwise(layers):
        before.log_scale_out = after.log_scale_in = nn.Parameter(torch.zeros_like(before.bias))


def flat(batches: list[Tensor]) -> Tensor:
    """[channels, samples] of feature maps."""
    return torch.cat([b.permute(1, 0, 2, 3).flatten(1) for b in batches], 1)


def mean_square(batches: list[Tensor]) -> Tensor:
    """Of every channel [channels], of feature maps [B, channels, h, w]."""
    return flat(batches).square().mean(1)


def least_error(
    x: Tensor, units: Iterable[Tensor], low: float, high: float, total: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Of the units that are tried, those with the least squared error of rounding to their steps; and that error.

    Args:
        x: [channels, ...].
        units: candidates, each [channels]; of equal ones the first is taken.
        low: the first step.
        high: the last one.
        total: of squared errors, of x's shape: those of every channel [channels].
    """
    best = error = None
    for unit in units:
        step = unit.reshape(-1, *(1,) * (x.dim() - 1))
        found = total((torch.round(x / step).clamp(low, high) * step - x).square())
        best = unit if error is None else torch.where(found < error, unit, best)
        error = found if error is None else torch.minimum(found, error)
    return best, error


def quantize_weight(weight: Tensor, inputs: Tensor, least: Tensor) -> tuple[Tensor, Tensor]:
    """The weights in units of the integer weights, and these units, per output channel.

    Args:
        weight: [out, in, k, k], already in units of the integer inputs.
        inputs: mean square of the integer inputs, per input channel: errors count as much as what they multiply.
        least: smallest unit allowed, per output channel (dead channels would have absurd ones).
    """
    top = weight.abs().amax((1, 2, 3)).clamp(min=1e-12)
    best, _ = least_error(
        weight,
        (top * share / WEIGHT_MAX for share in _RANGES),
        -WEIGHT_MAX,
        WEIGHT_MAX,
        lambda square: (square * inputs[None, :, None, None]).sum((1, 2, 3)),
    )
    best = torch.maximum(best, least)
    return weight / best[:, None, None, None], best
