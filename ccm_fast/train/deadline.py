"""A wall-clock limit: the schedule of a run that must be over, saved and validated when borrowed time is."""

from __future__ import annotations

import time

__all__ = ["Deadline"]

# What is left for validating and saving at the end, over what both took at the start; and seconds besides.
_MARGIN, _BESIDE = 1.5, 1.0


class Deadline:
    """How much of a stage is over, where the stage ends with the time that there is.

    Args:
        minutes: from now on, for everything: decoding images, recording a graph, steps, validations, checkpoints.
    """

    def __init__(self, minutes: float):
        self._end = time.monotonic() + 60 * minutes
        self._begin = self._spent = 0.0

    def start(self, spent_hours: float, overhead: float) -> None:
        """Steps begin now.

        Args:
            spent_hours: in the stage by earlier calls: the schedule goes on from there.
            overhead: seconds that one validation and one checkpoint take.
        """
        self._begin, self._spent = time.monotonic(), 3600 * spent_hours
        self._end -= _MARGIN * overhead + _BESIDE

    def done(self) -> float:
        """The share of the stage that is over, 1 from the end on."""
        now = time.monotonic()
        if now >= self._end:
            return 1.0
        return (self._spent + now - self._begin) / (self._spent + self._end - self._begin)
