"""Training images from tar shards (webdataset layout) or folders, as random crops."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

__all__ = ["CropDataset", "load_images"]

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm"}


def _decode(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def load_images(paths: list[str | Path]) -> list[np.ndarray]:
    """All images of the given tar files, folders (recursive) and image files, uint8 [H, W, 3] each.

    Held in memory: 2,000 crops of 288x288 take half a gigabyte, and decoding is then no part of a training step.

    Raises:
        FileNotFoundError: a path does not exist, or nothing usable lies under it.
    """
    images: list[np.ndarray] = []
    for path in map(Path, paths):
        if not path.exists():
            raise FileNotFoundError(f"no such training data: {path}")
        if path.suffix == ".tar":
            with tarfile.open(path) as tar:
                for member in tar:
                    if member.isfile() and Path(member.name).suffix.lower() in IMAGE_SUFFIXES:
                        images.append(_decode(tar.extractfile(member).read()))
        else:
            files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
            images += [_decode(f.read_bytes()) for f in files if f.suffix.lower() in IMAGE_SUFFIXES]
    if not images:
        raise FileNotFoundError(f"no images under {', '.join(map(str, paths))}")
    return images


class CropDataset:
    """Endless random batches: images in shuffled epochs, a random crop of each, mirrored at random.

    Args:
        images: as from :func:`load_images`; those smaller than the crop are left out.
        crop: side of the square crops, pixels.
        seed: seed of the order and of the crops. :meth:`state` and :meth:`restore` make a resumed run continue exactly.
    """

    def __init__(self, images: list[np.ndarray], crop: int, seed: int = 0):
        self.images = [im for im in images if min(im.shape[:2]) >= crop]
        if not self.images:
            raise ValueError(f"no image is as large as the crop of {crop}x{crop} pixels")
        self.crop = crop
        self.rng = np.random.default_rng(seed)
        self.order: list[int] = []

    def batch(self, size: int) -> Tensor:
        """float32 [size, 3, crop, crop] in [0, 1], channels_last."""
        out = np.empty((size, self.crop, self.crop, 3), np.uint8)
        for k in range(size):
            if not self.order:
                self.order = self.rng.permutation(len(self.images)).tolist()
            image = self.images[self.order.pop()]
            i = self.rng.integers(image.shape[0] - self.crop + 1)
            j = self.rng.integers(image.shape[1] - self.crop + 1)
            patch = image[i : i + self.crop, j : j + self.crop]
            out[k] = patch[:, ::-1] if self.rng.random() < 0.5 else patch
        return torch.from_numpy(out).permute(0, 3, 1, 2).to(torch.float32).div_(255.0)

    def state(self) -> dict:
        """Everything that decides the next batches."""
        return {"rng": self.rng.bit_generator.state, "order": list(self.order)}

    def restore(self, state: dict) -> None:
        """Continue from a :meth:`state`."""
        self.rng.bit_generator.state = state["rng"]
        self.order = list(state["order"])
