// For processors with AVX2; without fused products, which would round otherwise.
#include "transforms/pack_vector.h"

namespace ccm {

const PackKernels& avx2_pack_kernels() {
  static constexpr PackKernels kKernels{to_points<4>, pack_int16_panel<4>};
  return kKernels;
}

}  // namespace ccm
