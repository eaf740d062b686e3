// requantize() on eight lanes with AVX2, bit for bit the function of fixed_point.h.
#pragma once
#include <immintrin.h>

#include <cstdint>

namespace ccm {
namespace {

struct Requantizer8 {
  __m256i mult_even, mult_odd, shift_even, shift_odd, half_even, half_odd;

  Requantizer8(const int32_t* mult, const int32_t* shift) {
    const __m256i low = _mm256_set1_epi64x(0xffffffff), one = _mm256_set1_epi64x(1);
    mult_even = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(mult));
    mult_odd = _mm256_srli_epi64(mult_even, 32);
    const __m256i s = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(shift));
    shift_even = _mm256_and_si256(s, low);
    shift_odd = _mm256_srli_epi64(s, 32);
    half_even = _mm256_sllv_epi64(one, _mm256_sub_epi64(shift_even, one));
    half_odd = _mm256_sllv_epi64(one, _mm256_sub_epi64(shift_odd, one));
  }

  // Any sign. AVX2 has no 64-bit arithmetic shift: 2^62 lifts the product above zero, the logical shift then equals
  // the arithmetic one up to 2^62 >> shift, which is taken off again (modulo 2^32, where the result lives).
  __m256i any(__m256i acc) const {
    const __m256i lift = _mm256_set1_epi64x(int64_t{1} << 62);
    __m256i even = _mm256_add_epi64(_mm256_mul_epi32(acc, mult_even), _mm256_add_epi64(half_even, lift));
    __m256i odd =
        _mm256_add_epi64(_mm256_mul_epi32(_mm256_srli_epi64(acc, 32), mult_odd), _mm256_add_epi64(half_odd, lift));
    even = _mm256_sub_epi64(_mm256_srlv_epi64(even, shift_even), _mm256_srlv_epi64(lift, shift_even));
    odd = _mm256_sub_epi64(_mm256_srlv_epi64(odd, shift_odd), _mm256_srlv_epi64(lift, shift_odd));
    return _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa);
  }

  // acc >= 0.
  __m256i positive(__m256i acc) const {
    __m256i even = _mm256_add_epi64(_mm256_mul_epu32(acc, mult_even), half_even);
    __m256i odd = _mm256_add_epi64(_mm256_mul_epu32(_mm256_srli_epi64(acc, 32), mult_odd), half_odd);
    even = _mm256_srlv_epi64(even, shift_even);
    odd = _mm256_srlv_epi64(odd, shift_odd);
    return _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa);
  }
};

inline __m256i load8(const int32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }

inline __m256i relu8_lanes(const int32_t* acc, const int32_t* mult, const int32_t* shift) {
  const __m256i v = _mm256_max_epi32(load8(acc), _mm256_setzero_si256());
  return _mm256_min_epi32(Requantizer8(mult, shift).positive(v), _mm256_set1_epi32(255));
}

inline void rescale8(const int32_t* acc, const int32_t* mult, const int32_t* shift, int32_t* out, int32_t n, bool add) {
  for (int32_t i = 0; i < n; i += 8) {
    __m256i v = Requantizer8(mult + i, shift + i).any(load8(acc + i));
    if (add) v = _mm256_add_epi32(v, load8(out + i));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i), v);
  }
}

inline void accumulate_avx2(const int32_t* acc, const int32_t* mult, const int32_t* shift, int32_t* out, int32_t n) {
  rescale8(acc, mult, shift, out, n, true);
}

inline void rescale_avx2(const int32_t* acc, const int32_t* mult, const int32_t* shift, int32_t* out, int32_t n) {
  rescale8(acc, mult, shift, out, n, false);
}

// Bytes, for the VNNI kernels.
inline void relu8_bytes_avx2(const int32_t* acc, const int32_t* mult, const int32_t* shift, void* out, int32_t n) {
  auto* o = static_cast<uint8_t*>(out);
  for (int32_t i = 0; i < n; i += 8) {
    const __m256i v = relu8_lanes(acc + i, mult + i, shift + i);
    const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(o + i), _mm_packus_epi16(words, words));
  }
}

}  // namespace
}  // namespace ccm
