"""The integer network of a group of channels before it is integers, whichever net it is of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ccm_fast.entropy.plan import LEAKY8, RELU8, GroupPlan, fixed_point
from ccm_fast.freezing.layers import WEIGHT_MAX, Layer, export_sum, round_ste, to_bytes

__all__ = ["Group"]


class Group(nn.Module):
    """A group's network, with real-valued parameters; see :mod:`ccm_fast.freezing.layers`.

    Args:
        channels: of the group.
        hyper: the layer from psi to its part of the sum of contexts.
        stack: the layers from the earlier groups to theirs; may be empty.
        skip: one beside the stack, or None.
        hidden, head: the layers that follow the sum; no head: the sum is the result.
        output, slope: what the sum becomes (RELU8, LEAKY8 or HEAD).
        taps: offsets (di, dj) of the spatial context; may be empty.
        usable: [rows, columns, k, k], 1 at the taps of the positions of each phase; None: no spatial context.
    """

    def __init__(
        self,
        channels: int,
        hyper: Layer,
        stack: Sequence[Layer],
        skip: Layer | None,
        hidden: Sequence[Layer],
        head: Layer | None,
        output: int = RELU8,
        slope: float = 0.0,
        taps: Sequence[tuple[int, int]] = (),
        usable: Tensor | None = None,
    ):
        super().__init__()
        self.channels, self.output, self.slope, self.zero = channels, output, slope, 0
        self.hyper, self.stack, self.skip = hyper, nn.ModuleList(stack), skip
        self.hidden, self.head = nn.ModuleList(hidden), head
        self.taps = list(taps)
        self.register_buffer("usable", usable, persistent=False)
        self.spatial: nn.Parameter | None = None
        self.log_scale: nn.Parameter | None = None

    def set_spatial(self, value: Tensor | None, factor: Tensor) -> None:
        """value [D, C, k, k] in units of the integer weight; factor [D] turns the sum into its bytes."""
        self.spatial = nn.Parameter(value.contiguous()) if value is not None else None
        self.log_factor = nn.Parameter(factor.log())
        self.log_scale = None

    def factor(self) -> Tensor:
        """log-factors from the sum to its bytes."""
        return self.log_factor if self.log_scale is None else self.log_factor - self.log_scale

    def spatial_sum(self, own: Tensor) -> Tensor:
        """The spatial context's part of the sum, of latents as the integers see them."""
        weight = round_ste(self.spatial.clamp(-WEIGHT_MAX, WEIGHT_MAX))
        ph, pw = self.usable.shape[:2]
        out = None
        for a in range(ph):
            for b in range(pw):
                full = F.conv2d(own, weight * self.usable[a, b], padding=weight.shape[-1] // 2)
                if ph == pw == 1:
                    return full
                out = torch.zeros_like(full) if out is None else out
                out[:, :, a::ph, b::pw] = full[:, :, a::ph, b::pw]
        return out

    def forward(
        self, psi: Tensor, earlier: Tensor, own: Tensor, readable: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Codes of means and scales [B, C, h, w].

        Args:
            psi: [B, P, h, w], features.
            earlier: latents of the earlier groups [B, ., h, w], as the integers see them.
            own: those of this group [B, C, h, w].
            readable: [h, w], 1 where the spatial context may be read; None: everywhere.
        """
        pre = self.hyper(psi)
        if len(self.stack):
            x = earlier
            for layer in self.stack:
                x = layer(x)
            pre = pre + x
        if self.skip is not None:
            pre = pre + self.skip(earlier)
        if self.spatial is not None:
            near = self.spatial_sum(own)
            pre = pre + (near if readable is None else near * readable)
        pre = pre * self.factor().exp()[:, None, None]
        if self.head is None:
            return round_ste(pre).chunk(2, dim=1)
        f = to_bytes(pre, self.output, self.zero, self.slope)
        for layer in self.hidden:
            f = layer(f)
        return self.head(f).chunk(2, dim=1)

    @torch.no_grad()
    def export(self) -> GroupPlan:
        """The integers."""
        parts = [self.hyper, *self.stack[-1:], *([self.skip] if self.skip is not None else [])]
        factor = self.factor().double().exp().numpy()
        convs, value, factor = export_sum(parts, self.spatial if self.taps else None, factor)
        mult, shift = fixed_point(factor)
        weight = np.zeros((len(mult), len(self.taps), self.channels), np.int8)
        for t, (di, dj) in enumerate(self.taps):
            r = value.shape[-1] // 2
            weight[:, t] = value[:, :, di + r, dj + r]
        leaky = self.output == LEAKY8
        return GroupPlan(
            np.array(self.taps, np.int32).reshape(-1, 2),
            weight,
            mult,
            shift,
            convs[0],
            [*(layer.export() for layer in self.stack[:-1]), *convs[1 : 1 + bool(self.stack)]],
            convs[-1] if self.skip is not None else None,
            [layer.export() for layer in self.hidden],
            None if self.head is None else self.head.export(),
            self.output,
            self.zero if leaky else 0,
            np.rint(self.slope * mult).astype(np.int32) if leaky else None,
        )
