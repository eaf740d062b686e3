"""From pixels to packets.

    x -- g_a --> y -- round --> y_hat --+--> rANS (encode_y) --> y stream
                 |                      |
                 h_a -- round --> z_hat + h_s (integers) --> psi
                                  '--> rANS (encode_z) --> z stream

From the symbols on, everything is integer (FORMAT.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ccm_fast.constants import SYMBOL_MAX
from ccm_fast.entropy import tensors

from .effort import level_for, tune_for
from .effort.levels import Level
from .effort.search import better_symbols
from .engines import engine_for, frozen_of, stage, torch_threads
from .errors import EncodeError
from .models.inference import inference
from .queued_encoding import QUEUE_PIXELS, queue_images, queues
from .stream.limits import MAX_SIDE
from .stream.packet import Packet, Stream
from .tiles import STRIDE, TILE_PIXELS, analyse

if TYPE_CHECKING:
    from ccm_fast.entropy.frozen import FrozenEntropyModel

    from .models import CrossChannelContextModel

__all__ = ["check_images", "encode_packets", "encode_queued", "packets_of", "strings_of"]


def check_images(x: Tensor) -> None:
    """Raises TypeError, ValueError unless x is a floating-point tensor [B, 3, H, W] of any positive size."""
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a torch.Tensor, not {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(f"x must be of a floating-point dtype with values in [0, 1], not {x.dtype}")
    if x.is_nested or x.layout != torch.strided or x.is_meta or x.element_size() == 1:
        raise TypeError(f"x must be an ordinary dense tensor of 16 bits or more, not {x.layout}, {x.dtype}, {x.device}")
    if x.ndim != 4 or x.shape[1] != 3 or 0 in x.shape:
        raise ValueError(f"x must have the shape [B, 3, H, W], none of them 0, not {list(x.shape)}")


def packets_of(
    frozen: FrozenEntropyModel,
    size: tuple[int, int],
    codes: Sequence[int],
    z_streams: Sequence[Stream],
    y_streams: Sequence[Sequence[Stream]],
    grey: bool = False,
) -> list[Packet]:
    """The packets of a batch, of its images' (H, W), quality codes, and streams of z and of every group of y."""
    H, W = size
    return [
        Packet(
            W,
            H,
            code,
            frozen.fingerprint,
            grey,
            (z.lanes, *(s.lanes for s in groups)),
            (z.data, *(s.data for s in groups)),
            z.version,
            (z.taper, *(s.taper for s in groups)),
        )
        for code, z, groups in zip(codes, z_streams, y_streams, strict=True)
    ]


def strings_of(packets: Sequence[Packet]) -> dict:
    """Packets by CompressAI's contract: strings and the shape of z."""
    y_strings, z_strings = zip(*(p.to_strings() for p in packets), strict=True)
    return {"strings": [list(y_strings), list(z_strings)], "shape": packets[0].z_shape}


def _symbols(latents: Tensor, name: str) -> Tensor:
    """Rounded latents [B, C, h, w] as symbols, int16 [B, h, w, C] on the CPU."""
    symbols = torch.round(latents).permute(0, 2, 3, 1).to("cpu")
    # Written so that NaN does not pass.
    if not bool((symbols.abs() <= SYMBOL_MAX).all()):
        raise EncodeError(f"{name} leaves the range of 16-bit symbols: this model cannot code this image")
    return symbols.to(torch.int16).contiguous()


