"""From pixels to streams on a GPU, without the host in between: what :mod:`ccm_fast.encoding` does with engine "cuda".

Symbols, their parameters, the decisions about them and the coded bytes stay on the device. The host waits once, in
:meth:`QueuedImages.streams`, for where the streams are and whether they could be made; then it copies their bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ccm_fast.constants import SYMBOL_MAX
from ccm_fast.entropy import tensors
from ccm_fast.entropy.tensors import DeviceStreams

from .effort.levels import Level
from .effort.search import better_symbols, stays_on_device
from .engines import engine_for, frozen_of
from .errors import EncodeError
from .filter_fitting import filter_sums
from .models.inference import inference
from .picture_filter import levels_of
from .stream.packet import Stream
from .tiles import STRIDE, analyse, pixels_of

if TYPE_CHECKING:
    from ccm_fast.entropy.frozen import FrozenEntropyModel

    from .models import CrossChannelContextModel

__all__ = ["QUEUE_PIXELS", "QueuedImages", "queue_images", "queues"]

#: Of images that are encoded together, and of one that is transformed at a time: some 3 GB of a GPU's memory.
QUEUE_PIXELS = 16 << 20


@dataclass(frozen=True)
class QueuedImages:
    """Equally large images whose streams a GPU has been asked for.

    Attributes:
        frozen: the integer entropy model.
        coded: their streams, on the device.
        fit: whether y and z of each image, before any decision, are in the range of symbols; bool [B], there.
        sums: what picture filters are fitted to, float64 [B, 16, 6 C, 6 C + C] (:func:`filter_sums`), there, if wanted.
    """

    frozen: FrozenEntropyModel
    coded: DeviceStreams
    fit: tuple[Tensor, Tensor]
    sums: Tensor | None = None

    def each(self) -> list[tuple[Stream, list[Stream]] | EncodeError]:
        """z's stream of each image and y's of each of its groups, or why there are none. Waits for the device."""
        z_streams, y_streams, fit = self.frozen.fetch(self.coded, *self.fit)
        found: list[tuple[Stream, list[Stream]] | EncodeError] = list(zip(z_streams, y_streams, strict=True))
        for k in range(len(found)):
            if (name := next((name for name, fine in zip("yz", fit, strict=True) if not fine[k]), None)) is not None:
                found[k] = EncodeError(f"{name} leaves the range of 16-bit symbols: this model cannot code this image")
        return found

    def streams(self) -> tuple[list[Stream], list[list[Stream]]]:
        """z's stream of each image, and y's of each image and group. Waits for the device.

        Raises:
            EncodeError: latents that are not finite or leave 16 bits.
        """
        z_streams, y_streams = [], []
        for one in self.each():
            if isinstance(one, EncodeError):
                raise one
            z_streams.append(one[0])
            y_streams.append(one[1])
        return z_streams, y_streams


def queues(model: CrossChannelContextModel, level: Level, engine: str | None = None) -> bool:
    """Whether :func:`queue_images` is how an engine (None: the one for the model's device) does a level's work."""
    device = next(model.parameters()).device
    cuda = engine_for(engine, device) == "cuda" and stays_on_device(model, level)
    return cuda and tensors.device_for("cuda", device) == device


def queue_images(
    model: CrossChannelContextModel,
    read: Callable[[slice, slice], Tensor],
    size: tuple[int, int],
    quality: Tensor,
    level: Level,
    *,
    tune: str,
    grey: bool,
    lanes: int,
    tile_pixels: int,
    filtered: bool = False,
) -> QueuedImages:
    """Ask a GPU for the streams of a batch of equally large images.

    After a first call for a model and a size the host waits for nothing, and copies nothing but what ``read`` does.

    Args:
        model: a frozen model that :func:`queues`.
        read: as for :func:`ccm_fast.encoding.encode_packets`.
        size: (H, W), pixels.
        quality: float [B], on the GPU.
        level: what the effort does.
        tune: "psnr" or "ms-ssim".
        grey: the decoder averages the colours.
        lanes: of every stream; 0: chosen on the GPU.
        tile_pixels: of each image, that are transformed at a time.
        filtered: decode the images, too, and sum up what their filters are fitted to.
    """
    frozen, weight = frozen_of(model), next(model.parameters())
    h, w = (-(-s // STRIDE) for s in size)
    with torch.inference_mode():
        y = analyse(model.g_a, lambda i, j: read(i, j).to(weight), h, w, tile_pixels) * model.gain(quality)
        y_hat, y_fit = _symbols(y)
        z = inference(model.h_a)(y)
        z_hat, z_fit = _symbols(z)
        z_hat = frozen.fix_z(z_hat)
        psi = frozen.hyper(z_hat, h, w, engine="cuda", threads=1)
        if level.rounding:
            y_hat, z_hat, psi, _ = better_symbols(
                model,
                y,
                z,
                z_hat,
                psi,
                quality,
                level,
                read=read,
                size=size,
                grey=grey,
                tile_pixels=tile_pixels,
                engine="cuda",
                threads=1,
                tune=tune,
            )
        coded, y_hat = frozen.encode_queued(z_hat, psi, y_hat, lanes)
        sums = _filter_sums(model, psi, y_hat, quality, read, size, grey, tile_pixels) if filtered else None
    return QueuedImages(frozen, coded, (y_fit, z_fit), sums)


def _filter_sums(
    model: CrossChannelContextModel,
    psi: Tensor,
    y_hat: Tensor,
    quality: Tensor,
    read: Callable[[slice, slice], Tensor],
    size: tuple[int, int],
    grey: bool,
    tile_pixels: int,
) -> Tensor:
    """:func:`filter_sums` of every image, of its pixels as a decoder will have them."""
    frozen, colours = frozen_of(model), 1 if grey else 3
    values = y_hat
    if model.config.reconstruction == "centroid":
        values = frozen.centroids(y_hat, *frozen.parameters_on(psi, y_hat))
    images = len(y_hat)
    levels = torch.empty(images, colours, *size, dtype=torch.int16, device=y_hat.device)
    every = range(images) if grey else ()
    pieces = pixels_of(model.g_s, values, size, every, model.inverse_gain(quality), tile_pixels * images)
    for rows, columns, pixels in pieces:
        levels[:, :, rows, columns] = levels_of(pixels[:, :colours])
    original = read(slice(0, size[0]), slice(0, size[1]))[:, :colours]
    return torch.stack([filter_sums(*pair) for pair in zip(levels, original, strict=True)])


def _symbols(latents: Tensor) -> tuple[Tensor, Tensor]:
    """Rounded latents [B, C, h, w] as symbols, int16 [B, h, w, C], and whether an image's all are, bool [B]."""
    symbols = torch.round(latents).permute(0, 2, 3, 1)
    return symbols.to(torch.int16).contiguous(), (symbols.abs() <= SYMBOL_MAX).flatten(1).all(1)
