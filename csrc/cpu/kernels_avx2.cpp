// int16 x int16 -> int32 products (pmaddwd), 6 x 16 tiles: 12 accumulators, 2 weights, 1 broadcast of 16 registers.
#include <immintrin.h>

#include "cpu/kernels.h"
#include "cpu/kernels_vector.h"
#include "cpu/lanes_avx2.h"

namespace ccm {
namespace {

struct Avx2 : Lanes256<int16_t, int16_t, 2> {
  static Reg dot(Reg acc, Reg x, Reg w) { return _mm256_add_epi32(acc, _mm256_madd_epi16(x, w)); }
};

void relu8_words(const RequantizeArgs& g, void* out) {
  relu8_avx2(g, [out](int64_t at, __m128i words) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(static_cast<int16_t*>(out) + at), words);
  });
}

void leaky8_words(const RequantizeArgs& g, const int32_t* below, int32_t zero, void* out) {
  leaky8_avx2(g, below, zero, [out](int64_t at, __m128i words) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(static_cast<int16_t*>(out) + at), words);
  });
}

}  // namespace

const Kernels& avx2_kernels() {
  static const Kernels k{"avx2",       kIsaAvx2,        16,          2, 2, gemm_vector<Avx2>, relu8_words,
                         leaky8_words, accumulate_avx2, rescale_avx2};
  return k;
}

}  // namespace ccm
