// What the kernels of 64-bit Arm share: products of bytes with sums of four in 32 bits, and requantize() on four lanes,
// bit for bit the function of fixed_point.h. Included by one file per instruction set.
#pragma once
#include <arm_neon.h>

#include <cstdint>
#include <cstring>

#include "entropy/cpu/kernels.h"

namespace ccm {
namespace {

// A weight panel: 16 columns of 4 elements, four registers a block. A tile takes 16 accumulators, 4 weights and 4
// registers of elements, 16 of a row at once.
constexpr int kNeonColumns = 16, kNeonBlock = 4, kNeonRows = 4, kNeonRegs = 4, kNeonBlocks = 4;

template <class Dot, int kLane, int kRows>
inline void dot_block(int32x4_t (&acc)[kRows][kNeonRegs], const typename Dot::Elements (&x)[kRows], const int8_t*& w) {
#pragma GCC unroll 4
  for (int r = 0; r < kNeonRegs; ++r) {
    const int8x16_t weights = vld1q_s8(w + 16 * r);
#pragma GCC unroll 4
    for (int m = 0; m < kRows; ++m) acc[m][r] = Dot::template dot<kLane>(acc[m][r], weights, x[m]);
  }
  w += kNeonColumns * kNeonBlock;
}

// correction: what to add to every sum of a column, [kNeonRegs].
template <class Dot, int kRows>
inline void neon_tile(const GemmArgs& g, int32_t row, int32_t col, const int8_t* w, const int32x4_t* correction) {
  int32x4_t acc[kRows][kNeonRegs];
#pragma GCC unroll 4
  for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 4
    for (int r = 0; r < kNeonRegs; ++r) acc[m][r] = vaddq_s32(vld1q_s32(g.init[row + m] + col + 4 * r), correction[r]);
  for (int32_t t = 0; t < g.taps; ++t) {
    const uint8_t* p[kRows];
    for (int m = 0; m < kRows; ++m) p[m] = static_cast<const uint8_t*>(g.a[row + m]) + g.tap_offset[t];
    typename Dot::Elements x[kRows];
    int32_t k = 0;
    for (; k + kNeonBlock * kNeonBlocks <= g.k; k += kNeonBlock * kNeonBlocks) {
      for (int m = 0; m < kRows; ++m) x[m] = Dot::elements(vld1q_u8(p[m] + k));
      dot_block<Dot, 0>(acc, x, w);
      dot_block<Dot, 1>(acc, x, w);
      dot_block<Dot, 2>(acc, x, w);
      dot_block<Dot, 3>(acc, x, w);
    }
    for (; k < g.k; k += kNeonBlock) {
      for (int m = 0; m < kRows; ++m) {
        uint32_t block;
        std::memcpy(&block, p[m] + k, sizeof block);
        x[m] = Dot::elements(vreinterpretq_u8_u32(vdupq_n_u32(block)));
      }
      dot_block<Dot, 0>(acc, x, w);
    }
  }
  for (int m = 0; m < kRows; ++m)
    for (int r = 0; r < kNeonRegs; ++r) vst1q_s32(g.c + (row + m) * g.ldc + col + 4 * r, acc[m][r]);
}

// Runtime row count -> compile-time row count.
template <class Dot, int kRows>
inline void neon_rows(const GemmArgs& g, int32_t row, int32_t count, int32_t col, const int8_t* w,
                      const int32x4_t* correction) {
  if (count == kRows) {
    neon_tile<Dot, kRows>(g, row, col, w, correction);
  } else if constexpr (kRows > 1) {
    neon_rows<Dot, kRows - 1>(g, row, count, col, w, correction);
  }
}

template <class Dot>
void gemm_neon(const GemmArgs& g) {
  const int64_t panel = static_cast<int64_t>(g.taps) * g.k * kNeonColumns;
  // Equal tiles, as in kernels_vector.h.
  const int32_t tiles = (g.m + kNeonRows - 1) / kNeonRows;
  for (int32_t col = 0; col < g.n_pad; col += kNeonColumns) {
    const int8_t* w = static_cast<const int8_t*>(g.w) + panel * (col / kNeonColumns);
    int32x4_t correction[kNeonRegs];
    Dot::correction(w, panel, correction);
    for (int32_t t = 0; t < tiles; ++t) {
      const int32_t first = static_cast<int32_t>(static_cast<int64_t>(g.m) * t / tiles);
      const int32_t last = static_cast<int32_t>(static_cast<int64_t>(g.m) * (t + 1) / tiles);
      neon_rows<Dot, kNeonRows>(g, first, last - first, col, w, correction);
    }
  }
}

// Four columns.
struct Requantizer4 {
  int32x4_t mult;
  int64x2_t left_low, left_high;  // shifts to the left: negative

