"""What the commands say on stderr, and which errors they meet with a line instead of a traceback."""

from __future__ import annotations

import os
import sys

from ccm_fast.errors import CcmFastError

__all__ = ["FAILURES", "UsageError", "complain", "reason", "usage"]

# What one file may fail with while the others go on. The last two: a picture too large for this machine.
FAILURES = (CcmFastError, OSError, ValueError, MemoryError, RuntimeError)


def complain(name: str | None, message: object) -> None:
    """One line on stderr."""
    text = " ".join(str(message).split()) or type(message).__name__
    print(f"ccm-fast: {name}: {text}" if name else f"ccm-fast: {text}", file=sys.stderr, flush=True)


def reason(error: BaseException, source: str | None = None) -> str:
    """An error's message; of a file error with the file's name, unless that is ``source``, which stands before it."""
    if isinstance(error, OSError) and error.strerror:
        name = error.filename
        return error.strerror if name is None or os.fspath(name) == source else f"{os.fspath(name)}: {error.strerror}"
    return str(error) or type(error).__name__


class UsageError(Exception):
    """Wrong arguments that argparse cannot see."""


def usage(command: str, error: UsageError) -> int:
    """Say what is wrong with the arguments; returns the exit code."""
    complain(None, f"{command}: {error} (see ccm-fast {command} --help)")
    return 2
