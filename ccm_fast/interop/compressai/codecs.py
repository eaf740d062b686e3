"""Nets that CompressAI builds from latent codecs: checkerboard models and ELIC, read into the same plain parts.

Codecs concatenate their contexts by methods that a net may replace (elic2022-chandelier does): the order is not assumed
but found, by calling them with channel numbers in place of channels.

One thing of checkerboards is no convolution: anchors see zeros in place of the masked convolution's result, its bias
included, where the other positions see the bias. The features therefore get one more channel, 0 at anchors and constant
elsewhere, and the bias is a weight on it. h_s can make it without error: its last pixel shuffle has a bias of its own
for each of the four positions of a square, and later layers hand it on by the middle of their kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from ccm_fast.errors import ModelError
from ccm_fast.freezing.floats import FloatLayer
from ccm_fast.interop.compressai.parts import (
    SUPPORTED,
    EntropyNet,
    GroupNet,
    gaussian_rows,
    head_layers,
    layers,
    masked,
    masked_by,
    read_hyper,
)

__all__ = ["gaussian_of", "leaves", "read_codec"]

_LEAVES = ("CheckerboardLatentCodec", "RasterScanLatentCodec")
_PARITY = {"even": 0, "odd": 1}


def _refuse(what: str) -> ModelError:
    return ModelError(f"{what}; supported nets: {SUPPORTED}")


def _expect(module: nn.Module, names: tuple[str, ...], place: str) -> str:
    """The module's class, by name: a subclass may do anything."""
    name = type(module).__name__
    if name not in names:
        raise _refuse(f"{place} is a {name}, not a {' or a '.join(names)}")
    return name


def _order(merge: Callable[..., Tensor], *parts: list[int]) -> list[int]:
    """Which channels ``merge`` yields, of parts whose channels have these numbers."""
    return merge(*(torch.tensor(p, dtype=torch.float32).reshape(1, -1, 1, 1) for p in parts)).flatten().int().tolist()


def leaves(y: nn.Module) -> list[nn.Module]:
    """The codecs of the groups of ``latent_codec["y"]``."""
    if type(y).__name__ == "ChannelGroupsLatentCodec":
        return [y.latent_codec[f"y{k}"] for k in range(len(y.groups))]
    return [y]


@dataclass(eq=False)
class _Found:
    """A group, with what waits for the marked channel: the spatial context's bias in units of the sum."""

    group: GroupNet
    bias: Tensor | None


