// Gradients of the float convolutions: AVX2 and FMA.
#include "training/transform_gradient_vector.h"

namespace ccm {

const GradientKernels& fma_gradient_kernels() {
  static const GradientKernels k{pack_kernel<8>, weight_gradient<8, 6>};
  return k;
}

}  // namespace ccm
