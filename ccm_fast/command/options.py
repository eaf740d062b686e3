"""Types and groups of options that the commands share, for argparse."""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress

from .messages import UsageError, complain

__all__ = [
    "Parser",
    "Refused",
    "Renamed",
    "add_common",
    "add_json",
    "add_max_pixels",
    "add_quality",
    "crop",
    "effort",
    "groups",
    "pixels",
    "quality",
    "split_paths",
    "threads",
    "within",
]

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


def groups(text: str) -> int | str:
    """A number of groups of latents, or "available", for argparse."""
    return text if text == "available" else _hinting(within(int, 0, 32), "or 'available'")(text)


def crop(text: str) -> tuple[int, int, int, int]:
    """A rectangle WxH+X+Y, as jpegtran and ImageMagick write it, for argparse; as (x, y, width, height)."""
    found = re.fullmatch(r"([1-9]\d{0,9})x([1-9]\d{0,9})\+(\d{1,10})\+(\d{1,10})", text)
    if not found:
        raise argparse.ArgumentTypeError(f"must be WIDTHxHEIGHT+X+Y, such as 640x480+100+50, not {text!r}")
    width, height, x, y = map(int, found.groups())
    return x, y, width, height


def _hinting(parse: Callable[[str], float], hint: str) -> Callable[[str], float]:
    """A parser whose complaints say what else may have been meant."""

    def parse_or_hint(text: str) -> float:
        try:
            return parse(text)
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentTypeError(f"{error} ({hint})") from None

    return parse_or_hint


class Help(argparse.HelpFormatter):
    """Help as wide as the terminal. argparse asks :mod:`shutil`, and a parser makes one for each of its options."""

    def __init__(self, prog: str):
        columns = 0
        with suppress(ValueError):
            columns = int(os.environ.get("COLUMNS", ""))
        if columns <= 0:
            with suppress(AttributeError, ValueError, OSError):
                columns = os.get_terminal_size(sys.__stdout__.fileno()).columns
        super().__init__(prog, width=(columns if columns > 0 else 80) - 2)


class Parser(argparse.ArgumentParser):
    """A parser of the command line, or of one of its commands."""

    def __init__(self, **options):
        super().__init__(formatter_class=Help, **options)


class Renamed(argparse.Action):
    """An old spelling, which is taken as what it has become, with a line about it."""

    def __init__(self, option_strings, dest, now: str, flag: bool = False, **options):
        self.now, self.flag = now, flag
        super().__init__(option_strings, dest, nargs=0 if flag else options.pop("nargs", None), **options)

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        """Note the value."""
        complain(None, f"{option_string} is now {self.now}; the old spelling will go")
        setattr(namespace, self.dest, True if self.flag else values)


class Refused(argparse.Action):
    """An option that people know from elsewhere, and that is answered by a sentence."""

    def __init__(self, option_strings, dest, why: str, **options):
        self.why = why
        super().__init__(option_strings, dest, nargs=0, help=argparse.SUPPRESS, **options)

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        """End with the usage and the sentence."""
        parser.error(f"{option_string}: {self.why}")


def add_quality(parser: argparse.ArgumentParser) -> None:
    """``-q``, and its old spelling."""
    parser.add_argument(
        "-q",
        "--quality",
        type=_hinting(quality, "--help compares them with JPEG's; no progress bar: --quiet"),
        default=4.0,
        metavar="N",
        help="1 (smallest) to 8 (best), fractions too (default: %(default)g)",
    )
    parser.add_argument("-Q", dest="quality", action=Renamed, now="-q", type=quality, help=argparse.SUPPRESS)


def add_json(parser: argparse.ArgumentParser, what: str) -> None:
    """``--json``, and its old spelling, for commands without jobs."""
    parser.add_argument("--json", action="store_true", help=f"print {what}")
    parser.add_argument("-j", dest="json", action=Renamed, now="--json", flag=True, help=argparse.SUPPRESS)


def add_max_pixels(parser: argparse.ArgumentParser) -> None:
    """``--max-pixels``."""
    parser.add_argument(
        "--max-pixels",
        type=pixels,
        default=_MAX_PIXELS,
        metavar="N",
        help="refuse larger images; 0: no limit (default: %(default)s)",
    )


def add_common(parser: argparse.ArgumentParser) -> None:
    """Options of every command that makes files of files."""
    parser.add_argument("-o", "--output", metavar="OUT", help="the output; without it, the last PATH is")
    parser.add_argument(
        "-j",
        "--jobs",
        type=_hinting(threads, "a report as JSON: --json"),
        metavar="N",
        help="files to work on at once (default: one for each core)",
    )
    parser.add_argument(
        "-t", "--threads", type=threads, metavar="N", help="CPU threads for each file (default: by cores and jobs)"
    )
    add_max_pixels(parser)
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument("-f", "--force", action="store_true", help="replace existing outputs")
    existing.add_argument("--skip-existing", action="store_true", help="leave inputs alone whose outputs exist")
    parser.add_argument("--json", action="store_true", help="print one JSON object per file")
    parser.add_argument("-v", "--verbose", action="store_true", help="print a line per file")
    parser.add_argument("--quiet", action="store_true", help="no progress bar, no summary")


def split_paths(args: argparse.Namespace) -> str:
    """Sets ``args.inputs``; returns the output.

    Raises:
        UsageError: one of them is missing.
    """
    args.inputs, out = (args.paths, args.output) if args.output is not None else (args.paths[:-1], args.paths[-1])
    if not args.inputs:
        raise UsageError("an input and an output are needed")
    return out
