// What an escape takes beside its entry of the table, in bits: to compare candidates by. Host only.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>

#include "format/escape.h"
#include "format/rans.h"

namespace ccm {

// The length of the magnitude, then its bits but the first (FORMAT.md, section 4). Arguments: see escape_magnitude().
inline float escape_bits(int32_t lo, int32_t count, int32_t symbol) {
  const uint32_t magnitude = std::max(escape_magnitude(lo, count, symbol), 1u);
  return static_cast<float>(kEscapeLengthBits + std::floor(std::log2(static_cast<double>(magnitude))));
}

}  // namespace ccm
