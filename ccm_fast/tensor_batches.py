"""What :mod:`ccm_fast.batches` does with torch: arrays as tensors, and batches on GPUs."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from .decoding import DecodedLatents, check_fingerprint, check_stream_version, decode_packets, decoding_gain, render
from .engines import accelerated, frozen_of, torch_threads
from .errors import BitstreamError
from .images import orientation
from .models import CrossChannelContextModel
from .stream.container import Container
from .stream.packet import Packet, parse_file, peek
from .tiles import TILE_PIXELS

__all__ = ["check_place", "collected", "decode_containers", "from_arrays"]


def _converted(pixels: Tensor, dtype: torch.dtype | None) -> Tensor:
    return pixels if dtype in (None, torch.uint8) else pixels.to(dtype).div_(255)


def from_arrays(found: np.ndarray | list[np.ndarray | None], dtype: torch.dtype | None) -> Tensor | list[Tensor | None]:
    """uint8 [N, H, W, 3], or a list of [H, W, 3], as channel-first views of the same memory, or converted."""
    if isinstance(found, np.ndarray):
        return _converted(torch.from_numpy(found).permute(0, 3, 1, 2), dtype)
    return [None if a is None else _converted(torch.from_numpy(a).permute(2, 0, 1), dtype) for a in found]


def collected(found: list[Tensor | None], dtype: torch.dtype | None, always_list: bool) -> Tensor | list[Tensor | None]:
    """uint8 [3, H, W] each: [N, 3, H, W] if they have one size, unless a list is wanted."""
    shapes = {one.shape for one in found if one is not None}
    if len(shapes) == 1 and not always_list:
        return _converted(torch.stack(found), dtype)
    return [None if one is None else _converted(one, dtype) for one in found]


def check_place(model: CrossChannelContextModel, device: torch.device | str | None) -> None:
    """Raises ValueError if a caller's own module is on another device than the pixels are wanted on.

    Raises TypeError for a net of CompressAI.
    """
    if accelerated(model) is not None:
        raise TypeError("batches of files are for the package's own models: decode those of other nets one by one")
    where = next(model.parameters()).device
    if device is not None and torch.empty(0, device=device).device != where:
        raise ValueError(f"the model is on {where}, and the pixels are wanted on {device}: move one to the other")


@functools.lru_cache(maxsize=4)
def _copy_on(model: CrossChannelContextModel, device: torch.device) -> CrossChannelContextModel:
    return copy.deepcopy(model).to(device)


def _placed(model: CrossChannelContextModel, device: torch.device | str | None) -> CrossChannelContextModel:
    where = next(model.parameters()).device
    wanted = where if device is None else torch.empty(0, device=device).device
    return model if wanted == where else _copy_on(model, wanted)


def _turned(pixels: Tensor, number: int) -> Tensor:
    """[3, H, W] as EXIF's orientation, 1 to 8, asks for it."""
    if number >= 5:
        pixels = pixels.transpose(1, 2)
    over = [axis for axis, numbers in ((1, (3, 4, 7, 8)), (2, (2, 3, 6, 7))) if number in numbers]
    return pixels.flip(over) if over else pixels


def decode_containers(
    files: list[Container | Exception],
    model_for: Callable[[bytes], CrossChannelContextModel],
    device: torch.device | str | None,
    *,
    engine: str | None,
    threads: int | None,
    max_pixels: int | None,
    orient: bool,
) -> list[Tensor | Exception]:
    """The pictures of parsed files, uint8 [3, H, W] on the device, or what is wrong with each.

    Args:
        files: exceptions stay where they are.
        model_for: gives the module for a fingerprint.
        device: where to decode; None: where the module is. Modules that are elsewhere are copied there, once.
        engine: as for :func:`ccm_fast.decoding.decode_packets`.
        threads: likewise.
        max_pixels: larger pictures are errors.
        orient: turn pictures as EXIF asks for.
    """
    found: list = list(files)
    groups: dict[tuple, list[tuple[int, Packet]]] = {}
    for k, file in enumerate(files):
        if isinstance(file, Exception):
            continue
        try:
            model = _placed(model_for(peek(file.packet, max_pixels).fingerprint), device)
            frozen = frozen_of(model)
            packet = parse_file(file.packet, len(frozen.plan.groups), max_pixels)
            check_fingerprint(packet.fingerprint, frozen)
            check_stream_version(packet, frozen)
        except BitstreamError as error:
            found[k] = error
            continue
        groups.setdefault((model, packet.width, packet.height), []).append((k, packet))
    queued = []
    for (model, *_), members in groups.items():
        for part in _tried(model, members, engine, threads):
            queued.append(part)
    for members, decoded, pixels in queued:  # the host waits here, when everything is queued
        for i, (k, _) in enumerate(members):
            turn = orientation(files[k].chunks) if orient else 1
            found[k] = pixels if isinstance(pixels, Exception) else _turned(pixels[i], turn)
        for i, error in _failures(decoded):
            found[members[i][0]] = error
    return found


def _tried(
    model: CrossChannelContextModel, members: list[tuple[int, Packet]], engine: str | None, threads: int | None
) -> list[tuple[list[tuple[int, Packet]], DecodedLatents | None, object]]:
    """Members with their latents and pixels, or the error in place of these: engines on the CPU raise at once."""
    packets = [packet for _, packet in members]
    try:
        return [(members, *_queue(model, packets, engine, threads))]
    except BitstreamError as error:
        if len(members) == 1:
            return [(members, None, _alone(error))]
        return [part for member in members for part in _tried(model, [member], engine, threads)]


def _queue(
    model: CrossChannelContextModel, packets: list[Packet], engine: str | None, threads: int | None
) -> tuple[DecodedLatents, Tensor]:
    """Latents and uint8 [B, 3, H, W] of equally large pictures; on a GPU nothing has been waited for."""
    device = next(model.parameters()).device
    options = {"threads": threads, "engine": engine, "device": device}
    restore = model.config.reconstruction == "centroid"
    H, W = packets[0].height, packets[0].width
    # Made outside of inference mode: what callers get is an ordinary tensor.
    out = torch.empty(len(packets), 3, H, W, dtype=torch.uint8, device=device)
    with torch.inference_mode(), torch_threads(threads):
        gain = decoding_gain(model, packets)  # before anything is queued, which a copy to the GPU would wait for
        decoded = decode_packets(frozen_of(model), packets, restore=restore, **options)
        y = decoded.reconstruct(model)
        at_once = len(packets) if len(packets) * H * W <= TILE_PIXELS else 1
        for k in range(0, len(packets), at_once):
            part = slice(k, k + at_once)
            for rows, columns, pixels in render(model, y[part], packets[part], gain=gain[part]):
                out[part, :, rows, columns] = pixels.float().mul_(255).round_().to(torch.uint8)
    return decoded, out


def _failures(decoded: DecodedLatents | None) -> list[tuple[int, Exception]]:
    """Place in the batch and error of each damaged picture."""
    if decoded is None or decoded.status is None:
        return []
    try:
        decoded.check()
    except BitstreamError:
        pass
    else:
        return []
    found = []
    for k in range(len(decoded.status[0])):
        try:
            decoded.frozen.check(tuple(status[k : k + 1] for status in decoded.status))
        except BitstreamError as error:
            found.append((k, _alone(error)))
    return found


def _alone(error: BitstreamError) -> BitstreamError:
    """The error of a picture by itself, without its place in a batch of one."""
    return type(error)(str(error).removeprefix("image 0: "))
