// Gradients of the float convolutions: any processor, in vectors of four.
#include "training/transform_gradient_vector.h"

namespace ccm {

const GradientKernels& plain_gradient_kernels() {
  static const GradientKernels k{pack_kernel<4>, weight_gradient<4, 2>};
  return k;
}

}  // namespace ccm
