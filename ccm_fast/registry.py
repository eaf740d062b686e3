"""Codecs without torch that this process has opened: found by name, file or fingerprint, and kept for the next call."""

from __future__ import annotations

import functools
import os
from typing import TypeVar

from .errors import ModelError, WrongModelError
from .locks import ForkSafeLock
from .native import Codec
from .precision import transform_precision
from .shipped import available, hinted, is_accelerated, shipped_fingerprints

__all__ = ["DEFAULT_MODEL", "codec_for", "named_model", "open_ahead"]

DEFAULT_MODEL = "ccm-small"
_Given = TypeVar("_Given")
_opening = ForkSafeLock()


@functools.lru_cache(maxsize=4)
def _load(name: str, precision: str) -> Codec:
    return Codec.load(name, precision=precision)


def _codec(name: str) -> Codec:
    with _opening:  # a second thread that asks for the same one waits for it
        return _load(name, transform_precision())


def named_model(model: _Given | None, fingerprint: bytes | None) -> _Given | str:
    """The name of a shipped model in the place of None.

    Args:
        model: a model, its name or file; None: the shipped one with this fingerprint.
        fingerprint: of the stream to decode; None: the default model is meant.

    Raises:
        WrongModelError: no shipped model has the fingerprint.
    """
    if model is not None:
        return model
    if fingerprint is None:
        return DEFAULT_MODEL
    if fingerprint in shipped_fingerprints():
        return shipped_fingerprints()[fingerprint][0]
    names = ", ".join(name for name, _ in shipped_fingerprints().values()) or "none"
    raise WrongModelError(
        f"written with the model {fingerprint.hex()}, which does not ship with this release (shipped: {names});"
        " name its weights file"
    )


def codec_for(model: Codec | str | os.PathLike[str] | None, fingerprint: bytes | None = None) -> Codec:
    """The codec to work with, without torch.

    Args:
        model: a codec; the name of a shipped model or a weights file; None: the shipped one with this fingerprint.
        fingerprint: of the stream to decode, if one is to be decoded.

    Raises:
        FileNotFoundError: no model of that name.
        ModelError: not a weights file, or a damaged one.
        WrongModelError: no shipped model has the fingerprint.
    """
    if model is None and fingerprint is not None and (likely := _likely(fingerprint)):
        # Opening a model tells its fingerprint, too: it need not be read twice, nor the others.
        codec = _codec(likely)
        if codec.fingerprint == fingerprint:
            return codec
    named: Codec | str | os.PathLike[str] = named_model(model, fingerprint)
    if is_accelerated(named):
        raise ModelError(f"{named} holds a net of CompressAI, and this is for the package's own models")
    return named if isinstance(named, Codec) else _codec(os.fspath(named))


def _likely(head: bytes) -> str | None:
    """The shipped model that a file with these first bytes is probably of: what they hint at, or the default one."""
    return hinted(head) or (DEFAULT_MODEL if DEFAULT_MODEL in available() else None)


def open_ahead(model: str | None, head: bytes = b"") -> None:
    """Open the codec that :func:`codec_for` is going to be asked for; for a thread beside the imports of a command.

    Args:
        model: as there; None: the one that the file is probably of, or the default one.
        head: the first bytes of a file to decode, if there is one.

    Raises:
        What :func:`codec_for` raises.
    """
    name = model or _likely(head)
    if name is not None:
        _codec(name)
