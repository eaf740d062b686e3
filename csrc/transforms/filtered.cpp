// g_s with a picture filter behind it.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <vector>

#include "base/interrupt.h"
#include "base/threads.h"
#include "transforms/pixels.h"
#include "transforms/synthesis.h"

namespace ccm {
namespace {

static_assert(kFilterReach <= kCells, "a cell more on each side is what filters read");

// A cell's pixels, of which those in `wanted` go to planes. z: its features, more: the fine channels', or null.
void put_cell(const float* z, const float* more, bool grey, int64_t top, int64_t left, const Window& wanted,
              FilterPlanes& planes) {
  float v[kFeatures];
  cell_values(z, more, grey, v);
  int16_t p[kFeatures];
  for (int k = 0; k < kFeatures; ++k) p[k] = static_cast<int16_t>(nearest(v[k] * kFilterWhite));
  if (top >= wanted.i0 && top + kCells <= wanted.i1 && left >= wanted.j0 && left + kCells <= wanted.j1) {
    for (int32_t c = 0; c < planes.colours(); ++c)
      for (int64_t u = 0; u < kCells; ++u)
        std::memcpy(planes.pixel(c, top + u, left), p + c * kCellPixels + u * kCells, kCells * sizeof *p);
    return;
  }
  for (int32_t c = 0; c < planes.colours(); ++c)
    for (int64_t i = std::max(top, wanted.i0); i < std::min(top + kCells, wanted.i1); ++i)
      for (int64_t j = std::max(left, wanted.j0); j < std::min(left + kCells, wanted.j1); ++j)
        *planes.pixel(c, i, j) = p[c * kCellPixels + (i - top) * kCells + j - left];
}

// Samples of a row, whose colours are `room` apart.
template <class Sample>
void put_row(const uint16_t* levels, int64_t room, int64_t count, int32_t channels, Sample* to) {
  if (channels == 1) {
    for (int64_t j = 0; j < count; ++j) to[j] = static_cast<Sample>(levels[j]);
    return;
  }
  const uint16_t *red = levels, *green = levels + room, *blue = green + room;  // equal where grey
  for (int64_t j = 0; j < count; ++j, to += kColours) {
    to[0] = static_cast<Sample>(red[j]);
    to[1] = static_cast<Sample>(green[j]);
    to[2] = static_cast<Sample>(blue[j]);
  }
}

// Filters the planes' window into the sink.
void filter_into(const FilterPlanes& planes, const FilterWeights& weights, const PixelSink& sink, int threads) {
  const FilterKernels kernels = filter_kernels();
  const Window at = planes.at();
  const int64_t room = filter_room(at.width());
  constexpr int64_t kRows = 16;
  parallel_for(threads, (at.height() + kRows - 1) / kRows, [&](int64_t band) {
    poll();
    std::vector<uint16_t> levels(static_cast<size_t>(planes.colours() * room));
    const int64_t apart = planes.colours() > 1 ? room : 0, first = at.i0 + band * kRows;
    each_filter_row(planes, first, std::min(first + kRows, at.i1),
                    [&](const FilterRow& row, const BusyRows& busy, int64_t i) {
                      kernels.apply(row, busy, weights, sink.bits == 8 ? 255 : 65535, levels.data());
                      if (sink.bits == 8)
                        put_row(levels.data(), apart, at.width(), sink.channels, pixel<uint8_t>(sink, i, at.j0));
                      else
                        put_row(levels.data(), apart, at.width(), sink.channels, pixel<uint16_t>(sink, i, at.j0));
                    });
  });
}

}  // namespace

FilterPlanes planes_of(const int16_t* levels, const Window& at, int64_t height, int64_t width, int32_t colours) {
  FilterPlanes planes(at, height, width, colours);
  const Window in = planes.filled();
  for (int32_t c = 0; c < colours; ++c)
    for (int64_t i = in.i0; i < in.i1; ++i)
      std::copy_n(levels + (c * height + i) * width + in.j0, in.width(), planes.pixel(c, i, in.j0));
  planes.finish();
  return planes;
}

void filter_levels(const int16_t* levels, int64_t height, int64_t width, const PictureFilter& filter, int16_t* filtered,
                   int threads) {
  const FilterWeights weights(filter);
  const FilterKernels kernels = filter_kernels();
  const int64_t room = filter_room(width);
  constexpr int64_t kRows = 64;
  parallel_for(threads, (height + kRows - 1) / kRows, [&](int64_t band) {
    poll();
    const int64_t first = band * kRows, last = std::min(first + kRows, height);
    const FilterPlanes planes = planes_of(levels, {first, last, 0, width}, height, width, weights.colours);
    std::vector<uint16_t> row_levels(static_cast<size_t>(weights.colours * room));
    each_filter_row(planes, first, last, [&](const FilterRow& row, const BusyRows& busy, int64_t i) {
      kernels.apply(row, busy, weights, kFilterWhite, row_levels.data());
      for (int32_t c = 0; c < weights.colours; ++c)
        std::copy_n(row_levels.data() + c * room, width, filtered + (c * height + i) * width);
    });
  });
}

Window Synthesis::filter_cells(const Tile& t) {
  const Window cells = t.inside().times(kCells);
  return {std::max<int64_t>(cells.i0 - 1, 0), std::min(cells.i1 + 1, t.height() * kCells),
          std::max<int64_t>(cells.j0 - 1, 0), std::min(cells.j1 + 1, t.width() * kCells)};
}

FilterPlanes Synthesis::planes(const LatentPlane& y, const std::vector<float>& gain, const Tile& t,
                               const Window& pixels, int64_t height, int64_t width, bool grey, int threads) const {
  const Window cells = filter_cells(t);
  const Halves found = halves(y, gain, t, cells, threads);
  FilterPlanes planes(pixels, height, width, grey ? 1 : kColours);
  const Window wanted = planes.filled();
  parallel_for(threads, cells.height(), [&](int64_t row) {
    const int64_t i = cells.i0 + row;
    for (int64_t j = cells.j0; j < cells.j1; ++j) {
      const float* more = config_.fine
                              ? found.fine.from(i / kCells, j / kCells) + (i % kCells * kCells + j % kCells) * kFeatures
                              : nullptr;
      put_cell(found.coarse.from(i, j), more, grey, (t.outer_i0 * kCells + i) * kCells,
               (t.outer_j0 * kCells + j) * kCells, wanted, planes);
    }
  });
  planes.finish();
  return planes;
}

void Synthesis::run_filtered(const LatentPlane& y, int32_t quality_code, const PixelSink& sink, int64_t height,
                             int64_t width, const PictureFilter& filter, int threads) const {
  const FilterWeights weights(filter);
  each_tile(y, quality_code, sink.window(), height, width, sink.grey, threads,
            [&](const FilterPlanes& planes) { filter_into(planes, weights, sink, threads); });
}

void Synthesis::each_tile(const LatentPlane& y, int32_t quality_code, const Window& pixels, int64_t height,
                          int64_t width, bool grey, int threads,
                          const std::function<void(const FilterPlanes&)>& use) const {
  const std::vector<float> gain = this->gain(quality_code);
  const std::vector<Tile> tiles =
      parts_of(plan_tiles(y.height, y.width, filter_margin(), kTileLatents), pixels, kLatentSide);
  for (size_t k = 0; k < tiles.size(); ++k) {
    const Portion portion(static_cast<int64_t>(k), static_cast<int64_t>(tiles.size()));
    const Tile& t = tiles[k];
    const Window seen{std::max(t.i0 * kLatentSide, pixels.i0), std::min(t.i1 * kLatentSide, pixels.i1),
                      std::max(t.j0 * kLatentSide, pixels.j0), std::min(t.j1 * kLatentSide, pixels.j1)};
    use(planes(y, gain, t, seen, height, width, grey, threads));
  }
}

}  // namespace ccm
