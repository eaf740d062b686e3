// Signed by unsigned bytes -> int32 (sudot).
#include "entropy/cpu/choose_rows.h"
#include "entropy/cpu/lanes_neon.h"

namespace ccm {
namespace {

struct MixedProducts {
  using Elements = uint8x16_t;
  static Elements elements(uint8x16_t bytes) { return bytes; }
  template <int kLane>
  static int32x4_t dot(int32x4_t acc, int8x16_t w, Elements x) {
    return vsudotq_laneq_s32(acc, w, x, kLane);
  }
  static void correction(const int8_t*, int64_t, int32x4_t* to) {
    for (int r = 0; r < kNeonRegs; ++r) to[r] = vdupq_n_s32(0);
  }
};

}  // namespace

const Kernels& i8mm_kernels() {
  static const Kernels k{{"i8mm", kIsaI8mm, kNeonColumns, kNeonBlock, 1},
                         gemm_neon<MixedProducts>,
                         relu8_neon,
                         leaky8_neon,
                         rescale_neon<true>,
                         rescale_neon<false>,
                         choose_rows};
  return k;
}

}  // namespace ccm