def _read_leaf(leaf: nn.Module, channels: int, side: int, sources: list[int], before: int, stack: list[FloatLayer]):
    """A group.

    Args:
        leaf: its codec.
        channels: of the group.
        side: features.
        sources: what the leaf's parameters are made of: features 0 .. side - 1, then the channel context's outputs.
        before: channels of the earlier groups.
        stack: the channel context's layers, from all of these.
    """
    name = _expect(leaf, _LEAVES, "the codec of a group of y")
    if name == "CheckerboardLatentCodec":
        gaussian = leaf.latent_codec["y"]
        _expect(gaussian, ("GaussianConditionalLatentCodec",), "the inner codec of a CheckerboardLatentCodec")
        if type(gaussian.entropy_parameters) is not nn.Identity or len(gaussian.chunks) != 2:
            raise _refuse("a GaussianConditionalLatentCodec that has layers of its own, or no means or no scales")
        means_first = gaussian.chunks[0] == "means"
        k = leaf.context_prediction.kernel_size[0]
        odd = (torch.arange(k)[:, None] + torch.arange(k) + 2 * (k // 2)) % 2 == 1
        why = "a CheckerboardLatentCodec whose context_prediction reads more than the anchors around a position"
        taps, context, bias = masked_by(leaf.context_prediction, odd, channels, why)
    else:
        means_first = False
        taps, context, bias = masked(leaf.context_prediction, channels, "RasterScanLatentCodec")
    head = head_layers(leaf.entropy_parameters, 2 * channels, name)
    if means_first:
        order = torch.arange(2 * channels).roll(channels)
        head[-1] = replace(head[-1], weight=head[-1].weight[order], bias=head[-1].bias[order])
    # The columns of the first layer by what they read: features, channel context, spatial context.
    total = side + (len(stack[-1].bias) if stack else 0)
    near = list(range(total, total + len(context)))
    parts = (near, sources) if name == "CheckerboardLatentCodec" else (sources, near)
    order = _order(leaf.merge, *parts)
    first = head[0]
    if first.weight.shape[1] != len(order):
        raise _refuse(
            f"entropy_parameters of a {name} reads {first.weight.shape[1]} channels where there are {len(order)}"
        )
    columns = first.weight.new_zeros(len(first.weight), total + len(context))
    columns.index_add_(1, torch.tensor(order), first.weight[:, :, 0, 0])
    offset = columns[:, total:] @ bias
    from_psi = replace(first, weight=columns[:, :side, None, None].contiguous())
    if name == "RasterScanLatentCodec":
        from_psi, offset = replace(from_psi, bias=first.bias + offset), None
    if stack:
        mixed = FloatLayer(columns[:, side:total, None, None].contiguous(), torch.zeros_like(first.bias))
        stack = [*stack, mixed]
    spatial = torch.einsum("dc,cmt->dmt", columns[:, total:].double(), context.double()).float()
    return _Found(GroupNet(channels, from_psi, stack, taps, spatial, head[1:]), offset)


def _read_context(module: nn.Module, inputs: list[int], before: int) -> list[FloatLayer]:
    """The layers of a channel context as ones that read all earlier channels."""
    found = layers(module, "channel_context")
    first = found[0]
    if first.weight.shape[1] != len(inputs) or any(x.upsample != 1 for x in found):
        raise _refuse("a channel_context that does not fit the groups before it")
    weight = first.weight.new_zeros(first.weight.shape[0], before, *first.weight.shape[2:])
    weight.index_add_(1, torch.tensor(inputs), first.weight)
    return [replace(first, weight=weight), *found[1:]]


def read_codec(codec: nn.Module) -> EntropyNet:
    """The entropy networks of ``net.latent_codec``.

    Raises:
        ModelError: it is built of other parts; the message names the first that does not fit.
        NotFrozenError: ``net.update()`` has not been called.
    """
    _expect(codec, ("HyperpriorLatentCodec",), "latent_codec")
    hyper, y = codec.latent_codec["hyper"], codec.latent_codec["y"]
    _expect(hyper, ("HyperLatentCodec",), 'latent_codec["hyper"]')
    h_s, (medians, z_rows) = read_hyper(hyper.h_s, hyper.entropy_bottleneck, "HyperLatentCodec")
    side = h_s[-1].weight.shape[0] // h_s[-1].upsample ** 2
    features = list(range(side))
    found: list[_Found] = []
    if type(y).__name__ == "ChannelGroupsLatentCodec":
        start = np.cumsum([0, *y.groups]).tolist()
        earlier = [list(range(a, b)) for a, b in pairwise(start)]
        for g, leaf in enumerate(leaves(y)):
            stack, sources = [], features
            if g:
                stack = _read_context(y.channel_context[f"y{g}"], _order(y.merge_y, *earlier[:g]), start[g])
                mixed = list(range(side, side + len(stack[-1].bias)))
                sources = _order(y.merge_params, mixed, features)
            found.append(_read_leaf(leaf, y.groups[g], side, sources, start[g], stack))
    else:
        _expect(y, ("ChannelGroupsLatentCodec", *_LEAVES), 'latent_codec["y"]')
        found.append(_read_leaf(y, y.context_prediction.in_channels, side, features, 0, []))
    parities = {_PARITY[x.anchor_parity] if hasattr(x, "anchor_parity") else None for x in leaves(y)}
    if len(parities) != 1:
        raise _refuse(
            "groups of y in different orders (raster, anchors even, anchors odd): a plan has one schedule for all"
        )
    (anchors,) = parities
    table, y_rows = _shared_tables([gaussian_of(leaf) for leaf in leaves(y)])
    marked = anchors is not None and any(bool(f.bias.abs().max() > 0) for f in found)
    if marked:
        h_s = _mark(h_s, found, anchors)
    groups = [f.group for f in found]
    return EntropyNet(
        "mean-scale", groups, anchors, len(medians), hyper.h_a, h_s, marked, medians, table, y_rows, z_rows
    )


def gaussian_of(leaf: nn.Module) -> nn.Module:
    """CompressAI's GaussianConditional of a group."""
    return (
        leaf.gaussian_conditional
        if hasattr(leaf, "gaussian_conditional")
        else leaf.latent_codec["y"].gaussian_conditional
    )


def _shared_tables(gaussians: list[nn.Module]):
    tables = [gaussian_rows(g, "gaussian_conditional") for g in gaussians]
    table, rows = tables[0]
    for t, r in tables[1:]:
        if not torch.equal(t, table) or not all(
            np.array_equal(getattr(r, part), getattr(rows, part)) for part in ("lo", "n", "cdf")
        ):
            raise _refuse("groups of y with different scale tables: a plan has one for all")
    return table, rows


def _mark(h_s: list[FloatLayer], found: list[_Found], anchors: int) -> list[FloatLayer]:
    """One more channel of the features: 0 at anchors, constant elsewhere; and each group's weights on it."""
    # As large as makes its weights no larger than the others.
    most = max(float(f.bias.abs().max() / f.group.from_psi.weight.abs().max().clamp(min=1e-12)) for f in found)
    size = max(most, 1e-3)
    last = max(k for k, layer in enumerate(h_s) if layer.upsample == 2)
    out = h_s[:last]
    up = h_s[last]
    values = torch.tensor([size if (a + b) % 2 != anchors else 0.0 for a in (0, 1) for b in (0, 1)])
    weight = torch.cat([up.weight, up.weight.new_zeros(4, *up.weight.shape[1:])])
    out.append(replace(up, weight=weight, bias=torch.cat([up.bias, values])))
    for layer in h_s[last + 1 :]:
        outputs, inputs, k, _ = layer.weight.shape
        weight = layer.weight.new_zeros(outputs + 1, inputs + 1, k, k)
        weight[:-1, :-1] = layer.weight
        weight[-1, -1, k // 2, k // 2] = 1
        out.append(replace(layer, weight=weight, bias=torch.cat([layer.bias, layer.bias.new_zeros(1)])))
    for f in found:
        column = (f.bias / size)[:, None, None, None]
        f.group.from_psi = replace(f.group.from_psi, weight=torch.cat([f.group.from_psi.weight, column], 1))
    return out
