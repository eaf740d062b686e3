"""The picture between Pillow and the codec."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

import numpy as np

from ..errors import PictureWarning

__all__ = ["Picture", "note"]


@dataclass
class Picture:
    """An image on its way into or out of the codec.

    Attributes:
        pixels: uint8 or uint16, [H, W, 3] for colour, [H, W] for grey.
        chunks: by chunk type of the container: ICC profile, EXIF, XMP, IPTC, alpha channel as a PNG.
    """

    pixels: np.ndarray
    chunks: dict[str, bytes] = field(default_factory=dict)

    @property
    def grey(self) -> bool:
        """One channel."""
        return self.pixels.ndim == 2

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.pixels.shape[:2]


def note(message: str) -> None:
    """Say, as a PictureWarning, what of a picture is lost or changed."""
    warnings.warn(message, PictureWarning, stacklevel=3)
