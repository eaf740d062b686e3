"""Qualities as files store them."""

from __future__ import annotations

__all__ = ["quality_code"]


def quality_code(quality: float) -> int:
    """Quality 1..8 as files store it, in 1/32 steps. Raises ValueError outside 1..8."""
    quality = float(quality)
    if not 1.0 <= quality <= 8.0:  # NaN too
        raise ValueError(f"quality must lie in 1..8, not {quality:g}")
    return round(32 * (quality - 1))
