"""Analysis and synthesis transforms (float, any torch device), and the hyper pair.

All convolutions keep the size ("same" padding) and all changes of resolution are pixel (un)shuffles or strided
convolutions by a whole factor, so an input of 16h x 16w pixels gives latents of h x w.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import CCMConfig

__all__ = ["AnalysisTransform", "HyperAnalysis", "HyperSynthesis", "Merge", "Split", "SynthesisTransform", "main_path"]


class ResidualBlock(nn.Module):
    """x + conv3x3(leaky(conv3x3(x))). The second convolution starts small: a deep stack then starts near identity."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        with torch.no_grad():
            self.conv2.weight.mul_(0.25)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.leaky_relu(self.conv1(x)))


class Split(nn.Module):
    """Coarse and fine channels from the same features [B, C, h, w]: cat(coarse(x), fine(x)).

    Args:
        coarse: to [B, M - F, h / 4, w / 4].
        fine: to [B, F, h / 4, w / 4].
        deep: to the same shape as ``fine``, and added to it, from what the first ``depth`` modules of ``coarse`` give.
        depth: see ``deep``.
    """

    def __init__(self, coarse: nn.Sequential, fine: nn.Module, deep: nn.Module | None = None, depth: int = 0):
        super().__init__()
        self.coarse, self.fine, self.deep, self.depth = coarse, fine, deep, depth

    def forward(self, x: Tensor) -> Tensor:
        if self.deep is None:
            return torch.cat([self.coarse(x), self.fine(x)], 1)
        features = self.coarse[: self.depth](x)
        return torch.cat([self.coarse[self.depth :](features), self.fine(x) + self.deep(features)], 1)

    def paths(self) -> list[nn.Module]:
        """What leads from the input to the output, each in a row."""
        deep = [] if self.deep is None else [nn.Sequential(self.coarse[: self.depth], self.deep)]
        return [self.coarse, self.fine, *deep]


class Merge(nn.Module):
    """The same features from coarse channels and from the fine ones after them: coarse(a) + fine(b).

    Args:
        coarse: from the first ``channels`` channels of [B, M, h, w] to [B, C, 4 h, 4 w].
        fine: from the others, to the same shape.
        channels: how many are coarse.
    """

    def __init__(self, coarse: nn.Sequential, fine: nn.Module, channels: int):
        super().__init__()
        self.coarse, self.fine, self.channels = coarse, fine, channels

    def forward(self, x: Tensor) -> Tensor:
        return self.coarse(x[:, : self.channels]) + self.fine(x[:, self.channels :])

    def paths(self) -> list[nn.Module]:
        """What leads from the input to the output, each in a row."""
        return [self.coarse, self.fine]


def _stage(channels: int, blocks: int) -> list[nn.Module]:
    return [ResidualBlock(channels) for _ in range(blocks)]


class AnalysisTransform(nn.Sequential):
    """g_a: image [B, 3, 16h, 16w] in [0, 1] -> y [B, M, h, w]."""

    def __init__(self, config: CCMConfig):
        n4, n8, n16 = config.widths
        b4, b8, b16 = config.blocks
        coarse = [
            nn.Conv2d(n4, n8, 3, stride=2, padding=1),
            *_stage(n8, b8),
            nn.Conv2d(n8, n16, 3, stride=2, padding=1),
            *_stage(n16, b16),
            nn.Conv2d(n16, config.coarse_channels, 3, padding=1),
        ]
        if config.fine:
            deep = None
            if config.fine_deep:
                deep = nn.Conv2d(n8, config.fine_channels, 2, stride=2, bias=False)
                nn.init.zeros_(deep.weight)  # the fine channels start linear: train/fine.py, train/grow.py
            fine = nn.Conv2d(n4, config.fine_channels, 4, stride=4)
            coarse = [Split(nn.Sequential(*coarse), fine, deep, 1 + b8)]
        super().__init__(nn.PixelUnshuffle(4), nn.Conv2d(48, n4, 3, padding=1), *_stage(n4, b4), *coarse)

    def forward(self, x: Tensor) -> Tensor:
        # Unit-variance input: photographs have a standard deviation of about a quarter.
        return super().forward((x - 0.5) * 4.0)


class SynthesisTransform(nn.Sequential):
    """g_s: y_hat [B, M, h, w] -> image [B, 3, 16h, 16w], not clamped.

    Upsampling is a convolution followed by a pixel shuffle: no overlap between neighbouring outputs is wasted, and the
    work stays at low resolution, where it is cheap.
    """

    def __init__(self, config: CCMConfig):
        n4, n8, n16 = config.widths
        b4, b8, b16 = config.synthesis_blocks or config.blocks
        coarse = [
            nn.Conv2d(config.coarse_channels, n16, 3, padding=1),
            *_stage(n16, b16),
            nn.Conv2d(n16, 4 * n8, 3, padding=1),
            nn.PixelShuffle(2),
            *_stage(n8, b8),
            nn.Conv2d(n8, 4 * n4, 3, padding=1),
            nn.PixelShuffle(2),
            *_stage(n4, b4),
            nn.Conv2d(n4, 48, 3, padding=1),
        ]
        if config.fine:
            fine = nn.Sequential(nn.Conv2d(config.fine_channels, 768, 1, bias=False), nn.PixelShuffle(4))
            coarse = [Merge(nn.Sequential(*coarse), fine, config.coarse_channels)]
        super().__init__(*coarse, nn.PixelShuffle(4))

    def forward(self, y_hat: Tensor) -> Tensor:
        return super().forward(y_hat) * 0.25 + 0.5


def main_path(transform: nn.Sequential) -> list[nn.Module]:
    """Layers of g_a or g_s in their order, with what the coarse channels go through and without the fine path."""
    out: list[nn.Module] = []
    for layer in transform:
        out.extend(layer.coarse if isinstance(layer, (Split, Merge)) else [layer])
    return out


class HyperAnalysis(nn.Sequential):
    """h_a: y [B, M, h, w] -> z [B, N, ceil(h / 4), ceil(w / 4)]. Fine channels are not looked at."""

    def __init__(self, config: CCMConfig):
        p, n = config.psi_channels, config.hyper_channels
        super().__init__(
            nn.Conv2d(config.coarse_channels, p, 3, padding=1),
            nn.LeakyReLU(),
            nn.Conv2d(p, p, 5, stride=2, padding=2),
            nn.LeakyReLU(),
            nn.Conv2d(p, n, 5, stride=2, padding=2),
        )
        self.channels = config.coarse_channels

    def forward(self, y: Tensor) -> Tensor:
        h, w = y.shape[-2:]
        y = y[:, : self.channels]
        # Edge replication, not zeros: the values beyond the border are never coded, they only shape z.
        return super().forward(F.pad(y, (0, -w % 4, 0, -h % 4), mode="replicate"))


class HyperSynthesis(nn.Sequential):
    """h_s: z_hat [B, N, hz, wz] -> psi [B, P, 4 hz, 4 wz], non-negative.

    ReLU throughout, because the frozen network stores activations as unsigned bytes. Callers crop psi to y's size.
    """

    def __init__(self, config: CCMConfig):
        p, n = config.psi_channels, config.hyper_channels
        super().__init__(
            nn.Conv2d(n, p, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(p, 4 * p, 3, padding=1),
            nn.PixelShuffle(2),
            nn.ReLU(),
            nn.Conv2d(p, 4 * p, 3, padding=1),
            nn.PixelShuffle(2),
            nn.ReLU(),
        )
