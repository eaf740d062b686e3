"""Python's collector of cyclic garbage, which a short command does without.

A short command is mostly imports. The collector looks through what they make several times, object by object.
"""

from __future__ import annotations

import gc

__all__ = ["collect_garbage", "pause_collection"]

_paused = False


def pause_collection() -> None:
    """Collect no garbage until :func:`collect_garbage`."""
    global _paused
    _paused = gc.isenabled()
    gc.disable()


def collect_garbage() -> None:
    """Let it be collected from now on: what has been imported is none. Nothing where collection is not paused."""
    global _paused
    if _paused:
        _paused = False
        gc.freeze()
        gc.enable()
