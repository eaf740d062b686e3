"""What :mod:`ccm_fast.batches` does with torch: arrays as tensors, and batches on GPUs."""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor

from . import _native, queued_encoding
from .decoding import DecodedLatents, check_fingerprint, check_stream_version, decode_packets, decoding_gain, render
from .effort import level_for, tune_for
from .encoding import packets_of
from .engines import accelerated, decoding_engine, frozen_of, torch_threads
from .entropy import tensors
from .entropy.tensors import DeviceStreams
from .errors import BitstreamError, CcmFastError, EncodeError
from .filter_fitting import sends_filters, with_filter
from .images import Picture, orientation
from .models import CrossChannelContextModel
from .native import thread_count
from .picture_filter import PictureFilter, Samples, has_kernel, records_of
from .queued_encoding import QUEUE_PIXELS, QueuedImages, queue_images
from .stream.container import Container, write_container
from .stream.limits import MAX_SIDE
from .stream.packet import Packet, parse_file, peek
from .tiles import TILE_PIXELS

__all__ = ["check_place", "collected", "decode_containers", "encode_pictures", "from_arrays", "placed", "queues"]

_SIDE_STREAMS = 8


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


def placed(model: CrossChannelContextModel, device: torch.device | str | None) -> CrossChannelContextModel:
    """The model itself if it is on the device, or if that is None; else its copy there, made once."""
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
    parts: dict[tuple, _Part] = {}
    for k, file in enumerate(files):
        if isinstance(file, Exception):
            continue
        try:
            model = placed(model_for(peek(file.packet, max_pixels).fingerprint), device)
            frozen = frozen_of(model)
            packet = parse_file(file.packet, len(frozen.plan.groups), max_pixels)
            check_fingerprint(packet.fingerprint, frozen)
            check_stream_version(packet, frozen)
            filter_found = PictureFilter.of(file.chunks, packet.grey)
        except BitstreamError as error:
            found[k] = error
            continue
        part = parts.setdefault((model, packet.width, packet.height), _Part(model, [], [], []))
        part.places.append(k)
        part.packets.append(packet)
        part.filters.append(filter_found)
    for part, decoded, pixels in _queued(list(parts.values()), engine, threads):
        # The host waits here, when everything is queued.
        for i, k in enumerate(part.places):
            turn = orientation(files[k].chunks) if orient else 1
            found[k] = pixels if isinstance(pixels, Exception) else _turned(pixels[i], turn)
        for i, error in _failures(decoded):
            found[part.places[i]] = error
    return found


@dataclass
class _Part:
    """Pictures of one size and model.

    Attributes:
        model: on the device where the pixels are wanted.
        places: in the list of files.
        packets: of each.
        filters: of each, or None.
        streams: theirs, and the gains, on the GPU, where that decodes them.
        records: the filters as the GPU's kernel reads them, there, if any picture has one.
    """

    model: CrossChannelContextModel
    places: list[int]
    packets: list[Packet]
    filters: list[PictureFilter | None]
    streams: tuple[DeviceStreams, Tensor] | None = None
    records: Tensor | None = None

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device


_Queued = tuple[_Part, DecodedLatents | None, Tensor | Exception]


def _queued(parts: list[_Part], engine: str | None, threads: int | None) -> list[_Queued]:
    """Every part with its latents and pixels, or the error in place of these.

    What a GPU decodes goes to it in one copy; then sizes are queued side by side, the largest ones first. What is
    decoded by processors comes after that, so that the GPU is not kept waiting.
    """
    chosen = [decoding_engine(engine, p.device, frozen_of(p.model), p.packets, threads) for p in parts]
    on_gpu = [part for part, engine in zip(parts, chosen, strict=True) if engine == "cuda"]
    on_gpu.sort(key=lambda part: -part.packets[0].width * part.packets[0].height)
    _upload(on_gpu)
    queued: list[_Queued] = []
    for k, part in enumerate(on_gpu):
        out = _pixels(part)
        with _side_stream(part.device, k):
            queued.append((part, _queue(part, out, "cuda", threads), out))
    for part, name in zip(parts, chosen, strict=True):
        if name != "cuda":
            queued += _tried(part, name, threads)
    return queued


