// Weights of the transforms as their products read them.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/cpu.h"
#include "base/float_buffer.h"
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

int32_t panels_of(int32_t columns) { return (columns + kPanel - 1) / kPanel; }

int64_t packed_floats(int64_t rows, int64_t columns, bool int16) {
  return int16 ? int16_floats(rows, columns) : panel_floats(rows, columns);
}

// Panel k of a packed matrix [rows][columns], from the panel's floats [rows][kPanel].
void pack_panel(const float* from, int32_t k, int32_t rows, int32_t columns, bool int16, int32_t chunk, float* to) {
  if (int16)
    pack_kernels().pack_int16(from, rows, chunk, to + int64_t{k} * kPanel,
                              to + panel_floats(1, columns) + int64_t{k} * (rows / 2) * kPanel);
  else
    std::copy_n(from, int64_t{rows} * kPanel, to + int64_t{k} * rows * kPanel);
}

// A matrix for every point, of a panel of an output phase, at `step` from the last one: a little more than its size,
// or all would fall into the same few lines of the cache.
int64_t point_step(int64_t in_all) { return (in_all + 1) * kPanel; }

// Brings the weights of panels to the points.
class ToPoints {
 public:
  ToPoints(const WinogradShape& s, const Outputs& weights)
      : s_(s), weights_(weights), in_all_(int64_t{s.in_phases} * s.in), scratch_(in_all_ * 9 * kPanel) {}

  // Panel k of an output phase.
  void operator()(int32_t phase, int32_t k, float* points) {
    const int32_t columns = std::min(kPanel, s_.out - k * kPanel);
    const float* from = weights_(int64_t{phase} * s_.out + int64_t{k} * kPanel, columns, scratch_.data());
    pack_kernels().to_points(from, in_all_, columns, point_step(in_all_), points);
  }

 private:
  const WinogradShape& s_;
  const Outputs& weights_;
  const int64_t in_all_;
  FloatBuffer scratch_;
};

bool is_zero(const float* from, int64_t n) {
  return std::all_of(from, from + n, [](float v) { return v == 0; });
}

// One input phase, and products at every point, as nearly all kernels have: a panel goes all the way while it is in the
// cache. False where a point of an output phase has none.
bool pack_panel_by_panel(const WinogradShape& s, ToPoints& to_points, bool int16, PackedFloats& packed) {
  const int64_t each = packed_floats(s.in, s.out, int16), step = point_step(s.in);
  packed = PackedFloats(static_cast<size_t>(masks_of(s) * (1 + each)));
  FloatBuffer points(static_cast<size_t>(kPoints * step));
  for (int32_t o = 0; o < s.out_phases; ++o) {
    bool any[kPoints] = {};
    for (int32_t k = 0; k < panels_of(s.out); ++k) {
      to_points(o, k, points.data());
      for (int32_t p = 0; p < kPoints; ++p) {
        const float* panel = points.data() + p * step;
        any[p] = any[p] || !is_zero(panel, int64_t{s.in} * kPanel);
        pack_panel(panel, k, s.in, s.out, int16, int16_chunk(s.in),
                   packed.data() + masks_of(s) + (int64_t{kPoints} * o + p) * each);
      }
    }
    if (!std::all_of(any, any + kPoints, [](bool products) { return products; })) return false;
  }
  constexpr int32_t kFirstPhase = 1;
  for (int64_t m = 0; m < masks_of(s); ++m) std::memcpy(packed.data() + m, &kFirstPhase, sizeof kFirstPhase);
  return true;
}

}  // namespace

void pack_panels(const float* from, int32_t rows, int32_t columns, int64_t row_step, int64_t column_step, float* to) {
  for (int32_t first = 0; first < columns; first += kPanel)
    for (int32_t r = 0; r < rows; ++r)
      for (int32_t c = first; c < first + kPanel; ++c)
        *to++ = c < columns ? from[r * row_step + c * column_step] : 0.0f;
}

void pack_int16(const float* from, int32_t rows, int32_t columns, int32_t chunk, float* to) {
  FloatBuffer panels(static_cast<size_t>(panel_floats(rows, columns)));
  pack_panels(from, rows, columns, columns, 1, panels.data());
  for (int32_t k = 0; k < panels_of(columns); ++k)
    pack_panel(panels.data() + int64_t{k} * rows * kPanel, k, rows, columns, true, chunk, to);
}

PackedFloats pack_winograd(const WinogradShape& s, const float* weight, bool int16) {
  const int64_t each = int64_t{s.in_phases} * s.in * 9;
  return pack_winograd(s, [=](int64_t first, int32_t, float*) { return weight + first * each; }, int16);
}

PackedFloats pack_winograd(const WinogradShape& s, const Outputs& weights, bool int16) {
  ToPoints to_points(s, weights);
  PackedFloats packed;
  if (s.in_phases == 1 && pack_panel_by_panel(s, to_points, int16, packed)) return packed;
  const int64_t step = point_step(int64_t{s.in_phases} * s.in), phase = int64_t{s.in} * kPanel;
  const int32_t panels = panels_of(s.out);
  FloatBuffer points(static_cast<size_t>(s.out_phases * panels * kPoints * step));
  const auto panel_at = [&](int32_t o, int32_t k, int32_t p) {
    return points.data() + ((int64_t{o} * panels + k) * kPoints + p) * step;
  };
  std::vector<int32_t> masks;
  int64_t size = masks_of(s);
  for (int32_t o = 0; o < s.out_phases; ++o) {
    for (int32_t k = 0; k < panels; ++k) to_points(o, k, panel_at(o, k, 0));
    for (int32_t p = 0; p < kPoints; ++p) {
      // The input phases' blocks that are not zero, moved together. Kernels of fewer than three taps have no products
      // at infinity, or at 0.
      int32_t mask = 0, blocks = 0;
      for (int32_t i = 0; i < s.in_phases; ++i) {
        bool any = false;
        for (int32_t k = 0; k < panels && !any; ++k) any = !is_zero(panel_at(o, k, p) + i * phase, phase);
        if (!any) continue;
        if (blocks != i)
          for (int32_t k = 0; k < panels; ++k)
            std::copy_n(panel_at(o, k, p) + i * phase, phase, panel_at(o, k, p) + blocks * phase);
        mask |= 1 << i;
        ++blocks;
      }
      masks.push_back(mask);
      size += packed_floats(int64_t{blocks} * s.in, s.out, int16);
    }
  }
  packed = PackedFloats(static_cast<size_t>(size));
  float* to = packed.data() + masks_of(s);
  for (int64_t m = 0; m < masks_of(s); ++m) {
    std::memcpy(packed.data() + m, &masks[m], sizeof masks[m]);
    int32_t rows = 0;
    for (int32_t left = masks[m]; left; left &= left - 1) rows += s.in;
    for (int32_t k = 0; rows && k < panels; ++k)
      pack_panel(panel_at(static_cast<int32_t>(m / kPoints), k, static_cast<int32_t>(m % kPoints)), k, rows, s.out,
                 int16, int16_chunk(s.in), to);
    to += packed_floats(rows, s.out, int16);
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
