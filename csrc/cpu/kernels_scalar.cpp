// Portable kernels, the definition of what the vector ones compute.
#include "ccm/fixed_point.h"
#include "cpu/kernels.h"

namespace ccm {
namespace {

constexpr int kColumns = 16, kBlock = 2;

void gemm_scalar(const GemmArgs& g) {
  const int64_t panel = static_cast<int64_t>(g.taps) * g.k * kColumns;
  for (int32_t col = 0; col < g.n_pad; col += kColumns) {
    for (int32_t m = 0; m < g.m; ++m) {
      const auto* w = static_cast<const int16_t*>(g.w) + panel * (col / kColumns);
      int32_t acc[kColumns];
      for (int n = 0; n < kColumns; ++n) acc[n] = g.init[m][col + n];
      for (int32_t t = 0; t < g.taps; ++t) {
        const auto* x = static_cast<const int16_t*>(g.a[m]) + g.tap_offset[t];
        for (int32_t k = 0; k < g.k; k += kBlock) {
          for (int n = 0; n < kColumns; ++n) acc[n] += x[k] * w[kBlock * n] + x[k + 1] * w[kBlock * n + 1];
          w += kColumns * kBlock;
        }
      }
      for (int n = 0; n < kColumns; ++n) g.c[m * g.ldc + col + n] = acc[n];
    }
  }
}

void relu8_scalar(const int32_t* acc, const int32_t* mult, const int32_t* shift, void* out, int32_t n) {
  auto* o = static_cast<int16_t*>(out);
  for (int32_t i = 0; i < n; ++i) o[i] = static_cast<int16_t>(clamp(requantize(acc[i], mult[i], shift[i]), 0, 255));
}

void accumulate_scalar(const int32_t* acc, const int32_t* mult, const int32_t* shift, int32_t* out, int32_t n) {
  for (int32_t i = 0; i < n; ++i) out[i] += requantize(acc[i], mult[i], shift[i]);
}

void rescale_scalar(const int32_t* acc, const int32_t* mult, const int32_t* shift, int32_t* out, int32_t n) {
  for (int32_t i = 0; i < n; ++i) out[i] = requantize(acc[i], mult[i], shift[i]);
}

}  // namespace

const Kernels& scalar_kernels() {
  static const Kernels k{"scalar",    kIsaScalar,   kColumns,          kBlock,        2,
                         gemm_scalar, relu8_scalar, accumulate_scalar, rescale_scalar};
  return k;
}

}  // namespace ccm
