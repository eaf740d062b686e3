"""Side by side at equal size: each codec's largest file that is no larger than ours, and pieces of its picture.

Three pieces: where the codecs' pictures differ most, where the original is smoothest (there blocks, banding and casts
show), and where it is busiest.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ..atomic import atomic_write
from .codecs import Codec
from .measure import Cache, Source, load_pixels
from .metrics import butteraugli, looks_versions, ms_ssim, psnr, ssimulacra2

__all__ = ["busiest", "differing", "fit", "side_by_side", "smoothest"]

SIDE = 256  # of a crop, pixels
# Mean levels between which a window counts as smooth, and not as clipped.
_DARKEST, _LIGHTEST = 16, 240


def _means(values: np.ndarray, side: int) -> dict[tuple[int, int], float]:
    """The mean of a plane [H, W] in every window, by its corner (row, column), on a grid of a quarter window."""
    step = max(1, side // 4)
    return {
        (i, j): float(values[i : i + side, j : j + side].mean())
        for i in range(0, max(1, values.shape[0] - side + 1), step)
        for j in range(0, max(1, values.shape[1] - side + 1), step)
    }


def _contrast(pixels: np.ndarray) -> np.ndarray:
    grey = pixels.mean(-1)
    return np.abs(np.diff(grey, axis=0, append=grey[-1:])) + np.abs(np.diff(grey, axis=1, append=grey[:, -1:]))


def busiest(pixels: np.ndarray, side: int = SIDE) -> tuple[int, int]:
    """Corner (row, column) of the window with the most contrast between neighbours."""
    found = _means(_contrast(pixels), side)
    return max(found, key=found.__getitem__)


def smoothest(pixels: np.ndarray, side: int = SIDE) -> tuple[int, int]:
    """Corner of the window with the least contrast, black and white areas aside."""
    found, levels = _means(_contrast(pixels), side), _means(pixels.mean(-1), side)
    inside = {c: v for c, v in found.items() if _DARKEST <= levels[c] <= _LIGHTEST} or found
    return min(inside, key=inside.__getitem__)


def differing(pictures: Sequence[np.ndarray], side: int = SIDE) -> tuple[int, int]:
    """Corner of the window where pictures [H, W, 3] of one original differ most, by their variance."""
    total, squares = np.zeros(pictures[0].shape), np.zeros(pictures[0].shape)
    for picture in pictures:
        total += picture
        squares += picture.astype(np.float64) ** 2
    found = _means((squares / len(pictures) - (total / len(pictures)) ** 2).mean(-1), side)
    return max(found, key=found.__getitem__)


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


def _lossless(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "WEBP", lossless=True, method=4)
    return out.getvalue()


def webp(pixels: np.ndarray) -> str:
    """Lossless, as a data: address."""
    return "data:image/webp;base64," + base64.b64encode(_lossless(pixels)).decode()


class _Kept:
    """What was made before: figures in FOLDER/crops.jsonl, decoded pictures beside it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.cache = Cache(folder / "crops.jsonl")

    def get(self, key: str) -> tuple[dict, np.ndarray] | None:
        record, file = self.cache.get(key), self.folder / f"{key}.webp"
        return None if record is None or not file.is_file() else (record, load_pixels(file))

    def put(self, record: dict, decoded: np.ndarray) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.folder / f"{record['key']}.webp") as file:
            file.write(_lossless(decoded))
        self.cache.put(record)


def _coded(codec: Codec, source: Source, pixels: np.ndarray, size: int | float) -> tuple[dict, np.ndarray]:
    """`size`: bytes to stay below; or, for the codec that sets the size, its setting as a float."""
    setting, data = (size, codec.encode(pixels, size)) if isinstance(size, float) else fit(codec, pixels, size)
    decoded = codec.decode(data, source.size)
    record = {
        "codec": codec.name,
        "label": codec.label,
        "setting": setting,
        "bytes": len(data),
        "bpp": 8 * len(data) / (source.size[0] * source.size[1]),
        "psnr": psnr(pixels, decoded),
        "ms_ssim": ms_ssim(pixels, decoded),
        "ssimulacra2": ssimulacra2(pixels, decoded),
        "butteraugli": butteraugli(pixels, decoded),
    }
    return record, decoded


def side_by_side(
    codecs: Sequence[Codec],
    leader: tuple[Codec, float] | None,
    source: Source,
    folder: Path,
    bpp: float = 0.3,
    complain: Callable[[str, str], None] = lambda codec, message: None,
) -> dict:
    """The crops of one image.

    Args:
        codecs: whose crops to make.
        leader: the codec whose file sets the size, and its setting; None: ``bpp`` does.
        source: the image.
        folder: of what was made before.
        bpp: see ``leader``.
        complain: called with a codec's name and message when it fails; it is then left out.

    Returns:
        ``{"image", "size", "target", "crops": [...], "windows": [{"name", "corner", "original", "crops"}]}``: of each
        codec its figures, the leader first, the others by falling PSNR, and of each window the codecs' pieces in that
        order, as data: addresses.
    """
    pixels, kept = load_pixels(source.path), _Kept(folder)
    H, W = source.size
    target: int | float = int(bpp * H * W / 8)
    if leader is not None:
        codecs = [leader[0], *(c for c in codecs if c.name != leader[0].name)]
    found: list[tuple[dict, np.ndarray]] = []
    for k, codec in enumerate(codecs):
        wanted = float(leader[1]) if leader is not None and k == 0 else target
        version = [codec.name, codec.version, wanted, *looks_versions()]
        key = hashlib.sha256(json.dumps(["crop", 2, source.digest, *version]).encode()).hexdigest()[:24]
        made = kept.get(key)
        if made is None:
            try:
                record, decoded = _coded(codec, source, pixels, wanted)
            except (RuntimeError, OSError, ValueError, KeyError) as error:
                complain(codec.name, f"{source.name}: {error}")
                continue
            made = {"key": key, **record}, decoded
            kept.put(*made)
        found.append(made)
        if leader is not None and k == 0:
            target = made[0]["bytes"]
    first = found[:1] if leader is not None else []
    found = [*first, *sorted(found[len(first) :], key=lambda c: -c[0]["psnr"])]
    corners = {"where they differ most": differing([d for _, d in found])} if len(found) > 1 else {}
    corners |= {"where the picture is smooth": smoothest(pixels), "where it is busy": busiest(pixels)}
    windows = []
    for name, (i, j) in corners.items():
        if any(w["corner"] == [j, i] for w in windows):
            continue
        part = slice(i, i + SIDE), slice(j, j + SIDE)
        pieces = [webp(decoded[part]) for _, decoded in found]
        windows.append({"name": name, "corner": [j, i], "original": webp(pixels[part]), "crops": pieces})
    place = {"image": source.name, "size": [W, H], "target": target}
    return {**place, "crops": [record for record, _ in found], "windows": windows}
