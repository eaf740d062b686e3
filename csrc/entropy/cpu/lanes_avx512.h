// requantize() on sixteen lanes with AVX-512, bit for bit the function of fixed_point.h, and what the kernels of bytes
// with 512-bit vectors do with it. Numbers of columns are multiples of 16.
#pragma once
#if defined(__GNUC__) && !defined(__clang__)
// GCC 12's own intrinsics begin with a variable that is undefined on purpose, and it warns of them (its bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>

#include <cstdint>

#include "entropy/cpu/kernels.h"

namespace ccm {
namespace {

inline __m512i load16(const int32_t* p) { return _mm512_loadu_si512(p); }

struct Requantizer16 {
  __m512i mult_even, mult_odd, shift_even, shift_odd, half_even, half_odd;

  Requantizer16(const int32_t* mult, const int32_t* shift) {
    const __m512i one = _mm512_set1_epi64(1), s = load16(shift);
    mult_even = load16(mult);
    mult_odd = _mm512_srli_epi64(mult_even, 32);
    shift_even = _mm512_and_si512(s, _mm512_set1_epi64(0xffffffff));
    shift_odd = _mm512_srli_epi64(s, 32);
    half_even = _mm512_sllv_epi64(one, _mm512_sub_epi64(shift_even, one));
    half_odd = _mm512_sllv_epi64(one, _mm512_sub_epi64(shift_odd, one));
  }

  __m512i operator()(__m512i acc) const { return scaled(acc, mult_even, mult_odd); }

  // below: the multipliers of negative accumulators.
  __m512i operator()(__m512i acc, __m512i below) const {
    const __m512i mult = _mm512_mask_mov_epi32(mult_even, _mm512_cmplt_epi32_mask(acc, _mm512_setzero_si512()), below);
    return scaled(acc, mult, _mm512_srli_epi64(mult, 32));
  }

  __m512i scaled(__m512i acc, __m512i by_even, __m512i by_odd) const {
    const __m512i even = _mm512_add_epi64(_mm512_mul_epi32(acc, by_even), half_even);
    const __m512i odd = _mm512_add_epi64(_mm512_mul_epi32(_mm512_srli_epi64(acc, 32), by_odd), half_odd);
    return _mm512_mask_mov_epi32(_mm512_srav_epi64(even, shift_even), 0xaaaa,
                                 _mm512_slli_epi64(_mm512_srav_epi64(odd, shift_odd), 32));
  }
};

inline void store_bytes16(void* out, int64_t at, __m512i values) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(static_cast<uint8_t*>(out) + at), _mm512_cvtepi32_epi8(values));
}

inline __m512i clamp16(__m512i v, __m512i least, __m512i most) {
  return _mm512_min_epi32(_mm512_max_epi32(v, least), most);
}

// Columns outside, rows inside: what depends on the column alone is computed once.
inline void relu8_bytes_avx512(const RequantizeArgs& g, void* out) {
  const __m512i zero = _mm512_setzero_si512(), most = _mm512_set1_epi32(255);
  for (int32_t i = 0; i < g.n; i += 16) {
    const Requantizer16 q(g.mult + i, g.shift + i);
    for (int32_t r = 0; r < g.rows; ++r)
      store_bytes16(out, r * g.ld_out + i, clamp16(q(load16(g.acc + r * g.ld_acc + i)), zero, most));
  }
}

inline void leaky8_bytes_avx512(const RequantizeArgs& g, const int32_t* below, int32_t zero, void* out) {
  const __m512i least = _mm512_set1_epi32(-zero), most = _mm512_set1_epi32(255 - zero), bias = _mm512_set1_epi32(zero);
  for (int32_t i = 0; i < g.n; i += 16) {
    const Requantizer16 q(g.mult + i, g.shift + i);
    const __m512i b = load16(below + i);
    for (int32_t r = 0; r < g.rows; ++r) {
      const __m512i v = clamp16(q(load16(g.acc + r * g.ld_acc + i), b), least, most);
      store_bytes16(out, r * g.ld_out + i, _mm512_add_epi32(v, bias));
    }
  }
}

template <bool kAdd>
inline void rescale_columns_avx512(const RequantizeArgs& g, int32_t* out) {
  for (int32_t i = 0; i < g.n; i += 16) {
    const Requantizer16 q(g.mult + i, g.shift + i);
    for (int32_t r = 0; r < g.rows; ++r) {
      int32_t* to = out + r * g.ld_out + i;
      __m512i v = q(load16(g.acc + r * g.ld_acc + i));
      if (kAdd) v = _mm512_add_epi32(v, load16(to));
      _mm512_storeu_si512(to, v);
    }
  }
}

inline void accumulate_avx512(const RequantizeArgs& g, int32_t* out) { rescale_columns_avx512<true>(g, out); }
inline void rescale_avx512(const RequantizeArgs& g, int32_t* out) { rescale_columns_avx512<false>(g, out); }

}  // namespace
}  // namespace ccm
