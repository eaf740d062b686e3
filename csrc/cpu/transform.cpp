#include "cpu/transform.h"

namespace ccm {

const TransformKernels& transform_kernels() {
#if defined(CCM_HAVE_FMA)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return fma_transform_kernels();
#endif
  return plain_transform_kernels();
}

}  // namespace ccm
