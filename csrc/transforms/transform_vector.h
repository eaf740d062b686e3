// 3x3 convolutions over vectors of kLanes floats; included by one file per instruction set, see product_vector.h.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>

#include "base/array.h"
#include "base/interrupt.h"
#include "base/threads.h"
#include "transforms/product_vector.h"
#if defined(__AVX2__)
#include "transforms/int16_vector.h"
#endif

namespace ccm {
namespace {

// ---------------------------------------------------------------------------------------------------------------------
// Winograd

constexpr int kTile = kWinogradTile, kSide = kTile + 2, kPoints = kSide * kSide;
// Tiles of a block, the rows of its products: enough for every weight to be worth its way from the third-level cache or
// from memory, few enough for points and weights to stay there beside what others keep in it. Few columns have few
// weights; then the points are to stay in the second-level cache. With 192 channels on Zen 3: 192 columns 181 ms by 72
// tiles, 189 by 96; 16 columns 30 ms by 24 tiles, 33 by 96.
inline int block_tiles(int32_t columns) { return columns <= 2 * kPanel ? 24 : 72; }
// Tiles whose outputs are normalized together: gamma's panels are worth their way for the rows of some.
constexpr int kGroup = 2;

// 8 inputs -> values at the points.
template <class R>
inline void to_points(const R (&d)[8], R (&v)[8]) {
  v[0] = d[0] - d[6] + (d[4] - d[2]) * 5.25f;
  v[7] = d[7] - d[1] + (d[3] - d[5]) * 5.25f;
  const R a = d[2] + d[6] - d[4] * 4.25f, b = d[1] + d[5] - d[3] * 4.25f;
  v[1] = a + b;
  v[2] = a - b;
  const R e = d[2] * 0.25f - d[4] * 1.25f + d[6], f = d[1] * 0.5f - d[3] * 2.5f + d[5] * 2.0f;
  v[3] = e + f;
  v[4] = e - f;
  const R g = d[2] * 4.0f - d[4] * 5.0f + d[6], h = d[1] * 2.0f - d[3] * 2.5f + d[5] * 0.5f;
  v[5] = g + h;
  v[6] = g - h;
}

// Values at the points -> 6 outputs.
template <class R>
inline void from_points(const R (&m)[8], R (&y)[6]) {
  const R a = m[1] + m[2], b = m[1] - m[2], c = m[3] + m[4], d = m[3] - m[4], e = m[5] + m[6], f = m[5] - m[6];
  y[0] = m[0] + a + c + e;
  y[1] = b + d * 2.0f + f * 0.5f;
  y[2] = a + c * 4.0f + e * 0.25f;
  y[3] = b + d * 8.0f + f * 0.125f;
  y[4] = a + c * 16.0f + e * 0.0625f;
  y[5] = m[7] + b + d * 32.0f + f * 0.03125f;
}

// Pointers of one tile: its inputs, and the places of its values in the Winograd domain. A tile's 128 lines of 16
// channels do not fit into the first cache: inputs are prefetched a tile or a phase ahead into the second one and a
// line ahead into the first, values and products some groups of channels ahead (measured: a sixth of the transforms'
// time; the line 2 to 3 % of decoding on Zen 4; a tile ahead into the first cache as well takes 2 to 5 % longer).
struct Inputs {
  const float* from[kPoints];
  int64_t next;     // to what follows, floats: the next phase, or the tile at the right
  float* to;        // of the first channel
  int64_t point;    // from point to point, floats
  uint64_t wanted;  // bit p is set for the points that are
};
constexpr int kPlacesAhead = 64, kProductsAhead = 32, kLine = 16;  // floats

// kWide vectors of channels of a tile: inputs to points; kAll: all points.
template <int kLanes, int kWide, bool kAll>
inline void input_columns(const Inputs& in, int32_t c) {
  using V = Vector<kLanes>;
  using R = typename V::Reg;
  R half[kWide][kSide][kSide];
  for (int i = 0; i < kSide; ++i) {
    // The tile at the right shares two columns, and of the next phase the tile at the left had them.
#pragma GCC unroll 8
    for (int j = 2; j < kSide; ++j) __builtin_prefetch(in.from[kSide * i + j] + in.next + c, 0, 2);
#pragma GCC unroll 8
    for (int j = 0; j < kSide; ++j) __builtin_prefetch(in.from[kSide * i + j] + c + kLine, 0, 3);
#pragma GCC unroll 1
    for (int w = 0; w < kWide; ++w) {
      R d[kSide];
#pragma GCC unroll 8
      for (int j = 0; j < kSide; ++j) d[j] = V::load(in.from[kSide * i + j] + c + w * kLanes);
      to_points(d, half[w][i]);
    }
  }
  for (int j = 0; j < kSide; ++j) {
    const uint64_t column = in.wanted >> j;
    if (!kAll && !(column & 0x0101010101010101)) continue;
    const auto wanted = [&](int i) { return kAll || column >> (kSide * i) & 1; };
    float* to = in.to + j * in.point + c;
#pragma GCC unroll 8
    for (int i = 0; i < kSide; ++i)
      if (wanted(i)) __builtin_prefetch(to + kSide * i * in.point + kPlacesAhead, 1);
#pragma GCC unroll 1
    for (int w = 0; w < kWide; ++w) {
      R d[kSide], v[kSide];
#pragma GCC unroll 8
      for (int i = 0; i < kSide; ++i) d[i] = half[w][i][j];
      to_points(d, v);
#pragma GCC unroll 8
      for (int i = 0; i < kSide; ++i)
        if (wanted(i)) V::store(to + kSide * i * in.point + w * kLanes, v[i]);
    }
  }
}

template <int kLanes>
void input_tile(const Inputs& in, int32_t channels) {
  constexpr int kWide = 16 / kLanes;  // whole cache lines
  int32_t c = 0;
  if (in.wanted == ~uint64_t{0})
    for (; c + kWide * kLanes <= channels; c += kWide * kLanes) input_columns<kLanes, kWide, true>(in, c);
  for (; c + kWide * kLanes <= channels; c += kWide * kLanes) input_columns<kLanes, kWide, false>(in, c);
  // Channels come by eights.
  constexpr int kRest = std::min(kLanes, 8);
  for (; c < channels; c += kRest) input_columns<kRest, 1, false>(in, c);
}

// kWide vectors of channels of a tile: products to rows.
template <int kLanes, int kWide>
inline void output_columns(const Epilogue& e, const float* from, int64_t point, int32_t c, float* rows, int32_t pad) {
  using V = Vector<kLanes>;
  using R = typename V::Reg;
  R half[kWide][kTile][kSide];
  for (int j = 0; j < kSide; ++j) {
#pragma GCC unroll 8
    for (int i = 0; i < kSide; ++i) __builtin_prefetch(from + (kSide * i + j) * point + c + kProductsAhead);
#pragma GCC unroll 1
    for (int w = 0; w < kWide; ++w) {
      R m[kSide], y[kTile];
#pragma GCC unroll 8
      for (int i = 0; i < kSide; ++i) m[i] = V::load(from + (kSide * i + j) * point + c + w * kLanes);
      from_points(m, y);
#pragma GCC unroll 8
      for (int i = 0; i < kTile; ++i) half[w][i][j] = y[i];
    }
  }
  for (int i = 0; i < kTile; ++i)
#pragma GCC unroll 1
    for (int w = 0; w < kWide; ++w) {
      R y[kTile];
      from_points(half[w][i], y);
      const R bias = V::load(e.bias + c + w * kLanes);
#pragma GCC unroll 8
      for (int j = 0; j < kTile; ++j) {
        y[j] += bias;
        if (e.activation == kLeaky) y[j] = leaky<V>(y[j], e.slope);
        V::store(rows + (kTile * i + j) * pad + c + w * kLanes, y[j]);
      }
    }
}

// Products of a tile, with bias and leaky ReLU, to rows [36][pad]; pad: columns rounded up to panels.
template <int kLanes>
void output_tile(const Epilogue& e, const float* from, int64_t point, float* rows, int32_t pad) {
  for (int32_t c = 0; c < pad; c += kPanel) output_columns<kLanes, kPanel / kLanes>(e, from, point, c, rows, pad);
}

// Buffers of one thread.
struct Scratch {
  Buffer points, products, rows, squares, zeros, bias, beta, tile, scales;
};

// (Inverse) GDN of rows [n][padded(columns)], in place.
template <int kLanes, int kRows>
inline void normalize_rows(const Epilogue& e, float* rows, int32_t n, int32_t columns, Scratch& scratch) {
  if (e.activation != kGdn && e.activation != kInverseGdn) return;
#if defined(__AVX2__)
  if constexpr (kLanes >= 8)
    if (e.int16) return gdn_rows_int16<kLanes, kRows>(e, rows, n, columns, scratch.squares);
#endif
  gdn_rows<kLanes, kRows>(e, rows, n, columns, scratch.squares);
}

// kInt16: the products' operands are 16-bit integers.
template <int kLanes, int kRows, bool kInt16>
class Winograd {
 public:
  explicit Winograd(const WinogradArgs& a)
      : a_(a),
        s_(a.shape),
        down_((a.height + kTile - 1) / kTile),
        across_((a.width + kTile - 1) / kTile),
        pad_(padded(s_.out)),
        chunk_(kInt16 ? int16_chunk(s_.in) : s_.in),
        stream_(beyond_caches<kLanes>(a.after, a.y, a.batch * a.height * a.width * a.shape.out_phases, a.shape.out)) {
    // Packed: masks, then panels in the order of phases and points.
    int64_t at = kPoints * s_.out_phases;
    for (int32_t q = 0; q < kPoints * s_.out_phases; ++q) {
      int32_t mask;
      std::memcpy(&mask, a.packed + q, sizeof mask);
      start_.push_back(at);
      const int64_t before = taps_.size();
      first_tap_.push_back(static_cast<int32_t>(before));
      for (int32_t i = 0; i < s_.in_phases; ++i)
        if (mask >> i & 1) {
          for (int32_t c = 0; c < s_.in; c += chunk_) taps_.push_back((i * s_.in + c) / kPack);
          wanted_[i] |= uint64_t{1} << (q % kPoints);
        }
      const int64_t rows = (taps_.size() - before) * chunk_;
      at += kInt16 ? int16_floats(rows, s_.out) : rows * pad_;
    }
    first_tap_.push_back(static_cast<int32_t>(taps_.size()));
  }

