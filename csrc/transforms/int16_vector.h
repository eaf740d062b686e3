// Products of 16-bit integers that stand for floats: half the words of a row, and 81 G multiply-adds/s where those of
// floats run at 48 (Zen 3, one core). Each row and each column has its scale; sums are exact in 32 bits, by the
// inequality of Cauchy and Schwarz, see pack_int16. For AVX2; included by transform_vector.h.
#pragma once
#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "transforms/product_vector.h"

namespace ccm {
namespace {

// Words are pairs of 16-bit integers that follow each other in depth.
template <int kLanes>
struct Int16 {
  static constexpr bool kCarry = false;
  typedef int32_t Reg __attribute__((vector_size(4 * kLanes)));
  typedef int32_t Loose __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
  typedef int32_t Word __attribute__((may_alias));
  static inline Reg load(const float* p) { return *reinterpret_cast<const Loose*>(p); }
  static inline void store(float* p, Reg v) { *reinterpret_cast<Loose*>(p) = v; }
  static inline Reg all(const float* p) { return *reinterpret_cast<const Word*>(p) - Reg{}; }
  static inline Reg step(Reg sum, Reg x, Reg w) {
#if defined(__AVX512VNNI__)
    if constexpr (kLanes == 16) return as<Reg>(_mm512_dpwssd_epi32(as<__m512i>(sum), as<__m512i>(x), as<__m512i>(w)));
#endif
    if constexpr (kLanes == 8)
#if defined(__AVXVNNI__)
      return as<Reg>(_mm256_dpwssd_avx_epi32(as<__m256i>(sum), as<__m256i>(x), as<__m256i>(w)));
#else
      return sum + as<Reg>(_mm256_madd_epi16(as<__m256i>(x), as<__m256i>(w)));
#endif
  }

