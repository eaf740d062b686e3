// Parts of planes that are computed instead of whole ones, bit for bit as those would be.
#pragma once
#include <cstdint>

#include "transforms/convolution.h"
#include "transforms/tiles.h"

namespace ccm {

// A part of a plane, and which.
struct PlanePart {
  FloatPlane values;
  Window at;

  const float* from(int64_t i, int64_t j) const { return values.at(i - at.i0, j - at.j0); }
};

// What a convolution of stride 1 has to be given of a plane of height x width, for its results in `wanted` to be those
// of the whole plane to the last bit. That is more than the kernel reaches: Winograd's outputs come by tiles, whose
// values and scales depend on all that a tile reads. Windows therefore begin where tiles do.
Window inputs_of(const Window& wanted, int64_t kernel, int64_t height, int64_t width);

// The part of a part; itself where hardly anything would be saved. `wanted` lies in it.
PlanePart cut(PlanePart part, const Window& wanted);

}  // namespace ccm
