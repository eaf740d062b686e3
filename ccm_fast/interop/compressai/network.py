"""The integer network that a CompressAI net becomes, before it is integers (:mod:`ccm_fast.freezing.layers`)."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ccm_fast.constants import CONTEXT_LIMIT
from ccm_fast.entropy.plan import ACCUMULATE, HEAD, LEAKY8, NUM_INDEXES, RELU8, GroupPlan, Plan, TableRows, fixed_point
from ccm_fast.freezing.layers import WEIGHT_MAX, Layer, export_sum, round_ste, to_bytes
from ccm_fast.interop.compressai.floats import FloatNet
from ccm_fast.interop.compressai.parts import EntropyNet, FloatLayer

__all__ = ["Network"]

#: Steps of the scale codes: the largest scale's share, so that codes have 16 bits (1/256 with CompressAI's table, whose
#: closest borders are 0.014 apart).
SCALE_CODES = 65536


def _output(layer: FloatLayer) -> int:
    return RELU8 if layer.slope == 0.0 else LEAKY8


class Group(nn.Module):
    """The integer network of a group, with real-valued parameters; see :mod:`ccm_fast.freezing.layers`."""

    def __init__(self, model: FloatNet, g: int):
        super().__init__()
        group = model.net.groups[g]
        self.taps, self.channels = group.taps, group.channels
        self.hyper = Layer(ACCUMULATE, signed=False)
        self.stack = nn.ModuleList(
            Layer(_output(layer), signed=k == 0, slope=layer.slope) for k, layer in enumerate(group.stack[:-1])
        )
        if group.stack:
            self.stack.append(Layer(ACCUMULATE, signed=len(group.stack) == 1))
        self.spatial = None
        self.slope, self.zero = group.from_psi.slope, 0
        self.output = _output(group.from_psi) if group.tail else HEAD
        self.hidden = nn.ModuleList(Layer(_output(x), signed=False, slope=x.slope) for x in group.tail[:-1])
        self.head = Layer(HEAD, signed=False) if group.tail else None

    def forward(self, psi: Tensor, earlier: Tensor, own: Tensor, readable: Tensor | None) -> Tensor:
        """Codes of means and scales [B, 2 C, h, w]; contexts as the integers see them."""
        pre = self.hyper(psi)
        if self.stack:
            x = earlier
            for layer in self.stack:
                x = layer(x)
            pre = pre + x
        if self.spatial is not None:
            weight = round_ste(self.spatial.clamp(-WEIGHT_MAX, WEIGHT_MAX)) * self.usable
            near = F.conv2d(own, weight, padding=weight.shape[-1] // 2)
            pre = pre + (near if readable is None else near * readable)
        pre = pre * self.log_factor.exp()[:, None, None]
        if self.head is None:
            return round_ste(pre)
        f = to_bytes(pre, self.output, self.zero, self.slope)
        for layer in self.hidden:
            f = layer(f)
        return self.head(f)

    @torch.no_grad()
    def export(self) -> GroupPlan:
        """The integers."""
        parts = [self.hyper, *self.stack[-1:]]
        factor = self.log_factor.double().exp().numpy()
        convs, value, factor = export_sum(parts, self.spatial if self.taps else None, factor)
        mult, shift = fixed_point(factor)
        weight = np.zeros((len(mult), len(self.taps), self.channels), np.int8)
        if self.taps:
            r = value.shape[-1] // 2
            for t, (di, dj) in enumerate(self.taps):
                weight[:, t] = value[:, :, di + r, dj + r]
        leaky = self.output == LEAKY8
        return GroupPlan(
            np.array(self.taps, np.int32).reshape(-1, 2),
            weight,
            mult,
            shift,
            convs[0],
            [*(layer.export() for layer in self.stack[:-1]), *convs[1:]],
            None,
            [layer.export() for layer in self.hidden],
            None if self.head is None else self.head.export(),
            self.output,
            self.zero if leaky else 0,
            np.rint(self.slope * mult).astype(np.int32) if leaky else None,
        )


class Network(nn.Module):
    """The integer network, with real-valued parameters."""

    def __init__(self, net: EntropyNet):
        super().__init__()
        self.net, self.float = net, FloatNet(net)
        self.h_s = nn.ModuleList(
            Layer(_output(layer), signed=k == 0, upsample=layer.upsample, slope=layer.slope)
            for k, layer in enumerate(net.h_s)
        )
        self.groups = nn.ModuleList(Group(self.float, g) for g in range(len(net.groups)))
        self.reads_y = any(group.stack or group.taps for group in net.groups)
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
        if not self.reads_y:
            return y_hat
        steps = torch.floor(y_hat / self.context_unit[:, None, None] + 0.5)
        return steps.clamp(-CONTEXT_LIMIT, CONTEXT_LIMIT)

    def forward(self, y_hat: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and scale, on the grids of their codes."""
        x = self.z_inputs(z)
        for layer in self.h_s:
            x = layer(x)
        size = y_hat.shape[-2:]
        psi, context, readable = x[..., : size[0], : size[1]], self.contexts(y_hat), self.float.readable(*size)
        means, scales = [], []
        for g, group in enumerate(self.groups):
            own = self.float.own(context, g)
            mean, scale = group(psi, context[:, : self.float.start[g]], own, readable).chunk(2, 1)
            means.append(mean)
            scales.append(scale)
        return torch.cat(means, 1) / 16, torch.cat(scales, 1) * self.scale_step

    @property
    def scale_step(self) -> float:
        """The scale that one scale code stands for."""
        return float(self.net.scale_table[-1]) / (SCALE_CODES - 1)

    def schedule(self) -> tuple[int, int, np.ndarray]:
        """Row step, column step and pattern of the plan."""
        if self.net.anchors is not None:
            return 0, 0, np.array([[0, 1], [1, 0]], np.int32) ^ self.net.anchors
        radius = max((max(map(abs, t)) for group in self.net.groups for t in group.taps), default=None)
        return (0, 0, np.zeros((1, 1), np.int32)) if radius is None else (radius + 1, 1, np.zeros((1, 1), np.int32))

    @torch.no_grad()
    def export(self) -> Plan:
        """The integers, with schedule and tables."""
        net = self.net
        context = fixed_point(1 / (16 * self.context_unit.double().numpy())) if self.reads_y else (None, None)
        codes = np.arange(SCALE_CODES) * self.scale_step
        scale_table = np.searchsorted(net.scale_table[:-1].double().numpy(), codes, side="left").astype(np.uint8)
        return Plan(
            tuple(group.channels for group in net.groups),
            net.hyper_channels + bool(self.constant),
            *self.schedule(),
            [layer.export() for layer in self.h_s],
            [group.export() for group in self.groups],
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
