// The picture filter's loops in vectors of kLanes: included by one file for each instruction set.
#pragma once
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "transforms/picture_filter.h"

namespace ccm {
namespace {

template <int kLanes>
struct FilterTypes {
  typedef float Floats __attribute__((vector_size(4 * kLanes)));
  typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));
  typedef int16_t Shorts __attribute__((vector_size(2 * kLanes)));
  typedef uint16_t Levels __attribute__((vector_size(2 * kLanes)));
};

template <int kLanes>
struct FilterVector {
  using Floats = typename FilterTypes<kLanes>::Floats;
  using Ints = typename FilterTypes<kLanes>::Ints;
  using Shorts = typename FilterTypes<kLanes>::Shorts;
  using Levels = typename FilterTypes<kLanes>::Levels;

  static Ints load(const int16_t* at) {
    Shorts v;
    std::memcpy(&v, at, sizeof v);
    return __builtin_convertvector(v, Ints);
  }
  static Ints load(const int32_t* at) {
    Ints v;
    std::memcpy(&v, at, sizeof v);
    return v;
  }
  static Ints magnitude(Ints v) { return v < 0 ? -v : v; }
  static Floats floats(Ints v) { return __builtin_convertvector(v, Floats); }

  // Taps of one colour.
  static void taps(const int16_t* at, int64_t stride, Floats* to) {
    const Ints middle = load(at), four = 4 * middle;
    const auto ring = [&](int64_t a, int64_t b, int64_t c, int64_t d) {
      return floats(load(at + a) + load(at + b) + load(at + c) + load(at + d) - four);
    };
    to[0] = floats(middle - kFilterMiddle) * 0.125f;
    to[1] = ring(-1, 1, -stride, stride);
    to[2] = ring(-stride - 1, -stride + 1, stride - 1, stride + 1);
    to[3] = ring(-2, 2, -2 * stride, 2 * stride);
    to[4] = ring(-2 * stride - 2, -2 * stride + 2, 2 * stride - 2, 2 * stride + 2);
    to[5] = ring(-3, 3, -3 * stride, 3 * stride);
  }

  // How busy the picture is around pixels: differences of three rows, summed over three columns.
  static Ints busy(const BusyRows& rows, int64_t first) {
    Ints sum = {};
    for (const int32_t* row : rows)
      for (int64_t j = -1; j <= 1; ++j) sum += load(row + first + j);
    return sum;
  }

  static Ints kind(Ints busy, const int32_t* bounds, size_t count) {
    Ints kind = {};
    for (size_t k = 0; k < count; ++k) kind -= busy >= bounds[k];  // true is -1
    return kind;
  }
};

template <int kLanes>
void differences(const FilterRow& r, int32_t* to) {
  using V = FilterVector<kLanes>;
  for (int64_t j = -1; j < r.count + 1; j += kLanes) {
    const int16_t* at = r.light + j;
    const auto twice = 2 * V::load(at);
    const auto v = V::magnitude(twice - V::load(at - r.stride) - V::load(at + r.stride)) +
                   V::magnitude(twice - V::load(at - 1) - V::load(at + 1));
    std::memcpy(to + j, &v, sizeof v);
  }
}

