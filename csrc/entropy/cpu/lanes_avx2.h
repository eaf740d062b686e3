// What the x86 kernels share: 256-bit registers, and requantize() on eight lanes with AVX2, bit for bit the function of
// fixed_point.h.
#pragma once
#include <immintrin.h>

#include <cstdint>

#include "entropy/cpu/kernels.h"

namespace ccm {
namespace {

// The part of a vector type for kernels_vector.h that does not depend on how products are made.
template <class E, class W, int kBlockSize>
struct Lanes256 {
  using Reg = __m256i;
  using Element = E;
  using Weight = W;
  static constexpr int kLanes = 8, kBlock = kBlockSize, kRows = 6;
  static Reg load(const int32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  static void store(int32_t* p, Reg v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
  static Reg load_weight(const Weight* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  // One block of elements, 32 bits, to all lanes.
  static Reg broadcast(const Element* p) {
    int32_t block;
    static_assert(sizeof(Element) * kBlock == sizeof block, "a block fills a lane");
    __builtin_memcpy(&block, p, sizeof block);
    return _mm256_set1_epi32(block);
  }
};

struct Requantizer8 {
  __m256i mult_even, mult_odd, shift_even, shift_odd, half_even, half_odd, lowered_even, lowered_odd;

  Requantizer8(const int32_t* mult, const int32_t* shift) {
    const __m256i low = _mm256_set1_epi64x(0xffffffff), one = _mm256_set1_epi64x(1);
    mult_even = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(mult));
    mult_odd = _mm256_srli_epi64(mult_even, 32);
    const __m256i s = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(shift));
    shift_even = _mm256_and_si256(s, low);
    shift_odd = _mm256_srli_epi64(s, 32);
    half_even = _mm256_sllv_epi64(one, _mm256_sub_epi64(shift_even, one));
    half_odd = _mm256_sllv_epi64(one, _mm256_sub_epi64(shift_odd, one));
    lowered_even = _mm256_srlv_epi64(lift(), shift_even);
    lowered_odd = _mm256_srlv_epi64(lift(), shift_odd);
  }

  // The multipliers of negative accumulators where acc is negative.
  __m256i any(__m256i acc, __m256i below) const {
    const __m256i mult = _mm256_castps_si256(
        _mm256_blendv_ps(_mm256_castsi256_ps(mult_even), _mm256_castsi256_ps(below), _mm256_castsi256_ps(acc)));
    return scaled(acc, mult, _mm256_srli_epi64(mult, 32));
  }

  static __m256i lift() { return _mm256_set1_epi64x(int64_t{1} << 62); }

  // Any sign. AVX2 has no 64-bit arithmetic shift: 2^62 lifts the product above zero, the logical shift then equals
  // the arithmetic one up to 2^62 >> shift, which is taken off again (modulo 2^32, where the result lives).
  __m256i any(__m256i acc) const { return scaled(acc, mult_even, mult_odd); }

  __m256i scaled(__m256i acc, __m256i by_even, __m256i by_odd) const {
    __m256i even = _mm256_add_epi64(_mm256_mul_epi32(acc, by_even), _mm256_add_epi64(half_even, lift()));
    __m256i odd =
        _mm256_add_epi64(_mm256_mul_epi32(_mm256_srli_epi64(acc, 32), by_odd), _mm256_add_epi64(half_odd, lift()));
    even = _mm256_sub_epi64(_mm256_srlv_epi64(even, shift_even), lowered_even);
    odd = _mm256_sub_epi64(_mm256_srlv_epi64(odd, shift_odd), lowered_odd);
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

// Columns outside, rows inside: what depends on the column alone (half of the arithmetic) is then computed once.
template <class Store>
inline void relu8_avx2(const RequantizeArgs& g, Store store) {
  const __m256i zero = _mm256_setzero_si256(), most = _mm256_set1_epi32(255);
  for (int32_t i = 0; i < g.n; i += 8) {
    const Requantizer8 q(g.mult + i, g.shift + i);
    for (int32_t r = 0; r < g.rows; ++r) {
      const __m256i v = _mm256_min_epi32(q.positive(_mm256_max_epi32(load8(g.acc + r * g.ld_acc + i), zero)), most);
      store(r * g.ld_out + i, _mm_packus_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1)));
    }
  }
}

// As relu8_avx2, with signed words (value, not value + zero).
template <class Store>
inline void leaky8_avx2(const RequantizeArgs& g, const int32_t* below, int32_t zero, Store store) {
  const __m256i least = _mm256_set1_epi32(-zero), most = _mm256_set1_epi32(255 - zero);
  for (int32_t i = 0; i < g.n; i += 8) {
    const Requantizer8 q(g.mult + i, g.shift + i);
    const __m256i b = load8(below + i);
    for (int32_t r = 0; r < g.rows; ++r) {
      __m256i v = q.any(load8(g.acc + r * g.ld_acc + i), b);
      v = _mm256_min_epi32(_mm256_max_epi32(v, least), most);
      store(r * g.ld_out + i, _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1)));
    }
  }
}

template <bool kAdd>
inline void rescale_columns(const RequantizeArgs& g, int32_t* out) {
  for (int32_t i = 0; i < g.n; i += 8) {
    const Requantizer8 q(g.mult + i, g.shift + i);
    for (int32_t r = 0; r < g.rows; ++r) {
      int32_t* to = out + r * g.ld_out + i;
      __m256i v = q.any(load8(g.acc + r * g.ld_acc + i));
      if (kAdd) v = _mm256_add_epi32(v, load8(to));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), v);
    }
  }
}

inline void accumulate_avx2(const RequantizeArgs& g, int32_t* out) { rescale_columns<true>(g, out); }
inline void rescale_avx2(const RequantizeArgs& g, int32_t* out) { rescale_columns<false>(g, out); }

// Bytes, for the VNNI kernels.
inline void relu8_bytes_avx2(const RequantizeArgs& g, void* out) {
  relu8_avx2(g, [out](int64_t at, __m128i words) {
    _mm_storel_epi64(reinterpret_cast<__m128i*>(static_cast<uint8_t*>(out) + at), _mm_packus_epi16(words, words));
  });
}

inline void leaky8_bytes_avx2(const RequantizeArgs& g, const int32_t* below, int32_t zero, void* out) {
  const __m128i bias = _mm_set1_epi16(static_cast<int16_t>(zero));
  leaky8_avx2(g, below, zero, [out, bias](int64_t at, __m128i words) {
    words = _mm_add_epi16(words, bias);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(static_cast<uint8_t*>(out) + at), _mm_packus_epi16(words, words));
  });
}

}  // namespace
}  // namespace ccm
