"""Parts of CompressAI's entropy networks, read by attributes and module types, without importing compressai.

What comes out is plain: stride-1 convolutions with an optional pixel shuffle and a leaky ReLU
(:class:`ccm_fast.freezing.floats.FloatLayer`). Nets that are built from latent codecs are taken apart in
:mod:`ccm_fast.interop.compressai.codecs`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from ccm_fast.entropy.plan import MAX_ENTRIES, NUM_INDEXES, PlanError, TableRows
from ccm_fast.errors import ModelError, NotFrozenError
from ccm_fast.freezing.floats import FloatLayer
from ccm_fast.models.inference import subpixel_weight

__all__ = [
    "SUPPORTED",
    "EntropyNet",
    "GroupNet",
    "fold",
    "gaussian_rows",
    "head_layers",
    "layers",
    "masked",
    "masked_by",
    "read_hyper",
    "subpixel",
]

SUPPORTED = (
    "JointAutoregressiveHierarchicalPriors (mbt2018), Cheng2020Anchor, Cheng2020Attention, ScaleHyperprior"
    " (bmshj2018-hyperprior), MeanScaleHyperprior (mbt2018-mean), and of the nets with latent codecs"
    " Cheng2020AnchorCheckerboard, Elic2022Official, Elic2022Chandelier and others of the same parts"
)


@dataclass(eq=False)
class GroupNet:
    """What gives a group of channels its scales and means: the sum of its contexts, then ``tail``.

    Attributes:
        channels: of the group.
        from_psi: the features' part of the sum, with the bias of all; its slope is that of the sum.
        stack: the channel context, from all channels of the earlier groups to its part of the sum; may be empty.
        taps: offsets (di, dj) of the spatial context, in raster order; empty without one.
        spatial: [D, channels, taps], from these to their part of the sum; or None.
        tail: 1x1 layers to cat(scales, means); empty where the sum is that already.
    """

    channels: int
    from_psi: FloatLayer
    stack: list[FloatLayer]
    taps: list[tuple[int, int]]
    spatial: Tensor | None
    tail: list[FloatLayer]


@dataclass(eq=False)
class EntropyNet:
    """What lies between z_hat, y_hat and the parameters of y, in floats.

    Attributes:
        kind: "scale" (of |y|, no means) or "mean-scale".
        groups: of the channels of y, in coding order.
        anchors: the positions whose i + j has this parity (0 or 1) are coded first, and without spatial context, the
            others then (checkerboard); None: raster order.
        hyper_channels: N.
        h_a: from y (its magnitude, if ``kind`` is "scale") to z.
        h_s: layers from z_hat to the features.
        marked: the features end with a channel that is not 0 at positions that are no anchors, and 0 at anchors.
        medians: of z, [N].
        scale_table: [64], rising.
        y_rows, z_rows: the coder's tables.
    """

    kind: str
    groups: list[GroupNet]
    anchors: int | None
    hyper_channels: int
    h_a: nn.Module
    h_s: list[FloatLayer]
    marked: bool
    medians: Tensor
    scale_table: Tensor
    y_rows: TableRows
    z_rows: TableRows

    @property
    def channels(self) -> int:
        """M."""
        return sum(group.channels for group in self.groups)


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


def _flipped(conv: nn.ConvTranspose2d) -> FloatLayer:
    """The convolution that a transposed one of stride 1 is."""
    k = conv.kernel_size[0]
    same = conv.kernel_size == (k, k) and k % 2 == 1 and conv.padding == (k // 2, k // 2)
    if not same or conv.output_padding != (0, 0) or conv.dilation != (1, 1) or conv.groups != 1:
        raise ModelError(f"cannot take over {conv}")
    bias = conv.bias if conv.bias is not None else conv.weight.new_zeros(conv.out_channels)
    return FloatLayer(conv.weight.flip(2, 3).transpose(0, 1), bias)


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
            out.append(_flipped(m) if m.stride == (1, 1) else subpixel(m))
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


def gaussian_rows(gaussian: nn.Module, name: str) -> tuple[Tensor, TableRows]:
    """Scale table (float [64]) and tables of a Gaussian conditional."""
    rows = _rows(gaussian, name)
    table = gaussian.scale_table.detach().float().cpu()
    if table.numel() != NUM_INDEXES:
        raise ModelError(f"{name}: the scale table has {table.numel()} scales, not {NUM_INDEXES}")
    return table, rows


def read_hyper(h_s: nn.Module, bottleneck: nn.Module, name: str) -> tuple[list[FloatLayer], tuple[Tensor, TableRows]]:
    """The layers of h_s; medians and tables of z."""
    found = layers(h_s, "h_s")
    if found[0].weight.shape[1] != bottleneck.quantiles.shape[0] or int(np.prod([x.upsample for x in found])) != 4:
        raise ModelError(f"{name}: h_s does not lead from z to a plane four times as large")
    medians = bottleneck.quantiles[:, 0, 1].detach().float().cpu()
    return found, (medians, _rows(bottleneck, "entropy_bottleneck"))


def head_layers(module: nn.Module, outputs: int, name: str) -> list[FloatLayer]:
    """The layers of ``entropy_parameters``: 1x1 ones, the last to ``outputs`` channels and linear."""
    found = layers(module, f"{name}: entropy_parameters")
    if any(x.weight.shape[-1] != 1 or x.upsample != 1 for x in found) or found[-1].slope != 1.0:
        raise ModelError(f"{name}: entropy_parameters is no chain of 1x1 convolutions")
    if found[-1].weight.shape[0] != outputs:
        raise ModelError(f"{name}: entropy_parameters yields {found[-1].weight.shape[0]} channels, not {outputs}")
    return found


def fold(head: list[FloatLayer], features: int, context: Tensor, bias: Tensor, name: str):
    """from_psi, stack, taps, spatial and tail of a group whose head reads cat(features, masked convolution).

    Nothing happens between the masked convolution and the first 1x1 layer: they become one.
    """
    first = head[0]
    if first.weight.shape[1] != features + len(context):
        raise ModelError(f"{name}: entropy_parameters does not fit h_s and context_prediction")
    near = first.weight[:, features:, 0, 0]
    from_psi = replace(first, weight=first.weight[:, :features], bias=first.bias + near @ bias)
    spatial = torch.einsum("dc,cmt->dmt", near.double(), context.double()).float()
    return from_psi, [], [], spatial, head[1:]


def masked(conv: nn.Conv2d, channels: int, name: str) -> tuple[list[tuple[int, int]], Tensor, Tensor]:
    """Taps, weight [outputs, channels, T] and bias of a raster-causal masked convolution."""
    k = conv.kernel_size[0]
    causal = torch.arange(k * k).reshape(k, k) < k * k // 2
    return masked_by(conv, causal, channels, f"{name}: context_prediction is no masked convolution, row by row")


def masked_by(conv: nn.Conv2d, allowed: Tensor, channels: int, why: str):
    """Taps, weight and bias of a convolution that reads nothing but what ``allowed`` [k, k] says.

    Raises:
        ModelError: with the given reason, if its mask lets it read more, or it reads other channels.
    """
    layer, mask = _plain(conv), getattr(conv, "mask", None)
    used = None if mask is None else (mask != 0).any(0).any(0).cpu()
    if conv.in_channels != channels or used is None or not bool((used <= allowed).all()):
        raise ModelError(why)
    k = len(allowed)
    taps = [(i - k // 2, j - k // 2) for i, j in allowed.nonzero().tolist()]
    weight = (layer.weight * mask).detach().float().flatten(2)[:, :, allowed.flatten()]
    return taps, weight, layer.bias.detach().float()
