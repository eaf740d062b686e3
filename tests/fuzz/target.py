"""A kind of input, how one is made from a seed, and what must hold whatever it is."""

import os
import time
import warnings
import zlib
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np


class ViolationError(AssertionError):
    """What must not happen with any input has happened with this one."""


def must(condition: bool, what: str) -> None:
    """Raise ViolationError unless the condition holds."""
    if not condition:
        raise ViolationError(what)


class Target(ABC):
    """One kind of input. A subclass makes what it needs once, in its constructor.

    Attributes:
        name: what the command line calls it; files of its corpus begin with it.
        seconds: of processor time that one case may take.
        megabytes: that memory may grow by while one is checked.
    """

    name: str
    seconds = 2.0
    megabytes = 300

    def case(self, seed: int) -> bytes:
        """The input of a seed: the same on every machine with the same libraries."""
        return self.make(np.random.default_rng([seed, zlib.crc32(self.name.encode())]))

    @abstractmethod
    def make(self, rng: np.random.Generator) -> bytes:
        """A new input."""

    @abstractmethod
    def check(self, data: bytes) -> str:
        """What became of an input, in a word. Raises whatever nobody has promised."""


def _memory(key: str) -> float:
    """MB, of this process."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(key)) / 1024


HAS_PEAKS = os.access("/proc/self/clear_refs", os.W_OK)


def run(target: Target, data: bytes, slack: float = 1.0) -> str:
    """Check one input, and what it costs.

    Args:
        target: its kind.
        data: the input.
        slack: by how much the limits are wider, for sanitizers; memory is then not looked at.

    Returns:
        What :meth:`Target.check` returns.

    Raises:
        ViolationError: it costs too much, twice: the first case of a kind may import something.
        Exception: whatever else the check raises.
    """
    for _ in range(2):
        found, seconds, megabytes = _measured(target, data)
        if seconds < slack * target.seconds and (slack > 1 or megabytes < target.megabytes):
            return found
    raise ViolationError(f"{found}: {seconds:.1f} s of processor time, {megabytes:.0f} MB")


def _measured(target: Target, data: bytes) -> tuple[str, float, float]:
    before = 0.0
    if HAS_PEAKS:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = _memory("VmRSS")
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pictures that are not whole are allowed to say so
        found = target.check(data)
    return found, time.process_time() - start, _memory("VmHWM") - before if HAS_PEAKS else 0.0
