"""The picture between Pillow and the codec."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from ..errors import PictureWarning
from ..lazy import np

__all__ = ["Picture", "note"]


class Picture:
    """An image on its way into or out of the codec.

    Attributes:
        samples: what holds the pixels: an array, or a memoryview of the same shape (format "B" or "H"), as the codec
            without torch hands out and Pillow reads without NumPy.
        chunks: by chunk type of the container: ICC profile, EXIF, XMP, IPTC, alpha channel as a PNG.
    """

    def __init__(self, pixels: np.ndarray | memoryview, chunks: Mapping[str, bytes] | None = None):
        """Of pixels as :attr:`pixels` has them."""
        self.samples = pixels
        self.chunks = dict(chunks or {})

    @property
    def pixels(self) -> np.ndarray:
        """uint8 or uint16, [H, W, 3] for colour, [H, W] for grey."""
        return np.asarray(self.samples)

    @property
    def grey(self) -> bool:
        """One channel."""
        return self.samples.ndim == 2

    @property
    def bits(self) -> int:
        """Of a sample: 8 or 16."""
        return 8 * self.samples.itemsize

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        height, width = self.samples.shape[:2]
        return height, width

    def __repr__(self) -> str:
        height, width = self.size
        kind = "grey" if self.grey else "colour"
        return f"Picture({width}x{height}, {kind}, {self.bits} bits, chunks {sorted(self.chunks)})"


def note(message: str) -> None:
    """Say, as a PictureWarning, what of a picture is lost or changed."""
    warnings.warn(message, PictureWarning, stacklevel=3)
