// Weights at Winograd's points and as 16-bit integers; included by one file per instruction set.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "base/array.h"
#include "transforms/pack_kernels.h"
#include "transforms/transform.h"

namespace ccm {
namespace {

// Kernel transform for the points 0, 1, -1, 2, -2, 1/2, -1/2, infinity.
constexpr double kG[8][3] = {{1, 0, 0},
                             {-2. / 9, -2. / 9, -2. / 9},
                             {-2. / 9, 2. / 9, -2. / 9},
                             {1. / 90, 2. / 90, 4. / 90},
                             {1. / 90, -2. / 90, 4. / 90},
                             {32. / 45, 16. / 45, 8. / 45},
                             {32. / 45, -16. / 45, 8. / 45},
                             {0, 0, 1}};

// Output channels that are transformed together, so that the inner loops become vectors.
constexpr int kWide = 8;

inline void at_points(const double (&w)[9][kWide], double (&u)[kPoints][kWide]) {
  double half[8][3][kWide];
  for (int i = 0; i < 8; ++i)
    for (int v = 0; v < 3; ++v)
      for (int l = 0; l < kWide; ++l)
        half[i][v][l] = kG[i][0] * w[v][l] + kG[i][1] * w[3 + v][l] + kG[i][2] * w[6 + v][l];
  for (int i = 0; i < 8; ++i)
    for (int j = 0; j < 8; ++j)
      for (int l = 0; l < kWide; ++l)
        u[8 * i + j][l] = kG[j][0] * half[i][0][l] + kG[j][1] * half[i][1][l] + kG[j][2] * half[i][2][l];
}

// Inputs outside, outputs inside: both the lines of weights that are read and those of points that are written stay in
// the first-level cache.
void to_points(const float* weight, int64_t in_all, int32_t out, float* points) {
  for (int64_t c = 0; c < in_all; ++c)
    for (int32_t first = 0; first < out; first += kWide) {
      const int32_t count = out - first < kWide ? out - first : kWide;
      double w[9][kWide] = {}, u[kPoints][kWide];
      for (int32_t l = 0; l < count; ++l)
        for (int t = 0; t < 9; ++t) w[t][l] = weight[((first + l) * in_all + c) * 9 + t];
      at_points(w, u);
      for (int p = 0; p < kPoints; ++p) {
        float* to = points + (p * in_all + c) * out + first;
        if (count == kWide)
          for (int32_t l = 0; l < kWide; ++l) to[l] = static_cast<float>(u[p][l]);
        else
          for (int32_t l = 0; l < count; ++l) to[l] = static_cast<float>(u[p][l]);
      }
    }
}

// The nearest integer of magnitude up to 32767, of two the even one. Unlike std::nearbyint it is two instructions on
// every machine.
inline int32_t nearest_word(float v) {
  constexpr float kOnes = 12582912, kMost = 32767;  // 1.5 * 2^23: its last bit counts ones
  v = (v + kOnes) - kOnes;
  v = v < -kMost ? -kMost : v;
  return static_cast<int32_t>(v > kMost ? kMost : v);
}

void pack_int16_columns(const float* from, int32_t rows, int32_t columns, int32_t chunk, float* to) {
  constexpr float kMost = 32767;
  // Rounding adds at most half the root of the number of rows to either root, the estimate of a row's root 1.5 * 2^-12
  // of it. Columns have equal roots, as far as 16 bits allow: scales of the largest weight alone had three times the
  // error (mbt2018's g_a).
  const double slack = 0.5 * std::sqrt(static_cast<double>(chunk));
  const double most_root = 2147483647.0 * (1 - 1.0 / 1024) / (kInt16Root + slack) - slack;
  const int32_t pad = static_cast<int32_t>(panel_floats(1, columns));
  Array<float> most(pad, 0), by(pad, 0);
  Array<double> power(pad, 0), most_power(pad, 0);  // of a chunk; of the largest
  for (int32_t r = 0; r < rows; ++r) {
    const float* row = from + static_cast<int64_t>(r) * columns;
    float* size = most.data();
    double* sum = power.data();
    for (int32_t c = 0; c < columns; ++c) {
      const float v = row[c] < 0 ? -row[c] : row[c];
      size[c] = size[c] < v ? v : size[c];
      sum[c] += double{row[c]} * double{row[c]};
    }
    if ((r + 1) % chunk) continue;
    double* largest = most_power.data();
    for (int32_t c = 0; c < columns; ++c) {
      largest[c] = largest[c] < sum[c] ? sum[c] : largest[c];
      sum[c] = 0;
    }
  }
  float* scales = to;
  for (int32_t c = 0; c < pad; ++c) {
    const double whole = most[c] / kMost, root = std::sqrt(most_power[c]) / most_root;
    scales[c] = static_cast<float>(whole < root ? root : whole);
    by[c] = scales[c] > 0 ? 1 / scales[c] : 0;
  }
  // A word is a pair of rows.
  float* panels = scales + pad;
  for (int32_t first = 0; first < columns; first += kPanel) {
    const int32_t count = columns - first < kPanel ? columns - first : kPanel;
    const float* factor = by.data() + first;
    for (int32_t r = 0; r < rows; r += 2, panels += kPanel) {
      const float *even = from + static_cast<int64_t>(r) * columns + first, *odd = even + columns;
      uint32_t words[kPanel] = {};
      if (count == kPanel)
        for (int32_t c = 0; c < kPanel; ++c)
          words[c] = static_cast<uint32_t>(nearest_word(even[c] * factor[c]) & 0xffff) |
                     static_cast<uint32_t>(nearest_word(odd[c] * factor[c])) << 16;
      else
        for (int32_t c = 0; c < count; ++c)
          words[c] = static_cast<uint32_t>(nearest_word(even[c] * factor[c]) & 0xffff) |
                     static_cast<uint32_t>(nearest_word(odd[c] * factor[c])) << 16;
      std::memcpy(panels, words, sizeof words);
    }
  }
}

constexpr PackKernels kPackKernels{to_points, pack_int16_columns};

}  // namespace
}  // namespace ccm
