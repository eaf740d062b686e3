"""The entropy network in the units of the integers, rounded in its forward pass: what freezing calibrates and tunes."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ccm_fast.constants import CONTEXT_LIMIT
from ccm_fast.entropy.plan import ACCUMULATE, HEAD, NUM_INDEXES, RELU8, GroupPlan, Plan, fixed_point
from ccm_fast.entropy.tables import fraction_bits, prior_rows, typical_rows
from ccm_fast.freezing.layers import WEIGHT_MAX, Layer, export_sum, share_scales
from ccm_fast.freezing.layers import round_ste as _round
from ccm_fast.models.ccm import CrossChannelContextModel
from ccm_fast.models.context import GroupContext

__all__ = ["Group", "Network", "hyper_layers"]


class Group(nn.Module):
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
        """See :func:`ccm_fast.freezing.layers.share_scales`: in the stack, and from the sum of contexts on."""
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
        parts = [self.hyper, *self.stack[-1:], *([self.skip] if self.skip is not None else [])]
        taps = self.schedule.taps(kernel) if self.schedule is not None else []
        factor = self.factor().double().exp().numpy()
        convs, value, factor = export_sum(parts, self.spatial if taps else None, factor)
        mult, shift = fixed_point(factor)
        D, r = len(mult), kernel // 2
        weight = np.zeros((D, len(taps), self.channels), np.int8)
        if taps:
            for t, (di, dj) in enumerate(taps):
                weight[:, t] = value[:, :, di + r, dj + r]
        return GroupPlan(
            np.array(taps, np.int32).reshape(-1, 2),
            weight,
            mult,
            shift,
            convs[0],
            [*(layer.export() for layer in self.stack[:-1]), *convs[1 : 1 + bool(self.stack)]],
            convs[-1] if self.skip is not None else None,
            [layer.export() for layer in self.hidden],
            self.head.export(),
        )


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
            [group.export(c.context_kernel) for group in self.groups],
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
