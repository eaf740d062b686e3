"""What the benchmarks work on: pictures that no photographer took, and their latents by a shipped model."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from ccm_fast.codec import compress
from ccm_fast.decoding import decode_latents, parse_packets
from ccm_fast.engines import frozen_of
from ccm_fast.files import model_for

__all__ = ["latents", "model", "picture"]

MODEL = "ccm-small"


@functools.cache
def model(name: str = MODEL):
    """A shipped model or a weights file."""
    return model_for(name)


def picture(width: int, height: int, seed: int = 0) -> Tensor:
    """Noise with a photograph's spectrum (amplitude falls as 1 / frequency), float [1, 3, height, width] in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    out = torch.zeros(1, 3, height, width)
    octave, amplitude = 2, 1.0
    while octave < max(width, height):
        size = (max(1, min(height, octave * height // width)), min(width, octave))
        noise = torch.randn(1, 3, *size, generator=generator) + torch.randn(1, 1, *size, generator=generator)
        out += amplitude * F.interpolate(noise, (height, width), mode="bilinear", align_corners=False)
        octave, amplitude = 2 * octave, 0.55 * amplitude
    return ((out - out.mean()) / (4 * out.std()) + 0.5).clamp(0, 1)


@functools.lru_cache(maxsize=8)
def latents(width: int, height: int, quality: float = 4.0, name: str = MODEL) -> tuple[Tensor, Tensor]:
    """z_hat and y_hat of a :func:`picture`, int16 [1, hz, wz, N] and [1, h, w, M]."""
    net = model(name)
    frozen = frozen_of(net)
    packets = parse_packets(frozen, compress(net, picture(width, height), quality)["strings"], None)
    z_hat = frozen.decode_z([p.z_stream for p in packets], *packets[0].z_shape)
    return z_hat, decode_latents(frozen, packets)
