"""From packets to pixels: the latents, in integers, and what g_s makes of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .engines import decoding_engine, stage, torch_threads
from .errors import DamagedError, WrongModelError
from .stream.limits import MAX_PIXELS
from .stream.packet import Packet, parse_strings, peek
from .tiles import TILE_PIXELS, pixels_of

if TYPE_CHECKING:
    from ccm_fast.entropy.frozen import FrozenEntropyModel
    from ccm_fast.entropy.tensors import DeviceStreams

    from .models import CrossChannelContextModel

__all__ = [
    "DecodedLatents",
    "check_fingerprint",
    "check_stream_version",
    "check_structure",
    "decode_latents",
    "decode_packets",
    "decoding_gain",
    "parse_packets",
    "render",
]


def check_fingerprint(fingerprint: bytes, frozen: FrozenEntropyModel) -> None:
    """Raises WrongModelError if a stream was not written with this model."""
    if fingerprint != frozen.fingerprint:
        raise WrongModelError(
            f"the stream was written with the model {fingerprint.hex()}; this one is {frozen.fingerprint.hex()}"
        )


def check_stream_version(packet: Packet, frozen: FrozenEntropyModel) -> None:
    """Raises DamagedError for streams of a version that this model never had."""
    if packet.version < frozen.stream_version:
        raise DamagedError(f"streams of version {packet.version} cannot be of the model {frozen.fingerprint.hex()}")


def check_structure(strings, parts: int = 2) -> None:
    """Raises ValueError, TypeError unless these are ``parts`` equally long lists of bytes."""
    good = isinstance(strings, (list, tuple)) and len(strings) == parts
    good = good and all(isinstance(s, (list, tuple)) for s in strings)
    if not good or len({len(part) for part in strings}) != 1 or not strings[0]:
        raise ValueError("strings must be [[y string of each image], [z string of each image]]")
    if not all(isinstance(s, (bytes, bytearray, memoryview)) for part in strings for s in part):
        raise TypeError("strings must be bytes")


def parse_packets(
    frozen: FrozenEntropyModel, strings: Sequence[Sequence[bytes]], shape, max_pixels: int | None = MAX_PIXELS
) -> list[Packet]:
    """The checked packets of ``[[y strings], [z strings]]``. Raises as :func:`decompress`."""
    check_structure(strings)
    packets = []
    for y, z in zip(*strings, strict=True):
        check_fingerprint(peek(y, max_pixels).fingerprint, frozen)
        packets.append(parse_strings(y, z, len(frozen.plan.groups), max_pixels))
        check_stream_version(packets[-1], frozen)
    sizes = {(p.width, p.height) for p in packets}
    if len(sizes) > 1:
        listed = ", ".join(f"{w}x{h}" for w, h in sorted(sizes))
        raise ValueError(f"the images of a batch must be equally large, and these are {listed}: decompress them singly")
    if shape is not None and not (isinstance(shape, Iterable) and tuple(shape) == packets[0].z_shape):
        raise DamagedError(f"shape {shape} contradicts the strings, which say {packets[0].z_shape}")
    return packets


@dataclass
class DecodedLatents:
    """What :func:`decode_packets` found.

    Attributes:
        frozen: the entropy model.
        y_hat: int16 [B, h, w, M], where the images are wanted.
        psi: uint8 [B, h, w, P], where the engine computes.
        engine: "cpu", "cuda" or "reference".
        parameters: offset and row of every symbol, int16 [B, h, w, M], where the engine computes; None: not known yet.
        restored: what symbols stand for, float32 [B, h, w, M], where y_hat is; None: not known yet.
        status: on a GPU, what is to be looked at before the rest is believed.
    """

    frozen: FrozenEntropyModel
    y_hat: Tensor
    psi: Tensor
    engine: str
    parameters: tuple[Tensor, Tensor] | None = None
    restored: Tensor | None = None
    status: tuple[Tensor, Tensor] | None = None

    def check(self) -> None:
        """Raises TruncatedError, DamagedError: the streams did not decode to their end. Waits for the GPU, if any."""
        if self.status is not None:
            self.frozen.check(self.status)

    def reconstruct(self, model: CrossChannelContextModel) -> Tensor:
        """What the model's g_s reads, [B, h, w, M]: y_hat, or float32 centroids."""
        if model.config.reconstruction == "integer":
            return self.y_hat
        if self.restored is not None:
            return self.restored
        if self.parameters is None:
            y_hat = self.y_hat.to(self.psi.device)
            self.parameters = self.frozen.parameters(self.psi, y_hat, engine=self.engine)
        return self.frozen.centroids(self.y_hat, *(p.to(self.y_hat.device) for p in self.parameters))


