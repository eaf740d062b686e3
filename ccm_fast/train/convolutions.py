"""Training on a CPU: 3x3 convolutions and their gradients by Winograd's F(6x6, 3x3).

A fifth of the multiplications of torch's convolutions on whole tiles, forward and backward; the operators are in
csrc/transforms/transform*.
The model stays as it is: inside :func:`fast_convolutions` its layers compute the same functions in another way, where
they can (float32 on a CPU, no autocast), and as always where they cannot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ccm_fast import _backend

from ..models.transforms import ResidualBlock
from .forwards import wrapped

__all__ = ["conv3x3", "fast_convolutions", "residual_block"]

_SLOPE = 0.01  # of F.leaky_relu
# Products at a tile's points, by stride (2: some of the four phases' are zeros); bringing a kernel there takes as long
# as the products of so many tiles; torch's convolutions need not do that, and multiply slower by a factor. Fitted to
# forward and backward of 64 to 448 channels and 4 to 64 tiles, where what it says pays ran 1.0 to 2.9 times as fast.
_POINTS = {1: 64, 2: 169}
_PACKING = 14
_TORCH = 0.72


def _rows(x: Tensor) -> Tensor:
    """[B, C, H, W] or [K, C, 3, 3] with the channels last; no copy where memory has them there."""
    return x.permute(0, 2, 3, 1).contiguous()


def _planes(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)


class _Conv3x3(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
        x, weight = _rows(x), _rows(weight)
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return _planes(torch.ops.ccm_fast.conv3x3(x, weight, bias, stride, None, None, torch.get_num_threads()))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        (x, weight), ops, threads = ctx.saved_tensors, torch.ops.ccm_fast, torch.get_num_threads()
        dy, dx, dw, db = _rows(grad), None, None, None
        if ctx.needs_input_grad[0]:
            dx = _planes(ops.conv3x3_input_gradient(dy, weight, ctx.stride, None, threads))
        if ctx.needs_input_grad[1]:
            dw = _planes(ops.conv3x3_weight_gradient(x, dy, ctx.stride, threads))
        if ctx.needs_input_grad[2]:
            db = dy.sum((0, 1, 2))
        return dx, dw, db, None


class _Residual(torch.autograd.Function):
    """x + conv(leaky(conv(x))): the sums and the activation in passes over the planes that are made anyway."""

    @staticmethod
    def forward(ctx, x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
        x, w1, w2 = _rows(x), _rows(w1), _rows(w2)
        conv, threads = torch.ops.ccm_fast.conv3x3, torch.get_num_threads()
        f = conv(x, w1, b1, 1, _SLOPE, None, threads)
        ctx.save_for_backward(x, w1, f, w2)
        return _planes(conv(f, w2, b2, 1, None, x, threads))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        (x, w1, f, w2), ops, threads = ctx.saved_tensors, torch.ops.ccm_fast, torch.get_num_threads()
        dy, needed = _rows(grad), ctx.needs_input_grad
        out: list[Tensor | None] = [None] * 5
        if needed[3]:
            out[3] = _planes(ops.conv3x3_weight_gradient(f, dy, 1, threads))
        if needed[4]:
            out[4] = dy.sum((0, 1, 2))
        if any(needed[:3]):
            df = ops.conv3x3_input_gradient(dy, w2, 1, None, threads)
            df = torch.ops.aten.leaky_relu_backward(df, f, _SLOPE, True)
            if needed[1]:
                out[1] = _planes(ops.conv3x3_weight_gradient(x, df, 1, threads))
            if needed[2]:
                out[2] = df.sum((0, 1, 2))
            if needed[0]:
                out[0] = _planes(ops.conv3x3_input_gradient(df, w1, 1, dy, threads))
        return tuple(out)


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor, stride: int = 1) -> Tensor:
    """``F.conv2d(x, weight, bias, stride, padding=1)``, differentiable once.

    Args:
        x: float32 [B, C, H, W] on the CPU, best channels-last; H and W multiples of the stride.
        weight: [K, C, 3, 3], best channels-last. C and K are multiples of 8.
        bias: [K].
        stride: 1 or 2.

    Raises:
        RuntimeError: other shapes, types or devices.
    """
    _backend.load()
    return _Conv3x3.apply(x, weight, bias, stride)


def residual_block(x: Tensor, block: ResidualBlock) -> Tensor:
    """``block(x)``, under the conditions of :func:`conv3x3`."""
    _backend.load()
    return _Residual.apply(x, block.conv1.weight, block.conv1.bias, block.conv2.weight, block.conv2.bias)


def _pays(x: Tensor, stride: int) -> bool:
    """Whether a plane [B, C, H, W] has enough tiles, and fills them."""
    batch, h, w = x.shape[0], x.shape[2] // stride, x.shape[3] // stride
    tiles = batch * -(-h // 6) * -(-w // 6)
    return _TORCH * 9 * batch * h * w > _POINTS[stride] * (tiles + _PACKING)


def _suits(conv: nn.Module) -> bool:
    return (
        isinstance(conv, nn.Conv2d)
        and conv.kernel_size == (3, 3)
        and conv.stride in ((1, 1), (2, 2))
        and conv.padding == (1, 1)
        and conv.dilation == (1, 1)
        and conv.groups == 1
        and conv.padding_mode == "zeros"
        and conv.in_channels % 8 == conv.out_channels % 8 == 0
        and conv.weight.dtype == torch.float32
        and conv.weight.device.type == "cpu"
    )


def _forward(module: nn.Module, inner: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    if x.dtype == torch.float32 and x.device.type == "cpu" and x.dim() == 4 and not torch.is_autocast_enabled("cpu"):
        stride = 1 if isinstance(module, ResidualBlock) else module.stride[0]
        if x.shape[2] % stride == x.shape[3] % stride == 0 and _pays(x, stride):
            if isinstance(module, ResidualBlock):
                return residual_block(x, module)
            bias = x.new_zeros(module.out_channels) if module.bias is None else module.bias
            return conv3x3(x, module.weight, bias, stride)
    return inner(x)


@contextmanager
def fast_convolutions(*modules: nn.Module) -> Iterator[None]:
    """Inside, the 3x3 convolutions and residual blocks of some modules are fast, with gradients and without.

    Args:
        modules: a model, or what has such layers; their ``forward`` is replaced for as long as the context lasts, so
            that several threads must not share one. Inputs that do not suit (see :func:`conv3x3`) go to torch.
    """
    changed, inner = [], set()
    for module in modules:
        for m in module.modules():
            if isinstance(m, ResidualBlock) and _suits(m.conv1) and _suits(m.conv2):
                changed.append(m)
                inner |= {m.conv1, m.conv2}
            elif _suits(m) and m not in inner:
                changed.append(m)
    with wrapped((m, partial(_forward, m)) for m in changed):
        yield