def encode_queued(
    model: CrossChannelContextModel,
    parts: Sequence[tuple[Callable[[slice, slice], Tensor], Sequence[int]]],
    size: tuple[int, int],
    level: Level,
    *,
    grey: bool = False,
    lanes: int = 0,
    tune: str | None = None,
    timings: dict[str, float] | None = None,
    tile_pixels: int = QUEUE_PIXELS,
) -> list[Packet]:
    """Encode equally large images by a GPU, batch after batch: all are queued before the host waits for the first.

    Args:
        model: a frozen model on a GPU.
        parts: of each batch how its pixels are read, and its quality codes.
        size: (H, W), pixels.
        level: one for which the model :func:`queues`.
        grey: as for :func:`encode_packets`, as are
        lanes: this,
        tune: this and
        timings: this.
        tile_pixels: likewise.
    """
    frozen, device = frozen_of(model), next(model.parameters()).device
    options: dict[str, Any] = {"tune": tune_for(model, tune), "grey": grey, "lanes": lanes}
    queued, packets = [], []
    with stage(timings, "entropy"):  # the whole: nothing waits in between
        for read, codes in parts:
            (quality,) = tensors.uploaded([np.array([1 + c / 32 for c in codes], np.float32)], device)
            options["tile_pixels"] = max(1, tile_pixels // len(codes))
            queued.append(queue_images(model, read, size, quality, level, **options))
        for images, (_, codes) in zip(queued, parts, strict=True):
            packets += packets_of(frozen, size, codes, *images.streams(), grey)
    return packets


def encode_packets(
    model: CrossChannelContextModel,
    read: Callable[[slice, slice], Tensor],
    size: tuple[int, int],
    codes: Sequence[int],
    *,
    grey: bool = False,
    lanes: int = 0,
    threads: int | None = None,
    engine: str | None = None,
    effort: int | None = None,
    tune: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    timings: dict[str, float] | None = None,
    tile_pixels: int = TILE_PIXELS,
    pictures: list[Tensor | None] | None = None,
) -> list[Packet]:
    """Encode a batch of equally large images that are read piece by piece.

    Args:
        model: a frozen model.
        read: returns the pixels, float [B, 3, rows, columns] in [0, 1], of two slices. They reach up to 15 pixels
            beyond the image, where edge pixels are to be repeated.
        size: (H, W), pixels.
        codes: B quality codes, see :func:`quality_code`.
        grey: mark the images as grey.
        lanes: rANS lanes per stream (1, 2, 4, 8, 16, 32, 64, 128); 0 chooses them by the symbols that are coded. Many
            decode fastest on GPUs, and cost about 2 bytes each and stream (docs/cuda.md).
        threads: of torch and of the entropy coder; None: torch's setting.
        engine: "cpu", "cuda" or "reference"; None: as :func:`engine_for` says.
        effort: 1 to 9, see :func:`compress`.
        tune: "psnr" or "ms-ssim", likewise.
        progress: called with (steps done, steps in all) by efforts that take steps, 4 and above.
        timings: if given, seconds are added to its keys ``g_a``, ``h_a``, ``h_s``, ``effort`` and ``entropy`` (context
            and rANS); of engine "cuda" up to effort 3 all of it is ``entropy``.
        tile_pixels: larger batches and images are transformed in pieces of so many pixels.
        pictures: given where filters will be fitted to the decoded pictures, which efforts from 4 on then take into
            account. From these the list gets each image's, int16 [C, H, W] (:func:`picture_filter.levels_of`; C is 1
            for grey ones), or None where it is not known.

    Raises:
        NotFrozenError: the model is not frozen.
        EncodeError: latents that are not finite or leave 16 bits.
        ValueError: sides above 2^20 pixels, a wrong lane count, an effort that this model does not have.
    """
    frozen = frozen_of(model)
    options: dict[str, Any]
    level, tune = level_for(model, effort, size[0] * size[1]), tune_for(model, tune)
    (H, W), (h, w) = size, (-(-s // STRIDE) for s in size)
    if max(size) > MAX_SIDE:
        raise ValueError(f"image of {W}x{H} pixels: sides are at most {MAX_SIDE}")
    weight = next(model.parameters())
    quality = torch.tensor([1 + c / 32 for c in codes], dtype=torch.float32, device=weight.device)
    engine = engine_for(engine, weight.device)
    if queues(model, level, engine):
        options = {"grey": grey, "lanes": lanes, "tune": tune, "timings": timings}
        return encode_queued(model, [(read, codes)], size, level, **options, tile_pixels=tile_pixels)
    with torch.inference_mode(), torch_threads(threads) as count:
        with stage(timings, "g_a"):
            y = analyse(model.g_a, lambda i, j: read(i, j).to(weight), h, w, tile_pixels // len(codes))
            y = y * model.gain(quality)
            y_hat = _symbols(y, "y")
        with stage(timings, "h_a"):
            z = inference(model.h_a)(y)
            z_hat = frozen.fix_z(_symbols(z, "z"))
        with stage(timings, "h_s"):
            psi = frozen.hyper(z_hat, h, w, threads=count, engine=engine)
        if level.rounding:
            with stage(timings, "effort"):
                options = {
                    "grey": grey,
                    "engine": "reference" if engine == "reference" else "cpu",
                    "threads": count,
                    "tune": tune,
                    "progress": progress,
                    "filtered": pictures is not None,
                }
                options |= {"read": read, "size": size, "tile_pixels": max(1, tile_pixels // len(codes))}
                y_hat, z_hat, psi, levels = better_symbols(model, y, z, z_hat, psi, quality, level, **options)
                if pictures is not None:
                    pictures.extend(levels)
        del y, z
        with stage(timings, "entropy"):
            coder = {"lanes": lanes, "version": 2, "threads": count, "engine": engine}
            z_streams = frozen.encode_z(z_hat, **coder)
            y_streams, _ = frozen.encode_settled(psi, y_hat, **coder)
    return packets_of(frozen, size, codes, z_streams, y_streams, grey)
