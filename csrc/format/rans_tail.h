// Where encoders of version 2 start a lane (FORMAT.md, section 5, "Encoding"), shared by host and device.
#pragma once
#include "format/rans.h"

namespace ccm {

// The least state that takes a symbol to `state` or beyond.
CCM_HD uint64_t least_before(uint64_t state, uint32_t start, uint32_t freq) {
  const uint64_t high = state >> kProbBits;
  const uint32_t slot = static_cast<uint32_t>(state) & kProbMask;
  if (slot < start) return freq * high;
  return slot - start < freq ? freq * high + slot - start : freq * (high + 1);
}

}  // namespace ccm
