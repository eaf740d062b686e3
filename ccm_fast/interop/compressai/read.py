"""Reads the entropy networks of CompressAI's nets: which kind of net is it, and what are its parts?"""

from __future__ import annotations

from torch import nn

from ccm_fast.errors import ModelError
from ccm_fast.interop.compressai.codecs import read_codec
from ccm_fast.interop.compressai.parts import (
    SUPPORTED,
    EntropyNet,
    GroupNet,
    fold,
    gaussian_rows,
    head_layers,
    masked,
    read_hyper,
)

__all__ = ["read"]


def _has(net: nn.Module, *parts: str) -> bool:
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
    if _has(net, "g_a", "g_s", "latent_codec"):
        return read_codec(net.latent_codec)
    if not _has(net, "g_a", "g_s", "h_a", "h_s", "entropy_bottleneck", "gaussian_conditional"):
        raise ModelError(f"{name} is none of the nets that can be accelerated: {SUPPORTED}")
    if hasattr(net, "Gain"):
        raise ModelError(f"{name} scales y by a gain that differs from string to string: {SUPPORTED} do not")
    M = int(net.M)
    h_s, bottleneck = read_hyper(net.h_s, net.entropy_bottleneck, name)
    outputs = h_s[-1].weight.shape[0] // h_s[-1].upsample ** 2
    if hasattr(net, "context_prediction") or hasattr(net, "entropy_parameters"):
        kind = "mean-scale"
        taps, context, bias = masked(net.context_prediction, M, name)
        group = GroupNet(M, *fold(head_layers(net.entropy_parameters, 2 * M, name), outputs, context, bias, name))
        group.taps = taps
    elif outputs in (M, 2 * M) and h_s[-1].upsample == 1 and len(h_s) > 1:
        kind = "scale" if outputs == M else "mean-scale"
        group = GroupNet(M, h_s.pop(), [], [], None, [])
    else:
        raise ModelError(f"{name}: h_s yields {outputs} channels, neither M nor 2 M of M = {M}")
    tables = gaussian_rows(net.gaussian_conditional, "gaussian_conditional")
    return EntropyNet(
        kind, [group], None, len(bottleneck[0]), net.h_a, h_s, False, bottleneck[0], *tables, bottleneck[1]
    )
