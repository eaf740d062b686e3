#include "cpu/transform.h"

#include <algorithm>
#include <cmath>
#include <cstring>

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

int64_t masks_of(const WinogradShape& s) { return 64 * static_cast<int64_t>(s.out_phases); }

}  // namespace

void pack_panels(const float* from, int32_t rows, int32_t columns, int64_t row_step, int64_t column_step, float* to) {
  for (int32_t first = 0; first < columns; first += kPanel)
    for (int32_t r = 0; r < rows; ++r)
      for (int32_t c = first; c < first + kPanel; ++c)
        *to++ = c < columns ? from[r * row_step + c * column_step] : 0.0f;
}

void pack_int16(const float* from, int32_t rows, int32_t columns, int64_t row_step, int64_t column_step, int32_t chunk,
                float* to) {
  constexpr double kMost = 32767, kSum = 2147483647.0;
  const int32_t pad = static_cast<int32_t>(panel_floats(1, columns));
  float* scales = to + kInt16Head;
  std::fill(to, scales + pad, 0.0f);
  const auto integer = [&](int32_t r, int32_t c) {
    if (c >= columns || scales[c] == 0) return 0.0;
    return std::clamp(std::nearbyint(from[r * row_step + c * column_step] / double{scales[c]}), -kMost, kMost);
  };
  double largest = 0;  // of the chunks' sums of squares
  for (int32_t c = 0; c < columns; ++c) {
    float most = 0;
    for (int32_t r = 0; r < rows; ++r) most = std::max(most, std::abs(from[r * row_step + c * column_step]));
    scales[c] = static_cast<float>(most / kMost);
    double power = 0;
    for (int32_t r = 0; r < rows; ++r) {
      power = (r % chunk ? power : 0) + integer(r, c) * integer(r, c);
      largest = std::max(largest, power);
    }
  }
  // Rounding adds at most half the root of the number of rows, the estimate of a row's root 1.5 * 2^-12 of it.
  const double limit = largest > 0 ? kSum / std::sqrt(largest) * (1 - 1.0 / 1024) - 0.5 * std::sqrt(chunk) : kMost;
  *to = static_cast<float>(std::clamp(limit, 1.0, kMost));
  char* panels = reinterpret_cast<char*>(scales + pad);
  for (int32_t first = 0; first < columns; first += kPanel)
    for (int32_t r = 0; r < rows; r += 2)
      for (int32_t c = first; c < first + kPanel; ++c)
        for (int32_t k = r; k < r + 2; ++k, panels += sizeof(int16_t)) {
          const int16_t q = static_cast<int16_t>(integer(k, c));
          std::memcpy(panels, &q, sizeof q);
        }
}

std::vector<float> pack_winograd(const WinogradShape& s, const float* weight, bool int16) {
  const int64_t in_all = static_cast<int64_t>(s.in_phases) * s.in;
  std::vector<float> block, packed(masks_of(s));  // block [input phases][in][out]
  for (int32_t o = 0; o < s.out_phases; ++o)
    for (int32_t p = 0; p < 64; ++p) {
      int32_t mask = 0, rows = 0;
      block.clear();
      for (int32_t i = 0; i < s.in_phases; ++i) {
        bool any = false;
        block.resize(static_cast<size_t>(rows + s.in) * s.out);
        for (int32_t k = 0; k < s.out; ++k)
          for (int32_t c = 0; c < s.in; ++c) {
            const float* w = weight + ((static_cast<int64_t>(o) * s.out + k) * in_all + i * s.in + c) * 9;
            double sum = 0;
            for (int u = 0; u < 3; ++u)
              for (int v = 0; v < 3; ++v) sum += kG[p / 8][u] * kG[p % 8][v] * w[3 * u + v];
            block[static_cast<size_t>(rows + c) * s.out + k] = static_cast<float>(sum);
            any |= sum != 0;
          }
        // Kernels of fewer than three taps have no products at infinity, or at 0.
        if (!any) continue;
        mask |= 1 << i;
        rows += s.in;
      }
      const size_t at = packed.size();
      packed.resize(at + (int16 ? int16_floats(rows, s.out) : panel_floats(rows, s.out)));
      if (int16 && rows)
        pack_int16(block.data(), rows, s.out, s.out, 1, int16_chunk(s.in), packed.data() + at);
      else
        pack_panels(block.data(), rows, s.out, s.out, 1, packed.data() + at);
      std::memcpy(&packed[64 * o + p], &mask, sizeof mask);
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

const TransformKernels& transform_kernels() {
#if defined(CCM_HAVE_FMA)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return fma_transform_kernels();
#endif
  return plain_transform_kernels();
}

}  // namespace ccm
