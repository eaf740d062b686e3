// Weights of the transforms as their products read them.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/cpu.h"
#include "base/float_buffer.h"
#include "base/memory.h"
#include "transforms/pack_kernels.h"
#include "transforms/transform.h"

namespace ccm {
namespace {

// Not by transform_isa(), whose self-check packs weights; the results are the same.
const PackKernels& pack_kernels() {
#if defined(CCM_HAVE_AVX2)
  if (cpu_has(kCpuAvx2)) return avx2_pack_kernels();
#endif
  return plain_pack_kernels();
}

int64_t masks_of(const WinogradShape& s) { return kPoints * static_cast<int64_t>(s.out_phases); }

}  // namespace

void pack_panels(const float* from, int32_t rows, int32_t columns, int64_t row_step, int64_t column_step, float* to) {
  for (int32_t first = 0; first < columns; first += kPanel)
    for (int32_t r = 0; r < rows; ++r)
      for (int32_t c = first; c < first + kPanel; ++c)
        *to++ = c < columns ? from[r * row_step + c * column_step] : 0.0f;
}

void pack_int16(const float* from, int32_t rows, int32_t columns, int32_t chunk, float* to) {
  pack_kernels().pack_int16(from, rows, columns, chunk, to);
}

std::vector<float> pack_winograd(const WinogradShape& s, const float* weight, bool int16) {
  const int64_t in_all = static_cast<int64_t>(s.in_phases) * s.in, phase = static_cast<int64_t>(s.in) * s.out;
  FloatBuffer points(static_cast<size_t>(kPoints * in_all * s.out));
  std::vector<float> packed(masks_of(s));
  const int64_t most = kPoints * s.out_phases * (int16 ? int16_floats(in_all, s.out) : panel_floats(in_all, s.out));
  packed.reserve(packed.size() + most);
  want_huge_pages(packed.data(), packed.capacity() * sizeof(float));
  for (int32_t o = 0; o < s.out_phases; ++o) {
    pack_kernels().to_points(weight + o * s.out * in_all * 9, in_all, s.out, points.data());
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
