"""Decoders that other loaders call: bytes or a path to a picture. They import no torch unless tensors are asked for."""

from __future__ import annotations

import multiprocessing
import os
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from ..batches import decode_arrays
from ..native import Codec
from ..region import Wanted
from ..stream.limits import MAX_PIXELS

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

__all__ = ["decode_image", "load_image", "webdataset_decoder", "worker_threads"]


def worker_threads(threads: int | None = None) -> int | None:
    """Threads to decode with: where none are given, 1 in a process that another one has started, to load data."""
    if threads is not None:
        return threads
    other = sys.modules.get("multiprocess")  # the fork of multiprocessing that Hugging Face's datasets use
    started = multiprocessing.parent_process() or (other is not None and other.parent_process())
    return 1 if started else None


def decode_image(
    data: bytes,
    *,
    model: Codec | str | os.PathLike[str] | None = None,
    orient: bool = False,
    region: Wanted = None,
    threads: int | None = None,
    max_pixels: int | None = MAX_PIXELS,
) -> np.ndarray:
    """The picture of a .ccm file, RGB: uint8 [H, W, 3].

    Args:
        data: the file's bytes.
        model: as for :func:`ccm_fast.decode_arrays`.
        orient: turn it as its EXIF orientation asks for.
        region: a part alone, as for :func:`ccm_fast.decode_batch`.
        threads: None: one in worker processes, elsewhere as many as there are cores.
        max_pixels: larger pictures are refused.

    Raises:
        BitstreamError: one of its subclasses says what is wrong with the file.
    """
    options = {"model": model, "orient": orient, "region": region, "threads": threads, "max_pixels": max_pixels}
    return _picture(data, options)


def _picture(item: bytes | str | os.PathLike[str], options: dict[str, Any]) -> np.ndarray:
    (picture,) = decode_arrays([item], **{**options, "threads": worker_threads(options.get("threads"))})
    assert picture is not None  # errors are raised
    return picture


def load_image(path: str | os.PathLike[str], **options: Any) -> np.ndarray:
    """The picture of a file, as :func:`decode_image` gives it: a ``loader`` for torchvision's ``DatasetFolder``.

    Raises:
        BitstreamError: the file is damaged; the message has its name.
        OSError: it cannot be read.
    """
    return _picture(path, options)


def webdataset_decoder(
    key: str, data: bytes, output: str = "numpy", **options: Any
) -> np.ndarray | Tensor | Image.Image | None:
    """A handler for webdataset: ``WebDataset(shards).decode(webdataset_decoder)``.

    Args:
        key: a member's extension, which ends in "ccm"; others are left to other handlers.
        data: the member's bytes.
        output: "numpy": uint8 [H, W, 3]; "torch": uint8 [3, H, W]; "pil": a Pillow image. ``functools.partial`` sets
            it, and the options, in a way that worker processes can be sent.
        options: of :func:`decode_image`.

    Returns:
        The picture; None where the extension is another.
    """
    if output not in ("numpy", "torch", "pil"):
        raise ValueError(f"output is 'numpy', 'torch' or 'pil', not {output!r}")
    if key.rpartition(".")[2].lower() != "ccm":
        return None
    picture = decode_image(data, **options)
    if output == "torch":
        import torch

        return torch.from_numpy(picture).permute(2, 0, 1)
    if output == "pil":
        from PIL import Image

        return Image.fromarray(picture)
    return picture
