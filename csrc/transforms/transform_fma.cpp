// The float convolutions with AVX2 and FMA: 6 x 16 tiles take 12 accumulators, 2 weights, 1 broadcast of 16 registers
// (integers also 1 product).
#include "transforms/direct_vector.h"
#include "transforms/picture_filter_vector.h"
#include "transforms/transform_vector.h"

namespace ccm {

const TransformKernels& fma_transform_kernels() {
  static const TransformKernels k{winograd<8, 6, false>, winograd<8, 6, true>, direct<8, 6, false>, direct<8, 6, true>};
  return k;
}

FilterKernels fma_filter_kernels() { return {differences<8>, apply<8>, sum<8>}; }

}  // namespace ccm
