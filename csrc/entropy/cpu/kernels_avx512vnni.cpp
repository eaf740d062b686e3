// unsigned x signed bytes -> int32 (EVEX-coded vpdpbusd, 512 bits), 12 x 32 tiles: 24 accumulators of 32 registers.
#include "entropy/cpu/choose_rows.h"
#include "entropy/cpu/kernels.h"
#include "entropy/cpu/kernels_vector.h"
#include "entropy/cpu/lanes_avx512.h"

namespace ccm {
namespace {

struct Avx512Vnni {
  using Reg = __m512i;
  using Element = uint8_t;
  using Weight = int8_t;
  static constexpr int kLanes = 16, kBlock = 4, kRows = 12;
  static Reg load(const int32_t* p) { return _mm512_loadu_si512(p); }
  static void store(int32_t* p, Reg v) { _mm512_storeu_si512(p, v); }
  static Reg load_weight(const Weight* p) { return _mm512_loadu_si512(p); }
  static Reg broadcast(const Element* p) {
    int32_t quad;
    __builtin_memcpy(&quad, p, sizeof quad);
    return _mm512_set1_epi32(quad);
  }
  static Reg dot(Reg acc, Reg x, Reg w) { return _mm512_dpbusd_epi32(acc, x, w); }
  static void step(Reg& acc0, Reg& acc1, const Element* p, Reg w0, Reg w1) {
    const Reg x = broadcast(p);
    acc0 = dot(acc0, x, w0);
    acc1 = dot(acc1, x, w1);
  }
};

}  // namespace

const Kernels& avx512vnni_kernels() {
  static const Kernels k{{"avx512vnni", kIsaAvx512Vnni, 32, 4, 1},
                         gemm_vector<Avx512Vnni>,
                         relu8_bytes_avx512,
                         leaky8_bytes_avx512,
                         accumulate_avx512,
                         rescale_avx512,
                         choose_rows};
  return k;
}

}  // namespace ccm
