"""Images to strings and back: the two functions that users call.

Nothing float lies between the strings and y_hat (FORMAT.md), so the float half may run anywhere and in any precision.
The two directions are in :mod:`ccm_fast.encoding` and :mod:`ccm_fast.decoding`, files in :mod:`ccm_fast.files`.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .decoding import decode_packets, decoding_gain, parse_packets, render
from .eager import eager
from .effort import level_for
from .encoding import check_images, encode_packets, encode_queued, strings_of
from .engines import accelerated, frozen_of, on_cpu_by_default, stage, torch_threads
from .queued_encoding import QUEUE_PIXELS, queues
from .stream.limits import MAX_PIXELS, MAX_SIDE
from .stream.quality import quality_code
from .tiles import STRIDE, TILE_PIXELS

if TYPE_CHECKING:
    from .models import CrossChannelContextModel

__all__ = ["compress", "decompress"]


def _check_range(x: Tensor) -> None:
    low, high = (float(v) for v in torch.aminmax(x.detach()))
    if not (low >= 0.0 and high <= 1.0):  # NaN too
        raise ValueError(f"x must lie in [0, 1]; its values range from {low:g} to {high:g}")


@eager
@on_cpu_by_default
def compress(
    model: CrossChannelContextModel,
    x: Tensor,
    quality: float | Sequence[float] | Tensor = 4.0,
    *,
    lanes: int = 0,
    threads: int | None = None,
    engine: str | None = None,
    effort: int | None = None,
    tune: str | None = None,
    timings: dict[str, float] | None = None,
) -> dict[str, Any]:
    """Compress images to strings, by CompressAI's contract.

    Args:
        model: a frozen model, from :func:`ccm_fast.load` or after :func:`ccm_fast.freeze`; or a net of CompressAI after
            :func:`ccm_fast.accelerate`, which has one quality only and takes images beyond [0, 1] too.
        x: images, float [B, 3, H, W] in [0, 1], of any size from 1x1.
        quality: from 1 (smallest) to 8 (best), in 1/32 steps; one number, or one for each image.
        lanes: rANS lanes per stream (1, 2, 4, 8, 16, 32, 64, 128; the engine "cuda" up to 32); 0 chooses them by the
            payload. Many decode fastest on GPUs, and cost about 2 bytes each and stream (docs/cuda.md).
        threads: of torch and of the entropy coder; None: torch's setting.
        engine: "cpu", "cuda" or "reference" (plain Python, slow): the same strings from the same latents. None: "cuda"
            if the model is on a GPU and this build has it.
        effort: what the encoder spends on smaller files and better pictures, from 1 (plain rounding) to 9 (minutes for
            a photograph); docs/effort.md has gains and times. None: 3, or 1 for models that
            were trained for MS-SSIM. Nets of CompressAI have none.
        tune: what the effort is spent on: "psnr", or "ms-ssim": errors count by how well the picture around hides them.
            None: what the model was trained for; models for MS-SSIM take nothing else. Effort 1 looks at no errors.
        timings: if given, seconds are added to its keys ``g_a``, ``h_a``, ``h_s``, ``effort`` and ``entropy`` (context
            and rANS).

    Returns:
        ``{"strings": [[y string of each image], [z string of each image]], "shape": (hz, wz)}``. The strings hold all
        that :func:`decompress` needs besides the model: image size and quality too.

    Raises:
        NotFrozenError: the model is not frozen.
        TypeError, ValueError: x is no such tensor, has values outside [0, 1] or NaN; quality outside 1..8; effort
            outside 1..9; another tune, or one that the model does not have.
        EncodeError: the model makes latents of this image that cannot be coded.
    """
    if (fast := accelerated(model)) is not None:
        if effort not in (None, 1) or tune is not None:
            raise ValueError("nets of CompressAI have no encoder effort: leave effort and tune out")
        written: dict[str, Any] = fast.compress(x, lanes=lanes, threads=threads, engine=engine, timings=timings)
        return written
    frozen_of(model)
    check_images(x)
    _check_range(x)
    try:
        values = torch.as_tensor(quality, dtype=torch.float64, device="cpu").flatten().tolist()
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"quality must be a number, or one for each image, not {quality!r}") from None
    if len(values) not in (1, len(x)):
        raise ValueError(f"{len(values)} qualities for {len(x)} images")
    try:
        lanes = operator.index(lanes)
    except TypeError:
        raise TypeError(f"lanes must be a whole number, not {lanes!r}") from None
    codes = [quality_code(q) for q in values] * (len(x) // len(values))
    H, W = x.shape[-2:]
    level = level_for(model, effort)
    queued = queues(model, level, engine) and max(H, W) <= MAX_SIDE
    at_once = len(x) if x.numel() // 3 <= TILE_PIXELS else max(1, QUEUE_PIXELS // (H * W)) if queued else 1
    parts = []
    for k in range(0, len(x), at_once):
        part = x.detach()[k : k + at_once]

        def read(rows: slice, columns: slice, part: Tensor = part) -> Tensor:
            over = (0, max(0, columns.stop - W), 0, max(0, rows.stop - H))
            return F.pad(part[..., rows, columns], over, mode="replicate")

        parts.append((read, codes[k : k + at_once]))
    options: dict[str, Any] = {"lanes": lanes, "tune": tune, "timings": timings}
    if queued:
        return strings_of(encode_queued(model, parts, (H, W), level, **options))
    options |= {"threads": threads, "engine": engine, "effort": effort}
    return strings_of([p for read, c in parts for p in encode_packets(model, read, (H, W), c, **options)])


@eager
@on_cpu_by_default
def decompress(
    model: CrossChannelContextModel,
    strings: Sequence[Sequence[bytes]],
    shape: tuple[int, int] | None = None,
    *,
    threads: int | None = None,
    engine: str | None = None,
    max_pixels: int | None = MAX_PIXELS,
    timings: dict[str, float] | None = None,
) -> dict[str, Any]:
    """Decompress the strings of :func:`compress`; the contract of CompressAI's ``decompress``.

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
    options: dict[str, Any]
    if (fast := accelerated(model)) is not None:
        options = {"threads": threads, "engine": engine, "max_pixels": max_pixels, "timings": timings}
        read: dict[str, Any] = fast.decompress(strings, shape, **options)
        return read
    frozen = frozen_of(model)
    packets = parse_packets(frozen, strings, shape, max_pixels)
    device = next(model.parameters()).device
    with torch.inference_mode():
        gain = decoding_gain(model, packets)  # before anything is queued, which a copy to the GPU would wait for
    # On a GPU the host waits once, after g_s has been queued.
    options = {"threads": threads, "engine": engine, "device": device, "timings": timings}
    decoded = decode_packets(frozen, packets, restore=model.config.reconstruction == "centroid", **options)
    H, W = packets[0].height, packets[0].width
    # Made outside of inference mode: what callers get is an ordinary tensor.
    x_hat = torch.empty(len(packets), 3, H, W, dtype=torch.float32, device=device)
    with torch.inference_mode(), torch_threads(threads), stage(timings, "g_s"):
        y = decoded.reconstruct(model)
        at_once = len(packets) if y[..., 0].numel() * STRIDE**2 <= TILE_PIXELS else 1
        for k in range(0, len(packets), at_once):
            part = slice(k, k + at_once)
            for rows, columns, pixels in render(model, y[part], packets[part], gain=gain[part]):
                x_hat[part, :, rows, columns] = pixels
    decoded.check()
    return {"x_hat": x_hat}