def _upload(parts: list[_Part]) -> None:
    """Put streams and qualities of all parts on their devices: one copy for each device."""
    for device in {part.device for part in parts}:
        here = [part for part in parts if part.device == device]
        arrays = []
        for part in here:
            z, y = [p.z_stream for p in part.packets], [p.y_streams for p in part.packets]
            arrays += frozen_of(part.model).packed_streams(z, y)
            arrays.append(np.array([p.quality for p in part.packets], np.float32))
            if any(part.filters):
                arrays.append(records_of(part.filters))
        there = iter(tensors.uploaded(arrays, tensors.device_for("cuda", device)))
        for part in here:
            z_data, z_segments, y_data, y_segments, quality = itertools.islice(there, 5)
            if any(part.filters):
                part.records = next(there).to(part.device)
            part.streams = DeviceStreams(z_data, z_segments, y_data, y_segments), quality.to(part.device)


@contextmanager
def _side_stream(device: torch.device, k: int) -> Iterator[None]:
    """Queue work beside that of other parts: decoding is a chain of short steps, which leave most of a GPU idle.

    The side stream begins after what is queued on the current one, which goes on after it. On the CPU: nothing.
    """
    if device.type != "cuda":
        yield
        return
    here, side = torch.cuda.current_stream(device), _stream(device, k % _SIDE_STREAMS)
    side.wait_stream(here)
    with torch.cuda.stream(side):
        yield
    here.wait_stream(side)


@functools.cache
def _stream(device: torch.device, k: int) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def _tried(part: _Part, engine: str, threads: int | None) -> list[_Queued]:
    """A part for an engine that raises at once: pictures one by one, if one of them is damaged."""
    try:
        out = _pixels(part)
        return [(part, _queue(part, out, engine, threads), out)]
    except BitstreamError as error:
        if len(part.places) == 1:
            return [(part, None, _alone(error))]
        each = zip(part.places, part.packets, part.filters, strict=True)
        single = [_Part(part.model, [k], [packet], [found]) for k, packet, found in each]
        return [one for part in single for one in _tried(part, engine, threads)]


def _pixels(part: _Part) -> Tensor:
    """Room for a part's pixels. Made on the caller's stream and outside of inference mode: an ordinary tensor."""
    size = part.packets[0].height, part.packets[0].width
    return torch.empty(len(part.packets), 3, *size, dtype=torch.uint8, device=part.device)


def _queue(part: _Part, out: Tensor, engine: str, threads: int | None) -> DecodedLatents:
    """Latents; the pixels come to ``out``, uint8 [B, 3, H, W]. On a GPU nothing has been waited for."""
    model, packets, device = part.model, part.packets, part.device
    restore = model.config.reconstruction == "centroid"
    with torch.inference_mode(), torch_threads(threads):
        streams, quality = part.streams or (None, None)
        gain = decoding_gain(model, packets) if quality is None else model.inverse_gain(quality)
        options: dict[str, Any] = {"threads": threads, "engine": engine, "device": device, "streams": streams}
        decoded = decode_packets(frozen_of(model), packets, restore=restore, **options)
        y = decoded.reconstruct(model)
        records = part.records
        if records is None and any(part.filters) and has_kernel(device, engine):
            records = torch.from_numpy(records_of(part.filters)).to(device)
        at_once = len(packets) if out.numel() // 3 <= TILE_PIXELS else 1
        for k in range(0, len(packets), at_once):
            some = slice(k, k + at_once)
            samples = Samples(out[some], part.filters[some], None if records is None else records[some])
            for piece in render(model, y[some], packets[some], gain=gain[some]):
                samples.add(*piece)
            samples.finish()
    return decoded


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


# ---------------------------------------------------------------------------------------------------------------------
# Encoding


