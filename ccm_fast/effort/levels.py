"""What each effort does."""

from __future__ import annotations

import warnings
from numbers import Integral
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ..models import CrossChannelContextModel

__all__ = ["DEFAULT_EFFORT", "LEVELS", "SEARCH_PIXELS", "EffortWarning", "Level", "level_for", "tune_for"]


class EffortWarning(UserWarning):
    """An image is encoded with less effort than was asked for; the message says why."""


class Level(NamedTuple):
    """Parts of the search; later ones start from what earlier ones found.

    Attributes:
        rounding: rate-distortion-optimized rounding by the sensitivities of the channels (no transform is run).
        corrections: of latents by the analysis of what the nearest integers decode to, before such rounding.
        passes: passes of integer moves by the gradient of the picture's error and of the contexts' bits.
        rounds: of gradient descent on the latents, softly rounded.
        iterations: of a round.
        again: passes after each round.
        far: of pictures that g_a misses: so many times FAR_ITERATIONS long steps of gradient descent, and passes again.
    """

    rounding: bool = False
    corrections: int = 0
    passes: int = 0
    rounds: int = 0
    iterations: int = 15
    again: int = 5
    far: int = 0


# docs/effort.md has what each gains and costs; its journal, why 5 and 24 passes. Rounds are short: one of 60 iterations
# gained no more than one of 15.
LEVELS: dict[int, Level] = {
    1: Level(),
    2: Level(rounding=True),
    3: Level(rounding=True, corrections=1),
    4: Level(rounding=True, corrections=1, passes=5),
    5: Level(rounding=True, corrections=1, passes=24, far=1),
    6: Level(rounding=True, corrections=1, passes=24, far=2, rounds=1),
    7: Level(rounding=True, corrections=1, passes=24, far=4, rounds=2),
    8: Level(rounding=True, corrections=1, passes=24, far=4, rounds=4),
    9: Level(rounding=True, corrections=1, passes=24, far=4, rounds=8),
}
#: All that runs no gradients: 0.13 s for a Kodak photograph, where effort 2 takes 0.06 (one core with AVX-512).
DEFAULT_EFFORT = 3
# Gradients hold the activations of the entropy model for a whole image, some 100 bytes a pixel (those of g_s come in
# tiles): 3 GB here. Larger images get the default.
SEARCH_PIXELS = 32 << 20


def level_for(model: CrossChannelContextModel, effort: int | None, pixels: int = 0) -> Level:
    """The level of an effort for a model and an image's size.

    Args:
        model: its ``metric`` says what it was trained for.
        effort: 1 to 9; None: the default, which is plain rounding for models of other metrics than squared error.
        pixels: of one image; above SEARCH_PIXELS higher efforts than the default do its work, with an EffortWarning.

    Raises:
        ValueError: no such effort.
    """
    metric = getattr(model, "metric", "mse")
    if effort is None:
        effort = DEFAULT_EFFORT if metric == "mse" else 1
    if isinstance(effort, bool) or not isinstance(effort, Integral) or effort not in LEVELS:  # NumPy's, too
        raise ValueError(f"effort must be a whole number in 1..{max(LEVELS)}, not {effort!r}")
    level = LEVELS[effort]
    if level.passes and pixels > SEARCH_PIXELS:
        instead = f"(at most {SEARCH_PIXELS}): effort {DEFAULT_EFFORT} is used"
        warnings.warn(f"{pixels} pixels are too many for effort {effort} {instead}", EffortWarning, stacklevel=3)
        return LEVELS[DEFAULT_EFFORT]
    return level


def tune_for(model: CrossChannelContextModel, tune: str | None) -> str:
    """What an encoder's choices are made for, "psnr" or "ms-ssim".

    Args:
        model: its ``metric`` says what it was trained for, which is the answer to None.
        tune: "psnr", "ms-ssim" or None.

    Raises:
        ValueError: neither, or "psnr" for a model whose qualities are prices of MS-SSIM.
    """
    own = "psnr" if getattr(model, "metric", "mse") == "mse" else "ms-ssim"
    if tune not in (None, "psnr", "ms-ssim"):
        raise ValueError(f"tune must be psnr or ms-ssim, not {tune!r}")
    if tune == "psnr" and own != "psnr":
        raise ValueError(f"the model was trained for {own} and cannot be tuned for {tune}")
    return tune or own
