// The float convolutions with AVX2 and FMA: 6 x 16 tiles take 12 accumulators, 2 weights, 1 broadcast of 16 registers.
#include "cpu/transform_vector.h"

namespace ccm {

const TransformKernels& fma_transform_kernels() {
  static const TransformKernels k{winograd<8, 6>, direct<8, 6>};
  return k;
}

}  // namespace ccm