def queues(model: object, effort: int | None) -> bool:
    """Whether :func:`encode_pictures` is for a model and an effort: on a GPU, without decisions of the CPU's."""
    if not isinstance(model, CrossChannelContextModel):
        return False
    return queued_encoding.queues(model, level_for(model, effort))


def encode_pictures(
    model: CrossChannelContextModel,
    pictures: list[Picture],
    codes: list[int],
    *,
    effort: int | None,
    tune: str | None,
    lanes: int,
) -> list[bytes | CcmFastError]:
    """The .ccm files of pictures by a GPU, or why there is none: those of equal size and kind together.

    All are queued before the host waits for the first.

    Args:
        model: one that :func:`queues`.
        pictures: of any sizes.
        codes: the quality code of each.
        effort: as for :func:`ccm_fast.encode_file`.
        tune: likewise.
        lanes: likewise.
    """
    frozen = frozen_of(model)
    options: dict[str, Any] = {"tune": tune_for(model, tune), "lanes": lanes, "level": level_for(model, effort)}
    options["filtered"] = sends_filters(model, effort, tune)
    found: list = [None] * len(pictures)
    queued: list[tuple[list[int], QueuedImages]] = []
    for places in _alike(pictures):
        size = pictures[places[0]].size
        if max(size) > MAX_SIDE:
            raise ValueError(f"image of {size[1]}x{size[0]} pixels: sides are at most {MAX_SIDE}")
        queued.append((places, _queue_alike(model, [pictures[k] for k in places], [codes[k] for k in places], options)))
    for places, images in queued:
        each = images.each()
        filters = [b""] * len(places)
        if images.sums is not None:
            own = [codes[k] for k in places]
            filters = _native.fit_filters(images.sums.cpu().numpy(), own, thread_count(None))
        for k, one, chunk in zip(places, each, filters, strict=True):
            if isinstance(one, EncodeError):
                found[k] = one
                continue
            picture = pictures[k]
            (packet,) = packets_of(frozen, picture.size, [codes[k]], [one[0]], [one[1]], picture.grey)
            found[k] = write_container(packet.to_file(), with_filter(picture.chunks, chunk))
    return found


def _alike(pictures: list[Picture]) -> list[list[int]]:
    """Places of pictures that are encoded together, of one size, depth and number of colours."""
    kinds: dict[tuple, list[int]] = {}
    for k, picture in enumerate(pictures):
        kinds.setdefault((picture.size, picture.pixels.dtype, picture.grey), []).append(k)
    parts = []
    for (size, *_), places in kinds.items():
        at_once = max(1, QUEUE_PIXELS // (size[0] * size[1]))
        parts += [places[k : k + at_once] for k in range(0, len(places), at_once)]
    return parts


def _queue_alike(
    model: CrossChannelContextModel, pictures: list[Picture], codes: list[int], options: dict[str, Any]
) -> QueuedImages:
    """Pictures of one size, depth and number of colours: one copy to the device, then :func:`queue_images`."""
    device, grey = next(model.parameters()).device, pictures[0].grey
    together = np.stack([picture.pixels for picture in pictures])
    depth = np.iinfo(together.dtype).max
    quality = np.array([1 + code / 32 for code in codes], np.float32)
    # What a level is as a float is looked up: a GPU's quotients are other ones.
    values = np.arange(depth + 1, dtype=np.float32) / np.float32(depth)
    signed = together.view(np.int16) if depth > 255 else together
    levels, quality, values = tensors.uploaded([signed, quality, values], tensors.device_for("cuda", device))
    levels = levels[..., None].expand(-1, -1, -1, 3) if grey else levels
    levels = levels.permute(0, 3, 1, 2)
    H, W = pictures[0].size

    def read(rows: slice, columns: slice) -> Tensor:
        part = values[levels[..., rows, columns].int() & depth]
        over = (0, max(0, columns.stop - W), 0, max(0, rows.stop - H))
        return functional.pad(part, over, mode="replicate") if any(over) else part

    tile_pixels = max(1, QUEUE_PIXELS // len(pictures))
    return queue_images(model, read, (H, W), quality, grey=grey, tile_pixels=tile_pixels, **options)
