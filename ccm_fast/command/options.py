"""Types and groups of options that the commands share, for argparse."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

__all__ = ["add_common", "effort", "pixels", "quality", "threads", "within"]

_MAX_PIXELS = 178_956_970  # ccm_fast.stream.limits.MAX_PIXELS, without the import


def within(kind: type, low: float, high: float = math.inf) -> Callable[[str], float]:
    """A parser of numbers, int or float, between two ends, for argparse."""

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high or math.isinf(value):  # NaN too
            what = "a number" if kind is float else "a whole number"
            ends = f"of at least {low}" if math.isinf(high) else f"in {low}..{high}"
            raise argparse.ArgumentTypeError(f"must be {what} {ends}, not {text!r}")
        return value

    return parse


quality, effort, threads = within(float, 1, 8), within(int, 1, 9), within(int, 1, 1024)


def pixels(text: str) -> int | None:
    """A limit of pixels, for argparse; 0 is none."""
    return within(int, 0)(text) or None


def add_common(parser: argparse.ArgumentParser) -> None:
    """Options of every command that works on files."""
    parser.add_argument("-t", "--threads", type=threads, metavar="N", help="CPU threads (default: torch's choice)")
    parser.add_argument(
        "--max-pixels",
        type=pixels,
        default=_MAX_PIXELS,
        metavar="N",
        help="refuse larger images; 0: no limit (default: %(default)s)",
    )
    parser.add_argument("-f", "--force", action="store_true", help="replace existing outputs")
    parser.add_argument("-j", "--json", action="store_true", help="print one JSON object per file")
    parser.add_argument("-v", "--verbose", action="store_true", help="print a line per file")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar")
