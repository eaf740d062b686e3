"""Arithmetic of the transforms g_a, h_a and g_s on CPUs: float32, or 16-bit integers that stand for it."""

from __future__ import annotations

import os

from ccm_fast import _backend

__all__ = ["set_transform_precision", "transform_precision"]

_PRECISIONS = ("int16", "float32")
_precision = os.environ.get("CCM_FAST_TRANSFORMS", "int16")


def set_transform_precision(precision: str) -> None:
    """Choose what g_a, h_a and g_s multiply on CPUs: floats, or 16-bit integers that stand for them.

    Models of this package change at their next call; a :class:`ccm_fast.Codec` and CompressAI nets keep what they were
    loaded or accelerated with. The environment variable ``CCM_FAST_TRANSFORMS`` sets the choice at the start. Files
    decode to the same latents either way: the entropy path knows no floats.

    Args:
        precision: "int16" (the default), where the processor has AVX2, or "float32"; docs/compressai.md has what
            the former gains and costs.

    Raises:
        ValueError: no such precision.
    """
    global _precision
    if precision not in _PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(_PRECISIONS)}, not {precision!r}")
    _precision = precision


def transform_precision() -> str:
    """What g_a, h_a and g_s multiply on this machine: "int16" or "float32".

    Raises:
        ValueError: ``CCM_FAST_TRANSFORMS`` names no precision.
        BuildError: the native library is missing.
    """
    if _precision not in _PRECISIONS:
        raise ValueError(f"CCM_FAST_TRANSFORMS must be one of {', '.join(_PRECISIONS)}, not {_precision!r}")
    return _precision if _backend.native().has_int16_transforms() else "float32"