  int64_t tiles() const { return a_.batch * down_ * across_; }

  void block(int64_t first, int32_t count, Scratch& scratch) const {
    const int64_t wide = static_cast<int64_t>(s_.in_phases) * s_.in;
    // A cache line more between points: without it all 64 would fall into one set of the cache.
    const int64_t words = wide / kPack, point = count * std::max<int64_t>(words, pad_) + 16;
    // The last phase's products take the place of the inputs of the point before, which nothing reads any more.
    float* last = scratch.points.fit((kPoints + 1) * point);
    float* points = last + point;
    // Where integers are wanted, the floats of a tile's chunk stay in the first-level cache until all of them are
    // known.
    const int64_t apart = chunk_ + 16;
    [[maybe_unused]] float* tile = kInt16 ? scratch.tile.fit(kPoints * apart) : nullptr;
    // Scales [points][chunks][count].
    [[maybe_unused]] float* scales = kInt16 ? scratch.scales.fit(kPoints * wide / chunk_ * count) : nullptr;
    for (int32_t t = 0; t < count; ++t)
      for (int32_t i = 0; i < s_.in_phases; ++i) {
        Inputs in;
        sources(first + t, i, scratch.zeros.data, in);
        in.wanted = wanted_[i];
        if constexpr (!kInt16) {
          in.to = points + t * wide + i * s_.in;
          in.point = point;
          input_tile<kLanes>(in, s_.in);
        }
#if defined(__AVX2__)
        if constexpr (kInt16) {
          in.to = tile;
          in.point = apart;
          for (int32_t c = 0; c < s_.in; c += chunk_) {
            input_tile<kLanes>(in, chunk_);
            for (const float*& from : in.from) from += chunk_;
            const int64_t at = i * s_.in + c, chunks = wide / chunk_;
            float* scale = scales + at / chunk_ * count + t;
            float* row = points + t * words + at / kPack;
            for (int32_t p = 0; p < kPoints; ++p)
              if (in.wanted >> p & 1)
                scale[p * chunks * count] = quantize_row(tile + p * apart, chunk_, row + p * point);
          }
        }
#endif
      }
    [[maybe_unused]] Array<int32_t> of;
    for (int32_t o = 0; o < s_.out_phases; ++o) {
      float* products = o + 1 < s_.out_phases ? scratch.products.fit(kPoints * point) : last;
      for (int32_t p = 0; p < kPoints; ++p) {
        const int32_t first_tap = first_tap_[kPoints * o + p], n = first_tap_[kPoints * o + p + 1] - first_tap;
        const int32_t* taps = taps_.data() + first_tap;
        float* c = products + p * point;
        if (!n) {
          std::fill(c, c + static_cast<int64_t>(count) * pad_, 0.0f);
          continue;
        }
        const float* packed = a_.packed + start_[kPoints * o + p];
        const float* next = points + (p + 1) % kPoints * point;
        Product g{points + p * point, words, taps, n, chunk_ / kPack, packed, c, pad_, count, pad_, next,
                  count * words};
#if defined(__AVX2__)
        if constexpr (kInt16) {
          const Int16Matrix matrix(packed, s_.out);
          g.b = matrix.panels;
          of.clear();
          for (int32_t k = 0; k < n; ++k)
            of.push_back(static_cast<int32_t>((p * wide + taps[k] * kPack) / chunk_ * count));
          product<kLanes, kRows, Added<kLanes>, Int16<kLanes>>(g, {scales, matrix.scales, of.data()});
          continue;
        }
#endif
        product<kLanes, kRows>(g);
      }
      for (int32_t t = 0; t < count; t += kGroup)
        output(first + t, std::min(kGroup, count - t), o, products + static_cast<int64_t>(t) * pad_, point, scratch);
    }
  }

