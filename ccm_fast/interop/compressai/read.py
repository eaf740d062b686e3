"""Reads the entropy networks of CompressAI's nets: by attributes and module types, without importing compressai.

What comes out is plain: stride-1 convolutions with an optional pixel shuffle and a leaky ReLU (:class:`FloatLayer`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from ccm_fast.errors import ModelError, NotFrozenError
from ccm_fast.integer.plan import MAX_ENTRIES, NUM_INDEXES, PlanError, TableRows
from ccm_fast.models.inference import subpixel_weight

__all__ = ["SUPPORTED", "EntropyNet", "FloatLayer", "read", "subpixel"]

SUPPORTED = (
    "JointAutoregressiveHierarchicalPriors (mbt2018), Cheng2020Anchor, Cheng2020Attention, ScaleHyperprior"
    " (bmshj2018-hyperprior) and MeanScaleHyperprior (mbt2018-mean)"
)


@dataclass(eq=False)
class FloatLayer:
    """A stride-1 convolution, then a pixel shuffle, then a leaky ReLU.

    Attributes:
        weight: [out, in, k, k], k odd, padding k // 2.
        bias: [out].
        upsample: of the pixel shuffle, 1 or 2.
        slope: of the leaky ReLU; 0: ReLU, 1: none.
    """

    weight: Tensor
    bias: Tensor
    upsample: int = 1
    slope: float = 1.0


@dataclass(eq=False)
class EntropyNet:
    """What lies between z_hat, y_hat and the parameters of y, in floats.

    Attributes:
        kind: "scale", "mean-scale" or "autoregressive".
        channels, hyper_channels: M and N.
        h_s: layers from z_hat to the features.
        taps, context: offsets (di, dj) of the masked convolution in raster order, and its weight [2M, M, T]; its bias
            is in ``head``. None without one.
        head: 1x1 layers from cat(features, context) to cat(scales, means); empty where h_s ends in them.
        medians: of z, [N].
        scale_table: [64], rising.
        y_rows, z_rows: the coder's tables.
    """

    kind: str
    channels: int
    hyper_channels: int
    h_s: list[FloatLayer]
    taps: list[tuple[int, int]] | None
    context: Tensor | None
    head: list[FloatLayer]
    medians: Tensor
    scale_table: Tensor
    y_rows: TableRows
    z_rows: TableRows


def subpixel(conv: nn.ConvTranspose2d) -> FloatLayer:
    """The convolution whose pixel shuffle is a transposed convolution of stride 2, exactly.

    Raises:
        ModelError: another kind of transposed convolution than kernel 5, padding 2 or kernel 3, padding 1.
    """
    known = (conv.kernel_size, conv.padding) in {((5, 5), (2, 2)), ((3, 3), (1, 1))}
    if not known or conv.stride != (2, 2) or conv.output_padding != (1, 1) or conv.groups != 1:
        raise ModelError(f"cannot take over {conv}")
    bias = conv.bias if conv.bias is not None else conv.weight.new_zeros(conv.out_channels)
    return FloatLayer(subpixel_weight(conv), bias.repeat_interleave(4), 2)


def _plain(conv: nn.Conv2d) -> FloatLayer:
    k = conv.kernel_size[0]
    same = conv.kernel_size == (k, k) and k % 2 == 1 and conv.padding == (k // 2, k // 2)
    if not same or conv.stride != (1, 1) or conv.dilation != (1, 1) or conv.groups != 1 or conv.padding_mode != "zeros":
        raise ModelError(f"cannot take over {conv}")
    bias = conv.bias if conv.bias is not None else conv.weight.new_zeros(conv.out_channels)
    return FloatLayer(conv.weight, bias)


def layers(module: nn.Module, name: str) -> list[FloatLayer]:
    """The layers of a sequence of convolutions, sub-pixel or transposed ones, and (leaky) ReLUs.

    Raises:
        ModelError: something else is among them.
    """
    out: list[FloatLayer] = []
    done = True  # no activation may follow
    stack = [module]
    while stack:
        m = stack.pop()
        if isinstance(m, nn.Sequential):
            stack += reversed(list(m))
        elif isinstance(m, nn.Conv2d):
            out.append(_plain(m))
            done = False
        elif isinstance(m, nn.ConvTranspose2d):
            out.append(subpixel(m))
            done = False
        elif isinstance(m, nn.PixelShuffle) and not done and out[-1].upsample == 1 and m.upscale_factor == 2:
            out[-1] = replace(out[-1], upsample=2)
        elif isinstance(m, (nn.LeakyReLU, nn.ReLU)) and not done:
            out[-1] = replace(out[-1], slope=float(getattr(m, "negative_slope", 0.0)))
            done = True
        else:
            raise ModelError(f"{name} holds a {type(m).__name__} where none is expected; supported nets: {SUPPORTED}")
    if not out:
        raise ModelError(f"{name} has no layers")
    return [replace(x, weight=x.weight.detach().float(), bias=x.bias.detach().float()) for x in out]


def _rows(entropy_model: nn.Module, name: str) -> TableRows:
    parts = [getattr(entropy_model, a, None) for a in ("_quantized_cdf", "_cdf_length", "_offset")]
    if any(not isinstance(p, Tensor) or p.numel() == 0 for p in parts):
        raise NotFrozenError(f"{name} has no tables yet: call net.update() first, as for net.compress")
    cdf, length, offset = (p.detach().cpu().numpy().astype(np.int64) for p in parts)
    if max(length) - 1 > MAX_ENTRIES or offset.min() < -MAX_ENTRIES or offset.max() > 0:
        raise ModelError(f"{name}: a table is wider than {MAX_ENTRIES} symbols or does not contain 0")
    try:
        return TableRows.from_frequencies(offset, [np.diff(c[:n]) for c, n in zip(cdf, length, strict=True)])
    except PlanError as error:
        raise ModelError(f"{name}: {error}: call net.update(force=True)") from error


def _is_compressai(net: nn.Module) -> bool:
    parts = ("g_a", "g_s", "h_a", "h_s", "entropy_bottleneck", "gaussian_conditional")
    return all(isinstance(getattr(net, p, None), nn.Module) for p in parts)


def read(net: nn.Module) -> EntropyNet:
    """The entropy networks of a net.

    Raises:
        ModelError: a net of another kind; the message lists those that work.
        NotFrozenError: ``net.update()`` has not been called.
        TypeError: no module at all.
    """
    if not isinstance(net, nn.Module):
        raise TypeError(f"net must be a torch.nn.Module, not {type(net).__name__}")
    name = type(net).__name__
    if not _is_compressai(net):
        raise ModelError(f"{name} is none of the nets that can be accelerated: {SUPPORTED}")
    bottleneck, gaussian = net.entropy_bottleneck, net.gaussian_conditional
    h_s = layers(net.h_s, "h_s")
    N, M = bottleneck.quantiles.shape[0], int(net.M)
    outputs = h_s[-1].weight.shape[0] // h_s[-1].upsample ** 2
    if h_s[0].weight.shape[1] != N or int(np.prod([x.upsample for x in h_s])) != 4:
        raise ModelError(f"{name}: h_s does not lead from z to a plane four times as large")
    taps = context = None
    head: list[FloatLayer] = []
    if hasattr(net, "context_prediction") or hasattr(net, "entropy_parameters"):
        kind = "autoregressive"
        taps, context, bias = _masked(net.context_prediction, M, name)
        head = layers(net.entropy_parameters, "entropy_parameters")
        first = head[0]
        if any(x.weight.shape[-1] != 1 or x.upsample != 1 for x in head) or head[-1].slope != 1.0:
            raise ModelError(f"{name}: entropy_parameters is no chain of 1x1 convolutions")
        if first.weight.shape[1] != outputs + len(context) or head[-1].weight.shape[0] != 2 * M:
            raise ModelError(f"{name}: entropy_parameters does not fit h_s and context_prediction")
        head[0] = replace(first, bias=first.bias + first.weight[:, outputs:, 0, 0] @ bias)
    elif outputs in (M, 2 * M) and h_s[-1].upsample == 1 and len(h_s) > 1:
        kind = "scale" if outputs == M else "mean-scale"
    else:
        raise ModelError(f"{name}: h_s yields {outputs} channels, neither M nor 2 M of M = {M}")
    table = gaussian.scale_table.detach().float().cpu()
    if table.numel() and table.numel() != NUM_INDEXES:
        raise ModelError(f"{name}: the scale table has {table.numel()} scales, not {NUM_INDEXES}")
    return EntropyNet(
        kind,
        M,
        N,
        h_s,
        taps,
        context,
        head,
        bottleneck.quantiles[:, 0, 1].detach().float().cpu(),
        table,
        _rows(gaussian, "gaussian_conditional"),
        _rows(bottleneck, "entropy_bottleneck"),
    )


def _masked(conv: nn.Conv2d, channels: int, name: str) -> tuple[list[tuple[int, int]], Tensor, Tensor]:
    """Taps, weight [2M, M, T] and bias of a raster-causal masked convolution."""
    layer = _plain(conv)
    k = conv.kernel_size[0]
    mask = getattr(conv, "mask", None)
    causal = torch.arange(k * k).reshape(k, k) < k * k // 2
    allowed = mask is not None and bool(((mask != 0).any(0).any(0).cpu() <= causal).all())
    if conv.in_channels != channels or not allowed:
        raise ModelError(f"{name}: context_prediction is no masked convolution over what is decoded before, row by row")
    taps = [(i - k // 2, j - k // 2) for i, j in causal.nonzero().tolist()]
    weight = (layer.weight * mask).detach().float().flatten(2)[:, :, : len(taps)]
    return taps, weight, layer.bias.detach().float()
