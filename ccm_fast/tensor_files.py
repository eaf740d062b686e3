"""What :mod:`ccm_fast.files` does with modules of torch: encoding, and decoding on GPUs or by the oracle."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import _native
from .decoding import check_fingerprint, check_stream_version, decode_packets, render
from .encoding import encode_packets
from .engines import accelerated, frozen_of, torch_threads
from .filter_fitting import sends_filters, with_filter
from .images import Picture
from .interop.compressai import AcceleratedNet
from .models import CrossChannelContextModel
from .native import Codec, thread_count
from .picture_filter import PictureFilter, filter_on_gpu, has_kernel, levels_of, records_of
from .stream.container import Container, write_container
from .stream.packet import Packet, parse_file
from .tiles import TILE_PIXELS
from .timing import stage

__all__ = ["decode_container", "encoder", "module_for"]


@functools.lru_cache(maxsize=4)
def _load(name: str) -> CrossChannelContextModel | AcceleratedNet:
    from .weights import load

    return load(name)


def module_for(
    model: CrossChannelContextModel | AcceleratedNet | Codec | str | os.PathLike[str], fingerprint: bytes | None
) -> CrossChannelContextModel | AcceleratedNet:
    """A module, or the one of a name, a weights file or a codec. Arguments and errors as :func:`files.model_for`."""
    if isinstance(model, Codec):
        model = model.path
    if (fast := accelerated(model)) is not None:
        model = fast
    elif not isinstance(model, CrossChannelContextModel):
        model = _load(os.fspath(model))
    frozen = model.frozen if isinstance(model, AcceleratedNet) else frozen_of(model)
    if fingerprint is not None:
        check_fingerprint(fingerprint, frozen)
    return model


def encoder(picture: Picture, model: CrossChannelContextModel | AcceleratedNet, **options) -> Callable[[int], bytes]:
    """A function that gives the bytes of a .ccm file for a quality code.

    Args:
        picture: what to encode.
        model: a frozen model.
        options: of :func:`ccm_fast.encoding.encode_packets`.
    """
    pixels = picture.pixels
    scale = float(np.iinfo(pixels.dtype).max)

    def read(rows: slice, columns: slice) -> Tensor:
        # Repeats the edge where a piece reaches beyond the image.
        part = pixels[rows, columns]
        over = [(0, rows.stop - rows.start - part.shape[0]), (0, columns.stop - columns.start - part.shape[1])]
        part = np.pad(part, over + [(0, 0)] * (pixels.ndim - 2), mode="edge")
        values = torch.from_numpy(part.astype(np.float32)).div_(scale)
        return (values.expand(3, -1, -1) if picture.grey else values.permute(2, 0, 1))[None]

    if isinstance(model, AcceleratedNet):
        # What only models of several qualities have.
        asked = [name for name in ("effort", "tune") if options.pop(name, None) is not None]
        if asked:
            raise ValueError(f"a net of CompressAI has no {asked[0]}: its encoder rounds")
        options.pop("progress", None)
        (packet,) = model.encode(read(*(slice(0, side) for side in picture.size)), grey=picture.grey, **options)
        return lambda code: write_container(packet.to_file(), picture.chunks)

    def encode(code: int) -> bytes:
        fits = sends_filters(model, options.get("effort"), options.get("tune"))
        pictures: list[Tensor | None] | None = [] if fits else None
        (packet,) = encode_packets(model, read, picture.size, [code], grey=picture.grey, pictures=pictures, **options)
        found = _fitted(picture, model, packet, options, pictures[0] if pictures else None) if fits else b""
        return write_container(packet.to_file(), with_filter(picture.chunks, found))

    return encode


def _fitted(
    picture: Picture,
    model: CrossChannelContextModel,
    packet: Packet,
    options: dict[str, Any],
    levels: Tensor | None,
) -> bytes:
    """The filter chunk of a file, empty for none; ``levels``: what it decodes to, int16 [C, H, W], if that is known."""
    with stage(options.get("timings"), "filter"):
        how = {"threads": options.get("threads"), "engine": options.get("engine")}
        if levels is None:
            values, _ = _decoded(packet, model, timings=None, latents=False, **how)
            with torch.inference_mode(), torch_threads(how["threads"]):
                levels = _filter_levels(model, values, packet)
        samples = np.ascontiguousarray(picture.pixels)
        chunk: bytes = _native.fit_filter(
            samples, levels.cpu().numpy(), packet.quality_code, thread_count(how["threads"])
        )
    return chunk


def decode_container(
    container: Container,
    model: CrossChannelContextModel | AcceleratedNet,
    *,
    threads: int | None,
    engine: str | None,
    max_pixels: int | None,
    depth: int,
    timings: dict[str, float] | None,
    latents: bool,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Pixels, uint8 or uint16 (by depth) [H, W, 3] or [H, W], and y_hat, int16 [h, w, M], if latents are wanted.

    Errors as :func:`ccm_fast.decode_file`.
    """
    frozen = model.frozen if isinstance(model, AcceleratedNet) else frozen_of(model)
    packet = parse_file(container.packet, len(frozen.plan.groups), max_pixels)
    check_stream_version(packet, frozen)
    if isinstance(model, AcceleratedNet):
        x_hat, y_hat = model.decode([packet], threads=threads, engine=engine, timings=timings)
        return _levels(x_hat[0], packet.grey, depth), y_hat[0].cpu().numpy() if latents else None
    values, y_hat = _decoded(packet, model, threads=threads, engine=engine, timings=timings, latents=latents)
    found = PictureFilter.of(container.chunks, packet.grey)
    with torch.inference_mode(), torch_threads(threads), stage(timings, "g_s"):
        return _pixels(model, values, packet, depth, found), y_hat


