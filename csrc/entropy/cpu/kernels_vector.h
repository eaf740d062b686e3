// The matrix kernel over a vector type V; included by one file per instruction set, which supplies V.
//
// V: Reg (vector of 32-bit lanes), kLanes, kRows (rows per tile: with two column registers a tile needs 2 * kRows
// accumulators, two weight registers and one or two for the broadcast), Element, Weight, kBlock, zero-cost load and
// store, and step: one block of elements by two registers of weights.
// Everything is in an unnamed namespace: code compiled for one instruction set must not be merged with another's.
#pragma once
#include <cstddef>
#include <cstdint>

#include "entropy/cpu/kernels.h"

namespace ccm {
namespace {

// How far ahead weights are asked for. Networks of some MB come from the third-level cache at every step of a decoder,
// and the processor's own prefetching stops at each page of 4 kB: without this such products lose a quarter of their
// speed.
constexpr int kAhead = 4096;

template <class V, int kRows>
inline void gemm_tile(const GemmArgs& g, int32_t row, int32_t col, const typename V::Weight* w) {
  using Reg = typename V::Reg;
  using Element = typename V::Element;
  Reg acc[kRows][2];
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m) {
    acc[m][0] = V::load(g.init[row + m] + col);
    acc[m][1] = V::load(g.init[row + m] + col + V::kLanes);
  }
  const int32_t blocks = g.k / V::kBlock;
  for (int32_t t = 0; t < g.taps; ++t) {
    const Element* p[kRows];
#pragma GCC unroll 16
    for (int m = 0; m < kRows; ++m) {
      p[m] = static_cast<const Element*>(g.a[row + m]) + g.tap_offset[t];
      __asm__("" : "+r"(p[m]));  // one register; compilers else add the offset anew for every block
    }
    for (int32_t k = 0; k < blocks; ++k) {
      const Reg w0 = V::load_weight(w), w1 = V::load_weight(w + V::kLanes * V::kBlock);
      for (size_t line = 0; line < 2 * V::kLanes * V::kBlock * sizeof(*w); line += 64)
        __builtin_prefetch(reinterpret_cast<const char*>(w) + kAhead + line);
      w += 2 * V::kLanes * V::kBlock;
#pragma GCC unroll 16
      for (int m = 0; m < kRows; ++m) {
        V::step(acc[m][0], acc[m][1], p[m] + k * V::kBlock, w0, w1);
      }
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m) {
    int32_t* c = g.c + (row + m) * g.ldc + col;
    V::store(c, acc[m][0]);
    V::store(c + V::kLanes, acc[m][1]);
  }
}

// Runtime row count -> compile-time row count.
template <class V, int kRows>
inline void gemm_rows(const GemmArgs& g, int32_t row, int32_t count, int32_t col, const typename V::Weight* w) {
  if (count == kRows) {
    gemm_tile<V, kRows>(g, row, col, w);
  } else if constexpr (kRows > 1) {
    gemm_rows<V, kRows - 1>(g, row, count, col, w);
  }
}

template <class V>
void gemm_vector(const GemmArgs& g) {
  constexpr int kColumns = 2 * V::kLanes;
  const int64_t panel = static_cast<int64_t>(g.taps) * g.k * kColumns;
  // Equal tiles instead of full ones and a rest: 7 rows are done as 4 + 3, since a tile's cost hardly depends on its
  // rows once there are too few of them to hide the latency of the accumulation.
  const int32_t tiles = (g.m + V::kRows - 1) / V::kRows;
  for (int32_t col = 0; col < g.n_pad; col += kColumns) {
    const auto* w = static_cast<const typename V::Weight*>(g.w) + panel * (col / kColumns);
    for (int32_t t = 0; t < tiles; ++t) {
      const int32_t first = static_cast<int32_t>(static_cast<int64_t>(g.m) * t / tiles);
      const int32_t last = static_cast<int32_t>(static_cast<int64_t>(g.m) * (t + 1) / tiles);
      gemm_rows<V, V::kRows>(g, first, last - first, col, w);
    }
  }
}

}  // namespace
}  // namespace ccm
