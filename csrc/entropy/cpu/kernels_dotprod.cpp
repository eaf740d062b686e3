// Signed by signed bytes -> int32 (sdot): elements less 128, and 128 times the sum of every column's weights added.
#include "entropy/cpu/choose_rows.h"
#include "entropy/cpu/lanes_neon.h"

namespace ccm {
namespace {

struct DotProducts {
  using Elements = int8x16_t;
  static Elements elements(uint8x16_t bytes) { return vreinterpretq_s8_u8(veorq_u8(bytes, vdupq_n_u8(128))); }
  template <int kLane>
  static int32x4_t dot(int32x4_t acc, int8x16_t w, Elements x) {
    return vdotq_laneq_s32(acc, w, x, kLane);
  }
  static void correction(const int8_t* w, int64_t bytes, int32x4_t* to) {
    int32x4_t sum[kNeonRegs] = {};  // times -128
    for (const int8_t* end = w + bytes; w < end; w += kNeonColumns * kNeonBlock)
      for (int r = 0; r < kNeonRegs; ++r) sum[r] = vdotq_s32(sum[r], vld1q_s8(w + 16 * r), vdupq_n_s8(-128));
    for (int r = 0; r < kNeonRegs; ++r) to[r] = vnegq_s32(sum[r]);
  }
};

}  // namespace

const Kernels& dotprod_kernels() {
  static const Kernels k{{"dotprod", kIsaDotProd, kNeonColumns, kNeonBlock, 1},
                         gemm_neon<DotProducts>,
                         relu8_neon,
                         leaky8_neon,
                         rescale_neon<true>,
                         rescale_neon<false>,
                         choose_rows};
  return k;
}

}  // namespace ccm