template <int kLanes, int kColours>
void apply_row(const FilterRow& r, const BusyRows& rows, const FilterWeights& w, int32_t most, uint16_t* levels) {
  using V = FilterVector<kLanes>;
  using Floats = typename V::Floats;
  using Ints = typename V::Ints;
  constexpr int kTaps = kColours * kFilterTaps;
  const int64_t room = filter_room(r.count);
  const float scale = static_cast<float>(most) / kFilterWhite, white = static_cast<float>(most);
  for (int64_t first = 0; first < r.count; first += kLanes) {
    Floats taps[kTaps];
    for (int c = 0; c < kColours; ++c) V::taps(r.at + c * r.plane + first, r.stride, taps + c * kFilterTaps);
    Ints kind = {};
    uint32_t present = 1;
    if (w.classes > 1) {
      kind = V::kind(V::busy(rows, first), w.bounds.data(), w.bounds.size());
      present = 0;
      for (int k = 0; k < kLanes; ++k) present |= 1u << kind[k];
    }
    Floats sums[kColours];
    for (int c = 0; c < kColours; ++c) sums[c] = V::floats(V::load(r.at + c * r.plane + first));
    Floats more[kColours] = {};
    for (int32_t one = 0; one < w.classes; ++one) {
      if (!(present >> one & 1)) continue;
      const float* weight = &w.values[static_cast<size_t>(one) * kColours * kTaps];
      for (int c = 0; c < kColours; ++c, weight += kTaps) {
        Floats sum = weight[0] * taps[0], other = weight[1] * taps[1];  // two chains: half the latency
        for (int t = 2; t < kTaps; t += 2) {
          sum += weight[t] * taps[t];
          other += weight[t + 1] * taps[t + 1];
        }
        more[c] = kind == one ? sum + other : more[c];
      }
    }
    for (int c = 0; c < kColours; ++c) {
      Floats v = (sums[c] + more[c]) * scale;
      v = v > 0 ? v : Floats{};
      v = v < white ? v : white + Floats{};
      constexpr float kOnes = 12582912;  // 1.5 * 2^23: its last bit counts ones
      const auto out = __builtin_convertvector(__builtin_convertvector((v + kOnes) - kOnes, Ints), typename V::Levels);
      std::memcpy(levels + c * room + first, &out, sizeof out);
    }
  }
}

template <int kLanes>
void apply(const FilterRow& r, const BusyRows& rows, const FilterWeights& w, int32_t most, uint16_t* levels) {
  w.colours == 1 ? apply_row<kLanes, 1>(r, rows, w, most, levels) : apply_row<kLanes, 3>(r, rows, w, most, levels);
}

// Adds the products of `count` pixels' values in one row of a bin's sums, or in `kRows` of them: columns [column,
// column + kLanes). Sums are loaded and stored once for all pixels.
template <int kLanes, int kRows>
void add_rows(const float (*pixels)[kFilterColumns], int count, int row, int column, float* to) {
  using Floats = typename FilterVector<kLanes>::Floats;
  float* const at = to + row * kFilterColumns + column;
  Floats v[kRows];
#pragma GCC unroll 8
  for (int t = 0; t < kRows; ++t) std::memcpy(&v[t], at + t * kFilterColumns, sizeof v[t]);
  for (int k = 0; k < count; ++k) {
    Floats columns;
    std::memcpy(&columns, pixels[k] + column, sizeof columns);
#pragma GCC unroll 8
    for (int t = 0; t < kRows; ++t) v[t] += pixels[k][row + t] * columns;
  }
#pragma GCC unroll 8
  for (int t = 0; t < kRows; ++t) std::memcpy(at + t * kFilterColumns, &v[t], sizeof v[t]);
}

// The same for rows [row, end).
template <int kLanes>
void add_block(const float (*pixels)[kFilterColumns], int count, int row, int end, int column, float* to) {
  constexpr int kMost = kLanes == 16 ? 8 : 4;  // so many sums in registers hide the latency of products
  for (; row + kMost <= end; row += kMost) add_rows<kLanes, kMost>(pixels, count, row, column, to);
  for (; row < end; ++row) add_rows<kLanes, 1>(pixels, count, row, column, to);
}

// Adds all products of `count` pixels of one bin that filter_sum() has a place for.
template <int kLanes, int kColours>
void add_products(const float (*pixels)[kFilterColumns], int count, float* to) {
  constexpr int kTaps = kColours * kFilterTaps, kAll = kTaps + kColours, kHead = std::min(kTaps, kFilterHead);
  for (int column = 0; column < std::min(kAll, kFilterHead); column += kLanes) {
    add_block<kLanes>(pixels, count, 0, std::min(column + kLanes, kHead), column, to);
    if (kAll > kFilterHead) add_block<kLanes>(pixels, count, kFilterHead, kAll, column, to);
  }
  if (kAll > kFilterHead)
    for (int column = kFilterHead; column < kAll; column += kLanes)
      add_block<kLanes>(pixels, count, kFilterHead, kTaps, column, to);
}

