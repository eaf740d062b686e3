// int16 x int16 -> int32 products (pmaddwd), 6 x 16 tiles: 12 accumulators, 2 weights, 1 broadcast of 16 registers.
#include <immintrin.h>

#include "entropy/cpu/choose_rows.h"
#include "entropy/cpu/kernels.h"
#include "entropy/cpu/kernels_vector.h"
#include "entropy/cpu/lanes_avx2.h"
#include "entropy/cpu/winograd_int_vector.h"

namespace ccm {
namespace {

struct Avx2 : Lanes256<int16_t, int16_t, 2> {
  // In this very order. AMD's Zen 3 binds an instruction to its port before it knows what the others will take; with an
  // addition between the two products they may end up on the same one of their two ports, all along a loop: compiled
  // freely, this one did 46 or 81 G multiply-adds/s depending on where its code lay (102 without additions).
  static void step(Reg& acc0, Reg& acc1, const Element* p, Reg w0, Reg w1) {
    typedef int32_t Pair __attribute__((may_alias, aligned(2)));
    Reg x, y;
    __asm__(
        "vpbroadcastd %[p], %[x]\n\t"
        "vpmaddwd %[w0], %[x], %[y]\n\t"
        "vpmaddwd %[w1], %[x], %[x]\n\t"
        "vpaddd %[y], %[acc0], %[acc0]\n\t"
        "vpaddd %[x], %[acc1], %[acc1]"
        : [acc0] "+x"(acc0), [acc1] "+x"(acc1), [x] "=&x"(x), [y] "=&x"(y)
        : [p] "m"(*reinterpret_cast<const Pair*>(p)), [w0] "x"(w0), [w1] "x"(w1));
  }
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
  static const Kernels k{{"avx2", kIsaAvx2, 16, 2, 2},
                         gemm_vector<Avx2>,
                         relu8_words,
                         leaky8_words,
                         accumulate_avx2,
                         rescale_avx2,
                         choose_rows,
                         to_points_vector,
                         from_points_vector<4>,
                         from_points_vector<2>};
  return k;
}

}  // namespace ccm
