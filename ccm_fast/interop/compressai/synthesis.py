"""Transforms of CompressAI's nets, arranged for speed on a CPU: the same functions, other last bits.

- 3x3 convolutions by Winograd's F(4x4, 3x3) (Lavin and Gray 2015, arXiv 1509.09308): 2.25 products a pixel in place of
  9. Products of tiles that fit the cache go through torch's matrix product, which is at the machine's peak.
- Transposed 5x5 convolutions of stride 2 as 3x3 ones with four times the outputs and a pixel shuffle: 36 products in
  place of 25, but 9 by Winograd. Strided 5x5 ones likewise, after a pixel unshuffle.
- Activations and (inverse) GDN are applied to tiles that are still in the cache.
- Everything channels-last; what is not recognised runs as it is.

``benchmarks/dropin.py`` has the figures.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ccm_fast.interop.compressai.read import subpixel

__all__ = ["FusedGdn", "WinogradConv", "fast_transform"]

# F(4x4, 3x3) for the points 0, 1, -1, 2, -2, infinity: tiles of 6x6 inputs give 4x4 outputs.
_INPUT = ((4, 0, -5, 0, 1, 0), (0, -4, -4, 1, 1, 0), (0, 4, -4, -1, 1, 0))
_INPUT += ((0, -2, -1, 2, 1, 0), (0, 2, -1, -2, 1, 0), (0, 4, 0, -5, 0, 1))
_KERNEL = ((1 / 4, 0, 0), (-1 / 6, -1 / 6, -1 / 6), (-1 / 6, 1 / 6, -1 / 6))
_KERNEL += ((1 / 24, 1 / 12, 1 / 6), (1 / 24, -1 / 12, 1 / 6), (0, 0, 1))
_OUTPUT = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))
# Tiles at a time: enough rows for the matrix product, few enough for the cache (measured from 48 to 384).
_TILES = 128
# Fewer channels than this on either side: the transforms cost more than the products they save.
_CHANNELS_MIN = 32

Pointwise = Callable[[Tensor], Tensor]


class FusedGdn:
    """(Inverse) GDN of rows [n, C], in place: x * (beta + gamma x^2) ** (1/2 or -1/2)."""

    def __init__(self, gdn: nn.Module):
        self.beta = gdn.beta_reparam(gdn.beta).detach().clone()
        self.gamma = gdn.gamma_reparam(gdn.gamma).detach().T.contiguous()
        self.inverse = gdn.inverse

    def __call__(self, rows: Tensor) -> Tensor:
        norm = torch.addmm(self.beta, rows * rows, self.gamma)
        return rows.mul_(norm.sqrt_() if self.inverse else norm.rsqrt_())


def _is_gdn(m: nn.Module) -> bool:
    return type(m).__name__ == "GDN" and hasattr(m, "beta_reparam") and hasattr(m, "gamma_reparam")


def _pointwise(m: nn.Module) -> Pointwise | None:
    """What an activation does to rows [n, C], in place; None if it is none that we know."""
    if _is_gdn(m):
        return FusedGdn(m)
    if isinstance(m, nn.LeakyReLU):
        slope = m.negative_slope
        return lambda rows: F.leaky_relu_(rows, slope)
    return torch.relu_ if isinstance(m, nn.ReLU) else None


class Gdn(nn.Module):
    """GDN of a plane, piece by piece."""

    def __init__(self, gdn: nn.Module):
        super().__init__()
        self.rows = FusedGdn(gdn)

    def forward(self, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        out = torch.empty_like(x)
        source, target = (t.permute(0, 2, 3, 1).reshape(-1, x.shape[1]) for t in (x, out))
        for a, b in zip(source.split(2048), target.split(2048), strict=True):
            self.rows(b.copy_(a))
        return out


class WinogradConv(nn.Module):
    """A 3x3 convolution of stride 1 and padding 1, an optional pixel shuffle by 2, then something pointwise.

    Args:
        weight: [K, C, 3, 3]; with the shuffle, output channels 4 c + 2 a + b as torch has them.
        bias: [K].
        shuffle: a pixel shuffle follows.
        then: see :func:`_pointwise`.
        unshuffle: a pixel unshuffle comes first; C counts its outputs, in the order (a, b, c).
    """

    def __init__(
        self, weight: Tensor, bias: Tensor, shuffle: bool, then: Pointwise | None = None, unshuffle: bool = False
    ):
        super().__init__()
        if shuffle:  # order (a, b, c): runs of channels stay together
            order = torch.arange(len(bias)).reshape(-1, 4).T.flatten()
            weight, bias = weight[order], bias[order]
        g, bt, at = (torch.tensor(m, dtype=torch.float64) for m in (_KERNEL, _INPUT, _OUTPUT))
        kernel = torch.einsum("xu,kcuv,yv->xyck", g, weight.detach().double().cpu(), g)
        self.register_buffer("kernel", kernel.reshape(36, *kernel.shape[2:]).to(weight.dtype).contiguous())
        self.register_buffer("inputs", torch.kron(bt, bt).to(weight.dtype).contiguous())
        self.register_buffer("outputs", torch.kron(at, at).to(weight.dtype).contiguous())
        self.register_buffer("bias", bias.detach().clone())
        self.shuffle, self.then, self.unshuffle = shuffle, then, unshuffle

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        if self.unshuffle:
            B, H, W, C = x.shape
            x = x.reshape(B, H // 2, 2, W // 2, 2, C).permute(0, 1, 3, 2, 4, 5)
        B, H, W, *C = x.shape
        C = math.prod(C)
        K, s = len(self.bias), 2 if self.shuffle else 1
        th, tw = -(-H // 4), -(-W // 4)
        wide = 4 * tw + 2
        padded = x.new_zeros(B, 4 * th + 2, wide, C)
        padded.view(*padded.shape[:3], *x.shape[3:])[:, 1 : 1 + H, 1 : 1 + W] = x
        out = x.new_empty(B, th, 4, s, tw, 4, s, K // s**2)
        rows = max(1, _TILES // tw)
        strides = (wide * C, C, 4 * wide * C, 4 * C, 1)
        for b in range(B):
            for r in range(0, th, rows):
                m = min(rows, th - r)
                n = m * tw
                offset = padded[b, 4 * r].storage_offset()
                tiles = padded.as_strided((6, 6, m, tw, C), strides, offset).reshape(36, n * C)
                product = torch.bmm((self.inputs @ tiles).view(36, n, C), self.kernel)
                y = (self.outputs @ product.view(36, n * K)).view(16, n, K)
                y += self.bias
                if self.then is not None:
                    self.then(y.view(-1, K // s**2))
                y = y.view(4, 4, m, tw, s, s, K // s**2)
                out[b, r : r + m].copy_(y.permute(2, 0, 4, 3, 1, 5, 6))
        full = out.view(B, 4 * th * s, 4 * tw * s, K // s**2)
        return full[:, : H * s, : W * s].permute(0, 3, 1, 2)


class _Unshuffled(nn.Module):
    """A 5x5 convolution of stride 2 and padding 2, as a 3x3 one after a pixel unshuffle."""

    def __init__(self, conv: nn.Conv2d, then: Pointwise | None):
        super().__init__()
        K, C = conv.weight.shape[:2]
        weight = conv.weight.new_zeros(K, 2, 2, C, 3, 3)
        # out[i] sums w[u] x[2i - 2 + u] with u = 2 s + a, read from the unshuffled plane a at i + s - 1.
        for u in range(5):
            for v in range(5):
                weight[:, u % 2, v % 2, :, u // 2, v // 2] = conv.weight[:, :, u, v]
        self.conv = WinogradConv(weight.reshape(K, 4 * C, 3, 3), conv.bias, False, then, unshuffle=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2)))


class _Subpixel(nn.Module):
    """A transposed convolution to few channels: too few outputs for Winograd to pay."""

    def __init__(self, conv: nn.ConvTranspose2d):
        super().__init__()
        layer = subpixel(conv)
        self.register_buffer("weight", layer.weight.detach().clone())
        self.register_buffer("bias", layer.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(F.conv2d(x, self.weight, self.bias, padding=1), 2)


def _same(conv: nn.Module, kernel: int, stride: int) -> bool:
    return (
        isinstance(conv, nn.Conv2d)
        and conv.kernel_size == (kernel, kernel)
        and conv.stride == (stride, stride)
        and conv.padding == (kernel // 2, kernel // 2)
        and conv.dilation == (1, 1)
        and conv.groups == 1
        and conv.padding_mode == "zeros"
        and conv.bias is not None
    )


def _fast(m: nn.Module, then: Pointwise | None) -> nn.Module | None:
    """The fast form of a convolution with what follows it, or None if it has none."""
    if isinstance(m, nn.Sequential) and len(m) == 2 and isinstance(m[1], nn.PixelShuffle):
        if m[1].upscale_factor == 2 and _same(m[0], 3, 1) and m[0].in_channels >= _CHANNELS_MIN:
            return WinogradConv(m[0].weight, m[0].bias, True, then)
    elif isinstance(m, nn.ConvTranspose2d):
        plain = m.stride == (2, 2) and m.output_padding == (1, 1) and m.groups == 1
        if plain and (m.kernel_size, m.padding) == ((5, 5), (2, 2)) and m.in_channels >= _CHANNELS_MIN:
            if m.out_channels < _CHANNELS_MIN:
                return _Subpixel(m) if then is None else None
            layer = subpixel(m)
            return WinogradConv(layer.weight, layer.bias, True, then)
    elif _same(m, 3, 1) and min(m.in_channels, m.out_channels) >= _CHANNELS_MIN:
        return WinogradConv(m.weight, m.bias, False, then)
    elif _same(m, 5, 2) and min(m.in_channels, m.out_channels) >= _CHANNELS_MIN:
        return _Unshuffled(m, then)
    return None


# Blocks by the names of their parts: a convolution, and the activation that their forward applies to its result.
_BLOCKS = {
    "ResidualBlock": (("conv1", "leaky_relu"), ("conv2", "leaky_relu"), ("skip", None)),
    "ResidualBlockWithStride": (("conv1", "leaky_relu"), ("conv2", "gdn"), ("skip", None)),
    "ResidualBlockUpsample": (("subpel_conv", "leaky_relu"), ("conv", "igdn"), ("upsample", None)),
}


def _rebuild(m: nn.Module) -> nn.Module:
    """The fast form of a module; parts that have none stay."""
    if (fast := _fast(m, None)) is not None:
        return fast
    if _is_gdn(m):
        return Gdn(m)
    if isinstance(m, nn.Sequential):
        out, at, parts = [], 0, list(m)
        while at < len(parts):
            then = _pointwise(parts[at + 1]) if at + 1 < len(parts) else None
            fast = _fast(parts[at], then)
            out.append(fast if fast is not None else _rebuild(parts[at]))
            at += 2 if fast is not None and then is not None else 1
        return nn.Sequential(*out)
    if (block := _BLOCKS.get(type(m).__name__)) and all(hasattr(m, part) for part, _ in block):
        _rebuild_block(m, block)
        return m
    for name, child in m.named_children():
        setattr(m, name, _rebuild(child))
    return m


def _rebuild_block(m: nn.Module, block) -> None:
    """Fuse the activations of a block into its convolutions, if all those of an activation have a fast form."""
    for activation in {a for _, a in block}:
        parts = [part for part, a in block if a == activation and getattr(m, part) is not None]
        then = _pointwise(getattr(m, activation)) if activation else None
        fast = {part: _fast(getattr(m, part), then) for part in parts}
        if None in fast.values():  # the activation stays where it is
            fast = {part: _fast(getattr(m, part), None) for part in parts}
            then = None
        for part, new in fast.items():
            if new is not None:
                setattr(m, part, new)
        if then is not None:
            setattr(m, activation, nn.Identity())
        elif activation and _is_gdn(getattr(m, activation)):
            setattr(m, activation, Gdn(getattr(m, activation)))


def fast_transform(module: nn.Module) -> nn.Module:
    """A copy of g_a or g_s for inference, arranged for speed; ``module`` itself if it is not on a CPU."""
    weight = next(module.parameters(), None)
    if weight is None or weight.device.type != "cpu" or weight.dtype != torch.float32:
        return module
    with torch.no_grad():
        return _rebuild(copy.deepcopy(module)).to(memory_format=torch.channels_last).requires_grad_(False).eval()
