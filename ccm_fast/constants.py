"""Numbers that frozen models, engines and float models share. This file imports nothing."""

__all__ = ["CONTEXT_LIMIT", "MAX_GROUPS", "NUM_SCALES", "SCALE_MAX", "SCALE_MIN", "SYMBOL_MAX"]

# 64 log-spaced scales from 0.11 to 256, as in CompressAI and TensorFlow Compression: at 0.11 a symbol at the mean costs
# 1e-5 bits, and neighbouring scales differ by 13 %, which costs less than 0.2 % in rate.
NUM_SCALES = 64
SCALE_MIN = 0.11
SCALE_MAX = 256.0

# Contexts and h_s see latents clamped to a signed byte; the symbols themselves are not clamped. Photographs stay far
# inside.
CONTEXT_LIMIT = 127

# Symbols and latents are 16 bits, without -32768: FORMAT.md, section 4.
SYMBOL_MAX = 32767

# Of channels of y, coded one after another: FORMAT.md, section 7.
MAX_GROUPS = 32