 private:
  static constexpr int32_t kPack = kInt16 ? 2 : 1;  // values in a word

  // Image, first row and first column of a tile.
  struct Place {
    int64_t b, i, j;
  };
  Place place(int64_t tile) const {
    return {tile / (down_ * across_), tile / across_ % down_ * kTile, tile % across_ * kTile};
  }

  void sources(int64_t tile, int32_t phase, const float* zeros, Inputs& in) const {
    const Place at = place(tile);
    const int64_t s = s_.in_phases == 4 ? 2 : 1, row = a_.width * s * s_.in;
    const auto origin = [&](int32_t i) { return i / 2 * row + i % 2 * s_.in; };
    const float* plane = a_.x + at.b * a_.height * s * row + origin(phase);
    in.next = (phase + 1 < s_.in_phases ? origin(phase + 1) : kTile * s * s_.in) - origin(phase);
    for (int i = 0; i < kSide; ++i)
      for (int j = 0; j < kSide; ++j) {
        const int64_t y = at.i + i - 1, x = at.j + j - 1;
        const bool inside = y >= 0 && y < a_.height && x >= 0 && x < a_.width;
        in.from[kSide * i + j] = inside ? plane + y * s * row + x * s * s_.in : zeros;
      }
  }

  // `count` tiles of a phase, at most kGroup, from their products to the plane: through rows in the cache, whose pixels
  // then go as a whole (straight to 36 places and from 36 of a residual at once took a fourth longer).
  void output(int64_t tile, int32_t count, int32_t phase, const float* from, int64_t point, Scratch& scratch) const {
    constexpr int kPixels = kTile * kTile;
    float* rows = scratch.rows.fit(static_cast<size_t>(kGroup) * kPixels * pad_);
    Epilogue e = a_.after;
    e.bias = scratch.bias.data + static_cast<int64_t>(phase) * pad_;
    e.beta = scratch.beta.data;
    for (int32_t t = 0; t < count; ++t)
      output_tile<kLanes>(e, from + static_cast<int64_t>(t) * pad_, point, rows + kPixels * t * pad_, pad_);
    normalize_rows<kLanes, kRows>(e, rows, count * kPixels, s_.out, scratch);
    const int64_t s = s_.out_phases == 4 ? 2 : 1, row = a_.width * s * s_.out;
    for (int32_t t = 0; t < count; ++t) {
      const Place at = place(tile + t);
      const int64_t origin = (at.b * a_.height * s + phase / 2) * row + phase % 2 * s_.out;
      for (int k = 0; k < kPixels; ++k, rows += pad_) {
        const int64_t y = at.i + k / kTile, x = at.j + k % kTile;
        if (y < a_.height && x < a_.width)
          put_row<kLanes>(a_.after, rows, a_.y, origin + y * s * row + x * s * s_.out, s_.out, stream_);
      }
    }
  }

