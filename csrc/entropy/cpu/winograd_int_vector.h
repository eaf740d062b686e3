// To the points and back (winograd_int.h), in the compiler's vector types; included by one file per instruction set.
// Everything is in an unnamed namespace: code compiled for one must not be merged with another's.
#pragma once
#include <cstdint>

#include "entropy/cpu/kernels.h"

namespace ccm {
namespace {

template <class T, int kLanes>
struct Lanes {
  // Unsigned: sums may wrap.
  typedef T Reg __attribute__((vector_size(kLanes * sizeof(T))));
  typedef T Loose __attribute__((vector_size(kLanes * sizeof(T)), aligned(alignof(T)), may_alias));
  static inline Reg load(const void* p) { return *static_cast<const Loose*>(p); }
  static inline void store(void* p, Reg v) { *static_cast<Loose*>(p) = v; }
};

// Six inputs at the points.
template <class Reg>
inline void inputs_at_points(const Reg* d, Reg* to, int to_step) {
  const Reg even = d[4] - 4 * d[2], odd = d[3] - 4 * d[1];
  const Reg even2 = d[4] - d[2], odd2 = 2 * (d[3] - d[1]);
  to[0] = 4 * d[0] - 5 * d[2] + d[4];
  to[to_step] = even + odd;
  to[2 * to_step] = even - odd;
  to[3 * to_step] = even2 + odd2;
  to[4 * to_step] = even2 - odd2;
  to[5 * to_step] = 4 * d[1] - 5 * d[3] + d[5];
}

template <int kLanes>
inline void to_points_lanes(const ToPointsArgs& g, int32_t c) {
  using L = Lanes<uint16_t, kLanes>;
  typename L::Reg half[36];
  for (int j = 0; j < 6; ++j) {
    typename L::Reg d[6];
    for (int i = 0; i < 6; ++i) d[i] = L::load(static_cast<const uint16_t*>(g.pixel[6 * i + j]) + c);
    inputs_at_points(d, half + j, 6);
  }
  for (int i = 0; i < 6; ++i) {
    typename L::Reg out[6];
    inputs_at_points(half + 6 * i, out, 1);
    for (int j = 0; j < 6; ++j) L::store(g.to + (6 * i + j) * g.stride + c, out[j]);
  }
}

void to_points_vector(const ToPointsArgs& g) {
  int32_t c = 0;
  for (; c + 16 <= g.channels; c += 16) to_points_lanes<16>(g, c);
  if (c + 8 <= g.channels) to_points_lanes<8>(g, c), c += 8;
  if (c + 4 <= g.channels) to_points_lanes<4>(g, c);
}

// Four sums (kernels of three) or two (of five) from six products, times 3 << kShift[i].
template <int kOut, class Reg>
inline void sums_from_points(const Reg* m, Reg* to, int to_step) {
  const Reg a = m[1] + m[2], b = m[1] - m[2], c = m[3] + m[4], d = m[3] - m[4];
  to[0] = 6 * m[0] + 4 * a + c;
  if constexpr (kOut == 4) {
    to[to_step] = 2 * b + d;
    to[2 * to_step] = a + c;
    to[3 * to_step] = b + 2 * d + 6 * m[5];
  } else {
    to[to_step] = 2 * b + d + 12 * m[5];
  }
}
constexpr int kShift[4] = {3, 2, 1, 1};

constexpr uint32_t kInverseOf9 = 0x38e38e39;
static_assert(kInverseOf9 * 9 == 1);

template <int kColumns>
void from_points_vector(const FromPointsArgs& g) {
  constexpr int kLanes = 8;
  using L = Lanes<uint32_t, kLanes>;
  typedef int32_t Signed __attribute__((vector_size(kLanes * 4)));
  for (int32_t n = 0; n < g.n; n += kLanes) {
    typename L::Reg half[4 * 6];
    for (int j = 0; j < 6; ++j) {
      typename L::Reg m[6];
      for (int i = 0; i < 6; ++i) m[i] = L::load(g.from + (6 * i + j) * g.stride + n);
      sums_from_points<4>(m, half + j, 6);
    }
    const typename L::Reg init = L::load(g.init + n);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      typename L::Reg out[kColumns];
      sums_from_points<kColumns>(half + 6 * i, out, 1);
#pragma GCC unroll 4
      for (int j = 0; j < kColumns; ++j) {
        const Signed sum = reinterpret_cast<Signed>(out[j] * kInverseOf9) >> (kShift[i] + kShift[j]);
        L::store(g.to + i * g.row_stride + j * g.column_stride + n, reinterpret_cast<typename L::Reg>(sum) + init);
      }
    }
  }
}

}  // namespace
}  // namespace ccm
