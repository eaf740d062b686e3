// All other convolutions, as products of gathered rows; included by one file per instruction set, see product_vector.h.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "transforms/transform_vector.h"

namespace ccm {
namespace {

// The values that output position (b, i, j) sees: k runs of k pixels.
inline void gather(const DirectArgs& a, int64_t b, int64_t i, int64_t j, float* to) {
  const int64_t top = i * a.stride - a.padding, left = j * a.stride - a.padding;
  const int64_t run = static_cast<int64_t>(a.kernel) * a.in;
  const bool inside = left >= 0 && left + a.kernel <= a.width;
  for (int32_t u = 0; u < a.kernel; ++u, to += run) {
    const int64_t y = top + u;
    if (y < 0 || y >= a.height) {
      std::fill(to, to + run, 0.0f);
      continue;
    }
    const float* row = a.x + (b * a.height + y) * a.width * a.in;
    if (inside) {
      std::memcpy(to, row + left * a.in, run * sizeof *to);
      continue;
    }
    for (int32_t v = 0; v < a.kernel; ++v)
      for (int32_t c = 0; c < a.in; ++c)
        to[v * a.in + c] = left + v >= 0 && left + v < a.width ? row[(left + v) * a.in + c] : 0.0f;
  }
}

// Output positions of a block.
constexpr int kPixels = 96;

// kInt16: multiplies int16 pairs instead of floats, as `Winograd` in transform_vector.h does.
template <int kLanes, int kRows, bool kInt16>
void direct(const DirectArgs& a, int threads) {
  using V = Vector<kLanes>;
  const int32_t depth = a.kernel * a.kernel * a.in, pad = padded(a.out);
  [[maybe_unused]] const int32_t zero = 0;
  const bool stream = beyond_caches<kLanes>(a.after, a.y, a.batch * a.out_height * a.out_width, a.out);
  in_blocks(
      threads, a.batch * a.out_height * a.out_width, kPixels, kRows,
      [&](int64_t first, int64_t last, Scratch& scratch) {
        if (!scratch.bias.size) {
          spread(a.after.bias, 1, a.out, 0, scratch.bias);
          spread(a.after.beta, 1, a.out, 1, scratch.beta);
        }
        const int32_t n = static_cast<int32_t>(last - first);
        float* in = scratch.points.fit(static_cast<size_t>(n) * (depth + 8));
        float* rows = scratch.rows.fit(static_cast<size_t>(n) * pad);
        const auto read = [&](int64_t p, float* to) {
          gather(a, p / (a.out_height * a.out_width), p / a.out_width % a.out_height, p % a.out_width, to);
        };
        if constexpr (!kInt16) {
          for (int64_t p = first; p < last; ++p) read(p, in + (p - first) * depth);
          product<kLanes, kRows>({in, depth, &zero, 1, depth, a.weights, rows, pad, n, pad});
        }
#if defined(__AVX2__)
        if constexpr (kInt16) {
          const int32_t words = int16_depth(depth) / 2, chunk = int16_chunk(2 * words);
          const Int16Matrix matrix(a.weights, a.out);
          float* row = scratch.tile.fit(2 * words);
          float* scales = scratch.scales.fit(static_cast<size_t>(2 * words / chunk) * n);
          std::fill(row + depth, row + 2 * words, 0.0f);
          Array<int32_t> taps, of;
          for (int32_t k = 0; k < 2 * words; k += chunk) {
            taps.push_back(k / 2);
            of.push_back(k / chunk * n);
          }
          for (int32_t r = 0; r < n; ++r) {
            read(first + r, row);
            for (int64_t k = 0; k < taps.size(); ++k)
              scales[of[k] + r] = quantize_row(row + 2 * taps[k], chunk, in + r * words + taps[k]);
          }
          product<kLanes, kRows, Added<kLanes>, Int16<kLanes>>(
              {in, words, taps.data(), static_cast<int32_t>(taps.size()), chunk / 2, matrix.panels, rows, pad, n, pad},
              {scales, matrix.scales, of.data()});
        }
#endif
        Epilogue e = a.after;
        e.beta = scratch.beta.data;
        const float* bias = scratch.bias.data;
        for (int32_t r = 0; r < n; ++r)
          for (int32_t c = 0; c < pad; c += kLanes) {
            float* at = rows + static_cast<int64_t>(r) * pad + c;
            const typename V::Reg v = V::load(at) + V::load(bias + c);
            V::store(at, e.activation == kLeaky ? leaky<V>(v, e.slope) : v);
          }
        normalize_rows<kLanes, kRows>(e, rows, n, a.out, scratch);
        for (int32_t r = 0; r < n; ++r)
          put_row<kLanes>(a.after, rows + static_cast<int64_t>(r) * pad, a.y, (first + r) * a.out, a.out, stream);
      });
}

}  // namespace
}  // namespace ccm
