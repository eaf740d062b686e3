"""Images to strings and back: the transforms in torch, the entropy path in integers.

    x -- g_a --> y -- round --> y_hat --+--> rANS (encode_y) --> y string
                 |                      |
                 h_a -- round --> z_hat + h_s (integers) --> psi
                                  '--> rANS (encode_z) --> z string

Nothing float lies between the strings and y_hat (FORMAT.md), so the float half may run anywhere and in any precision.
Files are in :mod:`ccm_fast.files`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ._backend import has_cuda
from .effort import better_symbols, level_for
from .errors import DamagedError, EncodeError, NotFrozenError, WrongModelError
from .stream.limits import MAX_PIXELS, MAX_SIDE
from .stream.packet import Packet, parse_strings, peek
from .tiles import STRIDE, TILE_PIXELS, analyse, synthesize

if TYPE_CHECKING:
    from .integer.frozen import FrozenEntropyModel
    from .models import CrossChannelContextModel

__all__ = [
    "DecodedLatents",
    "compress",
    "decode_latents",
    "decode_packets",
    "decompress",
    "encode_packets",
    "parse_packets",
    "quality_code",
    "render",
]

SYMBOL_MAX = 32767  # y_hat and z_hat are 16-bit numbers other than -32768


def quality_code(quality: float) -> int:
    """Quality 1..8 as files store it, in 1/32 steps. Raises ValueError outside 1..8."""
    quality = float(quality)
    if not 1.0 <= quality <= 8.0:  # NaN too
        raise ValueError(f"quality must lie in 1..8, not {quality:g}")
    return round(32 * (quality - 1))


def frozen_of(model: CrossChannelContextModel) -> FrozenEntropyModel:
    """The model's integer entropy model. Raises NotFrozenError if there is none."""
    if getattr(model, "frozen", None) is None:
        raise NotFrozenError(
            "the model has no integer entropy model: call ccm_fast.freeze(model, images) first (for nets of CompressAI:"
            " ccm_fast.accelerate(net)), or take a frozen one from ccm_fast.load(name)"
        )
    return model.frozen


def accelerated(model):
    """What :func:`ccm_fast.accelerate` made of a net of CompressAI, or None for models of our own."""
    return getattr(model, "accelerated", None)


@contextmanager
def stage(timings: dict | None, name: str) -> Iterator[None]:
    """Add the seconds of the body to ``timings[name]``."""
    start = time.perf_counter()
    yield
    if timings is not None:
        timings[name] = timings.get(name, 0.0) + time.perf_counter() - start


@contextmanager
def torch_threads(threads: int | None) -> Iterator[int]:
    """Run torch with so many threads (None: as it is set); yields the number. torch's setting is global."""
    before = torch.get_num_threads()
    if threads is None:
        yield before
        return
    if threads < 1:
        raise ValueError(f"threads must be at least 1, not {threads}")
    torch.set_num_threads(threads)
    try:
        yield threads
    finally:
        torch.set_num_threads(before)


# ---------------------------------------------------------------------------------------------------------------------
# Encoding


def _symbols(latents: Tensor, name: str) -> Tensor:
    """Rounded latents [B, C, h, w] as symbols, int16 [B, h, w, C] on the CPU."""
    symbols = torch.round(latents).permute(0, 2, 3, 1).to("cpu")
    # Written so that NaN does not pass.
    if not bool((symbols.abs() <= SYMBOL_MAX).all()):
        raise EncodeError(f"{name} leaves the range of 16-bit symbols: this model cannot code this image")
    return symbols.to(torch.int16).contiguous()


