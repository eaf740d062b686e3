// Escapes: a value outside its row is a magnitude, odd below the row and even above it (FORMAT.md, section 4).
#pragma once
#include <cstdint>

#include "base/platform.h"

namespace ccm {

// The magnitude of a value outside the row lo .. lo + count - 2; count: the row's entries, the escape included.
CCM_HD uint32_t escape_magnitude(int32_t lo, int32_t count, int32_t value) {
  const int32_t above = value - (lo + count - 1);
  return above >= 0 ? 2u * static_cast<uint32_t>(above) : 2u * static_cast<uint32_t>(lo - 1 - value) + 1;
}

// The value that a magnitude stands for.
CCM_HD int32_t escape_value(int32_t lo, int32_t count, uint32_t magnitude) {
  const int32_t half = static_cast<int32_t>(magnitude >> 1);
  return magnitude & 1 ? lo - 1 - half : lo + count - 1 + half;
}

}  // namespace ccm
