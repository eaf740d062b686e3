"""Reading safetensors files of unknown origin into tensors of torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["MAX_BYTES", "read_tensors"]

#: Beyond this a file is not read: 40 times the weights that ship.
MAX_BYTES = 1 << 30


def read_tensors(
    path: Path, file_format: str, refusal: str, wanted: Callable[[str], bool] = lambda name: True
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file that says it is of a format.

    Args:
        path: the file.
        file_format: what its metadata must have as "format".
        refusal: what a file of another format is not, for the message after its name.
        wanted: whether a tensor of this name is to be read.

    Raises:
        ModelError: no safetensors file, one of another format, or a larger one than any.
        OSError: it cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    if path.stat().st_size > MAX_BYTES:
        raise ModelError(f"{path.name} is larger than any weights file")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != file_format:
                raise ModelError(f"{path.name} {refusal} (format {metadata.get('format')!r})")
            names = [name for name in file.keys() if wanted(name)]  # noqa: SIM118  (not a dict)
            return {name: file.get_tensor(name) for name in names}, metadata
    except SafetensorError as error:
        raise ModelError(f"{path.name} is not a safetensors file: {error}") from error
