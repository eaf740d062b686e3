// For processors with AVX2; without fused products, which would round otherwise.
#include "transforms/pack_vector.h"

namespace ccm {

const PackKernels& avx2_pack_kernels() { return kPackKernels; }

}  // namespace ccm
