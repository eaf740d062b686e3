"""The way back: float entropy networks from a plan, to continue training and to evaluate likelihoods."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ccm_fast.entropy.plan import GroupPlan, IntConv, Plan, requantization_factor
from ccm_fast.models.ccm import CrossChannelContextModel
from ccm_fast.models.context import GroupContext

__all__ = ["CEILING", "thaw"]

# Float activations per step of a byte: a full byte becomes about 4, a size that optimizers like. Any value gives the
# same function, because ReLU networks are positively homogeneous.
_UNIT = 1 / 64
#: Where activations end. Tuned integers lean on their bytes' end: without it one crop in two hundred had means of tens
#: where the integers say tenths, and g_s made values of -11 to 11 of them.
CEILING = 255 * _UNIT


def _factor(mult: np.ndarray, shift: np.ndarray) -> Tensor:
    return torch.from_numpy(requantization_factor(mult, shift))


def _assign(conv: nn.Conv2d, plan: IntConv, in_unit: float, out_unit: Tensor | float) -> None:
    """Fill a float convolution; units of its inputs and outputs per step of the integers."""
    factor = _factor(plan.mult, plan.shift) * out_unit
    weight = torch.from_numpy(plan.weight.astype(np.float64)).permute(0, 3, 1, 2)
    if weight.shape != conv.weight.shape:
        raise ValueError(f"a layer of {tuple(weight.shape)} does not fit one of {tuple(conv.weight.shape)}")
    conv.weight.copy_(weight * (factor / in_unit)[:, None, None, None])
    if conv.bias is not None:
        conv.bias.copy_(torch.from_numpy(plan.bias.astype(np.float64)) * factor)


def _thaw_group(context: GroupContext, group: GroupPlan, kernel: int) -> None:
    sum_unit = _factor(group.mult, group.shift) * _UNIT  # float units per step of the sum of contexts
    _assign(context.hyper, group.hyper, _UNIT, sum_unit)
    unit = 1.0
    for k, (conv, plan) in enumerate(zip(context.stack, group.stack, strict=True)):
        _assign(conv, plan, unit, sum_unit if k == len(group.stack) - 1 else _UNIT)
        unit = _UNIT
    if context.skip is not None:
        _assign(context.skip, group.skip, 1.0, sum_unit)
    if context.spatial is not None:
        context.spatial.weight.zero_()
        for t, (di, dj) in enumerate(group.taps.tolist()):
            weight = torch.from_numpy(group.weight[:, t].astype(np.float64)) * sum_unit[:, None]
            context.spatial.weight[:, :, di + kernel // 2, dj + kernel // 2] = weight.float()
    for conv, plan in zip(context.hidden, group.hidden, strict=True):
        _assign(conv, plan, _UNIT, _UNIT)
    C = context.channels
    head_unit = torch.cat([torch.full((C,), 1 / 16), torch.full((C,), 1 / GroupContext.INDEX_GAIN)]).double()
    _assign(context.head, group.head, _UNIT, head_unit)


@torch.no_grad()
def thaw(model: CrossChannelContextModel, plan: Plan) -> None:
    """Set h_s and the context networks of ``model`` from a plan that :func:`ccm_fast.freezing.freeze.freeze` made.

    The float network is the frozen one without rounding; its activations end where the bytes do.

    Raises:
        ValueError: the plan's layers are not those of the model.
    """
    model.saturate(CEILING)
    convs = [m for m in model.h_s if isinstance(m, nn.Conv2d)]
    unit = 1.0
    for conv, layer in zip(convs, plan.hyper_synthesis, strict=True):
        _assign(conv, layer, unit, _UNIT)
        unit = _UNIT
    for context, group in zip(model.contexts, plan.groups, strict=True):
        _thaw_group(context, group, model.config.context_kernel)
