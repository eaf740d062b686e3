"""How many threads torch's operators take, for the calling thread alone.

`torch.set_num_threads` also says what threads that are started later begin with. Of two calls at once that each put
back what they found, the later one would leave the other's number behind. OpenMP and MKL keep a number for each thread,
and that is what torch's operators go by.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path

import torch

__all__ = ["set_threads"]


@functools.cache
def _setters() -> tuple[Callable[[int], int], Callable[[int], int] | None] | None:
    """OpenMP's and MKL's functions as libtorch sees them; None where there are none."""
    try:
        library = ctypes.CDLL(str(next(Path(torch.__file__).parent.glob("lib/libtorch_cpu.*"))))
        openmp = library.omp_set_num_threads
    except (StopIteration, OSError, AttributeError):
        return None
    return openmp, getattr(library, "MKL_Set_Num_Threads_Local", None)


def set_threads(count: int) -> Callable[[], None]:
    """Let torch's operators in this thread take so many threads.

    Args:
        count: at least 1.

    Returns:
        What puts the former number back, to be called by the same thread.
    """
    before = torch.get_num_threads()  # which also sets what a new thread begins with
    if (setters := _setters()) is None:
        return _everywhere(count, before)
    openmp, mkl = setters
    openmp(count)
    if torch.get_num_threads() != count:  # another OpenMP than torch's
        openmp(before)
        return _everywhere(count, before)
    mkl_before = mkl and mkl(count)

    def restore() -> None:
        openmp(before)
        if mkl:
            mkl(mkl_before)

    return restore


def _everywhere(count: int, before: int) -> Callable[[], None]:
    torch.set_num_threads(count)
    return functools.partial(torch.set_num_threads, before)