  const WinogradArgs& a_;
  const WinogradShape s_;
  const int64_t down_, across_;
  const int32_t pad_, chunk_;
  const bool stream_;
  // By output phases and points: where weights start; taps lie from the first of it to that of the next.
  Array<int64_t> start_;
  Array<int32_t> first_tap_, taps_;
  uint64_t wanted_[4] = {};  // points with products, by input phase
};

// Values [phases][columns] -> [phases][padded(columns)]; what is added is `with`.
inline void spread(const float* from, int32_t phases, int32_t columns, float with, Buffer& to) {
  const int32_t pad = padded(columns);
  float* out = to.fit(static_cast<size_t>(phases) * pad);
  std::fill(out, out + static_cast<size_t>(phases) * pad, with);
  if (!from) return;
  for (int32_t p = 0; p < phases; ++p) std::copy(from + p * columns, from + (p + 1) * columns, out + p * pad);
}

// Deals out [0, total) in pieces of about `piece`, the same number to every thread that is likely to come as far as
// possible, each of a whole number of `unit`s but the last.
template <class Body>
void in_blocks(int threads, int64_t total, int64_t piece, int64_t unit, Body body) {
  int64_t blocks = (total + piece - 1) / piece;
  const int likely = likely_threads(threads);
  blocks = std::min((blocks + likely - 1) / likely * likely, total);
  const auto edge = [=](int64_t k) { return k == blocks ? total : total * k / blocks / unit * unit; };
  std::atomic<int64_t> next{0};
  run_threads(static_cast<int>(std::min<int64_t>(threads, blocks)), [&](int) {
    Scratch scratch;
    for (int64_t k; (k = next.fetch_add(1)) < blocks; poll())
      if (edge(k) < edge(k + 1)) body(edge(k), edge(k + 1), scratch);
    store_fence();
  });
}

template <int kLanes, int kRows, bool kInt16>
void winograd(const WinogradArgs& a, int threads) {
  const Winograd<kLanes, kRows, kInt16> w(a);
  in_blocks(threads, w.tiles(), block_tiles(a.shape.out), kRows, [&](int64_t first, int64_t last, Scratch& scratch) {
    if (!scratch.zeros.size) {
      spread(nullptr, 1, a.shape.in, 0, scratch.zeros);
      spread(a.after.bias, a.shape.out_phases, a.shape.out, 0, scratch.bias);
      spread(a.after.beta, 1, a.shape.out, 1, scratch.beta);
    }
    w.block(first, static_cast<int32_t>(last - first), scratch);
  });
}

}  // namespace
}  // namespace ccm
