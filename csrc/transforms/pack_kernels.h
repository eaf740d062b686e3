// The loops of transform_pack.cpp, compiled for several instruction sets. All give the same bits: no products are
// fused.
#pragma once
#include <cstdint>

namespace ccm {

// Points of Winograd's F(6x6, 3x3).
constexpr int kPoints = 64;

struct PackKernels {
  // Kernels of an output phase, weight [out][in_all][3][3], to points [kPoints][in_all][out].
  void (*to_points)(const float* weight, int64_t in_all, int32_t out, float* points);
  // As pack_int16 of transform.h.
  void (*pack_int16)(const float* from, int32_t rows, int32_t columns, int32_t chunk, float* to);
};

const PackKernels& plain_pack_kernels();
#if defined(CCM_HAVE_AVX2)
const PackKernels& avx2_pack_kernels();
#endif

}  // namespace ccm