// The first kFilterHead taps of kLanes pixels, one pixel after another.
template <int kLanes>
void turn(const typename FilterVector<kLanes>::Floats* taps, int count, float (*to)[kFilterHead]) {
#if defined(__AVX512F__)
  if constexpr (kLanes == 16)
    if (count == kFilterHead) {
      __m512 rows[16];
      for (int t = 0; t < 16; ++t) rows[t] = (__m512)taps[t];
      // Rows that are `far` apart exchange every second stretch of `far` values.
      const auto exchange = [&](auto of) __attribute__((always_inline)) {
        constexpr int far = decltype(of)::value;
        alignas(64) int32_t low[16], high[16];
        for (int k = 0; k < 16; ++k) low[k] = k & far ? 16 + k - far : k, high[k] = k & far ? 16 + k : k + far;
        const __m512i first = _mm512_load_si512(low), second = _mm512_load_si512(high);
#pragma GCC unroll 16
        for (int t = 0; t < 16; ++t) {
          if (t & far) continue;
          const __m512 a = rows[t], b = rows[t + far];
          rows[t] = _mm512_permutex2var_ps(a, first, b);
          rows[t + far] = _mm512_permutex2var_ps(a, second, b);
        }
      };
      exchange(std::integral_constant<int, 1>());
      exchange(std::integral_constant<int, 2>());
      exchange(std::integral_constant<int, 4>());
      exchange(std::integral_constant<int, 8>());
      for (int k = 0; k < 16; ++k) _mm512_storeu_ps(to[k], rows[k]);
      return;
    }
#endif
  for (int k = 0; k < kLanes; ++k)
    for (int t = 0; t < count; ++t) to[k][t] = taps[t][k];
}

template <int kLanes, int kColours>
void sum_row(const FilterRow& r, const BusyRows& rows, const float* lacks, float* sums) {
  using V = FilterVector<kLanes>;
  using Floats = typename V::Floats;
  constexpr int kTaps = kColours * kFilterTaps, kHead = std::min(kTaps, kFilterHead), kAtOnce = 8;
  const int64_t room = filter_room(r.count);
  float waiting[kFilterBins][kAtOnce][kFilterColumns] = {};
  int32_t counts[kFilterBins] = {};
  const auto bin_sums = [&](int32_t bin) { return sums + static_cast<size_t>(bin) * filter_bin(kColours); };
  for (int64_t first = 0; first < r.count; first += kLanes) {
    Floats taps[kTaps];
    for (int c = 0; c < kColours; ++c) V::taps(r.at + c * r.plane + first, r.stride, taps + c * kFilterTaps);
    const auto bin = V::kind(V::busy(rows, first), kFilterBounds.data(), kFilterBounds.size());
    alignas(64) float turned[kLanes][kFilterHead];
    turn<kLanes>(taps, kHead, turned);
    const int64_t count = std::min<int64_t>(kLanes, r.count - first);
    for (int k = 0; k < count; ++k) {
      const int32_t b = bin[k];
      float* const row = waiting[b][counts[b]];
      std::memcpy(row, turned[k], sizeof(float) * kHead);
      for (int t = kHead; t < kTaps; ++t) row[t] = taps[t][k];
      for (int c = 0; c < kColours; ++c) row[kTaps + c] = lacks[c * room + first + k];
      if (++counts[b] < kAtOnce) continue;
      add_products<kLanes, kColours>(waiting[b], kAtOnce, bin_sums(b));
      counts[b] = 0;
    }
  }
  for (int32_t b = 0; b < kFilterBins; ++b)
    if (counts[b] > 0) add_products<kLanes, kColours>(waiting[b], counts[b], bin_sums(b));
}

template <int kLanes>
void sum(const FilterRow& r, int32_t colours, const BusyRows& rows, const float* lacks, float* sums) {
  colours == 1 ? sum_row<kLanes, 1>(r, rows, lacks, sums) : sum_row<kLanes, 3>(r, rows, lacks, sums);
}

}  // namespace
}  // namespace ccm
