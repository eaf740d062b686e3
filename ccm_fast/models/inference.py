"""Transforms arranged for speed on a CPU: the same functions, other last bits.

- 3x3 convolutions by Winograd's F(6x6, 3x3) (Lavin and Gray 2015, arXiv 1509.09308): 1.8 products an output in place of
  9. Strided and transposed 5x5 convolutions of stride 2, and strided 3x3 ones, are 3x3 convolutions after or before a
  pixel (un)shuffle; products with the taps that they lack are left out.
- Every other convolution as one matrix product of gathered rows.
- Bias, activation, (inverse) GDN and residuals are applied to rows that are still in the cache.
- Planes are used again, and a residual is added in its own place, where nobody else needs it.
- Where the processor has AVX2, products are of 16-bit integers with a scale for every row and column
  (:mod:`ccm_fast.precision`).

The operators are in csrc/transforms. What is not recognised runs as it is. ``benchmarks/transforms.py`` compares
with torch's own convolutions, layer by layer.
"""

from __future__ import annotations

import copy
import math
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ccm_fast import _backend
from ccm_fast.locks import ForkSafeLock
from ccm_fast.precision import transform_precision

from .state import weights_state

__all__ = [
    "Residual",
    "Then",
    "fast_conv",
    "fast_transform",
    "give_plane",
    "inference",
    "pointwise",
    "rebuild",
    "subpixel_weight",
]

_LINEAR, _LEAKY, _GDN, _INVERSE_GDN = range(4)  # csrc/transforms/transform.h
# Fewer input channels than this: gathering costs less than transforming. The operator takes multiples of 8.
_CHANNELS_MIN = 32
# Up to so many output channels a convolution's time is its way to the points, which integers make longer.
_INT16_OUTPUTS_MIN = 33


@dataclass(frozen=True)
class Then:
    """What follows a convolution: a leaky ReLU (slope 0: ReLU), (inverse) GDN, or nothing."""

    activation: int = _LINEAR
    slope: float = 0.0
    gamma: Tensor | None = None
    beta: Tensor | None = None
    int16: bool = False


def _takes_int16(outputs: int, then: Then) -> bool:
    """Whether a convolution's products are of integers; those of a GDN after it are then, too."""
    if then.gamma is not None:
        return then.int16
    return transform_precision() == "int16" and outputs >= _INT16_OUTPUTS_MIN


def pointwise(m: nn.Module) -> Then | None:
    """An activation as an operator takes it, or None if it is none that we know."""
    if type(m).__name__ == "GDN" and hasattr(m, "beta_reparam") and hasattr(m, "gamma_reparam"):  # CompressAI's
        gamma = m.gamma_reparam(m.gamma).detach().T.contiguous()
        beta = m.beta_reparam(m.beta).detach().clone()
        int16 = transform_precision() == "int16" and len(beta) % 8 == 0
        packed = _backend.load().ops.pack_panels(gamma, int16, True)
        return Then(_INVERSE_GDN if m.inverse else _GDN, 0.0, packed, beta, int16)
    if isinstance(m, nn.LeakyReLU):
        return Then(_LEAKY, m.negative_slope)
    return Then(_LEAKY) if isinstance(m, nn.ReLU) else None


