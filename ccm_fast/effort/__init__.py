"""Encoder effort: other latents than the nearest ones, where rate and distortion together gain by them.

The format and the decoder know nothing of it. An encoder is free in its choice of y_hat and z_hat, and plain rounding
minimizes neither the bits nor the picture's error. What is minimized, per image, is the Lagrangian that models are
trained for,

    bits + lambda(quality) * 255^2 * MSE * pixels,

with the bits of the integer tables that the file is coded with, and the error of the picture that decoders make.
"""

from .levels import DEFAULT_EFFORT, LEVELS, SEARCH_PIXELS, EffortWarning, Level, level_for, tune_for

__all__ = [
    "DEFAULT_EFFORT",
    "LEVELS",
    "SEARCH_PIXELS",
    "EffortWarning",
    "Level",
    "level_for",
    "tune_for",
]
