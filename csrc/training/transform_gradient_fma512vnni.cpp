// Gradients of the float convolutions: AVX-512.
#include "training/transform_gradient_vector.h"

namespace ccm {

const GradientKernels& fma512vnni_gradient_kernels() {
  static const GradientKernels k{pack_kernel<16>, weight_gradient<16, 12>};
  return k;
}

}  // namespace ccm
