"""Standard streams: what the commands say on stderr and stdout, and errors as lines instead of tracebacks."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import BinaryIO

from ccm_fast.errors import CcmFastError

__all__ = ["FAILURES", "UsageError", "complain", "interactive", "output_stream", "reason", "say", "shown", "usage"]

# What users meet: files, arguments, and pictures too large for this machine (the last two).
FAILURES = (CcmFastError, OSError, ValueError, MemoryError, RuntimeError)


class UsageError(Exception):
    """Wrong arguments that argparse cannot see."""


def shown(text: str) -> str:
    """A text, such as a file's name, as one line that a terminal only shows.

    Control characters (line breaks, escape sequences, changes of direction) and bytes that are not UTF-8 become
    escapes, as in Python's strings.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8, as os.fsdecode hands it on
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def complain(name: str | None, message: object) -> None:
    """One line on stderr, if there is one that takes it."""
    text = " ".join(str(message).split()) or type(message).__name__
    line = f"ccm-fast: {name}: {text}" if name else f"ccm-fast: {text}"
    if sys.stderr is not None:
        with suppress(OSError):
            print(shown(line), file=sys.stderr, flush=True)


def reason(error: BaseException, source: str | None = None) -> str:
    """An error's message; of a file error with the file's name, unless that is ``source``, which stands before it.

    An error of a kind that nobody expected has its type before the message.
    """
    if isinstance(error, OSError) and error.strerror:
        if error.filename is None or os.fsdecode(error.filename) == source:
            return error.strerror
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    text = str(error)
    if not isinstance(error, FAILURES):
        return f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text or type(error).__name__


def usage(command: str, error: UsageError) -> int:
    """Say what is wrong with the arguments; returns the exit code."""
    complain(None, f"{command}: {error} (see ccm-fast {command} --help)")
    return 2


def say(text: str) -> None:
    """Lines on stdout.

    Raises:
        BrokenPipeError: its reader has left.
        OSError: it is closed, or takes no more (a full disk).
    """
    stream = sys.stdout
    if stream is None:
        raise OSError(None, "standard output is closed")
    try:
        try:
            print(text, file=stream, flush=True)
        except UnicodeEncodeError:  # a terminal or a locale without these characters
            print(text.encode(stream.encoding, "backslashreplace").decode(stream.encoding), file=stream, flush=True)
    except OSError as error:
        if not isinstance(error, BrokenPipeError):
            error.filename = "standard output"
        raise


def output_stream() -> BinaryIO:
    """Standard output for bytes. Raises OSError if it is closed."""
    if sys.stdout is None:
        raise OSError(None, "standard output is closed")
    return sys.stdout.buffer


def interactive() -> bool:
    """Whether someone watches stderr."""
    return sys.stderr is not None and sys.stderr.isatty()