class Planes:
    """Memory of planes that nothing needs any more, for the next ones of the same size.

    The system clears every new plane: of a convolution of 192 channels that is a twelfth of the time. Threads may share
    an object.

    Args:
        limit: bytes that are kept; planes longest unused go first.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self._free: list[Tensor] = []
        self._lock = ForkSafeLock()

    def take(self, *shape: int) -> Tensor:
        """A plane, float32 of that shape, of whatever values."""
        count = math.prod(shape)
        with self._lock:
            for k in reversed(range(len(self._free))):
                if self._free[k].numel() == count:
                    return self._free.pop(k).view(shape)
        with torch.inference_mode(False):  # of use with and without it
            plane = torch.empty(shape, dtype=torch.float32, device="cpu")
            torch.ops.ccm_fast.huge_pages(plane)
        return plane

    def give(self, x: Tensor) -> None:
        """Take back a plane [B, C, H, W] as convolutions return it. Nobody may use it, or a view of it, any more."""
        plane = _rows(x).view(-1)
        if plane.data_ptr() != x.data_ptr():
            return
        with self._lock:
            self._free.append(plane)
            total = sum(p.numel() for p in self._free)
            while total * 4 > self.limit:
                total -= self._free.pop(0).numel()


# Of pictures of 768x512, two planes at half their sides and 192 channels, and some smaller ones.
_planes = Planes(192 << 20)


def give_plane(x: Tensor) -> None:
    """Take back what a fast convolution has returned, [B, C, H, W], of which nobody needs anything any more."""
    _planes.give(x)


def _rows(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).contiguous()


class Fast(nn.Module):
    """A module whose result is a tensor that no one else references, so that the next module may overwrite it.

    ``forward(x, own=False)`` takes [B, C, H, W], best channels-last. own: x is such a result, and of no further use: it
    may be overwritten.
    """


class _Conv(Fast, ABC):
    """A convolution with what follows it."""

    def __init__(self, packed: Tensor, bias: Tensor, then: Then, int16: bool):
        super().__init__()
        self.then, self.int16 = then, int16
        self.register_buffer("packed", packed)
        self.register_buffer("bias", bias.detach().clone())

    def forward(self, x: Tensor, own: bool = False) -> Tensor:
        return self.added(x)

    def added(self, x: Tensor, residual: Tensor | None = None, own: bool = False) -> Tensor:
        """The convolution, plus a residual; own: in the residual's place."""
        added = None if residual is None else _rows(residual)
        own = own and added.data_ptr() == residual.data_ptr()
        x = _rows(x)
        y = added if own else _planes.take(*self._shape(x))
        t, added = self.then, None if own else added
        last = (t.activation, t.slope, t.gamma, t.beta, added, y, own, self.int16, torch.get_num_threads())
        self._run(x, last)
        return y.permute(0, 3, 1, 2)

    @abstractmethod
    def _shape(self, x: Tensor) -> tuple[int, int, int, int]:
        """Of the result's rows [B, H, W, K], given x's."""

    @abstractmethod
    def _run(self, x: Tensor, last: tuple) -> None:
        """Call the operator with x's rows and its ``last`` arguments, from the activation on."""


class WinogradConv(_Conv):
    """A 3x3 convolution of stride 1 and padding 1 with pixel (un)shuffles by 2 around it.

    Args:
        weight: [out_phases * K, in_phases * C, 3, 3], the phases (0, 0), (0, 1), (1, 0), (1, 1) one after the other.
        bias: [out_phases * K].
        then: what follows.
        in_phases: 4 if a pixel unshuffle comes first, else 1.
        out_phases: 4 if a pixel shuffle follows, else 1.
    """

    def __init__(self, weight: Tensor, bias: Tensor, then: Then, in_phases: int = 1, out_phases: int = 1):
        channels = len(bias) // out_phases
        int16 = _takes_int16(channels, then)
        packed = _backend.load().ops.pack_winograd(weight.detach().contiguous(), in_phases, out_phases, int16)
        super().__init__(packed, bias, then, int16)
        self.shape = (channels, in_phases, out_phases)

    def added(self, x: Tensor, residual: Tensor | None = None, own: bool = False) -> Tensor:
        if self.shape[1] == 4 and (x.shape[2] % 2 or x.shape[3] % 2):
            x = F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2))
        return super().added(x, residual, own)

    def _shape(self, x: Tensor) -> tuple[int, int, int, int]:
        down, up = 1 + self.shape[1] // 4, 1 + self.shape[2] // 4
        return x.shape[0], x.shape[1] // down * up, x.shape[2] // down * up, self.shape[0]

    def _run(self, x: Tensor, last: tuple) -> None:
        torch.ops.ccm_fast.winograd(x, self.packed, *self.shape[1:], self.bias, *last)


