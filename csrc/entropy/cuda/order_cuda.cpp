#include <algorithm>
#include <numeric>

#include "entropy/cuda/engine_cuda.h"
#include "entropy/cuda/tiles.h"
#include "model/step_order.h"

namespace ccm {
namespace {

constexpr int32_t kRecord = 6;  // numbers of a GroupOrder

// Appends the order of one schedule, its record first.
void append_order(const Schedule& schedule, int32_t h, int32_t w, int32_t tiles_i, int32_t tiles_j,
                  std::vector<int32_t>& out) {
  const StepOrder order(schedule, h, w);
  const int32_t steps = order.steps(), positions = h * w, tiles = tiles_i * tiles_j;

  // Number of steps after which a position is done.
  std::vector<int32_t> done(positions);
  for (int32_t s = 0; s < steps; ++s)
    for (int32_t p = order.first[s]; p < order.first[s + 1]; ++p) done[order.row[p] * w + order.col[p]] = s + 1;

  std::vector<int32_t> needs(static_cast<size_t>(kMaxRadius + 1) * tiles);
  for (int32_t r = 0; r <= kMaxRadius; ++r)
    for (int32_t t = 0; t < tiles; ++t) {
      // Tiles beyond the plane belong to shifted grids only; they count as the last ones inside.
      const int32_t top = std::min(t / tiles_j * kDenseRows, h - 1),
                    left = std::min(t % tiles_j * kDenseColumns, w - 1);
      int32_t& need = needs[r * tiles + t];
      for (int32_t i = std::max(0, top - r); i < std::min(h, top + kDenseRows + r); ++i)
        for (int32_t j = std::max(0, left - r); j < std::min(w, left + kDenseColumns + r); ++j)
          need = std::max(need, done[i * w + j]);
    }
  std::vector<int32_t> sequence(tiles);
  std::iota(sequence.begin(), sequence.end(), 0);
  std::stable_sort(sequence.begin(), sequence.end(), [&](int32_t a, int32_t b) { return needs[a] < needs[b]; });

  const auto record = static_cast<int32_t>(out.size()), at = record + kRecord;
  const auto number = [&](int32_t p) { return schedule.step(order.row[p], order.col[p]); };
  const int32_t gaps = number(positions - 1) - number(0) + 1 != steps;
  const int32_t first_at = at + positions, sequence_at = first_at + steps + 1;
  out.insert(out.end(), {steps, gaps, at, first_at, sequence_at, sequence_at + tiles});
  for (int32_t p = 0; p < positions; ++p)
    out.push_back(
        static_cast<int32_t>(static_cast<uint32_t>(order.row[p]) << 16 | static_cast<uint32_t>(order.col[p])));
  out.insert(out.end(), order.first.begin(), order.first.end());
  for (int32_t t : sequence) out.push_back(t / tiles_j << 16 | t % tiles_j);
  out.insert(out.end(), needs.begin(), needs.end());
}

}  // namespace

std::vector<int32_t> build_order(const DeviceModel& m, int32_t h, int32_t w) {
  const int32_t tiles_i = tile_count(h + m.most_shift, kDenseRows),
                tiles_j = tile_count(w + m.most_shift, kDenseColumns);
  std::vector<int32_t> out{tiles_i, tiles_j, 0, 0};
  out.resize(OrderView::kTable + m.groups);
  for (int32_t g = 0; g < m.groups; ++g) {
    int32_t first = 0;  // group with this schedule
    while (!same(m.schedule[first], m.schedule[g])) ++first;
    if (first < g) {
      out[OrderView::kTable + g] = out[OrderView::kTable + first];
      continue;
    }
    out[OrderView::kTable + g] = static_cast<int32_t>(out.size());
    append_order(m.schedule[g], h, w, tiles_i, tiles_j, out);
  }
  return out;
}

OrderView view_order(const int32_t* header, const int32_t* numbers) { return {header[0], header[1], numbers}; }

}  // namespace ccm
