// The matrix kernel alone, as a yardstick for what the decoder makes of it.
#pragma once
#include <cstdint>
#include <vector>

#include "entropy/cpu/kernels.h"

namespace ccm {

// x [m][k] times w [n][k], `repeats` times over.
std::vector<int32_t> int8_product(const Kernels& kernels, const uint8_t* x, const int8_t* w, int32_t m, int32_t k,
                                  int32_t n, int64_t repeats);

}  // namespace ccm
