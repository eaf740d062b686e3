// Portable kernels, the definition of what the vector ones compute.
#include "entropy/cpu/choose_rows.h"
#include "entropy/cpu/kernels.h"
#include "format/fixed_point.h"

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

// body(r, i, requantized value) for every value of a block.
template <class Body>
void for_each(const RequantizeArgs& g, Body body) {
  for (int32_t r = 0; r < g.rows; ++r)
    for (int32_t i = 0; i < g.n; ++i)
      body(r * g.ld_out + i, requantize(g.acc[r * g.ld_acc + i], g.mult[i], g.shift[i]));
}

void relu8_scalar(const RequantizeArgs& g, void* out) {
  auto* o = static_cast<int16_t*>(out);
  for_each(g, [o](int64_t at, int32_t v) { o[at] = static_cast<int16_t>(clamp(v, 0, 255)); });
}

void leaky8_scalar(const RequantizeArgs& g, const int32_t* below, int32_t zero, void* out) {
  auto* o = static_cast<int16_t*>(out);
  for (int32_t r = 0; r < g.rows; ++r)
    for (int32_t i = 0; i < g.n; ++i) {
      const int32_t acc = g.acc[r * g.ld_acc + i];
      const int32_t v = requantize_leaky(acc, g.mult[i], below[i], g.shift[i]);
      o[r * g.ld_out + i] = static_cast<int16_t>(clamp(v, -zero, 255 - zero));
    }
}

void accumulate_scalar(const RequantizeArgs& g, int32_t* out) {
  for_each(g, [out](int64_t at, int32_t v) { out[at] += v; });
}

void rescale_scalar(const RequantizeArgs& g, int32_t* out) {
  for_each(g, [out](int64_t at, int32_t v) { out[at] = v; });
}

}  // namespace

const Kernels& scalar_kernels() {
  static const Kernels k{{"scalar", kIsaScalar, kColumns, kBlock, 2},
                         gemm_scalar,
                         relu8_scalar,
                         leaky8_scalar,
                         accumulate_scalar,
                         rescale_scalar,
                         choose_rows};
  return k;
}

}  // namespace ccm
