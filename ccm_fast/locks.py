"""Locks that a forked child finds open: the thread that held one does not exist there."""

from __future__ import annotations

import os
import threading
import weakref
from types import TracebackType

__all__ = ["ForkSafeLock"]


class ForkSafeLock:
    """A mutual exclusion lock for ``with``, not reentrant.

    A fork copies a lock as it is, so that one which another thread holds would stay closed in the child for ever. Here
    the child gets a new one. What the lock guards must be valid between any two bytecodes.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        _all.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()


_all: weakref.WeakSet[ForkSafeLock] = weakref.WeakSet()


def _open_all() -> None:
    for lock in _all:
        lock._lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_open_all)
