"""A codec of Zarr v3 for pictures: arrays uint8 [..., H, W, 3], whose chunks hold whole pictures. Lossy.

>>> import zarr
>>> from ccm_fast.interop.zarr import CcmCodec
>>> zarr.create_array("a.zarr", shape=(9, 64, 96, 3), chunks=(1, 64, 96, 3), dtype="u1",
...     serializer=CcmCodec(quality=5), compressors=None)  # doctest: +SKIP

Its name, "ccm_fast", is an entry point: arrays are read wherever this package is installed. A chunk of one picture is
a .ccm file; one of several begins with the length of each file, little-endian, 4 bytes.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from zarr.abc.codec import ArrayBytesCodec

from ..batches import decode_arrays, encode_batch

__all__ = ["CcmCodec"]


@dataclass(frozen=True)
class CcmCodec(ArrayBytesCodec):
    """Chunks as .ccm files.

    Attributes:
        quality: 1 to 8, of what is written.
        model: shipped model or weights file to write with; files name theirs.
        effort: as for :func:`ccm_fast.encode_file`.
    """

    is_fixed_size = False
    quality: float = 4.0
    model: str = "ccm-small"
    effort: int | None = None

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> CcmCodec:
        """Of an array's metadata."""
        return cls(**data.get("configuration", {}))

    def to_dict(self) -> dict[str, Any]:
        """For an array's metadata."""
        return {
            "name": "ccm_fast",
            "configuration": {"quality": self.quality, "model": self.model, "effort": self.effort},
        }

    def validate(self, *, shape: tuple[int, ...], dtype: Any, chunk_grid: Any) -> None:
        """Raises ValueError for arrays that do not hold pictures."""
        if dtype.to_native_dtype() != np.uint8 or len(shape) < 3 or shape[-1] != 3:
            raise ValueError(f"arrays of pictures are uint8 [..., H, W, 3], not {dtype} {list(shape)}")

    async def _encode_single(self, chunk: Any, spec: Any) -> Any:
        pictures = chunk.as_numpy_array().reshape(-1, *spec.shape[-3:])
        options = {"model": self.model, "effort": self.effort, "threads": 1}
        files = await asyncio.to_thread(encode_batch, list(pictures), self.quality, **options)
        lengths = np.array([len(file) for file in files], "<u4").tobytes() if len(files) > 1 else b""
        return spec.prototype.buffer.from_bytes(lengths + b"".join(files))

    async def _decode_single(self, chunk: Any, spec: Any) -> Any:
        data, count = chunk.to_bytes(), math.prod(spec.shape[:-3])
        ends = np.cumsum(np.frombuffer(data, "<u4", count)) + 4 * count if count > 1 else [len(data)]
        starts = [4 * count if count > 1 else 0, *ends[:-1]]
        files = [data[start:end] for start, end in zip(starts, ends, strict=True)]
        model = None if self.model == "ccm-small" else self.model
        pictures = await asyncio.to_thread(decode_arrays, files, model=model, threads=1)
        return spec.prototype.nd_buffer.from_numpy_array(np.asarray(pictures).reshape(spec.shape))

    def compute_encoded_size(self, input_byte_length: int, _: Any) -> int:
        """Not known before. Raises NotImplementedError."""
        raise NotImplementedError
