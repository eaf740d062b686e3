// The loops of transform_pack.cpp, compiled for several instruction sets. All give the same bits: no products are
// fused.
#pragma once
#include <cstdint>

namespace ccm {

// Points of Winograd's F(6x6, 3x3).
constexpr int kPoints = 64;

struct PackKernels {
  // Kernels of `columns` outputs, at most kPanel, weight [columns][in_all][3][3], to panels of the points: that of
  // point p is points + p * step, [in_all][kPanel]. Columns that are not there become 0.
  void (*to_points)(const float* weight, int64_t in_all, int32_t columns, int64_t step, float* points);
  // A panel of pack_int16 (transform.h): from [rows][kPanel] to scales [kPanel] and words [rows / 2][kPanel].
  void (*pack_int16)(const float* from, int32_t rows, int32_t chunk, float* scales, float* words);
};

const PackKernels& plain_pack_kernels();
#if defined(CCM_HAVE_AVX2)
const PackKernels& avx2_pack_kernels();
#endif

}  // namespace ccm
