// The picture filter (FORMAT.md, section 8) on a GPU: one launch from what g_s gives to samples.
#pragma once
#include <cstdint>

#include "entropy/cuda/device.h"
#include "format/picture_filter.h"

namespace ccm {

// A picture's filter as the kernel reads it, in floats: how many colours it is for (0: there is none, samples are only
// rounded), how many classes it has, the bounds between these, then weights [classes][colours][colours * kFilterTaps]
// of taps in RGB for sums in RGB. What is left over may hold anything.
constexpr int32_t kRecordBounds = 2, kRecordWeights = kRecordBounds + kFilterBins - 1,
                  kFilterRecord = kRecordWeights + kFilterBins * 3 * 3 * kFilterTaps;

// Strides are in elements: g_s may give planes or pixels whose colours lie together.
struct FilterArgs {
  const void* pixels;  // float in [0, 1], or int16 in units of kFilterUnits a level
  bool floats;
  int32_t planes;  // of a picture: 3, or 1
  int64_t picture_stride, plane_stride, row_stride, column_stride;
  const float* filters;  // [batch][kFilterRecord]
  void* out;             // [batch][out_planes][height][width]: uint8, or float in [0, 1]
  bool bytes;
  int32_t out_planes;  // what is more than a picture's colours repeats the first one
  int32_t batch, height, width;
};

cudaError_t launch_picture_filter(const FilterArgs& a, cudaStream_t stream);

}  // namespace ccm
