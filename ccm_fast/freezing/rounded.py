"""The entropy network in the units of the integers, rounded in its forward pass: what freezing calibrates and tunes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ccm_fast.constants import CONTEXT_LIMIT
from ccm_fast.entropy.plan import ACCUMULATE, HEAD, NUM_INDEXES, RELU8, Plan
from ccm_fast.entropy.tables import fraction_bits, prior_rows, typical_rows
from ccm_fast.freezing import groups
from ccm_fast.freezing.layers import Layer, share_scales
from ccm_fast.models.ccm import CrossChannelContextModel
from ccm_fast.models.context import GroupContext

__all__ = ["Group", "Network", "hyper_layers"]


class Group(groups.Group):
    """A group's network; mirrors :class:`ccm_fast.models.context.GroupContext`."""

    def __init__(self, context: GroupContext):
        last = len(context.stack) - 1
        spatial = context.spatial
        super().__init__(
            context.channels,
            Layer(ACCUMULATE, signed=False),
            [Layer(ACCUMULATE if k == last else RELU8, signed=k == 0) for k in range(len(context.stack))],
            Layer(ACCUMULATE, signed=True) if context.skip is not None else None,
            [Layer(RELU8, signed=False) for _ in context.hidden],
            Layer(HEAD, signed=False),
            taps=[] if spatial is None else spatial.schedule.taps(spatial.weight.shape[-1]),
            usable=None if spatial is None else spatial.taps.clone(),
        )

    def share_scales(self) -> None:
        """See :func:`ccm_fast.freezing.layers.share_scales`: in the stack, and from the sum of contexts on."""
        share_scales(list(self.stack))
        tail = [*self.hidden, self.head]
        share_scales(tail)
        self.log_scale = tail[0].log_scale_in = nn.Parameter(torch.zeros_like(self.log_factor))


class Network(nn.Module):
    """The whole entropy network in the units of the integers."""

    def __init__(self, model: CrossChannelContextModel):
        super().__init__()
        self.h_s = nn.ModuleList()
        for k, (_, up) in enumerate(hyper_layers(model)):
            self.h_s.append(Layer(RELU8, signed=k == 0, upsample=up))
        self.groups = nn.ModuleList(Group(c) for c in model.contexts)

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
        schedule = c.coding_schedule
        return Plan(
            tuple(c.groups),
            c.hyper_channels,
            schedule.row_step,
            schedule.col_step,
            np.array(schedule.pattern, np.int32),
            [layer.export() for layer in self.h_s],
            [group.export() for group in self.groups],
            np.arange(NUM_INDEXES, dtype=np.uint8),
            fraction_bits(),
            typical_rows(),
            prior_rows(model.z_prior),
        )


def hyper_layers(model: CrossChannelContextModel) -> list[tuple[nn.Conv2d, int]]:
    """The convolutions of h_s, each with the upsampling that follows."""
    out: list[tuple[nn.Conv2d, int]] = []
    for module in model.h_s:
        if isinstance(module, nn.Conv2d):
            out.append((module, 1))
        elif isinstance(module, nn.PixelShuffle):
            out[-1] = (out[-1][0], module.upscale_factor)
    return out