  Requantizer4(const int32_t* m, const int32_t* shift) : mult(vld1q_s32(m)) {
    const int32x4_t left = vnegq_s32(vld1q_s32(shift));
    left_low = vmovl_s32(vget_low_s32(left));
    left_high = vmovl_s32(vget_high_s32(left));
  }
  int32x4_t operator()(int32x4_t acc) const { return scaled(acc, mult); }
  int32x4_t leaky(int32x4_t acc, int32x4_t below) const { return scaled(acc, vbslq_s32(vcltzq_s32(acc), below, mult)); }
  int32x4_t scaled(int32x4_t acc, int32x4_t by) const {
    const int64x2_t low = vmull_s32(vget_low_s32(acc), vget_low_s32(by)), high = vmull_high_s32(acc, by);
    return vmovn_high_s64(vmovn_s64(vrshlq_s64(low, left_low)), vrshlq_s64(high, left_high));
  }
};

inline int32x4_t clamped(int32x4_t v, int32_t least, int32_t most) {
  return vminq_s32(vmaxq_s32(v, vdupq_n_s32(least)), vdupq_n_s32(most));
}

// Eight values of 0..255 as bytes.
inline void store_bytes(uint8_t* to, int32x4_t a, int32x4_t b) {
  vst1_u8(to, vmovn_u16(vreinterpretq_u16_s16(vcombine_s16(vmovn_s32(a), vmovn_s32(b)))));
}

void relu8_neon(const RequantizeArgs& g, void* out) {
  for (int32_t i = 0; i < g.n; i += 8) {
    const Requantizer4 q(g.mult + i, g.shift + i), q4(g.mult + i + 4, g.shift + i + 4);
    for (int32_t r = 0; r < g.rows; ++r) {
      const int32_t* acc = g.acc + r * g.ld_acc + i;
      store_bytes(static_cast<uint8_t*>(out) + r * g.ld_out + i, clamped(q(vld1q_s32(acc)), 0, 255),
                  clamped(q4(vld1q_s32(acc + 4)), 0, 255));
    }
  }
}

void leaky8_neon(const RequantizeArgs& g, const int32_t* below, int32_t zero, void* out) {
  const int32x4_t bias = vdupq_n_s32(zero);
  for (int32_t i = 0; i < g.n; i += 8) {
    const Requantizer4 q(g.mult + i, g.shift + i), q4(g.mult + i + 4, g.shift + i + 4);
    const int32x4_t b = vld1q_s32(below + i), b4 = vld1q_s32(below + i + 4);
    for (int32_t r = 0; r < g.rows; ++r) {
      const int32_t* acc = g.acc + r * g.ld_acc + i;
      store_bytes(static_cast<uint8_t*>(out) + r * g.ld_out + i,
                  vaddq_s32(clamped(q.leaky(vld1q_s32(acc), b), -zero, 255 - zero), bias),
                  vaddq_s32(clamped(q4.leaky(vld1q_s32(acc + 4), b4), -zero, 255 - zero), bias));
    }
  }
}

template <bool kAdd>
void rescale_neon(const RequantizeArgs& g, int32_t* out) {
  for (int32_t i = 0; i < g.n; i += 4) {
    const Requantizer4 q(g.mult + i, g.shift + i);
    for (int32_t r = 0; r < g.rows; ++r) {
      int32_t* to = out + r * g.ld_out + i;
      int32x4_t v = q(vld1q_s32(g.acc + r * g.ld_acc + i));
      if (kAdd) v = vaddq_s32(v, vld1q_s32(to));
      vst1q_s32(to, v);
    }
  }
}

}  // namespace
}  // namespace ccm
