"""Training on a GPU: images live there, crops are cut there, and a step's work is recorded once and replayed.

A step of a model of ten megabytes is two thousand small kernels, which Python launches more slowly than a GPU runs
them; as one CUDA graph they cost one launch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .data import CropDataset

__all__ = ["Replay", "ResidentCrops"]

# How far a shrinking crop's samples, four a pixel, lie from the pixel's centre in either direction, in pixels of the
# crop: evenly spread.
_SPREAD = 0.25


class ResidentCrops:
    """The crops of a :class:`~ccm_fast.train.data.CropDataset`, cut on a device out of images that are kept there.

    Windows are those that the data set says. What is not resampled has its very pixels; what is, is bicubic where the
    data set is Lanczos, with four samples a pixel where it shrinks.

    Args:
        crops: where images and windows come from; its images are decoded at once.
        device: where to keep them, 3 bytes a pixel of the largest one each.
    """

    def __init__(self, crops: CropDataset, device: torch.device | str):
        self.crops = crops
        h, w = (max(crops.sizes[k][i] for k in crops.usable) for i in (0, 1))
        self.images = torch.empty(len(crops.usable), 3, h, w, dtype=torch.uint8, device=device)
        self.rows = {}
        for row, k in enumerate(crops.usable):
            image = crops.images[k]
            # Edge pixels go on beside a smaller image, for the outermost taps of its resampled crops.
            edge = [(0, h - image.shape[0]), (0, w - image.shape[1]), (0, 0)]
            self.images[row] = torch.from_numpy(np.pad(image, edge, mode="edge")).permute(2, 0, 1)
            self.rows[k] = row

    def places(self, size: int) -> Tensor:
        """The next ``size`` windows, float64 [size, 9], for :meth:`cut`; on the CPU.

        Row of the image, y and x of the window's centre, its side, the 2x2 matrix from coordinates of the crop to
        those of the window, and the distance of samples from a pixel's centre (pixels of the image).
        """
        out = []
        for n in self.crops.take(size):
            w = self.crops.window(n)
            matrix = np.linalg.matrix_power(np.array([[0, 1], [-1, 0]]), w.turns)
            if w.mirror:
                matrix = matrix * [1, -1]
            spread = _SPREAD * w.side / self.crops.crop if w.side > self.crops.crop else 0.0
            out.append([self.rows[w.image], w.y + w.side / 2, w.x + w.side / 2, w.side, *matrix.flat, spread])
        return torch.tensor(out, dtype=torch.float64)

    def cut(self, places: Tensor) -> Tensor:
        """Crops, float32 [B, 3, crop, crop] in [0, 1], channels_last, of :meth:`places` on the device."""
        images = self.images[places[:, 0].long()].float().div_(255)
        at = ((torch.arange(self.crops.crop, device=places.device) + 0.5) / self.crops.crop - 0.5).to(places)
        cy, cx, side, yy, yx, xy, xx, spread = places[:, 1:, None, None].unbind(1)
        y = cy + side * (yy * at[:, None] + yx * at[None, :])
        x = cx + side * (xy * at[:, None] + xx * at[None, :])
        h, w = images.shape[2:]
        total = 0.0
        offsets = ((-1, -1), (-1, 1), (1, -1), (1, 1)) if self.crops.augment > 1 else ((0, 0),)
        for dy, dx in offsets:
            grid = torch.stack([2 * (x + dx * spread) / w - 1, 2 * (y + dy * spread) / h - 1], -1).float()
            total = total + F.grid_sample(images, grid, "bicubic", "border", align_corners=False)
        out = total.div_(len(offsets)).clamp_(0, 1)
        return out.contiguous(memory_format=torch.channels_last)


class Replay:
    """A function's work on a GPU, recorded as a CUDA graph at the first call and replayed with every later one.

    Args:
        function: of tensors on the GPU, to a dictionary of tensors. Whatever else it reads or writes must stay where it
            is, and it must never wait for the GPU.
        device: which GPU.
    """

    #: Calls before the recording: cuDNN chooses its algorithms in them, and lazy state comes into being.
    WARM_UP = 3

    def __init__(self, function: Callable[..., dict[str, Tensor]], device: torch.device):
        self.function, self.device = function, device
        self.graph: torch.cuda.CUDAGraph | None = None
        self.inputs: list[Tensor] = []
        self.outputs: dict[str, Tensor] = {}

    def _record(self, inputs: Sequence[Tensor]) -> None:
        self.inputs = [t.to(self.device) for t in inputs]
        beside, main = torch.cuda.Stream(self.device), torch.cuda.current_stream(self.device)
        beside.wait_stream(main)
        with torch.cuda.stream(beside):
            for _ in range(self.WARM_UP):
                self.function(*self.inputs)
        main.wait_stream(beside)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.outputs = self.function(*self.inputs)

    def __call__(self, *inputs: Tensor) -> dict[str, Tensor]:
        """The function's results, in memory that the next call overwrites; of inputs on the CPU."""
        if self.graph is None:
            self._record(inputs)
        for own, new in zip(self.inputs, inputs, strict=True):
            own.copy_(new.pin_memory(), non_blocking=True)  # the copy is queued; pinned memory waits for it
        self.graph.replay()
        return self.outputs