def decode_packets(
    frozen: FrozenEntropyModel,
    packets: Sequence[Packet],
    *,
    threads: int | None = None,
    engine: str | None = None,
    device: torch.device | str = "cpu",
    timings: dict[str, float] | None = None,
    restore: bool = False,
    streams: DeviceStreams | None = None,
) -> DecodedLatents:
    """The latents of equally large images, with all that :func:`render` needs.

    Args:
        frozen: the integer entropy model.
        packets: from :func:`parse_packets`.
        threads: None: torch's setting.
        engine: "cpu", "cuda" or "reference" (plain Python, slow); None: as :func:`decoding_engine` says.
        device: where y_hat is wanted (engine "cuda": a GPU).
        timings: if given, seconds are added to its keys ``z``, ``h_s`` and ``entropy`` (context and rANS); on a GPU all
            three are ``entropy``, since nothing waits in between.
        restore: whether g_s will read what symbols stand for (``reconstruction="centroid"``): decoders in C++
            and CUDA then compute it on the way.
        streams: engine "cuda": those of the packets, where they are on the device already.

    Raises:
        TruncatedError, DamagedError: the streams do not decode to their end. On a GPU, unless there are timings, this
            is for :meth:`DecodedLatents.check` to say: nothing waits before it.
    """
    (hz, wz), (h, w) = packets[0].z_shape, packets[0].y_shape
    device = torch.device(device)
    engine = decoding_engine(engine, device, frozen, packets, threads)
    if engine == "cuda":
        with stage(timings, "entropy"):
            if streams is None:
                streams = frozen.upload([p.z_stream for p in packets], [p.y_streams for p in packets], device)
            found = frozen.decode_queued(streams, (h, w), restore=restore)
            if timings is not None:
                frozen.check(found.status)  # else the time would be that of queueing
        restored = None if found.restored is None else found.restored.to(device)
        return DecodedLatents(frozen, found.y_hat.to(device), found.psi, engine, restored=restored, status=found.status)
    with torch_threads(threads) as count:
        options: dict[str, Any] = {"threads": count, "engine": engine}
        with stage(timings, "z"):
            z_hat = frozen.decode_z([p.z_stream for p in packets], hz, wz, **options)
        with stage(timings, "h_s"):
            psi = frozen.hyper(z_hat, h, w, **options)
        with stage(timings, "entropy"):
            coded, parameters, restored = [p.y_streams for p in packets], None, None
            if engine == "cpu" and restore:
                y_hat, restored = frozen.decode_y_restored(psi, coded, count)
                restored = restored.to(device)
            elif engine == "cpu" and not frozen.residual:
                y_hat, *parameters = frozen.decode_y_parameters(psi, coded, count)
            else:  # residual models restore y_hat itself, and the oracle is slow enough with what is asked for
                y_hat = frozen.decode_y(psi, coded, **options)
        return DecodedLatents(frozen, y_hat.to(device), psi, engine, parameters and tuple(parameters), restored)


def decode_latents(frozen: FrozenEntropyModel, packets: Sequence[Packet], **options) -> Tensor:
    """y_hat, int16 [B, h, w, M], of equally large images: the same numbers on every machine.

    Args:
        frozen: the integer entropy model.
        packets: from :func:`parse_packets`.
        options: ``threads``, ``engine``, ``device`` and ``timings`` of :func:`decode_packets`.

    Raises:
        TruncatedError, DamagedError: the streams do not decode to their end.
    """
    decoded = decode_packets(frozen, packets, **options)
    decoded.check()
    return decoded.y_hat


def decoding_gain(model: CrossChannelContextModel, packets: Sequence[Packet]) -> Tensor:
    """The gain vectors [B, M, 1, 1] of each image's quality, where the model is."""
    quality = [p.quality for p in packets]
    return model.inverse_gain(torch.tensor(quality, dtype=torch.float32, device=next(model.parameters()).device))


def render(
    model: CrossChannelContextModel,
    y_hat: Tensor,
    packets: Sequence[Packet],
    tile_pixels: int = TILE_PIXELS,
    gain: Tensor | None = None,
) -> Iterator[tuple[slice, slice, Tensor]]:
    """The images of y_hat, in pieces: yields (rows, columns, float [B, 3, rows, columns] in [0, 1]).

    Given ``gain``, nothing here waits for a GPU or copies to it: it can be captured in a CUDA graph.

    Args:
        model: for its synthesis transform and gains.
        y_hat: [B, h, w, M], from :meth:`DecodedLatents.reconstruct`.
        packets: size, quality and grey flag of each image.
        tile_pixels: larger images are transformed in tiles of so many pixels.
        gain: from :func:`decoding_gain`; None: computed here.
    """
    if gain is None:
        gain = decoding_gain(model, packets)
    grey = [k for k, p in enumerate(packets) if p.grey]
    yield from pixels_of(model.g_s, y_hat, (packets[0].height, packets[0].width), grey, gain, tile_pixels)
