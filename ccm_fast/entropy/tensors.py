"""Argument checks and conversions between byte streams, NumPy planes and tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ccm_fast import _backend
from ccm_fast.entropy import reference
from ccm_fast.errors import BuildError, DamagedError, TruncatedError
from ccm_fast.stream.packet import VERSIONS, Stream, lanes_of

__all__ = ["ENGINES", "DeviceStreams", "QueuedLatents"]

#: "cpu": the native engine; "cuda": its kernels on a GPU; "reference": the oracle in NumPy, slow.
ENGINES = ("cpu", "cuda", "reference")

# csrc/base/status.h
_FINE, _TRUNCATED, _DAMAGED = 0, 1, 2


@dataclass(frozen=True)
class DeviceStreams:
    """The streams of a batch on a GPU, from :meth:`FrozenEntropyModel.upload` or ``encode_queued``.

    Attributes:
        z_data: uint8, all bytes of z.
        z_segments: int64 [B, 3]: offset, length and code of each stream.
        y_data: uint8, all bytes of y.
        y_segments: int64 [B, G, 3].
    """

    z_data: Tensor
    z_segments: Tensor
    y_data: Tensor
    y_segments: Tensor

    def fill(self, z_streams: Sequence[tuple[bytes, int]], y_streams: Sequence[Sequence[Stream]]) -> None:
        """Put the streams of as many other images of the same size in the place of these.

        Raises:
            ValueError: another number of them, or more bytes than there is room for (``capacity`` of upload).
        """
        images, groups = self.y_segments.shape[:2]
        if {len(z_streams), len(y_streams)} != {images} or any(len(s) != groups for s in y_streams):
            raise ValueError(f"one stream for each of {groups} groups and {images} images is needed, as before")
        for streams, data, segments in (
            ([[s] for s in z_streams], self.z_data, self.z_segments),
            (y_streams, self.y_data, self.y_segments),
        ):
            new, parts = joined(streams, torch.device("cpu"))
            if new.numel() > data.numel():
                raise ValueError(f"{new.numel()} bytes of streams, and there is room for {data.numel()}")
            data[: new.numel()].copy_(new)
            segments.copy_(parts.reshape(segments.shape))


class QueuedLatents(NamedTuple):
    """What :meth:`FrozenEntropyModel.decode_queued` has asked a GPU for.

    Attributes:
        psi: uint8 [B, h, w, P].
        y_hat: int16 [B, h, w, M].
        restored: what the symbols stand for, float32 [B, h, w, M], if it was wanted; else None.
        status: of z and of y, int32 [B] each: nothing is known of the rest before
            :meth:`FrozenEntropyModel.check` has accepted them.
    """

    psi: Tensor
    y_hat: Tensor
    restored: Tensor | None
    status: tuple[Tensor, Tensor]


def native(engine: str) -> bool:
    """Whether the engine is C++ or CUDA rather than the oracle. Raises ValueError for an unknown one."""
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}, not {engine!r}")
    return engine != "reference"


def device_for(engine: str, device: torch.device | str | None = None) -> torch.device:
    """Where an engine's tensors have to be."""
    if engine != "cuda":
        return torch.device("cpu")
    device = torch.device("cuda" if device is None or torch.device(device).type != "cuda" else device)
    if not _backend.has_cuda():
        raise BuildError(
            "this build of ccm_fast has no CUDA kernels: install the CUDA toolkit (nvcc), build again with CCM_CUDA=1"
        )
    if not torch.cuda.is_available():
        raise ValueError("no CUDA device is available to torch: use the engine 'cpu'")
    return device


def threads_for(threads: int | None) -> int:
    """The number of threads; None: torch's."""
    return torch.get_num_threads() if threads is None else int(threads)


def plane(t: Tensor, dtype: torch.dtype, channels: int, name: str, engine: str) -> Tensor:
    """``t`` [B, rows, columns, channels], contiguous and where the engine wants it. Raises TypeError, ValueError."""
    if t.ndim != 4 or t.shape[3] != channels or 0 in t.shape:
        raise ValueError(f"{name} must have the shape [B, rows, columns, {channels}], not {list(t.shape)}")
    if t.dtype != dtype:
        raise TypeError(f"{name} must be of {dtype}, not {t.dtype}")
    return t.to(device_for(engine, t.device)).contiguous()


def latents(t: Tensor, channels: int, name: str, engine: str) -> Tensor:
    """An int16 :func:`plane`."""
    return plane(t, torch.int16, channels, name, engine)


def features(t: Tensor, channels: int, engine: str) -> Tensor:
    """psi, a uint8 :func:`plane`."""
    return plane(t, torch.uint8, channels, "psi", engine)


