"""Units in processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from .recode import Recoder
from .units import Unit, convert_unit

__all__ = ["run_local"]

_AHEAD = 4  # units that wait for each process
_TRIES = 2  # of a unit by itself
_PATIENCE = 10  # seconds that a process may take to end


def run_local(
    units: Sequence[Unit], source: str, target: str, recoder: Recoder, column: str | None, jobs: int
) -> Iterator[dict]:
    """Convert units, in any order, and give their lines.

    If a process dies, each of the units that were under way is begun again by itself, so that one which takes its
    process with it is found: that is its error, and the others go on.

    Args:
        units: what to do.
        source: as for :func:`convert_unit`, as are the next three.
        target: likewise.
        recoder: likewise.
        column: likewise.
        jobs: processes; 1: this one.
    """
    options = (source, target, recoder, column)
    if jobs == 1:
        yield from (convert_unit(unit, *options) for unit in units)
        return
    left = list(reversed(units))
    while left:
        under_way: dict[Future, Unit] = {}
        try:
            with _processes(jobs) as pool:
                while left or under_way:
                    while left and len(under_way) < _AHEAD * jobs:
                        under_way[pool.submit(_work, left[-1], *options)] = left[-1]
                        left.pop()
                    for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                        line = future.result()
                        del under_way[future]
                        yield line
        except BrokenProcessPool:
            yield from _one_by_one(list(under_way.values()), options)


def _one_by_one(units: list[Unit], options: tuple) -> Iterator[dict]:
    left, tries = list(reversed(units)), 0
    while left:
        try:
            with _processes(1) as pool:
                while left:
                    line = pool.submit(_work, left[-1], *options).result()
                    left.pop()
                    tries = 0
                    yield line
        except BrokenProcessPool:
            tries += 1
            if tries == _TRIES:
                unit, tries = left.pop(), 0
                line = {"source": unit.name, "target": unit.target, "kind": unit.kind, "pictures": 0}
                sizes = {"bytes_in": 0, "bytes_out": 0}
                yield line | sizes | {"error": f"the process that worked on it died, {_TRIES} times"}


@contextmanager
def _processes(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """New processes; if the body raises, they are told to take back what they have begun."""
    # Started anew and not forked: threads of this process do not get into the children's way.
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _unwind_when_told)
    before = set(multiprocessing.active_children())
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in set(multiprocessing.active_children()) - before:
            child.terminate()
        raise
    finally:
        pool.shutdown()


class _Told(BaseException):
    """This process is to end."""


_working = False


def _unwind_when_told() -> None:
    signal.signal(signal.SIGTERM, _tell)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Executors' processes wait for ever for work from one that has been killed."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _tell(*_: object) -> None:
    if not _working:
        os._exit(1)
    signal.alarm(_PATIENCE)  # should the exception get lost
    raise _Told


def _work(unit: Unit, *options: Any) -> dict:
    """A process's work. It ends here when it is told to, as executors catch what would end it."""
    global _working
    _working = True
    try:
        return convert_unit(unit, *options)
    except _Told:
        os._exit(1)
    finally:
        _working = False
