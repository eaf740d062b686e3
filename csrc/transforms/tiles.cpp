#include "transforms/tiles.h"

#include <algorithm>

namespace ccm {
namespace {

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b < 0); }

}  // namespace

std::vector<Tile> plan_tiles(int64_t h, int64_t w, int64_t around, int64_t budget) {
  if (h * w <= budget) return {{0, h, 0, w, 0, h, 0, w}};
  int64_t best = -1, best_rows = h, best_columns = w;
  for (int64_t rows = 1; rows <= h; ++rows) {
    const int64_t high = std::min(h, ceil_div(h, rows) + 2 * around);
    const int64_t room = budget / high - 2 * around;  // inner width of a tile that fits
    const bool whole = high * w <= budget;
    if (!whole && room < 1) continue;
    const int64_t columns = whole ? 1 : ceil_div(w, room);
    const int64_t cost = rows * columns * high * std::min(w, ceil_div(w, columns) + 2 * around);
    if (best < 0 || cost < best)
      best = cost, best_rows = rows, best_columns = columns;
    else if (cost > 2 * best)  // smaller tiles only cost more from here on
      break;
  }
  std::vector<Tile> tiles;
  for (int64_t r = 0; r < best_rows; ++r)
    for (int64_t c = 0; c < best_columns; ++c) {
      const int64_t i0 = h * r / best_rows, i1 = h * (r + 1) / best_rows;
      const int64_t j0 = w * c / best_columns, j1 = w * (c + 1) / best_columns;
      tiles.push_back({i0, i1, j0, j1, std::max<int64_t>(0, i0 - around), std::min(h, i1 + around),
                       std::max<int64_t>(0, j0 - around), std::min(w, j1 + around)});
    }
  return tiles;
}

Range input_range(const std::vector<SpanLayer>& chain, Range r) {
  for (auto layer = chain.rbegin(); layer != chain.rend(); ++layer) {
    if (layer->shuffle > 1) {
      r = {floor_div(r.first, layer->shuffle), floor_div(r.last, layer->shuffle)};
    } else if (layer->unshuffle > 1) {
      r = {r.first * layer->unshuffle, (r.last + 1) * layer->unshuffle - 1};
    } else {
      r.first = r.first * layer->stride - layer->padding;
      r.last = r.last * layer->stride - layer->padding + layer->kernel - 1;
    }
  }
  return r;
}

}  // namespace ccm
