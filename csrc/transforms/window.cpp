#include "transforms/window.h"

#include <algorithm>
#include <utility>

#include "transforms/transform.h"

namespace ccm {
namespace {

// [first, last) of an axis of n positions.
void widen(int64_t& first, int64_t& last, int64_t reach, int64_t n) {
  const auto tile_start = [](int64_t i) { return i / kWinogradTile * kWinogradTile; };
  first = tile_start(std::max<int64_t>(0, tile_start(first) - reach));
  last = std::min(n, tile_start(last - 1) + kWinogradTile + reach);
}

}  // namespace

Window inputs_of(const Window& wanted, int64_t kernel, int64_t height, int64_t width) {
  Window w = wanted;
  widen(w.i0, w.i1, kernel / 2, height);
  widen(w.j0, w.j1, kernel / 2, width);
  return w;
}

PlanePart cut(PlanePart part, const Window& wanted) {
  const int64_t area = part.at.height() * part.at.width();
  if (4 * wanted.height() * wanted.width() > 3 * area) return part;
  FloatPlane to(wanted.height(), wanted.width(), part.values.channels);
  for (int64_t i = 0; i < to.height; ++i)
    std::copy_n(part.from(wanted.i0 + i, wanted.j0), to.width * to.channels, to.at(i, 0));
  return {std::move(to), wanted};
}

}  // namespace ccm
