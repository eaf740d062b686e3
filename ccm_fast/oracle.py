"""The decoder that is written to be read: strings to pictures by the pure-Python oracle, in one screen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from .decoding import parse_packets
from .engines import frozen_of

if TYPE_CHECKING:
    from .models import CrossChannelContextModel

__all__ = ["reference_decompress"]


@torch.no_grad()
def reference_decompress(
    model: CrossChannelContextModel, strings: list[list[bytes]], shape: tuple[int, int]
) -> dict[str, torch.Tensor]:
    """Images of strings, symbol by symbol: a photograph in ten seconds.

    :func:`ccm_fast.decompress` takes the same arguments and gives the same latents, and of them the same images up to
    the last bits of its floats, fast. Symbols come in the order of the schedule's steps (FORMAT.md, section 5), not in
    raster order: that order is part of the files.

    Args:
        model: with a frozen entropy model.
        strings: ``[[y, ...], [z, ...]]``, one string for each image and latent, from :func:`ccm_fast.compress`.
        shape: (h, w) of z.

    Returns:
        ``{"x_hat": float32 [B, 3, H, W] in [0, 1]}``.

    Raises:
        NotFrozenError, BitstreamError, ValueError: as :func:`ccm_fast.decompress`.
    """
    frozen = frozen_of(model)
    packets = parse_packets(frozen, strings, shape)
    size = packets[0].height, packets[0].width
    z_hat = frozen.decode_z([p.z_stream for p in packets], *packets[0].z_shape, engine="reference")
    psi = frozen.hyper(z_hat, *packets[0].y_shape, engine="reference")
    y_hat = frozen.decode_y(psi, [p.y_streams for p in packets], engine="reference")

    if model.config.reconstruction == "centroid":
        y_hat = frozen.centroids(y_hat, *frozen.parameters(psi, y_hat, engine="reference"))
    weight = next(model.parameters())
    quality = torch.tensor([p.quality for p in packets], device=weight.device)
    x_hat = model.synthesis(y_hat.permute(0, 3, 1, 2).to(weight), quality, size).clamp(0, 1)
    for image, packet in zip(x_hat, packets, strict=True):
        if packet.grey:
            image[:] = image.mean(0, keepdim=True)
    return {"x_hat": x_hat.float()}
