"""Side by side at equal size: each codec's largest file that is no larger than ours, and a piece of its picture."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from .codecs import Codec
from .measure import Cache, Source, load_pixels
from .metrics import ms_ssim, psnr

__all__ = ["busiest", "fit", "side_by_side"]

SIDE = 256  # of a crop, pixels


def busiest(pixels: np.ndarray, side: int = SIDE) -> tuple[int, int]:
    """Corner (row, column) of the window with the most contrast between neighbours, on a grid of a quarter window."""
    grey = pixels.mean(-1)
    contrast = np.abs(np.diff(grey, axis=0))[:, :-1] + np.abs(np.diff(grey, axis=1))[:-1]
    step = max(1, side // 4)
    corners = [
        (i, j)
        for i in range(0, max(1, pixels.shape[0] - side + 1), step)
        for j in range(0, max(1, pixels.shape[1] - side + 1), step)
    ]
    return max(corners, key=lambda c: float(contrast[c[0] : c[0] + side, c[1] : c[1] + side].mean()))


def fit(codec: Codec, pixels: np.ndarray, size: int) -> tuple[float, bytes]:
    """The setting with the largest file of at most `size` bytes, and that file; the smallest file if none is so small.

    Bisection: sizes need only rise with the settings roughly for the result to be near.
    """
    low, high = 0, len(codec.grid) - 1
    setting = codec.grid[0]
    data = codec.encode(pixels, setting)
    while low < high:
        middle = (low + high + 1) // 2
        trial = codec.encode(pixels, codec.grid[middle])
        if len(trial) <= size:
            low, setting, data = middle, codec.grid[middle], trial
        else:
            high = middle - 1
    return setting, data


def webp(pixels: np.ndarray) -> str:
    """Lossless, as a data: address."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "WEBP", lossless=True, method=4)
    return "data:image/webp;base64," + base64.b64encode(out.getvalue()).decode()


def _crop(codec: Codec, source: Source, pixels: np.ndarray, corner: tuple[int, int], size: int | float) -> dict:
    """`size`: bytes to stay below; or, for the codec that sets the size, its setting as a float."""
    setting, data = (size, codec.encode(pixels, size)) if isinstance(size, float) else fit(codec, pixels, size)
    decoded = codec.decode(data, source.size)
    (i, j), H, W = corner, *source.size
    return {
        "codec": codec.name,
        "label": codec.label,
        "setting": setting,
        "bytes": len(data),
        "bpp": 8 * len(data) / (H * W),
        "psnr": psnr(pixels, decoded),
        "ms_ssim": ms_ssim(pixels, decoded),
        "crop": webp(decoded[i : i + SIDE, j : j + SIDE]),
    }


def side_by_side(
    codecs: Sequence[Codec],
    leader: tuple[Codec, float] | None,
    source: Source,
    cache: Cache,
    bpp: float = 0.3,
    complain: Callable[[str, str], None] = lambda codec, message: None,
) -> dict:
    """The crops of one image.

    Args:
        codecs: whose crops to make.
        leader: the codec whose file sets the size, and its setting; None: ``bpp`` does.
        source: the image.
        cache: of earlier crops.
        bpp: see ``leader``.
        complain: called with a codec's name and message when it fails; it is then left out.

    Returns:
        ``{"image", "size", "corner", "target", "original", "crops": [...]}``, the leader first, the others by falling
        PSNR.
    """
    pixels = load_pixels(source.path)
    corner = busiest(pixels)
    H, W = source.size
    target: int | float = int(bpp * H * W / 8)
    if leader is not None:
        codecs = [leader[0], *(c for c in codecs if c.name != leader[0].name)]
    crops = []
    for k, codec in enumerate(codecs):
        wanted = float(leader[1]) if leader is not None and k == 0 else target
        text = json.dumps(["crop", 1, SIDE, source.digest, codec.name, codec.version, wanted])
        key = hashlib.sha256(text.encode()).hexdigest()[:24]
        record = cache.get(key)
        if record is None:
            try:
                record = {"key": key, **_crop(codec, source, pixels, corner, wanted)}
            except (RuntimeError, OSError, ValueError, KeyError) as error:
                complain(codec.name, f"{source.name}: {error}")
                continue
            cache.put(record)
        crops.append(record)
        if leader is not None and k == 0:
            target = record["bytes"]
    first = crops[:1] if leader is not None else []
    rest = sorted(crops[len(first) :], key=lambda c: -c["psnr"])
    i, j = corner
    original = webp(pixels[i : i + SIDE, j : j + SIDE])
    place = {"image": source.name, "size": [W, H], "corner": [j, i], "target": target}
    return {**place, "original": original, "crops": [*first, *rest]}
