// Rows of the tables and offsets from the heads of the network, as choose_row() of format/tables.h gives them.
// Compilers make vectors of it, so each file of kernels has its own, for its instruction set.
#pragma once
#include <cstdint>

#include "entropy/cpu/kernels.h"
#include "format/fixed_point.h"
#include "format/tables.h"

namespace ccm {
namespace {

inline void choose_rows(const ChooseArgs& g) {
  constexpr int32_t kOnes = (1 << kScaleBits) - 1;
  for (int32_t p = 0; p < g.count; ++p) {
    const int32_t* __restrict means = g.heads + p * g.ld_heads;
    const int32_t* __restrict codes = means + g.channels;
    const int32_t* __restrict scales = g.scales;
    uint16_t* __restrict rows = g.rows + static_cast<int64_t>(p) * g.channels;
    int16_t* __restrict offsets = g.offsets + static_cast<int64_t>(p) * g.channels;
    for (int32_t c = 0; c < g.channels; ++c) {
      // clamp(code, 0, last) without comparisons: compilers make two loads out of these.
      const int32_t least = codes[c] & ~(codes[c] >> 31), over = least - g.last_scale;
      const int32_t scale = scales[least - (over & ~(over >> 31))];
      const int32_t bits = scale & kOnes, drop = kMeanBits - bits;
      const int32_t mean = clamp(means[c], -32768, 32767);
      const int32_t rounded = ((mean + ((1 << drop) >> 1)) >> drop) + ((1 << bits) >> 1);
      rows[c] = static_cast<uint16_t>((scale >> kScaleBits) + (rounded & ((1 << bits) - 1)));
      offsets[c] = static_cast<int16_t>(g.residual ? mean : rounded >> bits);
    }
  }
}

}  // namespace
}  // namespace ccm
