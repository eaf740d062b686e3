"""The quality that meets a target: a size that a file must not exceed, or a PSNR that its picture must reach.

Sizes and errors depend on the quality smoothly, and nearly exponentially: a few encodings find it by interpolation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import TargetError

__all__ = ["LAST_CODE", "Target", "find_code"]

#: Quality codes are 0 (quality 1) to this one (quality 8), in steps of 1/32.
LAST_CODE = 224
# What a whole quality changes on photographs: the logarithm of the size by 0.32 (Kodak, 0.24 to 1.65 bpp from quality
# 2 to 8), the PSNR by 1.6 dB. Only the second attempt depends on it.
_LOG_SIZE_SLOPE, _PSNR_SLOPE = 0.32 / 32, 1.6 / 32
# A file may be so much smaller than asked for, and a picture so many dB better, before a nearer quality is looked for.
# One step of quality changes a photograph's size by 1 % and its PSNR by 0.05 dB.
_SIZE_TOLERANCE, _PSNR_TOLERANCE = 0.02, 0.05
# Attempts after which the interval is halved: interpolation between ends of a bent curve would creep.
_PATIENCE = 4


@dataclass(frozen=True)
class Target:
    """What a file must be: exactly one of these.

    Attributes:
        size: bytes of the whole file at most.
        bpp: bits per pixel of the whole file at most.
        psnr: dB of the decoded picture at least.

    Raises:
        ValueError: none or several, or a number that is not positive and finite.
    """

    size: int | None = None
    bpp: float | None = None
    psnr: float | None = None

    def __post_init__(self) -> None:
        given = {name: v for name, v in vars(self).items() if v is not None}
        if len(given) != 1:
            raise ValueError(f"one target is needed: size, bpp or psnr, not {len(given)}")
        ((name, value),) = given.items()
        if not 0 < value < math.inf:  # NaN too
            raise ValueError(f"the target's {name} must be a positive number, not {value!r}")

    def find(self, encode: Callable[[int], bytes], psnr: Callable[[bytes], float], pixels: int, start: int) -> bytes:
        """The file whose quality is the best within the target's tolerance (2 %, or 0.05 dB).

        Args:
            encode: the file of a quality code.
            psnr: of a file's decoded picture, dB.
            pixels: of the picture.
            start: quality code of the first attempt.

        Raises:
            TargetError: no quality meets the target.
        """
        files: dict[int, bytes] = {}
        size = self.size if self.bpp is None else self.bpp * pixels / 8

        def measure(code: int) -> float:
            files[code] = encode(code)
            return psnr(files[code]) if size is None else math.log(len(files[code]))

        if size is None:
            code = find_code(measure, self.psnr, _PSNR_TOLERANCE, _PSNR_SLOPE, start, at_least=True)
        else:
            code = find_code(measure, math.log(size), _SIZE_TOLERANCE, _LOG_SIZE_SLOPE, start, at_least=False)
        if code is None:
            end = files[0] if size is not None else files[LAST_CODE]
            reached = f"quality 1 takes {len(end)} bytes" if size is not None else f"quality 8 gives {psnr(end):.2f} dB"
            wanted = f"{math.floor(size)} bytes" if size is not None else f"{self.psnr:g} dB"
            raise TargetError(f"no quality meets the target of {wanted}: {reached}")
        return files[code]


def find_code(
    measure: Callable[[int], float], target: float, tolerance: float, slope: float, start: int, *, at_least: bool
) -> int | None:
    """The quality code whose measure is on the right side of a target, within the tolerance or else next to it.

    Args:
        measure: of a code; it rises with the code, but for noise. Asked once for each code.
        target: of the measure.
        tolerance: how far from it the measure may be.
        slope: the measure's rise from one code to the next, about.
        start: the first code to try.
        at_least: whether the measure must reach the target, or not exceed it.

    Returns:
        A code that was measured; None: all of them are on the wrong side. Where every code is on the right side, it is
        the one nearest to the target.
    """
    aim = target + (tolerance if at_least else -tolerance) / 2
    low, high = (-1, -math.inf), (LAST_CODE + 1, math.inf)  # codes below and above the target, with their measures
    code, tried = start, 0
    while True:
        value = measure(code)
        tried += 1
        above = value >= target if at_least else value > target
        if above == at_least and abs(value - target) <= tolerance:
            return code
        low, high = (low, (code, value)) if above else ((code, value), high)
        if high[0] - low[0] == 1:
            found = (high if at_least else low)[0]
            return found if 0 <= found <= LAST_CODE else None
        if tried >= _PATIENCE:
            code = (low[0] + high[0]) // 2
        elif math.isinf(low[1]) or math.isinf(high[1]):
            code = round(code + (aim - value) / slope)
        else:
            code = round(low[0] + (aim - low[1]) / (high[1] - low[1]) * (high[0] - low[0]))
        code = min(max(code, low[0] + 1), high[0] - 1)
