// How the layers of the integer networks round (FORMAT.md, section 1); exact on every machine. The vector and CUDA
// kernels compute the same in their own instructions, and are checked against this. Elsewhere only means are rounded to
// table rows (tables.h) and residual latents to symbols (residual.h).
#pragma once
#include <cstdint>

#include "base/platform.h"

namespace ccm {

// Latents enter convolutions clamped to this magnitude, so that they fit a signed byte on both sides of zero.
constexpr int kContextLimit = 127;
// The byte that stands for the latent 0 where planes hold biased bytes.
constexpr int kLatentZero = 128;

// round(acc * mult / 2^shift), halves up; 0 <= mult < 2^31, 16 <= shift <= 62. |acc * mult| < 2^62, so nothing
// overflows.
CCM_HD int32_t requantize(int32_t acc, int32_t mult, int32_t shift) {
  return static_cast<int32_t>((static_cast<int64_t>(acc) * mult + (int64_t{1} << (shift - 1))) >> shift);
}

// Negative accumulators have a multiplier of their own (leaky8 outputs).
CCM_HD int32_t requantize_leaky(int32_t acc, int32_t mult, int32_t below, int32_t shift) {
  return requantize(acc, acc < 0 ? below : mult, shift);
}

CCM_HD int32_t clamp(int32_t v, int32_t lo, int32_t hi) { return v < lo ? lo : (v > hi ? hi : v); }

CCM_HD int32_t clamp_context(int32_t v) { return clamp(v, -kContextLimit, kContextLimit); }

}  // namespace ccm
