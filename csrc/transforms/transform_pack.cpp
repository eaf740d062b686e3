// Weights of the transforms as their products read them.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "transforms/transform.h"

namespace ccm {
namespace {

constexpr int kPoints = 64;

// Kernel transform for the points 0, 1, -1, 2, -2, 1/2, -1/2, infinity.
constexpr double kG[8][3] = {{1, 0, 0},
                             {-2. / 9, -2. / 9, -2. / 9},
                             {-2. / 9, 2. / 9, -2. / 9},
                             {1. / 90, 2. / 90, 4. / 90},
                             {1. / 90, -2. / 90, 4. / 90},
                             {32. / 45, 16. / 45, 8. / 45},
                             {32. / 45, -16. / 45, 8. / 45},
                             {0, 0, 1}};

int64_t masks_of(const WinogradShape& s) { return kPoints * static_cast<int64_t>(s.out_phases); }

// Kernels of so many outputs at once: the compiler makes vectors of them.
constexpr int kWide = 8;

void at_points(const double (&w)[9][kWide], double (&u)[kPoints][kWide]) {
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

// Kernels of an output phase, weight [out][in_all][3][3], to points [64][in_all][out].
void to_points(const float* weight, int64_t in_all, int32_t out, float* points) {
  for (int32_t first = 0; first < out; first += kWide) {
    const int32_t count = std::min(kWide, out - first);
    for (int64_t c = 0; c < in_all; ++c) {
      double w[9][kWide] = {}, u[kPoints][kWide];
      for (int32_t l = 0; l < count; ++l)
        for (int t = 0; t < 9; ++t) w[t][l] = weight[((first + l) * in_all + c) * 9 + t];
      at_points(w, u);
      for (int p = 0; p < kPoints; ++p) {
        float* to = points + (p * in_all + c) * out + first;
        for (int32_t l = 0; l < count; ++l) to[l] = static_cast<float>(u[p][l]);
      }
    }
  }
}

// The nearest integer, of two the even one; below 2^22. Unlike std::nearbyint it is two instructions on every machine.
inline float nearest(float v) {
  constexpr float kOnes = 12582912;  // 1.5 * 2^23: its last bit counts ones
  return (v + kOnes) - kOnes;
}

}  // namespace

void pack_panels(const float* from, int32_t rows, int32_t columns, int64_t row_step, int64_t column_step, float* to) {
  for (int32_t first = 0; first < columns; first += kPanel)
    for (int32_t r = 0; r < rows; ++r)
      for (int32_t c = first; c < first + kPanel; ++c)
        *to++ = c < columns ? from[r * row_step + c * column_step] : 0.0f;
}

void pack_int16(const float* from, int32_t rows, int32_t columns, int32_t chunk, float* to) {
  constexpr float kMost = 32767;
  // Rounding adds at most half the root of the number of rows to either root, the estimate of a row's root 1.5 * 2^-12
  // of it. Columns have equal roots, as far as 16 bits allow: scales of the largest weight alone had three times the
  // error (mbt2018's g_a).
  const double slack = 0.5 * std::sqrt(chunk);
  const double most_root = 2147483647.0 * (1 - 1.0 / 1024) / (kInt16Root + slack) - slack;
  const int32_t pad = static_cast<int32_t>(panel_floats(1, columns));
  std::vector<float> most(pad), by(pad);
  std::vector<double> power(pad), most_power(pad);  // of a chunk; of the largest
  for (int32_t r = 0; r < rows; ++r) {
    const float* row = from + static_cast<int64_t>(r) * columns;
    for (int32_t c = 0; c < columns; ++c) {
      most[c] = std::max(most[c], std::abs(row[c]));
      power[c] += double{row[c]} * double{row[c]};
    }
    if ((r + 1) % chunk) continue;
    for (int32_t c = 0; c < columns; ++c) most_power[c] = std::max(most_power[c], power[c]);
    std::fill(power.begin(), power.end(), 0.0);
  }
  float* scales = to;
  for (int32_t c = 0; c < pad; ++c) {
    const double whole = most[c] / kMost, root = std::sqrt(most_power[c]) / most_root;
    scales[c] = static_cast<float>(std::max(whole, root));
    by[c] = scales[c] > 0 ? 1 / scales[c] : 0;
  }
  std::vector<int16_t> integers(static_cast<size_t>(rows) * pad);
  for (int32_t r = 0; r < rows; ++r)
    for (int32_t c = 0; c < columns; ++c) {
      const float v = std::clamp(nearest(from[static_cast<int64_t>(r) * columns + c] * by[c]), -kMost, kMost);
      integers[static_cast<size_t>(r) * pad + c] = static_cast<int16_t>(static_cast<int32_t>(v));
    }
  int16_t pairs[2 * kPanel];
  float* panels = scales + pad;
  for (int32_t first = 0; first < columns; first += kPanel)
    for (int32_t r = 0; r < rows; r += 2, panels += kPanel) {
      const int16_t* q = integers.data() + static_cast<int64_t>(r) * pad + first;
      for (int32_t c = 0; c < kPanel; ++c) {
        pairs[2 * c] = q[c];
        pairs[2 * c + 1] = q[pad + c];
      }
      std::memcpy(panels, pairs, sizeof pairs);
    }
}

std::vector<float> pack_winograd(const WinogradShape& s, const float* weight, bool int16) {
  const int64_t in_all = static_cast<int64_t>(s.in_phases) * s.in, phase = static_cast<int64_t>(s.in) * s.out;
  std::vector<float> points(static_cast<size_t>(kPoints * in_all * s.out)), packed(masks_of(s));
  packed.reserve(packed.size() + kPoints * s.out_phases * panel_floats(in_all + 1, s.out));
  for (int32_t o = 0; o < s.out_phases; ++o) {
    to_points(weight + o * s.out * in_all * 9, in_all, s.out, points.data());
    for (int32_t p = 0; p < kPoints; ++p) {
      // The input phases' blocks that are not zero, moved together. Kernels of fewer than three taps have no products
      // at infinity, or at 0.
      float* block = points.data() + p * in_all * s.out;
      int32_t mask = 0, rows = 0;
      for (int32_t i = 0; i < s.in_phases; ++i) {
        const float *from = block + i * phase, *end = from + phase;
        if (std::all_of(from, end, [](float v) { return v == 0; })) continue;
        float* to = block + static_cast<int64_t>(rows) * s.out;
        if (to != from) std::copy(from, end, to);
        mask |= 1 << i;
        rows += s.in;
      }
      const size_t at = packed.size();
      packed.resize(at + (int16 ? int16_floats(rows, s.out) : panel_floats(rows, s.out)));
      if (int16 && rows)
        pack_int16(block, rows, s.out, int16_chunk(s.in), packed.data() + at);
      else
        pack_panels(block, rows, s.out, s.out, 1, packed.data() + at);
      std::memcpy(&packed[kPoints * o + p], &mask, sizeof mask);
    }
  }
  return packed;
}

bool winograd_fits(const WinogradShape& s, const float* packed, int64_t n, bool int16) {
  int64_t wanted = masks_of(s);
  if (n < wanted) return false;
  for (int64_t m = 0; m < masks_of(s); ++m) {
    uint32_t mask;
    std::memcpy(&mask, packed + m, sizeof mask);
    if (mask >> s.in_phases) return false;
    int64_t rows = 0;
    for (; mask; mask &= mask - 1) rows += s.in;
    wanted += int16 ? int16_floats(rows, s.out) : panel_floats(rows, s.out);
  }
  return n == wanted;
}

}  // namespace ccm
