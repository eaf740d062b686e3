// Vector kernels of the rANS decoder.
#pragma once
#include <cstdint>

#include "format/tables.h"

namespace ccm {

// Vector instructions that a decoder may use: none, those that every processor of this architecture has (SSE2), or the
// best of this machine. The results are the same.
enum class Vectors : uint8_t { kNone, kBaseline, kBest };

// Decodes whole rounds of n symbols (a multiple of the lanes) until one of them meets an escape. Values are relative to
// their offsets. The caller has made sure that a word for every symbol is left. Returns the number of symbols decoded,
// moves `next`, and stores the lanes that met an escape in the last round as a mask.
using RansRounds = int32_t (*)(const Rows& tables, const uint16_t* rows, int32_t n, int16_t* out, uint64_t* state,
                               const uint8_t*& next, uint32_t& escaped);

// The kernel for so many lanes, or null: this machine has none, or its results disagreed with the plain code in the
// self-check that runs once per process. It takes tables for which fits_origin() holds.
RansRounds vector_rounds(int32_t lanes);

#if defined(CCM_HAVE_AVX2)
RansRounds avx2_rounds(int32_t lanes);
#endif

// Whether RowFind::origin of every row is whole.
inline bool fits_origin(const Rows& tables) {
  const RowInfo& last = tables.info[tables.count - 1];
  return last.first + last.count <= 1u << kOriginBits;
}

}  // namespace ccm