class DirectConv(_Conv):
    """Any square convolution without dilation and groups."""

    def __init__(self, conv: nn.Conv2d, then: Then):
        K, _, kernel, _ = conv.weight.shape
        matrix = conv.weight.detach().permute(2, 3, 1, 0).reshape(-1, K).contiguous()
        int16 = _takes_int16(K, then)
        packed = _backend.load().ops.pack_panels(matrix, int16, False)
        super().__init__(packed, conv.weight.new_zeros(K) if conv.bias is None else conv.bias, then, int16)
        self.shape = (K, kernel, conv.stride[0], conv.padding[0])

    def _shape(self, x: Tensor) -> tuple[int, int, int, int]:
        K, kernel, stride, padding = self.shape
        sides = [(side + 2 * padding - kernel) // stride + 1 for side in x.shape[1:3]]
        return x.shape[0], *sides, K

    def _run(self, x: Tensor, last: tuple) -> None:
        torch.ops.ccm_fast.direct(x, self.packed, *self.shape[1:], self.bias, *last)


class _Shuffled(nn.Module):
    """A convolution to few channels, phase-major, and a pixel shuffle: such phases are too narrow to go one by one."""

    def __init__(self, conv: _Conv):
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        B, C, H, W = y.shape
        # torch's own goes channel by channel through channels-last planes, in five times the time.
        phases = y.permute(0, 2, 3, 1).reshape(B, H, W, 2, 2, C // 4)
        picture = phases.permute(0, 5, 1, 3, 2, 4).reshape(B, C // 4, 2 * H, 2 * W)
        if picture.data_ptr() != y.data_ptr():
            _planes.give(y)
        return picture


class Residual(Fast):
    """second(first(x)) + skip(x), or + x."""

    def __init__(self, first: nn.Module, second: _Conv, skip: nn.Module | None = None):
        super().__init__()
        self.first, self.second, self.skip = first, second, skip

    def forward(self, x: Tensor, own: bool = False) -> Tensor:
        middle = self.first(x)
        if self.skip is not None:
            x, own = self.skip(x), isinstance(self.skip, Fast)
        y = self.second.added(middle, x, own)
        if isinstance(self.first, Fast):
            _planes.give(middle)
        return y


class _Split(Fast):
    """Coarse and fine channels from the same features: see Split, whose ``coarse`` is in two pieces here."""

    def __init__(self, before: nn.Module, after: nn.Module, fine: nn.Module, deep: _Conv | None):
        super().__init__()
        self.before, self.after, self.fine, self.deep = before, after, fine, deep

    def forward(self, x: Tensor, own: bool = False) -> Tensor:
        features, fine = self.before(x), self.fine(x)
        if self.deep is not None:
            fine = self.deep.added(features, fine, own=True)
        parts = self.after(features), fine
        y = torch.cat(parts, 1)
        for part in (features, *parts):
            if part.data_ptr() != x.data_ptr():
                _planes.give(part)
        return y


class _Merge(Fast):
    """The same features from coarse channels and, by a 1x1 convolution and a pixel shuffle, from fine ones."""

    def __init__(self, coarse: nn.Module, conv: nn.Conv2d, factor: int, channels: int):
        super().__init__()
        self.coarse, self.factor, self.channels = coarse, factor, channels
        # Rows of whole cells: the shuffle is then a matter of where they are added.
        order = torch.arange(conv.out_channels).reshape(-1, factor**2).T.flatten()
        cells = nn.Conv2d(conv.in_channels, conv.out_channels, 1)
        cells.weight, cells.bias = (
            nn.Parameter(conv.weight[order]),
            nn.Parameter(torch.zeros(len(order), dtype=torch.float32)),
        )
        if conv.bias is not None:
            cells.bias = nn.Parameter(conv.bias[order])
        self.fine = DirectConv(cells, Then())

    def forward(self, x: Tensor, own: bool = False) -> Tensor:
        f = self.factor
        y, fine = self.coarse(x[:, : self.channels]), self.fine(x[:, self.channels :])
        B, _, h, w = fine.shape
        y = y.contiguous(memory_format=torch.channels_last)
        cells = y.permute(0, 2, 3, 1).view(B, h, f, w, f, -1)
        cells += _rows(fine).view(B, h, w, f, f, -1).permute(0, 1, 3, 2, 4, 5)
        _planes.give(fine)
        return y


class Chain(nn.Sequential):
    """Modules one after the other; planes between fast ones are used again."""

    def forward(self, x: Tensor) -> Tensor:
        own = False
        for m in self:
            if isinstance(m, nn.Identity):
                continue
            y = m(x, own) if isinstance(m, Fast) else m(x)
            if own and isinstance(m, (Fast, _Shuffled)) and y.data_ptr() != x.data_ptr():
                _planes.give(x)
            x, own = y, isinstance(m, Fast)
        return x


# ---------------------------------------------------------------------------------------------------------------------


def _strided(conv: nn.Conv2d, then: Then) -> WinogradConv:
    """A 3x3 or 5x5 convolution of stride 2 and padding k // 2, after a pixel unshuffle."""
    K, C, k, _ = conv.weight.shape
    weight = conv.weight.new_zeros(K, 2, 2, C, 3, 3)
    # out[i] sums w[u] x[2 i - k // 2 + u]; that pixel is row i + s - 1 of the unshuffled plane a, if it is
    # 2 (i + s - 1) + a.
    for u in range(k):
        for v in range(k):
            (s, a), (t, b) = divmod(u - k // 2 + 2, 2), divmod(v - k // 2 + 2, 2)
            weight[:, a, b, :, s, t] = conv.weight[:, :, u, v]
    return WinogradConv(weight.reshape(K, 4 * C, 3, 3), conv.bias, then, in_phases=4)


def _upsampling(weight: Tensor, bias: Tensor, then: Then) -> nn.Module:
    """A 3x3 convolution [4 K, C, 3, 3] with a pixel shuffle after it: output 4 c + s is sub-pixel s of channel c."""
    K = len(bias) // 4
    order = torch.arange(4 * K).reshape(K, 4).T.flatten()
    if K < 8 and then.activation == _LINEAR:
        return _Shuffled(WinogradConv(weight[order], bias[order], then))
    return WinogradConv(weight[order], bias[order], then, out_phases=4)


def subpixel_weight(conv: nn.ConvTranspose2d) -> Tensor:
    """The 3x3 kernel [4 K, C, 3, 3] whose pixel shuffle is a transposed convolution of stride 2, exactly.

    out[2i + a] sums w[u] x[i'] over 2 i' - padding + u = 2 i + a: u = a + padding - 2 (i' - i). With kernel 5, padding
    2 (or 3, 1) and output_padding 1 that is i' - i in -1..1.
    """
    k, p = conv.kernel_size[0], conv.padding[0]
    inputs, outputs = conv.weight.shape[:2]
    weight = conv.weight.new_zeros(outputs, 2, 2, inputs, 3, 3)
    for a in range(2):
        for b in range(2):
            for s in range(3):
                for t in range(3):
                    u, v = a + p - 2 * (s - 1), b + p - 2 * (t - 1)
                    if 0 <= u < k and 0 <= v < k:
                        weight[:, a, b, :, s, t] = conv.weight[:, :, u, v].T
    return weight.reshape(4 * outputs, inputs, 3, 3)


def _plain(m: nn.Module) -> bool:
    """A convolution that the operators can do."""
    return (
        isinstance(m, nn.Conv2d)
        and len(set(m.kernel_size)) == len(set(m.stride)) == 1
        and not isinstance(m.padding, str)
        and len(set(m.padding)) == 1
        and m.padding[0] < m.kernel_size[0]
        and m.dilation == (1, 1)
        and m.groups == 1
        and m.padding_mode == "zeros"
    )


def fast_conv(m: nn.Module, then: Then | None = None) -> nn.Module | None:
    """The fast form of a convolution (or of one with its pixel shuffle) and of what follows it; None: it has none."""
    then = then or Then()
    if isinstance(m, nn.Sequential) and len(m) == 2 and isinstance(m[1], nn.PixelShuffle):
        if _plain(m[0]) and m[1].upscale_factor == 2 and _winograd(m[0], 3, 1):
            return _upsampling(m[0].weight, m[0].bias, then)
        return None
    if isinstance(m, nn.ConvTranspose2d):
        shape = (m.kernel_size, m.stride, m.padding, m.output_padding, m.dilation, m.groups)
        known = shape == ((5, 5), (2, 2), (2, 2), (1, 1), (1, 1), 1) and m.bias is not None
        if known and m.in_channels >= _CHANNELS_MIN and m.in_channels % 8 == 0:
            return _upsampling(subpixel_weight(m), m.bias.repeat_interleave(4), then)
        return None
    if not _plain(m):
        return None
    if _winograd(m, 3, 1):
        return WinogradConv(m.weight, m.bias, then)
    if _winograd(m, 5, 2) or _winograd(m, 3, 2):
        return _strided(m, then)
    return DirectConv(m, then)


def _winograd(conv: nn.Conv2d, kernel: int, stride: int) -> bool:
    shape = (conv.kernel_size[0], conv.stride[0], conv.padding[0])
    enough = conv.in_channels >= _CHANNELS_MIN and conv.in_channels % 8 == 0
    return shape == (kernel, stride, kernel // 2) and enough and conv.bias is not None


def _sequence(m: nn.Sequential, block: Callable[[nn.Module], nn.Module | None]) -> None:
    """Fuse convolutions with the pixel shuffle and the activation after them, in place."""
    at = 0
    while at < len(m):
        layer, width = m[at], 1
        shuffled = isinstance(layer, nn.Conv2d) and at + 1 < len(m) and isinstance(m[at + 1], nn.PixelShuffle)
        if shuffled and fast_conv(pair := nn.Sequential(layer, m[at + 1])) is not None:
            layer, width = pair, 2
        then = pointwise(m[at + width]) if at + width < len(m) else None
        if (fast := fast_conv(layer, then)) is None:
            m[at] = rebuild(layer, block)
        else:
            m[at] = fast
            width += then is not None
            for k in range(at + 1, at + width):
                m[k] = nn.Identity()
        at += width


def rebuild(m: nn.Module, block: Callable[[nn.Module], nn.Module | None]) -> nn.Module:
    """The fast form of a module, which it may change; parts that have none stay.

    Args:
        m: the module; a copy, if the original is to be kept.
        block: gives the fast form of a module of several layers, or None.
    """
    if (fast := fast_conv(m) or block(m)) is not None:
        return fast
    if isinstance(m, nn.Sequential):
        _sequence(m, block)
        return Chain(*m) if type(m).forward is nn.Sequential.forward else m
    for name, child in m.named_children():
        setattr(m, name, rebuild(child, block))
    return m


def fast_transform(module: nn.Module, block: Callable[[nn.Module], nn.Module | None]) -> nn.Module:
    """A copy of a transform for inference, arranged for speed; ``module`` itself if it is not float32 on a CPU."""
    weight = next(module.parameters(), None)
    if weight is None or weight.device.type != "cpu" or weight.dtype != torch.float32:
        return module
    with torch.no_grad(), torch.inference_mode(False):
        return rebuild(copy.deepcopy(module), block).requires_grad_(False).eval()


# Fast copies of the transforms of models, each with the state of the parameters that it was made of.
_copies: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def inference(module: nn.Module) -> nn.Module:
    """The fast copy of a transform, made anew when its parameters have changed.

    A transform of another's own may do with its layers what it likes: its copy is taken only if it gives what the
    original gives.
    """
    weight = next(module.parameters(), None)
    if weight is None or weight.device.type != "cpu":  # no copy, and nothing here waits for a GPU
        return module
    state = (transform_precision(), *weights_state(module))
    if module not in _copies or _copies[module][0] != state:
        copied = fast_transform(module, _own_block)
        trusted = copied is module or _is_known(module) or _agree(module, copied)
        _copies[module] = state, copied if trusted else module
    return _copies[module][1]


# Of the largest value, where a copy is compared: 16-bit integers make errors of some thousandths.
_SAME = 0.02


def _is_known(module: nn.Module) -> bool:
    """Whether a transform is made of this package's and torch's own modules."""
    known = "ccm_fast.models.transforms", "torch.nn.modules."
    return all(type(m).__module__.startswith(known) for m in module.modules())


def _agree(module: nn.Module, copied: nn.Module) -> bool:
    """Whether both give the same of a random input, of which only the number of channels is tried out."""
    generator = torch.Generator().manual_seed(0)
    first = next((m for m in module.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))), None)
    with torch.inference_mode():
        for channels in (3, getattr(first, "in_channels", 3)):
            side = 64 if channels == 3 else 16  # pixels, or latents
            x = torch.rand(1, channels, side, side, generator=generator).contiguous(memory_format=torch.channels_last)
            try:
                wanted = module(x.clone())
            except RuntimeError:
                continue
            try:
                found = copied(x.clone())
            except Exception:  # a layer that is used in ways that its copy does not know
                return False
            same = found.shape == wanted.shape
            return same and bool((found - wanted).abs().max() <= _SAME * wanted.abs().max())
    return False


def _own_block(m: nn.Module) -> nn.Module | None:
    from .transforms import Merge, ResidualBlock, Split

    if isinstance(m, Split):
        before, after = (rebuild(part, _own_block) for part in (m.coarse[: m.depth], m.coarse[m.depth :]))
        return _Split(before, after, rebuild(m.fine, _own_block), None if m.deep is None else fast_conv(m.deep))
    if isinstance(m, Merge):
        conv, shuffle = m.fine
        return _Merge(rebuild(m.coarse, _own_block), conv, shuffle.upscale_factor, m.channels)
    if not isinstance(m, ResidualBlock):
        return None
    return Residual(fast_conv(m.conv1, Then(_LEAKY, 0.01)), fast_conv(m.conv2))
