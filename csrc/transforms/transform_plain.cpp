// The float convolutions for any processor: vectors of four.
#include "transforms/direct_vector.h"
#include "transforms/picture_filter_vector.h"
#include "transforms/transform_vector.h"

namespace ccm {

const TransformKernels& plain_transform_kernels() {
  static const TransformKernels k{winograd<4, 2, false>, nullptr, direct<4, 2, false>, nullptr};
  return k;
}

FilterKernels plain_filter_kernels() { return {differences<4>, apply<4>, sum<4>}; }

}  // namespace ccm
