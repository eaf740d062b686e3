// unsigned x signed bytes -> int32 (VEX-coded vpdpbusd, 256 bits), 6 x 16 tiles.
#include <immintrin.h>

#include "entropy/cpu/choose_rows.h"
#include "entropy/cpu/kernels.h"
#include "entropy/cpu/kernels_vector.h"
#include "entropy/cpu/lanes_avx2.h"

namespace ccm {
namespace {

struct AvxVnni : Lanes256<uint8_t, int8_t, 4> {
#if defined(CCM_EMULATE_VNNI)
  // Tests on processors without the instruction: what it does, by AVX2, so that everything around it is tested there.
  static Reg dot(Reg acc, Reg x, Reg w) {
    const Reg x_even = _mm256_and_si256(x, _mm256_set1_epi16(255)), x_odd = _mm256_srli_epi16(x, 8);
    const Reg w_even = _mm256_srai_epi16(_mm256_slli_epi16(w, 8), 8), w_odd = _mm256_srai_epi16(w, 8);
    return _mm256_add_epi32(acc, _mm256_add_epi32(_mm256_madd_epi16(x_even, w_even), _mm256_madd_epi16(x_odd, w_odd)));
  }
#else
  static Reg dot(Reg acc, Reg x, Reg w) { return _mm256_dpbusd_avx_epi32(acc, x, w); }
#endif
  static void step(Reg& acc0, Reg& acc1, const Element* p, Reg w0, Reg w1) {
    const Reg x = broadcast(p);
    acc0 = dot(acc0, x, w0);
    acc1 = dot(acc1, x, w1);
  }
};

}  // namespace

const Kernels& avxvnni_kernels() {
  static const Kernels k{{"avxvnni", kIsaAvxVnni, 16, 4, 1},
                         gemm_vector<AvxVnni>,
                         relu8_bytes_avx2,
                         leaky8_bytes_avx2,
                         accumulate_avx2,
                         rescale_avx2,
                         choose_rows};
  return k;
}

}  // namespace ccm
