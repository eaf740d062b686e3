"""g_s forward and the gradient of its latents, without autograd: the convolutions of inference, turned around.

Only the residual blocks are not linear. So the planes between their convolutions are all that the way back needs of the
way there, and every layer's gradient is one convolution more: no gradient of weights, and products of 16-bit integers
where inference has them. Both ways together take a third of the time that torch's autograd takes.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from ccm_fast.precision import transform_precision

from ..models.inference import DirectConv, Then, WinogradConv, fast_conv, give_plane
from ..models.state import weights_state
from ..models.transforms import Merge, ResidualBlock, SynthesisTransform, main_path

__all__ = ["SynthesisGradient", "synthesis_gradient"]

# Channels that the operators of Winograd's convolutions take at least.
_LEAST = 32
_SLOPE = 0.01  # of F.leaky_relu


def _turned(weight: Tensor, in_phases: int = 1) -> WinogradConv:
    """The gradient of the input of a 3x3 convolution, with a pixel shuffle after it if there are four phases."""
    if in_phases == 4:  # output 4 c + s is sub-pixel s of channel c: phases one after the other
        weight = weight.unflatten(0, (-1, 4)).transpose(0, 1).flatten(0, 1)
    return WinogradConv(weight.transpose(0, 1).flip(2, 3), weight.new_zeros(weight.shape[1]), Then(), in_phases)


class _Layer:
    """A linear layer: a convolution, with its pixel shuffle if it has one."""

    def __init__(self, conv: nn.Conv2d, shuffle: nn.Module | None = None):
        self.forward = fast_conv(conv if shuffle is None else nn.Sequential(conv, shuffle))
        self.back = _turned(conv.weight, 1 if shuffle is None else 4)

    def run(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.forward(x), None

    def gradient(self, dy: Tensor, kept: Tensor | None) -> Tensor:
        return self.back(dy)


class _Block:
    """A residual block; the plane between its convolutions is kept."""

    def __init__(self, block: ResidualBlock):
        self.first = fast_conv(block.conv1, Then(1, _SLOPE))
        self.second = fast_conv(block.conv2)
        self.back = _turned(block.conv2.weight), _turned(block.conv1.weight)

    def run(self, x: Tensor) -> tuple[Tensor, Tensor]:
        middle = self.first(x)
        return self.second.added(middle, x), middle

    def gradient(self, dy: Tensor, kept: Tensor) -> Tensor:
        dm = self.back[0](dy)
        torch.ops.aten.leaky_relu_backward.grad_input(dm, kept, _SLOPE, True, grad_input=dm)
        dx = self.back[1].added(dm, dy)
        give_plane(dm)
        return dx


class SynthesisGradient:
    """See the module.

    Args:
        g_s: of this package, float32 on the CPU.
    """

    def __init__(self, g_s: SynthesisTransform):
        path = main_path(g_s)
        self.layers: list[_Layer | _Block] = []
        for k, m in enumerate(path[:-1]):
            if isinstance(m, ResidualBlock):
                self.layers.append(_Block(m))
            elif isinstance(m, nn.Conv2d):
                shuffled = k + 2 < len(path) and isinstance(path[k + 1], nn.PixelShuffle)
                self.layers.append(_Layer(m, path[k + 1] if shuffled else None))
        merge = next((m for m in g_s if isinstance(m, Merge)), None)
        self.coarse, self.factor = None, 1
        if merge is not None:
            self.coarse = merge.channels
            conv, shuffle = merge.fine
            self.factor = shuffle.upscale_factor
            order = torch.arange(conv.out_channels).reshape(-1, self.factor**2).T.flatten()
            weight = conv.weight.detach()[order]  # whole cells one after another
            self.fine = DirectConv(_pointwise(weight), Then())
            self.fine_back = DirectConv(_pointwise(weight.transpose(0, 1)), Then())

    def run(self, y: Tensor) -> tuple[Tensor, Tensor | None, Callable[[], Tensor]]:
        """What g_s gives before its last pixel shuffle, and the way from its gradient to that of the latents.

        Args:
            y: [B, M, h, w], channels-last.

        Returns:
            cells: [B, 4h, 4w, 48]; a pixel's value is a quarter of them, plus 1/2.
            fine: what is still to be added to them, [B, 4h / f, 4w / f, f * f * 48], the cells of a place one row after
                another; None: nothing.
            back: to be called once, when the error's gradient by the sum has taken the place of both; gives that by y.
        """
        x, kept = y[:, : self.coarse], []
        for k, layer in enumerate(self.layers):
            made, middle = layer.run(x)
            if k:
                give_plane(x)
            x = made
            kept.append(middle)
        fine = None if self.coarse is None else self.fine(y[:, self.coarse :])

        def back() -> Tensor:
            dy, parts = x, []
            if fine is not None:
                parts.append(self.fine_back(fine))
                give_plane(fine)
            for layer, middle in zip(reversed(self.layers), reversed(kept), strict=True):
                before, dy = dy, layer.gradient(dy, middle)
                give_plane(before)
                if middle is not None:
                    give_plane(middle)
            return torch.cat([dy, *parts], 1)

        return x.permute(0, 2, 3, 1), None if fine is None else fine.permute(0, 2, 3, 1), back


def _pointwise(weight: Tensor) -> nn.Conv2d:
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], 1, bias=False)
    conv.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
    return conv


def _suits(g_s: nn.Module) -> bool:
    """Whether all layers have widths that the operators take, both ways."""
    weight = next(g_s.parameters())
    if type(g_s) is not SynthesisTransform or weight.device.type != "cpu" or weight.dtype != torch.float32:
        return False
    path = main_path(g_s)
    # A pixel shuffle by 2 leaves a quarter of a convolution's outputs; the last one makes pixels.
    quarters = [m.out_channels // 4 for m, after in pairwise(path[:-1]) if isinstance(after, nn.PixelShuffle)]
    convolutions = [m for layer in path for m in layer.modules() if isinstance(m, nn.Conv2d)]
    widths = [m.in_channels for m in convolutions] + quarters
    return all(width % 8 == 0 and width >= _LEAST for width in widths)


_made: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def synthesis_gradient(g_s: nn.Module) -> SynthesisGradient | None:
    """That of a transform, made anew when its weights have changed; None where torch's autograd has to do."""
    if not _suits(g_s):
        return None
    state = (transform_precision(), *weights_state(g_s))
    if g_s not in _made or _made[g_s][0] != state:
        with torch.no_grad(), torch.inference_mode(False):
            _made[g_s] = state, SynthesisGradient(g_s)
    return _made[g_s][1]
