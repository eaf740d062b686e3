"""The entropy networks of a net in floats, on all positions at once, and what calibration sees of an image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ccm_fast.entropy.likelihood import gaussian_likelihood
from ccm_fast.freezing.floats import FloatLayer
from ccm_fast.interop.compressai.parts import EntropyNet

__all__ = ["FloatNet", "Sample", "activate", "conv", "sample"]


def activate(x: Tensor, layer: FloatLayer) -> Tensor:
    """What follows a layer's convolution."""
    if layer.upsample == 2:
        x = F.pixel_shuffle(x, 2)
    return x if layer.slope == 1.0 else F.leaky_relu(x, layer.slope)


def conv(x: Tensor, layer: FloatLayer) -> Tensor:
    """A layer's convolution."""
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


class FloatNet:
    """The float networks.

    Attributes:
        net: as it was read.
        start: the first channel of each group.
        spatial: each group's spatial context as the weight of a convolution [D, C, k, k], or None.
    """

    def __init__(self, net: EntropyNet):
        self.net = net
        self.start = [sum(g.channels for g in net.groups[:k]) for k in range(len(net.groups))]
        self.spatial: list[Tensor | None] = []
        for group in net.groups:
            if group.spatial is None:
                self.spatial.append(None)
                continue
            k = 1 + 2 * max(max(map(abs, t)) for t in group.taps)
            dense = group.spatial.new_zeros(*group.spatial.shape[:2], k, k)
            for t, (di, dj) in enumerate(group.taps):
                dense[:, :, di + k // 2, dj + k // 2] = group.spatial[:, :, t]
            self.spatial.append(dense)

    def psi(self, z: Tensor) -> list[Tensor]:
        """The outputs of the layers of h_s, none cropped."""
        x, out = z + self.net.medians.reshape(1, -1, 1, 1), []
        for layer in self.net.h_s:
            x = activate(conv(x, layer), layer)
            out.append(x)
        return out

    def own(self, y_hat: Tensor, g: int) -> Tensor:
        """A group's channels."""
        return y_hat[:, self.start[g] : self.start[g] + self.net.groups[g].channels]

    def readable(self, h: int, w: int) -> Tensor | None:
        """1 where the spatial context may be read, [h, w]; None: everywhere."""
        if self.net.anchors is None:
            return None
        i, j = torch.arange(h)[:, None], torch.arange(w)
        return ((i + j) % 2 != self.net.anchors).float()

    def stack(self, y_hat: Tensor, g: int) -> list[Tensor]:
        """The outputs of the layers of a group's channel context."""
        x, out = y_hat[:, : self.start[g]], []
        for layer in self.net.groups[g].stack:
            x = activate(conv(x, layer), layer)
            out.append(x)
        return out

    def pre(self, psi: Tensor, y_hat: Tensor, g: int) -> Tensor:
        """The sum of all contexts of a group."""
        group, spatial = self.net.groups[g], self.spatial[g]
        x = conv(psi, group.from_psi)
        if group.stack:
            x = x + self.stack(y_hat, g)[-1]
        if spatial is not None:
            near = F.conv2d(self.own(y_hat, g), spatial, padding=spatial.shape[-1] // 2)
            mask = self.readable(*y_hat.shape[-2:])
            x = x + (near if mask is None else near * mask)
        return x

    def group(self, psi: Tensor, y_hat: Tensor, g: int) -> tuple[Tensor, Tensor]:
        """Mean and scale of a group."""
        x = activate(self.pre(psi, y_hat, g), self.net.groups[g].from_psi)
        for layer in self.net.groups[g].tail:
            x = activate(conv(x, layer), layer)
        if self.net.kind == "scale":
            return torch.zeros_like(x), x
        scale, mean = x.chunk(2, 1)
        return mean, scale

    def parameters(self, psi: Tensor, y_hat: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and scale of all groups."""
        means, scales = zip(*(self.group(psi, y_hat, g) for g in range(len(self.net.groups))), strict=True)
        return torch.cat(means, 1), torch.cat(scales, 1)


@torch.no_grad()
def sample(net: EntropyNet, y: Tensor, z: Tensor) -> Sample:
    """The latents that coding y and z (floats, of one image) would give with the float net.

    Rounding around the mean is serial with a spatial context. On a checkerboard two rounds over all positions are what
    a coder does; in raster order three come close enough to it for statistics.
    """
    model = FloatNet(net)
    h, w = y.shape[-2:]
    z = torch.round(z - net.medians.reshape(1, -1, 1, 1))
    psi = model.psi(z)[-1][..., :h, :w]
    y_hat = y.clone()
    for g, group in enumerate(net.groups):
        own = model.own(y, g)
        rounds = 1 if group.spatial is None else 3 if net.anchors is None else 2
        for _ in range(rounds):
            mean, _ = model.group(psi, y_hat, g)
            model.own(y_hat, g).copy_(torch.round(own - mean) + mean)
    mean, scale = model.parameters(psi, y_hat)
    scale = scale.clamp(min=float(net.scale_table[0]), max=float(net.scale_table[-1]))
    bits = -torch.log2(gaussian_likelihood(torch.round(y - mean) + mean, mean, scale)).sum()
    return Sample(z, y_hat, y, mean, scale, max(1.0, float(bits)))
