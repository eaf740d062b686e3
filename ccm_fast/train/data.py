"""Training images from tar shards (webdataset layout) or folders, as random crops."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..errors import ImageError
from ..images.formats import readable
from ..suffixes import IMAGE_SUFFIXES

__all__ = ["CropDataset", "ImageFiles", "Window", "load_images"]


class ImageFiles(Sequence):
    """The images of tar files, folders (recursive) and image files; item k is uint8 [H, W, 3].

    Only the places and sizes are read at first. Decoded images are kept while they fit into ``memory`` bytes: a small
    set is decoded once, a large one again and again, by the workers of :meth:`CropDataset.stream`.

    Raises:
        FileNotFoundError: a path does not exist, or nothing usable lies under it.
    """

    def __init__(self, paths: Sequence[str | Path], memory: float = float("inf")):
        self.places: list[tuple[str, int, int]] = []  # file, offset and length in bytes
        self.sizes: list[tuple[int, int]] = []  # height, width
        for path in map(Path, paths):
            if not path.exists():
                raise FileNotFoundError(f"no such training data: {path}")
            if path.suffix == ".tar":
                with tarfile.open(path, "r:") as tar:
                    members = [m for m in tar if m.isfile() and Path(m.name).suffix.lower() in IMAGE_SUFFIXES]
                self.places += [(str(path), m.offset_data, m.size) for m in members]
            else:
                files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
                self.places += [(str(f), 0, -1) for f in files if f.suffix.lower() in IMAGE_SUFFIXES]
        if not self.places:
            raise FileNotFoundError(f"no images under {', '.join(map(str, paths))}")
        for k in range(len(self.places)):
            with self._open(k) as image:
                self.sizes.append((image.height, image.width))
        self.memory = memory
        self._kept: dict[int, np.ndarray] = {}

    def _open(self, k: int) -> Image.Image:
        name, offset, size = self.places[k]
        with open(name, "rb") as file:
            file.seek(offset)
            data = io.BytesIO(file.read(size))
        try:
            return Image.open(data, formats=readable())
        except UnidentifiedImageError:
            where = f" (at byte {offset})" if offset else ""
            raise ImageError(f"{name}{where}: not an image of a format that is read here") from None

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, k: int) -> np.ndarray:
        if not 0 <= k < len(self):
            raise IndexError(k)
        if k in self._kept:
            return self._kept[k]
        with self._open(k) as image:
            pixels = np.asarray(image.convert("RGB"))
        if pixels.nbytes <= self.memory:
            self.memory -= pixels.nbytes
            self._kept[k] = pixels
        return pixels


def load_images(paths: Sequence[str | Path]) -> list[np.ndarray]:
    """All images of the given tar files, folders (recursive) and image files, uint8 [H, W, 3] each.

    Raises:
        FileNotFoundError: a path does not exist, or nothing usable lies under it.
    """
    return list(ImageFiles(paths))


class Window(NamedTuple):
    """Where a crop comes from.

    Attributes:
        image: number of the image.
        y, x: the window's upper left corner, pixels; whole where it is not resampled.
        side: of the window, pixels; resampled where it is not the crop's.
        turns: quarter turns of the crop, counterclockwise.
        mirror: whether it is mirrored, left to right, after that.
    """

    image: int
    y: float
    x: float
    side: float
    turns: int
    mirror: bool


class CropDataset(Dataset):
    """Endless random crops: images in shuffled epochs, a random crop of each, mirrored at random or augmented further.

    Crop number n depends on the seed and n alone, so that a run's place in the data is one number, workers need no
    common state, and the processes of a distributed run take every world-th crop.

    Args:
        images: uint8 [H, W, 3] each; those smaller than the crop are left out.
        crop: side of the square crops, pixels.
        seed: seed of the order and of the crops.
        rank, world: this process and their number.
        augment: 1 or more. Above 1, crops come turned and mirrored in all eight ways, and every second one is resampled
            from a window that is up to so many times larger or smaller. Small sets are learned by heart otherwise.
    """

    def __init__(
        self,
        images: Sequence[np.ndarray],
        crop: int,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        augment: float = 1.0,
    ):
        self.sizes = images.sizes if isinstance(images, ImageFiles) else [im.shape[:2] for im in images]
        self.images = images
        self.usable = [k for k, size in enumerate(self.sizes) if min(size) >= crop]
        if not self.usable:
            raise ValueError(f"no image is as large as the crop of {crop}x{crop} pixels")
        self.crop, self.seed, self.rank, self.world, self.augment = crop, seed, rank, world, augment
        self.position = 0  # crops that all processes together have taken
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def where(self, n: int) -> tuple[int, np.random.Generator]:
        """The image of crop n, and the generator of everything random about it."""
        epoch, k = divmod(n, len(self.usable))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, np.random.default_rng((self.seed, 0, epoch)).permutation(self.usable)
        return int(self._order[k]), np.random.default_rng((self.seed, 1, n))

    def window(self, n: int) -> Window:
        """Where crop n comes from."""
        k, rng = self.where(n)
        size = self.sizes[k]
        scale = self.augment ** rng.uniform(-1, 1) if self.augment > 1 and rng.random() < 0.5 else 1.0
        side = self.crop if scale == 1 else min(self.crop * scale, *size)
        draw = rng.integers if scale == 1 else rng.uniform
        y, x = (draw(0, s - side + (scale == 1)) for s in size)
        turns = int(rng.integers(4)) if self.augment > 1 else 0
        return Window(k, y, x, side, turns, bool(rng.random() < 0.5))

    def __getitem__(self, n: int) -> np.ndarray:
        """Crop n, uint8 [crop, crop, 3]."""
        k, y, x, side, turns, mirror = self.window(n)
        image = self.images[k]
        if side == self.crop:
            patch = image[int(y) : int(y) + self.crop, int(x) : int(x) + self.crop]
        else:
            size, box = (self.crop, self.crop), (x, y, x + side, y + side)
            patch = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS, box))
        patch = np.rot90(patch, turns)
        return patch[:, ::-1] if mirror else patch

    def take(self, size: int) -> list[int]:
        """The numbers of this process's next ``size`` crops."""
        first = self.position + self.rank
        self.position += size * self.world
        return list(range(first, self.position, self.world))

    def batch(self, size: int) -> Tensor:
        """The next crops: float32 [size, 3, crop, crop] in [0, 1], channels_last."""
        return to_tensor([self[n] for n in self.take(size)])

    def stream(self, size: int, workers: int = 0):
        """Endless batches as from :meth:`batch`, decoded ahead by worker processes if there are any.

        ``position`` advances as batches come out, not as they are decoded.
        """
        if not workers:
            while True:
                yield self.batch(size)
        ahead = CropDataset(self.images, self.crop, self.seed, self.rank, self.world, self.augment)
        ahead.position = self.position
        numbers = iter(lambda: ahead.take(size), None)
        loader = DataLoader(self, batch_sampler=numbers, num_workers=workers, collate_fn=to_tensor)
        for batch in loader:
            self.position += size * self.world
            yield batch

    def state(self) -> dict:
        """Everything that decides the next batches."""
        return {"position": self.position}

    def restore(self, state: dict) -> None:
        """Continue from a :meth:`state`; one of an older layout starts a new epoch."""
        self.position = state.get("position", 0)


def to_tensor(crops: list[np.ndarray]) -> Tensor:
    """uint8 [H, W, 3] each -> float32 [B, 3, H, W] in [0, 1], channels_last."""
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).to(torch.float32).div_(255.0)
