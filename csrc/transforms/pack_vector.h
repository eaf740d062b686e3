// Weights at Winograd's points and as 16-bit integers; included by one file per instruction set.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#include "transforms/pack_kernels.h"
#include "transforms/transform.h"

namespace ccm {
namespace {

// kLanes floats to a vector, and as many doubles, which take two.
template <int kLanes>
struct PackVector {
  typedef float Floats __attribute__((vector_size(4 * kLanes)));
  typedef int32_t Words __attribute__((vector_size(4 * kLanes)));
  typedef double Doubles __attribute__((vector_size(8 * kLanes)));
};

template <class Vector>
inline void load(const float* from, Vector& v) {
  std::memcpy(&v, from, sizeof v);
}

template <class Vector>
inline void store(float* to, const Vector& v) {
  std::memcpy(to, &v, sizeof v);
}

// A polynomial's terms at a point and at its negative.
template <class Doubles>
inline void pair(const Doubles& p, const Doubles& q, const Doubles& r, Doubles& plus, Doubles& minus) {
  plus = (p + q) + r;
  minus = (p - q) + r;
}

// Three values at the points 0, 1, -1, 2, -2, 1/2, -1/2 and infinity.
template <class Doubles>
inline void at_points(const Doubles& a, const Doubles& b, const Doubles& c, Doubles (&to)[8]) {
  to[0] = a;
  pair<Doubles>(a * (-2. / 9), b * (-2. / 9), c * (-2. / 9), to[1], to[2]);
  pair<Doubles>(a * (1. / 90), b * (2. / 90), c * (4. / 90), to[3], to[4]);
  pair<Doubles>(a * (32. / 45), b * (16. / 45), c * (8. / 45), to[5], to[6]);
  to[7] = c;
}

template <int kLanes>
void to_points(const float* weight, int64_t in_all, int32_t columns, int64_t step, float* points) {
  using V = PackVector<kLanes>;
  const int64_t next = in_all * 9;  // from an output's kernels to the next one's
  float few[kLanes * 9] = {};
  for (int64_t c = 0; c < in_all; ++c)
    for (int32_t first = 0; first < kPanel; first += kLanes) {
      const float* from = weight + first * next + c * 9;
      int64_t apart = next;
      if (columns - first < kLanes) {  // the last ones of a panel that is not full
        for (int32_t l = 0; l < kLanes; ++l)
          for (int t = 0; t < 9; ++t) few[l * 9 + t] = first + l < columns ? from[l * next + t] : 0;
        from = few, apart = 9;
      }
      typename V::Doubles w[9], half[3][8], u[8];
      for (int t = 0; t < 9; ++t) {
        typename V::Floats tap{};
        for (int l = 0; l < kLanes; ++l) tap[l] = from[l * apart + t];
        w[t] = __builtin_convertvector(tap, typename V::Doubles);
      }
      for (int v = 0; v < 3; ++v) at_points(w[v], w[3 + v], w[6 + v], half[v]);
      float* to = points + c * kPanel + first;
      for (int i = 0; i < 8; ++i) {
        at_points(half[0][i], half[1][i], half[2][i], u);
        for (int j = 0; j < 8; ++j, to += step) store(to, __builtin_convertvector(u[j], typename V::Floats));
      }
    }
}

// The nearest integers of magnitude up to 32767, of two the even ones. Unlike std::nearbyint it is two instructions on
// every machine.
template <class Floats, class Words>
inline void nearest_words(const Floats& x, Words& words) {
  constexpr float kOnes = 12582912, kMost = 32767;  // 1.5 * 2^23: its last bit counts ones
  const Floats most = kMost - Floats{};
  Floats v = (x + kOnes) - kOnes;
  v = v < -most ? -most : v;
  v = v > most ? most : v;
  words = __builtin_convertvector(v, Words);
}

// Doubles in vectors of kLanes, all else in vectors of twice as many.
template <int kLanes>
void pack_int16_panel(const float* from, int32_t rows, int32_t chunk, float* scales, float* words) {
  typedef typename PackVector<2 * kLanes>::Floats Floats;
  typedef typename PackVector<2 * kLanes>::Words Words;
  typedef typename PackVector<kLanes>::Floats Half;
  typedef typename PackVector<kLanes>::Doubles Doubles;
  constexpr int kVectors = kPanel / (2 * kLanes), kHalves = kPanel / kLanes;
  // Rounding adds at most half the root of the number of rows to either root, the estimate of a row's root 1.5 * 2^-12
  // of it. Columns have equal roots, as far as 16 bits allow: scales of the largest weight alone had three times the
  // error (mbt2018's g_a).
  const double slack = 0.5 * std::sqrt(static_cast<double>(chunk));
  const double most_root = 2147483647.0 * (1 - 1.0 / 1024) / (kInt16Root + slack) - slack;
  Floats most[kVectors] = {};
  Doubles largest[kHalves] = {};  // sums of squares of a chunk
  const float* row = from;
  for (int32_t first = 0; first < rows; first += chunk) {
    Doubles sum[kHalves] = {};
    for (int32_t r = 0; r < chunk; ++r, row += kPanel) {
      for (int k = 0; k < kVectors; ++k) {
        Words size;
        Floats v;
        load(row + k * 2 * kLanes, size);
        size &= 0x7fffffff;
        std::memcpy(&v, &size, sizeof v);
        most[k] = most[k] < v ? v : most[k];
      }
      for (int k = 0; k < kHalves; ++k) {
        Half v;
        load(row + k * kLanes, v);
        const Doubles d = __builtin_convertvector(v, Doubles);
        sum[k] += d * d;
      }
    }
    for (int k = 0; k < kHalves; ++k) largest[k] = largest[k] < sum[k] ? sum[k] : largest[k];
  }
  Floats factor[kVectors];
  for (int c = 0; c < kPanel; ++c) {
    const double whole = most[c / (2 * kLanes)][c % (2 * kLanes)] / 32767.0f;
    const double root = std::sqrt(largest[c / kLanes][c % kLanes]) / most_root;
    scales[c] = static_cast<float>(whole < root ? root : whole);
    factor[c / (2 * kLanes)][c % (2 * kLanes)] = scales[c] > 0 ? 1 / scales[c] : 0;
  }
  // A word is a pair of rows.
  for (int32_t r = 0; r < rows; r += 2, from += 2 * kPanel, words += kPanel)
    for (int k = 0; k < kVectors; ++k) {
      Floats even, odd;
      Words low, high;
      load(from + k * 2 * kLanes, even);
      load(from + kPanel + k * 2 * kLanes, odd);
      nearest_words<Floats>(even * factor[k], low);
      nearest_words<Floats>(odd * factor[k], high);
      const Words both = (low & 0xffff) | high << 16;
      store(words + k * 2 * kLanes, both);
    }
}

}  // namespace
}  // namespace ccm
