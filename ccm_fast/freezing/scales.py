"""The calibrator: from float layers, and what was seen of their activations, to the scales of integer ones.

The unit of each activation's bytes is the one choice. What follows from it is written here, once for our models
(:mod:`ccm_fast.freezing.calibration`) and for CompressAI's nets (:mod:`ccm_fast.interop.compressai.lower`): units of
weights, steps of the sums of contexts, biases. The two weigh the errors of units differently.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ccm_fast.freezing.floats import FloatGroup, FloatLayer
from ccm_fast.freezing.groups import Group
from ccm_fast.freezing.layers import WEIGHT_MAX, Layer, quantize_weight

__all__ = ["Activations", "Choose", "Seen", "fill_group", "fill_layers", "not_absurdly_fine"]

# Steps of the sum of contexts per step of the byte that follows, at most (and where no weights choose it): its rounding
# is then negligible, and far from overflow.
_SUM_STEPS = 64.0
# Smallest factor from accumulators to outputs, and room for biases: |bias| / factor stays below 2^28.
_FACTOR_MIN, _BIAS_END = 2.0**-20, 2.0**28


class Activations(Protocol):
    """What was seen of a feature map that layers read, in steps of ``unit`` [channels] (None: 1)."""

    def square(self, unit: Tensor | None) -> Tensor:
        """The mean square of every channel, above 0."""

    def mean(self, unit: Tensor | None) -> Tensor | None:
        """The mean of every channel: biases take up what rounding the weights changes on average. None: they do not."""


#: (integer layer, its float layer, its outputs, units of its inputs) -> units of its outputs' bytes, of every channel
#: after the pixel shuffle. It also sets the layer's zero point where that is not 0.
Choose = Callable[[Layer, FloatLayer, Any, "Tensor | None"], Tensor]


@dataclass(eq=False)
class Seen:
    """The activations of a group.

    Attributes:
        psi: the features.
        earlier, own: latents of the groups before it, and its own.
        sum: the activated sum of contexts; None where that is the result.
        stack, hidden: outputs of the stack's layers and of the tail's, but for the last ones.
    """

    psi: Activations
    earlier: Activations
    own: Activations
    sum: Activations | None
    stack: Sequence[Activations]
    hidden: Sequence[Activations]


def not_absurdly_fine(units: Tensor) -> Tensor:
    """Units with those raised that channels which hardly ever fire would get."""
    return torch.maximum(units, units.max() / 1000)


@torch.no_grad()
def _fill(layer: Layer, source: FloatLayer, x: Activations, unit: Tensor | None, out_unit: Tensor) -> None:
    """Set a layer: inputs ``x`` in units of ``unit`` [in] (None: 1), outputs of ``out_unit`` [out]."""
    weight = source.weight if unit is None else source.weight * unit[None, :, None, None]
    bias = source.bias / out_unit
    least = torch.maximum(torch.full_like(out_unit, _FACTOR_MIN), bias.abs() / _BIAS_END)
    value, weight_unit = quantize_weight(weight, x.square(unit), least * out_unit)
    layer.set(value, weight_unit / out_unit, bias)
    mean = x.mean(unit)
    if mean is not None:
        error = layer.value - torch.round(layer.value.clamp(-WEIGHT_MAX, WEIGHT_MAX))
        layer.bias += (error.sum((2, 3)) @ mean) * layer.log_factor.exp()


def fill_layers(
    layers: Iterable[Layer],
    sources: Sequence[FloatLayer],
    x: Activations,
    unit: Tensor | None,
    outputs: Sequence[Activations],
    choose: Choose,
    end: Tensor | None = None,
) -> Tensor | None:
    """Set layers that follow each other; returns the units of the last one's outputs.

    Args:
        layers: to be set.
        sources: their float layers.
        x: what the first one reads.
        unit: units of these inputs [channels]; None: they are latents.
        outputs: of the layers that yield bytes.
        choose: their units.
        end: units of the last layer's outputs, where these are no bytes; else None.
    """
    for k, (layer, source) in enumerate(zip(layers, sources, strict=True)):
        out_unit = end if end is not None and k == len(sources) - 1 else choose(layer, source, outputs[k], unit)
        _fill(layer, source, x, unit, out_unit.repeat_interleave(source.upsample**2))
        x, unit = outputs[k] if k < len(outputs) else x, out_unit
    return unit


@torch.no_grad()
def fill_group(
    group: Group, source: FloatGroup, seen: Seen, psi_unit: Tensor, sum_unit: Tensor, end: Tensor, choose: Choose
) -> None:
    """Set a group.

    Args:
        group: to be set.
        source: its float layers.
        seen: its activations.
        psi_unit: units of the features.
        sum_unit: units of what the sum of contexts becomes.
        end: units of means and scales.
        choose: units of the other layers' bytes.
    """
    # The sum of contexts is in units of the spatial weights, or freely chosen without them.
    fine, value = sum_unit / _SUM_STEPS, None
    if source.spatial is not None:
        value, fine = quantize_weight(source.spatial, seen.own.square(None), fine)
    group.set_spatial(value, fine / sum_unit)
    _fill(group.hyper, source.hyper, seen.psi, psi_unit, fine)
    fill_layers(group.stack, source.stack, seen.earlier, None, seen.stack, choose, fine)
    if source.skip is not None:
        _fill(group.skip, source.skip, seen.earlier, None, fine)
    if source.tail:
        fill_layers([*group.hidden, group.head], source.tail, seen.sum, sum_unit, seen.hidden, choose, end)