 private:
  template <class To, class From>
  static inline To as(From v) {
    return reinterpret_cast<To>(v);
  }
};

// Sums as floats, by the scales of their row and column, to what follows.
template <int kLanes, class Next>
struct Rescaled {
  Next next;
  const float *rows, *columns;
  inline void operator()(const Product& g, typename Int16<kLanes>::Reg sum, int32_t row, int32_t column,
                         int32_t t) const {
    using V = Vector<kLanes>;
    next(g, __builtin_convertvector(sum, typename V::Reg) * rows[row] * V::load(columns + column), row, column, t);
  }
};

// The same, added up in c; tap t has its rows' scales at rows[of[t]].
template <int kLanes>
struct Added {
  const float *rows, *columns;
  const int32_t* of;
  inline void operator()(const Product& g, typename Int16<kLanes>::Reg sum, int32_t row, int32_t column,
                         int32_t t) const {
    using V = Vector<kLanes>;
    using R = typename V::Reg;
    float* at = g.c + row * g.ldc + column;
    const R v = __builtin_convertvector(sum, R) * rows[of[t] + row] * V::load(columns + column);
    V::store(at, t ? V::load(at) + v : v);
  }
};

// A packed matrix (pack_int16) in its parts.
struct Int16Matrix {
  Int16Matrix(const float* packed, int32_t columns) : scales(packed), panels(packed + padded(columns)) {}
  const float *scales, *panels;
};

// What makes integers of a row: kInt16Root over the root of its sum of squares; those of even and odd eights, added up.
// The estimate is at most 1.5 * 2^-12 too large, for which pack_int16 leaves room. Rows of zeros stay zeros; of two
// operands, one of them not a number, the maximum is the second.
inline float row_factor(__m256 squares) {
  const __m128 half = _mm_add_ps(_mm256_castps256_ps128(squares), _mm256_extractf128_ps(squares, 1));
  const __m128 pairs = _mm_add_ps(half, _mm_movehl_ps(half, half));
  const __m128 power = _mm_add_ss(pairs, _mm_shuffle_ps(pairs, pairs, 1));
  return kInt16Root * _mm_cvtss_f32(_mm_rsqrt_ss(_mm_max_ss(_mm_set_ss(1e-30f), power)));
}

// A row of n floats (a multiple of 8) as words: integers round(x / scale), whose root of the sum of squares is
// kInt16Root before they are rounded. Returns the scale.
#if defined(__AVX512F__)
// Bit for bit what the other gives: sums of even and odd eights are the halves of one register.
inline float quantize_row(const float* x, int32_t n, float* words) {
  const int32_t whole = n & ~15;
  const __mmask16 rest = n & 8 ? 0xff : 0;
  __m512 squares = _mm512_setzero_ps();
  for (int32_t k = 0; k < whole; k += 16) {
    const __m512 u = _mm512_loadu_ps(x + k);
    squares = _mm512_fmadd_ps(u, u, squares);
  }
  if (rest) {
    const __m512 u = _mm512_maskz_loadu_ps(rest, x + whole);
    squares = _mm512_fmadd_ps(u, u, squares);
  }
  // Forms with masks of ones: the others' undefined operands are warned of by GCC 12.
  const auto half = [&](auto which) {
    return _mm256_castpd_ps(_mm512_maskz_extractf64x4_pd(0xf, _mm512_castps_pd(squares), decltype(which)::value));
  };
  const float by =
      row_factor(_mm256_add_ps(half(std::integral_constant<int, 0>()), half(std::integral_constant<int, 1>())));
  const __m512 scale = _mm512_set1_ps(by);
  const auto integers = [&](__m512 v) {
    return _mm512_maskz_cvtsepi32_epi16(0xffff, _mm512_maskz_cvtps_epi32(0xffff, _mm512_mul_ps(v, scale)));
  };
  auto* to = reinterpret_cast<int16_t*>(words);
  for (int32_t k = 0; k < whole; k += 16)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + k), integers(_mm512_loadu_ps(x + k)));
  if (rest)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + whole),
                     _mm256_castsi256_si128(integers(_mm512_maskz_loadu_ps(rest, x + whole))));
  return 1 / by;
}
#else
inline float quantize_row(const float* x, int32_t n, float* words) {
  using V = Vector<8>;
  V::Reg a{}, b{};
  int32_t k = 0;
  for (; k + 16 <= n; k += 16) {
    const V::Reg u = V::load(x + k), v = V::load(x + k + 8);
    a += u * u;
    b += v * v;
  }
  if (k < n) a += V::load(x + k) * V::load(x + k);
  const float by = row_factor(a + b);
  const __m256 scale = _mm256_set1_ps(by);
  const auto integers = [&](int32_t at) { return _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + at), scale)); };
  int32_t* to = reinterpret_cast<int32_t*>(words);
  for (k = 0; k + 16 <= n; k += 16) {
    const __m256i packed = _mm256_packs_epi32(integers(k), integers(k + 8));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + k / 2), _mm256_permute4x64_epi64(packed, 0xd8));
  }
  if (k < n) {
    const __m256i last = integers(k);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + k / 2),
                     _mm_packs_epi32(_mm256_castsi256_si128(last), _mm256_extracti128_si256(last, 1)));
  }
  return 1 / by;
}
#endif

// gdn_rows with a gamma of pack_int16, whose sums go over all columns, a multiple of 8.
template <int kLanes, int kRows>
void gdn_rows_int16(const Epilogue& e, float* rows, int32_t n, int32_t columns, Buffer& squares) {
  using V = Vector<8>;
  const int32_t pad = padded(columns), zero = 0, words = columns / 2;
  float* row = squares.fit(static_cast<size_t>(n) * (words + 1) + columns);
  float *square = row + columns, *scales = square + static_cast<int64_t>(n) * words;
  const Int16Matrix gamma(e.gamma, columns);
  for (int32_t r = 0; r < n; ++r) {
    const float* from = rows + static_cast<int64_t>(r) * pad;
    for (int32_t c = 0; c < columns; c += 8) V::store(row + c, V::load(from + c) * V::load(from + c));
    scales[r] = quantize_row(row, columns, square + static_cast<int64_t>(r) * words);
  }
  product<kLanes, kRows, Rescaled<kLanes, Normalize<kLanes>>, Int16<kLanes>>(
      {square, words, &zero, 1, words, gamma.panels, rows, pad, n, pad}, {{e}, scales, gamma.scales});
}

}  // namespace
}  // namespace ccm
