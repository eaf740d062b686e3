"""Writing files so that they appear complete or not at all: what everything in this package that writes a file uses."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

__all__ = ["atomic_write", "descriptor_of", "is_temporary"]

# Short, as the folder may hold names of up to 255 bytes; hidden, and not the name of any process: process numbers
# repeat in containers.
_PREFIX, _SUFFIX = ".ccm-", ".tmp"
_DESCRIPTORS = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}
# What a folder answers that takes no new file, though a file in it may be writable.
_NO_NEW_FILES = (errno.EACCES, errno.EPERM, errno.EROFS)
# What a file answers that cannot be replaced, though it may be writable: a mount, or one in a sticky folder.
_NOT_REPLACEABLE = (errno.EBUSY, errno.EXDEV, errno.EACCES, errno.EPERM)


def descriptor_of(path: str | os.PathLike[str]) -> int | None:
    """The descriptor that a path such as /dev/stdout or /dev/fd/63 stands for; None for other paths."""
    name = os.path.normpath(os.fsdecode(path))
    found = re.fullmatch(r"/(?:dev|proc/self)/fd/(\d{1,9})", name)
    return _DESCRIPTORS.get(name) if found is None else int(found[1])


def is_temporary(name: str) -> bool:
    """Whether a file in a folder has the name of one that :func:`atomic_write` has not finished."""
    return re.fullmatch(rf"{re.escape(_PREFIX)}[0-9a-f]{{12}}{re.escape(_SUFFIX)}", name) is not None


def _duplicate(number: int, path: str | os.PathLike[str]) -> BinaryIO:
    """A descriptor as a file. Opening its path would begin at the start of what the shell has opened to append to."""
    try:
        return os.fdopen(os.dup(number), "wb")
    except OSError as error:
        error.filename = os.fspath(path)
        raise


def _temporary(folder: str, mode: int) -> tuple[int, str]:
    """A new file in a folder, of a name that no one else has. The system takes the umask's bits from ``mode``."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
    for name in ("O_CLOEXEC", "O_BINARY"):  # the second is Windows's, which else changes ends of lines
        flags |= getattr(os, name, 0)
    while True:
        name = os.path.join(folder, f"{_PREFIX}{os.urandom(6).hex()}{_SUFFIX}")
        with suppress(FileExistsError):
            return os.open(name, flags, mode), name


def _inherit(descriptor: int, old: os.stat_result) -> None:
    """Give a new file the owner, group and mode of the one that it replaces, as far as this user may."""
    mode = stat.S_IMODE(old.st_mode) & 0o777
    new = os.fstat(descriptor)
    if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
        try:
            os.fchown(descriptor, old.st_uid, old.st_gid)
        except OSError:
            mode &= ~0o070  # the bits were meant for another group
    with suppress(OSError, AttributeError):  # file systems without modes; Windows before Python 3.13
        os.fchmod(descriptor, mode)


def _claim(temporary: str, path: str) -> None:
    """Give a temporary file its name, unless there is such a file by now. Raises FileExistsError."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: an empty file holds the place
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        os.replace(temporary, path)
    else:
        os.unlink(temporary)


def _copy_over(file: BinaryIO, path: str) -> None:
    """Write a file's contents into an existing file."""
    import shutil  # rarely needed, and slow to import, as is tempfile

    file.seek(0)
    with open(path, "r+b") as target:
        shutil.copyfileobj(file, target)
        target.truncate()


@contextmanager
def atomic_write(path: str | os.PathLike[str], *, replace: bool = True) -> Iterator[BinaryIO]:
    """A new file that takes its name only when it is complete: other readers see the old file or the new one.

    If the body raises, nothing is left behind. A file that is replaced hands on its mode (and its owner, where this
    user may give files away); a new one has the mode that the umask leaves. Links stay links, and what they point to is
    replaced; other hard links to it keep the old contents. Several writers at once do not disturb each other: the last
    one's file stays. Devices, pipes and descriptors (/dev/stdout, /dev/fd/N) are written to directly. Where the folder
    takes no new files, or the file cannot be replaced because it is mounted by itself, the contents are collected first
    and then written into the file in place.

    Args:
        path: the file.
        replace: False: raise FileExistsError instead of replacing a file or writing through a link, also if it has
            come up while the body was running.

    Raises:
        FileExistsError: ``replace`` is False and there is something.
        OSError: the file cannot be written; ``filename`` is the name that was given, links resolved.
    """
    if (number := descriptor_of(path)) is not None:
        with _duplicate(number, path) as direct:
            yield direct
        return
    try:
        old = os.stat(path)  # before links are resolved: that of a pipe's descriptor leads nowhere
    except OSError:  # nothing there, or nothing that can be reached: opening a file says so
        old = None
    if old is not None and not stat.S_ISREG(old.st_mode):
        with open(path, "wb") as direct:
            yield direct
        return
    if not replace and os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fspath(path))
    path = os.path.realpath(path)
    temporary = None
    try:
        descriptor, temporary = _temporary(os.path.dirname(path), 0o666 if old is None else 0o600)
        file = os.fdopen(descriptor, "w+b")
    except OSError as error:
        if old is None or error.errno not in _NO_NEW_FILES or not os.access(path, os.W_OK):
            error.filename = path
            raise
        import tempfile

        file = tempfile.TemporaryFile()  # noqa: SIM115 - closed below, with the other kind
    try:
        with file:
            yield file
            file.flush()
            if temporary is None:
                _copy_over(file, path)
                return
            if old is not None:
                _inherit(file.fileno(), old)
            try:
                if replace:
                    os.replace(temporary, path)
                else:
                    _claim(temporary, path)
            except OSError as error:
                if not replace or old is None or error.errno not in _NOT_REPLACEABLE or not os.access(path, os.W_OK):
                    error.filename, error.filename2 = path, None
                    raise
                _copy_over(file, path)
                os.unlink(temporary)
    except BaseException:
        if temporary is not None:
            with suppress(OSError):
                os.unlink(temporary)
        raise
