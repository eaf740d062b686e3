// Symbols and latents: what a stream may hold (FORMAT.md, section 4).
#pragma once
#include <cstdint>

#include "base/platform.h"

namespace ccm {

// The largest magnitude of a latent, of a symbol of z, and of a residual latent in 1/16.
constexpr int32_t kSymbolMax = 32767;

CCM_HD bool symbol_fits(int32_t value) { return value >= -kSymbolMax && value <= kSymbolMax; }

}  // namespace ccm
