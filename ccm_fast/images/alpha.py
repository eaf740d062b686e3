"""The alpha channel: kept as a PNG of 8 bits; and the colours that it hides."""

from __future__ import annotations

import io

from PIL import Image

from ..errors import DamagedError
from ..lazy import np

__all__ = ["cropped_alpha", "decode_alpha", "encode_alpha", "fill_invisible", "reduced_alpha"]

_BAND = 256  # rows that are worked on at a time; even


def encode_alpha(alpha: np.ndarray) -> bytes:
    """uint8 [H, W] as a PNG."""
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(alpha)).save(out, "PNG", optimize=True)
    return out.getvalue()


def decode_alpha(data: bytes, size: tuple[int, int]) -> np.ndarray:
    """uint8 [H, W] of a PNG.

    Raises:
        DamagedError: it is no 8-bit grey PNG of this size (H, W), or does not decode.
    """
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            if image.mode != "L" or image.size != (size[1], size[0]):
                raise DamagedError("the alpha channel is not an 8-bit grey PNG of the image's size")
            return np.asarray(image)
    except DamagedError:
        raise
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:  # Pillow's plugins raise what Python raises on damaged data
        raise DamagedError(f"the alpha channel does not decode: {error}") from error


def reduced_alpha(data: bytes, size: tuple[int, int], factor: int) -> bytes:
    """The PNG of a picture of 1 / factor of the sides, rounded up. Raises as :func:`decode_alpha`.

    Args:
        data: a PNG.
        size: (H, W) of its picture.
        factor: of the sides.
    """
    return encode_alpha(np.asarray(Image.fromarray(decode_alpha(data, size)).reduce(factor)))


def cropped_alpha(data: bytes, size: tuple[int, int], region: tuple[int, int, int, int]) -> bytes:
    """The PNG of a part of a picture. Raises as :func:`decode_alpha`.

    Args:
        data: a PNG.
        size: (H, W) of its picture.
        region: x, y, width, height, within it.
    """
    x, y, width, height = region
    return encode_alpha(decode_alpha(data, size)[y : y + height, x : x + width])


def fill_invisible(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Pixels with colours from their visible neighbours where alpha is 0, so that nothing unseen costs bits.

    Averages of visible pixels go down a pyramid, and up again into what is not visible: smooth, and continuous with the
    visible pixels. Floats are of the halved size and below.

    Args:
        pixels: uint8 or uint16 [H, W] or [H, W, 3].
        alpha: uint8 [H, W].
    """
    if alpha.all():
        return pixels
    planes = pixels.reshape(*alpha.shape, -1)
    bands = [slice(start, start + _BAND) for start in range(0, len(alpha), _BAND)]
    halves = [_halve(_visible(planes[band], alpha[band])) for band in bands]
    levels = [np.concatenate(halves)]
    while max(levels[-1].shape[:2]) > 1:
        levels.append(_halve(levels[-1]))
    filled = _mean(levels.pop(), 0.0)
    for sums in reversed(levels):
        H, W = sums.shape[:2]
        filled = _mean(sums, filled.repeat(2, 0)[:H].repeat(2, 1)[:, :W])
    out = planes.copy()
    for band in bands:
        rows, columns = np.nonzero(alpha[band] == 0)
        colours = filled[(rows + band.start) // 2, columns // 2]
        out[rows + band.start, columns] = np.rint(colours).astype(pixels.dtype)
    return out.reshape(pixels.shape)


def _visible(planes: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """float32 [h, w, C + 1]: colours, and 1; all 0 where alpha is."""
    seen = (alpha != 0)[..., None]
    return np.concatenate([planes * seen, seen], -1, dtype=np.float32)


def _mean(sums: np.ndarray, otherwise: np.ndarray | float) -> np.ndarray:
    """Colours of sums [h, w, C + 1] whose last channel is the weight; other ones where that is 0."""
    weight = sums[..., -1:]
    return np.where(weight > 0, sums[..., :-1] / np.maximum(weight, 1e-9), otherwise)


def _halve(plane: np.ndarray) -> np.ndarray:
    """Sums of 2x2 values [h, w, C], over 4; an odd edge counts as if there were zeros beyond it."""
    h, w = plane.shape[:2]
    plane = np.pad(plane, ((0, h & 1), (0, w & 1), (0, 0)))
    return (plane[::2, ::2] + plane[1::2, ::2] + plane[::2, 1::2] + plane[1::2, 1::2]) / 4
