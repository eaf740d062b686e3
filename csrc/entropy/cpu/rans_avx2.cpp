// rANS decoding, eight lanes to a register: the states are kept as their upper 24 and lower 16
// bits in 32-bit elements, and the lanes that need a word take theirs by one permutation.
#include <immintrin.h>

#include "entropy/cpu/rans_kernels.h"
#include "format/rans.h"

namespace ccm {
namespace {

// Element l of row m: how many lanes before l are set in m. Sends the next words to the lanes that need one.
struct Ranks {
  alignas(32) uint32_t rank[256][8];
  uint8_t count[256];
  Ranks() {
    for (int m = 0; m < 256; ++m) {
      uint32_t n = 0;
      for (int l = 0; l < 8; ++l) {
        rank[m][l] = n;
        n += m >> l & 1;
      }
      count[m] = static_cast<uint8_t>(n);
    }
  }
};

inline uint32_t lanes_of(__m256i mask) { return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(mask))); }

// Odd elements of a 64-bit product beside the even ones.
inline __m256i interleave(__m256i even, __m256i odd_in_place) { return _mm256_blend_epi32(even, odd_in_place, 0xaa); }

// Two elements of eight bytes to either half. Gathers are slow on some processors.
template <class Pair>
inline __m256 load_pairs(const Pair* from, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  static_assert(sizeof(Pair) == 8, "loaded whole");
  auto two = [from](uint32_t i, uint32_t j) {
    const __m128i low = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from + i));
    return _mm_castps_si128(_mm_loadh_pi(_mm_castsi128_ps(low), reinterpret_cast<const __m64*>(from + j)));
  };
  return _mm256_castsi256_ps(_mm256_inserti128_si256(_mm256_castsi128_si256(two(a, b)), two(c, d), 1));
}

// Steps that all eight lanes take together towards their entries before the rest is left to one lane at a time.
constexpr int kCommonSteps = 3;

