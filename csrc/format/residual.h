// Residual models: a symbol is a latent's distance from its mean in whole units; latents and means are in 1/16, an
// encoder's latents in 1/256 (FORMAT.md, section 3).
#pragma once
#include <cstdint>

#include "base/platform.h"
#include "format/symbol.h"
#include "format/tables.h"

namespace ccm {

// The input of an encoder up to which a latent fits 16 bits whatever its mean is: it differs from the input by at most
// half a symbol, and 32767 / 16 - 1 / 2 = 524144 / 256.
constexpr int32_t kResidualLimit = kSymbolMax * 16 - 128;

// A latent in 1/16.
CCM_HD int32_t residual_latent(int32_t symbol, int32_t mean) { return (1 << kMeanBits) * symbol + mean; }

// The symbol nearest to a latent in 1/256, halves up.
CCM_HD int32_t residual_symbol(int32_t latent, int32_t mean) {
  constexpr int32_t kUnitBits = 8;
  return (latent - mean * (1 << (kUnitBits - kMeanBits)) + (1 << (kUnitBits - 1))) >> kUnitBits;
}

}  // namespace ccm
