// Dense integer convolutions over planes, row by row.
#pragma once
#include <cstdint>

#include "entropy/cpu/kernels.h"
#include "entropy/cpu/plane.h"
#include "model/model.h"

namespace ccm {

// relu8 or leaky8 rows [first, last) of `in` (width columns) into `out`, upsampled if the layer says so; channels
// beyond the layer's outputs are not touched.
void conv_byte_rows(const PackedModel& m, const Kernels& k, const ConvDesc& d, const Plane& in, int32_t first,
                    int32_t last, int32_t width, Plane& out);

// base[i][j][0 .. n_pad) += requantize(acc) for rows [first, last).
void conv_accumulate_rows(const PackedModel& m, const Kernels& k, const ConvDesc& d, const Plane& in, int32_t first,
                          int32_t last, int32_t width, int32_t* base);

// base += the masked convolution over a group's own latents, all of which are known; by way of the points, which the
// group must have.
void add_context(const PackedModel& m, const Kernels& k, const GroupDesc& d, const Plane& in, int32_t height,
                 int32_t width, int32_t* base);

}  // namespace ccm
