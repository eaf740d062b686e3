"""The alpha channel: kept as a PNG of 8 bits; and the colours that it hides."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from ..errors import DamagedError

__all__ = ["decode_alpha", "encode_alpha", "fill_invisible"]


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


def fill_invisible(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Pixels with colours from their visible neighbours where alpha is 0, so that nothing unseen costs bits.

    Averages of visible pixels go down a pyramid, and up again into the pixels that are not visible: smooth, and
    continuous with the visible ones.

    Args:
        pixels: uint8 or uint16 [H, W] or [H, W, 3].
        alpha: uint8 [H, W].
    """
    hidden = alpha == 0
    if not hidden.any():
        return pixels
    weight = (~hidden).astype(np.float32)[..., None]
    colours = pixels.reshape(*alpha.shape, -1).astype(np.float32) * weight
    levels = [(colours, weight)]
    while max(levels[-1][1].shape[:2]) > 1:
        levels.append(tuple(_halve(plane) for plane in levels[-1]))
    filled = levels[-1][0] / np.maximum(levels[-1][1], 1e-9)
    for colours, weight in reversed(levels[:-1]):
        H, W = weight.shape[:2]
        filled = filled.repeat(2, 0)[:H].repeat(2, 1)[:, :W]
        np.copyto(filled, colours / np.maximum(weight, 1e-9), where=weight > 0)
    out = pixels.copy()
    out[hidden] = np.rint(filled.reshape(pixels.shape))[hidden].astype(pixels.dtype)
    return out


def _halve(plane: np.ndarray) -> np.ndarray:
    """Means of 2x2 values [h, w, C]; an odd edge counts as if there were zeros beyond it."""
    h, w = plane.shape[:2]
    plane = np.pad(plane, ((0, h & 1), (0, w & 1), (0, 0)))
    return (plane[::2, ::2] + plane[1::2, ::2] + plane[::2, 1::2] + plane[1::2, 1::2]) / 4
