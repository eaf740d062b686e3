#include "transforms/pack_vector.h"

namespace ccm {

const PackKernels& plain_pack_kernels() {
  static constexpr PackKernels kKernels{to_points<2>, pack_int16_panel<2>};
  return kKernels;
}

}  // namespace ccm
