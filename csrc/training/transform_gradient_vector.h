// Packing and weight gradients over vectors of kLanes floats; included by one file per instruction set, like
// transform_vector.h.
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>

#include "base/threads.h"
#include "training/transform_gradient.h"
#include "transforms/transform_vector.h"

namespace ccm {
namespace {

// ---------------------------------------------------------------------------------------------------------------------
// Kernels to points and back

// Three taps -> values at the points 0, 1, -1, 2, -2, 1/2, -1/2, infinity: the G of pack_vector.h.
template <class R>
inline void taps_to_points(const R (&g)[3], R (&v)[8]) {
  constexpr float k1 = -2. / 9, k2 = 1. / 90, k3 = 8. / 45;
  const R a = (g[0] + g[2]) * k1, b = g[1] * k1;
  v[0] = g[0];
  v[1] = a + b;
  v[2] = a - b;
  const R c = g[0] * k2 + g[2] * (4 * k2), d = g[1] * (2 * k2);
  v[3] = c + d;
  v[4] = c - d;
  const R e = g[0] * (4 * k3) + g[2] * k3, f = g[1] * (2 * k3);
  v[5] = e + f;
  v[6] = e - f;
  v[7] = g[2];
}

// G^T.
template <class R>
inline void points_to_taps(const R (&v)[8], R (&g)[3]) {
  constexpr float k1 = -2. / 9, k2 = 1. / 90, k3 = 8. / 45;
  const R a = (v[1] + v[2]) * k1, c = (v[3] + v[4]) * k2, e = (v[5] + v[6]) * k3;
  g[0] = v[0] + a + c + e * 4.0f;
  g[1] = (v[1] - v[2]) * k1 + (v[3] - v[4]) * (2 * k2) + (v[5] - v[6]) * (2 * k3);
  g[2] = v[7] + a + c * 4.0f + e;
}

// 6 outputs' gradients -> values at the points: A.
template <class R>
inline void outputs_to_points(const R (&y)[6], R (&v)[8]) {
  const R a = y[0] + y[2] + y[4], b = y[1] + y[3] + y[5];
  v[0] = y[0];
  v[1] = a + b;
  v[2] = a - b;
  const R c = y[0] + y[2] * 4.0f + y[4] * 16.0f, d = y[1] * 2.0f + y[3] * 8.0f + y[5] * 32.0f;
  v[3] = c + d;
  v[4] = c - d;
  const R e = y[0] + y[2] * 0.25f + y[4] * 0.0625f, f = y[1] * 0.5f + y[3] * 0.125f + y[5] * 0.03125f;
  v[5] = e + f;
  v[6] = e - f;
  v[7] = y[5];
}

// Taps of one phase, where they exist, as a kernel of three by three.
struct PhaseTaps {
  int32_t tap[9];
  Taps down, across;
  PhaseTaps(const Conv3x3& c, int32_t phase, bool gradient)
      : down(c.stride, phase / 2, gradient), across(c.stride, phase % 2, gradient) {
    for (int32_t k = 0; k < 9; ++k) {
      const int32_t u = down.tap[k / 3], v = across.tap[k % 3];
      tap[k] = u < 0 || v < 0 ? -1 : 3 * u + v;
    }
  }
  bool at(int32_t point) const { return down.at(point / kSide) && across.at(point % kSide); }
};

// ---------------------------------------------------------------------------------------------------------------------
// Packing

// Input channels that are transformed before they are written: points lie a multiple of the page size apart, so their
// lines fall into one set of the cache, and half a line at a time costs each of them its way from memory twice.
constexpr int32_t kPackRows = 4;

// rows [9][kPanel] of one input channel -> points [64][kPackRows][kPanel].
template <int kLanes>
inline void pack_row(const float* rows, const PhaseTaps& taps, float* points) {
  using V = Vector<kLanes>;
  using R = typename V::Reg;
  for (int n = 0; n < kPanel; n += kLanes) {
    R half[kSide][3];
    for (int v = 0; v < 3; ++v) {
      R g[3], h[kSide];
#pragma GCC unroll 3
      for (int u = 0; u < 3; ++u) {
        const int32_t tap = taps.tap[3 * u + v];
        g[u] = tap < 0 ? R{} : V::load(rows + tap * kPanel + n);
      }
      taps_to_points(g, h);
#pragma GCC unroll 8
      for (int i = 0; i < kSide; ++i) half[i][v] = h[i];
    }
    for (int i = 0; i < kSide; ++i) {
      R w[kSide];
      taps_to_points(half[i], w);
#pragma GCC unroll 8
      for (int j = 0; j < kSide; ++j) V::store(points + (kSide * i + j) * kPackRows * kPanel + n, w[j]);
    }
  }
}

template <int kLanes>
void pack_kernel(const Conv3x3& c, const float* weight, bool gradient, float* packed, int threads) {
  const WinogradShape s = c.shape(gradient);
  // First and number of input phases' blocks of every output phase and point.
  Array<int64_t> start;
  Array<int32_t> count;
  Array<PhaseTaps> phases;
  for (int32_t q = 0; q < c.phases(); ++q) phases.push_back(PhaseTaps(c, q, gradient));
  int64_t floats = kPoints * static_cast<int64_t>(s.out_phases);
  for (int32_t o = 0; o < s.out_phases; ++o)
    for (int32_t p = 0; p < kPoints; ++p) {
      int32_t mask = 0, n = 0;
      for (int32_t i = 0; i < s.in_phases; ++i)
        if (phases[o + i].at(p)) mask |= 1 << i, ++n;  // one of the two is always 0
      std::memcpy(packed + kPoints * o + p, &mask, sizeof mask);
      start.push_back(floats);
      count.push_back(n);
      floats += n * panel_floats(s.in, s.out);
    }
  const int64_t panels = (s.out + kPanel - 1) / kPanel, row = static_cast<int64_t>(9) * c.in;
  parallel_for(threads, panels, [&](int64_t panel) {
    const int32_t first = static_cast<int32_t>(panel) * kPanel, wide = std::min(kPanel, s.out - first);
    Array<float> rows(static_cast<int64_t>(s.in) * 9 * kPanel, 0);  // [in][9][panel's columns]
    for (int32_t r = 0; r < s.in; ++r)
      for (int32_t t = 0; t < 9; ++t) {
        float* to = rows.data() + (static_cast<int64_t>(r) * 9 + t) * kPanel;
        if (gradient)
          std::copy_n(weight + r * row + t * c.in + first, wide, to);
        else
          for (int32_t k = 0; k < wide; ++k) to[k] = weight[(first + k) * row + t * c.in + r];
      }
    alignas(64) float points[kPoints * kPackRows * kPanel];
    for (int32_t q = 0; q < c.phases(); ++q) {
      float* to[kPoints];
      for (int32_t p = 0; p < kPoints; ++p) {
        const int32_t o = gradient ? q : 0, at = kPoints * o + p;
        int32_t before = 0;
        for (int32_t i = 0; i < q && !gradient; ++i) before += phases[i].at(p);
        to[p] = phases[q].at(p) ? packed + start[at] + (panel * count[at] + before) * s.in * kPanel : nullptr;
      }
      for (int32_t r = 0; r < s.in; r += kPackRows) {
        for (int32_t k = 0; k < kPackRows; ++k)  // s.in is a multiple of 8
          pack_row<kLanes>(rows.data() + static_cast<int64_t>(r + k) * 9 * kPanel, phases[q], points + k * kPanel);
        for (int32_t p = 0; p < kPoints; ++p)
          if (to[p])
            std::memcpy(to[p] + r * kPanel, points + p * kPackRows * kPanel, kPackRows * kPanel * sizeof(float));
      }
    }
  });
}

// ---------------------------------------------------------------------------------------------------------------------
// Weight gradient

// Tiles whose values at the points are there at once: a point's rows of both operands then fit into the second-level
// cache, and the sums are read and written once in so many tiles.
constexpr int64_t kGradientTiles = 96;

// sums[m][n] (+)= sum over t of g[t][m] * x[t][n], n < kPanel.
template <int kLanes, int kRows>
inline void sum_tile(const float* g, int64_t ldg, const float* x, int32_t count, float* sums, int64_t lds, bool add) {
  using V = Vector<kLanes>;
  constexpr int kWide = kPanel / kLanes;
  typename V::Reg acc[kRows][kWide];
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 4
    for (int n = 0; n < kWide; ++n) acc[m][n] = typename V::Reg{};
  for (int32_t t = 0; t < count; ++t, g += ldg, x += kPanel) {
    typename V::Reg w[kWide];
#pragma GCC unroll 4
    for (int n = 0; n < kWide; ++n) w[n] = V::load(x + n * kLanes);
#pragma GCC unroll 16
    for (int m = 0; m < kRows; ++m) {
      const typename V::Reg v = V::all(g[m]);
#pragma GCC unroll 4
      for (int n = 0; n < kWide; ++n) acc[m][n] += v * w[n];
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 4
    for (int n = 0; n < kWide; ++n) {
      float* to = sums + m * lds + n * kLanes;
      V::store(to, add ? V::load(to) + acc[m][n] : acc[m][n]);
    }
}

template <int kLanes, int kRows>
inline void sum_rows(int32_t rows, const float* g, int64_t ldg, const float* x, int32_t count, float* sums, int64_t lds,
                     bool add) {
  if (rows == kRows)
    sum_tile<kLanes, kRows>(g, ldg, x, count, sums, lds, add);
  else if constexpr (kRows > 1)
    sum_rows<kLanes, kRows - 1>(rows, g, ldg, x, count, sums, lds, add);
}

template <int kLanes>
inline void gradient_columns(const float* const (&from)[kTile * kTile], int32_t first, int32_t last, float* to,
                             int64_t point) {
  using V = Vector<kLanes>;
  using R = typename V::Reg;
  for (int32_t c = first; c < last; c += kLanes) {
    R half[kTile][kSide];
    for (int i = 0; i < kTile; ++i) {
      R y[kTile];
#pragma GCC unroll 8
      for (int j = 0; j < kTile; ++j) y[j] = V::load(from[kTile * i + j] + c);
      outputs_to_points(y, half[i]);
    }
    for (int j = 0; j < kSide; ++j) {
      R y[kTile], v[kSide];
#pragma GCC unroll 8
      for (int i = 0; i < kTile; ++i) y[i] = half[i][j];
      outputs_to_points(y, v);
#pragma GCC unroll 8
      for (int i = 0; i < kSide; ++i) V::store(to + (kSide * i + j) * point + c, v[i]);
    }
  }
}

template <int kLanes>
void gradient_tile(const float* const (&from)[kTile * kTile], int32_t channels, float* to, int64_t point) {
  const int32_t whole = channels / kLanes * kLanes;
  gradient_columns<kLanes>(from, 0, whole, to, point);
  gradient_columns<std::min(kLanes, 8)>(from, whole, channels, to, point);  // channels come by eights
}

template <int kLanes, int kRows>
class WeightGradient {
 public:
  WeightGradient(const Conv3x3& c, const float* x, const float* dy)
      : c_(c),
        x_(x),
        dy_(dy),
        down_((c.height + kTile - 1) / kTile),
        across_((c.width + kTile - 1) / kTile),
        pad_(padded(c.in)),
        zeros_(std::max(c.in, c.out), 0) {
    for (int32_t q = 0; q < c.phases(); ++q) taps_.push_back(PhaseTaps(c, q, false));
  }

  void run(float* dw, int threads) {
    const int64_t tiles = c_.batch * down_ * across_, chunks = (tiles + kGradientTiles - 1) / kGradientTiles;
    const int64_t most = (tiles + chunks - 1) / chunks;
    // A cache line more between points: without it all 64 would fall into one set of the cache.
    in_point_ = most * pad_ * c_.phases() + 16;
    out_point_ = most * c_.out + 16;
    sum_point_ = static_cast<int64_t>(c_.out) * pad_ * c_.phases() + 16;
    in_.fit(kPoints * in_point_);
    out_.fit(kPoints * out_point_);
    sums_.fit(kPoints * sum_point_);
    // Columns that fill up the last panel must be numbers.
    if (pad_ != c_.in) std::fill_n(in_.data, kPoints * in_point_, 0.0f);
    for (int64_t k = 0; k < chunks; ++k) {
      const int64_t first = tiles * k / chunks, count = tiles * (k + 1) / chunks - first;
      parallel_for(threads, count, [&](int64_t t) { transform(first + t, t, most); });
      parallel_for(threads, kPoints, [&](int64_t p) { products(p, static_cast<int32_t>(count), most, k > 0); });
    }
    parallel_for(threads, c_.out, [&](int64_t row) { finish(row, dw + row * 9 * c_.in); });
  }

 private:
  // Both operands of a tile: x in panels [phase][panel][tile][kPanel], y' in rows [tile][out].
  void transform(int64_t tile, int64_t t, int64_t most) {
    const int64_t b = tile / (down_ * across_), top = tile / across_ % down_ * kTile, left = tile % across_ * kTile;
    const int64_t s = c_.stride, row = c_.width * s * c_.in;
    for (int32_t q = 0; q < c_.phases(); ++q) {
      // In order of channels, so that `next` is the next panel of them.
      Inputs in{{}, kPanel, nullptr, in_point_, ~uint64_t{0}};
      const float* plane = x_ + (b * c_.height * s + q / 2) * row + q % 2 * c_.in;
      for (int k = 0; k < kPoints; ++k) {
        const int64_t i = top + k / kSide - 1, j = left + k % kSide - 1;
        const bool inside = i >= 0 && i < c_.height && j >= 0 && j < c_.width;
        in.from[k] = inside ? plane + i * s * row + j * s * c_.in : zeros_.data();
      }
      for (int32_t c = 0; c < c_.in; c += kPanel) {
        in.to = in_.data + (q * pad_ + c) * most + t * kPanel;
        input_tile<kLanes>(in, std::min(kPanel, c_.in - c));
        for (const float*& f : in.from) f += kPanel;
      }
    }
    const float* from[kTile * kTile];
    for (int k = 0; k < kTile * kTile; ++k) {
      const int64_t i = top + k / kTile, j = left + k % kTile;
      const bool inside = i < c_.height && j < c_.width;
      from[k] = inside ? dy_ + ((b * c_.height + i) * c_.width + j) * c_.out : zeros_.data();
    }
    gradient_tile<kLanes>(from, c_.out, out_.data + t * c_.out, out_point_);
  }

  void products(int64_t p, int32_t count, int64_t most, bool add) {
    const float* g = out_.data + p * out_point_;
    const int32_t tiles = (c_.out + kRows - 1) / kRows;
    for (int32_t q = 0; q < c_.phases(); ++q) {
      if (!taps_[q].at(static_cast<int32_t>(p))) continue;
      const float* x = in_.data + p * in_point_ + q * pad_ * most;
      float* sums = sums_.data + p * sum_point_ + static_cast<int64_t>(q) * c_.out * pad_;
      for (int32_t c = 0; c < pad_; c += kPanel)
        for (int32_t m = 0; m < tiles; ++m) {
          const int32_t top = static_cast<int32_t>(static_cast<int64_t>(c_.out) * m / tiles);
          const int32_t bottom = static_cast<int32_t>(static_cast<int64_t>(c_.out) * (m + 1) / tiles);
          sum_rows<kLanes, kRows>(bottom - top, g + top, c_.out, x + c * most, count, sums + top * pad_ + c, pad_, add);
        }
    }
  }

  void finish(int64_t row, float* dw) const {
    const int32_t whole = c_.in / kLanes * kLanes;
    for (int32_t q = 0; q < c_.phases(); ++q) {
      finish_columns<kLanes>(row, q, 0, whole, dw);
      finish_columns<std::min(kLanes, 8)>(row, q, whole, c_.in, dw);  // channels come by eights
    }
  }

  template <int kWide>
  void finish_columns(int64_t row, int32_t q, int32_t first, int32_t last, float* dw) const {
    using V = Vector<kWide>;
    using R = typename V::Reg;
    for (int32_t c = first; c < last; c += kWide) {
      const float* from = sums_.data + (static_cast<int64_t>(q) * c_.out + row) * pad_ + c;
      R half[3][kSide];
      for (int j = 0; j < kSide; ++j) {
        R v[kSide], g[3];
#pragma GCC unroll 8
        for (int i = 0; i < kSide; ++i)
          v[i] = taps_[q].at(kSide * i + j) ? V::load(from + (kSide * i + j) * sum_point_) : R{};
        points_to_taps(v, g);
        for (int u = 0; u < 3; ++u) half[u][j] = g[u];
      }
      for (int u = 0; u < 3; ++u) {
        R g[3];
        points_to_taps(half[u], g);
        for (int v = 0; v < 3; ++v)
          if (const int32_t tap = taps_[q].tap[3 * u + v]; tap >= 0) V::store(dw + tap * c_.in + c, g[v]);
      }
    }
  }

  const Conv3x3 c_;
  const float* x_;
  const float* dy_;
  const int64_t down_, across_;
  const int32_t pad_;
  const Array<float> zeros_;
  Array<PhaseTaps> taps_;
  int64_t in_point_ = 0, out_point_ = 0, sum_point_ = 0;
  Buffer in_, out_, sums_;
};

template <int kLanes, int kRows>
void weight_gradient(const Conv3x3& c, const float* x, const float* dy, float* dw, int threads) {
  WeightGradient<kLanes, kRows>(c, x, dy).run(dw, threads);
}

}  // namespace
}  // namespace ccm
