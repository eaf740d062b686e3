#include "entropy/cpu/conv_cpu.h"

#include <algorithm>
#include <vector>

#include "base/interrupt.h"
#include "entropy/cpu/winograd_int.h"

namespace ccm {
namespace {

constexpr int32_t kTile = 24;  // positions of a row that come out of Winograd's points together

// For every run of `count` (up to rows_at_once) positions of row i from column j on: computes int32 acc[count][n_pad]
// and calls after(i, j, count, acc).
template <class After>
void conv_tiles(const PackedModel& m, const Kernels& k, const ConvDesc& d, const Plane& in, int32_t first, int32_t last,
                int32_t width, After after) {
  const int32_t r = d.kernel / 2, taps = d.kernel * d.kernel;
  int32_t offsets[kMaxTaps];
  for (int32_t t = 0; t < taps; ++t) offsets[t] = in.offset(t / d.kernel - r, t % d.kernel - r);
  const int32_t* inits[kMostRows];
  std::fill(inits, inits + kMostRows, m.at<int32_t>(d.bias));
  std::vector<int32_t> acc(static_cast<size_t>(k.rows_at_once) * d.n_pad);
  for (int32_t i = first; i < last; ++i) {
    poll();
    for (int32_t j = 0; j < width; j += k.rows_at_once) {
      const int32_t count = std::min(k.rows_at_once, width - j);
      const void* a[kMostRows];
      for (int32_t p = 0; p < count; ++p) a[p] = in.at(i, j + p);
      k.gemm({a, offsets, m.at<uint8_t>(d.weights), inits, acc.data(), d.n_pad, count, taps, d.cin_pad, d.n_pad});
      after(i, j, count, acc.data());
    }
  }
}

// The same by way of Winograd's points.
template <class After>
void point_tiles(PointBatch& batch, const PointConv& c, const int32_t* init, const PointRows& rows, After after) {
  const int32_t side = c.tile_columns(), across = batch.across();
  std::vector<int32_t> acc(static_cast<size_t>(kTileRows) * kTile * c.n_pad);
  for (int32_t first = 0; first < batch.tiles(); first += batch.capacity()) {
    poll();
    const int32_t count = std::min(batch.capacity(), batch.tiles() - first);
    batch.products(first, count);
    for (int32_t t = 0, span; t < count; t += span) {
      const int32_t column = (first + t) % across, i = rows.first + (first + t) / across * kTileRows;
      span = std::min({kTile / side, across - column, count - t});
      for (int32_t s = 0; s < span; ++s)
        batch.sums(t + s, init, &acc[static_cast<size_t>(s) * side * c.n_pad], static_cast<int64_t>(kTile) * c.n_pad,
                   c.n_pad);
      const int32_t j = column * side, places = std::min(span * side, rows.width - j);
      for (int32_t r = 0; r < std::min(kTileRows, rows.last - i); ++r)
        after(i + r, j, places, &acc[static_cast<size_t>(r) * kTile * c.n_pad]);
    }
  }
}

// Whichever way is faster.
template <class After>
void conv_sums(const PackedModel& m, const Kernels& k, const ConvDesc& d, const Plane& in, int32_t first, int32_t last,
               int32_t width, After after) {
  if (d.points) {
    const PointConv c{m.at<int16_t>(d.points), d.cin_pad, d.n_pad, d.kernel, d.kernel, d.kernel / 2, d.kernel / 2};
    const PointRows rows{in, 0, first, last, width};
    if (PointBatch::pays(c, rows)) {
      PointBatch batch(k, c, rows);
      return point_tiles(batch, c, m.at<int32_t>(d.bias), rows, after);
    }
  }
  conv_tiles(m, k, d, in, first, last, width, after);
}

}  // namespace

void conv_byte_rows(const PackedModel& m, const Kernels& k, const ConvDesc& d, const Plane& in, int32_t first,
                    int32_t last, int32_t width, Plane& out) {
  const int32_t *mult = m.at<int32_t>(d.mult), *shift = m.at<int32_t>(d.shift), element = k.element_bytes;
  std::vector<uint8_t> tile(static_cast<size_t>(std::max(kTile, k.rows_at_once)) * d.n_pad * element);
  conv_sums(m, k, d, in, first, last, width, [&](int32_t i, int32_t j, int32_t count, const int32_t* acc) {
    const RequantizeArgs block{acc, d.n_pad, mult, shift, d.n_pad, count, d.n_pad};
    if (d.output == kLeaky8)
      k.leaky8(block, m.at<int32_t>(d.below), d.zero, tile.data());
    else
      k.relu8(block, tile.data());
    for (int32_t p = 0; p < count; ++p) {
      const uint8_t* from = tile.data() + static_cast<int64_t>(p) * d.n_pad * element;
      if (d.upsample == 1) {
        std::memcpy(out.at(i, j + p), from, static_cast<size_t>(d.cout) * element);
        continue;
      }
      for (int32_t s = 0; s < 4; ++s) {  // sub-pixel (s / 2, s % 2) takes every fourth channel
        uint8_t* to = out.at(2 * i + s / 2, 2 * (j + p) + s % 2);
        if (element == 2)
          for (int32_t c = 0; c < d.cout / 4; ++c) std::memcpy(to + 2 * c, from + 2 * (4 * c + s), 2);
        else
          for (int32_t c = 0; c < d.cout / 4; ++c) to[c] = from[4 * c + s];
      }
    }
  });
}

void conv_accumulate_rows(const PackedModel& m, const Kernels& k, const ConvDesc& d, const Plane& in, int32_t first,
                          int32_t last, int32_t width, int32_t* base) {
  const int32_t *mult = m.at<int32_t>(d.mult), *shift = m.at<int32_t>(d.shift);
  conv_sums(m, k, d, in, first, last, width, [&](int32_t i, int32_t j, int32_t count, const int32_t* acc) {
    k.accumulate({acc, d.n_pad, mult, shift, d.n_pad, count, d.n_pad},
                 base + (static_cast<int64_t>(i) * width + j) * d.n_pad);
  });
}

void add_context(const PackedModel& m, const Kernels& k, const GroupDesc& d, const Plane& in, int32_t height,
                 int32_t width, int32_t* base) {
  const PointConv c{m.at<int16_t>(d.points), (d.channels + 3) / 4 * 4, d.base_pad, 3, 5, 2, 2};
  const PointRows rows{in, d.plane_channel, 0, height, width};
  PointBatch batch(k, c, rows);
  const std::vector<int32_t> none(d.base_pad);
  point_tiles(batch, c, none.data(), rows, [&](int32_t i, int32_t j, int32_t count, const int32_t* acc) {
    int32_t* to = base + (static_cast<int64_t>(i) * width + j) * d.base_pad;
    for (int64_t n = 0; n < static_cast<int64_t>(count) * d.base_pad; ++n) to[n] += acc[n];
  });
}

}  // namespace ccm
