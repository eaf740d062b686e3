"""The integer network that a CompressAI net becomes, before it is integers (:mod:`ccm_fast.freezing.layers`)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ccm_fast.constants import CONTEXT_LIMIT
from ccm_fast.entropy.plan import ACCUMULATE, HEAD, LEAKY8, NUM_INDEXES, RELU8, Plan, TableRows, fixed_point
from ccm_fast.freezing.floats import FloatLayer
from ccm_fast.freezing.groups import Group
from ccm_fast.freezing.layers import Layer
from ccm_fast.interop.compressai.floats import FloatNet
from ccm_fast.interop.compressai.parts import EntropyNet

__all__ = ["Network"]

#: Steps of the scale codes: the largest scale's share, so that codes have 16 bits (1/256 with CompressAI's table, whose
#: closest borders are 0.014 apart).
SCALE_CODES = 65536


def _output(layer: FloatLayer) -> int:
    return RELU8 if layer.slope == 0.0 else LEAKY8


def _group(model: FloatNet, g: int) -> Group:
    group, spatial = model.net.groups[g], model.spatial[g]
    stack = [Layer(_output(layer), signed=k == 0, slope=layer.slope) for k, layer in enumerate(group.stack[:-1])]
    if group.stack:
        stack.append(Layer(ACCUMULATE, signed=not stack))
    return Group(
        group.channels,
        Layer(ACCUMULATE, signed=False),
        stack,
        None,
        [Layer(_output(x), signed=False, slope=x.slope) for x in group.tail[:-1]],
        Layer(HEAD, signed=False) if group.tail else None,
        _output(group.from_psi) if group.tail else HEAD,
        group.from_psi.slope,
        group.taps,
        None if spatial is None else (spatial != 0).any(0).any(0).float()[None, None],
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
        self.groups = nn.ModuleList(_group(self.float, g) for g in range(len(net.groups)))
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
            mean, scale = group(psi, context[:, : self.float.start[g]], own, readable)
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