template <int kVectors>
int32_t rounds(const Rows& tables, const uint16_t* rows, int32_t n, int16_t* out, uint64_t* state,
               const uint8_t*& next_word, uint32_t& escaped) {
  static const Ranks ranks;
  constexpr int kLanes = 8 * kVectors;
  const int* entries = reinterpret_cast<const int*>(tables.entries);
  const __m256i low16 = _mm256_set1_epi32(0xffff), one = _mm256_set1_epi32(1);
  const __m256i first_mask = _mm256_set1_epi32((1 << kOriginBits) - 1);
  const uint8_t* next = next_word;

  __m256i hi[kVectors], lo[kVectors];
  alignas(32) uint32_t a[kLanes], b[kLanes];
  for (int l = 0; l < kLanes; ++l) {
    a[l] = static_cast<uint32_t>(state[l] >> kProbBits);
    b[l] = static_cast<uint32_t>(state[l]) & kProbMask;
  }
  for (int v = 0; v < kVectors; ++v) {
    hi[v] = _mm256_load_si256(reinterpret_cast<const __m256i*>(a + 8 * v));
    lo[v] = _mm256_load_si256(reinterpret_cast<const __m256i*>(b + 8 * v));
  }
  int32_t first = 0;
  while (first < n && !escaped) {
    for (int v = 0; v < kVectors; ++v) {
      const __m256i slot = lo[v];
      // These loads do not wait for the state.
      const uint16_t* r = rows + first + 8 * v;
      const __m256 low = load_pairs(tables.find, r[0], r[1], r[4], r[5]);
      const __m256 high = load_pairs(tables.find, r[2], r[3], r[6], r[7]);
      const __m256i where = _mm256_castps_si256(_mm256_shuffle_ps(low, high, 0x88));
      const __m256i base = _mm256_castps_si256(_mm256_shuffle_ps(low, high, 0xdd));
      const __m256i bucket = _mm256_add_epi32(_mm256_srli_epi32(where, 4),
                                              _mm256_srlv_epi32(slot, _mm256_and_si256(where, _mm256_set1_epi32(15))));
      alignas(32) uint32_t in[8];
      _mm256_store_si256(reinterpret_cast<__m256i*>(in), bucket);
      const __m256 left_half = load_pairs(tables.buckets, in[0], in[1], in[4], in[5]);
      const __m256 right_half = load_pairs(tables.buckets, in[2], in[3], in[6], in[7]);
      __m256i entry = _mm256_castps_si256(_mm256_shuffle_ps(left_half, right_half, 0x88));
      __m256i k = _mm256_castps_si256(_mm256_shuffle_ps(left_half, right_half, 0xdd));
      const __m256i row_first = _mm256_and_si256(base, first_mask);
      __m256i freq = _mm256_srli_epi32(entry, 16);
      __m256i inside = _mm256_sub_epi32(slot, _mm256_and_si256(entry, low16));
      __m256i found = _mm256_cmpgt_epi32(freq, inside);
      for (int step = 0; __builtin_expect(lanes_of(found) != 255, 0); ++step) {
        if (step < kCommonSteps) {
          k = _mm256_add_epi32(k, _mm256_andnot_si256(found, one));
          entry = _mm256_i32gather_epi32(entries, _mm256_add_epi32(row_first, k), 4);
        } else {
          alignas(32) uint32_t at[8], slots[8], from[8];
          _mm256_store_si256(reinterpret_cast<__m256i*>(at), k);
          _mm256_store_si256(reinterpret_cast<__m256i*>(slots), slot);
          _mm256_store_si256(reinterpret_cast<__m256i*>(from), row_first);
          for (uint32_t left = ~lanes_of(found) & 255; left; left &= left - 1) {
            const int l = __builtin_ctz(left);
            const uint16_t* below = tables.below + from[l];
            while (below[at[l] + 1] < slots[l]) ++at[l];
          }
          k = _mm256_load_si256(reinterpret_cast<const __m256i*>(at));
          entry = _mm256_i32gather_epi32(entries, _mm256_add_epi32(row_first, k), 4);
        }
        freq = _mm256_srli_epi32(entry, 16);
        inside = _mm256_sub_epi32(slot, _mm256_and_si256(entry, low16));
        found = _mm256_cmpgt_epi32(freq, inside);
      }
      // x = freq * (x >> 16) + slot - start, in 64 bits for even and odd lanes.
      const __m256i even = _mm256_add_epi64(_mm256_mul_epu32(hi[v], freq), interleave(inside, _mm256_setzero_si256()));
      const __m256i odd = _mm256_add_epi64(_mm256_mul_epu32(_mm256_srli_epi64(hi[v], 32), _mm256_srli_epi64(freq, 32)),
                                           _mm256_srli_epi64(inside, 32));
      const __m256i new_hi = interleave(_mm256_srli_epi64(even, 16), _mm256_slli_epi64(odd, 16));
      const __m256i new_lo = _mm256_and_si256(interleave(even, _mm256_slli_epi64(odd, 32)), low16);
      // x < 2^24 takes a word.
      const __m256i needs = _mm256_cmpgt_epi32(_mm256_set1_epi32(kStateLow >> kProbBits), new_hi);
      const uint32_t mask = lanes_of(needs);
      const __m256i words =
          _mm256_permutevar8x32_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(next))),
                                      _mm256_load_si256(reinterpret_cast<const __m256i*>(ranks.rank[mask])));
      next += 2 * ranks.count[mask];
      hi[v] = _mm256_blendv_epi8(new_hi, _mm256_or_si256(_mm256_slli_epi32(new_hi, 16), new_lo), needs);
      lo[v] = _mm256_blendv_epi8(new_lo, words, needs);
      // The escape is the one entry that ends at 65536.
      const __m256i end = _mm256_add_epi32(_mm256_and_si256(entry, low16), freq);
      escaped |= lanes_of(_mm256_cmpgt_epi32(end, low16)) << (8 * v);
      const __m256i value = _mm256_sub_epi32(k, _mm256_srli_epi32(base, kOriginBits));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out + first + 8 * v),
                       _mm_packs_epi32(_mm256_castsi256_si128(value), _mm256_extracti128_si256(value, 1)));
    }
    first += kLanes;
  }
  for (int v = 0; v < kVectors; ++v) {
    _mm256_store_si256(reinterpret_cast<__m256i*>(a + 8 * v), hi[v]);
    _mm256_store_si256(reinterpret_cast<__m256i*>(b + 8 * v), lo[v]);
  }
  for (int l = 0; l < kLanes; ++l) state[l] = static_cast<uint64_t>(a[l]) << kProbBits | b[l];
  next_word = next;
  return first;
}

}  // namespace

RansRounds avx2_rounds(int32_t lanes) {
  return lanes == 8 ? &rounds<1> : lanes == 16 ? &rounds<2> : lanes == 32 ? &rounds<4> : nullptr;
}

}  // namespace ccm