def in_256ths(y: Tensor, channels: int, engine: str) -> Tensor:
    """Latents for a residual encoder, int32 in 1/256."""
    if y.is_floating_point():
        y = plane(y.to(torch.float64), torch.float64, channels, "y", engine) * 256
        if not bool(torch.isfinite(y).all()):
            raise ValueError("y holds infinities or NaNs, which cannot be coded")
        y = y.add_(0.5).floor_().clamp_(-(2**31) + 1, 2**31 - 1).to(torch.int32)
    y = plane(y, torch.int32, channels, "y", engine)
    most = max(int(y.max()), -int(y.min()))
    if most > reference.RESIDUAL_MAX:
        limit = reference.RESIDUAL_MAX / 256
        raise ValueError(f"y holds a value of magnitude {most / 256}, beyond {limit}, the most that can be coded")
    return y


def check_pair(psi: Tensor, y: Tensor, name: str) -> None:
    """Raises ValueError unless both have the same batch, rows and columns."""
    if psi.shape[:3] != y.shape[:3]:
        raise ValueError(f"psi {list(psi.shape)} and {name} {list(y.shape)} do not belong together")


def check_lanes(lanes: int, version: int) -> None:
    """Raises ValueError unless it is 0 or a number of lanes that streams of this version may have."""
    if version not in (1, 2):
        raise ValueError(f"streams are of version 1 or 2, not {version}")
    known = lanes_of(version)
    if lanes not in (0, *known):
        raise ValueError(f"lanes must be 0 (automatic) or one of {known}, not {lanes}")


def codable(t: Tensor, lanes: int, version: int, name: str) -> Tensor:
    """``t`` itself, int16. Raises ValueError for a latent or a number of lanes that the format cannot carry."""
    check_lanes(lanes, version)
    if int(t.min()) == -32768:
        raise ValueError(f"{name} holds -32768, which the format cannot carry")
    return t


def wide(psi: Tensor) -> np.ndarray:
    """psi as the oracle reads it, int64."""
    return psi.numpy().astype(np.int64)


def stacked(planes: list[np.ndarray], dtype: torch.dtype) -> Tensor:
    """A batch of the oracle's planes."""
    return torch.from_numpy(np.stack(planes)).to(dtype)


def packed(streams: Sequence[Sequence[Stream]], capacity: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Data uint8, at least ``capacity`` bytes, and segments int64 [B, streams, 3] (offset, length, code)."""
    parts, rows, at = [], [], 0
    for image in streams:
        for stream in image:
            data, code = stream
            lanes, version = Stream(*stream).lanes, Stream(*stream).version
            if version not in VERSIONS or lanes not in lanes_of(version):
                raise DamagedError(f"a stream of version {version} cannot have {lanes} lanes")
            parts.append(data)
            rows.append((at, len(data), code))
            at += len(data)
    joined = bytearray(b"".join(parts))
    joined.extend(bytes(max(0, max(1, capacity) - at)))
    return np.frombuffer(joined, np.uint8), np.array(rows, np.int64).reshape(len(streams), -1, 3)


def joined(streams: Sequence[Sequence[Stream]], device: torch.device) -> tuple[Tensor, Tensor]:
    """What :func:`packed` gives, on a device."""
    data, segments = packed(streams)
    if device.type == "cpu":
        return torch.from_numpy(data), torch.from_numpy(segments)
    data, segments = uploaded([data, segments], device)
    return data, segments


def uploaded(arrays: Sequence[np.ndarray], device: torch.device) -> list[Tensor]:
    """Arrays on a device, by one copy for which nobody waits: parts of one buffer, each at a multiple of 256 bytes."""
    places, size = [], 0
    for array in arrays:
        places.append(slice(size, size + array.nbytes))
        size += -(-array.nbytes // 256) * 256
    buffer = torch.zeros(size, dtype=torch.uint8, pin_memory=device.type == "cuda")
    for array, place in zip(arrays, places, strict=True):
        buffer.numpy()[place].view(array.dtype).reshape(array.shape)[...] = array
    there = buffer.to(device, non_blocking=True)
    kinds = [torch.from_numpy(np.empty(0, array.dtype)).dtype for array in arrays]
    views = [there[place].view(kind) for place, kind in zip(places, kinds, strict=True)]
    return [view.reshape(array.shape) for view, array in zip(views, arrays, strict=True)]


def split(data: Tensor, segments: Tensor) -> list[list[Stream]]:
    """The streams of every image: the inverse of :func:`joined`."""
    raw = memoryview(data.cpu().numpy())
    return [
        [Stream(bytes(raw[at : at + size]), code) for at, size, code in image]
        for image in segments.reshape(segments.shape[0], -1, 3).tolist()
    ]


def raise_for(status: Tensor, name: str) -> None:
    """Raises TruncatedError, DamagedError for the first image whose status, int32 [B], says so."""
    for k, code in enumerate(status.tolist()):
        if code == _TRUNCATED:
            raise TruncatedError(f"image {k}: a stream of {name} ends before its last symbol")
        if code != _FINE:
            raise DamagedError(f"image {k}: a stream of {name} is damaged")


def each(items: Sequence, name: str, decode) -> list[np.ndarray]:
    """``decode`` of every item; errors say which image they are about."""
    out = []
    for k, item in enumerate(items):
        try:
            out.append(decode(item))
        except (TruncatedError, DamagedError) as error:
            raise type(error)(f"image {k}: a stream of {name}: {error}") from error
    return out
