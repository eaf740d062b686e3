// Tiles of the dense part.
#pragma once
#include <cstdint>

#include "ccm/platform.h"

namespace ccm {

// Eight tiles of products, so that each weight is used 64 times a load, and small enough for the next group to follow
// closely: a 768x512 image has 24 of them.
constexpr int32_t kDenseRows = 4, kDenseColumns = 16;

// The grids of a stack's layers are shifted up and to the left, each by its layer's radius more than the one before: a
// tile then reads tiles of the layer before that lie above it, to its left, or in its place, which the wavefront
// completes early, and none below or to its right. Without this a group starts 88 steps behind the one before it
// (768x512, ccm-base), with it 34, by the cost model; the dependency itself is 17.
CCM_HD int32_t tile_count(int32_t n, int32_t tile) { return n / tile + (n % tile != 0); }

}  // namespace ccm
