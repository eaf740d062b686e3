"""Coding schedules: which latent positions may be decoded together.

A schedule is an integer map ``step[H, W]`` (docs of the file format: FORMAT.md, "Schedules"). A symbol at position p
may depend on symbols of its own group at positions q with ``step[q] < step[p]``; all positions of a step are decoded in
parallel. Every schedule this package knows is an instance of one formula,

    step[i, j] = row_step * i + col_step * j + pattern[i mod ph, j mod pw],

so the decoders need no names of models.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass

import numpy as np

__all__ = ["Schedule"]


@dataclass(frozen=True)
class Schedule:
    """An integer step map ``row_step * i + col_step * j + pattern[i % ph][j % pw]``.

    Attributes:
        row_step: steps from one row to the next, 0..255.
        col_step: steps from one column to the next, 0..255.
        pattern: offsets that repeat over the plane, at most 8x8, entries 0..255.
    """

    row_step: int = 0
    col_step: int = 0
    pattern: tuple[tuple[int, ...], ...] = ((0,),)

    def __post_init__(self) -> None:
        try:
            for key in ("row_step", "col_step"):
                object.__setattr__(self, key, operator.index(getattr(self, key)))
            # As tuples, so that schedules of lists (from JSON) are equal to others, and can be hashed.
            pattern = tuple(tuple(operator.index(v) for v in row) for row in self.pattern)
        except TypeError:
            raise ValueError("schedule steps and pattern entries must be whole numbers") from None
        object.__setattr__(self, "pattern", pattern)
        widths = {len(row) for row in self.pattern}
        if not 1 <= len(self.pattern) <= 8 or len(widths) != 1 or not 1 <= next(iter(widths)) <= 8:
            raise ValueError("schedule pattern must be rectangular, between 1x1 and 8x8")
        numbers = [self.row_step, self.col_step, *(v for row in self.pattern for v in row)]
        if any(not 0 <= v <= 255 for v in numbers):
            raise ValueError("schedule steps and pattern entries must lie in 0..255")

    @classmethod
    def wavefront(cls, kernel: int = 5) -> Schedule:
        """The anti-diagonal order of a raster-causal kernel x kernel mask: step = j + (kernel // 2 + 1) * i."""
        return cls(row_step=kernel // 2 + 1, col_step=1)

    @classmethod
    def checkerboard(cls) -> Schedule:
        """Two steps, anchors first (He et al. 2021, arXiv 2103.15306)."""
        return cls(pattern=((0, 1), (1, 0)))

    @classmethod
    def single(cls) -> Schedule:
        """One step: no spatial context (Minnen & Singh 2020, arXiv 2007.08739)."""
        return cls()

    @classmethod
    def multistage(cls, size: int = 2) -> Schedule:
        """size*size steps, one per position inside a patch (Lu et al. 2022, "multistage" context).

        For 2x2 the diagonal neighbour comes second, because it leaves every later position with decoded
        neighbours on both sides; larger patches run in raster order inside the patch.
        """
        if size == 2:
            return cls(pattern=((0, 2), (3, 1)))
        return cls(pattern=tuple(tuple(i * size + j for j in range(size)) for i in range(size)))

    @classmethod
    def from_name(cls, name: str, kernel: int = 5) -> Schedule:
        """Look up ``wavefront``, ``checkerboard``, ``single``, ``multistage2`` or ``multistage4``."""
        makers = {
            "wavefront": lambda: cls.wavefront(kernel),
            "checkerboard": cls.checkerboard,
            "single": cls.single,
            "multistage2": lambda: cls.multistage(2),
            "multistage4": lambda: cls.multistage(4),
        }
        if name not in makers:
            raise ValueError(f"unknown schedule {name!r}: choose one of {', '.join(makers)}")
        return makers[name]()

    @property
    def period(self) -> tuple[int, int]:
        """(ph, pw), the size of the repeating pattern."""
        return len(self.pattern), len(self.pattern[0])

    def steps(self, height: int, width: int) -> np.ndarray:
        """The step map, int32 [height, width]."""
        i = np.arange(height, dtype=np.int32)[:, None]
        j = np.arange(width, dtype=np.int32)[None, :]
        ph, pw = self.period
        return self.row_step * i + self.col_step * j + np.asarray(self.pattern, np.int32)[i % ph, j % pw]

    def positions(self, height: int, width: int) -> list[np.ndarray]:
        """Positions of each non-empty step in coding order (raster within a step): a list of int64 [n, 2] arrays."""
        step = self.steps(height, width).ravel()
        order = np.argsort(step, kind="stable")
        cuts = np.flatnonzero(np.diff(step[order])) + 1
        return [np.stack(np.divmod(part, width), axis=1) for part in np.split(order, cuts)]

    def class_taps(self, kernel: int) -> np.ndarray:
        """Usable taps per residue class, bool [ph, pw, kernel, kernel].

        Entry [a, b, u, v] says whether a position (i, j) with i % ph == a, j % pw == b may read its neighbour at
        (i + u - kernel // 2, j + v - kernel // 2), that is whether the neighbour has a smaller step.
        """
        r = kernel // 2
        ph, pw = self.period
        out = np.zeros((ph, pw, kernel, kernel), bool)
        for a in range(ph):
            for b in range(pw):
                for u in range(kernel):
                    for v in range(kernel):
                        di, dj = u - r, v - r
                        there = self.pattern[(a + di) % ph][(b + dj) % pw]
                        out[a, b, u, v] = self.row_step * di + self.col_step * dj + there < self.pattern[a][b]
        return out

    def taps(self, kernel: int) -> list[tuple[int, int]]:
        """Offsets (di, dj), in raster order, that some position may read: the union over the residue classes."""
        r = kernel // 2
        union = self.class_taps(kernel).any(axis=(0, 1))
        return [(int(u) - r, int(v) - r) for u, v in zip(*np.nonzero(union), strict=True)]