def engine_for(engine: str | None, device: torch.device) -> str:
    """The entropy engine for a model on ``device``: None becomes "cuda" if that is a GPU and the build has it."""
    return engine or ("cuda" if device.type == "cuda" and has_cuda() else "cpu")


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
    progress: Callable[[int, int], None] | None = None,
    timings: dict | None = None,
    tile_pixels: int = TILE_PIXELS,
) -> list[Packet]:
    """Encode a batch of equally large images that are read piece by piece.

    Args:
        model: a frozen model.
        read: returns the pixels, float [B, 3, rows, columns] in [0, 1], of two slices. They reach up to 15 pixels
            beyond the image, where edge pixels are to be repeated.
        size: (H, W), pixels.
        codes: B quality codes, see :func:`quality_code`.
        grey: mark the images as grey.
        lanes: rANS lanes per stream (1, 2, 4, 8, 16, 32); 0 chooses them by the payload's size. 32 decode fastest on
            GPUs, and cost up to 5 bytes each and stream (docs/cuda.md).
        threads: of torch and of the entropy coder; None: torch's setting.
        engine: "cpu", "cuda" or "reference"; None: as :func:`engine_for` says.
        effort: 1 to 9, see :func:`compress`.
        progress: called with (steps done, steps in all) by efforts that take steps, 3 and above.
        timings: if given, seconds are added to its keys ``g_a``, ``h_a``, ``h_s``, ``effort`` and ``entropy`` (context
            and rANS).
        tile_pixels: larger batches and images are transformed in pieces of so many pixels.

    Raises:
        NotFrozenError: the model is not frozen.
        EncodeError: latents that are not finite or leave 16 bits.
        ValueError: sides above 2^20 pixels, a wrong lane count, an effort that this model does not have.
    """
    frozen = frozen_of(model)
    level = level_for(model, effort, size[0] * size[1])
    (H, W), (h, w) = size, (-(-s // STRIDE) for s in size)
    if max(size) > MAX_SIDE:
        raise ValueError(f"image of {W}x{H} pixels: sides are at most {MAX_SIDE}")
    weight = next(model.parameters())
    quality = torch.tensor([1 + c / 32 for c in codes], device=weight.device)
    engine = engine_for(engine, weight.device)
    with torch.inference_mode(), torch_threads(threads) as count:
        with stage(timings, "g_a"):
            y = analyse(model.g_a, lambda i, j: read(i, j).to(weight), h, w, tile_pixels // len(codes))
            y = y * model.gain(quality)
            y_hat = _symbols(y, "y")
        with stage(timings, "h_a"):
            z = model.h_a(y)
            z_hat = _symbols(z, "z")
        with stage(timings, "h_s"):
            psi = frozen.hyper(z_hat, h, w, threads=count, engine=engine)
        if level.rounding:
            with stage(timings, "effort"):
                options = {"grey": grey, "engine": engine, "threads": count, "progress": progress}
                options |= {"read": read, "size": size, "tile_pixels": max(1, tile_pixels // len(codes))}
                y_hat, z_hat, psi = better_symbols(model, y, z, z_hat, psi, quality, level, **options)
        del y, z
        with stage(timings, "entropy"):
            z_streams = frozen.encode_z(z_hat, lanes=lanes, threads=count, engine=engine)
            y_streams = frozen.encode_y(psi, y_hat, lanes=lanes, threads=count, engine=engine)
    return [
        Packet(
            W,
            H,
            code,
            frozen.fingerprint,
            grey,
            (z.lanes, *(s.lanes for s in groups)),
            (z.data, *(s.data for s in groups)),
        )
        for code, z, groups in zip(codes, z_streams, y_streams, strict=True)
    ]


def _check_images(x: Tensor) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a torch.Tensor, not {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(f"x must be of a floating-point dtype with values in [0, 1], not {x.dtype}")
    if x.ndim != 4 or x.shape[1] != 3 or 0 in x.shape:
        raise ValueError(f"x must have the shape [B, 3, H, W], none of them 0, not {list(x.shape)}")
    low, high = (float(v) for v in torch.aminmax(x.detach()))
    if not (low >= 0.0 and high <= 1.0):  # NaN too
        raise ValueError(f"x must lie in [0, 1]; its values range from {low:g} to {high:g}")


def compress(
    model: CrossChannelContextModel,
    x: Tensor,
    quality: float | Sequence[float] | Tensor = 4.0,
    *,
    lanes: int = 0,
    threads: int | None = None,
    engine: str | None = None,
    effort: int | None = None,
    timings: dict | None = None,
) -> dict:
    """Compress images to strings, by CompressAI's contract.

    Args:
        model: a frozen model, from :func:`ccm_fast.load` or after :func:`ccm_fast.freeze`; or a net of CompressAI after
            :func:`ccm_fast.accelerate`, which has one quality only and takes images beyond [0, 1] too.
        x: images, float [B, 3, H, W] in [0, 1], of any size from 1x1.
        quality: from 1 (smallest) to 8 (best), in 1/32 steps; one number, or one for each image.
        lanes: rANS lanes per stream (1, 2, 4, 8, 16, 32); 0 chooses them by the payload's size. 32 decode fastest on
            GPUs, and cost up to 5 bytes each and stream (docs/cuda.md).
        threads: of torch and of the entropy coder; None: torch's setting.
        engine: "cpu", "cuda" or "reference" (plain Python, slow): the same strings from the same latents. None: "cuda"
            if the model is on a GPU and this build has it.
        effort: what the encoder spends on smaller files and better pictures, from 1 (plain rounding) to 9 (minutes for
            a photograph); docs/effort.md has gains and times. None: 2, which takes hardly longer than 1. Efforts above
            1 are for models that were trained for squared error. Nets of CompressAI have none.
        timings: if given, seconds are added to its keys ``g_a``, ``h_a``, ``h_s``, ``effort`` and ``entropy`` (context
            and rANS).

    Returns:
        ``{"strings": [[y string of each image], [z string of each image]], "shape": (hz, wz)}``. The strings hold all
        that :func:`decompress` needs besides the model: image size and quality too.

    Raises:
        NotFrozenError: the model is not frozen.
        TypeError, ValueError: x is no such tensor, has values outside [0, 1] or NaN; quality outside 1..8; effort
            outside 1..9, or above 1 for a model that does not have it.
        EncodeError: the model makes latents of this image that cannot be coded.
    """
    if (fast := accelerated(model)) is not None:
        if effort not in (None, 1):
            raise ValueError("nets of CompressAI have no encoder effort: leave effort out")
        return fast.compress(x, lanes=lanes, threads=threads, engine=engine, timings=timings)
    frozen_of(model)
    _check_images(x)
    values = torch.as_tensor(quality, dtype=torch.float64).flatten().tolist()
    if len(values) not in (1, len(x)):
        raise ValueError(f"{len(values)} qualities for {len(x)} images")
    codes = [quality_code(q) for q in values] * (len(x) // len(values))
    H, W = x.shape[-2:]
    at_once = len(x) if x.numel() // 3 <= TILE_PIXELS else 1
    packets = []
    for k in range(0, len(x), at_once):
        part = x.detach()[k : k + at_once]

        def read(rows: slice, columns: slice, part: Tensor = part) -> Tensor:
            over = (0, max(0, columns.stop - W), 0, max(0, rows.stop - H))
            return F.pad(part[..., rows, columns], over, mode="replicate")

        options = {"lanes": lanes, "threads": threads, "engine": engine, "effort": effort, "timings": timings}
        packets += encode_packets(model, read, (H, W), codes[k : k + at_once], **options)
    y_strings, z_strings = zip(*(p.to_strings() for p in packets), strict=True)
    return {"strings": [list(y_strings), list(z_strings)], "shape": packets[0].z_shape}


# ---------------------------------------------------------------------------------------------------------------------
# Decoding


def check_fingerprint(fingerprint: bytes, frozen: FrozenEntropyModel) -> None:
    """Raises WrongModelError if a stream was not written with this model."""
    if fingerprint != frozen.fingerprint:
        raise WrongModelError(
            f"the stream was written with the model {fingerprint.hex()}; this one is {frozen.fingerprint.hex()}"
        )


def parse_packets(
    frozen: FrozenEntropyModel, strings: Sequence[Sequence[bytes]], shape, max_pixels: int | None = MAX_PIXELS
) -> list[Packet]:
    """The checked packets of ``[[y strings], [z strings]]``. Raises as :func:`decompress`."""
    if len(strings) != 2 or len(strings[0]) != len(strings[1]) or not strings[0]:
        raise ValueError("strings must be [[y string of each image], [z string of each image]]")
    packets = []
    for y, z in zip(*strings, strict=True):
        check_fingerprint(peek(y, max_pixels).fingerprint, frozen)
        packets.append(parse_strings(y, z, len(frozen.plan.groups), max_pixels))
    sizes = {(p.width, p.height) for p in packets}
    if len(sizes) > 1:
        listed = ", ".join(f"{w}x{h}" for w, h in sorted(sizes))
        raise ValueError(f"the images of a batch must be equally large, and these are {listed}: decompress them singly")
    if shape is not None and tuple(shape) != packets[0].z_shape:
        raise DamagedError(f"shape {tuple(shape)} contradicts the strings, which say {packets[0].z_shape}")
    return packets


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


@dataclass
class DecodedLatents:
    """What :func:`decode_packets` found.

    Attributes:
        frozen: the entropy model.
        y_hat: int16 [B, h, w, M], where the images are wanted.
        psi: uint8 [B, h, w, P], where the engine computes.
        engine: "cpu", "cuda" or "reference".
        parameters: offset and row of every symbol, int16 [B, h, w, M], where the engine computes; None: not known yet.
        status: on a GPU, what is to be looked at before the rest is believed.
    """

    frozen: FrozenEntropyModel
    y_hat: Tensor
    psi: Tensor
    engine: str
    parameters: tuple[Tensor, Tensor] | None = None
    status: tuple[Tensor, Tensor] | None = None

    def check(self) -> None:
        """Raises TruncatedError, DamagedError: the streams did not decode to their end. Waits for the GPU, if any."""
        if self.status is not None:
            self.frozen.check(self.status)

    def reconstruct(self, model: CrossChannelContextModel) -> Tensor:
        """What the model's g_s reads, [B, h, w, M]: y_hat, or float32 centroids."""
        if model.config.reconstruction == "integer":
            return self.y_hat
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
    timings: dict | None = None,
) -> DecodedLatents:
    """The latents of equally large images, with all that :func:`render` needs.

    Args:
        frozen: the integer entropy model.
        packets: from :func:`parse_packets`.
        threads: None: torch's setting.
        engine: "cpu", "cuda" or "reference" (plain Python, slow); None: as :func:`engine_for` says.
        device: where y_hat is wanted (engine "cuda": a GPU).
        timings: if given, seconds are added to its keys ``z``, ``h_s`` and ``entropy`` (context and rANS); on a GPU all
            three are ``entropy``, since nothing waits in between.

    Raises:
        TruncatedError, DamagedError: the streams do not decode to their end. On a GPU, unless there are timings, this
            is for :meth:`DecodedLatents.check` to say: nothing waits before it.
    """
    (hz, wz), (h, w) = packets[0].z_shape, packets[0].y_shape
    device = torch.device(device)
    engine = engine_for(engine, device)
    if engine == "cuda":
        with stage(timings, "entropy"):
            streams = frozen.upload([p.z_stream for p in packets], [p.y_streams for p in packets], device)
            psi, y_hat, status = frozen.decode_queued(streams, (h, w))
            if timings is not None:
                frozen.check(status)  # else the time would be that of queueing
        return DecodedLatents(frozen, y_hat.to(device), psi, engine, status=status)
    with torch_threads(threads) as count:
        options = {"threads": count, "engine": engine}
        with stage(timings, "z"):
            z_hat = frozen.decode_z([p.z_stream for p in packets], hz, wz, **options)
        with stage(timings, "h_s"):
            psi = frozen.hyper(z_hat, h, w, **options)
        with stage(timings, "entropy"):
            streams, parameters = [p.y_streams for p in packets], None
            if engine == "cpu" and not frozen.residual:
                y_hat, *parameters = frozen.decode_y_parameters(psi, streams, count)
            else:  # residual models restore y_hat itself, and the oracle is slow enough with what is asked for
                y_hat = frozen.decode_y(psi, streams, **options)
        return DecodedLatents(frozen, y_hat.to(device), psi, engine, parameters and tuple(parameters))


def decoding_gain(model: CrossChannelContextModel, packets: Sequence[Packet]) -> Tensor:
    """The gain vectors [B, M, 1, 1] of each image's quality, where the model is."""
    quality = [p.quality for p in packets]
    return model.inverse_gain(torch.tensor(quality, device=next(model.parameters()).device))


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
    weight = next(model.parameters())
    if gain is None:
        gain = decoding_gain(model, packets)
    grey = [k for k, p in enumerate(packets) if p.grey]
    H, W = packets[0].height, packets[0].width

    def read(rows: slice, columns: slice) -> Tensor:
        return y_hat[:, rows, columns].to(weight).permute(0, 3, 1, 2) * gain

    for rows, columns, pixels in synthesize(model.g_s, read, *y_hat.shape[1:3], tile_pixels // len(packets)):
        pixels = pixels[..., : H - rows.start, : W - columns.start].clamp(0, 1)
        for k in grey:  # a list of them as an index would be copied to the GPU
            pixels[k] = pixels[k].mean(0, keepdim=True)
        yield slice(rows.start, min(rows.stop, H)), slice(columns.start, min(columns.stop, W)), pixels


def decompress(
    model: CrossChannelContextModel,
    strings: Sequence[Sequence[bytes]],
    shape: tuple[int, int] | None = None,
    *,
    threads: int | None = None,
    engine: str | None = None,
    max_pixels: int | None = MAX_PIXELS,
    timings: dict | None = None,
) -> dict:
    """Decompress the strings of :func:`compress`; a drop-in for ``model.decompress(strings, shape)``.

    Args:
        model: the model that they were written with (its fingerprint is in the strings), or a net of CompressAI after
            :func:`ccm_fast.accelerate`.
        strings: ``[[y string of each image], [z string of each image]]``.
        shape: as returned by compress; it is also in the strings, and None leaves it to them.
        threads: of torch and of the entropy decoder; None: torch's setting.
        engine: "cpu", "cuda" or "reference" (plain Python, slow): the same latents. None: "cuda" if the model is
            on a GPU and this build has it.
        max_pixels: largest image to decode; None: no limit but the format's.
        timings: if given, seconds are added to its keys ``z``, ``h_s``, ``entropy`` (context and rANS) and
            ``g_s`` (with the centroids that it reads).

    Returns:
        ``{"x_hat": float32 [B, 3, H, W] in [0, 1]}`` in the images' own size, on the model's device.

    Raises:
        NotFrozenError: the model is not frozen.
        BitstreamError: one of its subclasses says what is wrong with the strings.
        ValueError: strings of another structure, or images of different sizes.
    """
    if (fast := accelerated(model)) is not None:
        options = {"threads": threads, "engine": engine, "max_pixels": max_pixels, "timings": timings}
        return fast.decompress(strings, shape, **options)
    frozen = frozen_of(model)
    packets = parse_packets(frozen, strings, shape, max_pixels)
    device = next(model.parameters()).device
    with torch.inference_mode():
        gain = decoding_gain(model, packets)  # before anything is queued, which a copy to the GPU would wait for
    # On a GPU the host waits once, after g_s has been queued.
    decoded = decode_packets(frozen, packets, threads=threads, engine=engine, device=device, timings=timings)
    H, W = packets[0].height, packets[0].width
    # Made outside of inference mode: what callers get is an ordinary tensor.
    x_hat = torch.empty(len(packets), 3, H, W, device=device)
    with torch.inference_mode(), torch_threads(threads), stage(timings, "g_s"):
        y = decoded.reconstruct(model)
        at_once = len(packets) if y[..., 0].numel() * STRIDE**2 <= TILE_PIXELS else 1
        for k in range(0, len(packets), at_once):
            part = slice(k, k + at_once)
            for rows, columns, pixels in render(model, y[part], packets[part], gain=gain[part]):
                x_hat[part, :, rows, columns] = pixels
    decoded.check()
    return {"x_hat": x_hat}
