"""The context network of one latent group (arXiv 2103.02884: spatial, cross-channel and hyper context combined)."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ccm_fast.constants import NUM_SCALES
from ccm_fast.entropy.likelihood import index_from_scale
from ccm_fast.entropy.schedule import Schedule

from .config import CCMConfig

__all__ = ["GroupContext", "relu"]


def relu(x: Tensor, ceiling: float | None) -> Tensor:
    """x where it is positive, up to the ceiling, if there is one."""
    return F.relu(x) if ceiling is None else F.hardtanh(x, 0.0, ceiling)


class SpatialContext(nn.Conv2d):
    """Masked convolution over the own group: reads only neighbours that the schedule decodes in an earlier step."""

    def __init__(self, channels: int, out_channels: int, kernel: int, schedule: Schedule):
        super().__init__(channels, out_channels, kernel, padding=kernel // 2, bias=False)
        self.schedule = schedule
        self.register_buffer("taps", torch.from_numpy(schedule.class_taps(kernel)), persistent=False)
        # The rows of the kernel down to its last tap: three of five for the causal mask.
        self.rows = 1 + max((di + kernel // 2 for di, _ in schedule.taps(kernel)), default=0)

    def forward(self, y: Tensor) -> Tensor:
        ph, pw = self.schedule.period
        if ph == pw == 1:
            above, beside = self.padding
            weight = (self.weight * self.taps[0, 0])[:, :, : self.rows]
            return F.conv2d(F.pad(y, (0, 0, above, self.rows - 1 - above)), weight, padding=(0, beside))
        out = y.new_zeros(y.shape[0], self.out_channels, *y.shape[2:])
        for a in range(ph):
            for b in range(pw):
                if self.taps[a, b].any():
                    full = F.conv2d(y, self.weight * self.taps[a, b], padding=self.padding)
                    out[:, :, a::ph, b::pw] = full[:, :, a::ph, b::pw]
        return out


class GroupContext(nn.Module):
    """Entropy parameters of one group.

        psi ----------- 1x1 ------------------------.
        earlier groups --- conv stack, ReLU between --+--> ReLU -> 1x1 -> ReLU -> 1x1 -> (mean, scale index)
                      '--- linear conv --------------'|
        own group ------ masked conv ----------------'

    Everything except the masked convolution and what follows it is dense: it does not depend on the own group and is
    computed for the whole plane at once. The last convolution of the stack, the hyper features and the masked
    convolution all end in the first hidden layer of the parameter network, so that nothing linear is left unfolded.

    Args:
        config: sizes.
        index: which group.
    """

    def __init__(self, config: CCMConfig, index: int):
        super().__init__()
        own, before = config.groups[index], sum(config.groups[:index])
        schedule = config.coding_schedule
        widths = config.parameter_widths
        self.channels = own
        #: Where activations end (:meth:`CrossChannelContextModel.saturate`).
        self.ceiling: float | None = None
        self.hyper = nn.Conv2d(config.psi_channels, widths[0], 1)
        self.spatial = None
        if schedule.taps(config.context_kernel) and (config.fine_context or not config.is_fine(index)):
            self.spatial = SpatialContext(own, widths[0], config.context_kernel, schedule)
        self.stack = nn.ModuleList()
        self.skip = None
        if before:
            kernels = config.stack_kernels(index)
            dims = [before, *[config.cross_width] * (len(kernels) - 1), widths[0]]
            for k, kernel in enumerate(kernels):
                self.stack.append(
                    nn.Conv2d(dims[k], dims[k + 1], kernel, padding=kernel // 2, bias=k + 1 < len(kernels))
                )
            if config.cross_skip_kernel:
                k = config.cross_skip_kernel
                self.skip = nn.Conv2d(before, widths[0], k, padding=k // 2, bias=False)
        self.hidden = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in pairwise(widths))
        self.head = nn.Conv2d(widths[-1], 2 * own, 1)
        with torch.no_grad():
            # Start near mean 0 and sigma 1.2 (index 20), whatever the input: the first steps then learn the scales.
            self.head.weight.mul_(0.1)
            self.head.bias.zero_()
            self.head.bias[own:] = 20 / self.INDEX_GAIN

    #: The network's second output times this is the scale index: its natural unit is then about one octave of sigma.
    INDEX_GAIN = NUM_SCALES / 8

    @torch.no_grad()
    def start_from(self, scale: Tensor) -> None:
        """Let the head say these sigmas [C] and a mean of 0 wherever nothing is known; its biases are overwritten."""
        self.head.bias[: self.channels] = 0
        self.head.bias[self.channels :] = index_from_scale(scale) / self.INDEX_GAIN

    def base(self, psi: Tensor, earlier: Tensor | None) -> Tensor:
        """Dense part: [B, widths[0], h, w] from psi [B, P, h, w] and the earlier groups [B, sum, h, w]."""
        out = self.hyper(psi)
        if earlier is not None and len(self.stack):
            f = earlier
            for conv in self.stack[:-1]:
                f = relu(conv(f), self.ceiling)
            out = out + self.stack[-1](f)
        if earlier is not None and self.skip is not None:
            out = out + self.skip(earlier)
        return out

    def parameters_from(self, pre: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and fractional scale index, each [B, C, h, w], from the sum of all contexts."""
        f = relu(pre, self.ceiling)
        for conv in self.hidden:
            f = relu(conv(f), self.ceiling)
        mean, index = self.head(f).chunk(2, dim=1)
        return mean, index * self.INDEX_GAIN

    def forward(self, psi: Tensor, earlier: Tensor | None, own: Tensor) -> tuple[Tensor, Tensor]:
        """All positions at once, for training and encoding: y_hat is known, the mask keeps the order honest."""
        return self.parameters_beside(self.base(psi, earlier), own)

    def parameters_beside(self, base: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """The same of :meth:`base` and the group's own symbols."""
        return self.parameters_from(base if self.spatial is None else base + self.spatial(own))
