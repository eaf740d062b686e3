// Tiles of the dense part.
#pragma once
#include <cstdint>

#include "base/platform.h"

namespace ccm {

// Small, for the next group to follow closely: a group starts 26 steps behind the one before it (768x512, ccm-base), by
// the cost model; with tiles of 4 x 16, 34. The dependency itself is 17. Twelve warps have twelve times 16 channels to
// compute of each. A row of eight positions is a tile of products.
constexpr int32_t kDenseRows = 2, kDenseColumns = 8;

// The grids of a stack's layers are shifted up and to the left, each by its layer's radius more than the one before: a
// tile then reads tiles of the layer before that lie above it, to its left, or in its place, which the wavefront
// completes early, and none below or to its right. Without this a group starts 88 steps behind, with tiles of 4 x 16.
CCM_HD int32_t tile_count(int32_t n, int32_t tile) { return n / tile + (n % tile != 0); }

}  // namespace ccm
