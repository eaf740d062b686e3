// The float convolutions for any processor: vectors of four.
#include "transforms/direct_vector.h"
#include "transforms/transform_vector.h"

namespace ccm {

const TransformKernels& plain_transform_kernels() {
  static const TransformKernels k{winograd<4, 2, false>, nullptr, direct<4, 2, false>, nullptr};
  return k;
}

}  // namespace ccm
