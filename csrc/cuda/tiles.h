// Tiles of the dense part.
#pragma once
#include <cstdint>

#include "ccm/platform.h"

namespace ccm {

// Eight tiles of products, so that each weight is used 64 times a load, and small enough for the next group to follow
// closely: a 768x512 image has 24 of them.
constexpr int32_t kDenseRows = 4, kDenseColumns = 16;

CCM_HD int32_t tile_count(int32_t n, int32_t tile) { return n / tile + (n % tile != 0); }

}  // namespace ccm
