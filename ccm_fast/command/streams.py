"""Inputs and outputs: files, standard streams, pipes and devices."""

from __future__ import annotations

import io
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import BinaryIO

from ccm_fast.atomic import atomic_write, descriptor_of
from ccm_fast.reading import read_at_most
from ccm_fast.stream.limits import max_file_bytes

from .messages import UsageError, output_stream

__all__ = ["binary_input", "ccm_files", "check_terminal", "open_target", "picture_input", "same_file", "taken"]


def ccm_files(names: list[str]) -> Iterator[str]:
    """The names, with the .ccm files in folders in the folders' places; a folder without one stays."""
    for name in names:
        inside = sorted(str(p) for p in Path(name).rglob("*.ccm") if p.is_file()) if os.path.isdir(name) else []
        yield from inside or [name]


def binary_input(name: str) -> str | BinaryIO:
    """An input as the library takes it. Raises OSError where standard input is closed."""
    if name != "-":
        return name
    if sys.stdin is None:
        raise OSError(None, "standard input is closed")
    return sys.stdin.buffer


def picture_input(name: str, max_pixels: int | None) -> str | BinaryIO:
    """The same, for libraries that go back and forth in a file: pipes are read to their end first."""
    source = binary_input(name)
    if name != "-" and stat.S_ISREG(os.stat(name).st_mode):
        return source
    with nullcontext(source) if name == "-" else open(name, "rb") as file:
        return io.BytesIO(read_at_most(file, max_file_bytes(max_pixels)))


def check_terminal(name: str | None, force: bool) -> None:
    """Raises UsageError where an image would be written onto a terminal."""
    if name == "-" and not force and sys.stdout is not None and sys.stdout.isatty():
        raise UsageError("standard output is a terminal: an image is not written there (--force does it)")


@contextmanager
def open_target(name: str, force: bool) -> Iterator[BinaryIO]:
    """An output, which appears when it is complete; its folder is made. "-" is standard output.

    Raises:
        FileExistsError: there is such a file, and ``force`` is not set.
        OSError: it cannot be written.
    """
    if name == "-":
        stream = output_stream()
        yield stream
        stream.flush()
        return
    folder = Path(name).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise NotADirectoryError(error.errno, "a file, where a folder is needed for the output", str(folder)) from None
    with atomic_write(name, replace=force) as file:
        yield file


def taken(target: str) -> bool:
    """Whether there is something that an output would replace: a file, or a link that leads nowhere."""
    if descriptor_of(target) is not None:
        return False
    try:
        return stat.S_ISREG(os.stat(target).st_mode)
    except OSError:
        return os.path.lexists(target)


def same_file(source: str, target: str) -> bool:
    """Whether both names lead to one file, which exists."""
    with suppress(OSError):
        return source != "-" and os.path.samefile(source, target)
    return False
