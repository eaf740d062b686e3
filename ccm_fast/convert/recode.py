"""One picture: bytes of one format to bytes of another."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from .._backend import import_with_torch
from ..files import codec_for, decode_bytes, encode_picture, model_for
from ..images import open_picture, output_format, save_picture
from ..psnr import psnr
from ..stream.container import parse_container
from ..stream.limits import MAX_PIXELS
from ..stream.packet import peek
from ..suffixes import IMAGE_SUFFIXES

__all__ = ["Recoded", "Recoder"]

_MOST_DB = 100.0  # of pictures without an error


class Recoded(NamedTuple):
    """A picture in its new format.

    Attributes:
        data: the file's bytes.
        psnr: dB of the decoded .ccm file against its source, at most 100; None: not measured.
    """

    data: bytes
    psnr: float | None


@dataclass(frozen=True)
class Recoder:
    """Makes .ccm files of pictures in other formats, or the other way; ``recoder(data)`` is the new file's bytes.

    Can be pickled: a process that is sent one loads the model at its first picture, and once.

    Attributes:
        to: suffix of the new files without its point: "ccm", or "png", "jpg", "webp" and others of .ccm files.
        quality: of .ccm files, 1 to 8.
        model: shipped model or weights file; None: "ccm-small" to encode with, or what a file names.
        effort: as for :func:`ccm_fast.encode_file`.
        save_quality: the other format's own setting; None: 95 for JPEG and WebP.
        measure: whether .ccm files are decoded again for their PSNR.
        device: "cpu", or a GPU as torch names it, such as "cuda": then the transforms and the entropy coder run there.
            Their floats differ in last bits from a processor's, and so may the files; what they decode to is as good.
        max_pixels: larger pictures are errors; None: no limit.
    """

    to: str = "ccm"
    quality: float = 4.0
    model: str | None = None
    effort: int | None = None
    save_quality: int | None = None
    measure: bool = False
    max_pixels: int | None = MAX_PIXELS
    device: str = "cpu"

    def takes(self, name: str) -> bool:
        """Whether this is a picture to convert, by the name of its file."""
        suffix = "." + name.lower().rpartition(".")[2]
        return suffix in IMAGE_SUFFIXES if self.to == "ccm" else suffix == ".ccm"

    def check(self) -> None:
        """Raises ImageError, FileNotFoundError, ModelError, ValueError: format, model or device are not usable."""
        if self.device != "cpu":
            torch = import_with_torch("torch", "--device")
            if torch.device(self.device).type != "cuda" or not torch.cuda.is_available():
                raise ValueError(f"the device {self.device!r} is not available to torch: 'cpu', or a CUDA GPU")
        if self.to != "ccm":
            output_format("." + self.to)
        if self.to == "ccm" or self.model:
            codec_for(self.model or "ccm-small")

    def settings(self) -> dict:
        """What the outputs depend on: fields and, where it is known, the model's fingerprint."""
        found = asdict(self)
        if self.device == "cpu":
            del found["device"]
        if self.to == "ccm" or self.model:
            found["model"] = codec_for(self.model or "ccm-small").fingerprint.hex()
        return found

    def recode(self, data: bytes) -> Recoded:
        """The picture in its new format.

        Raises:
            ImageError, BitstreamError: it cannot be read.
            EncodeError: it cannot be encoded.
        """
        if self.to != "ccm":
            return Recoded(self._decoded(data), None)
        picture = open_picture(io.BytesIO(data), self.max_pixels)
        codec = codec_for(self.model or "ccm-small") if self.device == "cpu" else self._module(None)
        found = encode_picture(picture, self.quality, codec, effort=self.effort, threads=1)
        if not self.measure:
            return Recoded(found, None)
        again = decode_bytes(found, codec, threads=1, max_pixels=None, latents=False).picture.pixels
        return Recoded(found, min(psnr(picture.pixels, again), _MOST_DB))

    def _module(self, data: bytes | None) -> Any:
        """The model on the device, to encode with or for a file."""
        tensors = import_with_torch("ccm_fast.tensor_batches", "--device")
        if data is None:
            return tensors.placed(model_for(self.model or "ccm-small"), self.device)
        fingerprint = peek(parse_container(data).packet, self.max_pixels).fingerprint
        return tensors.placed(model_for(self.model, fingerprint), self.device)

    def _decoded(self, data: bytes) -> bytes:
        model = self.model if self.device == "cpu" else self._module(data)
        picture = decode_bytes(data, model, threads=1, max_pixels=self.max_pixels, latents=False).picture
        out = io.BytesIO()
        options = {} if self.save_quality is None else {"quality": self.save_quality}
        save_picture(picture, out, output_format("." + self.to), **options)
        return out.getvalue()

    def __call__(self, data: bytes) -> bytes:
        """The bytes alone. Raises as :meth:`recode`."""
        return self.recode(data).data