def _decoded(
    packet: Packet,
    model: CrossChannelContextModel,
    *,
    threads: int | None,
    engine: str | None,
    timings: dict[str, float] | None,
    latents: bool,
) -> tuple[Tensor, np.ndarray | None]:
    """What g_s reads, [1, h, w, M], and y_hat, int16 [h, w, M], if latents are wanted."""
    device = next(model.parameters()).device
    options: dict[str, Any] = {"threads": threads, "engine": engine, "device": device, "timings": timings}
    decoded = decode_packets(frozen_of(model), [packet], restore=model.config.reconstruction == "centroid", **options)
    decoded.check()
    y_hat = decoded.y_hat[0].cpu().numpy() if latents else None
    with torch.inference_mode(), torch_threads(threads), stage(timings, "g_s"):
        return decoded.reconstruct(model), y_hat


def _levels(x: Tensor, grey: bool, depth: int) -> np.ndarray:
    """uint8 or uint16 (by depth) [H, W] or [H, W, 3] of pixels [3, H, W] in [0, 1]."""
    kind, rounded = (np.uint8, torch.uint8) if depth == 8 else (np.uint16, torch.int32)
    levels = x.float().mul(np.iinfo(kind).max).round_().to("cpu", rounded)
    return (levels[0] if grey else levels.permute(1, 2, 0)).numpy().astype(kind, copy=False)


def _tile_pixels(packet: Packet) -> int:
    # Tiles take 100 bytes a pixel beside a large picture and its latents; smaller ones cost 6 % more computation.
    return TILE_PIXELS if packet.height * packet.width <= 4 * TILE_PIXELS else TILE_PIXELS // 2


def _filter_levels(model: CrossChannelContextModel, values: Tensor, packet: Packet) -> Tensor:
    """Pixels as filters read them, int16 [3, H, W] or [1, H, W], of what g_s reads, [1, h, w, M]."""
    colours = 1 if packet.grey else 3
    levels = torch.empty(colours, packet.height, packet.width, dtype=torch.int16, device=values.device)
    for rows, columns, pixels in render(model, values, [packet], _tile_pixels(packet)):
        levels[:, rows, columns] = levels_of(pixels[0, :colours])
    return levels


def _pixels(
    model: CrossChannelContextModel,
    values: Tensor,
    packet: Packet,
    depth: int,
    found: PictureFilter | None,
) -> np.ndarray:
    """uint8 or uint16 [H, W] or [H, W, 3] of what g_s reads, [1, h, w, M], through the file's filter."""
    kind = np.uint8 if depth == 8 else np.uint16
    out = np.empty((packet.height, packet.width) + (() if packet.grey else (3,)), kind)
    if found is None:
        for rows, columns, pixels in render(model, values, [packet], _tile_pixels(packet)):
            out[rows, columns] = _levels(pixels[0], packet.grey, depth)
        return out
    levels = _filter_levels(model, values, packet)
    if has_kernel(levels.device):
        pixels = torch.empty(levels.shape, dtype=torch.uint8 if depth == 8 else torch.float32, device=levels.device)
        filter_on_gpu(levels[None], torch.from_numpy(records_of([found])).to(levels.device), pixels[None])
        if depth == 8:
            return (pixels[0] if packet.grey else pixels.permute(1, 2, 0)).cpu().numpy()
        return _levels(pixels, packet.grey, depth)
    for rows, pixels in found.to(found.weights.to(levels.device)).bands(levels):
        out[rows] = _levels(pixels, packet.grey, depth)
    return out
