"""Pictures as tensors: the one conversion that calibration, evaluation and compatibility layers share."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["image_tensor"]


def image_tensor(image: Tensor | np.ndarray) -> Tensor:
    """An image as float32 [3, H, W] in [0, 1].

    Args:
        image: float [3, H, W] in [0, 1], or uint8 [H, W, 3] or [3, H, W].

    Raises:
        TypeError, ValueError: anything else.
    """
    x = torch.from_numpy(np.array(image)) if isinstance(image, np.ndarray) else image
    if not isinstance(x, Tensor):
        raise TypeError(f"an image is a tensor or an array, not {type(image).__name__}")
    if x.ndim != 3:
        raise ValueError(f"an image has three dimensions, not {x.ndim}")
    if x.shape[0] != 3 and x.shape[2] == 3:
        x = x.permute(2, 0, 1)
    if x.shape[0] != 3:
        raise ValueError(f"an image has three channels; got the shape {tuple(x.shape)}")
    return x.float() / 255.0 if x.dtype == torch.uint8 else x.float()
